//! A snapshot as a file.
//!
//! Decides:  that a file of another version, or of something else, is refused by a sentence; no file panics.
//! Not here: its fields (snapshot.rs); which numbers a kernel can have (limits.rs).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use crate::limits;
use crate::model_host::host_of;
use crate::plain::{make_plain, plain};
use crate::snapshot::{Files, KernelName, Process, Refusers, Snapshot, Sources};
use crate::world::Nonsense;

/// The version of the format that this program writes.
pub const VERSION: u32 = 1;
/// What every file begins with.
const FORMAT: &str = "portcullis-host";
/// No host's description is larger; a file that is was not written by this program.
const FILE_MAX: u64 = 1 << 30;
/// So many bytes show whether a file is of that kind at all.
const HEAD: u64 = 4096;

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
            users: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    ///
    /// Where it cannot be read, is not such a file, is one of another version, or describes what no host is.
    pub fn load(path: &Path) -> io::Result<Snapshot> {
        let snapshot = Snapshot::parse(&content(File::open(path)?, FILE_MAX)?)?;
        possible(&snapshot).map_err(|nonsense| invalid(nonsense.to_string()))?;
        Ok(snapshot)
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
        let mut snapshot: Snapshot =
            serde_json::from_slice(text).map_err(|error| invalid(error.to_string()))?;
        make_plain(&mut snapshot);
        if let Some(what) = limits::out_of_bounds(&snapshot) {
            return Err(invalid(what));
        }
        Ok(snapshot)
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
    ///
    /// `argv[0]` does not, nor a title in `comm` behind its first word: programs write there what they like,
    /// their arguments too (nginx's master, `$0` of Perl, `setproctitle`, `exec -a`).
    pub fn without_arguments(&mut self) {
        for process in &mut self.processes {
            process.name = name_alone(&process.name).to_owned();
            if !process.command.is_empty() {
                process.command = vec![process.name.clone()];
            }
        }
    }

    /// A user's name, as the processes of the snapshot tell it, or the host's list of users.
    #[must_use]
    pub fn user_name(&self, uid: u32) -> Option<String> {
        let mut all = self.processes.iter();
        let same = all.find(|process| process.uids.is_some_and(|uids| uids[1] == uid));
        let listed = self.users.iter().find(|user| user.uid == uid);
        same.and_then(|process| process.user.clone())
            .or_else(|| listed.map(|user| user.name.clone()))
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

/// The first word of a name, without a value that stands in it: `nginx` of `nginx: worker`.
fn name_alone(name: &str) -> &str {
    let ends = |c: char| c.is_whitespace() || c.is_control() || c == '=';
    let word = name.trim_start().split(ends).next().unwrap_or_default();
    word.trim_end_matches(':')
}

/// Whether a question can be asked about it at all: of its sockets each answer sees for itself.
fn possible(snapshot: &Snapshot) -> Result<(), Nonsense> {
    let caller = snapshot.process(snapshot.caller);
    let caller = caller.ok_or(Nonsense::NoCaller(snapshot.caller))?;
    host_of(snapshot, caller).map(|_| ())
}

/// All of a file. A device or a pipe has no length, and may have no end: what does not begin as JSON does is not
/// read on, and of nothing more than `most` bytes.
fn content(mut file: impl Read, most: u64) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.by_ref().take(HEAD).read_to_end(&mut text)?;
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    if first != Some(&b'{') {
        return Err(invalid(
            "not a host's description: no JSON object".to_owned(),
        ));
    }
    let rest = (most + 1).saturating_sub(text.len() as u64);
    file.take(rest).read_to_end(&mut text)?;
    if text.len() as u64 > most {
        return Err(invalid(format!(
            "more than {most} bytes are no host's description"
        )));
    }
    Ok(text)
}

/// What is told of a file may be words of the file.
fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, plain(&what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Drops, Holder, InGroup, Namespace, Socket, Sysctls};

    fn empty_namespace() -> Namespace {
        Namespace {
            inode: 4_026_531_840,
            names: vec!["blue".into()],
            user_namespace: None,
            owner_outside: Some(false),
            local_routes: None,
            other_routes: None,
            without_routes4: false,
            sysctls: Sysctls::default(),
            interfaces: Vec::new(),
            sockets: Vec::new(),
            buckets: Vec::new(),
            groups: Vec::new(),
            unix: Vec::new(),
            drops: Drops::default(),
        }
    }

    #[test]
    fn a_snapshot_reads_back_as_it_was_written() {
        let mut snapshot = Snapshot::new();
        snapshot.taken = 1_795_000_000;
        let mut socket = Socket::unknown("[::]:443".parse().unwrap());
        socket.options.reuseport = Some(true);
        socket.group = Some(InGroup::Member(3));
        socket.holders.push(Holder { pid: 812, fd: 6 });
        snapshot.namespaces.push(Namespace {
            sockets: vec![socket],
            ..empty_namespace()
        });
        let text = snapshot.render().unwrap();
        assert_eq!(Snapshot::parse(text.as_bytes()).unwrap(), snapshot);
    }

    #[test]
    fn a_file_without_arguments_keeps_no_title_that_a_program_gave_itself() {
        // comm, argv, and what may be kept of both.
        let table: [(&str, &[&str], &str); 8] = [
            (
                "nginx",
                &["nginx: master process nginx -g env API_KEY=hunter5;"],
                "nginx",
            ),
            ("sleep", &["myserver --password=hunter2", "60"], "sleep"),
            ("sleep", &["--password=hunter2"], "sleep"),
            ("bash", &["-bash"], "bash"),
            ("web -p hunter2", &["web -p hunter2"], "web"),
            ("KEY=hunter2", &["KEY=hunter2"], "KEY"),
            ("tmux: server", &["tmux", "new"], "tmux"),
            ("sshd", &["/usr/sbin/sshd", "-D", "hunter2"], "sshd"),
        ];
        for (name, command, kept) in table {
            let mut snapshot = Snapshot::new();
            let mut process = crate::process::unknown(7);
            process.name = name.to_owned();
            process.command = command.iter().map(|&word| word.to_owned()).collect();
            snapshot.processes.push(process);
            snapshot.without_arguments();
            let text = snapshot.render().unwrap();
            assert!(!text.contains("hunter"), "{command:?}: {text}");
            assert_eq!(snapshot.processes[0].name, kept, "{command:?}");
            assert_eq!(snapshot.processes[0].command, [kept], "{command:?}");
        }
        let mut thread = Snapshot::new();
        thread.processes.push(crate::process::unknown(2));
        thread.without_arguments();
        assert!(thread.processes[0].command.is_empty());
    }

    #[test]
    fn a_number_that_no_kernel_has_is_refused_with_its_field() {
        let parsed = |range: (u16, u16)| {
            let mut snapshot = Snapshot::new();
            let mut namespace = empty_namespace();
            namespace.sysctls.ip_local_port_range = Some(range);
            snapshot.namespaces = vec![empty_namespace(), namespace];
            Snapshot::parse(snapshot.render().unwrap().as_bytes())
        };
        for range in [(60000, 100), (65535, 0)] {
            let refused = parsed(range).unwrap_err().to_string();
            let field = "namespaces[1].sysctls.ip_local_port_range: [";
            assert!(refused.starts_with(field), "{refused}");
        }
        assert!(parsed((32768, 60999)).is_ok());
    }

    #[test]
    fn what_has_no_end_is_not_read_to_its_end() {
        let told = |file: &mut dyn Read| content(file, 10_000).unwrap_err().to_string();
        assert_eq!(
            told(&mut io::repeat(0)),
            "not a host's description: no JSON object"
        );
        // One that begins well: no more than the limit, and one byte that shows that there is more.
        let mut endless = b"{".chain(io::repeat(b' '));
        assert_eq!(
            told(&mut endless),
            "more than 10000 bytes are no host's description"
        );
        let whole = |length: usize| content(b"{".chain(&vec![b' '; length][..]), 10_000);
        assert_eq!(whole(9_999).unwrap().len(), 10_000);
        assert!(whole(10_000).is_err());
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
