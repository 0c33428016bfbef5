//! What a table of routes that was found on a host says that an IPv4 address is.
//!
//! Decides:  that the longest prefix does, and of two as long the first; what can be no source.
//! Kernel:   net/ipv4/fib_trie.c, fib_table_lookup(); net/ipv4/fib_frontend.c, inet_addr_type_table()
//! Not here: the table that interfaces' addresses make (host.rs), which scenarios have.

use core::net::Ipv4Addr;

use crate::addr::is_multicast4;
use crate::host::Kind4;
use crate::net4::{Net4, zeronet};
use crate::version::Kernel;

/// A route of the table that is asked what an IPv4 address is (`fib_table_lookup`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route4 {
    /// The first address that it is about.
    pub net: Ipv4Addr,
    /// How many bits these addresses have in common; the route with most decides.
    pub length: u8,
    /// What they are.
    pub kind: RouteKind,
}

/// What a route says that an IPv4 address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RouteKind {
    /// The host's own (`RTN_LOCAL`).
    Local,
    /// One that all in a network hear (`RTN_BROADCAST`, `RTN_MULTICAST`): it can be bound.
    Broadcast,
    /// Anything else: another host's, or nobody's.
    Elsewhere,
}

/// What the route with the longest prefix says; of two as long the first one.
pub(crate) fn kind_by(routes: &[Route4], addr: u32) -> Kind4 {
    let about = routes
        .iter()
        .filter(|route| Net4::of(route.net, route.length).contains(addr));
    let found = about.rev().max_by_key(|route| route.length);
    match found.map(|route| route.kind) {
        Some(RouteKind::Local) => Kind4::Local,
        Some(RouteKind::Broadcast) => Kind4::Broadcast,
        Some(RouteKind::Elsewhere) | None => Kind4::Foreign,
    }
}

/// Whether nothing can be sent from an IPv4 address, whoever has it (`ip_route_output_key_hash_rcu`).
pub(crate) fn is_no_source4(kernel: Kernel, addr: u32) -> bool {
    addr != 0 && (is_multicast4(addr) || addr == u32::MAX || zeronet(kernel, addr))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;
    use crate::version::Kernel;

    #[test]
    fn the_longest_prefix_decides_and_of_two_as_long_the_first() {
        let route = |net: [u8; 4], length, kind| Route4 {
            net: net.into(),
            length,
            kind,
        };
        let routes = [
            route([10, 0, 0, 0], 8, RouteKind::Local),
            route([10, 1, 0, 0], 16, RouteKind::Elsewhere),
            route([10, 1, 0, 9], 32, RouteKind::Broadcast),
            route([10, 2, 0, 0], 16, RouteKind::Local),
            route([10, 2, 0, 0], 16, RouteKind::Elsewhere),
        ];
        for (addr, expected) in [
            ([10, 0, 0, 1], Kind4::Local),
            ([10, 1, 2, 3], Kind4::Foreign),
            ([10, 1, 0, 9], Kind4::Broadcast),
            ([10, 2, 3, 4], Kind4::Local),
            ([11, 0, 0, 1], Kind4::Foreign),
        ] {
            let kind = kind_by(&routes, Ipv4Addr::from(addr).to_bits());
            assert_eq!(kind, expected, "{addr:?}");
        }
    }

    #[test]
    fn an_interfaces_own_address_is_the_hosts_whatever_the_routes_say() {
        let mut host = Host::new(Kernel::V6_18);
        let net = &mut host.namespaces[0];
        net.routes4 = Some(alloc::vec::Vec::new());
        let kind = |addr: [u8; 4]| {
            let addr = Ipv4Addr::from(addr).to_bits();
            net.kind4(Kernel::V6_18, addr, 0)
        };
        assert_eq!(kind([127, 0, 0, 1]), Kind4::Local);
        assert_eq!(kind([127, 0, 0, 2]), Kind4::Foreign);
    }
}
