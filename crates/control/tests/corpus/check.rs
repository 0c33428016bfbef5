//! What must hold of everything that another process or a client may send, in whatever pieces.
//!
//! Decides:  no bytes panic or grow memory beyond a bound; sockets are given only to one that said `Hello`, `Ready`
//!           and `Keep` in this order, and taken only with a descriptor for each; notes beyond the bound are
//!           refused, whatever they say is read or passed over; what is taken in HAProxy's way can be given
//!           again and is the same; pieces of a command make no difference, and no level rises.
//! Not here: where the bytes come from (the fuzz targets, and ../corpus.rs).

use std::time::Duration;

use portcullis_control::admin::commands::reply;
use portcullis_control::admin::dialect::MOST_COMMAND;
use portcullis_control::admin::getsocks::{MOST_IN_MESSAGE, Taking, announcement, messages};
use portcullis_control::admin::{Command, Next, Reader, Session};
use portcullis_control::memory::Memory;
use portcullis_listener::handover::machine::{Action, Event, Giver, Taker};
use portcullis_listener::handover::{MOST_NOTES, Message};
use portcullis_listener::opener::codec::{Assembler, HEADER_LENGTH, packets};

/// Each packet: a byte for its kind, one for its descriptors, two for the length of what follows.
fn split(mut data: &[u8]) -> Vec<(u8, usize, &[u8])> {
    let mut parts = Vec::new();
    while let [kind, descriptors, low, high, rest @ ..] = data {
        let length = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
        let (text, after) = rest.split_at(length);
        parts.push((*kind, usize::from(descriptors % 4), text));
        data = after;
    }
    parts
}

/// The messages of a hand-over, to either side.
pub fn hand_over(data: &[u8]) {
    let mut assembler = Assembler::default();
    let (mut giver, mut taker) = (Giver::default(), Taker::default());
    let (mut heard, mut notes) = (Vec::new(), 0);
    for (kind, count, text) in split(data) {
        // As it came, or as a packet with a good header, so that the text is reached too.
        let message = match kind % 2 {
            0 => assembler.push(text, vec![(); count]),
            _ => {
                let Ok(packets) = packets(u32::from(kind), text.len(), count) else {
                    continue;
                };
                let mut bytes = packets[0].header.to_vec();
                bytes.extend_from_slice(&text[packets[0].text.clone()]);
                assert!(bytes.len() >= HEADER_LENGTH);
                assembler.push(&bytes, vec![(); packets[0].descriptors.len()])
            }
        };
        let event = match message {
            Ok(None) => continue,
            Err(error) => Event::Broken(error.to_string()),
            Ok(Some(message)) => match Message::of(&message.text) {
                Ok(said) => Event::Heard(said, message.descriptors.len()),
                Err(error) => Event::Broken(error.to_string()),
            },
        };
        heard.push(event.clone());
        if let Action::Given(pid) = giver.on(event.clone()) {
            assert!(pid > 1 && heard.len() == 3, "{heard:?}");
            assert!(matches!(heard[0], Event::Heard(Message::Hello { .. }, 0)));
            assert!(matches!(heard[1], Event::Heard(Message::Ready { .. }, 0)));
            assert!(matches!(heard[2], Event::Heard(Message::Keep, 0)));
        }
        match taker.on(event.clone()) {
            Action::Adopt { sockets, .. } => {
                assert!(matches!(event, Event::Heard(_, came) if came == sockets.len()));
                taker.serving();
            }
            Action::Learn(note) => {
                notes += 1;
                assert!(notes <= MOST_NOTES);
                let (known, down) = Memory::of(&[note]).servers();
                assert!(down <= known);
            }
            _ => {}
        }
    }
}

/// The messages of a process that gives its sockets as HAProxy does.
pub fn getsocks(bytes: &[u8]) {
    let Some((count, mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    let Ok(mut taking) = Taking::new(*count) else {
        return;
    };
    let mut next = 0u32;
    // A message: how many descriptors, how many bytes, and these.
    while let [descriptors, length, after @ ..] = rest {
        let (now, later) = after.split_at(usize::from(*length).min(after.len()));
        rest = later;
        let numbers = (next..).take(usize::from(*descriptors)).collect();
        next += u32::from(*descriptors);
        if taking.message(now, numbers).is_err() {
            return;
        }
    }
    let Ok(taken) = taking.finish() else {
        return;
    };
    assert_eq!(announcement(taken.len()), *count);
    let (numbers, names): (Vec<u32>, Vec<_>) = taken.into_iter().unzip();
    assert!(numbers.iter().copied().eq(0..next));
    let Ok(again) = messages(&names) else {
        return;
    };
    let mut second = Taking::new(announcement(names.len())).expect("so many were taken");
    let mut given = 0;
    for (count, bytes) in again {
        assert!(count <= MOST_IN_MESSAGE);
        second
            .message(&bytes, (given..given + count).collect())
            .expect("it is ours");
        given += count;
    }
    let second = second.finish().expect("it is ours");
    let second: Vec<_> = second.into_iter().map(|(_, names)| names).collect();
    assert_eq!(second, names);
}

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

/// What a client of a runtime socket says.
pub fn admin_dialect(bytes: &[u8]) {
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
}
