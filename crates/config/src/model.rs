//! The typed configuration: what a file means, with every default filled in that the file decides.
//!
//! Decides:  the types that the rest of the program reads.
//! Source:   HAProxy's configuration manual, by keyword.
//! Not here: names are not resolved, users not looked up, nothing is opened (the control plane does).

mod backend;
mod stats;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::source::{At, Place};

pub use backend::*;
pub use stats::*;

/// A whole configuration, consistent in itself: every name that it refers to is there.
#[derive(Debug, Clone)]
pub struct Config {
    /// The `global` sections, merged.
    pub global: Global,
    /// `frontend` and the front half of `listen`, in the order of the file. `disabled` ones too.
    pub frontends: Vec<Frontend>,
    /// `backend` and the back half of `listen`, in the order of the file. `disabled` ones too.
    pub backends: Vec<Backend>,
    /// The `ring` sections, and the ring that is always there.
    pub rings: Vec<Ring>,
}

/// The `global` section.
#[derive(Debug, Clone, Default)]
pub struct Global {
    /// `nbthread`: workers. `None`: one a core that the process may use.
    pub nbthread: Option<u16>,
    /// `thread-hard-limit`: the most workers, however many there would be.
    pub thread_hard_limit: Option<u16>,
    /// `maxconn`: connections of the process. `None`: from the descriptor limit.
    pub maxconn: Option<u32>,
    /// `ulimit-n`: the descriptor limit to set.
    pub ulimit_n: Option<u64>,
    /// `fd-hard-limit`: the most that the descriptor limit may become.
    pub fd_hard_limit: Option<u64>,
    /// `strict-limits` (on unless `no strict-limits`): a limit that cannot be raised is an error.
    pub strict_limits: bool,
    /// `daemon`.
    pub daemon: bool,
    /// `pidfile`.
    pub pidfile: Option<At<PathBuf>>,
    /// `user` or `uid`.
    pub user: Option<At<Id>>,
    /// `group` or `gid`.
    pub group: Option<At<Id>>,
    /// `chroot`.
    pub chroot: Option<At<Chroot>>,
    /// `setcap`: capabilities kept after the user changes.
    pub setcap: Vec<At<Capability>>,
    /// `log` lines.
    pub logs: Vec<LogTarget>,
    /// `log-tag`.
    pub log_tag: Option<String>,
    /// `log-send-hostname`: `Some(None)` without a name means this host's.
    pub log_send_hostname: Option<Option<String>>,
    /// `hard-stop-after`: how long a soft stop may take.
    pub hard_stop_after: Option<Duration>,
    /// `grace`: how long a soft stop waits before it stops accepting.
    pub grace: Option<Duration>,
    /// `noreuseport`: no SO_REUSEPORT, hence no shards.
    pub no_reuse_port: bool,
    /// `nosplice`.
    pub no_splice: bool,
    /// `tune.listener.default-shards`.
    pub default_shards: Option<Shards>,
    /// `tune.pipesize`, in bytes. `None`: 1 MiB where the kernel's limits allow it.
    pub pipe_size: Option<u32>,
    /// `maxpipes`.
    pub max_pipes: Option<u32>,
    /// `tune.bufsize`, in bytes.
    pub buffer_size: Option<u32>,
    /// `tune.maxaccept`: connections accepted at a stretch. `None`: the worker's own choice.
    pub max_accept: Option<u32>,
    /// `tune.rcvbuf.client`, `.server`, `tune.sndbuf.client`, `.server`, in bytes.
    pub socket_buffers: SocketBuffers,
    /// `spread-checks`, in percent, 0 to 50.
    pub spread_checks: u8,
    /// `maxconnrate` and `maxsessrate`, the lesser: connections a second.
    pub max_connection_rate: Option<u32>,
    /// `stats socket`, `stats timeout`, `stats maxconn`.
    pub stats: Stats,
    /// `quiet`: no messages at start.
    pub quiet: bool,
    /// `zero-warning`: a warning refuses the configuration.
    pub zero_warning: bool,
}

/// `SO_RCVBUF` and `SO_SNDBUF` of accepted and of server connections, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketBuffers {
    /// `tune.rcvbuf.client`
    pub client_receive: Option<u32>,
    /// `tune.sndbuf.client`
    pub client_send: Option<u32>,
    /// `tune.rcvbuf.server`
    pub server_receive: Option<u32>,
    /// `tune.sndbuf.server`
    pub server_send: Option<u32>,
}

/// A user or a group: by name, or by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Id {
    /// To be looked up.
    Name(String),
    /// As it is.
    Number(u32),
}

/// Where `chroot` goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chroot {
    /// An existing directory.
    Directory(PathBuf),
    /// `auto`: an empty directory made for it and unlinked.
    Auto,
}

/// A capability that `setcap` may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Capability {
    /// `cap_net_bind_service`
    NetBindService,
    /// `cap_net_admin`
    NetAdmin,
    /// `cap_net_raw`
    NetRaw,
    /// `cap_sys_admin`
    SysAdmin,
}

/// One `log` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogTarget {
    /// Where it stands.
    pub place: Place,
    /// Where the lines go.
    pub to: LogDestination,
    /// `len`: longer lines are cut; bytes. Default 1024.
    pub max_length: u32,
    /// `format`; `None`: `local`, or `rfc3164` with `log-send-hostname`.
    pub format: Option<LogFormat>,
    /// `facility`, 0 (kern) to 23 (local7).
    pub facility: u8,
    /// The least urgent level sent, 0 (emerg) to 7 (debug). Default 7.
    pub max_level: u8,
    /// More urgent lines are sent at this level. Default 0.
    pub min_level: u8,
    /// `sample`: which of its lines are sent; `None`: all.
    pub sample: Option<Sample>,
}

/// `sample`: of every so many lines, the ones with these numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// First and last numbers, from 1.
    pub ranges: Vec<(u32, u32)>,
    /// After so many lines it begins with 1 again.
    pub size: u32,
}

/// A `ring` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ring {
    /// Its name.
    pub name: String,
    /// Where it stands; `None`: it is always there.
    pub place: Option<Place>,
    /// `size`, bytes.
    pub size: u32,
    /// `maxlen`, bytes; `None`: as the `log` line says.
    pub max_length: Option<u32>,
    /// `format`; `None`: as the `log` line says.
    pub format: Option<LogFormat>,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogDestination {
    /// `stdout`
    Stdout,
    /// `stderr`
    Stderr,
    /// `fd@N`
    Descriptor(i32),
    /// Syslog over UDP; port 514 by default. The host may be a name.
    Udp(HostPort),
    /// A Unix datagram socket, like /dev/log.
    Unix(PathBuf),
    /// `ring@NAME`
    Ring(String),
}

/// The frame around a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// As `rfc3164` without a host name.
    Local,
    /// RFC 3164.
    Rfc3164,
    /// RFC 5424.
    Rfc5424,
    /// `<PRI>` and the message.
    Priority,
    /// `<N>` with the level only, and the message, as systemd reads it.
    Short,
    /// Time, then as `short`.
    Timed,
    /// ISO time and the message.
    Iso,
    /// The message alone.
    Raw,
    /// Ours: an object of JSON, with all fields of a session.
    Json,
}

/// A host that may be a name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// A host: an address, any address of a family, or a name to be resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address as written.
    Address(std::net::IpAddr),
    /// A name, to be resolved to an address of this family.
    Name(String, Family),
}

/// Which addresses a name may resolve to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Family {
    /// Either.
    Any,
    /// `ipv4@`, `tcp4@`, `mptcp4@`
    V4,
    /// `ipv6@`, `tcp6@`, `mptcp6@`
    V6,
}

/// How many sockets a `bind` line opens for each address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shards {
    /// A number.
    Number(u16),
    /// `by-thread`: one a worker.
    ByThread,
    /// `by-group`: one a thread group; we have one group.
    ByGroup,
}

/// `frontend`, or the front half of `listen`.
#[derive(Debug, Clone)]
pub struct Frontend {
    /// Its name.
    pub name: String,
    /// Where its section begins.
    pub place: Place,
    /// `disabled`.
    pub disabled: bool,
    /// `id`
    pub id: Option<u32>,
    /// `bind` lines in order.
    pub binds: Vec<Bind>,
    /// `default_backend`, or the back half of `listen`: an index into [`Config::backends`].
    /// `None`: connections are accepted and closed, code `SC`, with a warning at the check.
    pub default_backend: Option<At<usize>>,
    /// `maxconn`; `None`: no limit of its own.
    pub maxconn: Option<u32>,
    /// `backlog`
    pub backlog: Option<u32>,
    /// `rate-limit sessions`: a second.
    pub session_rate: Option<u32>,
    /// `tcp-request connection expect-proxy layer4`: as `accept-proxy` of every `bind` line.
    pub expect_proxy: bool,
    /// `timeout client`; `None`: none, with a warning at the check.
    pub timeout_client: Option<Duration>,
    /// `timeout client-fin`
    pub timeout_client_fin: Option<Duration>,
    /// `timeout lifetime`, ours: how long a session may last in all.
    pub timeout_lifetime: Option<Duration>,
    /// `timeout drain-age`, ours: how old a session may become once no new ones are taken.
    pub timeout_drain_age: Option<Duration>,
    /// `timeout client-hs`; `None`: as `timeout client`.
    pub timeout_client_hs: Option<Duration>,
    /// Logging.
    pub log: ProxyLog,
    /// `option clitcpka` or `option tcpka`, with `clitcpka-cnt/-idle/-intvl`.
    pub keepalive: Option<Keepalive>,
    /// `option splice-request`/`-auto`/`-response`, `option nolinger`, …
    pub flow: Flow,
    /// `option tcp-smart-accept`: TCP_QUICKACK off on the listener.
    pub smart_accept: bool,
}

/// What a proxy logs, and where.
#[derive(Debug, Clone, Default)]
pub struct ProxyLog {
    /// `log` lines; `log global` stands for the global ones, already put in its place.
    pub targets: Vec<LogTarget>,
    /// `option tcplog` (else the one-line "Connect from" at accept).
    pub style: LogStyle,
    /// `option dontlognull`: no line for a session without a byte.
    pub skip_null: bool,
    /// `option dontlog-normal`: only sessions that went wrong.
    pub skip_normal: bool,
    /// `option logasap`: a line once a server is connected.
    pub as_soon_as_possible: bool,
    /// `option log-separate-errors`: errors at level err.
    pub separate_errors: bool,
    /// `log-tag`
    pub tag: Option<String>,
}

/// The shape of a session's log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogStyle {
    /// "Connect from A:p to B:p (fe/TCP)", at accept.
    #[default]
    Connect,
    /// HAProxy's tcplog, at the end.
    Tcplog,
    /// `option tcplog clf`
    TcplogClf,
}

/// TCP keepalive of a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// `TCP_KEEPCNT`
    pub count: Option<u32>,
    /// `TCP_KEEPIDLE`
    pub idle: Option<Duration>,
    /// `TCP_KEEPINTVL`
    pub interval: Option<Duration>,
}

/// How bytes move and connections end, as far as options say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flow {
    /// `option nolinger`
    pub no_linger: bool,
    /// `option splice-auto`, `splice-request`, `splice-response`: told apart from their absence only
    /// by `no option …`; bulk is spliced by default.
    pub splice: Splice,
    /// `option independent-streams`
    pub independent_streams: bool,
}

/// What the configuration says about splice(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Splice {
    /// Nothing said: the worker decides.
    #[default]
    Auto,
    /// `nosplice`, or `no option splice-auto` and its like.
    Never,
}

/// One `bind` line.
#[derive(Debug, Clone)]
pub struct Bind {
    /// Where the line stands.
    pub place: Place,
    /// Its addresses, ranges spread out: one listener each, in the order of the file.
    pub addresses: Vec<At<BindAddress>>,
    /// Its parameters.
    pub options: BindOptions,
}

/// An address of a `bind` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindAddress {
    /// An address as written; `*` and an empty host are 0.0.0.0.
    Tcp {
        /// Address and port.
        address: SocketAddr,
        /// `mptcp@` and its like.
        mptcp: bool,
    },
    /// A name, resolved when the configuration is put to work.
    Named {
        /// Name and port.
        target: HostPort,
        /// `mptcp@` and its like.
        mptcp: bool,
    },
    /// `/path`, `unix@path`; `unix-bind prefix` is already before it.
    UnixPath(PathBuf),
    /// `abns@name`
    Abstract(Vec<u8>),
    /// `abnsz@name`
    AbstractExact(Vec<u8>),
    /// `fd@N`
    Descriptor(i32),
    /// `sd@NAME`, ours: the descriptors that systemd passed under this name.
    Activated(String),
}

/// The parameters of a `bind` line.
#[derive(Debug, Clone, Default)]
pub struct BindOptions {
    /// `name`
    pub name: Option<String>,
    /// `id`
    pub id: Option<u32>,
    /// `maxconn`, of each socket... of each address of the line.
    pub maxconn: Option<u32>,
    /// `backlog`
    pub backlog: Option<u32>,
    /// `accept-proxy`
    pub accept_proxy: bool,
    /// `shards`
    pub shards: Option<Shards>,
    /// `interface`
    pub interface: Option<At<String>>,
    /// `transparent`, or ours: `freebind`.
    pub foreign: Option<ForeignBind>,
    /// `v4v6`, `v6only`; v6only wins.
    pub ipv6: Option<Ipv6Bind>,
    /// `mss`
    pub mss: Option<i32>,
    /// `defer-accept`
    pub defer_accept: bool,
    /// `tfo`
    pub fast_open: bool,
    /// `tcp-ut`
    pub user_timeout: Option<Duration>,
    /// `cc`
    pub congestion_control: Option<At<String>>,
    /// `tcp-md5sig`
    pub md5_secret: Option<At<String>>,
    /// `tcp-md5sig-peers`, ours: prefixes that must sign; empty is every peer.
    pub md5_peers: Vec<(std::net::IpAddr, u8)>,
    /// `namespace`
    pub namespace: Option<At<String>>,
    /// `incoming-cpu`, ours: `SO_INCOMING_CPU` of shard n is worker n's CPU.
    pub incoming_cpu: bool,
    /// `strict`, ours: an option that the kernel refuses refuses the listener.
    pub strict: bool,
    /// `user` or `uid`, of a Unix path socket; `unix-bind` is already taken in.
    pub user: Option<At<Id>>,
    /// `group` or `gid`
    pub group: Option<At<Id>>,
    /// `mode`
    pub mode: Option<u32>,
}

/// Which foreign bind a line asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignBind {
    /// `transparent`: IP_TRANSPARENT, else IP_FREEBIND.
    Transparent,
    /// `freebind`, ours.
    Freebind,
}

/// `v4v6` or `v6only`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Bind {
    /// `v6only`
    V6Only,
    /// `v4v6`
    V4V6,
}
