//! Bytes of a client to commands, and commands to words. No I/O.
//!
//! Decides:  where a command ends, what a backslash does, what a payload is, and how long any of it
//!           may be.
//! Source:   HAProxy's management guide, chapter 9.3; src/cli.c, cli_io_handler() and
//!           cli_parse_request(), 2.6: commands end at a line feed or at a `;` without a backslash
//!           before it; a command that ends in `<<` has the lines up to an empty one as its payload.
//! Not here: what the commands are (commands.rs), when a connection ends (server.rs).

/// The longest command, its payload not counted: HAProxy's `tune.bufsize`.
pub const MOST_COMMAND: usize = 16_384;
/// The longest payload: HAProxy's limit.
pub const MOST_PAYLOAD: usize = 128 << 10;
/// Words of a command that count: HAProxy's `MAX_CLI_ARGS`.
const MOST_WORDS: usize = 64;
/// What a command with a payload ends in.
const PAYLOAD: &[u8] = b"<<";

/// One command of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// Its words.
    pub words: Vec<String>,
    /// The lines after it, if it ended in `<<`.
    pub payload: Option<Vec<u8>>,
}

/// What there is to do with what came so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// A whole command.
    Command(Command),
    /// A line of a payload: an interactive client wants to be asked for the next one.
    PayloadLine,
    /// Nothing whole is there.
    More,
    /// It does not end: the connection is of no use any more.
    TooLong,
}

/// What came, and was not taken yet.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    /// How much of `bytes` is known to hold no end.
    searched: usize,
    /// The command whose payload is being read.
    payload: Option<(Vec<String>, Vec<u8>)>,
}

impl Reader {
    /// More came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Is nothing left, whole or not?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.payload.is_none()
    }

    /// The next thing in what came.
    pub fn take_next(&mut self) -> Next {
        if self.payload.is_some() {
            return self.payload_line();
        }
        let Some(end) = self.end() else {
            return match self.bytes.len() > MOST_COMMAND {
                true => Next::TooLong,
                false => Next::More,
            };
        };
        if end > MOST_COMMAND {
            return Next::TooLong;
        }
        let line = self.take(end);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        match line.strip_suffix(PAYLOAD) {
            Some(line) => {
                self.payload = Some((words(line), Vec::new()));
                Next::PayloadLine
            }
            None => Next::Command(Command {
                words: words(line),
                payload: None,
            }),
        }
    }

    fn payload_line(&mut self) -> Next {
        let rest = &self.bytes[self.searched..];
        let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return match self.searched > MOST_PAYLOAD {
                true => Next::TooLong,
                false => Next::More,
            };
        };
        let line = self.take(self.searched + end);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        let Some((words, mut payload)) = self.payload.take() else {
            return Next::More;
        };
        if line.is_empty() {
            // The last line feed is the empty line's.
            payload.pop();
            return Next::Command(Command {
                words,
                payload: Some(payload),
            });
        }
        if payload.len() + line.len() > MOST_PAYLOAD {
            return Next::TooLong;
        }
        payload.extend_from_slice(line);
        payload.push(b'\n');
        self.payload = Some((words, payload));
        Next::PayloadLine
    }

    /// Where the first command ends: a backslash keeps what follows from being an end.
    fn end(&mut self) -> Option<usize> {
        let mut at = self.searched;
        while let Some(byte) = self.bytes.get(at) {
            match byte {
                b'\n' | b';' => return Some(at),
                b'\\' if self.bytes.get(at + 1) == Some(&b'\n') => at += 1,
                // What follows is not there yet.
                b'\\' if at + 1 == self.bytes.len() => break,
                b'\\' => at += 2,
                _ => at += 1,
            }
        }
        self.searched = at.min(self.bytes.len());
        None
    }

    /// The bytes before `end`, and the one there goes.
    fn take(&mut self, end: usize) -> Vec<u8> {
        let rest = self.bytes.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.bytes, rest);
        line.pop();
        self.searched = 0;
        line
    }
}

/// The words of a command: parted by spaces and tabs; a backslash takes the next byte as it is, and
/// is kept only before another backslash.
fn words(line: &[u8]) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match byte {
            b' ' | b'\t' => words.extend(word.take()),
            b'\\' => {
                let word = word.get_or_insert_default();
                word.extend(bytes.next());
            }
            byte => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words.truncate(MOST_WORDS);
    let text = |word: Vec<u8>| String::from_utf8_lossy(&word).into_owned();
    words.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that a client's bytes come to, told in a few letters.
    fn all(bytes: &[u8], chunk: usize) -> Vec<String> {
        let mut reader = Reader::default();
        let mut told = Vec::new();
        for part in bytes.chunks(chunk) {
            reader.push(part);
            loop {
                told.push(match reader.take_next() {
                    Next::More => break,
                    Next::PayloadLine => "+".to_owned(),
                    Next::TooLong => return vec!["too long".to_owned()],
                    Next::Command(Command { words, payload }) => {
                        let payload = payload.map(|it| String::from_utf8_lossy(&it).into_owned());
                        match payload {
                            None => words.join("|"),
                            Some(payload) => format!("{} << {payload:?}", words.join("|")),
                        }
                    }
                });
            }
        }
        if !reader.is_empty() {
            told.push("…".to_owned());
        }
        told
    }

    #[test]
    fn commands_end_where_haproxy_ends_them_however_they_come_in() {
        for (bytes, expected) in [
            ("show version\n", &["show|version"][..]),
            ("show version\r\n", &["show|version"]),
            ("show version", &["…"]),
            ("a;b; c\n", &["a", "b", "c"]),
            ("\n;\n", &["", "", ""]),
            ("a\\;b c\\ d\n", &["a;b|c d"]),
            ("a\\\\b \\\\\n", &["a\\b|\\"]),
            ("a\\xb\n", &["axb"]),
            ("  a \t b  \n", &["a|b"]),
            ("\\\n", &[""]),
            (
                "set x <<\none\n two;\n\nnext\n",
                &["+", "+", "+", "set|x << \"one\\n two;\"", "next"],
            ),
            ("set x <<\n\n", &["+", "set|x << \"\""]),
            ("set x <<\none\n", &["+", "+", "…"]),
        ] {
            for chunk in [1, 2, 3, 1000] {
                assert_eq!(
                    all(bytes.as_bytes(), chunk),
                    expected,
                    "{bytes:?} by {chunk}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_end_is_given_up_on() {
        let just = [vec![b'x'; MOST_COMMAND], b"\n".to_vec()].concat();
        assert_eq!(all(&just, 1000)[0].len(), MOST_COMMAND);
        let long = vec![b'x'; MOST_COMMAND + 1];
        assert_eq!(all(&long, 1000), ["too long"]);
        assert_eq!(all(&[long, b"\n".to_vec()].concat(), 1 << 20), ["too long"]);
        let lines = "0123456789\n".repeat(MOST_PAYLOAD / 11 + 1);
        let payload = format!("set x <<\n{lines}");
        assert_eq!(all(payload.as_bytes(), 4096), ["too long"]);
        let line = format!("set x <<\n{}", "x".repeat(MOST_PAYLOAD + 1));
        assert_eq!(all(line.as_bytes(), 4096), ["too long"]);
    }

    #[test]
    fn bytes_that_are_no_text_and_a_thousand_words_do_no_harm() {
        assert_eq!(all(b"a\xff\x00b\n", 2), ["a\u{fffd}\0b"]);
        let many = format!("{}\n", "w ".repeat(1000));
        assert_eq!(
            all(many.as_bytes(), 4096)[0].matches('w').count(),
            MOST_WORDS
        );
    }
}
