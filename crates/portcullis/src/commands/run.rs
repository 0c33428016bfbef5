//! `portcullis run`: load, open, serve until told to stop.
//!
//! Decides:  which exit code a failure has.
//! Not here: the order of the start and the serving (control::run).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use portcullis_config::HostFiles;
use portcullis_control::Overrides;
use portcullis_control::admin::take;
use portcullis_control::run::{self, End, Job, Ready, RunError};
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
    /// Stay in the foreground, whatever the file says (HAProxy's -db and -Ws)
    #[arg(long, conflicts_with = "daemon", overrides_with = "foreground")]
    foreground: bool,
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
    /// Take the listening sockets of the process that answers at this socket, which goes on until
    /// this one serves: the `stats socket` of a HAProxy, with `expose-fd listeners`
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
        foreground: arguments.foreground,
        pidfile: arguments.pidfile.clone(),
        quiet: arguments.quiet,
    };
    let paths = arguments.files.paths();
    let warnings = super::warnings(arguments.warnings_refuse);
    let loaded = load::load(&paths, &HostFiles, &overrides, warnings);
    let quiet = loaded.plan.as_ref().is_some_and(|plan| plan.process.quiet);
    if !quiet {
        loaded.show();
    }
    let pool = match taken(arguments) {
        Ok(pool) => pool,
        Err(error) => {
            terminal::err(&format!("error: {error}\n"));
            return exit::INTERNAL;
        }
    };
    let job = Job {
        pool,
        ready: successor(arguments),
        verbose: arguments.verbose,
        explain: Some(Arc::new(live::refused::explain)),
        read: Some(load::again(paths, overrides, warnings)),
        ..Job::default()
    };
    serve(loaded, job)
}

/// The sockets of the process whose place this one takes.
fn taken(arguments: &Arguments) -> Result<Pool, take::NotTaken> {
    let pool = Pool::default();
    // HAProxy's word for none.
    let path = arguments.take_from.as_deref();
    if let Some(path) = path.filter(|path| *path != Path::new("/dev/null")) {
        from_haproxy(path, &pool)?;
    }
    Ok(pool)
}

/// Those of a HAProxy, or of whatever speaks its protocol at a `stats socket`.
fn from_haproxy(path: &Path, pool: &Pool) -> Result<(), take::NotTaken> {
    let (_, refused) = take::fill(path, pool)?;
    for text in refused {
        terminal::err(&format!("warning: {text}\n"));
    }
    Ok(())
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
