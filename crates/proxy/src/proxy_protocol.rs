//! The PROXY protocol: who a connection is really from, said in its first bytes.
//!
//! Decides:  what is a header, how long it may be, and what is believed of it; nothing is allocated.
//! Source:   HAProxy's doc/proxy-protocol.txt, version 2 of 2017 with CRC-32C; src/connection.c,
//!           conn_recv_proxy() and make_proxy_line_v1/v2(), 2.6 to 3.5: which messages a bad one has.
//! Not here: reading and writing (worker/greeting.rs, the checks).

use std::fmt;
use std::net::SocketAddr;

mod v1;
mod v2;

#[cfg(test)]
mod tests;

/// The longest header that is read, with all that is added to its addresses. The protocol allows
/// 65,551 bytes; HAProxy takes what fits its buffer.
pub const LONGEST: usize = 16 * 1024;

/// The longest header that is written.
pub const LONGEST_WRITTEN: usize = 107;

/// From where to where a connection goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// What the client connected to.
    pub destination: SocketAddr,
}

/// A header that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Bytes of it, which are no data.
    pub length: usize,
    /// What it tells; `None`: nothing (`LOCAL`, `UNKNOWN`, or a kind of address that is not served),
    /// and the connection's own addresses hold.
    pub addresses: Option<Addresses>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decoded {
    /// So far the beginning of a header.
    Incomplete,
    /// A header.
    Header(Header),
    /// Not one.
    Invalid(Fault),
}

/// Why a connection has no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// It ended before its first byte.
    Empty,
    /// It broke.
    Aborted,
    /// It took too long.
    TimedOut,
    /// It ended in the middle.
    Truncated,
    /// It begins with something else.
    NoHeader,
    /// It begins like one and goes on wrongly.
    Malformed,
    /// Neither TCP over IPv4, TCP over IPv6 nor `UNKNOWN`.
    Protocol,
}

impl fmt::Display for Fault {
    /// As HAProxy's log says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Empty => "Connection closed while waiting for PROXY protocol header",
            Fault::Aborted => "Connection error while waiting for PROXY protocol header",
            Fault::TimedOut => "Timeout while waiting for PROXY protocol header",
            Fault::Truncated => "Truncated PROXY protocol header received",
            Fault::NoHeader => {
                "Received something which does not look like a PROXY protocol header"
            }
            Fault::Malformed => "Received an invalid PROXY protocol header",
            Fault::Protocol => "Received an unhandled protocol in the PROXY protocol header",
        })
    }
}

/// What `bytes`, the first of a connection, are. More of them never change a header or a fault.
#[must_use]
pub fn decode(bytes: &[u8]) -> Decoded {
    if begins(bytes, v2::SIGNATURE) {
        return match bytes.len() < v2::SIGNATURE.len() {
            true => Decoded::Incomplete,
            false => v2::decode(bytes),
        };
    }
    if begins(bytes, v1::SIGNATURE) {
        return match bytes.len() < v1::SIGNATURE.len() {
            true => Decoded::Incomplete,
            false => v1::decode(bytes),
        };
    }
    Decoded::Invalid(Fault::NoHeader)
}

/// Could `bytes` become something that begins with `signature`?
fn begins(bytes: &[u8], signature: &[u8]) -> bool {
    let length = bytes.len().min(signature.len());
    bytes[..length] == signature[..length]
}

/// Which header is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// Text.
    V1,
    /// Binary.
    V2 {
        /// `proxy-v2-options crc32c`
        checksum: bool,
    },
}

/// A header to be written.
#[derive(Clone, Copy)]
pub struct Encoded {
    bytes: [u8; LONGEST_WRITTEN],
    length: usize,
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encoded(\"{}\")", self.as_bytes().escape_ascii())
    }
}

impl Encoded {
    fn new() -> Self {
        Encoded {
            bytes: [0; LONGEST_WRITTEN],
            length: 0,
        }
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn push(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        debug_assert!(end <= LONGEST_WRITTEN, "the longest header is known");
        if let Some(room) = self.bytes.get_mut(self.length..end) {
            room.copy_from_slice(bytes);
            self.length = end;
        }
    }
}

impl fmt::Write for Encoded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes());
        Ok(())
    }
}

/// The header for a connection from and to these addresses; `None`: they are not known, or it is a
/// connection of our own (a check).
#[must_use]
pub fn encode(version: Version, addresses: Option<Addresses>) -> Encoded {
    match version {
        Version::V1 => v1::encode(addresses),
        Version::V2 { checksum } => v2::encode(addresses, checksum),
    }
}
