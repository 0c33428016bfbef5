//! Version 2: a fixed head, addresses, and values that are told by type and length.
//!
//! Decides:  what is checked of the values: that they fill the header, and the CRC-32C if there is one.
//! Source:   HAProxy's doc/proxy-protocol.txt, 2.2; RFC 9260, appendix A (CRC-32C).
//! Not here: the text form (v1.rs); what the other values mean.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Addresses, Decoded, Encoded, Fault, Header, LONGEST};

pub(super) const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Signature, version and command, family and protocol, length.
const HEAD: usize = 16;
const VERSION: u8 = 0xf0;
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
const CHECKSUM: u8 = 0x03;

pub(super) fn decode(bytes: &[u8]) -> Decoded {
    // What is wrong is told before all of it is there.
    match bytes.get(12) {
        Some(&(LOCAL | PROXY)) | None => {}
        Some(command) if command & VERSION != LOCAL & VERSION => {
            return Decoded::Invalid(Fault::NoHeader);
        }
        Some(_) => return Decoded::Invalid(Fault::Malformed),
    }
    let Some(head) = bytes.get(..HEAD) else {
        return Decoded::Incomplete;
    };
    let length = HEAD + usize::from(u16::from_be_bytes([head[14], head[15]]));
    if length > LONGEST {
        return Decoded::Invalid(Fault::Truncated);
    }
    let family = head[13];
    // "Other values … must be rejected as invalid by receivers": beyond Unix, beyond datagrams.
    if head[12] == PROXY && (family >> 4 > 3 || family & 0x0f > 2) {
        return Decoded::Invalid(Fault::Malformed);
    }
    let addresses_length = match (head[12], family) {
        (PROXY, TCP_OVER_IPV4) => 12,
        (PROXY, TCP_OVER_IPV6) => 36,
        _ => 0,
    };
    if length - HEAD < addresses_length {
        return Decoded::Invalid(Fault::Malformed);
    }
    let Some(header) = bytes.get(..length) else {
        return Decoded::Incomplete;
    };
    let (told, values) = header[HEAD..].split_at(addresses_length);
    let addresses = match addresses_length {
        12 => addresses(told, |ip: [u8; 4]| Ipv4Addr::from(ip).into()),
        36 => addresses(told, |ip: [u8; 16]| Ipv6Addr::from(ip).into()),
        // Of what else it may tell, the length of the addresses is not known, so nor is where the
        // values begin.
        _ => {
            return Decoded::Header(Header {
                length,
                addresses: None,
            });
        }
    };
    match values_are_sound(header, values) {
        true => Decoded::Header(Header { length, addresses }),
        false => Decoded::Invalid(Fault::Malformed),
    }
}

fn addresses<const N: usize>(told: &[u8], ip: impl Fn([u8; N]) -> IpAddr) -> Option<Addresses> {
    let (source, rest) = told.split_first_chunk::<N>()?;
    let (destination, ports) = rest.split_first_chunk::<N>()?;
    let ports: [u8; 4] = ports.try_into().ok()?;
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(Addresses {
        source: SocketAddr::new(ip(*source), port(0)),
        destination: SocketAddr::new(ip(*destination), port(2)),
    })
}

/// Each value lies in the header, and the checksum is right, if there is one.
fn values_are_sound(header: &[u8], values: &[u8]) -> bool {
    let mut rest = values;
    while let Some((&[kind, high, low], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        let Some((value, next)) = after.split_at_checked(length) else {
            return false;
        };
        if kind == CHECKSUM {
            let at = header.len() - after.len();
            let Ok(told) = <[u8; 4]>::try_from(value) else {
                return false;
            };
            if checksum_without(header, at) != u32::from_be_bytes(told) {
                return false;
            }
        }
        rest = next;
    }
    rest.is_empty()
}

pub(super) fn encode(addresses: Option<Addresses>, checksum: bool) -> Encoded {
    let mut header = Encoded::new();
    header.push(SIGNATURE);
    let known = addresses.map(|it| (it.source, it.destination));
    let (command, family, length) = match known {
        None => (LOCAL, 0, 0),
        Some((SocketAddr::V4(_), SocketAddr::V4(_))) => (PROXY, TCP_OVER_IPV4, 12),
        Some(_) => (PROXY, TCP_OVER_IPV6, 36),
    };
    let values: u16 = if checksum { 3 + 4 } else { 0 };
    header.push(&[command, family]);
    header.push(&(length + values).to_be_bytes());
    match known {
        None => {}
        Some((SocketAddr::V4(from), SocketAddr::V4(to))) => {
            header.push(&from.ip().octets());
            header.push(&to.ip().octets());
        }
        // One of IPv6 makes both of IPv6.
        Some((from, to)) => {
            header.push(&mapped(from.ip()).octets());
            header.push(&mapped(to.ip()).octets());
        }
    }
    if let Some((from, to)) = known {
        header.push(&from.port().to_be_bytes());
        header.push(&to.port().to_be_bytes());
    }
    if checksum {
        header.push(&[CHECKSUM, 0, 4]);
        let at = header.length;
        header.push(&[0; 4]);
        let sum = checksum_without(header.as_bytes(), at);
        header.bytes[at..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
    header
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// CRC-32C of a header, as if the four bytes at `at` were zero.
fn checksum_without(header: &[u8], at: usize) -> u32 {
    let hidden = at..at + 4;
    let bytes = header.iter().enumerate();
    !bytes.fold(u32::MAX, |sum, (place, &byte)| {
        let byte = if hidden.contains(&place) { 0 } else { byte };
        (0..8).fold(sum ^ u32::from(byte), |sum, _| {
            let polynomial = if sum & 1 == 1 { 0x82f6_3b78 } else { 0 };
            (sum >> 1) ^ polynomial
        })
    })
}
