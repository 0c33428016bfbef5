//! Which rule of the kernel refused a call, from the traced sockets alone or from somebody who knows more.
//!
//! Decides:  a rule is told where the model, given these sockets, answers with the error that the kernel
//!           gave, and never otherwise.
//! Not here: the rules (kernel-model), sockets of others (who implements [`Explain`] on a whole host).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use portcullis_kernel_model::{
    Addr6, Call, Caps, Difference, Host, Kernel, Opt, ProcessId, SockAddr, SocketId, Uid, World,
};

use crate::facts::Caller;
use crate::finding::{Holder, RuleText, Way};
use crate::record::{Family, Record, Setting, Socket, Step, What};

/// The backlog of the `listen` that is tried behind a `bind`.
const BACKLOG: i32 = 128;
/// How many ways out are told.
const WAYS_MAX: usize = 4;

/// A call that was refused, while its caller stands still behind it.
#[derive(Debug)]
pub struct Question<'a> {
    /// All that was seen before.
    pub record: &'a Record,
    /// The socket; its calls do not have the refused one yet.
    pub socket: &'a Socket,
    /// The process.
    pub process: i32,
    /// Who it is.
    pub caller: Caller,
    /// What it called: `bind`, `listen` or `setsockopt`.
    pub call: Call,
    /// What the kernel said.
    pub errno: i32,
}

/// A call of another kind that was refused, while its caller stands still behind it.
#[derive(Debug)]
pub struct Refused<'a> {
    /// The process.
    pub process: i32,
    /// What it wanted.
    pub wanted: Wanted<'a>,
    /// What the kernel said.
    pub errno: i32,
}

/// What a program wanted that is no TCP socket's `bind` or `listen`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// Another socket.
    Socket,
    /// A Unix socket's name; an abstract one begins with a NUL.
    Name(&'a [u8]),
    /// A port of another protocol: `udp`.
    Port(&'a str, SockAddr),
}

/// Why a call was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// The rule.
    pub rule: RuleText,
    /// Who stands in the way.
    pub holders: Vec<Holder>,
    /// What would help.
    pub ways: Vec<Way>,
}

impl Reason {
    /// One that is no rule of bind and listen: what an error means, and what to do.
    pub fn of((text, advice): (&str, &str)) -> Reason {
        Reason::plain(text, advice)
    }

    /// One that is no rule of bind and listen.
    pub fn plain(text: impl Into<String>, advice: &str) -> Reason {
        Reason {
            rule: RuleText {
                id: String::new(),
                text: text.into(),
            },
            holders: Vec::new(),
            ways: vec![Way::advice(advice)],
        }
    }
}

/// Somebody who knows why calls are refused, and who else is there.
pub trait Explain {
    /// Why this call was refused; `None` where it is not known.
    fn explain(&mut self, question: &Question<'_>) -> Option<Reason>;

    /// Why a call was refused to which no rule of bind and listen applies; `None` where no more is known than
    /// the error says.
    fn beyond_rules(&mut self, _refused: &Refused<'_>) -> Option<Reason> {
        None
    }

    /// Who else, outside of the watched tree, listens where this socket has just begun to listen.
    fn others(&mut self, _record: &Record, _socket: &Socket) -> Vec<Holder> {
        Vec::new()
    }
}

/// Knows the traced sockets only. What they do not explain stays unexplained.
#[derive(Debug, Clone, Copy)]
pub struct FromTrace {
    kernel: Kernel,
}

impl FromTrace {
    /// On this release.
    pub fn on(kernel: Kernel) -> FromTrace {
        FromTrace { kernel }
    }

    /// On the running kernel; on the newest one known where its release cannot be read.
    pub fn here() -> FromTrace {
        let name = rustix::system::uname();
        let release = name.release().to_string_lossy();
        let version = name.version().to_string_lossy();
        FromTrace::on(Kernel::of_host(&release, &version).unwrap_or(Kernel::V6_18))
    }
}

impl Explain for FromTrace {
    fn explain(&mut self, question: &Question<'_>) -> Option<Reason> {
        let replay = Replay::of(
            self.kernel,
            question.record,
            question.socket.namespace,
            question,
        )?;
        let asked = replay.sockets.get(&question.socket.number)?;
        let (answer, why) = replay.world.ask(replay.caller, *asked, question.call);
        let errno = answer.error().map(|errno| errno.number());
        if errno != Some(question.errno) {
            return None;
        }
        let info = why.decided_by()?.info();
        let blamed: Vec<SocketId> = why.steps.iter().filter_map(|step| step.1).collect();
        let last = blamed.last().copied();
        let numbers = replay.sockets.iter().filter(|(_, id)| Some(**id) == last);
        let holders = numbers.filter_map(|(number, _)| {
            let socket = question.record.socket(*number)?;
            Some(holder(question.record, socket))
        });
        Some(Reason {
            rule: RuleText {
                id: info.id.to_owned(),
                text: info.text.to_owned(),
            },
            holders: holders.collect(),
            ways: replay.ways(question, info.remedy),
        })
    }
}

/// The options that a socket without a port has, as calls on a new one.
pub fn preparation(socket: &Socket) -> Vec<Call> {
    let found = calls_of_found(socket).into_iter();
    let later = socket.calls.iter().filter(|step| step.error.is_none());
    let calls = found
        .chain(later.flat_map(calls_of_step))
        .map(|(call, _)| call);
    calls.filter(|call| matches!(call, Call::Set(_))).collect()
}

/// A traced socket, as one that stands in the way.
pub fn holder(record: &Record, socket: &Socket) -> Holder {
    let at = socket.address.as_deref().unwrap_or("no address");
    let listening = if socket.listens() {
        "listening on"
    } else {
        "bound to"
    };
    let has = |name| socket.has_before(name, u64::MAX);
    let options = match (has("SO_REUSEADDR"), has("SO_REUSEPORT")) {
        (_, true) => " with SO_REUSEPORT",
        (true, false) if !socket.listens() => " with SO_REUSEADDR",
        _ => " without SO_REUSEPORT",
    };
    // The process that opened it may be gone while an heir keeps it open.
    let lives = |pid: i32| {
        record
            .process(pid)
            .is_some_and(|process| process.ended.is_none())
    };
    let heir = socket.inherited.iter().find(|heir| lives(heir.pid));
    let (process, fd) = match heir {
        Some(heir) if !lives(socket.process) => (heir.pid, heir.fd),
        _ => (socket.process, socket.fd),
    };
    Holder {
        program: record.name(process),
        process: Some(process),
        fd: Some(fd),
        what: format!("{listening} {at}{options}"),
        more: also(record, socket, process),
    }
}

/// Who else of the watched has it.
fn also(record: &Record, socket: &Socket, but: i32) -> Vec<String> {
    let lives = |pid: i32| {
        record
            .process(pid)
            .is_some_and(|process| process.ended.is_none())
    };
    let own = std::iter::once((socket.process, socket.fd));
    let heirs = socket.inherited.iter().map(|heir| (heir.pid, heir.fd));
    let others = own
        .chain(heirs)
        .filter(|&(pid, _)| pid != but && lives(pid));
    let told = others.take(WAYS_MAX);
    let told: Vec<String> = told
        .map(|(pid, fd)| format!("{}, pid {pid}, fd {fd}", record.name(pid)))
        .collect();
    match told.as_slice() {
        [] => Vec::new(),
        some => vec![format!("held also by {}", some.join("; "))],
    }
}

/// The traced sockets of one network namespace in the model.
struct Replay {
    world: World,
    sockets: BTreeMap<u64, SocketId>,
    caller: ProcessId,
}

impl Replay {
    /// Every call that succeeded, in its order. `None` where the model refuses one of them: then something
    /// is missing, and nothing can be said.
    fn of(
        kernel: Kernel,
        record: &Record,
        namespace: u64,
        question: &Question<'_>,
    ) -> Option<Replay> {
        let here: Vec<&Socket> = record
            .sockets
            .iter()
            .filter(|socket| socket.namespace == namespace && is_tcp(socket))
            .collect();
        let mut host = Host::new(kernel);
        know_addresses(&mut host, here.iter().copied());
        let mut users: BTreeMap<u32, ProcessId> = BTreeMap::new();
        for socket in &here {
            let uid = socket.uid;
            users
                .entry(uid)
                .or_insert_with(|| host.add_process(Uid(uid), Caps::ALL));
        }
        let caller = host.add_process(Uid(question.caller.uid), question.caller.caps);
        let mut replay = Replay {
            world: World::new(host),
            sockets: BTreeMap::new(),
            caller,
        };
        for (_, event) in events(&here) {
            replay.follow(event, &users)?;
        }
        Some(replay)
    }

    fn follow(&mut self, event: Event<'_>, users: &BTreeMap<u32, ProcessId>) -> Option<()> {
        let (socket, calls) = match event {
            Event::Found(socket) => {
                let family = match socket.family {
                    Family::Inet => portcullis_kernel_model::Family::Inet,
                    Family::Inet6 => portcullis_kernel_model::Family::Inet6,
                };
                let user = *users.get(&socket.uid)?;
                let id = self.world.socket(user, family);
                self.sockets.insert(socket.number, id);
                (socket, calls_of_found(socket))
            }
            Event::Called(socket, step) => (socket, calls_of_step(step)),
            Event::Closed(socket) => (socket, vec![(Call::Close, None)]),
        };
        let (user, id) = (*users.get(&socket.uid)?, *self.sockets.get(&socket.number)?);
        for (call, port) in calls {
            self.repeat(user, id, call, port)?;
        }
        Some(())
    }

    /// Makes a call that succeeded, in which the kernel chose this port if one is given.
    fn repeat(
        &mut self,
        user: ProcessId,
        id: SocketId,
        call: Call,
        port: Option<u16>,
    ) -> Option<()> {
        let Some(port) = port else {
            let answer = self.world.call_as(user, id, call);
            return answer.error().is_none().then_some(());
        };
        let before = self.world.clone();
        self.world.tell_port(port);
        let answer = self.world.call_as(user, id, call);
        self.world.forget_told();
        if answer.error().is_none() && self.world.port(id) == port {
            return Some(());
        }
        // On a host with another range of ports no draw leads there: then it is bound there by name.
        self.world = before;
        let (ip, then) = match call {
            Call::Bind(address) => (address.ip, None),
            other => (wildcard(self.world.name(id)), Some(other)),
        };
        let bind = Call::Bind(SockAddr::new(ip, port));
        for call in [Some(bind), then].into_iter().flatten() {
            if self.world.call_as(user, id, call).error().is_some() {
                return None;
            }
        }
        Some(())
    }

    /// What would help: what was tried here on the traced sockets, or else the rule's own advice.
    fn ways(&self, question: &Question<'_>, remedy: &str) -> Vec<Way> {
        let Some(&asked) = self.sockets.get(&question.socket.number) else {
            return Vec::new();
        };
        let record = question.record;
        let name = |id: SocketId, out: &mut dyn std::fmt::Write| {
            let known = self.sockets.iter().find(|(_, known)| **known == id);
            match known.and_then(|(number, _)| record.socket(*number)) {
                Some(socket) => {
                    let holder = holder(record, socket);
                    let (pid, fd) = (holder.process.unwrap_or(0), holder.fd.unwrap_or(-1));
                    write!(out, "fd {fd} of pid {pid}")
                }
                None => write!(out, "{id}"),
            }
        };
        // What lets a bind alone succeed is no way out, nor is a new socket, which listens on any port.
        let then: &[Call] = match question.call {
            Call::Bind(_) => &[Call::Listen(BACKLOG)],
            _ => &[],
        };
        let ways = (self.world).ways_out_of_all(self.caller, asked, question.call, then);
        let listens = matches!(question.call, Call::Listen(_));
        let fits = |difference: &Difference| {
            needs_no_host(difference) && !(listens && matches!(difference, Difference::Fresh(_)))
        };
        let known = ways.iter().filter(|way| way.differences.iter().all(fits));
        let mut told: Vec<Way> = known
            .take(WAYS_MAX)
            .map(|way| Way {
                text: way.told(&name).to_string(),
                tried: true,
            })
            .collect();
        if told.is_empty() && !remedy.is_empty() {
            told.push(Way::advice(remedy));
        }
        told
    }
}

/// Whether a difference can be judged without knowing the sockets of others and the host's addresses.
fn needs_no_host(difference: &Difference) -> bool {
    !matches!(
        difference,
        Difference::Port(1..) | Difference::Ip(_) | Difference::Assign(..) | Difference::Kernel(_)
    )
}

fn wildcard(name: Option<SocketAddr>) -> IpAddr {
    match name {
        Some(SocketAddr::V6(_)) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
    }
}

fn is_tcp(socket: &Socket) -> bool {
    socket.protocol == "tcp"
}

/// The loopback, and whatever address a traced socket could be bound to.
fn know_addresses<'a>(host: &mut Host, sockets: impl Iterator<Item = &'a Socket>) {
    let bound = sockets.flat_map(|socket| {
        let now = socket
            .address
            .as_ref()
            .and_then(|a| a.parse::<SocketAddr>().ok());
        [now, socket.found.address]
    });
    let Some(lo) = host
        .namespaces
        .first_mut()
        .and_then(|net| net.interfaces.first_mut())
    else {
        return;
    };
    for address in bound.flatten() {
        match address.ip().to_canonical() {
            ip if ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() => {}
            IpAddr::V4(ip) if !lo.v4.contains(&(ip, 32)) => lo.v4.push((ip, 32)),
            IpAddr::V6(addr) if lo.v6.iter().all(|own| own.addr != addr) => {
                lo.v6.push(Addr6 {
                    addr,
                    prefix: 128,
                    tentative: false,
                });
            }
            _ => {}
        }
    }
}

/// One thing that happened to a socket.
enum Event<'a> {
    Found(&'a Socket),
    Called(&'a Socket, &'a Step),
    Closed(&'a Socket),
}

fn events<'a>(sockets: &[&'a Socket]) -> Vec<((u64, u8), Event<'a>)> {
    let mut events = Vec::new();
    for &socket in sockets {
        let first = socket.calls.first().map_or(u64::MAX, |step| step.order);
        events.push(((first, 0), Event::Found(socket)));
        let calls = socket.calls.iter().filter(|step| step.error.is_none());
        events.extend(calls.map(|step| ((step.order, 1), Event::Called(socket, step))));
        if let Some(order) = socket.closed {
            events.push(((order, 0), Event::Closed(socket)));
        }
    }
    events.sort_by_key(|&(order, _)| order);
    events
}

/// What must have happened before a socket was first seen. Each call comes with the port that the kernel
/// chose in it.
fn calls_of_found(socket: &Socket) -> Vec<(Call, Option<u16>)> {
    let found = &socket.found;
    let mut calls = vec![
        Call::Set(Opt::ReuseAddr(found.reuseaddr)),
        Call::Set(Opt::ReusePort(found.reuseport)),
    ];
    if socket.family == Family::Inet6 {
        calls.push(Call::Set(Opt::V6Only(found.v6only)));
    }
    if found.device != 0 {
        calls.push(Call::Set(Opt::BindToIfindex(found.device)));
    }
    if let Some(address) = found.address.filter(|address| address.port() != 0) {
        calls.push(Call::Bind(SockAddr::new(address.ip(), address.port())));
    }
    if found.listening {
        calls.push(Call::Listen(128));
    }
    calls.into_iter().map(|call| (call, None)).collect()
}

/// A call that succeeded, in the model's words; none where it has no part in the rules.
fn calls_of_step(step: &Step) -> Vec<(Call, Option<u16>)> {
    match &step.what {
        What::SetOption(set) => option(set.level, set.number, set.value.as_ref(), set.device)
            .map(|opt| (Call::Set(opt), None))
            .into_iter()
            .collect(),
        What::Bind {
            argument: Some(argument),
            chosen,
            ..
        } => {
            vec![(Call::Bind(*argument), *chosen)]
        }
        What::Bind { .. } => Vec::new(),
        What::Listen {
            backlog, chosen, ..
        } => vec![(Call::Listen(*backlog), *chosen)],
    }
}

/// An option in the model's words, if it knows it.
pub(crate) fn option(
    level: i32,
    number: i32,
    value: Option<&Setting>,
    device: Option<i32>,
) -> Option<Opt> {
    const SO_BINDTOIFINDEX: i32 = 62;
    const IP_LOCAL_PORT_RANGE: i32 = 51;
    const IPV6_FREEBIND: i32 = 78;
    let int = match value {
        Some(Setting::Int(value)) => *value,
        _ => 0,
    };
    let on = int != 0;
    Some(match (level, number) {
        (libc::SOL_SOCKET, libc::SO_REUSEADDR) => Opt::ReuseAddr(on),
        (libc::SOL_SOCKET, libc::SO_REUSEPORT) => Opt::ReusePort(on),
        (libc::SOL_SOCKET, libc::SO_BINDTODEVICE) => Opt::BindToIfindex(device?),
        (libc::SOL_SOCKET, SO_BINDTOIFINDEX) => Opt::BindToIfindex(int),
        (libc::SOL_SOCKET, libc::SO_INCOMING_CPU) => Opt::IncomingCpu(int),
        (libc::IPPROTO_IP, libc::IP_FREEBIND) => Opt::Freebind(on),
        (libc::IPPROTO_IP, libc::IP_TRANSPARENT) => Opt::Transparent(on),
        (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT) => Opt::BindAddressNoPort(on),
        (libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE) => Opt::LocalPortRange(int as u32),
        (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) => Opt::V6Only(on),
        (libc::IPPROTO_IPV6, IPV6_FREEBIND) => Opt::Freebind6(on),
        (libc::IPPROTO_IPV6, libc::IPV6_TRANSPARENT) => Opt::Transparent6(on),
        (libc::IPPROTO_TCP, libc::TCP_REPAIR) => Opt::Repair(int),
        (libc::IPPROTO_TCP, libc::TCP_FASTOPEN) => Opt::FastOpen(int),
        (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT) => Opt::DeferAccept(int),
        _ => return None,
    })
}
