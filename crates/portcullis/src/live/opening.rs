//! A listener's specification as the question that the model is asked.
//!
//! Decides:  which calls of opening it can be refused, or decide another's: those are in the question.
//! Source:   the listener crate, options.rs: `before_bind()`
//! Not here: options that no bind depends on (MSS, fast open, keys), Unix and inherited sockets.

use std::net::SocketAddr;

use portcullis_inspect::snapshot::Snapshot;
use portcullis_inspect::verdict::Opening;
use portcullis_kernel_model::{Family, Opt, Uid};
use portcullis_listener::spec::{Foreign, Ipv6Only};
use portcullis_listener::{Address, ListenerSpec};

const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;

/// Where a specification binds, if it is TCP.
pub fn tcp(spec: &ListenerSpec) -> Option<SocketAddr> {
    match spec.address {
        Address::Tcp(at) | Address::Mptcp(at) => Some(at),
        Address::UnixPath(_)
        | Address::UnixAbstract { .. }
        | Address::Inherited(_)
        | Address::Activated(_) => None,
    }
}

/// The question of one of its sockets, on the host of a snapshot, by the snapshot's caller, who gives the
/// socket to `owner`; `None` where the kernel's rules of ports have no say.
pub fn opening(spec: &ListenerSpec, snapshot: &Snapshot, owner: Option<u32>) -> Option<Opening> {
    let mut opening = Opening::new(tcp(spec)?);
    let six = opening.family == Family::Inet6;
    let mut set = |on: bool, opt| opening.options.extend(on.then_some(opt));
    set(spec.reuse_addr, Opt::ReuseAddr(true));
    set(spec.reuse_port, Opt::ReusePort(true));
    let transparent = match spec.foreign {
        None | Some(Foreign::Freebind) => false,
        Some(Foreign::Transparent) => true,
        // Refused without the capability, and then the other is taken.
        Some(Foreign::TransparentOrFreebind) => may(snapshot, &[CAP_NET_ADMIN, CAP_NET_RAW]),
    };
    let foreign = match (transparent, six) {
        (true, false) => Opt::Transparent(true),
        (true, true) => Opt::Transparent6(true),
        (false, false) => Opt::Freebind(true),
        (false, true) => Opt::Freebind6(true),
    };
    set(spec.foreign.is_some(), foreign);
    if let Some(name) = &spec.interface {
        set(true, Opening::device(snapshot, name));
    }
    if six && let Some(only) = spec.ipv6_only {
        set(true, Opt::V6Only(only == Ipv6Only::On));
    }
    opening.owner = spec.owner_uid.or(owner).map(Uid);
    let backlog = spec.backlog.unwrap_or(spec.maxconn);
    opening.backlog = Some(i32::try_from(backlog).unwrap_or(i32::MAX));
    Some(opening)
}

/// Whether the caller has one of these capabilities.
fn may(snapshot: &Snapshot, any_of: &[u32]) -> bool {
    let caller = snapshot.process(snapshot.caller);
    let bits = caller.and_then(|caller| caller.capabilities).unwrap_or(0);
    any_of.iter().any(|&one| bits >> one & 1 == 1)
}
