//! Workers, servers and clients for the tests with real sockets.
//!
//! Decides:  everything is on ephemeral loopback ports, and every wait has a limit.
//! Not here: what is tested.
#![allow(dead_code, reason = "each test program uses some of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use portcullis_balance::{Algorithm, Group, Member, MemberId, Tier};
use portcullis_proxy::record::{self, LogSource, SessionRecord};
use portcullis_proxy::snapshot::*;
use portcullis_proxy::state::*;
use portcullis_proxy::worker::thread::{WorkerConfig, WorkerEvent, WorkerHandle, spawn};

pub const PATIENCE: Duration = Duration::from_secs(10);

/// What a test wants; the fields have the defaults that most tests use.
pub struct Plan {
    pub workers: u32,
    pub sharing: Sharing,
    pub process_maxconn: u32,
    pub frontend_maxconn: u32,
    pub listener_maxconn: u32,
    pub times: portcullis_proxy::session::Times,
    pub retries: u32,
    pub redispatch: i32,
    pub abort_on_close: bool,
    pub splice: bool,
    pub algorithm: Algorithm,
    pub servers: Vec<ServerAddress>,
    pub client_send_buffer: Option<u32>,
    pub buffer_size: u32,
    pub client_no_linger: bool,
    pub independent: (bool, bool),
    pub log_moment: LogMoment,
    pub extra_listeners: Vec<TcpListener>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            workers: 1,
            sharing: Sharing::Own,
            process_maxconn: 0,
            frontend_maxconn: 0,
            listener_maxconn: 0,
            times: portcullis_proxy::session::Times {
                connect: 2_000,
                client: 20_000,
                server: 20_000,
                ..Default::default()
            },
            retries: 0,
            redispatch: 0,
            abort_on_close: false,
            splice: true,
            algorithm: Algorithm::RoundRobin,
            servers: Vec::new(),
            client_send_buffer: None,
            buffer_size: 64 * 1024,
            client_no_linger: false,
            independent: (false, false),
            log_moment: LogMoment::End,
            extra_listeners: Vec::new(),
        }
    }
}

pub fn tcp(address: SocketAddr) -> ServerAddress {
    ServerAddress::Tcp {
        address,
        mptcp: false,
    }
}

/// Workers that run, and what they count and say.
pub struct Proxy {
    pub address: SocketAddr,
    pub handles: Vec<WorkerHandle>,
    pub snapshot: Arc<Snapshot>,
    pub listener: Arc<ListenerState>,
    pub log: LogSource,
    pub events: Mutex<mpsc::Receiver<WorkerEvent>>,
}

pub fn start(plan: Plan) -> Proxy {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    start_on(plan, listener)
}

pub fn start_on(mut plan: Plan, listener: TcpListener) -> Proxy {
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    let snapshot = snapshot_of(&plan);
    let (sink, log) = record::bounded(100_000);
    let (events, receiver) = mpsc::channel();
    let socket = Arc::new(OwnedFd::from(listener));
    let extra: Vec<_> = std::mem::take(&mut plan.extra_listeners)
        .into_iter()
        .map(|listener| Arc::new(OwnedFd::from(listener)))
        .collect();
    let state = Arc::new(ListenerState::default());
    state
        .maxconn
        .store(plan.listener_maxconn, Ordering::Relaxed);
    let handles = (0..plan.workers)
        .map(|worker| {
            let events = events.clone();
            let handle = spawn(WorkerConfig {
                worker,
                cpu: None,
                log: Some(sink.clone()),
                observer: None,
                events: Arc::new(move |event| {
                    let _ = events.send(event);
                }),
            })
            .unwrap();
            let sockets = std::iter::once(&socket).chain(&extra);
            let listeners = sockets.map(|socket| WorkerListener {
                socket: Arc::clone(socket),
                sharing: plan.sharing,
                frontend: 0,
                state: Arc::clone(&state),
            });
            handle.install(Arc::clone(&snapshot), listeners.collect());
            handle
        })
        .collect();
    Proxy {
        address,
        handles,
        snapshot,
        listener: state,
        log,
        events: Mutex::new(receiver),
    }
}

pub fn snapshot_of(plan: &Plan) -> Arc<Snapshot> {
    let members: Vec<Member> = (0..plan.servers.len())
        .map(|at| Member {
            name: format!("s{at}"),
            weight: 1,
            tier: Tier::Active,
            usable: true,
            ..Member::default()
        })
        .collect();
    let group = Group::new(plan.algorithm, portcullis_balance::AllBackups::No, &members);
    let servers = plan.servers.iter().enumerate().map(|(at, address)| {
        Some(Arc::new(Server {
            name: format!("s{at}").into(),
            slot: MemberId(at as u32),
            address: address.clone(),
            user_timeout_ms: 0,
            congestion_control: None,
            outgoing: Default::default(),
            observe: None,
            state: Arc::default(),
        }))
    });
    let backend = Backend {
        name: "be".into(),
        group: Arc::new(group),
        servers: ServerTable::of(servers),
        hash: None,
        queue_timeout_ms: 0,
        connect_timeout_ms: plan.times.connect,
        server_timeout_ms: plan.times.server,
        server_fin_timeout_ms: plan.times.server_fin,
        tunnel_timeout_ms: plan.times.tunnel,
        retries: plan.retries,
        redispatch: plan.redispatch,
        keepalive: None,
        no_linger: false,
        independent: plan.independent.1,
        splice: plan.splice,
        abort_on_close: plan.abort_on_close,
        smart_connect: false,
        state: Arc::default(),
    };
    let frontend = Frontend {
        name: "fe".into(),
        backend: Some(Arc::new(backend)),
        maxconn: plan.frontend_maxconn,
        session_rate: 0,
        lifetime_ms: 0,
        drain_age_ms: 0,
        greeting_timeout_ms: 0,
        client_timeout_ms: plan.times.client,
        client_fin_timeout_ms: plan.times.client_fin,
        log: Some(FrontendLog {
            moment: plan.log_moment,
            skip_null: false,
            skip_normal: false,
        }),
        keepalive: Some(Keepalive {
            count: 3,
            idle_s: 60,
            interval_s: 10,
        }),
        no_linger: plan.client_no_linger,
        independent: plan.independent.0,
        splice: plan.splice,
        state: Arc::default(),
    };
    let process = Arc::new(ProcessState::default());
    process
        .maxconn
        .store(plan.process_maxconn, Ordering::Relaxed);
    Arc::new(Snapshot {
        generation: 1,
        frontends: vec![Arc::new(frontend)],
        tuning: Tuning {
            max_accept: 64,
            pipe_size: 1 << 20,
            buffer_size: plan.buffer_size,
            max_pipes: 64,
            client_receive_buffer: None,
            client_send_buffer: plan.client_send_buffer,
            server_receive_buffer: plan.client_send_buffer,
            server_send_buffer: None,
        },
        process,
    })
}

impl Proxy {
    pub fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.set_write_timeout(Some(PATIENCE)).unwrap();
        client
    }

    pub fn frontend(&self) -> &Frontend {
        &self.snapshot.frontends[0]
    }

    pub fn backend(&self) -> &Backend {
        self.frontend().backend.as_ref().unwrap()
    }

    /// The next record.
    pub fn record(&self) -> SessionRecord {
        self.log
            .receiver()
            .recv_timeout(PATIENCE)
            .expect("no session ended")
    }

    /// The next record's letters.
    pub fn ending(&self) -> String {
        self.record().termination.to_string()
    }

    /// Letters and server of each session that ended by now, other than as it should.
    pub fn odd_endings(&self) -> Vec<String> {
        let records = self.log.receiver().try_iter();
        let odd = records.filter(|record| record.termination.to_string() != "--");
        odd.map(|record| format!("{} after {record:?}", record.termination))
            .collect()
    }

    /// The next event but those of installations.
    pub fn wait_for_event(&self) -> WorkerEvent {
        loop {
            let events = self.events.lock().unwrap();
            let event = events.recv_timeout(PATIENCE).expect("no event");
            if !matches!(event, WorkerEvent::Installed { .. }) {
                return event;
            }
        }
    }

    /// Waits until nothing is counted any more; counts are given back one after the other.
    pub fn assert_idle(&self) {
        let counts = || {
            [
                ("process", &self.snapshot.process.connections),
                ("frontend", &self.frontend().state.connections),
                ("listener", &self.listener.connections),
                ("backend", &self.backend().state.connections),
            ]
            .map(|(name, count)| (name, count.load(Ordering::SeqCst)))
        };
        let idle = || counts().iter().all(|(_, count)| *count == 0);
        let end = Instant::now() + PATIENCE;
        while !(idle() && self.backend().group.total() == 0) {
            let group = self.backend().group.total();
            assert!(
                Instant::now() < end,
                "still counted: {:?}, group {group}",
                counts()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops all workers; none may have failed.
    pub fn stop(self) {
        for handle in self.handles {
            handle.stop();
            handle.join().expect("a worker failed");
        }
        let process = &self.snapshot.process;
        assert_eq!(process.connections.load(Ordering::SeqCst), 0);
        assert_eq!(process.pipes.load(Ordering::SeqCst), 0, "pipes");
    }
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "it did not come true: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A server whose connections are each given to `serve`, on a thread of its own.
pub fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream));
        }
    });
    address
}

/// Sends back what comes, then its end.
pub fn echo() -> SocketAddr {
    server(|mut stream| {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
    })
}

/// A port on which nobody listens.
pub fn refusing() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Makes closing `stream` a reset.
pub fn reset(stream: TcpStream) {
    rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// `length` bytes that differ from place to place, by a seed.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
