//! A snapshot becomes a kernel model's world; what is unknown becomes several.
//!
//! Decides:  what is supposed where nobody could tell, so that the model's answers over all suppositions
//!           contain the kernel's; which sockets matter to a question.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_get_port(): the argument of [`Worlds`]
//! Not here: reading (host.rs); what a world answers (the crate `kernel-model`).

use portcullis_kernel_model as model;
use portcullis_kernel_model::{Caps, Found, NetId, ProcessId, SocketId, Uid, UserNsId, World};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use crate::crowd::{Member, few};
use crate::model_host::{host_of, owner_is_open, uid_of};
use crate::snapshot::{Known, Protocol, Snapshot, Socket, State};
use crate::suppose::{Open, REUSEADDR, REUSEPORT, Supposition, V6ONLY, no_sysctl, suppose};

/// A user that nobody is.
pub(crate) const NOBODY_ELSE: Uid = Uid(u32::MAX - 1);

/// What a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Focus {
    /// The port; `None` where the kernel is to choose one.
    pub port: Option<u16>,
    /// How far from it other ports matter, for a free one near it.
    pub near: u16,
}

/// Every world that the snapshot may be of.
///
/// A fact that is unknown is supposed to be one thing in some world and the other in another: of few
/// facts every combination is there, of many only the two in which all of them permit a newcomer most and
/// least. That is enough for a `bind` or `listen` that names its port: an owner stands in the way by
/// itself, never less for having SO_REUSEADDR or SO_REUSEPORT or IPV6_V6ONLY, and a bucket's memory can
/// only skip the walk over them (`inet_csk_get_port`). So where all worlds agree, the kernel does. The
/// newcomer is taken to be the caller's, or that of a user who owns the port already.
#[derive(Debug, Clone)]
pub struct Worlds {
    /// The likeliest first: nothing is on that nobody saw.
    pub possible: Vec<Possible>,
    /// Who asks.
    pub caller: ProcessId,
    /// The network namespace that is asked about: the first one of the snapshot.
    pub net: NetId,
    /// Processes by their number in the snapshot.
    pub processes: BTreeMap<u32, ProcessId>,
    /// What no world shows: sockets that could not be listed, and the like. A verdict that something would
    /// work may be wrong for it.
    pub unseen: Vec<String>,
}

/// One world.
#[derive(Debug, Clone)]
pub struct Possible {
    /// The host in it.
    pub world: World,
    /// Its sockets by their place in the snapshot: namespace and socket.
    pub sockets: BTreeMap<(usize, usize), SocketId>,
    /// What had to be supposed.
    pub supposed: Vec<Supposed>,
}

/// A fact that nobody could tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Supposed {
    /// A socket has an option on, or not.
    Option {
        /// The place of its namespace in the snapshot, and its own there.
        socket: (usize, usize),
        /// The option's name in C.
        option: &'static str,
        /// Whether it is on.
        on: bool,
    },
    /// A socket's user is the caller's, or another.
    User {
        /// As above.
        socket: (usize, usize),
        /// Whether it is the caller's.
        same: bool,
    },
    /// The caller's capabilities count in the network that is asked about, or not: nobody could tell which
    /// user namespace owns it, or is the caller's.
    Capabilities {
        /// Whether they count.
        count: bool,
    },
    /// A sysctl has this value: there is no /proc to read it from.
    Sysctl {
        /// Its name.
        name: &'static str,
        /// Its value.
        value: u32,
    },
    /// The bucket remembers something else than its owners would have left, of somebody who is gone.
    Memory {
        /// The port.
        port: u16,
        /// That this user's SO_REUSEPORT sockets may share the port; or that nobody's may.
        user: Option<u32>,
    },
}

/// Why a snapshot is no host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Nonsense {
    /// The kernel's release is none.
    Kernel(String),
    /// There is no network namespace.
    NoNamespace,
    /// The caller is not among the processes.
    NoCaller(u32),
    /// There is more of something than the model counts.
    TooMany(&'static str),
    /// A socket, bucket or group cannot be as it is.
    Impossible(model::Impossible),
    /// Connections from an address of one family to one of the other.
    Families(IpAddr, IpAddr),
}

impl fmt::Display for Nonsense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Nonsense::Kernel(release) => write!(f, "{release:?} is no kernel release"),
            Nonsense::NoNamespace => write!(f, "the snapshot has no network namespace"),
            Nonsense::NoCaller(pid) => {
                write!(f, "the caller, process {pid}, is not in the snapshot")
            }
            Nonsense::TooMany(what) => write!(f, "the snapshot has too many {what}"),
            Nonsense::Families(from, to) => write!(
                f,
                "{from} and {to} are of two families: no connection leads from one to the other"
            ),
            Nonsense::Impossible(what) => write!(f, "the snapshot is of no host: {what}"),
        }
    }
}

impl std::error::Error for Nonsense {}

/// What all worlds answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<T> {
    /// The same.
    Certain(T),
    /// It depends: the different answers, each with what was supposed where it came first.
    Depends(Vec<(T, Vec<Supposed>)>),
}

impl Worlds {
    /// The worlds of a snapshot.
    ///
    /// # Errors
    ///
    /// Where no host can be like that: a snapshot comes from outside.
    pub fn of(snapshot: &Snapshot, focus: Focus) -> Result<Worlds, Nonsense> {
        Worlds::from(&Builder::new(snapshot, focus)?)
    }

    /// The worlds for a bind and a listen of a new socket at one of these addresses: of a crowd of connections
    /// that are alike, some are there.
    pub(crate) fn for_bind(
        snapshot: &Snapshot,
        focus: Focus,
        at: &[IpAddr],
    ) -> Result<Worlds, Nonsense> {
        let mut builder = Builder::new(snapshot, focus)?;
        builder.open_settings();
        builder.thin_crowds(at);
        Worlds::from(&builder)
    }

    fn from(builder: &Builder<'_>) -> Result<Worlds, Nonsense> {
        let mut possible = Vec::new();
        for supposed in builder.suppositions() {
            possible.push(builder.build(supposed)?);
        }
        Ok(Worlds {
            possible,
            caller: ProcessId(0),
            net: NetId(0),
            processes: builder.processes.clone(),
            unseen: builder.unseen(),
        })
    }

    /// Asks every world.
    pub fn ask<T: PartialEq>(&self, mut question: impl FnMut(&Possible) -> T) -> Outcome<T> {
        let mut answers: Vec<(T, Vec<Supposed>)> = Vec::new();
        for possible in &self.possible {
            let answer = question(possible);
            if answers.iter().all(|(known, _)| *known != answer) {
                answers.push((answer, possible.supposed.clone()));
            }
        }
        match answers.len() {
            1 => match answers.pop() {
                Some((answer, _)) => Outcome::Certain(answer),
                None => Outcome::Depends(Vec::new()),
            },
            _ => Outcome::Depends(answers),
        }
    }
}

/// The parts that are the same in every world.
pub(crate) struct Builder<'a> {
    pub snapshot: &'a Snapshot,
    pub focus: Focus,
    pub host: model::Host,
    pub processes: BTreeMap<u32, ProcessId>,
    pub caller_uid: Uid,
    /// Facts about the host itself that nobody could tell.
    pub settings: Vec<Open>,
    /// Who holds what nobody is seen to hold.
    pub somebody: ProcessId,
    /// The sockets that matter, by their place in the snapshot.
    pub places: Vec<(usize, usize)>,
    pub listeners: Vec<Option<usize>>,
    /// Ports that somebody listens on, by namespace.
    pub served: BTreeSet<(usize, u16)>,
}

impl<'a> Builder<'a> {
    fn new(snapshot: &'a Snapshot, focus: Focus) -> Result<Builder<'a>, Nonsense> {
        let caller = snapshot.process(snapshot.caller);
        let caller = caller.ok_or(Nonsense::NoCaller(snapshot.caller))?;
        let (mut host, processes) = host_of(snapshot, caller)?;
        let somebody = ProcessId(host.processes.len() as u16);
        host.processes.push(model::Process {
            uid: NOBODY_ELSE,
            net: NetId(0),
            user_ns: UserNsId(0),
            caps: Caps::NONE,
            files: host.fresh_files(),
        });
        let mut builder = Builder {
            snapshot,
            focus,
            host,
            processes,
            caller_uid: uid_of(caller),
            settings: Vec::new(),
            somebody,
            places: Vec::new(),
            listeners: Vec::new(),
            served: BTreeSet::new(),
        };
        builder
            .settings
            .extend(owner_is_open(snapshot, caller).then_some(Open::Capabilities));
        builder.choose_sockets();
        Ok(builder)
    }

    pub(crate) fn socket(&self, place: (usize, usize)) -> Option<&'a Socket> {
        let namespace = self.snapshot.namespaces.get(place.0)?;
        namespace.sockets.get(place.1)
    }

    /// Those that own a port near the one in question, and half-open connections to a listener there.
    fn choose_sockets(&mut self) {
        let matters = |socket: &Socket| {
            let port = socket.local.port();
            let near = self
                .focus
                .port
                .is_none_or(|asked| port.abs_diff(asked) <= self.focus.near);
            socket.protocol == Protocol::Tcp && port != 0 && near
        };
        let mut places = Vec::new();
        for (net, namespace) in self.snapshot.namespaces.iter().enumerate() {
            let sockets = namespace.sockets.iter().enumerate();
            // A dump meets the newest listener first, and takes other sockets as their hash has it: the
            // oldest come first here, as far as that is known.
            let these = sockets.filter(|(_, socket)| matters(socket));
            places.extend(these.rev().map(|(at, _)| (net, at)));
        }
        self.places = places;
        self.find_listeners();
        // A half-open connection whose listener is gone owns nothing.
        let lonely = |at: usize| {
            let socket = self.socket(self.places[at]);
            self.listeners[at].is_none() && socket.is_some_and(|one| one.state == State::HalfOpen)
        };
        let kept = (0..self.places.len()).filter(|&at| !lonely(at));
        self.places = kept.map(|at| self.places[at]).collect();
        self.find_listeners();
    }

    fn thin_crowds(&mut self, at: &[IpAddr]) {
        // Those that a way out may name instead: `try_addresses` of the model's ways_out.rs.
        let (v4, v6): (Vec<_>, Vec<_>) = (self.host.namespaces.iter())
            .flat_map(|net| &net.interfaces)
            .map(|device| (&device.v4, &device.v6))
            .unzip();
        let v4 = v4.into_iter().flatten().map(|own| IpAddr::V4(own.0));
        let v6 = v6.into_iter().flatten().map(|own| IpAddr::V6(own.addr));
        let beside = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let asked = v4.chain(v6).chain([beside]).chain(at.iter().copied());
        let asked: BTreeSet<IpAddr> = asked.map(|ip| ip.to_canonical()).collect();
        let members: Vec<Member<'_>> = (self.places.iter().zip(&self.listeners))
            .filter_map(|(&place, &listener)| Some((place.0, self.socket(place)?, listener)))
            .collect();
        let mut stays = few(&members, &asked).into_iter();
        self.places.retain(|_| stays.next() != Some(false));
        self.find_listeners();
    }

    /// Where half-open connections and those that nobody accepted wait.
    fn find_listeners(&mut self) {
        let mut by_port: BTreeMap<(usize, u16), Vec<(usize, u32)>> = BTreeMap::new();
        for (at, &place) in self.places.iter().enumerate() {
            if let Some(socket) = self.socket(place)
                && socket.state == State::Listen
            {
                let room = socket.receive_queue;
                let entry = by_port.entry((place.0, socket.local.port()));
                entry.or_default().push((at, room));
            }
        }
        let mut listeners = vec![None; self.places.len()];
        for (at, &place) in self.places.iter().enumerate() {
            let Some(socket) = self.socket(place) else {
                continue;
            };
            let half_open = socket.state == State::HalfOpen;
            let waits =
                socket.inode == 0 && socket.holders.is_empty() && is_child_state(socket.state);
            if !half_open && !waits {
                continue;
            }
            let Some(candidates) = by_port.get_mut(&(place.0, socket.local.port())) else {
                continue;
            };
            let fits = |candidate: &(usize, u32)| {
                let listener = self.socket(self.places[candidate.0]);
                listener.is_some_and(|listener| hears(listener, socket))
                    && (half_open || candidate.1 > 0)
            };
            if let Some(found) = candidates.iter_mut().find(|candidate| fits(candidate)) {
                listeners[at] = Some(found.0);
                if waits {
                    found.1 -= 1;
                }
            }
        }
        self.listeners = listeners;
        self.served = by_port.into_keys().collect();
    }

    fn build(&self, supposed: Supposition) -> Result<Possible, Nonsense> {
        let is_on = |fact: Open| {
            supposed
                .facts
                .iter()
                .any(|&(known, on)| known == fact && on)
        };
        let mut found = Found::default();
        for (at, &place) in self.places.iter().enumerate() {
            let Some(socket) = self.socket(place) else {
                continue;
            };
            let mut one = self.found_socket(socket, place);
            one.listener = self.listeners[at];
            let known = &socket.options;
            let value = |known: Option<bool>, option| {
                known.unwrap_or_else(|| is_on(Open::Option(place, option)))
            };
            one.reuseaddr = value(known.reuseaddr, REUSEADDR);
            one.reuseport = value(known.reuseport, REUSEPORT);
            if one.family == model::Family::Inet6 {
                one.v6only = value(known.v6only, V6ONLY);
            }
            if socket.uid.is_none() {
                one.uid = if is_on(Open::User(place)) {
                    self.caller_uid
                } else {
                    NOBODY_ELSE
                };
            }
            found.sockets.push(one);
        }
        found.groups = self.found_groups(&found);
        found.buckets = self.found_buckets(&found, supposed.memory);
        let mut host = self.host.clone();
        for &(fact, on) in &supposed.facts {
            suppose(&mut host, self.focus.port, fact, on);
        }
        let (world, names) = World::found(host, &found).map_err(Nonsense::Impossible)?;
        Ok(Possible {
            world,
            sockets: self.places.iter().copied().zip(names).collect(),
            supposed: self.told(&supposed),
        })
    }

    /// What no world shows.
    fn unseen(&self) -> Vec<String> {
        let mut unseen = Vec::new();
        if let Known::No(why) | Known::Partly(why) = &self.snapshot.sources.bound {
            unseen.push(format!("sockets that are bound and do not listen: {why}"));
        }
        // Of a port that is named, the worlds have them one way and the other.
        let supposed = self
            .settings
            .iter()
            .any(|fact| matches!(fact, Open::Sysctl(_)));
        if no_sysctl(self.snapshot) && !supposed {
            unseen.push("sysctls: they are taken for the kernel's own values".to_owned());
        }
        unseen
    }
}

fn is_child_state(state: State) -> bool {
    matches!(
        state,
        State::Established | State::CloseWait | State::SynRecv
    )
}

/// Whether a connection can have come to this listener.
fn hears(listener: &Socket, connection: &Socket) -> bool {
    let (theirs, ours) = (listener.local.ip(), connection.local.ip());
    theirs == ours || (theirs.is_unspecified() && (theirs.is_ipv6() || ours.is_ipv4()))
}
