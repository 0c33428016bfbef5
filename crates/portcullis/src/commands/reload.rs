//! `portcullis reload`: has a running process read its files again, and tells how that went.
//!
//! Decides:  what is said where nothing came of it.
//! Not here: the reload itself (control::run), how the process is found and asked (asking.rs).

use clap::Args;
use portcullis_control::control_socket;

use super::asking::{self, Question};
use crate::exit::Exit;

/// Arguments of `reload`.
#[derive(Debug, Args)]
#[command(override_usage = "portcullis reload -p <PIDFILE>\n       portcullis reload -f <FILE>...")]
pub struct Arguments {
    #[command(flatten)]
    process: asking::Running,
}

/// Asks, waits, tells.
pub fn run(arguments: &Arguments) -> Exit {
    let question = Question {
        ask: control_socket::ask_for_reload,
        refused: "reload refused: nothing was changed",
        help: "; a signal, HUP, asks it too, and its log tells how it went",
    };
    asking::ask(&arguments.process, &question)
}
