//! What a worker tells, and where it can connect to.
//!
//! Decides:  nothing.
//! Not here: bytes (relay.rs), limits (limits.rs), failures (failures.rs).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::{Arc, mpsc};

use common::*;
use portcullis_proxy::record::{self, SessionEvent};
use portcullis_proxy::snapshot::{LogMoment, ServerAddress, Sharing, WorkerListener};
use portcullis_proxy::worker::thread::{WorkerConfig, WorkerEvent, spawn};

#[test]
fn a_worker_that_panics_reports_what_it_said() {
    let (sender, receiver) = mpsc::channel();
    let handle = spawn(WorkerConfig {
        worker: 4,
        cpu: None,
        log: None,
        observer: None,
        events: Arc::new(move |event| {
            assert!(
                !matches!(event, WorkerEvent::Drained { .. }),
                "this test panics here"
            );
            sender.send(event).unwrap();
        }),
    })
    .unwrap();
    handle.stop_accepting();
    let event = receiver.recv_timeout(PATIENCE).unwrap();
    let WorkerEvent::Failed { worker: 4, message } = event else {
        panic!("{event:?}");
    };
    assert!(message.contains("this test panics here"), "{message}");
    assert!(handle.join().unwrap_err().contains("this test panics here"));
}

#[test]
fn a_worker_that_cannot_run_on_its_cpu_does_not_start() {
    let outcome = spawn(WorkerConfig {
        worker: 0,
        cpu: Some(1_023),
        log: None,
        observer: None,
        events: Arc::new(|_| {}),
    });
    assert!(outcome.is_err());
}

#[test]
fn an_observer_sees_a_session_open_and_close() {
    let template = start(Plan {
        servers: vec![tcp(echo())],
        ..Plan::default()
    });
    let (observer, watched) = record::bounded(10);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let handle = spawn(WorkerConfig {
        worker: 3,
        cpu: Some(0),
        log: None,
        observer: Some(observer),
        events: Arc::new(|_| {}),
    })
    .unwrap();
    let listener = WorkerListener {
        socket: Arc::new(OwnedFd::from(listener)),
        sharing: Sharing::Own,
        frontend: 0,
        state: Arc::default(),
    };
    handle.install(Arc::clone(&template.snapshot), vec![listener]);
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client.write_all(b"hello").unwrap();
    let next = || watched.receiver().recv_timeout(PATIENCE).unwrap();
    let SessionEvent::Opened {
        id, worker, server, ..
    } = next()
    else {
        panic!("it should open first");
    };
    assert_eq!((worker, server.name.as_ref()), (3, "s0"));
    client.read_exact(&mut [0; 5]).unwrap();
    drop(client);
    let SessionEvent::Closed {
        id: closed, record, ..
    } = next()
    else {
        panic!("it should close");
    };
    assert_eq!(closed, id);
    assert_eq!((record.bytes_in, record.bytes_out), (5, 5));
    handle.stop();
    handle.join().unwrap();
    template.stop();
}

#[test]
fn a_mapped_port_is_the_clients_port_plus_the_offset() {
    let server = echo();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let own = listener.local_addr().unwrap();
    let plan = Plan {
        servers: vec![ServerAddress::TcpMappedPort {
            ip: server.ip(),
            offset: i32::from(server.port()) - i32::from(own.port()),
            mptcp: false,
        }],
        ..Plan::default()
    };
    let proxy = start_on(plan, listener);
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(proxy.ending(), "--");
    proxy.stop();
}

#[test]
fn a_port_that_the_offset_takes_out_of_range_is_our_failure() {
    let plan = Plan {
        servers: vec![ServerAddress::OriginalDestination {
            port: None,
            offset: 65_535,
        }],
        ..Plan::default()
    };
    let proxy = start(plan);
    let mut client = proxy.connect();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    // First what stood in the way, then the session.
    assert_eq!(proxy.ending(), "--");
    assert_eq!(proxy.ending(), "SC");
    proxy.stop();
}

#[test]
fn the_original_destination_serves_with_another_port() {
    let server = echo();
    let proxy = start(Plan {
        servers: vec![ServerAddress::OriginalDestination {
            port: Some(server.port()),
            offset: 0,
        }],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    drop(client);
    assert_eq!(proxy.ending(), "--");
    proxy.stop();
}

#[test]
fn multipath_tcp_reaches_a_plain_server() {
    let server = echo();
    let proxy = start(Plan {
        servers: vec![ServerAddress::Tcp {
            address: server,
            mptcp: true,
        }],
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    match client.read(&mut [0]).unwrap() {
        1 => {
            drop(client);
            assert_eq!(proxy.ending(), "--");
        }
        // A kernel without MPTCP, or with net.mptcp.enabled=0, says so at socket().
        _ => assert_eq!(proxy.ending(), "SC"),
    }
    proxy.stop();
}

#[test]
fn nolinger_resets_the_client_at_the_end() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        client_no_linger: true,
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    proxy.handles[0].end_sessions();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    proxy.stop();
}

#[test]
fn a_record_at_accept_has_both_addresses_and_comes_before_the_end() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        log_moment: LogMoment::Accept,
        ..Plan::default()
    });
    let client = proxy.connect();
    let record = proxy.record();
    assert_eq!(record.kind, record::RecordKind::Accepted);
    let address = |address| Some(record::PeerAddress::Ip(address));
    assert_eq!(Some(record.client), address(client.local_addr().unwrap()));
    assert_eq!(record.local, address(proxy.address));
    drop(client);
    proxy.assert_idle();
    assert!(proxy.log.receiver().try_recv().is_err(), "no second record");
    proxy.stop();
}

#[test]
fn with_logasap_the_one_record_comes_while_the_session_goes_on() {
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        log_moment: LogMoment::Connect,
        ..Plan::default()
    });
    let mut client = proxy.connect();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let record = proxy.record();
    assert_eq!(record.kind, record::RecordKind::Connected);
    assert_eq!(record.termination, record::Termination::NORMAL);
    assert!(record.server.is_some() && record.connect_ms.is_some());
    let counts = (record.backend_connections, record.server_connections);
    assert_eq!(counts, (1, 1), "it counts itself, as in HAProxy");
    drop(client);
    proxy.assert_idle();
    assert!(proxy.log.receiver().try_recv().is_err(), "no second record");
    proxy.stop();
}

#[test]
fn with_logasap_a_session_that_never_connected_is_logged_at_its_end() {
    let proxy = start(Plan {
        servers: vec![tcp(refusing())],
        retries: 0,
        log_moment: LogMoment::Connect,
        ..Plan::default()
    });
    let _client = proxy.connect();
    let record = proxy.record();
    assert_eq!(record.kind, record::RecordKind::Ended);
    assert_eq!(record.termination.to_string(), "SC");
    proxy.stop();
}

#[test]
fn a_listener_that_somebody_shut_down_rests_and_the_others_serve() {
    let broken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    broken.set_nonblocking(true).unwrap();
    let sharer = broken.try_clone().unwrap();
    rustix::net::shutdown(&sharer, rustix::net::Shutdown::Both).unwrap();
    let proxy = start(Plan {
        servers: vec![tcp(echo())],
        extra_listeners: vec![broken],
        ..Plan::default()
    });
    for _ in 0..20 {
        let mut client = proxy.connect();
        client.write_all(b"x").unwrap();
        client.read_exact(&mut [0]).unwrap();
    }
    let starved = &proxy.snapshot.process.starved;
    let starved = starved.load(std::sync::atomic::Ordering::SeqCst);
    assert_eq!(starved, 0, "all listeners rested for the one");
    // It listens again, and is served again.
    rustix::net::listen(&sharer, 16).unwrap();
    let mut client = std::net::TcpStream::connect(sharer.local_addr().unwrap()).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    proxy.stop();
}
