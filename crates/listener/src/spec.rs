//! What a listening socket is to be: the one public specification.
//!
//! Decides:  the words a caller has for address and options, and their defaults.
//! Not here: opening it (open.rs), opening several (set.rs), who is privileged to (opener.rs).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    /// TCP over IPv4 or IPv6. Port 0 lets the kernel choose.
    Tcp(SocketAddr),
    /// Multipath TCP (RFC 8684), `IPPROTO_MPTCP`, over IPv4 or IPv6.
    Mptcp(SocketAddr),
    /// A Unix stream socket with a name in the file system.
    UnixPath(#[serde(with = "crate::address::path_as_text")] PathBuf),
    /// A Unix stream socket in Linux's abstract namespace; the name is without the leading NUL.
    UnixAbstract {
        /// The name's bytes, without the leading NUL.
        name: Vec<u8>,
        /// How long the address is that the kernel compares.
        form: AbstractForm,
    },
    /// A descriptor that this process was started with (`fd@N`).
    Inherited(i32),
    /// The descriptors that systemd passed (`LISTEN_FDS`) under this name (`LISTEN_FDNAMES`),
    /// one listener each.
    Activated(String),
}

/// How the name of an abstract Unix socket becomes an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AbstractForm {
    /// The whole 108 bytes of `sun_path`, padded with NUL (HAProxy's `abns@`).
    Padded,
    /// Just the name (HAProxy's `abnsz@`, and what most programs use).
    Exact,
}

/// Everything about one listener: an address, how many sockets, and their options.
///
/// `ListenerSpec::new(address)` gives the defaults; set the public fields that differ. Each field
/// names its socket option; what an option does in full is in `portcullis-sockopt`.
///
/// Whoever made an inherited or activated socket has bound it: `reuse_addr`, `reuse_port`,
/// `foreign` and `owner_uid` are left as they are, `interface` and `ipv6_only` are compared, and a
/// backlog is set only where it does not listen yet. A Unix socket has no use for the options of
/// TCP, which is reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ListenerSpec {
    /// A name for messages; the address serves where it is empty.
    pub name: String,
    /// Where to listen.
    pub address: Address,
    /// How many sockets of one `SO_REUSEPORT` group to open; 0 is 1. One socket where the address
    /// cannot be sharded, which is reported.
    pub shards: u16,
    /// The accept queue's length, each shard's own; `maxconn` where it is `None`. The kernel cuts
    /// it to `net.core.somaxconn`, which is reported.
    pub backlog: Option<u32>,
    /// The default of `backlog` and of the fast-open queue; 1,024. It limits nothing else.
    pub maxconn: u32,
    /// `SO_REUSEADDR`; on by default: a restart need not wait for old connections to time out.
    /// It never lets two sockets listen on one port.
    pub reuse_addr: bool,
    /// `SO_REUSEPORT`; on by default: other sockets of the same user that have it too may listen
    /// on the same port, now and later, and the kernel spreads connections over all of them. Off,
    /// a second server on the port is refused (`EADDRINUSE`) instead of sharing it unnoticed.
    pub reuse_port: bool,
    /// Bind to an address that is not (yet) this host's.
    pub foreign: Option<Foreign>,
    /// `SO_BINDTODEVICE`: only traffic that comes in by this device. Where that cannot be had, the
    /// listener does not open.
    pub interface: Option<String>,
    /// `TCP_MAXSEG`, in bytes: the advertised MSS; the kernel takes 88 to 32,767, and 0 leaves it
    /// alone. A negative one sets nothing here: it is HAProxy's word for "so much less than each
    /// connection's own", and left to whoever accepts.
    pub mss: Option<i32>,
    /// `TCP_DEFER_ACCEPT`: wake the acceptor when data came, or this time went by (whole seconds,
    /// rounded up).
    pub defer_accept: Option<Duration>,
    /// `TCP_FASTOPEN`: the queue of connections that carry data in their SYN. It takes effect where
    /// bit 2 of `net.ipv4.tcp_fastopen` is set; where not, that is reported.
    pub fast_open: Option<FastOpenQueue>,
    /// `IPV6_V6ONLY`; `None` leaves `net.ipv6.bindv6only` to decide.
    pub ipv6_only: Option<Ipv6Only>,
    /// `SO_LINGER` on with zero seconds, inherited by accepted connections: a close sends a reset
    /// and drops what was not sent yet.
    pub no_linger: bool,
    /// `TCP_QUICKACK` off: acknowledgements may wait to go with data.
    pub no_quick_ack: bool,
    /// `TCP_USER_TIMEOUT`, inherited by accepted connections (whole milliseconds, rounded up; zero
    /// is the kernel's own limit).
    pub user_timeout: Option<Duration>,
    /// `TCP_CONGESTION`, inherited by accepted connections.
    pub congestion_control: Option<String>,
    /// `TCP_MD5SIG_EXT` keys (RFC 2385), one for each prefix of peers; the longest prefix counts.
    /// Empty: unsigned. Peers of no prefix get in unsigned.
    pub md5_keys: Vec<Md5Key>,
    /// `TCP_NODELAY`, inherited by accepted connections: small writes go out at once.
    pub no_delay: bool,
    /// `SO_INCOMING_CPU` of each shard in turn: the kernel prefers the shard of the CPU that
    /// handles the packet. Empty leaves it alone.
    pub incoming_cpus: Vec<u32>,
    /// The network namespace to create the socket in: a name under `/run/netns`, or a path.
    pub network_namespace: Option<String>,
    /// Owner and mode of a Unix path socket.
    pub unix_permissions: UnixPermissions,
    /// The user that will run: the TCP sockets are given to it with `fchown(2)`, since
    /// `SO_REUSEPORT` compares the owners' user ids. Needs CAP_CHOWN, where it is another user.
    pub owner_uid: Option<u32>,
    /// A refused option is an error rather than a warning, and the listener does not open.
    pub strict: bool,
    /// Bind, which can fail, and leave `listen(2)` to [`crate::listen_now`]: from then on the kernel gives it
    /// connections, so whoever accepts is to be there. Of TCP and Multipath TCP sockets.
    #[serde(default)]
    pub listen_later: bool,
}

/// By which option a foreign address is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Foreign {
    /// `IP_TRANSPARENT`/`IPV6_TRANSPARENT`, else `IP_FREEBIND`/`IPV6_FREEBIND` (HAProxy's `transparent`).
    TransparentOrFreebind,
    /// `IP_TRANSPARENT`/`IPV6_TRANSPARENT` only: needs CAP_NET_ADMIN or CAP_NET_RAW.
    Transparent,
    /// `IP_FREEBIND`/`IPV6_FREEBIND` only: needs no privilege.
    Freebind,
}

/// The length of the fast-open queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FastOpenQueue {
    /// The backlog, else maxconn (HAProxy's `tfo`).
    Backlog,
    /// This many.
    Length(u32),
}

/// What an IPv6 socket does about IPv4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Ipv6Only {
    /// IPv6 only (`v6only`).
    On,
    /// IPv4 too, as v4-mapped addresses (`v4v6`).
    Off,
}

/// A TCP-MD5 key and the peers that must use it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Md5Key {
    /// The peers, as a prefix; `None` is every peer of every family of the socket.
    pub peers: Option<(std::net::IpAddr, u8)>,
    /// The secret, 1 to 80 bytes.
    pub secret: String,
}

impl std::fmt::Debug for Md5Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Md5Key")
            .field("peers", &self.peers)
            .finish_non_exhaustive()
    }
}

/// Owner and mode of a Unix path socket; `None` leaves what the kernel and the umask give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct UnixPermissions {
    /// Owner's user id.
    pub uid: Option<u32>,
    /// Owner's group id.
    pub gid: Option<u32>,
    /// Permission bits, like 0o660.
    pub mode: Option<u32>,
}

impl ListenerSpec {
    /// A TCP listener; port 0 lets the kernel choose.
    pub fn tcp(address: SocketAddr) -> Self {
        ListenerSpec::new(Address::Tcp(address))
    }

    /// A Multipath TCP listener, which plain TCP clients can use too.
    pub fn mptcp(address: SocketAddr) -> Self {
        ListenerSpec::new(Address::Mptcp(address))
    }

    /// A Unix socket with a name in the file system.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        ListenerSpec::new(Address::UnixPath(path.into()))
    }

    /// A Unix socket with an abstract name, as most programs write it ([`AbstractForm::Exact`]).
    pub fn unix_abstract(name: impl Into<Vec<u8>>) -> Self {
        ListenerSpec::new(Address::UnixAbstract {
            name: name.into(),
            form: AbstractForm::Exact,
        })
    }

    /// The descriptor `number` that this process was started with.
    pub fn inherited(number: i32) -> Self {
        ListenerSpec::new(Address::Inherited(number))
    }

    /// The sockets that systemd passed under this name.
    pub fn activated(name: impl Into<String>) -> Self {
        ListenerSpec::new(Address::Activated(name.into()))
    }

    /// A listener at `address` with one socket and the defaults of every option.
    pub fn new(address: Address) -> Self {
        ListenerSpec {
            name: String::new(),
            address,
            shards: 1,
            backlog: None,
            maxconn: 1024,
            reuse_addr: true,
            reuse_port: true,
            foreign: None,
            interface: None,
            mss: None,
            defer_accept: None,
            fast_open: None,
            ipv6_only: None,
            no_linger: false,
            no_quick_ack: false,
            user_timeout: None,
            congestion_control: None,
            md5_keys: Vec::new(),
            no_delay: false,
            incoming_cpus: Vec::new(),
            network_namespace: None,
            unix_permissions: UnixPermissions::default(),
            owner_uid: None,
            strict: false,
            listen_later: false,
        }
    }
}
