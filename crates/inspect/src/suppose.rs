//! What is supposed where nobody could tell.
//!
//! Decides:  which facts are open, and which of their combinations are tried.
//! Not here: why that is enough ([`Worlds`](crate::Worlds)); what becomes of them (found.rs).

use std::net::{IpAddr, SocketAddr};

use portcullis_kernel_model::{Host, Uid};

use crate::model_host::BEYOND;
use crate::snapshot::{Snapshot, State};
use crate::world::{Builder, Supposed};

/// So many unknown facts are tried in every combination; more, all on one side and all on the other.
const COMBINED_MAX: usize = 5;

/// A fact that may be one way or the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Open {
    Option((usize, usize), &'static str),
    User((usize, usize)),
    Capabilities,
    Sysctl(&'static str),
}

/// What a bucket remembers that nobody saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// What its owners would have left.
    AsLeft,
    /// Nothing that helps.
    Nothing,
    /// What lets most newcomers of a user in.
    Permitting(Uid),
}

/// What is supposed in one world: of each open fact whether it is the permitting way, and the memory of
/// the bucket in question, if that is open.
#[derive(Debug, Clone)]
pub(crate) struct Supposition {
    pub facts: Vec<(Open, bool)>,
    pub memory: Option<Memory>,
}

pub(crate) const REUSEADDR: &str = "SO_REUSEADDR";
pub(crate) const REUSEPORT: &str = "SO_REUSEPORT";
pub(crate) const V6ONLY: &str = "IPV6_V6ONLY";

const PORT_START: &str = "net.ipv4.ip_unprivileged_port_start";
const NONLOCAL: &str = "net.ipv4.ip_nonlocal_bind";
const NONLOCAL6: &str = "net.ipv6.ip_nonlocal_bind";
const ONLY6: &str = "net.ipv6.bindv6only";

/// Whether no sysctl could be read, as without /proc. A kernel that lacks one of them has the others.
pub(crate) fn no_sysctl(snapshot: &Snapshot) -> bool {
    snapshot.namespaces.first().is_some_and(|net| {
        let known = &net.sysctls;
        let range = known.ip_local_port_range.is_some();
        let flags = [
            known.ip_unprivileged_port_start,
            known.ip_nonlocal_bind,
            known.ip6_nonlocal_bind,
            known.bindv6only,
        ];
        !range && flags.iter().all(Option::is_none)
    })
}

/// The value of a sysctl that is supposed: the kernel's own, or the one that changes the most for this port.
fn value(sysctl: &str, port: Option<u16>, on: bool) -> u32 {
    const OWN_START: u16 = 1024;
    let start = match (on, port) {
        (false, _) => OWN_START,
        (true, Some(port)) if port >= OWN_START => u16::MAX,
        (true, _) => 0,
    };
    match sysctl {
        PORT_START => u32::from(start),
        _ => u32::from(on),
    }
}

/// Makes the host so that a fact about itself is one way.
pub(crate) fn suppose(host: &mut Host, port: Option<u16>, fact: Open, on: bool) {
    let caller_ns = host.processes[0].user_ns;
    let net = &mut host.namespaces[0];
    match fact {
        Open::Capabilities => net.user_ns = if on { caller_ns } else { BEYOND },
        Open::Sysctl(PORT_START) => {
            net.sysctls.ip_unprivileged_port_start = value(PORT_START, port, on) as u16;
        }
        Open::Sysctl(NONLOCAL) => net.sysctls.ip_nonlocal_bind = on,
        Open::Sysctl(NONLOCAL6) => net.sysctls.ip6_nonlocal_bind = on,
        Open::Sysctl(_) => net.sysctls.bindv6only = on,
        Open::Option(..) | Open::User(_) => {}
    }
}

impl Builder<'_> {
    /// Where a port is named and no sysctl could be read: those that a bind depends on are open.
    pub(crate) fn open_settings(&mut self) {
        if self.focus.port.is_some() && no_sysctl(self.snapshot) {
            let all = [PORT_START, NONLOCAL, NONLOCAL6, ONLY6];
            self.settings.extend(all.map(Open::Sysctl));
        }
    }

    /// Which facts about the port in question nobody could tell.
    fn open(&self) -> Vec<Open> {
        let Some(port) = self.focus.port else {
            return Vec::new();
        };
        let mut open = Vec::new();
        for &place in self.places.iter().rev() {
            let Some(socket) = self.socket(place) else {
                continue;
            };
            let owner = socket.local.port() == port && socket.state != State::HalfOpen;
            if place.0 != 0 || !owner {
                continue;
            }
            let known = &socket.options;
            let options = [(REUSEADDR, known.reuseaddr), (REUSEPORT, known.reuseport)];
            let unknown = options.into_iter().filter(|(_, known)| known.is_none());
            open.extend(unknown.map(|(option, _)| Open::Option(place, option)));
            if known.v6only.is_none() && socket.local.is_ipv6() && !is_mapped(socket.local) {
                open.push(Open::Option(place, V6ONLY));
            }
            if socket.uid.is_none() && socket.state != State::TimeWait {
                open.push(Open::User(place));
            }
        }
        open
    }

    /// Whether somebody owns the port in question, and nobody told what its bucket remembers.
    fn memory_is_open(&self) -> bool {
        let Some(port) = self.focus.port else {
            return false;
        };
        let buckets = self.snapshot.namespaces.first().map(|net| &net.buckets);
        let known = buckets.is_some_and(|all| all.iter().any(|bucket| bucket.port == port));
        let owns = |&place: &(usize, usize)| {
            let socket = self.socket(place);
            let owner = socket.is_some_and(|socket| {
                socket.local.port() == port && socket.state != State::HalfOpen
            });
            place.0 == 0 && owner
        };
        !known && self.places.iter().any(owns)
    }

    /// What the bucket in question may remember: of the caller's user, and of those that own the port.
    fn memories(&self) -> Vec<Option<Memory>> {
        if !self.memory_is_open() {
            return vec![None];
        }
        let mut memories = vec![Some(Memory::AsLeft), Some(Memory::Nothing)];
        let mut users = vec![self.caller_uid];
        for &place in self.places.iter().filter(|place| place.0 == 0) {
            let socket = self.socket(place);
            let ours = socket.filter(|one| Some(one.local.port()) == self.focus.port);
            users.extend(ours.and_then(|one| one.uid).map(Uid));
        }
        users.sort_unstable();
        users.dedup();
        memories.extend(users.into_iter().map(|uid| Some(Memory::Permitting(uid))));
        memories
    }

    /// The suppositions of each world.
    pub(crate) fn suppositions(&self) -> Vec<Supposition> {
        let open = [self.settings.clone(), self.open()].concat();
        let (memories, settings) = (self.memories(), self.settings.len());
        let of = |is_on: &dyn Fn(usize) -> bool, memory| Supposition {
            facts: open
                .iter()
                .enumerate()
                .map(|(at, &fact)| (fact, is_on(at)))
                .collect(),
            memory,
        };
        let mut worlds = Vec::new();
        if open.len() <= COMBINED_MAX.max(settings) {
            for bits in 0..1usize << open.len() {
                let is_on = |at| bits >> at & 1 == 1;
                worlds.extend(memories.iter().map(|&memory| of(&is_on, memory)));
            }
            return worlds;
        }
        // Which way of a setting permits more depends on the question.
        for bits in 0..1usize << settings {
            let least = |at: usize| at < settings && bits >> at & 1 == 1;
            worlds.extend(memories.iter().map(|&memory| of(&least, memory)));
            let most = memories
                .iter()
                .filter(|memory| matches!(memory, None | Some(Memory::Permitting(_))));
            let on = |at: usize| at >= settings || bits >> at & 1 == 1;
            worlds.extend(most.map(|&memory| of(&on, memory)));
        }
        worlds
    }

    /// What was supposed, for people. Of a memory, only what its owners would not have left.
    pub(crate) fn told(&self, supposed: &Supposition) -> Vec<Supposed> {
        let facts = supposed.facts.iter().map(|&(fact, on)| match fact {
            Open::Option(socket, option) => Supposed::Option { socket, option, on },
            Open::User(socket) => Supposed::User { socket, same: on },
            Open::Capabilities => Supposed::Capabilities { count: on },
            Open::Sysctl(name) => Supposed::Sysctl {
                name,
                value: value(name, self.focus.port, on),
            },
        });
        let mut told: Vec<Supposed> = facts.collect();
        if let (Some(port), Some(memory)) = (self.focus.port, supposed.memory)
            && memory != Memory::AsLeft
        {
            let user = match memory {
                Memory::Permitting(uid) => Some(uid.0),
                Memory::AsLeft | Memory::Nothing => None,
            };
            told.push(Supposed::Memory { port, user });
        }
        told
    }
}

fn is_mapped(at: SocketAddr) -> bool {
    matches!(at.ip(), IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some())
}
