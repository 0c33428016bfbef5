//! Longer scripts from a seed, weighted so that sockets meet.
//!
//! Decides:  the whole alphabet and its weights; which script a seed and a number stand for.
//! Not here: the small ones (exhaustive.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_kernel_model::{
    AF_INET, AF_INET6, AF_UNSPEC, Call, Family, Opt, OptName, Program, SockAddr, Uid,
};

use crate::exhaustive::{PLACES, Pen, Place};
use crate::host::{self, CALLERS, PROFILES};
use crate::step::{
    OF_SLOT, ORDINARY, Op, PRIVILEGED, RANGE, RANGE_WIDTH, SLOTS, STEPS_MAX, Script,
};

/// Scripts that follow each other share a set of sysctls, since changing it costs.
pub const SAME_PROFILE: u64 = 64;

/// The sets of sysctls from this one on are about half-open connections.
const HALF_OPEN_FROM: u8 = 16;

/// SO_REUSEPORT alone, as [`Pen::socket_with`] counts.
const REUSEPORT: u64 = 2;

/// splitmix64: every number of the stream from the seed alone.
#[derive(Debug, Clone)]
pub struct Draws(u64);

impl Draws {
    /// The stream of a script.
    #[must_use]
    pub fn of(seed: u64, number: u64) -> Draws {
        let mut draws = Draws(seed ^ number.wrapping_mul(0xd134_2543_de82_ef95));
        draws.next();
        draws
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (((self.next() >> 32) * bound as u64) >> 32) as usize
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What one script plays with: few addresses and ports, so that sockets meet.
struct Theme {
    places: [Place; 3],
    ports: [u16; 2],
    connects: bool,
    odd_arguments: bool,
    users: bool,
    /// Listeners defer, and have short queues: connections stay half open.
    half_open: bool,
    live: [bool; SLOTS],
    used: usize,
}

/// The script of a number.
#[must_use]
pub fn script(seed: u64, number: u64) -> Script {
    let mut profile = Draws::of(seed ^ 0x70_726f_6669_6c65, number / SAME_PROFILE);
    // Half of all on the kernel's own values.
    let profile = if profile.percent(50) {
        0
    } else {
        profile.below(PROFILES.len()) as u8
    };
    let mut draws = Draws::of(seed, number);
    let mut theme = Theme::new(&mut draws, profile);
    let mut pen = Pen::new(profile);
    let length = 6 + draws.below(STEPS_MAX / 2 - 6);
    while pen.script.steps.len() < length {
        pen.process = if theme.users {
            draws.below(CALLERS.len()) as u8
        } else {
            0
        };
        let fresh = theme.used < 2 || (theme.used < SLOTS && draws.percent(22));
        if fresh {
            theme.open(&mut draws, &mut pen);
        } else {
            theme.act(&mut draws, &mut pen);
        }
    }
    if theme.connects {
        theme.accept_all(&mut pen);
    }
    pen.script
}

impl Theme {
    fn new(draws: &mut Draws, profile: u8) -> Theme {
        let wide = draws.percent(30);
        let place = |draws: &mut Draws| {
            let count = if wide { PLACES.len() } else { 6 };
            let rare = if wide { RARE.len() + NETWORKS.len() } else { 0 };
            let place = draws.below(count + rare);
            let all = PLACES[..count].iter().chain(&RARE).chain(&NETWORKS);
            all.copied().nth(place).unwrap_or(PLACES[0])
        };
        let half_open = profile >= HALF_OPEN_FROM || draws.percent(8);
        let mut places = [place(draws), place(draws), place(draws)];
        if half_open && draws.percent(70) {
            places = [places[0]; 3];
        }
        let choosing = [3, 5, 10, 11, 12, 13].contains(&profile) || draws.percent(25);
        let other = if choosing {
            draws.pick(&[
                0,
                0,
                RANGE,
                RANGE + 1,
                RANGE + RANGE_WIDTH - 1,
                RANGE + RANGE_WIDTH,
            ])
        } else {
            draws.pick(&[ORDINARY, ORDINARY, ORDINARY + 1, PRIVILEGED])
        };
        Theme {
            places,
            ports: [
                if choosing && draws.percent(50) {
                    0
                } else {
                    ORDINARY
                },
                other,
            ],
            connects: half_open || draws.percent(45),
            odd_arguments: draws.percent(10),
            users: !half_open && draws.percent(40),
            half_open,
            live: [false; SLOTS],
            used: 0,
        }
    }

    fn place(&self, draws: &mut Draws) -> Place {
        self.places[draws.below(3)]
    }

    fn port(&self, draws: &mut Draws) -> u16 {
        self.ports[usize::from(draws.percent(30))]
    }

    fn any_slot(&self, draws: &mut Draws) -> u8 {
        draws.below(self.used.max(1)) as u8
    }

    fn take_slot(&mut self) -> Option<u8> {
        if self.used == SLOTS {
            return None;
        }
        self.live[self.used] = true;
        self.used += 1;
        Some((self.used - 1) as u8)
    }

    fn open(&mut self, draws: &mut Draws, pen: &mut Pen) {
        let Some(slot) = self.take_slot() else { return };
        let place = self.place(draws);
        let shares = draws.below(4) as u64;
        // Groups, where connections are half open or wait.
        let shares = if self.half_open && draws.percent(60) {
            REUSEPORT
        } else {
            shares
        };
        pen.socket_with(slot, place, shares);
        if draws.percent(15) {
            pen.call(slot, Call::Set(option(draws, self.odd_arguments)));
        }
        if self.half_open && draws.percent(40) {
            pen.call(slot, Call::Set(Opt::DeferAccept(1)));
        }
        if self.connects && draws.percent(35) {
            let to = self.target(draws);
            pen.call(slot, Call::Connect(to));
            return;
        }
        if draws.percent(90) {
            let port = self.port(draws);
            pen.call(slot, Call::Bind(place.at(port)));
        }
        if draws.percent(50) {
            let backlog = if self.half_open {
                draws.pick(&[0, 1, 2, 0, 1, 2, 8])
            } else {
                backlog(draws)
            };
            pen.call(slot, Call::Listen(backlog));
        }
    }

    fn act(&mut self, draws: &mut Draws, pen: &mut Pen) {
        let slot = self.any_slot(draws);
        if self.half_open && draws.percent(40) {
            let call = match draws.below(8) {
                0..3 => Call::Connect(self.place(draws).at(ORDINARY)),
                3..5 => Call::Shutdown(1),
                5 => Call::Close,
                6 => Call::Set(Opt::Linger(Some(0))),
                _ => Call::Listen(draws.below(3) as i32),
            };
            return pen.call(slot, call);
        }
        let call = match draws.below(100) {
            0..16 => self.bind_again(draws),
            16..34 => Call::Listen(backlog(draws)),
            34..46 => Call::Close,
            46..58 => self.set(draws),
            58..61 => Call::Get(draws.pick(NAMES_OF_OPTIONS)),
            61..64 => Call::Fchown(match draws.below(4) {
                // What leaves the owner as it is.
                3 => Uid(u32::MAX),
                caller => Uid(CALLERS[caller].uid),
            }),
            64..66 => Call::Dup,
            66..70 => Call::Shutdown(if draws.percent(5) {
                3
            } else {
                draws.below(3) as i32
            }),
            70..74 => Call::Connect(SockAddr::unspecified()),
            74..77 => draws.pick(&[Call::GetSockName, Call::GetPeerName]),
            77..90 if self.connects => Call::Connect(self.target(draws)),
            _ if self.connects => return self.accept(draws, pen, slot),
            _ => self.bind_again(draws),
        };
        pen.call(slot, call);
    }

    /// An option; now and then with a length that is not its own.
    fn set(&self, draws: &mut Draws) -> Call {
        let option = option(draws, self.odd_arguments);
        let whole = matches!(option, Opt::ReuseportCbpf(_));
        match draws.below(16) {
            // With the right length a program is one that cannot be read (gaps.toml).
            0 if !whole => Call::SetLen(option, draws.pick(&[0, 1, 2, 3, 4, 5, 8, 15, 16, 40])),
            0 => Call::SetLen(option, draws.pick(&[0, 4, 8, 15, 17])),
            _ => Call::Set(option),
        }
    }

    fn accept(&mut self, _: &mut Draws, pen: &mut Pen, slot: u8) {
        if let Some(into) = self.take_slot() {
            pen.accept(slot, into);
        }
    }

    /// At the end everybody accepts: who got which connection is compared.
    fn accept_all(&mut self, pen: &mut Pen) {
        pen.process = 0;
        for slot in 0..self.used as u8 {
            let Some(into) = self.take_slot() else { return };
            pen.accept(slot, into);
        }
    }

    fn bind_again(&self, draws: &mut Draws) -> Call {
        if self.odd_arguments && draws.percent(60) {
            let port = self.port(draws);
            return Call::Bind(odd_address(draws, port));
        }
        let place = self.place(draws);
        let port = if draws.percent(10) {
            OF_SLOT + u16::from(self.any_slot(draws))
        } else {
            self.port(draws)
        };
        Call::Bind(place.at(port))
    }

    fn target(&self, draws: &mut Draws) -> SockAddr {
        if self.odd_arguments && draws.percent(30) {
            return odd_address(draws, ORDINARY);
        }
        let port = if draws.percent(50) {
            OF_SLOT + u16::from(self.any_slot(draws))
        } else {
            self.port(draws)
        };
        self.place(draws).at(port)
    }
}

/// Places that meet others rarely.
pub(crate) const RARE: [Place; 9] = [
    rare(IpAddr::V4(host::ON_LEFT)),
    rare(IpAddr::V4(host::BROADCAST)),
    rare(IpAddr::V4(host::FOREIGN)),
    rare(IpAddr::V4(Ipv4Addr::new(224, 0, 0, 9))),
    rare(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6))),
    rare(IpAddr::V6(host::ON_LEFT6)),
    rare(IpAddr::V6(host::FOREIGN6)),
    rare(IpAddr::V6(host::LINK_LOCAL)),
    rare(IpAddr::V6(host::ON_LO.to_ipv6_mapped())),
];

/// Networks on `lo`, secondary addresses, an interface that is down.
const NETWORKS: [Place; 8] = [
    rare(IpAddr::V4(host::NET_ON_LO)),
    rare(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3))),
    rare(IpAddr::V4(Ipv4Addr::new(10, 1, 255, 255))),
    rare(IpAddr::V4(host::SECONDARY)),
    rare(IpAddr::V4(host::ON_DOWN)),
    rare(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 39))),
    rare(IpAddr::V6(host::NET_ON_LO.to_ipv6_mapped())),
    rare(IpAddr::V6(host::ON_DOWN.to_ipv6_mapped())),
];

const fn rare(ip: IpAddr) -> Place {
    let family = match ip {
        IpAddr::V4(_) => Family::Inet,
        IpAddr::V6(_) => Family::Inet6,
    };
    Place {
        family,
        v6only: false,
        ip,
    }
}

/// Address arguments with a wrong length, family or scope.
fn odd_address(draws: &mut Draws, port: u16) -> SockAddr {
    let ips = [
        IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(host::LINK_LOCAL),
        IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1)),
        IpAddr::V4(Ipv4Addr::BROADCAST),
    ];
    let mut addr = SockAddr::new(draws.pick(&ips), port);
    match draws.below(4) {
        0 => addr.len = draws.pick(&[-1, 0, 1, 2, 8, 15, 16, 23, 24, 27, 28, 29, 64, 128, 129]),
        1 => addr.family = draws.pick(&[AF_UNSPEC, AF_INET, AF_INET6, 1, 99]),
        _ => addr.scope = draws.pick(&[0, host::LOOPBACK, host::LEFT, host::RIGHT, 77]),
    }
    addr
}

fn backlog(draws: &mut Draws) -> i32 {
    if draws.percent(70) {
        5
    } else {
        draws.pick(&[0, 1, 2, -1, 4096, i32::MAX])
    }
}

fn option(draws: &mut Draws, odd: bool) -> Opt {
    let on = draws.percent(70);
    match draws.below(100) {
        0..22 => Opt::ReuseAddr(on),
        22..44 => Opt::ReusePort(on),
        44..50 => Opt::V6Only(on),
        50..54 => Opt::Freebind(on),
        54..56 => Opt::Freebind6(on),
        56..59 => Opt::Transparent(on),
        59..61 => Opt::Transparent6(on),
        61..67 => {
            let (lo, left, right) = (host::LOOPBACK, host::LEFT, host::RIGHT);
            let known = [0, lo, lo, 0, lo, left, left, right, right, host::DOWN];
            Opt::BindToDevice(if odd { 77 } else { draws.pick(&known) })
        }
        67..69 => Opt::BindToIfindex(draws.pick(&[0, 1, 2, 4, 77, -1])),
        69..74 => Opt::BindAddressNoPort(on),
        74..79 => {
            let (low, high) = (draws.below(4) as u16, draws.below(4) as u16);
            let name = |at: u16| if at == 0 { 0 } else { RANGE + at - 1 };
            Opt::LocalPortRange(u32::from(name(low)) | u32::from(name(high)) << 16)
        }
        79..82 => Opt::Linger(draws.pick(&[None, Some(0)])),
        82..86 => Opt::IncomingCpu(draws.pick(&[0, 1, -1])),
        86..90 => Opt::ReuseportCbpf(draws.pick(&[
            Program::Index(0),
            Program::Index(1),
            Program::Index(7),
            Program::CpuModulo(2),
            Program::CpuModulo(0),
        ])),
        90..92 => Opt::DetachReuseport,
        92..95 => Opt::Repair(if odd { 7 } else { draws.pick(&[1, 0, -1]) }),
        95..97 => Opt::FastOpen(draws.pick(&[0, 5, -1])),
        _ => Opt::DeferAccept(draws.pick(&[0, 1, 5])),
    }
}

const NAMES_OF_OPTIONS: &[OptName] = &[
    OptName::ReuseAddr,
    OptName::ReusePort,
    OptName::V6Only,
    OptName::Freebind,
    OptName::Transparent,
    OptName::BindToIfindex,
    OptName::BindAddressNoPort,
    OptName::LocalPortRange,
    OptName::Linger,
    OptName::IncomingCpu,
    OptName::AcceptConn,
    OptName::Error,
    OptName::Repair,
    OptName::FastOpen,
    OptName::DeferAccept,
    OptName::State,
];

/// What of a script an ordinary user cannot do: steps of another user. They are taken out and counted.
pub fn without_other_users(script: &mut Script) -> u64 {
    let before = script.steps.len();
    script.steps.retain(|step| {
        let foreign = matches!(step.op, Op::Call(Call::Fchown(_)));
        CALLERS[usize::from(step.process)].uid == 0 && !foreign
    });
    (before - script.steps.len()) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_number_make_the_same_script_again() {
        assert_eq!(script(7, 1234), script(7, 1234));
        assert_ne!(script(7, 1234), script(7, 1235));
        assert_ne!(script(7, 1234), script(8, 1234));
    }

    #[test]
    fn scripts_that_follow_each_other_share_their_sysctls() {
        let profiles: Vec<u8> = (0..6400).map(|number| script(1, number).profile).collect();
        for chunk in profiles.chunks(SAME_PROFILE as usize) {
            assert!(chunk.iter().all(|&profile| profile == chunk[0]));
        }
        for profile in 0..PROFILES.len() as u8 {
            assert!(profiles.contains(&profile), "profile {profile} never comes");
        }
    }

    #[test]
    fn every_kind_of_call_comes_up() {
        let mut kinds = std::collections::BTreeSet::new();
        for number in 0..2000 {
            for step in script(3, number).steps {
                let text = format!("{:?}", step.op);
                kinds.insert(text.split(['(', ')']).take(3).collect::<Vec<_>>().join(" "));
            }
        }
        for name in [
            "Accept",
            "Dup",
            "GetPeerName",
            "Set ReuseportCbpf",
            "Set Repair",
            "Fchown",
        ] {
            assert!(
                kinds.iter().any(|kind| kind.contains(name)),
                "{name} of {kinds:?}"
            );
        }
    }
}
