//! Version 1: a line of text.
//!
//! Decides:  `PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT` or `PROXY UNKNOWN …`, to CR LF, in at most
//!           107 bytes; addresses and ports in their usual form, parted by one space each.
//! Source:   HAProxy's doc/proxy-protocol.txt, 2.1.
//! Not here: the binary form (v2.rs).

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Addresses, Decoded, Encoded, Fault, Header};

pub(super) const SIGNATURE: &[u8] = b"PROXY ";

/// With its CR LF.
const LONGEST_LINE: usize = 107;

pub(super) fn decode(bytes: &[u8]) -> Decoded {
    let line = &bytes[..bytes.len().min(LONGEST_LINE)];
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        return match bytes.len() >= LONGEST_LINE {
            true => Decoded::Invalid(Fault::Malformed),
            false => Decoded::Incomplete,
        };
    };
    let text = line[SIGNATURE.len()..end].strip_suffix(b"\r");
    let Some(Ok(text)) = text.map(std::str::from_utf8) else {
        return Decoded::Invalid(Fault::Malformed);
    };
    let (protocol, rest) = text.split_once(' ').unwrap_or((text, ""));
    let addresses = match protocol {
        "TCP4" => addresses::<Ipv4Addr>(rest).map(Some),
        "TCP6" => addresses::<Ipv6Addr>(rest).map(Some),
        "UNKNOWN" => Some(None),
        _ => return Decoded::Invalid(Fault::Protocol),
    };
    match addresses {
        Some(addresses) => Decoded::Header(Header {
            length: end + 1,
            addresses,
        }),
        None => Decoded::Invalid(Fault::Malformed),
    }
}

fn addresses<I: FromStr + Into<IpAddr>>(text: &str) -> Option<Addresses> {
    let mut words = text.split(' ');
    let mut ip = || words.next()?.parse::<I>().ok().map(Into::into);
    let (source, destination): (IpAddr, IpAddr) = (ip()?, ip()?);
    let (source_port, destination_port) = (port(words.next()?)?, port(words.next()?)?);
    if words.next().is_some() {
        return None;
    }
    Some(Addresses {
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
    })
}

/// Digits only, none in front that says nothing.
fn port(word: &str) -> Option<u16> {
    let plain = word.bytes().all(|byte| byte.is_ascii_digit());
    let padded = word.len() > 1 && word.starts_with('0');
    word.parse().ok().filter(|_| plain && !padded)
}

pub(super) fn encode(addresses: Option<Addresses>) -> Encoded {
    let mut header = Encoded::new();
    header.push(SIGNATURE);
    let known = addresses.map(|it| (it.source, it.destination));
    match known {
        Some((SocketAddr::V4(from), SocketAddr::V4(to))) => {
            // Writing to it cannot fail: the longest line fits.
            let _ = write!(
                header,
                "TCP4 {} {} {} {}\r\n",
                from.ip(),
                to.ip(),
                from.port(),
                to.port()
            );
        }
        Some((SocketAddr::V6(from), SocketAddr::V6(to))) => {
            let _ = write!(
                header,
                "TCP6 {} {} {} {}\r\n",
                from.ip(),
                to.ip(),
                from.port(),
                to.port()
            );
        }
        _ => header.push(b"UNKNOWN\r\n"),
    }
    header
}
