//! Runs a program in the foreground while it is watched, and reports.
//!
//! Decides:  which signals are passed on, and how Ctrl-Z works; where the report goes; the exit code.
//! Kernel:   kernel/signal.c; drivers/tty/tty_jobctrl.c; credentials(7), "Process group and session"
//! Not here: what is found (crate `trace`).
//!
//! The program is in our process group, so the terminal's keys reach it as if it ran alone; we only must
//! not die of them. What another process sends to us is meant for the program.

mod host;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use portcullis_inspect::plain;
use portcullis_sys::process::{Received, Sender, SignalMask, Signals};
use portcullis_sys::{errno, files};
use portcullis_trace::{Ending, Error, Finding, Handle, Observer, Outcome, Record, Watch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;

use crate::exit::{self, Exit};
use crate::terminal;

/// What would end or stop this process.
const SIGNALS: [Signal; 9] = [
    Signal::INT,
    Signal::TERM,
    Signal::HUP,
    Signal::QUIT,
    Signal::USR1,
    Signal::USR2,
    Signal::TSTP,
    Signal::CONT,
    Signal::ALARM,
];
/// How long a finding waits at least that depends on what the program does next.
const QUIET: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// So many of the addresses where something listened are told.
const NAMED_MAX: usize = 8;

/// What the report is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Findings, each as it comes.
    Text,
    /// The record, at the end.
    Json,
}

/// Runs a program to the end of its last process.
pub fn run(command: &[OsString], form: Form, output: Option<&Path>) -> Exit {
    let report = match Report::open(form, output) {
        Ok(report) => report,
        Err(error) => {
            let name = output.map(|path| path.display().to_string());
            let name = name.unwrap_or_default();
            terminal::err(&format!(
                "error: cannot write {name}: {}\n",
                errno::of(&error)
            ));
            return exit::NOT_WATCHED;
        }
    };
    match watch(command, &report) {
        Ok(Ok(outcome)) => {
            if let Err(error) = report.end(&outcome.record) {
                terminal::err(&format!(
                    "error: cannot write the report: {}\n",
                    errno::of(&error)
                ));
                return exit::NOT_WATCHED;
            }
            code(outcome.ended)
        }
        Ok(Err(error)) => {
            terminal::err(&format!("error: {error}\n"));
            match error {
                Error::NotFound { .. } => exit::NOT_FOUND,
                Error::NotExecutable { .. } => exit::NOT_EXECUTABLE,
                Error::Refused { .. } | Error::Lost { .. } => exit::NOT_WATCHED,
            }
        }
        Err(error) => {
            terminal::err(&format!(
                "error: cannot watch a program: {}\n",
                errno::of(&error)
            ));
            exit::NOT_WATCHED
        }
    }
}

fn code(ended: Ending) -> Exit {
    exit::of_program(match ended {
        Ending::Exited(code) => code as u8,
        Ending::Killed(signal) => (128 + signal) as u8,
    })
}

/// Starts it with the signals as they are, and runs it with ours held.
fn watch(command: &[OsString], report: &Report) -> io::Result<Result<Outcome, Error>> {
    let mask = SignalMask::current()?;
    let signals = Signals::block(&SIGNALS)?;
    let (end, ended) = io::pipe()?;
    let watch = match Watch::start(command, &mask) {
        Ok(watch) => watch,
        Err(error) => return Ok(Err(error)),
    };
    let handle = watch.handle();
    let mut observer = Reporter { report };
    std::thread::scope(|scope| {
        let relay = scope.spawn(|| relay(&signals, &handle, &end, report));
        let outcome = watch.run(&mut host::OnHost::new(), &mut observer);
        drop(ended);
        // It waits for nothing but this end.
        let _ = relay.join();
        // What came for the program (Ctrl-C that ended it) would end us when it is not held any more.
        while matches!(signals.next(), Ok(Some(_))) {}
        Ok(outcome)
    })
}

/// Passes signals on, and asks for findings that had to wait, until the other end is closed.
fn relay(signals: &Signals, handle: &Handle, end: &io::PipeReader, report: &Report) {
    loop {
        let mut ready = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(end, PollFlags::IN),
        ];
        match poll(&mut ready, Some(&QUIET)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !ready[1].revents().is_empty() {
            return;
        }
        while let Ok(Some(received)) = signals.next() {
            pass_on(received, handle);
        }
        for finding in handle.settle() {
            report.finding(&finding);
        }
    }
}

fn pass_on(received: Received, handle: &Handle) {
    let signal = match received.signal {
        // The program is gone, and what it left behind in the background may not care for INT.
        Signal::INT if !handle.first_runs() => Signal::TERM,
        signal => signal,
    };
    match received.from {
        // The program stops itself, if it wants to, and we do when it has.
        Sender::Kernel if signal == Signal::TSTP => {}
        Sender::Kernel => handle.send_outside_group(signal),
        Sender::Process(_) => handle.send(signal),
    }
}

/// Writes the report.
struct Report {
    form: Form,
    file: Option<Mutex<File>>,
}

impl Report {
    fn open(form: Form, output: Option<&Path>) -> io::Result<Report> {
        let file = output.map(File::create).transpose()?;
        Ok(Report {
            form,
            file: file.map(Mutex::new),
        })
    }

    /// A line or more of the text.
    fn text(&self, text: &str) -> io::Result<()> {
        match &self.file {
            Some(file) => file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(text.as_bytes()),
            None => {
                terminal::err(text);
                Ok(())
            }
        }
    }

    fn finding(&self, finding: &Finding) {
        if self.form == Form::Text {
            // What cannot be written now cannot be written at the end either, where it is told.
            let _ = self.text(&told(finding));
        }
    }

    fn end(&self, record: &Record) -> io::Result<()> {
        if self.form == Form::Text {
            return self.text(&summary(record));
        }
        let mut json = serde_json::to_string_pretty(record)?;
        json.push('\n');
        match &self.file {
            Some(file) => file
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .write_all(json.as_bytes()),
            None => terminal::try_out(&json),
        }
    }
}

/// A finding, with no control character of what the program named.
fn told(finding: &Finding) -> String {
    let mut finding = finding.clone();
    finding.program = plain(&finding.program);
    for holder in &mut finding.holders {
        holder.program = plain(&holder.program);
        holder.what = plain(&holder.what);
        for line in &mut holder.more {
            *line = plain(line);
        }
    }
    if let Some(rule) = &mut finding.rule {
        rule.text = plain(&rule.text);
    }
    for way in &mut finding.ways {
        way.text = plain(&way.text);
    }
    let kind = finding.kind.to_string();
    finding.to_string().replace(&kind, &plain(&kind)) + "\n"
}

/// What was told once and happened more often, and who listened.
fn summary(record: &Record) -> String {
    let mut text = String::new();
    for finding in record.findings.iter().filter(|finding| finding.times > 1) {
        let (program, times) = (plain(&finding.program), finding.times);
        let kind = plain(&finding.kind.to_string());
        text += &format!(
            "note: {program} (pid {}): {times} times: {kind}\n",
            finding.process
        );
    }
    let listened: BTreeSet<&str> = record
        .sockets
        .iter()
        .filter(|socket| socket.backlog_limit.is_some())
        .filter_map(|socket| socket.address.as_deref())
        .collect();
    let named: Vec<&str> = listened.iter().copied().take(NAMED_MAX).collect();
    let found = match record.findings.len() {
        0 => "nothing to complain of".to_owned(),
        1 => "1 finding".to_owned(),
        many => format!("{many} findings"),
    };
    let left = match record.left_out {
        0 => String::new(),
        many => format!("; {many} sockets or findings were too many to keep"),
    };
    let listened = match listened.len() {
        0 => "nothing listened".to_owned(),
        many if many > NAMED_MAX => format!(
            "listened on {} addresses, {} among them",
            many,
            plain(&named.join(", "))
        ),
        _ => format!("listened on {}", plain(&named.join(", "))),
    };
    if !files::proc_is_ours() {
        text += "note: /proc is not there, or is of another PID namespace: who ran which program, and who else \
                 holds a socket, is not known (unshare --mount-proc, mount -t proc proc /proc)\n";
    }
    text + &format!("note: {listened}; {found}{left}\n")
}

/// Tells what happens while the program runs.
struct Reporter<'a> {
    report: &'a Report,
}

impl Observer for Reporter<'_> {
    fn found(&mut self, finding: &Finding) {
        self.report.finding(finding);
    }

    /// Ctrl-Z: the shell waits for us to stop, not for the program.
    fn stopped(&mut self, signal: i32) {
        let by_terminal = [Signal::TSTP, Signal::TTIN, Signal::TTOU];
        if by_terminal.iter().any(|known| known.as_raw() == signal) {
            // SIGSTOP cannot be refused to oneself; should it be, the program alone stands still.
            let _ = rustix::process::kill_process(rustix::process::getpid(), Signal::STOP);
        }
    }

    fn first_ended(&mut self, ending: Ending, left: usize) {
        if self.report.form == Form::Json {
            return;
        }
        let how = match ending {
            Ending::Exited(code) => format!("ended with {code}"),
            Ending::Killed(signal) => format!("was ended by signal {signal}"),
        };
        let rest = match left {
            1 => "a process that it started still runs, and is watched to its end (Ctrl-C ends it)"
                .to_owned(),
            many => format!(
                "{many} processes that it started still run, and are watched to their end (Ctrl-C ends them)"
            ),
        };
        let text = format!("note: the program {how}; {rest}\n");
        let _ = self.report.text(&text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_trace::{Holder, Kind};

    #[test]
    fn a_finding_moves_no_cursor_and_begins_no_line_by_a_name() {
        let bad = "x\u{1b}[2Jy\nerror: z".to_owned();
        let kind = Kind::RandomPort {
            address: bad.clone(),
        };
        let finding = Finding {
            severity: kind.severity(),
            kind,
            process: 7,
            program: bad.clone(),
            socket: None,
            holders: vec![Holder {
                program: bad.clone(),
                process: None,
                fd: None,
                what: bad.clone(),
                more: vec![bad],
            }],
            rule: None,
            ways: Vec::new(),
            times: 1,
        };
        let text = told(&finding);
        assert_eq!(text.matches("x?[2Jy?error: z").count(), 5, "{text}");
        assert_eq!(text.matches('\n').count(), 3, "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }
}
