//! Another snapshot, and other listeners, while a worker runs.
//!
//! Decides:  nothing.
//! Not here: which listeners stay (the control crate), whole reloads (the binary's tests).
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::*;
use portcullis_balance::{AllBackups, Member, MemberId};
use portcullis_proxy::snapshot::*;
use portcullis_proxy::worker::leave::{Reply, Sessions};
use portcullis_proxy::worker::thread::WorkerEvent;

/// Says this byte to whoever comes, then repeats what it hears.
fn named(name: u8) -> SocketAddr {
    server(move |mut stream| {
        let mut byte = [name];
        while stream.write_all(&byte).is_ok() && matches!(stream.read(&mut byte), Ok(1)) {}
    })
}

fn plan(server: SocketAddr) -> Plan {
    Plan {
        servers: vec![tcp(server)],
        ..Plan::default()
    }
}

/// A listening socket, and where.
fn socket() -> (Arc<OwnedFd>, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (Arc::new(OwnedFd::from(listener)), address)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn heard(stream: &mut TcpStream) -> u8 {
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    byte[0]
}

impl Proxy {
    fn take(&self, snapshot: &Arc<Snapshot>, sockets: &[&Arc<OwnedFd>]) {
        let listeners = sockets.iter().map(|socket| WorkerListener {
            socket: Arc::clone(socket),
            sharing: Sharing::Own,
            frontend: 0,
            state: Arc::clone(&self.listener),
        });
        self.handles[0].install(Arc::clone(snapshot), listeners.collect());
        eventually("the worker has obeyed", || self.handles[0].has_obeyed());
    }
}

fn refused(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}

#[test]
fn a_session_ends_as_it_began_and_the_next_one_goes_by_the_new_snapshot() {
    let proxy = start(plan(named(b'a')));
    let (kept, address) = socket();
    let other = snapshot_of(&plan(named(b'b')));
    proxy.take(&proxy.snapshot, &[&kept]);
    let mut old = connect(address);
    assert_eq!(heard(&mut old), b'a');
    proxy.take(&other, &[&kept]);
    let mut new = connect(address);
    assert_eq!(heard(&mut new), b'b');
    old.write_all(b"x").unwrap();
    assert_eq!(heard(&mut old), b'x');
    drop((old, new));
    eventually("nothing is counted", || {
        other.process.connections.load(Ordering::SeqCst) == 0
    });
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn whoever_waits_in_a_retired_listeners_queue_is_served_and_the_next_is_refused() {
    let proxy = start(plan(named(b'a')));
    let (gone, address) = socket();
    proxy.take(&proxy.snapshot, &[&gone]);
    proxy.handles[0].pause();
    let mut waiting: Vec<TcpStream> = (0..100).map(|_| connect(address)).collect();
    proxy.take(&proxy.snapshot, &[]);
    drop(gone);
    assert!(!refused(address), "a pause leaves it open");
    proxy.handles[0].resume();
    for client in &mut waiting {
        assert_eq!(heard(client), b'a');
    }
    eventually("it is closed", || refused(address));
    drop(waiting);
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_limit_that_keeps_clients_in_a_retired_queue_does_not_lose_them() {
    let proxy = start(Plan {
        frontend_maxconn: 1,
        ..plan(named(b'a'))
    });
    let (gone, address) = socket();
    proxy.take(&proxy.snapshot, &[&gone]);
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(address)).collect();
    assert_eq!(heard(&mut clients[0]), b'a');
    proxy.take(&proxy.snapshot, &[]);
    drop(gone);
    drop(clients.remove(0));
    for mut client in clients {
        assert_eq!(heard(&mut client), b'a');
    }
    eventually("it is closed", || refused(address));
    proxy.assert_idle();
    proxy.stop();
}

/// A reply, and how often it was given.
fn reply() -> (Reply, Arc<AtomicU32>) {
    let given = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&given);
    let reply = Reply::new(move || {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    (reply, given)
}

#[test]
fn a_listener_that_leaves_is_served_until_it_is_let_go_of() {
    let proxy = start(plan(named(b'a')));
    let worker = &proxy.handles[0];
    let (leaves, address) = socket();
    proxy.take(&proxy.snapshot, &[&leaves]);
    worker.remote().leave(&leaves);
    proxy.take(&proxy.snapshot, &[]);
    let mut early = connect(address);
    assert_eq!(heard(&mut early), b'a');
    let (empty, given) = reply();
    worker.remote().empty_queue(&leaves, empty);
    eventually("the reply", || given.load(Ordering::SeqCst) == 1);
    let mut late = connect(address);
    assert_eq!(heard(&mut late), b'a');
    worker.remote().let_go(&leaves);
    drop(leaves);
    eventually("it is closed", || refused(address));
    drop((early, late));
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn the_queue_of_a_listener_that_leaves_is_not_empty_while_a_limit_keeps_clients_in_it() {
    let proxy = start(Plan {
        frontend_maxconn: 1,
        ..plan(named(b'a'))
    });
    let worker = &proxy.handles[0];
    let (leaves, address) = socket();
    proxy.take(&proxy.snapshot, &[&leaves]);
    let mut clients: Vec<TcpStream> = (0..5).map(|_| connect(address)).collect();
    assert_eq!(heard(&mut clients[0]), b'a');
    worker.remote().leave(&leaves);
    let (empty, given) = reply();
    worker.remote().empty_queue(&leaves, empty);
    eventually("the worker has obeyed", || worker.has_obeyed());
    assert_eq!(given.load(Ordering::SeqCst), 0);
    drop(clients.remove(0));
    for mut client in clients {
        assert_eq!(heard(&mut client), b'a');
    }
    eventually("the reply", || given.load(Ordering::SeqCst) == 1);
    worker.remote().let_go(&leaves);
    proxy.assert_idle();
    proxy.stop();
}

#[test]
fn a_worker_winds_down_with_its_last_listener_and_answers_for_what_it_does_not_have() {
    let proxy = start(plan(named(b'a')));
    let worker = &proxy.handles[0];
    let (leaves, address) = socket();
    let (nobodys, _) = socket();
    proxy.take(&proxy.snapshot, &[&leaves]);
    let mut client = connect(address);
    assert_eq!(heard(&mut client), b'a');
    worker.remote().leave(&leaves);
    worker.remote().wind_down(Sessions::GoOn);
    let (empty, given) = reply();
    worker.remote().empty_queue(&nobodys, empty);
    eventually("the reply", || given.load(Ordering::SeqCst) == 1);
    client.write_all(b"x").unwrap();
    assert_eq!(heard(&mut client), b'x');
    worker.remote().let_go(&leaves);
    client.write_all(b"y").unwrap();
    assert_eq!(heard(&mut client), b'y');
    drop(client);
    assert_eq!(proxy.wait_for_event(), WorkerEvent::Drained { worker: 0 });
    // Who asks a worker that is gone has the answer too.
    let remote = worker.remote();
    proxy.stop();
    let (empty, given) = reply();
    remote.empty_queue(&leaves, empty);
    eventually("the reply", || given.load(Ordering::SeqCst) == 1);
}

#[test]
fn a_raised_limit_lets_in_who_waits() {
    let narrow = Plan {
        frontend_maxconn: 1,
        ..plan(named(b'a'))
    };
    let proxy = start(narrow);
    let (kept, address) = socket();
    proxy.take(&proxy.snapshot, &[&kept]);
    let mut first = connect(address);
    assert_eq!(heard(&mut first), b'a');
    let mut second = connect(address);
    let wide = snapshot_of(&plan(named(b'b')));
    proxy.take(&wide, &[&kept]);
    assert_eq!(heard(&mut second), b'b');
    proxy.stop();
}

#[test]
fn a_server_that_came_with_a_reload_is_found_by_workers_that_have_not_heard_of_it() {
    let proxy = start(plan(named(b'a')));
    let backend = proxy.backend();
    let old = backend.servers.get(MemberId(0)).unwrap();
    let members = ["s0", "new"].map(|name| Member {
        name: name.to_owned(),
        ..Member::default()
    });
    let address = named(b'n');
    backend.servers.update(|servers| {
        let algorithm = backend.group.algorithm();
        let slots = backend
            .group
            .reconfigure(algorithm, AllBackups::No, &members);
        servers.push(Some(Arc::new(Server {
            name: "new".into(),
            slot: slots[1],
            address: tcp(address),
            user_timeout_ms: 0,
            congestion_control: None,
            outgoing: Default::default(),
            observe: None,
            state: Arc::default(),
        })));
    });
    let mut all: Vec<u8> = (0..4).map(|_| heard(&mut proxy.connect())).collect();
    all.sort_unstable();
    assert_eq!(all, *b"aann");
    // The old one is gone from the configuration, and its slot is given to somebody else.
    backend.servers.update(|servers| {
        let algorithm = backend.group.algorithm();
        let only = &members[1..];
        let slots = backend.group.reconfigure(algorithm, AllBackups::No, only);
        assert_eq!(slots, [MemberId(1)]);
        servers[old.slot.0 as usize] = None;
    });
    for _ in 0..4 {
        assert_eq!(heard(&mut proxy.connect()), b'n');
    }
    assert_eq!(proxy.odd_endings(), Vec::<String>::new());
    proxy.assert_idle();
    proxy.stop();
}
