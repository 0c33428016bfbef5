//! `host:port`.
//!
//! Decides:  where the host ends and the port begins, which hosts are addresses and which names,
//!           which ports, ranges and offsets there are.
//! Source:   HAProxy's src/tools.c, str2sa_range(), str2ip2(); src/resolvers.c,
//!           resolv_hostname_validation(), 3.5-dev5.
//! Not here: what of it may stand where (mod.rs).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::{Range, RangeInclusive};

use crate::model::{Family, Host};
use crate::suggest::suggest;

use super::fault::{AddressError, BadHost, Fault};
use super::prefix::PREFIXES;

/// DNS_MAX_NAME_SIZE
const MAX_NAME: usize = 255;
/// DNS_MAX_LABEL_SIZE
const MAX_LABEL: usize = 63;

/// What stands after the last colon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Port {
    /// No colon, or nothing after it.
    Missing,
    /// `:80`, `:80-85`
    Numbers(RangeInclusive<u16>),
    /// `:+1`, `:-1`
    Offset(i32),
}

/// A host and a port, and where they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct HostAndPort {
    pub host: Host,
    pub host_at: Range<usize>,
    pub port: Port,
    pub port_at: Range<usize>,
}

/// Reads `bytes[from..]`. The port is what follows the last colon, unless a bracket closes after it.
pub(super) fn host_and_port(
    bytes: &[u8],
    from: usize,
    family: Family,
) -> Result<HostAndPort, AddressError> {
    let end = bytes.len();
    let text = String::from_utf8_lossy(&bytes[from..]);
    let mark = bytes[from..].iter().rposition(|b| matches!(b, b':' | b']'));
    let colon = mark.map(|at| from + at).filter(|at| bytes[*at] == b':');
    let (host_at, port_at) = match colon {
        Some(colon) => (from..colon, colon + 1..end),
        None => (from..end, end..end),
    };
    let port = port(&bytes[port_at.clone()], port_at.start)?;
    let host = match std::str::from_utf8(&bytes[host_at.clone()]) {
        Ok(host) => host,
        Err(_) => return Err(bad(BadHost::Character, host_at)),
    };
    let looks_like_ipv6 = text.matches(':').count() > 1 && !text.contains(['[', ',', '%']);
    let host = match read_host(host, family, host_at.clone()) {
        Err(error) if looks_like_ipv6 && matches!(error.fault, Fault::BadHost(_)) => {
            let fits = text.parse::<Ipv6Addr>().is_ok();
            let whole = if fits { from..end } else { host_at };
            return Err(bad(BadHost::LooksLikeIpv6, whole));
        }
        other => other?,
    };
    Ok(HostAndPort {
        host,
        host_at,
        port,
        port_at,
    })
}

fn bad(why: BadHost, at: Range<usize>) -> AddressError {
    AddressError::new(Fault::BadHost(why), at)
}

/// An address, any address of a family, or a name.
fn read_host(text: &str, family: Family, at: Range<usize>) -> Result<Host, AddressError> {
    if text.is_empty() || text == "*" {
        return Ok(Host::Address(match family {
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            Family::Any | Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }));
    }
    let inner = match text.strip_prefix('[') {
        Some(inner) => match inner.strip_suffix(']') {
            Some(inner) => Some(inner),
            None => return Err(bad(BadHost::Brackets, at)),
        },
        None => None,
    };
    if let Ok(address) = inner.unwrap_or(text).parse::<IpAddr>() {
        let expected = match (family, address) {
            (Family::V4, IpAddr::V6(_)) => "IPv4",
            (Family::V6, IpAddr::V4(_)) => "IPv6",
            _ => return Ok(Host::Address(address)),
        };
        return Err(AddressError::new(Fault::WrongFamily { expected }, at));
    }
    if inner.is_some() {
        let scope = text.contains('%');
        let why = if scope {
            BadHost::Scope
        } else {
            BadHost::Brackets
        };
        return Err(bad(why, at));
    }
    check_name(text, at)?;
    Ok(Host::Name(text.to_string(), family))
}

fn check_name(text: &str, at: Range<usize>) -> Result<(), AddressError> {
    if let Some(sign) = text.find('@') {
        let name = &text[..=sign];
        let near = suggest(name, PREFIXES.iter().map(|p| p.name));
        let near = PREFIXES.iter().map(|p| p.name).find(|p| Some(*p) == near);
        let range = at.start..at.start + name.len();
        return Err(AddressError::new(Fault::UnknownPrefix { near }, range));
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some((offset, letter)) = text.char_indices().find(|(_, c)| !good(*c)) {
        let upto = at.start..at.start + offset + letter.len_utf8();
        let (why, at) = match letter {
            '%' => (BadHost::Scope, at),
            ',' => (BadHost::List, upto.end - 1..at.end),
            ':' if text.contains(',') => (BadHost::List, at),
            ':' => (BadHost::Character, at),
            _ => (BadHost::Character, upto),
        };
        return Err(bad(why, at));
    }
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let last = labels.clone().next_back().unwrap_or_default();
    if last.bytes().all(|b| b.is_ascii_digit()) {
        let why = if text.contains('.') {
            BadHost::LooksLikeIpv4
        } else {
            BadHost::LooksLikePort
        };
        return Err(bad(why, at));
    }
    if text.len() > MAX_NAME || labels.clone().any(|l| l.len() > MAX_LABEL) {
        return Err(bad(BadHost::Length, at));
    }
    Ok(())
}

fn port(bytes: &[u8], from: usize) -> Result<Port, AddressError> {
    let all = from..from + bytes.len();
    match bytes.first() {
        None => Ok(Port::Missing),
        Some(sign @ (b'+' | b'-')) => {
            let number = number(&bytes[1..], from + 1)?;
            let Some(size) = number.filter(|n| *n <= 65535) else {
                return Err(AddressError::new(Fault::OffsetOutOfRange, all));
            };
            let size = size as i32;
            Ok(Port::Offset(if *sign == b'-' { -size } else { size }))
        }
        Some(_) => {
            let dash = bytes.iter().position(|b| *b == b'-');
            let middle = dash.unwrap_or(bytes.len());
            let low = port_number(&bytes[..middle], from)?;
            let high = match dash {
                Some(dash) => port_number(&bytes[dash + 1..], from + dash + 1)?,
                None => low,
            };
            if low > high {
                return Err(AddressError::new(Fault::RangeReversed, all));
            }
            Ok(Port::Numbers(low..=high))
        }
    }
}

fn port_number(bytes: &[u8], from: usize) -> Result<u16, AddressError> {
    let number = number(bytes, from)?;
    number.and_then(|n| u16::try_from(n).ok()).ok_or_else(|| {
        let fault = Fault::PortOutOfRange { least: 0 };
        AddressError::new(fault, from..from + bytes.len())
    })
}

/// Digits only; `None` for more than 32 bits.
fn number(bytes: &[u8], from: usize) -> Result<Option<u32>, AddressError> {
    if bytes.is_empty() || !bytes.iter().all(u8::is_ascii_digit) {
        let at = from..from + bytes.len();
        return Err(AddressError::new(Fault::BadPort, at));
    }
    Ok(bytes.iter().try_fold(0u32, |value, digit| {
        value.checked_mul(10)?.checked_add(u32::from(digit - b'0'))
    }))
}
