//! `portcullis upgrade`: has a running process start the program anew in its own place.
//!
//! Decides:  what is said where nothing came of it.
//! Not here: the hand-over (control::run), how the process is found and asked (asking.rs).

use clap::Args;
use portcullis_control::control_socket;

use super::asking::{self, Question};
use crate::exit::Exit;

/// Arguments of `upgrade`.
#[derive(Debug, Args)]
#[command(
    override_usage = "portcullis upgrade -p <PIDFILE>\n       portcullis upgrade -f <FILE>..."
)]
pub struct Arguments {
    #[command(flatten)]
    process: asking::Running,
}

/// Asks, waits, tells.
pub fn run(arguments: &Arguments) -> Exit {
    let question = Question {
        ask: control_socket::ask_for_upgrade,
        refused: "not upgraded: the running process goes on as it was",
        help: "",
    };
    asking::ask(&arguments.process, &question)
}
