//! The project's own chores: `cargo xtask COMMAND`.
//!
//! Decides:  which chores there are; each is a file.
//! Not here: anything that ships.

// A chore talks to the terminal.
#![allow(clippy::print_stdout)]

mod bench;
mod ci;
mod conformance;
mod docs;
mod fuzz;
mod long;
mod no_std;
mod simulate;
mod soak;
mod tidy;
mod workspace;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The project's own chores")]
enum Chore {
    /// What CI runs: format, lints, tidy, documents, licences, all tests
    Ci {
        /// Only the steps with these names (see the summary of a run)
        #[arg(long = "only", value_name = "STEP")]
        only: Vec<String>,
    },
    /// House rules that a machine can check: headers, sizes, markers, dead files, crate arrows
    Tidy {
        /// Lowers the entries of xtask/tidy-ratchet.toml to what the sources are now
        #[arg(long)]
        update: bool,
    },
    /// Writes the generated documents
    Docs {
        /// Fails where a document is not what would be written
        #[arg(long)]
        check: bool,
    },
    /// Compares the kernel model with the live kernel (its own options: `cargo xtask conformance -- --help`)
    Conformance {
        /// Break the model's conditions in turn; the run must notice each
        #[arg(long, conflicts_with = "kernel")]
        mutants: bool,
        /// With --mutants: the scenarios alone must notice, without the kernel's answers
        #[arg(long, requires = "mutants")]
        scenarios: bool,
        /// Tell which sides of the model's conditions the run never reached
        #[arg(long, conflicts_with_all = ["mutants", "kernel"])]
        branches: bool,
        /// On another kernel, in an emulated machine: debian, debian-VERSION or ubuntu-VERSION
        #[arg(long, value_name = "NAME")]
        kernel: Option<String>,
        /// Where Ubuntu's packages are fetched; Debian's come from this host's own mirrors
        #[arg(long, value_name = "URI", requires = "kernel")]
        mirror: Option<String>,
        /// How long the emulated machine may run
        #[arg(long, default_value_t = 10, requires = "kernel")]
        minutes: u64,
        /// Options of the run
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Runs Portcullis beside HAProxy and nginx (its own options: `cargo xtask bench -- --help`)
    Bench {
        /// Options of the run
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Loads Portcullis while it is reloaded, upgraded, moved and killed (its own options: `cargo xtask soak -- --help`)
    Soak {
        /// Options of the run
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<String>,
    },
    /// Runs sessions, queues and checks on a simulated network
    Simulate {
        /// Seconds
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// The first trial's seed
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Runs the tests that take a minute each, of retirements
    Long {
        /// Those whose name has this in it; all without it
        only: Option<String>,
    },
    /// Runs the fuzz targets (needs cargo-fuzz)
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// One target; all without it
        target: Option<String>,
    },
}

fn main() -> ExitCode {
    let done = match Chore::parse() {
        Chore::Ci { only } => ci::run(&only),
        Chore::Tidy { update } => tidy::run(update),
        Chore::Docs { check } => docs::run(check),
        Chore::Conformance {
            kernel: Some(kernel),
            mirror,
            minutes,
            options,
            ..
        } => conformance::in_guest(
            &kernel,
            mirror.as_deref(),
            Duration::from_secs(60 * minutes),
            &options,
        ),
        Chore::Conformance {
            mutants,
            scenarios,
            branches,
            options,
            ..
        } => {
            let evidence = if scenarios {
                conformance::Purpose::BreakForScenarios
            } else {
                conformance::Purpose::Break
            };
            let broken = mutants.then_some(evidence);
            let counted = branches.then_some(conformance::Purpose::Count);
            conformance::run(broken.or(counted), &options)
        }
        Chore::Bench { options } => bench::run(&options),
        Chore::Soak { options } => soak::run(&options),
        Chore::Simulate { seconds, seed } => simulate::run(seconds, seed),
        Chore::Long { only } => long::run(only.as_deref()),
        Chore::Fuzz { seconds, target } => fuzz::run(seconds, target.as_deref()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(workspace::exit_code(&error))
        }
    }
}
