//! What the routes of a network say that an IPv4 address is.
//!
//! Decides:  that the longest prefix does, and of two as long that of the local table; nothing where the
//!           routes are not all known.
//! Kernel:   net/ipv4/fib_frontend.c, inet_addr_type_table(); net/ipv4/fib_trie.c, fib_table_lookup()
//! Not here: reading them (links.rs); what a bind makes of it (the crate `kernel-model`).

use std::net::Ipv4Addr;

use portcullis_kernel_model::{Route4, RouteKind};

use crate::snapshot::Namespace;

/// The routes as the model takes them, if all that decide are known.
pub(crate) fn of(net: &Namespace) -> Option<Vec<Route4>> {
    let (local, other) = (net.local_routes.as_ref()?, net.other_routes.as_ref()?);
    let local = local.iter().map(|route| Route4 {
        net: route.net,
        length: route.length,
        kind: RouteKind::Local,
    });
    let other = other.iter().map(|route| Route4 {
        net: route.net,
        length: route.length,
        kind: match route.broadcast {
            true => RouteKind::Broadcast,
            false => RouteKind::Elsewhere,
        },
    });
    Some(local.chain(other).collect())
}

/// What an address is; `None` where the routes are not known.
pub(crate) fn kind(net: &Namespace, ip: Ipv4Addr) -> Option<RouteKind> {
    let routes = of(net)?;
    let about = routes.iter().filter(|route| covers(route, ip));
    // Of those as long the last one that is met, which is the first from this end.
    let found = about.rev().max_by_key(|route| route.length);
    Some(found.map_or(RouteKind::Elsewhere, |route| route.kind))
}

fn covers(route: &Route4, ip: Ipv4Addr) -> bool {
    let rest = u32::MAX.checked_shr(u32::from(route.length)).unwrap_or(0);
    route.net.to_bits() | rest == ip.to_bits() | rest
}
