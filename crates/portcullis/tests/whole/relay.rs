//! Bytes and endings go through: half-close, resets, back-pressure, bulk.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use portcullis_testkit::{cpu_time, eventually, private_network, rss_kib, set_sysctl, wait_for};

use super::bytes;
use super::clients::{End, ask, connect, drain, reset};
use super::harness::{Balancer, SOON, listen, local, ours_only};
use super::servers::Server;

const FRONT: u16 = 8000;
const MIB: usize = 1024 * 1024;

#[test]
fn client_half_close_reaches_the_server_and_its_answer_still_comes() {
    private_network(|| {
        let server = Server::start(local(9001), |mut stream| {
            assert_eq!(
                bytes::expect(&stream, 1).unwrap(),
                100_000,
                "all of it, then the end"
            );
            bytes::send(&mut stream, 2, 3 * MIB).unwrap();
        });
        let balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        for _ in 0..20 {
            let mut client = connect(local(FRONT));
            bytes::send(&mut client, 1, 100_000).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(bytes::expect(&client, 2).unwrap(), 3 * MIB);
        }
        server.assert_well();
        balancer.stop();
    });
}

#[test]
fn server_half_close_reaches_the_client_and_its_bytes_still_go() {
    private_network(|| {
        let (done, finished) = mpsc::channel();
        let done = std::sync::Mutex::new(done);
        let server = Server::start(local(9001), move |mut stream| {
            bytes::send(&mut stream, 3, 50_000).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
            let received = bytes::expect(&stream, 4).unwrap();
            done.lock().unwrap().send(received).unwrap();
        });
        let balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        for _ in 0..20 {
            let mut client = connect(local(FRONT));
            assert_eq!(bytes::expect(&client, 3).unwrap(), 50_000);
            bytes::send(&mut client, 4, 3 * MIB).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(finished.recv_timeout(SOON).unwrap(), 3 * MIB);
        }
        server.assert_well();
        balancer.stop();
    });
}

const BULK: usize = 30 * MIB + 4321;

#[test]
fn thirty_megabytes_each_way_at_once_arrive_byte_for_byte() {
    private_network(|| {
        bulk_both_ways(|stream, sends, expects| {
            let sending = sender(stream, sends);
            let limited = stream.take(BULK as u64);
            assert_eq!(bytes::expect(limited, expects).unwrap(), BULK);
            sending.join().unwrap();
            // Both have all of it: only now they take their leave.
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(drain(&mut stream.try_clone().unwrap()), (0, End::Closed));
        });
    });
}

/// Each side says that it is done while the other still sends. HAProxy 2.6.12 ends such sessions now
/// and then with bytes missing (its log says `--`); without a balancer this test passes.
#[test]
fn thirty_megabytes_each_way_arrive_although_both_sides_half_close_meanwhile() {
    if ours_only() {
        return;
    }
    private_network(|| {
        bulk_both_ways(|stream, sends, expects| {
            let sending = sender(stream, sends);
            let closing = stream.try_clone().unwrap();
            let sending = std::thread::spawn(move || {
                sending.join().unwrap();
                closing.shutdown(Shutdown::Write).unwrap();
            });
            assert_eq!(bytes::expect(stream, expects).unwrap(), BULK);
            sending.join().unwrap();
        });
    });
}

fn sender(stream: &TcpStream, seed: u64) -> std::thread::JoinHandle<()> {
    let stream = stream.try_clone().unwrap();
    std::thread::spawn(move || bytes::send(&stream, seed, BULK).unwrap())
}

/// Two clients and a server that each do the same: (stream, seed to send, seed to expect).
fn bulk_both_ways(exchange: fn(&TcpStream, u64, u64)) {
    let server = Server::start(local(9001), move |stream| exchange(&stream, 5, 6));
    let balancer = Balancer::start(
        &listen("127.0.0.1:8000", &[server.address]),
        &[local(FRONT)],
    );
    let clients: Vec<_> = (0..2)
        .map(|_| std::thread::spawn(move || exchange(&connect(local(FRONT)), 6, 5)))
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    wait_for("the server to be done", SOON, || server.now() == 0);
    server.assert_well();
    balancer.stop();
}

#[test]
fn small_messages_back_and_forth_are_not_delayed() {
    private_network(|| {
        let server = Server::echo(local(9001), "one");
        let balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        let mut client = connect(local(FRONT));
        client.set_nodelay(true).unwrap();
        assert_eq!(ask(&mut client, "warm"), "one warm");
        let begun = std::time::Instant::now();
        for turn in 0..200 {
            assert_eq!(ask(&mut client, &turn.to_string()), format!("one {turn}"));
        }
        // A delayed acknowledgement meeting Nagle costs 40 ms a turn: 8 s.
        assert!(
            begun.elapsed() < Duration::from_secs(4),
            "{:?}",
            begun.elapsed()
        );
        balancer.stop();
    });
}

#[test]
fn a_slow_reader_stops_the_sender_and_costs_bounded_memory() {
    private_network(|| {
        const LENGTH: usize = 96 * MIB;
        small_socket_buffers();
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let server = Server::start(local(9001), move |stream| {
            let counted = Counted {
                stream,
                counter: Arc::clone(&counter),
            };
            bytes::send(counted, 7, LENGTH).unwrap();
        });
        let mut balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        let before = rss_kib(balancer.pid());
        let mut client = connect(local(FRONT));
        client.read_exact(&mut [0; 8]).unwrap();
        let stalled = stalls(&sent);
        assert!(
            stalled < 16 * MIB,
            "{stalled} bytes were taken from the server in advance"
        );
        let grown = rss_kib(balancer.pid()).saturating_sub(before);
        assert!(grown < 8 * 1024, "{grown} KiB for one slow reader");
        let idle = cpu_time(balancer.pid());
        std::thread::sleep(Duration::from_secs(1));
        let used = cpu_time(balancer.pid()) - idle;
        assert!(
            used < Duration::from_millis(300),
            "{used:?} of a second spent on waiting"
        );
        // Then it reads on, and misses nothing.
        let (rest, end) = drain(&mut client);
        assert_eq!((rest + 8, end), (LENGTH, End::Closed));
        server.assert_well();
        balancer.assert_well();
        balancer.stop();
    });
}

#[test]
fn a_slow_server_stops_the_client_and_costs_bounded_memory() {
    private_network(|| {
        const LENGTH: usize = 96 * MIB;
        small_socket_buffers();
        let (go, gone) = mpsc::channel::<()>();
        let gone = std::sync::Mutex::new(gone);
        let server = Server::start(local(9001), move |stream| {
            gone.lock().unwrap().recv().unwrap();
            assert_eq!(bytes::expect(stream, 9).unwrap(), LENGTH);
        });
        let balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        let before = rss_kib(balancer.pid());
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Counted {
            stream: connect(local(FRONT)),
            counter: Arc::clone(&sent),
        };
        let client = std::thread::spawn(move || bytes::send(counted, 9, LENGTH).unwrap());
        let stalled = stalls(&sent);
        assert!(
            stalled < 16 * MIB,
            "{stalled} bytes were taken from the client in advance"
        );
        let grown = rss_kib(balancer.pid()).saturating_sub(before);
        assert!(grown < 8 * 1024, "{grown} KiB for one slow server");
        go.send(()).unwrap();
        client.join().unwrap();
        wait_for("the server to have read all", SOON, || server.now() == 0);
        server.assert_well();
        balancer.stop();
    });
}

#[test]
fn floods_to_clients_that_never_read_are_held_back_and_end_with_them() {
    private_network(|| {
        const CLIENTS: usize = 60;
        small_socket_buffers();
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&sent);
        let server = Server::start(local(9001), move |mut stream| {
            let piece = vec![7; 64 * 1024];
            while let Ok(count) = stream.write(&piece) {
                counter.fetch_add(count, Ordering::SeqCst);
            }
        });
        let mut balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        let before = rss_kib(balancer.pid());
        let clients: Vec<_> = (0..CLIENTS).map(|_| connect(local(FRONT))).collect();
        wait_for("the floods", SOON, || server.now() == CLIENTS);
        stalls(&sent);
        let grown = rss_kib(balancer.pid()).saturating_sub(before);
        assert!(grown < 40 * 1024, "{grown} KiB for {CLIENTS} floods");
        let idle = cpu_time(balancer.pid());
        std::thread::sleep(Duration::from_secs(1));
        let used = cpu_time(balancer.pid()) - idle;
        assert!(
            used < Duration::from_millis(300),
            "{used:?} of a second spent on waiting"
        );
        drop(clients);
        wait_for("the floods to end with their clients", SOON, || {
            server.now() == 0
        });
        balancer.assert_well();
        balancer.stop();
    });
}

/// So that what the kernel holds in advance is little.
fn small_socket_buffers() {
    set_sysctl("net.ipv4.tcp_rmem", "4096 65536 262144");
    set_sysctl("net.ipv4.tcp_wmem", "4096 65536 262144");
}

struct Counted {
    stream: TcpStream,
    counter: Arc<AtomicUsize>,
}

impl std::io::Write for Counted {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        let count = self.stream.write(buffer)?;
        self.counter.fetch_add(count, Ordering::SeqCst);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// Waits until the counter stands still for half a second, and returns it.
#[track_caller]
fn stalls(counter: &AtomicUsize) -> usize {
    let mut last = counter.load(Ordering::SeqCst);
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(500));
        let now = counter.load(Ordering::SeqCst);
        if now == last {
            return now;
        }
        last = now;
    }
    panic!("the sender never stalls: {last} bytes and counting");
}

#[test]
fn a_clients_reset_reaches_the_server_as_a_reset() {
    private_network(|| {
        let (ends, seen) = mpsc::channel();
        let ends = std::sync::Mutex::new(ends);
        let server = Server::start(local(9001), move |mut stream| {
            stream.write_all(b"hello\n").unwrap();
            ends.lock().unwrap().send(drain(&mut stream).1).unwrap();
        });
        let balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        for _ in 0..20 {
            let mut client = connect(local(FRONT));
            assert_eq!(super::clients::read_line(&mut client), "hello");
            reset(client);
            assert_eq!(seen.recv_timeout(SOON).unwrap(), End::Reset);
        }
        server.assert_well();
        balancer.stop();
    });
}

#[test]
fn a_servers_reset_reaches_the_client_as_a_reset() {
    if ours_only() {
        return;
    }
    private_network(|| {
        let server = Server::start(local(9001), |mut stream| {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            reset(stream);
        });
        let balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        for _ in 0..20 {
            let mut client = connect(local(FRONT));
            client.write_all(b"x").unwrap();
            assert_eq!(drain(&mut client).1, End::Reset);
        }
        server.assert_well();
        balancer.stop();
    });
}

#[test]
fn a_reset_ends_the_other_side_one_way_or_another() {
    private_network(|| {
        let server = Server::start(local(9001), |mut stream| {
            stream.write_all(b"hello\n").unwrap();
            drain(&mut stream);
        });
        let balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        for _ in 0..20 {
            let mut client = connect(local(FRONT));
            assert_eq!(super::clients::read_line(&mut client), "hello");
            reset(client);
        }
        wait_for("the server's connections to end", SOON, || {
            server.now() == 0
        });
        assert_eq!(server.connections(), 20);
        server.assert_well();
        balancer.stop();
    });
}

#[test]
fn two_thousand_sessions_leave_no_descriptor_behind() {
    private_network(|| {
        let server = Server::start(local(9001), |mut stream| {
            let mut first = [0];
            if stream.read_exact(&mut first).is_err() {
                return;
            }
            match first {
                [b'r'] => reset(stream),
                [b'b'] => drop(bytes::send(&mut stream, 8, 300_000)),
                _ => drop(drain(&mut stream)),
            }
        });
        let mut balancer = Balancer::start(
            &listen("127.0.0.1:8000", &[server.address]),
            &[local(FRONT)],
        );
        let pid = balancer.pid();
        sessions(40);
        let settled = || portcullis_testkit::sockets(pid);
        wait_for("the first sessions to end", SOON, || server.now() == 0);
        // Listeners and what the process keeps for itself.
        let mut resting = settled();
        let quiet = eventually(SOON, || {
            let now = settled();
            let same = now == resting;
            resting = now;
            std::thread::sleep(Duration::from_millis(100));
            same
        });
        assert!(quiet, "the number of sockets never rests");
        let descriptors = portcullis_testkit::descriptors(pid);
        sessions(2000);
        wait_for("the sessions to end", SOON, || server.now() == 0);
        wait_for("all sockets to be closed", SOON, || settled() <= resting);
        // Pipes may be kept in a pool, a few.
        let kept = portcullis_testkit::descriptors(pid).saturating_sub(descriptors);
        assert!(
            kept <= 16,
            "{kept} descriptors more than before 2,000 sessions"
        );
        balancer.assert_well();
        balancer.stop();
    });
}

/// Sessions that end in every way, a few at a time.
fn sessions(count: usize) {
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            std::thread::spawn(move || {
                for turn in (thread..count).step_by(4) {
                    session(turn);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

fn session(turn: usize) {
    let mut client = connect(local(FRONT));
    match turn % 5 {
        0 => drop(client),
        1 => reset(client),
        2 => {
            client.write_all(b"r").unwrap();
            drain(&mut client);
        }
        3 => {
            client.write_all(b"b").unwrap();
            assert_eq!(drain(&mut client), (300_000, End::Closed));
        }
        _ => {
            client.write_all(b"hello").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(drain(&mut client).0, 0);
        }
    }
}
