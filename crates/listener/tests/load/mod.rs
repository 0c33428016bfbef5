//! Clients that count what they get, and servers that can be slow: load for tests of retiring.
//!
//! Decides:  what counts as lost: refused, reset, no answer in time, an answer cut short.
//! Not here: what happens to the listeners meanwhile (the tests).

// Each test's binary uses a part.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis_listener::pause::min_ttl;
use portcullis_listener::pending::Looker;
use portcullis_listener::retire::{Driver, Outcome, Plan, Step, Way};
use portcullis_listener::steer::{Choice, Order, Program};
use portcullis_listener::{Address, ListenerSpec, open};
use portcullis_sys::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

pub const WEB: &str = "127.0.0.1:443";
/// A client gives up after this; a SYN that was dropped is repeated after 1 s and 3 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// A worker looks at its queues so often, so that something waits in them.
const LAZINESS: Duration = Duration::from_millis(1);
const ANSWER: &[u8] = b"served";

/// What became of the clients.
#[derive(Debug, Default)]
pub struct Tally {
    pub served: AtomicU64,
    pub refused: AtomicU64,
    pub reset: AtomicU64,
    pub timeout: AtomicU64,
    pub short: AtomicU64,
    pub other: Mutex<Vec<String>>,
}

impl Tally {
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    pub fn lost(&self) -> u64 {
        let counts = [&self.refused, &self.reset, &self.timeout, &self.short];
        let counts = counts.iter().map(|count| count.load(Ordering::Relaxed));
        counts.sum::<u64>() + self.other.lock().unwrap().len() as u64
    }

    fn count(&self, kind: ErrorKind, text: String) {
        let counter = match kind {
            ErrorKind::ConnectionRefused => &self.refused,
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => &self.reset,
            ErrorKind::TimedOut | ErrorKind::WouldBlock => &self.timeout,
            ErrorKind::UnexpectedEof => &self.short,
            _ => return self.other.lock().unwrap().push(text),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// How clients behave.
#[derive(Debug, Clone, Copy, Default)]
pub struct Habits {
    /// How many come at a time.
    pub clients: usize,
    /// They send with the SYN (TCP Fast Open).
    pub fast_open: bool,
    /// So long some of them wait before they speak.
    pub silence: Duration,
}

/// Clients that come one after the other, each in a thread, until it is dropped or stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub tally: Arc<Tally>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(address: SocketAddr, habits: Habits) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Tally::default());
        let run = |number| {
            let (stop, tally) = (Arc::clone(&stop), Arc::clone(&tally));
            std::thread::spawn(move || {
                let mut visits = number;
                while !stop.load(Ordering::Relaxed) {
                    visits += 1;
                    let silent = visits % 4 == 0;
                    match visit(address, habits, silent) {
                        Ok(()) => {
                            tally.served.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(error) => tally.count(error.kind(), error.to_string()),
                    }
                }
            })
        };
        let threads = (0..habits.clients).map(run).collect();
        Load {
            stop,
            tally,
            threads,
        }
    }

    /// Lets every client come to its end, and tells what became of all.
    pub fn finish(self) -> Arc<Tally> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.tally
    }

    /// Waits until so many more were served.
    pub fn more(&self, served: u64) {
        let goal = self.tally.served() + served;
        portcullis_testkit::wait_for("clients to be served", PATIENCE, || {
            self.tally.served() >= goal || self.tally.lost() > 0
        });
    }
}

/// Asks, and reads the whole answer.
pub fn visit(address: SocketAddr, habits: Habits, silent: bool) -> std::io::Result<()> {
    let mut stream = client(address, habits.fast_open)?;
    if silent && !habits.silence.is_zero() {
        std::thread::sleep(habits.silence);
    }
    stream.write_all(b"?")?;
    finish(stream)
}

fn finish(mut stream: TcpStream) -> std::io::Result<()> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    // No TIME_WAIT, so that ports do not run out.
    sockopt::set_linger(&stream, Some(0))?;
    if answer == ANSWER {
        Ok(())
    } else {
        Err(ErrorKind::UnexpectedEof.into())
    }
}

/// A client that has connected and waits for its answer.
pub struct Asking(pub TcpStream);

impl Asking {
    pub fn at(address: SocketAddr) -> Asking {
        let mut stream = client(address, false).unwrap();
        stream.write_all(b"?").unwrap();
        Asking(stream)
    }

    pub fn answer(self) -> std::io::Result<()> {
        finish(self.0)
    }
}

fn client(address: SocketAddr, fast_open: bool) -> std::io::Result<TcpStream> {
    const TCP_FASTOPEN_CONNECT: i32 = 30;
    const IPPROTO_TCP: i32 = 6;
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if fast_open {
        sockopt::set_int(&socket, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, 1)?;
    }
    let stream = TcpStream::from(socket);
    // Of connect too.
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    connect(&stream, &address)?;
    Ok(stream)
}

/// Answers a connection; it waits for the question no longer than a client is silent.
pub fn serve(mut connection: TcpStream) {
    if min_ttl::used() {
        min_ttl::admit(&connection);
    }
    let _ = connection.set_nonblocking(false);
    let _ = connection.set_read_timeout(Some(PATIENCE));
    let mut question = [0];
    if connection.read_exact(&mut question).is_ok() {
        let _ = connection.write_all(ANSWER);
    }
}

/// Listeners by number, and threads that accept from all of them.
pub struct Servers {
    listeners: Arc<RwLock<BTreeMap<u32, Arc<TcpListener>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// How many each accepted.
    pub accepted: Arc<Mutex<BTreeMap<u32, u64>>>,
}

impl Servers {
    pub fn start(workers: usize) -> Servers {
        let listeners = Arc::new(RwLock::new(BTreeMap::<u32, Arc<TcpListener>>::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(Mutex::new(BTreeMap::new()));
        let run = |_| {
            let (listeners, stop) = (Arc::clone(&listeners), Arc::clone(&stop));
            let accepted = Arc::clone(&accepted);
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    for (&number, listener) in listeners.read().unwrap().iter() {
                        empty(number, listener, &accepted);
                    }
                    std::thread::sleep(LAZINESS);
                }
            })
        };
        let threads = (0..workers).map(run).collect();
        Servers {
            listeners,
            stop,
            threads,
            accepted,
        }
    }

    pub fn add(&self, number: u32, listener: TcpListener) {
        let before = self
            .listeners
            .write()
            .unwrap()
            .insert(number, Arc::new(listener));
        assert!(before.is_none());
    }

    /// Nobody accepts from it any more when this returns.
    pub fn take(&self, number: u32) -> Arc<TcpListener> {
        self.listeners.write().unwrap().remove(&number).unwrap()
    }

    /// Other descriptors of all of them.
    pub fn sockets(&self) -> BTreeMap<u32, TcpListener> {
        let listeners = self.listeners.read().unwrap();
        let clone = |(&number, listener): (&u32, &Arc<TcpListener>)| {
            (number, listener.try_clone().unwrap())
        };
        listeners.iter().map(clone).collect()
    }

    /// Accepts all that waits, and serves it.
    pub fn empty(&self, number: u32, listener: &TcpListener) {
        empty(number, listener, &self.accepted);
    }

    pub fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

fn empty(number: u32, listener: &TcpListener, accepted: &Mutex<BTreeMap<u32, u64>>) {
    let mut connections = Vec::new();
    while let Ok((connection, _)) = listener.accept() {
        connections.push(connection);
    }
    *accepted.lock().unwrap().entry(number).or_default() += connections.len() as u64;
    for connection in connections {
        serve(connection);
    }
}

/// Sleeps until then.
pub fn sleep_until(until: Instant) {
    std::thread::sleep(until.saturating_duration_since(Instant::now()));
}

pub fn spec(address: &str) -> ListenerSpec {
    let mut spec = ListenerSpec::tcp(address.parse().unwrap());
    spec.backlog = Some(256);
    spec
}

pub fn one(spec: &ListenerSpec) -> TcpListener {
    let opened = open(spec).unwrap();
    assert_eq!(opened.reports, []);
    let [listener] = opened.listeners.try_into().unwrap();
    TcpListener::try_from(listener).unwrap()
}

/// A group, its order, and who serves it.
pub struct Site {
    pub spec: ListenerSpec,
    pub address: SocketAddr,
    pub servers: Servers,
    pub order: Order,
    pub choice: Choice,
}

impl Site {
    pub fn open(mut spec: ListenerSpec, shards: u32) -> Site {
        spec.defer_accept = spec.defer_accept.or(Some(Duration::from_secs(3)));
        let servers = Servers::start(2);
        let mut site = Site {
            address: match spec.address {
                Address::Tcp(address) => address,
                _ => panic!(),
            },
            spec,
            servers,
            order: Order::default(),
            choice: Choice::Even,
        };
        for shard in 0..shards {
            site.add(shard);
        }
        site
    }

    pub fn add(&mut self, shard: u32) {
        let listener = one(&self.spec);
        assert!(self.order.joined(shard));
        if self.choice != Choice::Even {
            let program = Program::new(&self.order, self.order.members(), &self.choice);
            program.unwrap().attach(&listener).unwrap();
        }
        self.servers.add(shard, listener);
    }

    pub fn driver(&self, leaving: &[u32], order: Option<&Order>) -> Driver<TcpListener> {
        let sockets = self.servers.sockets();
        let mut looker = Looker::open().unwrap();
        let plan = Plan::find(&sockets, leaving, order, &self.choice, Some(&mut looker)).unwrap();
        Driver::new(plan, sockets, Some(looker)).unwrap()
    }

    /// The last steps of each that leaves are done here, as by a worker that was told to let go of it.
    pub fn run(&self, driver: &mut Driver<TcpListener>) -> Outcome {
        let mut taken = BTreeMap::new();
        loop {
            match driver.step(Instant::now()) {
                Step::Accept(member) => {
                    let listener = taken
                        .entry(member)
                        .or_insert_with(|| self.servers.take(member));
                    self.servers.empty(member, listener);
                    driver.emptied(member, Instant::now()).unwrap();
                }
                Step::Wait(until) => sleep_until(until),
                Step::Closed(closed) => assert_eq!(closed.cut, Some(0)),
                Step::Done(outcome) => return outcome,
            }
        }
    }

    pub fn retire(&mut self, leaving: &[u32]) {
        let mut driver = self.driver(leaving, Some(&self.order));
        assert!(matches!(driver.retirement().way(), Way::Program { .. }));
        let outcome = self.run(&mut driver);
        assert_eq!(outcome.closed.len(), leaving.len());
        assert!(!outcome.by_filter && !outcome.program_left);
        self.order = outcome.order.unwrap();
    }

    /// Drops it, as any program does that knows nothing of all this.
    pub fn close_plainly(&mut self, leaving: &[u32]) {
        for &shard in leaving {
            drop(self.servers.take(shard));
            self.order.left(shard);
        }
    }
}
