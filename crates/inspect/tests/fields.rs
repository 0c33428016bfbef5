//! The page about the file of a host.
//!
//! Decides:  that every field that can stand in a file is on it.
//! Not here: reading and writing files (src/file.rs).

#![allow(clippy::unwrap_used)]

#[test]
fn every_field_of_a_snapshot_is_on_its_page() {
    let source = include_str!("../src/snapshot.rs");
    let page = include_str!("../../../docs/host-file.md");
    let fields = source.lines().filter_map(|line| {
        let (name, _) = line.trim().strip_prefix("pub ")?.split_once(": ")?;
        name.bytes()
            .all(|c| c.is_ascii_lowercase() || c == b'_' || c.is_ascii_digit())
            .then_some(name)
    });
    let fields: Vec<&str> = fields.collect();
    assert!(fields.len() > 100, "{fields:?}");
    for field in fields {
        let row = format!("| `{field}` | ");
        assert!(page.contains(&row), "docs/host-file.md lacks {field}");
    }
}
