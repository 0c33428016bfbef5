//! The immutable configuration that workers run by.
//!
//! Decides:  what a worker may know; a session keeps the snapshot parts it began with.
//! Not here: anything that changes while running (state.rs), and how it is made (the control plane).

use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};

use portcullis_balance::{AddressHash, Group, MemberId};

use crate::proxy_protocol::Version;
use crate::source::Source;
use crate::state::{BackendState, FrontendState, ListenerState, ProcessState, ServerState};

/// Everything a worker runs by. Replaced as a whole, never changed.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts up with each reload.
    pub generation: u64,
    /// All frontends that are enabled; listeners name them by index.
    pub frontends: Vec<Arc<Frontend>>,
    /// Tuning of the whole process.
    pub tuning: Tuning,
    /// Process-wide limits and counters.
    pub process: Arc<ProcessState>,
}

/// Tuning of the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Connections accepted at a stretch.
    pub max_accept: u32,
    /// Bytes of a splice pipe; 0: never splice.
    pub pipe_size: u32,
    /// Bytes of the scratch buffer of a worker, and the most copied for one session in one turn.
    pub buffer_size: u32,
    /// Pipes of all workers together.
    pub max_pipes: u32,
    /// `SO_RCVBUF`/`SO_SNDBUF`, in bytes.
    pub client_receive_buffer: Option<u32>,
    /// Likewise.
    pub client_send_buffer: Option<u32>,
    /// Likewise.
    pub server_receive_buffer: Option<u32>,
    /// Likewise.
    pub server_send_buffer: Option<u32>,
}

/// One frontend.
#[derive(Debug)]
pub struct Frontend {
    /// Its name.
    pub name: Arc<str>,
    /// Where connections go; without one they end with code `SC`.
    pub backend: Option<Arc<Backend>>,
    /// Connections at once; excess waits in the accept queue; 0: no limit of its own.
    pub maxconn: u32,
    /// `rate-limit sessions`: connections taken a second; 0: no limit.
    pub session_rate: u32,
    /// Time that a session may last in all, ms; 0: for ever.
    pub lifetime_ms: u32,
    /// `timeout drain-age`: how old a session may become once no new ones are taken, ms; 0: any age.
    pub drain_age_ms: u32,
    /// Time for a PROXY header, ms; 0: none.
    pub greeting_timeout_ms: u32,
    /// Idle time of the client's side, ms; 0: none.
    pub client_timeout_ms: u32,
    /// The same once half closed, ms; 0: as `client_timeout_ms`.
    pub client_fin_timeout_ms: u32,
    /// What is logged; `None`: nothing.
    pub log: Option<FrontendLog>,
    /// Keepalive of accepted connections.
    pub keepalive: Option<Keepalive>,
    /// `option nolinger`.
    pub no_linger: bool,
    /// `option independent-streams`: what is sent to this side is no sign of its life.
    pub independent: bool,
    /// May bulk be spliced?
    pub splice: bool,
    /// Counters and what limits count.
    pub state: Arc<FrontendState>,
}

/// What of a frontend's sessions is logged; where lines go is the control plane's affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrontendLog {
    /// When a session's record is written.
    pub moment: LogMoment,
    /// `option dontlognull`
    pub skip_null: bool,
    /// `option dontlog-normal`
    pub skip_normal: bool,
}

/// When a session's record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMoment {
    /// At accept: "Connect from".
    Accept,
    /// Once a server is connected, else at the end: `option logasap`.
    Connect,
    /// At the end.
    End,
}

/// TCP keepalive; zero leaves the system's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// `TCP_KEEPCNT`
    pub count: u32,
    /// `TCP_KEEPIDLE`, s
    pub idle_s: u32,
    /// `TCP_KEEPINTVL`, s
    pub interval_s: u32,
}

/// One backend.
#[derive(Debug)]
pub struct Backend {
    /// Its name.
    pub name: Arc<str>,
    /// The choice of a server, shared by all workers and kept over reloads.
    pub group: Arc<Group>,
    /// The servers by slot; one table for all snapshots of the backend, as the group is.
    pub servers: Arc<ServerTable>,
    /// What a hash is made of, where one chooses.
    pub hash: Option<AddressHash>,
    /// Time in a queue for a server, ms; 0: none.
    pub queue_timeout_ms: u32,
    /// Time for a connection to a server, ms; 0: none.
    pub connect_timeout_ms: u32,
    /// Idle time of the server's side, ms; 0: none.
    pub server_timeout_ms: u32,
    /// The same once half closed, ms; 0: as `server_timeout_ms`.
    pub server_fin_timeout_ms: u32,
    /// Replaces both idle times once bytes went both ways, ms; 0: none.
    pub tunnel_timeout_ms: u32,
    /// Attempts after the first.
    pub retries: u32,
    /// `option redispatch`: 0 off; n: every n-th retry elsewhere; -n: from the n-th last on.
    pub redispatch: i32,
    /// Keepalive of connections to servers.
    pub keepalive: Option<Keepalive>,
    /// `option nolinger`.
    pub no_linger: bool,
    /// `option independent-streams`: what is sent to this side is no sign of its life.
    pub independent: bool,
    /// May bulk be spliced?
    pub splice: bool,
    /// `option abortonclose`.
    pub abort_on_close: bool,
    /// `option tcp-smart-connect`.
    pub smart_connect: bool,
    /// Counters.
    pub state: Arc<BackendState>,
}

/// The servers of a backend by their slots in its group: who was chosen is found here.
///
/// A slot is not given to another server while a connection is counted on it, so whoever was chosen
/// is found, whether the choice was made before or after a reload.
#[derive(Debug, Default)]
pub struct ServerTable(RwLock<Vec<Option<Arc<Server>>>>);

impl ServerTable {
    /// The servers of slot 0, 1, 2 …; `None` where a slot's server has no address.
    pub fn of(servers: impl IntoIterator<Item = Option<Arc<Server>>>) -> Arc<ServerTable> {
        Arc::new(ServerTable(RwLock::new(servers.into_iter().collect())))
    }

    /// The server that a choice came to.
    pub fn get(&self, member: MemberId) -> Option<Arc<Server>> {
        let servers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        servers.get(member.0 as usize)?.clone()
    }

    /// All that have an address, those that are gone and still have connections too.
    pub fn all(&self) -> Vec<Arc<Server>> {
        let servers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        servers.iter().flatten().cloned().collect()
    }

    /// Changes group and table in one step: whoever is chosen meanwhile is looked up after it.
    /// `change` reconfigures the group; nothing that it calls may look anybody up here.
    pub fn update<R>(&self, change: impl FnOnce(&mut Vec<Option<Arc<Server>>>) -> R) -> R {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One server.
#[derive(Debug)]
pub struct Server {
    /// Its name.
    pub name: Arc<str>,
    /// Its slot in the group.
    pub slot: MemberId,
    /// Where it is.
    pub address: ServerAddress,
    /// `TCP_USER_TIMEOUT`, ms; 0: the system's.
    pub user_timeout_ms: u32,
    /// `TCP_CONGESTION`.
    pub congestion_control: Option<Arc<str>>,
    /// How connections to it begin.
    pub outgoing: Outgoing,
    /// Who is told of connections that fail.
    pub observe: Option<Observe>,
    /// Counters.
    pub state: Arc<ServerState>,
}

/// `observe layer4`: who is told of connections that fail.
#[derive(Debug, Clone)]
pub struct Observe {
    /// How many in a row.
    pub limit: u32,
    /// Told each time that there were so many.
    pub tell: Arc<dyn Watcher>,
}

/// Is told of errors, on a worker's thread; it must not block.
pub trait Watcher: Send + Sync + std::fmt::Debug {
    /// So many connections failed in a row.
    fn too_many_errors(&self);
}

/// How connections to a server begin.
#[derive(Debug, Clone, Default)]
pub struct Outgoing {
    /// Where they come from; `None`: the kernel's choice.
    pub source: Option<Source>,
    /// The PROXY header that goes first.
    pub header: Option<Version>,
    /// `tfo`: the client's first bytes may go with the SYN.
    pub fast_open: bool,
}

/// Where a server is, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// An address and a fixed port.
    Tcp {
        /// Address and port.
        address: SocketAddr,
        /// Over MPTCP.
        mptcp: bool,
    },
    /// An address; the port is the one that the client connected to, plus `offset`.
    TcpMappedPort {
        /// The address.
        ip: std::net::IpAddr,
        /// Added to the client's destination port.
        offset: i32,
        /// Over MPTCP.
        mptcp: bool,
    },
    /// The address that the client connected to; port fixed or mapped.
    OriginalDestination {
        /// `None`: the client's destination port plus `offset`.
        port: Option<u16>,
        /// Added to the client's destination port.
        offset: i32,
    },
    /// A Unix stream socket: the bytes of `sun_path`, with the leading NUL and any padding.
    Unix(Vec<u8>),
}

/// A listening socket in a worker's hands.
#[derive(Debug)]
pub struct WorkerListener {
    /// Its own shard, or one that all workers accept from.
    pub socket: Arc<std::os::fd::OwnedFd>,
    /// Does another worker poll it as well (then it is polled with EPOLLEXCLUSIVE)?
    pub sharing: Sharing,
    /// Index into [`Snapshot::frontends`].
    pub frontend: usize,
    /// What the limit of its address counts, over all shards.
    pub state: Arc<ListenerState>,
}

/// Who polls a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// One worker only.
    Own,
    /// Several workers.
    Shared,
}
