//! Why a call of a watched program was refused, by the whole host as it is while its caller stands still.
//!
//! Decides:  which of the worlds that the host may be are believed (those in which the kernel's answer is
//!           the one that it gave), and how holders and ways out are said.
//! Not here: reading the host (crate `inspect`), the rules (kernel-model), what the trace alone explains
//!           (crate `trace`).

mod beyond;

use portcullis_inspect::snapshot::{self, Snapshot, State};
use portcullis_inspect::verdict;
use portcullis_inspect::{Caller, Focus, Means, Possible, Wanted, Worlds, read};
use portcullis_kernel_model::{
    Call, Caps, Difference, Errno, Explanation, Family, ProcessId, SocketId, Uid, WayOut, World,
};
use portcullis_trace::explain::preparation;
use portcullis_trace::record::{self, Record};
use portcullis_trace::{Explain, FromTrace, Holder, Question, Reason, Refused, RuleText, Way};
use rustix::thread::CapabilitySet;

/// The backlog of the `listen` that is tried behind a `bind`.
const BACKLOG: i32 = 128;
/// How many ways out are told.
const WAYS_MAX: usize = 4;
/// How many worlds are asked for ways out.
const WORLDS_MAX: usize = 4;

/// Explains by the host, and by the trace where the host cannot be read or does not explain it.
pub struct OnHost {
    trace: FromTrace,
}

impl OnHost {
    /// On this host.
    pub fn new() -> OnHost {
        OnHost {
            trace: FromTrace::here(),
        }
    }
}

impl Explain for OnHost {
    fn explain(&mut self, question: &Question<'_>) -> Option<Reason> {
        let host = Asked::read(question);
        let by_host = host.as_ref().and_then(|host| host.reason(question));
        by_host
            .or_else(|| self.trace.explain(question))
            .or_else(|| other_refusers(host?.snapshot, question))
    }

    fn beyond_rules(&mut self, refused: &Refused<'_>) -> Option<Reason> {
        beyond::reason(refused)
    }

    fn others(&mut self, record: &Record, socket: &record::Socket) -> Vec<Holder> {
        let wanted = Wanted {
            port: Some(socket.port()),
            caller: Caller::Process(socket.process.unsigned_abs()),
            // Two that listen on one address both have SO_REUSEPORT: nothing more need be known.
            means: Means::SockDiag,
            ..Wanted::default()
        };
        let Ok(snapshot) = read(&wanted) else {
            return Vec::new();
        };
        let ours = |pid: u32| {
            record
                .processes
                .iter()
                .any(|process| process.pid.unsigned_abs() == pid)
        };
        let sockets = snapshot
            .namespaces
            .first()
            .map(|net| net.sockets.as_slice());
        let others = sockets.unwrap_or_default().iter().filter(|other| {
            other.state == State::Listen
                && Some(other.local.to_string()) == socket.address
                && record
                    .sockets
                    .iter()
                    .all(|known| known.cookie != other.cookie)
                && !other.holders.iter().any(|holder| ours(holder.pid))
        });
        others
            .filter_map(|other| holder(&snapshot, other))
            .collect()
    }
}

/// A host, and the worlds that it may be.
struct Asked {
    snapshot: Snapshot,
    worlds: Worlds,
}

/// A world in which the kernel answers as it did.
struct Agreeing<'a> {
    possible: &'a Possible,
    world: World,
    socket: SocketId,
    why: Explanation,
}

impl Asked {
    fn read(question: &Question<'_>) -> Option<Asked> {
        let port = match question.call {
            Call::Bind(address) => address.port,
            _ => question.socket.port(),
        };
        let port = Some(port).filter(|&port| port != 0);
        let wanted = Wanted {
            port,
            near: verdict::NEAR,
            caller: Caller::Process(question.process.unsigned_abs()),
            ..Wanted::default()
        };
        let focus = Focus {
            port,
            near: verdict::NEAR,
        };
        let snapshot = read(&wanted).ok()?;
        let worlds = Worlds::of(&snapshot, focus).ok()?;
        Some(Asked { snapshot, worlds })
    }

    fn reason(&self, question: &Question<'_>) -> Option<Reason> {
        let possible = self.worlds.possible.iter();
        let agreeing: Vec<Agreeing<'_>> = possible
            .filter_map(|possible| self.agrees(possible, question))
            .collect();
        let likeliest = agreeing.first()?;
        let info = likeliest.why.decided_by()?.info();
        let mut ways: Vec<Way> = self.ways(question, &agreeing);
        if ways.is_empty() && !info.remedy.is_empty() {
            ways.push(Way::advice(info.remedy));
        }
        let holder = likeliest.why.because_of();
        let holder = holder.and_then(|id| self.socket(likeliest.possible, id));
        Some(Reason {
            rule: RuleText {
                id: info.id.to_owned(),
                text: info.text.to_owned(),
            },
            holders: holder
                .and_then(|socket| self::holder(&self.snapshot, socket))
                .into_iter()
                .collect(),
            ways,
        })
    }

    /// The world with the socket as the program has it, if it refuses the call by the same error.
    fn agrees<'a>(&self, possible: &'a Possible, question: &Question<'_>) -> Option<Agreeing<'a>> {
        let caller = self.worlds.caller;
        let mut world = possible.world.clone();
        let sockets = &self.snapshot.namespaces.first()?.sockets;
        let at = sockets
            .iter()
            .position(|socket| socket.cookie == question.socket.cookie);
        let socket = match at.and_then(|at| possible.sockets.get(&(0, at))) {
            Some(socket) => *socket,
            // The host does not list a socket without a port; one with a port is its business.
            None if question.socket.port() == 0 => make(&mut world, caller, question.socket),
            None => return None,
        };
        let (answer, why) = world.ask(caller, socket, question.call);
        let same = answer.error().map(|errno| errno.number()) == Some(question.errno);
        same.then_some(Agreeing {
            possible,
            world,
            socket,
            why,
        })
    }

    /// What helps in every world that is believed.
    fn ways(&self, question: &Question<'_>, agreeing: &[Agreeing<'_>]) -> Vec<Way> {
        let told = |agreeing: &Agreeing<'_>| -> Vec<String> {
            let (caller, call) = (self.worlds.caller, question.call);
            // Who binds a port by its number means to listen there: what lets it bind alone is no way out.
            let then = match call {
                Call::Bind(_) => vec![Call::Listen(BACKLOG)],
                _ => Vec::new(),
            };
            let ways = (agreeing.world).ways_out_of_all(caller, agreeing.socket, call, &then);
            // A new socket listens on any port, which nobody asked for.
            let elsewhere = |way: &&WayOut| {
                matches!(call, Call::Listen(_))
                    && way
                        .differences
                        .iter()
                        .any(|it| matches!(it, Difference::Fresh(_)))
            };
            let told = ways
                .iter()
                .filter(|way| !way.needs_another_kernel() && !elsewhere(way));
            told.map(|way| verdict::Way::on(&self.snapshot, agreeing.possible, way).text)
                .collect()
        };
        let common = verdict::in_each(agreeing.iter().take(WORLDS_MAX).map(told));
        let ways = common.into_iter().take(WAYS_MAX);
        ways.map(|text| Way { text, tried: true }).collect()
    }

    fn socket(&self, possible: &Possible, id: SocketId) -> Option<&snapshot::Socket> {
        let place = possible.sockets.iter().find(|(_, known)| **known == id)?.0;
        self.snapshot.namespaces.get(place.0)?.sockets.get(place.1)
    }
}

fn family(socket: &record::Socket) -> Family {
    match socket.family {
        record::Family::Inet => Family::Inet,
        record::Family::Inet6 => Family::Inet6,
    }
}

/// The program's socket, which has no port yet, with the options that it has. Privileges that it took when
/// they were set may be gone.
fn make(world: &mut World, caller: ProcessId, socket: &record::Socket) -> SocketId {
    let id = world.socket(caller, family(socket));
    let mut had = None;
    if let Some(process) = world.host_mut().processes.get_mut(usize::from(caller.0)) {
        had = Some(std::mem::replace(&mut process.caps, Caps::ALL));
    }
    world.call_as(caller, id, Call::Fchown(Uid(socket.uid)));
    for call in preparation(socket) {
        world.call_as(caller, id, call);
    }
    if let (Some(caps), Some(process)) = (
        had,
        world.host_mut().processes.get_mut(usize::from(caller.0)),
    ) {
        process.caps = caps;
    }
    id
}

/// A socket and all that hold it.
fn holder(snapshot: &Snapshot, socket: &snapshot::Socket) -> Option<Holder> {
    let net = snapshot.namespaces.first()?;
    Some(told(&verdict::Holder::of(snapshot, net, socket)))
}

/// The holder of a socket in the words of a finding.
fn told(known: &verdict::Holder) -> Holder {
    let unseen = match known.state {
        State::TimeWait => "nobody any more",
        _ => "a process that cannot be seen",
    };
    let lines = known.lines();
    let first = lines.first().map_or("", String::as_str);
    // Program, process and descriptor are fields of their own.
    let what = first.find(&known.what).map_or(first, |at| &first[at..]);
    let process = known.processes.first();
    let fd = process.and_then(|one| one.descriptors.first());
    Holder {
        program: process.map_or(unseen, |one| &one.program).to_owned(),
        process: process.and_then(|one| i32::try_from(one.pid).ok()),
        fd: fd.and_then(|&fd| i32::try_from(fd).ok()),
        what: what.to_owned(),
        more: lines.iter().skip(1).cloned().collect(),
    }
}

/// Where no rule of bind and listen says no: who else may, on this host.
fn other_refusers(mut snapshot: Snapshot, question: &Question<'_>) -> Option<Reason> {
    let errno = [Errno::EPERM, Errno::EACCES]
        .into_iter()
        .find(|errno| errno.number() == question.errno)?;
    as_unwatched(&mut snapshot);
    let refusers = verdict::refusers(&snapshot, Some(family(question.socket)));
    let known = refusers.iter().filter(|one| one.may_say(errno));
    let known = known.map(|one| format!("{} ({}; it shows by {})", one.name, one.what, one.shows));
    let unread = snapshot.refusers.cgroup_programs_unread.as_ref();
    let unread = unread.map(|why| format!("BPF programs of control groups (not seen: {why})"));
    let known: Vec<String> = known.chain(unread).collect();
    let text = match known.as_slice() {
        [] => return None,
        known => format!(
            "no rule of bind and listen refuses this; what else can on this host: {}",
            known.join("; ")
        ),
    };
    Some(Reason::plain(
        text,
        "look in the kernel's log for a denial: dmesg, journalctl -k",
    ))
}

/// The caller without what watching gave it: a seccomp filter, and with it perhaps `no_new_privs`. No other
/// filter refused this call either: its answer would have come before ours, and the call was not seen then.
fn as_unwatched(snapshot: &mut Snapshot) {
    let caller = snapshot.caller;
    let Some(process) = snapshot.processes.iter_mut().find(|one| one.pid == caller) else {
        return;
    };
    process.seccomp = None;
    // Without CAP_SYS_ADMIN our filter needs it, and it may be due to that alone.
    let ours = !rustix::thread::no_new_privs().unwrap_or(false)
        && !rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if ours && process.no_new_privs == Some(true) {
        process.no_new_privs = None;
    }
}
