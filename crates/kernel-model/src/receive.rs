//! What a socket makes of a segment, by its state.
//!
//! Decides:  how a connection is made, from one side or from both at once; what a FIN, a reset or a
//!           segment of an older connection does; when a segment is answered, and by what.
//! Kernel:   net/ipv4/tcp_input.c, tcp_rcv_state_process(), tcp_rcv_synsent_state_process(),
//!           tcp_validate_incoming(), tcp_ack(), tcp_fin(), tcp_reset();
//!           net/ipv4/tcp_minisocks.c, tcp_timewait_state_process(), 3.9 to 6.18
//! Not here: half-open connections (request.rs). Timestamps: both ends share a clock, and what they
//!           decide here sequence numbers decide alike.

use crate::call::State;
use crate::explain::Trace;
use crate::rules::Rule;
use crate::socket::{RCV_SHUTDOWN, SEND_SHUTDOWN, SockIx};
use crate::version::Change;
use crate::wire::{Flag, Segment, WINDOW, after};
use crate::world::World;

/// Between the numbers of an old connection and those of its successor, besides a window.
const ISN_GAP: u32 = 65_535 + 2;

/// What a socket that was under TCP_REPAIR takes the peer's window for: the peer scales it, and no handshake has
/// told by how much (`tcp_select_initial_window`: 10 bits where `tcp_rmem` allows 32 MB, as 6.18 does; 7 where 6 MB).
/// Scenarios and runs set 32 MB in their network namespaces.
const MADE_UP_WINDOW: u32 = WINDOW >> 10;

/// A segment's acknowledgement, against what was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acked {
    /// It acknowledges less than an earlier one.
    Old,
    Good,
    /// Less than this connection began with: no peer of it can have sent that.
    TooOld,
    /// It acknowledges what was never sent.
    Unsent,
}

impl World {
    /// A socket with a connection, or on its way to one, gets a segment.
    pub(crate) fn at_connection<T: Trace>(&mut self, ix: SockIx, segment: Segment, trace: &mut T) {
        if self.socks[ix].state == State::SynSent {
            return self.at_syn_sent(ix, segment, trace);
        }
        if !self.check_segment(ix, segment, trace) {
            return;
        }
        let Some(ack) = segment.ack else { return };
        let acked = self.take_ack(ix, ack);
        if acked != Acked::Good && self.socks[ix].state == State::SynRecv {
            self.reply_reset(segment, Some(ix));
            return;
        }
        match acked {
            Acked::Unsent if self.takes_unsent_for_nothing(ix) => {}
            Acked::Unsent | Acked::TooOld => self.challenge(ix),
            Acked::Good | Acked::Old => {
                if self.step_on_ack(ix) {
                    self.step_on_fin(ix, segment);
                    self.open_window(ix);
                    self.release_ack(ix);
                }
            }
        }
    }

    /// Before 7.1 an established connection drops it without a word.
    fn takes_unsent_for_nothing(&self, ix: SockIx) -> bool {
        !self.host.kernel.has(Change::UnsentAnswered) && self.socks[ix].state == State::Established
    }

    /// An acknowledgement that is held goes out with the next segment that is of use, whatever it says
    /// (`__tcp_ack_snd_check()`, in quick mode since the handshake).
    fn release_ack(&mut self, ix: SockIx) {
        if self.socks[ix].ack_held {
            self.send_ack(ix);
        }
    }

    /// Says what is expected, unless it was said just now (RFC 5961).
    fn challenge(&mut self, ix: SockIx) {
        if self.may_complain(ix) {
            self.send_ack(ix);
        }
    }

    /// The peer's first acknowledgement tells a window, which a socket that left TCP_REPAIR did not
    /// know: what waited for one goes out.
    fn open_window(&mut self, ix: SockIx) {
        let sock = &mut self.socks[ix];
        if !core::mem::take(&mut sock.windowless) {
            return;
        }
        sock.max_window = MADE_UP_WINDOW;
        if let State::FinWait1 | State::Closing | State::LastAck = sock.state {
            self.queue_fin(ix);
        }
    }

    /// Whether the segment may go on to its acknowledgement. What may not is answered by an
    /// acknowledgement that says what is expected; a reset in its place ends the connection.
    fn check_segment<T: Trace>(&mut self, ix: SockIx, segment: Segment, trace: &mut T) -> bool {
        let sock = &self.socks[ix];
        let next = sock.rcv_nxt;
        let limit = next.wrapping_add(WINDOW);
        let heard_fin = matches!(
            sock.state,
            State::CloseWait | State::LastAck | State::Closing
        );
        let last_byte = heard_fin && segment.seq == next.wrapping_sub(1);
        let in_window = !after(next, segment.end()) && !after(segment.seq, limit);
        if segment.flag == Flag::Reset {
            if segment.seq == next || last_byte {
                self.receive_reset(ix);
            } else if in_window {
                self.challenge(ix);
            }
            return false;
        }
        if segment.flag == Flag::Syn {
            let crossed = sock.state == State::SynRecv
                && segment.end() == next
                && segment.ack == Some(sock.snd_nxt);
            if crossed {
                return true;
            }
            if segment.begins() {
                // It believes in an older connection, and says so.
                trace.blame(Rule::HalfOpen, self.handle(ix));
            }
        } else if in_window {
            return true;
        }
        if self.may_answer(ix, segment) {
            self.send_ack(ix);
        }
        false
    }

    fn take_ack(&mut self, ix: SockIx, ack: u32) -> Acked {
        let sock = &mut self.socks[ix];
        if after(sock.snd_una.wrapping_sub(sock.acked_len), ack) {
            return Acked::TooOld;
        }
        if after(sock.snd_una, ack) {
            return Acked::Old;
        }
        if after(ack, sock.snd_nxt) {
            return Acked::Unsent;
        }
        sock.acked_len += ack.wrapping_sub(sock.snd_una);
        sock.snd_una = ack;
        sock.soft_error = None;
        Acked::Good
    }

    /// What an acknowledgement changes; false where the socket is gone.
    fn step_on_ack(&mut self, ix: SockIx) -> bool {
        let sock = &mut self.socks[ix];
        let all = sock.snd_una == sock.snd_nxt && !sock.windowless;
        match sock.state {
            State::SynRecv => {
                self.established(ix);
                if self.socks[ix].shutdown & SEND_SHUTDOWN != 0 {
                    self.step_to_closing(ix);
                    self.queue_fin(ix);
                }
            }
            State::FinWait1 if all => {
                sock.state = State::FinWait2;
                if sock.dead {
                    self.time_wait(ix, State::FinWait2);
                    return false;
                }
            }
            State::Closing if all => {
                self.time_wait(ix, State::TimeWait);
                return false;
            }
            State::LastAck if all => {
                self.remember_peer(ix);
                self.done(ix);
                return false;
            }
            _ => {}
        }
        true
    }

    fn established(&mut self, ix: SockIx) {
        self.clear_timer(ix);
        let sock = &mut self.socks[ix];
        sock.state = State::Established;
        sock.max_window = WINDOW;
    }

    /// The peer sends no more, if its FIN comes when it is due.
    fn step_on_fin(&mut self, ix: SockIx, segment: Segment) {
        if segment.flag != Flag::Fin {
            return;
        }
        let sock = &self.socks[ix];
        let (state, next) = (sock.state, sock.rcv_nxt);
        let early = after(segment.seq, next);
        match state {
            // It has heard the last one.
            State::CloseWait | State::LastAck | State::Closing if early => return,
            // What is missing before it would be lost: nobody reads any more.
            State::FinWait1 | State::FinWait2 if early && sock.shutdown & RCV_SHUTDOWN != 0 => {
                self.reply_reset(segment, Some(ix));
                return self.receive_reset(ix);
            }
            _ => {}
        }
        if segment.seq != next {
            return self.send_ack(ix);
        }
        let sock = &mut self.socks[ix];
        sock.rcv_nxt = segment.end();
        sock.shutdown |= RCV_SHUTDOWN;
        if let State::Established | State::SynRecv = state {
            sock.state = State::CloseWait;
        }
        self.send_ack(ix);
        match state {
            State::FinWait1 => self.socks[ix].state = State::Closing,
            State::FinWait2 => self.time_wait(ix, State::TimeWait),
            _ => {}
        }
    }

    fn at_syn_sent<T: Trace>(&mut self, ix: SockIx, segment: Segment, trace: &mut T) {
        let sock = &mut self.socks[ix];
        let Some(ack) = segment.ack else {
            if segment.flag == Flag::Syn {
                // Both call each other, or it called itself.
                if segment.to == segment.to.reversed() {
                    trace.rule(Rule::SelfConnect);
                }
                sock.state = State::SynRecv;
                sock.rcv_nxt = segment.end();
                sock.peer_astray = segment.astray;
                let (seq, ack) = (sock.snd_una, sock.rcv_nxt);
                self.send(ix, Flag::Syn, seq, Some(ack));
            }
            return;
        };
        if !after(ack, sock.snd_una) || after(ack, sock.snd_nxt) {
            // The answer of an older connection: that one is reset, and the SYN soon sent again.
            if sock.retries == 0 {
                self.retry_syn_soon(ix);
            }
            self.reply_reset(segment, Some(ix));
            return;
        }
        match segment.flag {
            Flag::Reset => self.receive_reset(ix),
            Flag::Syn => {
                sock.rcv_nxt = segment.end();
                sock.peer_astray = segment.astray;
                let held = sock.defer_accept != 0;
                self.take_ack(ix, ack);
                self.established(ix);
                // A client with TCP_DEFER_ACCEPT waits until it has something to say.
                if held {
                    self.hold_ack(ix);
                } else {
                    self.send_ack(ix);
                }
            }
            Flag::None | Flag::Fin => {}
        }
    }

    /// A TIME_WAIT socket gets a segment.
    pub(crate) fn at_time_wait<T: Trace>(&mut self, ix: SockIx, segment: Segment, trace: &mut T) {
        let (next, sent) = (self.socks[ix].rcv_nxt, self.socks[ix].snd_nxt);
        if self.socks[ix].substate == State::FinWait2 {
            return self.at_dead_fin_wait(ix, segment);
        }
        if segment.flag == Flag::Reset {
            if segment.seq == next {
                self.end_time_wait(ix);
            }
            return;
        }
        if segment.seq == next && segment.end() == next {
            self.set_timer(ix, crate::wire::TIME_WAIT_MS);
            return;
        }
        let later = after(segment.seq, next);
        // Of a peer that was under TCP_REPAIR the numbers begin anywhere, and no timestamp helps. Where other
        // numbers are astray, timestamps help if a millisecond has passed.
        let sock = &self.socks[ix];
        let anywhere = !sock.timestamps || sock.peer_astray || segment.astray;
        let later = if segment.begins() && anywhere {
            self.draw_moment(later)
        } else {
            later
        };
        if segment.begins() && later {
            if let Some(listener) = self.find_for(segment, trace) {
                self.end_time_wait(ix);
                let first = sent.wrapping_add(ISN_GAP).max(1);
                return self.at_listener(listener, segment, Some(first), trace);
            }
            // Nobody waits for it: it hears of the old connection, as often as it asks.
            trace.blame(Rule::HalfOpen, self.handle(ix));
            self.reply(segment, Some(ix), Flag::None, sent, Some(next));
            return;
        }
        if segment.ack.is_some() {
            self.set_timer(ix, crate::wire::TIME_WAIT_MS);
        }
        if self.may_answer(ix, segment) {
            self.reply(segment, Some(ix), Flag::None, sent, Some(next));
        }
    }

    /// The remains of a socket that was closed before its peer closed.
    fn at_dead_fin_wait(&mut self, ix: SockIx, segment: Segment) {
        let (next, sent) = (self.socks[ix].rcv_nxt, self.socks[ix].snd_nxt);
        let in_window = segment.seq == next
            || (after(segment.end(), next) && after(next.wrapping_add(WINDOW), segment.seq));
        if !in_window {
            // A reset too.
            if self.may_answer(ix, segment) {
                self.reply(segment, Some(ix), Flag::None, sent, Some(next));
            }
            return;
        }
        match segment.flag {
            Flag::Reset => self.end_time_wait(ix),
            Flag::Fin if segment.end() == next.wrapping_add(1) => {
                self.socks[ix].substate = State::TimeWait;
                self.socks[ix].rcv_nxt = segment.end();
                self.set_timer(ix, crate::wire::TIME_WAIT_MS);
                self.reply(segment, Some(ix), Flag::None, sent, Some(segment.end()));
            }
            // A FIN with something missing before it, which nobody would read.
            Flag::Syn | Flag::Fin => {
                self.reply_reset(segment, Some(ix));
                self.end_time_wait(ix);
            }
            Flag::None => {}
        }
    }
}
