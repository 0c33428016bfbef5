//! Running a script: in the model, on the live kernel, or in both side by side.
//!
//! Decides:  when a line fails: its expectation does not hold, it fails without an expectation, or the
//!           two worlds differ in answer, name, state or the listener that a connection reached.
//! Not here: the worlds (model.rs, kernel.rs), choices that show later (guess.rs), how a result looks (show.rs).

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::time::Duration;

use portcullis_kernel_model::{Answer, Call, FilesId, Kernel as Release, Rule, SocketId, WayOut};
use portcullis_sys::process::{self, Fork};

use crate::belief::TICK_MAX;

use super::guess::{Past, Possible, Turn};
use super::hands::BLOCKS;
use super::kernel::{Kernel, LOOK, Obstacle};
use super::model::Model;
use super::program::{Action, Expect, Reaches, Script, Slot, Step, Verb};
use super::world::{LOOKS, Observation, Outcome, perform};

/// Where a script runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// In the model.
    Model,
    /// On the live kernel.
    Live,
    /// In both, compared.
    Both,
}

/// A rule that the model went by, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The rule.
    pub rule: Rule,
    /// The socket that it was about: a slot, where the script has a label for it.
    pub about: Option<Option<Slot>>,
}

/// What came of one line.
#[derive(Debug, Clone)]
pub struct Row {
    /// The model's side.
    pub model: Option<Observation>,
    /// The kernel's side.
    pub kernel: Option<Observation>,
    /// The release that the model is; none where it takes no part.
    pub release: Option<Release>,
    /// Why the model answered so.
    pub reasons: Vec<Reason>,
    /// What would have to differ for another answer, where that was asked for ([`Model::find_ways`]).
    pub ways: Vec<WayOut>,
    /// The sockets by slot, to name those in `ways`.
    pub known: Vec<Option<SocketId>>,
    /// What is wrong; empty where nothing is.
    pub complaints: Vec<Complaint>,
}

impl Row {
    /// What the live world waited on purpose.
    #[must_use]
    pub fn waited(&self, step: &Step) -> Duration {
        let Some(kernel) = &self.kernel else {
            return Duration::ZERO;
        };
        match &step.action {
            Action::Wait { ms } => Duration::from_millis(*ms),
            _ if kernel.outcome == Outcome::Blocks => BLOCKS + TICK_MAX,
            Action::Call {
                call: Verb::Connect(_),
                ..
            } if kernel.reached.is_none() && kernel.outcome == Outcome::Ok => LOOK * LOOKS,
            _ => Duration::ZERO,
        }
    }
}

/// What is wrong with the outcome of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// This world's answer is not the expected one.
    Answer(&'static str),
    /// The connection reached another listener, or none, in this world.
    Reach(&'static str),
    /// The model did not go by this rule.
    NotBy(Rule),
    /// The model did not blame this socket.
    NotBecause(Slot),
    /// Model and kernel differ.
    Differ,
    /// The kernel may have made so many choices that they are not followed.
    Unclear,
}

/// How many there were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Lines that did something.
    pub steps: usize,
    /// Lines with a complaint.
    pub failed: usize,
    /// Lines on which model and kernel differ; they are failed lines too.
    pub differ: usize,
    /// Scripts that could not run here.
    pub skipped: usize,
    /// Scripts whose runs differed, and none of them was quick enough to tell why (verdict.rs).
    pub unsettled: usize,
    /// The time that the steps took, without what they waited on purpose.
    pub took: Duration,
}

impl Tally {
    /// Counts a line that was run, and the time that it took with all that it waited for.
    pub fn count(&mut self, step: &Step, row: &Row, elapsed: Duration) {
        self.took += elapsed.saturating_sub(row.waited(step));
        self.steps += 1;
        self.failed += usize::from(!row.complaints.is_empty());
        self.differ += usize::from(row.complaints.contains(&Complaint::Differ));
    }

    /// Adds another's counts.
    pub fn add(&mut self, other: Tally) {
        self.steps += other.steps;
        self.failed += other.failed;
        self.differ += other.differ;
        self.skipped += other.skipped;
        self.unsettled += other.unsettled;
        self.took += other.took;
    }
}

/// A script on its way, for a prompt as well as for a file.
#[derive(Debug)]
pub struct Run {
    /// The model, where it takes part.
    pub model: Option<Model>,
    kernel: Option<Kernel>,
    /// The ports by name, as the model and as the kernel have them.
    pub ports: (Vec<u16>, Vec<u16>),
    listeners: (BTreeSet<Slot>, BTreeSet<Slot>),
    /// What the model went through beside the kernel; nothing where one of them is alone.
    past: Option<Past>,
}

impl Run {
    /// A run in the model alone; a prompt adds ports as it goes.
    #[must_use]
    pub fn in_model(model: Model) -> Run {
        Run {
            model: Some(model),
            kernel: None,
            ports: Default::default(),
            listeners: Default::default(),
            past: None,
        }
    }

    /// Prepares the worlds. With a live kernel this process moves into a network of its own: it must
    /// be a child made for this script ([`apart`]).
    pub fn prepare(script: &Script, mode: Mode) -> Result<Run, Obstacle> {
        let mut host = script.host.clone();
        let kernel = match mode {
            Mode::Model => None,
            Mode::Live | Mode::Both => {
                let running = fitting_kernel(script)?;
                host = script.host_of(script.beside.unwrap_or(running));
                check_patience(script)?;
                check_processors(script)?;
                // The live one keeps its own values where no line sets them.
                let wanted = script.host_of(running);
                Some(Kernel::enter(&wanted, &users(script))?)
            }
        };
        let model = (mode != Mode::Live).then(|| Model::new(host));
        let ports: Vec<u16> = script.ports.iter().map(|port| port.1).collect();
        let past = (mode == Mode::Both).then(|| Past::new(model.clone(), ports.clone()));
        Ok(Run {
            model,
            kernel,
            ports: (ports.clone(), ports),
            listeners: Default::default(),
            past: past.flatten(),
        })
    }

    /// The live world, for who looks at it beside the script.
    pub fn live(&mut self) -> Option<&mut Kernel> {
        self.kernel.as_mut()
    }

    /// Takes a step in each world: first in the live one, whose random draws the model follows.
    pub fn step(&mut self, step: &Step) -> Row {
        let mut row = Row {
            model: None,
            kernel: None,
            release: None,
            reasons: Vec::new(),
            ways: Vec::new(),
            known: Vec::new(),
            complaints: Vec::new(),
        };
        if let Some(kernel) = &mut self.kernel {
            row.kernel = Some(perform(
                kernel,
                &step.action,
                &mut self.ports.1,
                &mut self.listeners.1,
            ));
        }
        if let Some(kernel) = &row.kernel
            && self.model.is_some()
        {
            let (seen, clear) = self.model_beside(&step.action, kernel);
            row.model = seen;
            row.complaints
                .extend((!clear).then_some(Complaint::Unclear));
        } else if let Some(model) = &mut self.model {
            let (ports, listeners) = (&mut self.ports.0, &mut self.listeners.0);
            row.model = Some(perform(model, &step.action, ports, listeners));
        }
        if let Some(model) = &self.model {
            row.release = Some(model.sockets().host().kernel);
            row.reasons = reasons(model);
            if !model.ways().is_empty() {
                row.ways = model.ways().to_vec();
                row.known = model.known().to_vec();
            }
        }
        self.judge(step, &mut row);
        row
    }

    /// The model's step beside the kernel's: what it shows, and whether all that is possible was followed.
    fn model_beside(
        &mut self,
        action: &Action,
        kernel: &Observation,
    ) -> (Option<Observation>, bool) {
        let (Some(model), Some(past)) = (self.model.take(), &mut self.past) else {
            return (None, true);
        };
        let (ports, listeners) = (self.ports.0.clone(), std::mem::take(&mut self.listeners.0));
        let now = Possible {
            model,
            ports,
            listeners,
            made: Vec::new(),
        };
        let Turn { now, seen, clear } = past.step(now, action, kernel);
        self.model = Some(now.model);
        (self.ports.0, self.listeners.0) = (now.ports, now.listeners);
        (Some(seen), clear)
    }

    fn judge(&self, step: &Step, row: &mut Row) {
        let sides = [
            ("model", &row.model, &self.ports.0),
            ("kernel", &row.kernel, &self.ports.1),
        ];
        for (name, seen, ports) in sides {
            let Some(seen) = seen else { continue };
            if !expected(step, &seen.outcome, ports) {
                row.complaints.push(Complaint::Answer(name));
            }
            let reaches = step
                .expect
                .as_ref()
                .and_then(|expect| expect.reaches.as_ref());
            let reached = match (reaches, seen.reached) {
                (None, _) | (Some(Reaches::Nobody), None) => true,
                (Some(Reaches::OneOf(slots)), Some(slot)) => slots.contains(&slot),
                _ => false,
            };
            if !reached {
                row.complaints.push(Complaint::Reach(name));
            }
        }
        if let (Some(expect), Some(_)) = (&step.expect, &row.model) {
            complain_of_reasons(expect, row);
        }
        if let (Some(model), Some(kernel)) = (&row.model, &row.kernel)
            && model != kernel
            && !row.complaints.contains(&Complaint::Unclear)
        {
            row.complaints.push(Complaint::Differ);
        }
    }
}

fn complain_of_reasons(expect: &Expect, row: &mut Row) {
    for &rule in &expect.by {
        if !row.reasons.iter().any(|reason| reason.rule == rule) {
            row.complaints.push(Complaint::NotBy(rule));
        }
    }
    for &slot in &expect.because {
        if !row
            .reasons
            .iter()
            .any(|reason| reason.about == Some(Some(slot)))
        {
            row.complaints.push(Complaint::NotBecause(slot));
        }
    }
}

fn expected(step: &Step, outcome: &Outcome, ports: &[u16]) -> bool {
    match &step.expect {
        Some(expect) if expect.answers.is_empty() => true,
        Some(expect) => expect
            .answers
            .iter()
            .any(|pattern| pattern.fits(outcome, ports)),
        None => !matches!(outcome, Outcome::Err(_) | Outcome::Blocks),
    }
}

fn reasons(model: &Model) -> Vec<Reason> {
    let steps = model.explanation().steps.iter();
    let about = |other| model.slot_of(other);
    steps
        .map(|&(rule, other)| Reason {
            rule,
            about: other.map(about),
        })
        .collect()
}

/// A script that needs more processors than this process may have is for another host.
fn check_processors(script: &Script) -> Result<(), Obstacle> {
    let ours = rustix::thread::sched_getaffinity(None).map_err(io::Error::from)?;
    let cpus = script.steps.iter().filter_map(|step| match step.action {
        Action::Cpu(cpu) => Some(cpu),
        _ => None,
    });
    for cpu in cpus {
        if !ours.is_set(usize::from(cpu)) {
            let reason = format!("it needs processor {cpu}, which this process does not have");
            return Err(Obstacle::Skip(reason));
        }
    }
    Ok(())
}

/// A script that waits for long is for those who ask for it.
pub(crate) fn check_patience(script: &Script) -> Result<(), Obstacle> {
    let waits_ms = script.waits_ms();
    if waits_ms <= script.patience_ms {
        return Ok(());
    }
    let seconds = waits_ms.div_ceil(1000);
    let reason = format!("it waits {seconds} s, which --slow allows");
    Err(Obstacle::Skip(reason))
}

/// The users who make a call or a socket, or are given one.
fn users(script: &Script) -> BTreeSet<u32> {
    let mut ids: BTreeSet<u32> = BTreeSet::new();
    for process in &script.host.processes {
        if process.files != FilesId(0) {
            ids.insert(process.uid.0);
        }
    }
    ids.extend(
        script
            .host
            .user_namespaces
            .iter()
            .skip(1)
            .map(|ns| ns.owner.0),
    );
    for step in &script.steps {
        match step.action {
            Action::Socket { user, .. }
            | Action::Call { user, .. }
            | Action::Accept { user, .. } => {
                // A forked process is who its parent is, which is looked at below.
                if let Some(known) = script.host.processes.get(usize::from(user.0)) {
                    ids.insert(known.uid.0);
                }
            }
            // Which identity a process has is the host's: below.
            Action::PortOf { .. }
            | Action::Sysctl(..)
            | Action::Wait { .. }
            | Action::Cpu(_)
            | Action::Fork { .. }
            | Action::Exit { .. }
            | Action::Enter { .. } => {}
        }
        if let Action::Call {
            call: Verb::Plain(Call::Fchown(uid)),
            ..
        } = step.action
        {
            ids.insert(uid.0);
        }
    }
    ids
}

/// The running kernel, for a script that is not about others.
fn fitting_kernel(script: &Script) -> Result<Release, Obstacle> {
    let running = crate::worker::running_kernel()?;
    match &script.kernel {
        Some(wanted) if !wanted.contain(running) => Err(Obstacle::Skip(format!(
            "it is about Linux {wanted}, and this is {running}"
        ))),
        _ => Ok(running),
    }
}

/// Does the work in a child process, which may move into other namespaces; its text and tally come
/// back. This process must have one thread.
pub fn apart(work: impl FnOnce() -> (Tally, String)) -> io::Result<(Tally, String)> {
    let (mut reader, mut writer) = io::pipe()?;
    match process::fork()? {
        Fork::Child => {
            drop(reader);
            let (tally, text) = work();
            let numbers = format!(
                "{} {} {} {} {}\n",
                tally.steps,
                tally.failed,
                tally.differ,
                tally.skipped,
                tally.took.as_micros()
            );
            let told = writer
                .write_all(numbers.as_bytes())
                .and_then(|()| writer.write_all(text.as_bytes()));
            std::process::exit(if told.is_ok() { 0 } else { 1 })
        }
        Fork::Parent(child) => {
            drop(writer);
            let mut told = String::new();
            let read = reader.read_to_string(&mut told);
            let status =
                rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())?;
            read?;
            let ended_well = status.is_some_and(|(_, status)| status.exit_status() == Some(0));
            match told.split_once('\n') {
                Some((numbers, text)) if ended_well => Ok((tally(numbers)?, text.to_owned())),
                _ => Err(io::Error::other(
                    "the child that runs the script ended early",
                )),
            }
        }
    }
}

fn tally(numbers: &str) -> io::Result<Tally> {
    let numbers: Vec<usize> = numbers
        .split(' ')
        .filter_map(|word| word.parse().ok())
        .collect();
    match numbers[..] {
        [steps, failed, differ, skipped, took_us] => Ok(Tally {
            steps,
            failed,
            differ,
            skipped,
            unsettled: 0,
            took: Duration::from_micros(took_us as u64),
        }),
        _ => Err(io::Error::other(
            "the child that runs the script told nonsense",
        )),
    }
}

/// The options of a socket that differ from a new socket's, as a table shows them.
#[must_use]
pub fn traits(model: &mut Model, slot: Slot) -> Vec<String> {
    use portcullis_kernel_model::OptName;
    let shown = [
        (OptName::ReuseAddr, 0),
        (OptName::ReusePort, 0),
        (OptName::V6Only, 0),
        (OptName::Freebind, 0),
        (OptName::Transparent, 0),
        (OptName::BindToIfindex, 0),
        (OptName::Repair, 0),
    ];
    let mut out = Vec::new();
    let Some(socket) = model.socket_of(slot) else {
        return out;
    };
    let Some(&holder) = model.sockets().holders(socket).first() else {
        return out;
    };
    for (name, usual) in shown {
        let mut sockets = model.sockets().clone();
        match sockets.call_as(holder, socket, Call::Get(name)) {
            Answer::Value(1) => out.push(super::options::print_name(name).to_owned()),
            Answer::Value(value) if value != usual => {
                out.push(format!("{} {value}", super::options::print_name(name)));
            }
            _ => {}
        }
    }
    out
}
