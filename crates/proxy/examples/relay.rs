//! The smallest balancer on the worker: `relay LISTEN SERVER...`, one worker, until killed.
//!
//! Decides:  nothing; for measuring the data plane alone, and as a first thing to read.
//! Not here: configuration, logs, health, privileges: the binary has them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use portcullis_balance::{Algorithm, AllBackups, Group, Member, MemberId, Tier};
use portcullis_proxy::snapshot::*;
use portcullis_proxy::worker::thread::{WorkerConfig, spawn};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().expect("an address to listen on");
    let servers: Vec<SocketAddr> = arguments.map(|text| text.parse().unwrap()).collect();
    let listener = TcpListener::bind(listen).unwrap();
    listener.set_nonblocking(true).unwrap();
    rustix::net::sockopt::set_tcp_nodelay(&listener, true).unwrap();
    rustix::net::listen(&listener, 4096).unwrap();
    let worker = spawn(WorkerConfig {
        worker: 0,
        cpu: None,
        log: None,
        observer: None,
        events: Arc::new(|_| {}),
    })
    .unwrap();
    let listener = WorkerListener {
        socket: Arc::new(OwnedFd::from(listener)),
        sharing: Sharing::Own,
        frontend: 0,
        state: Arc::default(),
    };
    worker.install(Arc::new(snapshot(&servers)), vec![listener]);
    worker.join().unwrap();
}

fn snapshot(servers: &[SocketAddr]) -> Snapshot {
    let frontend = Frontend {
        name: "door".into(),
        backend: Some(Arc::new(backend(servers))),
        maxconn: 0,
        session_rate: 0,
        lifetime_ms: 0,
        drain_age_ms: 0,
        greeting_timeout_ms: 0,
        client_timeout_ms: 60_000,
        client_fin_timeout_ms: 0,
        log: None,
        keepalive: None,
        no_linger: false,
        independent: false,
        splice: true,
        state: Arc::default(),
    };
    Snapshot {
        generation: 1,
        frontends: vec![Arc::new(frontend)],
        tuning: Tuning {
            max_accept: 64,
            pipe_size: 1 << 20,
            buffer_size: 64 * 1024,
            max_pipes: 256,
            client_receive_buffer: None,
            client_send_buffer: None,
            server_receive_buffer: None,
            server_send_buffer: None,
        },
        process: Arc::default(),
    }
}

fn backend(servers: &[SocketAddr]) -> Backend {
    let members = servers.iter().map(|address| Member {
        name: address.to_string(),
        weight: 1,
        tier: Tier::Active,
        usable: true,
        ..Member::default()
    });
    let members: Vec<Member> = members.collect();
    let server = |(at, &address): (usize, &SocketAddr)| Server {
        name: address.to_string().into(),
        slot: MemberId(at as u32),
        address: ServerAddress::Tcp {
            address,
            mptcp: false,
        },
        user_timeout_ms: 0,
        congestion_control: None,
        outgoing: Default::default(),
        observe: None,
        state: Arc::default(),
    };
    let with_slot = |entry| Some(Arc::new(server(entry)));
    Backend {
        name: "servers".into(),
        group: Arc::new(Group::new(Algorithm::LeastConn, AllBackups::No, &members)),
        servers: ServerTable::of(servers.iter().enumerate().map(with_slot)),
        hash: None,
        queue_timeout_ms: 0,
        connect_timeout_ms: 5_000,
        server_timeout_ms: 60_000,
        server_fin_timeout_ms: 0,
        tunnel_timeout_ms: 0,
        retries: 3,
        redispatch: -1,
        keepalive: None,
        no_linger: false,
        independent: false,
        splice: true,
        abort_on_close: false,
        smart_connect: false,
        state: Arc::default(),
    }
}
