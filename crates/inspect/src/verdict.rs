//! Would a port open now, who stands in the way, and what would help.
//!
//! Decides:  when that is certain: in every world that the snapshot may be of, the same call is refused by
//!           the same error, or none is; and nothing that cannot be seen could stand in the way.
//! Not here: the rules (the crate `kernel-model`); reading the host (host.rs).
//!
//! [`ask`] answers for a new socket ([`Opening`]); [`ask_socket`] for calls on one that the snapshot has.
//! The [`Verdict`] is data for a program (it serialises), and its `Display` the text for people.

mod descriptors;
mod elsewhere;
mod holder;
mod opening;
mod refuser;
mod text;
mod together;
mod unsure;
mod ways;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portcullis_kernel_model::{
    Answer, Call, Caps, Errno, Explanation, Family, Opt, PortChoice, Rule, SocketId, World,
};
use serde::Serialize;

use crate::snapshot::{Known, Namespace, Protocol, Snapshot, Socket, State};
use crate::world::{Focus, Nonsense, Possible, Supposed, Worlds};

pub use descriptors::{Descriptors, NoSocket, ask_from_socket, no_socket};
pub use elsewhere::{Elsewhere, elsewhere, unseen_elsewhere};
pub use holder::{Holder, Holding};
pub use opening::Opening;
pub use refuser::{Refuser, refusers};
pub use together::{Together, ask_together};
pub use ways::{Way, in_each};

use text::call_name;
pub(crate) use text::lines;
use unsure::{idle_settings, no_port, shared_port, unlisted};

/// How far from the port that was asked for a free one is looked for. Who reads a host to [`ask`] about one
/// port needs no sockets further away ([`Wanted::near`](crate::Wanted::near)).
pub const NEAR: u16 = 100;
/// Of the sockets in the way, so many are told.
const HOLDERS_MAX: usize = 16;
/// Of what is supposed, so much is told: of more facts, all are one way or the other
/// ([`Worlds`]).
const SUPPOSED_MAX: usize = 8;
/// The version of the serialised form.
const FORMAT: u32 = 1;

/// What would come of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// 1; another number where a field changed its meaning.
    pub format: u32,
    /// What was asked.
    pub question: Question,
    /// In one word.
    pub outcome: Outcome,
    /// What the calls answer: one answer, or each that is possible.
    pub answers: Vec<PossibleAnswer>,
    /// What would help, whichever of the refusals it is; the smallest first.
    pub ways: Vec<Way>,
    /// Who has the same port in this network namespace, and is not in the way.
    pub beside: Vec<Holder>,
    /// Who has the same port in other network namespaces, where those were read.
    pub elsewhere: Vec<Elsewhere>,
    /// The limits on the caller's descriptors, where they could be told.
    pub descriptors: Option<Descriptors>,
    /// Who else may refuse.
    pub refusers: Vec<Refuser>,
    /// What could not be seen, a sentence each.
    pub unseen: Vec<String>,
}

/// In one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All calls would succeed.
    Works,
    /// One of them would be refused.
    Refused,
    /// It depends on something that could not be seen.
    Unknown,
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Question {
    /// Where the socket would receive.
    pub address: SocketAddr,
    /// The options that are set before.
    pub options: Vec<String>,
    /// The user of the caller.
    pub uid: Option<u32>,
    /// The name of that user.
    pub user: Option<String>,
    /// The caller's process, where it is one that runs.
    pub pid: Option<u32>,
    /// The network namespace, by number.
    pub namespace: u64,
    /// The names of that namespace.
    pub namespace_names: Vec<String>,
    /// The kernel's release.
    pub kernel: String,
    /// When the host was looked at, in seconds since 1970.
    pub taken: u64,
}

/// An answer that is possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PossibleAnswer {
    /// The call that is refused: `socket`, `bind`, `listen`, or `setsockopt SO_BINDTODEVICE`; `null` where none is.
    pub call: Option<String>,
    /// The error's name in C.
    pub error: Option<&'static str>,
    /// What the error says.
    pub message: Option<&'static str>,
    /// The kernel's rule.
    pub rule: Option<RuleText>,
    /// Who stands in the way, the one that the rule is about first.
    pub holders: Vec<Holder>,
    /// How many more stand there.
    pub more_holders: usize,
    /// What of the unknown was supposed.
    pub supposing: Vec<String>,
}

/// A rule of the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleText {
    /// Its name, as in docs/bind-rules.md.
    pub id: &'static str,
    /// What it says.
    pub text: &'static str,
}

impl RuleText {
    fn of(rule: Rule) -> RuleText {
        let info = rule.info();
        RuleText {
            id: info.id,
            text: info.text,
        }
    }
}

/// Would a new socket be opened so, by the snapshot's caller?
///
/// # Errors
///
/// Where no host can be as the snapshot is.
pub fn ask(snapshot: &Snapshot, opening: &Opening) -> Result<Verdict, Nonsense> {
    let focus = Focus {
        port: Some(opening.at.port()).filter(|&port| port != 0),
        near: NEAR,
    };
    let worlds = Worlds::for_bind(snapshot, focus, &[opening.at.ip()])?;
    Ok(ask_in(&worlds, snapshot, opening))
}

fn ask_in(worlds: &Worlds, snapshot: &Snapshot, opening: &Opening) -> Verdict {
    let subject = Subject::New(opening.family, &[]);
    let asked = Asked { snapshot, worlds };
    asked.verdict(opening.at, &opening.calls(), subject)
}

/// Would these calls succeed on a socket without a port, which the caller has made already and prepared by
/// other calls (options, `fchown`)? Privileges that those took need not be there any more.
///
/// # Errors
///
/// As [`ask`].
pub fn ask_prepared(
    snapshot: &Snapshot,
    family: Family,
    prepared: &[Call],
    calls: &[Call],
) -> Result<Verdict, Nonsense> {
    let at = calls.iter().find_map(|call| match call {
        Call::Bind(at) => Some(SocketAddr::new(at.ip, at.port)),
        _ => None,
    });
    let at = at.unwrap_or_else(|| match family {
        Family::Inet => SocketAddr::from(([0; 4], 0)),
        Family::Inet6 => SocketAddr::from(([0u16; 8], 0)),
    });
    let focus = Focus {
        port: Some(at.port()).filter(|&port| port != 0),
        near: NEAR,
    };
    let worlds = Worlds::for_bind(snapshot, focus, &[at.ip()])?;
    let asked = Asked {
        snapshot,
        worlds: &worlds,
    };
    Ok(asked.verdict(at, calls, Subject::New(family, prepared)))
}

/// Would these calls succeed on a socket that the snapshot has, by its cookie? `None` where it has not.
///
/// # Errors
///
/// As [`ask`].
pub fn ask_socket(
    snapshot: &Snapshot,
    cookie: u64,
    calls: &[Call],
) -> Result<Option<Verdict>, Nonsense> {
    let net = snapshot.namespaces.first().ok_or(Nonsense::NoNamespace)?;
    let Some(at) = net.sockets.iter().position(|one| one.cookie == cookie) else {
        return Ok(None);
    };
    let local = net.sockets[at].local;
    let focus = Focus {
        port: Some(local.port()),
        near: NEAR,
    };
    let worlds = Worlds::of(snapshot, focus)?;
    let asked = Asked {
        snapshot,
        worlds: &worlds,
    };
    Ok(Some(asked.verdict(local, calls, Subject::Known((0, at)))))
}

/// The socket that is asked about.
#[derive(Debug, Clone, Copy)]
enum Subject<'a> {
    /// A new one, on which these calls have been made before.
    New(Family, &'a [Call]),
    Known((usize, usize)),
}

/// A host, and the worlds that it may be.
struct Asked<'a> {
    snapshot: &'a Snapshot,
    worlds: &'a Worlds,
}

/// What came of the calls in one world.
struct Tried {
    /// The world before the call that was refused; before `bind` where `listen` was.
    world: World,
    socket: SocketId,
    /// The calls from there on.
    calls: Vec<Call>,
    /// Which call was refused, and how.
    refused: Option<(Call, Errno)>,
    why: Explanation,
    /// Where the kernel chooses the port, some draw finds none.
    may_fail: bool,
}

impl Asked<'_> {
    fn net(&self) -> &Namespace {
        // Worlds are of a snapshot that has one.
        &self.snapshot.namespaces[0]
    }

    fn verdict(&self, at: SocketAddr, calls: &[Call], subject: Subject<'_>) -> Verdict {
        let all = self.worlds.possible.iter();
        let tried: Vec<(&Possible, Tried)> = all
            .filter_map(|possible| Some((possible, self.attempt(possible, calls, subject)?)))
            .collect();
        let idle = idle_settings(&tried);
        let mut answers: Vec<PossibleAnswer> = Vec::new();
        let mut known: Vec<Option<(Call, Errno)>> = Vec::new();
        for (possible, one) in &tried {
            if !known.contains(&one.refused) {
                known.push(one.refused);
                answers.push(self.answer(possible, one, &idle));
            }
            if one.may_fail && one.refused.is_none() {
                answers.push(no_port());
            }
        }
        if at.port() == 0 && self.may_share(calls, subject) {
            let refused = answers.iter().all(|answer| answer.error.is_some());
            answers.extend(refused.then(shared_port));
        }
        let family = match subject {
            Subject::New(family, _) => family,
            Subject::Known(_) if at.is_ipv6() => Family::Inet6,
            Subject::Known(_) => Family::Inet,
        };
        let mut unseen = self.unseen(at);
        let works = answers.iter().all(|answer| answer.error.is_none());
        let outcome = match answers.len() {
            1 if works && !self.worlds.unseen.is_empty() => Outcome::Unknown,
            1 if works => Outcome::Works,
            1 => Outcome::Refused,
            _ => Outcome::Unknown,
        };
        if outcome == Outcome::Unknown && answers.len() == 1 {
            answers.push(unlisted(at.port()));
        }
        if outcome == Outcome::Unknown {
            unseen.extend(self.blind());
        }
        let refused: Vec<(&Possible, Tried)> = tried
            .into_iter()
            .filter(|(_, one)| one.refused.is_some())
            .collect();
        let mut ways = self.ways(&refused);
        if ways.is_empty()
            && let Some(rule) = refused.first().and_then(|(_, one)| one.why.decided_by())
        {
            let advice = [rule.info().remedy, rule.no_way_out().unwrap_or("")];
            ways.extend(
                advice
                    .into_iter()
                    .find(|text| !text.is_empty())
                    .map(Way::advice),
            );
        }
        Verdict {
            format: FORMAT,
            question: self.question(at, calls),
            outcome,
            beside: self.beside(at, &answers, subject),
            answers,
            ways,
            elsewhere: elsewhere(self.snapshot, at.port()),
            descriptors: Descriptors::of(self.snapshot),
            refusers: refusers(self.snapshot, Some(family)),
            unseen,
        }
    }

    /// Where the kernel chooses: whether the newcomer might share a port of somebody whose options nobody
    /// could see. Worlds of every value are made of a port that is named alone.
    fn may_share(&self, calls: &[Call], subject: Subject<'_>) -> bool {
        let shares =
            |call: &Call| matches!(call, Call::Set(Opt::ReuseAddr(true) | Opt::ReusePort(true)));
        let newcomer = match subject {
            Subject::New(_, prepared) => prepared.iter().chain(calls).any(shares),
            Subject::Known(_) => true,
        };
        let hidden =
            |one: &Socket| one.options.reuseaddr.is_none() || one.options.reuseport.is_none();
        newcomer && self.net().sockets.iter().any(hidden)
    }

    fn question(&self, address: SocketAddr, calls: &[Call]) -> Question {
        let caller = self.snapshot.process(self.snapshot.caller);
        let options = calls.iter().filter_map(|call| match call {
            Call::Set(Opt::BindToDevice(index)) => {
                let device = holder::device_name(self.net(), *index);
                Some(format!("SO_BINDTODEVICE = {device}"))
            }
            Call::Set(opt) => Some(opt.to_string()),
            Call::Fchown(uid) => Some(format!("fchown to user {}", uid.0)),
            _ => None,
        });
        Question {
            address,
            options: options.collect(),
            uid: caller.and_then(|caller| caller.uids).map(|uids| uids[1]),
            user: caller.and_then(|caller| caller.user.clone()),
            pid: caller.map(|caller| caller.pid).filter(|&pid| pid != 0),
            namespace: self.net().inode,
            namespace_names: self.net().names.clone(),
            kernel: self.snapshot.kernel.release.clone(),
            taken: self.snapshot.taken,
        }
    }

    /// Makes the calls in a copy of a world.
    fn attempt(&self, possible: &Possible, calls: &[Call], subject: Subject<'_>) -> Option<Tried> {
        let caller = self.worlds.caller;
        let mut world = possible.world.clone();
        let socket = match subject {
            Subject::New(family, prepared) => {
                let socket = world.socket(caller, family);
                let place = usize::from(caller.0);
                let known = world.host_mut().processes.get_mut(place)?;
                let had = std::mem::replace(&mut known.caps, Caps::ALL);
                for &call in prepared {
                    world.call_as(caller, socket, call);
                }
                world.host_mut().processes[place].caps = had;
                socket
            }
            Subject::Known(place) => *possible.sockets.get(&place)?,
        };
        let mut tried = Tried {
            world: world.clone(),
            socket,
            calls: calls.to_vec(),
            refused: None,
            why: Explanation::default(),
            may_fail: false,
        };
        for (at, &call) in calls.iter().enumerate() {
            if !matches!(call, Call::Listen(_)) || at == 0 {
                // A way out of a refused listen may be one before its bind.
                (tried.world, tried.calls) = (world.clone(), calls[at..].to_vec());
            }
            let choice: Option<PortChoice> = match call {
                Call::Bind(address) if address.port == 0 => world.port_choice(caller, socket, call),
                _ => None,
            };
            tried.may_fail |= choice.is_some_and(|choice| choice.may_fail);
            let (answer, why) = world.explain(caller, socket, call);
            let informs = matches!(call, Call::Bind(_)) || why.decided_by().is_some();
            if let Answer::Err(errno) = answer {
                tried.refused = Some((call, errno));
                tried.why = why;
                break;
            }
            if informs && !matches!(call, Call::Listen(_)) {
                tried.why = why;
            }
        }
        Some(tried)
    }

    /// An answer, and what was supposed for it but for these facts.
    fn answer(&self, possible: &Possible, tried: &Tried, idle: &[usize]) -> PossibleAnswer {
        let holders = self.in_the_way(possible, tried);
        let more_holders = holders.len().saturating_sub(HOLDERS_MAX);
        let holders = holders.into_iter().take(HOLDERS_MAX);
        let memory = |one: &&Supposed| matches!(one, Supposed::Memory { .. });
        let facts = possible.supposed.iter().enumerate();
        let facts = facts.filter(|(at, one)| !memory(one) && !idle.contains(at));
        let facts = facts.map(|(_, one)| one);
        let told = facts.clone().take(SUPPOSED_MAX);
        let mut supposing: Vec<String> = told.map(|one| self.supposed(one)).collect();
        if facts.count() > SUPPOSED_MAX {
            supposing.push("it is so for all others that nobody could tell of".to_owned());
        }
        let memory = possible.supposed.iter().filter(memory);
        supposing.extend(memory.map(|one| self.supposed(one)));
        PossibleAnswer {
            call: tried.refused.map(|(call, _)| call_name(call)),
            error: tried.refused.map(|(_, errno)| errno.name()),
            message: tried.refused.map(|(_, errno)| errno.text()),
            rule: tried.why.decided_by().map(RuleText::of),
            holders: holders.collect(),
            more_holders,
            supposing,
        }
    }

    /// Everybody who stands in the way, one after the other as each one before goes.
    fn in_the_way(&self, possible: &Possible, tried: &Tried) -> Vec<Holder> {
        if tried.refused.is_none() {
            return Vec::new();
        }
        let mut found: Vec<SocketId> = tried.why.because_of().into_iter().collect();
        let mut world = tried.world.clone();
        while let Some(&last) = found.last() {
            let mut gone = false;
            for process in world.holders(last) {
                gone |= world.call_as(process, last, Call::Close).is_ok();
            }
            if !gone || found.len() > HOLDERS_MAX * 4 {
                break;
            }
            let mut copy = world.clone();
            let caller = self.worlds.caller;
            let mut blamed = None;
            for &call in &tried.calls {
                let (answer, why) = copy.explain(caller, tried.socket, call);
                if let Answer::Err(_) = answer {
                    blamed = why.because_of();
                    break;
                }
            }
            match blamed.filter(|next| !found.contains(next) && *next != tried.socket) {
                Some(next) => found.push(next),
                None => break,
            }
        }
        let ours = found.iter().filter_map(|&id| self.holder(possible, id));
        ours.collect()
    }

    fn supposed(&self, supposed: &Supposed) -> String {
        let of = |place: (usize, usize)| {
            let net = self.snapshot.namespaces.get(place.0);
            let socket = net.and_then(|net| Some((net, net.sockets.get(place.1)?)));
            socket.map_or_else(String::new, |(net, socket)| {
                let holder = Holder::of(self.snapshot, net, socket);
                match holder.processes.is_empty() {
                    true => format!("the socket {}", holder.what),
                    false => format!("the socket of {}", holder.called()),
                }
            })
        };
        match supposed {
            Supposed::Option { socket, option, on } => {
                let (state, of) = (if *on { "on" } else { "off" }, of(*socket));
                format!("{option} is {state} for {of}")
            }
            Supposed::User { socket, same } => {
                let which = if *same { "the caller" } else { "another user" };
                format!("the user of {} is {which}", of(*socket))
            }
            Supposed::Capabilities { count } => {
                let not = if *count { "" } else { "do not " };
                format!("the caller's capabilities {not}count in this network")
            }
            Supposed::Sysctl { name, value } => format!("{name} is {value}"),
            Supposed::Memory {
                port,
                user: Some(user),
            } => format!(
                "the kernel remembers that SO_REUSEPORT sockets of user {user} may share port {port}"
            ),
            Supposed::Memory { port, user: None } => {
                format!("the kernel remembers of port {port} that nobody may share it")
            }
        }
    }

    /// Those who have the port, and are not in the way.
    fn beside(
        &self,
        at: SocketAddr,
        answers: &[PossibleAnswer],
        subject: Subject<'_>,
    ) -> Vec<Holder> {
        let told = answers.iter().flat_map(|answer| &answer.holders);
        let told: BTreeSet<u64> = told.map(|holder| holder.cookie).collect();
        let own = |place: usize| matches!(subject, Subject::Known((0, known)) if known == place);
        let sockets = self.net().sockets.iter().enumerate();
        // MPTCP's TCP socket below it is the one that owns the port.
        let below = |one: &Socket| {
            let tcp = |other: &Socket| {
                other.protocol == Protocol::Tcp
                    && (other.local, other.state) == (one.local, one.state)
            };
            one.protocol == Protocol::Mptcp && self.net().sockets.iter().any(tcp)
        };
        let others = sockets.filter(|(place, socket)| {
            owns_server_port(socket, at.port())
                && !told.contains(&socket.cookie)
                && !own(*place)
                && !below(socket)
        });
        let others = others.map(|(_, socket)| Holder::of(self.snapshot, self.net(), socket));
        others.collect()
    }

    fn unseen(&self, at: SocketAddr) -> Vec<String> {
        let mut unseen = self.worlds.unseen.clone();
        let held = self
            .net()
            .sockets
            .iter()
            .any(|one| owns_server_port(one, at.port()) && one.holders.is_empty());
        if held && let Known::Partly(why) | Known::No(why) = &self.snapshot.sources.processes {
            unseen.push(format!("who holds some sockets: {why}"));
        }
        if let Some(why) = &self.snapshot.refusers.cgroup_programs_unread {
            unseen.push(format!(
                "BPF programs of control groups, which may refuse too: {why}"
            ));
        }
        unseen
    }

    /// Why something that decides could not be seen.
    fn blind(&self) -> Vec<String> {
        let sources = &self.snapshot.sources;
        let mut blind = Vec::new();
        if let Known::No(why) | Known::Partly(why) = &sources.bpf {
            blind.push(format!(
                "options and what the kernel remembers of a port, by BPF: {why}"
            ));
        }
        if let Known::No(why) | Known::Partly(why) = &sources.descriptors {
            blind.push(format!("options of sockets, from their holders: {why}"));
        }
        blind
    }
}

pub(crate) fn owns_server_port(socket: &Socket, port: u16) -> bool {
    port != 0 && socket.local.port() == port && matches!(socket.state, State::Listen | State::Bound)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::snapshot::{Address, Drops, Holder as Descriptor, InGroup, Interface, Sysctls, Vrf};

    fn loopback() -> Interface {
        let address = |ip: &str| Address {
            ip: ip.parse().unwrap(),
            prefix: 32,
            tentative: false,
            duplicate: false,
            deprecated: false,
        };
        Interface {
            index: 1,
            name: "lo".to_owned(),
            up: true,
            running: true,
            vrf: Vrf::Outside,
            addresses: ["127.0.0.1", "10.0.0.5", "::1"].map(address).into(),
        }
    }

    /// A host where one process asks and others have these sockets.
    fn host(sockets: Vec<Socket>) -> Snapshot {
        let mut snapshot = Snapshot::new();
        snapshot.kernel.release = "6.18.0".to_owned();
        let pids: BTreeSet<u32> = (sockets.iter().flat_map(|one| &one.holders))
            .map(|holder| holder.pid)
            .chain([1])
            .collect();
        snapshot.caller = 1;
        snapshot.processes = pids.into_iter().map(crate::process::unknown).collect();
        for process in &mut snapshot.processes {
            process.uids = Some([0; 4]);
            process.capabilities = Some(u64::MAX);
            process.user_namespace = Some(1);
        }
        snapshot.namespaces.push(Namespace {
            inode: 1,
            names: Vec::new(),
            user_namespace: None,
            owner_outside: Some(false),
            local_routes: None,
            other_routes: None,
            without_routes4: false,
            sysctls: Sysctls::default(),
            interfaces: vec![loopback()],
            sockets,
            buckets: Vec::new(),
            groups: Vec::new(),
            unix: Vec::new(),
            drops: Drops::default(),
        });
        snapshot.namespaces[0].sysctls.ip_unprivileged_port_start = Some(1024);
        snapshot
    }

    /// Sockets of one port: of a few kinds, each some hundred times, mixed.
    fn crowds(random: &mut impl FnMut(u32) -> u32) -> Vec<Socket> {
        let many = 1 + random(4);
        let kinds: Vec<Socket> = (0..many)
            .map(|_| {
                let at = [
                    "127.0.0.1:80",
                    "10.0.0.5:80",
                    "127.0.0.1:81",
                    "[::1]:80",
                    "192.0.2.1:80",
                ];
                let mut one = Socket::unknown(at[random(5) as usize].parse().unwrap());
                let states = [State::TimeWait, State::Established, State::Bound];
                one.state = states[random(3) as usize];
                one.options.v6only = Some(false);
                let known = one.state == State::Bound || random(4) > 0;
                one.options.reuseaddr = known.then(|| random(2) == 0);
                one.options.reuseport = known.then(|| random(2) == 0);
                one.group = known.then_some(InGroup::None);
                if one.state != State::TimeWait {
                    (one.inode, one.uid) = (7, Some(random(2)));
                }
                if one.state != State::Bound {
                    one.peer = Some(SocketAddr::new(one.local.ip(), 9));
                }
                one
            })
            .collect();
        (0..500 + random(500))
            .map(|number| {
                let mut one = kinds[random(many) as usize].clone();
                one.cookie = u64::from(number) + 1;
                // Connections came to many addresses, of which nothing is asked.
                if let IpAddr::V4(ip) = one.local.ip()
                    && ip.octets()[0] == 192
                {
                    let ip = ip.to_bits() + random(200);
                    one.local.set_ip(std::net::Ipv4Addr::from_bits(ip).into());
                }
                if one.state == State::TimeWait {
                    one.timer_ms = Some(1000 * (1 + random(59)));
                } else {
                    let pid = 2 + random(50);
                    one.holders.push(Descriptor { pid, fd: number });
                }
                one
            })
            .collect()
    }

    #[test]
    fn of_a_crowd_some_answer_as_all_do() {
        let mut seed = 0x5eed_0005_u64;
        let mut random = move |below: u32| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            ((seed >> 33) % u64::from(below)) as u32
        };
        let (mut refused, mut thinned) = (0, 0);
        for round in 0..8 {
            let snapshot = host(crowds(&mut random));
            for at in ["127.0.0.1:80", "0.0.0.0:80", "[::]:80"] {
                let mut opening = Opening::new(at.parse().unwrap());
                if random(2) == 0 {
                    opening.options.push(Opt::ReuseAddr(true));
                }
                let focus = Focus {
                    port: Some(80),
                    near: 2,
                };
                let whole = Worlds::of(&snapshot, focus).unwrap();
                let few = Worlds::for_bind(&snapshot, focus, &[opening.at.ip()]).unwrap();
                let all = ask_in(&whole, &snapshot, &opening);
                let some = ask_in(&few, &snapshot, &opening);
                assert_eq!(some.to_string(), all.to_string(), "round {round}, {at}");
                assert_eq!(some, all, "round {round}, {at}");
                refused += usize::from(all.outcome == Outcome::Refused);
                let sockets = |worlds: &Worlds| worlds.possible[0].sockets.len();
                thinned += usize::from(sockets(&few) < sockets(&whole));
            }
        }
        assert!(refused > 10 && thinned > 10, "{refused}, {thinned}");
    }
}
