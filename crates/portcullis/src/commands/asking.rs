//! Asking a running process for something, and telling how that went: what `reload` and `upgrade` share.
//!
//! Decides:  how the process is found: by its pid file, or by the one that the configuration names; the exit code.
//! Not here: the words on the socket (control::control_socket), what the process does (control::run).

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use portcullis_config::HostFiles;
use portcullis_control::control_socket::Outcome;
use portcullis_control::{Overrides, control_socket};

use crate::exit::{self, Exit};
use crate::load::{self, Warnings};
use crate::terminal;

/// Which process.
#[derive(Debug, Args)]
pub struct Running {
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

/// What is asked.
pub struct Question {
    /// Asks the process of this pid file, and waits.
    pub ask: fn(&Path) -> io::Result<Outcome>,
    /// What is said where the process did not do it.
    pub refused: &'static str,
    /// What else helps where nobody answers.
    pub help: &'static str,
}

/// Asks, waits, tells.
pub fn ask(arguments: &Running, question: &Question) -> Exit {
    let pidfile = arguments.pidfile.clone();
    let Some(pidfile) = pidfile.or_else(|| named(&arguments.files)) else {
        return exit::USAGE;
    };
    match (question.ask)(&pidfile) {
        Ok(outcome) if outcome.done => {
            if !arguments.quiet {
                terminal::out(&outcome.report);
            }
            exit::OK
        }
        Ok(outcome) => {
            terminal::err(&format!("{}error: {}\n", outcome.report, question.refused));
            exit::CONFIGURATION
        }
        Err(error) => {
            let socket = control_socket::beside(&pidfile);
            terminal::err(&format!(
                "error: nobody answers at {}: {error}\n  help: the process must run with this pid \
                 file (`-p` or `pidfile`){}\n",
                socket.display(),
                question.help
            ));
            exit::INTERNAL
        }
    }
}

/// The pid file that the configuration names. Whatever else is wrong in it is for the process to say.
fn named(files: &[PathBuf]) -> Option<PathBuf> {
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
