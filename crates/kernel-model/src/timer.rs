//! What happens when time passes.
//!
//! Decides:  when TIME_WAIT ends; when a SYN, or a listener's answer to one, is sent again, and when it
//!           is given up; when a held acknowledgement goes out after all.
//! Kernel:   net/ipv4/inet_timewait_sock.c; net/ipv4/inet_connection_sock.c, reqsk_timer_handler(),
//!           syn_ack_recalc(); net/ipv4/tcp_timer.c, tcp_retransmit_timer(), tcp_write_timeout(),
//!           3.9 to 6.18
//! Not here: retransmission of a FIN, and orphans that give up (gaps.toml).

use crate::call::State;
use crate::errno::Errno;
use crate::explain::{NoTrace, Trace};
use crate::socket::SockIx;
use crate::version::Change;
use crate::wire::{Flag, TIME_WAIT_MS, flow_of};
use crate::world::World;

/// The first wait for the answer to a SYN, or to a listener's own (`TCP_TIMEOUT_INIT`).
pub(crate) const SYNACK_FIRST_MS: u64 = 1000;
/// `tcp_synack_retries`.
const SYNACK_RETRIES: u8 = 5;
/// `tcp_syn_retries`.
const SYN_RETRIES: u8 = 6;
/// `tcp_syn_linear_timeouts`: the first repetitions of a SYN do not wait longer and longer.
const SYN_LINEAR: u8 = 4;
/// `TCP_TIMEOUT_MIN`: two ticks of 4 ms.
const SOON_MS: u64 = 8;
/// `TCP_DELACK_MAX`.
const HELD_ACK_MS: u64 = 200;
/// `TCP_RTO_MAX`.
const LONGEST_MS: u64 = 120_000;

/// The order of timers that fire at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Together {
    /// As in one slot of the release's timer wheel.
    Usual,
    /// The other way round.
    Reversed,
}

impl World {
    /// Lets time pass: what waits for it happens.
    pub fn pass_time(&mut self, ms: u64) {
        self.pass_time_in(ms, Together::Usual);
    }

    /// The same where timers that fire together do it in another order: those that were set a moment apart
    /// may be in two slots of the kernel's wheel, which no model time tells apart.
    pub fn pass_time_in(&mut self, ms: u64, together: Together) {
        let end = self.now_ms + ms;
        while let Some((&(at, _), _)) = self.deadlines.first_key_value()
            && at <= end
        {
            self.now_ms = self.now_ms.max(at);
            // What they send arrives when all of them have fired.
            while let Some((&deadline, &ix)) = match together {
                Together::Usual => self.deadlines.first_key_value(),
                Together::Reversed => self.deadlines.range(..=(at, u64::MAX)).next_back(),
            } && deadline.0 == at
            {
                self.clear_timer(ix);
                self.fire(ix);
            }
            self.deliver(&mut NoTrace);
        }
        self.now_ms = end;
    }

    /// Whether, within a time, two timers fire together.
    #[must_use]
    pub fn timers_meet(&self, ms: u64) -> bool {
        let mut due = self.deadlines.keys().map(|&(at, _)| at);
        let mut before = due.next();
        due.take_while(|&at| at <= self.now_ms + ms)
            .any(|at| before.replace(at) == Some(at))
    }

    /// In how many milliseconds something happens by itself.
    #[must_use]
    pub fn next_event_ms(&self) -> Option<u64> {
        let (&(at, _), _) = self.deadlines.first_key_value()?;
        Some(at.saturating_sub(self.now_ms))
    }

    pub(crate) fn set_timer(&mut self, ix: SockIx, ms: u64) {
        self.clear_timer(ix);
        self.deadlines_set += 1;
        // A slot of the wheel is a list that the newest heads.
        let order = if self.host.kernel.has(Change::TimerWheel) {
            u64::MAX - self.deadlines_set
        } else {
            self.deadlines_set
        };
        let deadline = (self.now_ms + ms, order);
        self.socks[ix].deadline = Some(deadline);
        self.deadlines.insert(deadline, ix);
    }

    pub(crate) fn clear_timer(&mut self, ix: SockIx) {
        if let Some(deadline) = self.socks[ix].deadline.take() {
            self.deadlines.remove(&deadline);
        }
    }

    fn fire(&mut self, ix: SockIx) {
        match self.socks[ix].state {
            State::TimeWait => self.end_time_wait(ix),
            State::NewSynRecv => self.request_timeout(ix, &mut NoTrace),
            State::SynSent => self.syn_timeout(ix),
            _ if self.socks[ix].ack_held => self.send_ack(ix),
            _ => {}
        }
    }

    /// A half-open connection was not completed in time: the answer is sent again, or it is forgotten.
    fn request_timeout<T: Trace>(&mut self, ix: SockIx, trace: &mut T) {
        let Some(listener) = self.answerer(ix, trace) else {
            return self.drop_request(ix);
        };
        let defer = self.socks[listener].defer_accept;
        let (acked, retries) = (self.socks[ix].acked, self.socks[ix].retries);
        let tired = retries >= SYNACK_RETRIES;
        let (expired, again) = if defer == 0 {
            (tired, true)
        } else {
            let waited = retries >= defer;
            (tired && (!acked || waited), !acked || retries >= defer - 1)
        };
        if expired {
            return self.drop_request(ix);
        }
        if again {
            self.answer_again(ix, listener);
        }
        self.socks[ix].retries += 1;
        if self.socks[ix].parent != listener {
            let old = core::mem::replace(&mut self.socks[ix].parent, listener);
            self.socks[listener].requests += 1;
            self.socks[listener].syn_queue_len += 1;
            self.socks[old].syn_queue_len -= 1;
            self.release_request(old);
        }
        let wait = SYNACK_FIRST_MS << self.socks[ix].retries.min(16);
        self.set_timer(ix, wait.min(LONGEST_MS));
    }

    /// When the SYN that was just sent is sent again.
    pub(crate) fn retry_syn_later(&mut self, ix: SockIx) {
        let retries = self.socks[ix].retries;
        let linear = if self.host.kernel.has(Change::LinearSyn) {
            SYN_LINEAR
        } else {
            0
        };
        let wait = SYNACK_FIRST_MS << retries.saturating_sub(linear).min(16);
        self.set_timer(ix, wait.min(LONGEST_MS));
    }

    pub(crate) fn retry_syn_soon(&mut self, ix: SockIx) {
        self.set_timer(ix, SOON_MS);
    }

    fn syn_timeout(&mut self, ix: SockIx) {
        if self.give_up_search(ix) {
            return;
        }
        let linear = if self.host.kernel.has(Change::LinearSyn) {
            SYN_LINEAR
        } else {
            0
        };
        if self.socks[ix].retries >= SYN_RETRIES + linear {
            let soft = self.socks[ix].soft_error;
            self.socks[ix].error = Some(soft.unwrap_or(Errno::ETIMEDOUT));
            return self.done(ix);
        }
        self.socks[ix].retries += 1;
        let seq = self.socks[ix].snd_una;
        self.retry_syn_later(ix);
        if !self.send(ix, Flag::Syn, seq, None) {
            // IPv4 says it here, too (inet_sk_rebuild_header()).
            self.note_no_route(ix, flow_of(&self.socks[ix]));
            self.ask_neighbour(ix);
        }
    }

    /// The last acknowledgement of a handshake waits for something to say.
    pub(crate) fn hold_ack(&mut self, ix: SockIx) {
        self.socks[ix].ack_held = true;
        self.set_timer(ix, HELD_ACK_MS);
    }

    /// How long a TIME_WAIT socket has been one.
    pub(crate) fn time_wait_age_ms(&self, ix: SockIx) -> u64 {
        let end = self.socks[ix].deadline;
        end.map_or(u64::MAX, |(at, _)| {
            (self.now_ms + TIME_WAIT_MS).saturating_sub(at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Family;
    use crate::host::{Host, ProcessId};
    use crate::version::Kernel;

    #[test]
    fn timers_meet_that_fire_at_one_time_within_the_wait() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let timer = |world: &mut World, ms| {
            let socket = world.socket(ProcessId(0), Family::Inet);
            world.set_timer(socket.index, ms);
        };
        assert!(!world.timers_meet(100));
        timer(&mut world, 5);
        timer(&mut world, 7);
        assert!(!world.timers_meet(100), "5 and 7 ms");
        timer(&mut world, 9);
        timer(&mut world, 9);
        assert!(!world.timers_meet(8), "those of 9 ms are later");
        assert!(world.timers_meet(9));
        world.pass_time(10);
        assert_eq!(world.now_ms, 10);
        assert!(world.next_event_ms().is_none());
    }
}
