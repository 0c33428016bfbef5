//! A script's text as lines of words.
//!
//! Decides:  what a word is: `,`, `=` and `->` stand alone, `#` at the beginning of a word opens a comment;
//!           how `repeat` blocks unroll, and `{i}` in their words.
//! Not here: what the words mean (parse.rs), how they are laid out anew (format.rs).

use super::problem::Problem;

/// The most lines that a script may unroll to.
pub const MAX_LINES: usize = 100_000;
/// The most `repeat` blocks inside one another.
pub(crate) const DEPTH_MAX: usize = 16;

/// A word and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word {
    pub text: String,
    /// From 1.
    pub column: usize,
    /// Characters in the source: `{i}` may have become shorter or longer.
    pub width: usize,
}

/// A line: its words, and the comment with its `#`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Line {
    /// From 1.
    pub number: usize,
    pub words: Vec<Word>,
    pub comment: Option<String>,
}

impl Line {
    pub fn problem(
        &self,
        word: usize,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Problem {
        let (column, width) = match self.words.get(word) {
            Some(word) => (word.column, word.width),
            // Something is missing: the place after the last word.
            None => self
                .words
                .last()
                .map_or((1, 1), |last| (last.column + last.width, 1)),
        };
        Problem {
            line: self.number,
            column,
            width,
            message: message.into(),
            label: label.into(),
        }
    }

    pub fn text(&self, word: usize) -> Option<&str> {
        self.words.get(word).map(|word| word.text.as_str())
    }

    /// The words up to `->`, as they are shown beside an answer.
    pub fn said(&self) -> String {
        let until = self
            .words
            .iter()
            .position(|word| word.text == "->")
            .unwrap_or(self.words.len());
        join(&self.words[..until])
    }
}

pub(crate) fn is_digits(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Words in one line, a comma after its word.
pub(crate) fn join(words: &[Word]) -> String {
    let mut text = String::new();
    for word in words {
        if !text.is_empty() && word.text != "," {
            text.push(' ');
        }
        text.push_str(&word.text);
    }
    text
}

/// Splits a line into words.
pub(crate) fn split(number: usize, text: &str) -> Line {
    let mut line = Line {
        number,
        ..Line::default()
    };
    let mut word: Option<Word> = None;
    let mut chars = text.chars().enumerate().peekable();
    while let Some((at, c)) = chars.next() {
        if c == '#' && word.is_none() {
            let comment: String = text.chars().skip(at).collect();
            line.comment = Some(comment.trim_end().to_owned());
            break;
        }
        // What a line is `from` is text.
        let text_alone = line.text(0) == Some("from");
        let arrow = !text_alone && c == '-' && chars.next_if(|next| next.1 == '>').is_some();
        let alone = c == ',' || c == '=' || arrow;
        if (c.is_whitespace() || alone)
            && let Some(word) = word.take()
        {
            line.words.push(word);
        }
        if alone {
            let text = if arrow {
                "->".to_owned()
            } else {
                c.to_string()
            };
            line.words.push(Word {
                column: at + 1,
                width: text.len(),
                text,
            });
        } else if !c.is_whitespace() {
            let word = word.get_or_insert(Word {
                text: String::new(),
                column: at + 1,
                width: 0,
            });
            word.text.push(c);
            word.width += 1;
        }
    }
    line.words.extend(word);
    line
}

/// Splits a whole text.
pub(crate) fn lines(text: &str) -> Vec<Line> {
    // Some editors begin a file with a mark of the byte order.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines()
        .enumerate()
        .map(|(at, line)| split(at + 1, line))
        .collect()
}

/// The lines of a text, its `repeat` blocks unrolled, for who takes them one by one.
pub fn unrolled(text: &str) -> Result<Vec<String>, Vec<Problem>> {
    let lines = unroll(&lines(text))?;
    Ok(lines.iter().map(|line| join(&line.words)).collect())
}

/// The lines with words, `repeat` blocks unrolled.
pub(crate) fn unroll(lines: &[Line]) -> Result<Vec<Line>, Vec<Problem>> {
    let mut unrolled = Unrolled {
        out: Vec::new(),
        names: Vec::new(),
        turns: 0,
    };
    let mut at = 0;
    while at < lines.len() {
        unrolled
            .block(lines, &mut at)
            .map_err(|problem| vec![problem])?;
        if let Some(line) = lines.get(at) {
            // `block` stops at an `end`, which nothing here opened.
            return Err(vec![line.problem(0, "`end` without `repeat`", "remove it")]);
        }
    }
    Ok(unrolled.out)
}

struct Unrolled {
    out: Vec<Line>,
    /// The counters of the blocks around, outermost first.
    names: Vec<(String, usize)>,
    /// How often a block began, all in all: an empty one makes no lines.
    turns: usize,
}

impl Unrolled {
    fn block(&mut self, lines: &[Line], at: &mut usize) -> Result<(), Problem> {
        while let Some(line) = lines.get(*at) {
            match line.text(0) {
                Some("end") => return Ok(()),
                Some("repeat") => self.repeat(lines, at)?,
                Some(_) => {
                    if self.out.len() >= MAX_LINES {
                        let message = format!("the script unrolls to more than {MAX_LINES} lines");
                        return Err(line.problem(0, message, "repeat fewer times"));
                    }
                    self.out.push(substitute(line, &self.names)?);
                }
                None => {}
            }
            *at += 1;
        }
        Ok(())
    }

    fn repeat(&mut self, lines: &[Line], at: &mut usize) -> Result<(), Problem> {
        let head = &lines[*at];
        let (times, name) = repeat_head(head)?;
        if self.names.len() >= DEPTH_MAX {
            let message = format!("more than {DEPTH_MAX} `repeat` blocks inside one another");
            return Err(head.problem(0, message, "one level fewer"));
        }
        let body = *at + 1;
        for i in 1..=times {
            self.turns += 1;
            if self.turns > MAX_LINES {
                let message = format!("`repeat` blocks begin more than {MAX_LINES} times");
                return Err(head.problem(0, message, "repeat fewer times"));
            }
            self.names.push((name.clone(), i));
            *at = body;
            self.block(lines, at)?;
            self.names.pop();
            end_of(head, lines.get(*at))?;
        }
        Ok(())
    }
}

/// Where a block stopped: at its `end`, which stands alone.
fn end_of(head: &Line, end: Option<&Line>) -> Result<(), Problem> {
    match end {
        Some(end) if end.words.len() > 1 => {
            return Err(end.problem(1, "`end` stands alone", "remove this"));
        }
        Some(_) => {}
        None => return Err(head.problem(0, "`repeat` without `end`", "where does it end?")),
    }
    Ok(())
}

/// `repeat N [times] [as NAME]`.
fn repeat_head(head: &Line) -> Result<(usize, String), Problem> {
    let times = head.text(1).and_then(|text| text.parse::<usize>().ok());
    let Some(times) = times.filter(|&n| (1..=MAX_LINES).contains(&n)) else {
        return Err(head.problem(
            1,
            format!("`repeat` takes a number from 1 to {MAX_LINES}"),
            "how often?",
        ));
    };
    let mut next = 2;
    if head.text(next) == Some("times") {
        next += 1;
    }
    let mut name = "i".to_owned();
    if head.text(next) == Some("as") {
        let Some(given) = head.text(next + 1) else {
            return Err(head.problem(next + 1, "`as` takes a name", "repeat 4 times as n"));
        };
        given.clone_into(&mut name);
        next += 2;
    }
    match head.words.get(next) {
        Some(_) => Err(head.problem(next, "unexpected word after `repeat`", "remove it")),
        None => Ok((times, name)),
    }
}

fn substitute(line: &Line, names: &[(String, usize)]) -> Result<Line, Problem> {
    let mut line = line.clone();
    for at in 0..line.words.len() {
        if !line.words[at].text.contains('{') {
            continue;
        }
        let mut text = line.words[at].text.clone();
        for (name, value) in names.iter().rev() {
            text = text.replace(&format!("{{{name}}}"), &value.to_string());
        }
        if text.contains('{') {
            let label = "`{i}` counts inside `repeat`; `repeat 4 times as n` counts `{n}`";
            return Err(line.problem(at, "no `repeat` around this counts by that name", label));
        }
        line.words[at].text = text;
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Vec<String> {
        unroll(&lines(text))
            .unwrap()
            .iter()
            .map(|line| join(&line.words))
            .collect()
    }

    #[test]
    fn commas_and_equals_signs_are_words_and_a_comment_is_none() {
        let line = split(7, "socket a inet with reuseaddr,reuseport  # both");
        let words: Vec<&str> = line.words.iter().map(|word| word.text.as_str()).collect();
        assert_eq!(
            words,
            ["socket", "a", "inet", "with", "reuseaddr", ",", "reuseport"]
        );
        assert_eq!(line.comment.as_deref(), Some("# both"));
        assert_eq!((line.words[6].column, line.words[6].width), (30, 9));
    }

    #[test]
    fn repeats_unroll_and_count_inside_one_another() {
        let text = "repeat 2 times\n  repeat 2 as n\n    s{i}{n} close\n  end\nend\nx close";
        assert_eq!(
            said(text),
            [
                "s11 close",
                "s12 close",
                "s21 close",
                "s22 close",
                "x close"
            ]
        );
    }

    #[test]
    fn an_open_repeat_a_lonely_end_and_an_unknown_counter_are_told() {
        let first = |text: &str| unroll(&lines(text)).unwrap_err()[0].to_string();
        assert!(first("repeat 2\na close").starts_with("1:1: `repeat` without `end`"));
        assert!(first("a close\nend").starts_with("2:1: `end` without `repeat`"));
        assert!(first("repeat 2\ns{n} close\nend").starts_with("2:1: no `repeat`"));
        assert!(first("repeat many\nend").starts_with("1:8: `repeat` takes a number"));
        assert!(first("repeat 100000\na close\nb close\nend").contains("more than 100000 lines"));
    }

    #[test]
    fn blocks_inside_one_another_are_bounded_in_depth_and_in_number() {
        let nested = |depth: usize| {
            format!(
                "{}a close\n{}",
                "repeat 1\n".repeat(depth),
                "end\n".repeat(depth)
            )
        };
        assert_eq!(said(&nested(DEPTH_MAX)), ["a close"]);
        let first = |text: &str| unroll(&lines(text)).unwrap_err()[0].to_string();
        for depth in [DEPTH_MAX + 1, 20_000] {
            assert!(first(&nested(depth)).starts_with("17:1: more than 16 `repeat` blocks inside"));
        }
        // Nothing in them, so that no line bounds them.
        let hollow = "repeat 100000\n".repeat(3) + &"end\n".repeat(3);
        assert!(first(&hollow).contains("begin more than 100000 times"));
        assert_eq!(said("repeat 100000\nend\na close"), ["a close"]);
    }
}
