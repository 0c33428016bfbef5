//! The listeners of a host: read, judged, shown.
//!
//! Decides:  what a report holds besides the rows; the JSON form; what is said where not all was seen.
//! Not here: the command line (commands/listeners.rs), each part of it (the files below).

pub mod rows;
pub mod select;
mod table;
pub mod traps;
mod watch;

use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use portcullis_inspect::snapshot::{Drops, Known, Snapshot, Sources};
use portcullis_inspect::{Focus, Others, Place, Wanted, Worlds, read};
use portcullis_sys::{errno, files};
use serde::Serialize;

use crate::exit::{self, Exit};
use crate::terminal;
use rows::{Row, Unix};
use select::Order;
use table::Look;
use watch::{Rates, Screen};

/// The form of the JSON; another number where a field changed its meaning.
const FORMAT: u32 = 1;
/// So many namespaces' counters are watched.
const COUNTERS_MAX: usize = 3;

/// What is wanted.
#[derive(Debug)]
pub struct Settings {
    /// Another host's file in place of this host.
    pub host: Option<PathBuf>,
    pub place: Place,
    pub others: Others,
    pub unix: Unix,
    pub words: Vec<String>,
    pub only_traps: bool,
    pub order: Order,
    pub reverse: bool,
    pub json: bool,
    pub watch: Option<Duration>,
}

/// What is shown.
#[derive(Debug, Serialize)]
struct Report {
    format: u32,
    /// When it was so, in seconds since 1970.
    taken: u64,
    listeners: Vec<Row>,
    namespaces: Vec<Counters>,
    sources: Sources,
    /// Listeners that are not shown since they do not fit what was asked for.
    #[serde(skip)]
    hidden: usize,
}

/// The counters of a network namespace.
#[derive(Debug, Serialize)]
struct Counters {
    netns: u64,
    name: Option<String>,
    #[serde(flatten)]
    drops: Drops,
}

/// Shows them, once or until told to stop.
pub fn run(settings: &Settings) -> Exit {
    let shown = match settings.watch {
        None => match report(settings) {
            Ok(report) => return once(settings, &report),
            Err(error) => Err(error),
        },
        Some(interval) => watch(settings, interval),
    };
    match shown {
        Ok(()) => exit::OK,
        Err(error) => {
            terminal::err(&format!("error: cannot list the listeners: {error}\n"));
            code(settings, &error)
        }
    }
}

fn once(settings: &Settings, report: &Report) -> Exit {
    let told = match settings.json {
        true => json(report),
        false => text(report, None),
    };
    if let Err(error) = terminal::try_out(&told) {
        let why = errno::of(&error);
        terminal::err(&format!("error: cannot write standard output: {why}\n"));
        return exit::USAGE;
    }
    if !settings.json {
        terminal::err(&notes(report));
    }
    exit::OK
}

/// A file that cannot be read, and a namespace that is not there, are the command line's fault, as for `why`.
fn code(settings: &Settings, error: &io::Error) -> Exit {
    match settings.host.is_some() || error.kind() == io::ErrorKind::NotFound {
        true => exit::USAGE,
        false => exit::INTERNAL,
    }
}

fn watch(settings: &Settings, interval: Duration) -> io::Result<()> {
    // What cannot be read at all is said at once, and not on a screen that goes away.
    let first = report(settings)?;
    if !settings.json {
        terminal::err(&notes(&first));
    }
    let mut rates = Rates::default();
    let screen = match terminal::out_is_terminal() && !settings.json {
        true => Screen::Whole,
        false => Screen::Lines,
    };
    watch::every(interval, screen, || {
        let report = match report(settings) {
            Ok(report) => report,
            Err(error) => return format!("cannot list the listeners: {error}\n"),
        };
        let drops: Vec<(u64, Drops)> = report
            .namespaces
            .iter()
            .map(|one| (one.netns, one.drops))
            .collect();
        rates.look(&report.listeners, &drops, Instant::now());
        if settings.json {
            return json(&report);
        }
        text(&report, Some((&rates, interval)))
    })
}

fn report(settings: &Settings) -> io::Result<Report> {
    let snapshot = match &settings.host {
        Some(file) => {
            let mut snapshot = Snapshot::load(file)?;
            // `why` says the same, of the port that is asked about.
            if let Err(nonsense) = Worlds::of(
                &snapshot,
                Focus {
                    port: None,
                    near: 0,
                },
            ) {
                let note = format!("not all of it can be so: {nonsense}");
                snapshot.sources.notes.push(note);
            }
            snapshot
        }
        None => {
            let mut snapshot = read(&Wanted {
                place: settings.place.clone(),
                others: settings.others,
                ..Wanted::default()
            })?;
            leave_out_ourselves(&mut snapshot);
            snapshot
        }
    };
    let mut rows = rows::rows(&snapshot, settings.unix);
    traps::mark(&snapshot, &mut rows);
    let all = rows.len();
    rows.retain(|row| settings.words.iter().all(|word| select::fits(row, word)));
    rows.retain(|row| !settings.only_traps || !row.traps.is_empty());
    select::sort(&mut rows, settings.order, settings.reverse);
    Ok(Report {
        format: FORMAT,
        taken: snapshot.taken,
        hidden: all - rows.len(),
        listeners: rows,
        namespaces: snapshot
            .namespaces
            .iter()
            .map(|namespace| Counters {
                netns: namespace.inode,
                name: namespace.names.first().cloned(),
                drops: namespace.drops,
            })
            .collect(),
        sources: snapshot.sources,
    })
}

/// A socket that this very program inherited is not held longer for it.
fn leave_out_ourselves(snapshot: &mut Snapshot) {
    let own = files::own_number().unwrap_or_else(std::process::id);
    for namespace in &mut snapshot.namespaces {
        for socket in &mut namespace.sockets {
            if socket.holders.len() > 1 {
                socket.holders.retain(|holder| holder.pid != own);
            }
        }
    }
}

/// One line, so that a stream of them can be read.
fn json(report: &Report) -> String {
    match serde_json::to_string(report) {
        Ok(text) => text + "\n",
        Err(error) => format!("{{\"error\":\"{error}\"}}\n"),
    }
}

fn text(report: &Report, watched: Option<(&Rates, Duration)>) -> String {
    let size = terminal::out_size();
    let rates = watched.map(|(rates, _)| rates);
    let named = report.namespaces.len() > 1;
    let mut below = below(report, named, rates);
    if watched.is_some() {
        below.truncate(COUNTERS_MAX);
    }
    // A line tells what this is, one is empty above and below, one heads, one counts what is left out.
    let around = below.len() + 5;
    let look = Look {
        width: size.map(|(columns, _)| columns),
        height: size
            .filter(|_| watched.is_some())
            .map(|(_, lines)| lines.saturating_sub(around).max(1)),
        colours: terminal::out_colours(),
        namespaces: named,
    };
    let mut lines = Vec::new();
    if let Some((_, interval)) = watched {
        lines.push(format!(
            "{}, every {interval:?}; Ctrl-C ends",
            counted(report)
        ));
        lines.push(String::new());
    } else {
        below.push(counted(report));
        if report.listeners.iter().any(|row| !row.traps.is_empty()) {
            below.push("`portcullis why WORD` explains a word after `!`".to_owned());
        }
    }
    let fit = |lines: Vec<String>| -> String {
        let width = look.width.unwrap_or(usize::MAX);
        let cut = lines
            .into_iter()
            .map(|line| line.chars().take(width).chain(['\n']).collect::<String>());
        cut.collect()
    };
    let table = table::table(&report.listeners, rates, look);
    format!("{}{table}\n{}", fit(lines), fit(below))
}

/// What was lost, a line for each namespace: of several, only where something was, the most first.
fn below(report: &Report, named: bool, rates: Option<&Rates>) -> Vec<String> {
    let lost = |one: &Counters| one.drops.listen_drops.unwrap_or(0);
    let mut namespaces: Vec<&Counters> = report.namespaces.iter().collect();
    namespaces.retain(|one| !named || lost(one) > 0);
    namespaces.sort_by_key(|one| std::cmp::Reverse(lost(one)));
    namespaces
        .into_iter()
        .filter_map(|one| counters(one, named, rates))
        .collect()
}

fn counted(report: &Report) -> String {
    let mut text = match report.listeners.len() {
        1 => "1 listener".to_owned(),
        many => format!("{many} listeners"),
    };
    if report.hidden > 0 {
        let _ = write!(text, ", {} not shown", report.hidden);
    }
    text
}

/// What was lost in a namespace, whichever listener it was.
fn counters(namespace: &Counters, named: bool, rates: Option<&Rates>) -> Option<String> {
    let drops = &namespace.drops;
    let (Some(overflows), Some(lost)) = (drops.listen_overflows, drops.listen_drops) else {
        return None;
    };
    let name = namespace
        .name
        .clone()
        .unwrap_or_else(|| namespace.netns.to_string());
    let place = match named {
        true => format!(" in {name}"),
        false => String::new(),
    };
    let rate = rates.and_then(|rates| rates.overflows(namespace.netns));
    let rate = rate.map_or(String::new(), |rate| format!(" ({rate:.1}/s)"));
    let cookies = drops.syncookies_sent.filter(|&cookies| cookies > 0);
    let cookies = cookies.map_or(String::new(), |cookies| format!(", SYN cookies {cookies}"));
    Some(format!(
        "overflows{place} {overflows}{rate}, drops {lost}{cookies}"
    ))
}

/// What could not be seen.
fn notes(report: &Report) -> String {
    let sources = &report.sources;
    let mut text = String::new();
    let hidden = report.listeners.iter().any(|row| row.owners.is_empty());
    if let (true, Known::No(why) | Known::Partly(why)) = (hidden, &sources.processes) {
        let _ = writeln!(text, "note: not all owners are shown: {why}");
    }
    let unknown = |row: &Row| row.at.is_some() && row.options.reuseport.is_none();
    if report.listeners.iter().any(unknown) {
        let reasons = [&sources.bpf, &sources.descriptors].into_iter();
        let reasons = reasons.filter_map(|source| match source {
            Known::No(why) | Known::Partly(why) => Some(why.as_str()),
            Known::Yes | Known::Untried => None,
        });
        let mut reasons: Vec<&str> = reasons.collect();
        if reasons.is_empty() {
            reasons.push("nobody was there to be asked");
        }
        let reasons = reasons.join("; ");
        let _ = writeln!(text, "note: not all options are known (`?`): {reasons}");
    }
    for note in &sources.notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}
