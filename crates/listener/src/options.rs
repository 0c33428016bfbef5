//! From a specification to the options that are set, in order.
//!
//! Decides:  which options a specification means for a socket of one kind, with which values, and
//!           what takes the place of one that is refused.
//! Source:   the order is HAProxy's tcp_bind_listener(); what each option does is in `sockopt`.
//! Not here: what a refusal means (step.rs), doing it at the right moment (open.rs).
//!
//! The plan is pure; `Setting::apply` is the only call.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::BorrowedFd;
use std::time::Duration;

use portcullis_sockopt::{self as sockopt, SockOpt};
use portcullis_sys::sockopt as sys;
use rustix::io::{Errno, Result};

use crate::error::Cause;
use crate::spec::{FastOpenQueue, Foreign, Ipv6Only, ListenerSpec, Md5Key};
use crate::step::Step;

/// What kind of socket the options are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    V4,
    V6,
    Unix,
}

/// Where the socket came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    Created,
    Inherited,
}

/// A value for an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Int(i32),
    Linger(u16),
    NoLinger,
    Device(String),
    Algorithm(String),
    Md5 {
        peer: IpAddr,
        prefix_len: u8,
        key: Vec<u8>,
    },
}

/// How a setting is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// Set it.
    Set,
    /// Set it only if the socket has another value: a bound socket refuses even the same.
    IfDifferent,
    /// The socket must have it already.
    Compare,
    /// It means nothing for this kind of socket: report that.
    NotApplicable(&'static str),
}

/// One step's option: the first choice that the kernel takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    pub step: Step,
    pub how: How,
    pub choices: Vec<(&'static SockOpt, Value)>,
}

impl Setting {
    fn one(step: Step, option: &'static SockOpt, value: Value) -> Self {
        Setting {
            step,
            how: How::Set,
            choices: vec![(option, value)],
        }
    }

    /// Does it. The error is that of the first choice, which is the one asked for.
    pub fn apply(&self, socket: BorrowedFd<'_>) -> std::result::Result<(), Cause> {
        match self.how {
            How::NotApplicable(to) => Err(Cause::NotApplicable { to: to.to_owned() }),
            How::Compare => self.compare(socket),
            How::IfDifferent if self.has_it(socket)? => Ok(()),
            How::IfDifferent | How::Set => {
                let mut first = None;
                for (option, value) in &self.choices {
                    match set(socket, option, value) {
                        Ok(()) => return Ok(()),
                        Err(errno) => first = first.or(Some(errno)),
                    }
                }
                first.map_or(Ok(()), |errno| Err(errno.into()))
            }
        }
    }

    fn has_it(&self, socket: BorrowedFd<'_>) -> std::result::Result<bool, Cause> {
        for (option, value) in &self.choices {
            if let Value::Int(wanted) = value {
                let has = sys::get_int(socket, option.level.number(), option.number)?;
                return Ok(has == *wanted);
            }
        }
        Ok(false)
    }

    fn compare(&self, socket: BorrowedFd<'_>) -> std::result::Result<(), Cause> {
        for (_, value) in &self.choices {
            if let Value::Device(wants) = value {
                let has = sys::device(socket)?;
                if has != *wants {
                    let wants = wants.clone();
                    return Err(Cause::InterfaceDiffers { has, wants });
                }
            }
        }
        Ok(())
    }
}

fn set(socket: BorrowedFd<'_>, option: &SockOpt, value: &Value) -> Result<()> {
    match value {
        Value::Int(value) => sys::set_int(socket, option.level.number(), option.number, *value),
        Value::Linger(seconds) => sys::set_linger(socket, Some(*seconds)),
        Value::NoLinger => sys::set_linger(socket, None),
        Value::Device(name) if name.is_empty() => Err(Errno::NODEV),
        Value::Device(name) => sys::set_device(socket, name),
        Value::Algorithm(name) => sys::set_congestion(socket, name),
        Value::Md5 {
            peer,
            prefix_len,
            key,
        } => sys::set_md5_prefix(socket, *peer, *prefix_len, key),
    }
}

/// What is set before `bind`, in order.
pub(crate) fn before_bind(
    spec: &ListenerSpec,
    kind: Kind,
    origin: Origin,
    shard: u16,
) -> Vec<Setting> {
    if kind == Kind::Unix {
        return for_unix(spec);
    }
    let mut plan = Vec::new();
    let on = || Value::Int(1);
    let created = origin == Origin::Created;
    if spec.reuse_addr && created {
        plan.push(Setting::one(Step::ReuseAddr, &sockopt::SO_REUSEADDR, on()));
    }
    plan.extend(no_linger(spec));
    if spec.reuse_port && created {
        plan.push(Setting::one(Step::ReusePort, &sockopt::SO_REUSEPORT, on()));
    }
    if let (Some(foreign), true) = (spec.foreign, created) {
        plan.push(foreign_setting(foreign, kind));
    }
    plan.extend(interface(spec, origin));
    if let Some(mss) = spec.mss.filter(|mss| *mss >= 0) {
        plan.push(Setting::one(
            Step::Mss,
            &sockopt::TCP_MAXSEG,
            Value::Int(mss),
        ));
    }
    if let Some(wait) = spec.defer_accept {
        let value = Value::Int(whole_seconds(wait));
        plan.push(Setting::one(
            Step::DeferAccept,
            &sockopt::TCP_DEFER_ACCEPT,
            value,
        ));
    }
    if let Some(queue) = spec.fast_open {
        let value = Value::Int(to_int(fast_open_queue(spec, queue)));
        plan.push(Setting::one(Step::FastOpen, &sockopt::TCP_FASTOPEN, value));
    }
    plan.extend(ipv6_only(spec, kind, origin));
    plan.extend(for_connections(spec));
    if let Some(cpu) = cpu_of_shard(&spec.incoming_cpus, shard) {
        let value = Value::Int(to_int(cpu));
        plan.push(Setting::one(
            Step::IncomingCpu,
            &sockopt::SO_INCOMING_CPU,
            value,
        ));
    }
    plan
}

/// What is set once the socket listens.
pub(crate) fn after_listen(spec: &ListenerSpec, kind: Kind) -> Vec<Setting> {
    if spec.no_quick_ack && kind != Kind::Unix {
        let option = &sockopt::TCP_QUICKACK;
        return vec![Setting::one(Step::NoQuickAck, option, Value::Int(0))];
    }
    Vec::new()
}

/// The keys for TCP-MD5. `takes_v4`: does an IPv6 socket take IPv4 too?
///
/// One key may need two entries, since an IPv6 socket that takes IPv4 too looks IPv4 peers up by
/// their v4-mapped address.
pub(crate) fn md5(spec: &ListenerSpec, kind: Kind, takes_v4: bool) -> Vec<Setting> {
    let entry = |key: &Md5Key, peer: IpAddr, prefix_len: u8| {
        let key = key.secret.clone().into_bytes();
        let value = Value::Md5 {
            peer,
            prefix_len,
            key,
        };
        Setting::one(Step::Md5, &sockopt::TCP_MD5SIG_EXT, value)
    };
    let v4_any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let v6_any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let v4_any_mapped = IpAddr::V6(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped());
    let not_applicable = |to| Setting {
        step: Step::Md5,
        how: How::NotApplicable(to),
        choices: Vec::new(),
    };
    let mut plan = Vec::new();
    for key in &spec.md5_keys {
        match (kind, key.peers) {
            (Kind::Unix, _) => plan.push(not_applicable("a Unix socket")),
            (Kind::V4, None) => plan.push(entry(key, v4_any, 0)),
            (Kind::V4, Some((IpAddr::V4(peer), len))) => plan.push(entry(key, peer.into(), len)),
            (Kind::V4, Some((IpAddr::V6(_), _))) => {
                plan.push(not_applicable("an IPv4 socket, since the peers are IPv6"));
            }
            (Kind::V6, None) => {
                plan.push(entry(key, v6_any, 0));
                if takes_v4 {
                    plan.push(entry(key, v4_any_mapped, 0));
                }
            }
            (Kind::V6, Some((IpAddr::V6(peer), len))) => plan.push(entry(key, peer.into(), len)),
            (Kind::V6, Some((IpAddr::V4(peer), len))) if takes_v4 => {
                plan.push(entry(key, peer.to_ipv6_mapped().into(), len));
            }
            (Kind::V6, Some((IpAddr::V4(_), _))) => {
                plan.push(not_applicable(
                    "an IPv6-only socket, since the peers are IPv4",
                ));
            }
        }
    }
    plan
}

/// What the kernel would take without a word, and then let unsigned clients in: a key without a
/// secret removes the entry of its peers, and another one for the same peers replaces the first.
pub(crate) fn md5_fault(plan: &[Setting]) -> Option<Cause> {
    let mut keys = BTreeMap::new();
    for (_, value) in plan.iter().flat_map(|setting| &setting.choices) {
        let Value::Md5 {
            peer,
            prefix_len,
            key,
        } = value
        else {
            continue;
        };
        if key.is_empty() {
            return Some(Cause::EmptySecret);
        }
        if keys
            .insert((peer, prefix_len), key)
            .is_some_and(|first| first != key)
        {
            let peers = format!("{peer}/{prefix_len}");
            return Some(Cause::SamePeers { peers });
        }
    }
    None
}

/// The queue of `listen`: the backlog, else maxconn.
pub(crate) fn backlog(spec: &ListenerSpec) -> u32 {
    spec.backlog.unwrap_or(spec.maxconn)
}

/// An unsigned number as the `int` that the kernel takes; larger ones are cut.
pub(crate) fn to_int(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn fast_open_queue(spec: &ListenerSpec, queue: FastOpenQueue) -> u32 {
    match queue {
        FastOpenQueue::Backlog => backlog(spec),
        FastOpenQueue::Length(length) => length,
    }
}

fn no_linger(spec: &ListenerSpec) -> Option<Setting> {
    let set = || Setting::one(Step::NoLinger, &sockopt::SO_LINGER, Value::Linger(0));
    spec.no_linger.then(set)
}

fn foreign_setting(foreign: Foreign, kind: Kind) -> Setting {
    let transparent: &[&'static SockOpt];
    let freebind: &[&'static SockOpt];
    if kind == Kind::V4 {
        transparent = &[&sockopt::IP_TRANSPARENT];
        freebind = &[&sockopt::IP_FREEBIND];
    } else {
        transparent = &[&sockopt::IPV6_TRANSPARENT];
        freebind = &[&sockopt::IPV6_FREEBIND, &sockopt::IP_FREEBIND];
    }
    let options = match foreign {
        Foreign::Transparent => transparent.to_vec(),
        Foreign::Freebind => freebind.to_vec(),
        Foreign::TransparentOrFreebind => [transparent, freebind].concat(),
    };
    Setting {
        step: Step::Foreign,
        how: How::Set,
        choices: options.into_iter().map(|o| (o, Value::Int(1))).collect(),
    }
}

fn interface(spec: &ListenerSpec, origin: Origin) -> Option<Setting> {
    let name = spec.interface.clone()?;
    let mut setting = Setting::one(
        Step::Interface,
        &sockopt::SO_BINDTODEVICE,
        Value::Device(name),
    );
    if origin == Origin::Inherited {
        setting.how = How::Compare;
    }
    Some(setting)
}

fn ipv6_only(spec: &ListenerSpec, kind: Kind, origin: Origin) -> Option<Setting> {
    let value = match spec.ipv6_only? {
        Ipv6Only::On => 1,
        Ipv6Only::Off => 0,
    };
    let mut setting = Setting::one(Step::Ipv6Only, &sockopt::IPV6_V6ONLY, Value::Int(value));
    match (kind, origin) {
        (Kind::V6, Origin::Created) => {}
        (Kind::V6, Origin::Inherited) => setting.how = How::IfDifferent,
        _ => setting.how = How::NotApplicable("an IPv4 socket"),
    }
    Some(setting)
}

/// Options that the listener has only so that its connections inherit them.
fn for_connections(spec: &ListenerSpec) -> Vec<Setting> {
    let mut plan = Vec::new();
    if let Some(timeout) = spec.user_timeout {
        let ms = whole_milliseconds(timeout);
        let option = &sockopt::TCP_USER_TIMEOUT;
        plan.push(Setting::one(Step::UserTimeout, option, Value::Int(ms)));
    }
    if let Some(name) = &spec.congestion_control {
        let value = Value::Algorithm(name.clone());
        plan.push(Setting::one(
            Step::Congestion,
            &sockopt::TCP_CONGESTION,
            value,
        ));
    }
    if spec.no_delay {
        plan.push(Setting::one(
            Step::NoDelay,
            &sockopt::TCP_NODELAY,
            Value::Int(1),
        ));
    }
    plan
}

/// Options of TCP that were asked for on a Unix socket are reported; those that a proxy sets on all
/// of its listeners alike, and that ask for nothing a Unix socket would do otherwise, are not.
fn for_unix(spec: &ListenerSpec) -> Vec<Setting> {
    let asked = [
        (Step::Foreign, spec.foreign.is_some()),
        (Step::Interface, spec.interface.is_some()),
        (Step::Mss, spec.mss.is_some()),
        (Step::DeferAccept, spec.defer_accept.is_some()),
        (Step::FastOpen, spec.fast_open.is_some()),
        (Step::Ipv6Only, spec.ipv6_only.is_some()),
        (Step::UserTimeout, spec.user_timeout.is_some()),
        (Step::Congestion, spec.congestion_control.is_some()),
    ];
    let mut plan: Vec<Setting> = no_linger(spec).into_iter().collect();
    plan.extend(
        asked
            .into_iter()
            .filter(|(_, asked)| *asked)
            .map(|(step, _)| Setting {
                step,
                how: How::NotApplicable("a Unix socket"),
                choices: Vec::new(),
            }),
    );
    plan
}

fn whole_seconds(duration: Duration) -> i32 {
    let started = u64::from(duration.subsec_nanos() > 0);
    let seconds = duration.as_secs().saturating_add(started);
    i32::try_from(seconds).unwrap_or(i32::MAX)
}

/// Rounded up: to the kernel 0 is no time limit at all.
fn whole_milliseconds(duration: Duration) -> i32 {
    let ms = duration.as_nanos().div_ceil(1_000_000);
    i32::try_from(ms).unwrap_or(i32::MAX)
}

fn cpu_of_shard(cpus: &[u32], shard: u16) -> Option<u32> {
    let turn = usize::from(shard).checked_rem(cpus.len())?;
    cpus.get(turn).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> ListenerSpec {
        let mut spec = ListenerSpec::tcp("127.0.0.1:80".parse().unwrap());
        spec.no_linger = true;
        spec.foreign = Some(Foreign::TransparentOrFreebind);
        spec.interface = Some("lo".to_owned());
        spec.mss = Some(1400);
        spec.defer_accept = Some(Duration::from_millis(200));
        spec.fast_open = Some(FastOpenQueue::Backlog);
        spec.ipv6_only = Some(Ipv6Only::On);
        spec.user_timeout = Some(Duration::from_secs(9));
        spec.congestion_control = Some("reno".to_owned());
        spec.no_delay = true;
        spec.incoming_cpus = vec![4, 6];
        spec
    }

    #[test]
    fn settings_are_in_the_order_of_the_steps() {
        for kind in [Kind::V4, Kind::V6, Kind::Unix] {
            for origin in [Origin::Created, Origin::Inherited] {
                let plan = before_bind(&everything(), kind, origin, 0);
                let steps: Vec<Step> = plan.iter().map(|s| s.step).collect();
                assert!(steps.windows(2).all(|w| w[0] < w[1]), "{steps:?}");
            }
        }
    }

    #[test]
    fn an_inherited_socket_is_left_as_its_maker_bound_it() {
        let plan = before_bind(&everything(), Kind::V6, Origin::Inherited, 0);
        let how = |step| plan.iter().find(|s| s.step == step).map(|s| s.how);
        assert_eq!(how(Step::ReuseAddr), None);
        assert_eq!(how(Step::ReusePort), None);
        assert_eq!(how(Step::Foreign), None);
        assert_eq!(how(Step::Interface), Some(How::Compare));
        assert_eq!(how(Step::Ipv6Only), Some(How::IfDifferent));
        assert_eq!(how(Step::Mss), Some(How::Set));
    }

    #[test]
    fn the_fast_open_queue_is_the_backlog_or_else_maxconn() {
        let mut spec = ListenerSpec::tcp("127.0.0.1:80".parse().unwrap());
        spec.maxconn = 7;
        assert_eq!(fast_open_queue(&spec, FastOpenQueue::Backlog), 7);
        spec.backlog = Some(9);
        assert_eq!(fast_open_queue(&spec, FastOpenQueue::Backlog), 9);
        assert_eq!(fast_open_queue(&spec, FastOpenQueue::Length(3)), 3);
        assert_eq!(to_int(u32::MAX), i32::MAX);
    }

    #[test]
    fn deferring_is_in_whole_seconds_rounded_up() {
        let table = [(0, 0), (1, 1), (999, 1), (1000, 1), (1001, 2)];
        for (ms, seconds) in table {
            assert_eq!(whole_seconds(Duration::from_millis(ms)), seconds);
        }
        assert_eq!(whole_seconds(Duration::MAX), i32::MAX);
    }

    #[test]
    fn a_user_timeout_is_in_whole_milliseconds_rounded_up() {
        let table = [(0, 0), (1, 1), (999_999, 1), (1_000_000, 1), (1_000_001, 2)];
        for (ns, ms) in table {
            assert_eq!(whole_milliseconds(Duration::from_nanos(ns)), ms);
        }
        assert_eq!(whole_milliseconds(Duration::MAX), i32::MAX);
    }

    #[test]
    fn shards_take_the_cpus_in_turn() {
        assert_eq!(cpu_of_shard(&[], 3), None);
        let cpus: Vec<_> = (0..5)
            .map(|shard| cpu_of_shard(&[4, 6, 8], shard))
            .collect();
        assert_eq!(cpus, [4, 6, 8, 4, 6].map(Some));
    }

    #[test]
    fn a_key_for_every_peer_covers_both_families_of_a_dual_socket() {
        let mut spec = ListenerSpec::tcp("[::]:179".parse().unwrap());
        spec.md5_keys = vec![Md5Key {
            peers: None,
            secret: "s".to_owned(),
        }];
        let peers = |kind, takes_v4| -> Vec<String> {
            let plan = md5(&spec, kind, takes_v4);
            plan.iter()
                .map(|s| match &s.choices[0].1 {
                    Value::Md5 {
                        peer, prefix_len, ..
                    } => format!("{peer}/{prefix_len}"),
                    other => panic!("{other:?}"),
                })
                .collect()
        };
        assert_eq!(peers(Kind::V4, false), ["0.0.0.0/0"]);
        assert_eq!(peers(Kind::V6, false), ["::/0"]);
        assert_eq!(peers(Kind::V6, true), ["::/0", "::ffff:0.0.0.0/0"]);
    }

    #[test]
    fn a_key_that_cannot_apply_is_never_passed_over() {
        let key = |peers: &str| {
            let mut spec = ListenerSpec::unix("/x");
            spec.md5_keys = vec![Md5Key {
                peers: Some((peers.parse().unwrap(), 8)),
                secret: "s".to_owned(),
            }];
            spec
        };
        let cases = [
            (key("10.0.0.0"), Kind::Unix, false),
            (key("fd00::"), Kind::V4, false),
            (key("10.0.0.0"), Kind::V6, false),
        ];
        for (spec, kind, takes_v4) in cases {
            let plan = md5(&spec, kind, takes_v4);
            assert!(matches!(plan[0].how, How::NotApplicable(_)), "{plan:?}");
        }
    }
}
