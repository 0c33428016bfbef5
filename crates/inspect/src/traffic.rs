//! It listens, and nothing arrives, or only some: who would get a connection, and what stands between.
//!
//! Decides:  by which ways a SYN can come; which listener the question is about; which of what is seen is a
//!           fault and which only worth knowing.
//! Kernel:   net/ipv4/inet_hashtables.c, __inet_lookup_listener(); include/net/sock.h,
//!           sk_acceptq_is_full(); net/ipv4/tcp_input.c, tcp_conn_request()
//! Not here: packet filters, routes to other hosts, and what lies between those and this one.

mod queues;
mod text;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use portcullis_kernel_model::RouteKind;
use serde::Serialize;

use crate::routes;
use crate::snapshot::{Drops, Interface, Known, Namespace, Snapshot, Socket, State, Sysctls, Vrf};
use crate::verdict::Holder;
use crate::world::{Focus, Nonsense, Outcome, Worlds};

/// Of a wildcard's addresses, so many are looked at.
const ADDRESSES_MAX: usize = 32;
/// The finding that says that a listener takes nobody more.
const FULL: &str = "accept-queue-full";
const STOPPED: &str = "owner-stopped";
/// The version of the serialised form.
const FORMAT: u32 = 1;

/// What becomes of connections to an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Traffic {
    /// 1; another number where a field changed its meaning.
    pub format: u32,
    /// Where they go.
    pub to: SocketAddr,
    /// Where they come from, if that was said.
    pub from: Option<IpAddr>,
    /// In one word.
    pub outcome: Served,
    /// Each way by which a SYN can come, and who gets it.
    pub ways: Vec<Arrival>,
    /// What was found, faults first.
    pub findings: Vec<Finding>,
    /// What the namespace's counters say, since it was made.
    pub counters: Drops,
    /// What could not be seen, a sentence each.
    pub unseen: Vec<String>,
}

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Served {
    /// All of them, as far as this host is concerned.
    All,
    /// Some are not.
    NotAll,
    /// None is.
    None,
    /// It depends on what could not be seen.
    Unknown,
}

/// A way by which a SYN can come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Arrival {
    /// The address that it goes to.
    pub to: IpAddr,
    /// The device by which it comes.
    pub device: String,
    /// Who may get it: one, or each of a SO_REUSEPORT group. Nobody: it is refused.
    pub receivers: Vec<Holder>,
    /// Who may get it instead, if what could not be seen is otherwise.
    pub or: Vec<Holder>,
}

/// Something that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Whether connections are lost by it.
    pub fault: bool,
    /// What, for programs: `nobody-listens`, `address-not-here`, `no-address`, `interface-down`,
    /// `address-not-ready`, `other-listener`, `bound-device`, `accept-queue-full`, `owner-stopped`, `shard-not-accepting`, `connections-wait`,
    /// `syn-queue-full`, `syn-cookies`, `overflows`, `depends`.
    pub kind: &'static str,
    /// In words.
    pub text: String,
    /// What to do about it.
    pub hint: &'static str,
    /// The socket that it is about.
    pub socket: Option<Holder>,
}

/// Who would get connections to this address, and what is in their way?
///
/// # Errors
///
/// Where no host can be as the snapshot is.
pub fn traffic(
    snapshot: &Snapshot,
    to: SocketAddr,
    from: Option<IpAddr>,
) -> Result<Traffic, Nonsense> {
    if let Some(from) = from.filter(|&from| !can_lead(from, to.ip())) {
        return Err(Nonsense::Families(from, to.ip()));
    }
    let focus = Focus {
        port: Some(to.port()),
        near: 0,
    };
    let worlds = Worlds::of(snapshot, focus)?;
    let net = snapshot.namespaces.first().ok_or(Nonsense::NoNamespace)?;
    let mut search = Search {
        snapshot,
        net,
        worlds,
        to,
        from,
        ways: Vec::new(),
        findings: Vec::new(),
    };
    search.run();
    let Search {
        ways, mut findings, ..
    } = search;
    findings.sort_by_key(|one| !one.fault);
    let outcome = outcome(&ways, &findings);
    Ok(Traffic {
        format: FORMAT,
        to,
        from,
        outcome,
        ways,
        findings,
        counters: net.drops,
        unseen: unseen(snapshot),
    })
}

/// Whether there are connections from one to the other: of one family, or of IPv4 to IPv6's wildcard.
fn can_lead(from: IpAddr, to: IpAddr) -> bool {
    let (from, any) = (from.to_canonical(), to.is_unspecified());
    from.is_ipv4() == to.to_canonical().is_ipv4() || (any && to.is_ipv6())
}

fn outcome(ways: &[Arrival], findings: &[Finding]) -> Served {
    if findings.iter().any(|one| one.kind == "depends") {
        return Served::Unknown;
    }
    let fault = findings.iter().any(|one| one.fault);
    let unserved = |holder: &Holder| {
        let of = |one: &&Finding| one.socket.as_ref().map(|known| known.cookie);
        let mut all = findings
            .iter()
            .filter(|one| [FULL, STOPPED].contains(&one.kind));
        all.any(|one| of(&one) == Some(holder.cookie))
    };
    match ways.iter().all(|way| way.receivers.iter().all(unserved)) {
        true => Served::None,
        false if fault => Served::NotAll,
        false => Served::All,
    }
}

fn unseen(snapshot: &Snapshot) -> Vec<String> {
    let mut unseen = vec![
        "packet filters (nft list ruleset), routes, and what lies before this host".to_owned(),
    ];
    if let Known::No(why) | Known::Partly(why) = &snapshot.sources.bpf {
        unseen.push(format!("groups and the order of listeners, by BPF: {why}"));
    }
    if let Known::No(why) = &snapshot.sources.processes {
        unseen.push(format!(
            "who holds the sockets, and who accepts on them: {why}"
        ));
    }
    let Some(net) = snapshot.namespaces.first() else {
        return unseen;
    };
    if net.drops == Drops::default() {
        unseen.push("how many connections were dropped: /proc/net/netstat cannot be read".into());
    }
    if net.sysctls == Sysctls::default() {
        unseen.push("settings (SYN cookies, limits): /proc/sys cannot be read".into());
    }
    unseen
}

struct Search<'a> {
    snapshot: &'a Snapshot,
    net: &'a Namespace,
    worlds: Worlds,
    to: SocketAddr,
    from: Option<IpAddr>,
    ways: Vec<Arrival>,
    findings: Vec<Finding>,
}

impl Search<'_> {
    fn run(&mut self) {
        let mut receiving: Vec<usize> = Vec::new();
        for ip in self.destinations() {
            if !self.is_here(ip) {
                continue;
            }
            self.check_loopback(ip);
            for (index, device) in self.devices(ip) {
                let (sure, perhaps) = self.receivers(ip, index);
                receiving.extend(&sure);
                receiving.extend(&perhaps);
                let told = |places: &[usize]| places.iter().map(|&at| self.holder(at)).collect();
                let way = Arrival {
                    to: ip,
                    device,
                    receivers: told(&sure),
                    or: told(&perhaps),
                };
                self.ways.push(way);
                self.subjects_miss(ip, index, &sure, &perhaps);
            }
        }
        receiving.sort_unstable();
        receiving.dedup();
        if receiving.is_empty() {
            self.nobody();
        } else {
            self.nobody_at_some();
        }
        self.queues(&receiving);
    }

    fn holder(&self, at: usize) -> Holder {
        Holder::of(self.snapshot, self.net, &self.net.sockets[at])
    }

    fn find(&mut self, fault: bool, kind: &'static str, text: String, hint: &'static str) {
        self.find_of(fault, kind, text, hint, None);
    }

    fn find_of(
        &mut self,
        fault: bool,
        kind: &'static str,
        text: String,
        hint: &'static str,
        socket: Option<usize>,
    ) {
        let known = self
            .findings
            .iter()
            .any(|one| one.kind == kind && one.text == text);
        if !known {
            let socket = socket.map(|at| self.holder(at));
            self.findings.push(Finding {
                fault,
                kind,
                text,
                hint,
                socket,
            });
        }
    }

    fn listeners(&self) -> impl Iterator<Item = (usize, &Socket)> {
        let port = self.to.port();
        let all = self.net.sockets.iter().enumerate();
        all.filter(move |(_, one)| one.state == State::Listen && one.local.port() == port)
    }

    /// The listeners that the question is about: those at exactly its address, else all of the port.
    fn subjects(&self) -> Vec<usize> {
        let exact = |one: &Socket| one.local.ip() == self.to.ip();
        let all: Vec<(usize, bool)> = self.listeners().map(|(at, one)| (at, exact(one))).collect();
        let any_exact = all.iter().any(|(_, exact)| *exact);
        let chosen = all.into_iter().filter(|(_, exact)| *exact || !any_exact);
        chosen.map(|(at, _)| at).collect()
    }

    /// The addresses that connections go to.
    fn destinations(&mut self) -> Vec<IpAddr> {
        let ip = self.to.ip();
        if !ip.is_unspecified() {
            self.check_address(ip);
            return vec![ip];
        }
        let serves_four = ip.is_ipv4() || self.listeners().any(|(_, one)| serves_both(one));
        let up = self.net.interfaces.iter().filter(|device| device.up);
        let own = up.flat_map(|device| &device.addresses).map(|own| own.ip);
        let mut all: Vec<IpAddr> = own
            .filter(|own| own.is_ipv6() == ip.is_ipv6() || (own.is_ipv4() && serves_four))
            .filter(|own| self.from.is_none_or(|from| from.is_ipv6() == own.is_ipv6()))
            .collect();
        all.dedup();
        all.truncate(ADDRESSES_MAX);
        if all.is_empty() {
            self.no_destination();
        }
        all
    }

    /// A wildcard listens, and there is no address that anything could be sent to.
    fn no_destination(&mut self) {
        let family = match self.from.unwrap_or(self.to.ip()).is_ipv6() {
            true => "IPv6",
            false => "IPv4",
        };
        if !self.net.interfaces.iter().any(|device| device.up) {
            let text =
                "no interface of this network is up, so nothing can be sent to it".to_owned();
            return self.find(
                true,
                "interface-down",
                text,
                "ip link set lo up, and those that connect it to others",
            );
        }
        let text =
            format!("no interface that is up has an {family} address: nothing can be sent here");
        let hint = "give an interface an address (ip address add)";
        self.find(true, "no-address", text, hint);
    }

    /// Whether packets to an address are taken in.
    fn is_here(&self, ip: IpAddr) -> bool {
        let routed = match ip {
            IpAddr::V4(ip) => routes::kind(self.net, ip),
            IpAddr::V6(_) => None,
        };
        let mut all = self.net.interfaces.iter();
        match routed {
            Some(RouteKind::Local) => true,
            // That of a VRF is in a table of its own.
            Some(_) => all.any(|device| device.vrf != Vrf::Outside && has(device, ip)),
            None => all.any(|device| has(device, ip)),
        }
    }

    fn check_address(&mut self, ip: IpAddr) {
        let all = &self.net.interfaces;
        let Some(device) = all.iter().find(|device| has(device, ip)) else {
            if self.is_here(ip) {
                return;
            }
            let text = format!(
                "no interface has {ip}: packets to it are not taken in here (a listener may be there all the same: IP_FREEBIND, or the address has moved away)"
            );
            let hint =
                "give the address to an interface, or listen on one that is here (ip address)";
            return self.find(true, "address-not-here", text, hint);
        };
        if self.by_loopback_alone(ip) {
            // It keeps its addresses of IPv4 where it is down, and nothing of this comes by it.
        } else if !device.up {
            let text = format!("interface {} with {ip} is down", device.name);
            self.find(true, "interface-down", text, "ip link set up the interface");
        } else if !device.running && device.name != "lo" {
            let text = format!("interface {} with {ip} has no carrier", device.name);
            self.find(
                false,
                "interface-down",
                text,
                "look at the cable, or the other end of it",
            );
        }
        let unready = device.addresses.iter().find(|own| own.ip == ip);
        let unready = unready.map(|own| (own.tentative, own.duplicate));
        match unready {
            Some((_, true)) => {
                let text = format!("another host has {ip} too: duplicate address detection failed");
                self.find(
                    true,
                    "address-not-ready",
                    text,
                    "give one of the two another address",
                );
            }
            Some((true, false)) => {
                let text = format!("{ip} is tentative: duplicate address detection has not ended");
                self.find(true, "address-not-ready", text, "wait some seconds");
            }
            _ => {}
        }
    }

    /// Whether a connection to the address can come from this host alone.
    fn by_loopback_alone(&self, ip: IpAddr) -> bool {
        let own = |of: IpAddr| of.is_loopback() || self.is_here(of);
        ip.is_loopback() || self.from.is_some_and(own)
    }

    /// What comes from this host comes by the loopback device, whosever the address is.
    fn check_loopback(&mut self, ip: IpAddr) {
        let up = |device: &Interface| device.name == "lo" && device.up;
        if self.by_loopback_alone(ip) && !self.net.interfaces.iter().any(up) {
            let text =
                format!("interface lo is down, and connections from here to {ip} come by it");
            self.find(true, "interface-down", text, "ip link set lo up");
        }
    }

    /// The devices by which a connection to the address can come.
    fn devices(&self, ip: IpAddr) -> Vec<(u32, String)> {
        let all = &self.net.interfaces;
        let named = |device: &Interface| (device.index, device.name.clone());
        let local = || {
            let own = all.iter().filter(|device| device.name == "lo" && device.up);
            own.map(named)
        };
        let outside = || {
            let others = all.iter().filter(|device| device.name != "lo" && device.up);
            others.map(named)
        };
        if self.by_loopback_alone(ip) {
            return local().collect();
        }
        if let Some(from) = self.from {
            let reaches = |device: &&Interface| {
                let mut addresses = device.addresses.iter();
                device.up && addresses.any(|own| in_prefix(own.ip, own.prefix, from))
            };
            let near: Vec<(u32, String)> = all.iter().filter(reaches).map(named).collect();
            // From another network: by whichever device the router is at.
            return if near.is_empty() {
                outside().collect()
            } else {
                near
            };
        }
        local().chain(outside()).collect()
    }

    /// Who gets a SYN: surely, and who else perhaps.
    fn receivers(&mut self, ip: IpAddr, device: u32) -> (Vec<usize>, Vec<usize>) {
        let port = self.to.port();
        let net = self.worlds.net;
        let answer = self.worlds.ask(|possible| {
            let found = possible.world.listeners_for(net, ip, port, device);
            let places = possible.sockets.iter();
            let of = |id| places.clone().find(|(_, known)| **known == id);
            let mut found: Vec<usize> = found
                .into_iter()
                .filter_map(|id| of(id).map(|(place, _)| place.1))
                .collect();
            found.sort_unstable();
            found
        });
        match answer {
            Outcome::Certain(found) => (found, Vec::new()),
            Outcome::Depends(mut answers) if !answers.is_empty() => {
                let first = answers.remove(0).0;
                let mut others: Vec<usize> = answers.into_iter().flat_map(|one| one.0).collect();
                others.sort_unstable();
                others.dedup();
                others.retain(|at| !first.contains(at));
                if first.is_empty() || !others.is_empty() {
                    let text = format!(
                        "who gets connections to {ip} depends on options that cannot be seen"
                    );
                    self.find(false, "depends", text, "ask again as root");
                }
                (first, others)
            }
            Outcome::Depends(_) => (Vec::new(), Vec::new()),
        }
    }

    /// Why the listeners of the question do not get these.
    fn subjects_miss(&mut self, ip: IpAddr, device: u32, sure: &[usize], perhaps: &[usize]) {
        for at in self.subjects() {
            if sure.contains(&at) || perhaps.contains(&at) {
                continue;
            }
            let one = &self.net.sockets[at];
            if !covers(one, ip) {
                continue;
            }
            let called = self.holder(at).called();
            if one.device != 0 && one.device != device {
                let bound = self.holder(at).device.unwrap_or_default();
                let text = format!(
                    "{called} is bound to device {bound}: it gets nothing that comes by another"
                );
                let hint = "leave SO_BINDTODEVICE (interface) out, or connect by that device";
                self.find_of(true, "bound-device", text, hint, Some(at));
            } else if let Some(&first) = sure.first() {
                let other = self.holder(first);
                let text = format!(
                    "connections to {ip} go to {}, {}, and not to {called}, {}",
                    other.called(),
                    other.what,
                    self.holder(at).what
                );
                let hint = match self.net.sockets[first].local == one.local {
                    true => {
                        "they have the very same address and are not of one group: stop one of them, or let both set SO_REUSEPORT before bind"
                    }
                    false => {
                        "a listener on the very address, or bound to the device, comes before a wildcard"
                    }
                };
                let exact = self.to.ip() == ip || self.to.ip().is_unspecified();
                self.find_of(exact, "other-listener", text, hint, Some(at));
            }
        }
    }

    /// Somebody gets connections, but at some address nobody does.
    fn nobody_at_some(&mut self) {
        let none = |way: &&Arrival| way.receivers.is_empty() && way.or.is_empty();
        let mut lacking: Vec<String> = self
            .ways
            .iter()
            .filter(none)
            .map(|way| format!("{} by {}", way.to, way.device))
            .collect();
        lacking.dedup();
        if !lacking.is_empty() {
            let text = format!(
                "nobody listens on port {} for connections to {}: they are refused",
                self.to.port(),
                lacking.join(", ")
            );
            let hint = "let it listen on a wildcard, or on those addresses too";
            self.find(true, "nobody-listens", text, hint);
        }
    }

    /// Nobody gets anything.
    fn nobody(&mut self) {
        let port = self.to.port();
        let all: Vec<usize> = self.listeners().map(|(at, _)| at).collect();
        if all.is_empty() {
            let text = format!("nobody listens on port {port} here: connections are refused");
            let hint = "start the server, or look where it listens: ss -ltn, portcullis listeners";
            return self.find(true, "nobody-listens", text, hint);
        }
        // Where the address is not here, that was said; one that listens on it is not to blame.
        let nowhere = self.ways.is_empty();
        for at in all {
            if nowhere && covers(&self.net.sockets[at], self.to.ip()) {
                continue;
            }
            let known = self.holder(at);
            let text = format!(
                "{} is {}: no connection to {} reaches it",
                known.called(),
                known.what,
                self.to.ip()
            );
            let hint = "let it listen on that address, or on a wildcard of its family";
            self.find_of(true, "nobody-listens", text, hint, Some(at));
        }
    }
}

/// Whether a listener takes connections to this address, by its own address alone.
fn covers(one: &Socket, ip: IpAddr) -> bool {
    let own = one.local.ip();
    own == ip
        || (own.is_unspecified()
            && (own.is_ipv6() == ip.is_ipv6() || (ip.is_ipv4() && serves_both(one))))
}

fn serves_both(one: &Socket) -> bool {
    one.local.ip().is_unspecified() && one.local.is_ipv6() && one.options.v6only == Some(false)
}

fn has(device: &Interface, ip: IpAddr) -> bool {
    let mut all = device.addresses.iter();
    all.any(|own| covers_own(device, own.ip, own.prefix, ip))
}

/// Whether an address is one's own by this entry: on the loopback device, its whole IPv4 network is.
fn covers_own(device: &Interface, own: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    own == ip || (device.name == "lo" && own.is_ipv4() && in_prefix(own, prefix, ip))
}

fn in_prefix(own: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (own, ip) {
        (IpAddr::V4(own), IpAddr::V4(ip)) => {
            let bits = 32 - u32::from(prefix.min(32));
            let top = |ip: Ipv4Addr| u64::from(ip.to_bits()) >> bits;
            top(own) == top(ip)
        }
        (IpAddr::V6(own), IpAddr::V6(ip)) => {
            let bits = 128 - u32::from(prefix.min(128));
            let top = |ip: Ipv6Addr| ip.to_bits().checked_shr(bits).unwrap_or(0);
            top(own) == top(ip)
        }
        _ => false,
    }
}
