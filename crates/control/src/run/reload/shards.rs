//! A listener that stays is to have another number of sockets.
//!
//! Decides:  which sockets stay: those that have been there longest; that a Multipath TCP socket always does,
//!           since nothing keeps new connections from it; that more are opened one by one, after all that can fail,
//!           and listen at the very end, all at once: nobody accepts from them before the new plan is in place.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_bind_conflict(): each that shares a port needs
//!           SO_REUSEPORT, and may get it while it listens; net/core/sock_reuseport.c, reuseport_add_sock() makes
//!           the group of one that had none.
//! Not here: how those that go are closed (../retire.rs), which worker polls which (../share.rs).

use portcullis_listener::opener::{Opener, OpenerError};
use portcullis_listener::shards::planned;
use portcullis_listener::{Address, ListenerSpec, LocalAddress, Report};
use rustix::net::sockopt::set_socket_reuseport;

use crate::run::held::{Held, HeldSocket};

/// How many sockets a listener is to have. Where the file says nothing new it has as many as it has, which may be
/// fewer than it wished for.
pub(super) fn wanted(old: &Held, new: &ListenerSpec) -> usize {
    let same = old.spec.shards == new.shards && old.spec.reuse_port == new.reuse_port;
    let ours = old.sockets.iter().all(HeldSocket::is_ours);
    match planned(new) {
        _ if same || !ours || old.sockets.is_empty() => old.sockets.len(),
        Ok(count) => usize::from(count),
        Err(_) => 1,
    }
}

/// How many of its sockets stay.
pub(super) fn stay(old: &Held, new: &ListenerSpec) -> usize {
    let present = old.sockets.len();
    match new.address {
        Address::Mptcp(_) => present,
        _ => wanted(old, new).min(present),
    }
}

/// Opens one more socket of a listener, the `shard`-th, which does not listen yet.
pub(super) fn one_more(
    held: &Held,
    shard: usize,
    spec: &ListenerSpec,
    opener: &mut dyn Opener,
) -> Result<(Vec<HeldSocket>, Vec<Report>), OpenerError> {
    for socket in &held.sockets {
        // What is refused here is refused to the new one, which tells.
        let _ = set_socket_reuseport(&*socket.fd, true);
    }
    let mut one = spec.clone();
    one.shards = 1;
    one.listen_later = true;
    one.incoming_cpus = match spec.incoming_cpus.len() {
        0 => Vec::new(),
        count => vec![spec.incoming_cpus[shard % count]],
    };
    if let (Address::Tcp(address) | Address::Mptcp(address), Some(LocalAddress::Inet(local))) = (
        &mut one.address,
        held.sockets.first().map(|socket| &socket.facts.local),
    ) {
        // The port that the kernel chose for the first one.
        address.set_port(local.port());
    }
    let opened = opener.open(std::slice::from_ref(&one))?;
    let listeners = opened.listeners.into_iter();
    let sockets = listeners.map(|listener| {
        let mut socket = HeldSocket::new(listener);
        socket.facts.shard = u16::try_from(shard).unwrap_or(u16::MAX);
        socket
    });
    Ok((sockets.collect(), opened.reports))
}
