//! A conformance run: workers side by side, and what they found.
//!
//! Decides:  which worker runs which scripts; when a difference is shrunk and kept; when a run has failed.
//! Not here: a single worker (worker.rs), the report (report.rs).

mod slowly;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis_kernel_model::{Rule, Trace as _};
use portcullis_sys::process::{Fork, fork};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::belief;
use crate::compare::Difference;
use crate::report::Report;
use crate::script::Settings;
use crate::step::{Script, Seen};
use crate::tape::{Header, Writer};
use crate::worker::{Worker, own_user, running_kernel};
use crate::{draws, exhaustive, mutant, print, processes, random, shrink, times};

/// Scripts that a worker takes at a time.
const CHUNK: u64 = 256;
/// Differences that one worker shrinks; the rest is only counted.
const SHRUNK_MAX: usize = 12;
/// A worker with this many differences stops: the model is wrong in something common.
const DIFFERENCES_MAX: u64 = 2000;
/// How a worker ends that may not have a network of its own.
const FORBIDDEN: i32 = 4;
const PROGRESS_EVERY: Duration = Duration::from_secs(30);

/// Which scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every small one, from this number on, every so manieth.
    Exhaustive {
        /// The first.
        from: u64,
        /// 1 for all.
        stride: u64,
    },
    /// Those in which time passes, from a seed, from this number on.
    Time {
        /// The seed.
        seed: u64,
        /// The first.
        from: u64,
    },
    /// Those whose last call has several answers, each run many times.
    Draws {
        /// The seed.
        seed: u64,
        /// The first.
        from: u64,
    },
    /// Scenarios with processes, namespaces and hosts of their own, from a seed, from this number on.
    Processes {
        /// The seed.
        seed: u64,
        /// The first.
        from: u64,
    },
    /// From a seed, from this number on.
    Random {
        /// The seed.
        seed: u64,
        /// The first.
        from: u64,
    },
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Exhaustive { from, stride } => {
                let all = exhaustive::size();
                write!(f, "exhaustive, from script {from} of {all}, every {stride}")
            }
            Part::Random { seed, from } => write!(f, "random, seed {seed}, from script {from}"),
            Part::Time { seed, from } => write!(f, "time, seed {seed}, from script {from}"),
            Part::Processes { seed, from } => {
                write!(f, "processes, seed {seed}, from scenario {from}")
            }
            Part::Draws { seed, from } => write!(f, "draws, seed {seed}, from script {from}"),
        }
    }
}

impl Part {
    /// What a kept script of this part is called.
    fn file_name(self, at: u64) -> String {
        match self {
            Part::Exhaustive { .. } => format!("exhaustive_{}", self.number(at)),
            Part::Random { seed, from } => format!("random_{seed}_{}", from + at),
            Part::Time { seed, from } => format!("time_{seed}_{}", from + at),
            Part::Processes { seed, from } => format!("processes_{seed}_{}", from + at),
            Part::Draws { seed, .. } => format!("draws_{seed}_{}", self.number(at)),
        }
    }

    /// The script's own number: what `--from` takes to begin with it.
    pub(crate) fn number(self, at: u64) -> u64 {
        match self {
            Part::Exhaustive { from, stride } => exhaustive::number(from, stride, at),
            Part::Draws { from, .. } => from + at / draws::REPEATS,
            Part::Random { from, .. } | Part::Time { from, .. } | Part::Processes { from, .. } => {
                from + at
            }
        }
    }

    /// The script at a place of this part; `None` past its end.
    #[must_use]
    pub fn script(self, at: u64) -> Option<Script> {
        match self {
            Part::Exhaustive { from, stride } => {
                let number = exhaustive::number(from, stride, at);
                (number < exhaustive::size()).then(|| exhaustive::script(number))
            }
            Part::Random { seed, from } => Some(random::script(seed, from + at)),
            Part::Time { seed, from } => Some(times::script(seed, from + at)),
            Part::Draws { seed, .. } => Some(draws::script(seed, self.number(at))),
            // They are texts (processes.rs).
            Part::Processes { .. } => None,
        }
    }
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which scripts.
    pub part: Part,
    /// No more steps than about this.
    pub steps: u64,
    /// Processes, each with its own network.
    pub workers: u64,
    /// Of the scripts, this part of so many: several machines share them.
    pub shard: (u64, u64),
    /// Where the kernel's answers go; then there is one worker.
    pub tape: Option<PathBuf>,
    /// The directory in which shrunk scripts are kept.
    pub found: Option<PathBuf>,
}

/// Runs a plan in forked workers and collects what they found. This process must have one thread.
pub fn run(plan: &Plan) -> io::Result<Report> {
    let begun = Instant::now();
    let mut workers: Vec<(Pid, BufReader<File>)> = Vec::new();
    for number in 0..plan.workers {
        let (reader, writer) = rustix::pipe::pipe()?;
        match fork()? {
            Fork::Parent(pid) => workers.push((pid, BufReader::new(File::from(reader)))),
            Fork::Child => {
                drop(workers);
                drop(reader);
                // A run that is ended takes its workers along.
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                let code = match work(plan, number, File::from(writer)) {
                    Ok(()) => 0,
                    Err(error) => {
                        eprintln!("error: worker {number}: {error}");
                        if error.kind() == io::ErrorKind::PermissionDenied {
                            FORBIDDEN
                        } else {
                            2
                        }
                    }
                };
                std::process::exit(code);
            }
        }
    }
    let mut report = Report::default();
    let (mut failed, mut forbidden) = (false, false);
    for (pid, reader) in workers {
        for line in reader.lines() {
            report.take_line(&line?);
        }
        let status = waitpid(Some(pid), WaitOptions::empty())?;
        let code = status.and_then(|(_, status)| status.exit_status());
        failed |= code != Some(0);
        forbidden |= code == Some(FORBIDDEN);
    }
    report.took = begun.elapsed();
    report
        .parts
        .push((plan.part.to_string(), report.steps, report.took));
    if forbidden && report.steps == 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "this host forbids private networks",
        ));
    }
    if failed {
        return Err(io::Error::other("a worker failed"));
    }
    Ok(report)
}

/// A worker's whole life.
fn work(plan: &Plan, number: u64, mut to: File) -> io::Result<()> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let cpu = number as usize % cpus;
    let (kernel, user) = (running_kernel()?, own_user());
    let mut worker = Worker::enter(cpu)?;
    if let Some(path) = &plan.tape {
        let header = Header {
            kernel: (kernel.major, kernel.minor),
            user,
            cpu: cpu as i32,
            several_users: worker.several_users(),
            part: plan.part,
        };
        worker.tape = Some(Writer::create(path, header)?);
    }
    let apart = match plan.part {
        Part::Time { .. } => Some(slowly::work(plan, number, &mut worker)?),
        Part::Draws { .. } => Some(work_often(plan, number, &mut worker)?),
        Part::Processes { seed, .. } => Some(work_apart(plan, seed, number, &mut worker)?),
        _ => None,
    };
    if let Some(found) = apart {
        if let Some(tape) = worker.tape.take() {
            tape.finish()?;
        }
        return to.write_all(found.lines(&worker).as_bytes());
    }
    let mut found = Found::default();
    let budget = plan.steps.div_ceil(plan.workers);
    let (shard, shards) = plan.shard;
    let mut chunk = shard * plan.workers + number;
    let mut progress = Progress::new(number, budget);
    let mut complete = false;
    'all: while worker.comparison.steps < budget && found.disagreements < DIFFERENCES_MAX {
        for at in chunk * CHUNK..(chunk + 1) * CHUNK {
            let Some(mut script) = plan.part.script(at) else {
                complete = true;
                break 'all;
            };
            if !worker.several_users() {
                found.skipped += random::without_other_users(&mut script);
            }
            if worker.run(&script)?.is_some() {
                found.difference(&mut worker, plan, &script, at)?;
            }
        }
        chunk += plan.workers * shards;
        progress.tell(&worker, &found);
    }
    if !complete {
        found.next = Some(plan.part.number(chunk * CHUNK));
    }
    if let Some(tape) = worker.tape.take() {
        tape.finish()?;
    }
    to.write_all(found.lines(&worker).as_bytes())
}

/// Scripts that are run many times each, on one host.
fn work_often(plan: &Plan, number: u64, worker: &mut Worker) -> io::Result<Found> {
    let mut found = Found::default();
    let budget = plan.steps.div_ceil(plan.workers);
    let (shard, shards) = plan.shard;
    let mut script_at = shard * plan.workers + number;
    let mut progress = Progress::new(number, budget);
    while worker.comparison.steps < budget && found.disagreements < DIFFERENCES_MAX {
        let at = script_at * draws::REPEATS;
        if let Some(script) = plan.part.script(at) {
            let kernel = worker.run_often(&script, draws::REPEATS)?;
            let model = worker.permitted(&script);
            let missing = if kernel.as_ref() == Some(&model) {
                None
            } else {
                // A tape has the same number of runs of every script.
                let tape = worker.tape.take();
                let more = worker.run_often(&script, draws::REPEATS_MORE);
                worker.tape = tape;
                let more = more?;
                if let Some(tape) = &mut worker.tape {
                    tape.unclear()?;
                }
                let both = kernel.zip(more).map(|(a, b)| &a | &b);
                (both.as_ref() != Some(&model)).then_some(both)
            };
            match missing {
                None => {}
                // The worlds differ in a single answer: as in every part.
                Some(None) => found.difference(worker, plan, &script, at)?,
                Some(Some(kernel)) => {
                    found.disagreements += 1;
                    let comment = format!(
                        "{}: script {}\nOf the last line, the kernel's answers in {} runs: {kernel:?}\n\
                         the model's: {model:?}\n",
                        plan.part,
                        plan.part.number(at),
                        draws::REPEATS + draws::REPEATS_MORE
                    );
                    let said = worker.comparison.kernel_said();
                    found.keep(plan, at, &script, said, &comment)?;
                }
            }
        }
        script_at += plan.workers * shards;
        progress.tell(worker, &found);
    }
    found.next = Some(plan.part.number(script_at * draws::REPEATS));
    Ok(found)
}

/// Scenarios, each in children with networks of their own.
fn work_apart(plan: &Plan, seed: u64, number: u64, worker: &mut Worker) -> io::Result<Found> {
    let settings = Settings {
        kernel: running_kernel()?,
        ..Settings::default()
    };
    let mut found = Found::default();
    let budget = plan.steps.div_ceil(plan.workers);
    let (shard, shards) = plan.shard;
    let mut at = shard * plan.workers + number;
    let mut progress = Progress::new(number, budget);
    while worker.comparison.steps < budget && found.disagreements < DIFFERENCES_MAX {
        let text = processes::text(seed, plan.part.number(at));
        let Some(told) = processes::run(&text, settings)? else {
            let message = format!("scenario {} is none", plan.part.number(at));
            return Err(io::Error::other(message));
        };
        let first = told.attempt();
        worker.counts.scripts += 1;
        worker.counts.networks += 1;
        worker.comparison.steps += told.tally.steps as u64;
        // Counted as one step: its steps could not begin.
        found.skipped += told.tally.skipped as u64;
        if told.tally.failed > 0 {
            return Err(io::Error::other(format!("{}\n{text}", told.text)));
        }
        for rule in Rule::ALL {
            let id = rule.info().id;
            for _ in told.rules.iter().filter(|told| *told == id) {
                worker.comparison.coverage.rule(*rule);
            }
        }
        for (branch, seen) in told.branches {
            *found.branches.entry(branch).or_default() |= seen;
        }
        if told.tally.differ > 0 {
            let again = || {
                Ok(processes::run(&text, settings)?
                    .unwrap_or_default()
                    .attempt())
            };
            let belief = belief::settle(&first, again, std::thread::sleep)?;
            worker.counts.take(&belief);
            if belief.difference().is_some() {
                found.scenario(plan, at, &text, settings)?;
            }
        }
        at += plan.workers * shards;
        progress.tell(worker, &found);
    }
    found.next = Some(plan.part.number(at));
    Ok(found)
}

/// Now and then a line on standard error.
struct Progress {
    worker: u64,
    budget: u64,
    begun: Instant,
    told: Instant,
}

impl Progress {
    fn new(worker: u64, budget: u64) -> Progress {
        let begun = Instant::now();
        Progress {
            worker,
            budget,
            begun,
            told: begun,
        }
    }

    fn tell(&mut self, worker: &Worker, found: &Found) {
        if self.told.elapsed() < PROGRESS_EVERY {
            return;
        }
        self.told = Instant::now();
        let (number, steps) = (self.worker, worker.comparison.steps);
        eprintln!(
            "worker {number}: {steps} steps ({:.1} %), {:.0} a second, {} disagreements, {} that did \
             not happen again",
            100.0 * steps as f64 / self.budget.max(1) as f64,
            steps as f64 / self.begun.elapsed().as_secs_f64(),
            found.disagreements,
            worker.counts.unrepeated
        );
    }
}

#[derive(Default)]
struct Found {
    disagreements: u64,
    skipped: u64,
    next: Option<u64>,
    shown: Vec<String>,
    known: BTreeSet<String>,
    /// What came up of conditions in children, whose counts are their own.
    branches: BTreeMap<u32, u8>,
}

impl Found {
    fn difference(
        &mut self,
        worker: &mut Worker,
        plan: &Plan,
        script: &Script,
        at: u64,
    ) -> io::Result<()> {
        self.disagreements += 1;
        if self.shown.len() >= SHRUNK_MAX {
            return Ok(());
        }
        let small = shrink::shrink(script, |candidate| {
            Ok(worker
                .try_script(candidate)?
                .map(|difference| difference.at))
        })?;
        let small = shrink::relabelled(&small);
        let again = worker.try_script(&small)?;
        // Ports and rules may differ where the steps do not.
        if !self.known.insert(print::scenario(&small, &[], "")) {
            return Ok(());
        }
        let said = worker.comparison.kernel_said();
        self.show(plan, at, &small, said, again.as_ref())
    }

    /// The same for a scenario.
    fn scenario(&mut self, plan: &Plan, at: u64, text: &str, settings: Settings) -> io::Result<()> {
        self.disagreements += 1;
        if self.shown.len() >= SHRUNK_MAX {
            return Ok(());
        }
        let small = processes::shrink(text, settings)?;
        let told = processes::run(&small, settings)?.unwrap_or_default();
        let (part, number) = (plan.part, plan.part.number(at));
        let mut kept = format!("# {part}: scenario {number}\n");
        for line in told.text.lines() {
            let _ = writeln!(kept, "# {line}");
        }
        kept += &small;
        self.tell(plan, at, kept)
    }

    /// Keeps a script that differs, and tells of it.
    fn show(
        &mut self,
        plan: &Plan,
        at: u64,
        script: &Script,
        said: &[Option<Seen>],
        difference: Option<&Difference>,
    ) -> io::Result<()> {
        if self.shown.len() >= SHRUNK_MAX {
            return Ok(());
        }
        let mut comment = format!("{}: script {}\n", plan.part, plan.part.number(at));
        match difference {
            Some(difference) => comment += &print::difference(difference),
            None => comment += "The shrunk script did not differ once more.\n",
        }
        self.keep(plan, at, script, said, &comment)
    }

    fn keep(
        &mut self,
        plan: &Plan,
        at: u64,
        script: &Script,
        said: &[Option<Seen>],
        comment: &str,
    ) -> io::Result<()> {
        self.tell(plan, at, print::scenario(script, said, comment))
    }

    fn tell(&mut self, plan: &Plan, at: u64, mut text: String) -> io::Result<()> {
        if let Some(directory) = &plan.found {
            let path = print::keep(directory, &plan.part.file_name(at), &text)?;
            text = format!("kept as {}\n{text}", path.display());
        }
        eprintln!("{text}");
        self.shown.push(text);
        Ok(())
    }

    fn lines(&self, worker: &Worker) -> String {
        let mut text = String::new();
        let counts = worker.counts;
        let numbers = [
            ("steps", worker.comparison.steps),
            ("scripts", counts.scripts),
            ("skipped", self.skipped),
            ("disagreements", self.disagreements),
            ("unrepeated", counts.unrepeated),
            ("delayed", counts.delayed),
            ("disturbed", counts.disturbed),
            ("left_over", counts.left_over),
            ("networks", counts.networks),
            ("unclear", worker.comparison.unclear),
        ];
        for (key, number) in numbers {
            let _ = writeln!(text, "{key} {number}");
        }
        for rule in Rule::ALL {
            let _ = writeln!(
                text,
                "rule {} {}",
                rule.info().id,
                worker.comparison.coverage.hits(*rule)
            );
        }
        if let Some(next) = self.next {
            let _ = writeln!(text, "next {next}");
        }
        for number in 1..=mutant::count() {
            let apart = self.branches.get(&number).copied().unwrap_or(0);
            let _ = writeln!(text, "branch {number} {}", mutant::seen(number) | apart);
        }
        for shown in &self.shown {
            let _ = writeln!(text, "shown {}", shown.replace('\n', "\\n"));
        }
        text
    }
}
