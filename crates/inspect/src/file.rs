//! A snapshot as a file.
//!
//! Decides:  that a file of another version, or of something else, is refused by a sentence; no file panics.
//! Not here: its fields (snapshot.rs).

use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::snapshot::{Files, KernelName, Process, Refusers, Snapshot, Sources};

/// The version of the format that this program writes.
pub const VERSION: u32 = 1;
/// What every file begins with.
const FORMAT: &str = "portcullis-host";
/// No host's description is larger; a file that is was not written by this program.
const FILE_MAX: u64 = 1 << 30;

impl Snapshot {
    /// An empty one of this format.
    #[must_use]
    pub fn new() -> Snapshot {
        Snapshot {
            format: FORMAT.to_owned(),
            version: VERSION,
            taken: 0,
            uptime_ms: None,
            kernel: KernelName::default(),
            sources: Sources::default(),
            namespaces: Vec::new(),
            user_namespaces: Vec::new(),
            processes: Vec::new(),
            caller: 0,
            refusers: Refusers::default(),
            files: Files::default(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, is not such a file, or is one of another version.
    pub fn load(path: &Path) -> io::Result<Snapshot> {
        let length = std::fs::metadata(path)?.len();
        if length > FILE_MAX {
            return Err(invalid(format!("{length} bytes are no host's description")));
        }
        Snapshot::parse(&std::fs::read(path)?)
    }

    /// Reads a file's content.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::load`].
    pub fn parse(text: &[u8]) -> io::Result<Snapshot> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
            version: u32,
        }
        let head: Head = serde_json::from_slice(text)
            .map_err(|error| invalid(format!("not a host's description: {error}")))?;
        if head.format != FORMAT {
            return Err(invalid(format!(
                "not a host's description: {:?}",
                head.format
            )));
        }
        if head.version != VERSION {
            return Err(invalid(format!(
                "a host's description of version {}; this program reads version {VERSION}",
                head.version
            )));
        }
        serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))
    }

    /// The file's content.
    ///
    /// # Errors
    ///
    /// None that a host can cause.
    pub fn render(&self) -> io::Result<String> {
        let text = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        Ok(text + "\n")
    }

    /// Takes the arguments of every command line away: programs' names stay.
    pub fn without_arguments(&mut self) {
        for process in &mut self.processes {
            process.command.truncate(1);
        }
    }

    /// The process of a number.
    #[must_use]
    pub fn process(&self, pid: u32) -> Option<&Process> {
        self.processes.iter().find(|process| process.pid == pid)
    }
}

impl Default for Snapshot {
    fn default() -> Self {
        Snapshot::new()
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Drops, Holder, InGroup, Namespace, Socket, Sysctls};

    #[test]
    fn a_snapshot_reads_back_as_it_was_written() {
        let mut snapshot = Snapshot::new();
        snapshot.taken = 1_795_000_000;
        let mut socket = Socket::unknown("[::]:443".parse().unwrap());
        socket.options.reuseport = Some(true);
        socket.group = Some(InGroup::Member(3));
        socket.holders.push(Holder { pid: 812, fd: 6 });
        snapshot.namespaces.push(Namespace {
            inode: 4_026_531_840,
            names: vec!["blue".into()],
            user_namespace: None,
            sysctls: Sysctls::default(),
            interfaces: Vec::new(),
            sockets: vec![socket],
            buckets: Vec::new(),
            groups: Vec::new(),
            unix: Vec::new(),
            drops: Drops::default(),
        });
        let text = snapshot.render().unwrap();
        assert_eq!(Snapshot::parse(text.as_bytes()).unwrap(), snapshot);
    }

    #[test]
    fn another_version_and_another_file_are_told_apart() {
        let mut other = Snapshot::new();
        other.version = 7;
        let refused = Snapshot::parse(other.render().unwrap().as_bytes()).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "a host's description of version 7; this program reads version 1"
        );
        for text in ["", "{}", "[1]", r#"{"format":"x","version":1}"#] {
            let refused = Snapshot::parse(text.as_bytes()).unwrap_err();
            assert!(
                refused.to_string().starts_with("not a host's description"),
                "{text}"
            );
        }
    }
}
