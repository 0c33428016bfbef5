//! What a host's snapshot predicts, beside what its kernel then does.
//!
//! Decides:  with BPF every verdict is certain and right; without, it is right or says that it depends, and
//!           the kernel's answer is among those that it names.
//! Not here: the model alone (crates/kernel-model/tests).

#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use portcullis_inspect::verdict;
use portcullis_inspect::{Focus, Means, Outcome, Possible, Wanted, Worlds, read};
use portcullis_kernel_model as model;
use portcullis_kernel_model::{Answer, Call, Family, Opt, SockAddr, Uid};
use portcullis_testkit::{private_network_as_root, skip};
use rustix::fs::{Gid, fchown};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};

const PORT: u16 = 443;

/// A small generator of numbers: the same ones for the same seed.
struct Draws(u64);

impl Draws {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((self.0 >> 33) as usize) % limit
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// What a program does to open a port.
#[derive(Debug, Clone, Copy)]
struct Opening {
    at: SocketAddr,
    v6: bool,
    reuseaddr: bool,
    reuseport: bool,
    v6only: bool,
    device: bool,
    uid: Option<u32>,
    listens: bool,
    /// Afterwards: options that are changed on a bound socket.
    late: Option<(bool, bool)>,
}

impl Opening {
    fn draw(draws: &mut Draws) -> Opening {
        let v6 = draws.one_in(2);
        let addresses: &[&str] = match v6 {
            false => &["0.0.0.0", "127.0.0.1", "127.0.0.2"],
            true => &["::", "::1", "::ffff:127.0.0.1", "::ffff:0.0.0.0"],
        };
        let ip = addresses[draws.below(addresses.len())].parse().unwrap();
        Opening {
            at: SocketAddr::new(ip, PORT),
            v6,
            reuseaddr: draws.one_in(2),
            reuseport: draws.one_in(2),
            v6only: draws.one_in(4),
            device: draws.one_in(5),
            uid: draws.one_in(3).then_some(1000),
            listens: draws.one_in(2),
            late: draws.one_in(4).then(|| (draws.one_in(2), draws.one_in(2))),
        }
    }

    /// The calls before bind, as the model has them.
    fn options(&self) -> Vec<Call> {
        let mut calls = vec![
            Call::Set(Opt::ReuseAddr(self.reuseaddr)),
            Call::Set(Opt::ReusePort(self.reuseport)),
        ];
        if self.v6 {
            calls.push(Call::Set(Opt::V6Only(self.v6only)));
        }
        if self.device {
            calls.push(Call::Set(Opt::BindToDevice(1)));
        }
        if let Some(uid) = self.uid {
            calls.push(Call::Fchown(Uid(uid)));
        }
        calls
    }

    /// What the kernel answers: of bind, then of listen.
    fn live(&self) -> (Option<OwnedFd>, [i32; 2]) {
        let family = if self.v6 {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let fd = socket(family, SocketType::STREAM, None).unwrap();
        set(&fd, 1, 2, self.reuseaddr);
        set(&fd, 1, 15, self.reuseport);
        if self.v6 {
            set(&fd, 41, 26, self.v6only);
        }
        if self.device {
            portcullis_sys::sockopt::set_device(&fd, "lo").unwrap();
        }
        if let Some(uid) = self.uid {
            fchown(&fd, Some(rustix::fs::Uid::from_raw(uid)), None::<Gid>).unwrap();
        }
        let number = |done: rustix::io::Result<()>| done.map_or_else(|e| e.raw_os_error(), |()| 0);
        let bound = number(bind(&fd, &self.at));
        if bound != 0 {
            return (None, [bound, 0]);
        }
        let listening = if self.listens {
            number(listen(&fd, 5))
        } else {
            0
        };
        if let Some((reuseaddr, reuseport)) = self.late {
            set(&fd, 1, 2, reuseaddr);
            set(&fd, 1, 15, reuseport);
        }
        (Some(fd), [0, listening])
    }

    /// The same as a question.
    fn question(&self) -> verdict::Opening {
        let mut question = verdict::Opening::new(self.at);
        question.family = if self.v6 { Family::Inet6 } else { Family::Inet };
        for call in self.options() {
            match call {
                Call::Set(opt) => question.options.push(opt),
                Call::Fchown(uid) => question.owner = Some(uid),
                other => panic!("{other:?}"),
            }
        }
        question.backlog = self.listens.then_some(5);
        question
    }

    /// What would be done if this advice was followed, where a call can follow it.
    fn follow(&self, way: &verdict::Way) -> Option<Opening> {
        let mut other = *self;
        match way.text.as_str() {
            "set SO_REUSEADDR first" => other.reuseaddr = true,
            "set SO_REUSEPORT first" => other.reuseport = true,
            "set IPV6_V6ONLY first" => other.v6only = true,
            "set SO_BINDTODEVICE to none first" => other.device = false,
            text => {
                if let Some(port) = text.strip_prefix("use port ") {
                    other.at.set_port(port.parse().ok()?);
                } else {
                    let ip = text.strip_prefix("use the address ")?;
                    other.at.set_ip(ip.parse().ok()?);
                }
            }
        }
        Some(other)
    }

    /// What the model answers in one world.
    fn predicted(&self, worlds: &Worlds, possible: &Possible) -> [i32; 2] {
        let mut world = possible.world.clone();
        let family = if self.v6 { Family::Inet6 } else { Family::Inet };
        let fd = world.socket(worlds.caller, family);
        for call in self.options() {
            assert!(world.call_as(worlds.caller, fd, call).is_ok(), "{call:?}");
        }
        let mut number = |call| match world.call_as(worlds.caller, fd, call) {
            Answer::Ok => 0,
            Answer::Err(errno) => errno.number(),
            other => panic!("{call:?}: {other:?}"),
        };
        let bound = number(Call::Bind(SockAddr::new(self.at.ip(), self.at.port())));
        if bound != 0 || !self.listens {
            return [bound, 0];
        }
        [0, number(Call::Listen(5))]
    }
}

fn set(fd: &OwnedFd, level: i32, number: i32, on: bool) {
    portcullis_sys::sockopt::set_int(fd, level, number, i32::from(on)).unwrap();
}

/// Some sockets, some of which are gone again; the kernel remembers more than is left.
fn scene(draws: &mut Draws) -> (Vec<OwnedFd>, Vec<std::net::TcpStream>, Vec<Opening>) {
    let (mut held, mut told) = (Vec::new(), Vec::new());
    for _ in 0..1 + draws.below(4) {
        let opening = Opening::draw(draws);
        if let (Some(fd), _) = opening.live() {
            held.push(fd);
            told.push(opening);
        }
    }
    let mut streams = Vec::new();
    for to in ["127.0.0.1", "::1", "127.0.0.2"] {
        if draws.one_in(2) {
            let to = SocketAddr::new(to.parse().unwrap(), PORT);
            streams.extend(std::net::TcpStream::connect(to));
        }
    }
    // Some are accepted, and the server closes first: TIME_WAIT is on its side.
    for fd in held.iter().filter(|_| draws.one_in(2)) {
        rustix::io::ioctl_fionbio(fd, true).unwrap();
        if let Ok(accepted) = rustix::net::accept(fd) {
            drop(accepted);
            streams.clear();
        }
    }
    while held.len() > 1 && draws.one_in(3) {
        held.swap_remove(draws.below(held.len()));
    }
    if draws.one_in(3) {
        // The client closes first: TIME_WAIT on its side, CLOSE_WAIT or a reset on the other.
        streams.pop();
    }
    (held, streams, told)
}

#[derive(Debug, Default)]
struct Tally {
    ways: usize,
    certain: usize,
    depends: usize,
    refused: usize,
}

/// Sets scenes up, asks, and does what was asked about.
fn compare(means: Means, scenes: u64, tally: &mut Tally) {
    let wanted = Wanted {
        port: Some(PORT),
        means,
        ..Wanted::default()
    };
    let focus = Focus {
        port: Some(PORT),
        near: 0,
    };
    // More, or others: PORTCULLIS_SCENES=500 cargo test …
    let many = std::env::var("PORTCULLIS_SCENES").ok();
    for seed in 0..many.and_then(|text| text.parse().ok()).unwrap_or(scenes) {
        let mut draws = Draws(seed * 7 + 1);
        let (held, streams, told) = scene(&mut draws);
        for _ in 0..3 {
            let snapshot = read(&wanted).unwrap();
            if let portcullis_inspect::snapshot::Known::No(why) = &snapshot.sources.bpf
                && means == Means::Everything
            {
                return skip(&format!("BPF: {why}"));
            }
            let worlds = Worlds::of(&snapshot, focus).unwrap_or_else(|why| {
                panic!(
                    "seed {seed}: {why}\n{told:#?}\n{}",
                    snapshot.render().unwrap()
                )
            });
            let newcomer = Opening::draw(&mut draws);
            let outcome = worlds.ask(|possible| newcomer.predicted(&worlds, possible));
            let told = verdict::ask(&snapshot, &newcomer.question()).unwrap();
            let (opened, live) = newcomer.live();
            drop(opened);
            let right = match (told.outcome, live == [0, 0]) {
                (verdict::Outcome::Unknown, _) => means != Means::Everything,
                (verdict::Outcome::Works, works) => works,
                (verdict::Outcome::Refused, works) => !works,
            };
            assert!(right, "seed {seed}: {live:?}\n{newcomer:?}\n{told}");
            // A refusal leaves nothing behind, so what would have helped helps now; one is done.
            let done = told.ways.iter().filter(|way| way.tried && live != [0, 0]);
            let mut done = done.filter_map(|way| Some((way, newcomer.follow(way)?)));
            if let Some((way, other)) = done.nth(draws.below(2)) {
                tally.ways += 1;
                let (opened, live) = other.live();
                drop(opened);
                assert_eq!(live, [0, 0], "seed {seed}: {way:?}\n{other:?}\n{told}");
            }
            tally.refused += usize::from(live != [0, 0]);
            let whole = || {
                let text = snapshot.render().unwrap();
                format!("seed {seed}\n{told:#?}\nthen {newcomer:#?}\nlive {live:?}\n{text}")
            };
            match outcome {
                Outcome::Certain(answer) => {
                    tally.certain += 1;
                    assert_eq!(answer, live, "{}", whole());
                }
                Outcome::Depends(answers) => {
                    tally.depends += 1;
                    assert!(
                        answers.iter().any(|(answer, _)| *answer == live),
                        "{}",
                        whole()
                    );
                }
            }
        }
        drop((held, streams));
    }
}

#[allow(clippy::print_stdout)]
fn told(tally: &Tally) {
    println!("{tally:?}");
}

#[test]
fn with_bpf_every_verdict_is_certain_and_the_kernels() {
    private_network_as_root(|| {
        let mut tally = Tally::default();
        compare(Means::Everything, 40, &mut tally);
        told(&tally);
        assert_eq!(tally.depends, 0, "{tally:?}");
        assert!(tally.certain == 0 || tally.ways > 20, "{tally:?}");
        assert!(tally.certain == 0 || tally.refused > 30, "{tally:?}");
    });
}

#[test]
fn from_descriptors_no_verdict_is_wrong() {
    private_network_as_root(|| {
        let mut tally = Tally::default();
        compare(Means::Descriptors, 40, &mut tally);
        told(&tally);
        // What the bucket remembers is unknown, and half of the newcomers have SO_REUSEPORT.
        assert!(tally.refused > 30 && tally.certain > 20, "{tally:?}");
    });
}

#[test]
fn from_sock_diag_alone_no_verdict_is_wrong() {
    private_network_as_root(|| {
        let mut tally = Tally::default();
        compare(Means::SockDiag, 40, &mut tally);
        told(&tally);
        assert!(tally.refused > 30 && tally.certain > 20, "{tally:?}");
    });
}

#[test]
fn who_gets_a_connection_is_told_as_the_kernel_does_it() {
    private_network_as_root(|| {
        let _wild = std::net::TcpListener::bind(("0.0.0.0", PORT)).unwrap();
        let other = std::net::TcpListener::bind(("127.0.0.2", 80)).unwrap();
        let snapshot = read(&Wanted::default()).unwrap();
        let focus = Focus {
            port: None,
            near: 0,
        };
        let worlds = Worlds::of(&snapshot, focus).unwrap();
        let world = &worlds.possible[0].world;
        let at = "127.0.0.2".parse().unwrap();
        let found = world.listeners_for(worlds.net, at, 80, 1);
        assert_eq!(found.len(), 1);
        assert_eq!(world.name(found[0]), Some(other.local_addr().unwrap()));
        let holders = world.holders(found[0]);
        assert_eq!(holders, [worlds.processes[&std::process::id()]]);
        assert_eq!(world.state(found[0]), Some(model::State::Listen));
    });
}
