//! Forms of exhaustive scripts about one thing each: arguments, options, programs, processors, devices,
//! waiting.
//!
//! Decides:  the alphabets of these forms, and which script a number stands for.
//! Not here: connections (encounters.rs), three sockets that meet, and the numbers over all forms
//!           (exhaustive.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_kernel_model::{
    AF_INET, AF_INET6, AF_UNSPEC, Call, Family, Opt, OptName, Program, SockAddr,
};

use crate::exhaustive::{Digits, Form, PLACES, Pen, Place};
use crate::host::{self, CALLERS, FOREIGN, LEFT, LOOPBACK, RIGHT};
use crate::random::RARE;
use crate::step::{ORDINARY, PRIVILEGED, RANGE, Script};

/// The forms of this file.
pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "arguments",
        about: "one address argument (8 addresses x 25 lengths, families and scopes) to bind, bind \
                again or connect, on a socket (2 families x devices 3), 3 ports, 2 users",
        size: || 8 * ODD * 3 * 2 * 3 * 3 * 2,
        script: arguments,
    },
    Form {
        name: "options",
        about: "one option's value (74) set by each caller (5) in each state (9) of each family (2), \
                read back, and what bind and listen make of it",
        size: || SETTINGS.len() as u64 * 5 * STATES * 2,
        script: options,
    },
    Form {
        name: "programs",
        about: "a group of four, a program (6) attached to one of them (4) at a time (3), one member \
                goes (4) in one way (4), the program goes too or not (2), two clients, 2 sets of sysctls",
        size: || 6 * 4 * 3 * 4 * 4 * 2 * 2,
        script: programs,
    },
    Form {
        name: "processors",
        about: "three listeners with SO_INCOMING_CPU (3 each), in groups or not (4), set early or late \
                (2), a change (6), two clients, 2 sets of sysctls",
        size: || 27 * 4 * 2 * 6 * 2,
        script: processors,
    },
    Form {
        name: "devices",
        about: "two listeners (devices 4 x addresses 7 x without reuseport, with it, or with it until both \
                listen), a client (devices 3) to one of 6 addresses",
        size: || 84 * 84 * 18,
        script: devices,
    },
    Form {
        name: "waits",
        about: "a call that may wait (4) on a blocking socket (2 families) in a situation (6)",
        size: || 4 * 2 * 6,
        script: waits,
    },
];

const ODD: u64 = 25;
const STATES: u64 = 9;

fn odd_argument(ip: IpAddr, port: u16, kind: u64) -> SockAddr {
    let mut addr = SockAddr::new(ip, port);
    let at = kind as usize;
    match kind {
        0..15 => {
            addr.len = [-1, 0, 1, 2, 8, 15, 16, 23, 24, 27, 28, 29, 64, 128, 129][at];
        }
        15..20 => addr.family = [AF_UNSPEC, AF_INET, AF_INET6, 1, 99][at - 15],
        20..24 => addr.scope = [LOOPBACK, LEFT, RIGHT, 77][at - 20],
        // A scope that the length does not cover.
        _ => (addr.scope, addr.len) = (LEFT, 24),
    }
    addr
}

fn family_of(digit: u64) -> Family {
    if digit == 0 {
        Family::Inet
    } else {
        Family::Inet6
    }
}

fn arguments(number: u64) -> Script {
    let mut digits = Digits(number);
    let ip = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V4(Ipv4Addr::BROADCAST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(host::LINK_LOCAL),
        IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
        IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()),
    ][digits.below(8) as usize];
    let kind = digits.below(ODD);
    let call = digits.below(3);
    let family = family_of(digits.below(2));
    let device = [0, LOOPBACK, LEFT][digits.below(3) as usize];
    let port = [ORDINARY, 0, PRIVILEGED][digits.below(3) as usize];
    let mut pen = Pen::new(0);
    pen.process = digits.below(2) as u8;
    pen.socket(0, family);
    if device != 0 {
        pen.call(0, Call::Set(Opt::BindToDevice(device)));
    }
    let addr = odd_argument(ip, port, kind);
    match call {
        0 => pen.call(0, Call::Bind(addr)),
        1 => {
            let own = if family == Family::Inet { 1 } else { 3 };
            pen.call(0, Call::Bind(PLACES[own].at(ORDINARY + 1)));
            pen.call(0, Call::Bind(addr));
        }
        _ => pen.call(0, Call::Connect(addr)),
    }
    pen.call(0, Call::Get(OptName::BindToIfindex));
    pen.call(0, Call::GetPeerName);
    pen.call(0, Call::Listen(5));
    pen.script
}

const fn range(low: u16, high: u16) -> Opt {
    Opt::LocalPortRange(low as u32 | (high as u32) << 16)
}

/// Every option with every kind of value, and how it is read back.
const SETTINGS: &[(Opt, OptName)] = &[
    (Opt::ReuseAddr(true), OptName::ReuseAddr),
    (Opt::ReuseAddr(false), OptName::ReuseAddr),
    (Opt::ReusePort(true), OptName::ReusePort),
    (Opt::ReusePort(false), OptName::ReusePort),
    (Opt::V6Only(true), OptName::V6Only),
    (Opt::V6Only(false), OptName::V6Only),
    (Opt::Freebind(true), OptName::Freebind),
    (Opt::Freebind(false), OptName::Freebind),
    (Opt::Freebind6(true), OptName::Freebind),
    (Opt::Freebind6(false), OptName::Freebind),
    (Opt::Transparent(true), OptName::Transparent),
    (Opt::Transparent(false), OptName::Transparent),
    (Opt::Transparent6(true), OptName::Transparent),
    (Opt::Transparent6(false), OptName::Transparent),
    (Opt::BindToDevice(0), OptName::BindToIfindex),
    (Opt::BindToDevice(LOOPBACK), OptName::BindToIfindex),
    (Opt::BindToDevice(LEFT), OptName::BindToIfindex),
    (Opt::BindToDevice(77), OptName::BindToIfindex),
    (Opt::BindToIfindex(0), OptName::BindToIfindex),
    (Opt::BindToIfindex(1), OptName::BindToIfindex),
    (Opt::BindToIfindex(77), OptName::BindToIfindex),
    (Opt::BindToIfindex(-1), OptName::BindToIfindex),
    (Opt::BindAddressNoPort(true), OptName::BindAddressNoPort),
    (Opt::BindAddressNoPort(false), OptName::BindAddressNoPort),
    (range(0, 0), OptName::LocalPortRange),
    (range(RANGE, 0), OptName::LocalPortRange),
    (range(0, RANGE + 1), OptName::LocalPortRange),
    (range(RANGE, RANGE + 1), OptName::LocalPortRange),
    (range(RANGE + 1, RANGE), OptName::LocalPortRange),
    (range(RANGE + 2, RANGE + 2), OptName::LocalPortRange),
    (range(ORDINARY, RANGE + 1), OptName::LocalPortRange),
    (range(RANGE + 1, RANGE + 15), OptName::LocalPortRange),
    (Opt::Linger(None), OptName::Linger),
    (Opt::Linger(Some(0)), OptName::Linger),
    (Opt::Linger(Some(7)), OptName::Linger),
    (Opt::IncomingCpu(-1), OptName::IncomingCpu),
    (Opt::IncomingCpu(0), OptName::IncomingCpu),
    (Opt::IncomingCpu(1), OptName::IncomingCpu),
    (Opt::IncomingCpu(4096), OptName::IncomingCpu),
    (Opt::ReuseportCbpf(Program::Index(0)), OptName::ReusePort),
    (
        Opt::ReuseportCbpf(Program::CpuModulo(2)),
        OptName::ReusePort,
    ),
    (Opt::DetachReuseport, OptName::ReusePort),
    (Opt::Repair(1), OptName::Repair),
    (Opt::Repair(0), OptName::Repair),
    (Opt::Repair(-1), OptName::Repair),
    (Opt::Repair(2), OptName::Repair),
    (Opt::Repair(1), OptName::ReuseAddr),
    (Opt::FastOpen(0), OptName::FastOpen),
    (Opt::FastOpen(5), OptName::FastOpen),
    (Opt::FastOpen(1 << 20), OptName::FastOpen),
    (Opt::FastOpen(-1), OptName::FastOpen),
    (Opt::DeferAccept(-1), OptName::DeferAccept),
    (Opt::DeferAccept(0), OptName::DeferAccept),
    (Opt::DeferAccept(1), OptName::DeferAccept),
    (Opt::DeferAccept(2), OptName::DeferAccept),
    (Opt::DeferAccept(3), OptName::DeferAccept),
    (Opt::DeferAccept(4), OptName::DeferAccept),
    (Opt::DeferAccept(63), OptName::DeferAccept),
    (Opt::DeferAccept(64), OptName::DeferAccept),
    (Opt::DeferAccept(127), OptName::DeferAccept),
    (Opt::DeferAccept(128), OptName::DeferAccept),
    (Opt::DeferAccept(247), OptName::DeferAccept),
    (Opt::DeferAccept(248), OptName::DeferAccept),
    (Opt::DeferAccept(1 << 20), OptName::DeferAccept),
    (Opt::ReuseAddr(true), OptName::State),
    (Opt::ReuseAddr(true), OptName::AcceptConn),
    (Opt::ReuseAddr(true), OptName::Error),
    (Opt::ReuseAddr(true), OptName::V6Only),
    (Opt::ReuseAddr(true), OptName::LocalPortRange),
    (Opt::ReuseAddr(true), OptName::IncomingCpu),
    (Opt::ReuseAddr(true), OptName::FastOpen),
    (Opt::ReuseAddr(true), OptName::DeferAccept),
    (Opt::ReuseAddr(true), OptName::Repair),
    (Opt::ReuseAddr(true), OptName::Linger),
];

fn options(number: u64) -> Script {
    let mut digits = Digits(number);
    let (option, name) = SETTINGS[digits.below(SETTINGS.len() as u64) as usize];
    let caller = digits.below(CALLERS.len() as u64) as u8;
    let state = digits.below(STATES);
    let family = family_of(digits.below(2));
    let place = if family == Family::Inet {
        PLACES[1]
    } else {
        PLACES[3]
    };
    let mut pen = Pen::new(0);
    let (slot, used) = state_of_socket(&mut pen, place, state);
    pen.process = caller;
    pen.call(slot, Call::Get(name));
    pen.call(slot, Call::Set(option));
    pen.call(slot, Call::Get(name));
    let other = if family == Family::Inet {
        IpAddr::V4(FOREIGN)
    } else {
        IpAddr::V6(host::FOREIGN6)
    };
    pen.call(slot, Call::Bind(SockAddr::new(other, 0)));
    pen.call(slot, Call::Bind(place.at(0)));
    pen.call(slot, Call::Listen(5));
    pen.process = 0;
    pen.socket_with(used, place, 3);
    pen.call(used, Call::Bind(place.at(ORDINARY)));
    pen.call(used, Call::Listen(5));
    pen.script
}

/// Brings a socket into one of the states; answers its slot and the next free one.
fn state_of_socket(pen: &mut Pen, place: Place, state: u64) -> (u8, u8) {
    let target = place.at(ORDINARY);
    if state >= 4 {
        pen.socket_with(0, place, 3);
        pen.call(0, Call::Bind(target));
        pen.call(0, Call::Listen(5));
        pen.socket(1, place.family);
        pen.call(1, Call::Connect(target));
        pen.accept(0, 2);
    } else {
        pen.socket(0, place.family);
    }
    match state {
        1 => pen.call(0, Call::Bind(target)),
        2 => {
            pen.call(0, Call::Bind(target));
            pen.call(0, Call::Listen(5));
        }
        3 => {
            pen.call(0, Call::Set(Opt::ReusePort(true)));
            pen.call(0, Call::Bind(target));
            pen.call(0, Call::Listen(5));
            pen.call(0, Call::Shutdown(2));
        }
        6 => pen.call(1, Call::Shutdown(1)),
        7 => pen.call(2, Call::Connect(SockAddr::unspecified())),
        8 => pen.call(1, Call::Close),
        _ => {}
    }
    match state {
        0..4 => (0, 1),
        4 | 6 | 8 => (1, 3),
        _ => (2, 3),
    }
}

fn programs(number: u64) -> Script {
    let mut digits = Digits(number);
    let program = [
        Program::Index(0),
        Program::Index(1),
        Program::Index(2),
        Program::Index(3),
        Program::Index(7),
        Program::CpuModulo(2),
    ][digits.below(6) as usize];
    let on = digits.below(4) as u8;
    let when = digits.below(3);
    let goes = digits.below(4) as u8;
    let how = digits.below(4);
    let detach = digits.below(2);
    let profile = [0, 4][digits.below(2) as usize];
    let mut pen = Pen::new(profile);
    let place = PLACES[1];
    let attach = |pen: &mut Pen, now: u64| {
        if now == when {
            pen.call(on, Call::Set(Opt::ReuseportCbpf(program)));
        }
    };
    for slot in 0..4 {
        pen.socket_with(slot, place, 2);
        if slot == on {
            attach(&mut pen, 0);
        }
        pen.call(slot, Call::Bind(place.at(ORDINARY)));
        if slot == on {
            attach(&mut pen, 1);
        }
        pen.call(slot, Call::Listen(5));
    }
    attach(&mut pen, 2);
    client(&mut pen, place, 4, 6);
    match how {
        0 => pen.call(goes, Call::Close),
        1 => pen.call(goes, Call::Shutdown(0)),
        2 => pen.call(goes, Call::Connect(SockAddr::unspecified())),
        _ => {
            pen.call(goes, Call::Dup);
            pen.call(goes, Call::Close);
        }
    }
    if detach != 0 {
        pen.call((goes + 1) % 4, Call::Set(Opt::DetachReuseport));
        pen.call((goes + 2) % 4, Call::Set(Opt::DetachReuseport));
    }
    pen.call(goes, Call::Listen(5));
    client(&mut pen, place, 5, 7);
    client(&mut pen, place, 8, 9);
    pen.script
}

/// A client connects, and every listener (slots 0 to 3) accepts, into one slot.
fn client(pen: &mut Pen, to: Place, slot: u8, into: u8) {
    pen.socket(slot, to.family);
    pen.call(slot, Call::Connect(to.at(ORDINARY)));
    for listener in 0..4 {
        pen.accept(listener, into);
    }
}

fn processors(number: u64) -> Script {
    let mut digits = Digits(number);
    let cpus = [0, 1, 2].map(|_| digits.below(3) as i32 - 1);
    let groups = digits.below(4);
    let late = digits.below(2) != 0;
    let change = digits.below(6);
    let profile = [0, 4][digits.below(2) as usize];
    let mut pen = Pen::new(profile);
    for slot in 0..3_u8 {
        // One group; listeners of three addresses; the last outside of the group; a group that is none
        // any more.
        let place = match (groups, slot) {
            (1, 1) => PLACES[0],
            (1, 2) | (2, 2) => PLACES[2],
            _ => PLACES[1],
        };
        let cpu = cpus[usize::from(slot)];
        let set = Call::Set(Opt::IncomingCpu(cpu));
        pen.socket_with(slot, place, if groups == 1 { 0 } else { 2 });
        if place.family == Family::Inet6 {
            pen.call(slot, Call::Set(Opt::V6Only(groups == 1)));
        }
        if !late && cpu >= 0 {
            pen.call(slot, set);
        }
        pen.call(slot, Call::Bind(place.at(ORDINARY)));
        pen.call(slot, Call::Listen(5));
        if late && cpu >= 0 {
            pen.call(slot, set);
        }
    }
    for slot in 0..3 {
        if groups == 3 {
            pen.call(slot, Call::Set(Opt::ReusePort(false)));
        }
    }
    client(&mut pen, PLACES[1], 4, 6);
    match change {
        0 => pen.call(0, Call::Set(Opt::IncomingCpu(-1))),
        1 => pen.call(2, Call::Set(Opt::IncomingCpu(0))),
        2 => pen.call(1, Call::Set(Opt::IncomingCpu(1))),
        3 => pen.call(0, Call::Close),
        4 => {
            pen.call(1, Call::Shutdown(0));
            pen.call(1, Call::Set(Opt::IncomingCpu(-1)));
            pen.call(1, Call::Listen(5));
        }
        _ => pen.call(2, Call::Shutdown(0)),
    }
    client(&mut pen, PLACES[1], 5, 7);
    client(&mut pen, PLACES[1], 8, 9);
    pen.script
}

/// The end of a link-local address's script is a scope.
fn with_scope(addr: SockAddr) -> SockAddr {
    if addr.ip == IpAddr::V6(host::LINK_LOCAL) {
        return SockAddr {
            scope: LEFT,
            ..addr
        };
    }
    addr
}

fn devices(number: u64) -> Script {
    let mut digits = Digits(number);
    let places = [
        PLACES[0], PLACES[1], PLACES[2], RARE[0], RARE[5], RARE[7], PLACES[4],
    ];
    let mut pen = Pen::new(0);
    let mut taken_back = [false; 2];
    for slot in 0..2 {
        let place = places[digits.below(7) as usize];
        let device = [0, LOOPBACK, LEFT, RIGHT][digits.below(4) as usize];
        let reuseport = digits.below(3);
        taken_back[usize::from(slot)] = reuseport == 2;
        pen.socket_with(slot, place, 2 * u64::from(reuseport != 0));
        if device != 0 {
            pen.call(slot, Call::Set(Opt::BindToDevice(device)));
        }
        pen.call(slot, Call::Bind(with_scope(place.at(ORDINARY))));
        pen.call(slot, Call::Listen(5));
    }
    // A listener that is not in a group any more is met by its score.
    for slot in 0..2 {
        if taken_back[usize::from(slot)] {
            pen.call(slot, Call::Set(Opt::ReusePort(false)));
        }
    }
    let device = [0, LOOPBACK, LEFT][digits.below(3) as usize];
    let target =
        [PLACES[1], PLACES[3], RARE[0], RARE[5], RARE[7], PLACES[8]][digits.below(6) as usize];
    pen.socket(4, target.family);
    if device != 0 {
        pen.call(4, Call::Set(Opt::BindToDevice(device)));
    }
    pen.call(4, Call::Connect(with_scope(target.at(ORDINARY))));
    pen.accept(0, 5);
    pen.accept(1, 5);
    pen.call(4, Call::GetPeerName);
    pen.call(5, Call::GetPeerName);
    pen.call(5, Call::Get(OptName::BindToIfindex));
    pen.script
}

fn waits(number: u64) -> Script {
    let mut digits = Digits(number);
    let call = digits.below(4);
    let place = [PLACES[1], PLACES[3]][digits.below(2) as usize];
    let situation = digits.below(6);
    let mut pen = Pen::new(0);
    let target = place.at(ORDINARY);
    pen.socket_with(0, place, 1);
    pen.call(0, Call::Bind(target));
    if situation != 0 {
        pen.call(0, Call::Listen(i32::from(situation != 3)));
    }
    if situation >= 2 {
        for client in 1..4 {
            pen.socket(client, place.family);
            pen.call(client, Call::Connect(target));
        }
    }
    if situation == 4 {
        pen.accept(0, 5);
    }
    if situation == 5 {
        pen.call(0, Call::Shutdown(0));
    }
    pen.call(0, Call::SetNonblocking(false));
    pen.socket(4, place.family);
    pen.call(4, Call::SetNonblocking(false));
    match call {
        0 => pen.accept(0, 6),
        1 => pen.call(4, Call::Connect(target)),
        2 => {
            pen.call(4, Call::SetNonblocking(true));
            pen.call(4, Call::Connect(target));
            pen.call(4, Call::SetNonblocking(false));
            pen.call(4, Call::Connect(target));
        }
        _ => {
            pen.call(4, Call::Connect(place.at(ORDINARY + 1)));
            pen.call(4, Call::Get(OptName::Error));
        }
    }
    pen.accept(0, 7);
    pen.script
}
