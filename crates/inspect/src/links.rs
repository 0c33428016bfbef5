//! Interfaces and their addresses, over rtnetlink.
//!
//! Decides:  which interfaces are VRFs or belong to one; which addresses cannot be bound yet.
//! Kernel:   rtnetlink(7); net/core/rtnetlink.c, rtnl_fill_ifinfo(); net/ipv4/devinet.c,
//!           inet_fill_ifaddr(); net/ipv6/addrconf.c, inet6_fill_ifaddr()
//!           net/ipv4/fib_frontend.c, inet_dump_fib(); net/ipv4/fib_trie.c, fib_dump_info()
//!           net/core/fib_rules.c, fib_rule_default(): once there is another rule, the tables of local and of
//!           ordinary routes are two (`fib_unmerge`)
//! Not here: routes to others; IPv6, where the addresses of interfaces alone decide.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_sys::netlink::{Attributes, Message, Netlink, malformed, u32_at};

use crate::snapshot::{Address, Interface, LocalRoute, OtherRoute, Vrf};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const ROUTE_MESSAGE: usize = 12;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RTN_LOCAL: u8 = 2;
const RTN_BROADCAST: u8 = 3;
const RTN_MULTICAST: u8 = 5;
const RTNH_F_DEAD: u32 = 1;
const RTA_DST: u16 = 1;
/// The rules that a network begins with: local, main, default.
const RULES_OWN: usize = 3;
/// Of a router with more ordinary routes, none is taken.
const ROUTES_MAX: usize = 100_000;
const LINK_MESSAGE: usize = 16;
const ADDRESS_MESSAGE: usize = 8;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;
const IFA_F_OPTIMISTIC: u32 = 0x04;

/// An interface, and what its VRF is to be found out by.
struct Link {
    interface: Interface,
    master: u32,
    is_vrf: bool,
}

/// The interfaces of this thread's network namespace.
pub(crate) fn interfaces() -> io::Result<Vec<Interface>> {
    let mut netlink = Netlink::open(None)?;
    let mut links: Vec<Link> = Vec::new();
    netlink.dump(RTM_GETLINK, &[0; LINK_MESSAGE], |message| {
        match message {
            None => links.clear(),
            Some(Message { kind, body, .. }) if kind == RTM_NEWLINK => links.push(link_in(body)?),
            Some(_) => {}
        }
        Ok(())
    })?;
    let mut addresses: BTreeMap<u32, Vec<Address>> = BTreeMap::new();
    netlink.dump(RTM_GETADDR, &[0; ADDRESS_MESSAGE], |message| {
        match message {
            None => addresses.clear(),
            Some(Message { kind, body, .. }) if kind == RTM_NEWADDR => {
                if let Some((index, address)) = address_in(body)? {
                    addresses.entry(index).or_default().push(address);
                }
            }
            Some(_) => {}
        }
        Ok(())
    })?;
    let vrfs: Vec<u32> = links
        .iter()
        .filter(|link| link.is_vrf)
        .map(|link| link.interface.index)
        .collect();
    let interfaces = links.into_iter().map(|link| {
        let mut interface = link.interface;
        if vrfs.contains(&link.master) {
            interface.vrf = Vrf::Member(link.master);
        }
        interface.addresses = addresses.remove(&interface.index).unwrap_or_default();
        interface
    });
    Ok(interfaces.collect())
}

/// What the routes say that IPv4 addresses are.
pub(crate) struct Routes {
    pub local: Vec<LocalRoute>,
    pub other: Vec<OtherRoute>,
}

/// What the table of local routes says is this network's own, and what not; IPv4 alone, as IPv6 asks the
/// addresses. ENOENT where there is no such table yet (`inet_dump_fib`).
pub(crate) fn routes(has_vrf: bool) -> io::Result<Routes> {
    let mut routes = Routes {
        local: Vec::new(),
        other: Vec::new(),
    };
    for route in table(RT_TABLE_LOCAL)? {
        match route.kind {
            RTN_LOCAL => routes.local.push(LocalRoute {
                net: route.net,
                length: route.length,
            }),
            _ => routes.other.push(route.other()),
        }
    }
    // A kernel without rules has both tables in one; only within a local network others matter.
    let within = |net: Ipv4Addr, length: u8| {
        let mut wide = routes.local.iter();
        wide.any(|own| own.length < length && !own.net.is_loopback() && covers(own, net))
    };
    let wide = routes
        .local
        .iter()
        .any(|own| own.length < 32 && !own.net.is_loopback());
    if wide && !has_vrf && rules()? <= RULES_OWN {
        let ordinary = table(RT_TABLE_MAIN).unwrap_or_default();
        let more: Vec<OtherRoute> = ordinary
            .iter()
            .filter(|route| within(route.net, route.length))
            .map(Route::other)
            .collect();
        routes.other.extend(more);
    }
    Ok(routes)
}

fn covers(own: &LocalRoute, net: Ipv4Addr) -> bool {
    let rest = u32::MAX.checked_shr(u32::from(own.length)).unwrap_or(0);
    own.net.to_bits() | rest == net.to_bits() | rest
}

/// A route, as far as it tells what an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Route {
    net: Ipv4Addr,
    length: u8,
    /// `rtm_type`.
    kind: u8,
}

impl Route {
    fn other(&self) -> OtherRoute {
        OtherRoute {
            net: self.net,
            length: self.length,
            broadcast: matches!(self.kind, RTN_BROADCAST | RTN_MULTICAST),
        }
    }
}

fn table(number: u8) -> io::Result<Vec<Route>> {
    const AF_INET: u8 = 2;
    let mut netlink = Netlink::open(None)?;
    netlink.filter_dumps()?;
    let mut request = [0; ROUTE_MESSAGE];
    (request[0], request[4]) = (AF_INET, number);
    let mut routes = Vec::new();
    netlink.dump(RTM_GETROUTE, &request, |message| {
        match message {
            None => routes.clear(),
            Some(Message { kind, body, .. }) if kind == RTM_NEWROUTE => {
                let room = routes.len() < ROUTES_MAX;
                routes.extend(route_in(body, number)?.filter(|_| room));
            }
            Some(_) => {}
        }
        Ok(())
    })?;
    Ok(routes)
}

/// How many rules there are for IPv4.
fn rules() -> io::Result<usize> {
    const AF_INET: u8 = 2;
    let mut request = [0; ROUTE_MESSAGE];
    request[0] = AF_INET;
    let mut count = 0;
    Netlink::open(None)?.dump(RTM_GETRULE, &request, |message| {
        match message {
            None => count = 0,
            Some(Message { kind, .. }) => count += usize::from(kind == RTM_NEWRULE),
        }
        Ok(())
    })?;
    Ok(count)
}

/// A route of a table that a packet without a type of service can take.
fn route_in(body: &[u8], table: u8) -> io::Result<Option<Route>> {
    let Some((fixed, rest)) = body.split_at_checked(ROUTE_MESSAGE) else {
        return Err(malformed("a route's description is cut short"));
    };
    let (length, service, flags) = (fixed[1], fixed[3], u32_at(fixed, 8).unwrap_or(0));
    if fixed[4] != table || service != 0 || flags & RTNH_F_DEAD != 0 || length > 32 {
        return Ok(None);
    }
    let to = Attributes(rest).find(|&(kind, _)| kind == RTA_DST);
    let net = match (to.and_then(|(_, value)| ip_in(value)), length) {
        (Some(IpAddr::V4(net)), _) => net,
        (None, 0) => Ipv4Addr::UNSPECIFIED,
        _ => return Ok(None),
    };
    Ok(Some(Route {
        net,
        length,
        kind: fixed[7],
    }))
}

/// How many interfaces or addresses a message describes.
pub(crate) fn read(message: Message<'_>) -> io::Result<usize> {
    Ok(match message.kind {
        RTM_NEWLINK => link_in(message.body).map(|_| 1)?,
        RTM_NEWADDR => usize::from(address_in(message.body)?.is_some()),
        _ => 0,
    })
}

fn link_in(body: &[u8]) -> io::Result<Link> {
    let Some((fixed, rest)) = body.split_at_checked(LINK_MESSAGE) else {
        return Err(malformed("an interface's description is cut short"));
    };
    let flags = u32_at(fixed, 8).unwrap_or(0);
    let mut link = Link {
        interface: Interface {
            index: u32_at(fixed, 4).unwrap_or(0),
            name: String::new(),
            up: flags & IFF_UP != 0,
            running: flags & IFF_RUNNING != 0,
            vrf: Vrf::Outside,
            addresses: Vec::new(),
        },
        master: 0,
        is_vrf: false,
    };
    for (kind, value) in Attributes(rest) {
        match kind {
            IFLA_IFNAME => {
                let name = String::from_utf8_lossy(value);
                link.interface.name = name.trim_end_matches('\0').to_owned();
            }
            IFLA_MASTER => link.master = u32_at(value, 0).unwrap_or(0),
            IFLA_LINKINFO => {
                let kind = Attributes(value).find(|&(kind, _)| kind == IFLA_INFO_KIND);
                link.is_vrf = kind.is_some_and(|(_, name)| name.starts_with(b"vrf\0"));
            }
            _ => {}
        }
    }
    if link.is_vrf {
        link.interface.vrf = Vrf::Itself;
    }
    Ok(link)
}

fn address_in(body: &[u8]) -> io::Result<Option<(u32, Address)>> {
    let Some((fixed, rest)) = body.split_at_checked(ADDRESS_MESSAGE) else {
        return Err(malformed("an address's description is cut short"));
    };
    let mut flags = u32::from(fixed[2]);
    let (mut own, mut other) = (None, None);
    for (kind, value) in Attributes(rest) {
        match kind {
            IFA_LOCAL => own = ip_in(value),
            // Of a point-to-point interface the peer's, where the own one is told too.
            IFA_ADDRESS => other = ip_in(value),
            IFA_FLAGS => flags = u32_at(value, 0).unwrap_or(flags),
            _ => {}
        }
    }
    let Some(ip) = own.or(other) else {
        return Ok(None);
    };
    let optimistic = flags & IFA_F_OPTIMISTIC != 0;
    let address = Address {
        ip,
        prefix: fixed[1],
        tentative: flags & IFA_F_TENTATIVE != 0 && !optimistic,
        duplicate: flags & IFA_F_DADFAILED != 0,
        deprecated: flags & IFA_F_DEPRECATED != 0,
    };
    Ok(Some((u32_at(fixed, 4).unwrap_or(0), address)))
}

fn ip_in(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => value
            .first_chunk()
            .map(|&four: &[u8; 4]| IpAddr::V4(Ipv4Addr::from(four))),
        16 => value
            .first_chunk()
            .map(|&all: &[u8; 16]| IpAddr::V6(Ipv6Addr::from(all))),
        _ => None,
    }
}
