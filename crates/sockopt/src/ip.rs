//! Options of `IPPROTO_IP` and `IPPROTO_IPV6`.
//!
//! Decides:  the entries of options about addresses and packets.
//! Kernel:   include/uapi/linux/{in,in6}.h; net/ipv4/ip_sockglue.c, do_ip_setsockopt();
//!           net/ipv6/ipv6_sockglue.c, do_ipv6_setsockopt(), 6.1 to 6.18
//! Not here: TCP's own (tcp.rs).

use crate::{Inherited, Level, Phase, Privilege, SockOpt, Value};

/// What most options of `IPPROTO_IP` have in common.
const IP: SockOpt = SockOpt {
    name: "",
    level: Level::Ip,
    number: 0,
    value: Value::Switch,
    phase: Phase::Any,
    privilege: Privilege::None,
    inherited: Inherited::Yes,
    keywords: &[],
    doc: "",
    kernel: "net/ipv4/ip_sockglue.c, do_ip_setsockopt()",
};

/// What most options of `IPPROTO_IPV6` have in common.
const IPV6: SockOpt = SockOpt {
    level: Level::Ipv6,
    kernel: "net/ipv6/ipv6_sockglue.c, do_ipv6_setsockopt()",
    ..IP
};

/// `IP_BIND_ADDRESS_NO_PORT`: choose the source port in `connect`.
pub const IP_BIND_ADDRESS_NO_PORT: SockOpt = SockOpt {
    name: "IP_BIND_ADDRESS_NO_PORT",
    number: 24,
    phase: Phase::BeforeBind,
    keywords: &["source"],
    doc: "`bind` with port 0 fixes only the address; `connect` chooses the port, which several \
          connections to different servers can then share.",
    kernel: "net/ipv4/af_inet.c, __inet_bind()",
    ..IP
};

/// `IP_FREEBIND`: bind to an address that is not (yet) this host's.
pub const IP_FREEBIND: SockOpt = SockOpt {
    name: "IP_FREEBIND",
    number: 15,
    phase: Phase::BeforeBind,
    keywords: &["transparent"],
    doc: "`bind` takes an address that is not (yet) this host's, such as a floating one. Traffic \
          comes only once the address is there. Works on an IPv6 socket too, for both families' binds.",
    kernel: "net/ipv4/af_inet.c, inet_can_nonlocal_bind()",
    ..IP
};

/// `IP_LOCAL_PORT_RANGE`: this socket's own range for port 0.
pub const IP_LOCAL_PORT_RANGE: SockOpt = SockOpt {
    name: "IP_LOCAL_PORT_RANGE",
    number: 51,
    value: Value::Int,
    phase: Phase::BeforeBind,
    doc: "Narrows the range from which the kernel chooses a port for this socket: the low bound in \
          the lower half, the high bound in the upper (since Linux 6.3).",
    kernel: "net/ipv4/inet_connection_sock.c, inet_sk_get_local_port_range()",
    ..IP
};

/// `IP_TOS`: the type of service of packets sent.
pub const IP_TOS: SockOpt = SockOpt {
    name: "IP_TOS",
    number: 1,
    value: Value::Int,
    keywords: &["tcp-request … set-tos"],
    doc: "The DSCP of packets that the socket sends, in the upper six bits; TCP keeps the lower two for ECN.",
    kernel: "net/ipv4/ip_sockglue.c, __ip_sock_set_tos()",
    ..IP
};

/// `IP_TRANSPARENT`: accept for addresses that are not this host's.
pub const IP_TRANSPARENT: SockOpt = SockOpt {
    name: "IP_TRANSPARENT",
    number: 19,
    phase: Phase::BeforeBind,
    privilege: Privilege::NetAdminOrRaw,
    keywords: &["transparent", "usesrc"],
    doc: "`bind` takes an address that is not this host's, and with a TPROXY rule connections to \
          foreign addresses arrive at the socket and keep their destination. On a connecting socket \
          it allows a client's address as the source.",
    kernel: "net/ipv4/ip_sockglue.c, do_ip_setsockopt(); net/ipv4/af_inet.c, inet_can_nonlocal_bind()",
    ..IP
};

/// `IPV6_FREEBIND`: as `IP_FREEBIND`.
pub const IPV6_FREEBIND: SockOpt = SockOpt {
    name: "IPV6_FREEBIND",
    number: 78,
    phase: Phase::BeforeBind,
    keywords: &["transparent"],
    doc: "As IP_FREEBIND, by the IPv6 number (since Linux 4.15): `bind` takes an address that is not \
          (yet) this host's.",
    ..IPV6
};

/// `IPV6_TCLASS`: the traffic class of packets sent.
pub const IPV6_TCLASS: SockOpt = SockOpt {
    name: "IPV6_TCLASS",
    number: 67,
    value: Value::Int,
    keywords: &["tcp-request … set-tos"],
    doc: "The traffic class of IPv6 packets that the socket sends: IP_TOS of the other family.",
    ..IPV6
};

/// `IPV6_TRANSPARENT`: as `IP_TRANSPARENT`.
pub const IPV6_TRANSPARENT: SockOpt = SockOpt {
    name: "IPV6_TRANSPARENT",
    number: 75,
    phase: Phase::BeforeBind,
    privilege: Privilege::NetAdminOrRaw,
    keywords: &["transparent", "usesrc"],
    doc: "As IP_TRANSPARENT, by the IPv6 number: foreign addresses can be bound, and TPROXY brings \
          connections to them.",
    ..IPV6
};

/// `IPV6_V6ONLY`: does an IPv6 socket take IPv4 too?
pub const IPV6_V6ONLY: SockOpt = SockOpt {
    name: "IPV6_V6ONLY",
    number: 26,
    phase: Phase::BeforeBind,
    keywords: &["v4v6", "v6only"],
    doc: "On, a socket at :: takes IPv6 only, and another may hold 0.0.0.0 with the same port. Off, it \
          takes IPv4 too, as ::ffff:a.b.c.d. Unset, net.ipv6.bindv6only decides. A bound socket \
          refuses even the value that it has, with EINVAL.",
    ..IPV6
};
