//! Which ports may be chosen: the model's set beside what the live kernel draws.
//!
//! Decides:  for every small range and every set of held ports, that what the kernel draws lies in the
//!           model's set, and that all of the set is drawn in the end, failures included.
//! Not here: longer histories (the conformance crate).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod live;

use std::collections::BTreeSet;
use std::net::IpAddr;

use live::Live;
use live::both::fresh_world;
use portcullis_kernel_model::{
    Answer, Call, Errno, Family, Host, Kernel, Opt, PortChoice, ProcessId, SockAddr, SocketId,
    World,
};
use portcullis_testkit::{private_network, set_sysctl};

const ROOT: ProcessId = ProcessId(0);
const LOW: u16 = 40_000;
const WIDTH_MAX: u16 = 6;
/// A fair draw of the rarest of some six outcomes is missed so often once in 10^27 times.
const DRAWS_MAX: u16 = 400;
/// Where nobody listens: connect is refused, and its port is free again.
const CLOSED: u16 = 2000;

fn loopback(port: u16) -> SockAddr {
    SockAddr::new(IpAddr::from([127, 0, 0, 1]), port)
}

/// A way to leave the choice to the kernel: options before it, and the call.
struct Way {
    name: &'static str,
    before: &'static [fn() -> Call],
    call: fn(u16) -> Call,
}

const WAYS: &[Way] = &[
    Way {
        name: "bind to an address",
        before: &[],
        call: |_| Call::Bind(loopback(0)),
    },
    Way {
        name: "bind to the wildcard",
        before: &[],
        call: |_| Call::Bind(SockAddr::new(IpAddr::from([0; 4]), 0)),
    },
    Way {
        name: "bind with SO_REUSEADDR",
        before: &[|| Call::Set(Opt::ReuseAddr(true))],
        call: |_| Call::Bind(loopback(0)),
    },
    Way {
        name: "listen",
        before: &[],
        call: |_| Call::Listen(1),
    },
    Way {
        name: "connect",
        before: &[],
        call: |draw| Call::Connect(loopback(CLOSED + draw)),
    },
    Way {
        name: "connect in a range of its own",
        before: &[|| Call::Set(Opt::LocalPortRange(u32::from(LOW)))],
        call: |draw| Call::Connect(loopback(CLOSED + draw)),
    },
    Way {
        name: "connect from a bound address",
        before: &[
            || Call::Set(Opt::BindAddressNoPort(true)),
            || Call::Bind(SockAddr::new(IpAddr::from([127, 0, 0, 9]), 0)),
        ],
        call: |draw| Call::Connect(loopback(CLOSED + draw)),
    },
];

/// Holds the ports of a mask, in both worlds.
fn hold(world: &mut World, live: &mut Live, width: u16, mask: u16) {
    for offset in (0..width).filter(|offset| mask >> offset & 1 == 1) {
        let bind = Call::Bind(loopback(LOW + offset));
        live.socket(Family::Inet);
        assert_eq!(live.call(live.sockets.len() - 1, bind), Answer::Ok);
        let holder = world.socket(ROOT, Family::Inet);
        assert_eq!(world.call(holder, bind), Answer::Ok);
    }
}

/// What the kernel answers to one more socket: the port that it chose, or none.
fn draw(live: &mut Live, way: &Way, draw: u16) -> Option<u16> {
    let number = live.sockets.len();
    live.socket(Family::Inet);
    for before in way.before {
        assert_eq!(live.call(number, before()), Answer::Ok, "{}", way.name);
    }
    let answer = live.call(number, (way.call)(draw));
    let name = live.call(number, Call::GetSockName);
    live.sockets.pop();
    let none = [Errno::EADDRINUSE, Errno::EADDRNOTAVAIL].map(Answer::Err);
    match name {
        Answer::Address(name) if !none.contains(&answer) => Some(name.port()),
        _ => None,
    }
}

fn choice_of(world: &mut World, way: &Way) -> PortChoice {
    let socket: SocketId = world.socket(ROOT, Family::Inet);
    for before in way.before {
        assert_eq!(world.call(socket, before()), Answer::Ok, "{}", way.name);
    }
    world
        .port_choice(ROOT, socket, (way.call)(0))
        .expect("the call chooses a port")
}

fn compare(way: &Way, width: u16, mask: u16, autobind_reuse: bool) {
    let mut world = fresh_world(|host| {
        let sysctls = &mut host.namespaces[0].sysctls;
        sysctls.ip_local_port_range = (LOW, LOW + width - 1);
        sysctls.ip_autobind_reuse = autobind_reuse;
    });
    let mut live = Live::default();
    hold(&mut world, &mut live, width, mask);
    let choice = choice_of(&mut world, way);
    let mut awaited: BTreeSet<Option<u16>> = choice.ports.iter().copied().map(Some).collect();
    if choice.may_fail {
        awaited.insert(None);
    }
    let permitted = awaited.clone();
    let what = format!("{}, {width} ports, held {mask:#b}: {choice:?}", way.name);
    for number in 0..DRAWS_MAX {
        let drawn = draw(&mut live, way, number);
        assert!(
            permitted.contains(&drawn),
            "{what}, and the kernel drew {drawn:?}"
        );
        awaited.remove(&drawn);
        if awaited.is_empty() {
            return;
        }
    }
    panic!("{what}, and the kernel never drew {awaited:?}");
}

#[test]
fn the_permitted_ports_are_those_that_the_kernel_draws() {
    private_network(|| {
        for width in 1..=WIDTH_MAX {
            set_sysctl(
                "net.ipv4.ip_local_port_range",
                &format!("{LOW} {}", LOW + width - 1),
            );
            for way in WAYS {
                for mask in 0..1 << width {
                    compare(way, width, mask, false);
                }
            }
        }
    });
}

#[test]
fn with_autobind_reuse_the_permitted_ports_are_those_that_the_kernel_draws() {
    private_network(|| {
        set_sysctl("net.ipv4.ip_autobind_reuse", "1");
        let reuseaddr = &WAYS[2];
        for width in 1..=WIDTH_MAX {
            set_sysctl(
                "net.ipv4.ip_local_port_range",
                &format!("{LOW} {}", LOW + width - 1),
            );
            for mask in 0..1 << width {
                compare(reuseaddr, width, mask, true);
            }
        }
    });
}

#[test]
fn what_was_told_comes_out_wherever_it_is_permitted() {
    for kernel in [
        Kernel::new(3, 10),
        Kernel::new(4, 4),
        Kernel::new(5, 10),
        Kernel::new(6, 6),
        Kernel::V6_18,
    ] {
        for way in WAYS {
            let modern = kernel >= Kernel::new(6, 3);
            if !modern && !way.before.is_empty() && way.name != "bind with SO_REUSEADDR" {
                // Options that this release has not.
                continue;
            }
            for (width, mask) in (1..=5).flat_map(|w| (0..1_u16 << w).map(move |m| (w, m))) {
                let owners: Vec<u16> = (0..width).map(|at| mask >> at & 1).collect();
                tell_everything(kernel, way, &owners, false);
            }
        }
    }
}

#[test]
fn an_old_kernel_shares_no_port_but_those_with_the_fewest_owners() {
    let (reuseaddr, width) = (&WAYS[2], 4);
    for kernel in [Kernel::new(3, 10), Kernel::new(4, 4)] {
        for number in 0..3_u16.pow(width) {
            let owners: Vec<u16> = (0..width).map(|at| number / 3_u16.pow(at) % 3).collect();
            tell_everything(kernel, reuseaddr, &owners, true);
        }
    }
}

/// Tells every outcome in turn: it comes out exactly if the set holds it. The range has a port for each
/// number of `owners`, who have SO_REUSEADDR if they share.
fn tell_everything(kernel: Kernel, way: &Way, owners: &[u16], share: bool) {
    let width = owners.len() as u16;
    let mut host = Host::new(kernel);
    host.namespaces[0].sysctls.ip_local_port_range = (LOW, LOW + width - 1);
    let mut world = World::new(host);
    for (port, &count) in (LOW..).zip(owners) {
        for _ in 0..count {
            let owner = world.socket(ROOT, Family::Inet);
            world.call(owner, Call::Set(Opt::ReuseAddr(share)));
            assert_eq!(world.call(owner, Call::Bind(loopback(port))), Answer::Ok);
        }
    }
    let choice = choice_of(&mut world, way);
    for told in (LOW..LOW + width).map(Some).chain([None]) {
        let mut world = world.clone();
        let socket = world.socket(ROOT, Family::Inet);
        for before in way.before {
            world.call(socket, before());
        }
        match told {
            Some(port) => world.tell_port(port),
            None => world.tell_no_port(),
        }
        let answer = world.call(socket, (way.call)(0));
        let failed = [Errno::EADDRINUSE, Errno::EADDRNOTAVAIL]
            .map(Answer::Err)
            .contains(&answer);
        let name = world.name(socket).map(|name| name.port());
        let came = if failed { None } else { name };
        let permitted = match told {
            Some(port) => choice.ports.contains(&port),
            None => choice.may_fail,
        };
        let what = format!("{kernel}, {}, owners {owners:?}", way.name);
        assert_eq!(
            came == told,
            permitted,
            "{what}: told {told:?}, came {came:?}"
        );
    }
}
