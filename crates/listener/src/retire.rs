//! Closing a listener without losing what it began: a state machine without I/O.
//!
//! Decides:  the order of the steps, what is waited for and for how long, what happens when a step fails, and
//!           which sockets are kept rather than closed because nothing keeps new connections from them.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_listen_stop() (what waits in the queue is reset, or moved
//!           with net.ipv4.tcp_migrate_req), reqsk_timer_handler(), inet_csk_complete_hashdance();
//!           net/ipv4/tcp_minisocks.c, tcp_check_req() (a half-open connection belongs to the listener that
//!           answered its SYN); net/core/sock_reuseport.c, reuseport_stop_listen_sock(),
//!           reuseport_migrate_sock(); net/unix/af_unix.c, unix_stream_connect(), 5.14 to 6.18
//! Not here: making the calls ([`driver`]), accepting (the caller), programs (steer.rs), filters (pause.rs).
//!
//! The steps of [`Way::Program`], for each member that leaves; the other ways leave some out:
//!
//! | step | why |
//! |---|---|
//! | [`Action::Attach`] a program that excludes all that leave | new connections go to those who stay |
//! | [`Action::EndDeferring`] | a client that answered and says nothing would stay half-open |
//! | [`Action::Settle`] | a packet that was being received may have chosen by the old program |
//! | [`Action::AcceptUntilEmpty`] | a full queue keeps half-open connections from becoming whole |
//! | [`Action::WaitHalfOpen`] | those stay with their listener, and would be reset; with `tcp_migrate_req` the kernel moves them, and this step is left out |
//! | [`Action::Seal`] it | a member that closes leaves the group before it leaves the table of listeners: for that moment it is found without a program |
//! | [`Action::AcceptUntilEmpty`] | what became whole meanwhile |
//! | [`Action::Close`] one | the last member takes its place, so the program is wrong now: from the first step again |
//!
//! Whoever stops at any step leaves sockets that a living process can go on with: they are all open, and at
//! most a program or filter is to be taken off ([`Retirement::cancel`], [`crate::retire::release`]).

pub mod driver;
pub mod plan;

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use crate::steer::{Choice, NoProgram, Order, Program};

pub use driver::{Driver, Step, release};
pub use plan::{NotRetirable, Plan, Way};

/// How long a retirement waits for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// For half-open connections, after the queue was empty: those of one member that are not whole by then are
    /// lost with it, and counted. A client that has lost the answer to its SYN hears it again after 1, 3 and 7 s.
    pub half_open: Duration,
    /// For handshakes by SYN cookie, which nobody can count, where nobody is left who would take them.
    pub cookies: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            half_open: Duration::from_secs(10),
            cookies: Duration::from_secs(3),
        }
    }
}

/// What is to be done next. [`Retirement::took`] is told how it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Attach this program, by any member: [`Event::Done`] or [`Event::Failed`].
    Attach(Program),
    /// Take the group's program off, by any member: [`Event::Done`] or [`Event::Failed`].
    Detach,
    /// Drop new SYNs (pause.rs): [`Event::Done`] or [`Event::Failed`].
    DropSyns(u32),
    /// Take that filter off: [`Event::Done`] or [`Event::Failed`].
    AdmitSyns(u32),
    /// Shut a Unix socket down for reading, which refuses new connections: [`Event::Done`] or [`Event::Failed`].
    Shut(u32),
    /// Set `TCP_DEFER_ACCEPT` to 0, and remember what it was: [`Event::Done`] or [`Event::Failed`].
    EndDeferring(u32),
    /// Set `TCP_DEFER_ACCEPT` to what it was: [`Event::Done`] or [`Event::Failed`].
    Defer(u32),
    /// Wait for the packets on their way ([`crate::steer::settle`]): [`Event::Settled`].
    Settle,
    /// Drop all that comes to it (pause.rs, [`crate::pause::seal`]): [`Event::Done`] or [`Event::Failed`].
    Seal(u32),
    /// Accept until there is nothing to accept: [`Event::Emptied`].
    AcceptUntilEmpty(u32),
    /// Look how many connections depend on the member, again and again until there are none or it is late, and
    /// accept what comes meanwhile: [`Event::Pending`].
    WaitHalfOpen {
        /// Whose.
        member: u32,
        /// What is not whole by then is lost.
        until: Instant,
    },
    /// Go on serving all members until then: [`Event::Done`], or nothing but a later look.
    Wait {
        /// When to come back.
        until: Instant,
    },
    /// End this listener, for all who hold it: [`Event::Closed`], or [`Event::Refilled`] where something waits in
    /// its queue.
    Close(u32),
    /// There is nothing left to do.
    Finish,
}

/// What came of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// It is done.
    Done,
    /// It was refused.
    Failed,
    /// Packets on their way are done with.
    Settled {
        /// The group has members besides those of the order: the order is not known any more.
        strangers: bool,
        /// SYN cookies may have been given.
        cookies: bool,
    },
    /// There was nothing left to accept.
    Emptied,
    /// So many depend on the member, where that can be known.
    Pending(Option<u32>),
    /// It is closed; so many connections were cut, at most, where that can be known.
    Closed {
        /// Half-open ones that did not become whole in time.
        cut: Option<u32>,
    },
    /// Something waits in the queue again.
    Refilled,
}

/// An event that does not answer the action; it changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unexpected;

impl fmt::Display for Unexpected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the event does not answer the step that was to be done")
    }
}

impl std::error::Error for Unexpected {}

/// A member that is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed {
    /// Its number.
    pub member: u32,
    /// Connections that were cut with it, at most: half-open ones that did not become whole in time. `None`
    /// where nothing told how many there were.
    pub cut: Option<u32>,
}

/// How a retirement ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Closed, in this order.
    pub closed: Vec<Closed>,
    /// Not closed, and open to new connections: nothing could keep these from them, or it was cancelled. They
    /// are to be served like before.
    pub kept: Vec<u32>,
    /// The order of the group, where it was known and still is.
    pub order: Option<Order>,
    /// The order could not be relied on (a refused program, strangers in the group), and filters did it: clients
    /// of those that left may have waited a second.
    pub by_filter: bool,
    /// A program is left on the group that should be none, or another: the kernel refused to take it.
    pub program_left: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The program without those that leave.
    Exclude,
    /// Whatever program there is goes: closing makes it wrong.
    Unsteer,
    /// Filters, from this one of `leaving` on.
    Filter(usize),
    /// Unix sockets, from this one on.
    Shut(usize),
    /// Deferring ends, from this one on.
    Undefer(usize),
    Settle,
    Drain,
    HalfOpen {
        until: Instant,
    },
    Cookies {
        until: Instant,
    },
    /// While others are wanted: SYNs for them come to one that is being closed.
    Seal,
    LastDrain,
    Close,
    /// What was changed is put back, as far as it belongs to members that are open.
    Admit,
    Redefer,
    /// The program for those who are open.
    Resteer,
    Unresteer,
    Finished,
}

/// The retirement of some members of one group, or of all listeners of an address.
///
/// [`Retirement::next`] says what to do, [`Retirement::took`] how it went; [`driver::Driver`] does so with real
/// sockets, all but accepting.
#[derive(Debug, Clone)]
pub struct Retirement {
    way: Way,
    state: State,
    bounds: Bounds,
    migrates: bool,
    /// The first one is next.
    leaving: Vec<u32>,
    filtered: BTreeSet<u32>,
    undeferred: BTreeSet<u32>,
    cookies: bool,
    outcome: Outcome,
}

impl Retirement {
    /// By this plan.
    pub fn new(plan: Plan) -> Result<Retirement, NoProgram> {
        let Plan {
            mut way,
            mut leaving,
            migrates,
            bounds,
        } = plan;
        leaving.sort_unstable();
        leaving.dedup();
        if let Way::Program { order, choice } = &way {
            // The highest index first: its hole moves nobody who leaves later.
            for &member in &leaving {
                order
                    .index_of(member)
                    .ok_or(NoProgram::NotAMember(member))?;
            }
            leaving.sort_by_key(|&member| std::cmp::Reverse(order.index_of(member)));
            if leaving.len() == order.members().len() {
                way = Way::Filter {
                    somebody_stays: false,
                };
            } else {
                Program::new(order, &staying(order, &leaving), choice)?;
            }
        }
        let state = match way {
            _ if leaving.is_empty() => State::Finished,
            Way::Program { .. } => State::Exclude,
            Way::Filter {
                somebody_stays: true,
            } => State::Unsteer,
            Way::Filter { .. } => State::Filter(0),
            Way::Shutdown => State::Shut(0),
            Way::Nothing => State::Drain,
        };
        Ok(Retirement {
            way,
            state,
            bounds,
            migrates,
            leaving,
            filtered: BTreeSet::new(),
            undeferred: BTreeSet::new(),
            cookies: false,
            outcome: Outcome::default(),
        })
    }

    /// What is to be done now; the same until [`Retirement::took`] is told.
    pub fn next(&self) -> Action {
        let nth = |at: usize| self.leaving.get(at).copied();
        let first = nth(0);
        let action = match self.state {
            State::Exclude => self.program(&self.leaving).map(Action::Attach),
            State::Unsteer | State::Unresteer => Some(Action::Detach),
            State::Filter(at) => nth(at).map(Action::DropSyns),
            State::Shut(at) => nth(at).map(Action::Shut),
            State::Undefer(at) => nth(at).map(Action::EndDeferring),
            State::Settle => Some(Action::Settle),
            State::Drain | State::LastDrain => first.map(Action::AcceptUntilEmpty),
            State::HalfOpen { until } => first.map(|member| Action::WaitHalfOpen { member, until }),
            State::Cookies { until } => Some(Action::Wait { until }),
            State::Seal => first.map(Action::Seal),
            State::Close => first.map(Action::Close),
            State::Admit => self.filtered.first().copied().map(Action::AdmitSyns),
            State::Redefer => self.undeferred.first().copied().map(Action::Defer),
            State::Resteer => self.program(&[]).map(Action::Attach),
            State::Finished => None,
        };
        action.unwrap_or(Action::Finish)
    }

    /// How [`Retirement::next`] went, at this time.
    pub fn took(&mut self, event: Event, now: Instant) -> Result<(), Unexpected> {
        let next = match (self.state, event) {
            (State::Exclude, Event::Done) => self.after_excluding(),
            (State::Exclude, Event::Failed) => self.fall_back(),
            (State::Unsteer, Event::Done | Event::Failed) => State::Filter(0),
            (State::Filter(at), Event::Done | Event::Failed) => self.filtered(at, event),
            (State::Shut(at), Event::Done | Event::Failed) => self.shut(at, event),
            (State::Undefer(at), Event::Done | Event::Failed) => self.undeferred(at, event),
            (State::Settle, Event::Settled { strangers, cookies }) => {
                self.cookies = cookies;
                if strangers && matches!(self.way, Way::Program { .. }) {
                    self.fall_back()
                } else {
                    State::Drain
                }
            }
            (State::Drain, Event::Emptied) => self.drained(now),
            (State::HalfOpen { until }, Event::Pending(pending)) => {
                if pending == Some(0) || now >= until {
                    self.all_whole(now)
                } else {
                    self.state
                }
            }
            (State::Cookies { until }, Event::Done) if now >= until => {
                self.cookies = false;
                State::LastDrain
            }
            (State::Cookies { .. }, Event::Done) => self.state,
            (State::Seal, Event::Done) => {
                self.filtered.extend(self.leaving.first());
                State::LastDrain
            }
            // The moment is short, and there is nothing else to be done.
            (State::Seal, Event::Failed) => State::LastDrain,
            (State::LastDrain, Event::Emptied) => State::Close,
            (State::Close, Event::Refilled) => State::LastDrain,
            (State::Close, Event::Closed { cut }) => self.closed(cut),
            (State::Admit, Event::Done | Event::Failed) => {
                self.filtered.pop_first();
                self.put_back()
            }
            (State::Redefer, Event::Done | Event::Failed) => {
                self.undeferred.pop_first();
                self.put_back()
            }
            (State::Resteer, Event::Done) => self.finish(),
            // A stale program chooses among open members still, but not as it should.
            (State::Resteer, Event::Failed) => State::Unresteer,
            (State::Unresteer, Event::Done) => self.finish(),
            (State::Unresteer, Event::Failed) => {
                self.outcome.program_left = true;
                self.finish()
            }
            _ => return Err(Unexpected),
        };
        self.state = next;
        Ok(())
    }

    /// Stops: what was not closed is opened to new connections again. A Unix socket that was shut down cannot
    /// be; those are closed all the same.
    pub fn cancel(&mut self) {
        let over = matches!(
            self.state,
            State::Admit | State::Redefer | State::Resteer | State::Unresteer | State::Finished
        );
        if over || self.way == Way::Shutdown {
            return;
        }
        self.outcome.kept.append(&mut self.leaving);
        self.state = self.put_back();
    }

    /// How it ended, once there is nothing left to do.
    pub fn outcome(&self) -> Option<&Outcome> {
        (self.state == State::Finished).then_some(&self.outcome)
    }

    /// Those that are still to be closed.
    pub fn leaving(&self) -> &[u32] {
        &self.leaving
    }

    /// The order of the group's members, where it is known.
    pub fn order(&self) -> Option<&Order> {
        match &self.way {
            Way::Program { order, .. } => Some(order),
            _ => None,
        }
    }

    /// How new connections are kept away, now.
    pub fn way(&self) -> &Way {
        &self.way
    }

    /// Whether the kernel moves half-open connections of one that closes to those who stay.
    pub fn moves_half_open(&self) -> bool {
        match self.way {
            Way::Program { .. } => self.migrates,
            Way::Filter { somebody_stays } => self.migrates && somebody_stays,
            Way::Shutdown | Way::Nothing => false,
        }
    }

    /// The program that excludes these: it exists, since somebody stays.
    fn program(&self, without: &[u32]) -> Option<Program> {
        let Way::Program { order, choice } = &self.way else {
            return None;
        };
        Program::new(order, &staying(order, without), choice).ok()
    }

    fn after_excluding(&mut self) -> State {
        let all_ended = self.leaving.iter().all(|m| self.undeferred.contains(m));
        if all_ended {
            State::Settle
        } else {
            State::Undefer(0)
        }
    }

    /// The order cannot be relied on: filters need none.
    fn fall_back(&mut self) -> State {
        self.way = Way::Filter {
            somebody_stays: true,
        };
        self.outcome.by_filter = true;
        State::Unsteer
    }

    fn filtered(&mut self, at: usize, event: Event) -> State {
        let member = self.leaving[at];
        let next = if event == Event::Done {
            self.filtered.insert(member);
            at + 1
        } else {
            self.leaving.remove(at);
            self.outcome.kept.push(member);
            at
        };
        if next < self.leaving.len() {
            State::Filter(next)
        } else if self.leaving.is_empty() {
            self.put_back()
        } else {
            self.after_excluding()
        }
    }

    fn shut(&mut self, at: usize, event: Event) -> State {
        let mut next = at + 1;
        if event == Event::Failed {
            self.outcome.kept.push(self.leaving.remove(at));
            next = at;
        }
        if next < self.leaving.len() {
            State::Shut(next)
        } else if self.leaving.is_empty() {
            self.finish()
        } else {
            State::Drain
        }
    }

    /// A refusal only makes silent clients wait, or be cut.
    fn undeferred(&mut self, at: usize, _: Event) -> State {
        self.undeferred.insert(self.leaving[at]);
        if at + 1 < self.leaving.len() {
            State::Undefer(at + 1)
        } else {
            State::Settle
        }
    }

    fn drained(&mut self, now: Instant) -> State {
        // A Unix socket has none; of a Multipath TCP socket there are always new ones.
        let none = matches!(self.way, Way::Shutdown | Way::Nothing);
        if none || self.moves_half_open() {
            return State::LastDrain;
        }
        let until = now + self.bounds.half_open;
        State::HalfOpen { until }
    }

    fn all_whole(&mut self, now: Instant) -> State {
        let alone = Way::Filter {
            somebody_stays: false,
        };
        if self.cookies && self.way == alone {
            let until = now + self.bounds.cookies;
            return State::Cookies { until };
        }
        // A filter against SYNs does it as well.
        match self.way {
            Way::Program { .. } => State::Seal,
            _ => State::LastDrain,
        }
    }

    fn closed(&mut self, cut: Option<u32>) -> State {
        let member = self.leaving.remove(0);
        self.outcome.closed.push(Closed { member, cut });
        self.filtered.remove(&member);
        self.undeferred.remove(&member);
        if let Way::Program { order, .. } = &mut self.way {
            order.left(member);
        }
        if self.leaving.is_empty() {
            return self.put_back();
        }
        match self.way {
            Way::Program { .. } => State::Exclude,
            _ => State::Drain,
        }
    }

    /// What is left to put back, before the end.
    fn put_back(&mut self) -> State {
        if !self.filtered.is_empty() {
            return State::Admit;
        }
        if !self.undeferred.is_empty() {
            return State::Redefer;
        }
        match &self.way {
            Way::Program {
                choice: Choice::Even,
                ..
            } => State::Unresteer,
            Way::Program { .. } => State::Resteer,
            _ => self.finish(),
        }
    }

    fn finish(&mut self) -> State {
        self.outcome.order = self.order().cloned();
        State::Finished
    }
}

fn staying(order: &Order, leaving: &[u32]) -> Vec<u32> {
    let members = order.members().iter().copied();
    members.filter(|member| !leaving.contains(member)).collect()
}

#[cfg(test)]
mod tests;
