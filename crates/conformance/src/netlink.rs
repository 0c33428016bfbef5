//! The network of a conformance run: `lo` up, more addresses, a pair of connected interfaces.
//!
//! Decides:  the rtnetlink requests, made here so that a run needs no `ip` program.
//! Kernel:   rtnetlink(7): RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE; drivers/net/veth.c, veth_newlink();
//!           drivers/net/vrf.c, vrf_newlink()
//! Not here: how they are sent (crate `sys`), which addresses and interfaces there are (host.rs).

use std::io;
use std::net::IpAddr;

use portcullis_sys::netlink::{CREATE_APPEND, CREATE_EXCL, CREATE_REPLACE, Netlink, attribute};
use rustix::net::AddressFamily;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RT_TABLE_LOCAL: u8 = 255;
const RTPROT_KERNEL: u8 = 2;
const RT_SCOPE_HOST: u8 = 254;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RTN_LOCAL: u8 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTAX_QUICKACK: u16 = 15;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFLA_MASTER: u16 = 10;
const IFLA_VRF_TABLE: u16 = 1;
/// VRF number N has routing table N + 1000.
const VRF_TABLES: u32 = 1000;
/// No duplicate address detection: the address serves at once.
const IFA_F_NODAD: u8 = 2;

/// Brings an interface up.
pub fn up(index: u32) -> io::Result<()> {
    let mut body = link(index);
    body[8..12].copy_from_slice(&IFF_UP.to_ne_bytes());
    body[12..16].copy_from_slice(&IFF_UP.to_ne_bytes());
    request(RTM_NEWLINK, 0, &body)
}

/// Gives an interface an address.
pub fn add_address(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    add_address_with(index, address, prefix, Detect::No)
}

/// Is an IPv6 address looked for on the link before it serves?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detect {
    /// No: it serves at once.
    No,
    /// Yes: it is tentative for a time, and as long as the link has no carrier.
    Yes,
}

/// Gives an interface an address, perhaps after duplicate address detection.
pub fn add_address_with(index: u32, address: IpAddr, prefix: u8, detect: Detect) -> io::Result<()> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let flags = match detect {
        Detect::No => IFA_F_NODAD,
        Detect::Yes => 0,
    };
    // As `ip address add` does: the loopback's own are nobody else's.
    let scope = match address {
        IpAddr::V4(v4) if v4.is_loopback() => RT_SCOPE_HOST,
        _ => RT_SCOPE_UNIVERSE,
    };
    let mut body = vec![family.as_raw() as u8, prefix, flags, scope];
    body.extend(index.to_ne_bytes());
    attribute(&mut body, IFA_LOCAL, &bytes);
    attribute(&mut body, IFA_ADDRESS, &bytes);
    request(RTM_NEWADDR, CREATE_EXCL, &body)
}

/// Makes two interfaces that are connected to each other.
pub fn add_pair(first: (u32, &str), second: (u32, &str)) -> io::Result<()> {
    let mut peer = link(second.0);
    attribute(&mut peer, IFLA_IFNAME, format!("{}\0", second.1).as_bytes());
    let mut data = Vec::new();
    attribute(&mut data, VETH_INFO_PEER, &peer);
    let mut info = Vec::new();
    attribute(&mut info, IFLA_INFO_KIND, b"veth\0");
    attribute(&mut info, IFLA_INFO_DATA, &data);
    let mut body = link(first.0);
    attribute(&mut body, IFLA_IFNAME, format!("{}\0", first.1).as_bytes());
    attribute(&mut body, IFLA_LINKINFO, &info);
    request(RTM_NEWLINK, CREATE_EXCL, &body)
}

/// Makes a VRF. Where the kernel has none, it says so by `EOPNOTSUPP`.
pub fn add_vrf(index: u32, name: &str) -> io::Result<()> {
    let mut data = Vec::new();
    attribute(
        &mut data,
        IFLA_VRF_TABLE,
        &(VRF_TABLES + index).to_ne_bytes(),
    );
    let mut info = Vec::new();
    attribute(&mut info, IFLA_INFO_KIND, b"vrf\0");
    attribute(&mut info, IFLA_INFO_DATA, &data);
    let mut body = link(index);
    attribute(&mut body, IFLA_IFNAME, format!("{name}\0").as_bytes());
    attribute(&mut body, IFLA_LINKINFO, &info);
    request(RTM_NEWLINK, CREATE_EXCL, &body)
}

/// Makes an interface a member of a VRF.
pub fn enslave(index: u32, vrf: u32) -> io::Result<()> {
    let mut body = link(index);
    attribute(&mut body, IFLA_MASTER, &vrf.to_ne_bytes());
    request(RTM_NEWLINK, 0, &body)
}

/// Makes the route to an address of this host acknowledge every segment at once (`quickack`), so that
/// the other end's state does not wait for a timer.
///
/// What is sent to an IPv4 address comes from `source`, as the kernel's own route has it. The kernel's own
/// IPv6 route has metric 0, which cannot be asked for: the new one comes behind it, and it is taken away.
pub fn acknowledge_at_once(
    index: u32,
    address: IpAddr,
    prefix: u8,
    source: IpAddr,
) -> io::Result<()> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let scope = if address.is_ipv4() {
        RT_SCOPE_HOST
    } else {
        RT_SCOPE_UNIVERSE
    };
    let mut body = vec![family.as_raw() as u8, prefix, 0, 0];
    body.extend([RT_TABLE_LOCAL, RTPROT_KERNEL, scope, RTN_LOCAL, 0, 0, 0, 0]);
    attribute(&mut body, RTA_DST, &bytes);
    attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
    if let IpAddr::V4(v4) = source {
        attribute(&mut body, RTA_PREFSRC, &v4.octets());
    }
    let old = body.clone();
    let mut metrics = Vec::new();
    attribute(&mut metrics, RTAX_QUICKACK, &1_u32.to_ne_bytes());
    attribute(&mut body, RTA_METRICS, &metrics);
    if address.is_ipv4() {
        return request(RTM_NEWROUTE, CREATE_REPLACE, &body);
    }
    // Another interface may have the same link-local address.
    request(RTM_NEWROUTE, CREATE_APPEND, &body)?;
    request(RTM_DELROUTE, 0, &old)
}

/// Takes away the first route to an IPv6 address of this host: the kernel's own, where it came back.
pub fn forget_route(index: u32, address: IpAddr, prefix: u8) -> io::Result<()> {
    let IpAddr::V6(v6) = address else {
        return Ok(());
    };
    let mut body = vec![AddressFamily::INET6.as_raw() as u8, prefix, 0, 0];
    body.extend([
        RT_TABLE_LOCAL,
        RTPROT_KERNEL,
        RT_SCOPE_UNIVERSE,
        RTN_LOCAL,
        0,
        0,
        0,
        0,
    ]);
    attribute(&mut body, RTA_DST, &v6.octets());
    attribute(&mut body, RTA_OIF, &index.to_ne_bytes());
    request(RTM_DELROUTE, 0, &body)
}

/// `struct ifinfomsg`.
fn link(index: u32) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    body
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    Netlink::open(None)?.change(kind, flags, body)
}
