//! Descriptors run out. The one test of its process, since the limit is the process's.
//!
//! Decides:  nothing; it shows that connections wait rather than get lost, that the worker sleeps
//!           meanwhile, and that no descriptor leaks.
//! Not here: limits of our own (limits.rs).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::*;

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The statistics of the thread called `worker-0`, opened while there are descriptors.
fn worker_statistics() -> File {
    for entry in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.trim() == "worker-0" {
            return File::open(entry.path().join("stat")).unwrap();
        }
    }
    panic!("no worker");
}

/// CPU time of a thread, in clock ticks.
fn ticks(statistics: &File) -> u64 {
    let mut text = [0; 1024];
    let length = statistics.read_at(&mut text, 0).unwrap();
    let text = String::from_utf8_lossy(&text[..length]);
    let (_, rest) = text.rsplit_once(')').unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn connections_wait_while_there_are_no_descriptors_and_none_leaks() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        ..Plan::default()
    });
    let round_trip = |mut client: TcpStream| {
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    };
    round_trip(proxy.connect());
    assert_eq!(proxy.ending(), "--");
    proxy.assert_idle();
    eventually("the echo server's descriptor is closed", || {
        let before = descriptors();
        std::thread::sleep(Duration::from_millis(20));
        before == descriptors()
    });
    let at_rest = descriptors();

    // Clients first; then every descriptor that is left is taken by files.
    let mut clients: Vec<TcpStream> = Vec::new();
    proxy.handles[0].pause();
    eventually("it pauses", || proxy.handles[0].has_obeyed());
    for _ in 0..6 {
        clients.push(proxy.connect());
    }
    let statistics = worker_statistics();
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = Some(descriptors() as u64 + 20);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let mut hogs = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hogs.push(file);
    }
    // One is left: a client can be accepted, but only the reserve can serve him.
    hogs.pop();
    let before = ticks(&statistics);
    proxy.handles[0].resume();
    std::thread::sleep(Duration::from_millis(1_000));
    let spent = ticks(&statistics) - before;
    assert!(spent < 20, "it spins: {spent} ticks in a second");
    let starved = proxy.snapshot.process.starved.load(Ordering::SeqCst);
    assert!((1..40).contains(&starved), "starved {starved} times");
    for client in &mut clients {
        client.set_nonblocking(true).unwrap();
        let seen = client.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(seen, Err(ErrorKind::WouldBlock), "nobody was turned away");
        client.set_nonblocking(false).unwrap();
    }
    drop((hogs, statistics));
    for client in clients {
        round_trip(client);
        assert_eq!(proxy.ending(), "--");
    }
    proxy.assert_idle();
    eventually("no descriptor leaked", || descriptors() <= at_rest);
    proxy.stop();
}
