//! What one socket's segment does to another: connections between sockets of one namespace.
//!
//! Decides:  which socket receives a SYN, FIN or RST; the states that both ends go through; what is
//!           left as TIME_WAIT, and for how long.
//! Kernel:   net/ipv4/inet_hashtables.c, __inet_lookup_established(), __inet_inherit_port();
//!           net/ipv4/tcp_input.c, tcp_fin(), tcp_reset(), tcp_rcv_state_process();
//!           net/ipv4/tcp_minisocks.c, tcp_time_wait(), tcp_timewait_state_process(), 3.9 to 6.18
//! Not here: data, loss and timers: segments arrive at once (gaps.toml).

use crate::addr::{Family, Kind6, LOOPBACK4_IPV6, is_mapped, kind6, mapped};
use crate::call::State;
use crate::connect::LOOPBACK_DEVICE;
use crate::errno::Errno;
use crate::explain::Trace;
use crate::host::{Kind4, NetId};
use crate::lookup::{Target, accepts_device};
use crate::rules::Rule;
use crate::socket::{
    CONNECT_BIND, Hashed, NONE, PORT_LOCK, Progress, RCV_SHUTDOWN, SEND_SHUTDOWN, Sock, SockIx,
};
use crate::world::World;

/// How long TIME_WAIT, and an orphan's FIN_WAIT2, last (`TCP_TIMEWAIT_LEN`, `tcp_fin_timeout`).
pub const TIME_WAIT_MS: u64 = 60_000;

/// Both ends of a connection, from one of them. IPv4 in its mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub net: NetId,
    pub port: u16,
    pub peer_port: u16,
    pub addr: u128,
    pub peer: u128,
}

/// A handshake whose last acknowledgement does not count or is held back (TCP_DEFER_ACCEPT), by the
/// listener's side of its tuple.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    listener: SockIx,
    device: u32,
}

impl Tuple {
    pub(crate) fn of(sock: &Sock, port: u16) -> Tuple {
        let v4 = sock.family == Family::Inet || is_mapped(sock.peer6);
        let (addr, peer) = if v4 {
            (mapped(sock.rcv4), mapped(sock.peer4))
        } else {
            (sock.rcv6, sock.peer6)
        };
        Tuple {
            net: sock.net,
            port,
            peer_port: sock.dport,
            addr,
            peer,
        }
    }

    fn reversed(self) -> Tuple {
        Tuple {
            net: self.net,
            port: self.peer_port,
            peer_port: self.port,
            addr: self.peer,
            peer: self.addr,
        }
    }
}

impl World {
    pub(crate) fn find_connection(&self, tuple: Tuple, device: u32) -> Option<SockIx> {
        let list = self.connections.get(&tuple)?;
        list.iter()
            .rev()
            .copied()
            .find(|&ix| accepts_device(&self.socks[ix], device))
    }

    pub(crate) fn hash_connection(&mut self, ix: SockIx) {
        let tuple = Tuple::of(&self.socks[ix], self.socks[ix].num);
        self.connections.entry(tuple).or_default().push(ix);
        self.socks[ix].hashed = Hashed::Established;
    }

    pub(crate) fn unhash_connection(&mut self, ix: SockIx) {
        // The bucket's number may be gone; the connection was entered under the same one.
        let sock = &self.socks[ix];
        let tuple = Tuple::of(sock, sock.sport);
        if let Some(list) = self.connections.get_mut(&tuple) {
            list.retain(|&other| other != ix);
            if list.is_empty() {
                self.connections.remove(&tuple);
            }
        }
        self.socks[ix].hashed = Hashed::No;
    }

    /// The other end, if a socket has it.
    fn peer_of(&self, ix: SockIx) -> Option<SockIx> {
        let sock = &self.socks[ix];
        let tuple = Tuple::of(sock, sock.sport).reversed();
        self.find_connection(tuple, self.arrival_device(ix, tuple.addr))
    }

    /// A segment came in: the socket remembers the processor, over what SO_INCOMING_CPU set.
    fn heard(&mut self, ix: SockIx) {
        self.socks[ix].incoming_cpu = self.cpu;
    }

    /// Whether no answer can come: the socket sends through IPv4 towards a true IPv6 address, from an
    /// address that is not this host's, or through a device that is not there.
    fn is_mute(&self, ix: SockIx) -> bool {
        let sock = &self.socks[ix];
        let net = self.host.net(sock.net);
        if sock.device != 0 && net.interface(sock.device).is_none() {
            return true;
        }
        if sock.family == Family::Inet || is_mapped(sock.peer6) {
            // Over the loopback every address of this host is reached.
            let beyond = sock.device > LOOPBACK_DEVICE && !net.is_on4(sock.peer4, sock.device)
                || net.kind4(self.host.kernel, sock.peer4) != Kind4::Local;
            return beyond || net.kind4(self.host.kernel, sock.rcv4) != Kind4::Local;
        }
        let beyond = sock.device != 0 && !net.is_on6(sock.peer6, sock.device);
        beyond || sock.sends_ipv4 || !net.has6(sock.rcv6, None)
    }

    /// A SYN from a socket in SYN_SENT, and the handshake that follows at once.
    pub(crate) fn send_syn<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        if self.is_mute(ix) {
            trace.rule(Rule::MappedForever);
            return;
        }
        let tuple = Tuple::of(&self.socks[ix], self.socks[ix].sport).reversed();
        let device = self.arrival_device(ix, tuple.addr);
        if let Some(other) = self.find_connection(tuple, device) {
            if self.socks[other].state != State::TimeWait {
                return self.syn_meets(ix, other, trace);
            }
            self.end_time_wait(other);
        }
        self.syn_to_listener(ix, tuple, device, trace);
    }

    /// A SYN that finds a connection of its own addresses and ports.
    fn syn_meets<T: Trace>(&mut self, ix: SockIx, other: SockIx, trace: &mut T) {
        if other == ix {
            // It called itself: both SYNs cross, and it is connected. A side that was shut down
            // before that is told now.
            trace.rule(Rule::SelfConnect);
            self.heard(ix);
            self.socks[ix].state = State::Established;
            if self.socks[ix].shutdown & SEND_SHUTDOWN != 0 {
                self.time_wait(ix, State::TimeWait);
            }
        } else if self.socks[other].state == State::SynSent {
            // Both call each other.
            self.heard(other);
            if self.is_mute(other) {
                self.socks[other].state = State::SynRecv;
            } else {
                self.heard(ix);
                self.socks[other].state = State::Established;
                self.socks[ix].state = State::Established;
            }
        } else {
            // It believes in an older connection and says so; the answer to that is a reset. The
            // SYN itself would have to be sent again.
            trace.blame(Rule::HalfOpen, self.handle(other));
            if !self.is_mute(other) {
                self.receive_reset(other);
            }
        }
    }

    /// A SYN that looks for a listener, and the handshake that follows at once.
    fn syn_to_listener<T: Trace>(&mut self, ix: SockIx, tuple: Tuple, device: u32, trace: &mut T) {
        let target = Target {
            net: tuple.net,
            addr: tuple.addr,
            v4: is_mapped(tuple.addr),
            port: tuple.port,
            device,
        };
        if let Some(listener) = self.listener_for(target, trace) {
            self.answer_syn(ix, listener, tuple, device, trace);
        } else if self.reset_is_lost(tuple, device) {
            trace.rule(Rule::ReplyLost);
        } else {
            trace.rule(Rule::Refused);
            self.receive_reset(ix);
        }
    }

    /// A listener answers a SYN, if it has room and a way.
    fn answer_syn<T: Trace>(
        &mut self,
        ix: SockIx,
        listener: SockIx,
        tuple: Tuple,
        device: u32,
        trace: &mut T,
    ) {
        let sock = &self.socks[listener];
        // A group's choice may fall on a member whose device cannot answer.
        let unable = sock.device != 0 && self.host.net(sock.net).interface(sock.device).is_none();
        if unable || sock.queue.len() as u64 > u64::from(sock.backlog) {
            trace.blame(Rule::SynDropped, self.handle(listener));
            return;
        }
        if !self.reaches(sock, tuple.peer) {
            trace.blame(Rule::ReplyLost, self.handle(listener));
            return;
        }
        self.heard(ix);
        self.socks[ix].state = State::Established;
        // A client with TCP_DEFER_ACCEPT waits with its last acknowledgement until it has something to say.
        if self.socks[listener].defer_accept == 0 && self.socks[ix].defer_accept == 0 {
            self.spawn_child(listener, tuple, device);
        } else {
            self.requests.insert(tuple, Request { listener, device });
        }
    }

    /// A reset to ::1 or to a link-local address goes out by the interface that the SYN came in by, which may
    /// not have the address (tcp_v6_send_response()). What IPv4 sends over the loopback to an address that is elsewhere has a route of the wrong type to
    /// be answered with a reset (tcp_v4_send_reset()).
    fn reset_is_lost(&self, tuple: Tuple, device: u32) -> bool {
        if is_mapped(tuple.addr) {
            let net = self.host.net(tuple.net);
            return device == LOOPBACK_DEVICE && !net.is_on4(tuple.addr as u32, device);
        }
        let strict = matches!(kind6(tuple.peer), Kind6::Loopback | Kind6::LinkLocal);
        strict && !self.host.net(tuple.net).is_on6(tuple.peer, device)
    }

    /// Whether the listener's answer has a way to this address: through its device only, if it has one.
    fn reaches(&self, listener: &Sock, to: u128) -> bool {
        let net = self.host.net(listener.net);
        listener.device == 0
            || if is_mapped(to) {
                listener.device == LOOPBACK_DEVICE || net.is_on4(to as u32, listener.device)
            } else {
                net.is_on6(to, listener.device)
            }
    }

    /// The listener's side of a new connection: an owner of the listener's port. With a link-local peer
    /// it is bound to the interface that the SYN came in by.
    fn spawn_child(&mut self, listener: SockIx, tuple: Tuple, device: u32) {
        let parent = &self.socks[listener];
        let (net, family, uid) = (parent.net, parent.family, parent.uid);
        let bucket = parent.bucket;
        let child = self.fresh_sock(net, family, uid);
        let parent = &self.socks[listener];
        let mut copy = Sock {
            queue: Default::default(),
            held: Default::default(),
            ..parent.clone()
        };
        copy.generation = self.socks[child].generation;
        copy.holders = 0;
        copy.state = State::Established;
        copy.progress = Progress::Connected;
        copy.locks &= !PORT_LOCK;
        copy.bucket = None;
        copy.owners = None;
        copy.group = None;
        copy.hashed = Hashed::No;
        copy.chain = NONE;
        copy.parent = listener;
        copy.error = None;
        copy.incoming_cpu = self.cpu;
        copy.sport = tuple.port;
        copy.dport = tuple.peer_port;
        if copy.device == 0 && kind6(tuple.peer) == Kind6::LinkLocal {
            copy.device = device;
        }
        if is_mapped(tuple.addr) {
            (copy.rcv4, copy.peer4) = (tuple.addr as u32, tuple.peer as u32);
        } else {
            (copy.rcv4, copy.peer4) = (LOOPBACK4_IPV6, LOOPBACK4_IPV6);
        }
        copy.src4 = copy.rcv4;
        if family == Family::Inet6 {
            (copy.rcv6, copy.src6, copy.peer6) = (tuple.addr, tuple.addr, tuple.peer);
        }
        self.socks[child] = copy;
        if let Some(bucket) = bucket {
            let list = match self.owners_of(bucket, child) {
                Some(list) => list,
                None => self.owners_create(bucket, child),
            };
            self.own(child, bucket, list);
        }
        self.hash_connection(child);
        self.socks[listener].queue.push_back(child);
        // What was shut down before `listen` is shut down in every connection that it accepts.
        if self.socks[child].shutdown & SEND_SHUTDOWN != 0 && self.step_to_closing(child) {
            self.send_fin(child);
        }
    }

    /// A FIN, after the sender's state became FIN_WAIT1 or LAST_ACK; its acknowledgement comes back.
    pub(crate) fn send_fin(&mut self, ix: SockIx) {
        if self.is_mute(ix) || self.socks[ix].windowless {
            return;
        }
        let Some(peer) = self.peer_of(ix).or_else(|| self.request_answered(ix)) else {
            self.receive_reset(ix);
            return;
        };
        if peer == ix {
            // Both FINs cross.
            self.time_wait(ix, State::TimeWait);
            return;
        }
        let silent = self.socks[peer].state != State::TimeWait && self.is_mute(peer);
        if !silent {
            self.heard(ix);
        }
        if self.socks[peer].state != State::TimeWait {
            self.heard(peer);
        }
        match self.socks[peer].state {
            State::Established => {
                self.socks[peer].state = State::CloseWait;
                self.socks[peer].shutdown |= RCV_SHUTDOWN;
            }
            State::FinWait2 => {
                self.socks[peer].shutdown |= RCV_SHUTDOWN;
                self.time_wait(peer, State::TimeWait);
            }
            State::TimeWait if self.socks[peer].substate == State::FinWait2 => {
                self.socks[peer].substate = State::TimeWait;
                self.schedule(peer);
            }
            State::TimeWait => {}
            _ => {
                self.receive_reset(ix);
                return;
            }
        }
        if silent {
            return;
        }
        match self.socks[ix].state {
            State::FinWait1 => {
                self.socks[ix].state = State::FinWait2;
                self.socks[ix].shutdown |= SEND_SHUTDOWN;
            }
            State::LastAck => self.done(ix),
            _ => {}
        }
    }

    /// What says more than a bare acknowledgement ends the listener's waiting: the connection is there.
    fn request_answered(&mut self, ix: SockIx) -> Option<SockIx> {
        let sock = &self.socks[ix];
        let tuple = Tuple::of(sock, sock.sport).reversed();
        let request = self.requests.remove(&tuple)?;
        self.spawn_child(request.listener, tuple, request.device);
        self.socks[request.listener].queue.back().copied()
    }

    /// A listener ends: it waits for nobody any more.
    pub(crate) fn forget_requests(&mut self, listener: SockIx) {
        if !self.requests.is_empty() {
            self.requests
                .retain(|_, request| request.listener != listener);
        }
    }

    /// A reset towards the other end.
    pub(crate) fn send_reset(&mut self, ix: SockIx) {
        if self.is_mute(ix) {
            return;
        }
        if !self.requests.is_empty() {
            let sock = &self.socks[ix];
            self.requests
                .remove(&Tuple::of(sock, sock.sport).reversed());
        }
        if let Some(peer) = self.peer_of(ix)
            && peer != ix
        {
            if self.socks[peer].state == State::TimeWait {
                self.end_time_wait(peer);
            } else {
                self.receive_reset(peer);
            }
        }
    }

    /// A window probe, at the end of TCP_REPAIR: where no connection is, a reset comes back.
    pub(crate) fn send_probe(&mut self, ix: SockIx) {
        if self.socks[ix].state == State::Established && self.peer_of(ix).is_none() {
            self.receive_reset(ix);
        }
    }

    fn receive_reset(&mut self, ix: SockIx) {
        self.heard(ix);
        let sock = &mut self.socks[ix];
        sock.error = Some(match sock.state {
            State::SynSent => Errno::ECONNREFUSED,
            State::CloseWait => Errno::EPIPE,
            State::Close => return,
            _ => Errno::ECONNRESET,
        });
        self.done(ix);
    }

    /// The connection is over; a descriptor may still hold the socket.
    pub(crate) fn done(&mut self, ix: SockIx) {
        self.set_closed(ix);
        self.socks[ix].shutdown = RCV_SHUTDOWN | SEND_SHUTDOWN;
        if self.socks[ix].dead {
            self.destroy(ix);
        }
    }

    /// Leaves a TIME_WAIT socket in place of this one, and ends this one.
    pub(crate) fn time_wait(&mut self, ix: SockIx, substate: State) {
        let sock = &self.socks[ix];
        let (net, family, uid) = (sock.net, sock.family, sock.uid);
        let remains = self.fresh_sock(net, family, uid);
        let sock = &self.socks[ix];
        let copy = Sock {
            generation: self.socks[remains].generation,
            alive: true,
            net,
            family,
            uid,
            state: State::TimeWait,
            substate,
            dead: true,
            reuse: sock.reuse,
            reuseport: sock.reuseport,
            v6only: family == Family::Inet6 && sock.v6only,
            device: sock.device,
            transparent: sock.transparent,
            locks: sock.locks & CONNECT_BIND,
            rcv4: sock.rcv4,
            peer4: sock.peer4,
            rcv6: sock.rcv6,
            peer6: sock.peer6,
            num: sock.num,
            sport: sock.sport,
            dport: sock.dport,
            ..Sock::fresh()
        };
        self.socks[remains] = copy;
        self.own_beside(remains, ix);
        self.hash_connection(remains);
        self.schedule(remains);
        self.done(ix);
    }

    fn schedule(&mut self, ix: SockIx) {
        self.unschedule(ix);
        let deadline = (self.now_ms + TIME_WAIT_MS, self.deadlines_set);
        self.deadlines_set += 1;
        self.socks[ix].deadline = Some(deadline);
        self.deadlines.insert(deadline, ix);
    }

    fn unschedule(&mut self, ix: SockIx) {
        if let Some(deadline) = self.socks[ix].deadline.take() {
            self.deadlines.remove(&deadline);
        }
    }

    /// The end of a TIME_WAIT socket: its time is over, or it made room.
    pub(crate) fn end_time_wait(&mut self, ix: SockIx) {
        self.unschedule(ix);
        self.unhash_connection(ix);
        self.put_port(ix);
        self.free_sock(ix);
    }

    /// Lets time pass: TIME_WAIT sockets end after a minute.
    pub fn pass_time(&mut self, ms: u64) {
        self.now_ms += ms;
        while let Some((&(at, _), &ix)) = self.deadlines.first_key_value() {
            if at > self.now_ms {
                break;
            }
            self.end_time_wait(ix);
        }
    }

    /// How long a TIME_WAIT socket has been one: connect's own choice leaves young ones alone.
    pub(crate) fn time_wait_age_ms(&self, ix: SockIx) -> u64 {
        let end = self.socks[ix].deadline;
        end.map_or(u64::MAX, |(at, _)| {
            (self.now_ms + TIME_WAIT_MS).saturating_sub(at)
        })
    }

    pub(crate) fn forget_parent(&mut self, child: SockIx) {
        self.socks[child].parent = NONE;
    }
}
