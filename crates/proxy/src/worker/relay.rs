//! Moving bytes: one turn of one session, both ways.
//!
//! Decides:  bytes go straight through the worker's scratch buffer; a session holds a buffer only
//!           after a short write; after some full reads a direction moves by splice, and back when
//!           reads get small; a turn moves so much and no more, so that others get theirs.
//! Kernel:   a short read from a stream means that it is drained, unless its end is there to be read
//!           or it stopped at an urgent mark (net/ipv4/tcp.c, tcp_recvmsg_locked(), 5.4 to 6.18); if
//!           the end was announced before that read, the end is all that is left;
//!           splice(2) to EAGAIN, since a short one may only mean that the pipe's slots are full.
//! Not here: when to take a turn (worker.rs), what the end of one means (session.rs).

use rustix::io::Errno;

use super::gather;
use super::pools::{BufferPool, PipePool};
use crate::net::{Net, Then};
use crate::session::{Flow, Session, Side};

/// Full reads in a row after which a direction is spliced.
const BULK_AFTER: u8 = 3;
/// A splice that moves less is small.
const SMALL_SPLICE: usize = 16 * 1024;
/// Small splices in a row after which a direction is copied again.
const COPY_AFTER: u8 = 4;
/// Bytes spliced in one turn: they cost the worker no copying, only its peers' patience.
const SPLICE_QUOTA: usize = 4 * 1024 * 1024;

/// Bytes on their way, held by a session.
#[derive(Debug)]
pub enum Carry<P> {
    /// None.
    Nothing,
    /// After a short write.
    Buffer(Box<Buffer>),
    /// In a pipe.
    Pipe(Box<LoadedPipe<P>>),
}

/// What a short write left.
#[derive(Debug)]
pub struct Buffer {
    /// The bytes; `start..` are left to be written.
    pub bytes: Vec<u8>,
    /// The first that is left.
    pub start: usize,
}

/// A pipe and what is in it.
#[derive(Debug)]
pub struct LoadedPipe<P> {
    /// The pipe.
    pub pipe: P,
    /// How many bytes it can hold.
    pub capacity: u32,
    /// How many it holds.
    pub load: u32,
}

impl<P> Carry<P> {
    /// Is nothing on its way?
    pub fn is_empty(&self) -> bool {
        matches!(self, Carry::Nothing)
    }
}

/// What a turn uses of its worker.
#[derive(Debug)]
pub struct Kit<'a, N: Net> {
    /// The network.
    pub net: &'a mut N,
    /// The worker's scratch buffer; its length is also the most that is copied in a turn.
    pub scratch: &'a mut [u8],
    /// Buffers for what short writes leave.
    pub buffers: &'a mut BufferPool,
    /// Pipes.
    pub pipes: &'a mut PipePool<N::Pipe>,
    /// May this session's bulk be spliced?
    pub splice: bool,
    /// The time.
    pub now_ms: u64,
}

/// What is left after a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Nothing, until an event.
    Done,
    /// More of the same: the quota was used up.
    More,
}

/// One end of a flow: its socket, what is known of it, and when its idle times began.
struct End<'a, S> {
    socket: &'a S,
    side: &'a mut Side,
    active_ms: &'a mut u64,
    heard_ms: &'a mut u64,
}

impl<S> End<'_, S> {
    /// It sent something, or its idle time begins anew.
    fn heard(&mut self, now_ms: u64) {
        *self.active_ms = now_ms;
        *self.heard_ms = now_ms;
    }
}

/// Moves what can be moved both ways, then passes ends on.
pub fn turn<N: Net>(session: &mut Session<N::Socket, N::Pipe>, kit: &mut Kit<'_, N>) -> Turn {
    let Some(server) = &session.server else {
        return Turn::Done;
    };
    let mut client = End {
        socket: &session.client,
        side: &mut session.client_side,
        active_ms: &mut session.client_active_ms,
        heard_ms: &mut session.client_heard_ms,
    };
    let mut server = End {
        socket: server,
        side: &mut session.server_side,
        active_ms: &mut session.server_active_ms,
        heard_ms: &mut session.server_heard_ms,
    };
    let up = advance(&mut session.up, &mut client, &mut server, kit);
    let down = advance(&mut session.down, &mut server, &mut client, kit);
    let mut news = false;
    if !(session.up.is_over() && session.down.is_over()) {
        let times = &session.route.times;
        if client.side.end_seen {
            news |= pass_end(&session.up, &mut server, times.server_fin, kit);
        }
        if server.side.end_seen {
            news |= pass_end(&session.down, &mut client, times.client_fin, kit);
        }
    }
    if up == Turn::More || down == Turn::More || news {
        Turn::More
    } else {
        Turn::Done
    }
}

/// Sends the source's end on, once all before it is written. True: that showed the connection gone,
/// and its last words are still to be read. If a half closed side has a time of its own, that begins
/// now: however long it was silent before, it may answer what it was sent.
fn pass_end<N: Net>(
    flow: &Flow<N::Pipe>,
    to: &mut End<'_, N::Socket>,
    fin_ms: u32,
    kit: &mut Kit<'_, N>,
) -> bool {
    if !flow.source_done || !flow.carry.is_empty() || flow.broken {
        return false;
    }
    if to.side.end_sent || to.side.failed {
        return false;
    }
    to.side.end_sent = true;
    if fin_ms > 0 {
        to.heard(kit.now_ms);
    }
    if kit.net.shut_down(to.socket).is_ok() {
        return false;
    }
    to.side.failed = true;
    to.side.readable = !to.side.end_seen;
    true
}

fn advance<N: Net>(
    flow: &mut Flow<N::Pipe>,
    from: &mut End<'_, N::Socket>,
    to: &mut End<'_, N::Socket>,
    kit: &mut Kit<'_, N>,
) -> Turn {
    if to.side.failed {
        flow.broken = true;
    }
    if flow.broken {
        drop_carry(flow, kit);
        return Turn::Done;
    }
    let mut quota = kit.scratch.len();
    loop {
        if !flush(flow, to, kit) || flow.source_done || !from.side.readable {
            // The other direction may have to read a broken connection's last words.
            return if flow.broken { Turn::More } else { Turn::Done };
        }
        // A splice does not get past an urgent mark.
        flow.splicing &= !from.side.reads_stop_early;
        if flow.splicing {
            match splice(flow, from, to, kit) {
                Spliced::Turn(turn) => return turn,
                Spliced::CopyInstead => continue,
            }
        }
        if quota == 0 {
            return Turn::More;
        }
        let length = quota.min(kit.scratch.len());
        match kit.net.read(from.socket, &mut kit.scratch[..length]) {
            Ok(0) => {
                from.heard(kit.now_ms);
                source_ended(flow, from);
            }
            Ok(read) => {
                quota -= read;
                note_read(flow, from, read, length, kit);
                deliver(flow, to, read, kit);
            }
            Err(error) => source_error(flow, from, error),
        }
        if flow.broken {
            return Turn::More;
        }
    }
}

fn source_ended<P, S>(flow: &mut Flow<P>, from: &mut End<'_, S>) {
    flow.source_done = true;
    from.side.end_seen = true;
    from.side.readable = false;
}

fn source_error<P, S>(flow: &mut Flow<P>, from: &mut End<'_, S>, error: Errno) {
    match error {
        Errno::AGAIN => from.side.readable = false,
        Errno::INTR => {}
        _ => {
            from.side.failed = true;
            from.side.readable = false;
            flow.source_done = true;
        }
    }
}

/// Keeps books after `read` of `length` bytes came.
fn note_read<N: Net>(
    flow: &mut Flow<N::Pipe>,
    from: &mut End<'_, N::Socket>,
    read: usize,
    length: usize,
    kit: &Kit<'_, N>,
) {
    flow.bytes += read as u64;
    from.heard(kit.now_ms);
    if read < length {
        flow.streak = 0;
        if from.side.end_is_next() {
            source_ended(flow, from);
        } else if !from.side.hung_up && !from.side.reads_stop_early {
            from.side.readable = false;
        }
        return;
    }
    flow.streak = flow.streak.saturating_add(1);
    let splices = kit.splice && !flow.never_splice && !from.side.reads_stop_early;
    if flow.streak >= BULK_AFTER && splices {
        flow.splicing = true;
        flow.streak = 0;
    }
}

/// Before a second write: without `TCP_NODELAY` it would wait for the first one's acknowledgement.
fn before_write<N: Net>(flow: &mut Flow<N::Pipe>, to: &mut End<'_, N::Socket>, net: &mut N) {
    if flow.written && !to.side.no_delay {
        net.set_no_delay(to.socket);
        to.side.no_delay = true;
    }
    flow.written = true;
}

/// Writes the first `length` bytes of the scratch buffer; what is not taken is kept in a buffer.
fn deliver<N: Net>(
    flow: &mut Flow<N::Pipe>,
    to: &mut End<'_, N::Socket>,
    length: usize,
    kit: &mut Kit<'_, N>,
) {
    before_write(flow, to, kit.net);
    // Nothing is held back for long: the end is passed on in this turn.
    let then = if flow.source_done {
        Then::End
    } else {
        Then::Wait
    };
    let mut start = 0;
    while start < length && to.side.writable {
        match kit.net.write(to.socket, &kit.scratch[start..length], then) {
            Ok(written) => {
                *to.active_ms = kit.now_ms;
                start += written;
                to.side.writable = start == length;
            }
            Err(error) => write_error(flow, to.side, error),
        }
        if flow.broken {
            return;
        }
    }
    if start < length {
        let buffer = kit.buffers.take(&kit.scratch[start..length]);
        flow.carry = Carry::Buffer(buffer);
    }
}

fn write_error<P>(flow: &mut Flow<P>, to: &mut Side, error: Errno) {
    match error {
        Errno::AGAIN => to.writable = false,
        Errno::INTR => {}
        _ => {
            to.failed = true;
            // Its last words may still be there to be read.
            to.readable = !to.end_seen;
            to.hung_up = true;
            to.error_told = true;
            flow.broken = true;
        }
    }
}

/// Writes what is carried. True: nothing is carried any more.
fn flush<N: Net>(
    flow: &mut Flow<N::Pipe>,
    to: &mut End<'_, N::Socket>,
    kit: &mut Kit<'_, N>,
) -> bool {
    if flow.carry.is_empty() {
        return true;
    }
    before_write(flow, to, kit.net);
    let then = if flow.gather.on {
        Then::More
    } else {
        Then::Wait
    };
    while to.side.writable && !flow.broken {
        let outcome = match &mut flow.carry {
            Carry::Nothing => return true,
            Carry::Buffer(buffer) => kit
                .net
                .write(to.socket, &buffer.bytes[buffer.start..], Then::Wait)
                .inspect(|&written| buffer.start += written),
            Carry::Pipe(pipe) => kit
                .net
                .splice_out(&pipe.pipe, to.socket, pipe.load as usize, then)
                .inspect(|&written| pipe.load -= written as u32),
        };
        match outcome {
            Ok(_) => *to.active_ms = kit.now_ms,
            Err(error) => write_error(flow, to.side, error),
        }
        match std::mem::replace(&mut flow.carry, Carry::Nothing) {
            Carry::Buffer(buffer) if buffer.start == buffer.bytes.len() => {
                kit.buffers.give_back(buffer);
            }
            Carry::Pipe(pipe) if pipe.load == 0 => kit.pipes.give_back(pipe),
            left => {
                // A short write of a buffer means a full socket; of a pipe, perhaps only odd slots.
                if matches!(left, Carry::Buffer(_)) && !flow.broken {
                    to.side.writable = to.side.writable && outcome == Err(Errno::INTR);
                }
                flow.carry = left;
            }
        }
    }
    if flow.broken {
        drop_carry(flow, kit);
    }
    flow.carry.is_empty() && !flow.broken
}

/// What is lost goes nowhere: the buffer back to its pool, a pipe that is not empty is closed.
pub fn drop_carry<N: Net>(flow: &mut Flow<N::Pipe>, kit: &mut Kit<'_, N>) {
    match std::mem::replace(&mut flow.carry, Carry::Nothing) {
        Carry::Nothing => {}
        Carry::Buffer(buffer) => kit.buffers.give_back(buffer),
        Carry::Pipe(pipe) => kit.pipes.close(pipe),
    }
}

enum Spliced {
    Turn(Turn),
    CopyInstead,
}

/// Moves bulk through a pipe, which goes back to its pool whenever it is empty.
fn splice<N: Net>(
    flow: &mut Flow<N::Pipe>,
    from: &mut End<'_, N::Socket>,
    to: &mut End<'_, N::Socket>,
    kit: &mut Kit<'_, N>,
) -> Spliced {
    let mut quota = SPLICE_QUOTA;
    loop {
        let Some(mut pipe) = kit.pipes.take(kit.net) else {
            // Pipes have run out: some full reads later there may be one.
            flow.splicing = false;
            return Spliced::CopyInstead;
        };
        let moved = kit
            .net
            .splice_in(from.socket, &pipe.pipe, pipe.capacity as usize);
        let mut waits = false;
        match moved {
            Ok(0) => {
                kit.pipes.give_back(pipe);
                from.heard(kit.now_ms);
                source_ended(flow, from);
            }
            Ok(read) => {
                if let Some(mark) = flow.gather.note(read, pipe.capacity, kit.now_ms) {
                    kit.net.set_low_water(from.socket, mark);
                }
                waits = flow.gather.on && gather::drained(read, pipe.capacity);
                pipe.load = read as u32;
                flow.carry = Carry::Pipe(pipe);
                flow.bytes += read as u64;
                from.heard(kit.now_ms);
                quota = quota.saturating_sub(read);
                note_splice(flow, read);
            }
            Err(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                kit.pipes.give_back(pipe);
                flow.splicing = false;
                flow.never_splice = true;
                return Spliced::CopyInstead;
            }
            Err(error) => {
                kit.pipes.give_back(pipe);
                source_error(flow, from, error);
            }
        }
        if !flush(flow, to, kit) || flow.source_done || !from.side.readable {
            let turn = if flow.broken { Turn::More } else { Turn::Done };
            return Spliced::Turn(turn);
        }
        if !flow.splicing {
            return Spliced::CopyInstead;
        }
        if waits && !from.side.hung_up {
            // More is told of once it is worth it, and looked for if that takes too long.
            from.side.readable = false;
            return Spliced::Turn(Turn::Done);
        }
        if quota == 0 {
            return Spliced::Turn(Turn::More);
        }
    }
}

fn note_splice<P>(flow: &mut Flow<P>, read: usize) {
    if read >= SMALL_SPLICE {
        flow.streak = 0;
        return;
    }
    flow.streak += 1;
    if flow.streak >= COPY_AFTER {
        flow.splicing = false;
        flow.streak = 0;
    }
}
