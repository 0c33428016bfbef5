//! What is wrong with a script, and where.
//!
//! Decides:  the layout of an error: message, place, the line, the words underlined.
//! Source:   the layout of crates/config's findings, so that both read alike
//! Not here: what is wrong (the files that read a script).

use std::fmt;

/// One thing that is wrong with a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The column of the first character meant, from 1.
    pub column: usize,
    /// How many characters are meant.
    pub width: usize,
    /// What is wrong, in one line.
    pub message: String,
    /// What to do about it; shown beside the underline. Empty where nothing is known.
    pub label: String,
}

impl Problem {
    /// The problem as people read it.
    ///
    /// ```text
    /// error: unknown call `bnd`
    ///   --> shared.bind:4:3
    ///    |
    ///  4 | a bnd 0.0.0.0:web -> ok
    ///    |   ^^^ did you mean `bind`?
    /// ```
    #[must_use]
    pub fn render(&self, file: &str, text: &str) -> String {
        let line = text.lines().nth(self.line.saturating_sub(1)).unwrap_or("");
        let number = self.line.to_string();
        let gutter = " ".repeat(number.len() + 2);
        // A tab is one character of the line and one of the indent, so the underline stays in place.
        let shown: String = line.chars().map(printable).collect();
        let indent = " ".repeat(self.column.saturating_sub(1));
        let underline = "^".repeat(self.width.max(1));
        let label = if self.label.is_empty() {
            String::new()
        } else {
            format!(" {}", tame(&self.label))
        };
        format!(
            "error: {}\n{gutter}--> {file}:{}:{}\n{gutter}|\n {number} | {shown}\n{gutter}| {indent}{underline}{label}\n",
            tame(&self.message),
            self.line,
            self.column
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, tame(&self.message))?;
        if !self.label.is_empty() {
            write!(f, " ({})", tame(&self.label))?;
        }
        Ok(())
    }
}

impl std::error::Error for Problem {}

fn tame(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// A control character would move the cursor.
fn printable(c: char) -> char {
    if c.is_control() { ' ' } else { c }
}

/// `did you mean …?` where one of the candidates is near enough to the word; else nothing.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    let limit = (word.chars().count() / 3).max(1);
    let near = candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit)
        .min();
    match near {
        Some((_, candidate)) => format!("did you mean `{candidate}`?"),
        None => String::new(),
    }
}

/// Letters to insert, remove, replace or swap with their neighbour, whatever their case.
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.to_lowercase().chars().take(64).collect();
    let b: Vec<char> = b.to_lowercase().chars().take(64).collect();
    let mut before = vec![0; b.len() + 1];
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let same = a[i - 1] == b[j - 1];
            let mut cost = (row[j - 1] + usize::from(!same))
                .min(row[j] + 1)
                .min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(before[j - 2] + 1);
            }
            next[j] = cost;
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swapped_letter_is_one_mistake_and_a_stranger_is_none_of_ours() {
        assert_eq!(
            did_you_mean("bnid", ["bind", "listen"]),
            "did you mean `bind`?"
        );
        assert_eq!(
            did_you_mean("lisen", ["bind", "listen"]),
            "did you mean `listen`?"
        );
        assert_eq!(did_you_mean("frobnicate", ["bind", "listen"]), "");
    }

    #[test]
    fn the_words_meant_are_underlined() {
        let problem = Problem {
            line: 2,
            column: 3,
            width: 3,
            message: "unknown call `bnd`".into(),
            label: "did you mean `bind`?".into(),
        };
        let expected = "\
error: unknown call `bnd`
   --> x.bind:2:3
   |
 2 | a bnd 0.0.0.0:web
   |   ^^^ did you mean `bind`?
";
        assert_eq!(
            problem.render("x.bind", "socket a inet\na bnd 0.0.0.0:web\n"),
            expected
        );
    }
}
