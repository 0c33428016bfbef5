//! `portcullis why`: why a port cannot be opened, and why a program cannot listen.
//!
//! Decides:  the options, and which of the four questions is asked: of an address, of an address that gets
//!           no connections, of a program; or none, and the host is written down.
//! Not here: the answers of an address (why/asked.rs, crate `inspect`), running and watching a program
//!           (watched.rs), reading the report off it (crate `trace`).

mod asked;
mod target;
pub mod unix;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::exit::{self, Exit};
use crate::terminal;
use crate::watched::{self, Form};

const NOTHING_ASKED: &str = "\
error: what is to be explained? Give an address, or a program

  portcullis why *:443                        would this port open now, and if not, why
  portcullis why --no-traffic 10.0.0.5:443    it listens, and nothing arrives
  portcullis why -- nginx -g 'daemon off;'    a program that cannot listen, watched
  portcullis why shared-silently              a word of `portcullis listeners`
  portcullis why --save host.json             the host in a file, for --host

For all options, try 'portcullis why --help'.
";

/// Arguments of `why`.
#[derive(Debug, Args)]
#[command(
    override_usage = "portcullis why [OPTIONS] <ADDR[:PORT]>\n       portcullis why --save <FILE>\n       portcullis why [--json] [-o FILE] -- <COMMAND>...",
    after_help = "Nothing is bound to find out. A line after `try` was tried on the kernel model of this host; one after `hint` was not.\nEnds with 0 if it would work, 1 if not, 2 for a wrong command line, 3 if it depends on what cannot be seen.\n\nA COMMAND runs as it always does, in the foreground, at full speed but for the calls that open listeners.\nFindings are written to standard error as they come. It ends when the last process that the program started ends."
)]
pub struct Arguments {
    #[command(flatten)]
    asked: asked::Arguments,
    /// Write everything as JSON: of a COMMAND the whole record, when it has ended
    #[arg(long)]
    json: bool,
    /// Where to write: without it answers and JSON go to standard output, a COMMAND's findings to standard
    /// error
    #[arg(short = 'o', long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The program to run, and its arguments
    #[arg(last = true, conflicts_with = "Asked", value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Answers, or runs the program.
pub fn run(arguments: &Arguments) -> Exit {
    let output = arguments.output.as_deref();
    if arguments.command.is_empty() {
        if !arguments.asked.asks() {
            terminal::err(NOTHING_ASKED);
            return exit::USAGE;
        }
        let form = if arguments.json {
            asked::Form::Json
        } else {
            asked::Form::Text
        };
        return asked::run(&arguments.asked, form, output);
    }
    let form = if arguments.json {
        Form::Json
    } else {
        Form::Text
    };
    watched::run(&arguments.command, form, output)
}
