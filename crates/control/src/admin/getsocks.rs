//! HAProxy's own way of handing listeners to another process: the messages, both ways, without I/O.
//!
//! Decides:  what is sent and in how many messages, and which messages of another process are taken
//!           for such: as many descriptors as were announced, a name for each, and nothing else.
//! Source:   src/cli.c, _getsocks(); src/sock.c, sock_get_old_sockets(), 2.6: a native `int` with
//!           the number of descriptors; then messages with at most 252 of them, and for each in
//!           order the length of its network namespace's name (one byte), the name, the same of its
//!           interface, and four bytes of zero; each message is answered with four bytes. What comes
//!           in one message need not be whole: names are one stream, descriptors another.
//! Not here: sending and receiving (give.rs, take.rs), which sockets (run/handing.rs).

use std::fmt;

/// What is asked for them with.
pub const COMMAND: &[u8] = b"_getsocks\n";
/// HAProxy's `MAX_SEND_FD`: descriptors in one message.
pub const MOST_IN_MESSAGE: usize = 252;
/// Descriptors that are taken from another process.
pub const MOST_SOCKETS: usize = 65_536;
/// Bytes of an announcement and of an answer.
pub const WORD: usize = size_of::<i32>();
/// Zeroes after the names: options, before HAProxy 2.3.
const OPTIONS: usize = 4;
/// The longest that is said of one descriptor.
const MOST_NAMES: usize = 1 + 255 + 1 + 255 + OPTIONS;
/// The longest message that is taken.
pub const MOST_MESSAGE: usize = MOST_IN_MESSAGE * MOST_NAMES;

/// What is said of a socket beside what it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// Its network namespace; empty: that of the process.
    pub namespace: String,
    /// Its interface; empty: any.
    pub interface: String,
}

/// How many sockets will come.
pub fn announcement(sockets: usize) -> [u8; WORD] {
    i32::try_from(sockets).unwrap_or(i32::MAX).to_ne_bytes()
}

/// The messages for sockets with these names: how many of them go with each, and its bytes. `Err` is
/// the place of one whose names cannot be said.
pub fn messages(names: &[Names]) -> Result<Vec<(usize, Vec<u8>)>, usize> {
    let mut messages = Vec::new();
    for (number, part) in names.chunks(MOST_IN_MESSAGE).enumerate() {
        let mut bytes = Vec::new();
        for (index, names) in part.iter().enumerate() {
            for name in [&names.namespace, &names.interface] {
                let length = u8::try_from(name.len());
                // HAProxy reads the length as a signed char.
                let length = length.ok().filter(|length| *length <= 127);
                bytes.push(length.ok_or(number * MOST_IN_MESSAGE + index)?);
                bytes.extend_from_slice(name.as_bytes());
            }
            bytes.extend_from_slice(&[0; OPTIONS]);
        }
        messages.push((part.len(), bytes));
    }
    Ok(messages)
}

/// What another process sends, as far as it has come. `T` is a descriptor.
#[derive(Debug)]
pub struct Taking<T> {
    announced: usize,
    descriptors: Vec<T>,
    bytes: Vec<u8>,
}

/// Why what came is not what it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// A number of sockets that cannot be.
    Announced(i32),
    /// More descriptors than were announced.
    TooMany {
        /// So many were.
        announced: usize,
    },
    /// The end came before all had come.
    TooFew {
        /// So many were announced.
        announced: usize,
        /// So many came.
        came: usize,
    },
    /// A message without a descriptor.
    NoDescriptor,
    /// The names do not go with the descriptors: they end too soon, or go on.
    Names,
    /// A name that is no text.
    NotText,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Malformed::Announced(number) => {
                write!(f, "{number} sockets were announced: none can be that many")
            }
            Malformed::TooMany { announced } => {
                write!(f, "more descriptors came than the {announced} announced")
            }
            Malformed::TooFew { announced, came } => {
                write!(f, "{came} descriptors came of {announced} announced")
            }
            Malformed::NoDescriptor => f.write_str("a message came without a descriptor"),
            Malformed::Names => f.write_str("the names of the sockets are cut short, or too long"),
            Malformed::NotText => f.write_str("the name of a namespace or interface is no text"),
        }
    }
}

impl std::error::Error for Malformed {}

impl<T> Taking<T> {
    /// So many are announced.
    pub fn new(announcement: [u8; WORD]) -> Result<Taking<T>, Malformed> {
        let announced = i32::from_ne_bytes(announcement);
        let number = usize::try_from(announced).ok();
        let number = number.filter(|number| *number <= MOST_SOCKETS);
        Ok(Taking {
            announced: number.ok_or(Malformed::Announced(announced))?,
            descriptors: Vec::new(),
            bytes: Vec::new(),
        })
    }

    /// Are all there?
    pub fn is_whole(&self) -> bool {
        self.descriptors.len() == self.announced
    }

    /// A message came. The answer is to be sent back.
    pub fn message(&mut self, bytes: &[u8], descriptors: Vec<T>) -> Result<[u8; WORD], Malformed> {
        if descriptors.is_empty() {
            return Err(Malformed::NoDescriptor);
        }
        if self.descriptors.len() + descriptors.len() > self.announced {
            let announced = self.announced;
            return Err(Malformed::TooMany { announced });
        }
        let before = announcement(self.descriptors.len());
        self.descriptors.extend(descriptors);
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > self.descriptors.len() * MOST_NAMES {
            return Err(Malformed::Names);
        }
        Ok(before)
    }

    /// Nothing more comes: every descriptor with its names.
    pub fn finish(self) -> Result<Vec<(T, Names)>, Malformed> {
        if !self.is_whole() {
            let (announced, came) = (self.announced, self.descriptors.len());
            return Err(Malformed::TooFew { announced, came });
        }
        let mut rest = self.bytes.as_slice();
        let mut taken = Vec::new();
        for descriptor in self.descriptors {
            let namespace = name(&mut rest)?;
            let interface = name(&mut rest)?;
            rest = rest.get(OPTIONS..).ok_or(Malformed::Names)?;
            let names = Names {
                namespace,
                interface,
            };
            taken.push((descriptor, names));
        }
        match rest.is_empty() {
            true => Ok(taken),
            false => Err(Malformed::Names),
        }
    }
}

/// A name with its length before it.
fn name(rest: &mut &[u8]) -> Result<String, Malformed> {
    let (length, after) = rest.split_first().ok_or(Malformed::Names)?;
    let (name, after) = after
        .split_at_checked(usize::from(*length))
        .ok_or(Malformed::Names)?;
    *rest = after;
    let name = std::str::from_utf8(name).map_err(|_| Malformed::NotText)?;
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(namespace: &str, interface: &str) -> Names {
        Names {
            namespace: namespace.to_owned(),
            interface: interface.to_owned(),
        }
    }

    #[test]
    fn what_is_sent_is_what_haproxy_sends() {
        let messages = messages(&[names("", ""), names("blue", "eth0"), names("", "lo")]).unwrap();
        let bytes = b"\0\0\0\0\0\0\x04blue\x04eth0\0\0\0\0\0\x02lo\0\0\0\0".to_vec();
        assert_eq!(messages, [(3, bytes)]);
        assert_eq!(announcement(3), 3i32.to_ne_bytes());
    }

    #[test]
    fn all_numbers_of_sockets_come_as_they_were_sent_whole_or_in_two_parts() {
        for count in (0..=20).chain([251, 252, 253, 504, 505, 1000]) {
            let sent: Vec<Names> = (0..count)
                .map(|n| names(&"n".repeat(n % 5), &"i".repeat(n % 16)))
                .collect();
            let messages = messages(&sent).unwrap();
            assert_eq!(messages.len(), count.div_ceil(MOST_IN_MESSAGE));
            let mut taking = Taking::new(announcement(count)).unwrap();
            let mut next = 0;
            for (number, bytes) in messages {
                // A part of the names may come with the next message only.
                let (first, cut) = (number / 2, bytes.len() / 3);
                let mut numbers = next..next + number;
                if first > 0 {
                    let part = numbers.by_ref().take(first).collect();
                    let answer = taking.message(&bytes[..cut], part).unwrap();
                    assert_eq!(answer, announcement(next));
                    taking.message(&bytes[cut..], numbers.collect()).unwrap();
                } else {
                    taking.message(&bytes, numbers.collect()).unwrap();
                }
                next += number;
            }
            assert!(taking.is_whole());
            let taken = taking.finish().unwrap();
            let expected: Vec<(usize, Names)> = sent.into_iter().enumerate().collect();
            assert_eq!(taken, expected, "{count}");
        }
    }

    /// One socket was announced, or as many as there are messages' descriptors; this came.
    fn come(announced: i32, messages: &[(&[u8], usize)]) -> Result<usize, Malformed> {
        let mut taking = Taking::new(announced.to_ne_bytes())?;
        for (bytes, descriptors) in messages {
            taking.message(bytes, vec![(); *descriptors])?;
        }
        taking.finish().map(|taken| taken.len())
    }

    #[test]
    fn what_is_cut_short_or_too_much_is_refused_and_says_why() {
        let plain: &[u8] = &[0; 6];
        for (label, announced, messages, expected) in [
            ("nothing", 0, &[][..], Ok(0)),
            ("one", 1, &[(plain, 1)], Ok(1)),
            ("a negative number", -1, &[], Err(Malformed::Announced(-1))),
            (
                "a number that nobody has",
                i32::MAX,
                &[],
                Err(Malformed::Announced(i32::MAX)),
            ),
            (
                "fewer than announced",
                2,
                &[(plain, 1)],
                Err(Malformed::TooFew {
                    announced: 2,
                    came: 1,
                }),
            ),
            (
                "more than announced",
                1,
                &[(plain, 2)],
                Err(Malformed::TooMany { announced: 1 }),
            ),
            (
                "bytes alone",
                1,
                &[(plain, 0)],
                Err(Malformed::NoDescriptor),
            ),
            ("no bytes", 1, &[(b"", 1)], Err(Malformed::Names)),
            (
                "no options",
                1,
                &[(b"\0\0\0\0\0", 1)],
                Err(Malformed::Names),
            ),
            ("a byte too many", 1, &[(&[0; 7], 1)], Err(Malformed::Names)),
            (
                "a name cut short",
                1,
                &[(b"\x09abc\0\0\0\0\0", 1)],
                Err(Malformed::Names),
            ),
            (
                "no text",
                1,
                &[(b"\x01\xff\0\0\0\0\0", 1)],
                Err(Malformed::NotText),
            ),
            (
                "names without an end",
                1,
                &[(&[1; MOST_NAMES + 1], 1)],
                Err(Malformed::Names),
            ),
        ] {
            assert_eq!(come(announced, messages), expected, "{label}");
        }
    }

    #[test]
    fn a_name_that_haproxy_would_misread_is_not_sent() {
        let long = |length: usize| names(&"x".repeat(length), "");
        assert!(messages(&[long(127)]).is_ok());
        assert_eq!(messages(&[long(1), long(128)]), Err(1));
        let many = vec![names("", ""); MOST_IN_MESSAGE + 3];
        let with_long = [many, vec![long(300)]].concat();
        assert_eq!(messages(&with_long), Err(MOST_IN_MESSAGE + 3));
    }
}
