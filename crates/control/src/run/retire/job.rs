//! One retirement: the library's driver, and the workers that accept for it.
//!
//! Decides:  a member is empty when every worker has said so; what the driver will not close is let go of where
//!           the whole address goes, and is served like before where siblings stay; a socket that another process
//!           serves beside us need not be empty, and never may be.
//! Not here: when it begins (../retire.rs).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_listener::pending::Looker;
use portcullis_listener::retire::{Closed, Driver, Outcome, Plan, Step, Way};
use portcullis_listener::steer::{Choice, Order};
use portcullis_proxy::worker::leave::Reply;
use portcullis_proxy::worker::thread::Remote;

use super::{Leaving, Summary};
use crate::run::groups::{Group, Groups};
use crate::run::held::HeldSocket;

/// A member that was emptied so often, and is full again, rests
const OFTEN: u32 = 64;
/// so long.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a socket that another process was given, and serves, is served here besides.
const SERVED_BESIDE: Duration = Duration::from_millis(100);

/// Told the number of a member that every worker has emptied.
pub(super) type Told = Arc<dyn Fn(u32) + Send + Sync>;

/// What a job came to for now.
pub(super) enum Turn {
    /// It waits, for a time or for workers.
    Wait,
    /// Packets on their way are to be waited for.
    Settle,
    /// It is over.
    Over(Summary),
}

pub(super) struct Job {
    batch: u64,
    group: Group,
    leaving: BTreeMap<u32, Arc<OwnedFd>>,
    /// Others of the group go on.
    somebody_stays: bool,
    /// Others of ours go on at the address, of another group.
    others_stay: bool,
    workers: Arc<[Remote]>,
    told: Told,
    state: State,
    /// How often workers were asked to empty the member that is to be closed next.
    asked: u32,
    summary: Summary,
}

enum State {
    /// By the library.
    Driven {
        driver: Box<Driver<Arc<OwnedFd>>>,
        /// Nothing is to be done before.
        until: Until,
    },
    /// Sockets that somebody else has too: each is emptied, and then let go of.
    Plain {
        emptied: Until,
        left: Vec<u32>,
        /// When they are let go of, empty or not: whoever was given them serves who is left.
        until: Option<Instant>,
    },
    /// It cannot be retired, for this reason.
    Refused(String),
}

#[derive(Clone, Copy)]
enum Until {
    Now,
    Time(Instant),
    /// Every worker has emptied this member.
    Emptied(u32),
}

/// Tells that a member is empty when the last worker's reply is gone.
struct Countdown {
    member: u32,
    told: Told,
}

impl Drop for Countdown {
    fn drop(&mut self) {
        (self.told)(self.member);
    }
}

impl Job {
    pub(super) fn new(
        batch: u64,
        leaving: Leaving,
        workers: Arc<[Remote]>,
        mut looker: Option<Looker>,
        told: Told,
        groups: &Groups,
        since: Instant,
    ) -> Job {
        let Leaving {
            group,
            leaving,
            staying,
        } = leaving;
        let somebody_stays = !staying.is_empty();
        let ours = leaving.iter().all(|socket| socket.is_ours());
        let all_given = leaving.iter().all(HeldSocket::is_given);
        let members: Vec<u32> = leaving.iter().map(|socket| socket.member).collect();
        let fds = |sockets: &[HeldSocket]| -> BTreeMap<u32, Arc<OwnedFd>> {
            let sockets = sockets.iter();
            sockets
                .map(|socket| (socket.member, Arc::clone(&socket.fd)))
                .collect()
        };
        let leaving = fds(&leaving);
        let (order, apart) = {
            let orders = groups.hold();
            (orders.order(&group).cloned(), orders.beside(&group))
        };
        let others_stay = !apart.is_empty();
        if let Some(looker) = &mut looker {
            looker.set_apart(apart);
        }
        let state = match ours {
            true => {
                let mut all = fds(&staying);
                all.extend(leaving.clone());
                drive(all, &members, order.as_ref(), looker, since)
            }
            false => State::Plain {
                emptied: Until::Now,
                left: members,
                until: all_given.then(|| Instant::now() + SERVED_BESIDE),
            },
        };
        Job {
            batch,
            group,
            leaving,
            somebody_stays,
            others_stay,
            workers,
            told,
            state,
            asked: 0,
            summary: Summary::default(),
        }
    }

    pub(super) fn batch(&self) -> u64 {
        self.batch
    }

    pub(super) fn group(&self) -> &Group {
        &self.group
    }

    /// When it is to be looked at again, if nobody tells it anything.
    pub(super) fn wakes_at(&self) -> Option<Instant> {
        match self.state {
            State::Driven {
                until: Until::Time(at),
                ..
            } => Some(at),
            State::Plain { until, .. } => until,
            _ => None,
        }
    }

    /// Every worker has emptied this member.
    pub(super) fn emptied(&mut self, member: u32, now: Instant) {
        match &mut self.state {
            State::Driven { driver, until } => {
                if matches!(until, Until::Emptied(asked) if *asked == member) {
                    self.asked += 1;
                    // Emptied, and full again, and so on: it is not for a thread to spin.
                    *until = match self.asked > OFTEN {
                        true => Until::Time(now + PAUSE),
                        false => Until::Now,
                    };
                    let answered = driver.emptied(member, now);
                    debug_assert!(answered.is_ok());
                }
            }
            State::Plain { emptied, left, .. } => {
                if matches!(emptied, Until::Emptied(asked) if *asked == member) {
                    *emptied = Until::Now;
                    left.retain(|one| *one != member);
                    self.let_go(member);
                    self.summary.closed += 1;
                }
            }
            State::Refused(_) => {}
        }
    }

    /// Packets on their way were waited for, or cannot be.
    pub(super) fn settled(&mut self, settled: bool, now: Instant) {
        if let State::Driven { driver, until } = &mut self.state {
            if settled {
                driver.settled(now);
            } else if let Step::Wait(at) = driver.step(now) {
                *until = Until::Time(at);
            }
        }
    }

    pub(super) fn go_on(&mut self, now: Instant, groups: &Groups) -> Turn {
        loop {
            let step = match &mut self.state {
                State::Refused(why) => {
                    let why = std::mem::take(why);
                    return Turn::Over(self.refused(&why));
                }
                State::Plain { left, until, .. } if until.is_some_and(|until| now >= until) => {
                    for member in std::mem::take(left) {
                        self.let_go(member);
                        self.summary.closed += 1;
                    }
                    return Turn::Over(std::mem::take(&mut self.summary));
                }
                State::Plain { emptied, left, .. } => match (&emptied, left.first().copied()) {
                    (Until::Emptied(_), _) => return Turn::Wait,
                    (_, None) => return Turn::Over(std::mem::take(&mut self.summary)),
                    (_, Some(member)) => {
                        *emptied = Until::Emptied(member);
                        self.ask(member);
                        return Turn::Wait;
                    }
                },
                State::Driven { driver, until } => match until {
                    Until::Emptied(_) => return Turn::Wait,
                    Until::Time(at) if *at > now => return Turn::Wait,
                    _ => {
                        // Nobody else listens or closes while it does.
                        let mut orders = groups.hold();
                        let Some(step) = driver.step_awake(now) else {
                            *until = Until::Now;
                            return Turn::Settle;
                        };
                        if let Step::Closed(closed) = &step {
                            orders.left(&self.group, closed.member);
                        }
                        *until = match &step {
                            Step::Accept(member) => Until::Emptied(*member),
                            Step::Wait(at) => Until::Time(*at),
                            _ => Until::Now,
                        };
                        step
                    }
                },
            };
            match step {
                Step::Accept(member) => {
                    self.ask(member);
                    return Turn::Wait;
                }
                Step::Wait(_) => {}
                Step::Closed(closed) => self.closed(closed),
                Step::Done(outcome) => return Turn::Over(self.done(&outcome)),
            }
        }
    }

    /// Asks every worker to empty a member.
    fn ask(&self, member: u32) {
        let countdown = Arc::new(Countdown {
            member,
            told: Arc::clone(&self.told),
        });
        let Some(socket) = self.leaving.get(&member) else {
            return;
        };
        for worker in self.workers.iter() {
            let countdown = Arc::clone(&countdown);
            worker.empty_queue(socket, Reply::new(move || drop(countdown)));
        }
    }

    fn closed(&mut self, closed: Closed) {
        self.asked = 0;
        self.let_go(closed.member);
        self.summary.closed += 1;
        match closed.cut {
            Some(cut) => self.summary.cut += cut,
            None => self.summary.unknown += 1,
        }
    }

    fn let_go(&mut self, member: u32) {
        if let Some(socket) = self.leaving.remove(&member) {
            for worker in self.workers.iter() {
                worker.let_go(&socket);
            }
        }
    }

    fn done(&mut self, outcome: &Outcome) -> Summary {
        if let State::Driven { driver, .. } = &self.state {
            let filtered = match driver.retirement().way() {
                Way::Filter { somebody_stays } => *somebody_stays || self.others_stay,
                _ => false,
            };
            self.summary.filtered += usize::from(filtered);
        }
        if !outcome.kept.is_empty() {
            self.keep("nothing keeps new connections from it");
        }
        std::mem::take(&mut self.summary)
    }

    fn refused(&mut self, why: &str) -> Summary {
        self.keep(why);
        std::mem::take(&mut self.summary)
    }

    /// What is left goes on to be served where its siblings do; else it is closed as it is.
    fn keep(&mut self, why: &str) {
        let left: Vec<u32> = self.leaving.keys().copied().collect();
        if self.somebody_stays {
            let (local, count) = (self.group.local(), left.len());
            let text = format!("{local}: {count} sockets stay open and are served: {why}");
            return self.summary.kept.push(text);
        }
        for member in left {
            self.let_go(member);
            self.summary.closed += 1;
            self.summary.unknown += 1;
        }
    }
}

fn drive(
    sockets: BTreeMap<u32, Arc<OwnedFd>>,
    members: &[u32],
    order: Option<&Order>,
    mut looker: Option<Looker>,
    since: Instant,
) -> State {
    let plan = Plan::find_since(
        &sockets,
        members,
        order,
        &Choice::Even,
        looker.as_mut(),
        since,
    );
    let driver = plan
        .map_err(|why| why.to_string())
        .and_then(|plan| Driver::new(plan, sockets, looker).map_err(|why| why.to_string()));
    match driver {
        Ok(driver) => State::Driven {
            driver: Box::new(driver),
            until: Until::Now,
        },
        Err(why) => State::Refused(why),
    }
}
