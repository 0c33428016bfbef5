//! Loopback inside a private network: up, and with more addresses.
//!
//! Decides:  two rtnetlink requests, made here so that tests need no `ip` program.
//! Kernel:   rtnetlink(7): RTM_NEWLINK, RTM_NEWADDR; net/core/rtnetlink.c, net/ipv4/devinet.c.

use std::io;
use std::net::IpAddr;

use portcullis_sys::netlink::{CREATE_EXCL, Netlink, attribute};
use rustix::net::AddressFamily;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFF_UP: u32 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
/// No duplicate address detection: the address serves at once.
const IFA_F_NODAD: u8 = 2;
/// Loopback is the first interface of every network namespace.
const LO: u32 = 1;

/// Brings `lo` up.
pub fn loopback_up() -> io::Result<()> {
    let mut body = Vec::new();
    body.extend([0, 0]); // AF_UNSPEC, padding
    body.extend(0_u16.to_ne_bytes()); // device type
    body.extend(LO.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes());
    body.extend(IFF_UP.to_ne_bytes()); // which flags to change
    Netlink::open(None)?.change(RTM_NEWLINK, 0, &body)
}

/// Gives `lo` one more address, so that examples with real addresses run as they are written.
pub fn add_address(address: IpAddr) -> io::Result<()> {
    let (family, bytes) = match address {
        IpAddr::V4(v4) => (AddressFamily::INET, v4.octets().to_vec()),
        IpAddr::V6(v6) => (AddressFamily::INET6, v6.octets().to_vec()),
    };
    let bits = u8::try_from(bytes.len() * 8).unwrap_or(u8::MAX);
    let family = u8::try_from(family.as_raw()).unwrap_or(u8::MAX);
    let mut body = vec![family, bits, IFA_F_NODAD, 0];
    body.extend(LO.to_ne_bytes());
    for kind in [IFA_LOCAL, IFA_ADDRESS] {
        attribute(&mut body, kind, &bytes);
    }
    match Netlink::open(None)?.change(RTM_NEWADDR, CREATE_EXCL, &body) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}
