//! Tapes against the model.
//!
//! Decides:  which host a script of a tape ran on; what a replay tells of scripts that differ.
//! Not here: the tape's bytes (tape.rs), deliberate errors (mutants.rs).

use std::io;
use std::path::Path;
use std::time::Instant;

use portcullis_kernel_model::{Kernel, Rule};

use crate::compare::Comparison;
use crate::draws::{self, Answers};
use crate::report::Report;
use crate::run::Part;
use crate::step::{Ports, Script};
use crate::tape::{Header, Reader};
use crate::worker::ports_of_window;
use crate::{print, random};

/// Scripts that differ which are shown; the rest is only counted.
const SHOWN_MAX: usize = 12;

/// A tape.
pub struct Tape {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// On what host it was recorded, and of which scripts.
    pub header: Header,
}

/// Reads a tape.
pub fn load(path: &Path) -> io::Result<Tape> {
    let bytes = std::fs::read(path).map_err(|error| of_file(path, &error))?;
    let (header, _) = Reader::open(&bytes).map_err(|error| of_file(path, &error))?;
    Ok(Tape { bytes, header })
}

/// An error with the name of the tape.
pub fn of_file(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Replays a tape until the model differs: the steps compared, and the place of the script.
pub fn replay(tape: &Tape) -> io::Result<(u64, Option<u64>)> {
    let mut replay = Replay::begin(tape)?;
    while let Some((at, _)) = replay.script()? {
        if let Some(_differs) = replay.compare(at)? {
            return Ok((replay.comparison.steps, Some(at)));
        }
    }
    Ok((replay.comparison.steps, None))
}

/// Replays the whole of a tape, for people: what was compared, and the first scripts that differ.
pub fn account(tape: &Tape) -> io::Result<Report> {
    let begun = Instant::now();
    let mut replay = Replay::begin(tape)?;
    let mut report = Report::default();
    while let Some((at, left_out)) = replay.script()? {
        report.scripts += 1;
        report.left_out += u64::from(left_out);
        if let Some(differs) = replay.compare(at)? {
            report.disagreements += 1;
            if report.shown.len() < SHOWN_MAX {
                report.shown.insert(differs);
            }
        }
    }
    let comparison = &replay.comparison;
    (report.steps, report.unclear) = (comparison.steps, comparison.unclear);
    for rule in Rule::ALL {
        let hits = comparison.coverage.hits(*rule);
        report.hits.insert(rule.info().id.to_owned(), hits);
    }
    report.took = begun.elapsed();
    let part = format!("a tape of {}", tape.header.part);
    report.parts.push((part, report.steps, report.took));
    Ok(report)
}

/// A tape that is read, and the model beside it.
struct Replay<'a> {
    header: Header,
    reader: Reader<'a>,
    comparison: Comparison,
    host: Option<(u8, Ports)>,
    ports: Ports,
    /// The place of the next script.
    next: u64,
    script: Script,
    left_out: bool,
    /// Of a script that is run many times: its last answers, and whether they are of every run.
    answers: Answers,
    whole: bool,
}

impl<'a> Replay<'a> {
    fn begin(tape: &'a Tape) -> io::Result<Replay<'a>> {
        let (header, reader) = Reader::open(&tape.bytes)?;
        let kernel = Kernel::new(header.kernel.0, header.kernel.1);
        let ports = ports_of_window(0);
        Ok(Replay {
            header,
            reader,
            comparison: Comparison::new(kernel, header.user, ports),
            host: None,
            ports,
            next: 0,
            script: Script::default(),
            left_out: false,
            answers: Answers::new(),
            whole: true,
        })
    }

    /// Goes on to the next script: its place, and whether its answers were left out.
    fn script(&mut self) -> io::Result<Option<(u64, bool)>> {
        if self.reader.at_end() {
            return Ok(None);
        }
        let at = self.next;
        let Some(mut script) = self.header.part.script(at) else {
            return Ok(None);
        };
        self.next += 1;
        if !self.header.several_users {
            random::without_other_users(&mut script);
        }
        if let Some(window) = self.reader.window() {
            self.ports = ports_of_window(window);
        }
        if self.host != Some((script.profile, self.ports)) {
            self.host = Some((script.profile, self.ports));
            self.comparison
                .set_host(script.profile, self.ports, self.header.cpu);
        }
        self.script = script;
        self.left_out = self.reader.left_out();
        Ok(Some((at, self.left_out)))
    }

    /// Compares the script, and goes behind it on the tape: what differs, in words.
    fn compare(&mut self, at: u64) -> io::Result<Option<String>> {
        let begin = self.reader.clone();
        let mut told = None;
        if !self.left_out {
            let head = format!(
                "{}: script {}\n",
                self.header.part,
                self.header.part.number(at)
            );
            told = match self.comparison.run(&self.script, &mut self.reader) {
                Ok(None) => None,
                Ok(Some(difference)) => Some(head + &print::difference(&difference)),
                // A wrong model asks for what is not there.
                Err(error) => Some(format!(
                    "{head}The answers on the tape do not fit: {error}\n"
                )),
            };
            if let Some(comment) = told {
                let said = self.comparison.kernel_said();
                told = Some(print::scenario(&self.script, said, &comment));
            }
        }
        self.reader = begin;
        self.reader.next_script()?;
        if let Part::Draws { .. } = self.header.part {
            let permits = self.draw(at);
            told = told.or(permits);
        }
        Ok(told)
    }

    /// Of a script that is run many times, takes the answer in; after the last: does the model permit
    /// what was never given?
    fn draw(&mut self, at: u64) -> Option<String> {
        let last = self.comparison.kernel_said().last().copied().flatten();
        self.whole &= !self.left_out;
        self.answers
            .extend(last.map(|seen| draws::key(&seen, &self.ports)));
        if !(at + 1).is_multiple_of(draws::REPEATS) {
            return None;
        }
        let clear = !self.reader.unclear() && self.whole;
        let kernel = std::mem::take(&mut self.answers);
        self.whole = true;
        if !clear {
            return None;
        }
        let mut alone = self.comparison.alone(self.script.profile, self.header.cpu);
        let model = draws::permitted(&mut alone, &self.script, &self.ports);
        let number = self.header.part.number(at);
        (kernel != model).then(|| {
            let comment = format!(
                "{}: script {number}\nOf the last line, the kernel's answers: {kernel:?}\n\
                 the model's: {model:?}\n",
                self.header.part
            );
            print::scenario(&self.script, &[], &comment)
        })
    }
}
