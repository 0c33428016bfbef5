//! Load generator and backend in one thread around one epoll.
//!
//! Decides:  both ends are in one thread, so that they cost little beside what stands between them;
//!           every connection is watched once, edge-triggered; a slot's key carries a generation, so
//!           that an event for a closed connection finds nobody; what a contender got wrong is
//!           counted by kind.
//! Kernel:   epoll(7), tcp(7)
//! Not here: what clients do (clients.rs), what the backend does (backend.rs), the workloads
//!           (measure.rs).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use rustix::time::{ClockId, Timespec, clock_gettime};

use crate::pattern::Pattern;
use crate::statistics::Histogram;

pub mod backend;
pub mod clients;

use backend::Serving;
use clients::Goal;

/// Events taken at once.
const EVENTS: usize = 512;
/// Connections that may wait to be accepted by the backend.
const BACKLOG: i32 = 4096;
/// The most that is read at once.
const SCRATCH: usize = 1 << 20;
/// Tokens of the backend's listeners are above all slots.
const LISTENER: u64 = u64::MAX - 16;
/// A paced source gets its share so often.
const PACE_NS: u64 = 1_000_000;

/// What the backend does on one of its ports, and what a client there expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Service {
    /// Sends a request back and closes.
    Short,
    /// Sends everything back.
    Echo,
    /// Sends as many bytes as it is asked for.
    Bulk,
}

impl Service {
    /// All, in the order of their ports.
    pub const ALL: [Service; 3] = [Service::Short, Service::Echo, Service::Bulk];

    /// Its name in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Service::Short => "short",
            Service::Echo => "echo",
            Service::Bulk => "bulk",
        }
    }
}

/// Which end of what a connection is.
#[derive(Debug)]
enum Role {
    /// At the backend.
    Server(Serving),
    /// At the generator.
    Client(clients::Client),
}

#[derive(Debug)]
struct Connection {
    fd: OwnedFd,
    role: Role,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// What happened since it was last taken.
#[derive(Debug, Default)]
pub struct Tally {
    /// Connections or round trips that were as they should be.
    pub operations: u64,
    /// Bulk bytes received.
    pub bytes: u64,
    /// How long each operation took.
    pub latency: Histogram,
    /// What went wrong, by kind.
    pub errors: BTreeMap<&'static str, u64>,
}

/// The generator with its backend.
pub struct Rig {
    epoll: OwnedFd,
    events: Vec<epoll::Event>,
    listeners: Vec<(Service, OwnedFd)>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots with something to do that no event will tell of.
    ready: Vec<u32>,
    scratch: Vec<u8>,
    pattern: Pattern,
    /// Connections of the backend.
    serving: usize,
    /// Connections of the generator.
    clients: usize,
    /// Clients in the middle of an operation.
    busy: usize,
    goal: Goal,
    /// Numbers requests, so that each is different.
    sequence: u64,
    /// Bytes that each source may send in each millisecond; 0: as fast as it can.
    pace: u64,
    paced_at_ns: u64,
    tally: Tally,
}

impl std::fmt::Debug for Rig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig")
            .field("serving", &self.serving)
            .field("clients", &self.clients)
            .field("busy", &self.busy)
            .finish_non_exhaustive()
    }
}

/// Monotonic time, ns.
pub fn now_ns() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

impl Rig {
    /// A backend that listens on loopback, from `first_port` on in the order of [`Service::ALL`].
    pub fn new(first_port: u16) -> Result<Rig, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut listeners = Vec::new();
        for (index, service) in Service::ALL.into_iter().enumerate() {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            // Accepted connections inherit it.
            sockopt::set_tcp_nodelay(&socket, true)?;
            let port = if first_port == 0 {
                0
            } else {
                first_port + index as u16
            };
            bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
            listen(&socket, BACKLOG)?;
            let token = EventData::new_u64(LISTENER + index as u64);
            epoll::add(&epoll, &socket, token, EventFlags::IN)?;
            listeners.push((service, socket));
        }
        Ok(Rig {
            epoll,
            events: Vec::with_capacity(EVENTS),
            listeners,
            slots: Vec::new(),
            free: Vec::new(),
            ready: Vec::new(),
            scratch: vec![0; SCRATCH],
            pattern: Pattern::new(),
            serving: 0,
            clients: 0,
            busy: 0,
            goal: Goal::default(),
            sequence: 0,
            pace: 0,
            paced_at_ns: 0,
            tally: Tally::default(),
        })
    }

    /// Where the backend offers a service, with nothing between.
    #[cfg(test)]
    pub fn address(&self, service: Service) -> Result<std::net::SocketAddr, Errno> {
        let found = self.listeners.iter().find(|(kind, _)| *kind == service);
        let (_, socket) = found.ok_or(Errno::NOENT)?;
        std::net::SocketAddr::try_from(rustix::net::getsockname(socket)?)
    }

    /// Takes what was counted since the last time.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// Bytes that each source may send in each millisecond; 0: as fast as it can.
    pub fn set_pace(&mut self, bytes_a_ms: u64) {
        self.pace = bytes_a_ms;
        self.paced_at_ns = now_ns();
    }

    /// Counts a mistake.
    fn wrong(&mut self, kind: &'static str) {
        *self.tally.errors.entry(kind).or_default() += 1;
    }

    /// Handles events until `done`, or until `patience` is over; then that is counted as a mistake
    /// and all connections are dropped.
    fn run_until(&mut self, patience: Duration, done: impl Fn(&Rig) -> bool) -> Result<(), Errno> {
        let deadline = now_ns() + patience.as_nanos() as u64;
        while !done(self) {
            if now_ns() > deadline {
                let stuck = self.busy.max(1) as u64;
                *self.tally.errors.entry("stuck").or_default() += stuck;
                self.drop_all();
                return Ok(());
            }
            self.step()?;
        }
        Ok(())
    }

    /// One wait for events, and all that they and the ready list ask for.
    fn step(&mut self) -> Result<(), Errno> {
        let wait_ns = match (self.ready.is_empty(), self.pace) {
            (false, _) => 0,
            (true, 0) => 100_000_000,
            (true, _) => (self.paced_at_ns + PACE_NS).saturating_sub(now_ns()),
        };
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: wait_ns as _,
        };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        let spare = rustix::buffer::spare_capacity(&mut events);
        match epoll::wait(&self.epoll, spare, Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
        for event in &events {
            let (token, flags) = (event.data.u64(), event.flags);
            if token >= LISTENER {
                self.accept((token - LISTENER) as usize)?;
            } else {
                self.event(token, flags);
            }
        }
        self.events = events;
        self.hand_out_pace();
        for index in std::mem::take(&mut self.ready) {
            let slot = &self.slots[index as usize];
            let token = pack(index, slot.generation);
            self.event(token, EventFlags::OUT);
        }
        Ok(())
    }

    fn event(&mut self, token: u64, flags: EventFlags) {
        let (index, generation) = unpack(token);
        let Some(slot) = self.slots.get(index as usize) else {
            return;
        };
        if slot.generation != generation {
            return;
        }
        match &slot.connection {
            Some(Connection {
                role: Role::Server(_),
                ..
            }) => self.server_event(index, flags),
            Some(Connection {
                role: Role::Client(_),
                ..
            }) => self.client_event(index, flags),
            None => {}
        }
    }

    /// Takes a connection in and watches it.
    fn insert(&mut self, fd: OwnedFd, role: Role) -> Result<u32, Errno> {
        match role {
            Role::Server(_) => self.serving += 1,
            Role::Client(_) => self.clients += 1,
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        let data = EventData::new_u64(pack(index, slot.generation));
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let watched = epoll::add(&self.epoll, &fd, data, flags);
        slot.connection = Some(Connection { fd, role });
        watched.inspect_err(|_| self.remove(index)).map(|()| index)
    }

    /// Closes a connection.
    fn remove(&mut self, index: u32) {
        let slot = &mut self.slots[index as usize];
        let Some(connection) = slot.connection.take() else {
            return;
        };
        slot.generation = slot.generation.wrapping_add(1) & GENERATIONS;
        self.free.push(index);
        match connection.role {
            Role::Server(_) => self.serving -= 1,
            Role::Client(client) => {
                self.clients -= 1;
                self.busy -= usize::from(client.busy);
            }
        }
    }

    fn drop_all(&mut self) {
        for index in 0..self.slots.len() as u32 {
            self.remove(index);
        }
        self.ready.clear();
    }
}

/// Generations that fit beside an index and stay below the listeners' tokens.
const GENERATIONS: u32 = 0x7fff_ffff;

fn pack(index: u32, generation: u32) -> u64 {
    u64::from(generation) << 32 | u64::from(index)
}

fn unpack(token: u64) -> (u32, u32) {
    (token as u32, (token >> 32) as u32)
}

#[cfg(test)]
mod tests;
