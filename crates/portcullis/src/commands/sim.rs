//! `portcullis sim`: socket calls in a model of the kernel, on the live kernel, or on both.
//!
//! Decides:  what happens to each file, the totals, the exit code.
//! Not here: the prompt (sim/prompt.rs); the language, the worlds, the layout of answers (crates/conformance, script).

mod prompt;

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use portcullis_conformance::cases;
use portcullis_conformance::script::{self, Detail, Mode, Row, Run, Script, Settings, Tally};
use portcullis_kernel_model::Kernel;
use portcullis_sys::errno;

use crate::exit::{self, Exit};
use crate::terminal;

/// Arguments of `sim`.
#[derive(Debug, Args)]
#[command(
    after_help = "The language: docs/scenarios.md. Without a file, on a terminal: a prompt; `help` there."
)]
pub struct Arguments {
    /// Scenarios, or directories whose *.bind files are run; `-` is standard input
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Run on the live kernel, in a fresh network namespace
    #[arg(long, conflicts_with = "both")]
    live: bool,
    /// Run in the model and on the live kernel side by side; any difference fails
    #[arg(long)]
    both: bool,
    /// Show the rules and the sockets behind each answer
    #[arg(long)]
    explain: bool,
    /// Run scenarios that wait for long on the live kernel as well
    #[arg(long)]
    slow: bool,
    /// Show only what failed, and the totals
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Lay the files out in the one format instead of running them; `-` is written to standard output
    #[arg(long, conflicts_with_all = ["live", "both", "explain"])]
    format: bool,
    /// The kernel that the model is, where a scenario names none [default: 6.18; with --both the running one]
    #[arg(long, value_name = "RELEASE", value_parser = kernel)]
    kernel: Option<Kernel>,
    /// The number of the first port by name
    #[arg(long, value_name = "PORT", default_value_t = 20001, value_parser = clap::value_parser!(u16).range(1..=60000))]
    first_port: u16,
}

fn kernel(text: &str) -> Result<Kernel, String> {
    let oldest = Kernel::OLDEST;
    let release = Kernel::parse(text);
    release
        .filter(|&release| release >= oldest)
        .ok_or_else(|| format!("a release from {oldest} on"))
}

/// Runs, formats or prompts.
pub fn run(arguments: &Arguments) -> Exit {
    let settings = Settings {
        kernel: arguments.kernel.unwrap_or(Kernel::V6_18),
        first_port: arguments.first_port,
        patience_ms: if arguments.slow {
            u64::MAX
        } else {
            Settings::default().patience_ms
        },
    };
    if arguments.files.is_empty() {
        if std::io::stdin().is_terminal() {
            return prompt::run(settings);
        }
        return scenarios(arguments, &[PathBuf::from("-")], settings);
    }
    let files = match expand(&arguments.files) {
        Ok(files) => files,
        Err(message) => return usage(&message),
    };
    if arguments.format {
        return format(&files);
    }
    scenarios(arguments, &files, settings)
}

fn usage(message: &str) -> Exit {
    terminal::err(&format!("error: {message}\n"));
    exit::USAGE
}

/// Directories become their *.bind files, in the order of their names.
fn expand(given: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
    let mut files = Vec::new();
    for path in given {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let cannot = |error: std::io::Error| cannot("read", &path.display(), &error);
        let mut found = cases::files(path).map_err(cannot)?;
        if found.is_empty() {
            return Err(format!("{} holds no *.bind file", path.display()));
        }
        files.append(&mut found);
    }
    Ok(files)
}

fn read(path: &Path) -> Result<(String, String), String> {
    if path == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        return match read {
            Ok(_) => Ok(("standard input".to_owned(), text)),
            Err(error) => Err(cannot("read", &"standard input", &error)),
        };
    }
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(cannot("read", &name, &error)),
    }
}

fn cannot(what: &str, name: &dyn std::fmt::Display, error: &std::io::Error) -> String {
    format!("cannot {what} {name}: {}", errno::of(error))
}

fn format(files: &[PathBuf]) -> Exit {
    for path in files {
        let (name, text) = match read(path) {
            Ok(read) => read,
            Err(message) => return usage(&message),
        };
        let tidy = script::format(&text);
        if path == Path::new("-") {
            terminal::out(&tidy);
        } else if tidy != text {
            if let Err(error) = std::fs::write(path, tidy) {
                return usage(&cannot("write", &name, &error));
            }
            terminal::out(&format!("{name}\n"));
        }
    }
    exit::OK
}

fn scenarios(arguments: &Arguments, files: &[PathBuf], settings: Settings) -> Exit {
    let mut total = Tally::default();
    let mut wrong = 0;
    let mut unverified = BTreeSet::new();
    for path in files {
        let (name, text) = match read(path) {
            Ok(read) => read,
            Err(message) => return usage(&message),
        };
        match script::parse(&text, settings) {
            Ok(mut script) => {
                script.beside = arguments.kernel;
                let modelled = modelled(arguments, &script);
                unverified.extend(modelled.filter(|kernel| !kernel.verified()));
                match scenario(arguments, &name, &script) {
                    Ok(tally) => total.add(tally),
                    Err(message) => {
                        terminal::err(&format!("error: {name}: {message}\n"));
                        return exit::INTERNAL;
                    }
                }
            }
            Err(problems) => {
                wrong += 1;
                for problem in problems {
                    terminal::err(&problem.render(&name, &text));
                }
            }
        }
    }
    terminal::out(&summary(mode(arguments), files.len(), wrong, total));
    terminal::err(&transcribed(&unverified));
    if wrong > 0 || total.failed > 0 || total.unsettled > 0 {
        exit::CONFIGURATION
    } else {
        exit::OK
    }
}

/// The release that the model is, where it was asked for; beside a live kernel it is that kernel's own
/// otherwise, and the run compares the two.
fn modelled(arguments: &Arguments, script: &Script) -> Option<Kernel> {
    match mode(arguments) {
        Mode::Model => Some(script.host.kernel),
        Mode::Both => script.beside,
        Mode::Live => None,
    }
}

/// That no live kernel has confirmed the answers of these releases.
fn transcribed(releases: &BTreeSet<Kernel>) -> String {
    if releases.is_empty() {
        return String::new();
    }
    let named: Vec<String> = releases.iter().map(Kernel::to_string).collect();
    format!(
        "note: transcribed, not verified: the model of Linux {} (no live kernel of such a release, with the \
         same changes, was compared with it)\n",
        named.join(", ")
    )
}

fn mode(arguments: &Arguments) -> Mode {
    match (arguments.live, arguments.both) {
        (true, _) => Mode::Live,
        (_, true) => Mode::Both,
        _ => Mode::Model,
    }
}

fn summary(mode: Mode, files: usize, wrong: usize, total: Tally) -> String {
    let mut line = format!(
        "{}, {}",
        counted(files, "scenario"),
        counted(total.steps, "step")
    );
    if wrong > 0 {
        line += &format!(", {} not understood", counted(wrong, "scenario"));
    }
    if total.skipped > 0 {
        line += &format!(", {} skipped", counted(total.skipped, "scenario"));
    }
    if total.unsettled > 0 {
        line += &format!(
            ", {} without a verdict",
            counted(total.unsettled, "scenario")
        );
    }
    line += &format!(", {} failed", counted(total.failed, "step"));
    if mode == Mode::Both {
        line += &format!(", {}", counted(total.differ, "difference"));
    }
    line + "\n"
}

fn counted(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

/// Runs one script; with a live kernel in a child, whose network is its own.
fn scenario(arguments: &Arguments, name: &str, script: &Script) -> Result<Tally, String> {
    let mode = mode(arguments);
    let detail = Detail {
        explain: arguments.explain,
        colour: terminal::out_colours(),
    };
    let work = || steps(name, script, mode, detail, arguments.quiet);
    let done = match mode {
        Mode::Model => Ok(work()),
        Mode::Live => script::apart(work),
        Mode::Both => script::settled(name, || script::apart(work)),
    };
    let (tally, text) = done.map_err(|error| error.to_string())?;
    terminal::out(&text);
    Ok(tally)
}

fn steps(name: &str, script: &Script, mode: Mode, detail: Detail, quiet: bool) -> (Tally, String) {
    let mut run = match Run::prepare(script, mode) {
        Ok(run) => run,
        Err(obstacle) => {
            let (tally, why) = obstacle.told();
            return (tally, format!("{name}: {why}\n"));
        }
    };
    if detail.explain
        && let Some(model) = &mut run.model
    {
        model.find_ways();
    }
    let (mut tally, mut text) = (Tally::default(), format!("{name}\n"));
    for step in &script.steps {
        let begun = Instant::now();
        let row = run.step(step);
        tally.count(step, &row, begun.elapsed());
        if !quiet || !row.complaints.is_empty() {
            text += &script::row(script, step, &row, ports(&run, &row), detail);
        }
    }
    if quiet && tally.failed == 0 {
        text.clear();
    }
    (tally, text)
}

fn ports<'a>(run: &'a Run, row: &Row) -> &'a [u16] {
    if row.kernel.is_some() {
        &run.ports.1
    } else {
        &run.ports.0
    }
}
