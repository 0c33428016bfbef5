//! Bytes and ends through a worker with real sockets.
//!
//! Decides:  nothing; it shows half-close, resets, bulk, back-pressure.
//! Not here: limits (limits.rs), servers that fail and timeouts (failures.rs).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use common::*;

#[test]
fn a_client_that_sends_its_end_first_still_gets_the_answer() {
    let server = server(|mut stream| {
        let mut question = Vec::new();
        stream.read_to_end(&mut question).unwrap();
        stream.write_all(&question).unwrap();
        stream.write_all(b" answered").unwrap();
    });
    let proxy = start(Plan {
        servers: vec![tcp(server)],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "question answered");
    let record = proxy.record();
    assert_eq!(record.termination.to_string(), "--");
    assert_eq!((record.bytes_in, record.bytes_out), (8, 17));
    assert_eq!(
        record.client,
        portcullis_proxy::record::PeerAddress::Ip(client.local_addr().unwrap())
    );
    assert_eq!(record.server.unwrap().name.as_ref(), "s0");
    assert_eq!(record.frontend_connections, 1);
    assert_eq!(record.server_connections, 0);
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_server_that_sends_its_end_first_still_gets_the_rest() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let server = server(move |mut stream| {
        stream.write_all(b"greeting").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        sender.send(rest).unwrap();
    });
    let proxy = start(Plan {
        servers: vec![tcp(server)],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    let mut greeting = String::new();
    client.read_to_string(&mut greeting).unwrap();
    assert_eq!(greeting, "greeting");
    std::thread::sleep(Duration::from_millis(30));
    client.write_all(b"thanks").unwrap();
    std::thread::sleep(Duration::from_millis(30));
    client.write_all(b", and bye").unwrap();
    drop(client);
    assert_eq!(receiver.recv_timeout(PATIENCE).unwrap(), "thanks, and bye");
    assert_eq!(proxy.ending(), "--");
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn an_answer_that_ends_at_once_arrives_whole_whether_it_is_small_or_large() {
    for length in [1, 128, 4095, 4096, 4097, 20_000, 300_000] {
        let bytes = pattern(7, length);
        let expected = bytes.clone();
        let server = server(move |mut stream| {
            let mut question = [0; 8];
            stream.read_exact(&mut question).unwrap();
            stream.write_all(&bytes).unwrap();
        });
        let proxy = start(Plan {
            servers: vec![tcp(server)],
            ..Plan::default()
        });
        let mut client = proxy.connect();
        client.write_all(b"question").unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer == expected, "{} of {length} bytes", answer.len());
        drop(client);
        assert_eq!(proxy.record().bytes_out, length as u64);
        proxy.stop();
    }
}

#[test]
fn a_clients_reset_reaches_the_server_as_a_reset() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let server = server(move |mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(b"!").unwrap();
        sender
            .send(stream.read(&mut byte).map_err(|e| e.kind()))
            .unwrap();
    });
    let proxy = start(Plan {
        servers: vec![tcp(server)],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"?").unwrap();
    client.read_exact(&mut [0]).unwrap();
    reset(client);
    let seen = receiver.recv_timeout(PATIENCE).unwrap();
    assert_eq!(seen, Err(ErrorKind::ConnectionReset));
    assert_eq!(proxy.ending(), "CD");
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_servers_reset_reaches_the_client_as_a_reset_after_its_last_words() {
    let server = server(|mut stream| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(b"last words").unwrap();
        std::thread::sleep(Duration::from_millis(50));
        reset(stream);
    });
    let proxy = start(Plan {
        servers: vec![tcp(server)],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"?").unwrap();
    let mut words = [0; 10];
    client.read_exact(&mut words).unwrap();
    assert_eq!(&words, b"last words");
    let error = client.read(&mut words).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(proxy.ending(), "SD");
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_server_that_answers_and_resets_in_one_breath_is_heard() {
    let server = server(|mut stream| {
        // The client's request stays unread, so that closing resets.
        std::thread::sleep(Duration::from_millis(30));
        stream.write_all(b"no, thank you").unwrap();
    });
    let proxy = start(Plan {
        servers: vec![tcp(server)],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(&[1; 100]).unwrap();
    let mut answer = [0; 13];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"no, thank you");
    assert_eq!(proxy.ending(), "SD");
    proxy.assert_idle();
    proxy.stop();
}

fn both_ways(splice: bool, length: usize) {
    let from_client = pattern(1, length);
    let from_server = pattern(2, length);
    let (sender, receiver) = std::sync::mpsc::channel();
    let answer = from_server.clone();
    let server = server(move |stream| {
        let received = exchange(stream, &answer);
        sender.send(received).unwrap();
    });
    let proxy = start(Plan {
        servers: vec![tcp(server)],
        splice,
        ..Plan::default()
    });
    let received = exchange(proxy.connect(), &from_client);
    assert!(received == from_server, "what the client got");
    let received = receiver.recv_timeout(PATIENCE).unwrap();
    assert!(received == from_client, "what the server got");
    let record = proxy.record();
    assert_eq!(record.termination.to_string(), "--");
    assert_eq!(record.bytes_in, length as u64);
    assert_eq!(record.bytes_out, length as u64);
    let used = proxy
        .snapshot
        .process
        .pipes
        .load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(used > 0, splice, "{used} pipes");
    proxy.assert_idle();
    proxy.stop();
}

/// Writes all of `bytes` and its end while reading to the other one's end.
fn exchange(mut stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut writer = stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            writer.write_all(bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        let mut received = Vec::new();
        stream.read_to_end(&mut received).unwrap();
        received
    })
}

#[test]
fn thirty_megabytes_each_way_arrive_unchanged_when_copied() {
    both_ways(false, 30_000_000);
}

#[test]
fn thirty_megabytes_each_way_arrive_unchanged_when_spliced() {
    both_ways(true, 30_000_000);
}

#[test]
fn a_few_bytes_after_bulk_arrive_though_their_source_was_made_to_gather() {
    // Answers that grow, since a source gathers only after a while at full speed; each is waited for
    // whole before the next is asked for, and the connection stays.
    let lengths = [12_000_001, 7, 24_000_003, 1, 100_003, 48_000_005, 3];
    let server = server(move |mut stream| {
        for (seed, length) in lengths.into_iter().enumerate() {
            let mut request = [0];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&pattern(seed as u64, length)).unwrap();
        }
        let _ = stream.read(&mut [0]);
    });
    let proxy = start(Plan {
        servers: vec![tcp(server)],
        splice: true,
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    for (seed, length) in lengths.into_iter().enumerate() {
        client.write_all(&[1]).unwrap();
        let mut received = vec![0; length];
        client.read_exact(&mut received).unwrap();
        assert!(received == pattern(seed as u64, length), "answer {seed}");
    }
    drop(client);
    proxy.record();
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_slow_reader_holds_its_sender_back_and_costs_little_memory() {
    const LENGTH: usize = 50_000_000;
    let sent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counter = std::sync::Arc::clone(&sent);
    let server = server(move |mut stream| {
        let chunk = pattern(3, 50_000);
        for _ in 0..LENGTH / chunk.len() {
            stream.write_all(&chunk).unwrap();
            counter.fetch_add(chunk.len(), std::sync::atomic::Ordering::SeqCst);
        }
    });
    for splice in [false, true] {
        sent.store(0, std::sync::atomic::Ordering::SeqCst);
        let proxy = start(Plan {
            servers: vec![tcp(server)],
            splice,
            client_send_buffer: Some(65_536),
            ..Plan::default()
        });
        let mut client = proxy.connect();
        // Until the client reads, the sender gets no further than what sockets and one buffer hold.
        let mut before = usize::MAX;
        eventually("the sender stands still", || {
            let now = sent.load(std::sync::atomic::Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(100));
            std::mem::replace(&mut before, now) == now && now > 0
        });
        assert!(
            before < LENGTH / 2,
            "{before} bytes were taken from the sender"
        );
        let mut received = 0;
        let mut buffer = vec![0; 50_000];
        let chunk = pattern(3, 50_000);
        while received < LENGTH {
            client.read_exact(&mut buffer).unwrap();
            assert!(buffer == chunk, "after {received} bytes");
            received += buffer.len();
        }
        assert_eq!(client.read(&mut buffer).unwrap(), 0);
        drop(client);
        assert_eq!(proxy.ending(), "--");
        proxy.assert_idle();
        proxy.stop();
    }
}

#[test]
fn a_unix_socket_serves_as_a_server() {
    use std::os::unix::net::UnixListener;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("server");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).unwrap();
            stream.write_all(&all).unwrap();
        }
    });
    use std::os::unix::ffi::OsStrExt;
    let proxy = start(Plan {
        servers: vec![portcullis_proxy::snapshot::ServerAddress::Unix(
            path.as_os_str().as_bytes().to_vec(),
        )],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    let bytes = pattern(4, 3_000_000);
    let mut writer = client.try_clone().unwrap();
    let mut received = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&bytes).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        client.read_to_end(&mut received).unwrap();
    });
    assert!(received == bytes);
    assert_eq!(proxy.ending(), "--");
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn many_round_trips_do_not_wait_for_delayed_acknowledgements() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    let began = std::time::Instant::now();
    for round in 0..200u8 {
        // Two small writes in a row: Nagle's algorithm would hold the second one back for 40 ms.
        client.write_all(&[round]).unwrap();
        client.write_all(&[round]).unwrap();
        let mut back = [0; 2];
        client.read_exact(&mut back).unwrap();
        assert_eq!(back, [round; 2]);
        client.set_nodelay(true).unwrap();
    }
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    drop(client);
    assert_eq!(proxy.ending(), "--");
    proxy.stop();
}
