//! Any bytes of a client of a runtime socket, in any pieces: commands and their answers.
//!
//! Decides:  nothing but the input, and what must hold: pieces make no difference, and only the level
//!           that a session has, or a lower one, comes out.
//! Not here: the language (the control crate's admin/dialect.rs, commands.rs).

#![no_main]

use std::time::Duration;

use portcullis_control::admin::commands::reply;
use portcullis_control::admin::dialect::MOST_COMMAND;
use portcullis_control::admin::{Command, Next, Reader, Session};

/// All that the bytes come to; `None` at the end: they do not end.
fn commands(bytes: &[u8], piece: usize) -> Vec<Option<Command>> {
    let mut reader = Reader::default();
    let mut found = Vec::new();
    for part in bytes.chunks(piece) {
        reader.push(part);
        loop {
            match reader.take_next() {
                Next::More => break,
                Next::PayloadLine => {}
                Next::Command(command) => found.push(Some(command)),
                Next::TooLong => {
                    found.push(None);
                    return found;
                }
            }
        }
    }
    found
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = commands(bytes, bytes.len().max(1));
    assert_eq!(commands(bytes, usize::from(*piece).max(1)), whole);
    let mut session = Session::new(Default::default(), Duration::from_secs(10));
    for command in whole.iter().flatten() {
        let longest = command.words.iter().map(String::len).max().unwrap_or(0);
        assert!(longest <= 3 * MOST_COMMAND);
        let before = session.level;
        let _ = reply(&mut session, command);
        assert!(session.level <= before);
    }
});
