//! `portcullis check`: is this configuration valid?
//!
//! Decides:  the exit code (0 or 1), and that a valid one gets one friendly line.
//! Not here: what is wrong with it (the config crate, control::compile).

use std::path::PathBuf;

use clap::Args;
use portcullis_config::HostFiles;
use portcullis_control::{Overrides, Plan};

use crate::exit::{self, Exit};
use crate::load::{self, Loaded};
use crate::terminal;

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(override_usage = "portcullis check [OPTIONS] -f <FILE>...")]
pub struct Arguments {
    #[command(flatten)]
    files: super::ConfigFiles,
    /// Write the findings to standard output as JSON, for editors and CI
    #[arg(long)]
    json: bool,
    /// A warning refuses the configuration (HAProxy's -dW)
    #[arg(long)]
    warnings_refuse: bool,
    /// Say nothing where there is nothing to say
    #[arg(short = 'q', long)]
    quiet: bool,
    /// Accepted as in HAProxy: the answer for a valid configuration is always shown
    #[arg(short = 'V')]
    verbose: bool,
}

/// Checks, and tells.
pub fn run(arguments: &Arguments) -> Exit {
    let warnings = super::warnings(arguments.warnings_refuse);
    let paths = arguments.files.paths();
    let loaded = load::load(&paths, &HostFiles, &Overrides::default(), warnings);
    let exit = match loaded.plan {
        Some(_) => exit::OK,
        None => exit::CONFIGURATION,
    };
    if arguments.json {
        terminal::out(&loaded.json());
        return exit;
    }
    loaded.show();
    match &loaded.plan {
        Some(plan) if !arguments.quiet || arguments.verbose => {
            terminal::out(&friendly(&paths, plan, &loaded));
        }
        _ => {}
    }
    exit
}

fn friendly(paths: &[PathBuf], plan: &Plan, loaded: &Loaded) -> String {
    let names: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    let servers: usize = plan.backends.iter().map(|b| b.servers.len()).sum();
    let warnings = loaded.diagnostics.len();
    let mut line = format!(
        "{}: valid ({}, {}, {}, {}",
        names.join(", "),
        counted(plan.frontends.len(), "frontend"),
        counted(plan.listeners.len(), "listener"),
        counted(plan.backends.len(), "backend"),
        counted(servers, "server"),
    );
    if warnings > 0 {
        line += &format!("; {}", counted(warnings, "remark"));
    }
    line + ")\n"
}

fn counted(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}
