//! Options of `IPPROTO_TCP`.
//!
//! Decides:  the entries of TCP's own options.
//! Kernel:   include/uapi/linux/tcp.h; net/ipv4/tcp.c, do_tcp_setsockopt(), 6.1 to 6.18;
//!           what Multipath TCP passes on: net/mptcp/sockopt.c, mptcp_supported_sockopt()
//! Not here: what all sockets have (socket.rs).

use crate::{Inherited, Level, Phase, Privilege, SockOpt, Value};

/// What most options of this level have in common.
const BASE: SockOpt = SockOpt {
    name: "",
    level: Level::Tcp,
    number: 0,
    value: Value::Int,
    phase: Phase::Any,
    privilege: Privilege::None,
    inherited: Inherited::Yes,
    keywords: &[],
    doc: "",
    kernel: "net/ipv4/tcp.c, do_tcp_setsockopt()",
};

/// `TCP_CONGESTION`: the congestion control algorithm.
pub const TCP_CONGESTION: SockOpt = SockOpt {
    name: "TCP_CONGESTION",
    number: 13,
    value: Value::Text,
    privilege: Privilege::NetAdminForMore,
    keywords: &["cc"],
    doc: "The congestion control algorithm of the socket and of those it accepts. ENOENT: the kernel \
          does not have it; EPERM: it is not in net.ipv4.tcp_allowed_congestion_control and \
          CAP_NET_ADMIN is missing.",
    kernel: "net/ipv4/tcp_cong.c, tcp_set_congestion_control()",
    ..BASE
};

/// `TCP_DEFER_ACCEPT`: wake the acceptor when data is there.
pub const TCP_DEFER_ACCEPT: SockOpt = SockOpt {
    name: "TCP_DEFER_ACCEPT",
    number: 9,
    phase: Phase::Listening,
    inherited: Inherited::No,
    keywords: &["defer-accept"],
    doc: "A connection is given to `accept` when its first data is there, or when about this many \
          seconds of SYN-ACK retransmissions went by. Harmful where the server speaks first: every \
          connection waits.",
    kernel: "net/ipv4/tcp_minisocks.c, tcp_check_req()",
    ..BASE
};

/// `TCP_FASTOPEN`: take data in the SYN.
pub const TCP_FASTOPEN: SockOpt = SockOpt {
    name: "TCP_FASTOPEN",
    number: 23,
    phase: Phase::Unconnected,
    inherited: Inherited::No,
    keywords: &["tfo"],
    doc: "Clients with a cookie may send data in their SYN; at most this many such connections may be \
          unconfirmed. Has no effect unless bit 2 of net.ipv4.tcp_fastopen is set, which it is not by \
          default. A SYN can arrive twice, so the first request must bear being repeated.",
    kernel: "net/ipv4/tcp_fastopen.c, tcp_try_fastopen(), fastopen_queue_tune()",
    ..BASE
};

/// `TCP_FASTOPEN_CONNECT`: `connect` waits for the first data.
pub const TCP_FASTOPEN_CONNECT: SockOpt = SockOpt {
    name: "TCP_FASTOPEN_CONNECT",
    number: 30,
    phase: Phase::Unconnected,
    inherited: Inherited::No,
    keywords: &["tfo (server)"],
    doc: "`connect` returns at once where a cookie is known, and the first write sends the SYN with its \
          data. A refusal is then seen at the first write.",
    ..BASE
};

/// `TCP_INFO`: what TCP knows about the connection.
pub const TCP_INFO: SockOpt = SockOpt {
    name: "TCP_INFO",
    number: 11,
    value: Value::Struct("tcp_info"),
    phase: Phase::ReadOnly,
    inherited: Inherited::No,
    keywords: &["fc_rtt"],
    doc: "Round trip, retransmissions, windows of a connection. On a listening socket tcpi_unacked is the \
          number of connections waiting in the accept queue and tcpi_sacked its limit.",
    kernel: "net/ipv4/tcp.c, tcp_get_info()",
    ..BASE
};

/// `TCP_KEEPCNT`: how many probes.
pub const TCP_KEEPCNT: SockOpt = SockOpt {
    name: "TCP_KEEPCNT",
    number: 6,
    keywords: &["clitcpka-cnt", "srvtcpka-cnt"],
    doc: "How many keepalive probes go unanswered before the connection is reset, 1 to 127.",
    ..BASE
};

/// `TCP_KEEPIDLE`: when to begin probing.
pub const TCP_KEEPIDLE: SockOpt = SockOpt {
    name: "TCP_KEEPIDLE",
    number: 4,
    keywords: &["clitcpka-idle", "srvtcpka-idle"],
    doc: "After how many idle seconds the first keepalive probe is sent, 1 to 32767.",
    ..BASE
};

/// `TCP_KEEPINTVL`: how often to probe.
pub const TCP_KEEPINTVL: SockOpt = SockOpt {
    name: "TCP_KEEPINTVL",
    number: 5,
    keywords: &["clitcpka-intvl", "srvtcpka-intvl"],
    doc: "How many seconds lie between two keepalive probes, 1 to 32767.",
    ..BASE
};

/// `TCP_MAXSEG`: the maximum segment size.
pub const TCP_MAXSEG: SockOpt = SockOpt {
    name: "TCP_MAXSEG",
    number: 2,
    keywords: &["mss"],
    doc: "On a listener, the segment size that it advertises to clients: 88 to 32767 bytes, 0 for the \
          kernel's choice; anything else is EINVAL. On a connection it can only lower the size of what \
          is sent.",
    kernel: "net/ipv4/tcp.c, tcp_sock_set_maxseg()",
    ..BASE
};

/// `TCP_MD5SIG`: signed segments with one peer (RFC 2385).
pub const TCP_MD5SIG: SockOpt = SockOpt {
    name: "TCP_MD5SIG",
    number: 14,
    value: Value::Struct("tcp_md5sig"),
    inherited: Inherited::ForThePeer,
    keywords: &[],
    doc: "Segments to and from exactly this peer address carry an MD5 signature made with the key; \
          segments without it are dropped silently. Other peers are not affected.",
    kernel: "net/ipv4/tcp_ipv4.c, tcp_v4_parse_md5_keys(), tcp_inbound_md5_hash()",
    ..BASE
};

/// `TCP_MD5SIG_EXT`: signed segments with every peer of a prefix.
pub const TCP_MD5SIG_EXT: SockOpt = SockOpt {
    name: "TCP_MD5SIG_EXT",
    number: 32,
    value: Value::Struct("tcp_md5sig"),
    inherited: Inherited::ForThePeer,
    keywords: &["tcp-md5sig"],
    doc: "As TCP_MD5SIG, for every peer of an address prefix; the longest prefix that matches decides. \
          An IPv6 socket that takes IPv4 too needs a second entry with a v4-mapped prefix. Peers outside \
          every prefix get in unsigned. ENOPROTOOPT: the kernel was built without CONFIG_TCP_MD5SIG.",
    kernel: "net/ipv4/tcp_ipv4.c, tcp_v4_parse_md5_keys(); net/ipv6/tcp_ipv6.c, tcp_v6_parse_md5_keys()",
    ..BASE
};

/// `TCP_NODELAY`: send small segments at once.
pub const TCP_NODELAY: SockOpt = SockOpt {
    name: "TCP_NODELAY",
    number: 1,
    value: Value::Switch,
    doc: "A small write is sent at once and does not wait until earlier data is acknowledged. Set on the \
          listener, it saves one call for each accepted connection.",
    kernel: "net/ipv4/tcp.c, __tcp_sock_set_nodelay()",
    ..BASE
};

/// `TCP_NOTSENT_LOWAT`: when the socket counts as writable.
pub const TCP_NOTSENT_LOWAT: SockOpt = SockOpt {
    name: "TCP_NOTSENT_LOWAT",
    number: 25,
    keywords: &["tune.notsent-lowat.client", "tune.notsent-lowat.server"],
    doc: "The socket is writable only while fewer than this many bytes wait unsent, which keeps data in \
          the program, where it can still be changed, and memory small.",
    ..BASE
};

/// `TCP_QUICKACK`: acknowledge at once.
pub const TCP_QUICKACK: SockOpt = SockOpt {
    name: "TCP_QUICKACK",
    number: 12,
    value: Value::Switch,
    keywords: &["option tcp-smart-accept", "option tcp-smart-connect"],
    doc: "Off, the acknowledgement of a client's first data may travel with the answer, which saves a \
          packet a connection. The kernel changes it by itself as the connection goes on.",
    kernel: "net/ipv4/tcp.c, __tcp_sock_set_quickack()",
    ..BASE
};

/// `TCP_SAVE_SYN`: keep the client's SYN.
pub const TCP_SAVE_SYN: SockOpt = SockOpt {
    name: "TCP_SAVE_SYN",
    number: 27,
    phase: Phase::Listening,
    inherited: Inherited::No,
    keywords: &["tcp-ss"],
    doc: "Each accepted connection keeps the headers of its SYN, to be read once with TCP_SAVED_SYN: from \
          the IP header for 1, from the link layer for 2.",
    ..BASE
};

/// `TCP_USER_TIMEOUT`: how long sent data may stay unacknowledged.
pub const TCP_USER_TIMEOUT: SockOpt = SockOpt {
    name: "TCP_USER_TIMEOUT",
    number: 18,
    keywords: &["tcp-ut"],
    doc: "The connection is ended with ETIMEDOUT when sent data stays unacknowledged for this many \
          milliseconds, or keepalive probes unanswered, in place of about 15 minutes; 0 is the kernel's \
          own limit. Accepted connections inherit it.",
    kernel: "net/ipv4/tcp_timer.c, tcp_write_timeout()",
    ..BASE
};
