//! `source`, of a server and of a proxy: our own end of connections to servers.
//!
//! Decides:  an address in numbers (`*` and `0.0.0.0` leave it to the kernel), a port or a range of
//!           them, then `usesrc` and `interface`.
//! Source:   HAProxy's manual, `source` in chapters 4.2 and 5.2; src/server.c, srv_parse_source(),
//!           src/cfgparse-listen.c, 3.5-dev5.
//! Not here: lending the ports (the proxy crate).

use std::net::{IpAddr, SocketAddr};

use crate::arguments::Args;
use crate::diagnostic::Diagnostic;
use crate::model::{Seen, Source};

/// The words after `source`.
pub(crate) fn source(args: &mut Args<'_>) -> Option<Source> {
    let word = args.word("an address")?;
    let Some((address, ports)) = address_and_ports(&word.text) else {
        let message = format!("`{}` is no source address", word.text);
        let label = "expected an address in numbers, and a port or a range after `:`";
        return args.bad_at(word.place, &message, label);
    };
    let mut source = Source {
        address: address.filter(|ip| !ip.is_unspecified()),
        ports,
        interface: None,
        seen: None,
    };
    loop {
        if args.take("usesrc") {
            source.seen = Some(seen(args)?);
            if source.ports.is_some() {
                let message = "the port of `source` has hardly any use beside `usesrc`";
                args.push(
                    Diagnostic::warning("unused-port", word.place, message)
                        .label("it holds for clients on Unix sockets and for checks"),
                );
            }
            continue;
        }
        if !args.take("interface") {
            return Some(source);
        }
        // IFNAMSIZ, its final NUL included.
        const LONGEST: usize = 15;
        let name = args.word("a device's name")?;
        if name.text.is_empty() || name.text.len() > LONGEST {
            let message = format!("`{}` is no device's name", name.text);
            return args.bad_at(name.place, &message, "a device's name has 1 to 15 bytes");
        }
        source.interface = Some(name.text.clone());
    }
}

/// The words after `usesrc`.
fn seen(args: &mut Args<'_>) -> Option<Seen> {
    let word = args.word("`client`, `clientip` or an address")?;
    match word.text.as_str() {
        "client" => return Some(Seen::Client),
        "clientip" => return Some(Seen::ClientIp),
        text if text.starts_with("hdr_ip(") => {
            let label = "use `client` or `clientip`, or an address";
            return args.bad_at(word.place, "`usesrc hdr_ip()` needs `mode http`", label);
        }
        _ => {}
    }
    match address_and_ports(&word.text) {
        Some((Some(ip), None)) if !ip.is_unspecified() => {
            Some(Seen::Address(SocketAddr::new(ip, 0)))
        }
        Some((Some(ip), Some((port, last)))) if !ip.is_unspecified() && port == last => {
            Some(Seen::Address(SocketAddr::new(ip, port)))
        }
        _ => {
            let message = format!("`{}` is no address for `usesrc`", word.text);
            let label =
                "expected `client`, `clientip`, or an address in numbers, with a port or without";
            args.bad_at(word.place, &message, label)
        }
    }
}

type Parts = (Option<IpAddr>, Option<(u16, u16)>);

/// `1.2.3.4`, `1.2.3.4:5`, `*:5-6`, `[::1]:5`, `[::1]`, `::1:5`, `ipv4@…`. A port stands after the last
/// colon, as on `bind` and `server` lines; `::1`, which HAProxy refuses, is an address alone.
fn address_and_ports(text: &str) -> Option<Parts> {
    let text = text
        .strip_prefix("ipv4@")
        .or_else(|| text.strip_prefix("ipv6@"))
        .unwrap_or(text);
    let (address, ports) = match text.rsplit_once(':') {
        Some((host, ports)) if !text.ends_with(']') => match address_of(host) {
            Some(address) => (address, Some(ports)),
            None => (address_of(text)?, None),
        },
        _ => (address_of(text)?, None),
    };
    let ports = match ports {
        None | Some("" | "0") => None,
        Some(ports) => {
            let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
            let (low, high): (u16, u16) = (low.parse().ok()?, high.parse().ok()?);
            if low == 0 || low > high {
                return None;
            }
            Some((low, high))
        }
    };
    Some((address, ports))
}

/// `None`: it is no address; `Some(None)`: any.
fn address_of(host: &str) -> Option<Option<IpAddr>> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    match bare {
        "" | "*" => Some(None),
        bare => bare.parse().ok().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_ports_are_told_apart() {
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        for (text, expected) in [
            ("10.0.0.1", Some((ip("10.0.0.1"), None))),
            ("10.0.0.1:80", Some((ip("10.0.0.1"), Some((80, 80))))),
            ("10.0.0.1:80-90", Some((ip("10.0.0.1"), Some((80, 90))))),
            ("10.0.0.1:0", Some((ip("10.0.0.1"), None))),
            ("*", Some((None, None))),
            ("*:80-90", Some((None, Some((80, 90))))),
            ("::1", Some((ip("::1"), None))),
            ("[::1]:80", Some((ip("::1"), Some((80, 80))))),
            ("[::1]", Some((ip("::1"), None))),
            ("[::]", Some((ip("::"), None))),
            ("::1:80", Some((ip("::1"), Some((80, 80))))),
            (":::80", Some((ip("::"), Some((80, 80))))),
            (
                "2001:db8::1:80-90",
                Some((ip("2001:db8::1"), Some((80, 90)))),
            ),
            ("2001:db8:7::9", Some((ip("2001:db8:7::9"), None))),
            (
                "2001:db8:0:0:0:0:0:1",
                Some((ip("2001:db8:0:0:0:0:0:1"), None)),
            ),
            (
                "2001:db8:0:0:0:0:0:1:80",
                Some((ip("2001:db8:0:0:0:0:0:1"), Some((80, 80)))),
            ),
            (":80", Some((None, Some((80, 80))))),
            ("ipv6@::1", Some((ip("::1"), None))),
            ("10.0.0.1:90-80", None),
            ("10.0.0.1:0-80", None),
            ("10.0.0.1:x", None),
            ("10.0.0.1:80-90000", None),
            ("10.0.0", None),
            ("host", None),
        ] {
            assert_eq!(address_and_ports(text), expected, "{text}");
        }
    }
}
