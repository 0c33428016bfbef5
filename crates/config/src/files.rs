//! Which files `-f` means, and their bytes.
//!
//! Decides:  that a directory stands for its `*.cfg` files in C order, hidden ones left out, and
//!           how big a configuration file may be.
//! Source:   HAProxy's src/haproxy.c, cfgfiles_expand_directories(), 3.5-dev5.
//! Not here: what the bytes mean (load.rs).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Severity};

/// A larger configuration file is refused.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The file system as a configuration needs it, so that a test or a fuzzer can do without one.
pub trait Files {
    /// A file's bytes.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;

    /// The names of the regular files in a directory; `None` if the path is not a directory.
    fn list(&self, path: &Path) -> io::Result<Option<Vec<OsString>>>;
}

/// The host's file system. `-` reads standard input.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostFiles;

impl Files for HostFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        if path == Path::new("-") {
            io::stdin()
                .take(MAX_FILE_BYTES + 1)
                .read_to_end(&mut bytes)?;
        } else {
            let file = std::fs::File::open(path)?;
            file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    fn list(&self, path: &Path) -> io::Result<Option<Vec<OsString>>> {
        if path == Path::new("-") || !std::fs::metadata(path)?.is_dir() {
            return Ok(None);
        }
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            if std::fs::metadata(entry.path()).is_ok_and(|data| data.is_file()) {
                names.push(entry.file_name());
            }
        }
        Ok(Some(names))
    }
}

/// Files that are only in memory, by path.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles {
    files: BTreeMap<PathBuf, Vec<u8>>,
}

impl MemoryFiles {
    /// One file, named `haproxy.cfg`.
    pub fn single(bytes: impl Into<Vec<u8>>) -> MemoryFiles {
        MemoryFiles::default().with("haproxy.cfg", bytes)
    }

    /// The same and one file more.
    pub fn with(mut self, path: impl Into<PathBuf>, bytes: impl Into<Vec<u8>>) -> MemoryFiles {
        self.files.insert(path.into(), bytes.into());
        self
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.files
            .get(path)
            .cloned()
            .ok_or_else(|| io::Error::from_raw_os_error(2))
    }

    fn list(&self, path: &Path) -> io::Result<Option<Vec<OsString>>> {
        if self.files.contains_key(path) {
            return Ok(None);
        }
        let names: Vec<OsString> = self
            .files
            .keys()
            .filter(|file| file.parent() == Some(path))
            .filter_map(|file| file.file_name().map(OsString::from))
            .collect();
        match names.is_empty() {
            true => Err(io::Error::from_raw_os_error(2)),
            false => Ok(Some(names)),
        }
    }
}

/// The files that the paths mean, in the order in which they are read.
pub(crate) fn expand(
    paths: &[PathBuf],
    files: &dyn Files,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<PathBuf> {
    let mut expanded = Vec::new();
    for path in paths {
        match files.list(path) {
            Ok(None) => expanded.push(path.clone()),
            Ok(Some(mut names)) => {
                names.retain(|name| is_configuration(name.as_bytes()));
                names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
                if names.is_empty() {
                    let message = format!("{} has no file named *.cfg", path.display());
                    diagnostics.push(Diagnostic::new(
                        Severity::Warning,
                        "empty-directory",
                        message,
                    ));
                }
                expanded.extend(names.iter().map(|name| path.join(name)));
            }
            Err(error) => diagnostics.push(unreadable(path, &error)),
        }
    }
    expanded
}

fn is_configuration(name: &[u8]) -> bool {
    !name.starts_with(b".") && name.ends_with(b".cfg")
}

/// One file's bytes, or why not.
pub(crate) fn read(path: &Path, files: &dyn Files) -> Result<Vec<u8>, Diagnostic> {
    let bytes = files.read(path).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let mebibytes = MAX_FILE_BYTES >> 20;
        let message = format!("{} is larger than {mebibytes} MiB", path.display());
        return Err(Diagnostic::new(Severity::Error, "file-too-large", message));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &io::Error) -> Diagnostic {
    let message = format!("cannot read {}: {}", path.display(), reason(error));
    Diagnostic::new(Severity::Error, "unreadable-file", message)
}

/// The kernel's words for it, lowercase and without the number.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_cfg_files_in_c_order() {
        let files = MemoryFiles::default()
            .with("d/b.cfg", "")
            .with("d/B.cfg", "")
            .with("d/a.cfg", "")
            .with("d/.hidden.cfg", "")
            .with("d/a.cfg.bak", "")
            .with("d/deeper/c.cfg", "")
            .with("one.conf", "");
        let mut diagnostics = Vec::new();
        let paths = ["d", "one.conf", "none"].map(PathBuf::from);
        let expanded = expand(&paths, &files, &mut diagnostics);
        let expected = ["d/B.cfg", "d/a.cfg", "d/b.cfg", "one.conf"].map(PathBuf::from);
        assert_eq!(expanded, expected);
        assert_eq!(
            diagnostics[0].message,
            "cannot read none: no such file or directory"
        );
        assert_eq!(diagnostics.len(), 1);
    }

    #[test]
    fn the_hosts_directories_are_listed_without_their_directories() {
        let directory = std::env::temp_dir().join(format!("pc-files-{}", std::process::id()));
        std::fs::create_dir_all(directory.join("sub.cfg")).unwrap();
        std::fs::write(directory.join("a.cfg"), "global\n").unwrap();
        let listed = HostFiles.list(&directory).unwrap().unwrap();
        assert_eq!(listed, ["a.cfg"]);
        assert!(HostFiles.list(&directory.join("a.cfg")).unwrap().is_none());
        assert_eq!(
            HostFiles.read(&directory.join("a.cfg")).unwrap(),
            b"global\n"
        );
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
