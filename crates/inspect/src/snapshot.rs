//! A host, written down: what a person can send, and another can ask.
//!
//! Decides:  which facts there are, which of them may be unknown, and that a file of another version, or one
//!           that was edited by hand, is read carefully.
//! Not here: reading a host (host.rs); what the facts mean for a bind (world.rs).
//!
//! The file is JSON. Every field is one of those below, and there are no others: no content of a connection,
//! no environment, no key. Command lines can hold what somebody typed there; [`Snapshot::without_arguments`]
//! takes all but the program's name away.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

pub use crate::file::VERSION;

/// A host as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// `portcullis-host`.
    pub format: String,
    /// The version of this format.
    pub version: u32,
    /// When it was taken, in seconds since 1970.
    pub taken: u64,
    /// How long the host had been up then, in milliseconds.
    pub uptime_ms: Option<u64>,
    /// The kernel.
    pub kernel: KernelName,
    /// Where the facts come from, and what could not be read.
    pub sources: Sources,
    /// The network namespaces that were read; the first is the one that was asked about.
    pub namespaces: Vec<Namespace>,
    /// The user namespaces that those and the processes belong to.
    pub user_namespaces: Vec<UserNamespace>,
    /// The processes that hold one of the sockets, and those that were named.
    pub processes: Vec<Process>,
    /// The process that the question is asked for: its number in `processes`' `pid`.
    pub caller: u32,
    /// What else may refuse a socket call on this host.
    pub refusers: Refusers,
    /// How many files the host may have open.
    #[serde(default)]
    pub files: Files,
    /// Users of sockets that no process was seen to hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<User>,
}

/// A user of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The number.
    pub uid: u32,
    /// The name.
    pub name: String,
}

/// How many files a host may have open; `null` where nobody could tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// `fs.nr_open`: the most descriptors that a process can be allowed.
    pub nr_open: Option<u64>,
    /// `fs.file-max`: the most files of all processes together.
    pub file_max: Option<u64>,
    /// How many are open (`fs.file-nr`).
    pub open: Option<u64>,
}

/// What `uname` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelName {
    /// The release: `6.18.44`.
    pub release: String,
    /// The version, and on Ubuntu the signature, where the stable update stands.
    pub version: String,
    /// The machine: `x86_64`.
    pub machine: String,
}

/// Where the facts come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sources {
    /// Whether sockets were read by BPF: options, buckets and groups are then known.
    pub bpf: Known,
    /// Whether options were read from copies of descriptors.
    pub descriptors: Known,
    /// Whether sockets that are bound and no more could be listed.
    pub bound: Known,
    /// Whether all processes could be looked at.
    pub processes: Known,
    /// Anything else that went wrong, a sentence each.
    pub notes: Vec<String>,
}

/// Whether something could be read, and if not, why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Known {
    /// All of it.
    Yes,
    /// In part, for this reason.
    Partly(String),
    /// Nothing, for this reason.
    No(String),
    /// It was not tried.
    #[default]
    Untried,
}

/// A network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// The number by which `/proc/PID/ns/net` names it.
    pub inode: u64,
    /// The names that `ip netns` gave it, and containers.
    pub names: Vec<String>,
    /// The user namespace that owns it, by number; unknown where the kernel does not say.
    pub user_namespace: Option<u64>,
    /// Whether that one is outside of the user namespace of who looked, so that no capability held there
    /// counts; unknown where neither it nor the reason why it is hidden could be told.
    #[serde(default)]
    pub owner_outside: Option<bool>,
    /// The sysctls that decide something.
    pub sysctls: Sysctls,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// The IPv4 addresses that the table of local routes says are its own; unknown before 4.20.
    #[serde(default)]
    pub local_routes: Option<Vec<LocalRoute>>,
    /// What else that table says, and the table of ordinary routes where it is asked too: IPv4 addresses that
    /// are broadcast ones, or not the host's own within a local route. `null`: it is not known.
    #[serde(default)]
    pub other_routes: Option<Vec<OtherRoute>>,
    /// No IPv4 address or route was ever made in it: every IPv4 address can be bound then.
    #[serde(default)]
    pub without_routes4: bool,
    /// Its TCP and MPTCP sockets that own a port, and half-open connections. Listeners stand in the order in
    /// which a SYN meets them.
    pub sockets: Vec<Socket>,
    /// What the ports' buckets remember; empty without BPF.
    pub buckets: Vec<Bucket>,
    /// SO_REUSEPORT groups; empty without BPF.
    pub groups: Vec<Group>,
    /// Unix sockets that listen.
    pub unix: Vec<UnixSocket>,
    /// Counters of what was dropped at listeners.
    pub drops: Drops,
}

/// TCP or MPTCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// MPTCP: the connection above its TCP subflows.
    Mptcp,
}

/// A TCP state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// `ESTABLISHED`.
    Established,
    /// `SYN_SENT`.
    SynSent,
    /// `SYN_RECV` of a full socket.
    SynRecv,
    /// `FIN_WAIT1`.
    FinWait1,
    /// `FIN_WAIT2`.
    FinWait2,
    /// `TIME_WAIT`.
    TimeWait,
    /// Bound and no more.
    Bound,
    /// `CLOSE_WAIT`.
    CloseWait,
    /// `LAST_ACK`.
    LastAck,
    /// `LISTEN`.
    Listen,
    /// `CLOSING`.
    Closing,
    /// A half-open connection (`NEW_SYN_RECV`).
    HalfOpen,
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// TCP or MPTCP.
    pub protocol: Protocol,
    /// The number that the kernel gives it for as long as it lives.
    pub cookie: u64,
    /// The inode that descriptors show (`socket:[N]`); 0 where none holds it.
    pub inode: u64,
    /// Its state.
    pub state: State,
    /// Of TIME_WAIT: it stands for an orphan in FIN_WAIT2.
    pub half_closed: bool,
    /// Where it receives, and its port.
    pub local: SocketAddr,
    /// Its peer, if it has one.
    pub peer: Option<SocketAddr>,
    /// The device that it is bound to; 0 for none.
    pub device: u32,
    /// Its user; unknown for TIME_WAIT and half-open connections, which have none.
    pub uid: Option<u32>,
    /// Of a listener: connections that wait to be accepted. Else bytes.
    pub receive_queue: u32,
    /// Of a listener: how many may wait. Else bytes.
    pub send_queue: u32,
    /// Milliseconds until its timer fires: of TIME_WAIT, until it ends.
    pub timer_ms: Option<u32>,
    /// `SHUT_RD` is 1, `SHUT_WR` 2.
    pub shutdown: u8,
    /// Its control group, by number.
    pub cgroup: Option<u64>,
    /// Of a listener: its congestion control.
    pub congestion: Option<String>,
    /// Of a listener: how many connections it could not take, since it was made (4.7).
    pub drops: Option<u32>,
    /// Its options.
    pub options: Options,
    /// Its SO_REUSEPORT group; unknown without BPF.
    pub group: Option<InGroup>,
    /// Who holds a descriptor of it.
    pub holders: Vec<Holder>,
}

/// A socket's options; `null` where nobody could tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Options {
    /// `SO_REUSEADDR`.
    pub reuseaddr: Option<bool>,
    /// `SO_REUSEPORT`.
    pub reuseport: Option<bool>,
    /// `IPV6_V6ONLY`.
    pub v6only: Option<bool>,
    /// `IP_FREEBIND`.
    pub freebind: Option<bool>,
    /// `IP_TRANSPARENT`.
    pub transparent: Option<bool>,
    /// `IP_BIND_ADDRESS_NO_PORT`.
    pub bind_address_no_port: Option<bool>,
    /// `TCP_REPAIR`.
    pub repair: Option<bool>,
    /// `SO_INCOMING_CPU`.
    pub incoming_cpu: Option<i32>,
    /// `sk_userlocks`: who chose address and port.
    pub user_locks: Option<u8>,
}

/// A socket's place in the SO_REUSEPORT groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InGroup {
    /// In none.
    None,
    /// A member of the group with this number.
    Member(u32),
    /// It has left off listening, and the group keeps it.
    Closed(u32),
}

/// A SO_REUSEPORT group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What sockets name it by: a number of this file's own.
    pub number: u32,
    /// How many members listen.
    pub members: u32,
    /// How many have left off, and are kept.
    pub closed: u32,
    /// Whether a program chooses among them.
    pub program: bool,
}

/// What a port's bucket remembers (`struct inet_bind_bucket`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Its port.
    pub port: u16,
    /// The VRF that it belongs to; 0 for none.
    pub vrf: u32,
    /// `fastreuse`.
    pub fastreuse: i8,
    /// `fastreuseport`.
    pub fastreuseport: i8,
    /// `fastuid`.
    pub uid: u32,
    /// `fast_rcv_saddr` or `fast_v6_rcv_saddr`, by `fast_sk_family`.
    pub address: IpAddr,
    /// `fast_ipv6_only`.
    pub v6only: bool,
}

/// A Unix socket that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// The inode that descriptors show.
    pub inode: u64,
    /// Its path, or `@` and its abstract name.
    pub name: String,
    /// Its file, which may have been renamed since.
    pub file: Option<UnixFile>,
    /// Its user.
    pub uid: Option<u32>,
    /// Connections that wait to be accepted.
    pub queue: u32,
    /// How many may wait.
    pub backlog: u32,
    /// Who holds a descriptor of it.
    pub holders: Vec<Holder>,
}

/// The file of a Unix socket, by the kernel's own numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixFile {
    /// Its file system: the major number in the upper 12 bits, the minor in the lower 20.
    pub device: u32,
    /// The lower 32 bits of its inode number.
    pub inode: u32,
}

impl UnixSocket {
    /// Whether it is at this path: by its name, or by the file that is there now.
    #[must_use]
    pub fn is_at(&self, path: &Path) -> bool {
        const MINOR_BITS: u32 = 20;
        if path.as_os_str().as_encoded_bytes() == self.name.as_bytes() {
            return true;
        }
        let (Some(file), Ok(stat)) = (self.file, std::fs::symlink_metadata(path)) else {
            return false;
        };
        let (major, minor) = (rustix::fs::major(stat.dev()), rustix::fs::minor(stat.dev()));
        file.inode == stat.ino() as u32 && file.device == major << MINOR_BITS | minor
    }
}

/// A descriptor of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// The descriptor's number.
    pub fd: u32,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Its number.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether there is a carrier.
    pub running: bool,
    /// Its part in virtual routing and forwarding.
    pub vrf: Vrf,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// An interface's part in virtual routing and forwarding.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vrf {
    /// None.
    #[default]
    Outside,
    /// It is a VRF.
    Itself,
    /// It belongs to the VRF with this index.
    Member(u32),
}

/// An address of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// The length of its network's prefix.
    pub prefix: u8,
    /// Duplicate address detection has not ended: it cannot be bound.
    pub tentative: bool,
    /// Duplicate address detection has found another host with it: it cannot be bound.
    pub duplicate: bool,
    /// It is being replaced: no new connection should use it.
    pub deprecated: bool,
}

/// IPv4 addresses that a local route makes the host's own, on whichever interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalRoute {
    /// The first of them.
    pub net: std::net::Ipv4Addr,
    /// How many of its bits they have in common: of one address, 32.
    pub length: u8,
}

/// IPv4 addresses that a route says are not the host's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherRoute {
    /// The first of them.
    pub net: std::net::Ipv4Addr,
    /// How many of its bits they have in common: of one address, 32.
    pub length: u8,
    /// Whether they are broadcast or multicast addresses, which can be bound.
    pub broadcast: bool,
}

/// The sysctls that decide something; `null` where this kernel has none of the name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sysctls {
    /// `net.ipv4.ip_local_port_range`.
    pub ip_local_port_range: Option<(u16, u16)>,
    /// `net.ipv4.ip_local_reserved_ports`.
    pub ip_local_reserved_ports: Vec<(u16, u16)>,
    /// `net.ipv4.ip_unprivileged_port_start`.
    pub ip_unprivileged_port_start: Option<u32>,
    /// `net.ipv4.ip_nonlocal_bind`.
    pub ip_nonlocal_bind: Option<u32>,
    /// `net.ipv6.ip_nonlocal_bind`.
    pub ip6_nonlocal_bind: Option<u32>,
    /// `net.ipv4.ip_autobind_reuse`.
    pub ip_autobind_reuse: Option<u32>,
    /// `net.ipv6.bindv6only`.
    pub bindv6only: Option<u32>,
    /// `net.core.somaxconn`.
    pub somaxconn: Option<u32>,
    /// `net.ipv4.tcp_max_syn_backlog`.
    pub tcp_max_syn_backlog: Option<i32>,
    /// `net.ipv4.tcp_syncookies`.
    pub tcp_syncookies: Option<u32>,
    /// `net.ipv4.tcp_fastopen`.
    pub tcp_fastopen: Option<u32>,
    /// `net.ipv4.tcp_no_metrics_save`.
    pub tcp_no_metrics_save: Option<u32>,
    /// `net.ipv4.tcp_tw_reuse`.
    pub tcp_tw_reuse: Option<u32>,
    /// `net.ipv4.tcp_tw_reuse_delay`.
    pub tcp_tw_reuse_delay: Option<u32>,
    /// `net.ipv4.tcp_fin_timeout`.
    pub tcp_fin_timeout: Option<u32>,
    /// `net.ipv4.tcp_abort_on_overflow`.
    pub tcp_abort_on_overflow: Option<u32>,
    /// `net.ipv4.tcp_migrate_req`.
    pub tcp_migrate_req: Option<u32>,
    /// `net.ipv4.tcp_l3mdev_accept`.
    pub tcp_l3mdev_accept: Option<u32>,
}

/// Counters of `/proc/net/netstat`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// `ListenOverflows`: an accept queue was full.
    pub listen_overflows: Option<u64>,
    /// `ListenDrops`: for that or another reason.
    pub listen_drops: Option<u64>,
    /// `SyncookiesSent`.
    pub syncookies_sent: Option<u64>,
    /// `TCPReqQFullDrop`: a SYN queue was full, and no cookie was sent.
    pub syn_queue_drops: Option<u64>,
}

/// A user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// The number by which `/proc/PID/ns/user` names it.
    pub inode: u64,
    /// The one that it was made in; unknown for the outermost that can be seen.
    pub parent: Option<u64>,
    /// The user who made it.
    pub owner: u32,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// The name of its program (`comm`).
    pub name: String,
    /// Its command line.
    pub command: Vec<String>,
    /// Real, effective, saved and file-system user id.
    pub uids: Option<[u32; 4]>,
    /// The name of its effective user.
    pub user: Option<String>,
    /// When it was started, in clock ticks after boot (100 a second): a number that was used again is
    /// another process.
    pub started: Option<u64>,
    /// Effective capabilities, as bits.
    pub capabilities: Option<u64>,
    /// Its network namespace, by number.
    pub net: Option<u64>,
    /// Its user namespace, by number.
    pub user_namespace: Option<u64>,
    /// Its control group's path.
    pub cgroup: Option<String>,
    /// Its systemd unit, as the path of the control group tells.
    pub unit: Option<String>,
    /// Its container, as the path of the control group tells.
    pub container: Option<String>,
    /// How many descriptors it may have, and at most.
    pub descriptor_limit: Option<(u64, u64)>,
    /// How many numbers below that limit it has open; of the caller alone.
    pub descriptors: Option<u64>,
    /// The inodes of the sockets that each of its epoll instances hears; of a process that holds several shards
    /// of one listener alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub polls: Vec<Vec<u64>>,
    /// Seccomp: 0 none, 1 strict, 2 a filter.
    pub seccomp: Option<u8>,
    /// Whether it can gain no privilege by exec, as a program that uses Landlock cannot.
    pub no_new_privs: Option<bool>,
    /// Whether it stands still: stopped by a signal or from a terminal.
    #[serde(default, skip_serializing_if = "is_false")]
    pub stopped: bool,
    /// Its label of SELinux or profile of AppArmor.
    pub label: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// What else may refuse a socket call.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusers {
    /// The security modules that are on, in their order.
    pub modules: Vec<String>,
    /// Whether SELinux enforces.
    pub selinux_enforcing: Option<bool>,
    /// Whether this kernel has Landlock rules for TCP ports (ABI 4).
    pub landlock_abi: Option<u32>,
    /// Programs on the caller's control groups that hear `bind`, `connect` or the making of sockets:
    /// the path of the group, and what they are attached to.
    pub cgroup_programs: Vec<CgroupProgram>,
    /// Why such programs could not be looked for, where they could not: that none is listed says nothing then.
    #[serde(default)]
    pub cgroup_programs_unread: Option<String>,
}

/// A BPF program on a control group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupProgram {
    /// The control group's path.
    pub cgroup: String,
    /// What it is attached to: `bind4`, `bind6`, `connect4`, `connect6`, `sock_create`, `post_bind4`, …
    pub hook: String,
    /// The program's number.
    pub program: u32,
}

impl Socket {
    /// A socket of which no more than its address is known.
    #[must_use]
    pub fn unknown(local: SocketAddr) -> Socket {
        Socket {
            protocol: Protocol::Tcp,
            cookie: 0,
            inode: 0,
            state: State::Bound,
            half_closed: false,
            local,
            peer: None,
            device: 0,
            uid: None,
            receive_queue: 0,
            send_queue: 0,
            timer_ms: None,
            shutdown: 0,
            cgroup: None,
            congestion: None,
            drops: None,
            options: Options::default(),
            group: None,
            holders: Vec::new(),
        }
    }
}
