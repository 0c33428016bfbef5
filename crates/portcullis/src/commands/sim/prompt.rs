//! `portcullis sim` on a terminal: calls in, answers and tables out.
//!
//! Decides:  the prompt's own commands; that a `repeat` block is read whole and then taken line by line.
//! Not here: the language (crates/conformance, script), editing a line (the crate rustyline).

use std::collections::BTreeSet;

use portcullis_conformance::script::{self, Detail, Model, Problem, Reader, Run, Settings};
use portcullis_kernel_model::Kernel;
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::transcribed;
use crate::exit::{self, Exit};
use crate::terminal;

const HELP: &str = "\
  socket a inet with reuseaddr     a socket; inet6, `by USER` too
  port web                         a port by name
  a bind 127.0.0.1:web             calls: bind listen connect accept close set get shutdown …
  explain on, explain off          rules behind each answer; `explain` alone changes it
  table                            sockets, and who owns which port
  process p                        a process: `p forks q`, `p exits`, `a pass to p`, `a close as p`
  kernel 5.4 | user | interface | namespace    the host, before the first socket
  repeat 4 times … end             lines again and again, {i} in them counts
  help, reset, quit                the arrows bring earlier lines back
";

/// A host to play with, and how it is shown.
struct Prompt {
    settings: Settings,
    reader: Reader,
    run: Option<Run>,
    detail: Detail,
    /// Lines that were taken so far.
    number: usize,
    /// Releases of which it was told that no live kernel has confirmed them.
    unverified: BTreeSet<Kernel>,
}

/// Asks until nobody answers any more.
pub fn run(settings: Settings) -> Exit {
    let mut editor = match DefaultEditor::new() {
        Ok(editor) => editor,
        Err(error) => {
            terminal::err(&format!("error: the terminal cannot be used: {error}\n"));
            return exit::INTERNAL;
        }
    };
    terminal::out(&format!(
        "A Linux {} host without sockets. `help` helps.\n",
        settings.kernel
    ));
    let mut prompt = Prompt {
        settings,
        reader: Reader::new(settings),
        run: None,
        detail: Detail {
            explain: true,
            colour: terminal::out_colours(),
        },
        number: 0,
        unverified: BTreeSet::new(),
    };
    let mut text = String::new();
    loop {
        prompt.warn_of_release();
        let sign = if text.is_empty() { "> " } else { ". " };
        match editor.readline(sign) {
            Ok(typed) => {
                if !typed.trim().is_empty() {
                    // A line that is not remembered is typed again.
                    let _ = editor.add_history_entry(&typed);
                }
                // What is pasted comes as one, with all its lines.
                for line in typed.split('\n') {
                    text.push_str(line.trim_end());
                    text.push('\n');
                    if depth(&text) > 0 {
                        continue;
                    }
                    if matches!(text.trim(), "quit" | "exit") {
                        return exit::OK;
                    }
                    terminal::out(&prompt.take(&std::mem::take(&mut text)));
                }
            }
            // It gives up what was typed.
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(_) => return exit::OK,
        }
    }
}

/// Blocks that are open at the end of a text.
fn depth(text: &str) -> i32 {
    let first = text
        .lines()
        .filter_map(|line| line.split_whitespace().next());
    first.fold(0, |depth, word| match word {
        "repeat" => depth + 1,
        "end" => depth - 1,
        _ => depth,
    })
}

impl Prompt {
    fn warn_of_release(&mut self) {
        let kernel = self.reader.script().host.kernel;
        if !kernel.verified() && self.unverified.insert(kernel) {
            terminal::err(&transcribed(&BTreeSet::from([kernel])));
        }
    }

    /// What is answered.
    fn take(&mut self, text: &str) -> String {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            [] => String::new(),
            ["help"] => HELP.to_owned(),
            ["explain"] => self.explain(!self.detail.explain),
            ["explain", "on"] => self.explain(true),
            ["explain", "off"] => self.explain(false),
            ["reset"] => {
                self.reader = Reader::new(self.settings);
                self.run = None;
                String::new()
            }
            ["table"] => {
                let (script, run) = (self.reader.script(), self.run.as_mut());
                let known = run.map(|run| script::table(script, run));
                known.unwrap_or_else(|| "no sockets yet\n".to_owned())
            }
            ["repeat", ..] => self.block(text),
            _ => match self.line(text.trim_end()) {
                Ok(answer) if answer.is_empty() => answer,
                Ok(answer) => answer + &self.table(),
                Err(refused) => refused,
            },
        }
    }

    fn explain(&mut self, on: bool) -> String {
        self.detail.explain = on;
        let state = if on { "on" } else { "off" };
        format!("explanations are {state}\n")
    }

    /// Line by line, as long as each is understood; one table at the end.
    fn block(&mut self, text: &str) -> String {
        let lines = match script::unrolled(text) {
            Ok(lines) => lines,
            Err(problems) => {
                let problems = problems.into_iter();
                return problems
                    .map(|problem| rendered(&problem, text.trim_end()))
                    .collect();
            }
        };
        let mut out = String::new();
        for line in lines {
            match self.line(&line) {
                Ok(answer) => out += &answer,
                Err(refused) => return out + &refused,
            }
        }
        out + &self.table()
    }

    /// What a call answers; nothing for what is no call. Else why the line is not understood.
    fn line(&mut self, text: &str) -> Result<String, String> {
        self.number += 1;
        let read = self.reader.read(self.number, text);
        let Some(step) = read.map_err(|problem| {
            // The line is the only one: it stands above.
            rendered(&Problem { line: 1, ..problem }, text)
        })?
        else {
            return Ok(String::new());
        };
        let script = self.reader.script();
        let run = self.run.get_or_insert_with(|| {
            let mut model = Model::new(script.host.clone());
            model.find_ways();
            Run::in_model(model)
        });
        let known = run.ports.0.len();
        let more = script.ports.iter().skip(known).map(|port| port.1);
        run.ports.0.extend(more);
        let mut row = run.step(&step);
        if step.expect.is_none() {
            // In play a failure is an answer.
            row.complaints.clear();
        }
        let ports = run.ports.0.clone();
        Ok(script::row(script, &step, &row, &ports, self.detail))
    }

    fn table(&mut self) -> String {
        let script = self.reader.script();
        let table = self.run.as_mut().map(|run| script::table(script, run));
        table.unwrap_or_default()
    }
}

fn rendered(problem: &Problem, text: &str) -> String {
    problem.render("prompt", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt() -> Prompt {
        Prompt {
            settings: Settings::default(),
            reader: Reader::new(Settings::default()),
            run: None,
            detail: Detail {
                explain: false,
                colour: false,
            },
            number: 0,
            unverified: BTreeSet::new(),
        }
    }

    #[test]
    fn a_block_is_open_until_its_end() {
        let table = [
            ("a listen\n", 0),
            ("repeat 2\n", 1),
            ("repeat 2\n repeat 3 as n\n end\n", 1),
            ("repeat 2\nend\n", 0),
            ("end\n", -1),
        ];
        for (text, open) in table {
            assert_eq!(depth(text), open, "{text:?}");
        }
    }

    #[test]
    fn a_block_is_taken_line_by_line_and_stops_at_a_mistake() {
        let mut prompt = prompt();
        let answer = prompt
            .take("repeat 2\n socket s{i} inet with reuseport\n s{i} bind 127.0.0.1:80\nend\n");
        assert_eq!(answer.matches(" bind 127.0.0.1:80 ").count(), 2, "{answer}");
        assert!(prompt.take("table").contains("s2"), "{answer}");
        let answer = prompt.take("repeat 2\n s{i} listen\n s{i} lisen\nend\n");
        assert_eq!(answer.matches(" listen ").count(), 1, "{answer}");
        assert!(answer.contains("unknown call `lisen`"), "{answer}");
        let answer = prompt.take("repeat x\nend\n");
        assert!(answer.starts_with("error: "), "{answer}");
        assert_eq!(prompt.take("reset"), "");
        assert_eq!(prompt.take("table"), "no sockets yet\n");
        assert_eq!(prompt.take("explain"), "explanations are on\n");
    }
}
