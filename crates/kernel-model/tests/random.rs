//! Long random scripts, on the model and on the live kernel.
//!
//! Decides:  the alphabet and its weights: few ports and addresses, so that sockets collide.
//! Not here: every small script (exhaustive.rs).
//!
//! `PORTCULLIS_SEED` and `PORTCULLIS_SCRIPTS` choose another run; the seed is printed.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod live;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use live::both::{Step, Tally, fresh_world, run, shrink};
use portcullis_kernel_model::{Call, Family, Host, Opt, OptName, Rule, SockAddr, Uid};
use portcullis_testkit::{need_program, private_network, private_network_as_root, set_sysctl};

/// xorshift64*.
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

#[derive(Clone, Copy)]
struct Alphabet {
    /// Ports may be chosen by the kernel.
    choosing: bool,
    connections: bool,
    users: bool,
    /// How many SO_REUSEPORT sockets, bound alike, listen and are called to begin with; at most. Where
    /// connections migrate there must be two, or it is not known who took which.
    herd: usize,
    /// Sockets of one family only, and the plain addresses: deep rather than wide.
    narrow: bool,
}

fn ip(draws: &mut Draws, alphabet: &Alphabet, family: Family) -> IpAddr {
    // Mostly an address that fits the socket; the other family's is soon refused.
    let fits = draws.below(12) > 0;
    loop {
        let ip = any_ip(draws, alphabet);
        if !fits || ip.is_ipv6() == (family == Family::Inet6) {
            return ip;
        }
    }
}

fn any_ip(draws: &mut Draws, alphabet: &Alphabet) -> IpAddr {
    let all = [
        "127.0.0.1",
        "0.0.0.0",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::ffff:0.0.0.0",
        "127.0.0.2",
        "127.0.0.6",
        "127.255.255.255",
        "192.0.2.1",
        "224.0.0.1",
        "fe80::1",
        "ff02::1",
        "2001:db8::1",
    ];
    let count = if alphabet.narrow { 5 } else { all.len() };
    // The first ones come up more often.
    let bound = draws.below(count) + 1;
    all[draws.below(bound)].parse().unwrap()
}

fn option(draws: &mut Draws, alphabet: &Alphabet) -> Opt {
    let on = draws.below(3) > 0;
    if alphabet.narrow {
        return match draws.below(7) {
            0..3 => Opt::ReuseAddr(on),
            3..6 => Opt::ReusePort(on),
            _ => Opt::V6Only(on),
        };
    }
    match draws.below(24) {
        0..5 => Opt::ReuseAddr(on),
        5..10 => Opt::ReusePort(on),
        10..12 => Opt::V6Only(on),
        12 => Opt::Freebind(on),
        13 => Opt::Freebind6(on),
        14 => Opt::Transparent(on),
        15 => Opt::Transparent6(on),
        16 | 17 if alphabet.herd > 0 => Opt::BindToDevice(draws.of(&[0, 1])),
        16 => Opt::BindToDevice(draws.of(&[0, 1, 1, 9])),
        17 => Opt::BindToIfindex(draws.of(&[0, 1, 2, 7, -1])),
        18 => Opt::BindAddressNoPort(on),
        19 if !alphabet.choosing => Opt::Linger(Some(0)),
        19 => {
            Opt::LocalPortRange(draws.of(&[0, 0x4e25_4e21, 0x4e24_0000, 0x0000_4e24, 0x4e21_4e25]))
        }
        20 => Opt::Linger(draws.of(&[None, Some(0)])),
        21 => Opt::IncomingCpu(draws.of(&[-1, 0, 1])),
        22 => Opt::FastOpen(draws.of(&[-1, 0, 5, 5000])),
        _ => Opt::Repair(draws.of(&[1, 1, 0, -1, 2])),
    }
}

fn call(draws: &mut Draws, alphabet: &Alphabet, family: Family) -> Call {
    let mut port = FIRST_PORT + draws.of(&[0, 0, 0, 1]);
    if alphabet.choosing && draws.coin() {
        port = 0;
    }
    let names = [
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
        OptName::State,
    ];
    let mut addr = SockAddr::new(ip(draws, alphabet, family), port);
    if !alphabet.narrow && draws.below(3) == 0 {
        addr.scope = draws.of(&[0, 1, 5]);
    }
    match draws.below(if alphabet.connections { 30 } else { 22 }) {
        0..5 => Call::Set(option(draws, alphabet)),
        5..11 => Call::Bind(addr),
        11..15 => Call::Listen(draws.of(&[5, 0, 1, -1, 100_000])),
        15..17 => Call::Close,
        17 => Call::Shutdown(draws.below(3) as i32),
        18 => Call::Get(draws.of(&names)),
        19 => Call::GetSockName,
        20 if alphabet.users => Call::Fchown(Uid(draws.of(&[0, 1000]))),
        20 => Call::Dup,
        21 => Call::Connect(SockAddr::unspecified()),
        22..26 if port != 0 => {
            // Peers on other hosts are no part of the model (gaps.toml).
            let to: &[&str] = match family {
                Family::Inet => &["127.0.0.1", "0.0.0.0", "127.0.0.2", "127.0.0.6"],
                Family::Inet6 => &["::1", "::", "::ffff:127.0.0.1", "::ffff:127.0.0.2"],
            };
            Call::Connect(SockAddr::new(draws.of(to).parse().unwrap(), port))
        }
        22..28 => Call::Accept,
        28 => Call::GetPeerName,
        _ => Call::Shutdown(1),
    }
}

fn script(draws: &mut Draws, alphabet: &Alphabet) -> Vec<Step> {
    let mut families = Vec::new();
    let mut steps = Vec::new();
    if alphabet.herd > 0 {
        let (family, ip) = draws.of(&[
            (Family::Inet, "127.0.0.1"),
            (Family::Inet, "0.0.0.0"),
            (Family::Inet6, "::"),
            (Family::Inet6, "::1"),
        ]);
        let addr = SockAddr::new(ip.parse().unwrap(), FIRST_PORT);
        for number in 0..2 + draws.below(alphabet.herd - 1) {
            families.push(family);
            steps.push(Step::New(family));
            steps.push(Step::On(number, Call::Set(Opt::ReusePort(true))));
            if !alphabet.narrow && draws.below(4) == 0 {
                steps.push(Step::On(number, Call::Set(option(draws, alphabet))));
            }
            steps.push(Step::On(number, Call::Bind(addr)));
            steps.push(Step::On(number, Call::Listen(draws.of(&[1, 3]))));
        }
        for _ in 0..draws.below(8) {
            let number = families.len();
            families.push(family);
            steps.push(Step::New(family));
            steps.push(Step::On(number, Call::Connect(addr)));
        }
    }
    let herd = families.len();
    for number in herd..herd + 2 + draws.below(4) {
        families.push(if draws.coin() {
            Family::Inet
        } else {
            Family::Inet6
        });
        steps.push(Step::New(families[number]));
        for _ in 0..draws.below(3) {
            steps.push(Step::On(number, Call::Set(option(draws, alphabet))));
        }
        for _ in 0..1 + draws.below(4) {
            let on = if draws.coin() {
                number
            } else {
                draws.below(number + 1)
            };
            steps.push(Step::On(on, call(draws, alphabet, families[on])));
        }
    }
    for _ in 0..draws.below(12) {
        let on = draws.below(families.len());
        steps.push(Step::On(on, call(draws, alphabet, families[on])));
    }
    steps
}

/// Scripts are written for this port and the next, and moved before they run.
const FIRST_PORT: u16 = 2000;

/// Which ports the next script has: all different, since TIME_WAIT outlives a script.
static NEXT_PORTS: AtomicU32 = AtomicU32::new(0);

/// The same script on other ports.
fn moved(steps: &[Step], port: u16) -> Vec<Step> {
    let moved = |addr: SockAddr| match addr.port {
        0 => addr,
        old => SockAddr {
            port: port + (old - FIRST_PORT),
            ..addr
        },
    };
    let one = |&step: &Step| match step {
        Step::On(on, Call::Bind(addr)) => Step::On(on, Call::Bind(moved(addr))),
        Step::On(on, Call::Connect(addr)) => Step::On(on, Call::Connect(moved(addr))),
        other => other,
    };
    steps.iter().map(one).collect()
}

fn compare(name: &str, scripts: u64, alphabet: Alphabet, adjust: fn(&mut Host)) -> Tally {
    let seed = setting("PORTCULLIS_SEED", 0x5eed);
    let scripts = setting("PORTCULLIS_SCRIPTS", scripts);
    let mut draws = Draws(seed * 2 + 1);
    let mut tally = Tally::default();
    let differs = |steps: &[Step], tally: &mut Tally| {
        let port = FIRST_PORT + (NEXT_PORTS.fetch_add(2, Relaxed) % 37_000) as u16;
        run(&moved(steps, port), fresh_world(adjust), tally).err()
    };
    for round in 0..scripts {
        let steps = script(&mut draws, &alphabet);
        if let Some(difference) = differs(&steps, &mut tally) {
            let again = |steps: &[Step]| differs(steps, &mut Tally::default());
            if again(&steps).is_none() {
                panic!("{name}, script {round}: differed once only: {difference:#?}\n{steps:#?}");
            }
            let short = shrink(steps, |steps| again(steps).is_some());
            let difference = again(&short);
            panic!("{name}, seed {seed}, script {round}: {short:#?}\n{difference:#?}");
        }
    }
    let hit = Rule::ALL
        .iter()
        .filter(|&&rule| tally.coverage.hits(rule) > 0)
        .count();
    println!(
        "{name}: seed={seed} scripts={} steps={} rules={hit}/{}",
        tally.scripts,
        tally.steps,
        Rule::ALL.len()
    );
    tally
}

const WIDE: Alphabet = Alphabet {
    choosing: false,
    connections: false,
    users: false,
    herd: 0,
    narrow: false,
};

#[test]
fn random_scripts_of_bind_and_listen_agree() {
    private_network(|| {
        let narrow = Alphabet {
            narrow: true,
            ..WIDE
        };
        compare("narrow", 30_000, narrow, |_| {});
        compare("wide", 30_000, WIDE, |_| {});
    });
}

#[test]
fn random_scripts_of_several_users_agree() {
    private_network_as_root(|| {
        let users = Alphabet {
            users: true,
            narrow: true,
            ..WIDE
        };
        compare("users", 20_000, users, |_| {});
    });
}

#[test]
fn random_scripts_where_the_kernel_chooses_ports_agree() {
    private_network(|| {
        set_sysctl("net.ipv4.ip_local_port_range", "20000 20006");
        set_sysctl("net.ipv4.ip_local_reserved_ports", "20003");
        compare(
            "choosing",
            20_000,
            Alphabet {
                choosing: true,
                ..WIDE
            },
            |host| {
                let sysctls = &mut host.namespaces[0].sysctls;
                sysctls.ip_local_port_range = (20000, 20006);
                sysctls.ip_local_reserved_ports = vec![(20003, 20003)];
            },
        );
    });
}

/// Acknowledgements come at once instead of up to 40 ms later, so that states can be compared.
fn acknowledge_at_once() {
    let local = "dev lo table local proto kernel";
    for command in [
        format!("ip route replace local 127.0.0.0/8 {local} scope host src 127.0.0.1 quickack 1"),
        format!("ip route replace local 127.0.0.1 {local} scope host src 127.0.0.1 quickack 1"),
        format!("ip -6 route add local ::1 {local} quickack 1"),
        format!("ip -6 route del local ::1 {local} metric 0"),
    ] {
        let mut words = command.split(' ');
        let status = std::process::Command::new(words.next().unwrap())
            .args(words)
            .status();
        assert!(status.is_ok_and(|status| status.success()), "{command}");
    }
}

#[test]
fn random_scripts_with_connections_agree() {
    fn range(host: &mut Host) {
        host.namespaces[0].sysctls.ip_local_port_range = (40_000, 60_999);
    }
    if need_program("ip").is_none() {
        return;
    }
    private_network(|| {
        acknowledge_at_once();
        one_processor();
        set_sysctl("net.ipv4.ip_local_port_range", "40000 60999");
        let connections = Alphabet {
            connections: true,
            ..WIDE
        };
        compare("connections", 6000, connections, range);
        let narrow = Alphabet {
            narrow: true,
            ..connections
        };
        compare("narrow connections", 8000, Alphabet { ..narrow }, range);
    });
}

#[test]
fn random_scripts_of_herds_agree() {
    if need_program("ip").is_none() {
        return;
    }
    fn range(host: &mut Host) {
        host.namespaces[0].sysctls.ip_local_port_range = (40_000, 60_999);
    }
    fn migrate(host: &mut Host) {
        range(host);
        host.namespaces[0].sysctls.tcp_migrate_req = true;
    }
    private_network(|| {
        acknowledge_at_once();
        one_processor();
        set_sysctl("net.ipv4.ip_local_port_range", "40000 60999");
        let herd = Alphabet {
            herd: 4,
            connections: true,
            ..WIDE
        };
        compare("herds", 3000, herd, range);
        compare(
            "narrow herds",
            2000,
            Alphabet {
                narrow: true,
                ..herd
            },
            range,
        );
        set_sysctl("net.ipv4.tcp_migrate_req", "1");
        let narrow = Alphabet {
            narrow: true,
            herd: 2,
            ..herd
        };
        compare("migrating herds", 2000, narrow, migrate);
    });
}

/// A sysctl, the value to write, and what the model's host says then.
type Setting = (&'static str, &'static str, fn(&mut Host));

#[test]
fn random_scripts_under_other_sysctls_agree() {
    const SETTINGS: [Setting; 7] = [
        ("net.ipv6.bindv6only", "1", |h| {
            h.namespaces[0].sysctls.bindv6only = true
        }),
        ("net.ipv4.ip_nonlocal_bind", "1", |h| {
            h.namespaces[0].sysctls.ip_nonlocal_bind = true
        }),
        ("net.ipv6.ip_nonlocal_bind", "1", |h| {
            h.namespaces[0].sysctls.ip6_nonlocal_bind = true
        }),
        ("net.core.somaxconn", "3", |h| {
            h.namespaces[0].sysctls.somaxconn = 3
        }),
        ("net.ipv4.tcp_fastopen", "1027", |h| {
            h.namespaces[0].sysctls.tcp_fastopen = 1027
        }),
        ("net.ipv4.tcp_migrate_req", "1", |h| {
            h.namespaces[0].sysctls.tcp_migrate_req = true
        }),
        ("net.ipv4.ip_autobind_reuse", "1", |h| {
            let sysctls = &mut h.namespaces[0].sysctls;
            sysctls.ip_autobind_reuse = true;
            sysctls.ip_local_port_range = (20_000, 20_006);
        }),
    ];
    private_network(|| {
        for (name, value, adjust) in SETTINGS {
            let path = format!("/proc/sys/{}", name.replace('.', "/"));
            let before = std::fs::read_to_string(&path).unwrap();
            set_sysctl(name, value);
            let choosing = name.ends_with("autobind_reuse");
            if choosing {
                set_sysctl("net.ipv4.ip_local_port_range", "20000 20006");
            }
            compare(name, 8000, Alphabet { choosing, ..WIDE }, adjust);
            set_sysctl(name, before.trim());
        }
    });
}

#[test]
fn random_scripts_with_connections_that_migrate_agree() {
    if need_program("ip").is_none() {
        return;
    }
    fn migrate(host: &mut Host) {
        host.namespaces[0].sysctls.ip_local_port_range = (40_000, 60_999);
        host.namespaces[0].sysctls.tcp_migrate_req = true;
    }
    private_network(|| {
        acknowledge_at_once();
        one_processor();
        set_sysctl("net.ipv4.ip_local_port_range", "40000 60999");
        set_sysctl("net.ipv4.tcp_migrate_req", "1");
        let narrow = Alphabet {
            connections: true,
            narrow: true,
            ..WIDE
        };
        compare("migrating", 7000, narrow, migrate);
    });
}

/// A socket remembers the processor of its last segment, so there is only one.
fn one_processor() {
    let mut first = rustix::thread::CpuSet::new();
    first.set(0);
    rustix::thread::sched_setaffinity(None, &first).unwrap();
}

#[test]
fn a_port_returns_to_connect_when_only_its_own_sockets_are_left() {
    private_network(|| {
        set_sysctl("net.ipv4.ip_local_port_range", "40000 40001");
        set_sysctl("net.ipv4.ip_local_reserved_ports", "40001");
        let at = |ip: &str, port| SockAddr::new(ip.parse().unwrap(), port);
        let mut steps = Vec::new();
        for number in 0..6 {
            steps.push(Step::New(Family::Inet));
            steps.push(Step::On(number, Call::Set(Opt::Linger(Some(0)))));
        }
        let listen = |number, port| {
            [Call::Bind(at("127.0.0.1", port)), Call::Listen(5)].map(|call| Step::On(number, call))
        };
        steps.extend(listen(0, 2000));
        steps.extend(listen(1, 2001));
        let to = |number, port| Step::On(number, Call::Connect(at("127.0.0.1", port)));
        steps.extend([
            to(2, 2000),
            // Now bind holds the port too, on another address: connect must not choose it.
            Step::On(3, Call::Bind(at("127.0.0.2", 40_000))),
            to(4, 2001),
            Step::On(3, Call::Close),
            // And now it may.
            to(5, 2001),
        ]);
        let range = |host: &mut Host| {
            let sysctls = &mut host.namespaces[0].sysctls;
            sysctls.ip_local_port_range = (40_000, 40_001);
            sysctls.ip_local_reserved_ports = vec![(40_001, 40_001)];
        };
        let mut tally = Tally::default();
        let agreed = run(&steps, fresh_world(range), &mut tally);
        assert!(agreed.is_ok(), "{agreed:?}");
        // For the refusal, and for who holds the port.
        assert_eq!(tally.coverage.hits(Rule::ConnectNoPort), 2);
        assert_eq!(tally.coverage.hits(Rule::ConnectChose), 2);
    });
}
