//! A conformance run: workers side by side, what they found, and the last line for machines.
//!
//! Decides:  which worker runs which scripts; what a run reports; when it has failed.
//! Not here: a single worker (worker.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis_kernel_model::Rule;
use portcullis_sys::process::{Fork, fork};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::step::Script;
use crate::tape::{Header, Writer};
use crate::worker::{Worker, own_user, running_kernel};
use crate::{exhaustive, print, random, shrink};

/// Scripts that a worker takes at a time.
const CHUNK: u64 = 256;
/// Differences that one worker shrinks; the rest is only counted.
const SHRUNK_MAX: usize = 12;
/// A worker with this many differences stops: the model is wrong in something common.
const DIFFERENCES_MAX: u64 = 2000;
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
    /// From a seed, from this number on.
    Random {
        /// The seed.
        seed: u64,
        /// The first.
        from: u64,
    },
}

impl Part {
    /// The script at a place of this part; `None` past its end.
    #[must_use]
    pub fn script(self, at: u64) -> Option<Script> {
        match self {
            Part::Exhaustive { from, stride } => {
                let number = from + at * stride;
                (number < exhaustive::size()).then(|| exhaustive::script(number))
            }
            Part::Random { seed, from } => Some(random::script(seed, from + at)),
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
    /// Where the kernel's answers go; then there is one worker.
    pub tape: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Steps compared.
    pub steps: u64,
    /// Scripts run.
    pub scripts: u64,
    /// Steps not run for lack of a second user.
    pub skipped: u64,
    /// Differences that happened twice.
    pub disagreements: u64,
    /// Differences that did not happen again.
    pub unrepeated: u64,
    /// Scripts that left something behind.
    pub left_over: u64,
    /// Networks used.
    pub networks: u64,
    /// How often each rule was applied.
    pub hits: BTreeMap<String, u64>,
    /// The shrunk scripts, as text.
    pub shown: BTreeSet<String>,
    /// Where the exhaustive part stopped, if before its end.
    pub reached: u64,
    /// The time it took.
    pub took: Duration,
}

impl Report {
    /// How many rules were applied at least once.
    #[must_use]
    pub fn rules_hit(&self) -> usize {
        self.hits.values().filter(|&&hits| hits > 0).count()
    }

    /// Takes another part's counts in.
    pub fn add(&mut self, other: Report) {
        self.steps += other.steps;
        self.scripts += other.scripts;
        self.skipped += other.skipped;
        self.disagreements += other.disagreements;
        self.unrepeated += other.unrepeated;
        self.left_over += other.left_over;
        self.networks += other.networks;
        for (rule, hits) in other.hits {
            *self.hits.entry(rule).or_default() += hits;
        }
        self.shown.extend(other.shown);
        self.reached = self.reached.max(other.reached);
        self.took += other.took;
    }

    /// The last line, for machines.
    #[must_use]
    pub fn line(&self) -> String {
        let rate = self.steps as f64 / self.took.as_secs_f64().max(1e-9);
        format!(
            "steps={} steps_per_s={rate:.0} rules={}/{} skipped={} disagreements={}",
            self.steps,
            self.rules_hit(),
            Rule::ALL.len(),
            self.skipped,
            self.disagreements
        )
    }

    /// Everything for a person, without the last line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for shown in &self.shown {
            let _ = writeln!(text, "{shown}");
        }
        let missed: Vec<&str> = Rule::ALL
            .iter()
            .map(|rule| rule.info().id)
            .filter(|id| self.hits.get(*id).is_none_or(|&hits| hits == 0))
            .collect();
        let _ = writeln!(text, "rules never applied: {}", missed.join(", "));
        let _ = writeln!(
            text,
            "scripts {}, seconds {:.1}, networks {}, scripts that left something {}, differences \
             that did not happen again {}",
            self.scripts,
            self.took.as_secs_f64(),
            self.networks,
            self.left_over,
            self.unrepeated
        );
        text
    }
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
                        2
                    }
                };
                std::process::exit(code);
            }
        }
    }
    let mut report = Report::default();
    let mut failed = false;
    for (pid, reader) in workers {
        for line in reader.lines() {
            take_line(&mut report, &line?);
        }
        let status = waitpid(Some(pid), WaitOptions::empty())?;
        failed |= status.is_none_or(|(_, status)| status.exit_status() != Some(0));
    }
    report.took = begun.elapsed();
    if failed {
        return Err(io::Error::other("a worker failed"));
    }
    Ok(report)
}

fn take_line(report: &mut Report, line: &str) {
    let (key, value) = line.split_once(' ').unwrap_or((line, ""));
    let number = value.parse().unwrap_or(0);
    match key {
        "steps" => report.steps += number,
        "scripts" => report.scripts += number,
        "skipped" => report.skipped += number,
        "disagreements" => report.disagreements += number,
        "unrepeated" => report.unrepeated += number,
        "left_over" => report.left_over += number,
        "networks" => report.networks += number,
        "reached" => report.reached = report.reached.max(number),
        "rule" => {
            if let Some((rule, hits)) = value.split_once(' ') {
                *report.hits.entry(rule.to_owned()).or_default() += hits.parse().unwrap_or(0);
            }
        }
        "shown" => {
            report.shown.insert(value.replace("\\n", "\n"));
        }
        _ => {}
    }
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
        };
        worker.tape = Some(Writer::create(path, header)?);
    }
    let mut found = Found::default();
    let budget = plan.steps.div_ceil(plan.workers);
    let mut chunk = number;
    let mut progress = Instant::now();
    'all: while worker.comparison.steps < budget && found.disagreements < DIFFERENCES_MAX {
        for at in chunk * CHUNK..(chunk + 1) * CHUNK {
            let Some(mut script) = plan.part.script(at) else {
                break 'all;
            };
            if !worker.several_users() {
                found.skipped += random::without_other_users(&mut script);
            }
            found.reached = at + 1;
            if worker.run(&script)?.is_some() {
                found.difference(&mut worker, &script, at)?;
            }
        }
        chunk += plan.workers;
        if progress.elapsed() > PROGRESS_EVERY {
            progress = Instant::now();
            let (steps, differences) = (worker.comparison.steps, found.disagreements);
            eprintln!("worker {number}: {steps} steps, {differences} disagreements");
        }
    }
    if let Some(tape) = worker.tape.take() {
        tape.finish()?;
    }
    to.write_all(found.lines(&worker).as_bytes())
}

#[derive(Default)]
struct Found {
    disagreements: u64,
    skipped: u64,
    reached: u64,
    shown: Vec<String>,
    known: BTreeSet<String>,
}

impl Found {
    fn difference(&mut self, worker: &mut Worker, script: &Script, at: u64) -> io::Result<()> {
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
        if let Some(difference) = worker.try_script(&small)? {
            let text = format!(
                "{}# from script {at}\n",
                print::difference(&small, &difference)
            );
            // Ports and rules may differ where the steps do not.
            if self.known.insert(print::script(&small)) {
                eprintln!("{text}");
                self.shown.push(text);
            }
        }
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
            ("left_over", counts.left_over),
            ("networks", counts.networks),
            ("reached", self.reached),
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
        for shown in &self.shown {
            let _ = writeln!(text, "shown {}", shown.replace('\n', "\\n"));
        }
        text
    }
}
