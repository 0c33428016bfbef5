//! The load: short connections, long sessions, idle ones, and the servers behind them.
//!
//! Decides:  every client asks for a pattern of its own and compares every byte of the answer; servers of short
//!           connections close first, those of sessions second; how long a client waits.
//! Not here: what is counted (ledger.rs), what is done meanwhile (operations.rs).

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};

use crate::ledger::{Kind, Ledger, Ports, Pulse, Sums};

/// How long a client waits for anything. A SYN that is lost is sent again after 1, 3 and 7 s.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a short connection asks and is answered, bytes.
const SHORT: usize = 128;
/// A piece of a long session, bytes.
const PIECE: usize = 4096;
/// A session's pause between two pieces.
const PIECE_EVERY: Duration = Duration::from_millis(5);
/// A session lasts so long at least; the longest lasts twice as long.
const SESSION: Duration = Duration::from_secs(6);

/// The listener that takes all who come.
pub const WIDE: u16 = 8000;
/// The one that takes a few at once, so that there is always a queue.
pub const NARROW: u16 = 8001;
/// The one of sessions.
pub const LONG: u16 = 8002;
/// Where its server of short connections is, and another of the same.
pub const SHORT_SERVERS: [u16; 2] = [9001, 9002];
/// Where the server of sessions is.
pub const LONG_SERVER: u16 = 9003;

/// An address of the run's network.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// How many of each.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// Clients of short connections at the wide listener.
    pub wide: usize,
    /// At the narrow one.
    pub narrow: usize,
    /// Sessions under way at any time.
    pub long: usize,
    /// Sessions that say nothing until the end.
    pub idle: usize,
}

/// What runs until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    /// What is counted.
    pub ledger: Arc<Ledger>,
    pulses: Arc<[Pulse; 2]>,
    threads: Vec<JoinHandle<()>>,
    idle: Vec<(Connection, Instant)>,
}

impl Load {
    /// Starts all of them; the idle ones first.
    pub fn start(crowd: Crowd) -> io::Result<Load> {
        let mut idle = Vec::new();
        for _ in 0..crowd.idle {
            let began = Instant::now();
            let mut connection = Connection::new(LONG)?;
            connection.connect()?;
            idle.push((connection, began));
        }
        let mut load = Load {
            stop: Arc::default(),
            ledger: Arc::new(Ledger::new()),
            pulses: Arc::default(),
            threads: Vec::new(),
            idle,
        };
        for number in 0..crowd.wide {
            load.client(number as u64, |client| client.shorts("wide", WIDE, 0));
        }
        for number in 0..crowd.narrow {
            let number = 1000 + number as u64;
            load.client(number, |client| client.shorts("narrow", NARROW, 1));
        }
        for number in 0..crowd.long {
            load.client(2000 + number as u64, Client::sessions);
        }
        Ok(load)
    }

    fn client(&mut self, number: u64, run: impl FnOnce(Client) + Send + 'static) {
        let client = Client {
            number,
            stop: Arc::clone(&self.stop),
            ledger: Arc::clone(&self.ledger),
            pulses: Arc::clone(&self.pulses),
        };
        self.threads.push(std::thread::spawn(move || run(client)));
    }

    /// Waits until so many more were served; false: none was for a long time.
    pub fn goes_on(&self, more: u64) -> bool {
        let (wanted, end) = (
            self.ledger.served_so_far() + more,
            Instant::now() + PATIENCE,
        );
        while self.ledger.served_so_far() < wanted {
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    }

    /// Ends all of them, asks the idle ones whether they are still there, and sums up.
    pub fn stop(mut self) -> (Sums, Arc<Ledger>) {
        self.ledger.during("the end");
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        for (number, (mut idle, began)) in self.idle.drain(..).enumerate() {
            self.ledger.begin();
            match exchange(&mut idle.stream, 3000 + number as u64, SHORT) {
                Ok(()) => self.ledger.completed(SHORT as u64),
                Err(lost) => self.ledger.lost("idle", idle.ports, began, lost),
            }
        }
        (self.ledger.sums(&*self.pulses), self.ledger)
    }
}

/// One who comes again and again.
struct Client {
    number: u64,
    stop: Arc<AtomicBool>,
    ledger: Arc<Ledger>,
    pulses: Arc<[Pulse; 2]>,
}

impl Client {
    fn shorts(self, name: &'static str, port: u16, pulse: usize) {
        let Some(pulse) = self.pulses.get(pulse) else {
            return;
        };
        let mut turn = 0;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let began = Instant::now();
            let served = self.once(name, port, |stream| {
                exchange(stream, self.number << 32 | turn, SHORT).and_then(|()| ended(stream))
            });
            if served.is_some() {
                self.ledger
                    .served(name, pulse, SHORT as u64, began.elapsed());
            }
        }
    }

    fn sessions(self) {
        let mut turn = 0;
        while !self.stop.load(Ordering::Relaxed) {
            turn += 1;
            let seed = self.number << 32 | turn << 16;
            let served = self.once("long", LONG, |stream| self.session(stream, seed));
            if let Some(bytes) = served {
                self.ledger.completed(bytes);
            }
        }
    }

    /// One connection. `None`: it was lost, and noted.
    fn once<T>(
        &self,
        name: &'static str,
        port: u16,
        talk: impl FnOnce(&mut TcpStream) -> Result<T, (Kind, String)>,
    ) -> Option<T> {
        let began = Instant::now();
        self.ledger.begin();
        let failed = |error: io::Error| (Kind::of(&error), format!("connect: {error}"));
        let mut connection = match Connection::new(port) {
            Ok(connection) => connection,
            Err(error) => {
                let ports = Ports {
                    listener: port,
                    client: 0,
                };
                self.ledger.lost(name, ports, began, failed(error));
                return None;
            }
        };
        let connected = connection.connect().map_err(failed);
        let is_connected = connected.is_ok();
        match connected.and_then(|()| talk(&mut connection.stream)) {
            Ok(done) => Some(done),
            Err(lost) => {
                self.ledger.lost(name, connection.ports, began, lost);
                if !is_connected {
                    std::thread::sleep(Duration::from_millis(20));
                }
                None
            }
        }
    }

    fn session(&self, stream: &mut TcpStream, seed: u64) -> Result<u64, (Kind, String)> {
        let lasts = SESSION + SESSION * u32::try_from(self.number % 8).unwrap_or(0) / 8;
        let end = Instant::now() + lasts;
        let mut pieces = 0;
        while Instant::now() < end && !self.stop.load(Ordering::Relaxed) {
            exchange(stream, seed + pieces, PIECE)?;
            pieces += 1;
            std::thread::sleep(PIECE_EVERY);
        }
        let shut = stream.shutdown(Shutdown::Write);
        shut.map_err(|error| (Kind::of(&error), format!("shutdown: {error}")))?;
        ended(stream)?;
        Ok(pieces * PIECE as u64)
    }
}

/// A client's end, with a port before it connects: one that is accepted and reset at once has it too.
struct Connection {
    stream: TcpStream,
    ports: Ports,
}

impl Connection {
    fn new(listener: u16) -> io::Result<Connection> {
        let socket: OwnedFd = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        for direction in [Timeout::Send, Timeout::Recv] {
            set_socket_timeout(&socket, direction, Some(PATIENCE))?;
        }
        bind(&socket, &local(0))?;
        let stream = TcpStream::from(socket);
        let client = stream.local_addr()?.port();
        let ports = Ports { listener, client };
        Ok(Connection { stream, ports })
    }

    /// Waits as long as for anything else: connect(2) heeds the time of SO_SNDTIMEO.
    fn connect(&mut self) -> io::Result<()> {
        match connect(&self.stream, &local(self.ports.listener)) {
            Err(rustix::io::Errno::INPROGRESS) => Err(io::ErrorKind::TimedOut.into()),
            done => Ok(done?),
        }
    }
}

/// Bytes that no other request has (xorshift64).
fn pattern(seed: u64, length: usize) -> Vec<u8> {
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

/// Asks, and compares the answer.
fn exchange(stream: &mut TcpStream, seed: u64, length: usize) -> Result<(), (Kind, String)> {
    let asked = pattern(seed, length);
    let sent = stream.write_all(&asked);
    sent.map_err(|error| (Kind::of(&error), format!("send: {error}")))?;
    let mut answer = vec![0; length];
    let mut got = 0;
    while let Some(rest) = answer.get_mut(got..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => {
                return Err((
                    Kind::Short,
                    format!("the end after {got} of {length} bytes"),
                ));
            }
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err((Kind::of(&error), format!("receive after {got}: {error}")));
            }
        }
    }
    match answer == asked {
        true => Ok(()),
        false => Err((Kind::Short, "wrong bytes".to_owned())),
    }
}

/// The other side's end, and nothing before it.
fn ended(stream: &mut TcpStream) -> Result<(), (Kind, String)> {
    match stream.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err((Kind::Short, "a byte too many".to_owned())),
        Err(error) => Err((Kind::of(&error), format!("waiting for the end: {error}"))),
    }
}

/// Serves behind the program under test, as long as this process lives.
pub fn serve() -> io::Result<()> {
    for port in SHORT_SERVERS {
        let listener = TcpListener::bind(local(port))?;
        // A few who accept, so that no connection needs a thread of its own.
        for _ in 0..8 {
            let listener = listener.try_clone()?;
            std::thread::spawn(move || {
                while let Ok((stream, _)) = listener.accept() {
                    let _ = answer_once(stream);
                }
            });
        }
    }
    let listener = TcpListener::bind(local(LONG_SERVER))?;
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || echo(stream));
        }
    });
    Ok(())
}

fn answer_once(mut stream: TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut asked = [0; SHORT];
    stream.read_exact(&mut asked)?;
    stream.write_all(&asked)
}

fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(got @ 1..) = stream.read(&mut buffer) {
        let Some(bytes) = buffer.get(..got) else {
            return;
        };
        if stream.write_all(bytes).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_bytes_of_its_own() {
        assert_eq!(pattern(7, SHORT), pattern(7, SHORT));
        assert_ne!(pattern(7, SHORT), pattern(8, SHORT));
        assert_eq!(pattern(1, 13).len(), 13);
    }

    #[test]
    fn a_cut_a_wrong_and_a_late_byte_are_noticed() {
        let listener = TcpListener::bind(local(0)).unwrap();
        let address = listener.local_addr().unwrap();
        let answer = |bytes: Vec<u8>| {
            let mut stream = TcpStream::connect(address).unwrap();
            let (mut other, _) = listener.accept().unwrap();
            other.write_all(&bytes).unwrap();
            other.shutdown(Shutdown::Write).unwrap();
            let said = exchange(&mut stream, 7, 16);
            said.and_then(|()| ended(&mut stream))
                .map_err(|(kind, _)| kind)
        };
        let right = pattern(7, 16);
        assert_eq!(answer(right.clone()), Ok(()));
        assert_eq!(answer(right[..15].to_vec()), Err(Kind::Short));
        assert_eq!(answer(pattern(8, 16)), Err(Kind::Short));
        assert_eq!(answer([right, vec![1]].concat()), Err(Kind::Short));
    }
}
