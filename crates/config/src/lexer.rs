//! One line's bytes to words.
//!
//! Decides:  quotes, escapes, comments, variables, and the limits of a line.
//! Source:   HAProxy's manual, chapters 2.2 and 2.3; src/tools.c, parse_line(), 3.5-dev5.
//! Not here: which line is read (load.rs), the values of variables (environment.rs).

use crate::diagnostic::Diagnostic;
use crate::environment::Environment;
use crate::source::Place;
use crate::syntax::Word;

/// Words on a line. HAProxy takes 64.
pub const MAX_WORDS: usize = 256;
/// Bytes of a line as it stands in the file.
pub const MAX_LINE_BYTES: usize = 64 << 10;
/// Bytes of a line's words once variables are filled in.
pub const MAX_EXPANDED_BYTES: usize = 256 << 10;

/// What the pseudo variables `.FILE`, `.LINE` and `.SECTION` say.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pseudo<'a> {
    pub file: &'a str,
    pub section: Option<&'a str>,
}

/// Where a line's words take their variables from, and where the line stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    pub environment: &'a Environment,
    pub pseudo: Pseudo<'a>,
    pub file: u32,
    pub line: u32,
}

/// A line's words, and what is doubtful about it.
#[derive(Debug, Default)]
pub(crate) struct Lexed {
    pub words: Vec<Word>,
    /// For an empty word: the variable without a value that made it so.
    pub unset: Vec<(usize, Vec<u8>)>,
    pub warnings: Vec<Diagnostic>,
}

/// Takes a line apart.
pub(crate) fn lex(line: &[u8], context: Context<'_>) -> Result<Lexed, Diagnostic> {
    let mut lexer = Lexer {
        line,
        at: 0,
        context,
        quote: None,
        quote_makes_word: false,
        word: Open::default(),
        expanded: 0,
        done: Lexed::default(),
    };
    if line.len() > MAX_LINE_BYTES {
        let message = format!("the line is longer than {} KiB", MAX_LINE_BYTES >> 10);
        return Err(lexer.error("line-too-long", 0..1, message));
    }
    while lexer.step()? {}
    lexer.end()
}

/// The word that is being read.
#[derive(Default)]
struct Open {
    bytes: Vec<u8>,
    origins: Vec<(u32, u32)>,
    /// Its bytes in the line, once it has begun.
    range: Option<(usize, usize)>,
    /// A word, even if it is empty: not only quotes around an empty `${V[*]}`.
    real: bool,
    unset: Option<Vec<u8>>,
}

struct Lexer<'a> {
    line: &'a [u8],
    at: usize,
    context: Context<'a>,
    /// The quote that is open, and where.
    quote: Option<(u8, usize)>,
    /// Closing the quote makes a word, even an empty one.
    quote_makes_word: bool,
    word: Open,
    expanded: usize,
    done: Lexed,
}

/// HAProxy's isspace() in the C locale.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

impl<'a> Lexer<'a> {
    fn peek(&self, ahead: usize) -> Option<u8> {
        self.line.get(self.at + ahead).copied()
    }

    /// Reads one thing: a byte, an escape, a quote, a variable, a space. False at the end.
    fn step(&mut self) -> Result<bool, Diagnostic> {
        let Some(byte) = self.peek(0) else {
            return Ok(false);
        };
        let open = self.quote.map(|(quote, _)| quote);
        match (byte, open) {
            (0, _) => {
                let message = "a NUL byte in a text file";
                return Err(self
                    .error("nul-byte", self.at..self.at + 1, message)
                    .label("HAProxy stops reading here"));
            }
            (b'\r', _) => {
                let message = "a carriage return in the middle of a line";
                return Err(self
                    .error("stray-carriage-return", self.at..self.at + 1, message)
                    .label("HAProxy ignores the rest of the line"));
            }
            (b'#', None) => return Ok(false),
            (b'"' | b'\'', None) => self.open_quote(byte),
            (b'"' | b'\'', Some(quote)) if quote == byte => self.close_quote(),
            (b'\\', None | Some(b'"')) => self.escape()?,
            (b'$', Some(b'"')) => self.variable()?,
            (byte, None) if is_space(byte) => {
                self.finish_word()?;
                self.at += 1;
            }
            (byte, _) => self.emit(byte, 1)?,
        }
        Ok(true)
    }

    fn open_quote(&mut self, quote: u8) {
        self.quote = Some((quote, self.at));
        self.quote_makes_word = true;
        self.touch(self.at, self.at + 1);
        self.at += 1;
    }

    fn close_quote(&mut self) {
        self.quote = None;
        self.word.real |= self.quote_makes_word;
        if self.word.real || self.word.range.is_some() {
            self.touch(self.at, self.at + 1);
        }
        self.at += 1;
    }

    /// The word covers these bytes of the line.
    fn touch(&mut self, from: usize, to: usize) {
        let range = self.word.range.get_or_insert((from, to));
        range.1 = range.1.max(to);
    }

    /// A byte of the word that `length` bytes of the line stand for.
    fn emit(&mut self, byte: u8, length: usize) -> Result<(), Diagnostic> {
        self.push(byte, self.at, self.at + length)?;
        self.at += length;
        Ok(())
    }

    fn push(&mut self, byte: u8, from: usize, to: usize) -> Result<(), Diagnostic> {
        self.expanded += 1;
        if self.expanded > MAX_EXPANDED_BYTES {
            let limit = MAX_EXPANDED_BYTES >> 10;
            let message = format!("with its variables the line is longer than {limit} KiB");
            return Err(self.error("line-too-long", from..to, message));
        }
        self.touch(from, to);
        self.word.real = true;
        self.word.bytes.push(byte);
        self.word.origins.push((from as u32, to as u32));
        Ok(())
    }

    /// A backslash outside single quotes.
    fn escape(&mut self) -> Result<(), Diagnostic> {
        let in_double = self.quote.is_some();
        match self.peek(1) {
            Some(byte @ (b' ' | b'\\' | b'#' | b'\'' | b'"')) => self.emit(byte, 2),
            Some(b't') => self.emit(b'\t', 2),
            Some(b'n') => self.emit(b'\n', 2),
            Some(b'r') => self.emit(b'\r', 2),
            Some(b'$') if in_double => self.emit(b'$', 2),
            Some(b'x') => {
                let digit = |byte: Option<u8>| (byte? as char).to_digit(16);
                let (Some(high), Some(low)) = (digit(self.peek(2)), digit(self.peek(3))) else {
                    let end = (self.at + 4).min(self.line.len());
                    return Err(self
                        .error("bad-escape", self.at..end, "a bad `\\x` escape")
                        .label("expected two hexadecimal digits after `\\x`"));
                };
                self.emit((high * 16 + low) as u8, 4)
            }
            None => self.trailing_backslash(),
            _ => self.emit(b'\\', 1),
        }
    }

    /// HAProxy reads it as itself; it was nearly always meant to continue the line.
    fn trailing_backslash(&mut self) -> Result<(), Diagnostic> {
        let alone = self.word.range.is_none();
        let range = self.at..self.at + 1;
        if alone {
            return Err(self
                .error(
                    "trailing-backslash",
                    range,
                    "a lone backslash ends the line",
                )
                .label("a line cannot be continued on the next one"));
        }
        let message = "the backslash at the end of the line is read as itself";
        let warning = Diagnostic::warning("trailing-backslash", self.place(range), message)
            .label("a line cannot be continued on the next one");
        self.done.warnings.push(warning);
        self.emit(b'\\', 1)
    }

    /// `$V`, `${V}`, `${V-default}`, `${V[*]}`, `${V[*]-default}` in double quotes.
    fn variable(&mut self) -> Result<(), Diagnostic> {
        let begin = self.at;
        let braced = self.peek(1) == Some(b'{');
        let name_at = begin + if braced { 2 } else { 1 };
        let rest = self.line.get(name_at..).unwrap_or_default();
        let dot = usize::from(rest.first() == Some(&b'.'));
        let first = rest.first().copied().unwrap_or(0);
        if !(first.is_ascii_alphabetic() || first == b'_' || first == b'.') {
            return Err(self.bad_name(begin, name_at));
        }
        let length = dot + rest[dot..].iter().take_while(|b| is_name(**b)).count();
        let name = &rest[..length];
        let mut end = name_at + length;
        let value = self.value(name, name_at)?;
        let split = braced && self.line.get(end) == Some(&b'[');
        if split {
            if !self.line[end..].starts_with(b"[*]") {
                let to = (end + 3).min(self.line.len());
                return Err(self
                    .error("bad-expansion", end..to, "a bad word expansion")
                    .label("expected `[*]`"));
            }
            end += 3;
        }
        let mut default = None;
        if braced {
            (default, end) = self.close_brace(begin, end)?;
        }
        self.touch(begin, end);
        self.at = end;
        if split {
            self.quote_makes_word = false;
        }
        match value.as_deref().or(default) {
            Some(value) => self.expand(value, split, begin, end),
            None => {
                if !split {
                    self.word.real = true;
                    self.word.unset.get_or_insert_with(|| name.to_vec());
                }
                Ok(())
            }
        }
    }

    /// From the end of a braced variable's name: its default, and where the brace ends.
    fn close_brace(
        &self,
        begin: usize,
        name_end: usize,
    ) -> Result<(Option<&'a [u8]>, usize), Diagnostic> {
        let rest = &self.line[name_end..];
        let close = match rest.first() {
            Some(b'}') => Some(0),
            Some(b'-') => rest.iter().position(|byte| *byte == b'}'),
            _ => None,
        };
        let Some(close) = close else {
            let message = "an unmatched brace in a variable's name";
            let end = (name_end + 1).min(self.line.len());
            return Err(self
                .error("unmatched-brace", begin..end, message)
                .label("expected `}`, `-` and a default, or `[*]` after the name"));
        };
        let default = (close > 0).then(|| &rest[1..close]);
        Ok((default, name_end + close + 1))
    }

    fn bad_name(&self, begin: usize, name_at: usize) -> Diagnostic {
        let end = (name_at + 1).min(self.line.len());
        self.error("bad-variable-name", begin..end, "a bad variable name")
            .label("a name begins with a letter, `_` or `.`; write `\\$` for the sign itself")
    }

    /// The value of a variable or a pseudo variable.
    fn value(&self, name: &[u8], at: usize) -> Result<Option<Vec<u8>>, Diagnostic> {
        let pseudo = self.context.pseudo;
        match name {
            b".FILE" => Ok(Some(pseudo.file.as_bytes().to_vec())),
            b".LINE" => Ok(Some(self.context.line.to_string().into_bytes())),
            b".SECTION" => Ok(pseudo.section.map(|name| name.as_bytes().to_vec())),
            [b'.', ..] => Err(self
                .error(
                    "bad-variable-name",
                    at..at + name.len(),
                    "an unknown pseudo variable",
                )
                .label("expected .FILE, .LINE or .SECTION")),
            name => Ok(self.context.environment.get(name).map(<[u8]>::to_vec)),
        }
    }

    /// A variable's value into the word; with `split`, spaces in it part words.
    fn expand(
        &mut self,
        value: &[u8],
        split: bool,
        begin: usize,
        end: usize,
    ) -> Result<(), Diagnostic> {
        let split = if split { Split::AtSpaces } else { Split::Never };
        for byte in value {
            if split == Split::AtSpaces && is_space(*byte) {
                self.finish_word()?;
            } else {
                self.push(*byte, begin, end)?;
            }
        }
        Ok(())
    }

    /// Ends the word if one has begun.
    fn finish_word(&mut self) -> Result<(), Diagnostic> {
        let word = std::mem::take(&mut self.word);
        let Some((start, end)) = word.range.filter(|_| word.real) else {
            return Ok(());
        };
        let place = self.place(start..end);
        if self.done.words.len() == MAX_WORDS {
            let message = format!("more than {MAX_WORDS} words on one line");
            return Err(Diagnostic::error("too-many-words", place, message));
        }
        if let (Some(name), true) = (word.unset, word.bytes.is_empty()) {
            self.done.unset.push((self.done.words.len(), name));
        }
        self.done
            .words
            .push(make_word(word.bytes, word.origins, place));
        Ok(())
    }

    fn end(mut self) -> Result<Lexed, Diagnostic> {
        if let Some((quote, at)) = self.quote {
            let message = format!("an unmatched {} quote", quote_name(quote));
            return Err(self
                .error("unmatched-quote", at..at + 1, message)
                .label("opened here, and not closed on this line"));
        }
        self.finish_word()?;
        Ok(self.done)
    }

    fn place(&self, range: std::ops::Range<usize>) -> Place {
        Place {
            file: self.context.file,
            line: self.context.line,
            start: range.start as u32,
            end: range.end as u32,
        }
    }

    fn error(
        &self,
        code: &'static str,
        range: std::ops::Range<usize>,
        message: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::error(code, self.place(range), message)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Split {
    AtSpaces,
    Never,
}

fn quote_name(quote: u8) -> &'static str {
    if quote == b'"' { "double" } else { "single" }
}

fn make_word(bytes: Vec<u8>, origins: Vec<(u32, u32)>, place: Place) -> Word {
    let verbatim = origins.len() == (place.end - place.start) as usize
        && origins
            .iter()
            .zip(place.start..)
            .all(|(origin, at)| *origin == (at, at + 1));
    let (text, raw) = match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
            (text, Some(error.into_bytes().into_boxed_slice()))
        }
    };
    Word {
        text,
        place,
        raw,
        origins: (!verbatim).then(|| origins.into_boxed_slice()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        let mut environment = Environment::default();
        for (name, value) in [
            ("A", "one"),
            ("TWO", "a b"),
            ("PAD", "  x  y "),
            ("EMPTY", ""),
            ("SPACES", "  "),
            ("Q", "\"'\\#$A"),
        ] {
            environment.set(name, value);
        }
        environment
    }

    fn lex_line(line: &[u8]) -> Result<Lexed, Diagnostic> {
        let environment = environment();
        let pseudo = Pseudo {
            file: "dir/h.cfg",
            section: Some("fe"),
        };
        let context = Context {
            environment: &environment,
            pseudo,
            file: 0,
            line: 7,
        };
        lex(line, context)
    }

    fn words(line: &str) -> Result<Vec<String>, &'static str> {
        match lex_line(line.as_bytes()) {
            Ok(lexed) => Ok(lexed.words.into_iter().map(|w| w.text).collect()),
            Err(error) => Err(error.code),
        }
    }

    #[test]
    fn words_are_as_haproxy_reads_them() {
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  \t ", &[]),
            ("# all comment", &[]),
            ("a b\tc", &["a", "b", "c"]),
            ("a#b c", &["a"]),
            ("a\\#b c", &["a#b", "c"]),
            ("a\\ b \"c d\" 'e f'", &["a b", "c d", "e f"]),
            ("a'b'\"c\"d", &["abcd"]),
            ("'a\\n$A\"'", &["a\\n$A\""]),
            ("\"a#b'c\"", &["a#b'c"]),
            ("\"\" ''", &["", ""]),
            ("\\n\\r\\t\\\\ \\x41\\x7e", &["\n\r\t\\", "A~"]),
            ("\"\\n\\x41\\\"\\'\\$A\\#\"", &["\nA\"'$A#"]),
            ("\\1 \\$A \\q", &["\\1", "\\$A", "\\q"]),
            ("$A ${A}", &["$A", "${A}"]),
            ("\"$A\" \"${A}\" \"x$A.y\"", &["one", "one", "xone.y"]),
            ("\"${TWO}\"", &["a b"]),
            ("\"${TWO[*]}\"", &["a", "b"]),
            ("x\"${TWO[*]}\"y", &["xa", "by"]),
            ("\"${PAD[*]}\" z", &["x", "y", "z"]),
            ("x\"${PAD[*]}\"z", &["x", "x", "y", "z"]),
            ("\"${EMPTY[*]}\" \"${NONE[*]}\" z", &["z"]),
            ("\"${SPACES[*]}\"", &[]),
            ("\"$EMPTY\" \"$NONE\"", &["", ""]),
            (
                "\"${NONE-dflt}\" \"${A-dflt}\" \"${EMPTY-d}\"",
                &["dflt", "one", ""],
            ),
            ("\"${NONE[*]-a b}\"", &["a", "b"]),
            ("\"${NONE-}\"x", &["x"]),
            ("\"${NONE-a 'b#}\"", &["a 'b#"]),
            ("\"$Q\"", &["\"'\\#$A"]),
            ("\"${.FILE}:${.LINE} $.SECTION\"", &["dir/h.cfg:7 fe"]),
            ("é \"日本 語\"", &["é", "日本 語"]),
            ("a\x0bb\x0cc", &["a", "b", "c"]),
            ("description foo\\", &["description", "foo\\"]),
        ];
        for (line, expected) in table {
            let found = words(line);
            let expected: Vec<String> = expected.iter().map(|w| w.to_string()).collect();
            assert_eq!(found, Ok(expected), "{line}");
        }
    }

    #[test]
    fn faults_are_named_and_placed() {
        let table = [
            ("a \"b", "unmatched-quote", 2..3),
            ("a 'b\" c", "unmatched-quote", 2..3),
            ("\\x4", "bad-escape", 0..3),
            ("ab\\xg0 c", "bad-escape", 2..6),
            ("\"$1\"", "bad-variable-name", 1..3),
            ("\"$\"", "bad-variable-name", 1..3),
            ("\"$", "bad-variable-name", 1..2),
            ("\"${}\"", "bad-variable-name", 1..4),
            ("\"$.OTHER\"", "bad-variable-name", 2..8),
            ("\"${A\"", "unmatched-brace", 1..5),
            ("\"${A-b\"", "unmatched-brace", 1..5),
            ("\"${A[1]}\"", "bad-expansion", 4..7),
            ("a \\", "trailing-backslash", 2..3),
            ("a\rb", "stray-carriage-return", 1..2),
            ("a\0b", "nul-byte", 1..2),
        ];
        for (line, code, range) in table {
            let error = lex_line(line.as_bytes()).unwrap_err();
            let place = error.place.unwrap();
            assert_eq!(error.code, code, "{line:?}");
            assert_eq!(place.start as usize..place.end as usize, range, "{line:?}");
        }
    }

    #[test]
    fn parts_of_words_are_found_in_the_file() {
        let line = "bind \"$A:80\" a\\ b:x é:1";
        let lexed = lex_line(line.as_bytes()).unwrap();
        let part = |word: usize, range: std::ops::Range<usize>| {
            let place = lexed.words[word].place_of(range);
            line[place.start as usize..place.end as usize].to_string()
        };
        assert_eq!(lexed.words[1].text, "one:80");
        assert_eq!(part(1, 4..6), "80");
        assert_eq!(part(1, 0..3), "$A");
        assert_eq!(part(1, 0..5), "$A:8");
        assert_eq!(part(2, 2..5), "b:x");
        assert_eq!(part(2, 1..2), "\\ ");
        assert_eq!(part(3, 3..4), "1");
        assert_eq!(part(0, 9..99), "bind");
    }

    #[test]
    fn bytes_that_are_not_text_are_kept() {
        let lexed = lex_line(b"abns@\xff\\xfe x").unwrap();
        assert_eq!(lexed.words[0].bytes(), b"abns@\xff\xfe");
        assert_eq!(lexed.words[0].text, "abns@\u{fffd}\u{fffd}");
        assert_eq!(lexed.words[1].place.start, 11);
    }

    #[test]
    fn limits_are_errors() {
        let many = "a ".repeat(MAX_WORDS);
        assert_eq!(words(&many).unwrap().len(), MAX_WORDS);
        assert_eq!(words(&format!("{many}a")), Err("too-many-words"));
        assert_eq!(words(&"a".repeat(MAX_LINE_BYTES + 1)), Err("line-too-long"));
        assert_eq!(words(&"a".repeat(MAX_LINE_BYTES)).unwrap().len(), 1);
        let long = format!("\"{}\"", "$PAD".repeat(MAX_LINE_BYTES / 4 - 1));
        assert_eq!(words(&long).unwrap()[0].len(), 7 * (MAX_LINE_BYTES / 4 - 1));
        let mut environment = Environment::default();
        environment.set("BIG", vec![b'x'; MAX_EXPANDED_BYTES]);
        let context = Context {
            environment: &environment,
            pseudo: Pseudo {
                file: "",
                section: None,
            },
            file: 0,
            line: 1,
        };
        assert!(lex(b"\"$BIG\"", context).is_ok());
        assert_eq!(
            lex(b"\"$BIG\"x", context).unwrap_err().code,
            "line-too-long"
        );
    }
}
