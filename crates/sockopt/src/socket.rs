//! Options of `SOL_SOCKET`.
//!
//! Decides:  the entries of options that every socket has.
//! Kernel:   include/uapi/asm-generic/socket.h; net/core/sock.c, sk_setsockopt(), 6.1 to 6.18
//! Not here: IP and TCP (ip.rs, tcp.rs).

use crate::{Inherited, Level, Phase, Privilege, SockOpt, Value};

/// What most options of this level have in common.
const BASE: SockOpt = SockOpt {
    name: "",
    level: Level::Socket,
    number: 0,
    value: Value::Switch,
    phase: Phase::Any,
    privilege: Privilege::None,
    inherited: Inherited::Yes,
    keywords: &[],
    doc: "",
    kernel: "net/core/sock.c, sk_setsockopt()",
};

/// `SO_ACCEPTCONN`: is the socket listening?
pub const SO_ACCEPTCONN: SockOpt = SockOpt {
    name: "SO_ACCEPTCONN",
    number: 30,
    phase: Phase::ReadOnly,
    inherited: Inherited::No,
    doc: "Reads 1 when the socket is listening. Tells whether an inherited socket still needs `listen`.",
    kernel: "net/core/sock.c, sk_getsockopt()",
    ..BASE
};

/// `SO_ATTACH_REUSEPORT_CBPF`: a program chooses the group's socket.
pub const SO_ATTACH_REUSEPORT_CBPF: SockOpt = SockOpt {
    name: "SO_ATTACH_REUSEPORT_CBPF",
    number: 51,
    value: Value::Struct("sock_fprog"),
    inherited: Inherited::No,
    doc: "A classic BPF program chooses which socket of a SO_REUSEPORT group gets a connection, \
          by index in the order of joining. Set on one socket, it holds for the whole group. \
          When it returns an index beyond the group, the hash decides.",
    kernel: "net/core/sock_reuseport.c, reuseport_attach_prog(), reuseport_select_sock()",
    ..BASE
};

/// `SO_BINDTODEVICE`: only traffic of one device.
pub const SO_BINDTODEVICE: SockOpt = SockOpt {
    name: "SO_BINDTODEVICE",
    number: 25,
    value: Value::Text,
    phase: Phase::BeforeBind,
    privilege: Privilege::NetRawToChange,
    keywords: &["interface"],
    doc: "Only connections that arrive through this device reach the socket, and its answers leave \
          through it. Sockets of two devices may share an address and port. Refused with ENODEV \
          when there is no such device; a socket left without it would be open on every device, \
          so the listener library closes it then.",
    kernel: "net/core/sock.c, sock_setbindtodevice(), sock_bindtoindex_locked()",
    ..BASE
};

/// `SO_COOKIE`: the socket's number.
pub const SO_COOKIE: SockOpt = SockOpt {
    name: "SO_COOKIE",
    number: 57,
    value: Value::Int,
    phase: Phase::ReadOnly,
    inherited: Inherited::No,
    doc: "A 64-bit number that no other socket has until the next boot. Two descriptors with one \
          cookie are one socket; sock_diag reports the same number.",
    kernel: "net/core/sock_diag.c, __sock_gen_cookie()",
    ..BASE
};

/// `SO_DOMAIN`: the address family.
pub const SO_DOMAIN: SockOpt = SockOpt {
    name: "SO_DOMAIN",
    number: 39,
    value: Value::Int,
    phase: Phase::ReadOnly,
    doc: "The address family that the socket was created with, as AF_INET, AF_INET6 or AF_UNIX.",
    kernel: "net/core/sock.c, sk_getsockopt()",
    ..BASE
};

/// `SO_ERROR`: the pending error, which reading clears.
pub const SO_ERROR: SockOpt = SockOpt {
    name: "SO_ERROR",
    number: 4,
    value: Value::Int,
    phase: Phase::ReadOnly,
    inherited: Inherited::No,
    doc: "The error that is waiting for the next call, like the end of a connect; reading it clears it.",
    kernel: "net/core/sock.c, sock_error()",
    ..BASE
};

/// `SO_INCOMING_CPU`: prefer this socket for connections of one CPU.
pub const SO_INCOMING_CPU: SockOpt = SockOpt {
    name: "SO_INCOMING_CPU",
    number: 49,
    value: Value::Int,
    phase: Phase::Listening,
    inherited: Inherited::No,
    doc: "Among the sockets of a SO_REUSEPORT group, the one whose value is the CPU that received \
          the packet gets the connection (in the group's choice since Linux 6.2; before it only \
          decided between sockets outside a group). Connections of CPUs that no socket names are \
          spread by hash.",
    kernel: "net/core/sock_reuseport.c, reuseport_select_sock_by_hash(); reuseport_update_incoming_cpu()",
    ..BASE
};

/// `SO_KEEPALIVE`: probe idle connections.
pub const SO_KEEPALIVE: SockOpt = SockOpt {
    name: "SO_KEEPALIVE",
    number: 9,
    keywords: &["option tcpka", "option clitcpka", "option srvtcpka"],
    doc: "An idle connection is probed after TCP_KEEPIDLE seconds and reset when nobody answers, so \
          a peer that vanished does not hold its connection for ever.",
    kernel: "net/ipv4/tcp_timer.c, tcp_set_keepalive()",
    ..BASE
};

/// `SO_LINGER`: what `close` does with data not yet sent.
pub const SO_LINGER: SockOpt = SockOpt {
    name: "SO_LINGER",
    number: 13,
    value: Value::Struct("linger"),
    keywords: &["option nolinger"],
    doc: "On with zero seconds, `close` throws unsent data away and resets the connection, and no \
          TIME_WAIT remains. Accepted connections inherit it: a client may lose the end of an answer.",
    kernel: "net/ipv4/tcp.c, __tcp_close()",
    ..BASE
};

/// `SO_MARK`: the firewall mark.
pub const SO_MARK: SockOpt = SockOpt {
    name: "SO_MARK",
    number: 36,
    value: Value::Int,
    privilege: Privilege::NetAdminOrRaw,
    keywords: &["tcp-request … set-mark"],
    doc: "Packets that the socket sends carry this mark, for policy routing and firewall rules.",
    kernel: "net/core/sock.c, sockopt_capable(), __sock_set_mark()",
    ..BASE
};

/// `SO_NETNS_COOKIE`: the number of the socket's network namespace.
pub const SO_NETNS_COOKIE: SockOpt = SockOpt {
    name: "SO_NETNS_COOKIE",
    number: 71,
    value: Value::Int,
    phase: Phase::ReadOnly,
    doc: "A 64-bit number of the network namespace that the socket lives in, the same for all of its \
          sockets (since Linux 5.14).",
    kernel: "net/core/sock.c, sk_getsockopt()",
    ..BASE
};

/// `SO_PRIORITY`: the queueing priority.
pub const SO_PRIORITY: SockOpt = SockOpt {
    name: "SO_PRIORITY",
    number: 12,
    value: Value::Int,
    privilege: Privilege::NetAdminForMore,
    doc: "The priority of the socket's packets in the device's queueing discipline; above 6 it needs \
          CAP_NET_ADMIN or CAP_NET_RAW.",
    ..BASE
};

/// `SO_PROTOCOL`: the protocol.
pub const SO_PROTOCOL: SockOpt = SockOpt {
    name: "SO_PROTOCOL",
    number: 38,
    value: Value::Int,
    phase: Phase::ReadOnly,
    doc: "The protocol that the socket was created with: IPPROTO_TCP, IPPROTO_MPTCP, or 0 for a Unix socket.",
    kernel: "net/core/sock.c, sk_getsockopt()",
    ..BASE
};

/// `SO_RCVBUF`: the receive buffer.
pub const SO_RCVBUF: SockOpt = SockOpt {
    name: "SO_RCVBUF",
    number: 8,
    value: Value::Int,
    phase: Phase::Listening,
    keywords: &["tune.rcvbuf.client", "tune.rcvbuf.server"],
    doc: "Fixes the receive buffer at twice this many bytes, cut to net.core.rmem_max, and turns the \
          kernel's own sizing off. The window scale is fixed in the handshake, so set it on the listener.",
    kernel: "net/core/sock.c, __sock_set_rcvbuf()",
    ..BASE
};

/// `SO_REUSEADDR`: bind beside connections of the same port.
pub const SO_REUSEADDR: SockOpt = SockOpt {
    name: "SO_REUSEADDR",
    number: 2,
    phase: Phase::BeforeBind,
    doc: "A server may bind while connections of its earlier run are in TIME_WAIT or established, \
          when those sockets had the option too; beside a listener never.",
    kernel: "net/ipv4/inet_connection_sock.c, inet_bind_conflict()",
    ..BASE
};

/// `SO_REUSEPORT`: several sockets accept on one address and port.
pub const SO_REUSEPORT: SockOpt = SockOpt {
    name: "SO_REUSEPORT",
    number: 15,
    phase: Phase::BeforeBind,
    keywords: &["shards", "noreuseport"],
    doc: "Several sockets accept on one address and port. Every sharer needs it, under one user id. \
          Connections are spread by hash. Closing a sharer resets those waiting in its queue, unless \
          net.ipv4.tcp_migrate_req is on.",
    kernel: "net/ipv4/inet_connection_sock.c, inet_bind_conflict(); net/core/sock_reuseport.c, reuseport_add_sock()",
    ..BASE
};

/// `SO_SNDBUF`: the send buffer.
pub const SO_SNDBUF: SockOpt = SockOpt {
    name: "SO_SNDBUF",
    number: 7,
    value: Value::Int,
    keywords: &["tune.sndbuf.client", "tune.sndbuf.server"],
    doc: "Fixes the send buffer at twice this many bytes, cut to net.core.wmem_max, and turns the \
          kernel's own sizing off.",
    ..BASE
};

/// `SO_TYPE`: stream, datagram and so on.
pub const SO_TYPE: SockOpt = SockOpt {
    name: "SO_TYPE",
    number: 3,
    value: Value::Int,
    phase: Phase::ReadOnly,
    doc: "The type that the socket was created with. An inherited descriptor must read SOCK_STREAM to be a listener.",
    kernel: "net/core/sock.c, sk_getsockopt()",
    ..BASE
};
