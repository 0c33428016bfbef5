//! `portcullis`: the command line.
//!
//! Decides:  which commands there are.
//! Not here: what a command does (commands/), what a code means (exit.rs).

mod commands;
mod demo;
mod exit;
mod filesystem;
mod listeners;
mod live;
mod load;
mod terminal;
mod watched;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The TCP front door of a Linux host: opens listening sockets right and balances what comes in.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, after_help = exit::help(), disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the balancer that a haproxy.cfg describes
    Run(commands::run::Arguments),
    /// Have a running balancer read its files again, and wait for the outcome
    Reload(commands::reload::Arguments),
    /// Replace a running balancer by the program that is installed now, and lose no connection
    Upgrade(commands::upgrade::Arguments),
    /// Check a configuration: every mistake at once, with its place
    Check(commands::check::Arguments),
    /// See it work: three echo servers and a balancer in front of them, on free local ports
    Demo(commands::demo::Arguments),
    /// Run socket calls in a model of the kernel, on the live kernel, or on both
    Sim(commands::sim::Arguments),
    /// List who listens where, how full it is, and what may surprise
    Listeners(commands::listeners::Arguments),
    /// Say why a port cannot be opened, or run a program and say why it cannot listen
    Why(commands::why::Arguments),
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(commands::haproxy_habits(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come here too, and are no error.
            let code = if error.use_stderr() {
                exit::USAGE
            } else {
                exit::OK
            };
            // Nothing is left to do if even this cannot be written.
            let _ = error.print();
            return code.into();
        }
    };
    let exit = match cli.command {
        Command::Run(arguments) => commands::run::run(&arguments),
        Command::Reload(arguments) => commands::reload::run(&arguments),
        Command::Upgrade(arguments) => commands::upgrade::run(&arguments),
        Command::Check(arguments) => commands::check::run(&arguments),
        Command::Demo(arguments) => commands::demo::run(&arguments),
        Command::Sim(arguments) => commands::sim::run(&arguments),
        Command::Listeners(arguments) => commands::listeners::run(&arguments),
        Command::Why(arguments) => commands::why::run(&arguments),
    };
    let Some(error) = terminal::lost() else {
        return exit.into();
    };
    let why = portcullis_sys::errno::of(error);
    terminal::err(&format!("error: cannot write standard output: {why}\n"));
    match exit == exit::OK {
        true => exit::USAGE.into(),
        false => exit.into(),
    }
}
