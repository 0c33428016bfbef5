//! Listeners come and go under full load: is one client lost?
//!
//! Decides:  nothing.
//! Kernel:   the live one.
//! Not here: the machine alone (src/retire/tests.rs); single connections (leaving.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod load;

use std::time::Duration;

use load::{Habits, Load, Site, Tally, WEB, spec};
use portcullis_listener::pause;
use portcullis_listener::retire::Way;
use portcullis_listener::steer::{Choice, Program};
use portcullis_testkit::{forgo_net_admin, private_network, set_sysctl};

/// Clients that connect, answer, and say nothing for a moment: half-open where accepting is deferred.
const CROWD: Habits = Habits {
    clients: 8,
    fast_open: false,
    silence: Duration::from_millis(2),
};

/// Every set of shards but none and all, several times, and each order of those that leave.
fn rounds(count: usize) -> impl Iterator<Item = Vec<u32>> {
    let sets = (1u32..15).cycle().take(count);
    sets.enumerate().map(|(round, set)| {
        let mut leaving: Vec<u32> = (0..4).filter(|bit| set >> bit & 1 == 1).collect();
        let turn = round % leaving.len();
        leaving.rotate_left(turn);
        leaving
    })
}

fn none_lost(tally: &Tally) {
    assert_eq!(tally.lost(), 0, "{tally:?}");
}

/// Says how many clients were lost.
fn come_and_go(mut site: Site, habits: Habits, count: usize) -> u64 {
    let load = Load::start(site.address, habits);
    load.more(50);
    for leaving in rounds(count) {
        site.retire(&leaving);
        for shard in leaving {
            site.add(shard);
        }
        load.more(10);
    }
    site.servers.accepted.lock().unwrap().clear();
    load.more(200);
    let accepted = site.servers.accepted.lock().unwrap().clone();
    let tally = load.finish();
    none_lost(&tally);
    assert!(accepted.values().all(|count| *count > 0), "{accepted:?}");
    let (served, lost) = (tally.served(), tally.lost());
    eprintln!("{count} rounds, {served} clients served, {lost} lost");
    site.servers.finish();
    lost
}

#[test]
fn shards_retire_and_open_again_fifty_times_and_no_client_is_lost() {
    private_network(|| {
        come_and_go(Site::open(spec(WEB), 4), CROWD, 50);
    });
}

#[test]
fn the_same_closed_plainly_loses_clients() {
    private_network(|| {
        let mut site = Site::open(spec(WEB), 4);
        let load = Load::start(site.address, CROWD);
        load.more(50);
        for leaving in rounds(50) {
            site.close_plainly(&leaving);
            for shard in leaving {
                site.add(shard);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let tally = load.finish();
        assert!(tally.lost() > 0, "{tally:?}");
        eprintln!("50 rounds: {tally:?}");
        site.servers.finish();
    });
}

#[test]
fn shards_by_cpu_retire_and_no_client_is_lost() {
    private_network(|| {
        let mut site = Site::open(spec(WEB), 4);
        site.choice = Choice::ByCpu(vec![0, 1, 2, 3]);
        let program = Program::new(&site.order, &[0, 1, 2, 3], &site.choice).unwrap();
        program.attach(&site.servers.sockets()[&0]).unwrap();
        let load = Load::start(site.address, CROWD);
        for leaving in rounds(10) {
            site.retire(&leaving);
            for shard in leaving {
                site.add(shard);
            }
            load.more(10);
        }
        let tally = load.finish();
        none_lost(&tally);
        site.servers.finish();
    });
}

#[test]
fn where_connections_migrate_shards_retire_without_waiting() {
    private_network(|| {
        set_sysctl("net.ipv4.tcp_migrate_req", "1");
        come_and_go(Site::open(spec(WEB), 4), CROWD, 15);
    });
}

#[test]
fn clients_that_connect_by_cookie_are_not_lost() {
    private_network(|| {
        set_sysctl("net.ipv4.tcp_syncookies", "2");
        come_and_go(Site::open(spec(WEB), 4), CROWD, 15);
    });
}

#[test]
fn clients_that_send_with_their_syn_are_not_lost() {
    private_network(|| {
        set_sysctl("net.ipv4.tcp_fastopen", "3");
        let mut spec = spec(WEB);
        spec.fast_open = Some(portcullis_listener::spec::FastOpenQueue::Length(64));
        let mut habits = CROWD;
        habits.fast_open = true;
        come_and_go(Site::open(spec, 4), habits, 15);
        let counters = std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
        let mut lines = counters.lines().filter(|line| line.starts_with("TcpExt:"));
        let names: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let values: Vec<&str> = lines.next().unwrap().split(' ').collect();
        let at = names.iter().position(|name| *name == "TCPFastOpenPassive");
        let passive: u64 = values[at.unwrap()].parse().unwrap();
        assert!(passive > 0, "no client did so");
    });
}

#[test]
fn ipv6_shards_retire_too() {
    private_network(|| {
        let mut wildcard = spec("[::]:443");
        wildcard.ipv6_only = Some(portcullis_listener::spec::Ipv6Only::Off);
        let mut site = Site::open(wildcard, 4);
        // The clients are IPv4, of a group beside which an IPv4 group would be another one.
        site.address = WEB.parse().unwrap();
        come_and_go(site, CROWD, 15);
    });
}

fn pause_twenty_times() {
    let site = Site::open(spec(WEB), 1);
    let mut many = CROWD;
    many.clients = 32; // Most of them wait for their next SYN.
    let load = Load::start(site.address, many);
    load.more(50);
    let socket = &site.servers.sockets()[&0];
    for _ in 0..20 {
        pause::pause(socket).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        assert!(pause::resume(socket).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
    load.more(50);
    let tally = load.finish();
    none_lost(&tally);
    eprintln!("20 pauses, {} clients served, 0 lost", tally.served());
    site.servers.finish();
}

#[test]
fn the_last_listener_pauses_twenty_times_and_no_client_is_lost() {
    private_network(pause_twenty_times);
}

#[test]
fn the_last_listener_of_an_ordinary_user_pauses_and_no_client_is_lost() {
    private_network(|| {
        forgo_net_admin();
        pause_twenty_times();
    });
}

#[test]
fn shards_of_an_ordinary_user_retire_and_no_client_is_lost() {
    private_network(|| {
        forgo_net_admin();
        come_and_go(Site::open(spec(WEB), 4), CROWD, 15);
    });
}

fn come_and_go_by_filters() {
    let mut site = Site::open(spec(WEB), 4);
    let load = Load::start(site.address, CROWD);
    load.more(50);
    for leaving in rounds(10) {
        let mut driver = site.driver(&leaving, None);
        let somebody_stays = true;
        assert_eq!(driver.retirement().way(), &Way::Filter { somebody_stays });
        let outcome = site.run(&mut driver);
        assert_eq!(outcome.closed.len(), leaving.len());
        for shard in leaving {
            site.order.left(shard);
            site.add(shard);
        }
        load.more(8);
    }
    let tally = load.finish();
    none_lost(&tally);
    site.servers.finish();
}

/// Their order is not known, as of sockets that were inherited: a client may wait a second, and is not lost.
#[test]
fn shards_of_unknown_order_retire_by_filters() {
    private_network(come_and_go_by_filters);
}

#[test]
fn shards_of_unknown_order_of_an_ordinary_user_retire_without_filters() {
    private_network(|| {
        forgo_net_admin();
        come_and_go_by_filters();
    });
}

/// Not in CI, for its length: `cargo xtask long thousand`.
#[test]
#[ignore = "a minute"]
fn a_thousand_rounds() {
    private_network(|| assert_eq!(come_and_go(Site::open(spec(WEB), 4), CROWD, 1000), 0));
}
