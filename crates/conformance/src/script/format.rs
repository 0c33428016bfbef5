//! One layout for every script.
//!
//! Decides:  single blanks between words, two more columns inside `repeat`, answers of a paragraph
//!           under one another, at most one empty line, comments kept.
//! Not here: whether the script means anything: a script with mistakes is laid out as well.

use super::words::{DEPTH_MAX, Line, join, lines};

/// Answers are not pushed further right than this.
const WIDEST: usize = 48;

/// The script in its one layout.
#[must_use]
pub fn format(text: &str) -> String {
    let lines = lines(text);
    let mut out = String::new();
    let mut depth: usize = 0;
    let mut rows: Vec<Row> = Vec::new();
    for line in &lines {
        if line.words.is_empty() && line.comment.is_none() {
            flush(&mut rows, &mut out);
            if !out.is_empty() && !out.ends_with("\n\n") {
                out.push('\n');
            }
            continue;
        }
        let first = line.text(0);
        if first == Some("end") {
            depth = depth.saturating_sub(1);
        }
        // A script that is deeper is refused, and would be wider than long.
        rows.push(Row::of(line, depth.min(DEPTH_MAX)));
        if first == Some("repeat") {
            depth += 1;
        }
    }
    flush(&mut rows, &mut out);
    out.truncate(out.trim_end().len());
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

struct Row {
    left: String,
    right: Option<String>,
    comment: Option<String>,
}

impl Row {
    fn of(line: &Line, depth: usize) -> Row {
        let indent = "  ".repeat(depth);
        let arrow = line.words.iter().position(|word| word.text == "->");
        let (left, right) = match arrow {
            Some(at) => (join(&line.words[..at]), Some(join(&line.words[at..]))),
            None => (join(&line.words), None),
        };
        Row {
            left: format!("{indent}{left}"),
            right,
            comment: line.comment.clone(),
        }
    }
}

fn flush(rows: &mut Vec<Row>, out: &mut String) {
    let with_answer = rows.iter().filter(|row| row.right.is_some());
    let widths = with_answer
        .map(|row| row.left.chars().count())
        .filter(|&width| width <= WIDEST);
    let width = widths.max().unwrap_or(0);
    for row in rows.drain(..) {
        let mut text = match &row.right {
            Some(right) => format!("{:width$} {right}", row.left),
            None => row.left,
        };
        if let Some(comment) = &row.comment {
            let gap = if text.trim().is_empty() { "" } else { "  " };
            text = format!("{text}{gap}{comment}");
        }
        out.push_str(text.trim_end());
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNTIDY: &str = "

# two of them
socket  a   inet with reuseaddr ,reuseport
a bind 0.0.0.0:web->ok
a bind 0.0.0.0:web   ->   EINVAL # again
a listen -> ok


repeat 2
socket s{i} inet
s{i} close -> ok
end

";
    const TIDY: &str = "\
# two of them
socket a inet with reuseaddr, reuseport
a bind 0.0.0.0:web -> ok
a bind 0.0.0.0:web -> EINVAL  # again
a listen           -> ok

repeat 2
  socket s{i} inet
  s{i} close -> ok
end
";

    #[test]
    fn what_is_too_deep_is_not_indented_further() {
        let deep = "repeat 1\n".repeat(1000) + &"end\n".repeat(1000);
        let widest = format(&deep).lines().map(str::len).max();
        assert_eq!(widest, Some(2 * DEPTH_MAX + "repeat 1".len()));
    }

    #[test]
    fn an_untidy_script_becomes_tidy_and_a_tidy_one_stays() {
        assert_eq!(format(UNTIDY), TIDY);
        assert_eq!(format(TIDY), TIDY);
        assert_eq!(format(""), "");
    }
}
