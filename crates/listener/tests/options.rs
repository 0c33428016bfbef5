//! Does each option change what it should on this kernel?
//!
//! Decides:  nothing; read back with getsockopt, and shown by behaviour where it has one here.
//! Not here: refusals (refusals.rs), Unix sockets, inherited ones, shards (files of their own).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use portcullis_listener::spec::{FastOpenQueue, Foreign, Ipv6Only};
use portcullis_listener::{Cause, Flags, Listener, ListenerSpec, Opened, Step, open, open_with};
use portcullis_sockopt::{self as sockopt, SockOpt};
use portcullis_sys::sockopt as sys;
use portcullis_testkit::{private_network, set_sysctl, wait_for};
use rustix::fs::OFlags;
use rustix::io::FdFlags;

const SOON: Duration = Duration::from_secs(5);

fn v4(change: impl FnOnce(&mut ListenerSpec)) -> ListenerSpec {
    at("127.0.0.1:0", change)
}

fn at(address: &str, change: impl FnOnce(&mut ListenerSpec)) -> ListenerSpec {
    let mut spec = ListenerSpec::tcp(address.parse().unwrap());
    change(&mut spec);
    spec
}

/// Opens without a word of complaint.
#[track_caller]
fn opened(spec: &ListenerSpec) -> Listener {
    let mut opened = open(spec).unwrap();
    assert_eq!(opened.reports, []);
    assert_eq!(opened.listeners.len(), 1);
    opened.listeners.remove(0)
}

#[track_caller]
fn int(socket: impl AsFd, option: &SockOpt) -> i32 {
    sys::get_int(socket, option.level.number(), option.number).unwrap()
}

/// A client and the connection that the listener made of it.
fn connected(listener: Listener) -> (TcpStream, TcpStream) {
    let listener = TcpListener::try_from(listener).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    listener.set_nonblocking(false).unwrap();
    (client, listener.accept().unwrap().0)
}

#[test]
fn the_options_crate_has_the_numbers_of_this_system() {
    use libc::*;
    let numbers: &[(&SockOpt, i32)] = &[
        (&sockopt::SO_ACCEPTCONN, SO_ACCEPTCONN),
        (&sockopt::SO_ATTACH_REUSEPORT_CBPF, SO_ATTACH_REUSEPORT_CBPF),
        (&sockopt::SO_BINDTODEVICE, SO_BINDTODEVICE),
        (&sockopt::SO_COOKIE, SO_COOKIE),
        (&sockopt::SO_DOMAIN, SO_DOMAIN),
        (&sockopt::SO_ERROR, SO_ERROR),
        (&sockopt::SO_INCOMING_CPU, SO_INCOMING_CPU),
        (&sockopt::SO_KEEPALIVE, SO_KEEPALIVE),
        (&sockopt::SO_LINGER, SO_LINGER),
        (&sockopt::SO_MARK, SO_MARK),
        (&sockopt::SO_NETNS_COOKIE, 71),
        (&sockopt::SO_PRIORITY, SO_PRIORITY),
        (&sockopt::SO_PROTOCOL, SO_PROTOCOL),
        (&sockopt::SO_RCVBUF, SO_RCVBUF),
        (&sockopt::SO_REUSEADDR, SO_REUSEADDR),
        (&sockopt::SO_REUSEPORT, SO_REUSEPORT),
        (&sockopt::SO_SNDBUF, SO_SNDBUF),
        (&sockopt::SO_TYPE, SO_TYPE),
        (&sockopt::IP_BIND_ADDRESS_NO_PORT, IP_BIND_ADDRESS_NO_PORT),
        (&sockopt::IP_FREEBIND, IP_FREEBIND),
        (&sockopt::IP_LOCAL_PORT_RANGE, 51),
        (&sockopt::IP_TOS, IP_TOS),
        (&sockopt::IP_TRANSPARENT, IP_TRANSPARENT),
        (&sockopt::IPV6_FREEBIND, IPV6_FREEBIND),
        (&sockopt::IPV6_TCLASS, IPV6_TCLASS),
        (&sockopt::IPV6_TRANSPARENT, IPV6_TRANSPARENT),
        (&sockopt::IPV6_V6ONLY, IPV6_V6ONLY),
        (&sockopt::TCP_CONGESTION, TCP_CONGESTION),
        (&sockopt::TCP_DEFER_ACCEPT, TCP_DEFER_ACCEPT),
        (&sockopt::TCP_FASTOPEN, TCP_FASTOPEN),
        (&sockopt::TCP_FASTOPEN_CONNECT, TCP_FASTOPEN_CONNECT),
        (&sockopt::TCP_INFO, TCP_INFO),
        (&sockopt::TCP_KEEPCNT, TCP_KEEPCNT),
        (&sockopt::TCP_KEEPIDLE, TCP_KEEPIDLE),
        (&sockopt::TCP_KEEPINTVL, TCP_KEEPINTVL),
        (&sockopt::TCP_MAXSEG, TCP_MAXSEG),
        (&sockopt::TCP_MD5SIG, TCP_MD5SIG),
        (&sockopt::TCP_MD5SIG_EXT, 32),
        (&sockopt::TCP_NODELAY, TCP_NODELAY),
        (&sockopt::TCP_NOTSENT_LOWAT, TCP_NOTSENT_LOWAT),
        (&sockopt::TCP_QUICKACK, TCP_QUICKACK),
        (&sockopt::TCP_SAVE_SYN, TCP_SAVE_SYN),
        (&sockopt::TCP_USER_TIMEOUT, TCP_USER_TIMEOUT),
    ];
    for (option, number) in numbers {
        assert_eq!(option.number, *number, "{}", option.name);
    }
    assert_eq!(numbers.len(), sockopt::all().len());
    let levels = [
        (sockopt::Level::Socket, SOL_SOCKET),
        (sockopt::Level::Ip, IPPROTO_IP),
        (sockopt::Level::Ipv6, IPPROTO_IPV6),
        (sockopt::Level::Tcp, IPPROTO_TCP),
    ];
    for (level, number) in levels {
        assert_eq!(level.number(), number, "{}", level.name());
    }
}

#[test]
fn a_listener_listens_and_is_non_blocking_and_close_on_exec() {
    let listener = opened(&v4(|_| ()));
    assert_eq!(int(&listener, &sockopt::SO_ACCEPTCONN), 1);
    let status = rustix::fs::fcntl_getfl(&listener).unwrap();
    assert!(status.contains(OFlags::NONBLOCK));
    let flags = rustix::io::fcntl_getfd(&listener).unwrap();
    assert!(flags.contains(FdFlags::CLOEXEC));
    let std = TcpListener::try_from(listener).unwrap();
    assert_eq!(std.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn reuseaddr_and_reuseport_are_on_unless_turned_off() {
    let listener = opened(&v4(|_| ()));
    assert_eq!(int(&listener, &sockopt::SO_REUSEADDR), 1);
    assert_eq!(int(&listener, &sockopt::SO_REUSEPORT), 1);
    let listener = opened(&v4(|s| {
        s.reuse_addr = false;
        s.reuse_port = false;
    }));
    assert_eq!(int(&listener, &sockopt::SO_REUSEADDR), 0);
    assert_eq!(int(&listener, &sockopt::SO_REUSEPORT), 0);
}

#[test]
fn nolinger_makes_a_close_reset_the_connection() {
    let listener = opened(&v4(|s| s.no_linger = true));
    assert_eq!(sys::linger(&listener), Ok(Some(0)));
    let (mut client, server) = connected(listener);
    drop(server);
    let read = std::io::Read::read(&mut client, &mut [0; 1]);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn transparent_opens_a_foreign_address_of_both_families() {
    private_network(|| {
        for (address, option) in [
            ("192.0.2.1:80", &sockopt::IP_TRANSPARENT),
            ("[2001:db8::1]:80", &sockopt::IPV6_TRANSPARENT),
        ] {
            let plain = open(&at(address, |_| ())).unwrap_err();
            assert_eq!(
                (plain.step(), plain.errno()),
                (Step::Bind, Some(libc::EADDRNOTAVAIL))
            );
            let listener = opened(&at(address, |s| s.foreign = Some(Foreign::Transparent)));
            assert_eq!(int(&listener, option), 1);
        }
    });
}

#[test]
fn freebind_opens_a_foreign_address_without_privilege() {
    for (address, option) in [
        ("192.0.2.1:0", &sockopt::IP_FREEBIND),
        ("[2001:db8::1]:0", &sockopt::IPV6_FREEBIND),
    ] {
        let listener = opened(&at(address, |s| s.foreign = Some(Foreign::Freebind)));
        assert_eq!(int(&listener, option), 1);
    }
}

#[test]
fn an_interface_is_bound_and_a_missing_one_leaves_nothing_open() {
    private_network(|| {
        let listener = opened(&at("0.0.0.0:80", |s| s.interface = Some("lo".to_owned())));
        assert_eq!(sys::device(&listener).unwrap(), "lo");
        for name in ["nosuch0", "", "a-name-longer-than-the-kernel-has"] {
            let spec = at("0.0.0.0:81", |s| s.interface = Some(name.to_owned()));
            let error = open(&spec).unwrap_err();
            assert_eq!(error.step(), Step::Interface);
            assert_eq!(error.errno(), Some(libc::ENODEV), "{name}");
            assert!(error.flags().contains(Flags::FATAL | Flags::ALERT));
            let nobody = TcpStream::connect("127.0.0.1:81").unwrap_err();
            assert_eq!(nobody.kind(), ErrorKind::ConnectionRefused);
        }
    });
}

#[test]
fn the_mss_is_what_the_client_is_told() {
    let listener = opened(&v4(|s| s.mss = Some(1000)));
    assert_eq!(int(&listener, &sockopt::TCP_MAXSEG), 1000);
    let (client, _server) = connected(listener);
    assert!(int(&client, &sockopt::TCP_MAXSEG) <= 1000);
}

#[test]
fn an_mss_outside_the_kernels_range_is_a_warning_and_a_negative_one_is_for_connections() {
    for mss in [1, 87, 32_768] {
        let opened = open(&v4(|s| s.mss = Some(mss))).unwrap();
        assert_eq!(opened.reports[0].step, Step::Mss, "{mss}");
        assert_eq!(opened.reports[0].cause, Cause::Errno(libc::EINVAL), "{mss}");
        assert_eq!(opened.flags(), Flags::WARN);
    }
    opened(&v4(|s| s.mss = Some(-100)));
}

#[test]
fn a_deferred_connection_is_accepted_when_its_data_comes() {
    let listener = opened(&v4(|s| s.defer_accept = Some(Duration::from_secs(30))));
    assert!(int(&listener, &sockopt::TCP_DEFER_ACCEPT) >= 30);
    let listener = TcpListener::try_from(listener).unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    client.write_all(b"x").unwrap();
    wait_for("the connection with data", SOON, || {
        listener.accept().is_ok()
    });
}

#[test]
fn one_second_of_deferring_is_one_second() {
    let listener = opened(&v4(|s| s.defer_accept = Some(Duration::from_millis(1))));
    assert_eq!(int(&listener, &sockopt::TCP_DEFER_ACCEPT), 1);
}

#[test]
fn the_fast_open_queue_follows_the_backlog_and_an_idle_sysctl_is_a_warning() {
    private_network(|| {
        set_sysctl("net.ipv4.tcp_fastopen", "3");
        let queue = |spec: &ListenerSpec| int(opened(spec), &sockopt::TCP_FASTOPEN);
        let with = |change: fn(&mut ListenerSpec)| {
            v4(|s| {
                s.fast_open = Some(FastOpenQueue::Backlog);
                s.maxconn = 50;
                change(s);
            })
        };
        assert_eq!(queue(&with(|_| ())), 50);
        assert_eq!(queue(&with(|s| s.backlog = Some(70))), 70);
        assert_eq!(
            queue(&with(|s| s.fast_open = Some(FastOpenQueue::Length(9)))),
            9
        );

        set_sysctl("net.ipv4.tcp_fastopen", "1");
        let opened = open(&with(|_| ())).unwrap();
        let [report] = opened.reports.as_slice() else {
            panic!("{:?}", opened.reports)
        };
        assert_eq!((report.step, report.flags), (Step::FastOpen, Flags::WARN));
        let text = report.to_string();
        assert!(text.contains("net.ipv4.tcp_fastopen is 1"), "{text}");
    });
}

#[test]
fn v6only_refuses_ipv4_and_v4v6_takes_it_whatever_the_sysctl_says() {
    private_network(|| {
        for bindv6only in ["0", "1"] {
            set_sysctl("net.ipv6.bindv6only", bindv6only);
            let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
            let only = opened(&at("[::]:80", |s| s.ipv6_only = Some(Ipv6Only::On)));
            assert_eq!(int(&only, &sockopt::IPV6_V6ONLY), 1);
            assert!(TcpStream::connect("[::1]:80").is_ok());
            assert_eq!(
                TcpStream::connect(v4).unwrap_err().kind(),
                ErrorKind::ConnectionRefused
            );
            drop(only);
            let both = opened(&at("[::]:80", |s| s.ipv6_only = Some(Ipv6Only::Off)));
            assert_eq!(int(&both, &sockopt::IPV6_V6ONLY), 0);
            assert!(TcpStream::connect(v4).is_ok());
            drop(both);
            let unset = opened(&at("[::]:80", |_| ()));
            assert_eq!(int(&unset, &sockopt::IPV6_V6ONLY).to_string(), bindv6only);
        }
    });
}

#[test]
fn v6only_on_an_ipv4_socket_is_a_note() {
    let opened = open(&v4(|s| s.ipv6_only = Some(Ipv6Only::On))).unwrap();
    assert_eq!(opened.reports[0].step, Step::Ipv6Only);
    assert!(opened.flags().is_empty());
}

#[test]
fn connections_inherit_nodelay_user_timeout_and_congestion_control() {
    let listener = opened(&v4(|s| {
        s.no_delay = true;
        s.user_timeout = Some(Duration::from_millis(7_500));
        s.congestion_control = Some("reno".to_owned());
    }));
    assert_eq!(int(&listener, &sockopt::TCP_USER_TIMEOUT), 7_500);
    let (_client, server) = connected(listener);
    assert_eq!(int(&server, &sockopt::TCP_USER_TIMEOUT), 7_500);
    assert_eq!(int(&server, &sockopt::TCP_NODELAY), 1);
    assert_eq!(sys::congestion(&server).unwrap(), "reno");
}

#[test]
fn an_unknown_congestion_control_is_a_warning_and_an_error_when_strict() {
    let spec = |strict| {
        v4(|s| {
            s.congestion_control = Some("nosuch".to_owned());
            s.strict = strict;
        })
    };
    let opened = open(&spec(false)).unwrap();
    assert_eq!(opened.reports[0].cause, Cause::Errno(libc::ENOENT));
    let error = open(&spec(true)).unwrap_err();
    assert_eq!(
        (error.step(), error.errno()),
        (Step::Congestion, Some(libc::ENOENT))
    );
}

#[test]
fn noquickack_turns_quick_acknowledgements_off() {
    assert_eq!(int(opened(&v4(|_| ())), &sockopt::TCP_QUICKACK), 1);
    let listener = opened(&v4(|s| s.no_quick_ack = true));
    assert_eq!(int(&listener, &sockopt::TCP_QUICKACK), 0);
}

#[test]
fn the_incoming_cpu_is_set() {
    let listener = opened(&v4(|s| s.incoming_cpus = vec![1]));
    assert_eq!(int(&listener, &sockopt::SO_INCOMING_CPU), 1);
}

#[test]
fn the_backlog_is_given_or_maxconn_and_a_cut_one_is_noted() {
    private_network(|| {
        set_sysctl("net.core.somaxconn", "100");
        let limit = |opened: &Opened| {
            sys::accept_queue(&opened.listeners[0])
                .unwrap()
                .unwrap()
                .limit
        };
        let small = open(&v4(|s| {
            s.backlog = Some(5);
            s.maxconn = 50;
        }));
        assert_eq!(limit(&small.unwrap()), 5);
        let default = open(&v4(|s| s.maxconn = 50)).unwrap();
        assert_eq!((limit(&default), default.reports.as_slice()), (50, &[][..]));
        for large in [101, u32::MAX] {
            let cut = open(&v4(|s| s.backlog = Some(large))).unwrap();
            assert_eq!(limit(&cut), 100);
            let wanted = Cause::BacklogCut {
                asked: large,
                limit: 100,
            };
            assert_eq!(cut.reports[0].cause, wanted);
            assert!(cut.flags().is_empty());
        }
    });
}

#[test]
fn multipath_tcp_listens_and_takes_plain_clients() {
    private_network(|| {
        set_sysctl("net.mptcp.enabled", "1");
        let listener = opened(&ListenerSpec::mptcp("127.0.0.1:80".parse().unwrap()));
        assert_eq!(int(&listener, &sockopt::SO_PROTOCOL), 262);
        let (_client, server) = connected(listener);
        assert_eq!(server.local_addr().unwrap().port(), 80);

        set_sysctl("net.mptcp.enabled", "0");
        let error = open(&ListenerSpec::mptcp("127.0.0.1:81".parse().unwrap())).unwrap_err();
        assert_eq!(error.step(), Step::Create);
    });
}

#[test]
fn a_descriptor_beyond_the_limit_stops_everything() {
    let mut context = portcullis_listener::OpenContext::default();
    context.max_descriptor = Some(3);
    let error = open_with(&v4(|_| ()), &context).unwrap_err();
    assert_eq!(error.step(), Step::DescriptorLimit);
    assert!(
        error
            .flags()
            .contains(Flags::FATAL | Flags::ABORT | Flags::ALERT)
    );
    assert!(
        error
            .to_string()
            .starts_with("not enough free sockets [127.0.0.1:0]: ")
    );
}

#[test]
fn a_privileged_port_is_refused_to_an_ordinary_user_with_a_way_out() {
    private_network(|| {
        // Root of this namespace may; above its threshold everybody may.
        opened(&at("127.0.0.1:80", |_| ()));
        let capabilities = rustix::thread::CapabilitySets {
            effective: rustix::thread::CapabilitySet::empty(),
            permitted: rustix::thread::CapabilitySet::empty(),
            inheritable: rustix::thread::CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, capabilities).unwrap();
        let error = open(&at("127.0.0.1:80", |_| ())).unwrap_err();
        assert_eq!(
            (error.step(), error.errno()),
            (Step::Bind, Some(libc::EACCES))
        );
        assert_eq!(error.hints(), [portcullis_listener::Hint::PrivilegedPort]);
        opened(&at("127.0.0.1:8080", |_| ()));
    });
}
