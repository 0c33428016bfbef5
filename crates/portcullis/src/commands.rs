//! The commands, one file each.
//!
//! Decides:  how HAProxy's spelling of options becomes ours.
//! Not here: what each command does.

mod asking;
pub mod check;
pub mod demo;
pub mod listeners;
pub mod reload;
pub mod run;
pub mod sim;
pub mod upgrade;
pub mod why;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use crate::load::Warnings;

/// The files of a configuration, as HAProxy takes them.
#[derive(Debug, Args)]
pub struct ConfigFiles {
    /// A configuration file, or a directory whose *.cfg files are read in the order of their
    /// names; may be repeated; `-` is standard input
    #[arg(short = 'f', long = "file", value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Further files, as after HAProxy's `--`
    #[arg(value_name = "FILE", required_unless_present = "files")]
    more: Vec<PathBuf>,
}

impl ConfigFiles {
    /// All of them, in order.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().chain(&self.more).cloned().collect()
    }
}

/// What a flag says about warnings.
pub fn warnings(refuse: bool) -> Warnings {
    match refuse {
        true => Warnings::Refuse,
        false => Warnings::Allowed,
    }
}

/// HAProxy's options of one dash and several letters, which clap would read as one-letter ones.
///
/// `-Ws` is how systemd units start it: with a supervisor, in the foreground, telling when it is ready,
/// which we always do where NOTIFY_SOCKET is set.
const HABITS: [(&str, &str); 6] = [
    ("-dW", "--warnings-refuse"),
    ("-db", "--foreground"),
    ("-W", "--supervise"),
    ("-Ws", "--supervise-in-foreground"),
    ("-sf", "--finish"),
    ("-st", "--terminate"),
];

/// The arguments with HAProxy's spellings replaced by ours.
pub fn haproxy_habits(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    let mut literal = false;
    arguments.map(move |argument| {
        literal |= argument == "--";
        match HABITS.iter().find(|(theirs, _)| argument == *theirs) {
            Some((_, ours)) if !literal => OsString::from(ours),
            _ => argument,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxys_spellings_become_ours_up_to_a_double_dash() {
        let given = ["run", "-db", "-Ws", "-f", "a.cfg", "-dW", "--", "-dW"];
        let read: Vec<OsString> = haproxy_habits(given.iter().map(OsString::from)).collect();
        let expected = [
            "run",
            "--foreground",
            "--supervise-in-foreground",
            "-f",
            "a.cfg",
            "--warnings-refuse",
            "--",
            "-dW",
        ];
        assert_eq!(read, expected);
    }
}
