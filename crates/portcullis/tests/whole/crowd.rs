//! More clients than `maxconn` and the kernel's queue have room for, together.
//!
//! Decides:  the kernel drops SYNs, clients ask again, and in the end every one of them is served, by
//!           HAProxy and by us, never more at once than the limit.
//! Kernel:   tcp(7) tcp_abort_on_overflow, off; net/ipv4/tcp_input.c, tcp_conn_request()
//! Not here: a crowd that the queue has room for (limits.rs).

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use portcullis_testkit::{cpu_time, private_network, set_sysctl, wait_for};

use super::clients::{ask, raise_descriptor_limit, with_deadlines};
use super::harness::{Balancer, DEFAULTS, Place, SOON, command, haproxy, local};
use super::outgoing::tcp_counter;
use super::servers::Server;

const CLIENTS: usize = 2_000;
const LIMIT: usize = 1_000;
const BACKLOG: usize = 100;

fn config(port: u16) -> String {
    let head = DEFAULTS
        .replace("nbthread 2", "nbthread 2\n    maxconn 4000")
        .replace("60s", "100s");
    format!(
        "{head}\nlisten front\n    bind 127.0.0.1:{port}\n    maxconn {LIMIT}\n    \
         backlog {BACKLOG}\n    server s1 127.0.0.1:9001\n"
    )
}

#[derive(Default)]
struct Tally {
    leave: AtomicBool,
    served: AtomicUsize,
}

/// Each is served, and stays until all may leave.
fn crowd(front: SocketAddr, tally: &Arc<Tally>) -> Vec<std::thread::JoinHandle<()>> {
    let one = |tally: Arc<Tally>| {
        move || {
            // As long as the kernel asks again: after 1, 3, 7, 15 and 31 s.
            let mut client = with_deadlines(TcpStream::connect(front).unwrap());
            client
                .set_read_timeout(Some(Duration::from_secs(90)))
                .unwrap();
            assert_eq!(ask(&mut client, "x"), "one x");
            tally.served.fetch_add(1, Ordering::SeqCst);
            while !tally.leave.load(Ordering::SeqCst) {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    };
    (0..CLIENTS)
        .map(|_| {
            let thread = std::thread::Builder::new().stack_size(96 * 1024);
            thread.spawn(one(Arc::clone(tally))).unwrap()
        })
        .collect()
}

fn all_are_served(mut balancer: Balancer, front: SocketAddr, server: &Server) {
    let before = (tcp_counter("ListenOverflows"), server.connections());
    let tally = Arc::new(Tally::default());
    let clients = crowd(front, &tally);
    wait_for("the limit to be reached", SOON, || server.now() == LIMIT);
    wait_for("the kernel's queue to overflow", SOON, || {
        tcp_counter("ListenOverflows") > before.0
    });
    // Full, and quiet: nobody gets in, and nothing spins.
    let (idle, begun) = (cpu_time(balancer.pid()), Instant::now());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(server.now(), LIMIT);
    let used = cpu_time(balancer.pid()) - idle;
    assert!(used < begun.elapsed() / 2, "{used:?} spent at the limit");
    tally.leave.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    assert_eq!(tally.served.load(Ordering::SeqCst), CLIENTS);
    assert_eq!(server.connections() - before.1, CLIENTS);
    // A slot is free once the balancer has closed; the server's own count comes a moment later.
    assert!(server.most() <= LIMIT + 50, "{} at once", server.most());
    wait_for("all to be gone", SOON, || server.now() == 0);
    balancer.assert_well();
}

#[test]
fn a_crowd_beyond_limit_and_backlog_is_served_to_the_last_by_haproxy_and_us() {
    private_network(|| {
        if raise_descriptor_limit() < 8192 {
            return portcullis_testkit::skip("needs 8,192 descriptors (`ulimit -Hn`)");
        }
        // A client whose SYN is dropped asks again; cookies would let it in half.
        set_sysctl("net.ipv4.tcp_syncookies", "0");
        set_sysctl("net.ipv4.tcp_abort_on_overflow", "0");
        let server = Server::echo(local(9001), "one");
        let place = Place::new();
        let file = place.write("test.cfg", &config(8000));
        let ours = Balancer::spawn(&mut command(&file), place, &[local(8000)]);
        all_are_served(ours, local(8000), &server);
        let place = Place::new();
        let file = place.write("peer.cfg", &config(8001));
        let Some(mut theirs) = haproxy(&file) else {
            return;
        };
        let theirs = Balancer::spawn(&mut theirs, place, &[local(8001)]);
        all_are_served(theirs, local(8001), &server);
    });
}
