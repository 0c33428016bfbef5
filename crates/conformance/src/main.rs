//! `conformance`: the kernel model against the live kernel; `cargo xtask conformance` builds and runs it.
//!
//! Decides:  the options of a run.
//! Not here: the run (run.rs).

// It talks to the terminal.
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use portcullis_conformance::run::{Part, Plan, Report, run};
use portcullis_conformance::{cases, exhaustive, guest, replay};

/// Of the exhaustive ones, on average.
const STEPS_OF_A_SCRIPT: u64 = 13;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    Exhaustive,
    Random,
    Both,
}

/// Compares the kernel model with the live kernel
#[derive(Debug, Parser)]
struct Options {
    /// Compare about this many steps, half of them exhaustive
    #[arg(long, default_value_t = 10_000_000)]
    steps: u64,
    /// The seed of the random scripts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Which scripts
    #[arg(long, value_enum, default_value_t = Which::Both)]
    part: Which,
    /// Begin at this script
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Of the exhaustive scripts, only every so manieth; 0 spreads the steps over all of them
    #[arg(long, default_value_t = 0)]
    stride: u64,
    /// Processes, each in a network of its own; one for each processor if not given
    #[arg(long)]
    workers: Option<u64>,
    /// Keep the kernel's answers in this file
    #[arg(long)]
    record: Option<PathBuf>,
    /// Replay the tapes against each deliberate error of this build, listed in this file
    #[arg(long, requires = "tapes")]
    mutants: Option<PathBuf>,
    /// The tape of the exhaustive part and that of the random part, recorded with the same options
    #[arg(long, num_args = 2)]
    tapes: Vec<PathBuf>,
    /// Run the scenarios of a directory instead, in the model of this kernel and on it
    #[arg(long, value_name = "DIRECTORY", num_args = 0..=1, default_missing_value = cases::DIRECTORY)]
    cases: Option<PathBuf>,
    /// List the forms of exhaustive scripts and how many there are
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    if guest::is_init() {
        return guest::init();
    }
    let options = Options::parse();
    if options.list {
        for form in exhaustive::FORMS {
            println!(
                "{:<10} {:>9} scripts: {}",
                form.name,
                (form.size)(),
                form.about
            );
        }
        return ExitCode::SUCCESS;
    }
    if let Some(directory) = &options.cases {
        return scenarios(directory);
    }
    if let Some(list) = &options.mutants {
        return match mutants(&options, list) {
            Ok(0) => ExitCode::SUCCESS,
            Ok(_) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::from(2)
            }
        };
    }
    match run_all(&options) {
        Ok(report) => {
            print!("{}", report.text());
            println!("{}", report.line());
            if report.disagreements == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// Every scenario of a directory on both sides.
fn scenarios(directory: &Path) -> ExitCode {
    match cases::run(directory) {
        Ok(report) => {
            print!("{}", report.text);
            println!("{}", report.line());
            if report.tally.failed == 0 && report.wrong == 0 {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// The stride that spreads the steps over all exhaustive scripts.
fn stride(options: &Options, steps: u64) -> u64 {
    if options.stride != 0 {
        return options.stride;
    }
    // A script has about 13 steps.
    let fits = (exhaustive::size() * STEPS_OF_A_SCRIPT)
        .div_ceil(steps.max(1))
        .max(1);
    // Prime to the digits' radices, so that all their values come up.
    (fits..)
        .find(|n| [2, 3, 5, 7].iter().all(|prime| n % prime != 0))
        .unwrap_or(1)
}

fn parts(options: &Options, steps: u64) -> (Part, Part) {
    let stride = stride(options, steps);
    let exhaustive = Part::Exhaustive {
        from: options.from,
        stride,
    };
    (
        exhaustive,
        Part::Random {
            seed: options.seed,
            from: options.from,
        },
    )
}

/// How many deliberate errors nothing noticed.
fn mutants(options: &Options, list: &Path) -> std::io::Result<usize> {
    let (exhaustive, random) = parts(options, options.steps);
    let tapes = [
        replay::load(&options.tapes[0], exhaustive)?,
        replay::load(&options.tapes[1], random)?,
    ];
    for tape in &tapes {
        let (steps, differs) = replay::replay(tape)?;
        match differs {
            None => println!(
                "the model as it is agrees with {steps} steps of {:?}",
                tape.part
            ),
            Some(at) => {
                let text = format!(
                    "the model as it is differs at script {at} of {:?}",
                    tape.part
                );
                return Err(std::io::Error::other(text));
            }
        }
    }
    let survivors = replay::survivors(&tapes)?;
    let list = std::fs::read_to_string(list)?;
    for line in list.lines() {
        let number = line.split('\t').next().and_then(|text| text.parse().ok());
        if number.is_some_and(|number| survivors.contains(&number)) {
            println!("survived: {line}");
        }
    }
    let count = portcullis_conformance::mutant::count();
    println!(
        "mutants={count} noticed={} survived={}",
        count as usize - survivors.len(),
        survivors.len()
    );
    Ok(survivors.len())
}

fn run_all(options: &Options) -> std::io::Result<Report> {
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let workers = if options.record.is_some() {
        1
    } else {
        options.workers.unwrap_or(cpus)
    };
    let half = if options.part == Which::Both {
        options.steps / 2
    } else {
        options.steps
    };
    let mut report = Report::default();
    let plan = |part| Plan {
        part,
        steps: half,
        workers,
        tape: options.record.clone(),
    };
    if options.part != Which::Random {
        let stride = stride(options, half);
        println!(
            "exhaustive: from script {} of {}, every {stride}",
            options.from,
            exhaustive::size()
        );
        report.add(run(&plan(Part::Exhaustive {
            from: options.from,
            stride,
        }))?);
    }
    if options.part != Which::Exhaustive {
        println!(
            "random: seed {}, from script {}",
            options.seed, options.from
        );
        report.add(run(&plan(Part::Random {
            seed: options.seed,
            from: options.from,
        }))?);
    }
    Ok(report)
}
