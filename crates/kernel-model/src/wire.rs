//! Segments between sockets of one namespace, and the table of connections that they are looked up in.
//!
//! Decides:  which connection a segment belongs to; what a socket's own SYN, FIN, RST and probe look
//!           like; what is left as TIME_WAIT, and for how long.
//! Kernel:   net/ipv4/tcp_ipv4.c, tcp_v4_rcv(), tcp_v4_send_reset(); net/ipv6/tcp_ipv6.c,
//!           tcp_v6_rcv(), tcp_v6_send_reset(); net/ipv4/inet_hashtables.c,
//!           __inet_lookup_established(); net/ipv4/tcp_minisocks.c, tcp_time_wait(), 3.9 to 6.18
//! Not here: what a state makes of a segment (receive.rs, request.rs); routes (way.rs); data and
//!           loss: segments arrive at once, in the order in which they were sent (gaps.toml).

use alloc::vec;
use alloc::vec::Vec;

use crate::addr::{Family, is_mapped, mapped};
use crate::call::State;
use crate::errno::Errno;
use crate::explain::{NoTrace, Trace};
use crate::host::NetId;
use crate::lookup::{Found, Target};
use crate::rules::Rule;
use crate::socket::{CONNECT_BIND, Hashed, NONE, RCV_SHUTDOWN, SEND_SHUTDOWN, Sock, SockIx};
use crate::version::Change;
use crate::way::{Arrival, Flow, Scope, Source, needs_strict};
use crate::world::World;

/// No orphan's FIN_WAIT2 ends before three and a half of its first retransmission timeouts.
const FIN_TIMEOUT_LEAST_MS: u64 = 700;
/// How long TIME_WAIT, and at most an orphan's FIN_WAIT2, last (`TCP_TIMEWAIT_LEN`).
pub const TIME_WAIT_MS: u64 = 60_000;
/// Segments that one call may cause. The limits on acknowledgements end every exchange long before.
const SEGMENTS_MAX: u32 = 10_000;
/// The receive window of a connection without data.
pub(crate) const WINDOW: u32 = 65_483;
/// What the clock of initial sequence numbers advances from one connection to the next, and in a
/// millisecond: it counts in 64 ns (`seq_scale`).
const ISN_STEP: u32 = 320;
const ISN_PER_MS: u64 = 15_625;
/// `tcp_invalid_ratelimit`: a socket complains of what it cannot use once in this time.
const COMPLAINT_MS: u64 = 500;

/// Both ends of a connection, from one of them. IPv4 in its mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tuple {
    pub net: NetId,
    pub port: u16,
    pub peer_port: u16,
    pub addr: u128,
    pub peer: u128,
}

/// The flag that makes a segment more than an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flag {
    None,
    Syn,
    Fin,
    Reset,
}

/// A segment without data, as its receiver sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    pub to: Tuple,
    pub arrival: Arrival,
    pub flag: Flag,
    pub seq: u32,
    pub ack: Option<u32>,
    /// A SYN whose number did not begin by the clock of its two ends (`secure_tcp_seq()`): it may be before
    /// or after those of any other connection between them.
    pub astray: bool,
}

impl Segment {
    /// The number after its last: a SYN and a FIN count one.
    pub(crate) const fn end(&self) -> u32 {
        let counts = matches!(self.flag, Flag::Syn | Flag::Fin);
        self.seq.wrapping_add(counts as u32)
    }

    /// A connection's first segment.
    pub(crate) const fn begins(&self) -> bool {
        matches!(self.flag, Flag::Syn) && self.ack.is_none()
    }
}

/// Whether a sequence number comes after another.
pub(crate) const fn after(number: u32, other: u32) -> bool {
    (other.wrapping_sub(number) as i32) < 0
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

    pub(crate) fn reversed(self) -> Tuple {
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
            .find(|&ix| self.hears(&self.socks[ix], device))
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

    /// A segment came in: the socket remembers the processor, over what SO_INCOMING_CPU set.
    fn heard(&mut self, ix: SockIx) {
        self.socks[ix].incoming_cpu = self.cpu;
    }

    /// An initial sequence number: later ones are larger, as `secure_tcp_seq` has it for one peer.
    pub(crate) fn draw_isn(&mut self) -> u32 {
        self.isn = self.isn.wrapping_add(ISN_STEP);
        let passed = self.now_ms.wrapping_mul(ISN_PER_MS) as u32;
        self.isn.wrapping_add(passed).max(1)
    }

    /// Whether the socket may answer a segment that it cannot use: not again at once.
    pub(crate) fn may_complain(&mut self, ix: SockIx) -> bool {
        let now = self.now_ms + 1;
        let before = self.socks[ix].complained;
        if before != 0 && now - before < COMPLAINT_MS {
            return false;
        }
        self.socks[ix].complained = now;
        true
    }

    /// The same of a segment out of its window. A FIN it may always answer: it counts as data there
    /// (`tcp_oow_rate_limited`).
    pub(crate) fn may_answer(&mut self, ix: SockIx, segment: Segment) -> bool {
        segment.flag == Flag::Fin || self.may_complain(ix)
    }

    /// A segment of a socket's own connection. Says whether it arrives anywhere.
    pub(crate) fn send(&mut self, ix: SockIx, flag: Flag, seq: u32, ack: Option<u32>) -> bool {
        // Whatever acknowledges takes one that is held along (tcp_event_ack_sent()).
        self.socks[ix].ack_held &= ack.is_none();
        let sock = &self.socks[ix];
        let mut to = Tuple::of(sock, sock.sport).reversed();
        let mut flow = flow_of(sock);
        // IPv4 headers towards a true IPv6 address: they go to whom it was connected to before.
        if sock.sends_ipv4 && !is_mapped(to.addr) {
            let (from, peer) = self.ends4(ix, sock.src4, sock.peer4);
            (to.peer, to.addr) = (mapped(from), mapped(peer));
            (flow.from, flow.to) = (to.peer, to.addr);
        }
        // The route is kept, and asked for again where the device has changed (__sk_dst_check()).
        self.socks[ix].routed_any = flow.source == Source::Any;
        let sock = &self.socks[ix];
        // An IPv4 segment that finds no route leaves no trace (__ip_queue_xmit()).
        let noted = sock.family == Family::Inet6 && !sock.sends_ipv4;
        let astray = flag == Flag::Syn && sock.numbers_of != Some(to.reversed());
        let arrives = self.post(flow, to, flag, seq, ack);
        if arrives {
            self.wire
                .back_mut()
                .into_iter()
                .for_each(|it| it.astray = astray);
        } else if noted {
            self.note_no_route(ix, flow);
        }
        arrives
    }

    /// A segment found no route: what SO_ERROR tells until an acknowledgement comes. Of a neighbour
    /// nobody knows yet that he does not answer.
    pub(crate) fn note_no_route(&mut self, ix: SockIx, flow: Flow) {
        if let Some(errno) = self.no_route(flow) {
            self.socks[ix].soft_error = Some(errno);
        }
    }

    pub(crate) fn post(
        &mut self,
        flow: Flow,
        to: Tuple,
        flag: Flag,
        seq: u32,
        ack: Option<u32>,
    ) -> bool {
        let Some(arrival) = self.way(flow) else {
            return false;
        };
        self.wire.push_back(Segment {
            to,
            arrival,
            flag,
            seq,
            ack,
            astray: false,
        });
        true
    }

    /// A bare acknowledgement.
    pub(crate) fn send_ack(&mut self, ix: SockIx) {
        let sock = &self.socks[ix];
        let (seq, ack) = (sock.snd_nxt, sock.rcv_nxt);
        self.send(ix, Flag::None, seq, Some(ack));
    }

    /// A SYN from a socket in SYN_SENT, and the handshake that follows at once.
    pub(crate) fn send_syn<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        let seq = self.socks[ix].snd_una;
        self.socks[ix].snd_nxt = seq.wrapping_add(1);
        self.socks[ix].searching = false;
        let sock = &self.socks[ix];
        let forever = sock.sends_ipv4 && !is_mapped(Tuple::of(sock, sock.sport).peer);
        if forever {
            trace.rule(Rule::MappedForever);
        }
        if !self.send(ix, Flag::Syn, seq, None) && !forever {
            trace.rule(if self.ask_neighbour(ix) {
                Rule::NeighbourSilent
            } else {
                Rule::SynLost
            });
        }
        self.deliver(trace);
        // The kernel sets its timer when the SYN has gone, behind that of whoever heard it.
        let sock = &self.socks[ix];
        if sock.state == State::SynSent && sock.deadline.is_none() {
            self.retry_syn_later(ix);
        }
    }

    /// A FIN, after the sender's state became FIN_WAIT1 or LAST_ACK; its acknowledgement comes back.
    pub(crate) fn send_fin<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        self.queue_fin(ix);
        self.deliver(trace);
    }

    pub(crate) fn queue_fin(&mut self, ix: SockIx) {
        if self.socks[ix].windowless {
            return;
        }
        let (seq, ack) = (self.socks[ix].snd_nxt, self.socks[ix].rcv_nxt);
        self.socks[ix].snd_nxt = seq.wrapping_add(1);
        self.send(ix, Flag::Fin, seq, Some(ack));
    }

    /// A reset towards the other end.
    pub(crate) fn send_reset<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        let (seq, ack) = (self.socks[ix].snd_nxt, self.socks[ix].rcv_nxt);
        self.send(ix, Flag::Reset, seq, Some(ack));
        self.deliver(trace);
    }

    /// A window probe, at the end of TCP_REPAIR: where no connection is, a reset comes back.
    pub(crate) fn send_probe<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        if self.socks[ix].state == State::Established {
            let (seq, ack) = (
                self.socks[ix].snd_una.wrapping_sub(1),
                self.socks[ix].rcv_nxt,
            );
            self.send(ix, Flag::None, seq, Some(ack));
            self.deliver(trace);
        }
    }

    /// Lets every segment arrive, and those that it causes.
    pub(crate) fn deliver<T: Trace>(&mut self, trace: &mut T) {
        for _ in 0..SEGMENTS_MAX {
            let Some(segment) = self.wire.pop_front() else {
                return;
            };
            self.receive(segment, trace);
        }
        debug_assert!(false, "segments without end");
        self.wire.clear();
    }

    fn receive<T: Trace>(&mut self, segment: Segment, trace: &mut T) {
        while let Some(ix) = self.find_connection(segment.to, segment.arrival.device) {
            match self.socks[ix].state {
                State::NewSynRecv if !self.host.kernel.has(Change::RequestsAreConnections) => {
                    return self.at_request_of_listener(ix, segment, trace);
                }
                State::NewSynRecv => {
                    if self.at_request(ix, segment, trace).is_some() {
                        return;
                    }
                    // The request is gone: the segment is looked up again.
                }
                State::TimeWait => return self.at_time_wait(ix, segment, trace),
                _ => {
                    self.heard(ix);
                    return self.at_connection(ix, segment, trace);
                }
            }
        }
        match self.find_for(segment, trace) {
            Some(listener) => self.at_listener(listener, segment, None, trace),
            None => self.at_nobody(segment, trace),
        }
    }

    /// The listener of a segment that no connection takes. A program is asked for each; the hash of its four
    /// numbers is the same for each: a group's choice stays.
    pub(crate) fn find_for<T: Trace>(&mut self, segment: Segment, trace: &mut T) -> Option<SockIx> {
        let tuple = segment.to;
        let target = Target {
            net: tuple.net,
            addr: tuple.addr,
            v4: is_mapped(tuple.addr),
            port: tuple.port,
            device: segment.arrival.device,
        };
        let by_program = match self.find_listener(target).0 {
            Found::Group(group) => self.choice_of_program(group),
            _ => None,
        };
        if segment.begins() {
            let found = self.listener_for(target, trace);
            let among = self.equals_of(target).len();
            // A program's choice does not tell what the hash is.
            let by_hash = found.filter(|_| by_program.is_none());
            self.last_choice = by_hash.map(|listener| (tuple, listener, among));
            return found;
        }
        if by_program.is_some() {
            return by_program;
        }
        let equals = self.equals_of(target);
        let before = self.last_choice.filter(|(of, ix, among)| {
            *of == tuple && *among == equals.len() && equals.contains(ix)
        });
        if let Some((_, listener, _)) = before {
            return Some(listener);
        }
        // Among others, the same hash names another. That matters to a cookie alone, and to a half-open connection
        // that hangs on its listener: the rest get a reset from whoever it is.
        let matters = self.cookies.contains_key(&tuple)
            || self.connections.contains_key(&tuple)
                && !self.host.kernel.has(Change::RequestsAreConnections);
        if equals.len() > 1 && matters {
            return self.listener_for(target, &mut NoTrace);
        }
        equals.first().copied()
    }

    /// Those among whom the listener of a segment is chosen.
    fn equals_of(&self, target: Target) -> Vec<SockIx> {
        match self.find_listener(target).0 {
            Found::Nobody => Vec::new(),
            Found::One(ix) => vec![ix],
            Found::Group(group) => self.groups[group.0].members.clone(),
            Found::Among(equals) => equals,
        }
    }

    /// Nobody takes it: a reset answers, if it may.
    pub(crate) fn at_nobody<T: Trace>(&mut self, segment: Segment, trace: &mut T) {
        if segment.flag != Flag::Reset && self.reply_reset(segment, None) {
            if segment.begins() {
                trace.rule(Rule::Refused);
            }
        } else if segment.begins() {
            trace.rule(Rule::ReplyLost);
        }
        // Someone waits for it, but by another device.
        if !segment.begins() && self.connections.contains_key(&segment.to) {
            trace.rule(Rule::ReplyLost);
        }
    }

    /// A reset as the answer to a segment, by the device of the socket that it came to, if any.
    pub(crate) fn reply_reset(&mut self, segment: Segment, from: Option<SockIx>) -> bool {
        if segment.flag == Flag::Reset {
            return false;
        }
        match segment.ack {
            Some(ack) => self.reply(segment, from, Flag::Reset, ack, None),
            None => self.reply(segment, from, Flag::Reset, 0, Some(segment.end())),
        }
    }

    /// An answer that is no socket's own segment.
    pub(crate) fn reply(
        &mut self,
        segment: Segment,
        from: Option<SockIx>,
        flag: Flag,
        seq: u32,
        ack: Option<u32>,
    ) -> bool {
        let to = segment.to.reversed();
        let v4 = is_mapped(to.addr);
        if from.is_none() && v4 && !segment.arrival.local {
            return false;
        }
        let sock = from.map(|ix| &self.socks[ix]);
        let mut device = sock.map_or(0, |sock| sock.device);
        if device == 0 && needs_strict(to.addr) {
            device = segment.arrival.device;
        }
        if device == 0 {
            // What came in by a VRF is answered there (ip_send_unicast_reply).
            device = self.host.net(to.net).vrf_of(segment.arrival.device);
        }
        let flow = Flow {
            net: to.net,
            from: to.peer,
            to: to.addr,
            device,
            source: sock.map_or(Source::Own, source_of),
            scope: match sock {
                Some(sock) if sock.state != State::TimeWait => Scope::Strict,
                _ => Scope::Preferred,
            },
        };
        self.post(flow, to, flag, seq, ack)
    }

    pub(crate) fn receive_reset(&mut self, ix: SockIx) {
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

    /// The round trip of a connection that ended in order is remembered: its peer is known to be alive.
    pub(crate) fn remember_peer(&mut self, ix: SockIx) {
        let sock = &self.socks[ix];
        if !self.host.net(sock.net).sysctls.tcp_no_metrics_save {
            let tuple = Tuple::of(sock, sock.sport);
            self.proven.insert((tuple.net, tuple.addr, tuple.peer));
        }
    }

    /// Leaves a TIME_WAIT socket in place of this one, and ends this one.
    pub(crate) fn time_wait(&mut self, ix: SockIx, substate: State) {
        self.remember_peer(ix);
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
            timestamps: sock.timestamps,
            peer_astray: sock.peer_astray,
            snd_nxt: sock.snd_nxt,
            rcv_nxt: sock.rcv_nxt,
            ..Sock::fresh()
        };
        self.socks[remains] = copy;
        self.own_beside(remains, ix);
        self.hash_connection(remains);
        let ms = match substate {
            State::FinWait2 => {
                let seconds = self.host.net(net).sysctls.tcp_fin_timeout;
                (u64::from(seconds) * 1000).clamp(FIN_TIMEOUT_LEAST_MS, TIME_WAIT_MS)
            }
            _ => TIME_WAIT_MS,
        };
        self.set_timer(remains, ms);
        self.done(ix);
    }

    /// The end of a TIME_WAIT socket: its time is over, or it made room.
    pub(crate) fn end_time_wait(&mut self, ix: SockIx) {
        self.unhash_connection(ix);
        self.put_port(ix);
        self.free_sock(ix);
    }

    pub(crate) fn forget_parent(&mut self, child: SockIx) {
        self.socks[child].parent = NONE;
    }
}

/// What a socket's own segments ask of the routes.
pub(crate) fn flow_of(sock: &Sock) -> Flow {
    let to = Tuple::of(sock, sock.sport).reversed();
    Flow {
        net: sock.net,
        from: to.peer,
        to: to.addr,
        device: sock.device,
        source: if sock.routed_any {
            Source::Any
        } else {
            source_of(sock)
        },
        scope: Scope::Strict,
    }
}

pub(crate) fn source_of(sock: &Sock) -> Source {
    if sock.transparent {
        Source::Any
    } else {
        Source::Own
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::SockAddr;
    use crate::call::{Answer, Call, Opt};
    use crate::host::{Host, ProcessId};
    use crate::version::Kernel;
    use crate::world::SocketId;

    const WEB: u16 = 20_001;

    fn here(port: u16) -> SockAddr {
        SockAddr::new("127.0.0.1".parse().unwrap(), port)
    }

    fn does(world: &mut World, socket: SocketId, call: Call) {
        assert_eq!(world.call(socket, call), Answer::Ok, "{call:?}");
    }

    /// A listener, and a client that is connected to it; both with this option.
    fn meeting(world: &mut World, option: Option<Opt>) -> (SocketId, SocketId) {
        let mut socket = || {
            let socket = world.socket(ProcessId(0), Family::Inet);
            if let Some(option) = option {
                does(world, socket, Call::Set(option));
            }
            socket
        };
        let (listener, client) = (socket(), socket());
        does(world, listener, Call::Bind(here(WEB)));
        does(world, listener, Call::Listen(5));
        does(world, client, Call::Connect(here(WEB)));
        (listener, client)
    }

    #[test]
    fn a_held_acknowledgement_goes_once_and_at_the_latest_with_the_fin() {
        for says_fin in [false, true] {
            let mut world = World::new(Host::new(Kernel::V6_18));
            let (_, client) = meeting(&mut world, Some(Opt::DeferAccept(30)));
            let ix = world.existing(client).unwrap();
            assert!(world.socks[ix].ack_held);
            if says_fin {
                does(&mut world, client, Call::Shutdown(1));
            } else {
                world.pass_time(200);
            }
            assert!(!world.socks[ix].ack_held, "with a FIN: {says_fin}");
        }
    }

    #[test]
    fn a_connection_that_is_over_is_in_no_table() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let (listener, client) = meeting(&mut world, None);
        assert_eq!(world.connections.len(), 2);
        does(&mut world, client, Call::Close);
        does(&mut world, listener, Call::Close);
        world.pass_time(TIME_WAIT_MS);
        assert!(world.connections.is_empty());
        assert!(world.deadlines.is_empty());
    }

    #[test]
    fn a_connection_that_was_refused_is_shut_down_both_ways() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let client = world.socket(ProcessId(0), Family::Inet);
        let ix = world.existing(client).unwrap();
        does(&mut world, client, Call::SetNonblocking(true));
        world.call(client, Call::Connect(here(WEB)));
        assert_eq!(world.socks[ix].shutdown, RCV_SHUTDOWN | SEND_SHUTDOWN);
    }
}
