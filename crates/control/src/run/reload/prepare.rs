//! Everything of a reload that can fail, before anything that cannot be taken back.
//!
//! Decides:  the order (read, compare, limits, open, adjust, logs), and that a failure of any of it
//!           leaves listeners, options and logs as they were.
//! Not here: putting the new plan in place (../reload.rs). This blocks, on files, names and the
//!           opener: it runs in a thread of its own while the old plan serves.

use std::collections::HashSet;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use portcullis_config::Sources;
use portcullis_listener::{Address, ListenerSpec, LocalAddress, adjust, pause};
use portcullis_proxy::log::Level;

use super::fate::{Fate, fates};
use super::fixed::fixed;
use super::read::{self, Read, Reading};
use super::shards;
use crate::logs::LogTargets;
use crate::run::groups::{Group, Groups, Place};
use crate::run::held::{self, Held, HeldSocket};
use crate::run::open::{self, Note, Opening, Telling, Wanted};
use crate::run::workers::{Hiring, NewWorkers};
use crate::run::{Explain, RunError};
use crate::{Plan, limits};

/// How long a reload waits for retirements of the one before it where it listens at the same port: one of them is over
/// in some 30 ms, or after the bounds of docs/retiring.md (10 s for handshakes, 3 s for cookies).
const RETIRED_WITHIN: Duration = Duration::from_secs(15);

/// What a reload begins with.
pub(super) struct Running {
    /// How the configuration is read.
    pub(super) read: Read,
    pub(super) opening: Arc<Mutex<Opening>>,
    pub(super) explain: Option<Explain>,
    /// The user that sockets are given to.
    pub(super) owner: Option<u32>,
    pub(super) logs: LogTargets,
    /// The plan that serves, and its listeners: gone when the process stops accepting meanwhile.
    pub(super) plan: Arc<Plan>,
    pub(super) held: Weak<Vec<Held>>,
    /// In which order sockets listen.
    pub(super) groups: Groups,
    /// How more workers are started.
    pub(super) hiring: Hiring,
}

/// What only has to be put in place.
pub(in crate::run) struct Prepared {
    pub(super) plan: Plan,
    pub(super) maxconn: u32,
    /// The listeners of the plan, all open.
    pub(super) held: Vec<Held>,
    /// Those of the old plan that go: listeners,
    pub(super) gone: Vec<Held>,
    /// and runtime sockets, which no worker has.
    pub(super) gone_admin: Vec<Held>,
    /// Sockets of listeners that stay, and are to have fewer.
    pub(super) excess: Vec<Held>,
    /// Workers that come.
    pub(super) hired: NewWorkers,
    pub(super) notes: Vec<Note>,
    pub(super) counts: Counts,
}

/// What became of listeners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::run) struct Counts {
    pub(super) kept: usize,
    pub(super) adjusted: usize,
    pub(super) opened: usize,
    pub(super) retired: usize,
}

/// Why there is nothing to put in place.
pub(in crate::run) struct Refusal {
    pub(super) report: String,
    /// Sockets that were opened beside those of an old listener: its place, and they. Clients may have come to
    /// them.
    pub(super) beside: Vec<(usize, Held)>,
}

impl From<String> for Refusal {
    fn from(report: String) -> Refusal {
        let beside = Vec::new();
        Refusal { report, beside }
    }
}

/// Prepares a reload, or takes back what was done of it.
pub(super) fn prepare(running: &Running) -> Result<Prepared, Refusal> {
    let mut opening = running
        .opening
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let reading = match &mut *opening {
        Opening::Here(_) => read::here(&running.read),
        Opening::There(parent) => read::by_opener(&running.read, parent)
            .map_err(|why| format!("error: the files cannot be read again: {why}\n"))?,
    };
    let Reading {
        sources,
        plan,
        report,
    } = reading;
    let Some(mut plan) = plan else {
        return Err(report.into());
    };
    if plan.listeners.is_empty() {
        return Err(error_text(&report, &RunError::NoListener).into());
    }
    let mut notes: Vec<Note> = report
        .lines()
        .map(|line| (Level::Warning, line.to_owned()))
        .collect();
    let fixed = fixed(&running.plan, &plan);
    if !fixed.refused.is_empty() {
        let lines = fixed.refused.iter().map(|why| format!("error: {why}\n"));
        return Err((report + &lines.collect::<String>()).into());
    }
    notes.extend(fixed.stays.into_iter().map(|text| (Level::Warning, text)));
    let (demand, wishes) = limits::of_plan(&plan);
    let settled = limits::apply(&demand, &wishes).map_err(|why| {
        let why = RunError::Limits(why.to_string());
        error_text(&report, &why)
    })?;
    let warning = settled.warning.iter();
    notes.extend(warning.map(|warning| (Level::Warning, warning.to_string())));
    plan.tuning.max_pipes = u32::try_from(settled.pipes).unwrap_or(u32::MAX);
    let Some(held) = running.held.upgrade() else {
        return Err("error: the process is stopping\n".to_owned().into());
    };
    let hired = running
        .hiring
        .hire(usize::from(plan.workers), &plan.pinned)
        .map_err(|why| error_text(&report, &RunError::host("start a worker thread")(why)))?;
    notes.extend(other_workers(&running.plan, &plan));
    let mut change = Change::of(running, &held, &plan, &sources);
    if let Err(why) = change.make(&mut opening) {
        return Err(Refusal {
            report: error_text(&report, &why),
            beside: change.beside,
        });
    }
    notes.append(&mut change.notes);
    let excess = std::mem::take(&mut change.excess);
    let (held, mut gone, counts) = change.outcome();
    let gone_admin = gone.split_off(counts.retired);
    Ok(Prepared {
        plan,
        maxconn: settled.maxconn,
        held,
        gone,
        gone_admin,
        excess,
        hired,
        notes,
        counts,
    })
}

fn other_workers(before: &Plan, now: &Plan) -> Option<Note> {
    let text = format!("{} workers, after {}", now.workers, before.workers);
    (now.workers != before.workers).then_some((Level::Notice, text))
}

fn error_text(report: &str, error: &RunError) -> String {
    format!("{report}error: {error}\n")
}

/// The listeners and logs on their way from one plan to another.
struct Change<'a> {
    running: &'a Running,
    /// The listeners that are open.
    old: &'a [Held],
    plan: &'a Plan,
    sources: &'a Sources,
    fates: Vec<Fate>,
    held: Vec<Held>,
    /// Sockets with new options, and those that they had.
    adjusted: Vec<(HeldSocket, &'a ListenerSpec, &'a ListenerSpec)>,
    logs_changed: bool,
    /// Sockets of listeners that stay, and are to have fewer.
    excess: Vec<Held>,
    /// What was opened beside an old listener, after all was taken back.
    beside: Vec<(usize, Held)>,
    notes: Vec<Note>,
}

impl<'a> Change<'a> {
    fn of(
        running: &'a Running,
        held: &'a [Held],
        plan: &'a Plan,
        sources: &'a Sources,
    ) -> Change<'a> {
        let old: Vec<&ListenerSpec> = held.iter().map(|held| &held.spec).collect();
        let new: Vec<&ListenerSpec> = plan.to_open().iter().map(|it| it.spec).collect();
        Change {
            running,
            old: held,
            plan,
            sources,
            fates: fates(&old, &new),
            held: new.into_iter().map(Held::nothing).collect(),
            adjusted: Vec::new(),
            logs_changed: false,
            excess: Vec::new(),
            beside: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Makes all of it, or takes back what was made.
    fn make(&mut self, opening: &mut Opening) -> Result<(), RunError> {
        let made = self.try_all(opening);
        if made.is_err() {
            self.take_back();
        }
        made
    }

    /// Waits for retirements that are under way where sockets are to be opened.
    fn wait_for_room(&mut self) {
        let all = self.plan.to_open();
        let wanted = all.iter().enumerate().filter_map(|(index, socket)| {
            let spec = socket.spec;
            let port = match self.fates[index].kept() {
                Some(old) => {
                    let old = &self.old[old];
                    let grows = shards::wanted(old, spec) > old.sockets.len();
                    let first = old.sockets.first().filter(|_| grows);
                    first.and_then(|socket| port_of(&socket.facts.local))
                }
                None => port_wanted(&spec.address),
            };
            Some((spec.network_namespace.clone(), port?))
        });
        let places: HashSet<Place> = wanted.collect();
        let began = Instant::now();
        let gone = self
            .running
            .groups
            .wait_for_retired(&places, began + RETIRED_WITHIN);
        if !gone {
            let waited = RETIRED_WITHIN.as_secs();
            let text = format!(
                "sockets that the reload before this one closes are not closed after {waited} s; who connects \
                 there may wait a second"
            );
            self.notes.push((Level::Warning, text));
        }
    }

    /// Clients of an old listener come to what is opened beside it, so that comes after what is refused more
    /// often, and one by one. A Unix path is taken from its old socket at once: these come last.
    fn try_all(&mut self, opening: &mut Opening) -> Result<(), RunError> {
        let specs: Vec<&ListenerSpec> = self.plan.to_open().iter().map(|it| it.spec).collect();
        let which = |beside: bool, path: bool| -> Vec<usize> {
            let indexes = 0..specs.len();
            let is_beside = |index: usize| matches!(self.fates[index], Fate::Replace(..));
            indexes
                .filter(|&index| self.fates[index].kept().is_none())
                .filter(|&index| has_path(specs[index]) == path)
                .filter(|&index| path || is_beside(index) == beside)
                .collect()
        };
        let (new, beside, paths) = (which(false, false), which(true, false), which(false, true));
        self.wait_for_room();
        self.open(opening, &new)?;
        self.keep()?;
        self.change_logs()?;
        for index in beside {
            self.open(opening, &[index])?;
        }
        self.open(opening, &paths)?;
        // What is refused here stays as it was: sockets that were opened and closed again would lose those that
        // came to them.
        self.grow(opening);
        Ok(())
    }

    fn open(&mut self, opening: &mut Opening, indexes: &[usize]) -> Result<(), RunError> {
        let all = self.plan.to_open();
        if indexes.is_empty() {
            return Ok(());
        }
        let ours: Vec<&ListenerSpec> = self.old.iter().map(|held| &held.spec).collect();
        let telling = self.telling();
        let wanted = Wanted {
            indexes,
            ours: &ours,
            later: false,
        };
        let mut orders = self.running.groups.hold();
        orders.begin(indexes.iter().map(|&index| all[index].spec));
        let (listeners, notes) = open::open(opening.opener(), telling, wanted)?;
        self.notes.extend(notes);
        held::put(&mut self.held, listeners, &mut orders);
        orders.opened();
        Ok(())
    }

    fn telling(&self) -> Telling<'a> {
        Telling {
            plan: self.plan,
            sources: self.sources,
            owner: self.running.owner,
            explain: self.running.explain.as_ref(),
        }
    }

    /// Takes over the sockets that stay, with the options that they are to have.
    fn keep(&mut self) -> Result<(), RunError> {
        let all = self.plan.to_open();
        for (index, to_open) in all.iter().enumerate() {
            let Some(old) = self.fates[index].kept() else {
                if let Fate::Replace(_, what) = self.fates[index] {
                    let text = format!(
                        "{}: another socket takes the place of the old one, which cannot have its `{what}`",
                        self.place_of(index)
                    );
                    self.notes.push((Level::Notice, text));
                }
                continue;
            };
            let old = &self.old[old];
            let new = to_open.spec;
            if let Fate::Adjust(_) = self.fates[index] {
                self.adjust(index, old, new)?;
            }
            let stay = shards::stay(old, new);
            let (sockets, rest) = old.sockets.split_at(stay);
            if !rest.is_empty() {
                self.excess.push(Held {
                    spec: old.spec.clone(),
                    sockets: rest.to_vec(),
                });
            }
            let held = &mut self.held[index];
            held.sockets = sockets.to_vec();
            held.spec.reuse_port |= old.spec.reuse_port;
            held.spec.reuse_addr = old.spec.reuse_addr;
        }
        Ok(())
    }

    fn adjust(
        &mut self,
        index: usize,
        old: &'a Held,
        new: &'a ListenerSpec,
    ) -> Result<(), RunError> {
        for socket in &old.sockets {
            match adjust(&*socket.fd, socket.facts.shard, &old.spec, new, index) {
                Ok(reports) => {
                    self.adjusted.push((socket.clone(), &old.spec, new));
                    for report in reports {
                        let note = open::tell(&report, Some(index), self.plan, self.sources);
                        // What one shard is refused is refused to all.
                        if !self.notes.contains(&note) {
                            self.notes.push(note);
                        }
                    }
                }
                Err(error) => {
                    let errors = vec![open::failure(&error, Some(index), self.telling())];
                    return Err(RunError::Open { errors });
                }
            }
        }
        Ok(())
    }

    fn place_of(&self, index: usize) -> String {
        let listener = self.plan.to_open()[index];
        let place = open::shown(listener.place, self.sources);
        format!("{} ({place})", listener.spec.address)
    }

    fn change_logs(&mut self) -> Result<(), RunError> {
        if self.plan.logs == self.running.plan.logs {
            return Ok(());
        }
        let replaced = self.running.logs.replace(self.plan.logs.clone());
        let warnings = replaced.map_err(RunError::host("open the logs"))?;
        self.logs_changed = true;
        let warnings = warnings.into_iter().map(|text| (Level::Warning, text));
        self.notes.extend(warnings);
        Ok(())
    }

    /// Opens the sockets that listeners which stay are to have besides.
    fn grow(&mut self, opening: &mut Opening) {
        let all = self.plan.to_open();
        // The place, how many sockets are wanted there, and one that is to listen.
        let mut fresh: Vec<(usize, usize, HeldSocket)> = Vec::new();
        for (index, socket) in all.iter().enumerate() {
            let Some(old) = self.fates[index].kept() else {
                continue;
            };
            let wanted = shards::wanted(&self.old[old], socket.spec);
            for shard in self.held[index].sockets.len()..wanted {
                let held = &self.held[index];
                match shards::one_more(held, shard, socket.spec, opening.opener()) {
                    Ok((sockets, reports)) => {
                        let tell = |it| open::tell(it, Some(index), self.plan, self.sources);
                        self.notes.extend(reports.iter().map(tell));
                        fresh.extend(sockets.into_iter().map(|socket| (index, wanted, socket)));
                    }
                    Err(why) => {
                        self.notes.push(self.fewer(index, shard, wanted, &why));
                        break;
                    }
                }
            }
        }
        let mut orders = self.running.groups.hold();
        orders.begin(fresh.iter().map(|(index, ..)| all[*index].spec));
        for (index, wanted, mut socket) in fresh {
            let held = &mut self.held[index];
            let there = held.sockets.len();
            match socket.begin(&held.spec, &mut orders) {
                Ok(()) => held.sockets.push(socket),
                Err(why) => self.notes.push(self.fewer(index, there, wanted, &why)),
            }
        }
        orders.opened();
    }

    fn fewer(&self, index: usize, there: usize, wanted: usize, why: &dyn Display) -> Note {
        let place = self.place_of(index);
        let text =
            format!("{place}: {there} sockets and not {wanted}, since one more is refused: {why}");
        (Level::Warning, text)
    }

    /// What was opened is closed: at once where nobody is to come, by a retirement where clients of an old
    /// listener may have. What is refused here was had a moment ago.
    fn take_back(&mut self) {
        let mut orders = self.running.groups.hold();
        for (index, held) in self.held.iter_mut().enumerate() {
            if self.fates[index].kept().is_some() || held.sockets.is_empty() {
                continue;
            }
            if let (Fate::Replace(old, _), false) = (self.fates[index], has_path(&held.spec)) {
                let opened = std::mem::replace(held, Held::nothing(&held.spec));
                self.beside.push((old, opened));
                continue;
            }
            for socket in held.sockets.drain(..) {
                close(&socket);
                orders.left(&Group::of(&held.spec, &socket), socket.member);
            }
        }
        drop(orders);
        for (socket, old, new) in self.adjusted.drain(..) {
            let _ = adjust(&*socket.fd, socket.facts.shard, new, old, 0);
        }
        if self.logs_changed {
            let _ = self.running.logs.replace(self.running.plan.logs.clone());
        }
    }

    /// What is held from now on, and what goes: listeners first.
    fn outcome(self) -> (Vec<Held>, Vec<Held>, Counts) {
        let kept: std::collections::BTreeSet<usize> =
            self.fates.iter().filter_map(|fate| fate.kept()).collect();
        let old = self.old.iter().enumerate();
        let gone: Vec<Held> = old
            .filter(|(index, _)| !kept.contains(index))
            .map(|(_, held)| held.clone())
            .collect();
        let listeners = 0..self.running.plan.listeners.len();
        let gone_listeners = listeners.filter(|index| !kept.contains(index)).count();
        let count = |which: fn(&Fate) -> bool| self.fates.iter().filter(|fate| which(fate)).count();
        let counts = Counts {
            kept: count(|fate| matches!(fate, Fate::Keep(_))),
            adjusted: count(|fate| matches!(fate, Fate::Adjust(_))),
            opened: count(|fate| fate.kept().is_none()),
            retired: gone_listeners,
        };
        (self.held, gone, counts)
    }
}

/// Who keeps a copy of it has nothing then.
fn close(socket: &HeldSocket) {
    if socket.is_ours() {
        // It does not matter where that is refused: it is closed all the same.
        let _ = pause::seal(&*socket.fd);
        let _ = rustix::net::shutdown(&*socket.fd, rustix::net::Shutdown::Both);
    }
}

fn port_of(local: &LocalAddress) -> Option<u16> {
    match local {
        LocalAddress::Inet(local) => Some(local.port()),
        _ => None,
    }
}

/// The port that is asked for; one that the kernel chooses is nobody's.
fn port_wanted(address: &Address) -> Option<u16> {
    match address {
        Address::Tcp(address) | Address::Mptcp(address) => Some(address.port()),
        _ => None,
    }
}

fn has_path(spec: &ListenerSpec) -> bool {
    matches!(spec.address, Address::UnixPath(_))
}
