//! The same faults before Portcullis and HAProxy, running side by side: each session's line says the
//! same server, termination code and retries.
//!
//! Source:   HAProxy's manual, chapter 8.5, and what its 2.6 writes beside us.
//! Not here: how long each takes (timeouts.rs, queue.rs), what only one of the two promises.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use portcullis_testkit::{Process, private_network, wait_for};

use super::clients::{ask, connect, drain, reset};
use super::harness::{Balancer, DEFAULTS, Place, SOON, haproxy, local, ours_only};
use super::servers::Server;

const OURS: u16 = 8000;
const THEIRS: u16 = 8001;

/// One thread, so that round robin begins at the same server.
fn config(port: u16, lines: &str) -> String {
    let defaults = DEFAULTS
        .replace("nbthread 2", "nbthread 1\n    log stdout format raw local0")
        .replace("mode tcp", "mode tcp\n    log global\n    option tcplog")
        .replace("connect 5s", "connect 100ms");
    format!(
        "{defaults}\nlisten front\n    bind 127.0.0.1:{port}\n    balance roundrobin\n{lines}\n"
    )
}

/// Both, with the same lines; `None` is a visible skip.
fn both(lines: &str) -> Option<[(Balancer, SocketAddr); 2]> {
    let place = Place::new();
    let file = place.write("peer.cfg", &config(THEIRS, lines));
    let theirs = Balancer::spawn(&mut haproxy(&file)?, place, &[local(THEIRS)]);
    let ours = Balancer::start(&config(OURS, lines), &[local(OURS)]);
    Some([(ours, local(OURS)), (theirs, local(THEIRS))])
}

/// What is compared of a session's line: server, code, retries with the `+` of a redispatch, the
/// queues, and which of its waits it never came to (`-1`).
/// The frontend is part of what tells a session: on another one a client may have had this port.
#[track_caller]
fn verdict(process: &mut Process, front: &str, client_port: u16) -> String {
    let client = format!("127.0.0.1:{client_port} [");
    let line = process.wait_line_of(&[&client, &format!("] {front} ")], SOON);
    let words: Vec<&str> = line.split(' ').collect();
    let [_, _, _, server, times, _, code, counts, queues] = words[..] else {
        panic!("no session's line: {line}");
    };
    let retries = counts.rsplit('/').next().unwrap();
    let reached = times.split('/').map(|time| match time {
        "-1" => '-',
        _ => '+',
    });
    let reached: String = reached.collect();
    format!("{server} {code} {retries} {queues} {reached}")
}

fn port(stream: &TcpStream) -> u16 {
    stream.local_addr().unwrap().port()
}

/// What a client does, with the process in case that a line is to be awaited first.
type Deed = fn(SocketAddr, &mut Process) -> u16;

/// Connects, and waits for the end.
fn only_waits(front: SocketAddr, _: &mut Process) -> u16 {
    let mut client = connect(front);
    drain(&mut client);
    port(&client)
}

/// Is served once, and then does nothing.
fn falls_silent(front: SocketAddr, _: &mut Process) -> u16 {
    let mut client = connect(front);
    ask(&mut client, "x");
    drain(&mut client);
    port(&client)
}

fn is_served_and_goes(front: SocketAddr, _: &mut Process) -> u16 {
    let mut client = connect(front);
    ask(&mut client, "x");
    port(&client)
}

fn is_served_and_resets(front: SocketAddr, _: &mut Process) -> u16 {
    let mut client = connect(front);
    ask(&mut client, "x");
    let port = port(&client);
    reset(client);
    port
}

fn speaks_and_waits(front: SocketAddr, _: &mut Process) -> u16 {
    let mut client = connect(front);
    client.write_all(b"x\n").unwrap();
    drain(&mut client);
    port(&client)
}

/// Goes, without a word, while its server is sought.
fn goes_soon(front: SocketAddr, _: &mut Process) -> u16 {
    let client = connect(front);
    std::thread::sleep(Duration::from_millis(60));
    port(&client)
}

fn resets_soon(front: SocketAddr, _: &mut Process) -> u16 {
    let client = connect(front);
    std::thread::sleep(Duration::from_millis(60));
    let port = port(&client);
    reset(client);
    port
}

/// Waits for the queue's end while another one has the server's only place.
fn waits_in_the_queue(front: SocketAddr, _: &mut Process) -> u16 {
    let mut first = connect(front);
    ask(&mut first, "x");
    let mut second = connect(front);
    drain(&mut second);
    port(&second)
}

/// One has the server's only place, one waits for it.
fn finds_the_queue_full(front: SocketAddr, _: &mut Process) -> u16 {
    let mut first = connect(front);
    ask(&mut first, "x");
    let _second = connect(front);
    std::thread::sleep(Duration::from_millis(80));
    let mut third = connect(front);
    drain(&mut third);
    port(&third)
}

fn leaves_the_queue(front: SocketAddr, _: &mut Process) -> u16 {
    let mut first = connect(front);
    ask(&mut first, "x");
    let second = connect(front);
    std::thread::sleep(Duration::from_millis(80));
    port(&second)
}

fn resets_in_the_queue(front: SocketAddr, _: &mut Process) -> u16 {
    let mut first = connect(front);
    ask(&mut first, "x");
    let second = connect(front);
    std::thread::sleep(Duration::from_millis(80));
    let port = port(&second);
    reset(second);
    port
}

fn is_served_after_the_queue(front: SocketAddr, _: &mut Process) -> u16 {
    let mut first = connect(front);
    ask(&mut first, "x");
    let mut second = connect(front);
    second.write_all(b"x\n").unwrap();
    std::thread::sleep(Duration::from_millis(80));
    drop(first);
    assert_eq!(super::clients::read_line(&mut second), "one x");
    port(&second)
}

/// Sends until nobody takes any more, and waits for the end.
fn floods(front: SocketAddr, _: &mut Process) -> u16 {
    let mut client = connect(front);
    let patience = Duration::from_millis(100);
    client.set_write_timeout(Some(patience)).unwrap();
    let junk = [b'x'; 64 * 1024];
    while client.write_all(&junk).is_ok() {}
    drain(&mut client);
    port(&client)
}

/// When the check has found that nobody is there.
fn comes_when_all_are_down(front: SocketAddr, process: &mut Process) -> u16 {
    process.wait_line("has no server available", SOON);
    only_waits(front, process)
}

#[test]
fn the_same_faults_have_haproxys_codes() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let _one = Server::echo(local(9001), "one");
        let _resets = Server::start(local(9002), |mut stream| {
            let mut line = [0; 2];
            let _ = std::io::Read::read(&mut stream, &mut line);
            reset(stream);
        });
        let _mute = Server::start(local(9003), |mut stream| {
            drain(&mut stream);
        });
        let _closes = Server::start(local(9004), drop);
        // Takes a connection and nothing of what comes.
        let _stuck = Server::start(local(9006), |stream| {
            std::thread::sleep(Duration::from_secs(2));
            drop(stream);
        });
        let _slow = Server::start(local(9007), |mut stream| {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(100));
                let _ = stream.write_all(b".");
            }
        });
        // A queue for one, filled: the kernel drops every further SYN.
        let full = TcpListener::bind(local(9005)).unwrap();
        rustix::net::listen(&full, 0).unwrap();
        let _held = fill(local(9005));
        let rows: [(&str, &str, Deed); 27] = [
            (
                "an ordinary session",
                "server s 127.0.0.1:9001",
                is_served_and_goes,
            ),
            ("refused", "retries 0\n server s 127.0.0.1:9999", only_waits),
            (
                "refused, retried",
                "retries 2\n server s 127.0.0.1:9999",
                only_waits,
            ),
            (
                "no answer to a SYN",
                "retries 0\n server s 127.0.0.1:9005",
                only_waits,
            ),
            (
                "no answer, retried",
                "retries 2\n server s 127.0.0.1:9005",
                only_waits,
            ),
            ("no server at all", "", only_waits),
            (
                "in maintenance",
                "server s 127.0.0.1:9001 disabled",
                only_waits,
            ),
            (
                "all are down",
                "server s 127.0.0.1:9999 check inter 50ms fall 1",
                comes_when_all_are_down,
            ),
            ("weight 0", "server s 127.0.0.1:9001 weight 0", only_waits),
            (
                "a reset of the server's",
                "server s 127.0.0.1:9002",
                speaks_and_waits,
            ),
            (
                "closed by the server",
                "server s 127.0.0.1:9004",
                only_waits,
            ),
            (
                "a reset of the client's",
                "server s 127.0.0.1:9001",
                is_served_and_resets,
            ),
            (
                "reset while connecting",
                "timeout connect 3s\n server s 127.0.0.1:9005",
                resets_soon,
            ),
            (
                "gone while connecting",
                "timeout connect 3s\n server s 127.0.0.1:9005",
                goes_soon,
            ),
            (
                "reset between two attempts",
                "timeout connect 3s\n server s 127.0.0.1:9999",
                resets_soon,
            ),
            (
                "reset while queued",
                "timeout queue 5s\n server s 127.0.0.1:9001 maxconn 1",
                resets_in_the_queue,
            ),
            (
                "an idle client",
                "timeout client 200ms\n server s 127.0.0.1:9001",
                falls_silent,
            ),
            (
                "a mute client",
                "timeout client 200ms\n server s 127.0.0.1:9003",
                only_waits,
            ),
            (
                "a mute server",
                "timeout server 200ms\n server s 127.0.0.1:9003",
                speaks_and_waits,
            ),
            (
                "a stuck server",
                "timeout server 300ms\n server s 127.0.0.1:9006",
                floods,
            ),
            (
                "a slow server",
                "timeout server 400ms\n timeout client 400ms\n server s 127.0.0.1:9007",
                only_waits,
            ),
            (
                "a slower server",
                "timeout server 40ms\n server s 127.0.0.1:9007",
                speaks_and_waits,
            ),
            (
                "a full queue",
                "balance source\n timeout queue 1s\n server s 127.0.0.1:9001 maxconn 1 maxqueue 1",
                finds_the_queue_full,
            ),
            (
                "the queue's time",
                "timeout queue 200ms\n server s 127.0.0.1:9001 maxconn 1",
                waits_in_the_queue,
            ),
            (
                "gone while queued",
                "timeout queue 5s\n server s 127.0.0.1:9001 maxconn 1",
                leaves_the_queue,
            ),
            (
                "after the queue",
                "timeout queue 5s\n server s 127.0.0.1:9001 maxconn 1",
                is_served_after_the_queue,
            ),
            (
                "no port left",
                "retries 2\n server s 127.0.0.1:9001 source 203.0.113.1",
                only_waits,
            ),
        ];
        let mut different = Vec::new();
        for (what, lines, deed) in rows {
            let lines = format!("    {}", lines.replace("\n ", "\n    "));
            let Some(pair) = both(&lines) else { return };
            let [ours, theirs] = pair.map(|(mut balancer, front)| {
                let port = deed(front, &mut balancer.process);
                verdict(&mut balancer.process, "front", port)
            });
            println!("{what}: {ours}");
            if ours != theirs {
                different.push(format!("{what}: {ours:?}, HAProxy {theirs:?}"));
            }
        }
        assert!(different.is_empty(), "{}", different.join("\n"));
    });
}

/// Connects until a connection hangs.
fn fill(address: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        held.push(stream);
        assert!(held.len() < 10, "the queue never fills");
    }
    held
}

/// Balance, `option redispatch` with its interval, and `retries`.
fn redispatch_rows() -> Vec<(&'static str, &'static str, u32)> {
    let mut rows = Vec::new();
    for balance in ["roundrobin", "static-rr", "leastconn", "first", "source"] {
        for redispatch in ["no", "", "1", "2", "-1", "-2"] {
            for retries in [0, 1, 3] {
                // HAProxy 2.6 divides by retries + 1 - 2, and is gone.
                if (redispatch, retries) != ("-2", 1) {
                    rows.push((balance, redispatch, retries));
                }
            }
        }
    }
    rows
}

/// One section a row, each on a port of its own from `first` on.
fn redispatch_config(first: u16) -> String {
    let mut text = config(first - 1, "    timeout connect 10ms");
    for (port, (balance, redispatch, retries)) in (first..).zip(redispatch_rows()) {
        let option = match redispatch {
            "no" => String::new(),
            interval => format!("    option redispatch {interval}\n"),
        };
        text += &format!(
            "
listen row{}
    bind 127.0.0.1:{port}
    timeout connect 10ms
    balance {balance}
{option}    retries {retries}
    server s1 127.0.0.1:9999
    server s2 127.0.0.1:9002
",
            port - first
        );
    }
    text
}

#[test]
fn retries_go_elsewhere_when_haproxys_do() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let two = Server::echo(local(9002), "two");
        let place = Place::new();
        let file = place.write("peer.cfg", &redispatch_config(21_000));
        let Some(mut command) = haproxy(&file) else {
            return;
        };
        let mut theirs = Balancer::spawn(&mut command, place, &[local(21_000)]);
        let mut ours = Balancer::start(&redispatch_config(20_000), &[local(20_000)]);
        // The first goes to the server that refuses, unless a hash says otherwise.
        let twice = |balancer: &mut Balancer, first: u16, row: u16| {
            let port = first + row;
            let front = format!("row{row}");
            [(); 2].map(|()| {
                let mut client = connect(local(port));
                drain_after_a_word(&mut client);
                verdict(&mut balancer.process, &front, self::port(&client))
            })
        };
        let mut different = Vec::new();
        let mut elsewhere = 0;
        for (index, row) in (0..).zip(redispatch_rows()) {
            let (here, there) = (
                twice(&mut ours, 20_000, index),
                twice(&mut theirs, 21_000, index),
            );
            elsewhere += here.iter().filter(|line| line.contains(" +")).count();
            if here != there {
                different.push(format!("{row:?}: {here:?}, HAProxy {there:?}"));
            }
        }
        wait_for("all to be gone", SOON, || two.now() == 0);
        assert!(different.is_empty(), "{}", different.join("\n"));
        assert!(elsewhere > 30, "{elsewhere} redispatches");
        ours.stop();
        drop(theirs);
    });
}

/// It may be over before the word is said.
fn drain_after_a_word(client: &mut TcpStream) {
    let _ = client.write_all(b"x\n");
    let _ = client.shutdown(std::net::Shutdown::Write);
    drain(client);
}
