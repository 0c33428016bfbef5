//! How a message of any length, with any number of descriptors, goes in packets.
//!
//! Decides:  the packet's header, its limits, and which sequence of packets is a message.
//! Kernel:   net/core/scm.c: one packet carries at most `SCM_MAX_FD` descriptors
//! Not here: reading and writing them (channel.rs), what the text means (message.rs).
//!
//! Pure: a descriptor is any type, so that tests need none.

use std::fmt;
use std::ops::Range;

use portcullis_sys::pass::MAX_DESCRIPTORS;

/// The version of the header and of the messages. Both sides must have the same.
pub const VERSION: u16 = 1;
/// The length of the header that every packet starts with, in bytes.
pub const HEADER_LENGTH: usize = 24;
/// The longest packet, header and text, in bytes: well under the smallest usual socket buffer.
pub const MAX_PACKET: usize = 32 << 10;
/// The longest text of a whole message, in bytes: some 20,000 listeners.
pub const MAX_TEXT: usize = 16 << 20;
/// The most descriptors of a whole message.
pub const MAX_MESSAGE_DESCRIPTORS: usize = 65_536;

const MAGIC: [u8; 4] = *b"PCOP";

/// One packet to be sent: its header, and which part of the message goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// To be sent first.
    pub header: [u8; HEADER_LENGTH],
    /// Which bytes of the text follow.
    pub text: Range<usize>,
    /// Which descriptors go along.
    pub descriptors: Range<usize>,
}

/// A message that arrived whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<D> {
    /// The number that its sender gave it; an answer has its question's.
    pub id: u32,
    /// What it says.
    pub text: Vec<u8>,
    /// What came with it.
    pub descriptors: Vec<D>,
}

/// What arrived is not a message of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProtocolError {
    /// A packet shorter than a header.
    Truncated {
        /// Its length in bytes.
        length: usize,
    },
    /// A packet that does not start as ours do.
    Foreign,
    /// A packet of another version.
    Version {
        /// Theirs.
        theirs: u16,
    },
    /// The text is longer than [`MAX_TEXT`], or a packet than [`MAX_PACKET`].
    TooLong {
        /// In bytes.
        length: usize,
    },
    /// More descriptors than [`MAX_MESSAGE_DESCRIPTORS`], or than a packet may have.
    TooManyDescriptors {
        /// How many.
        count: usize,
    },
    /// Other descriptors came than the header or the text says.
    DescriptorCount {
        /// How many were announced.
        said: usize,
        /// How many came.
        came: usize,
    },
    /// A packet that does not continue the message that is under way.
    OutOfOrder {
        /// Where the next packet should have started, in bytes of the text.
        expected: usize,
        /// Where it says that it starts.
        found: usize,
    },
    /// A packet that brings nothing, or goes beyond the message's end.
    Overrun,
    /// The text is not what it should be.
    Text(String),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProtocolError::Truncated { length } => {
                write!(f, "a packet of {length} bytes is shorter than a header")
            }
            ProtocolError::Foreign => f.write_str("a packet that is not the opener's protocol"),
            ProtocolError::Version { theirs } => write!(
                f,
                "the other side speaks version {theirs} of the protocol, this side {VERSION}"
            ),
            ProtocolError::TooLong { length } => {
                write!(f, "{length} bytes are more than the protocol allows")
            }
            ProtocolError::TooManyDescriptors { count } => {
                write!(f, "{count} descriptors are more than the protocol allows")
            }
            ProtocolError::DescriptorCount { said, came } => {
                write!(f, "{said} descriptors were announced and {came} came")
            }
            ProtocolError::OutOfOrder { expected, found } => write!(
                f,
                "a packet starts at byte {found} of its message instead of {expected}"
            ),
            ProtocolError::Overrun => {
                f.write_str("a packet brings nothing, or more than its message has")
            }
            ProtocolError::Text(why) => write!(f, "a message is not understood: {why}"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// The header's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    descriptors_here: u16,
    id: u32,
    offset: u32,
    total_text: u32,
    total_descriptors: u32,
}

impl Header {
    fn encode(self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        bytes[0..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6..8].copy_from_slice(&self.descriptors_here.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.id.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.total_text.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.total_descriptors.to_le_bytes());
        bytes
    }

    fn decode(packet: &[u8]) -> Result<(Header, &[u8]), ProtocolError> {
        let Some((head, text)) = packet.split_first_chunk::<HEADER_LENGTH>() else {
            return Err(ProtocolError::Truncated {
                length: packet.len(),
            });
        };
        if head[0..4] != MAGIC {
            return Err(ProtocolError::Foreign);
        }
        let short = |at: usize| u16::from_le_bytes([head[at], head[at + 1]]);
        let long =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if short(4) != VERSION {
            return Err(ProtocolError::Version { theirs: short(4) });
        }
        if packet.len() > MAX_PACKET {
            return Err(ProtocolError::TooLong {
                length: packet.len(),
            });
        }
        let header = Header {
            descriptors_here: short(6),
            id: long(8),
            offset: long(12),
            total_text: long(16),
            total_descriptors: long(20),
        };
        Ok((header, text))
    }
}

/// The packets that carry a text of this length and this many descriptors.
pub fn packets(
    id: u32,
    text_length: usize,
    descriptors: usize,
) -> Result<Vec<Packet>, ProtocolError> {
    if text_length > MAX_TEXT {
        return Err(ProtocolError::TooLong {
            length: text_length,
        });
    }
    if descriptors > MAX_MESSAGE_DESCRIPTORS {
        return Err(ProtocolError::TooManyDescriptors { count: descriptors });
    }
    const PART: usize = MAX_PACKET - HEADER_LENGTH;
    let mut packets = Vec::new();
    let (mut text_at, mut descriptors_at) = (0, 0);
    while packets.is_empty() || text_at < text_length || descriptors_at < descriptors {
        let text = text_at..text_length.min(text_at + PART);
        let part = descriptors_at..descriptors.min(descriptors_at + MAX_DESCRIPTORS);
        let header = Header {
            descriptors_here: part.len() as u16, // at most MAX_DESCRIPTORS
            id,
            offset: text_at as u32,         // at most MAX_TEXT
            total_text: text_length as u32, // at most MAX_TEXT
            total_descriptors: descriptors as u32,
        };
        (text_at, descriptors_at) = (text.end, part.end);
        packets.push(Packet {
            header: header.encode(),
            text,
            descriptors: part,
        });
    }
    Ok(packets)
}

/// The number of the message that a packet belongs to, if it is a packet of ours.
pub fn message_id(packet: &[u8]) -> Option<u32> {
    Header::decode(packet).ok().map(|(header, _)| header.id)
}

/// Makes messages of packets again.
#[derive(Debug)]
pub struct Assembler<D> {
    under_way: Option<Message<D>>,
}

impl<D> Default for Assembler<D> {
    fn default() -> Self {
        Assembler { under_way: None }
    }
}

impl<D> Assembler<D> {
    /// Takes one packet; gives the message when it is whole.
    ///
    /// The first packet of a new message abandons one that is unfinished (its sender gave up).
    /// After an error nothing is under way; the descriptors that came so far are dropped.
    pub fn push(
        &mut self,
        packet: &[u8],
        descriptors: Vec<D>,
    ) -> Result<Option<Message<D>>, ProtocolError> {
        let before = self.under_way.take();
        let (header, text) = Header::decode(packet)?;
        let (offset, total_text, total_descriptors) = (
            header.offset as usize,
            header.total_text as usize,
            header.total_descriptors as usize,
        );
        if usize::from(header.descriptors_here) != descriptors.len() {
            return Err(ProtocolError::DescriptorCount {
                said: header.descriptors_here.into(),
                came: descriptors.len(),
            });
        }
        if total_text > MAX_TEXT {
            return Err(ProtocolError::TooLong { length: total_text });
        }
        if total_descriptors > MAX_MESSAGE_DESCRIPTORS {
            return Err(ProtocolError::TooManyDescriptors {
                count: total_descriptors,
            });
        }
        let mut message = match before {
            Some(message) if message.id == header.id => message,
            _ => Message {
                id: header.id,
                text: Vec::new(),
                descriptors: Vec::new(),
            },
        };
        if offset != message.text.len() {
            return Err(ProtocolError::OutOfOrder {
                expected: message.text.len(),
                found: offset,
            });
        }
        let complete_and_empty = total_text == 0 && total_descriptors == 0;
        if text.is_empty() && descriptors.is_empty() && !complete_and_empty {
            return Err(ProtocolError::Overrun);
        }
        message.text.extend_from_slice(text);
        message.descriptors.extend(descriptors);
        if message.text.len() > total_text || message.descriptors.len() > total_descriptors {
            return Err(ProtocolError::Overrun);
        }
        if message.text.len() == total_text && message.descriptors.len() == total_descriptors {
            return Ok(Some(message));
        }
        self.under_way = Some(message);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What goes over the wire: each packet's bytes, and numbers that stand for descriptors.
    fn wire(id: u32, text: &[u8], descriptors: usize) -> Vec<(Vec<u8>, Vec<usize>)> {
        packets(id, text.len(), descriptors)
            .unwrap()
            .into_iter()
            .map(|packet| {
                let mut bytes = packet.header.to_vec();
                bytes.extend_from_slice(&text[packet.text]);
                (bytes, packet.descriptors.collect())
            })
            .collect()
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn every_size_around_a_limit_comes_out_as_it_went_in() {
        const PART: usize = MAX_PACKET - HEADER_LENGTH;
        for length in [0, 1, PART - 1, PART, PART + 1, 2 * PART, 3 * PART + 7] {
            for count in [0, 1, 252, 253, 254, 506, 507, 2000] {
                let sent = text(length);
                let mut assembler = Assembler::default();
                let wire = wire(7, &sent, count);
                let last = wire.len() - 1;
                for (at, (bytes, descriptors)) in wire.into_iter().enumerate() {
                    assert!(bytes.len() <= MAX_PACKET && descriptors.len() <= MAX_DESCRIPTORS);
                    let message = assembler.push(&bytes, descriptors).unwrap();
                    assert_eq!(message.is_some(), at == last, "{length} bytes, {count}");
                    if let Some(message) = message {
                        assert_eq!(message.id, 7);
                        assert_eq!(message.text, sent);
                        assert!(message.descriptors.into_iter().eq(0..count));
                    }
                }
            }
        }
    }

    #[test]
    fn two_thousand_listeners_go_in_eight_packets_of_descriptors() {
        assert_eq!(packets(1, 0, 2000).unwrap().len(), 8);
    }

    #[test]
    fn what_is_over_a_limit_is_refused_before_it_is_sent() {
        assert_eq!(
            packets(1, MAX_TEXT + 1, 0),
            Err(ProtocolError::TooLong {
                length: MAX_TEXT + 1
            })
        );
        assert_eq!(
            packets(1, 0, MAX_MESSAGE_DESCRIPTORS + 1),
            Err(ProtocolError::TooManyDescriptors {
                count: MAX_MESSAGE_DESCRIPTORS + 1
            })
        );
    }

    #[test]
    fn every_truncated_packet_is_refused_or_waits_for_more() {
        let (whole, descriptors) = wire(1, b"hello", 2).remove(0);
        for length in 0..whole.len() {
            let answer = Assembler::default().push(&whole[..length], descriptors.clone());
            if length < HEADER_LENGTH {
                assert_eq!(answer, Err(ProtocolError::Truncated { length }));
            } else {
                assert_eq!(answer, Ok(None), "{length}");
            }
        }
    }

    /// Every refusal: what was done to a good packet, and what is said of it.
    #[test]
    fn each_wrong_packet_is_refused_for_its_own_reason() {
        type Change = fn(&mut Vec<u8>, &mut Vec<usize>);
        let rows: [(&str, Change, ProtocolError); 9] = [
            (
                "other magic",
                |bytes, _| bytes[0] = b'X',
                ProtocolError::Foreign,
            ),
            (
                "other version",
                |bytes, _| bytes[4] = 9,
                ProtocolError::Version { theirs: 9 },
            ),
            (
                "a descriptor less",
                |_, descriptors| descriptors.truncate(1),
                ProtocolError::DescriptorCount { said: 2, came: 1 },
            ),
            (
                "a descriptor more",
                |_, descriptors| descriptors.push(9),
                ProtocolError::DescriptorCount { said: 2, came: 3 },
            ),
            (
                "starts in the middle",
                |bytes, _| bytes[12] = 3,
                ProtocolError::OutOfOrder {
                    expected: 0,
                    found: 3,
                },
            ),
            (
                "text announced beyond the limit",
                |bytes, _| bytes[16..20].copy_from_slice(&u32::MAX.to_le_bytes()),
                ProtocolError::TooLong {
                    length: u32::MAX as usize,
                },
            ),
            (
                "descriptors announced beyond the limit",
                |bytes, _| bytes[20..24].copy_from_slice(&70_000_u32.to_le_bytes()),
                ProtocolError::TooManyDescriptors { count: 70_000 },
            ),
            (
                "more text than announced",
                |bytes, _| bytes.push(b'!'),
                ProtocolError::Overrun,
            ),
            (
                "oversized",
                |bytes, _| bytes.resize(MAX_PACKET + 1, 0),
                ProtocolError::TooLong {
                    length: MAX_PACKET + 1,
                },
            ),
        ];
        for (what, change, expected) in rows {
            let (mut bytes, mut descriptors) = wire(1, b"hello", 2).remove(0);
            change(&mut bytes, &mut descriptors);
            let mut assembler = Assembler::default();
            assert_eq!(
                assembler.push(&bytes, descriptors),
                Err(expected.clone()),
                "{what}"
            );
            assert!(!expected.to_string().is_empty());
            // An error leaves nothing behind: a good message passes next.
            let (bytes, descriptors) = wire(2, b"again", 1).remove(0);
            assert!(assembler.push(&bytes, descriptors).unwrap().is_some());
        }
    }

    #[test]
    fn a_packet_that_brings_nothing_cannot_keep_a_message_open() {
        let empty = Header {
            descriptors_here: 0,
            id: 1,
            offset: 0,
            total_text: 5,
            total_descriptors: 0,
        };
        assert_eq!(
            Assembler::<usize>::default().push(&empty.encode(), Vec::new()),
            Err(ProtocolError::Overrun)
        );
    }

    #[test]
    fn a_new_message_abandons_an_unfinished_one() {
        let mut assembler = Assembler::default();
        let first = wire(1, &text(2 * MAX_PACKET), 300);
        assert!(first.len() > 1);
        assert_eq!(assembler.push(&first[0].0, first[0].1.clone()), Ok(None));
        let (bytes, descriptors) = wire(2, b"sorry", 0).remove(0);
        let message = assembler.push(&bytes, descriptors).unwrap().unwrap();
        assert_eq!(
            (message.id, message.text.as_slice()),
            (2, b"sorry".as_slice())
        );
        // The rest of the first is now out of order.
        assert!(matches!(
            assembler.push(&first[1].0, first[1].1.clone()),
            Err(ProtocolError::OutOfOrder { expected: 0, .. })
        ));
    }

    #[test]
    fn a_lost_packet_is_noticed_at_the_next() {
        let packets = wire(1, &text(4 * MAX_PACKET), 0);
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push(&packets[0].0, Vec::<usize>::new()), Ok(None));
        assert!(matches!(
            assembler.push(&packets[2].0, Vec::new()),
            Err(ProtocolError::OutOfOrder { .. })
        ));
    }

    #[test]
    fn random_bytes_never_panic_and_never_make_a_message() {
        // xorshift from a fixed seed: the same run every time.
        let mut state = 0x5eed_0b5e_55ed_1234_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let mut bytes: Vec<u8> = (0..next() % 64).map(|_| next() as u8).collect();
            // Half of them with a good start, so that what follows is reached.
            if next() % 2 == 0 && bytes.len() >= 8 {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
                bytes[6..8].copy_from_slice(&1_u16.to_le_bytes());
            }
            assert!(!matches!(
                Assembler::default().push(&bytes, vec![0_usize]),
                Ok(Some(_))
            ));
        }
    }
}
