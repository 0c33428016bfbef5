//! `portcullis check`: is this configuration valid, and would this host open what it says?
//!
//! Decides:  the exit code, and that a valid one gets one friendly line. What a host says refuses no file:
//!           it has exit codes of its own, those that `run` would end with.
//! Not here: what is wrong with it (the config crate, control::compile), what the host says (live.rs).

use std::path::PathBuf;

use clap::Args;
use portcullis_config::{Diagnostic, HostFiles, Severity, diagnostic};
use portcullis_control::{Overrides, Plan};

use crate::exit::{self, Exit};
use crate::live::foreseen::{self, Host};
use crate::load::{self, Loaded};
use crate::terminal;

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(override_usage = "portcullis check [OPTIONS] -f <FILE>...")]
pub struct Arguments {
    #[command(flatten)]
    files: super::ConfigFiles,
    /// Write the findings to standard output as JSON, for editors and CI
    #[arg(long)]
    json: bool,
    /// Do not ask this host: only what the files say
    #[arg(long)]
    offline: bool,
    /// Ask the host of a file that `why --save` wrote, instead of this one
    #[arg(long, value_name = "FILE", conflicts_with = "offline")]
    host: Option<PathBuf>,
    /// As for `run -x`: the process that answers at this socket would give its listening sockets
    #[arg(short = 'x', value_name = "SOCKET", conflicts_with_all = ["offline", "host"])]
    take_from: Option<PathBuf>,
    /// A warning of the files refuses the configuration (HAProxy's -dW)
    #[arg(long)]
    warnings_refuse: bool,
    /// Say nothing where there is nothing to say
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Accepted as in HAProxy: the answer for a valid configuration is always shown
    #[arg(short = 'V')]
    verbose: bool,
}

/// Checks, and tells.
pub fn run(arguments: &Arguments) -> Exit {
    let warnings = super::warnings(arguments.warnings_refuse);
    let paths = arguments.files.paths();
    let mut loaded = load::load(&paths, &HostFiles, &Overrides::default(), warnings);
    let exit = match &loaded.plan {
        Some(_) if arguments.offline => exit::OK,
        Some(plan) => match of_host(plan, foreseen::Whole::Yes, arguments) {
            Ok(found) => {
                let exit = code(&found);
                loaded.diagnostics.extend(found);
                diagnostic::sort(&mut loaded.diagnostics);
                exit
            }
            Err(exit) => return exit,
        },
        None => {
            if let Some(part) = loaded.readable.as_ref().filter(|_| !arguments.offline) {
                let found = match of_host(part, foreseen::Whole::No, arguments) {
                    Ok(found) => found,
                    Err(exit) => return exit,
                };
                loaded
                    .diagnostics
                    .extend(beside_errors(found, &loaded.diagnostics));
                diagnostic::sort(&mut loaded.diagnostics);
            }
            exit::CONFIGURATION
        }
    };
    if arguments.json {
        terminal::out(&loaded.json());
        return exit;
    }
    loaded.show();
    match &loaded.plan {
        Some(plan) if exit == exit::OK && (!arguments.quiet || arguments.verbose) => {
            terminal::out(&friendly(&paths, plan, &loaded));
        }
        _ => {}
    }
    exit
}

/// Of what the host says to a file that is refused: what is about lines that have no error of their own.
fn beside_errors(found: Vec<Diagnostic>, known: &[Diagnostic]) -> Vec<Diagnostic> {
    let errors = known.iter().filter(|one| one.severity == Severity::Error);
    let wrong: Vec<_> = errors.filter_map(|one| one.place).collect();
    let about = |one: &Diagnostic| one.place.is_some_and(|place| wrong.contains(&place));
    found.into_iter().filter(|one| !about(one)).collect()
}

/// What the host says. A file of a host that cannot be read ends it; this host is then not asked.
fn of_host(
    plan: &Plan,
    whole: foreseen::Whole,
    arguments: &Arguments,
) -> Result<Vec<Diagnostic>, Exit> {
    let host = match &arguments.host {
        Some(path) => Host::File(path),
        None => Host::This,
    };
    match (
        foreseen::foresee(plan, whole, &host, arguments.take_from.as_deref()),
        &arguments.host,
    ) {
        (Ok(found), _) => Ok(found),
        (Err(error), Some(path)) => {
            terminal::err(&format!("error: {}: {error}\n", path.display()));
            Err(exit::USAGE)
        }
        (Err(error), None) => {
            let what = format!("what this host says is not known: {error}");
            Ok(vec![Diagnostic::new(Severity::Notice, "host-unread", what)])
        }
    }
}

/// What `run` would end with.
fn code(found: &[Diagnostic]) -> Exit {
    let mut errors = found.iter().filter(|one| one.severity == Severity::Error);
    match errors.next() {
        None => exit::OK,
        Some(_) if found.iter().any(|one| one.code == foreseen::REFUSES) => exit::LISTENER,
        Some(_) => exit::PRIVILEGES,
    }
}

fn friendly(paths: &[PathBuf], plan: &Plan, loaded: &Loaded) -> String {
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    let servers: usize = plan.backends.iter().map(|b| b.servers.len()).sum();
    let warnings = loaded.diagnostics.len();
    let mut line = format!(
        "{}: valid ({}, {}, {}, {}",
        names.join(", "),
        counted(plan.frontends.len(), "frontend"),
        counted(plan.listeners.len(), "listener"),
        counted(plan.backends.len(), "backend"),
        counted(servers, "server"),
    );
    if warnings > 0 {
        line += &format!("; {}", counted(warnings, "remark"));
    }
    line + ")\n"
}

fn counted(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
