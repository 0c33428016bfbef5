//! `portcullis why`: why a program cannot listen.
//!
//! Decides:  the options.
//! Not here: running and watching a program (watched.rs), reading the report off it (crate `trace`).

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::exit::Exit;
use crate::watched::{self, Form};

/// Arguments of `why`.
#[derive(Debug, Args)]
#[command(
    after_help = "The program runs as it always does, in the foreground, at full speed but for the calls that open listeners.\nFindings are written to standard error as they come. It ends when the last process that the program started ends."
)]
pub struct Arguments {
    /// Write the whole record as JSON when the program has ended, instead of findings as they come
    #[arg(long)]
    json: bool,
    /// Where to write: without it findings go to standard error, JSON to standard output
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The program to run, and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the program.
pub fn run(arguments: &Arguments) -> Exit {
    let form = if arguments.json {
        Form::Json
    } else {
        Form::Text
    };
    watched::run(&arguments.command, form, arguments.output.as_deref())
}
