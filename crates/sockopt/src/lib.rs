//! The socket options that a TCP server meets, as data: one entry each.
//!
//! Decides:  an option's C name, level and number, when it may be set, who may set it, whether
//!           accepted sockets inherit it, and what follows from setting it.
//! Kernel:   net/core/sock.c, net/ipv4/ip_sockglue.c, net/ipv6/ipv6_sockglue.c, net/ipv4/tcp.c,
//!           6.1 to 6.18
//! Not here: any call (crate `sys`), the order in which a listener sets them (crate `listener`).
//!
//! ```
//! use portcullis_sockopt::{Phase, all, find};
//!
//! let option = find("SO_REUSEPORT").unwrap();
//! assert_eq!(option.phase, Phase::BeforeBind);
//! assert!(all().iter().any(|o| o.keywords.contains(&"interface")));
//! ```

mod ip;
mod socket;
mod tcp;

pub use ip::*;
pub use socket::*;
pub use tcp::*;

/// One socket option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SockOpt {
    /// The C name, like `SO_REUSEPORT`.
    pub name: &'static str,
    /// At which level it is set.
    pub level: Level,
    /// Its number at that level, as on x86, Arm, RISC-V and most other architectures.
    pub number: i32,
    /// What it holds.
    pub value: Value,
    /// When it may be set.
    pub phase: Phase,
    /// Who may set it.
    pub privilege: Privilege,
    /// Does a socket that a listener accepts begin with the listener's value?
    pub inherited: Inherited,
    /// The words of haproxy.cfg that set it, on a `bind` or `server` line or in `option`.
    pub keywords: &'static [&'static str],
    /// What follows from setting it.
    pub doc: &'static str,
    /// Where the kernel decides it.
    pub kernel: &'static str,
}

/// The `level` argument of `setsockopt(2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// `SOL_SOCKET`
    Socket,
    /// `IPPROTO_IP`
    Ip,
    /// `IPPROTO_IPV6`
    Ipv6,
    /// `IPPROTO_TCP`
    Tcp,
}

impl Level {
    /// The C name.
    pub const fn name(self) -> &'static str {
        match self {
            Level::Socket => "SOL_SOCKET",
            Level::Ip => "IPPROTO_IP",
            Level::Ipv6 => "IPPROTO_IPV6",
            Level::Tcp => "IPPROTO_TCP",
        }
    }

    /// The number.
    pub const fn number(self) -> i32 {
        match self {
            Level::Socket => 1,
            Level::Ip => 0,
            Level::Ipv6 => 41,
            Level::Tcp => 6,
        }
    }
}

/// What an option holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// An `int` that is 0 or 1.
    Switch,
    /// An `int`.
    Int,
    /// Text: a device or an algorithm.
    Text,
    /// A C structure of this name.
    Struct(&'static str),
}

/// When an option may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It has its effect in `bind`; later it is refused or in vain.
    BeforeBind,
    /// It has its effect on connections that come in; it can be changed while listening.
    Listening,
    /// On a socket in CLOSE or LISTEN; a connected one refuses it.
    Unconnected,
    /// On any socket at any time.
    Any,
    /// It can only be read.
    ReadOnly,
}

/// Who may set an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Anyone.
    None,
    /// `CAP_NET_RAW`, in the user namespace of the socket's network namespace.
    NetRaw,
    /// `CAP_NET_RAW`, and only to change a device that is set already (since Linux 5.7).
    NetRawToChange,
    /// `CAP_NET_ADMIN` or `CAP_NET_RAW`, in the user namespace of the socket's network namespace.
    NetAdminOrRaw,
    /// `CAP_NET_ADMIN` for a value outside what everyone may have.
    NetAdminForMore,
}

/// Does a socket that a listener accepts begin with the listener's value?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inherited {
    /// Yes.
    Yes,
    /// No: it means something for the listener only.
    No,
    /// For the connection's own peer.
    ForThePeer,
}

/// Every option, in the order of levels and of names.
pub fn all() -> &'static [SockOpt] {
    const ALL: &[SockOpt] = &[
        SO_ACCEPTCONN,
        SO_ATTACH_REUSEPORT_CBPF,
        SO_BINDTODEVICE,
        SO_COOKIE,
        SO_DOMAIN,
        SO_ERROR,
        SO_INCOMING_CPU,
        SO_KEEPALIVE,
        SO_LINGER,
        SO_MARK,
        SO_NETNS_COOKIE,
        SO_PRIORITY,
        SO_PROTOCOL,
        SO_RCVBUF,
        SO_REUSEADDR,
        SO_REUSEPORT,
        SO_SNDBUF,
        SO_TYPE,
        IP_BIND_ADDRESS_NO_PORT,
        IP_FREEBIND,
        IP_LOCAL_PORT_RANGE,
        IP_TOS,
        IP_TRANSPARENT,
        IPV6_FREEBIND,
        IPV6_TCLASS,
        IPV6_TRANSPARENT,
        IPV6_V6ONLY,
        TCP_CONGESTION,
        TCP_DEFER_ACCEPT,
        TCP_FASTOPEN,
        TCP_FASTOPEN_CONNECT,
        TCP_INFO,
        TCP_KEEPCNT,
        TCP_KEEPIDLE,
        TCP_KEEPINTVL,
        TCP_MAXSEG,
        TCP_MD5SIG,
        TCP_MD5SIG_EXT,
        TCP_NODELAY,
        TCP_NOTSENT_LOWAT,
        TCP_QUICKACK,
        TCP_SAVE_SYN,
        TCP_USER_TIMEOUT,
    ];
    ALL
}

/// The option of this C name.
pub fn find(name: &str) -> Option<&'static SockOpt> {
    all().iter().find(|option| option.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_option_has_a_name_and_a_number_of_its_own() {
        let names: BTreeSet<_> = all().iter().map(|o| o.name).collect();
        assert_eq!(names.len(), all().len());
        let numbers: BTreeSet<_> = all().iter().map(|o| (o.level.number(), o.number)).collect();
        assert_eq!(numbers.len(), all().len());
    }

    #[test]
    fn options_are_in_the_order_of_levels_and_names() {
        let level = |o: &SockOpt| match o.level {
            Level::Socket => 0,
            Level::Ip => 1,
            Level::Ipv6 => 2,
            Level::Tcp => 3,
        };
        assert!(
            all()
                .windows(2)
                .all(|w| (level(&w[0]), w[0].name) < (level(&w[1]), w[1].name))
        );
    }

    #[test]
    fn every_option_tells_its_consequences_and_its_source() {
        for option in all() {
            assert!(
                option.doc.split_whitespace().count() >= 8,
                "{}",
                option.name
            );
            assert!(option.doc.ends_with('.'), "{}", option.name);
            assert!(option.kernel.contains("()"), "{}", option.name);
        }
    }
}
