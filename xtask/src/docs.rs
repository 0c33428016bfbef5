//! Documents that are made from the lists in the code.
//!
//! Decides:  which files, from which lists; each says at its top that it is generated.

mod bind_rules;
mod kernel_versions;
mod socket_options;

use std::path::Path;

use crate::workspace::{self, Failure};

/// A generated document: where it is, and what makes it.
type Document = (&'static str, fn() -> Result<String, Failure>);

const DOCUMENTS: &[Document] = &[
    ("docs/bind-rules.md", bind_rules::markdown),
    ("docs/kernel-versions.md", kernel_versions::markdown),
    ("docs/reference/keywords.md", || {
        Ok(portcullis_config::reference::markdown())
    }),
    ("docs/reference/socket-options.md", || {
        Ok(socket_options::markdown())
    }),
];

/// Writes them all, or with `check` only compares.
pub fn run(check: bool) -> Result<(), Failure> {
    let root = workspace::root();
    let mut stale = Vec::new();
    for (path, make) in DOCUMENTS {
        let text = make()?;
        let file = root.join(path);
        if std::fs::read_to_string(&file).ok().as_deref() == Some(&text) {
            continue;
        }
        if check {
            stale.push(*path);
        } else {
            std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
            std::fs::write(&file, text)?;
            println!("wrote {path}");
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    Err(format!(
        "not what `cargo xtask docs` would write: {}",
        stale.join(", ")
    )
    .into())
}
