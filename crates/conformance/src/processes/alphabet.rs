//! What a scenario may be about and be made of.
//!
//! Decides:  the kinds and the acts with their weights; the options, addresses, networks, sysctls and
//!           capabilities that are drawn from.
//! Not here: how a scenario is put together of them (pen.rs).

/// What a scenario is mostly about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Network,
    Users,
    Sysctls,
    Ports,
    Connections,
    Options,
    Processes,
    Buckets,
    /// Many connections that stay half open, at listeners that may go.
    Crowd,
}

pub(super) const KINDS: &[Kind] = &[
    Kind::Network,
    Kind::Users,
    Kind::Sysctls,
    Kind::Ports,
    Kind::Connections,
    Kind::Options,
    Kind::Processes,
    Kind::Processes,
    Kind::Buckets,
    Kind::Crowd,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Open,
    Bind,
    Listen,
    Connect,
    Accept,
    Set,
    Get,
    Shutdown,
    Close,
    Dup,
    Pass,
    Fchown,
    Nonblocking,
    Name,
    Peer,
    Sysctl,
    Wait,
    Fork,
    Exit,
    Enter,
}

/// An act, how often it comes, and what a kind adds to it.
pub(super) type Weight = (Act, usize, &'static [(Kind, usize)]);

pub(super) const ACTS: &[Weight] = &[
    (Act::Open, 30, &[(Kind::Ports, 30), (Kind::Buckets, 30)]),
    (Act::Bind, 80, &[(Kind::Ports, 20), (Kind::Buckets, 20)]),
    (Act::Listen, 50, &[]),
    (
        Act::Connect,
        40,
        &[(Kind::Connections, 40), (Kind::Ports, 20)],
    ),
    (Act::Accept, 20, &[(Kind::Connections, 30)]),
    (Act::Set, 30, &[(Kind::Options, 70)]),
    (Act::Get, 20, &[(Kind::Options, 60)]),
    (
        Act::Shutdown,
        10,
        &[(Kind::Connections, 20), (Kind::Crowd, 40)],
    ),
    (
        Act::Close,
        20,
        &[
            (Kind::Connections, 20),
            (Kind::Buckets, 20),
            (Kind::Crowd, 20),
        ],
    ),
    (Act::Dup, 4, &[(Kind::Processes, 6)]),
    (Act::Pass, 4, &[(Kind::Processes, 16)]),
    (Act::Fchown, 6, &[(Kind::Buckets, 14)]),
    (Act::Nonblocking, 3, &[]),
    (Act::Name, 15, &[]),
    (Act::Peer, 7, &[]),
    (Act::Sysctl, 8, &[(Kind::Sysctls, 40)]),
    (Act::Wait, 1, &[]),
    (Act::Fork, 0, &[(Kind::Processes, 16)]),
    (Act::Exit, 0, &[(Kind::Processes, 24)]),
    (Act::Enter, 0, &[(Kind::Processes, 7)]),
];

pub(super) const SHARING: &[&str] = &["reuseaddr", "reuseport"];
pub(super) const OPTIONS: &[&str] = &[
    "reuseaddr",
    "reuseport",
    "freebind",
    "transparent",
    "bind-no-port",
    "linger 0",
    "linger 5",
    "linger off",
    "incoming-cpu 0",
    "incoming-cpu 1",
    "incoming-cpu -1",
    "device lo",
    "device none",
    "device eth0",
    "device dmy",
    "ifindex 1",
    "ifindex 0",
    "ifindex 2",
    "ifindex 77",
    "ifindex -1",
    "port-range 40000..40003",
    "port-range 0..40001",
    "port-range 40002..0",
    "port-range 40003..40000",
    "port-range 0..0",
    "program index 0",
    "program index 1",
    "program cpu 2",
    "no-program",
    "repair on",
    "repair off",
    "repair no-window-probe",
    "fastopen 5",
    "fastopen -1",
    "fastopen 99999",
    "fastopen 0",
    "defer-accept 1",
    "defer-accept 0",
    "defer-accept -5",
    "defer-accept 1000",
    "v6only on",
    "v6only off",
    "freebind6",
    "transparent6",
    "reuseaddr off",
    "reuseport off",
    "freebind off",
    "transparent off",
    "bind-no-port off",
];
pub(super) const READ: &[&str] = &[
    "reuseaddr",
    "reuseport",
    "v6only",
    "freebind",
    "transparent",
    "freebind6",
    "transparent6",
    "device",
    "ifindex",
    "bind-no-port",
    "port-range",
    "linger",
    "incoming-cpu",
    "acceptconn",
    "error",
    "repair",
    "fastopen",
    "defer-accept",
    "state",
];
pub(super) const LENGTHS: &[u32] = &[0, 1, 2, 3, 4, 5, 8, 16, 40];

/// Addresses that sockets meet on, and all of the others.
pub(super) const FEW4: &[&str] = &["127.0.0.1", "0.0.0.0", "127.0.0.2", "127.0.0.1"];
pub(super) const FEW6: &[&str] = &["::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"];
pub(super) const MANY4: &[&str] = &[
    "0.0.0.0",
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.255",
    "127.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "0.0.0.1",
    "192.0.2.7",
    "192.0.2.255",
    "192.0.2.0",
    "192.0.2.8",
    "10.9.9.9",
    "198.51.100.1",
    "10.1.0.1",
    "10.1.2.3",
    "10.1.255.255",
    "127.5.0.1",
    "127.5.0.9",
    "203.0.113.9",
    "203.0.113.8",
    "240.0.0.1",
];
pub(super) const MANY6: &[&str] = &[
    "::",
    "::1",
    "::2",
    "::ffff:127.0.0.1",
    "::ffff:0.0.0.0",
    "::ffff:10.9.9.9",
    "::ffff:192.0.2.7",
    "fe80::7%eth0",
    "fe80::7%lo",
    "fe80::7",
    "fe80::8%eth0",
    "2001:db8::1",
    "2001:db8::2",
    "ff02::1",
    "ff02::1%eth0",
    "::127.0.0.1",
    "fd00::5",
    "2001:db8::3",
    "2001:db8::",
    "::ffff:224.0.0.1",
    "::ffff:255.255.255.255",
    "fec0::1",
];
/// How those begin that are in no network of an interface here.
pub(super) const NO_NEIGHBOURS: &[&str] = &[
    "127.0", "127.2", "0.", "255.", "224.", "240.", "10.9.", "198.51.", "::", "ff02", "fec0",
    "fd00",
];
pub(super) const FAMILIES: &[&str] = &["unspec", "inet", "inet6", "1", "77"];
pub(super) const ADDRESS_LENGTHS: &[i32] = &[
    -1, 0, 1, 2, 7, 8, 15, 16, 17, 23, 24, 27, 28, 29, 64, 127, 128, 129, 200,
];

/// What `eth0`, `dmy` and `lo` may have: secondary addresses, networks on `lo`, odd prefixes.
pub(super) const ON_ETH0: &[&str] = &[
    "192.0.2.7/24",
    "192.0.2.7/24, fe80::7/64",
    "192.0.2.7/32, 2001:db8::1/64",
    "192.0.2.7/31",
    "192.0.2.7/24, 192.0.2.8/24, fe80::7/64, 2001:db8::2/128",
    "127.5.0.1/16",
    "192.0.2.0/24",
    "10.1.2.2/24",
];
pub(super) const ON_DMY: &[&str] = &[
    "203.0.113.9/30, 2001:db8::3/64",
    "198.51.100.1/24",
    "fd00::5/64, fe80::7/64",
    "192.0.2.9/24",
];
pub(super) const ON_LO: &[&str] = &[
    "10.1.0.1/16",
    "10.1.0.1/32",
    "10.1.0.1/16, 10.1.2.3/24",
    "fd00::5/128",
    "127.5.0.9/8",
    "fe80::7/64",
    "203.0.113.8/29",
];

pub(super) const RANGES: &[&str] = &[
    "40000 40003",
    "40001 40001",
    "40000 40001",
    "20001 20004",
    "40000 40004",
    "40001 40003",
];
pub(super) const RESERVED: &[&str] = &["40000", "40001-40002", "40003", "40000-40003"];
pub(super) const SYSCTLS: &[(&str, &[&str])] = &[
    ("ip_unprivileged_port_start", &["0", "80", "20001"]),
    ("net.ipv4.ip_nonlocal_bind", &["1"]),
    ("net.ipv6.ip_nonlocal_bind", &["1"]),
    ("ip_autobind_reuse", &["1"]),
    ("bindv6only", &["1"]),
    ("somaxconn", &["1", "2", "0", "5"]),
    ("tcp_max_syn_backlog", &["1", "4", "8"]),
    ("tcp_syncookies", &["0", "2"]),
    ("tcp_fastopen", &["0", "2", "3", "1026", "1027", "1028"]),
    ("tcp_tw_reuse", &["0", "1"]),
    ("tcp_abort_on_overflow", &["1"]),
    ("tcp_migrate_req", &["1"]),
    ("tcp_fin_timeout", &["1"]),
];
/// Those that half-open connections feel.
pub(super) const CROWDED: &[(&str, &[&str])] = &[
    ("tcp_syncookies", &["0", "0", "1", "2"]),
    ("tcp_max_syn_backlog", &["1", "4", "8", "128"]),
    ("tcp_migrate_req", &["0", "1"]),
    ("tcp_abort_on_overflow", &["0", "0", "1"]),
];
/// Those that change while sockets are there.
pub(super) const CHANGES: &[&str] = &[
    "ip_local_port_range = 40000 40003",
    "net.ipv4.ip_nonlocal_bind = 1",
    "somaxconn = 3",
    "tcp_migrate_req = 1",
    "tcp_migrate_req = 0",
    "tcp_syncookies = 0",
    "ip_unprivileged_port_start = 0",
    "tcp_tw_reuse = 1",
    "bindv6only = 1",
    "ip_autobind_reuse = 1",
    "tcp_abort_on_overflow = 1",
    // What is no value, or would let the two ranges overlap.
    "somaxconn = -1",
    "tcp_tw_reuse = 3",
    "ip_autobind_reuse = 2",
    "net.ipv6.ip_nonlocal_bind = 256",
    "ip_local_port_range = 40003 40000",
    "ip_local_port_range = 1000 60000",
    "ip_unprivileged_port_start = 50000",
    "ip_unprivileged_port_start = 65536",
];
pub(super) const CAPABILITIES: &[&str] = &[
    "",
    " with net_bind_service",
    " with net_admin",
    " with net_raw",
    " with net_admin, net_raw",
    " with none",
];
/// How long a step lets time pass.
pub(super) const WAITS: &[&str] = &["10ms", "300ms"];
