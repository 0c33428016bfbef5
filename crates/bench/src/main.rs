//! `portcullis-bench`: the run behind `cargo xtask bench`.
//!
//! Decides:  the options; exit code 1 for a run that is not valid, and with --check for a target
//!           that is missed.
//! Not here: building what it runs (xtask/src/bench.rs).

// A chore talks to the terminal.
#![allow(clippy::print_stdout)]

mod calls;
mod contender;
mod host;
mod measure;
mod pattern;
mod process;
mod report;
mod results;
mod rig;
mod statistics;
mod targets;
mod workload;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use contender::{Contender, Kind};
use measure::Bench;
use results::Results;
use rig::Rig;
use workload::{Effort, WORKLOADS, Workload};

/// Runs Portcullis beside HAProxy and nginx, in interleaved rounds.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --", version)]
struct Options {
    /// Only these workloads (all without it; see --list)
    #[arg(short, long = "workload", value_name = "NAME", value_delimiter = ',')]
    workloads: Vec<String>,
    /// Only these of portcullis, haproxy, haproxy-1m (1 MiB pipes), nginx
    #[arg(short, long = "contender", value_name = "NAME", value_delimiter = ',')]
    contenders: Vec<String>,
    /// One more Portcullis, of another build, under a name of its own
    #[arg(long, value_name = "NAME=PATH")]
    also: Vec<String>,
    /// Lists the workloads
    #[arg(long)]
    list: bool,
    /// About a minute for all: short windows
    #[arg(long)]
    quick: bool,
    /// Interleaved rounds (15; 5 with --quick); more are made in place of disturbed ones
    #[arg(long, value_name = "NUMBER")]
    rounds: Option<usize>,
    /// The length of each contender's window in a round (500; 200 with --quick)
    #[arg(long, value_name = "MS")]
    window: Option<u64>,
    /// Exit code 1 if a target is missed
    #[arg(long)]
    check: bool,
    /// Writes everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keeps the contenders' configurations and logs here
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Congestion control
    #[arg(long, value_name = "NAME", default_value = "reno")]
    congestion: String,
    /// Portcullis (default: beside this program)
    #[arg(long, value_name = "PATH")]
    portcullis: Option<PathBuf>,
    /// HAProxy
    #[arg(long, value_name = "PATH", default_value = "haproxy")]
    haproxy: PathBuf,
    /// nginx
    #[arg(long, value_name = "PATH", default_value = "nginx")]
    nginx: PathBuf,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if options.list {
        for workload in WORKLOADS {
            println!("{:<14} {}", workload.name, workload.about);
        }
        return ExitCode::SUCCESS;
    }
    match host::enter_private_network().and_then(|()| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// False: the run is not valid, or a target was missed that was to be checked.
fn run(options: &Options) -> io::Result<bool> {
    let workloads = chosen(&options.workloads)?;
    let contenders = contenders(options)?;
    host::prepare(&options.congestion)?;
    let mut machine = host::machine();
    let effort = effort(options);
    introduce(&machine, &contenders, effort);

    let temporary = tempfile::tempdir()?;
    let directory = match &options.keep {
        Some(directory) => {
            std::fs::create_dir_all(directory)?;
            directory.canonicalize()?
        }
        None => temporary.path().to_owned(),
    };
    let processors = process::processors(&[std::process::id()])?;
    let processors: Vec<usize> = processors.into_iter().collect();
    let Some((&first, &last)) = processors.first().zip(processors.last()) else {
        return Err(io::Error::other("no processor to run on"));
    };
    if first == last {
        println!("warning: one processor for contenders and load: they disturb each other");
    }
    contender::pin(&[last])?;
    let mut bench = Bench {
        rig: Rig::new(measure::BACKEND_PORT)?,
        contenders,
        effort,
        directory,
        worker_processor: first,
        second_processor: processors.get(1).copied().unwrap_or(first),
        processors: [Some(first), processors.get(1).copied(), Some(last)]
            .into_iter()
            .flatten()
            .collect(),
    };
    let mut results = Results::default();
    for workload in &workloads {
        bench.run(workload, &mut results)?;
        print!("{}", report::workload(workload, &results));
    }
    machine.load_after = host::load_average();
    let ran: Vec<&str> = workloads.iter().map(|workload| workload.name).collect();
    let verdicts = targets::judge(&results, &ran);
    print!("{}", report::targets(&verdicts));
    if let Some(file) = &options.json {
        let report = report::Report::new(&machine, &bench.contenders, effort, &results, &verdicts);
        let text = serde_json::to_string_pretty(&report).map_err(io::Error::other)?;
        std::fs::write(file, text + "\n")?;
    }
    println!(
        "\nload average: {} before, {} after",
        machine.load_before, machine.load_after
    );
    let mistakes = results.mistakes();
    if mistakes > 0 {
        println!("this run is not valid: {mistakes} operations went wrong");
    }
    let kept = verdicts.iter().all(|verdict| verdict.met);
    Ok(mistakes == 0 && (kept || !options.check))
}

fn effort(options: &Options) -> Effort {
    let usual = Effort::new(options.quick);
    Effort {
        rounds: options.rounds.unwrap_or(usual.rounds).max(1),
        window: options.window.map_or(usual.window, Duration::from_millis),
        ..usual
    }
}

fn introduce(machine: &host::Machine, contenders: &[Contender], effort: Effort) {
    println!(
        "Linux {}, {} × {}, congestion control {}, load average {}",
        machine.kernel,
        machine.processors,
        machine.processor,
        machine.congestion_control,
        machine.load_before
    );
    println!(
        "{} interleaved rounds of {} ms",
        effort.rounds,
        effort.window.as_millis()
    );
    for contender in contenders {
        println!("  {:<12} {}", contender.name, contender.version);
    }
}

fn chosen(names: &[String]) -> io::Result<Vec<&'static Workload>> {
    let known = |name: &str| WORKLOADS.iter().find(|workload| workload.name == name);
    if let Some(unknown) = names.iter().find(|name| known(name).is_none()) {
        return Err(io::Error::other(format!(
            "no workload `{unknown}`; see --list"
        )));
    }
    let wanted =
        |workload: &&Workload| names.is_empty() || names.iter().any(|n| n == workload.name);
    Ok(WORKLOADS.iter().filter(wanted).collect())
}

/// Everyone who is asked for, or else everyone who is there.
fn contenders(options: &Options) -> io::Result<Vec<Contender>> {
    let beside = std::env::current_exe()?.with_file_name("portcullis");
    let ours = options.portcullis.as_ref().unwrap_or(&beside);
    let pipes = Kind::Haproxy {
        pipe_size: Some(1 << 20),
    };
    let all = [
        (targets::OURS, Kind::Portcullis, ours),
        (
            "haproxy",
            Kind::Haproxy { pipe_size: None },
            &options.haproxy,
        ),
        ("haproxy-1m", pipes, &options.haproxy),
        ("nginx", Kind::Nginx, &options.nginx),
    ];
    let named = &options.contenders;
    if let Some(unknown) = named
        .iter()
        .find(|n| all.iter().all(|(name, ..)| name != n))
    {
        return Err(io::Error::other(format!("no contender `{unknown}`")));
    }
    let mut found = Vec::new();
    for (name, kind, program) in all {
        if !named.is_empty() && !named.iter().any(|n| n == name) {
            continue;
        }
        match Contender::find(name, kind, program) {
            Some(contender) => found.push(contender),
            None if named.is_empty() && kind != Kind::Portcullis => {
                println!("warning: no {name}: {} cannot be run", program.display());
            }
            None => {
                let message = format!("{name}: {} cannot be run", program.display());
                return Err(io::Error::other(message));
            }
        }
    }
    for also in &options.also {
        let parts = also.split_once('=');
        let more =
            parts.and_then(|(name, path)| Contender::find(name, Kind::Portcullis, path.as_ref()));
        found.push(more.ok_or_else(|| io::Error::other(format!("--also {also}: cannot be run")))?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_consistent() {
        use clap::CommandFactory as _;
        Options::command().debug_assert();
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert!(chosen(&["short-64".to_owned()]).is_ok());
        assert!(chosen(&["short-65".to_owned()]).is_err());
        assert_eq!(chosen(&[]).unwrap().len(), WORKLOADS.len());
        let options = Options::parse_from(["bench", "-c", "apache"]);
        assert!(contenders(&options).is_err());
    }
}
