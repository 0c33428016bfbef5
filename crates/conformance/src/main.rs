//! `conformance`: the kernel model against the live kernel; `cargo xtask conformance` builds and runs it.
//!
//! Decides:  the options of a run.
//! Not here: the run (run.rs).

// It talks to the terminal.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum, value_parser};
use portcullis_conformance::mutants::{self, Evidence};
use portcullis_conformance::replay::{self, Tape};
use portcullis_conformance::report::Report;
use portcullis_conformance::run::{Part, Plan, run};
use portcullis_conformance::worker::running_kernel;
use portcullis_conformance::{belief, cases, exhaustive, guest, mutant, processes, speed};

/// The exit code where a run is not possible: no private networks, or another kernel.
const NOT_HERE: u8 = 4;
/// Of the exhaustive ones, on average.
const STEPS_OF_A_SCRIPT: u64 = 13;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Exhaustive,
    Random,
    /// Scripts in which time passes: each round takes more than a minute
    Time,
    /// Scripts whose last call has several answers, each run many times
    Draws,
    /// Scenarios with processes, namespaces and hosts of their own
    Processes,
    /// Exhaustive and random
    Both,
    /// Exhaustive and random, some of the draws and of the processes, and one round of those in which
    /// time passes
    All,
}

/// Compares the kernel model with the live kernel
#[derive(Debug, Parser)]
struct Options {
    /// Compare about this many steps: half of them exhaustive, while there are so many
    #[arg(long, default_value_t = 10_000_000, value_parser = value_parser!(u64).range(1..))]
    steps: u64,
    /// The seed of the random scripts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which scripts
    #[arg(long, value_enum, default_value_t = Which::Both)]
    part: Which,
    /// Begin at this script: where an earlier run ended
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Of the exhaustive scripts, only every so manieth; 0 spreads the steps over all of them
    #[arg(long, default_value_t = 0)]
    stride: u64,
    /// Run this share of the scripts, as 2/5; several machines make up a whole
    #[arg(long, value_name = "I/N", default_value = "1/1", value_parser = shard)]
    shard: (u64, u64),
    /// Processes, each in a network of its own; one for each processor if not given
    #[arg(long, value_parser = value_parser!(u64).range(1..))]
    workers: Option<u64>,
    /// Keep shrunk scripts that differ in this directory, as scenarios
    #[arg(long, value_name = "DIRECTORY")]
    found: Option<PathBuf>,
    /// Keep the kernel's answers in this file
    #[arg(long)]
    record: Option<PathBuf>,
    /// The conditions of a build that counts them, listed in this file: those that never came up are told
    #[arg(long, value_name = "LIST")]
    branches: Option<PathBuf>,
    /// Replay the --tapes against each deliberate error of this build, listed in this file
    #[arg(long, value_name = "LIST")]
    mutants: Option<PathBuf>,
    /// With --mutants: only conditions whose line `FILE FUNCTION WHAT TEXT` contains this
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Compare the model with these tapes instead, which --record made, and not with the kernel; with
    /// --mutants, with every deliberate error in it
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["record", "branches", "speed"])]
    tapes: Vec<PathBuf>,
    /// Run the scenarios of a directory instead, in the model of this kernel and on it; with --mutants,
    /// show them to the deliberate errors too; with --branches, besides the run
    #[arg(long, value_name = "DIRECTORY", num_args = 0..=1, default_missing_value = cases::DIRECTORY)]
    cases: Option<PathBuf>,
    /// Deliberate errors that change nothing, each with its reason
    #[arg(long, value_name = "FILE")]
    reasons: Option<PathBuf>,
    /// Do nothing where the running kernel is one that the model has not been compared with
    #[arg(long)]
    if_verified: bool,
    /// Measure the model beside the system calls instead, and print the table
    #[arg(long)]
    speed: bool,
    /// Print the scenario of --part processes with this --seed and --from instead
    #[arg(long)]
    print: bool,
    /// List the forms of exhaustive scripts and how many there are
    #[arg(long)]
    list: bool,
}

/// Workers for each processor, where they mostly wait.
const WAITING: u64 = 8;

fn shard(text: &str) -> Result<(u64, u64), String> {
    let numbers = text
        .split_once('/')
        .and_then(|(i, n)| Some((i.parse::<u64>().ok()?, n.parse::<u64>().ok()?)));
    match numbers {
        Some((i, n)) if (1..=n).contains(&i) => Ok((i - 1, n)),
        _ => Err("I/N, with I from 1 to N".to_owned()),
    }
}

fn main() -> ExitCode {
    if guest::is_init() {
        return guest::init();
    }
    let options = Options::parse();
    if options.list {
        for form in exhaustive::forms() {
            println!(
                "{:<10} {:>9} scripts: {}",
                form.name,
                (form.size)(),
                form.about
            );
        }
        return ExitCode::SUCCESS;
    }
    if options.print {
        print!("{}", processes::text(options.seed, options.from));
        return ExitCode::SUCCESS;
    }
    if options.if_verified {
        match running_kernel() {
            Ok(kernel) if kernel.verified() => {}
            Ok(kernel) => {
                println!("Linux {kernel} is not one that the model has been compared with");
                return ExitCode::from(NOT_HERE);
            }
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::from(2);
            }
        }
    }
    let alone = options
        .cases
        .as_ref()
        .filter(|_| options.branches.is_none());
    let done = match (&options.mutants, alone) {
        (None, None) if options.speed => speed::table().map(|table| {
            print!("{table}");
            true
        }),
        (Some(list), _) => mutants(&options, list),
        (None, Some(directory)) => scenarios(directory),
        (None, None) if !options.tapes.is_empty() => replay_all(&options),
        (None, None) => live(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(match error.kind() {
                std::io::ErrorKind::PermissionDenied => NOT_HERE,
                _ => 2,
            })
        }
    }
}

/// Every scenario of a directory on both sides; answers whether all hold.
fn scenarios(directory: &Path) -> std::io::Result<bool> {
    let report = cases::run(directory)?;
    print!("{}", report.text);
    println!("{}", report.line());
    if report.tally.failed == 0 && report.wrong == 0 && report.tally.unsettled > 0 {
        return Err(std::io::Error::other("the machine is too busy"));
    }
    Ok(report.tally.failed == 0 && report.wrong == 0)
}

/// The live kernel; answers whether the worlds agreed. A part that cannot be run does not hide that they
/// differed in another.
fn live(options: &Options) -> std::io::Result<bool> {
    let mut report = Report::default();
    match run_all(options, &mut report) {
        Err(error) if report.disagreements > 0 => eprintln!("error: {error}"),
        done => done?,
    }
    if report.steps < options.steps {
        let (steps, asked) = (report.steps, options.steps);
        println!("shorter than was asked for: {steps} of {asked} steps");
    }
    tell(options, &report)
}

/// The tapes; answers whether the model agrees with them.
fn replay_all(options: &Options) -> std::io::Result<bool> {
    let mut report = Report::default();
    for path in &options.tapes {
        let tape = replay::load(path)?;
        let account = replay::account(&tape).map_err(|error| replay::of_file(path, &error))?;
        report.add(account);
    }
    tell(options, &report)
}

/// Prints the report; answers whether the worlds agreed.
fn tell(options: &Options, report: &Report) -> std::io::Result<bool> {
    if report.steps == 0 {
        return Err(std::io::Error::other(
            "nothing was compared: no script has such a number",
        ));
    }
    print!("{}", report.text());
    if let Some(list) = &options.branches {
        print!("{}", report.branches_text(&std::fs::read_to_string(list)?));
    }
    let void = belief::is_void(report.disturbed, report.scripts);
    if void {
        println!(
            "the machine is too busy for a verdict: {} of {} scripts were disturbed, more than one in ten million",
            report.disturbed, report.scripts
        );
    }
    println!("{}", report.line());
    if void && report.disagreements == 0 {
        return Err(std::io::Error::other("the machine is too busy"));
    }
    Ok(report.disagreements == 0)
}

/// The stride that spreads the steps over all exhaustive scripts.
fn stride(options: &Options, steps: u64) -> u64 {
    if options.stride != 0 {
        return options.stride;
    }
    let large = (exhaustive::size() - exhaustive::small()) * STEPS_OF_A_SCRIPT;
    let all = steps.saturating_sub(exhaustive::small() * STEPS_OF_A_SCRIPT);
    exhaustive::spreading(large.div_ceil(all.max(steps / 2).max(1)))
}

/// Tries each deliberate error; answers whether every one that nothing noticed has its reason.
fn mutants(options: &Options, list: &Path) -> std::io::Result<bool> {
    let tapes = options.tapes.iter().map(|path| replay::load(path));
    let tapes = tapes.collect::<std::io::Result<Vec<Tape>>>()?;
    for tape in &tapes {
        let (steps, differs) = replay::replay(tape)?;
        match differs {
            None => println!(
                "the model as it is agrees with {steps} steps of {}",
                tape.header.part
            ),
            Some(at) => {
                let part = tape.header.part;
                let text = format!("the model as it is differs at script {at} of {part}");
                return Err(std::io::Error::other(text));
            }
        }
    }
    let read = |path: &Option<PathBuf>| path.as_ref().map(std::fs::read_to_string).transpose();
    let evidence = Evidence::gather(tapes, options.cases.as_deref(), options.seed)?;
    let list = std::fs::read_to_string(list)?;
    let mut places: Vec<mutant::Place> = list.lines().filter_map(mutant::Place::read).collect();
    places.retain(|place| {
        let named = |text: &String| place.key().contains(text.as_str());
        options.only.is_empty() || options.only.iter().any(named)
    });
    let numbers: Vec<u32> = places.iter().map(|place| place.number).collect();
    let side_by_side = options.workers.unwrap_or(cpus()) as usize;
    let mut reasons = mutants::Reasons::read(&read(&options.reasons)?.unwrap_or_default())?;
    if !options.only.is_empty() {
        reasons.keep(&places);
    }
    let verdicts = mutants::try_all(&evidence, &numbers, side_by_side)?;
    let summary = mutants::summary(&places, &verdicts, &reasons);
    print!("{}", summary.text);
    Ok(summary.unexplained == 0)
}

fn cpus() -> u64 {
    std::thread::available_parallelism().map_or(1, |n| n.get() as u64)
}

fn run_all(options: &Options, report: &mut Report) -> std::io::Result<()> {
    let workers = if options.record.is_some() {
        1
    } else {
        options.workers.unwrap_or(cpus())
    };
    if options.record.is_some() && options.part == Which::Processes {
        return Err(std::io::Error::other("scenarios are kept on no tape"));
    }
    let plan = |part, steps| Plan {
        part,
        steps,
        workers,
        shard: options.shard,
        tape: options.record.clone(),
        found: options.found.clone(),
    };
    let mut left = options.steps;
    let all = options.part == Which::All;
    let with_exhaustive = all || matches!(options.part, Which::Exhaustive | Which::Both);
    let with_random = all || matches!(options.part, Which::Random | Which::Both);
    let (seed, from) = (options.seed, options.from);
    if all || options.part == Which::Draws {
        let part = Part::Draws { seed, from };
        let steps = if all { left / 50 } else { left };
        one(&plan(part, steps), report)?;
        left = left.saturating_sub(report.steps);
    }
    if all || options.part == Which::Processes {
        let part = Part::Processes { seed, from };
        let steps = if all { left / 200 } else { left };
        let before = report.steps;
        let plan = Plan {
            // Most of their time they wait for interfaces to settle.
            workers: options.workers.unwrap_or(cpus() * WAITING),
            ..plan(part, steps)
        };
        one(&plan, report)?;
        left = left.saturating_sub(report.steps - before);
    }
    if all || options.part == Which::Time {
        let part = Part::Time { seed, from };
        // A tape of it is for deliberate errors, as one round beside the others is.
        let round = with_random || options.record.is_some();
        let steps = if round { 1 } else { left };
        let before = report.steps;
        one(&plan(part, steps), report)?;
        left = left.saturating_sub(report.steps - before);
    }
    if with_exhaustive {
        let steps = if with_random { left / 2 } else { left };
        let stride = stride(options, steps);
        let part = Part::Exhaustive {
            from: options.from,
            stride,
        };
        let before = report.steps;
        one(&plan(part, steps), report)?;
        left = left.saturating_sub(report.steps - before);
    }
    if with_random && left > 0 {
        let part = Part::Random { seed, from };
        one(&plan(part, left), report)?;
    }
    if let (Some(_), Some(directory)) = (&options.branches, &options.cases) {
        report.add(cases::branches(directory)?);
    }
    Ok(())
}

/// Runs one part and says where the next run of it can begin.
fn one(plan: &Plan, report: &mut Report) -> std::io::Result<()> {
    println!("{}", plan.part);
    let done = run(plan)?;
    match done.next {
        Some(next) => println!("  every script before {next} was run; go on with --from {next}"),
        None => println!("  complete"),
    }
    report.add(done);
    Ok(())
}
