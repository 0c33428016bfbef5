//! The prefixes of an address.
//!
//! Decides:  every prefix, the family and the transport that it means, in the order in which they
//!           are looked for.
//! Source:   HAProxy's manual, chapter 11; src/tools.c, str2sa_range(), 3.5-dev5.
//! Not here: what may stand where (mod.rs).

use crate::model::Family;

/// How bytes travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Stream,
    Datagram,
    Mptcp,
    Quic,
}

/// What the text after the prefix is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ip(Family),
    UnixPath,
    Abstract,
    AbstractExact,
    Descriptor,
    /// Ours: `sd@NAME`.
    Activated,
    SocketPair,
    ReverseHttp,
    Ring,
    Backend,
}

/// What an address begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub name: &'static str,
    pub kind: Kind,
    /// `None`: what the place has by default.
    pub transport: Option<Transport>,
}

const fn prefix(name: &'static str, kind: Kind, transport: Option<Transport>) -> Prefix {
    Prefix {
        name,
        kind,
        transport,
    }
}

use Kind::Ip;
use Transport::{Datagram, Mptcp, Quic, Stream};

/// All of them. No name begins another.
pub(super) const PREFIXES: [Prefix; 25] = [
    prefix("ip@", Ip(Family::Any), None),
    prefix("ipv4@", Ip(Family::V4), None),
    prefix("ipv6@", Ip(Family::V6), None),
    prefix("tcp@", Ip(Family::Any), Some(Stream)),
    prefix("tcp4@", Ip(Family::V4), Some(Stream)),
    prefix("tcp6@", Ip(Family::V6), Some(Stream)),
    prefix("mptcp@", Ip(Family::Any), Some(Mptcp)),
    prefix("mptcp4@", Ip(Family::V4), Some(Mptcp)),
    prefix("mptcp6@", Ip(Family::V6), Some(Mptcp)),
    prefix("udp@", Ip(Family::Any), Some(Datagram)),
    prefix("udp4@", Ip(Family::V4), Some(Datagram)),
    prefix("udp6@", Ip(Family::V6), Some(Datagram)),
    prefix("quic4@", Ip(Family::V4), Some(Quic)),
    prefix("quic6@", Ip(Family::V6), Some(Quic)),
    prefix("unix@", Kind::UnixPath, None),
    prefix("uxst@", Kind::UnixPath, Some(Stream)),
    prefix("uxdg@", Kind::UnixPath, Some(Datagram)),
    prefix("abns@", Kind::Abstract, None),
    prefix("abnsz@", Kind::AbstractExact, None),
    prefix("fd@", Kind::Descriptor, None),
    prefix("sd@", Kind::Activated, None),
    prefix("sockpair@", Kind::SocketPair, None),
    prefix("rhttp@", Kind::ReverseHttp, None),
    prefix("ring@", Kind::Ring, None),
    prefix("backend@", Kind::Backend, None),
];

/// `stream+` and its like, which stand before a prefix or an address.
const TRANSPORTS: [(&str, Transport); 3] =
    [("stream+", Stream), ("dgram+", Datagram), ("quic+", Quic)];

/// What an address says before its host or path, and how many bytes that takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    /// The prefix's name, empty without one.
    pub name: &'static str,
    pub kind: Kind,
    pub transport: Option<Transport>,
    pub length: usize,
}

/// Reads the prefixes. A slash means a path, anything else an IP address or a name.
pub(super) fn start(bytes: &[u8]) -> Start {
    let mut length = 0;
    let mut transport = None;
    let mut name = "";
    let forced = TRANSPORTS
        .iter()
        .find(|(word, _)| bytes.starts_with(word.as_bytes()));
    if let Some((word, meant)) = forced {
        (length, transport, name) = (word.len(), Some(*meant), word);
    }
    let rest = &bytes[length..];
    let known = PREFIXES
        .iter()
        .find(|p| rest.starts_with(p.name.as_bytes()));
    let kind = match known {
        Some(prefix) => {
            length += prefix.name.len();
            transport = prefix.transport.or(transport);
            name = prefix.name;
            prefix.kind
        }
        None if rest.starts_with(b"/") => Kind::UnixPath,
        None => Ip(Family::Any),
    };
    Start {
        name,
        kind,
        transport,
        length,
    }
}
