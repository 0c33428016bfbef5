//! Running workloads: rounds, windows, what is read before and after.
//!
//! Decides:  contenders take turns within a round, and each round begins with another one; processor
//!           time is read when the contender sleeps, since only then is it exact; connections that
//!           stay are opened before the window and closed after it; more rounds are made until enough
//!           were calm, up to a limit.
//! Not here: the load (rig.rs), what /proc says (process.rs).

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::calls::Counter;
use crate::contender::{Contender, Kind, Running, Setup};
use crate::process::{self, Usage};
use crate::results::{Results, Round, Series, calm_rounds, keep_calmest};
use crate::rig::{Rig, Service, Tally, now_ns};
use crate::workload::{Effort, Shape, Workload};

/// The backend's first port.
pub const BACKEND_PORT: u16 = 7000;
/// The first contender's first port; the next one's is ten further.
const FIRST_PORT: u16 = 8000;
/// Connections through a contender before it is measured.
const WARM_UP: u64 = 200;
/// So many times the rounds that are wanted are made at most, to find as many calm ones.
const MOST_ROUNDS: usize = 2;
/// Bytes of one bulk demand.
const DEMAND: u64 = 8 << 20;
/// The same of paced bulk.
const PACED_DEMAND: u64 = 2 << 20;
/// How long bulk runs before it is measured.
const BULK_WARM_UP: Duration = Duration::from_millis(30);
/// The contender sleeps if its time did not change for so long.
const STILL: Duration = Duration::from_millis(4);
/// It is not waited for longer than so many times that.
const STILL_TRIES: usize = 100;

/// A run.
#[derive(Debug)]
pub struct Bench {
    /// Load and backend.
    pub rig: Rig,
    /// Who is measured.
    pub contenders: Vec<Contender>,
    /// How much.
    pub effort: Effort,
    /// Where configurations and logs go.
    pub directory: PathBuf,
    /// The processor of a single worker.
    pub worker_processor: usize,
    /// That of a second one.
    pub second_processor: usize,
    /// Those, and the load's.
    pub processors: BTreeSet<usize>,
}

/// A contender that runs, in one variant.
struct Entry {
    running: Running,
    pids: Vec<u32>,
    series: Series,
    used: Usage,
}

impl Bench {
    /// Runs a workload with everyone.
    pub fn run(&mut self, workload: &Workload, results: &mut Results) -> io::Result<()> {
        let series = match workload.shape {
            Shape::Idle { connections } => self.idle(workload, connections)?,
            Shape::Calls { at_once, count } => self.calls(workload, at_once, count)?,
            Shape::Mix { .. } => self.mix(workload)?,
            Shape::Scaling { .. } => {
                let variants = [("one worker", 1), ("two workers", 2)];
                self.rounds(workload, &variants)?
            }
            _ => self.rounds(workload, &[("", 1)])?,
        };
        results.series.extend(series);
        Ok(())
    }

    /// Who takes part: 1 MiB pipes are no matter where nothing is spliced.
    fn takes_part(contender: &Contender, shape: Shape) -> bool {
        let pipes = matches!(contender.kind, Kind::Haproxy { pipe_size: Some(_) });
        !pipes || matches!(shape, Shape::Bulk { .. })
    }

    fn start(
        &self,
        workload: &Workload,
        place: usize,
        contender: &Contender,
        (variant, workers): (&'static str, usize),
    ) -> io::Result<Entry> {
        let mut processors = vec![self.worker_processor];
        if workers > 1 && self.second_processor != self.worker_processor {
            processors.push(self.second_processor);
        }
        let setup = Setup {
            workers,
            processors,
            bulk: workload.shape.is_bulk(),
            port: FIRST_PORT + 10 * place as u16,
            backend: BACKEND_PORT,
        };
        let running = contender.start(&setup, &self.directory)?;
        Ok(Entry {
            pids: running.pids(),
            running,
            series: Series {
                workload: workload.name,
                variant,
                unit: workload.shape.unit(),
                contender: contender.name.clone(),
                ..Series::default()
            },
            used: Usage::default(),
        })
    }

    /// Everyone who takes part, started.
    fn start_all(
        &self,
        workload: &Workload,
        variants: &[(&'static str, usize)],
    ) -> io::Result<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        for contender in &self.contenders {
            if !Bench::takes_part(contender, workload.shape) {
                continue;
            }
            for &variant in variants {
                let entry = self.start(workload, entries.len(), contender, variant)?;
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Interleaved rounds of windows.
    fn rounds(
        &mut self,
        workload: &Workload,
        variants: &[(&'static str, usize)],
    ) -> io::Result<Vec<Series>> {
        let mut entries = self.start_all(workload, variants)?;
        for entry in &mut entries {
            self.warm_up(entry)?;
        }
        let count = entries.len();
        let wanted = self.effort.rounds;
        for round in 0..wanted * MOST_ROUNDS {
            let all: Vec<&Series> = entries.iter().map(|entry| &entry.series).collect();
            if calm_rounds(&all) == wanted {
                break;
            }
            for turn in 0..count {
                let entry = &mut entries[(round + turn) % count];
                self.window(workload.shape, entry)?;
            }
        }
        let all = entries.iter_mut().map(|entry| &mut entry.series);
        keep_calmest(all.collect(), wanted);
        Ok(entries.into_iter().map(Entry::finish).collect())
    }

    fn warm_up(&mut self, entry: &mut Entry) -> io::Result<()> {
        let to = entry.running.address(Service::Short);
        self.rig.short_count(to, 16, WARM_UP)?;
        entry.note(self.rig.take_tally());
        entry.pids = entry.running.pids();
        Ok(())
    }

    fn window(&mut self, shape: Shape, entry: &mut Entry) -> io::Result<()> {
        let window = self.effort.window;
        let (at_once, service) = match shape {
            Shape::Short { at_once } => (at_once, Service::Short),
            Shape::Scaling {
                short: true,
                at_once,
            } => (at_once, Service::Short),
            Shape::Scaling { at_once, .. } => (at_once, Service::Echo),
            Shape::RoundTrips { connections } => (connections, Service::Echo),
            Shape::Bulk { streams } => (streams, Service::Bulk),
            Shape::Idle { .. } | Shape::Mix { .. } | Shape::Calls { .. } => return Ok(()),
        };
        let to = entry.running.address(service);
        if service == Service::Short {
            let round = self.measured(entry, |rig| rig.short(to, at_once, window))?;
            entry.series.rounds.push(round);
            return Ok(());
        }
        self.rig.open(to, service, at_once)?;
        if service == Service::Bulk {
            self.rig.run(BULK_WARM_UP, DEMAND)?;
        }
        entry.note(self.rig.take_tally());
        let round = self.measured(entry, |rig| rig.run(window, DEMAND))?;
        entry.series.rounds.push(round);
        self.rig.close()?;
        entry.note(self.rig.take_tally());
        Ok(())
    }

    /// Runs something and reads the clocks around it.
    fn measured(
        &mut self,
        entry: &mut Entry,
        load: impl FnOnce(&mut Rig) -> Result<(), rustix::io::Errno>,
    ) -> io::Result<Round> {
        // Again, since nginx listens before it starts its workers.
        entry.pids = entry.running.pids();
        let before = entry.when_still()?;
        let busy = process::busy_ns(&self.processors)?;
        let (begun, own) = (now_ns(), own_cpu_ns());
        load(&mut self.rig)?;
        let (wall, own) = (now_ns() - begun, own_cpu_ns() - own);
        let after = entry.when_still()?;
        let busy = process::busy_ns(&self.processors)? - busy;
        let all = (now_ns() - begun) * self.processors.len() as u64;
        entry.used.cpu_ns += after.cpu_ns - before.cpu_ns;
        entry.used.user_ticks += after.user_ticks - before.user_ticks;
        entry.used.system_ticks += after.system_ticks - before.system_ticks;
        let mut tally = self.rig.take_tally();
        let cpu = (after.cpu_ns - before.cpu_ns) as f64;
        if cpu == 0.0 && tally.operations + tally.bytes > 0 {
            // Whoever did it was not looked at.
            *tally.errors.entry("no processor time").or_default() += 1;
        }
        let round = round_of(&tally, wall as f64, cpu, own as f64);
        entry.note(tally);
        let foreign = (busy as f64 - cpu - own as f64) / all as f64;
        Ok(Round {
            foreign: Some(foreign.clamp(0.0, 1.0)),
            ..round
        })
    }

    /// Round trips alone, then beside paced bulk, in each round.
    fn mix(&mut self, workload: &Workload) -> io::Result<Vec<Series>> {
        let Shape::Mix {
            connections,
            streams,
            pace,
        } = workload.shape
        else {
            return Ok(Vec::new());
        };
        let mut entries = self.start_all(workload, &[("alone", 1)])?;
        let mut beside: Vec<Series> = entries
            .iter()
            .map(|entry| Series {
                variant: "beside bulk",
                ..entry.series.clone()
            })
            .collect();
        let (count, window) = (entries.len(), self.effort.window);
        let wanted = self.effort.rounds;
        for round in 0..wanted * MOST_ROUNDS {
            let all = entries.iter().map(|entry| &entry.series);
            if calm_rounds(&all.chain(&beside).collect::<Vec<_>>()) == wanted {
                break;
            }
            for turn in 0..count {
                let place = (round + turn) % count;
                let entry = &mut entries[place];
                let trips = entry.running.address(Service::Echo);
                self.rig.open(trips, Service::Echo, connections)?;
                entry.note(self.rig.take_tally());
                let alone = self.measured(entry, |rig| rig.run(window, PACED_DEMAND))?;
                entry.series.rounds.push(alone);
                let bulk = entry.running.address(Service::Bulk);
                self.rig.open(bulk, Service::Bulk, streams)?;
                self.rig.set_pace(pace);
                self.rig.run(BULK_WARM_UP, PACED_DEMAND)?;
                entry.note(self.rig.take_tally());
                let with = self.measured(entry, |rig| rig.run(window, PACED_DEMAND))?;
                beside[place].rounds.push(with);
                self.rig.set_pace(0);
                self.rig.close()?;
                entry.note(self.rig.take_tally());
            }
        }
        let all = entries.iter_mut().map(|entry| &mut entry.series);
        keep_calmest(all.chain(&mut beside).collect(), wanted);
        let alone = entries.into_iter().map(Entry::finish);
        Ok(alone.zip(beside).flat_map(|(a, b)| [a, b]).collect())
    }

    /// Memory of connections that say nothing; each round with processes just started.
    fn idle(&mut self, workload: &Workload, connections: usize) -> io::Result<Vec<Series>> {
        let mut all: Vec<Series> = Vec::new();
        for _ in 0..self.effort.fresh_rounds {
            for contender in &self.contenders.clone() {
                if !Bench::takes_part(contender, workload.shape) {
                    continue;
                }
                let mut entry = self.start(workload, 0, contender, ("", 1))?;
                self.warm_up(&mut entry)?;
                entry.when_still()?;
                let before = process::resident(&entry.pids)?;
                let to = entry.running.address(Service::Echo);
                self.rig.open(to, Service::Echo, connections)?;
                entry.when_still()?;
                let after = process::resident(&entry.pids)?;
                entry.series.rounds.push(Round {
                    resident: Some(after.saturating_sub(before) as f64 / connections as f64),
                    ..Round::default()
                });
                self.rig.close()?;
                entry.note(self.rig.take_tally());
                add(&mut all, entry.finish());
            }
        }
        Ok(all)
    }

    /// System calls, counted; each contender once, since the count hardly varies.
    fn calls(
        &mut self,
        workload: &Workload,
        at_once: usize,
        count: u64,
    ) -> io::Result<Vec<Series>> {
        let mut all = Vec::new();
        for contender in &self.contenders.clone() {
            if !Bench::takes_part(contender, workload.shape) {
                continue;
            }
            let mut entry = self.start(workload, 0, contender, ("", 1))?;
            self.warm_up(&mut entry)?;
            entry.when_still()?;
            let counter = match Counter::start(&entry.pids, &self.directory) {
                Ok(counter) => counter,
                Err(error) => {
                    eprintln!("warning: system calls are not counted: {error}");
                    return Ok(Vec::new());
                }
            };
            let to = entry.running.address(Service::Short);
            self.rig.short_count(to, at_once, count)?;
            entry.when_still()?;
            let calls = counter.finish()?;
            entry.note(self.rig.take_tally());
            entry.series.rounds.push(Round {
                calls: Some(calls.all as f64 / count as f64),
                ..Round::default()
            });
            let by_name = calls.by_name.into_iter();
            entry.series.calls_by_name = by_name
                .map(|(name, calls)| (name, calls as f64 / count as f64))
                .collect();
            all.push(entry.finish());
        }
        Ok(all)
    }
}

impl Entry {
    fn note(&mut self, tally: Tally) {
        for (kind, times) in tally.errors {
            *self.series.errors.entry(kind).or_default() += times;
        }
    }

    /// What it used so far, once it sleeps.
    fn when_still(&self) -> io::Result<Usage> {
        let mut before = process::usage(&self.pids)?;
        for _ in 0..STILL_TRIES {
            std::thread::sleep(STILL);
            let now = process::usage(&self.pids)?;
            if now.cpu_ns == before.cpu_ns {
                return Ok(now);
            }
            before = now;
        }
        Ok(before)
    }

    fn finish(self) -> Series {
        let mut series = self.series;
        let ticks = self.used.user_ticks + self.used.system_ticks;
        if ticks > 0 {
            series.user_share = Some(self.used.user_ticks as f64 / ticks as f64);
        }
        series
    }
}

/// Adds a series, or its rounds to the one of the same contender.
fn add(all: &mut Vec<Series>, series: Series) {
    match all
        .iter_mut()
        .find(|known| known.contender == series.contender)
    {
        None => all.push(series),
        Some(known) => {
            known.rounds.extend(series.rounds);
            for (kind, times) in series.errors {
                *known.errors.entry(kind).or_default() += times;
            }
        }
    }
}

/// Bulk alone is counted in GiB; beside operations it is beside them.
fn round_of(tally: &Tally, wall_ns: f64, cpu_ns: f64, own_ns: f64) -> Round {
    let only_bulk = tally.operations == 0;
    let operations = match only_bulk {
        true => tally.bytes as f64 / f64::from(1 << 30),
        false => tally.operations as f64,
    };
    let us = |ns: u64| ns as f64 / 1000.0;
    let beside = !only_bulk && tally.bytes > 0;
    Round {
        cpu_us: (operations > 0.0).then(|| cpu_ns / 1000.0 / operations),
        rate: Some(operations / wall_ns * 1e9),
        p50_us: tally.latency.quantile(0.5).map(us),
        p99_us: tally.latency.quantile(0.99).map(us),
        busy: Some(cpu_ns / wall_ns),
        load_cpu_us: (operations > 0.0).then(|| own_ns / 1000.0 / operations),
        beside_mb_s: beside.then(|| tally.bytes as f64 / wall_ns * 1e3),
        ..Round::default()
    }
}

/// Processor time of this thread, which is generator and backend.
fn own_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
