//! Limits across workers, with real sockets: never above, and everybody is served in the end.
//!
//! Decides:  nothing.
//! Not here: the arithmetic of one limit (src/limits.rs).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;
use portcullis_proxy::snapshot::Sharing;

/// An echo server that knows how many connections it had at once.
fn counting() -> (std::net::SocketAddr, Arc<AtomicUsize>) {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let highest = Arc::clone(&most);
    let address = server(move |mut stream| {
        let mut byte = [0];
        let mut counted = false;
        while let Ok(1) = stream.read(&mut byte) {
            if !counted {
                counted = true;
                highest.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Others get their chance to be here at the same time.
                std::thread::sleep(Duration::from_millis(1));
            }
            // Before the client can know that it was served, and make room for the next one.
            now.fetch_sub(1, Ordering::SeqCst);
            stream.write_all(&byte).unwrap();
            now.fetch_add(1, Ordering::SeqCst);
        }
        if counted {
            now.fetch_sub(1, Ordering::SeqCst);
        }
    });
    (address, most)
}

/// Opens `clients` connections at once, each of which speaks; all must get their answer.
fn crowd(proxy: &Proxy, clients: usize, limit: u32) {
    let process = &proxy.snapshot.process.connections;
    let frontend = &proxy.frontend().state.connections;
    let listener = &proxy.listener.connections;
    let mut waiting: Vec<TcpStream> = (0..clients)
        .map(|_| {
            let mut client = proxy.connect();
            client.write_all(b"x").unwrap();
            client.set_nonblocking(true).unwrap();
            client
        })
        .collect();
    let end = Instant::now() + 3 * PATIENCE;
    while !waiting.is_empty() {
        assert!(Instant::now() < end, "{} were never served", waiting.len());
        waiting.retain_mut(|client| match client.read(&mut [0]) {
            Ok(1) => false,
            Ok(_) => panic!("closed without an answer: {:?}", proxy.odd_endings()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => true,
            Err(error) => panic!("{error}"),
        });
        // One place after the other is taken, and given back when the next one is not there: what
        // is above its limit for a moment is a count, never a connection. All three are one.
        let counted = process
            .load(Ordering::SeqCst)
            .min(frontend.load(Ordering::SeqCst))
            .min(listener.load(Ordering::SeqCst));
        assert!(counted <= limit, "{counted} above the limit of {limit}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn long_queue() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&listener, 4096).unwrap();
    listener
}

#[test]
fn a_crowd_at_a_limit_of_the_process_is_served_by_two_workers() {
    let (address, most) = counting();
    let plan = Plan {
        workers: 2,
        sharing: Sharing::Shared,
        process_maxconn: 20,
        servers: vec![tcp(address)],
        ..Plan::default()
    };
    let proxy = start_on(plan, long_queue());
    crowd(&proxy, 600, 20);
    assert!(most.load(Ordering::SeqCst) <= 21, "{most:?}");
    proxy.assert_idle();
    assert_eq!(proxy.frontend().state.total.load(Ordering::SeqCst), 600);
    proxy.stop();
}

#[test]
fn a_crowd_at_the_limits_of_frontend_and_listener_is_served() {
    for (frontend_maxconn, listener_maxconn) in [(7, 0), (0, 7), (9, 7), (7, 9)] {
        let plan = Plan {
            workers: 2,
            sharing: Sharing::Shared,
            frontend_maxconn,
            listener_maxconn,
            process_maxconn: 8,
            servers: vec![tcp(echo())],
            ..Plan::default()
        };
        let proxy = start_on(plan, long_queue());
        crowd(&proxy, 150, 7);
        proxy.assert_idle();
        proxy.stop();
    }
}

#[test]
fn a_limit_of_one_lets_many_through_one_by_one() {
    let plan = Plan {
        workers: 2,
        sharing: Sharing::Shared,
        process_maxconn: 1,
        servers: vec![tcp(echo())],
        ..Plan::default()
    };
    let proxy = start_on(plan, long_queue());
    crowd(&proxy, 100, 1);
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn thousands_of_connections_at_a_limit_of_a_thousand_are_all_served() {
    // Clients, their sessions' two ends, and the echo server's: all in this process.
    let needed = 3_000 + 3 * 1_000 + 500;
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.current.is_some_and(|now| now < needed) {
        limit.current = limit.maximum;
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        assert!(
            allowed.is_none_or(|allowed| allowed >= needed),
            "raise `ulimit -n`"
        );
    }
    let plan = Plan {
        workers: 2,
        sharing: Sharing::Shared,
        process_maxconn: 1_000,
        servers: vec![tcp(polled_echo())],
        ..Plan::default()
    };
    let proxy = start_on(plan, long_queue());
    crowd(&proxy, 3_000, 1_000);
    proxy.assert_idle();
    assert_eq!(proxy.frontend().state.total.load(Ordering::SeqCst), 3_000);
    proxy.stop();
}

/// An echo server in one thread, for more connections than there should be threads.
fn polled_echo() -> std::net::SocketAddr {
    let listener = long_queue();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut streams: Vec<TcpStream> = Vec::new();
        let mut quiet_rounds = 0;
        while quiet_rounds < 5_000 {
            quiet_rounds += 1;
            while let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(true).unwrap();
                streams.push(stream);
                quiet_rounds = 0;
            }
            streams.retain_mut(|stream| {
                let mut buffer = [0; 64];
                match stream.read(&mut buffer) {
                    Ok(0) => false,
                    Ok(read) => stream.write_all(&buffer[..read]).is_ok(),
                    Err(error) => error.kind() == ErrorKind::WouldBlock,
                }
            });
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    address
}
