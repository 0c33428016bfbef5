//! Two `bind` lines of one configuration on one address.
//!
//! Decides:  the same endpoint twice is refused, though the kernel would let SO_REUSEPORT share
//!           it: it would deal the connections of one address to two frontends by hash. A wildcard
//!           beside one of its addresses is well defined (the kernel prefers the address) and
//!           allowed, unless SO_REUSEPORT is off: then the kernel refuses it. A line bound to a
//!           device beside one that is not gets a warning: on current kernels whichever listened
//!           last takes every connection.
//! Kernel:   net/ipv4/inet_hashtables.c, __inet_lookup_listener() and inet_lhash2_lookup(), 6.1 to
//!           6.18; net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict().
//! Not here: what other processes hold (only the kernel and `why` can tell).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use portcullis_config::Place;
use portcullis_listener::spec::AbstractForm;
use portcullis_listener::{Address, ListenerSpec};

use super::ListenerPlan;
use super::problems::{Problems, note};

/// What the kernel keeps apart: two listeners with one key would share connections.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Endpoint {
    Tcp {
        namespace: Option<String>,
        port: u16,
        ip: IpAddr,
        interface: Option<String>,
    },
    UnixPath(PathBuf),
    UnixAbstract {
        namespace: Option<String>,
        padded: bool,
        name: Vec<u8>,
    },
    Activated(String),
}

fn endpoint(spec: &ListenerSpec) -> Option<Endpoint> {
    match &spec.address {
        // A port chosen by the kernel is never the same twice.
        Address::Tcp(address) | Address::Mptcp(address) if address.port() != 0 => {
            Some(Endpoint::Tcp {
                namespace: spec.network_namespace.clone(),
                port: address.port(),
                ip: address.ip().to_canonical(),
                interface: spec.interface.clone(),
            })
        }
        Address::Tcp(_) | Address::Mptcp(_) => None,
        Address::UnixPath(path) => Some(Endpoint::UnixPath(path.clone())),
        Address::UnixAbstract { name, form } => Some(Endpoint::UnixAbstract {
            namespace: spec.network_namespace.clone(),
            padded: *form == AbstractForm::Padded,
            name: name.clone(),
        }),
        // One descriptor may serve several lines, as in HAProxy: each has a copy of it.
        Address::Inherited(_) => None,
        Address::Activated(name) => Some(Endpoint::Activated(name.clone())),
    }
}

/// Reports every line that takes what an earlier one has.
pub(super) fn find(listeners: &[ListenerPlan], no_reuse_port: bool, problems: &mut Problems) {
    let mut seen: BTreeMap<Endpoint, Place> = BTreeMap::new();
    let mut by_port: BTreeMap<(Option<String>, u16), Vec<&ListenerPlan>> = BTreeMap::new();
    for listener in listeners {
        let Some(endpoint) = endpoint(&listener.spec) else {
            continue;
        };
        if let Some(first) = seen.get(&endpoint) {
            let diagnostic = problems.error(
                "address-twice",
                Some(listener.place),
                format!("{} is bound twice", shown(&endpoint)),
            );
            diagnostic.label = Some("a connection could go to either".to_owned());
            diagnostic
                .notes
                .push(note("the first time is here", *first));
            continue;
        }
        if let Endpoint::Tcp {
            namespace, port, ..
        } = &endpoint
        {
            let others = by_port.entry((namespace.clone(), *port)).or_default();
            if let Some(other) = others.iter().find(|o| overlaps(&o.spec, &listener.spec)) {
                overlap(other, listener, no_reuse_port, problems);
            }
            others.push(listener);
        }
        seen.insert(endpoint, listener.place);
    }
}

/// Two different endpoints of one port that some connection could reach both of.
fn overlaps(one: &ListenerSpec, other: &ListenerSpec) -> bool {
    let (Some(a), Some(b)) = (tcp(one), tcp(other)) else {
        return false;
    };
    let same_family = a.is_ipv4() == b.is_ipv4();
    let ip_meets =
        same_family && (a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified());
    let device_meets =
        one.interface == other.interface || one.interface.is_none() || other.interface.is_none();
    ip_meets && device_meets
}

fn tcp(spec: &ListenerSpec) -> Option<SocketAddr> {
    match spec.address {
        Address::Tcp(address) | Address::Mptcp(address) => Some(address),
        _ => None,
    }
}

fn overlap(
    first: &ListenerPlan,
    second: &ListenerPlan,
    no_reuse_port: bool,
    problems: &mut Problems,
) {
    let (Some(a), Some(b)) = (tcp(&first.spec), tcp(&second.spec)) else {
        return;
    };
    if no_reuse_port {
        let diagnostic = problems.error(
            "address-overlap",
            Some(second.place),
            format!("{b} and {a} overlap, and `noreuseport` is set: the kernel refuses the second"),
        );
        diagnostic.notes.push(note("the other one", first.place));
    } else if a.ip() == b.ip() && first.spec.interface != second.spec.interface {
        let diagnostic = problems.warning(
            "device-overlap",
            Some(second.place),
            format!(
                "{b} is bound both to a device and to every device: which of the two \
                 gets a connection depends on the kernel and on the order of opening"
            ),
        );
        diagnostic.notes.push(note("the other one", first.place));
    }
}

fn shown(endpoint: &Endpoint) -> String {
    match endpoint {
        Endpoint::Tcp {
            port,
            ip,
            interface,
            namespace,
        } => {
            let mut text = SocketAddr::new(*ip, *port).to_string();
            if let Some(interface) = interface {
                text += &format!(" on {interface}");
            }
            if let Some(namespace) = namespace {
                text += &format!(" in namespace {namespace}");
            }
            text
        }
        Endpoint::UnixPath(path) => path.display().to_string(),
        Endpoint::UnixAbstract { name, .. } => {
            format!("abstract socket `{}`", String::from_utf8_lossy(name))
        }
        Endpoint::Activated(name) => format!("the activated socket `{name}`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(line: u32, spec: ListenerSpec) -> ListenerPlan {
        ListenerPlan {
            spec,
            place: Place {
                file: 0,
                line,
                start: 5,
                end: 9,
            },
            frontend: 0,
            name: None,
            accepts_proxy: false,
            number: 1,
            maxconn: 0,
        }
    }

    /// `ADDR` or `ADDR%device` or `ADDR/namespace`.
    fn tcp_spec(text: &str) -> ListenerSpec {
        let (text, namespace) = text
            .split_once('/')
            .map_or((text, None), |(a, n)| (a, Some(n)));
        let (text, device) = text
            .split_once('%')
            .map_or((text, None), |(a, d)| (a, Some(d)));
        let mut spec = ListenerSpec::new(Address::Tcp(text.parse().unwrap()));
        spec.interface = device.map(str::to_owned);
        spec.network_namespace = namespace.map(str::to_owned);
        spec
    }

    fn codes(specs: Vec<ListenerSpec>, no_reuse_port: bool) -> Vec<&'static str> {
        let listeners: Vec<ListenerPlan> = specs
            .into_iter()
            .enumerate()
            .map(|(n, spec)| listener(n as u32 + 1, spec))
            .collect();
        let mut problems = Problems::default();
        find(&listeners, no_reuse_port, &mut problems);
        for diagnostic in problems.found() {
            assert!(diagnostic.place.is_some());
            let other = diagnostic.notes[0].place.unwrap();
            assert!(
                other.line < diagnostic.place.unwrap().line,
                "the other place"
            );
        }
        problems.found().iter().map(|d| d.code).collect()
    }

    #[test]
    fn two_lines_on_one_address_are_refused_and_what_the_kernel_keeps_apart_is_not() {
        for (first, second, with_reuse_port, without) in [
            // one endpoint
            (
                "127.0.0.1:80",
                "127.0.0.1:80",
                "address-twice",
                "address-twice",
            ),
            ("[::1]:80", "[::1]:80", "address-twice", "address-twice"),
            ("0.0.0.0:80", "0.0.0.0:80", "address-twice", "address-twice"),
            (
                "[::ffff:1.2.3.4]:80",
                "1.2.3.4:80",
                "address-twice",
                "address-twice",
            ),
            (
                "1.2.3.4:80%eth0",
                "1.2.3.4:80%eth0",
                "address-twice",
                "address-twice",
            ),
            (
                "1.2.3.4:80/ns",
                "1.2.3.4:80/ns",
                "address-twice",
                "address-twice",
            ),
            // well defined
            ("127.0.0.1:80", "127.0.0.1:81", "", ""),
            ("127.0.0.1:80", "127.0.0.2:80", "", ""),
            ("127.0.0.1:80", "[::1]:80", "", ""),
            ("1.2.3.4:80/a", "1.2.3.4:80/b", "", ""),
            ("1.2.3.4:80/a", "1.2.3.4:80", "", ""),
            ("1.2.3.4:80%eth0", "1.2.3.4:80%eth1", "", ""),
            // the kernel prefers the address, but refuses it without SO_REUSEPORT
            ("0.0.0.0:80", "127.0.0.1:80", "", "address-overlap"),
            ("[::1]:80", "[::]:80", "", "address-overlap"),
            // `::` may or may not take IPv4 too: the kernel will say
            ("0.0.0.0:80", "[::]:80", "", ""),
            // a device beside every device
            (
                "0.0.0.0:80%lo",
                "0.0.0.0:80",
                "device-overlap",
                "address-overlap",
            ),
        ] {
            for (no_reuse_port, expected) in [(false, with_reuse_port), (true, without)] {
                let found = codes(vec![tcp_spec(first), tcp_spec(second)], no_reuse_port);
                assert_eq!(
                    found.join(","),
                    expected,
                    "{first} {second} {no_reuse_port}"
                );
            }
        }
    }

    #[test]
    fn unix_names_are_compared_and_descriptors_may_serve_twice() {
        let path = || ListenerSpec::new(Address::UnixPath("/run/x".into()));
        let name = |form| {
            ListenerSpec::new(Address::UnixAbstract {
                name: b"x".to_vec(),
                form,
            })
        };
        let fd = || ListenerSpec::new(Address::Inherited(7));
        let activated = || ListenerSpec::new(Address::Activated("web".into()));
        let any_port = || tcp_spec("127.0.0.1:0");
        for (label, pair, expected) in [
            ("path", vec![path(), path()], "address-twice"),
            (
                "abstract",
                vec![name(AbstractForm::Exact), name(AbstractForm::Exact)],
                "address-twice",
            ),
            (
                "two forms are two names",
                vec![name(AbstractForm::Exact), name(AbstractForm::Padded)],
                "",
            ),
            ("descriptor", vec![fd(), fd()], ""),
            ("activated", vec![activated(), activated()], "address-twice"),
            ("port 0", vec![any_port(), any_port()], ""),
        ] {
            assert_eq!(codes(pair, false).join(","), expected, "{label}");
        }
    }

    #[test]
    fn the_third_time_is_reported_too() {
        let three = vec![
            tcp_spec("1.1.1.1:1"),
            tcp_spec("1.1.1.1:1"),
            tcp_spec("1.1.1.1:1"),
        ];
        assert_eq!(codes(three, false), ["address-twice", "address-twice"]);
    }
}
