//! Addresses as the kernel compares them, and the address argument of a call as the kernel reads it.
//!
//! Decides:  what kind an IPv6 address is; how an IPv4 address lives inside IPv6; which bytes of a
//!           short, long or foreign address argument count.
//! Kernel:   net/ipv6/addrconf_core.c, __ipv6_addr_type(); include/net/ipv6.h,
//!           ipv6_addr_set_v4mapped(); net/socket.c, move_addr_to_kernel(), 3.9 to 6.18
//! Not here: whether an address is one of this host's (host.rs).

use core::net::{IpAddr, Ipv4Addr};

/// `AF_UNSPEC`.
pub const AF_UNSPEC: u16 = 0;
/// `AF_INET`.
pub const AF_INET: u16 = 2;
/// `AF_INET6`.
pub const AF_INET6: u16 = 10;
/// Bytes of `struct sockaddr_in`.
pub const SOCKADDR_IN_LEN: i32 = 16;
/// Bytes of `struct sockaddr_in6`.
pub const SOCKADDR_IN6_LEN: i32 = 28;
/// Bytes of `struct sockaddr_in6` before RFC 2553 gave it a scope; still enough.
pub const SOCKADDR_IN6_OLD_LEN: i32 = 24;
/// Bytes of `struct sockaddr_storage`: a longer argument is refused.
pub const SOCKADDR_MAX_LEN: i32 = 128;

/// 127.0.0.6: what the IPv4 fields of a socket say while it has a true IPv6 address.
pub(crate) const LOOPBACK4_IPV6: u32 = 0x7f00_0006;
pub(crate) const LOOPBACK4: u32 = 0x7f00_0001;
pub(crate) const LOOPBACK6: u128 = 1;

/// The family of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// `AF_INET`.
    Inet,
    /// `AF_INET6`.
    Inet6,
}

/// What an IPv6 address is, as far as bind cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind6 {
    Any,
    Mapped,
    Loopback,
    Multicast { needs_scope: bool },
    LinkLocal,
    Unicast,
}

/// The kind of an IPv6 address. `::ffff:0.0.0.0` is a mapped one, not the wildcard.
pub(crate) fn kind6(addr: u128) -> Kind6 {
    if addr == 0 {
        return Kind6::Any;
    }
    if addr == LOOPBACK6 {
        return Kind6::Loopback;
    }
    if (addr >> 32) == 0xffff {
        return Kind6::Mapped;
    }
    let top = (addr >> 112) as u16;
    if top >> 8 == 0xff {
        // Interface-local and link-local groups need an interface.
        let needs_scope = matches!(top & 0xf, 1 | 2);
        return Kind6::Multicast { needs_scope };
    }
    if top & 0xffc0 == 0xfe80 {
        return Kind6::LinkLocal;
    }
    Kind6::Unicast
}

pub(crate) fn is_mapped(addr: u128) -> bool {
    (addr >> 32) == 0xffff
}

pub(crate) const fn mapped(v4: u32) -> u128 {
    0xffff_0000_0000 | v4 as u128
}

pub(crate) fn is_multicast4(addr: u32) -> bool {
    addr >> 28 == 0xe
}

/// The address argument of `bind` or `connect`: what the caller wrote, right or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SockAddr {
    /// `sa_family`, any value.
    pub family: u16,
    /// The length that is passed to the call.
    pub len: i32,
    /// The port, in host order.
    pub port: u16,
    /// The address; its variant says which structure was filled in.
    pub ip: IpAddr,
    /// `sin6_scope_id`.
    pub scope: u32,
}

impl SockAddr {
    /// An ordinary address: family and length fit `ip`.
    #[must_use]
    pub const fn new(ip: IpAddr, port: u16) -> SockAddr {
        let (family, len) = match ip {
            IpAddr::V4(_) => (AF_INET, SOCKADDR_IN_LEN),
            IpAddr::V6(_) => (AF_INET6, SOCKADDR_IN6_LEN),
        };
        SockAddr {
            family,
            len,
            port,
            ip,
            scope: 0,
        }
    }

    /// `AF_UNSPEC` and nothing else: `connect` with it disconnects.
    #[must_use]
    pub const fn unspecified() -> SockAddr {
        SockAddr {
            family: AF_UNSPEC,
            len: SOCKADDR_IN_LEN,
            port: 0,
            ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            scope: 0,
        }
    }

    /// The bytes as `struct sockaddr_in`: `sin_addr` overlays the flow label of the IPv6 form, which
    /// callers leave zero.
    pub(crate) fn in4(&self) -> u32 {
        match self.ip {
            IpAddr::V4(ip) => ip.to_bits(),
            IpAddr::V6(_) => 0,
        }
    }

    /// The bytes as `struct sockaddr_in6`. A `sockaddr_in` long enough to be read so has zeros there.
    pub(crate) fn in6(&self) -> u128 {
        match self.ip {
            IpAddr::V4(_) => 0,
            IpAddr::V6(ip) => ip.to_bits(),
        }
    }
}

pub(crate) fn ip4(addr: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(addr))
}
