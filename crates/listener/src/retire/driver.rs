//! A retirement with real sockets: every step but accepting.
//!
//! Decides:  when to look again, what a refusal means to the machine, that a socket is shut down and not only
//!           closed, and that a group with strangers in it is believed only when seen three times.
//! Kernel:   net/ipv4/af_inet.c, inet_shutdown(): a listener stops for all who hold a descriptor of it;
//!           net/ipv4/tcp.c, do_tcp_setsockopt(): TCP_DEFER_ACCEPT, 5.14 to 6.18
//! Not here: which step comes next (retire.rs), accepting (the caller).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use portcullis_sys::sockopt::{accept_queue, get_int, set_int};
use rustix::net::{Shutdown, shutdown};

use crate::pause::{self, Kind, kind};
use crate::pending::Looker;
use crate::retire::plan::Strangers;
use crate::retire::{Action, Closed, Event, Outcome, Plan, Retirement, Way};
use crate::steer::{self, NoProgram};

/// The first look at half-open connections comes so long after the last, the next after twice the time,
const LOOK_FIRST: Duration = Duration::from_millis(2);
/// up to this.
const LOOK_LAST: Duration = Duration::from_millis(50);
/// The table of listeners is read again after this, where several retirements look at it.
const READ_AGAIN: Duration = Duration::from_millis(5);
/// How long packets on their way are given where the kernel does not tell.
const SETTLE: Duration = Duration::from_millis(100);
/// A table that is read while it changes can leave out a row, so strangers are seen so often before they are
/// believed.
const LOOKS_AT_STRANGERS: u32 = 3;
const TCP_DEFER_ACCEPT: i32 = 9;
const IPPROTO_TCP: i32 = 6;

/// What the caller is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Accept from this member until there is nothing to accept (`EAGAIN`), then call [`Driver::emptied`]. It can
    /// be asked for several times. No epoll may hold the member when `emptied` is called: a descriptor that some
    /// process keeps would go on being polled after the close.
    Accept(u32),
    /// Serve as ever, and call [`Driver::step`] again then, or earlier.
    Wait(Instant),
    /// This one is closed: a descriptor that the caller has of it only says so. Call [`Driver::step`] again.
    Closed(Closed),
    /// That was all.
    Done(Outcome),
}

/// Retires sockets: descriptors of any kind, one for each member of the group or address, those that stay too.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::collections::BTreeMap;
/// use std::net::{TcpListener, TcpStream};
/// use std::time::Instant;
/// use portcullis_listener::pending::Looker;
/// use portcullis_listener::retire::{Driver, Plan, Step};
/// use portcullis_listener::steer::{Choice, Order};
/// use portcullis_listener::{ListenerSpec, open};
///
/// let mut spec = ListenerSpec::tcp("127.0.0.1:0".parse()?);
/// spec.shards = 2;
/// let shards = open(&spec)?.listeners;
/// let address = shards[0].local().inet().unwrap();
/// let clients: Vec<TcpStream> = (0..8)
///     .map(|_| TcpStream::connect(address))
///     .collect::<Result<_, _>>()?;
/// # let _ = clients;
///
/// let sockets: BTreeMap<u32, TcpListener> =
///     (0..).zip(shards.into_iter().map(|shard| TcpListener::try_from(shard).unwrap())).collect();
/// let order = Order::of([0, 1]); // as `open` listened
/// let mut looker = Looker::open()?;
/// let plan = Plan::find(&sockets, &[0], Some(&order), &Choice::Even, Some(&mut looker))?;
/// let leaving = sockets[&0].try_clone()?; // what the worker accepts from
/// let mut driver = Driver::new(plan, sockets, Some(looker))?;
/// let mut served = Vec::new();
/// let outcome = loop {
///     match driver.step(Instant::now()) {
///         Step::Accept(member) => {
///             while let Ok((connection, _)) = leaving.accept() {
///                 served.push(connection);
///             }
///             driver.emptied(member, Instant::now())?;
///         }
///         Step::Wait(until) => std::thread::sleep(until - Instant::now()),
///         Step::Closed(closed) => assert_eq!(closed.cut, Some(0)),
///         Step::Done(outcome) => break outcome,
///     }
/// };
/// assert_eq!(outcome.order.unwrap().members(), [1]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Driver<F> {
    machine: Retirement,
    sockets: BTreeMap<u32, F>,
    looker: Option<Looker>,
    deferring: BTreeMap<u32, i32>,
    /// The end of a pause in place of the kernel's own wait.
    settled_at: Option<Instant>,
    look: Duration,
    /// When packets on their way were done with: whatever is read of a member that leaves is too much, if anything,
    /// from then on.
    excluded: Option<Instant>,
    /// The caller accepts while half-open connections are waited for.
    aside: bool,
}

impl<F: AsFd> Driver<F> {
    /// By this plan, of these sockets. Descriptors of those that leave are dropped as they are closed; the others
    /// come back by [`Driver::into_sockets`].
    pub fn new(
        plan: Plan,
        sockets: BTreeMap<u32, F>,
        looker: Option<Looker>,
    ) -> Result<Driver<F>, NoProgram> {
        Ok(Driver {
            machine: Retirement::new(plan)?,
            sockets,
            looker,
            deferring: BTreeMap::new(),
            settled_at: None,
            excluded: None,
            look: LOOK_FIRST,
            aside: false,
        })
    }

    /// Does what can be done now. It sleeps some 10 to 30 ms once for each program that is attached
    /// ([`steer::settle`]), so it is not for a thread that serves connections.
    pub fn step(&mut self, now: Instant) -> Step {
        loop {
            if let Some(step) = self.step_awake(now) {
                return step;
            }
            match self.settle(now) {
                Ok(event) => self.took(event, now),
                Err(until) => return Step::Wait(until),
            }
        }
    }

    /// The same, without the sleep: `None` where it would. Who drives several sleeps for all of them at once
    /// ([`steer::settle`]), and then calls [`Driver::settled`] on each; or [`Driver::step`], where the kernel
    /// offers no such sleep.
    pub fn step_awake(&mut self, now: Instant) -> Option<Step> {
        loop {
            let action = self.machine.next();
            let event = match action {
                Action::AcceptUntilEmpty(member) => return Some(Step::Accept(member)),
                Action::WaitHalfOpen { member, until } => {
                    if let Some(step) = self.half_open(member, until, now) {
                        return Some(step);
                    }
                    continue;
                }
                Action::Wait { until } if now < until => return Some(Step::Wait(until)),
                Action::Settle => return self.settled_at.filter(|at| now < *at).map(Step::Wait),
                Action::Close(member) => {
                    let event = self.close(member, now);
                    self.took(event, now);
                    if let Event::Closed { cut } = event {
                        return Some(Step::Closed(Closed { member, cut }));
                    }
                    continue;
                }
                Action::Finish => {
                    let outcome = self.machine.outcome().cloned();
                    return Some(Step::Done(outcome.unwrap_or_default()));
                }
                action => match self.call(&action) {
                    Ok(()) => Event::Done,
                    Err(_) => Event::Failed,
                },
            };
            self.took(event, now);
        }
    }

    /// The caller slept, after [`Driver::step_awake`] gave `None`, and it is `now`.
    pub fn settled(&mut self, now: Instant) {
        if self.machine.next() == Action::Settle {
            self.settled_at = None;
            let event = self.look_around(now);
            self.took(event, now);
        }
    }

    /// There was nothing left to accept from this member, and no epoll holds it.
    pub fn emptied(&mut self, member: u32, now: Instant) -> Result<(), super::Unexpected> {
        match self.machine.next() {
            Action::AcceptUntilEmpty(asked) if asked == member => {
                self.machine.took(Event::Emptied, now)
            }
            Action::WaitHalfOpen { member: asked, .. } if asked == member && self.aside => {
                self.aside = false;
                Ok(())
            }
            _ => Err(super::Unexpected),
        }
    }

    /// Stops, and opens what was not closed to new connections again, in the next steps
    /// ([`Retirement::cancel`]).
    pub fn cancel(&mut self) {
        self.aside = false;
        self.machine.cancel();
    }

    /// The machine: what is still to be closed, and the order.
    pub fn retirement(&self) -> &Retirement {
        &self.machine
    }

    /// The sockets that were not closed, and the looker.
    pub fn into_sockets(self) -> (BTreeMap<u32, F>, Option<Looker>) {
        (self.sockets, self.looker)
    }

    fn took(&mut self, event: Event, now: Instant) {
        let taken = self.machine.took(event, now);
        debug_assert!(taken.is_ok(), "{event:?}");
    }

    fn socket(&self, member: u32) -> io::Result<BorrowedFd<'_>> {
        let socket = self.sockets.get(&member).map(AsFd::as_fd);
        socket.ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// One of the group, best one that stays.
    fn anyone(&self) -> io::Result<BorrowedFd<'_>> {
        let leaving = self.machine.leaving();
        let staying = self.sockets.keys().find(|member| !leaving.contains(member));
        let member = staying.or_else(|| self.sockets.keys().next());
        self.socket(*member.ok_or(io::ErrorKind::NotFound)?)
    }

    fn call(&mut self, action: &Action) -> io::Result<()> {
        match action {
            Action::Attach(program) => program.attach(self.anyone()?),
            Action::Detach => steer::detach(self.anyone()?).map(drop),
            Action::DropSyns(member) => {
                pause::pause(self.socket(*member)?).map_err(io::Error::other)
            }
            Action::Seal(member) => pause::seal(self.socket(*member)?).map_err(io::Error::other),
            Action::AdmitSyns(member) => pause::resume(self.socket(*member)?).map(drop),
            Action::Shut(member) => Ok(shutdown(self.socket(*member)?, Shutdown::Read)?),
            Action::EndDeferring(member) => {
                let socket = self.socket(*member)?;
                let seconds = get_int(socket, IPPROTO_TCP, TCP_DEFER_ACCEPT)?;
                if seconds > 0 {
                    set_int(socket, IPPROTO_TCP, TCP_DEFER_ACCEPT, 0)?;
                    self.deferring.entry(*member).or_insert(seconds);
                }
                Ok(())
            }
            Action::Defer(member) => {
                let seconds = self.deferring.remove(member).unwrap_or(0);
                if seconds > 0 {
                    set_int(
                        self.socket(*member)?,
                        IPPROTO_TCP,
                        TCP_DEFER_ACCEPT,
                        seconds,
                    )?;
                }
                Ok(())
            }
            // A wait that is over; the others have branches of their own.
            _ => Ok(()),
        }
    }

    fn settle(&mut self, now: Instant) -> Result<Event, Instant> {
        let until = match self.settled_at {
            None if steer::settle().is_ok() => now,
            None => now + SETTLE,
            Some(until) => until,
        };
        if now < until {
            self.settled_at = Some(until);
            return Err(until);
        }
        self.settled_at = None;
        Ok(self.look_around(Instant::now()))
    }

    fn look_around(&mut self, since: Instant) -> Event {
        self.excluded = Some(since);
        let mut strangers = false;
        let mut cookies = true;
        if let Some(looker) = &mut self.looker {
            strangers = (0..LOOKS_AT_STRANGERS).all(|look| {
                let since = if look == 0 { since } else { Instant::now() };
                Strangers::beside(&self.sockets, looker, since) != Strangers::No
            });
            cookies = looker.cookies_sent() != Some(0);
        }
        self.look = LOOK_FIRST;
        Event::Settled { strangers, cookies }
    }

    /// `None` where the machine goes on.
    fn half_open(&mut self, member: u32, until: Instant, now: Instant) -> Option<Step> {
        if self.aside || self.waiting(member) > 0 {
            self.aside = true;
            return Some(Step::Accept(member));
        }
        let pending = self.pending(member, now);
        self.took(Event::Pending(pending), now);
        if self.machine.next() != (Action::WaitHalfOpen { member, until }) {
            return None;
        }
        let look = now + self.look;
        self.look = (self.look * 2).min(LOOK_LAST);
        Some(Step::Wait(look.min(until)))
    }

    fn pending(&mut self, member: u32, now: Instant) -> Option<u32> {
        let socket = self.sockets.get(&member)?;
        let looker = self.looker.as_mut()?;
        let lately = now.checked_sub(READ_AGAIN).unwrap_or(now);
        let since = lately.max(self.excluded?);
        looker.pending_since(socket, since).ok().flatten()
    }

    /// What waits in its queue; not known of Unix sockets, which are emptied after their shutdown.
    fn waiting(&self, member: u32) -> u32 {
        let queue = self.socket(member).map(|socket| match kind(socket) {
            Ok(Kind::Tcp | Kind::Mptcp) => accept_queue(socket).ok().flatten(),
            _ => None,
        });
        queue.ok().flatten().map_or(0, |queue| queue.waiting)
    }

    fn close(&mut self, member: u32, now: Instant) -> Event {
        if self.waiting(member) > 0 {
            return Event::Refilled;
        }
        let cut = match self.machine.way() {
            Way::Shutdown => Some(0),
            Way::Nothing => None,
            _ if self.machine.moves_half_open() => Some(0),
            _ => self.pending(member, now),
        };
        if let Some(socket) = self.sockets.remove(&member) {
            // Else a descriptor that somebody else keeps would be a queue that nobody serves, and the group
            // would keep its member. It fails where the socket has stopped already.
            let _ = shutdown(socket, Shutdown::Read);
        }
        Event::Closed { cut }
    }
}

/// Takes off what a retirement or a pause left on a listener whose process is gone: the group's program, and our
/// filter. For who takes sockets over; a program of one's own can be attached instead.
pub fn release(listener: impl AsFd) -> io::Result<()> {
    let listener = listener.as_fd();
    if kind(listener)? != Kind::Tcp {
        return Ok(());
    }
    match steer::detach(listener) {
        Ok(_) => {}
        // It is of no group.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
        Err(error) => return Err(error),
    }
    pause::resume(listener).map(drop)
}
