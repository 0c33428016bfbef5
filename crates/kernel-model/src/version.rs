//! Kernel versions as data: which algorithm each release has.
//!
//! Decides:  for each question on which kernels differ, since when the answer is what it is.
//! Kernel:   read in 6.12.117 and 6.18.24; the older rows from the release in which the change landed
//! Not here: the algorithms (each in its own file, asking [`Kernel::has`]).
//!
//! What a live kernel was tried for is in docs/kernel-versions.md; the rest is transcribed. Both sides of
//! four rows that had come from memory were read since: task_work_run() in 4.2.8 and 4.3.0 (ExitBackwards),
//! inet_csk_get_port() in 4.10.17 and 4.11.0 (StrictReuseport), the capability in net/core/sock.c in 5.6.4
//! and 5.7.14 (DeviceForEveryone). SO_BINDTOIFINDEX is not in 5.0.1; it entered net-next on 17 January 2019
//! (commit f5dd3d0c9638), which became 5.1.

use core::fmt;

/// A kernel release, `6.18`, or one of its stable updates, `6.1.192`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kernel {
    /// The first number.
    pub major: u8,
    /// The second number.
    pub minor: u8,
    /// The third number: the stable update, which can bring a change of a later release along.
    /// [`Kernel::LAST_UPDATE`] where none is named.
    pub update: u16,
    /// A change that is turned round ([`Kernel::flipped`]).
    flipped: Option<Change>,
}

impl Kernel {
    /// The release that the model has been compared with, live.
    pub const V6_18: Kernel = Kernel::new(6, 18);
    /// The oldest release that is modelled: SO_REUSEPORT appeared in it.
    pub const OLDEST: Kernel = Kernel::new(3, 9);

    /// Whatever the last stable update of a release is.
    pub const LAST_UPDATE: u16 = u16::MAX;

    /// A release by its numbers, with all its stable updates.
    #[must_use]
    pub const fn new(major: u8, minor: u8) -> Kernel {
        Kernel {
            major,
            minor,
            update: Kernel::LAST_UPDATE,
            flipped: None,
        }
    }

    /// One stable update of a release.
    #[must_use]
    pub const fn stable(major: u8, minor: u8, update: u16) -> Kernel {
        Kernel {
            major,
            minor,
            update,
            flipped: None,
        }
    }

    /// This release with one change turned round: what it would be like on the other side of it. Nothing
    /// runs such a kernel; it is for finding out what depends on the change.
    #[must_use]
    pub const fn flipped(mut self, change: Change) -> Kernel {
        self.flipped = Some(change);
        self
    }

    /// Whether both are of one release, whatever their updates.
    #[must_use]
    pub const fn is_release(self, other: Kernel) -> bool {
        self.major == other.major && self.minor == other.minor
    }

    /// Whether this release contains the change, of its own or by a stable update.
    #[must_use]
    pub const fn has(self, change: Change) -> bool {
        match self.flipped {
            Some(flipped) if flipped as u8 == change as u8 => !self.contains(change),
            _ => self.contains(change),
        }
    }

    const fn contains(self, change: Change) -> bool {
        let since = change.since();
        if self.major > since.major || (self.major == since.major && self.minor >= since.minor) {
            return true;
        }
        let backports = change.backports();
        let mut at = 0;
        while at < backports.len() {
            if self.is_release(backports[at]) && self.update >= backports[at].update {
                return true;
            }
            at += 1;
        }
        false
    }

    /// Reads `6.18`, `6.18.44-generic`, `5.4`.
    ///
    /// A third number 0 says nothing: distributions write it and keep the stable update elsewhere
    /// ([`Kernel::of_host`]).
    #[must_use]
    pub fn parse(text: &str) -> Option<Kernel> {
        let mut parts = text.split(['.', '-', '+']);
        let major = parts.next()?.parse().ok()?;
        let minor = parts.next()?.parse().ok()?;
        let third = parts.next().and_then(|part| part.parse().ok());
        let update = third.filter(|&number| number != 0);
        Some(Kernel {
            major,
            minor,
            update: update.unwrap_or(Kernel::LAST_UPDATE),
            flipped: None,
        })
    }

    /// A running kernel: `uname`'s release; and what tells its stable update where the release does not:
    /// Debian's version (`#1 SMP … Debian 6.1.192-2 (…)`), Ubuntu's `/proc/version_signature`.
    #[must_use]
    pub fn of_host(release: &str, more: &str) -> Option<Kernel> {
        let named = Kernel::parse(release)?;
        if named.update != Kernel::LAST_UPDATE {
            return Some(named);
        }
        let words = more.split_ascii_whitespace().filter_map(Kernel::parse);
        let mut known = words.filter(|kernel| kernel.is_release(named));
        let better = known.find(|kernel| kernel.update != Kernel::LAST_UPDATE);
        Some(better.unwrap_or(named))
    }

    /// Whether a live kernel of this release has agreed with the model, with the same changes: an update
    /// that lacks one which a later update brought is another kernel to the model.
    #[must_use]
    pub fn verified(self) -> bool {
        let answers_alike = |live: Kernel| {
            let mut all = Change::ALL.iter();
            live.is_release(self) && all.all(|&change| live.has(change) == self.has(change))
        };
        LIVE.iter().any(|live| answers_alike(live.kernel))
    }
}

/// What of the conformance run was run on a live kernel, as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// Exhaustive and random scripts, and by every test run the scenarios that are about such a release.
    Always {
        /// Those that are skipped for want of something on that machine, by file name.
        skipped: &'static [&'static str],
    },
    /// Exhaustive and random scripts, and once the scenarios in crates/conformance/ran, in the file of
    /// that release.
    Once,
    /// Exhaustive and random scripts.
    Scripts,
}

/// A live kernel that agreed with the model in all that was run there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// Its release.
    pub kernel: Kernel,
    /// Where it ran.
    pub place: &'static str,
    /// What was run.
    pub ran: Ran,
}

const fn live(kernel: Kernel, place: &'static str, ran: Ran) -> Live {
    Live { kernel, place, ran }
}

/// Scenarios that need a VRF.
const VRFS: &[&str] = &[
    "a_listener_without_a_device_hears_no_vrf.bind",
    "a_vrf_has_ports_of_its_own.bind",
    "an_address_of_a_vrf_is_bound_through_it.bind",
    "tcp_l3mdev_accept_makes_the_ports_of_all_vrfs_one.bind",
    "with_tcp_l3mdev_accept_a_listener_hears_every_vrf.bind",
];
/// The live kernels that the model has been compared with, oldest first.
pub const LIVE: &[Live] = &[
    live(
        Kernel::stable(5, 4, 291),
        "Ubuntu's 5.4.0-216, emulated",
        Ran::Scripts,
    ),
    live(
        Kernel::stable(6, 1, 192),
        "Debian's 6.1.0-56, emulated",
        Ran::Once,
    ),
    live(
        Kernel::stable(6, 12, 117),
        "Debian's 6.12.117+deb13, emulated",
        Ran::Once,
    ),
    live(
        Kernel::stable(6, 17, 13),
        "Debian's 6.17.13+deb13, emulated",
        Ran::Scripts,
    ),
    live(
        Kernel::stable(6, 18, 44),
        "the machine that the tests run on, which has no VRFs",
        Ran::Always { skipped: VRFS },
    ),
    live(
        Kernel::stable(7, 3, 4),
        "Debian's 7.3.4+deb13, emulated",
        Ran::Scripts,
    ),
];

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.update == Kernel::LAST_UPDATE {
            return Ok(());
        }
        write!(f, ".{}", self.update)
    }
}

macro_rules! changes {
    ($($(#[$doc:meta])* $name:ident $major:literal . $minor:literal $text:literal
        $(at $place:literal)? $(also $($b1:literal . $b2:literal . $b3:literal),+)?
        $(read $read:literal)?;)*) => {
        /// A change in what the kernel answers, by the first release with it.
        ///
        /// | since | what |
        /// |---|---|
        $(#[doc = concat!("| ", $major, ".", $minor, " | ", $text, " |")])*
        ///
        /// Stable updates brought some of them to older releases ([`Change::backports`]).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Change { $($(#[$doc])* $name,)* }

        impl Change {
            /// Every change, oldest first.
            pub const ALL: &'static [Change] = &[$(Change::$name,)*];

            /// The first release with it.
            #[must_use]
            pub const fn since(self) -> Kernel {
                match self { $(Change::$name => Kernel::new($major, $minor),)* }
            }

            /// The stable updates that brought it to older releases.
            #[must_use]
            pub const fn backports(self) -> &'static [Kernel] {
                match self {
                    $(Change::$name => const { &[$($(Kernel::stable($b1, $b2, $b3)),+)?] },)*
                }
            }

            /// File and function, as in the first release with it; empty where it is the rule's own.
            #[must_use]
            pub const fn place(self) -> &'static str {
                match self { $(Change::$name => concat!($($place)?),)* }
            }

            /// In which releases' sources it was looked for, where that was done; empty where it is known
            /// from its author's words or from memory.
            #[must_use]
            pub const fn read(self) -> &'static str {
                match self { $(Change::$name => concat!($($read)?),)* }
            }

            /// What changed, in one sentence.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Change::$name => $text,)* }
            }
        }
    };
}

changes! {
    /// `net.core.somaxconn` has bounds.
    SomaxconnBounded 3 . 11 "somaxconn is 0 to 65535; before, any int, of which a listener's limit keeps the lower 16 bits."
        at "net/core/sysctl_net_core.c, netns_core_table[]" also 3 . 10 . 30
        read "in 3.10.30 and 3.10.89, whose earliest update with it was not looked for; the release is from memory (commit 5f671d6b4ec3, August 2013)";
    /// `tcp_syncookies` 2.
    AlwaysCookies 3 . 12 "tcp_syncookies 2 answers every SYN by a cookie; before, it is as 1."
        at "net/ipv4/tcp_ipv4.c, tcp_v4_conn_request()"
        read "tcp(7) says 3.12";
    /// `SO_INCOMING_CPU` can be read.
    IncomingCpuRead 3 . 19 "SO_INCOMING_CPU tells the processor that a socket's segments came in by."
        at "net/core/sock.c, sock_getsockopt()"
        read "socket(7) says 3.19";
    /// `sk_max_ack_backlog` has 32 bits.
    WideBacklog 4 . 1 "somaxconn can be more than 65535, and with it the limit of a listener's queue, which has 32 bits; before, 16."
        at "include/net/sock.h, struct sock; net/core/sysctl_net_core.c, netns_core_table[]"
        read "not in 3.10.89 and 4.0.5, in 4.2 and Ubuntu's 4.4; its commit (becb74f0acca) is of 19 March 2015, before the merge window of 4.1";
    /// `IP_BIND_ADDRESS_NO_PORT`.
    BindAddressNoPort 4 . 2 "IP_BIND_ADDRESS_NO_PORT lets bind leave the port to connect."
        at "net/ipv4/ip_sockglue.c, do_ip_setsockopt()"
        read "in 4.2.8; ip(7) says 4.2";
    /// connect favours even ports.
    EvenConnect 4 . 2 "connect begins its search at an even offset, to leave the odd ports to bind; ip_local_port_range ends at 60999 on a fresh host, before at 61000."
        at "net/ipv4/inet_hashtables.c, __inet_hash_connect()"
        read "in 4.2.8";
    /// The rover looks through the lower half first.
    RoverHalves 4 . 2 "bind to port 0 with SO_REUSEADDR looks through the lower half of the range first."
        at "net/ipv4/inet_connection_sock.c, inet_csk_get_port()"
        read "in 4.2.8";
    /// The order in which a process that ends closes (`kernel/task_work.c`, `task_work_run`).
    ExitBackwards 4 . 3 "A process that ends closes its sockets from the highest descriptor to the lowest; before, from the lowest."
        at "kernel/task_work.c, task_work_run()";
    /// `net.ipv6.ip_nonlocal_bind`.
    NonlocalBind6 4 . 3 "ip_nonlocal_bind is there for IPv6 too."
        at "net/ipv6/sysctl_net_ipv6.c, ipv6_table_template[]";
    /// Half-open connections stand in the table of connections.
    RequestsAreConnections 4 . 4 "A half-open connection is found by its addresses and ports; before, it hangs on its listener: it ends with it, and is answered by a reset where another listener is found for its segments."
        at "net/ipv4/tcp_ipv4.c, tcp_v4_hnd_req(), tcp_v4_rcv()"
        read "until then in older sources; which release is from its commit, 079096f103fa of October 2015";
    /// `SO_INCOMING_CPU` can be set.
    IncomingCpuSet 4 . 4 "SO_INCOMING_CPU can be set, and a listener with the SYN's processor wins."
        at "net/core/sock.c, sock_setsockopt()"
        read "in Ubuntu's 4.4; socket(7) says 4.4";
    /// `net.ipv4.tcp_l3mdev_accept`.
    L3mdevAccept 4 . 4 "tcp_l3mdev_accept lets a listener outside of all VRFs hear those inside."
        at "net/ipv4/sysctl_net_ipv4.c, ipv4_net_table[]"
        read "in Ubuntu's 4.4";
    /// `SO_ATTACH_REUSEPORT_CBPF`.
    GroupPrograms 4 . 5 "SO_ATTACH_REUSEPORT_CBPF is there; TCP goes by the program since 4.6."
        at "net/core/filter.c, sk_reuseport_attach_filter()"
        read "not in Ubuntu's 4.4, in 4.9.76; socket(7) says 4.5 for UDP and 4.6 for TCP";
    /// The modern port scan of bind and connect.
    OddEvenBind 4 . 6 "bind to port 0 scans odd ports, then even ones, and connect the other way round; bind's random rover is gone."
        at "net/ipv4/inet_connection_sock.c, inet_csk_find_open_port()"
        read "not in Ubuntu's 4.4, in 4.9.76";
    /// Groups of SO_REUSEPORT listeners.
    ReuseportGroups 4 . 6 "SO_REUSEPORT listeners form a group that a hash or a program chooses from."
        at "net/core/sock_reuseport.c, reuseport_select_sock()"
        read "not in Ubuntu's 4.4, in 4.9.76; socket(7) says 4.6";
    /// The timer wheel that does not cascade.
    TimerWheel 4 . 8 "Of timers that fire together, SYNs sent again for one, the newest is first; before, the oldest."
        at "kernel/time/timer.c, enqueue_timer()";
    /// `TFO_SERVER_WO_SOCKOPT2`.
    FastopenUpperHalf 4 . 9 "tcp_fastopen's bit 0x800 means nothing; before, with bit 2 and without 0x400 it gives every listener a fast-open queue as long as the sysctl's upper 16 bits say."
        at "net/ipv4/af_inet.c, inet_listen()"
        read "in 4.2.8, 4.3.0 and Ubuntu's 4.4, not in 4.9.76; which release between is from memory";
    /// `TCP_REPAIR` in any state but LISTEN.
    RepairAnyState 4 . 10 "TCP_REPAIR can be set on any socket but a listener; before, only on a closed or an established one."
        at "net/ipv4/tcp.c, tcp_can_repair_sock()"
        read "not in two sources between 3.7 and 4.9, in sources from 4.11 on; its author says that 4.10-rc1 is the first with it (commit 319b0534b958)";
    /// A full accept queue is full for SYNs too.
    FullQueueDropsSyns 4 . 10 "A listener whose accept queue is full drops SYNs; before, it answers them as long as no more than one half-open connection waits for its first repetition."
        at "net/ipv4/tcp_input.c, tcp_conn_request()"
        read "not in several older sources; which release is from its commit, 5ea8ea2cb7f1 of October 2016";
    /// A choice that asks nothing of SO_REUSEPORT.
    ChoiceSparesGroups 4 . 10 "bind to port 0 with SO_REUSEPORT takes no port that others of its user have; before, it shares one as soon as it meets it."
        at "net/ipv4/inet_connection_sock.c, inet_csk_get_port()"
        read "not in a source between 4.6 and 4.9; which release is from its commit, 0643ee4fd1b7 of January 2017";
    /// A choice that shares nothing.
    FirstFitBind 4 . 11 "bind to port 0 takes a port that is free, or none; before, it shares the one with the fewest owners, where they all have SO_REUSEADDR (or SO_REUSEPORT), as soon as every other port is taken."
        at "net/ipv4/inet_connection_sock.c, inet_csk_find_open_port()"
        read "not in a source between 4.6 and 4.9, in 4.11.0";
    /// `net.ipv4.ip_unprivileged_port_start`.
    UnprivilegedPortStart 4 . 11 "The first unprivileged port is a sysctl; before, it is 1024."
        at "net/ipv4/af_inet.c, inet_bind()"
        read "not in 4.10.17, in 4.11.0";
    /// `FASTREUSEPORT_STRICT` and the address that a bucket remembers.
    StrictReuseport 4 . 11 "A bucket remembers the address of the SO_REUSEPORT socket that its cached answer is true for, and forgets when a socket that it let in listens."
        at "net/ipv4/inet_connection_sock.c, sk_reuseport_match()"
        read "not in 4.10.17, in 4.11.0";
    /// Where what the host sends to itself by IPv4 comes in.
    LocalArrival 4 . 13 "What is sent to one of the host's IPv4 addresses comes in by the interface that has it; before, by the device that the sender is bound to, and from others by the loopback."
        at "net/ipv4/route.c, ip_route_output_key_hash_rcu()"
        read "not in 4.11.0, in Ubuntu's 4.15";
    /// `IPV6_FREEBIND`.
    Freebind6 4 . 15 "IPV6_FREEBIND is IP_FREEBIND for IPv6 sockets."
        at "net/ipv6/ipv6_sockglue.c, do_ipv6_setsockopt()"
        read "not in 4.11.0, in Ubuntu's 4.15";
    /// A second table of listeners, by address and port.
    ListenerTable2 4 . 16 "Where more than ten listeners have ports that are equal modulo 32, the exact address is looked up before the wildcard; before, and among fewer, all listeners of the port are scored at once."
        at "net/ipv4/inet_hashtables.c, __inet_lookup_listener()"
        read "in a source between 4.16 and 4.20; which release is from its commit, 61b7c691c731 of December 2017";
    /// The group remembers cookies.
    GroupCookies 4 . 19 "A SYN cookie is good for each member of a reuseport group; before, for who gave it, since each remembers for itself whether it gave any."
        at "include/net/tcp.h, tcp_synq_overflow()"
        read "which release is from its commit, 40a1227ea845 of August 2018; Envoy's documentation of reuse_port says 4.19";
    /// `tcp_tw_reuse` 2.
    TwReuseLoopback 4 . 19 "tcp_tw_reuse 2, since then the value of a fresh host, is for loopback connections only; before, it is 0 there."
        at "net/ipv4/tcp_ipv4.c, tcp_twsk_unique()"
        read "not in Ubuntu's 4.15, in Ubuntu's 5.4";
    /// `TCP_REPAIR_OFF_NO_WP`.
    RepairNoProbe 4 . 19 "TCP_REPAIR takes -1: out of repair without a window probe."
        at "net/ipv4/tcp.c, do_tcp_setsockopt()"
        read "not in Ubuntu's 4.15, in Ubuntu's 5.4";
    /// The exact address is looked up before the wildcard.
    AddressFirst 5 . 0 "A listener on the exact address wins over a wildcard one, whatever their scores."
        at "net/ipv4/inet_hashtables.c, __inet_lookup_listener()";
    /// VRFs have ports of their own.
    VrfBuckets 5 . 0 "Sockets bound to a VRF or to its interfaces own ports apart from all others, unless tcp_l3mdev_accept is on."
        at "include/net/inet_sock.h, inet_sk_bound_l3mdev(), inet_bound_dev_eq()"
        read "not in Ubuntu's 4.15, in Ubuntu's 5.4";
    /// `SO_BINDTOIFINDEX`.
    BindToIfindex 5 . 1 "SO_BINDTOIFINDEX binds to an interface by its number."
        at "net/core/sock.c, sock_setsockopt()"
        read "not in Ubuntu's 4.15, in Ubuntu's 5.4; its commit is of 17 January 2019, after the merge window of 5.0";
    /// 0.0.0.0/8 is ordinary.
    ZeronetIsOneAddress 5 . 3 "Only 0.0.0.0 counts as this network; the rest of 0.0.0.0/8 may be assigned."
        at "include/linux/in.h, ipv4_is_zeronet()"
        read "not in Ubuntu's 4.15, in Ubuntu's 5.4";
    /// `SO_DETACH_REUSEPORT_BPF`.
    DetachReuseport 5 . 3 "SO_DETACH_REUSEPORT_BPF takes the program of a group away."
        at "net/core/sock_reuseport.c, reuseport_detach_prog()"
        read "not in Ubuntu's 4.15, in Ubuntu's 5.4";
    /// `net.core.somaxconn` is 4096 from the beginning.
    SomaxconnDefault 5 . 4 "somaxconn is 4096 on a fresh host; before, 128."
        at "include/linux/socket.h, SOMAXCONN"
        read "not in Ubuntu's 4.15, in Ubuntu's 5.4";
    /// `SO_BINDTODEVICE` without a capability.
    DeviceForEveryone 5 . 7 "Anybody may bind a new socket to a device; before, it takes CAP_NET_RAW."
        at "net/core/sock.c, sock_bindtoindex()"
        read "not in 5.6.4, in 5.7.14";
    /// `net.ipv4.ip_autobind_reuse`.
    AutobindReuse 5 . 7 "ip_autobind_reuse lets the last resort of bind to port 0 share ports."
        at "net/ipv4/inet_connection_sock.c, inet_csk_find_open_port()"
        read "not in 5.6.4, in 5.7.14";
    /// Sysctls that are switches are bytes.
    ByteSysctls 5 . 13 "A sysctl that is a switch takes 0 to 255; before, any int."
        at "kernel/sysctl.c, proc_dou8vec_minmax()" also 5 . 10 . 178
        read "not in 5.12.9, in 5.14.2; the log of 5.10.178";
    /// `net.ipv4.tcp_migrate_req`.
    MigrateReq 5 . 14 "Connections can move to another listener of the group when one closes."
        at "net/core/sock_reuseport.c, reuseport_migrate_sock()"
        read "not in 5.12.9, in 5.14.2";
    /// A group that the socket has already is not enough.
    ProgramAsksReuseport 5 . 14 "A socket that does not listen takes a program only while it has SO_REUSEPORT; before, a group that it has got by an earlier program is enough."
        at "net/core/sock_reuseport.c, reuseport_attach_prog()"
        read "the change alone (commit 333bb73f620e)";
    /// The first address of a network is an ordinary one.
    LowestIsOrdinary 5 . 14 "The first address of a network (192.0.2.0 of 192.0.2.0/24) is an ordinary one; before, it is a broadcast address like the last."
        at "net/ipv4/fib_frontend.c, fib_add_ifaddr()"
        read "not in 5.12.9, in 5.14.2";
    /// A bound device counts in the score again.
    DeviceScore 5 . 15 "A listener bound to the device wins over one that is not, on the same address."
        at "net/ipv4/inet_hashtables.c, compute_score()" also 5 . 4 . 153, 5 . 10 . 73, 5 . 14 . 12;
    /// The second hash, by port and address.
    Bhash2 6 . 1 "A bind to one address walks only the owners of that address and of the wildcard."
        at "net/ipv4/inet_connection_sock.c, inet_bhash2_conflict()"
        read "not in 5.17.0, in 6.1.0";
    /// A group asks for the processor.
    GroupCpu 6 . 2 "A group prefers the member whose SO_INCOMING_CPU is the processor of the SYN; before, only the score did."
        at "net/core/sock_reuseport.c, reuseport_select_sock_by_hash()" also 5 . 15 . 86, 6 . 1 . 2
        read "not in 5.15.85 and 6.1.0, in 5.15.100, 6.1.192 and Ubuntu's 6.2";
    /// `IP_LOCAL_PORT_RANGE`.
    LocalPortRange 6 . 3 "IP_LOCAL_PORT_RANGE narrows the range of one socket."
        at "net/ipv4/inet_connection_sock.c, inet_sk_get_local_port_range()" also 6 . 1 . 32
        read "not in 6.1.0, in 6.1.192; the log of 6.1.32";
    /// `net.ipv4.tcp_syn_linear_timeouts`.
    LinearSyn 6 . 5 "The first four repetitions of a SYN come a second apart; before, each waits twice as long as the last."
        at "net/ipv4/tcp_timer.c, tcp_retransmit_timer()"
        read "not in Ubuntu's 6.2, in Ubuntu's 6.5";
    /// setsockopt looks at the descriptor before the length.
    DescriptorFirst 6 . 7 "setsockopt with a negative length on a closed descriptor is EBADF; before, EINVAL."
        at "net/socket.c, __sys_setsockopt(), do_sock_setsockopt()"
        read "not in 6.1.192, in 6.18.24";
    /// connect tries every port of `IP_LOCAL_PORT_RANGE` in turn.
    OwnRangeWhole 6 . 8 "In a socket's own range connect tries each port in turn, instead of even ones first."
        at "net/ipv4/inet_hashtables.c, __inet_hash_connect()"
        read "not in Ubuntu's 6.5, in 6.12";
    /// The bucket's cached `fastreuse` is never set any more.
    NoFastreuse 6 . 8 "A new bucket already lists the address when its cached answer is computed, so SO_REUSEADDR alone never skips the walk."
        at "net/ipv4/inet_connection_sock.c, inet_csk_update_fastreuse()";
    /// Mapped addresses are in the second hash.
    MappedByAddress 6 . 8 "A bind to an IPv4 address in IPv6 form walks only the owners of that address and of the wildcard; before, all of the port."
        at "include/net/inet_hashtables.h, inet_use_hash2_on_bind()" also 6 . 1 . 168, 6 . 6 . 131;
    /// A list by address knows what kind of address it has.
    AddressKind 6 . 8 "The owners of 0.0.0.0 are met by an IPv4 address in IPv6 form whoever they are; updates of 6.1 that have the walk by address and not this let it bind beside ::ffff:0.0.0.0."
        at "net/ipv4/inet_hashtables.c, inet_bind2_bucket_match_addr_any()";
    /// All lists of a wildcard's owners are asked.
    EveryWildcard 6 . 9 "A bind to an IPv4 address asks every list of owners of a wildcard; before, only the newest, so an IPV6_V6ONLY socket on `::` hides one on 0.0.0.0 that was there before it."
        at "net/ipv4/inet_connection_sock.c, inet_bhash2_addr_any_conflict()" also 6 . 1 . 85, 6 . 6 . 26, 6 . 8 . 5;
    /// getsockopt of TCP looks at a negative length before it becomes a large one.
    TcpLengthChecked 6 . 9 "getsockopt of a TCP option with a negative length is EINVAL; before, it is taken for a large one."
        at "net/ipv4/tcp.c, do_tcp_getsockopt()" also 4 . 19 . 311, 5 . 4 . 273, 5 . 10 . 214, 5 . 15 . 153, 6 . 1 . 83, 6 . 6 . 23, 6 . 7 . 11, 6 . 8 . 2
        read "not in Ubuntu's 6.5, in 6.12; the logs of 4.19.311, 5.10.214, 6.1.83 and 6.7.11; of the others that it was queued for them";
    /// As many half-open connections as the backlog says fit beside it.
    SynQueueHasOneMore 6 . 13 "A SYN queue is full with more half-open connections than the backlog says; before, with as many, so after listen(0) nobody can connect without cookies."
        at "include/net/inet_connection_sock.h, inet_csk_reqsk_queue_is_full()"
        also 5 . 4 . 290, 5 . 10 . 234, 5 . 15 . 177, 6 . 1 . 125, 6 . 6 . 72, 6 . 12 . 10
        read "the change alone (commit 3479c7549fb1, in the stable lists of January 2025); numbers of the updates by their dates";
    /// `net.ipv4.tcp_tw_reuse_delay`.
    TwReuseDelay 6 . 14 "How old a TIME_WAIT connection must be for connect's own choice is a sysctl; before, a second."
        at "net/ipv4/tcp_ipv4.c, tcp_twsk_unique()"
        read "not in 6.12, in 6.18.24";
    /// The user of an orphan is remembered.
    OrphanKeepsUser 6 . 17 "A closed socket's remains keep their user; before, they count as root's."
        at "include/net/sock.h, sk_uid()"
        read "not in 6.12, in 6.18.24";
    /// Ports return to connect's use when only connect's own sockets are left.
    ConnectBind 6 . 18 "A bucket whose remaining owners all got their port from connect can be used by connect again."
        at "net/ipv4/inet_hashtables.c, inet_bind_bucket_destroy()";
    /// An acknowledgement of what was never sent is answered.
    UnsentAnswered 7 . 1 "An established connection answers an acknowledgement of what it never sent; before, it drops the segment without a word."
        at "net/ipv4/tcp_input.c, tcp_ack()" also 6 . 18 . 33;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stable_update_is_read_where_it_stands() {
        let table = [
            ("6.18.44-fc-v657", "", Kernel::stable(6, 18, 44)),
            (
                "6.1.0-56-cloud-amd64",
                "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-11-16)",
                Kernel::stable(6, 1, 192),
            ),
            (
                "4.4.0-210-generic",
                "#242-Ubuntu SMP Fri Apr 16 09:57:56 UTC 2021 Ubuntu 4.4.0-210.242-generic 4.4.262",
                Kernel::stable(4, 4, 262),
            ),
            ("6.1.0-unknown", "#1 SMP 5.10.3", Kernel::new(6, 1)),
            ("6.18", "", Kernel::V6_18),
        ];
        for (release, more, kernel) in table {
            assert_eq!(Kernel::of_host(release, more), Some(kernel), "{release}");
        }
    }

    #[test]
    fn a_stable_update_has_what_was_brought_to_it() {
        let range = Change::LocalPortRange;
        assert!(Kernel::new(6, 3).has(range) && Kernel::new(7, 0).has(range));
        assert!(Kernel::new(6, 1).has(range) && Kernel::stable(6, 1, 32).has(range));
        assert!(!Kernel::stable(6, 1, 31).has(range) && !Kernel::new(6, 2).has(range));
    }

    #[test]
    fn an_update_is_verified_by_one_that_has_the_same_changes() {
        let table = [
            (Kernel::V6_18, true),
            (Kernel::stable(6, 18, 33), true),
            (Kernel::stable(6, 18, 32), false),
            (Kernel::stable(6, 17, 1), true),
            (Kernel::stable(6, 12, 10), true),
            (Kernel::stable(6, 12, 1), false),
            (Kernel::new(6, 1), true),
            (Kernel::stable(6, 1, 192), true),
            (Kernel::stable(6, 1, 20), false),
            (Kernel::stable(6, 1, 167), false),
            (Kernel::stable(5, 4, 290), true),
            (Kernel::stable(5, 4, 10), false),
            (Kernel::new(6, 11), false),
            (Kernel::stable(6, 18, 44).flipped(Change::Bhash2), false),
        ];
        for (kernel, verified) in table {
            assert_eq!(kernel.verified(), verified, "{kernel}");
        }
    }

    #[test]
    fn a_flipped_change_is_the_only_one_that_differs() {
        let kernel = Kernel::stable(6, 1, 192);
        for &flipped in Change::ALL {
            let other = kernel.flipped(flipped);
            for &change in Change::ALL {
                let differs = other.has(change) != kernel.has(change);
                assert_eq!(differs, change == flipped, "{flipped:?} {change:?}");
            }
        }
    }

    #[test]
    fn changes_stand_in_the_order_of_their_releases() {
        for pair in Change::ALL.windows(2) {
            assert!(pair[0].since() <= pair[1].since(), "{:?}", pair[1]);
        }
    }
}
