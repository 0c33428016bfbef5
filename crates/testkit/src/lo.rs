//! Loopback inside a private network: up, and with more addresses.
//!
//! Decides:  two rtnetlink requests, made here so that tests need no `ip` program.
//! Kernel:   rtnetlink(7): RTM_NEWLINK, RTM_NEWADDR; net/core/rtnetlink.c, net/ipv4/devinet.c.

use std::io;
use std::net::IpAddr;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const NLM_F_REQUEST_ACK: u16 = 1 | 4;
const NLM_F_CREATE_EXCL: u16 = 0x400 | 0x200;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16;
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
    request(RTM_NEWLINK, 0, &body)
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
        let length = u16::try_from(4 + bytes.len()).unwrap_or(u16::MAX);
        body.extend(length.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(&bytes);
    }
    match request(RTM_NEWADDR, NLM_F_CREATE_EXCL, &body) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn request(kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // NETLINK_ROUTE is protocol 0
    )?;
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(length.to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST_ACK | flags).to_ne_bytes());
    message.extend([0; 8]); // sequence and sender: one request, one answer
    message.extend(body);
    sendto(
        &netlink,
        &message,
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )?;
    let mut answer = [0; 512];
    let (_, received) = recv(&netlink, &mut answer[..], RecvFlags::empty())?;
    acknowledged(answer.get(..received).unwrap_or(&answer))
}

/// An answer is an NLMSG_ERROR that carries a negative errno, or 0.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let kind = answer
        .get(4..6)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes);
    let code = answer
        .get(HEADER..HEADER + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(io::Error::from_raw_os_error(-errno)),
        _ => Err(io::Error::other("no acknowledgement from rtnetlink")),
    }
}
