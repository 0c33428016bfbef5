//! `portcullis reload`: has a running process read its files again, and tells how that went.
//!
//! Decides:  how the process is found: by its pid file, or by the one that the configuration names.
//! Not here: the reload itself (control::run), the words on the socket (control::control_socket).

use std::path::PathBuf;

use clap::Args;
use portcullis_config::HostFiles;
use portcullis_control::{Overrides, control_socket};

use crate::exit::{self, Exit};
use crate::load::{self, Warnings};
use crate::terminal;

/// Arguments of `reload`.
#[derive(Debug, Args)]
#[command(override_usage = "portcullis reload -p <PIDFILE>\n       portcullis reload -f <FILE>...")]
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
    let Some(pidfile) = arguments
        .pidfile
        .clone()
        .or_else(|| named(&arguments.files))
    else {
        return exit::USAGE;
    };
    match control_socket::ask_for_reload(&pidfile) {
        Ok(outcome) if outcome.done => {
            if !arguments.quiet {
                terminal::out(&outcome.report);
            }
            exit::OK
        }
        Ok(outcome) => {
            let refused = "error: reload refused: nothing was changed\n";
            terminal::err(&format!("{}{refused}", outcome.report));
            exit::CONFIGURATION
        }
        Err(error) => {
            let socket = control_socket::beside(&pidfile);
            terminal::err(&format!(
                "error: nobody answers at {}: {error}\n  help: the process must run with this pid \
                 file (`-p` or `pidfile`); a signal, HUP, asks it too, and its log tells how it \
                 went\n",
                socket.display()
            ));
            exit::INTERNAL
        }
    }
}

/// The pid file that the configuration names. Whatever else is wrong in it is for the process to say.
pub fn named(files: &[PathBuf]) -> Option<PathBuf> {
    let overrides = Overrides::default();
    let loaded = load::load(files, &HostFiles, &overrides, Warnings::Allowed);
    let Some(config) = &loaded.config else {
        loaded.show();
        terminal::err(
            "error: the pid file is not known, since the files are refused: name it with `-p`\n",
        );
        return None;
    };
    let pidfile = config.global.pidfile.as_ref().map(|at| at.value.clone());
    if pidfile.is_none() {
        terminal::err("error: the configuration names no `pidfile`: name it with `-p`\n");
    }
    pidfile
}
