//! `portcullis-soak`: the run behind `cargo xtask soak`.
//!
//! Decides:  the phases: nothing done (for the gap to compare with), reloads with upgrades and changes of workers,
//!           kills of either side of an upgrade, kills under a supervisor, moves between HAProxy and Portcullis, and
//!           the peers; exit code 1 where anything was lost or not done, 2 where a run is not possible.
//! Not here: building what it runs (xtask/src/soak.rs).

// A chore talks to the terminal.
#![allow(clippy::print_stdout)]

mod interrupt;
mod ledger;
mod load;
mod operations;
mod peers;
mod place;
mod program;
mod report;
mod shape;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use portcullis_testkit::{descriptors, rss_kib};

use load::{Crowd, Load};
use operations::{Amounts, Operation, Random, Rows, observe, perform, plan};
use peers::Peer;
use program::{Failure, Moving, Portcullis};
use report::{Phase, Report};
use shape::Shape;

/// Workers killed in a row: after the eleventh the supervisor takes it for a crash loop and gives up (docs/upgrade.md).
const WORKERS_KILLED_MAX: usize = 10;

/// Loads Portcullis while it is reloaded, upgraded, changed, moved and killed; nothing may be lost.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask soak --", version)]
struct Options {
    /// Reloads: of nothing, servers and listeners; one in ten must fail
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    reloads: usize,
    /// Upgrades of the running process
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    upgrades: usize,
    /// Changes of nbthread or shards
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    shard_changes: usize,
    /// Moves from HAProxy to Portcullis and back
    #[arg(long, value_name = "NUMBER", default_value_t = 4)]
    haproxy_moves: usize,
    /// Processes killed in mid upgrade (every other one the old one), and as many workers under a supervisor, ten at the most
    #[arg(long, value_name = "NUMBER", default_value_t = 6)]
    kills: usize,
    /// Clients that are served between two operations, at least
    #[arg(long, value_name = "NUMBER", default_value_t = 100)]
    between: u64,
    /// Seconds of load without any operation, to compare the gap with
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    calm: u64,
    /// Decides the order of operations
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,
    /// Then HAProxy's and nginx's own reloads, so many each, under the same load
    #[arg(long, value_name = "RELOADS")]
    peers: Option<usize>,
    /// Clients of short connections at the listener that takes all
    #[arg(long, value_name = "NUMBER", default_value_t = 12)]
    clients: usize,
    /// No operation begins after so many seconds; the run then says that it is not whole
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    within: u64,
    /// Fails where the longest gap of planned operations is so much above that of the load without any
    #[arg(long, value_name = "MS")]
    gap_above: Option<u64>,
    /// Writes everything as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Writes what the programs said on standard error, of all parts
    #[arg(long, value_name = "FILE")]
    said: Option<PathBuf>,
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

impl Options {
    fn crowd(&self) -> Crowd {
        Crowd {
            wide: self.clients,
            narrow: 16,
            long: 8,
            idle: 50,
        }
    }

    fn binary(&self) -> Result<PathBuf, Failure> {
        if let Some(path) = &self.portcullis {
            return Ok(path.clone());
        }
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        Ok(own.with_file_name("portcullis"))
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    let run = place::enter_private_network()
        .and_then(|()| place::prepare())
        .and_then(|()| interrupt::watch())
        .map_err(|error| error.to_string())
        .and_then(|()| run(&options));
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

/// False: something was lost, or not done.
fn run(options: &Options) -> Result<bool, Failure> {
    let binary = options.binary()?;
    load::serve().map_err(|error| format!("the servers: {error}"))?;
    let mut soak = Soak {
        options,
        binary,
        random: Random::new(options.seed),
        end: Instant::now() + Duration::from_secs(options.within),
        report: Report {
            seed: options.seed,
            gap_above_ms: options.gap_above,
            phases: Vec::new(),
            broken: Vec::new(),
        },
    };
    // What is known is shown, whatever becomes of the rest.
    let phases = [
        soak.calm(),
        soak.planned(),
        soak.killed_in_mid_upgrade(),
        soak.under_a_supervisor(),
        soak.between_two_programs(),
        soak.peers(),
    ];
    let broken = phases.into_iter().filter_map(Result::err);
    soak.report.broken.extend(broken);
    if interrupt::asked() {
        let text = "interrupted: this is no whole run";
        soak.report.broken.push(text.to_owned());
    }
    soak.report.show();
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&soak.report).map_err(|error| error.to_string())?;
        std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(soak.report.is_well())
}

struct Soak<'a> {
    options: &'a Options,
    binary: PathBuf,
    random: Random,
    end: Instant,
    report: Report,
}

impl Soak<'_> {
    fn load(&self) -> Result<(Load, Instant), Failure> {
        let load =
            Load::start(self.options.crowd()).map_err(|error| format!("the load: {error}"))?;
        match load.goes_on(100) {
            true => Ok((load, Instant::now())),
            false => Err("the load does not begin".to_owned()),
        }
    }

    /// The load alone.
    fn calm(&mut self) -> Result<(), Failure> {
        let it = Portcullis::start(&self.binary, &Shape::new(), false)?;
        let (load, began) = self.load()?;
        let end = began + Duration::from_secs(self.options.calm);
        while Instant::now() < end && !interrupt::asked() {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.close(
            "nothing done",
            "portcullis",
            load,
            began,
            Rows::new(),
            it.said(),
        );
        it.stop()
    }

    /// Reloads, upgrades, changes of workers.
    fn planned(&mut self) -> Result<(), Failure> {
        let amounts = Amounts {
            reloads: self.options.reloads,
            upgrades: self.options.upgrades,
            shard_changes: self.options.shard_changes,
        };
        let all = plan(amounts, &mut self.random);
        self.in_one_line("reloads, upgrades, workers", all)
    }

    /// Kills of one or the other in the middle of upgrades.
    fn killed_in_mid_upgrade(&mut self) -> Result<(), Failure> {
        let kinds = [Operation::KillNew, Operation::KillOld];
        let all = kinds.into_iter().cycle().take(self.options.kills);
        self.in_one_line("killed in mid upgrade", all.collect())
    }

    /// One process after another on one pid file.
    fn in_one_line(&mut self, name: &str, all: Vec<Operation>) -> Result<(), Failure> {
        if all.is_empty() || interrupt::asked() {
            return Ok(());
        }
        let mut shape = Shape::new();
        let it = Portcullis::start(&self.binary, &shape, false)?;
        let (load, began) = self.load()?;
        let before = looked_at(it.pid()?);
        let mut rows = Rows::new();
        let count = all.len();
        let mut undone = None;
        for (number, operation) in all.into_iter().enumerate() {
            undone = self.too_late(count - number);
            if undone.is_some() {
                break;
            }
            observe(
                &mut rows,
                (&load, self.options.between),
                operation,
                |ledger| perform(operation, &it, &mut shape, &mut self.random, ledger),
            );
            progress(number, count, &load);
        }
        let after = it.pid().map_or((0, 0), looked_at);
        self.close(name, "portcullis", load, began, rows, it.said());
        if let Some(phase) = self.report.phases.last_mut() {
            phase.memory_kib = Some((before.0, after.0));
            phase.descriptors = Some((before.1, after.1));
        }
        self.note(undone);
        it.stop()
    }

    /// Workers are killed.
    fn under_a_supervisor(&mut self) -> Result<(), Failure> {
        if self.options.kills == 0 || interrupt::asked() {
            return Ok(());
        }
        let mut shape = Shape::new();
        let it = Portcullis::start(&self.binary, &shape, true)?;
        let (load, began) = self.load()?;
        let mut rows = Rows::new();
        let kills = self.options.kills.min(WORKERS_KILLED_MAX);
        let mut undone = None;
        for number in 0..kills {
            undone = self.too_late(kills - number);
            if undone.is_some() {
                break;
            }
            observe(
                &mut rows,
                (&load, self.options.between),
                Operation::KillWorker,
                |ledger| {
                    perform(
                        Operation::KillWorker,
                        &it,
                        &mut shape,
                        &mut self.random,
                        ledger,
                    )
                },
            );
            progress(number, kills, &load);
        }
        self.close(
            "workers killed under a supervisor",
            "portcullis",
            load,
            began,
            rows,
            it.said(),
        );
        self.note(undone);
        it.stop()
    }

    /// HAProxy, Portcullis, HAProxy, …
    fn between_two_programs(&mut self) -> Result<(), Failure> {
        if self.options.haproxy_moves == 0 || interrupt::asked() {
            return Ok(());
        }
        let mut it = Moving::start(&self.binary, &self.options.haproxy, &Shape::new())?;
        let (load, began) = self.load()?;
        let mut rows = Rows::new();
        let moves = self.options.haproxy_moves;
        let mut undone = None;
        for number in 0..moves {
            undone = self.too_late(moves - number);
            if undone.is_some() {
                break;
            }
            observe(
                &mut rows,
                (&load, self.options.between),
                match it.is_ours() {
                    true => Operation::Give,
                    false => Operation::Take,
                },
                |_| it.move_on(),
            );
            progress(number, moves, &load);
        }
        let said = it.said();
        self.close(
            "moves between HAProxy and Portcullis",
            "portcullis",
            load,
            began,
            rows,
            said,
        );
        self.note(undone);
        it.stop()
    }

    /// Whether `--within` is over or the run interrupted, in words; so many operations are left.
    fn too_late(&self, left: usize) -> Option<Failure> {
        let over = Instant::now() > self.end || interrupt::asked();
        over.then(|| format!("{left} operations were not begun"))
    }

    /// What went wrong in the phase that was closed last.
    fn note(&mut self, failure: Option<Failure>) {
        if let Some(phase) = self.report.phases.last_mut() {
            phase.failures.extend(failure);
        }
    }

    /// The peers' own reloads.
    fn peers(&mut self) -> Result<(), Failure> {
        let Some(reloads) = self.options.peers else {
            return Ok(());
        };
        for peer in Peer::ALL {
            if interrupt::asked() {
                break;
            }
            let mut it = peers::Running::start(peer, &self.options.haproxy, &self.options.nginx)?;
            let (load, began) = self.load()?;
            let failures = peers::reload_often(
                &mut it,
                &load,
                (reloads, self.options.between),
                &mut self.random,
            );
            self.close(peer.name(), "peer", load, began, Rows::new(), String::new());
            if let Some(phase) = self.report.phases.last_mut() {
                phase.failures = failures;
            }
            it.stop();
        }
        Ok(())
    }

    fn close(
        &mut self,
        name: &str,
        program: &str,
        load: Load,
        began: Instant,
        rows: Rows,
        said: String,
    ) {
        let (sums, ledger) = load.stop();
        println!(
            "{name}: {} connections in {:.0} s, {} lost",
            sums.conns,
            began.elapsed().as_secs_f64(),
            sums.lost()
        );
        if let Some(file) = &self.options.said {
            let more = format!("== {name}\n{said}\n");
            let opened = std::fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(file);
            let kept = opened.and_then(|mut file| file.write_all(more.as_bytes()));
            if let Err(error) = kept {
                let text = format!("{}: {error}", file.display());
                self.report.broken.push(text);
            }
        }
        let panicked = said.lines().find(|line| line.contains("panicked"));
        self.report.phases.push(Phase {
            name: name.to_owned(),
            program: program.to_owned(),
            seconds: began.elapsed().as_secs_f64(),
            sums,
            rows,
            losses: ledger.losses(),
            gaps: ledger.gaps(),
            failures: panicked.map(str::to_owned).into_iter().collect(),
            memory_kib: None,
            descriptors: None,
        });
    }
}

/// Resident memory (KiB) and descriptors.
fn looked_at(pid: u32) -> (u64, usize) {
    let there = program::is_there(pid);
    if there {
        (rss_kib(pid), descriptors(pid))
    } else {
        (0, 0)
    }
}

/// A line for every tenth part.
fn progress(number: usize, count: usize, load: &Load) {
    if (number + 1).is_multiple_of((count / 10).max(1)) {
        println!(
            "  {} of {count} operations, {} served, {} lost",
            number + 1,
            load.ledger.served_so_far(),
            load.ledger.lost_so_far()
        );
    }
}
