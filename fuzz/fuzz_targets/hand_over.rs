//! Whatever another process sends over the hand-over's socket, in whatever packets.
//!
//! Decides:  no packet panics or grows memory beyond the protocol's bounds; sockets are given only to one that
//!           said `Hello`, `Ready` and `Keep` in this order, and taken only with a descriptor for each; of notes
//!           there are no more than the bound, and whatever they say is read or passed over.

#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_control::memory::Memory;
use portcullis_listener::handover::{MOST_NOTES, Message};
use portcullis_listener::handover::machine::{Action, Event, Giver, Taker};
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

fuzz_target!(|data: &[u8]| {
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
});
