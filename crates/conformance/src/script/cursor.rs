//! A place in a line, from which words are taken.
//!
//! Decides:  what a name is, what a number is, what `on` and `off` are.
//! Not here: what a line may say (parse.rs, setup.rs, expect.rs).

use super::problem::Problem;
use super::words::{Line, is_digits};

/// Where in a line the reader is.
pub(super) struct Cursor<'a> {
    pub line: &'a Line,
    pub at: usize,
}

impl<'a> Cursor<'a> {
    pub fn peek(&self) -> Option<&'a str> {
        self.line.text(self.at)
    }

    pub fn next(&mut self) -> Option<&'a str> {
        let word = self.peek();
        self.at += usize::from(word.is_some());
        word
    }

    pub fn take(&mut self, word: &str) -> bool {
        let there = self.peek() == Some(word);
        self.at += usize::from(there);
        there
    }

    pub fn must(&mut self, word: &str, example: &str) -> Result<(), Problem> {
        if self.take(word) {
            return Ok(());
        }
        Err(self
            .line
            .problem(self.at, format!("`{word}` is missing"), example))
    }

    /// A name: letters, digits, `_`, `-` and `.`.
    pub fn name(&mut self, what: &str) -> Result<String, Problem> {
        let here = self.at;
        let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
        match self.next() {
            Some(word) if word != "->" && word.chars().all(good) => Ok(word.to_owned()),
            Some(_) => {
                Err(self
                    .line
                    .problem(here, format!("{what} is made of letters and digits"), ""))
            }
            None => Err(self.line.problem(here, format!("{what} is missing"), "")),
        }
    }

    /// `on`, `off`, or nothing for on.
    pub fn switch(&mut self) -> bool {
        if self.take("off") {
            return false;
        }
        self.take("on");
        true
    }

    /// A number, where one stands here.
    pub fn number(&mut self) -> Result<Option<i32>, Problem> {
        let Some(word) = self.peek() else {
            return Ok(None);
        };
        let digits = word.strip_prefix('-').unwrap_or(word);
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        match word.parse() {
            Ok(number) => {
                self.at += 1;
                Ok(Some(number))
            }
            Err(_) => Err(self
                .line
                .problem(self.at, "this number does not fit a C int", "")),
        }
    }

    /// A user id, at most this one.
    pub fn user_id(&mut self, most: u32, example: &str) -> Result<u32, Problem> {
        let here = self.at;
        let word = self.next();
        let id = word.and_then(|word| word.parse().ok());
        id.filter(|&id| id <= most).ok_or_else(|| {
            let message = match word.is_some_and(is_digits) {
                true => format!("a user id is at most {most}"),
                false => "a user id is missing".to_owned(),
            };
            self.line.problem(here, message, example)
        })
    }

    pub fn end(&self) -> Result<(), Problem> {
        match self.peek() {
            None => Ok(()),
            Some(word) => Err(self.line.problem(
                self.at,
                format!("unexpected `{word}`"),
                "the line is complete before it",
            )),
        }
    }
}
