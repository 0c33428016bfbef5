//! The `bind` call, and the names of a socket.
//!
//! Decides:  the order of bind's checks, for every form of the address argument; what is left behind
//!           when the port is refused; what `getsockname` and `getpeername` tell.
//! Kernel:   net/socket.c, __sys_bind(); net/ipv4/af_inet.c, inet_bind_sk(), __inet_bind(),
//!           inet_getname(); net/ipv6/af_inet6.c, inet6_bind_sk(), __inet6_bind(), 3.9 to 6.18
//! Not here: whether the port is free (port.rs).

use core::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::addr::{
    AF_INET, AF_INET6, AF_UNSPEC, Family, Kind6, LOOPBACK4_IPV6, SOCKADDR_IN_LEN, SOCKADDR_IN6_LEN,
    SOCKADDR_IN6_OLD_LEN, SOCKADDR_MAX_LEN, SockAddr, ip4, kind6,
};
use crate::call::State;
use crate::errno::Errno;
use crate::explain::Trace;
use crate::host::{Cap, Kind4, ProcessId};
use crate::rules::Rule;
use crate::socket::{ADDR_LOCK, PORT_LOCK, SockIx};
use crate::version::Change;
use crate::world::World;

/// The first unprivileged port before it was a sysctl.
const PROT_SOCK: u16 = 1024;

impl World {
    pub(crate) fn bind<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        addr: &SockAddr,
        trace: &mut T,
    ) -> Result<(), Errno> {
        check_length(addr, trace)?;
        match self.socks[ix].family {
            Family::Inet => self.bind4(process, ix, addr, trace),
            Family::Inet6 => self.bind6(process, ix, addr, trace),
        }
    }

    fn bind4<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        addr: &SockAddr,
        trace: &mut T,
    ) -> Result<(), Errno> {
        if addr.len < SOCKADDR_IN_LEN {
            return refuse(trace, Rule::AddressTooShort, Errno::EINVAL);
        }
        let ip = addr.in4();
        if addr.family != AF_INET && (addr.family != AF_UNSPEC || ip != 0) {
            return refuse(trace, Rule::BindFamily, Errno::EAFNOSUPPORT);
        }
        let kind =
            self.host
                .net(self.socks[ix].net)
                .kind4(self.host.kernel, ip, self.device_vrf(ix));
        if !self.may_bind4(ix, ip, kind) {
            return refuse(trace, Rule::ForeignAddress, Errno::EADDRNOTAVAIL);
        }
        if ip != 0 && kind == Kind4::Foreign {
            trace.rule(Rule::AnyAddressAllowed);
        }
        self.check_privilege(process, ix, addr.port, trace)?;
        let sock = &mut self.socks[ix];
        if sock.state != State::Close || sock.num != 0 {
            return refuse(trace, Rule::AlreadyBound, Errno::EINVAL);
        }
        sock.rcv4 = ip;
        sock.src4 = if matches!(kind, Kind4::Multicast | Kind4::Broadcast) {
            0
        } else {
            ip
        };
        if let Err(errno) = self.take_port(ix, addr.port, trace) {
            let sock = &mut self.socks[ix];
            sock.rcv4 = 0;
            sock.src4 = 0;
            return Err(errno);
        }
        let any = self.socks[ix].rcv4 == 0;
        self.bound(ix, any, addr.port);
        Ok(())
    }

    fn bind6<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        addr: &SockAddr,
        trace: &mut T,
    ) -> Result<(), Errno> {
        if addr.len < SOCKADDR_IN6_OLD_LEN {
            return refuse(trace, Rule::AddressTooShort, Errno::EINVAL);
        }
        if addr.family != AF_INET6 {
            return refuse(trace, Rule::BindFamily, Errno::EAFNOSUPPORT);
        }
        let ip = addr.in6();
        let kind = kind6(ip);
        if matches!(kind, Kind6::Multicast { .. }) {
            return refuse(trace, Rule::MulticastBind6, Errno::EINVAL);
        }
        self.check_privilege(process, ix, addr.port, trace)?;
        let sock = &self.socks[ix];
        if sock.state != State::Close || sock.num != 0 {
            return refuse(trace, Rule::AlreadyBound, Errno::EINVAL);
        }
        let v4 = match kind {
            Kind6::Any => 0,
            Kind6::Mapped => self.check_mapped(ix, ip as u32, trace)?,
            _ => self.check_address6(ix, addr, kind, trace)?,
        };
        let sock = &mut self.socks[ix];
        let v6only = sock.v6only;
        sock.rcv4 = v4;
        sock.src4 = v4;
        sock.rcv6 = ip;
        if !matches!(kind, Kind6::Any | Kind6::Mapped) {
            sock.v6only = true;
        }
        if let Err(errno) = self.take_port(ix, addr.port, trace) {
            self.socks[ix].v6only = v6only;
            self.socks[ix].reset_addr();
            return Err(errno);
        }
        self.bound(ix, kind == Kind6::Any, addr.port);
        Ok(())
    }

    /// An IPv4-mapped address, checked as IPv4 checks it; the bound device must exist, and need not have it.
    fn check_mapped<T: Trace>(&self, ix: SockIx, ip: u32, trace: &mut T) -> Result<u32, Errno> {
        let sock = &self.socks[ix];
        if sock.v6only {
            return refuse(trace, Rule::MappedOnV6Only, Errno::EINVAL);
        }
        let net = self.host.net(sock.net);
        let device = (sock.device != 0).then_some(sock.device);
        if device.is_some_and(|index| net.interface(index).is_none()) {
            return refuse(trace, Rule::NoSuchDevice, Errno::ENODEV);
        }
        let kind = net.kind4(self.host.kernel, ip, self.device_vrf(ix));
        if !self.may_bind4(ix, ip, kind) {
            return refuse(trace, Rule::ForeignAddress, Errno::EADDRNOTAVAIL);
        }
        if ip != 0 && kind == Kind4::Foreign {
            trace.rule(Rule::AnyAddressAllowed);
        }
        Ok(ip)
    }

    /// A true IPv6 address. A scope replaces the bound device, and stays even if bind fails.
    fn check_address6<T: Trace>(
        &mut self,
        ix: SockIx,
        addr: &SockAddr,
        kind: Kind6,
        trace: &mut T,
    ) -> Result<u32, Errno> {
        if kind == Kind6::LinkLocal {
            if addr.len >= SOCKADDR_IN6_LEN && addr.scope != 0 {
                self.socks[ix].device = addr.scope;
            }
            if self.socks[ix].device == 0 {
                return refuse(trace, Rule::ScopeMissing, Errno::EINVAL);
            }
        }
        let sock = &self.socks[ix];
        let net = self.host.net(sock.net);
        let device = (sock.device != 0).then_some(sock.device);
        if device.is_some_and(|index| net.interface(index).is_none()) {
            return refuse(trace, Rule::NoSuchDevice, Errno::ENODEV);
        }
        let nonlocal = net.sysctls.ip6_nonlocal_bind || sock.freebind || sock.transparent;
        if !net.has6(addr.in6(), device) {
            if !nonlocal {
                return refuse(trace, Rule::ForeignAddress, Errno::EADDRNOTAVAIL);
            }
            trace.rule(Rule::AnyAddressAllowed);
        }
        Ok(LOOPBACK4_IPV6)
    }

    fn may_bind4(&self, ix: SockIx, ip: u32, kind: Kind4) -> bool {
        let sock = &self.socks[ix];
        self.host.net(sock.net).sysctls.ip_nonlocal_bind
            || sock.freebind
            || sock.transparent
            || ip == 0
            || kind != Kind4::Foreign
    }

    fn check_privilege<T: Trace>(
        &self,
        process: ProcessId,
        ix: SockIx,
        port: u16,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let first = if self.host.kernel.has(Change::UnprivilegedPortStart) {
            self.host
                .net(self.socks[ix].net)
                .sysctls
                .ip_unprivileged_port_start
        } else {
            PROT_SOCK
        };
        if port != 0 && port < first && !self.capable(process, ix, Cap::NetBindService) {
            return refuse(trace, Rule::PrivilegedPort, Errno::EACCES);
        }
        Ok(())
    }

    fn take_port<T: Trace>(&mut self, ix: SockIx, port: u16, trace: &mut T) -> Result<(), Errno> {
        if port == 0 && self.socks[ix].bind_address_no_port {
            trace.rule(Rule::PortDeferred);
            return Ok(());
        }
        self.get_port(ix, port, trace)
    }

    fn bound(&mut self, ix: SockIx, any: bool, port: u16) {
        let sock = &mut self.socks[ix];
        if !any {
            sock.locks |= ADDR_LOCK;
        }
        if port != 0 {
            sock.locks |= PORT_LOCK;
        }
        // A socket that has no port has no peer's port either: the kernel clears what is none already.
        sock.sport = sock.num;
        sock.peer4 = 0;
    }

    pub(crate) fn sock_name(&self, ix: SockIx) -> SocketAddr {
        let sock = &self.socks[ix];
        match sock.family {
            Family::Inet => {
                let ip = if sock.rcv4 == 0 { sock.src4 } else { sock.rcv4 };
                SocketAddr::new(ip4(ip), sock.sport)
            }
            // Where it receives and where it sends from are one: TCP binds to no IPv6 multicast address.
            Family::Inet6 => name6(sock.rcv6, sock.sport, sock.device),
        }
    }

    pub(crate) fn peer_name<T: Trace>(
        &self,
        ix: SockIx,
        trace: &mut T,
    ) -> Result<SocketAddr, Errno> {
        let sock = &self.socks[ix];
        if sock.dport == 0 || matches!(sock.state, State::Close | State::SynSent) {
            return refuse(trace, Rule::NotConnected, Errno::ENOTCONN);
        }
        Ok(match sock.family {
            Family::Inet => SocketAddr::new(ip4(sock.peer4), sock.dport),
            Family::Inet6 => name6(sock.peer6, sock.dport, sock.device),
        })
    }
}

fn name6(ip: u128, port: u16, device: u32) -> SocketAddr {
    let needs_scope = matches!(
        kind6(ip),
        Kind6::LinkLocal | Kind6::Multicast { needs_scope: true }
    );
    let scope = if needs_scope { device } else { 0 };
    SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from_bits(ip), port, 0, scope))
}

/// The length as the system call checks it, before the socket's family is looked at.
pub(crate) fn check_length<T: Trace>(addr: &SockAddr, trace: &mut T) -> Result<(), Errno> {
    if addr.len < 0 || addr.len > SOCKADDR_MAX_LEN {
        return refuse(trace, Rule::AddressTooLong, Errno::EINVAL);
    }
    Ok(())
}

/// An error, and the rule that gave it.
pub(crate) fn refuse<V, T: Trace>(trace: &mut T, rule: Rule, errno: Errno) -> Result<V, Errno> {
    trace.rule(rule);
    Err(errno)
}
