//! The back half of the model: backends and servers.
//!
//! Decides:  nothing; it is what the lines of a backend come to.
//! Source:   HAProxy's manual, chapters 4 and 5.2.
//! Not here: frontends and `global` (model.rs).

use std::path::PathBuf;
use std::time::Duration;

use super::{Flow, Host, Keepalive, ProxyLog};
use crate::source::{At, Place};

/// `backend`, or the back half of `listen`.
#[derive(Debug, Clone)]
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where its section begins.
    pub place: Place,
    /// `disabled`
    pub disabled: bool,
    /// `id`
    pub id: Option<u32>,
    /// `balance`
    pub balance: Balance,
    /// `hash-type`, `hash-balance-factor`, `hash-preserve-affinity`
    pub hash_type: HashType,
    /// `option allbackups`
    pub all_backups: bool,
    /// `fullconn`; `None`: a tenth of what the frontends that come here may have.
    pub fullconn: Option<u32>,
    /// `server` lines in order.
    pub servers: Vec<Server>,
    /// `timeout connect`; `None`: none, with a warning at the check.
    pub timeout_connect: Option<Duration>,
    /// `timeout queue`; `None`: as `timeout connect`.
    pub timeout_queue: Option<Duration>,
    /// `timeout server`
    pub timeout_server: Option<Duration>,
    /// `timeout server-fin`
    pub timeout_server_fin: Option<Duration>,
    /// `timeout tunnel`
    pub timeout_tunnel: Option<Duration>,
    /// `timeout check`
    pub timeout_check: Option<Duration>,
    /// `retries`; default 3.
    pub retries: u32,
    /// `option redispatch`: `None` is off; the number is HAProxy's interval (-1: last retry only).
    pub redispatch: Option<i32>,
    /// Logging: of health events; sessions are logged by their frontend.
    pub log: ProxyLog,
    /// `option log-health-checks`
    pub log_health_checks: bool,
    /// `source`, of servers that have none of their own.
    pub source: Option<Source>,
    /// `option srvtcpka` or `option tcpka`.
    pub keepalive: Option<Keepalive>,
    /// `option splice-…`, `nolinger`, …
    pub flow: Flow,
    /// `option tcp-smart-connect`
    pub smart_connect: bool,
    /// `option abortonclose`
    pub abort_on_close: bool,
}

/// `balance`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// `random` or `random(draws)`; the default, with two draws.
    Random {
        /// Servers drawn; the least loaded of them is taken.
        draws: u32,
    },
    /// `roundrobin`
    RoundRobin,
    /// `static-rr`
    StaticRoundRobin,
    /// `leastconn`
    LeastConn,
    /// `first`
    First,
    /// `source`: by the client's address.
    Source,
    /// `hash src`, with `ipmask`: by the client's address, masked.
    HashSource {
        /// Bits that count of an IPv4 address.
        v4: u8,
        /// Bits that count of an IPv6 address.
        v6: u8,
    },
}

/// `hash-type` and what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HashType {
    /// `map-based` or `consistent`
    pub method: HashMethod,
    /// The function; HAProxy's is `sdbm`.
    pub function: HashFunction,
    /// `avalanche`; `consistent` without a function has it.
    pub avalanche: bool,
    /// `hash-balance-factor`, percent; 0: off.
    pub balance_factor: u32,
    /// `hash-preserve-affinity`
    pub affinity: HashAffinity,
}

/// How a hash finds its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashMethod {
    /// `map-based`
    #[default]
    Map,
    /// `consistent`
    Consistent,
}

/// The function of `hash-type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashFunction {
    /// `sdbm`
    #[default]
    Sdbm,
    /// `djb2`
    Djb2,
    /// `wt6`
    Wt6,
    /// `crc32`
    Crc32,
    /// `none`
    None,
}

/// `hash-preserve-affinity`: when a hash gives its server up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HashAffinity {
    /// `always`: never.
    #[default]
    Always,
    /// `maxconn`: when it has all its connections.
    MaxConn,
    /// `maxqueue`: when its queue is full too.
    MaxQueue,
}

/// One `server` line, `default-server` already taken in.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Where the line stands.
    pub place: Place,
    /// Where it is.
    pub address: At<ServerAddress>,
    /// `weight`, 0 to 256. Default 1.
    pub weight: u16,
    /// `backup`
    pub backup: bool,
    /// `disabled`
    pub disabled: bool,
    /// `id`
    pub id: Option<u32>,
    /// `maxconn`; 0: no limit.
    pub maxconn: u32,
    /// `minconn`; 0: as `maxconn`.
    pub minconn: u32,
    /// `maxqueue`; 0: no limit.
    pub maxqueue: u32,
    /// `slowstart`
    pub slow_start: Option<Duration>,
    /// `on-marked-down shutdown-sessions`
    pub ends_sessions_when_down: bool,
    /// `on-marked-up shutdown-backup-sessions`
    pub ends_backup_sessions_when_up: bool,
    /// `init-state`
    pub init_state: InitState,
    /// `check` and what belongs to it.
    pub check: Option<Check>,
    /// `init-addr`: what to do when the name does not resolve at start.
    pub init_addr: Vec<InitAddr>,
    /// `source`
    pub source: Option<Source>,
    /// `send-proxy`, `send-proxy-v2`
    pub send_proxy: Option<SendProxy>,
    /// `tfo`
    pub fast_open: bool,
    /// `tcp-ut`
    pub user_timeout: Option<Duration>,
    /// `cc`
    pub congestion_control: Option<At<String>>,
}

/// `source`: our own end of connections to servers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// The address; `None`: the kernel's choice.
    pub address: Option<std::net::IpAddr>,
    /// The first and the last port; `None`: the kernel's choice.
    pub ports: Option<(u16, u16)>,
    /// `interface`
    pub interface: Option<String>,
    /// `usesrc`; `None`: the server sees `address`.
    pub seen: Option<Seen>,
}

/// `usesrc`: which address a server sees instead of ours (`IP_TRANSPARENT`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// `client`: the client's, with its port.
    Client,
    /// `clientip`: the client's, with a port of the kernel's choice.
    ClientIp,
    /// This one; port 0: of the kernel's choice.
    Address(std::net::SocketAddr),
}

/// Which PROXY header connections to a server begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendProxy {
    /// `send-proxy`
    V1,
    /// `send-proxy-v2`
    V2 {
        /// `proxy-v2-options crc32c`
        checksum: bool,
    },
}

/// `observe layer4`: what traffic tells of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observe {
    /// `error-limit`: failed connections in a row.
    pub error_limit: u32,
    /// `on-error`
    pub on_error: OnError,
}

/// `init-state`: the state that a server starts in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InitState {
    /// Up; the first bad check takes it down.
    #[default]
    Up,
    /// Up; `fall` bad checks take it down.
    FullyUp,
    /// Down; the first good check brings it up.
    Down,
    /// Down; `rise` good checks bring it up.
    FullyDown,
}

/// `on-error`: what so many errors lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    /// `fastinter`: the next check comes sooner.
    FastInter,
    /// `fail-check`: they count as one failed check.
    #[default]
    FailCheck,
    /// `sudden-death`: one more failed check brings the server down.
    SuddenDeath,
    /// `mark-down`: the server is down.
    MarkDown,
}

/// One step of `init-addr`. An empty list is HAProxy's default, `last,libc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitAddr {
    /// `last`: from the state file; there is none, so the next step.
    Last,
    /// `libc`: resolve now.
    Libc,
    /// `none`: start without an address, in maintenance.
    None,
    /// An address.
    Address(std::net::IpAddr),
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// A host and a port.
    Tcp {
        /// The host.
        host: Host,
        /// The port, or how it follows from the frontend's.
        port: ServerPort,
        /// `mptcp@` and its like.
        mptcp: bool,
    },
    /// `0.0.0.0` or `*`: the address that the client connected to.
    OriginalDestination {
        /// The port, or how it follows from the frontend's.
        port: ServerPort,
    },
    /// `/path`, `unix@path`
    UnixPath(PathBuf),
    /// `abns@name`
    Abstract(Vec<u8>),
    /// `abnsz@name`
    AbstractExact(Vec<u8>),
}

/// The port of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerPort {
    /// `:80`
    Fixed(u16),
    /// No port, `:0`, `:+N`, `:-N`: the port that the client connected to, plus this.
    Offset(i32),
}

/// A TCP connect check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// `inter`; default 2 s.
    pub inter: Duration,
    /// `fastinter`; default `inter`.
    pub fast_inter: Option<Duration>,
    /// `downinter`; default `inter`.
    pub down_inter: Option<Duration>,
    /// `rise`; default 2.
    pub rise: u32,
    /// `fall`; default 3.
    pub fall: u32,
    /// `port`; default the server's.
    pub port: Option<u16>,
    /// `addr`; default the server's.
    pub addr: Option<Host>,
    /// `observe layer4`
    pub observe: Option<Observe>,
    /// `check-send-proxy`; also where the server has `send-proxy` and the check no address of its own.
    pub send_proxy: bool,
}
