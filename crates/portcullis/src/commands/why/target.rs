//! The address of a question, in the forms that a `bind` line takes.
//!
//! Decides:  what each form means; beyond a bind line's, that a host may stand without a port, and port 0 is
//!           the kernel's choice.
//! Source:   HAProxy's manual, chapter 11; crates/config/src/address
//! Not here: what becomes of it (asked.rs).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs as _};
use std::str::FromStr;

use portcullis_listener::address::ABSTRACT_NAME_MAX;

use crate::listeners::traps::Word;

/// Where a listener would be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// TCP. `zone` is the interface of a link-local address.
    Tcp {
        /// Address and port; port 0 where none was given.
        at: SocketAddr,
        /// After `%`.
        zone: Option<String>,
    },
    /// No address: a word that `portcullis listeners` shows after `!`.
    Word(Word),
    /// A Unix socket with a path, or after `@` an abstract name.
    Unix(String),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoAddress(String);

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoAddress {}

impl FromStr for Target {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Target, NoAddress> {
        if let Some(word) = Word::of(text) {
            return Ok(Target::Word(word));
        }
        let path = |path: &str| match path {
            "" => Err(NoAddress("the name after the prefix is missing".to_owned())),
            path => Ok(Target::Unix(path.to_owned())),
        };
        if text.starts_with('/') {
            return path(text);
        }
        if let Some(rest) = text.strip_prefix("unix@") {
            return path(rest);
        }
        if let Some(name) = text.strip_prefix("abnsz@") {
            return path(name).map(|_| Target::Unix(format!("@{name}")));
        }
        if let Some(name) = text.strip_prefix("abns@") {
            // HAProxy's first form: the whole of `sun_path`, padded.
            return path(name).map(|_| Target::Unix(format!("@{name:\0<ABSTRACT_NAME_MAX$}")));
        }
        let (text, any) = match (
            after(text, &["ipv4@", "tcp4@"]),
            after(text, &["ipv6@", "tcp6@"]),
        ) {
            (Some(rest), _) => (rest, Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
            (_, Some(rest)) => (rest, Some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))),
            _ => (text.strip_prefix("tcp@").unwrap_or(text), None),
        };
        tcp(text, any)
    }
}

fn after<'a>(text: &'a str, prefixes: &[&str]) -> Option<&'a str> {
    prefixes.iter().find_map(|prefix| text.strip_prefix(prefix))
}

/// `HOST`, `HOST:PORT`, `[HOST]:PORT`; `any` is what `*` and nothing mean.
fn tcp(text: &str, any: Option<IpAddr>) -> Result<Target, NoAddress> {
    let (host, port) = parts(text)?;
    let (host, zone) = match host.split_once('%') {
        Some((host, zone)) => (host, Some(zone.to_owned())),
        None => (host, None),
    };
    let ip = match host {
        "" | "*" => any.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        host => match host.parse::<IpAddr>() {
            Ok(ip) => ip,
            Err(_) => named(host, any)?,
        },
    };
    if any.is_some_and(|any| any.is_ipv6() != ip.is_ipv6()) {
        return Err(NoAddress(format!(
            "{ip} is of another family than its prefix says"
        )));
    }
    Ok(Target::Tcp {
        at: SocketAddr::new(ip, port),
        zone,
    })
}

fn parts(text: &str) -> Result<(&str, u16), NoAddress> {
    let wrong = || {
        NoAddress(format!(
            "{text:?} is no address: expected ADDR[:PORT], [ADDR]:PORT, *:PORT or /path"
        ))
    };
    if text.is_empty() {
        return Err(wrong());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, number(port)?)),
            None if rest.is_empty() => Ok((host, 0)),
            None => Err(wrong()),
        };
    }
    // A bare IPv6 address may have none; `:::80` is one of a bind line.
    if text.parse::<Ipv6Addr>().is_ok() && text != "::" && !text.starts_with(":::") {
        // Behind the last colon stands the port, where that leaves an address.
        let with_port = text.rsplit_once(':').filter(|(host, port)| {
            host.parse::<Ipv6Addr>().is_ok() && port.bytes().all(|c| c.is_ascii_digit())
        });
        return match with_port {
            Some((host, port)) => Ok((host, number(port)?)),
            None => Ok((text, 0)),
        };
    }
    match text.rsplit_once(':') {
        Some((host, port)) if text != "::" => Ok((host, number(port)?)),
        _ => Ok((text, 0)),
    }
}

fn number(port: &str) -> Result<u16, NoAddress> {
    if port.is_empty() {
        return Ok(0);
    }
    if port.contains('-') {
        return Err(NoAddress(
            "a question is about one port, not about a range".to_owned(),
        ));
    }
    port.parse()
        .map_err(|_| NoAddress(format!("{port:?} is no port: 0 to 65535")))
}

/// A name's first address of the family that was asked for.
fn named(host: &str, any: Option<IpAddr>) -> Result<IpAddr, NoAddress> {
    let all = (host, 0u16).to_socket_addrs();
    let all =
        all.map_err(|error| NoAddress(format!("{host:?} is no address, and as a name: {error}")))?;
    let fits = |at: &SocketAddr| any.is_none_or(|any| any.is_ipv6() == at.is_ipv6());
    let mut all: Vec<IpAddr> = all.filter(fits).map(|at| at.ip()).collect();
    // As HAProxy without a resolver's preference: IPv4 first.
    all.sort_by_key(IpAddr::is_ipv6);
    all.first()
        .copied()
        .ok_or_else(|| NoAddress(format!("{host:?} has no address of that family")))
}

/// The address with an interface's number as its scope.
pub fn with_scope(at: SocketAddr, scope: u32) -> SocketAddr {
    match at {
        SocketAddr::V6(at) => SocketAddr::V6(SocketAddrV6::new(*at.ip(), at.port(), 0, scope)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_bind_line_is_read_as_there() {
        let table = [
            ("*:80", "0.0.0.0:80"),
            (":80", "0.0.0.0:80"),
            ("[::]:80", "[::]:80"),
            (":::80", "[::]:80"),
            ("ipv6@:80", "[::]:80"),
            ("ipv6@*:80", "[::]:80"),
            ("ipv4@*:80", "0.0.0.0:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("127.0.0.1", "127.0.0.1:0"),
            ("127.0.0.1:", "127.0.0.1:0"),
            ("*", "0.0.0.0:0"),
            ("::", "[::]:0"),
            ("::1", "[::1]:0"),
            ("::1:80", "[::1]:80"),
            ("2001:db8::7:443", "[2001:db8::7]:443"),
            ("2001:db8::7:beef", "[2001:db8::7:beef]:0"),
            ("1:2:3:4:5:6:7:8", "[1:2:3:4:5:6:7:8]:0"),
            ("[::1]", "[::1]:0"),
            ("2001:db8::7", "[2001:db8::7]:0"),
            ("[2001:db8::7]:443", "[2001:db8::7]:443"),
            ("tcp@10.0.0.1:443", "10.0.0.1:443"),
            ("localhost:443", "127.0.0.1:443"),
        ];
        for (text, expected) in table {
            let at = expected.parse().unwrap();
            assert_eq!(text.parse(), Ok(Target::Tcp { at, zone: None }), "{text}");
        }
        let zone = Some("eth0".to_owned());
        let at = "[fe80::1]:80".parse().unwrap();
        assert_eq!("[fe80::1%eth0]:80".parse(), Ok(Target::Tcp { at, zone }));
        let unix = [
            ("/run/a.sock", "/run/a.sock"),
            ("unix@a.sock", "a.sock"),
            ("abnsz@a", "@a"),
            ("abns@a", &format!("@a{}", "\0".repeat(106))),
        ];
        for (text, name) in unix {
            assert_eq!(text.parse(), Ok(Target::Unix(name.to_owned())), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_by_a_sentence() {
        let table = [
            ("", "is no address"),
            ("127.0.0.1:99999", "is no port"),
            ("127.0.0.1:http", "is no port"),
            ("127.0.0.1:80-90", "not about a range"),
            ("[::1", "is no address"),
            ("[::1]80", "is no address"),
            ("unix@", "missing"),
            ("ipv4@[::1]:80", "another family"),
        ];
        for (text, part) in table {
            let error = text.parse::<Target>().unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
