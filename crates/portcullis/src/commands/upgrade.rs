//! `portcullis upgrade`: has a running process start the program anew in its own place.
//!
//! Decides:  what is said where nothing came of it.
//! Not here: the hand-over (control::run), how the process is found (reload.rs).

use std::path::PathBuf;

use clap::Args;
use portcullis_control::control_socket;

use super::reload;
use crate::exit::{self, Exit};
use crate::terminal;

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
#[command(
    override_usage = "portcullis upgrade -p <PIDFILE>\n       portcullis upgrade -f <FILE>..."
)]
pub struct Arguments {
    /// The pid file of the process
    #[arg(
        short = 'p',
        long = "pid",
        value_name = "PIDFILE",
        required_unless_present = "files"
    )]
    pidfile: Option<PathBuf>,
    /// Its configuration, which names the pid file; may be repeated
    #[arg(
        short = 'f',
        long = "file",
        value_name = "FILE",
        conflicts_with = "pidfile"
    )]
    files: Vec<PathBuf>,
    /// Say nothing where it worked
    #[arg(short = 'q', long)]
    quiet: bool,
}

/// Asks, waits, tells.
pub fn run(arguments: &Arguments) -> Exit {
    let pidfile = arguments.pidfile.clone();
    let Some(pidfile) = pidfile.or_else(|| reload::named(&arguments.files)) else {
        return exit::USAGE;
    };
    match control_socket::ask_for_upgrade(&pidfile) {
        Ok(outcome) if outcome.done => {
            if !arguments.quiet {
                terminal::out(&outcome.report);
            }
            exit::OK
        }
        Ok(outcome) => {
            let goes_on = "error: not upgraded: the running process goes on as it was\n";
            terminal::err(&format!("{}{goes_on}", outcome.report));
            exit::CONFIGURATION
        }
        Err(error) => {
            let socket = control_socket::beside(&pidfile);
            terminal::err(&format!(
                "error: nobody answers at {}: {error}\n  help: the process must run with this pid \
                 file (`-p` or `pidfile`)\n",
                socket.display()
            ));
            exit::INTERNAL
        }
    }
}
