//! A simulated network that asks the model for every socket call: two servers that restart.
//!
//!     cargo run -p portcullis-kernel-model --example simulator
//!
//! Decides:  nothing about sockets: `Net` hands every call to the model, and time passes there when it
//!           passes here. Copy `Net` and the loop; put your own programs in place of `Server`.
//! Not here: latency and loss between machines, which a simulator adds around `Net`.

#![allow(clippy::print_stdout)]

use std::collections::BinaryHeap;

use portcullis_kernel_model::{
    Answer, Call, Errno, Family, Host, Kernel, Opt, ProcessId, SockAddr, SocketId, World,
};

/// The socket calls of one simulated machine.
pub struct Net {
    world: World,
    now_ms: u64,
}

impl Net {
    /// A machine of this kernel. The same seed gives the same run.
    pub fn new(kernel: Kernel, seed: u64) -> Net {
        let mut world = World::new(Host::new(kernel));
        world.seed(seed);
        Net { world, now_ms: 0 }
    }

    /// A new process, with no descriptor.
    pub fn spawn(&mut self) -> ProcessId {
        self.world.fork(ProcessId(0))
    }

    /// The process ends, and with it what only it holds.
    pub fn kill(&mut self, process: ProcessId) {
        self.world.exit(process);
    }

    /// The clock goes on: what waited for it in the kernel (TIME_WAIT) ends.
    pub fn advance_to(&mut self, ms: u64) {
        self.world.pass_time(ms - self.now_ms);
        self.now_ms = ms;
    }

    fn call(&mut self, process: ProcessId, socket: SocketId, call: Call) -> Result<Answer, Errno> {
        match self.world.call_as(process, socket, call) {
            Answer::Err(errno) => Err(errno),
            answer => Ok(answer),
        }
    }

    /// A listening socket.
    pub fn listen(
        &mut self,
        process: ProcessId,
        at: SockAddr,
        options: &[Opt],
    ) -> Result<SocketId, Errno> {
        let socket = self.world.socket(process, Family::Inet);
        let listen = |net: &mut Net| {
            for &option in options {
                net.call(process, socket, Call::Set(option))?;
            }
            net.call(process, socket, Call::Bind(at))?;
            net.call(process, socket, Call::Listen(128))
        };
        match listen(self) {
            Ok(_) => Ok(socket),
            Err(errno) => {
                self.close(process, socket);
                Err(errno)
            }
        }
    }

    /// A connection. A simulator with threads would park one that must wait.
    pub fn connect(&mut self, process: ProcessId, to: SockAddr) -> Result<SocketId, Errno> {
        let socket = self.world.socket(process, Family::Inet);
        match self.call(process, socket, Call::Connect(to)) {
            Ok(Answer::Blocks) => Err(Errno::ETIMEDOUT),
            Ok(_) => Ok(socket),
            Err(errno) => {
                self.close(process, socket);
                Err(errno)
            }
        }
    }

    /// The connection that has waited longest; `None` where none waits.
    pub fn accept(&mut self, process: ProcessId, listener: SocketId) -> Option<SocketId> {
        match self.call(process, listener, Call::Accept) {
            Ok(Answer::Accepted(socket)) => Some(socket),
            _ => None,
        }
    }

    /// One descriptor less.
    pub fn close(&mut self, process: ProcessId, socket: SocketId) {
        self.world.call_as(process, socket, Call::Close);
    }
}

/// A program: it listens, answers each client at once, and is restarted once.
struct Server {
    name: &'static str,
    at: SockAddr,
    options: &'static [Opt],
    running: Option<(ProcessId, SocketId)>,
    /// When it was killed, and how long it took to come back.
    killed_ms: u64,
    told: Told,
}

/// What became of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Told {
    /// Clients that were answered.
    pub served: u32,
    /// Clients that were refused.
    pub refused: u32,
    /// How long it took to listen again.
    pub down_ms: u64,
}

/// What happens next, to which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Start(usize),
    Client(usize),
    Kill(usize),
}

const RETRY_MS: u64 = 1_000;
const CLIENT_EVERY_MS: u64 = 500;
const KILL_MS: u64 = 10_250;
const END_MS: u64 = 120_000;

/// Runs both servers to the end, and tells what became of each.
pub fn simulate(seed: u64) -> Vec<(&'static str, Told)> {
    let mut net = Net::new(Kernel::V6_18, seed);
    let server = |name, port, options| Server {
        name,
        at: SockAddr::new([127, 0, 0, 1].into(), port),
        options,
        running: None,
        killed_ms: 0,
        told: Told::default(),
    };
    let mut servers = [
        server("careful", 8080, &[Opt::ReuseAddr(true)]),
        server("careless", 8081, &[]),
    ];
    let clients = net.spawn();
    // The earliest event is the greatest: `Reverse` turns a heap round.
    let mut agenda = BinaryHeap::new();
    for which in 0..servers.len() {
        for first in [Event::Start(which), Event::Client(which)] {
            agenda.push(std::cmp::Reverse((0, first)));
        }
        agenda.push(std::cmp::Reverse((KILL_MS, Event::Kill(which))));
    }
    while let Some(std::cmp::Reverse((now, event))) = agenda.pop() {
        if now > END_MS {
            break;
        }
        net.advance_to(now);
        let again = match event {
            Event::Start(which) => start(&mut net, &mut servers[which], now),
            Event::Client(which) => client(&mut net, &mut servers[which], clients),
            Event::Kill(which) => kill(&mut net, &mut servers[which], now),
        };
        if let Some((after, kind)) = again {
            let (Event::Start(which) | Event::Client(which) | Event::Kill(which)) = event;
            agenda.push(std::cmp::Reverse((now + after, kind(which))));
        }
    }
    servers.map(|server| (server.name, server.told)).to_vec()
}

/// What to do next, and after how long.
type Next = Option<(u64, fn(usize) -> Event)>;

fn start(net: &mut Net, server: &mut Server, now: u64) -> Next {
    let process = net.spawn();
    match net.listen(process, server.at, server.options) {
        Ok(listener) => {
            server.running = Some((process, listener));
            server.told.down_ms = now - server.killed_ms;
            None
        }
        Err(_) => {
            net.kill(process);
            Some((RETRY_MS, Event::Start))
        }
    }
}

fn client(net: &mut Net, server: &mut Server, clients: ProcessId) -> Next {
    match net.connect(clients, server.at) {
        Ok(connection) => {
            if let Some((process, listener)) = server.running
                && let Some(accepted) = net.accept(process, listener)
            {
                // Who closes first keeps TIME_WAIT: here the server.
                net.close(process, accepted);
                server.told.served += 1;
            }
            net.close(clients, connection);
        }
        Err(_) => server.told.refused += 1,
    }
    Some((CLIENT_EVERY_MS, Event::Client))
}

fn kill(net: &mut Net, server: &mut Server, now: u64) -> Next {
    if let Some((process, _)) = server.running.take() {
        net.kill(process);
        server.killed_ms = now;
    }
    Some((0, Event::Start))
}

fn main() {
    for (name, told) in simulate(1) {
        println!(
            "{name}: {} clients served, {} refused; listening again after {} ms",
            told.served, told.refused, told.down_ms
        );
    }
}
