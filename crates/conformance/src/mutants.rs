//! The checker is checked: does anything notice each deliberate error of this build?
//!
//! Decides:  what counts as noticing: a tape of the live kernel, a scenario's expectation, a panic, no
//!           end, memory without end; how those that nothing noticed are told apart.
//! Not here: how errors come into a build (xtask/src/conformance/mutants.rs), their list (mutant.rs).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::path::Path;

use portcullis_kernel_model::{Explanation, Kernel};
use portcullis_sys::process::{Fork, fork};
use rustix::process::{Resource, Rlimit, WaitOptions, setrlimit, wait};

use crate::compare::Alone;
use crate::mutant::{self, Place};
use crate::replay::{Tape, replay};
use crate::script::{self, Mode, Run, Settings};
use crate::step::Script;
use crate::{cases, random, worker};

/// A replay that takes longer, or more memory, has lost its way.
const CPU_SECONDS_MAX: u64 = 60;
const MEMORY_MAX: u64 = 2 << 30;
/// Releases whose rules no live kernel here has: the model is compared with itself there.
const OTHERS: &[Kernel] = &[
    Kernel::new(3, 10),
    Kernel::new(4, 4),
    Kernel::new(4, 19),
    Kernel::new(5, 4),
    Kernel::new(5, 15),
    Kernel::new(6, 1),
    Kernel::new(6, 12),
];
/// Scripts of the model's comparison with itself, for each release.
const SCRIPTS_ALONE: u64 = 4000;

/// How often a line says how far it is.
const PROGRESS_EVERY: usize = 100;

/// What came of one error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The live kernel's answers differ.
    ByKernel,
    /// A scenario's expectation does not hold; the tapes agree.
    ByScenario,
    /// Nothing noticed, and the answers on this kernel do change: a choice that the model is told.
    Choice,
    /// Nothing noticed, and only the rules that are given as reasons change.
    Explanation,
    /// Nothing noticed, and only answers of other releases change.
    OtherKernels,
    /// Nothing noticed, and nothing changes.
    Survived,
}

impl Verdict {
    const ALL: [Verdict; 6] = [
        Verdict::ByKernel,
        Verdict::ByScenario,
        Verdict::Choice,
        Verdict::Explanation,
        Verdict::OtherKernels,
        Verdict::Survived,
    ];

    fn noticed(self) -> bool {
        matches!(self, Verdict::ByKernel | Verdict::ByScenario)
    }

    /// What a report calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Verdict::ByKernel => "noticed by the kernel's answers",
            Verdict::ByScenario => "noticed by a scenario",
            Verdict::Choice => "not noticed: changes the choice among several answers",
            Verdict::Explanation => "not noticed: changes an explanation",
            Verdict::OtherKernels => "not noticed: changes answers of other releases",
            Verdict::Survived => "not noticed: changes nothing",
        }
    }
}

/// What errors are shown to.
pub struct Evidence {
    tapes: Vec<Tape>,
    cases: Vec<script::Script>,
    alone: Vec<(Kernel, Vec<Digests>)>,
    seed: u64,
}

/// Of one script on the model alone: all answers, and the rules given for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digests {
    answers: u64,
    rules: u64,
}

impl Evidence {
    /// Reads the scenarios of a directory, and asks the model as it is about the other releases.
    pub fn gather(tapes: Vec<Tape>, cases: Option<&Path>, seed: u64) -> io::Result<Evidence> {
        let mut read = Vec::new();
        if let Some(directory) = cases {
            for path in cases::files(directory)? {
                read.push(case(&path)?);
            }
        }
        if let Some(at) = first_failure(&read) {
            let text = format!("scenario {at} does not hold in the model as it is");
            return Err(io::Error::other(text));
        }
        let running = worker::running_kernel()?;
        let releases = std::iter::once(&running).chain(OTHERS);
        let alone = releases.map(|&release| (release, digests(release, seed)));
        Ok(Evidence {
            tapes,
            cases: read,
            alone: alone.collect(),
            seed,
        })
    }

    fn verdict(&self) -> Verdict {
        for tape in &self.tapes {
            // A wrong model can lead the reader astray, which is an error then.
            if replay(tape).map_or(true, |(_, differs)| differs.is_some()) {
                return Verdict::ByKernel;
            }
        }
        if first_failure(&self.cases).is_some() {
            return Verdict::ByScenario;
        }
        for (at, (release, before)) in self.alone.iter().enumerate() {
            let now = digests(*release, self.seed);
            let answers = now.iter().zip(before).any(|(a, b)| a.answers != b.answers);
            let rules = now.iter().zip(before).any(|(a, b)| a.rules != b.rules);
            match (at, answers, rules) {
                (0, true, _) => return Verdict::Choice,
                (0, false, true) => return Verdict::Explanation,
                (_, true, _) | (_, _, true) => return Verdict::OtherKernels,
                (_, false, false) => {}
            }
        }
        Verdict::Survived
    }
}

fn case(path: &Path) -> io::Result<script::Script> {
    let text = std::fs::read_to_string(path)?;
    script::parse(&text, Settings::default()).map_err(|problems| {
        let name = path.display().to_string();
        let first = problems.first().map(|problem| problem.render(&name, &text));
        io::Error::other(first.unwrap_or(name))
    })
}

/// The place of the first scenario with a line that does not come out as it says.
fn first_failure(cases: &[script::Script]) -> Option<usize> {
    cases.iter().position(|case| {
        let Ok(mut run) = Run::prepare(case, Mode::Model) else {
            return true;
        };
        case.steps
            .iter()
            .any(|step| !run.step(step).complaints.is_empty())
    })
}

fn digests(release: Kernel, seed: u64) -> Vec<Digests> {
    let mut alone = Alone::new(release, worker::ports_of_window(0));
    (0..SCRIPTS_ALONE)
        .map(|number| digest(&mut alone, &random::script(seed, number), number))
        .collect()
}

/// A script on the model alone, which draws from the script's number.
fn digest(alone: &mut Alone, script: &Script, seed: u64) -> Digests {
    let mut answers = std::hash::DefaultHasher::new();
    let mut rules = std::hash::DefaultHasher::new();
    let mut explanation = Explanation::default();
    alone.run(script, seed, &mut explanation, &mut |seen, explanation| {
        seen.hash(&mut answers);
        explanation.steps.hash(&mut rules);
        explanation.steps.clear();
    });
    Digests {
        answers: answers.finish(),
        rules: rules.finish(),
    }
}

/// Tries errors of this build, by their numbers, each in a child of its own, some side by side.
pub fn try_all(
    evidence: &Evidence,
    numbers: &[u32],
    side_by_side: usize,
) -> io::Result<BTreeMap<u32, Verdict>> {
    let mut verdicts = BTreeMap::new();
    let mut running: BTreeMap<i32, u32> = BTreeMap::new();
    let mut waiting = numbers.iter().copied();
    loop {
        while running.len() < side_by_side
            && let Some(number) = waiting.next()
        {
            let Fork::Parent(pid) = fork()? else {
                std::process::exit(try_one(number, evidence));
            };
            running.insert(pid.as_raw_nonzero().get(), number);
        }
        if running.is_empty() {
            return Ok(verdicts);
        }
        let Some((pid, status)) = wait(WaitOptions::empty())? else {
            continue;
        };
        let Some(number) = running.remove(&pid.as_raw_nonzero().get()) else {
            continue;
        };
        let code = status.exit_status();
        let told = Verdict::ALL.iter().find(|&&v| code == Some(v as i32));
        // A panic and an end by a limit are differences from what the kernel did.
        let verdict = told.copied().unwrap_or(Verdict::ByKernel);
        if !verdict.noticed() {
            eprintln!("number {number} of the list: {}", verdict.name());
        }
        verdicts.insert(number, verdict);
        if verdicts.len().is_multiple_of(PROGRESS_EVERY) {
            eprintln!(
                "{} of {} deliberate errors tried",
                verdicts.len(),
                numbers.len()
            );
        }
    }
}

fn try_one(number: u32, evidence: &Evidence) -> i32 {
    // Without limits an error that loops would hold everything up, or take all memory from others.
    for (what, most) in [(Resource::Cpu, CPU_SECONDS_MAX), (Resource::As, MEMORY_MAX)] {
        let limits = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        if let Err(error) = setrlimit(what, limits) {
            eprintln!("error: no limit for a deliberate error: {error}");
            return i32::from(u8::MAX);
        }
    }
    // A panic is as good as a difference, and its message is of no use.
    std::panic::set_hook(Box::new(|_| ()));
    mutant::activate(number);
    evidence.verdict() as i32
}

/// Why errors that nothing notices change nothing: a kept file of `FILE FUNCTION WHAT TEXT` lines, with
/// tabs between, under headings `== REASON`.
#[derive(Debug, Default)]
pub struct Reasons {
    entries: Vec<(String, String)>,
}

impl Reasons {
    /// Reads the file. Lines that begin with `#` are comments.
    pub fn read(text: &str) -> io::Result<Reasons> {
        let mut reason = None;
        let mut entries = Vec::new();
        for (at, line) in text.lines().enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(heading) = line.strip_prefix("== ") {
                reason = Some(heading.to_owned());
                continue;
            }
            let Some(reason) = &reason else {
                let text = format!("line {} of the reasons stands under no heading", at + 1);
                return Err(io::Error::other(text));
            };
            entries.push((line.to_owned(), reason.clone()));
        }
        Ok(Reasons { entries })
    }

    /// Keeps those of these conditions alone: the others are not tried.
    pub fn keep(&mut self, places: &[Place]) {
        let tried = |entry: &(String, String)| places.iter().any(|place| place.key() == entry.0);
        self.entries.retain(tried);
    }

    fn of(&self, place: &Place) -> Option<&str> {
        let key = place.key();
        let entry = self.entries.iter().find(|entry| entry.0 == key);
        entry.map(|entry| entry.1.as_str())
    }
}

/// What is told of all errors.
pub struct Summary {
    /// For people; the last line is for machines.
    pub text: String,
    /// Errors that nothing noticed, without a reason.
    pub unexplained: usize,
}

/// All verdicts together with the kept reasons; a reason that nothing needs is told too.
#[must_use]
pub fn summary(places: &[Place], verdicts: &BTreeMap<u32, Verdict>, reasons: &Reasons) -> Summary {
    let mut text = String::new();
    let mut counts: BTreeMap<Verdict, usize> = BTreeMap::new();
    let mut files: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let (mut unexplained, mut explained) = (0, 0);
    let mut used: Vec<String> = Vec::new();
    for place in places {
        let verdict = verdicts
            .get(&place.number)
            .copied()
            .unwrap_or(Verdict::Survived);
        *counts.entry(verdict).or_default() += 1;
        let file = files.entry(&place.file).or_default();
        file.0 += 1;
        if verdict.noticed() {
            file.1 += 1;
            continue;
        }
        if reasons.of(place).is_some() {
            used.push(place.key());
            explained += 1;
        } else {
            unexplained += 1;
            let _ = writeln!(text, "{}: {place} ({})", verdict.name(), place.what);
        }
    }
    for (entry, _) in &reasons.entries {
        if !used.contains(entry) {
            let _ = writeln!(text, "a reason without need: {entry}");
        }
    }
    for (file, (all, noticed)) in &files {
        let _ = writeln!(text, "{file:<16} {noticed:>4} of {all:>4} noticed");
    }
    for verdict in Verdict::ALL {
        let count = counts.get(&verdict).copied().unwrap_or(0);
        let _ = writeln!(text, "{count:>5} {}", verdict.name());
    }
    let noticed = places.len() - explained - unexplained;
    let _ = writeln!(
        text,
        "mutants={} noticed={noticed} explained={explained} survived={unexplained}",
        places.len()
    );
    Summary { text, unexplained }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "1\tport.rs:7\tget_port\tcomparison turned round\tport == 0\n\
                        2\tport.rs:9\tget_port\tcomparison turned round\tport == 1\n\
                        3\tbind.rs:9\tbind\tEINVAL becomes another\tErrno::EINVAL\n";

    fn told(reasons: &str) -> Summary {
        let places: Vec<Place> = LIST.lines().filter_map(Place::read).collect();
        let verdicts = [
            (1, Verdict::ByKernel),
            (2, Verdict::Survived),
            (3, Verdict::ByScenario),
        ];
        let reasons = Reasons::read(reasons).unwrap();
        summary(&places, &verdicts.into(), &reasons)
    }

    #[test]
    fn an_error_that_nothing_notices_needs_a_reason() {
        let without = told("");
        assert_eq!(without.unexplained, 1);
        let last = without.text.lines().last();
        assert_eq!(last, Some("mutants=3 noticed=2 explained=0 survived=1"));
        let with = told(
            "# kept\n== equal\nport.rs\tget_port\tcomparison turned round\tport == 1\n\
             port.rs\tget_port\tcomparison turned round\tport == 0\n",
        );
        assert_eq!(with.unexplained, 0);
        let stale = "a reason without need: port.rs\tget_port\tcomparison turned round\tport == 0";
        assert!(with.text.contains(stale), "{}", with.text);
        assert!(Reasons::read("no heading\n").is_err());
    }

    #[test]
    fn the_model_alone_answers_the_same_twice_and_other_releases_otherwise() {
        let first = digests(Kernel::V6_18, 1);
        assert!(first == digests(Kernel::V6_18, 1));
        let old = digests(Kernel::new(3, 10), 1);
        let same = first.iter().zip(&old).filter(|(a, b)| a == b).count();
        assert!(same > 0 && same < first.len(), "{same} of {}", first.len());
    }
}
