//! Single rules, as tables and sentences; what a live kernel was asked once stands here as data.
//!
//! Decides:  what the model must answer where the random scripts do not reach: odd address arguments,
//!           privileges, programs, old releases.
//! Not here: the comparison with the running kernel (exhaustive.rs, random.rs).
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use portcullis_kernel_model::{
    Answer, Call, Caps, Change, Errno, Family, Host, Kernel, NetId, Opt, ProcessId, Program, Rule,
    SockAddr, SocketId, State, Uid, World,
};

const ROOT: ProcessId = ProcessId(0);
const PORT: u16 = 10_000;

fn world() -> World {
    World::new(Host::new(Kernel::V6_18))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn bind(text: &str) -> Call {
    Call::Bind(SockAddr::new(ip(text), PORT))
}

/// A socket with options, bound to 127.0.0.1.
fn bound(world: &mut World, options: &[Opt]) -> (SocketId, Answer) {
    let socket = world.socket(ROOT, Family::Inet);
    for &option in options {
        assert_eq!(world.call(socket, Call::Set(option)), Answer::Ok);
    }
    (socket, world.call(socket, bind("127.0.0.1")))
}

const ADDR: Opt = Opt::ReuseAddr(true);
const SHARE: Opt = Opt::ReusePort(true);

/// From the issue, seen on 6.18 with one user and nobody listening.
#[test]
fn what_a_bucket_remembers_decides_over_a_third_socket() {
    let in_use = Answer::Err(Errno::EADDRINUSE);
    let rows: [(&str, [&[Opt]; 3], bool, Answer); 3] = [
        (
            "reuseaddr; both; reuseport",
            [&[ADDR], &[ADDR, SHARE], &[SHARE]],
            false,
            Answer::Ok,
        ),
        (
            "both; reuseaddr; reuseport",
            [&[ADDR, SHARE], &[ADDR], &[SHARE]],
            false,
            in_use,
        ),
        (
            "the second closes before",
            [&[ADDR], &[ADDR, SHARE], &[SHARE]],
            true,
            Answer::Ok,
        ),
    ];
    for (label, options, close_second, expected) in rows {
        let mut world = world();
        assert_eq!(bound(&mut world, options[0]).1, Answer::Ok, "{label}");
        let (second, answer) = bound(&mut world, options[1]);
        assert_eq!(answer, Answer::Ok, "{label}");
        if close_second {
            world.call(second, Call::Close);
        }
        assert_eq!(bound(&mut world, options[2]).1, expected, "{label}");
    }
}

/// Each row was asked of 6.18.44: call, socket, family field, length, address, answer.
#[test]
fn odd_address_arguments_are_answered_as_the_kernel_does() {
    use Errno::*;
    use Family::{Inet, Inet6};
    let (lo4, any4, lo6, any6) = ("127.0.0.1", "0.0.0.0", "::1", "::");
    let fine: Result<(), Errno> = Ok(());
    type Row = (Family, u16, i32, &'static str, Result<(), Errno>);
    let rows: &[Row] = &[
        (Inet, 2, 0, lo4, Err(EINVAL)),
        (Inet, 2, 2, lo4, Err(EINVAL)),
        (Inet, 2, 15, lo4, Err(EINVAL)),
        (Inet, 2, 16, lo4, fine),
        (Inet, 2, 28, lo4, fine),
        (Inet, 2, 128, lo4, fine),
        (Inet, 2, 129, lo4, Err(EINVAL)),
        (Inet, 2, -1, lo4, Err(EINVAL)),
        (Inet, 0, 16, any4, fine),
        (Inet, 0, 16, lo4, Err(EAFNOSUPPORT)),
        (Inet, 1, 16, any4, Err(EAFNOSUPPORT)),
        (Inet, 10, 28, lo6, Err(EAFNOSUPPORT)),
        (Inet, 0, 28, lo6, fine),
        (Inet6, 10, 0, lo6, Err(EINVAL)),
        (Inet6, 10, 16, lo6, Err(EINVAL)),
        (Inet6, 10, 23, lo6, Err(EINVAL)),
        (Inet6, 10, 24, lo6, fine),
        (Inet6, 10, 27, lo6, fine),
        (Inet6, 10, 128, lo6, fine),
        (Inet6, 10, 129, lo6, Err(EINVAL)),
        (Inet6, 2, 16, lo4, Err(EINVAL)),
        (Inet6, 2, 28, lo4, Err(EAFNOSUPPORT)),
        (Inet6, 0, 28, any6, Err(EAFNOSUPPORT)),
        (Inet6, 10, 28, "ff02::1", Err(EINVAL)),
    ];
    for &row in rows {
        let (family, field, len, text, expected) = row;
        let addr = SockAddr {
            family: field,
            len,
            ..SockAddr::new(ip(text), PORT)
        };
        let mut world = world();
        let socket = world.socket(ROOT, family);
        assert_eq!(
            world.call(socket, Call::Bind(addr)),
            expected.into(),
            "{row:?}"
        );
    }
    // A scope counts only where the length covers it.
    for (len, expected) in [(28, EADDRNOTAVAIL), (24, EINVAL)] {
        let addr = SockAddr {
            len,
            scope: 1,
            ..SockAddr::new(ip("fe80::1"), PORT)
        };
        let mut world = world();
        let socket = world.socket(ROOT, Inet6);
        assert_eq!(
            world.call(socket, Call::Bind(addr)),
            Answer::Err(expected),
            "{len}"
        );
    }
}

#[test]
fn odd_address_arguments_of_connect_are_answered_as_the_kernel_does() {
    use Errno::*;
    use Family::{Inet, Inet6};
    let begun = Answer::Err(EINPROGRESS);
    type Row = (Family, u16, i32, &'static str, Answer);
    let rows: &[Row] = &[
        (Inet, 2, 1, "127.0.0.1", Answer::Err(EINVAL)),
        (Inet, 2, 15, "127.0.0.1", Answer::Err(EINVAL)),
        (Inet, 2, 16, "127.0.0.1", begun),
        (Inet, 2, 128, "127.0.0.1", begun),
        (Inet, 2, 129, "127.0.0.1", Answer::Err(EINVAL)),
        (Inet, 0, 1, "127.0.0.1", Answer::Err(EINVAL)),
        (Inet, 0, 2, "127.0.0.1", Answer::Ok),
        (Inet6, 10, 23, "::1", Answer::Err(EINVAL)),
        (Inet6, 10, 24, "::1", begun),
        (Inet6, 10, -1, "::1", Answer::Err(EINVAL)),
        (Inet6, 2, 16, "127.0.0.1", Answer::Err(EINVAL)),
        (Inet6, 2, 28, "127.0.0.1", Answer::Err(EAFNOSUPPORT)),
        (Inet, 10, 28, "::1", Answer::Err(EAFNOSUPPORT)),
        (Inet6, 10, 28, "ff02::1", Answer::Err(ENETUNREACH)),
        (Inet6, 10, 28, "fe80::1", Answer::Err(EINVAL)),
    ];
    for &row in rows {
        let (family, field, len, text, expected) = row;
        let addr = SockAddr {
            family: field,
            len,
            ..SockAddr::new(ip(text), PORT)
        };
        let mut world = world();
        let socket = world.socket(ROOT, family);
        world.call(socket, Call::SetNonblocking(true));
        assert_eq!(world.call(socket, Call::Connect(addr)), expected, "{row:?}");
    }
}

#[test]
fn a_privileged_port_needs_the_capability_over_the_namespace() {
    let mut host = Host::new(Kernel::V6_18);
    let user = host.add_process(Uid(1000), Caps::NONE);
    let service = Caps {
        net_bind_service: true,
        ..Caps::NONE
    };
    let helper = host.add_process(Uid(1000), service);
    let mut world = World::new(host);
    let web = Call::Bind(SockAddr::new(ip("0.0.0.0"), 443));
    let socket = world.socket(user, Family::Inet);
    let (answer, why) = world.explain(user, socket, web);
    assert_eq!(answer, Answer::Err(Errno::EACCES));
    assert_eq!(why.decided_by(), Some(Rule::PrivilegedPort));
    assert_eq!(world.call_as(helper, socket, web), Answer::Ok);
    world.host_mut().namespaces[0]
        .sysctls
        .ip_unprivileged_port_start = 443;
    let other = world.socket(user, Family::Inet6);
    let web6 = Call::Bind(SockAddr::new(ip("::1"), 443));
    assert_eq!(world.call_as(user, other, web6), Answer::Ok);
}

#[test]
fn a_program_names_members_by_index_and_a_close_moves_the_last_into_the_gap() {
    let mut world = world();
    let sockets: Vec<SocketId> = (0..4)
        .map(|_| {
            let (socket, answer) = bound(&mut world, &[SHARE]);
            assert_eq!(answer, Answer::Ok);
            assert_eq!(world.call(socket, Call::Listen(5)), Answer::Ok);
            socket
        })
        .collect();
    let program = Call::Set(Opt::ReuseportCbpf(Program::Index(1)));
    assert_eq!(world.call(sockets[0], program), Answer::Ok);
    let who = |world: &mut World| {
        let client = world.socket(ROOT, Family::Inet);
        world.call(client, Call::Set(Opt::Linger(Some(0))));
        let to = Call::Connect(SockAddr::new(ip("127.0.0.1"), PORT));
        assert_eq!(world.call(client, to), Answer::Ok);
        let got = sockets
            .iter()
            .position(|&socket| world.queue_len(socket) > 0)
            .unwrap();
        let Answer::Accepted(child) = world.call(sockets[got], Call::Accept) else {
            panic!()
        };
        world.call(child, Call::Close);
        got
    };
    assert_eq!(who(&mut world), 1);
    world.call(sockets[1], Call::Close);
    assert_eq!(
        who(&mut world),
        3,
        "the last member took the place of the one that closed"
    );
}

#[test]
fn an_exact_listener_wins_over_a_wildcard_one_and_a_device_over_none() {
    let mut world = world();
    let listen = |world: &mut World, text: &str, device: u32| {
        let socket = world.socket(ROOT, Family::Inet);
        world.call(socket, Call::Set(ADDR));
        world.call(socket, Call::Set(SHARE));
        assert_eq!(
            world.call(socket, Call::Set(Opt::BindToDevice(device))),
            Answer::Ok
        );
        assert_eq!(world.call(socket, bind(text)), Answer::Ok);
        assert_eq!(world.call(socket, Call::Listen(1)), Answer::Ok);
        socket
    };
    let wildcard = listen(&mut world, "0.0.0.0", 0);
    let find = |world: &World| world.listeners_for(NetId(0), ip("127.0.0.1"), PORT, 1);
    assert_eq!(find(&world), [wildcard]);
    let device = listen(&mut world, "0.0.0.0", 1);
    assert_eq!(
        find(&world),
        [device],
        "the later reuseport listener ends the search"
    );
    let exact = listen(&mut world, "127.0.0.1", 0);
    assert_eq!(find(&world), [exact]);
    world.call(exact, Call::Close);
    world.call(device, Call::Shutdown(0));
    assert_eq!(find(&world), [wildcard]);
}

#[test]
fn before_5_0_the_highest_score_wins_over_all_addresses() {
    let mut old = World::new(Host::new(Kernel::new(4, 19)));
    let device = old.socket(ROOT, Family::Inet);
    old.call(device, Call::Set(Opt::BindToDevice(1)));
    assert_eq!(old.call(device, bind("0.0.0.0")), Answer::Ok);
    old.call(device, Call::Listen(1));
    let found = old.listeners_for(NetId(0), ip("127.0.0.1"), PORT, 1);
    assert_eq!(found, [device]);
    assert!(
        old.listeners_for(NetId(0), ip("127.0.0.1"), PORT, 2)
            .is_empty()
    );
}

/// `fastreuse` is not set any more since 6.8: an owner that took SO_REUSEADDR back counts again.
#[test]
fn until_6_8_the_bucket_remembers_reuseaddr_that_was_taken_back() {
    for (kernel, expected) in [
        (Kernel::new(6, 7), Answer::Ok),
        (Kernel::new(6, 8), Answer::Err(Errno::EADDRINUSE)),
        (Kernel::V6_18, Answer::Err(Errno::EADDRINUSE)),
    ] {
        let mut world = World::new(Host::new(kernel));
        let (first, _) = bound(&mut world, &[ADDR]);
        world.call(first, Call::Set(Opt::ReuseAddr(false)));
        assert_eq!(bound(&mut world, &[ADDR]).1, expected, "{kernel}");
    }
}

#[test]
fn until_6_8_a_listener_makes_the_bucket_forget_reuseaddr() {
    let mut world = World::new(Host::new(Kernel::new(6, 7)));
    let (first, _) = bound(&mut world, &[ADDR]);
    assert_eq!(world.call(first, Call::Listen(1)), Answer::Ok);
    assert_eq!(bound(&mut world, &[ADDR]).1, Answer::Err(Errno::EADDRINUSE));
}

#[test]
fn a_told_draw_gives_the_kernels_exact_port_and_the_set_holds_it() {
    for kernel in [
        Kernel::new(3, 10),
        Kernel::new(4, 4),
        Kernel::new(5, 10),
        Kernel::V6_18,
    ] {
        let mut world = World::new(Host::new(kernel));
        let socket = world.socket(ROOT, Family::Inet);
        let permitted = world.permitted_ports(socket);
        world.tell_draw(100);
        let any = Call::Bind(SockAddr::new(ip("127.0.0.1"), 0));
        assert_eq!(world.call(socket, any), Answer::Ok);
        let expected = if kernel.has(Change::OddEvenBind) {
            32768 + 101
        } else {
            32768 + 100
        };
        assert_eq!(world.port(socket), expected, "{kernel}");
        assert!(permitted.contains(&expected), "{kernel}");
    }
}

#[test]
fn time_wait_holds_the_port_for_a_minute_and_reuseaddr_passes_it() {
    let mut world = world();
    let (listener, _) = bound(&mut world, &[ADDR]);
    world.call(listener, Call::Listen(5));
    let client = world.socket(ROOT, Family::Inet);
    let to = Call::Connect(SockAddr::new(ip("127.0.0.1"), PORT));
    assert_eq!(world.call(client, to), Answer::Ok);
    let Answer::Accepted(child) = world.call(listener, Call::Accept) else {
        panic!()
    };
    assert_eq!(world.state(child), Some(State::Established));
    for socket in [child, client, listener] {
        world.call(socket, Call::Close);
    }
    assert_eq!(world.owners_of_port(NetId(0), PORT), 1);
    assert_eq!(bound(&mut world, &[]).1, Answer::Err(Errno::EADDRINUSE));
    let (again, answer) = bound(&mut world, &[ADDR]);
    assert_eq!(answer, Answer::Ok);
    assert_eq!(world.call(again, Call::Listen(5)), Answer::Ok);
    world.call(again, Call::Close);
    world.pass_time(60_000);
    assert_eq!(world.owners_of_port(NetId(0), PORT), 0);
    assert_eq!(bound(&mut world, &[]).1, Answer::Ok);
}

#[test]
fn the_last_holder_closes_and_an_old_name_stays_closed() {
    let mut world = world();
    let (first, _) = bound(&mut world, &[]);
    world.call(first, Call::Dup);
    world.call(first, Call::Close);
    assert_eq!(bound(&mut world, &[]).1, Answer::Err(Errno::EADDRINUSE));
    world.call(first, Call::Close);
    let (second, answer) = bound(&mut world, &[]);
    assert_eq!(answer, Answer::Ok);
    assert_eq!(
        world.call(first, Call::Listen(1)),
        Answer::Err(Errno::EBADF)
    );
    assert_eq!(world.call(second, Call::Listen(1)), Answer::Ok);
}

#[test]
fn every_rule_has_its_own_name_and_a_place_in_the_kernel() {
    let mut names: Vec<&str> = Rule::ALL.iter().map(|rule| rule.info().id).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Rule::ALL.len());
    for rule in Rule::ALL {
        let info = rule.info();
        assert!(info.text.ends_with('.'), "{}", info.id);
        assert!(info.kernel.contains("()"), "{}", info.id);
    }
    assert!(
        Change::ALL
            .iter()
            .all(|change| change.since() >= Kernel::OLDEST)
    );
}

/// Asked of 6.18.44: the connection is refused, though the IPv4 fields of such a listener say
/// 127.0.0.6.
#[test]
fn an_ipv6_listener_is_not_met_under_the_ipv4_address_that_its_fields_carry() {
    let mut world = world();
    let socket = world.socket(ROOT, Family::Inet6);
    world.call(socket, Call::Set(Opt::BindAddressNoPort(true)));
    let any_port = Call::Bind(SockAddr::new(ip("::1"), 0));
    assert_eq!(world.call(socket, any_port), Answer::Ok);
    assert_eq!(
        world.call(socket, Call::Set(Opt::V6Only(false))),
        Answer::Ok
    );
    assert_eq!(world.call(socket, Call::Listen(5)), Answer::Ok);
    let port = world.port(socket);
    let found = |text| world.listeners_for(NetId(0), ip(text), port, 1);
    assert_eq!(found("::1"), [socket]);
    assert!(found("127.0.0.6").is_empty());
}

#[test]
fn a_backlog_of_just_somaxconn_is_not_cut() {
    for (backlog, cut) in [(4095, false), (4096, false), (4097, true), (-1, true)] {
        let mut world = world();
        let (socket, _) = bound(&mut world, &[]);
        let (answer, explanation) = world.explain(ROOT, socket, Call::Listen(backlog));
        assert_eq!(answer, Answer::Ok);
        let named = |step: &(Rule, Option<SocketId>)| step.0 == Rule::BacklogCut;
        assert_eq!(explanation.steps.iter().any(named), cut, "{backlog}");
    }
}
