//! `portcullis run`: load, open, serve until told to stop.
//!
//! Decides:  which exit code a failure has.
//! Not here: the order of the start and the serving (control::run).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use portcullis_config::HostFiles;
use portcullis_control::Overrides;
use portcullis_control::admin::take;
use portcullis_control::run::{self, End, Job, Ready, Relaunch, RunError};
use portcullis_control::take_over::{NotTaken, TakeOver};
use portcullis_listener::Pool;
use rustix::process::{Pid, Signal};

use crate::exit::{self, Exit};
use crate::load::{self, Loaded};
use crate::{live, terminal};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(override_usage = "portcullis run [OPTIONS] -f <FILE>...")]
pub struct Arguments {
    #[command(flatten)]
    files: super::ConfigFiles,
    /// Go to the background once the ports are open, as `daemon` in the file does
    #[arg(short = 'D')]
    daemon: bool,
    /// Stay in the foreground, whatever the file says (HAProxy's -db)
    #[arg(long, conflicts_with = "daemon", overrides_with = "foreground")]
    foreground: bool,
    /// Keep the listening sockets in a parent process, which starts another worker process where one
    /// crashes (HAProxy's -W)
    #[arg(long)]
    supervise: bool,
    /// Both: HAProxy's -Ws
    #[arg(long, hide = true, conflicts_with = "daemon")]
    supervise_in_foreground: bool,
    /// Write the process id to this file
    #[arg(short = 'p', value_name = "PIDFILE")]
    pidfile: Option<PathBuf>,
    /// Connections of the process at once, over the file's `maxconn`
    #[arg(short = 'n', value_name = "MAXCONN")]
    maxconn: Option<u32>,
    /// Say nothing at the start, errors excepted
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Say more at the start: every listener
    #[arg(short = 'V')]
    verbose: bool,
    /// A warning refuses the configuration (HAProxy's -dW)
    #[arg(long)]
    warnings_refuse: bool,
    /// Take the listening sockets of the process that answers at this socket: PIDFILE.sock of a portcullis,
    /// which goes on until this one serves, or a `stats socket` with `expose-fd listeners` (use -sf then)
    #[arg(short = 'x', value_name = "SOCKET", overrides_with = "take_from")]
    take_from: Option<PathBuf>,
    /// Once this one serves, let these processes finish: no new connections, USR1 (HAProxy's -sf)
    #[arg(long, value_name = "PID", num_args = 0.., conflicts_with = "terminate")]
    finish: Vec<u32>,
    /// Once this one serves, end these processes: TERM (HAProxy's -st)
    #[arg(long, value_name = "PID", num_args = 0..)]
    terminate: Vec<u32>,
}

/// Runs until told to stop.
pub fn run(arguments: &Arguments) -> Exit {
    let overrides = Overrides {
        maxconn: arguments.maxconn,
        daemon: arguments.daemon,
        foreground: arguments.foreground || arguments.supervise_in_foreground,
        pidfile: arguments.pidfile.clone(),
        quiet: arguments.quiet,
    };
    let paths = arguments.files.paths();
    let warnings = super::warnings(arguments.warnings_refuse);
    // First, so that the process that waits hears of whatever goes wrong.
    let (pool, take_over) = match taken(arguments) {
        Ok(taken) => taken,
        Err(error) => {
            terminal::err(&format!("error: {error}\n"));
            return exit::INTERNAL;
        }
    };
    let loaded = load::load(&paths, &HostFiles, &overrides, warnings);
    let quiet = loaded.plan.as_ref().is_some_and(|plan| plan.process.quiet);
    if !quiet {
        loaded.show();
    }
    let job = Job {
        verbose: arguments.verbose,
        explain: Some(Arc::new(live::refused::explain)),
        read: Some(load::again(paths, overrides, warnings)),
        pool,
        take_over: take_over.clone(),
        relaunch: relaunch(),
        supervise: arguments.supervise || arguments.supervise_in_foreground,
        ready: successor(arguments),
        ..Job::default()
    };
    if loaded.plan.is_none() {
        take_over.refuse(&loaded.report());
    }
    serve(loaded, job)
}

/// The sockets of the process whose place this one takes.
fn taken(arguments: &Arguments) -> Result<(Pool, TakeOver), NotTaken> {
    let pool = Pool::default();
    let take_over = match &arguments.take_from {
        // HAProxy's word for none.
        Some(path) if path != Path::new("/dev/null") => match TakeOver::begin(path, &pool) {
            // HAProxy, or a socket that may do less than that: it may give listeners in its way.
            Err(NotTaken::Foreign(_) | NotTaken::Stranger { .. }) => {
                let filled = take::fill(path, &pool);
                let (_, refused) = filled.map_err(|why| NotTaken::Refused(why.to_string()))?;
                for line in refused {
                    terminal::err(&format!("warning: {line}\n"));
                }
                TakeOver::default()
            }
            begun => begun?,
        },
        _ => TakeOver::default(),
    };
    Ok((pool, take_over))
}

/// Who is told to stop when this process serves.
fn successor(arguments: &Arguments) -> Option<Ready> {
    let (pids, signal) = match arguments.terminate.is_empty() {
        false => (arguments.terminate.clone(), Signal::TERM),
        true => (arguments.finish.clone(), Signal::USR1),
    };
    let pids: Vec<Pid> = pids
        .into_iter()
        .filter_map(|pid| i32::try_from(pid).ok().and_then(Pid::from_raw))
        .collect();
    if pids.is_empty() {
        return None;
    }
    Some(Box::new(move || {
        for pid in pids {
            // One that has ended already is what is wanted.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }))
}

/// How this program was started, without what was for once.
fn relaunch() -> Option<Relaunch> {
    let mut given = std::env::args_os();
    let program = PathBuf::from(given.next()?);
    let program = match program.components().count() > 1 {
        true => std::path::absolute(program).ok()?,
        false => std::env::current_exe().ok()?,
    };
    let arguments = without_hand_over(given);
    Some(Relaunch { program, arguments })
}

/// The arguments without `-x SOCKET`, `-sf PID…` and `-st PID…`.
fn without_hand_over(given: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let is_number = |text: &OsString| text.to_str().is_some_and(|it| it.parse::<u32>().is_ok());
    let mut kept = Vec::new();
    let mut given = given.peekable();
    while let Some(argument) = given.next() {
        match argument.to_str() {
            Some("-x") => drop(given.next()),
            Some("-sf" | "-st" | "--finish" | "--terminate") => {
                while given.next_if(is_number).is_some() {}
            }
            Some("--") => {
                kept.push(argument);
                kept.extend(given.by_ref());
            }
            _ => kept.push(argument),
        }
    }
    kept
}

/// Puts what was loaded to work; the same for `run` and `demo`.
pub fn serve(loaded: Loaded, job: Job) -> Exit {
    let Some(plan) = loaded.plan else {
        return exit::CONFIGURATION;
    };
    match run::run(plan, &loaded.sources, job) {
        Ok(End::Served) => exit::OK,
        Ok(End::Role { code, message }) => {
            if let Some(message) = message {
                terminal::err(&format!("portcullis: {message}\n"));
            }
            exit::of_child(code)
        }
        Err(error) => {
            terminal::err(&format!("error: {error}\n"));
            code(&error)
        }
    }
}

fn code(error: &RunError) -> Exit {
    match error.kind() {
        run::Kind::Configuration => exit::CONFIGURATION,
        run::Kind::Listener => exit::LISTENER,
        run::Kind::Privileges => exit::PRIVILEGES,
        run::Kind::Internal => exit::INTERNAL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_begins_with_the_same_arguments_but_those_of_the_last_one() {
        for (given, kept) in [
            ("run -f a.cfg -p x.pid", "run -f a.cfg -p x.pid"),
            ("run -f a.cfg -x x.sock -D", "run -f a.cfg -D"),
            ("run -sf 1 22 333 -f a.cfg -st", "run -f a.cfg"),
            ("run --finish 7 -V", "run -V"),
            ("run -f a.cfg -- -x 1", "run -f a.cfg -- -x 1"),
        ] {
            let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
            assert_eq!(
                without_hand_over(words(given).into_iter()),
                words(kept),
                "{given}"
            );
        }
    }
}
