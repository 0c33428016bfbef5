//! Asking the kernel through netlink, and taking its answers apart.
//!
//! Decides:  what of an answer is believed: lengths are checked, a torn dump is asked for again, and an
//!           answer that makes no sense is an error.
//! Kernel:   netlink(7); net/netlink/af_netlink.c, netlink_dump(); include/net/netlink.h
//! Not here: what the messages mean (crates `inspect`, `conformance`, `testkit`).

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::Protocol;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
/// `NLM_F_CREATE | NLM_F_EXCL`: for [`Netlink::change`], make it, and fail where it exists.
pub const CREATE_EXCL: u16 = 0x400 | 0x200;
/// `NLM_F_CREATE | NLM_F_REPLACE`: make it, in the place of one that exists.
pub const CREATE_REPLACE: u16 = 0x400 | 0x100;
/// `NLM_F_CREATE | NLM_F_APPEND`: make it, behind what exists.
pub const CREATE_APPEND: u16 = 0x400 | 0x800;
/// The dump saw a table while it changed.
const DUMP_INTERRUPTED: u16 = 0x10;
/// The type of an attribute without the flags in its high bits.
const TYPE_MASK: u16 = 0x3fff;
/// The kernel fills no more than this at once.
const BUFFER: usize = 64 * 1024;
/// How often a dump that tore is asked for again.
const ATTEMPTS: u32 = 5;
/// No answer of the kernel takes longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A netlink socket of this thread's network namespace.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// One message without its header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// `nlmsg_type`.
    pub kind: u16,
    /// `nlmsg_flags`.
    pub flags: u16,
    /// Which request it answers.
    pub sequence: u32,
    /// What stands behind the header.
    pub body: &'a [u8],
}

impl Netlink {
    /// Opens one; `NETLINK_ROUTE` is no protocol at all (0).
    pub fn open(protocol: Option<Protocol>) -> io::Result<Netlink> {
        let socket = socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Netlink {
            socket,
            sequence: 0,
        })
    }

    /// From now on a dump is filtered as its request says (`NETLINK_GET_STRICT_CHK`, 4.20).
    pub fn filter_dumps(&self) -> io::Result<()> {
        const SOL_NETLINK: i32 = 270;
        const NETLINK_GET_STRICT_CHK: i32 = 12;
        crate::sockopt::set_int(&self.socket, SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)
            .map_err(io::Error::from)
    }

    /// Asks for all of a table; `each` gets every message of the answer. A table that changed meanwhile is
    /// read again; `each` is then told to begin anew by `None`.
    pub fn dump(
        &mut self,
        kind: u16,
        body: &[u8],
        mut each: impl FnMut(Option<Message<'_>>) -> io::Result<()>,
    ) -> io::Result<Torn> {
        for attempt in 1..=ATTEMPTS {
            if attempt > 1 {
                each(None)?;
            }
            if !self.dump_once(kind, body, &mut each)? {
                return Ok(Torn::No);
            }
        }
        Ok(Torn::Yes)
    }

    /// Whether the table changed under the dump.
    fn dump_once(
        &mut self,
        kind: u16,
        body: &[u8],
        each: &mut impl FnMut(Option<Message<'_>>) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.send(kind, DUMP, body)?;
        let mut buffer = vec![0; BUFFER];
        let mut torn = false;
        loop {
            for message in self.receive(&mut buffer)? {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                torn |= message.flags & DUMP_INTERRUPTED != 0;
                match message.kind {
                    NLMSG_DONE => {
                        end_of(message.body)?;
                        return Ok(torn);
                    }
                    NLMSG_ERROR => {
                        end_of(message.body)?;
                        return Err(malformed("an error without one"));
                    }
                    _ => each(Some(message))?,
                }
            }
        }
    }

    /// Asks for one change, and waits until the kernel has made it (`NLM_F_ACK`) or said why not.
    pub fn change(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.send(kind, ACK | flags, body)?;
        let mut buffer = vec![0; BUFFER];
        loop {
            for message in self.receive(&mut buffer)? {
                let message = message?;
                if message.sequence != self.sequence {
                    continue;
                }
                return match message.kind {
                    NLMSG_ERROR if !message.body.is_empty() => end_of(message.body),
                    _ => Err(malformed("no acknowledgement")),
                };
            }
        }
    }

    fn send(&mut self, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
        self.sequence += 1;
        let request = request(kind, REQUEST | flags, self.sequence, body);
        let kernel = SocketAddrNetlink::new(0, 0);
        sendto(&self.socket, &request, SendFlags::empty(), &kernel)?;
        Ok(())
    }

    fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Messages<'a>> {
        let length = loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::TRUNC) {
                Ok((_, length)) => break length,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        };
        let answer = buffer.get(..length);
        let answer = answer.ok_or_else(|| malformed("an answer is longer than the room for it"))?;
        Ok(Messages(answer))
    }
}

/// Whether a table changed each time that it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Torn {
    /// It was read as it was at one moment.
    No,
    /// What was read never was so at one moment.
    Yes,
}

/// What a dump ends with, or a change is answered with: 0, or an error.
fn end_of(body: &[u8]) -> io::Result<()> {
    match u32_at(body, 0).map(|code| code as i32) {
        None | Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
    }
}

fn request(kind: u16, flags: u16, sequence: u32, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend(sequence.to_ne_bytes());
    message.extend(0u32.to_ne_bytes());
    message.extend(body);
    message
}

/// The messages of an answer.
#[derive(Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<Message<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let all = std::mem::take(&mut self.0);
        let length = u32_at(all, 0).map_or(0, |length| length as usize);
        if length < HEADER || length > all.len() {
            return Some(Err(malformed("a message's length is not its own")));
        }
        self.0 = all.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some(Ok(Message {
            kind: u16_at(all, 4).unwrap_or(0),
            flags: u16_at(all, 6).unwrap_or(0),
            sequence: u32_at(all, 8).unwrap_or(0),
            body: &all[HEADER..length],
        }))
    }
}

/// The attributes behind a message's structure. What is cut short ends them.
#[derive(Debug)]
pub struct Attributes<'a>(pub &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)? & TYPE_MASK;
        let value = self.0.get(ATTRIBUTE_HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, value))
    }
}

/// Appends an attribute.
pub fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(((ATTRIBUTE_HEADER + value.len()) as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// An answer that makes no sense.
pub fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A number of two bytes in the host's order, where there are as many.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..)?.first_chunk()?;
    Some(u16::from_ne_bytes(*two))
}

/// A number of four bytes in the host's order, where there are as many.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_ne_bytes(*four))
}

/// A number of eight bytes in the host's order, where there are as many.
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_ne_bytes(*eight))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_end_where_their_lengths_say() {
        let mut bytes = request(20, REQUEST | DUMP, 7, &[1, 2, 3]);
        bytes.resize(20, 0);
        bytes.extend(request(21, REQUEST | DUMP, 8, &[]));
        let read: Vec<_> = Messages(&bytes).map(Result::unwrap).collect();
        assert_eq!((read[0].kind, read[0].sequence), (20, 7));
        assert_eq!(read[0].body, [1, 2, 3]);
        assert_eq!((read[1].kind, read[1].body.len()), (21, 0));
    }

    #[test]
    fn a_message_with_a_wrong_length_is_an_error_and_ends_the_answer() {
        for length in [0u32, 15, 17, u32::MAX] {
            let mut bytes = request(20, REQUEST | DUMP, 7, &[]);
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            let mut read = Messages(&bytes);
            assert!(read.next().unwrap().is_err(), "{length}");
            assert!(read.next().is_none());
        }
    }

    #[test]
    fn a_change_is_answered_with_the_kernels_error() {
        const RTM_NEWLINK: u16 = 16;
        let mut route = Netlink::open(None).unwrap();
        // There is no such interface, and who may not make changes is not even told that.
        let mut link = vec![0; 16];
        link[4..8].copy_from_slice(&i32::MAX.to_ne_bytes());
        let error = route.change(RTM_NEWLINK, 0, &link).unwrap_err();
        let errno = error.raw_os_error().unwrap();
        assert!([libc::ENODEV, libc::EPERM].contains(&errno), "{error}");
        // Too short for a link. (What has no byte for the family is nothing to do: acknowledged.)
        let error = route.change(RTM_NEWLINK, 0, &[0; 4]).unwrap_err();
        let errno = error.raw_os_error().unwrap();
        assert!([libc::EINVAL, libc::EPERM].contains(&errno), "{error}");
        route.change(RTM_NEWLINK, 0, &[]).unwrap();
    }

    #[test]
    fn attributes_that_are_cut_short_end() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 5 | 0x8000, b"abc");
        attribute(&mut bytes, 6, b"");
        let read: Vec<_> = Attributes(&bytes).collect();
        assert_eq!(read, [(5, &b"abc"[..]), (6, &b""[..])]);
        for cut in 0..bytes.len() {
            assert!(
                Attributes(&bytes[..cut]).count() <= 1 + usize::from(cut >= 12),
                "{cut}"
            );
        }
        assert_eq!(
            Attributes(&[0, 0, 1, 0]).count(),
            0,
            "no attribute is shorter than its header"
        );
    }
}
