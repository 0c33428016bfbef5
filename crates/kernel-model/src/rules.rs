//! Every rule, with its name, its sentence and its place in the kernel.
//!
//! Decides:  nothing; docs/bind-rules.md, `--explain` and the coverage of a fuzzer are made from it.
//! Kernel:   each row names its function, as in 6.18; read in 6.12.117 and 6.18.24. Older names: places.rs
//! Not here: when a rule applies (the file that reports it to a [`Trace`](crate::Trace)).

use crate::version::{Change, Kernel};

/// What is known of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleInfo {
    /// Its stable name.
    pub id: &'static str,
    /// What it says.
    pub text: &'static str,
    /// What would have to differ for another answer; empty where nothing was refused.
    pub remedy: &'static str,
    /// Where 6.18 has it, or the last release with it: file and function. [`Rule::place`] tells where
    /// another release has it.
    pub kernel: &'static str,
    /// The first release with it.
    pub since: Kernel,
}

macro_rules! rules {
    ($($name:ident $id:literal $kernel:literal $since:expr; $text:literal $remedy:literal;)*) => {
        /// A rule of the kernel.
        ///
        /// [`Rule::info`] tells its stable name, its sentence and its place in the kernel's source;
        /// [`Rule::chapter`] where `docs/bind-rules.md` has it, with a scenario that shows it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Rule { $(
            #[doc = concat!($text, "\n\n`", $id, "`, of `", $kernel, "`")]
            $name,
        )* }

        impl Rule {
            /// Every rule.
            pub const ALL: &'static [Rule] = &[$(Rule::$name,)*];

            /// What is known of it.
            #[must_use]
            pub const fn info(self) -> RuleInfo {
                match self {
                    $(Rule::$name => RuleInfo {
                        id: $id, text: $text, remedy: $remedy, kernel: $kernel, since: $since,
                    },)*
                }
            }
        }
    };
}

const OLD: Kernel = Kernel::OLDEST;

rules! {
    BadDescriptor "bad-descriptor" "net/socket.c, __sys_bind()" OLD;
        "The descriptor is closed." "Use an open descriptor.";
    AddressTooLong "address-too-long" "net/socket.c, move_addr_to_kernel()" OLD;
        "An address argument longer than sockaddr_storage, or of negative length, is refused."
        "Pass the size of the structure.";
    AddressTooShort "address-too-short" "net/ipv4/af_inet.c, inet_bind_sk(); net/ipv6/af_inet6.c, inet6_bind_sk()" OLD;
        "An address argument shorter than its structure is refused." "Pass the size of the structure.";
    BindFamily "bind-family" "net/ipv4/af_inet.c, __inet_bind(); net/ipv6/af_inet6.c, __inet6_bind()" OLD;
        "The address must be of the socket's family; IPv4 also takes AF_UNSPEC with 0.0.0.0."
        "Give an address of the socket's family.";
    ForeignAddress "foreign-address" "include/net/inet_sock.h, inet_addr_valid_or_nonlocal(); net/ipv6/addrconf.c, ipv6_chk_addr()" OLD;
        "Only an address of this host can be bound, unless ip_nonlocal_bind, IP_FREEBIND or IP_TRANSPARENT allow any."
        "Add the address to an interface, or set IP_FREEBIND.";
    AnyAddressAllowed "any-address-allowed" "include/net/inet_sock.h, inet_can_nonlocal_bind(); net/ipv6/af_inet6.c, __inet6_bind()" OLD;
        "The address is not this host's, and IP_FREEBIND, IP_TRANSPARENT or ip_nonlocal_bind let it be bound all the same." "";
    PrivilegedPort "privileged-port" "net/ipv4/af_inet.c, __inet_bind(); net/ipv6/af_inet6.c, __inet6_bind()" OLD;
        "A port below ip_unprivileged_port_start needs CAP_NET_BIND_SERVICE over the network namespace."
        "Give the program CAP_NET_BIND_SERVICE, or lower ip_unprivileged_port_start.";
    AlreadyBound "already-bound" "net/ipv4/af_inet.c, __inet_bind(); net/ipv6/af_inet6.c, __inet6_bind()" OLD;
        "A socket that has a port, listens or is connected cannot be bound again." "Use a new socket.";
    MulticastBind6 "multicast-bind6" "net/ipv6/af_inet6.c, __inet6_bind()" OLD;
        "A stream socket cannot be bound to an IPv6 multicast address." "Bind a unicast address.";
    MappedOnV6Only "mapped-on-v6only" "net/ipv6/af_inet6.c, __inet6_bind()" OLD;
        "A socket with IPV6_V6ONLY cannot be bound to an IPv4-mapped address." "Clear IPV6_V6ONLY.";
    ScopeMissing "scope-missing" "net/ipv6/af_inet6.c, __inet6_bind()" OLD;
        "A link-local address needs an interface: a scope in the address, or SO_BINDTODEVICE."
        "Give the interface as the scope.";
    NoSuchDevice "no-such-device" "net/ipv6/af_inet6.c, __inet6_bind(); net/core/sock.c, sock_setbindtodevice()" OLD;
        "The interface does not exist." "Name an interface that exists.";
    PortDeferred "port-deferred" "net/ipv4/af_inet.c, __inet_bind()" Change::BindAddressNoPort.since();
        "With IP_BIND_ADDRESS_NO_PORT, bind to port 0 takes only the address; connect or listen choose the port." "";
    PortFree "port-free" "net/ipv4/inet_connection_sock.c, inet_csk_get_port()" OLD;
        "Nobody in this network namespace owns the port." "";
    PortShared "port-shared" "net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict()" OLD;
        "The port has owners, of whom the asking socket may be one, and no other of them stands against it." "";
    RepairForcesReuse "repair-forces-reuse" "net/ipv4/inet_connection_sock.c, inet_csk_get_port()" OLD;
        "A socket under TCP_REPAIR takes a port that has owners without asking them." "";
    BucketRemembersReuseaddr "bucket-remembers-reuseaddr" "net/ipv4/inet_connection_sock.c, inet_csk_get_port()" OLD;
        "All owners, of whom the asking socket may be one, had SO_REUSEADDR and did not listen when they came; the bucket remembers it and the owners are not asked." "";
    BucketRemembersReuseport "bucket-remembers-reuseport" "net/ipv4/inet_connection_sock.c, sk_reuseport_match()" OLD;
        "The bucket remembers that an SO_REUSEPORT socket of this user and address was let in: the asking socket itself, or another, even if that has closed since; the owners are not asked." "";
    PortHeld "port-held" "net/ipv4/inet_connection_sock.c, inet_bind_conflict()" OLD;
        "Another socket owns the port on an address that this one would cover, and the two share neither SO_REUSEADDR (with nobody listening) nor SO_REUSEPORT."
        "Close the holder, take another port or address, or give both sockets SO_REUSEPORT.";
    TimeWaitHolds "time-wait-holds" "net/ipv4/inet_connection_sock.c, inet_bind_conflict()" OLD;
        "What is left of a connection in TIME_WAIT owns the port until its minute is over, and not both it and the newcomer have SO_REUSEADDR."
        "Set SO_REUSEADDR before bind, on the old server and on the new one; or wait.";
    ConnectionHolds "connection-holds" "net/ipv4/inet_connection_sock.c, inet_bind_conflict()" OLD;
        "A connection owns the port that its listener had, even when the listener has closed, and not both it and the newcomer have SO_REUSEADDR."
        "Set SO_REUSEADDR before bind, on the old server and on the new one; or end the connection.";
    ReuseaddrBesideListener "reuseaddr-beside-listener" "net/ipv4/inet_connection_sock.c, inet_bind_conflict()" OLD;
        "SO_REUSEADDR never shares a port with a socket that listens."
        "Close the listener, or give both sockets SO_REUSEPORT.";
    ReuseportOtherUser "reuseport-other-user" "net/ipv4/inet_connection_sock.c, inet_bind_conflict()" OLD;
        "SO_REUSEPORT shares a port only among sockets of one user id (TIME_WAIT excepted)."
        "Run both as one user, or fchown the sockets to one user before binding.";
    ReuseportAlreadyGrouped "reuseport-already-grouped" "net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict()" Change::ReuseportGroups.since();
        "A socket that is in a reuseport group already cannot share another port through SO_REUSEPORT."
        "Attach the program after listen, or use a new socket.";
    ChoosingSharesNothing "choosing-shares-nothing" "net/ipv4/inet_connection_sock.c, inet_csk_find_open_port()" OLD;
        "A port that the kernel chooses is shared with nobody on that address." "";
    LastResortSparesGroups "last-resort-spares-groups" "net/ipv4/inet_connection_sock.c, inet_bind_conflict()" Change::AutobindReuse.since();
        "With ip_autobind_reuse the last resort shares through SO_REUSEADDR, but does not join a reuseport group by chance." "";
    ChosenFree "chosen-free" "net/ipv4/inet_connection_sock.c, inet_csk_find_open_port()" OLD;
        "The kernel chose a port that nobody stands against." "";
    ChosenShared "chosen-shared" "net/ipv4/inet_connection_sock.c, inet_csk_find_open_port()" OLD;
        "The kernel found no free port where it looked, and chose one that can be shared." "";
    OwnPortRange "own-port-range" "net/ipv4/inet_connection_sock.c, inet_sk_get_local_port_range()" Change::LocalPortRange.since();
        "IP_LOCAL_PORT_RANGE narrows the range for this socket; what lies outside of ip_local_port_range has no effect." "";
    VrfPorts "vrf-ports" "include/net/inet_sock.h, inet_sk_bound_l3mdev()" Change::VrfBuckets.since();
        "Sockets bound to a VRF or to one of its interfaces own ports apart from all other sockets, unless tcp_l3mdev_accept is on." "";
    NoPortLeft "no-port-left" "net/ipv4/inet_connection_sock.c, inet_csk_find_open_port()" OLD;
        "No port of the range is free on this address." "Widen ip_local_port_range, or bind another address.";
    ListenState "listen-state" "net/ipv4/af_inet.c, inet_listen()" OLD;
        "Only an unconnected socket can listen." "Use a new socket.";
    ListenAgain "listen-again" "net/ipv4/af_inet.c, __inet_listen_sk()" OLD;
        "listen on a listening socket changes only the backlog." "";
    BacklogCut "backlog-cut" "net/socket.c, __sys_listen_socket()" OLD;
        "The backlog, read as unsigned, is cut to somaxconn; before 4.1 only the lower 16 bits of that count." "";
    ListenChecksPort "listen-checks-port" "net/ipv4/inet_connection_sock.c, inet_csk_listen_start()" OLD;
        "listen checks the port again, by the options as they are now: SO_REUSEADDR, which lets two sockets bind, lets a socket listen only beside those that have it too and do not listen." "";
    FastopenQueue "fastopen-queue" "net/ipv4/af_inet.c, __inet_listen_sk()" OLD;
        "tcp_fastopen's bits 2 and 0x400 give every listener a fast-open queue as long as its backlog, without TCP_FASTOPEN; before 4.9 bits 2 and 0x800 one as long as the upper half of tcp_fastopen says." "";
    GroupJoined "group-joined" "net/core/sock_reuseport.c, reuseport_add_sock()" Change::ReuseportGroups.since();
        "The listener joined the reuseport group of its address, user and device." "";
    GroupBegun "group-begun" "net/core/sock_reuseport.c, reuseport_alloc()" Change::ReuseportGroups.since();
        "The listener began a reuseport group." "";
    GroupBusy "group-busy" "net/core/sock_reuseport.c, reuseport_add_sock()" Change::ReuseportGroups.since();
        "A socket cannot leave a reuseport group of several for another." "Use a new socket.";
    GroupFull "group-full" "net/core/sock_reuseport.c, reuseport_grow()" Change::ReuseportGroups.since();
        "A reuseport group has a largest size." "Use fewer sockets.";
    ConnectState "connect-state" "net/ipv4/af_inet.c, __inet_stream_connect()" OLD;
        "A socket that listens or is connected cannot connect." "Use a new socket.";
    ConnectFamily "connect-family" "net/ipv4/tcp_ipv4.c, tcp_v4_connect(); net/ipv6/tcp_ipv6.c, tcp_v6_connect()" OLD;
        "connect takes an address of the socket's family." "Give an address of the socket's family.";
    MappedSource "mapped-source" "net/ipv6/ip6_output.c, ip6_dst_lookup_tail()" OLD;
        "A socket bound to an IPv4-mapped address cannot connect to a true IPv6 address."
        "Bind an IPv6 address, or connect to a mapped one.";
    MappedForever "mapped-forever" "net/ipv6/tcp_ipv6.c, tcp_v6_connect()" OLD;
        "An IPv6 socket that has connected to an IPv4-mapped address sends through IPv4 ever after; a later connect to a true IPv6 address is never answered."
        "Use a new socket.";
    ForeignSource "foreign-source" "net/ipv4/route.c, ip_route_output_key_hash_rcu()" OLD;
        "A socket bound to an address that is not this host's can connect only with IP_TRANSPARENT."
        "Bind a local address.";
    NoSource "no-source" "net/ipv4/route.c, ip_route_output_key_hash_rcu()" OLD;
        "Nothing is sent from a multicast address or 255.255.255.255: a socket bound to one in its IPv4-mapped form cannot connect; an IPv4 socket forgets such an address, and connects from another."
        "Bind an address of one host.";
    ConnectUnderWay "connect-under-way" "net/ipv4/af_inet.c, __inet_stream_connect()" OLD;
        "A non-blocking connect is under way; its outcome is told by the next call." "";
    ConnectFailed "connect-failed" "net/ipv4/af_inet.c, __inet_stream_connect()" OLD;
        "The connection that an earlier connect began has failed or was ended; this call tells why, and disconnects the socket: ECONNREFUSED, ECONNRESET, ETIMEDOUT, EHOSTUNREACH, or ECONNABORTED where the reason was read already."
        "Look at why the earlier connect failed, and call again.";
    NoRoute "no-route" "net/ipv4/tcp_ipv4.c, tcp_v4_connect()" OLD;
        "There is no route to the address, or it is a multicast or broadcast one." "Add a route.";
    TupleTaken "tuple-taken" "net/ipv4/inet_hashtables.c, __inet_check_established()" OLD;
        "The same two addresses and ports are in use already, or in TIME_WAIT that may not be reused."
        "Bind another port.";
    TimeWaitReused "time-wait-reused" "net/ipv4/tcp_ipv4.c, tcp_twsk_unique()" OLD;
        "connect took over the addresses and ports of a connection in TIME_WAIT." "";
    ConnectChose "connect-chose" "net/ipv4/inet_hashtables.c, __inet_hash_connect()" OLD;
        "connect chose a port that bind does not hold and that is not in use towards this peer." "";
    ConnectNoPort "connect-no-port" "net/ipv4/inet_hashtables.c, __inet_hash_connect()" OLD;
        "No port of the range is left towards this peer." "Widen ip_local_port_range, or bind another address.";
    Refused "refused" "net/ipv4/tcp_ipv4.c, tcp_v4_rcv()" OLD;
        "Nobody listens on that address and port, so the SYN was answered by a reset." "Start the listener.";
    SynDropped "syn-dropped" "net/ipv4/tcp_input.c, tcp_conn_request()" OLD;
        "The listener's accept queue is full, so the SYN was dropped." "Accept faster, or raise the backlog.";
    SelfConnect "self-connect" "net/ipv4/tcp_input.c, tcp_rcv_synsent_state_process()" OLD;
        "A socket that connects to its own address and port meets its own SYN, and is connected to itself." "";
    NeighbourSilent "neighbour-silent" "net/core/neighbour.c, neigh_timer_handler(); net/ipv4/arp.c, arp_error_report(); net/ipv4/tcp_ipv4.c, tcp_v4_err()" OLD;
        "The address is a neighbour's, who does not answer: after three seconds connect ends with EHOSTUNREACH; where the kernel's own message of that does not reach the socket, since it is bound to a device that its address is not on, or to any for IPv6, connect goes on until ETIMEDOUT."
        "Call an address that answers.";
    SynLost "syn-lost" "net/ipv4/route.c, ip_route_output_key_hash_rcu(); net/ipv4/tcp_output.c, tcp_connect()" OLD;
        "The SYN left by a device behind which nobody answers, and is sent again until connect gives up."
        "Bind the socket to the device that has the address, or to none.";
    SynQueueFull "syn-queue-full" "net/ipv4/tcp_input.c, tcp_syn_flood_action(); include/net/inet_connection_sock.h, inet_csk_reqsk_queue_is_full()" OLD;
        "More connections are half open than the backlog says (before 6.13: as many) and tcp_syncookies is 0, so the SYN was dropped."
        "Raise the backlog, or turn tcp_syncookies on.";
    SynQueueReserved "syn-queue-reserved" "net/ipv4/tcp_input.c, tcp_conn_request()" OLD;
        "Without tcp_syncookies the last quarter of tcp_max_syn_backlog is for peers with whom a connection has ended in order before."
        "Raise tcp_max_syn_backlog, or turn tcp_syncookies on.";
    SynCookie "syn-cookie" "net/ipv4/tcp_input.c, tcp_syn_flood_action(); net/ipv4/syncookies.c, cookie_v4_check()" OLD;
        "More connections are half open than the backlog says (before 6.13: as many), or tcp_syncookies is 2: the SYN was answered by a cookie, and nothing of it is kept." "";
    AcceptDeferred "accept-deferred" "net/ipv4/tcp_minisocks.c, tcp_check_req()" OLD;
        "With TCP_DEFER_ACCEPT the handshake's last acknowledgement is ignored: the connection stays half open until data, a FIN or the end of the time." "Wait, or say something.";
    LastAckDropped "last-ack-dropped" "net/ipv4/tcp_minisocks.c, tcp_check_req(); net/ipv4/tcp_ipv4.c, tcp_v4_syn_recv_sock()" OLD;
        "The accept queue was full when the handshake's last acknowledgement came, so it was ignored; the client believes that it is connected."
        "Accept faster, or raise the backlog.";
    OverflowReset "overflow-reset" "net/ipv4/tcp_minisocks.c, tcp_check_req()" OLD;
        "The accept queue was full when the handshake's last acknowledgement came, and tcp_abort_on_overflow is on: the client was reset."
        "Accept faster, raise the backlog, or turn tcp_abort_on_overflow off.";
    RequestReset "request-reset" "net/ipv4/tcp_minisocks.c, tcp_check_req()" OLD;
        "A reset, or the SYN of another connection with the same four numbers, ended a half-open connection." "";
    RequestMigrated "request-migrated" "net/ipv4/tcp_ipv4.c, tcp_v4_rcv(); net/ipv4/inet_connection_sock.c, reqsk_timer_handler()" Change::MigrateReq.since();
        "The half-open connection of a listener that has gone was taken over by another of its group (tcp_migrate_req)." "";
    RequestForgotten "request-forgotten" "net/ipv4/tcp_ipv4.c, tcp_v4_rcv()" OLD;
        "The half-open connection's listener has gone and no other takes it over: the next segment ends it, and looks for a listener anew." "Keep the listener open, or turn tcp_migrate_req on.";
    RequestElsewhere "request-elsewhere" "net/ipv4/tcp_ipv4.c, tcp_v4_hnd_req(), tcp_v4_rcv(), until 4.3" OLD;
        "Until 4.3 a half-open connection hangs on its listener and ends with it; where another listener is found for its segments, that one answers with a reset."
        "Open all listeners of the port before the first client comes.";
    HalfOpen "half-open" "net/ipv4/tcp_input.c, tcp_validate_incoming(), tcp_rcv_synsent_state_process()" OLD;
        "A SYN reached a socket that believes in an older connection with the same four numbers; that one is reset." "";
    LookupExact "lookup-exact" "net/ipv4/inet_hashtables.c, __inet_lookup_listener()" OLD;
        "A listener on exactly this address got the connection." "";
    LookupWildcard "lookup-wildcard" "net/ipv4/inet_hashtables.c, __inet_lookup_listener()" OLD;
        "A listener on the wildcard address got the connection, since none has the exact one." "";
    LookupGroup "lookup-group" "net/core/sock_reuseport.c, reuseport_select_sock()" Change::ReuseportGroups.since();
        "The first matching SO_REUSEPORT listener ended the search; its group chose by hash." "";
    LookupEquals "lookup-equals" "net/ipv4/inet_hashtables.c, __inet_lookup_listener()" OLD;
        "Before there were groups, a pseudo-random number chose among the SO_REUSEPORT listeners of the best score." "";
    LookupProgram "lookup-program" "net/core/sock_reuseport.c, run_bpf_filter()" Change::ReuseportGroups.since();
        "The group's program chose the listener by its index." "";
    LookupCpu "lookup-cpu" "net/core/sock_reuseport.c, reuseport_select_sock_by_hash()" Change::IncomingCpuSet.since();
        "The listener whose SO_INCOMING_CPU is the processor of the SYN got the connection." "";
    Migrated "migrated" "net/core/sock_reuseport.c, reuseport_migrate_sock()" Change::MigrateReq.since();
        "The waiting connection moved to another listener of the group (tcp_migrate_req)." "";
    ReplyLost "reply-lost" "net/ipv4/inet_connection_sock.c, inet_csk_route_req(); net/ipv6/inet6_connection_sock.c, inet6_csk_route_req()" OLD;
        "The listener answers through its own device only, where the client's address is not: the client waits." "Bind the listener to the device that the client is reached by.";
    LoopbackSource "loopback-source" "net/ipv4/route.c, __mkroute_output()" OLD;
        "An address of 127.0.0.0/8 is no source for what leaves by another device." "Bind an address of the device.";
    QueueReset "queue-reset" "net/ipv4/inet_connection_sock.c, inet_csk_listen_stop()" OLD;
        "A listener that closes resets the connections that wait in its queue." "Accept them first, or turn tcp_migrate_req on.";
    LastHolder "last-holder" "net/socket.c, sock_close(); fs/file_table.c, fput()" OLD;
        "Another descriptor holds the socket, here or in another process: only the last close closes it." "";
    ProcessEnds "process-ends" "fs/file.c, close_files(); kernel/task_work.c, task_work_run()" OLD;
        "A process that ends closes its descriptors, since 4.3 from the highest number to the lowest, before from the lowest." "";
    AcceptOldest "accept-oldest" "net/ipv4/inet_connection_sock.c, inet_csk_accept()" OLD;
        "accept takes the connection that has waited longest." "";
    AcceptState "accept-state" "net/ipv4/inet_connection_sock.c, inet_csk_accept()" OLD;
        "Only a listening socket accepts." "Call listen first.";
    AcceptEmpty "accept-empty" "net/ipv4/inet_connection_sock.c, inet_csk_accept()" OLD;
        "No connection waits." "Wait for one.";
    ShutdownHow "shutdown-how" "net/ipv4/af_inet.c, inet_shutdown()" OLD;
        "shutdown takes 0, 1 or 2." "Give SHUT_RD, SHUT_WR or SHUT_RDWR.";
    ShutdownUnconnected "shutdown-unconnected" "net/ipv4/af_inet.c, inet_shutdown()" OLD;
        "shutdown on a socket that is neither connected nor listening fails, but sets its bits." "Connect first.";
    ShutdownListener "shutdown-listener" "net/ipv4/af_inet.c, inet_shutdown()" OLD;
        "shutdown of a listener's reading side ends listening; a port that was bound stays." "";
    Disconnected "disconnected" "net/ipv4/tcp.c, tcp_disconnect()" OLD;
        "The connection was ended; an address or port that the user did not bind was given back." "";
    PortKept "port-kept" "net/ipv4/tcp.c, tcp_set_state()" OLD;
        "A port that the user bound stays with the socket when its connection or listening ends." "";
    OptionForeign "option-foreign" "net/ipv4/ip_sockglue.c, ip_setsockopt(); net/ipv6/ipv6_sockglue.c, ipv6_setsockopt()" OLD;
        "An IPv6 option cannot be set on an IPv4 socket, nor an option that this kernel does not know." "Use an IPv6 socket.";
    V6OnlyTooLate "v6only-too-late" "net/ipv6/ipv6_sockglue.c, do_ipv6_setsockopt()" OLD;
        "IPV6_V6ONLY cannot be set once the socket has a port, not even to the same value." "Set it before bind.";
    NeedsCapability "needs-capability" "net/core/sock.c, sk_setsockopt(); net/ipv4/ip_sockglue.c, do_ip_setsockopt(); net/ipv6/ipv6_sockglue.c, do_ipv6_setsockopt(); net/ipv4/tcp.c, tcp_can_repair_sock()" OLD;
        "The option needs a capability over the network namespace: TCP_REPAIR CAP_NET_ADMIN, IP_TRANSPARENT and IPV6_TRANSPARENT that or CAP_NET_RAW, a device CAP_NET_RAW before 5.7." "Run with the capability.";
    RepairState "repair-state" "net/ipv4/tcp.c, tcp_can_repair_sock()" OLD;
        "TCP_REPAIR is not for a listener; before 4.10 only for a socket that is closed or established."
        "Set it before listen, or while the connection is established.";
    DeviceTaken "device-taken" "net/core/sock.c, sock_bindtoindex_locked()" Change::DeviceForEveryone.since();
        "A socket bound to a device can be moved to another only with CAP_NET_RAW." "Set the device once.";
    OptionLength "option-length" "net/core/sock.c, sk_setsockopt(); net/ipv4/ip_sockglue.c, do_ip_setsockopt(); net/ipv6/ipv6_sockglue.c, do_ipv6_setsockopt(); net/ipv4/tcp.c, do_tcp_setsockopt(), do_tcp_getsockopt()" OLD;
        "An option's value is at least as long as its type; those of IPv4 alone take one byte as well. Who reads gets as much as he has room for, but a device's name wants room for any; a negative length is refused, except by the options of IPv6." "Pass the size of the type.";
    BadValue "bad-value" "net/core/sock.c, sk_setsockopt(); net/ipv4/tcp.c, do_tcp_setsockopt()" OLD;
        "The option does not take this value in this state." "Give a value in range.";
    ProgramNeedsReuseport "program-needs-reuseport" "net/core/sock_reuseport.c, reuseport_attach_prog()" Change::GroupPrograms.since();
        "A program can be attached only to a socket with SO_REUSEPORT." "Set SO_REUSEPORT first.";
    ProgramTooLate "program-too-late" "net/core/sock_reuseport.c, reuseport_attach_prog()" Change::GroupPrograms.since();
        "A socket that listens or is connected takes a program only where it has a group already: SO_REUSEPORT that is set after listen joins none."
        "Set SO_REUSEPORT before listen.";
    NoProgram "no-program" "net/core/sock_reuseport.c, reuseport_detach_prog()" Change::DetachReuseport.since();
        "No program is attached." "";
    NoSuchSysctl "no-such-sysctl" "fs/proc/proc_sysctl.c, proc_sys_lookup(); net/ipv4/sysctl_net_ipv4.c, ipv4_net_table" OLD;
        "This kernel has no such sysctl: there is no file to write to." "Use a kernel that has it.";
    SysctlValue "sysctl-value" "kernel/sysctl.c, proc_get_long(), proc_dointvec_minmax(), proc_dou8vec_minmax(), proc_do_large_bitmap()" OLD;
        "A sysctl takes numbers within its bounds, decimal, octal or hexadecimal, with white space behind them; a list of ports has commas and dashes, and no blanks."
        "Write a number within the bounds.";
    SysctlPrivileged "sysctl-privileged" "net/ipv4/sysctl_net_ipv4.c, ipv4_local_port_range(), ipv4_privileged_ports()" Change::UnprivilegedPortStart.since();
        "ip_local_port_range begins no lower than ip_unprivileged_port_start: whichever of the two is written so that it would is refused."
        "Write the other one first.";
    NotConnected "not-connected" "net/ipv4/af_inet.c, inet_getname()" OLD;
        "The socket has no peer." "Connect first.";
}

impl core::fmt::Display for Rule {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let info = self.info();
        write!(f, "{}: {}", info.id, info.text)
    }
}
