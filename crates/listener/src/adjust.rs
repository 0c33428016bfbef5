//! Another specification for a socket that listens already.
//!
//! Decides:  which differences the living socket can take, so that its queue stays, and which need
//!           another socket; how an option is taken back that is not asked for any more.
//! Kernel:   net/ipv4/af_inet.c, inet_listen(): a second call changes the backlog only;
//!           net/ipv4/tcp.c, do_tcp_setsockopt(): TCP_MAXSEG 0, TCP_DEFER_ACCEPT 0, TCP_FASTOPEN 0 and
//!           TCP_USER_TIMEOUT 0 are "none", all are taken in LISTEN; net/core/sock.c, sk_setsockopt():
//!           SO_INCOMING_CPU -1 is "any"; 6.1 to 6.18
//! Not here: opening the other socket (set.rs), what becomes of the old one (the program).

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use portcullis_sockopt as sockopt;
use portcullis_sys::sockopt::{congestion, get_int};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, listen, socket_with};

use crate::address::LocalAddress;
use crate::error::{Cause, OpenError, Report};
use crate::options::{self, Kind, Origin, Setting, Value};
use crate::spec::{Address, FastOpenQueue, ListenerSpec};
use crate::step::{Step, Strict};

/// What a new specification means for a socket that was opened by an old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Options that it can take as it is: [`adjust()`].
    Options,
    /// What only another socket can have; in the words of a `bind` line.
    Socket(&'static str),
}

/// Compares. The number of shards, and whether the address may be shared at all (`reuse_addr`,
/// `reuse_port`), cannot be changed under a socket that listens, and are not compared.
pub fn compare(old: &ListenerSpec, new: &ListenerSpec) -> Change {
    let ListenerSpec {
        name: _,
        address,
        shards: _,
        backlog: _,
        maxconn: _,
        reuse_addr: _,
        reuse_port: _,
        foreign,
        interface,
        mss,
        defer_accept,
        fast_open,
        ipv6_only,
        no_linger,
        no_quick_ack,
        user_timeout,
        congestion_control,
        md5_keys,
        no_delay,
        incoming_cpus,
        network_namespace,
        unix_permissions,
        owner_uid,
        strict: _,
        listen_later: _,
    } = old;
    let other_socket = [
        (*address != new.address, "address"),
        (*network_namespace != new.network_namespace, "namespace"),
        (*interface != new.interface, "interface"),
        (*ipv6_only != new.ipv6_only, "v6only"),
        (*foreign != new.foreign, "transparent"),
        (
            *unix_permissions != new.unix_permissions,
            "mode, user or group",
        ),
        (*owner_uid != new.owner_uid, "user"),
        // The default that takes its place is the namespace's own.
        (
            congestion_control.is_some()
                && new.congestion_control.is_none()
                && network_namespace.is_some(),
            "cc",
        ),
    ];
    if let Some((_, what)) = other_socket.iter().find(|(differs, _)| *differs) {
        return Change::Socket(what);
    }
    let same = options::backlog(old) == options::backlog(new)
        && *mss == new.mss
        && *defer_accept == new.defer_accept
        && *fast_open == new.fast_open
        && *no_linger == new.no_linger
        && *no_quick_ack == new.no_quick_ack
        && *user_timeout == new.user_timeout
        && *congestion_control == new.congestion_control
        && *md5_keys == new.md5_keys
        && *no_delay == new.no_delay
        && *incoming_cpus == new.incoming_cpus;
    match same {
        true => Change::None,
        false => Change::Options,
    }
}

/// Gives a socket that was opened by `old` the options of `new`, which differs by options only; it is
/// shard `shard`, and `index` is the number of the specification for reports.
///
/// What is refused is reported, or is an error as at opening; then the socket has its old options.
pub fn adjust(
    socket: impl AsFd,
    shard: u16,
    old: &ListenerSpec,
    new: &ListenerSpec,
    index: usize,
) -> Result<Vec<Report>, OpenError> {
    let mut adjusting = Adjusting {
        socket: &socket,
        shard,
        spec: new,
        index,
        reports: Vec::new(),
    };
    let adjusted = adjusting.run(old);
    if adjusted.is_err() {
        let mut back = Adjusting {
            socket: &socket,
            shard,
            spec: old,
            index,
            reports: Vec::new(),
        };
        // It had all of them; what it does not take back is the least of what went wrong.
        let _ = back.run(new);
    }
    adjusted.map(|()| adjusting.reports)
}

/// Gives a socket, of which nothing is known but that it listens, the options of `spec`, and takes back every
/// option that can be adjusted and is not asked for. TCP-MD5 keys of others stay: nothing tells them.
pub fn enforce(
    socket: impl AsFd,
    shard: u16,
    spec: &ListenerSpec,
    index: usize,
) -> Result<Vec<Report>, OpenError> {
    // What cannot be taken back was not there, or this kind of socket does not have it.
    let _ = clear(socket.as_fd());
    let mut before = ListenerSpec::new(spec.address.clone());
    before.backlog = Some(options::backlog(spec).wrapping_add(1));
    let mut adjusting = Adjusting {
        socket: &socket,
        shard,
        spec,
        index,
        reports: Vec::new(),
    };
    adjusting.run(&before).map(|()| adjusting.reports)
}

/// As if no option had been set that can be taken back.
fn clear(socket: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let kind = match LocalAddress::of(socket)?.inet() {
        Some(address) if address.is_ipv4() => Kind::V4,
        Some(_) => Kind::V6,
        None => return Ok(()),
    };
    let mut all = ListenerSpec::new(Address::Inherited(0));
    all.no_linger = true;
    all.mss = Some(1_000);
    all.defer_accept = Some(Duration::from_secs(1));
    all.fast_open = Some(FastOpenQueue::Length(1));
    all.no_quick_ack = true;
    all.user_timeout = Some(Duration::from_secs(1));
    all.congestion_control = Some(String::new());
    all.no_delay = true;
    all.incoming_cpus = vec![0];
    let none = ListenerSpec::new(Address::Inherited(0));
    for setting in changes(&all, &none, kind, 0)? {
        let _ = setting.apply(socket);
    }
    Ok(())
}

struct Adjusting<'a, S> {
    socket: &'a S,
    shard: u16,
    spec: &'a ListenerSpec,
    index: usize,
    reports: Vec<Report>,
}

impl<S: AsFd> Adjusting<'_, S> {
    fn run(&mut self, old: &ListenerSpec) -> Result<(), OpenError> {
        let fd = self.socket.as_fd();
        let local = LocalAddress::of(fd).map_err(|errno| self.fail(Step::Listen, errno.into()))?;
        let kind = match local.inet() {
            Some(address) if address.is_ipv4() => Kind::V4,
            Some(_) => Kind::V6,
            None => Kind::Unix,
        };
        let changes = changes(old, self.spec, kind, self.shard);
        let changes = changes.map_err(|errno| self.fail(Step::Congestion, errno.into()))?;
        for setting in changes {
            if let Err(cause) = setting.apply(fd) {
                self.refuse(setting.step, cause)?;
            }
        }
        self.sign(old, kind)?;
        let inherited = matches!(
            self.spec.address,
            Address::Inherited(_) | Address::Activated(_)
        );
        let backlog = options::backlog(self.spec);
        if backlog != options::backlog(old) && !inherited {
            let done = listen(fd, options::to_int(backlog));
            done.map_err(|errno| self.fail(Step::Listen, errno.into()))?;
        }
        Ok(())
    }

    /// Takes keys away that are not asked for any more, and sets those that are new or others.
    fn sign(&mut self, old: &ListenerSpec, kind: Kind) -> Result<(), OpenError> {
        if old.md5_keys == self.spec.md5_keys {
            return Ok(());
        }
        let fd = self.socket.as_fd();
        let option = &sockopt::IPV6_V6ONLY;
        let only = match kind {
            Kind::V6 => get_int(fd, option.level.number(), option.number),
            _ => Ok(1),
        };
        let takes_v4 = only.map_err(|errno| self.fail(Step::Md5, errno.into()))? == 0;
        let before = options::md5(old, kind, takes_v4);
        let after = options::md5(self.spec, kind, takes_v4);
        if let Some(cause) = options::md5_fault(&after) {
            return Err(self.fail(Step::Md5, cause));
        }
        let kept: Vec<_> = after.iter().filter_map(peers).collect();
        let gone = before.iter().filter(|setting| {
            let peers = peers(setting);
            peers.is_some_and(|peers| !kept.contains(&peers))
        });
        let gone = gone.cloned().map(without_key);
        let new = after.iter().filter(|setting| !before.contains(setting));
        for setting in gone.chain(new.cloned()) {
            if let Err(cause) = setting.apply(fd) {
                return Err(self.fail(Step::Md5, cause));
            }
        }
        Ok(())
    }

    fn report(&self, step: Step, cause: Cause) -> Report {
        let mut report = Report::new(self.spec, self.index, step, cause);
        report.shard = self.shard;
        report
    }

    fn fail(&self, step: Step, cause: Cause) -> OpenError {
        OpenError::new(self.report(step, cause), Vec::new())
    }

    fn refuse(&mut self, step: Step, cause: Cause) -> Result<(), OpenError> {
        if step.closes(Strict::from(self.spec.strict)) {
            return Err(self.fail(step, cause));
        }
        let report = self.report(step, cause);
        self.reports.push(report);
        Ok(())
    }
}

/// The options to be set: those that are new or others, and what takes back those that are gone.
fn changes(
    old: &ListenerSpec,
    new: &ListenerSpec,
    kind: Kind,
    shard: u16,
) -> rustix::io::Result<Vec<Setting>> {
    let of = |spec: &ListenerSpec| {
        let mut all = options::before_bind(spec, kind, Origin::Created, shard);
        all.extend(options::after_listen(spec, kind));
        all.retain(|setting| is_adjustable(setting.step) && !setting.choices.is_empty());
        all
    };
    let (before, after) = (of(old), of(new));
    let mut changes = Vec::new();
    for setting in &before {
        if !after.iter().any(|it| it.step == setting.step) {
            changes.extend(taken_back(setting)?);
        }
    }
    changes.extend(after.into_iter().filter(|it| !before.contains(it)));
    Ok(changes)
}

fn is_adjustable(step: Step) -> bool {
    matches!(
        step,
        Step::NoLinger
            | Step::Mss
            | Step::DeferAccept
            | Step::FastOpen
            | Step::UserTimeout
            | Step::Congestion
            | Step::NoDelay
            | Step::IncomingCpu
            | Step::NoQuickAck
    )
}

/// What a socket has that the option was never set on.
fn taken_back(setting: &Setting) -> rustix::io::Result<Option<Setting>> {
    let Some((option, _)) = setting.choices.first() else {
        return Ok(None);
    };
    let value = match setting.step {
        Step::NoLinger => Value::NoLinger,
        Step::IncomingCpu => Value::Int(-1),
        Step::NoQuickAck => Value::Int(1),
        Step::Congestion => Value::Algorithm(default_congestion()?),
        _ => Value::Int(0),
    };
    Ok(Some(Setting {
        choices: vec![(option, value)],
        ..setting.clone()
    }))
}

/// What a new socket of this namespace has.
fn default_congestion() -> Result<String, Errno> {
    let flags = SocketFlags::CLOEXEC;
    let fresh = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    congestion(&fresh)
}

fn peers(setting: &Setting) -> Option<(std::net::IpAddr, u8)> {
    match setting.choices.first() {
        Some((
            _,
            Value::Md5 {
                peer, prefix_len, ..
            },
        )) => Some((*peer, *prefix_len)),
        _ => None,
    }
}

fn without_key(mut setting: Setting) -> Setting {
    for (_, value) in &mut setting.choices {
        if let Value::Md5 { key, .. } = value {
            key.clear();
        }
    }
    setting
}
