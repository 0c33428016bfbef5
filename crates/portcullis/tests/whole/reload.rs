//! Another configuration in the running process: what changes, what stays, what is refused.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use portcullis_testkit::{Signal, eventually, listening, private_network, wait_for};

use super::clients::{ask, connect, drain};
use super::harness::{Balancer, DEFAULTS, Place, SOON, command, local, ours_only};
use super::servers::Server;

/// A balancer, and the file that it reads.
pub struct Reloaded {
    pub balancer: Balancer,
    pub file: PathBuf,
    asked: usize,
}

impl Reloaded {
    #[track_caller]
    pub fn start(config: &str, ports: &[SocketAddr]) -> Reloaded {
        let place = Place::new();
        let file = place.write("test.cfg", config);
        let mut balancer = Balancer::spawn(&mut command(&file), place, ports);
        // A port answers when the first of its sockets listens.
        balancer.process.wait_line(": serving ", SOON);
        Reloaded::from(balancer, file)
    }

    pub fn from(balancer: Balancer, file: PathBuf) -> Reloaded {
        Reloaded {
            balancer,
            file,
            asked: 0,
        }
    }

    /// How often it was reloaded, and refused.
    pub fn told(&self) -> (usize, usize) {
        let said = self.balancer.process.stderr();
        let count = |words: &str| said.matches(words).count();
        (count(": reloaded in "), count(": reload refused"))
    }

    /// Writes the file as editors and package managers do: nobody reads half of it.
    pub fn write(&self, config: &str) {
        let beside = self.file.with_extension("new");
        std::fs::write(&beside, config).unwrap();
        std::fs::rename(&beside, &self.file).unwrap();
    }

    /// Reloads, and waits for the outcome: true if it was put in place.
    #[track_caller]
    pub fn try_reload(&mut self, signal: Signal) -> bool {
        self.asked += 1;
        let (reloaded, _) = self.told();
        self.balancer.signal(signal);
        let over = eventually(SOON, || {
            let (reloaded, refused) = self.told();
            reloaded + refused >= self.asked
        });
        let said = self.balancer.process.transcript();
        assert!(over, "no outcome of reload {}:\n{said}", self.asked);
        self.told().0 > reloaded
    }

    /// Puts `config` in place.
    #[track_caller]
    pub fn to(&mut self, config: &str) {
        self.write(config);
        let done = self.try_reload(Signal::HUP);
        assert!(done, "{}", self.balancer.process.transcript());
    }

    /// Tries to put `config` in place; the answer is what is said of it.
    #[track_caller]
    pub fn refused(&mut self, config: &str) -> String {
        let before = self.balancer.process.stderr().len();
        self.write(config);
        assert!(!self.try_reload(Signal::HUP), "it was put in place");
        // The report follows.
        std::thread::sleep(Duration::from_millis(100));
        let said = self.balancer.process.stderr();
        said[before.min(said.len())..].to_owned()
    }
}

/// Ports that are listened on in this namespace, with the sockets' inodes.
fn sockets() -> BTreeSet<(u16, u64)> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let lines = table.lines().skip(1);
    let listening = lines.filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let port = words[1].rsplit_once(':')?.1;
        (words[3] == "0A").then(|| {
            let port = u16::from_str_radix(port, 16).unwrap();
            (port, words[9].parse().unwrap())
        })
    });
    listening.filter(|(port, _)| *port < 9000).collect()
}

fn two_servers() -> [Server; 2] {
    [
        Server::echo(local(9001), "one"),
        Server::echo(local(9002), "two"),
    ]
}

/// A `listen` section at `bind` with these `server` lines.
pub fn with(bind: &str, servers: &[&str]) -> String {
    let lines = servers.iter().map(|line| format!("    server {line}\n"));
    format!(
        "{DEFAULTS}\nlisten front\n    bind {bind}\n    balance roundrobin\n{}",
        lines.collect::<String>()
    )
}

pub const ONE: &str = "s1 127.0.0.1:9001";
pub const TWO: &str = "s2 127.0.0.1:9002";
pub const FRONT: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8000);

/// Who answers so many new connections.
#[track_caller]
pub fn answers(count: usize) -> BTreeSet<String> {
    (0..count)
        .map(|_| ask(&mut connect(FRONT), "x").replace(" x", ""))
        .collect()
}

#[test]
fn a_reload_without_a_change_keeps_sockets_sessions_and_turns() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let config = with("127.0.0.1:8000", &[ONE, TWO]);
        let mut it = Reloaded::start(&config, &[FRONT]);
        let before = sockets();
        assert_eq!(before.len(), 2, "a shard for each worker");
        let mut session = connect(FRONT);
        let first = ask(&mut session, "x");
        for signal in [Signal::HUP, Signal::USR2, Signal::HUP, Signal::USR2] {
            assert!(it.try_reload(signal));
        }
        assert_eq!(sockets(), before);
        assert_eq!(ask(&mut session, "x"), first);
        assert_ne!(ask(&mut connect(FRONT), "x"), first, "the other's turn");
        it.balancer.stop();
    });
}

#[test]
fn listeners_come_go_and_get_other_options_and_those_that_stay_are_the_same_sockets() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let mut it = Reloaded::start(&with("127.0.0.1:8000", &[ONE]), &[FRONT]);
        let first = sockets();
        it.to(&with("127.0.0.1:8000,127.0.0.1:8001", &[ONE]));
        let both = sockets();
        assert!(both.is_superset(&first) && both.len() == 4, "{both:?}");
        assert_eq!(ask(&mut connect(local(8001)), "x"), "one x");

        let mut session = connect(local(8001));
        assert_eq!(ask(&mut session, "before"), "one before");
        it.to(&with("127.0.0.1:8000", &[ONE]));
        assert!(eventually(SOON, || !listening(local(8001))));
        assert_eq!(sockets(), first);
        assert_eq!(ask(&mut session, "after"), "one after");

        it.to(&with("127.0.0.1:8000 backlog 77 mss 900", &[ONE]));
        assert_eq!(sockets(), first, "options do not need another socket");
        assert_eq!(backlogs(), [77, 77]);
        it.to(&with("127.0.0.1:8000", &[ONE]));
        assert_eq!(sockets(), first);
        assert_eq!(backlogs(), [1024, 1024]);

        it.to(&with("127.0.0.1:8000 interface lo", &[ONE]));
        wait_for("the old sockets to close", SOON, || sockets().len() == 2);
        assert!(sockets().is_disjoint(&first), "a device does");
        assert_eq!(answers(4).len(), 1);
        it.balancer.stop();
    });
}

/// The backlogs of port 8000, as ss(8) shows them.
fn backlogs() -> Vec<u32> {
    let Some(ss) = portcullis_testkit::need_program("ss") else {
        return vec![];
    };
    let said = std::process::Command::new(ss)
        .arg("-ltnH")
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let lines = said.lines().filter(|line| line.contains(":8000 "));
    lines
        .map(|line| line.split_whitespace().nth(2).unwrap().parse().unwrap())
        .collect()
}

#[test]
fn servers_come_and_go_and_sessions_of_those_that_are_gone_end_by_themselves() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let mut it = Reloaded::start(&with("127.0.0.1:8000", &[ONE]), &[FRONT]);
        assert_eq!(answers(4), ["one".to_owned()].into());
        it.to(&with("127.0.0.1:8000", &[ONE, TWO]));
        assert_eq!(answers(4).len(), 2);
        let mut session = connect(FRONT);
        while ask(&mut session, "who") != "one who" {
            session = connect(FRONT);
        }
        it.to(&with("127.0.0.1:8000", &[TWO]));
        assert_eq!(answers(6), ["two".to_owned()].into());
        assert_eq!(ask(&mut session, "still"), "one still");
        // The same name elsewhere, and another weight: none goes to it.
        it.to(&with("127.0.0.1:8000", &["s2 127.0.0.1:9001"]));
        assert_eq!(answers(6), ["one".to_owned()].into());
        it.to(&with(
            "127.0.0.1:8000",
            &["s1 127.0.0.1:9001 weight 0", TWO],
        ));
        assert_eq!(answers(6), ["two".to_owned()].into());
        assert_eq!(ask(&mut session, "and still"), "one and still");
        it.balancer.stop();
    });
}

#[test]
fn a_server_that_is_gone_ends_its_sessions_where_the_file_says_so() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let ending = "s1 127.0.0.1:9001 on-marked-down shutdown-sessions";
        let mut it = Reloaded::start(&with("127.0.0.1:8000", &[ending]), &[FRONT]);
        let mut session = connect(FRONT);
        assert_eq!(ask(&mut session, "who"), "one who");
        it.to(&with("127.0.0.1:8000", &[TWO]));
        drain(&mut session);
        assert_eq!(answers(2), ["two".to_owned()].into());
        it.balancer.stop();
    });
}

#[test]
fn limits_count_old_and_new_sessions_together() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let limited = |maxconn: u32| {
            let server = format!("s1 127.0.0.1:9001 maxconn {maxconn}");
            with("127.0.0.1:8000", &[&server])
        };
        let mut it = Reloaded::start(&limited(2), &[FRONT]);
        let mut old: Vec<TcpStream> = (0..2).map(|_| connect(FRONT)).collect();
        for session in &mut old {
            assert_eq!(ask(session, "old"), "one old");
        }
        it.to(&limited(3));
        let mut third = connect(FRONT);
        assert_eq!(ask(&mut third, "third"), "one third");
        let mut waits = connect(FRONT);
        std::io::Write::write_all(&mut waits, b"waits\n").unwrap();
        it.to(&limited(2));
        // Two must go before there is room under the new limit.
        old.pop();
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(server.most(), 3);
        assert_eq!(server.connections(), 3);
        old.pop();
        assert_eq!(super::clients::read_line(&mut waits), "one waits");
        // A raised limit lets in at once who waits.
        let mut next = connect(FRONT);
        std::io::Write::write_all(&mut next, b"next\n").unwrap();
        it.to(&limited(3));
        assert_eq!(super::clients::read_line(&mut next), "one next");
        assert_eq!(server.most(), 3);
        it.balancer.stop();
    });
}

#[test]
fn health_is_kept_and_nobody_is_sent_to_a_server_that_is_down() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _two = Server::echo(local(9002), "two");
        let check = " check inter 100ms fall 1 rise 2";
        let config = |weight: u32, port: u16| {
            let down = format!("s1 127.0.0.1:9001{check} weight {weight}");
            let bind = format!("127.0.0.1:8000,127.0.0.1:{port}");
            // Without a retry elsewhere a session for it would end.
            with(&bind, &[&down, TWO])
                .replace("timeout connect 5s", "timeout connect 5s\n    retries 0")
        };
        let mut it = Reloaded::start(&config(1, 8001), &[FRONT]);
        let down = |it: &Reloaded| it.balancer.process.stderr().matches("s1 is DOWN").count();
        wait_for("the check", SOON, || down(&it) == 1);
        for round in 0..10 {
            it.to(&config(2 + round, 8002 + round as u16 % 2));
            assert_eq!(answers(6), ["two".to_owned()].into());
        }
        assert_eq!(down(&it), 1, "it was never up in between");
        let _one = Server::echo(local(9001), "one");
        wait_for("the server to come up", SOON, || answers(3).len() == 2);
        it.balancer.stop();
    });
}

#[test]
fn a_broken_a_missing_and_an_empty_file_change_nothing_and_the_report_is_that_of_check() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let good = with("127.0.0.1:8000", &[ONE]);
        let mut it = Reloaded::start(&good, &[FRONT]);
        let before = sockets();
        let broken = format!("{}\n    bogus\n", with("127.0.0.1:8001", &[TWO]));
        let said = it.refused(&broken);
        let check = super::harness::portcullis()
            .args(["check", "--offline", "-f"])
            .arg(&it.file)
            .output()
            .unwrap();
        for line in String::from_utf8(check.stderr).unwrap().lines() {
            assert!(said.contains(line), "{line}\nis not in\n{said}");
        }
        assert!(said.contains("unknown keyword `bogus`"), "{said}");
        std::fs::remove_file(&it.file).unwrap();
        assert!(!it.try_reload(Signal::HUP));
        let said = it.refused(DEFAULTS);
        assert!(said.contains("nothing to run"), "{said}");
        assert_eq!(sockets(), before);
        assert_eq!(answers(4), ["one".to_owned()].into());
        it.to(&with("127.0.0.1:8000", &[TWO]));
        assert_eq!(answers(4), ["two".to_owned()].into());
        it.balancer.stop();
    });
}

#[test]
fn a_port_that_is_taken_changes_nothing_and_healthy_ones_go_on() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let held = TcpListener::bind(local(8003)).unwrap();
        let mut it = Reloaded::start(&with("127.0.0.1:8000", &[ONE]), &[FRONT]);
        let before = sockets();
        let wanted = with(
            "127.0.0.1:8000 backlog 9,127.0.0.1:8002,127.0.0.1:8003",
            &[TWO],
        )
        .replace(
            "bind 127.0.0.1:8000 backlog 9,",
            "bind 127.0.0.1:8000 backlog 9\n    bind ",
        );
        let said = it.refused(&wanted);
        assert!(said.contains("127.0.0.1:8003"), "{said}");
        assert!(said.contains("EADDRINUSE"), "{said}");
        assert_eq!(sockets(), before);
        assert_eq!(backlogs(), [1024, 1024]);
        assert!(!listening(local(8002)));
        assert_eq!(answers(4), ["one".to_owned()].into());
        drop(held);
        it.to(&wanted);
        assert_eq!(ask(&mut connect(local(8003)), "x"), "two x");
        assert_eq!(answers(4), ["two".to_owned()].into());
        it.balancer.stop();
    });
}

#[test]
fn what_cannot_change_is_refused_or_told_and_stays() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let good = with("127.0.0.1:8000", &[ONE]);
        let mut it = Reloaded::start(&good, &[FRONT]);
        let before = sockets();
        for (line, word) in [("uid 4711", "user"), ("chroot /", "chroot")] {
            let other = good.replace("nbthread 2", &format!("nbthread 2\n    {line}"));
            let said = it.refused(&other);
            let words = format!("`{word}` cannot change while the process runs");
            assert!(said.contains(&words), "{said}");
        }
        let other = with("127.0.0.1:8000", &[TWO])
            .replace("nbthread 2", "nbthread 2\n    pidfile /tmp/elsewhere.pid");
        it.to(&other);
        assert_eq!(answers(2), ["two".to_owned()].into(), "the rest is new");
        assert_eq!(sockets(), before);
        let said = it.balancer.process.stderr();
        assert!(said.contains("`pidfile` stays as it was"), "{said}");
        assert!(!std::path::Path::new("/tmp/elsewhere.pid").exists());
        it.balancer.stop();
    });
}

#[test]
fn a_paused_balancer_reloads_and_stays_paused() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _servers = two_servers();
        let mut it = Reloaded::start(&with("127.0.0.1:8000,127.0.0.1:8001", &[ONE]), &[FRONT]);
        it.balancer.signal(Signal::TTOU);
        wait_for("the pause", SOON, || {
            it.balancer.process.stderr().contains("paused:")
        });
        let mut kept = connect(FRONT);
        let mut gone = connect(local(8001));
        it.to(&with("127.0.0.1:8000", &[TWO]));
        for client in [&mut kept, &mut gone] {
            client.set_nonblocking(true).unwrap();
            std::io::Write::write_all(client, b"x\n").unwrap();
            assert!(std::io::Read::read(client, &mut [0]).is_err());
            client.set_nonblocking(false).unwrap();
        }
        it.balancer.signal(Signal::TTIN);
        assert_eq!(super::clients::read_line(&mut kept), "two x");
        assert_eq!(
            super::clients::read_line(&mut gone),
            "two x",
            "by the servers of now"
        );
        assert!(eventually(SOON, || !listening(local(8001))));
        it.balancer.stop();
    });
}
