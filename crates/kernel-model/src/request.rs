//! Half-open connections: what a listener makes of a SYN, and of what follows it.
//!
//! Decides:  when a SYN is dropped, or answered by a cookie; when the handshake's last
//!           acknowledgement makes a connection; who takes the half-open connections of a listener
//!           that has gone.
//! Kernel:   net/ipv4/tcp_input.c, tcp_conn_request(); net/ipv4/tcp_minisocks.c, tcp_check_req();
//!           net/ipv4/inet_connection_sock.c, reqsk_timer_handler(), inet_csk_complete_hashdance();
//!           net/ipv4/syncookies.c, cookie_v4_check(); net/core/sock_reuseport.c,
//!           reuseport_migrate_sock(), 3.9 to 6.18
//! Not here: which listener a SYN is for (lookup.rs); the queue's other end (listen.rs).

use crate::addr::{Family, Kind6, LOOPBACK4_IPV6, is_mapped, kind6};
use crate::call::State;
use crate::explain::Trace;
use crate::reuseport::GroupIx;
use crate::rules::Rule;
use crate::socket::{Hashed, NONE, PORT_LOCK, Progress, Sock, SockIx};
use crate::timer::SYNACK_FIRST_MS;
use crate::version::Change;
use crate::way::{Flow, Scope};
use crate::wire::{Flag, Segment, Tuple, WINDOW, after, source_of};
use crate::world::World;

/// Half-open connections that have not been waited for yet, with which a full accept queue took a SYN.
const YOUNG_ENOUGH: usize = 1;

/// A SYN cookie's two numbers. The kernel computes them anew; here they are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cookie {
    first: u32,
    next: u32,
    astray: bool,
}

/// A handshake, as its last acknowledgement finds it.
#[derive(Debug, Clone, Copy)]
struct Handshake {
    tuple: Tuple,
    device: u32,
    snd_nxt: u32,
    rcv_nxt: u32,
    astray: bool,
}

impl World {
    /// A listener gets a segment. `first`: the sequence number that a TIME_WAIT socket left for its
    /// successor, whom no limit of the SYN queue holds back.
    pub(crate) fn at_listener<T: Trace>(
        &mut self,
        listener: SockIx,
        segment: Segment,
        first: Option<u32>,
        trace: &mut T,
    ) {
        if segment.begins() {
            return self.at_open(listener, segment, first, trace);
        }
        if segment.flag == Flag::Reset {
            return;
        }
        if segment.flag != Flag::Syn && self.is_cookie(listener, segment) {
            return self.redeem_cookie(listener, segment, trace);
        }
        self.reply_reset(segment, Some(listener));
    }

    /// A SYN at a listener.
    fn at_open<T: Trace>(
        &mut self,
        listener: SockIx,
        segment: Segment,
        first: Option<u32>,
        trace: &mut T,
    ) {
        let Some(cookie) = self.needs_cookie(listener, first.is_some(), trace) else {
            return;
        };
        if !self.takes_syns(listener) {
            trace.blame(Rule::SynDropped, self.handle(listener));
            return;
        }
        let device = self.device_of_request(listener, segment);
        let flow = self.flow_of_request(listener, segment.to, device);
        if self.way(flow).is_none() {
            trace.blame(Rule::ReplyLost, self.handle(listener));
            return;
        }
        if !cookie && first.is_none() && self.spares_room(listener, segment.to) {
            trace.blame(Rule::SynQueueReserved, self.handle(listener));
            return;
        }
        let first = first.unwrap_or_else(|| self.draw_isn());
        let next = segment.end();
        if cookie {
            let astray = segment.astray;
            self.cookies.insert(
                segment.to,
                Cookie {
                    first,
                    next,
                    astray,
                },
            );
            self.note_cookies(listener);
        } else if self.find_connection(segment.to, device).is_none() {
            self.open_request(listener, segment, device, first);
        } else {
            return;
        }
        self.post(flow, segment.to.reversed(), Flag::Syn, first, Some(next));
    }

    /// Whether the accept queue has room; before 4.10 a full one is enough for two who have not been waited for.
    fn takes_syns(&self, listener: SockIx) -> bool {
        let sock = &self.socks[listener];
        let full = sock.queue.len() as u64 > u64::from(sock.backlog);
        if !full || self.host.kernel.has(Change::FullQueueDropsSyns) {
            return !full;
        }
        let young = |&ix: &SockIx| {
            let one = &self.socks[ix];
            one.state == State::NewSynRecv && one.parent == listener && one.retries == 0
        };
        let all = 0..self.socks.len() as SockIx;
        all.filter(young).nth(YOUNG_ENOUGH).is_none()
    }

    /// Whether the SYN is answered by a cookie; `None`: it is dropped.
    fn needs_cookie<T: Trace>(
        &self,
        listener: SockIx,
        follows_time_wait: bool,
        trace: &mut T,
    ) -> Option<bool> {
        let sock = &self.socks[listener];
        let cookies = self.host.net(sock.net).sysctls.tcp_syncookies;
        // An int that becomes unsigned: fewer than none are many.
        let half_open = sock.syn_queue_len as u32;
        let full = match self.host.kernel.has(Change::SynQueueHasOneMore) {
            true => half_open > sock.backlog,
            false => half_open >= sock.backlog,
        };
        let always = cookies == 2 && self.host.kernel.has(Change::AlwaysCookies);
        if follows_time_wait || !(full || always) {
            return Some(false);
        }
        if cookies == 0 {
            trace.blame(Rule::SynQueueFull, self.handle(listener));
            return None;
        }
        trace.blame(Rule::SynCookie, self.handle(listener));
        Some(true)
    }

    /// Without cookies, the last quarter of the SYN queue is for peers that are known to be alive.
    fn spares_room(&self, listener: SockIx, tuple: Tuple) -> bool {
        let sock = &self.socks[listener];
        let sysctls = &self.host.net(sock.net).sysctls;
        let room = i64::from(sysctls.tcp_max_syn_backlog);
        sysctls.tcp_syncookies == 0
            && room - i64::from(sock.syn_queue_len) < room >> 2
            && !self.proven.contains(&(tuple.net, tuple.addr, tuple.peer))
    }

    /// A half-open connection answers through its listener's device. With a link-local peer it is bound
    /// to the interface that the SYN came in by, with `tcp_l3mdev_accept` to its VRF.
    fn device_of_request(&self, listener: SockIx, segment: Segment) -> u32 {
        let device = self.socks[listener].device;
        let peer = segment.to.peer;
        if device == 0 && !is_mapped(peer) && kind6(peer) == Kind6::LinkLocal {
            return segment.arrival.device;
        }
        let net = self.host.net(self.socks[listener].net);
        if device == 0 && net.sysctls.tcp_l3mdev_accept {
            return net.vrf_of(segment.arrival.device);
        }
        device
    }

    fn flow_of_request(&self, listener: SockIx, tuple: Tuple, device: u32) -> Flow {
        Flow {
            net: tuple.net,
            from: tuple.addr,
            to: tuple.peer,
            device,
            source: source_of(&self.socks[listener]),
            scope: Scope::Strict,
        }
    }

    fn open_request(&mut self, listener: SockIx, segment: Segment, device: u32, first: u32) {
        let sock = &self.socks[listener];
        let (net, family, uid) = (sock.net, sock.family, sock.uid);
        let ix = self.fresh_sock(net, family, uid);
        let mut request = Sock {
            generation: self.socks[ix].generation,
            alive: true,
            net,
            family,
            uid,
            state: State::NewSynRecv,
            dead: true,
            device,
            parent: listener,
            snd_una: first,
            snd_nxt: first.wrapping_add(1),
            rcv_nxt: segment.end(),
            peer_astray: segment.astray,
            ..Sock::fresh()
        };
        address(&mut request, segment.to);
        self.socks[ix] = request;
        self.socks[listener].requests += 1;
        self.socks[listener].syn_queue_len += 1;
        self.hash_connection(ix);
        self.set_timer(ix, SYNACK_FIRST_MS);
    }

    /// The half-open connection ends; its listener may have waited for that.
    pub(crate) fn drop_request(&mut self, ix: SockIx) {
        let listener = self.socks[ix].parent;
        self.unhash_connection(ix);
        self.free_sock(ix);
        self.socks[listener].syn_queue_len -= 1;
        self.release_request(listener);
    }

    /// The same after a reset, which takes it off the count of who answered it.
    fn reset_request(&mut self, ix: SockIx, answerer: SockIx) {
        let listener = self.socks[ix].parent;
        self.socks[listener].syn_queue_len += 1;
        self.socks[answerer].syn_queue_len -= 1;
        self.drop_request(ix);
    }

    /// A listener has one half-open connection less. If it is gone but for them, the last one ends it.
    pub(crate) fn release_request(&mut self, listener: SockIx) {
        self.socks[listener].requests -= 1;
        if self.socks[listener].requests == 0 && self.socks[listener].awaited {
            self.leave_group(listener);
            self.free_sock(listener);
        }
    }

    /// Who answers for a half-open connection: its listener, or the one that it moves to.
    pub(crate) fn answerer<T: Trace>(&mut self, ix: SockIx, trace: &mut T) -> Option<SockIx> {
        let listener = self.socks[ix].parent;
        if self.socks[listener].state == State::Listen {
            return Some(listener);
        }
        let other = self.migrate_to(listener)?;
        trace.blame(Rule::RequestMigrated, self.handle(other));
        Some(other)
    }

    /// Until 4.3 a half-open connection hangs on its listener: a segment is for it if the listener that is found
    /// now is this one, and answered by a reset otherwise.
    pub(crate) fn at_request_of_listener<T: Trace>(
        &mut self,
        ix: SockIx,
        segment: Segment,
        trace: &mut T,
    ) {
        match self.find_for(segment, trace) {
            Some(listener) if listener == self.socks[ix].parent => {
                self.at_request(ix, segment, trace);
            }
            Some(other) => {
                trace.blame(Rule::RequestElsewhere, self.handle(other));
                self.at_listener(other, segment, None, trace);
            }
            None => self.at_nobody(segment, trace),
        }
    }

    /// Until 4.3 the half-open connections of a listener end with it, without a word.
    pub(crate) fn forget_requests<T: Trace>(&mut self, listener: SockIx, trace: &mut T) {
        if self.host.kernel.has(Change::RequestsAreConnections) {
            return;
        }
        for ix in 0..self.socks.len() as SockIx {
            let sock = &self.socks[ix];
            if sock.state == State::NewSynRecv && sock.parent == listener {
                trace.blame(Rule::RequestElsewhere, self.handle(listener));
                self.drop_request(ix);
            }
        }
    }

    /// A half-open connection gets a segment. `None`: there is no listener any more, and it is gone.
    pub(crate) fn at_request<T: Trace>(
        &mut self,
        ix: SockIx,
        segment: Segment,
        trace: &mut T,
    ) -> Option<()> {
        let Some(listener) = self.answerer(ix, trace) else {
            trace.rule(Rule::RequestForgotten);
            self.drop_request(ix);
            return None;
        };
        let sock = &self.socks[ix];
        let (first, sent, next) = (sock.snd_una, sock.snd_nxt, sock.rcv_nxt);
        if segment.begins() && segment.end() == next {
            if self.may_complain(ix) {
                self.answer_again(ix, listener);
            }
            return Some(());
        }
        if segment.ack.is_some_and(|ack| ack != sent) {
            self.at_listener(listener, segment, None, trace);
            return Some(());
        }
        let in_window = segment.seq == next
            || (after(segment.end(), next) && after(next.wrapping_add(WINDOW), segment.seq));
        // The numbers of connections with the same addresses and ports advance by 16 a microsecond
        // (secure_tcp_seq()), and leave the window after some 4 ms.
        let in_window = if segment.begins() {
            self.draw_moment(in_window)
        } else {
            in_window
        };
        if !in_window {
            if segment.flag != Flag::Reset && self.may_answer(ix, segment) {
                self.reply(
                    segment,
                    Some(listener),
                    Flag::None,
                    first.wrapping_add(1),
                    Some(next),
                );
            }
            return Some(());
        }
        if let Flag::Reset | Flag::Syn = segment.flag {
            trace.blame(Rule::RequestReset, self.handle(listener));
            self.reply_reset(segment, Some(listener));
            self.reset_request(ix, listener);
            return Some(());
        }
        self.last_ack(ix, listener, segment, trace);
        Some(())
    }

    /// The SYN and its acknowledgement once more.
    pub(crate) fn answer_again(&mut self, ix: SockIx, listener: SockIx) {
        let sock = &self.socks[ix];
        let tuple = Tuple::of(sock, sock.num);
        let flow = self.flow_of_request(listener, tuple, sock.device);
        let (first, next) = (sock.snd_una, sock.rcv_nxt);
        self.post(flow, tuple.reversed(), Flag::Syn, first, Some(next));
    }

    /// The handshake's last acknowledgement, or more than that.
    fn last_ack<T: Trace>(
        &mut self,
        ix: SockIx,
        listener: SockIx,
        segment: Segment,
        trace: &mut T,
    ) {
        let sock = &self.socks[ix];
        let bare = segment.end() == sock.rcv_nxt;
        if sock.retries < self.socks[listener].defer_accept && bare {
            trace.blame(Rule::AcceptDeferred, self.handle(listener));
            self.socks[ix].acked = true;
            return;
        }
        let handshake = Handshake {
            tuple: Tuple::of(sock, sock.num),
            device: sock.device,
            snd_nxt: sock.snd_nxt,
            rcv_nxt: sock.rcv_nxt,
            astray: sock.peer_astray,
        };
        if !self.has_room(listener) {
            let net = self.host.net(self.socks[listener].net);
            if net.sysctls.tcp_abort_on_overflow {
                trace.blame(Rule::OverflowReset, self.handle(listener));
                self.reply_reset(segment, Some(listener));
                self.reset_request(ix, listener);
            } else {
                trace.blame(Rule::LastAckDropped, self.handle(listener));
                self.socks[ix].acked = true;
            }
            return;
        }
        let tuple = handshake.tuple;
        self.drop_request(ix);
        self.spawn_child(listener, handshake, segment, trace);
        debug_assert!(self.connections.contains_key(&tuple) || segment.flag == Flag::Fin);
    }

    /// Whether a connection can be put into the queue: there is room, and the listener's port.
    fn has_room(&self, listener: SockIx) -> bool {
        let sock = &self.socks[listener];
        sock.queue.len() as u64 <= u64::from(sock.backlog) && sock.bucket.is_some()
    }

    fn is_cookie(&self, listener: SockIx, segment: Segment) -> bool {
        let net = self.host.net(self.socks[listener].net);
        net.sysctls.tcp_syncookies != 0
            && self.gave_cookies(listener)
            && self.cookies.get(&segment.to).is_some_and(|cookie| {
                segment.ack == Some(cookie.first.wrapping_add(1)) && segment.seq == cookie.next
            })
    }

    /// Where it is remembered that cookies were given: since 4.19 in the group, while the listener has
    /// SO_REUSEPORT; else with itself (include/net/tcp.h, tcp_synq_overflow()).
    fn remembers_cookies(&self, listener: SockIx) -> Option<GroupIx> {
        let sock = &self.socks[listener];
        let shared = sock.reuseport && self.host.kernel.has(Change::GroupCookies);
        sock.group.filter(|_| shared)
    }

    fn note_cookies(&mut self, listener: SockIx) {
        match self.remembers_cookies(listener) {
            Some(group) => self.groups[group.0].cookies_given = true,
            None => self.socks[listener].cookies_given = true,
        }
    }

    fn gave_cookies(&self, listener: SockIx) -> bool {
        match self.remembers_cookies(listener) {
            Some(group) => self.groups[group.0].cookies_given,
            None => self.socks[listener].cookies_given,
        }
    }

    /// A cookie comes back: the connection is made at once, and nothing defers it. Nobody remembers that
    /// it came before: where the connection is not found any more, its FIN makes another.
    fn redeem_cookie<T: Trace>(&mut self, listener: SockIx, segment: Segment, trace: &mut T) {
        if !self.has_room(listener) {
            trace.blame(Rule::LastAckDropped, self.handle(listener));
            return;
        }
        let Some(&cookie) = self.cookies.get(&segment.to) else {
            return;
        };
        // The way back is looked up here (cookie_v4_check(), cookie_v6_check()).
        let device = self.device_of_request(listener, segment);
        let back = self.flow_of_request(listener, segment.to, device);
        if self.way(back).is_none() && self.no_route(back).is_some() {
            trace.blame(Rule::ReplyLost, self.handle(listener));
            return;
        }
        let handshake = Handshake {
            tuple: segment.to,
            device,
            snd_nxt: cookie.first.wrapping_add(1),
            rcv_nxt: cookie.next,
            astray: cookie.astray,
        };
        self.spawn_child(listener, handshake, segment, trace);
    }

    /// The listener's side of a new connection: an owner of its port.
    fn spawn_child<T: Trace>(
        &mut self,
        listener: SockIx,
        handshake: Handshake,
        segment: Segment,
        trace: &mut T,
    ) {
        let parent = &self.socks[listener];
        let (net, family, uid) = (parent.net, parent.family, parent.uid);
        let child = self.fresh_sock(net, family, uid);
        // What waits at the listener is not copied.
        let queue = core::mem::take(&mut self.socks[listener].queue);
        let held = core::mem::take(&mut self.socks[listener].held);
        let parent = &self.socks[listener];
        let mut copy = Sock {
            generation: self.socks[child].generation,
            holders: 0,
            state: State::SynRecv,
            progress: Progress::Connected,
            locks: parent.locks & !PORT_LOCK,
            bucket: None,
            owners: None,
            group: None,
            hashed: Hashed::No,
            parent: listener,
            error: None,
            soft_error: None,
            incoming_cpu: self.cpu,
            device: handshake.device,
            sends_ipv4: parent.sends_ipv4
                || (family == Family::Inet6 && is_mapped(handshake.tuple.peer)),
            windowless: false,
            routed_any: parent.transparent,
            timestamps: true,
            peer_astray: handshake.astray,
            numbers_of: None,
            requests: 0,
            syn_queue_len: 0,
            cookies_given: false,
            // Both stand in the accept queue, which a child gets empty (inet_csk_clone_lock()).
            defer_accept: 0,
            fastopen_queue: 0,
            complained: 0,
            deadline: None,
            chain: NONE,
            retries: 0,
            snd_una: handshake.snd_nxt,
            snd_nxt: handshake.snd_nxt,
            rcv_nxt: handshake.rcv_nxt,
            ..parent.clone()
        };
        address(&mut copy, handshake.tuple);
        let parent = &mut self.socks[listener];
        (parent.queue, parent.held) = (queue, held);
        let bucket = parent.bucket;
        self.socks[child] = copy;
        if let Some(bucket) = bucket {
            self.inherit_port(child, bucket);
        }
        self.hash_connection(child);
        if self.socks[listener].state != State::Listen {
            // A group can hold a socket that does not listen any more, and requests move to it: there is
            // no queue for the connection (inet_csk_reqsk_queue_add()).
            trace.blame(Rule::QueueReset, self.handle(listener));
            return self.forget_child(child);
        }
        self.socks[listener].queue.push_back(child);
        self.at_connection(child, segment, trace);
    }

    /// `__inet_inherit_port`: the listener's bucket, or that of the port that the handshake was about.
    fn inherit_port(&mut self, child: SockIx, bucket: crate::bucket::BucketIx) {
        let port = self.socks[child].num;
        let other = self.buckets[bucket.0].port != port;
        let bucket = if other {
            match self.bucket_for(child, port) {
                Some(bucket) => bucket,
                None => self.bucket_create(child, port),
            }
        } else {
            bucket
        };
        let list = match self.owners_of(bucket, child) {
            Some(list) => list,
            None => self.owners_create(bucket, child),
        };
        if other {
            self.update_memory(child, bucket, list, false);
        }
        self.own(child, bucket, list);
    }

    /// How many connections of a listener are half open.
    #[must_use]
    pub fn half_open_len(&self, socket: crate::world::SocketId) -> usize {
        self.existing(socket)
            .map_or(0, |ix| self.socks[ix].requests as usize)
    }
}

/// The addresses and ports of a handshake, on the listener's side.
fn address(sock: &mut Sock, tuple: Tuple) {
    sock.num = tuple.port;
    sock.sport = tuple.port;
    sock.dport = tuple.peer_port;
    (sock.rcv4, sock.peer4) = if is_mapped(tuple.addr) {
        (tuple.addr as u32, tuple.peer as u32)
    } else {
        (LOOPBACK4_IPV6, LOOPBACK4_IPV6)
    };
    sock.src4 = sock.rcv4;
    if sock.family == Family::Inet6 {
        (sock.rcv6, sock.peer6) = (tuple.addr, tuple.peer);
    }
}
