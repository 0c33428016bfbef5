//! Which server gets which connection: the same as HAProxy's choice, one by one.
//!
//! Not here: `random`, which is random; exactness over several workers (the balance crate).

use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use portcullis_testkit::{private_network, wait_for};

use super::bytes::Stream;
use super::clients::{ask, connect, connect_from};
use super::harness::{Balancer, DEFAULTS, Place, SOON, command, haproxy, local};
use super::servers::Server;

const OURS: u16 = 8000;
const THEIRS: u16 = 8001;

/// Both with one thread: HAProxy's order depends on it.
fn config(port: u16, balance: &str, servers: &[(&Server, &str)]) -> String {
    let lines = servers
        .iter()
        .enumerate()
        .map(|(index, (server, options))| {
            format!("    server s{index} {} {options}\n", server.address)
        });
    let defaults = DEFAULTS.replace("nbthread 2", "nbthread 1");
    format!(
        "{defaults}\nlisten front\n    bind 127.0.0.1:{port}\n    balance {balance}\n{}",
        lines.collect::<String>()
    )
}

fn both(balance: &str, servers: &[(&Server, &str)]) -> Option<(Balancer, Balancer)> {
    let ours = Balancer::start(&config(OURS, balance, servers), &[local(OURS)]);
    let place = Place::new();
    let file = place.write("peer.cfg", &config(THEIRS, balance, servers));
    let theirs = Balancer::spawn(&mut haproxy(&file)?, place, &[local(THEIRS)]);
    Some((ours, theirs))
}

#[track_caller]
fn who(stream: &mut TcpStream) -> String {
    ask(stream, "who").replace(" who", "")
}

/// One connection after the other, each closed before the next.
#[track_caller]
fn sequence(front: SocketAddr, count: usize, servers: &[Server]) -> Vec<String> {
    let mut names = Vec::new();
    for _ in 0..count {
        let mut client = connect(front);
        names.push(who(&mut client));
        drop(client);
        wait_for("the session to end", SOON, || {
            servers.iter().all(|server| server.now() == 0)
        });
    }
    names
}

#[test]
fn round_robins_take_the_servers_in_haproxys_order() {
    private_network(|| {
        let servers: Vec<_> = (0..3)
            .map(|index| Server::echo(local(9001 + index), &format!("n{index}")))
            .collect();
        for balance in ["roundrobin", "static-rr"] {
            for weights in [
                ["", "", ""],
                ["weight 1", "weight 2", "weight 3"],
                ["weight 5", "", "weight 0"],
            ] {
                let list: Vec<_> = servers.iter().zip(weights).collect();
                let Some((ours, theirs)) = both(balance, &list) else {
                    return;
                };
                let here = sequence(local(OURS), 24, &servers);
                let there = sequence(local(THEIRS), 24, &servers);
                assert_eq!(here, there, "{balance} {weights:?}");
                ours.stop();
                drop(theirs);
            }
        }
    });
}

#[test]
fn hashes_of_the_clients_address_choose_as_haproxys_do() {
    private_network(|| {
        let servers: Vec<_> = (0..3)
            .map(|index| Server::echo(local(9001 + index), &format!("n{index}")))
            .collect();
        let weights = ["weight 1", "weight 3", "weight 2 id 17"];
        let list: Vec<_> = servers.iter().zip(weights).collect();
        for balance in [
            "source",
            "source\n    hash-type map-based sdbm avalanche",
            "source\n    hash-type consistent",
            "hash src\n    hash-type map-based djb2",
            "hash src,ipmask(24)\n    hash-type consistent wt6 avalanche",
            "hash src\n    hash-type consistent crc32",
        ] {
            let Some((ours, theirs)) = both(balance, &list) else {
                return;
            };
            let of = |front: SocketAddr| -> Vec<String> {
                (0..60)
                    .map(|n| Ipv4Addr::new(127, 1 + n % 3, n, 7))
                    .map(|source| who(&mut connect_from(source, front)))
                    .collect()
            };
            let (here, there) = (of(local(OURS)), of(local(THEIRS)));
            assert_eq!(here, there, "{balance}");
            assert!(
                here.iter().any(|name| *name != here[0]),
                "{balance}: one server"
            );
            ours.stop();
            drop(theirs);
        }
    });
}

#[test]
fn first_fills_one_server_after_the_other() {
    private_network(|| {
        let servers: Vec<_> = (0..3)
            .map(|index| Server::echo(local(9001 + index), &format!("n{index}")))
            .collect();
        let options = ["maxconn 3 id 9", "maxconn 2 id 4", "maxconn 9 id 30"];
        let list: Vec<_> = servers.iter().zip(options).collect();
        let Some((ours, theirs)) = both("first", &list) else {
            return;
        };
        let of = |front: SocketAddr| -> Vec<usize> {
            let mut held: Vec<_> = (0..8).map(|_| connect(front)).collect();
            for client in &mut held {
                who(client);
            }
            let counts = servers.iter().map(Server::now).collect();
            drop(held);
            wait_for("all sessions to end", SOON, || {
                servers.iter().all(|server| server.now() == 0)
            });
            counts
        };
        assert_eq!(of(local(OURS)), [3, 2, 3]);
        assert_eq!(of(local(THEIRS)), [3, 2, 3]);
        ours.stop();
        drop(theirs);
    });
}

#[test]
fn leastconn_takes_the_servers_that_haproxy_takes() {
    private_network(|| {
        let servers: Vec<_> = (0..4)
            .map(|index| Server::echo(local(9001 + index), &format!("n{index}")))
            .collect();
        for weights in [
            ["", "", "", ""],
            ["weight 1", "weight 2", "weight 3", "weight 1"],
        ] {
            let list: Vec<_> = servers.iter().zip(weights).collect();
            let Some((ours, theirs)) = both("leastconn", &list) else {
                return;
            };
            let here = held_tallies(local(OURS), &servers);
            let there = held_tallies(local(THEIRS), &servers);
            assert_eq!(here, there, "{weights:?}");
            ours.stop();
            drop(theirs);
        }
    });
}

/// How many connections each server has while 40 are opened and a known half is closed and opened
/// again.
#[track_caller]
fn held_tallies(front: SocketAddr, servers: &[Server]) -> Vec<Vec<usize>> {
    let mut tallies = Vec::new();
    let mut held = Vec::new();
    let total = |servers: &[Server]| servers.iter().map(Server::now).sum::<usize>();
    let open = |held: &mut Vec<(String, TcpStream)>| {
        let mut client = connect(front);
        let name = who(&mut client);
        held.push((name, client));
    };
    for _ in 0..40 {
        open(&mut held);
    }
    tallies.push(servers.iter().map(Server::now).collect());
    let mut random = Stream::new(11);
    for _ in 0..20 {
        // By name, so that both balancers lose connections to the same servers.
        let name = format!("n{}", random.below(servers.len() as u64));
        if let Some(index) = held.iter().position(|(holder, _)| *holder == name) {
            held.remove(index);
            wait_for("the session to end", SOON, || total(servers) == held.len());
        }
    }
    tallies.push(servers.iter().map(Server::now).collect());
    while held.len() < 40 {
        open(&mut held);
    }
    tallies.push(servers.iter().map(Server::now).collect());
    drop(held);
    wait_for("all sessions to end", SOON, || total(servers) == 0);
    tallies
}

#[test]
fn equal_servers_differ_by_one_at_most_over_two_workers() {
    private_network(|| {
        let servers: Vec<_> = (0..3)
            .map(|index| Server::echo(local(9001 + index), &format!("n{index}")))
            .collect();
        for balance in ["roundrobin", "leastconn", "static-rr"] {
            let list: Vec<_> = servers.iter().map(|server| (server, "")).collect();
            let config = config(OURS, balance, &list).replace("nbthread 1", "nbthread 2");
            let place = Place::new();
            let file = place.write("test.cfg", &config);
            let balancer = Balancer::spawn(&mut command(&file), place, &[local(OURS)]);
            let mut held: Vec<_> = (0..100).map(|_| connect(local(OURS))).collect();
            for client in &mut held {
                who(client);
            }
            let counts: Vec<_> = servers.iter().map(Server::now).collect();
            let (most, least) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
            assert!(most - least <= 1, "{balance}: {counts:?}");
            drop(held);
            wait_for("all sessions to end", SOON, || {
                servers.iter().all(|server| server.now() == 0)
            });
            balancer.stop();
        }
    });
}

#[test]
fn a_backup_serves_only_when_no_other_server_can() {
    private_network(|| {
        let main = Server::echo(local(9001), "main");
        let spare = Server::echo(local(9002), "spare");
        let list = [
            (&main, "check inter 100ms fall 1 rise 1"),
            (&spare, "backup"),
        ];
        let place = Place::new();
        let file = place.write("test.cfg", &config(OURS, "roundrobin", &list));
        let balancer = Balancer::spawn(&mut command(&file), place, &[local(OURS)]);
        for _ in 0..6 {
            assert_eq!(who(&mut connect(local(OURS))), "main");
        }
        main.stop_listening();
        wait_for("the spare to take over", SOON, || {
            who(&mut connect(local(OURS))) == "spare"
        });
        assert_eq!(who(&mut connect(local(OURS))), "spare");
        balancer.stop();
    });
}

/// Waits for a line of the log that was not there before.
#[track_caller]
fn wait_new_line(balancer: &mut Balancer, text: &str, before: usize) {
    let count = |balancer: &Balancer| balancer.process.stdout().matches(text).count();
    wait_for(text, SOON, || count(balancer) > before);
}

#[test]
fn after_a_server_went_and_came_back_the_choices_are_still_haproxys() {
    private_network(|| {
        let weights = ["weight 1", "weight 2", "weight 3"];
        for balance in [
            "roundrobin",
            "static-rr",
            "leastconn",
            "first",
            "source",
            "source\n    hash-type consistent",
            "hash src,ipmask(24)\n    hash-type map-based djb2 avalanche",
        ] {
            let mut servers: Vec<_> = (0..3)
                .map(|index| Server::echo(local(9001 + index), &format!("n{index}")))
                .collect();
            let options = weights.map(|weight| format!("{weight} check inter 100ms fall 1 rise 1"));
            let list: Vec<_> = servers
                .iter()
                .zip(options.iter().map(String::as_str))
                .collect();
            let logged = |port| {
                config(port, balance, &list)
                    .replace("nbthread 1", "nbthread 1\n    log stdout format raw local0")
                    .replace("mode tcp", "mode tcp\n    log global\n    timeout check 2s")
            };
            let place = Place::new();
            let file = place.write("test.cfg", &logged(OURS));
            let ours = Balancer::spawn(&mut command(&file), place, &[local(OURS)]);
            let place = Place::new();
            let file = place.write("peer.cfg", &logged(THEIRS));
            let Some(mut peer) = haproxy(&file) else {
                return;
            };
            let theirs = Balancer::spawn(&mut peer, place, &[local(THEIRS)]);
            let mut both = [(ours, local(OURS)), (theirs, local(THEIRS))];
            let mut seen = [const { Vec::new() }; 2];
            for (round, gone) in [(0, 1_usize), (0, 0), (1, 1)] {
                servers[gone].stop_listening();
                for (balancer, _) in &mut both {
                    wait_new_line(balancer, &format!("front/s{gone} is DOWN"), round);
                }
                follow(&both, &servers, &mut seen);
                let address = servers[gone].address;
                servers[gone] = Server::echo(address, &format!("n{gone}"));
                for (balancer, _) in &mut both {
                    wait_new_line(balancer, &format!("front/s{gone} is UP"), round);
                }
                follow(&both, &servers, &mut seen);
            }
            let [here, there] = &seen;
            assert_eq!(here, there, "{balance}");
            assert!(here.iter().any(|name| *name != here[0]), "{balance}");
            let [(ours, _), (theirs, _)] = both;
            ours.stop();
            drop(theirs);
            servers.iter().for_each(Server::stop_listening);
        }
    });
}

/// A dozen clients with addresses of their own, one after the other.
fn follow(both: &[(Balancer, SocketAddr); 2], servers: &[Server], seen: &mut [Vec<String>; 2]) {
    for ((_, front), names) in both.iter().zip(seen) {
        for n in 0..12 {
            let mut client = connect_from(Ipv4Addr::new(127, 1, n * 17, 7), *front);
            names.push(who(&mut client));
            drop(client);
            // The balancer's count falls when it sees the end, soon before or after the server does.
            wait_for("the session to end", SOON, || {
                servers.iter().all(|server| server.now() == 0)
            });
            std::thread::sleep(std::time::Duration::from_millis(15));
        }
    }
}
