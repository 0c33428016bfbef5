//! A network inside the test: every short write, refusal, reset and lost descriptor comes from a seed.
//!
//! Decides:  it behaves as the kernel promises (edges, short reads only when drained), and as badly
//!           as the kernel may: short writes and splices anywhere, EINTR, EMFILE, resets at any point.
//! Kernel:   epoll(7) "edge-triggered", tcp(7), splice(2)
//! Not here: what must hold all the same (worker/simulation.rs).

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use rustix::io::Errno;

use super::{
    Begun, ClientOptions, Close, ConnectOptions, Interest, Net, Readiness, Then, Unconnected,
};
use crate::record::PeerAddress;
use crate::snapshot::Sharing;

/// xorshift64*, as good as needed and the same everywhere.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    /// 0 to `sides` - 1.
    pub fn below(&mut self, sides: u64) -> u64 {
        self.roll() % sides.max(1)
    }

    /// True once in `times`; never for 0.
    pub fn once_in(&mut self, times: u64) -> bool {
        times > 0 && self.below(times) == 0
    }
}

/// Workers at most that share a listener.
pub const MOST_WORKERS: usize = 4;

/// How bad the network is. Each number is "once in so many calls"; 0 is never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Faults {
    pub interrupted: u64,
    pub no_descriptor: u64,
    pub no_pipe: u64,
    pub refused: u64,
    pub hanging: u64,
    pub reset: u64,
    pub aborted_in_queue: u64,
    /// A peer's sending has an urgent mark in it.
    pub urgent: u64,
    /// A deliberate defect of the network, which the checks must find.
    pub lie: Lie,
}

/// Defects of the network that a check must find, or it checks nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Lie {
    #[default]
    None,
    /// Room in a full socket is not told.
    ForgottenEdge,
    /// A byte is changed on its way.
    ChangedByte,
    /// A written byte is not delivered.
    LostByte,
    /// An urgent mark is not told.
    SilentMark,
    /// A source that was made to gather goes on when it is told not to.
    StuckWater,
    /// What waits for more bytes is not sent when it is told to be.
    KeptPart,
}

/// How far a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Connecting,
    Refused,
    Hanging,
    Open,
}

/// One connection: our end and the peer's.
#[derive(Debug)]
pub struct Connection {
    pub stage: Stage,
    pub watched: Option<u64>,
    /// Its edge is to be told.
    pub edge: bool,
    /// From the peer, not read yet.
    pub arriving: VecDeque<u8>,
    /// A read stops before the byte of this place among them.
    mark: Option<usize>,
    /// All that the peer ever sent.
    pub sent: Vec<u8>,
    /// All that the peer got.
    pub received: Vec<u8>,
    /// What the peer's window and our send buffer still take.
    pub room: usize,
    pub wants_room: bool,
    /// Fewer bytes are not told of.
    pub low_water: usize,
    pub peer_ended: bool,
    pub peer_reset: bool,
    error_told: bool,
    /// We sent our end.
    pub ended: bool,
    /// What we wrote waits for our end.
    held: bool,
    /// The last of what we wrote waits for more.
    pub part_held: bool,
    /// It is watched for reading only.
    reading_only: bool,
    pub closed: Option<Close>,
    /// The other connection of its session.
    pub partner: Option<usize>,
    /// Whose it is, once a worker has it.
    pub worker: usize,
    /// Bytes of a PROXY header, at the beginning of what the peer sent.
    pub header: usize,
    /// What of the header the peer has not sent yet.
    header_to_come: VecDeque<u8>,
    /// When what happened here last.
    pub stamps: Stamps,
}

/// When something happened on a connection last, by the clock of the engines; 0: never.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stamps {
    /// Bytes of the peer, or its end, were read.
    pub heard_ms: u64,
    /// Bytes were written to it.
    pub told_ms: u64,
    /// Our end was sent.
    pub ended_ms: u64,
}

impl Connection {
    fn new(stage: Stage, room: usize) -> Self {
        Connection {
            stage,
            watched: None,
            edge: false,
            arriving: VecDeque::new(),
            mark: None,
            sent: Vec::new(),
            received: Vec::new(),
            room,
            wants_room: false,
            low_water: 1,
            peer_ended: false,
            peer_reset: false,
            error_told: false,
            ended: false,
            held: false,
            part_held: false,
            reading_only: false,
            closed: None,
            partner: None,
            worker: 0,
            header: 0,
            header_to_come: VecDeque::new(),
            stamps: Stamps::default(),
        }
    }

    fn readiness(&self) -> Readiness {
        match self.stage {
            Stage::Connecting | Stage::Hanging => Readiness::default(),
            Stage::Refused => Readiness {
                readable: true,
                writable: true,
                hung_up: true,
                failed: true,
                urgent: false,
            },
            Stage::Open => Readiness {
                readable: self.arriving.len() >= self.low_water
                    || self.peer_ended
                    || self.peer_reset,
                writable: self.room > 0 || self.peer_reset,
                hung_up: self.peer_ended || self.peer_reset,
                failed: self.peer_reset,
                urgent: self.mark.is_some(),
            },
        }
    }
}

/// All connections, and the dice.
#[derive(Debug)]
pub struct World {
    pub dice: Dice,
    pub faults: Faults,
    pub connections: Vec<Connection>,
    /// Clients that wait to be accepted.
    pub queue: VecDeque<usize>,
    /// By worker: under which key it watches the listener.
    pub listeners: Vec<Option<u64>>,
    /// By worker: it is told of the listener's queue.
    told: Vec<bool>,
    /// The clock of the engines.
    pub now_ms: u64,
    /// When connections were taken from the queue, and for good.
    pub accepted: Vec<u64>,
    pub pipes: BTreeMap<usize, VecDeque<u8>>,
    next_pipe: usize,
    reserve: bool,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Rc<RefCell<World>> {
        Rc::new(RefCell::new(World {
            dice: Dice::new(seed),
            faults,
            connections: Vec::new(),
            queue: VecDeque::new(),
            listeners: vec![None; MOST_WORKERS],
            told: vec![false; MOST_WORKERS],
            now_ms: 0,
            accepted: Vec::new(),
            pipes: BTreeMap::new(),
            next_pipe: 0,
            reserve: true,
        }))
    }

    /// A client connects; his number.
    pub fn arrive(&mut self) -> usize {
        let room = self.dice.below(50_000) as usize;
        self.connections.push(Connection::new(Stage::Open, room));
        self.queue.push_back(self.connections.len() - 1);
        // As EPOLLEXCLUSIVE has it: one of those who watch is woken.
        let watching: Vec<usize> = (0..MOST_WORKERS)
            .filter(|&at| self.listeners[at].is_some())
            .collect();
        if watching.len() > 1 {
            let chosen = self.dice.below(watching.len() as u64) as usize;
            self.told[watching[chosen]] = true;
        } else if let Some(&only) = watching.first() {
            self.told[only] = true;
        }
        self.connections.len() - 1
    }

    /// A client who connects is to send this header; so much of it comes with him, the rest later.
    pub fn announce(&mut self, id: usize, header: &[u8], at_once: usize) {
        let connection = &mut self.connections[id];
        connection.header = header.len();
        connection.header_to_come = header.iter().copied().collect();
        let first: Vec<u8> = connection.header_to_come.drain(..at_once).collect();
        connection.sent.extend(&first);
        connection.arriving.extend(&first);
    }

    fn touch(&mut self, id: usize) {
        let connection = &mut self.connections[id];
        if connection.watched.is_some() && connection.closed.is_none() {
            connection.edge = true;
        }
    }

    /// The peer sends bytes.
    pub fn send(&mut self, id: usize, length: usize) {
        let connection = &mut self.connections[id];
        if connection.peer_ended || connection.peer_reset || connection.closed.is_some() {
            return;
        }
        if !connection.header_to_come.is_empty() {
            let part = length.clamp(1, connection.header_to_come.len());
            let part: Vec<u8> = connection.header_to_come.drain(..part).collect();
            connection.sent.extend(&part);
            connection.arriving.extend(&part);
            return self.touch(id);
        }
        let urgent = self.faults.urgent;
        if connection.mark.is_none() && self.dice.once_in(urgent) {
            let before = self.dice.below(length as u64) as usize;
            connection.mark = Some(connection.arriving.len() + before);
        }
        for _ in 0..length {
            // Such that a byte says where it belongs: whose, and which.
            let at = connection.sent.len() as u64;
            let byte = ((at.wrapping_mul(0x9e37_79b9) >> 7) ^ at ^ (id as u64 * 91)) as u8;
            connection.sent.push(byte);
            connection.arriving.push_back(byte);
        }
        if connection.arriving.len() >= connection.low_water || connection.mark.is_some() {
            self.touch(id);
        }
    }

    /// The peer sends its end.
    pub fn end(&mut self, id: usize) {
        self.connections[id].peer_ended = true;
        self.touch(id);
    }

    /// The peer resets. What arrived before can still be read.
    pub fn reset(&mut self, id: usize) {
        self.connections[id].peer_reset = true;
        self.touch(id);
    }

    /// The peer reads: there is room again.
    pub fn make_room(&mut self, id: usize, bytes: usize) {
        let connection = &mut self.connections[id];
        connection.room += bytes;
        if connection.wants_room && bytes > 0 {
            connection.wants_room = false;
            if self.faults.lie != Lie::ForgottenEdge {
                self.touch(id);
            }
        }
    }

    /// A connection under way comes out.
    pub fn settle(&mut self, id: usize) {
        if self.connections[id].stage != Stage::Connecting {
            return;
        }
        let faults = self.faults;
        self.connections[id].stage = if self.dice.once_in(faults.refused) {
            Stage::Refused
        } else if self.dice.once_in(faults.hanging) {
            Stage::Hanging
        } else {
            Stage::Open
        };
        self.touch(id);
    }

    /// Would an epoll_wait of this worker return at once?
    pub fn has_events(&self, worker: usize) -> bool {
        let of_listener =
            self.listeners[worker].is_some() && self.told[worker] && !self.queue.is_empty();
        let is_edge = |connection: &Connection| {
            connection.watched.is_some()
                && connection.edge
                && connection.closed.is_none()
                && connection.worker == worker
        };
        of_listener || self.connections.iter().any(is_edge)
    }

    /// What an epoll_wait of this worker would tell now, in some order.
    pub fn events(&mut self, worker: usize) -> Vec<(u64, Readiness)> {
        let mut found = Vec::new();
        for connection in &mut self.connections {
            if let Some(token) = connection.watched
                && connection.edge
                && connection.closed.is_none()
                && connection.worker == worker
            {
                assert!(!connection.held, "bytes wait for an end that does not come");
                let mut readiness = connection.readiness();
                readiness.writable &= !connection.reading_only;
                readiness.urgent &= self.faults.lie != Lie::SilentMark;
                connection.edge = false;
                if readiness != Readiness::default() {
                    found.push((token, readiness));
                }
            }
        }
        // Who looks for whatever reason sees the queue, and goes on to until it is empty.
        self.told[worker] = !self.queue.is_empty();
        if let Some(token) = self.listeners[worker]
            && !self.queue.is_empty()
        {
            let readiness = Readiness {
                readable: true,
                ..Readiness::default()
            };
            found.push((token, readiness));
        }
        for at in (1..found.len()).rev() {
            let other = self.dice.below(at as u64 + 1) as usize;
            found.swap(at, other);
        }
        found
    }

    fn interrupted(&mut self) -> Result<(), Errno> {
        let times = self.faults.interrupted;
        match self.dice.once_in(times) {
            true => Err(Errno::INTR),
            false => Ok(()),
        }
    }

    fn take_error(&mut self, id: usize) -> Errno {
        let connection = &mut self.connections[id];
        connection.error_told = true;
        Errno::CONNRESET
    }

    /// How many bytes a read takes: it stops at a mark, and the next one goes past it.
    fn up_to_mark(&mut self, id: usize, length: usize) -> usize {
        let connection = &mut self.connections[id];
        if connection.mark == Some(0) {
            connection.mark = None;
        }
        let taken = connection.mark.map_or(length, |mark| mark.min(length));
        connection.mark = connection.mark.map(|mark| mark - taken);
        taken
    }

    /// How many bytes can be read, or what there is instead.
    fn readable(&mut self, id: usize) -> Result<usize, Errno> {
        self.interrupted()?;
        self.available(id)
    }

    /// The same of a look, which nothing interrupts: it never waits.
    fn available(&mut self, id: usize) -> Result<usize, Errno> {
        let connection = &self.connections[id];
        assert!(connection.closed.is_none(), "read after close");
        match connection.arriving.len() {
            0 if connection.peer_reset && !connection.error_told => Err(self.take_error(id)),
            0 if connection.peer_reset || connection.peer_ended => Ok(0),
            0 => Err(Errno::AGAIN),
            length => Ok(length),
        }
    }

    /// How many bytes can be written, at least 1.
    fn writable(&mut self, id: usize, length: usize) -> Result<usize, Errno> {
        self.interrupted()?;
        let reset_now = self.faults.reset;
        if self.dice.once_in(reset_now) {
            self.reset(id);
        }
        let connection = &mut self.connections[id];
        assert!(connection.closed.is_none(), "write after close");
        assert!(!connection.ended, "write after our end");
        assert_eq!(connection.stage, Stage::Open, "write before connect");
        if connection.peer_reset {
            return Err(match connection.error_told {
                false => self.take_error(id),
                true => Errno::PIPE,
            });
        }
        let taken = length.min(connection.room);
        connection.room -= taken;
        connection.wants_room |= taken < length;
        if taken == 0 {
            return Err(Errno::AGAIN);
        }
        Ok(taken)
    }

    fn deliver(&mut self, id: usize, bytes: &[u8]) {
        self.connections[id].stamps.told_ms = self.now_ms;
        let lie = self.faults.lie;
        let start = self.connections[id].received.len();
        self.connections[id].received.extend_from_slice(bytes);
        if lie == Lie::ChangedByte && self.dice.once_in(20) {
            self.connections[id].received[start] ^= 1;
        }
        if lie == Lie::LostByte && self.dice.once_in(20) {
            self.connections[id].received.pop();
        }
    }
}

/// Where a client of this number comes from.
pub fn address_of(id: usize) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, id as u16))
}

/// The network as the engine of one worker sees it.
#[derive(Debug, Clone)]
pub struct SimulatedNet {
    pub world: Rc<RefCell<World>>,
    /// Whose it is.
    pub worker: usize,
}

/// A pipe; closing one with its bytes loses them.
#[derive(Debug)]
pub struct SimulatedPipe {
    id: usize,
    world: Rc<RefCell<World>>,
}

impl Drop for SimulatedPipe {
    fn drop(&mut self) {
        self.world.borrow_mut().pipes.remove(&self.id);
    }
}

impl Net for SimulatedNet {
    type Socket = usize;
    type Listener = ();
    type Pipe = SimulatedPipe;

    fn watch_listener(&mut self, (): &(), _: Sharing, token: u64) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        assert!(world.listeners[self.worker].is_none(), "watched twice");
        world.listeners[self.worker] = Some(token);
        world.told[self.worker] = true;
        Ok(())
    }

    fn unwatch_listener(&mut self, (): &()) {
        self.world.borrow_mut().listeners[self.worker] = None;
    }

    fn listener_id(&self, (): &()) -> u64 {
        0
    }

    fn inherits_no_delay(&mut self, (): &()) -> bool {
        true
    }

    fn accept(&mut self, (): &(), _: &ClientOptions) -> Result<(usize, PeerAddress), Errno> {
        let mut world = self.world.borrow_mut();
        let faults = world.faults;
        if world.dice.once_in(faults.no_descriptor) {
            return Err(Errno::MFILE);
        }
        world.interrupted()?;
        let id = world.queue.pop_front().ok_or(Errno::AGAIN)?;
        if world.dice.once_in(faults.aborted_in_queue) {
            world.connections[id].closed = Some(Close::Orderly);
            return Err(Errno::CONNABORTED);
        }
        world.connections[id].worker = self.worker;
        let now_ms = world.now_ms;
        world.accepted.push(now_ms);
        let address = address_of(id);
        Ok((id, PeerAddress::Ip(address)))
    }

    fn local_address(&mut self, _: &usize) -> Result<PeerAddress, Errno> {
        Ok(PeerAddress::Unix)
    }

    fn connect(
        &mut self,
        client: &usize,
        _: &ConnectOptions<'_>,
    ) -> Result<Begun<usize>, Unconnected> {
        let mut world = self.world.borrow_mut();
        let faults = world.faults;
        let mut used_reserve = false;
        if world.dice.once_in(faults.no_descriptor) {
            used_reserve = std::mem::take(&mut world.reserve);
            if !used_reserve {
                return Err(Unconnected::Failed(Errno::MFILE));
            }
        }
        if world.dice.once_in(faults.refused) {
            return Err(Unconnected::Failed(Errno::CONNREFUSED));
        }
        let room = world.dice.below(50_000) as usize;
        let connected = world.dice.once_in(4);
        let stage = match connected {
            true => Stage::Open,
            false => Stage::Connecting,
        };
        let id = world.connections.len();
        let mut connection = Connection::new(stage, room);
        connection.partner = Some(*client);
        connection.worker = self.worker;
        world.connections.push(connection);
        world.connections[*client].partner = Some(id);
        Ok(Begun {
            socket: id,
            lease: None,
            connected,
            refused_options: 0,
            used_reserve,
        })
    }

    fn connect_outcome(&mut self, socket: &usize) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        match world.connections[*socket].stage {
            Stage::Refused => Err(Errno::CONNREFUSED),
            _ if world.connections[*socket].peer_reset => Err(world.take_error(*socket)),
            _ => Ok(()),
        }
    }

    fn watch(&mut self, socket: &usize, token: u64, interest: Interest) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        let faults = world.faults;
        if world.dice.once_in(faults.no_descriptor * 4) {
            return Err(Errno::NOMEM);
        }
        let connection = &mut world.connections[*socket];
        assert!(connection.watched.is_none(), "watched twice");
        connection.watched = Some(token);
        connection.reading_only = interest == Interest::Reading;
        connection.edge = true;
        Ok(())
    }

    fn watch_both(&mut self, socket: &usize, token: u64) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        let connection = &mut world.connections[*socket];
        assert_eq!(connection.watched, Some(token), "watched by another key");
        assert!(connection.reading_only, "watched for all already");
        connection.reading_only = false;
        connection.edge = true;
        Ok(())
    }

    fn read(&mut self, socket: &usize, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut world = self.world.borrow_mut();
        let length = world.readable(*socket)?.min(buffer.len());
        let length = world.up_to_mark(*socket, length);
        world.connections[*socket].stamps.heard_ms = world.now_ms;
        let arriving = &mut world.connections[*socket].arriving;
        for (slot, byte) in buffer.iter_mut().zip(arriving.drain(..length)) {
            *slot = byte;
        }
        Ok(length)
    }

    fn peek(&mut self, socket: &usize, buffer: &mut [u8]) -> Result<usize, Errno> {
        let mut world = self.world.borrow_mut();
        let length = world.available(*socket)?.min(buffer.len());
        let arriving = &world.connections[*socket].arriving;
        for (slot, byte) in buffer.iter_mut().zip(arriving.iter()) {
            *slot = *byte;
        }
        Ok(length)
    }

    fn write(&mut self, socket: &usize, bytes: &[u8], then: Then) -> Result<usize, Errno> {
        let mut world = self.world.borrow_mut();
        let length = world.writable(*socket, bytes.len())?;
        world.deliver(*socket, &bytes[..length]);
        // A full send buffer is sent whatever follows.
        world.connections[*socket].held = then == Then::End && length == bytes.len();
        world.connections[*socket].part_held = then == Then::More;
        Ok(length)
    }

    fn shut_down(&mut self, socket: &usize) -> Result<(), Errno> {
        let mut world = self.world.borrow_mut();
        let now_ms = world.now_ms;
        let connection = &mut world.connections[*socket];
        assert!(!connection.ended, "our end sent twice");
        if connection.peer_reset {
            return Err(Errno::NOTCONN);
        }
        connection.ended = true;
        connection.stamps.ended_ms = now_ms;
        connection.held = false;
        connection.part_held = false;
        Ok(())
    }

    fn close(&mut self, socket: usize, how: Close) {
        let mut world = self.world.borrow_mut();
        let connection = &mut world.connections[socket];
        assert!(connection.closed.is_none(), "closed twice");
        connection.closed = Some(how);
    }

    fn unread(&mut self, socket: &usize) -> usize {
        self.world.borrow().connections[*socket].arriving.len()
    }

    fn unsent(&mut self, _: &usize) -> usize {
        0
    }

    fn set_no_delay(&mut self, socket: &usize) {
        let mut world = self.world.borrow_mut();
        if world.faults.lie != Lie::KeptPart {
            world.connections[*socket].part_held = false;
        }
    }

    fn pipe(&mut self, _: u32) -> Result<(SimulatedPipe, u32), Errno> {
        let mut world = self.world.borrow_mut();
        let faults = world.faults;
        if world.dice.once_in(faults.no_pipe) {
            return Err(Errno::MFILE);
        }
        let id = world.next_pipe;
        world.next_pipe += 1;
        world.pipes.insert(id, VecDeque::new());
        let pipe = SimulatedPipe {
            id,
            world: Rc::clone(&self.world),
        };
        // Small ones are filled often enough for what comes of that to be tried.
        let capacity = [512, 1024, 2048, 64 * 1024][world.dice.below(4) as usize];
        Ok((pipe, capacity))
    }

    fn set_low_water(&mut self, socket: &usize, bytes: u32) {
        let mut world = self.world.borrow_mut();
        if bytes == 1 && world.faults.lie == Lie::StuckWater {
            return;
        }
        let connection = &mut world.connections[*socket];
        connection.low_water = bytes as usize;
        if connection.arriving.len() >= connection.low_water {
            world.touch(*socket);
        }
    }

    fn splice_in(
        &mut self,
        from: &usize,
        pipe: &SimulatedPipe,
        length: usize,
    ) -> Result<usize, Errno> {
        let mut world = self.world.borrow_mut();
        let available = world.readable(*from)?.min(length);
        if available == 0 {
            world.connections[*from].stamps.heard_ms = world.now_ms;
            return Ok(0);
        }
        // A splice does not go past a mark.
        let connection = &mut world.connections[*from];
        let available = connection
            .mark
            .map_or(available, |mark| mark.min(available));
        if available == 0 {
            return Err(Errno::AGAIN);
        }
        // The pipe's slots may be full before its bytes are.
        let moved = match world.dice.once_in(3) {
            true => 1 + world.dice.below(available as u64) as usize,
            false => available,
        };
        world.connections[*from].stamps.heard_ms = world.now_ms;
        let connection = &mut world.connections[*from];
        let bytes: Vec<u8> = connection.arriving.drain(..moved).collect();
        connection.mark = connection.mark.map(|mark| mark - moved);
        let inside = world.pipes.get_mut(&pipe.id).expect("an open pipe");
        assert!(inside.is_empty(), "spliced into a pipe that was not empty");
        inside.extend(bytes);
        Ok(moved)
    }

    fn splice_out(
        &mut self,
        pipe: &SimulatedPipe,
        to: &usize,
        length: usize,
        then: Then,
    ) -> Result<usize, Errno> {
        let mut world = self.world.borrow_mut();
        assert_eq!(world.pipes[&pipe.id].len(), length, "the load is known");
        let most = match world.dice.once_in(3) {
            true => 1 + world.dice.below(length as u64) as usize,
            false => length,
        };
        let moved = world.writable(*to, most)?;
        let inside = world.pipes.get_mut(&pipe.id).expect("an open pipe");
        let bytes: Vec<u8> = inside.drain(..moved).collect();
        world.deliver(*to, &bytes);
        world.connections[*to].part_held = then == Then::More;
        Ok(moved)
    }

    fn restore_reserve(&mut self) -> bool {
        let mut world = self.world.borrow_mut();
        world.reserve |= world.dice.once_in(2);
        world.reserve
    }

    fn random(&mut self) -> u64 {
        self.world.borrow_mut().dice.roll()
    }
}
