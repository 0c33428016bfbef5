//! Who asks, and where: the caller, the network namespaces, the user namespaces around them.
//!
//! Decides:  which namespace a question is about; which others there are to be found.
//! Kernel:   network_namespaces(7), user_namespaces(7); `ip netns` keeps names in /run/netns
//! Not here: what is in a namespace (host.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, read_dir, read_to_string};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use portcullis_sys::files::own_number;

use crate::diag::Ports;
use crate::process::{descriptors_below, namespace, process};
use crate::snapshot::{Process, Snapshot, UserNamespace};

pub(crate) const PROC: &str = "/proc";
/// Where `ip netns` keeps names, and where Docker does.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// User namespaces are nested no deeper (kernel/user_namespace.c).
const NESTED_MAX: usize = 33;

/// What is wanted of a host.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The TCP sockets of one port alone; all, and Unix ones, without it. Who holds sockets is looked for
    /// only where there are any.
    pub port: Option<u16>,
    /// With a port: those of ports so near to it too.
    pub near: u16,
    /// Which network namespace.
    pub place: Place,
    /// Who would make the call.
    pub caller: Caller,
    /// The other network namespaces too.
    pub others: Others,
    /// How options may be read.
    pub means: Means,
}

impl Wanted {
    pub(crate) fn ports(&self) -> Ports {
        self.port.map_or(Ports::All, |port| Ports::Within {
            first: port.saturating_sub(self.near),
            last: port.saturating_add(self.near),
        })
    }
}

/// Which network namespace is asked about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Place {
    /// This process's own; of a caller that is another process, that one's.
    #[default]
    Here,
    /// The one of a process.
    OfProcess(u32),
    /// One that has a name, or the path of its file.
    Named(String),
}

/// Who would make the call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Caller {
    /// This process.
    #[default]
    Own,
    /// Another one.
    Process(u32),
    /// A process that a user would start: by name or number.
    User(String),
}

/// Whether other network namespaces are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Others {
    /// No.
    #[default]
    No,
    /// Yes, those that a process is in or that have a name.
    Yes,
}

/// How options may be read: each is tried before the next.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Means {
    /// By BPF, and else from copies of descriptors.
    #[default]
    Everything,
    /// From copies of descriptors alone.
    Descriptors,
    /// Not at all: what sock_diag does not tell stays unknown.
    SockDiag,
}

pub(crate) fn caller(wanted: &Caller) -> io::Result<Process> {
    let proc = Path::new(PROC);
    let mut caller = caller_as_others(wanted, proc)?;
    if let (Some((soft, _)), 1..) = (caller.descriptor_limit, caller.pid) {
        caller.descriptors = descriptors_below(proc, caller.pid, soft);
    }
    Ok(caller)
}

fn caller_as_others(wanted: &Caller, proc: &Path) -> io::Result<Process> {
    let own = || {
        let own = own_number().and_then(|pid| process(proc, pid));
        own.unwrap_or_else(own_without_proc)
    };
    match wanted {
        Caller::Own => Ok(own()),
        Caller::Process(pid) => process(proc, *pid).ok_or_else(|| {
            let what = format!("there is no process {pid}");
            io::Error::new(io::ErrorKind::NotFound, what)
        }),
        Caller::User(name) => {
            let user = portcullis_sys::process::user_by_name(name)?;
            let uid = user
                .as_ref()
                .map(|user| user.uid)
                .or_else(|| name.parse().ok());
            let uid = uid.ok_or_else(|| {
                let what = format!("there is no user {name:?}");
                io::Error::new(io::ErrorKind::NotFound, what)
            })?;
            let own = own();
            Ok(Process {
                pid: 0,
                parent: 0,
                name: String::new(),
                command: Vec::new(),
                uids: Some([uid; 4]),
                user: Some(name.clone()),
                started: None,
                capabilities: Some(if uid == 0 { u64::MAX } else { 0 }),
                cgroup: None,
                unit: None,
                container: None,
                seccomp: None,
                no_new_privs: None,
                stopped: false,
                label: None,
                ..own
            })
        }
    }
}

/// What the system calls tell of this process.
fn own_without_proc() -> Process {
    let (real, effective) = (rustix::process::getuid(), rustix::process::geteuid());
    let sets = rustix::thread::capabilities(None);
    Process {
        uids: Some([real, effective, effective, effective].map(rustix::process::Uid::as_raw)),
        capabilities: sets.ok().map(|sets| sets.effective.bits()),
        ..crate::process::unknown(std::process::id())
    }
}

/// A network namespace that can be entered.
#[derive(Debug)]
pub(crate) struct At {
    pub inode: u64,
    pub names: Vec<String>,
    /// `None` for the one that this process is in.
    pub file: Option<File>,
}

/// Whether it is this process, by its number in /proc, or nobody who is there.
fn is_own(caller: &Process) -> bool {
    caller.pid == own_number().unwrap_or_else(std::process::id) || caller.pid == 0
}

pub(crate) fn main_namespace(place: &Place, caller: &Process) -> io::Result<At> {
    let path = match place {
        Place::Here if is_own(caller) => PathBuf::from("/proc/thread-self/ns/net"),
        Place::Here => Path::new(PROC).join(caller.pid.to_string()).join("ns/net"),
        Place::OfProcess(pid) => Path::new(PROC).join(pid.to_string()).join("ns/net"),
        Place::Named(name) if name.contains('/') => PathBuf::from(name),
        Place::Named(name) => Path::new(NAMED[0]).join(name),
    };
    if *place == Place::Here && is_own(caller) && !has_proc() {
        return Ok(At {
            inode: 0,
            names: Vec::new(),
            file: None,
        });
    }
    at(&path, Vec::new())
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Whether there is a /proc that shows this process.
pub(crate) fn has_proc() -> bool {
    Path::new("/proc/thread-self/ns/net").exists()
}

fn at(path: &Path, names: Vec<String>) -> io::Result<At> {
    let file = File::open(path)?;
    let inode = file.metadata()?.ino();
    let own = std::fs::metadata("/proc/thread-self/ns/net")?.ino();
    Ok(At {
        inode,
        names,
        file: (inode != own).then_some(file),
    })
}

/// The network namespaces that a process is in or that have a name.
pub(crate) fn other_namespaces(notes: &mut Vec<String>) -> Vec<At> {
    let mut found: BTreeMap<u64, At> = BTreeMap::new();
    let mut add = |path: &Path, name: Option<String>| -> io::Result<()> {
        let inode = std::fs::metadata(path)?.ino();
        match found.get_mut(&inode) {
            Some(known) => known.names.extend(name),
            None => {
                found.insert(inode, at(path, name.into_iter().collect())?);
            }
        }
        Ok(())
    };
    for directory in NAMED {
        for entry in read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Err(error) = add(&entry.path(), Some(name.clone())) {
                notes.push(format!("namespace {name}: {error}"));
            }
        }
    }
    let mut hidden = 0;
    for entry in read_dir(PROC).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name
            .to_str()
            .is_some_and(|name| name.parse::<u32>().is_ok())
        {
            let added = add(&entry.path().join("ns/net"), None);
            // So the kernel also says of one that has ended.
            let refused = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
            hidden += usize::from(added.is_err_and(refused) && entry.path().exists());
        }
    }
    if hidden > 0 {
        notes.push(format!(
            "network namespaces of processes that this user may not look at ({hidden})"
        ));
    }
    found.into_values().collect()
}

/// The user namespace that owns a network namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    pub number: Option<u64>,
    /// Whether it is outside of this process's own user namespace.
    pub outside: Option<bool>,
}

/// Who owns this thread's network namespace. The kernel shows this process's own user namespace and those
/// inside it (`ns_get_owner`), so a refusal tells that the owner is another.
pub(crate) fn owner_of_net() -> Owner {
    let Ok(net) = File::open("/proc/thread-self/ns/net") else {
        return Owner::default();
    };
    match portcullis_sys::namespace::user_namespace_of(net) {
        Ok(owner) => Owner {
            number: File::from(owner).metadata().ok().map(|meta| meta.ino()),
            outside: Some(false),
        },
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Owner {
            number: None,
            outside: Some(true),
        },
        // A kernel before 4.9 does not tell; outside of the host's own there is nothing.
        Err(_) => Owner {
            number: None,
            outside: uids_are_the_hosts().then_some(false),
        },
    }
}

/// Whether user ids mean the same here as in the host's own user namespace.
pub(crate) fn uids_are_the_hosts() -> bool {
    let map = read_to_string("/proc/self/uid_map").unwrap_or_default();
    let numbers: Vec<u64> = map.split_ascii_whitespace().flat_map(str::parse).collect();
    numbers == [0, 0, u64::from(u32::MAX)]
}

/// The user namespaces of the caller and of what owns the network namespaces, with those around them.
pub(crate) fn user_namespaces(snapshot: &Snapshot) -> Vec<UserNamespace> {
    let mut found: BTreeMap<u64, UserNamespace> = BTreeMap::new();
    let own = namespace(Path::new("/proc/self/ns/user"));
    // Thousands of processes are in a few.
    let mut known = BTreeSet::new();
    let of_pid = snapshot.processes.iter().filter(|process| {
        process.pid != 0
            && process
                .user_namespace
                .is_none_or(|inode| known.insert(inode))
    });
    let files = of_pid
        .map(|process| process.pid)
        .filter_map(|pid| File::open(Path::new(PROC).join(pid.to_string()).join("ns/user")).ok());
    let owners = std::iter::once(File::open("/proc/self/ns/net").ok())
        .flatten()
        .filter_map(|net| portcullis_sys::namespace::user_namespace_of(net).ok())
        .map(File::from);
    for mut at in files.chain(owners) {
        for _ in 0..NESTED_MAX {
            let Ok(inode) = at.metadata().map(|meta| meta.ino()) else {
                break;
            };
            if found.contains_key(&inode) {
                break;
            }
            let parent = portcullis_sys::namespace::parent_of(&at)
                .ok()
                .map(File::from);
            let parent_inode = parent.as_ref().and_then(|parent| parent.metadata().ok());
            let entry = UserNamespace {
                inode,
                parent: parent_inode.map(|meta| meta.ino()),
                owner: portcullis_sys::namespace::owner_of(&at).unwrap_or(0),
            };
            found.insert(inode, entry);
            match parent {
                Some(parent) => at = parent,
                None => break,
            }
        }
    }
    // The caller's own stands in any case.
    if let Some(own) = own {
        found.entry(own).or_insert(UserNamespace {
            inode: own,
            parent: None,
            owner: 0,
        });
    }
    found.into_values().collect()
}
