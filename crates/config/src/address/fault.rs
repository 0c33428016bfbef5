//! What can be wrong with an address, in words.
//!
//! Decides:  the stable name, the message and the hint of each fault.
//! Not here: finding it (mod.rs, host.rs, prefix.rs).

use std::ops::Range;

use crate::diagnostic::Diagnostic;

use super::Piece;

/// A fault, and the bytes of the piece where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddressError {
    pub fault: Fault,
    pub at: Range<usize>,
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Empty,
    EmptyName {
        prefix: &'static str,
    },
    MissingPort,
    BadPort,
    PortOutOfRange {
        least: u16,
    },
    RangeReversed,
    RangeNotHere,
    OffsetNotHere,
    OffsetOutOfRange,
    BadHost(BadHost),
    WrongFamily {
        expected: &'static str,
    },
    PathTooLong {
        most: usize,
    },
    NulInPath,
    BadDescriptor,
    UnknownPrefix {
        near: Option<&'static str>,
    },
    /// HAProxy can; we cannot yet.
    NotYet {
        what: &'static str,
    },
    /// Makes no sense in this place, here or in HAProxy.
    NotHere {
        what: &'static str,
        why: &'static str,
    },
}

/// Why a host is neither an address nor a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHost {
    Brackets,
    LooksLikeIpv4,
    LooksLikeIpv6,
    LooksLikePort,
    List,
    Character,
    Length,
    Scope,
}

impl AddressError {
    pub fn new(fault: Fault, at: Range<usize>) -> AddressError {
        AddressError { fault, at }
    }

    /// The finding, for the piece that was read.
    pub fn diagnostic(&self, piece: &Piece) -> Diagnostic {
        let text = |range: Range<usize>| {
            String::from_utf8_lossy(piece.bytes.get(range).unwrap_or_default()).into_owned()
        };
        let whole = text(0..piece.bytes.len());
        let part = text(self.at.clone());
        let message = self.message(&whole, &part);
        let error = Diagnostic::error(self.code(), piece.place_of(self.at.clone()), message);
        match self.hint(&part) {
            Some(hint) => error.label(hint),
            None => error,
        }
    }

    fn code(&self) -> &'static str {
        match self.fault {
            Fault::Empty | Fault::EmptyName { .. } => "empty-address",
            Fault::MissingPort => "missing-port",
            Fault::BadPort
            | Fault::PortOutOfRange { .. }
            | Fault::RangeReversed
            | Fault::OffsetOutOfRange => "bad-port",
            Fault::RangeNotHere | Fault::OffsetNotHere | Fault::NotHere { .. } => {
                "address-not-possible-here"
            }
            Fault::BadHost(_) | Fault::WrongFamily { .. } => "bad-address",
            Fault::PathTooLong { .. } | Fault::NulInPath => "bad-path",
            Fault::BadDescriptor => "bad-descriptor",
            Fault::UnknownPrefix { .. } => "unknown-address-prefix",
            Fault::NotYet { .. } => "address-not-supported",
        }
    }

    fn message(&self, whole: &str, part: &str) -> String {
        match &self.fault {
            Fault::Empty => "an empty address".to_string(),
            Fault::EmptyName { prefix } => format!("nothing after `{prefix}`"),
            Fault::MissingPort => format!("`{whole}` has no port"),
            Fault::BadPort => format!("`{part}` is no port"),
            Fault::PortOutOfRange { .. } => format!("port {part} is out of range"),
            Fault::RangeReversed => format!("the port range {part} ends before it begins"),
            Fault::RangeNotHere => "a port range is not possible here".to_string(),
            Fault::OffsetNotHere => "a port offset is not possible here".to_string(),
            Fault::OffsetOutOfRange => format!("the port offset {part} is out of range"),
            Fault::BadHost(_) => format!("`{part}` is neither an address nor a host name"),
            Fault::WrongFamily { expected } => format!("`{part}` is no {expected} address"),
            Fault::PathTooLong { .. } => "the socket's path is too long".to_string(),
            Fault::NulInPath => "a NUL byte in a path".to_string(),
            Fault::BadDescriptor => format!("`{part}` is no file descriptor"),
            Fault::UnknownPrefix { .. } => format!("unknown address prefix `{part}`"),
            Fault::NotYet { what } => format!("{what} not supported yet"),
            Fault::NotHere { what, .. } => format!("{what} not possible here"),
        }
    }

    fn hint(&self, part: &str) -> Option<String> {
        Some(match &self.fault {
            Fault::MissingPort => "expected `address:port`".to_string(),
            Fault::BadPort => "expected a number".to_string(),
            Fault::PortOutOfRange { least } => format!("expected {least} to 65535"),
            Fault::OffsetOutOfRange => "expected at most 65535".to_string(),
            Fault::RangeReversed => "expected the lower port first".to_string(),
            Fault::BadHost(why) => why.hint(part),
            Fault::PathTooLong { most } => {
                format!("at most {most} bytes, its prefix counted (`.PID.tmp` must fit after it)")
            }
            Fault::BadDescriptor => "expected a number from 0".to_string(),
            Fault::UnknownPrefix { near: Some(near) } => format!("did you mean `{near}`?"),
            Fault::NotHere { why, .. } => (*why).to_string(),
            _ => return None,
        })
    }
}

impl BadHost {
    fn hint(self, part: &str) -> String {
        match self {
            BadHost::Brackets => "expected an IPv6 address in the brackets".to_string(),
            BadHost::LooksLikeIpv4 => "an IPv4 address is four numbers up to 255".to_string(),
            BadHost::LooksLikeIpv6 if part.parse::<std::net::Ipv6Addr>().is_ok() => {
                format!("what follows the last colon is the port; expected like `[{part}]:80`")
            }
            BadHost::LooksLikeIpv6 => "what follows the last colon is the port".to_string(),
            BadHost::List => "one address only".to_string(),
            BadHost::LooksLikePort => format!("did you mean `:{part}`?"),
            BadHost::Character => "a name is letters, digits, `-`, `_` and dots".to_string(),
            BadHost::Length => "a name has at most 255 letters, and 63 between dots".to_string(),
            BadHost::Scope => "a scope (`%eth0`) is not possible; use `interface eth0`".to_string(),
        }
    }
}
