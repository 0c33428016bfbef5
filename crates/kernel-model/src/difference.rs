//! One thing that could differ on a host, in a socket or in a call.
//!
//! Decides:  which differences there are, which of them ask less than others, and how they are said in a
//!           sentence.
//! Not here: what a difference does in the model (attempt.rs), which are tried for which call
//!           (ways_out.rs).

use alloc::vec::Vec;
use core::fmt;
use core::net::IpAddr;

use crate::addr::{Family, SockAddr};
use crate::call::{Call, Opt, Program};
use crate::host::{Cap, Sysctls, Uid};
use crate::version::Kernel;
use crate::world::SocketId;

/// Differences that together let the call succeed: it was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayOut {
    /// All of them are needed.
    pub differences: Vec<Difference>,
}

impl WayOut {
    /// Would the host need another kernel?
    #[must_use]
    pub fn needs_another_kernel(&self) -> bool {
        let other = |difference: &Difference| matches!(difference, Difference::Kernel(_));
        self.differences.iter().any(other)
    }

    /// Smaller ones are told first: fewer differences, then those that ask less of others.
    pub(crate) fn size(&self) -> (bool, u8) {
        let closes = |d: &Difference| matches!(d, Difference::Close(_));
        // To close several sockets is one idea.
        let several = self.differences.len() > 1 && !self.differences.iter().all(closes);
        let rank = self.differences.iter().map(Difference::rank).max();
        (several, rank.unwrap_or(0))
    }

    /// The sentence, in which other sockets have these names.
    #[must_use]
    pub fn told<'a>(
        &'a self,
        name: &'a dyn Fn(SocketId, &mut dyn fmt::Write) -> fmt::Result,
    ) -> impl fmt::Display + 'a {
        Told { way: self, name }
    }
}

struct Told<'a> {
    way: &'a WayOut,
    name: &'a dyn Fn(SocketId, &mut dyn fmt::Write) -> fmt::Result,
}

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.way.differences.len().saturating_sub(1);
        for (at, difference) in self.way.differences.iter().enumerate() {
            match at {
                0 => {}
                _ if at == last => f.write_str(" and ")?,
                _ => f.write_str(", ")?,
            }
            difference.say(f, self.name)?;
        }
        Ok(())
    }
}

impl fmt::Display for WayOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |socket: SocketId, out: &mut dyn fmt::Write| write!(out, "{socket}");
        self.told(&name).fmt(f)
    }
}

/// Something that could differ before a call is made, or in the call itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// The address argument has this port.
    Port(u16),
    /// The address argument has this address.
    Ip(IpAddr),
    /// The address argument names this interface as its scope.
    Scope(u32),
    /// The address argument has its own family and length.
    WholeAddress,
    /// The option's value has its own length.
    WholeOption,
    /// `shutdown` is told this.
    How(i32),
    /// `setsockopt` is given this value.
    Value(Opt),
    /// This option is set on the caller's socket first.
    Option(Opt),
    /// This call is made on the caller's socket first.
    First(Call),
    /// A new socket of this family, with the same options but no program, is used.
    Fresh(Family),
    /// The caller's socket is given to this user first (`fchown`).
    Owner(Uid),
    /// Somebody listens there.
    Listener(SockAddr),
    /// A client connects to the caller's socket.
    Client,
    /// Another socket's owner accepts a connection.
    Accept(SocketId),
    /// Another socket's owner calls `listen` again with this backlog.
    Backlog(SocketId, i32),
    /// Time passes.
    Wait {
        /// How long.
        ms: u64,
    },
    /// Another socket is closed by everybody who holds it.
    Close(SocketId),
    /// Another socket is made anew, with this option set before it binds.
    Restart(SocketId, Opt),
    /// The caller holds a capability.
    Capability(Cap),
    /// A sysctl has another value.
    Sysctl(Setting),
    /// An interface has one more address.
    Assign(u32, IpAddr),
    /// An interface is up.
    Up(u32),
    /// Duplicate address detection has ended.
    AddressReady(IpAddr),
    /// The host runs another release.
    Kernel(Kernel),
}

/// A sysctl and its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Setting {
    /// `net.ipv4.ip_unprivileged_port_start`.
    UnprivilegedPortStart(u16),
    /// `net.ipv4.ip_nonlocal_bind`.
    NonlocalBind(bool),
    /// `net.ipv6.ip_nonlocal_bind`.
    NonlocalBind6(bool),
    /// `net.ipv4.ip_local_port_range`.
    LocalPortRange(u16, u16),
    /// `net.ipv4.ip_local_reserved_ports` is empty.
    NoReservedPorts,
    /// `net.ipv4.ip_autobind_reuse`.
    AutobindReuse(bool),
    /// `net.core.somaxconn`.
    Somaxconn(u32),
    /// `net.ipv4.tcp_tw_reuse`.
    TwReuse(u8),
}

impl Setting {
    pub(crate) fn set(self, sysctls: &mut Sysctls) {
        match self {
            Setting::UnprivilegedPortStart(port) => sysctls.ip_unprivileged_port_start = port,
            Setting::NonlocalBind(on) => sysctls.ip_nonlocal_bind = on,
            Setting::NonlocalBind6(on) => sysctls.ip6_nonlocal_bind = on,
            Setting::LocalPortRange(low, high) => sysctls.ip_local_port_range = (low, high),
            Setting::NoReservedPorts => sysctls.ip_local_reserved_ports.clear(),
            Setting::AutobindReuse(on) => sysctls.ip_autobind_reuse = on,
            Setting::Somaxconn(limit) => sysctls.somaxconn = limit,
            Setting::TwReuse(how) => sysctls.tcp_tw_reuse = how,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Setting::UnprivilegedPortStart(port) => {
                write!(f, "net.ipv4.ip_unprivileged_port_start = {port}")
            }
            Setting::NonlocalBind(on) => {
                write!(f, "net.ipv4.ip_nonlocal_bind = {}", u8::from(on))
            }
            Setting::NonlocalBind6(on) => {
                write!(f, "net.ipv6.ip_nonlocal_bind = {}", u8::from(on))
            }
            Setting::LocalPortRange(low, high) => {
                write!(f, "net.ipv4.ip_local_port_range = {low} {high}")
            }
            Setting::NoReservedPorts => f.write_str("net.ipv4.ip_local_reserved_ports to nothing"),
            Setting::AutobindReuse(on) => {
                write!(f, "net.ipv4.ip_autobind_reuse = {}", u8::from(on))
            }
            Setting::Somaxconn(limit) => write!(f, "net.core.somaxconn = {limit}"),
            Setting::TwReuse(how) => write!(f, "net.ipv4.tcp_tw_reuse = {how}"),
        }
    }
}

impl Difference {
    /// How much it asks of whom: of the call, of the caller, of others, of the host.
    pub(crate) fn rank(&self) -> u8 {
        match self {
            Difference::WholeAddress
            | Difference::WholeOption
            | Difference::Scope(_)
            | Difference::How(_)
            | Difference::Value(_) => 0,
            Difference::Option(Opt::BindAddressNoPort(_) | Opt::BindToDevice(_)) => 3,
            Difference::Option(_) | Difference::First(_) => 1,
            Difference::Port(_) | Difference::Ip(_) | Difference::Fresh(_) => 2,
            Difference::Owner(_) => 4,
            Difference::Listener(_) | Difference::Client | Difference::Accept(_) => 5,
            Difference::Backlog(..) | Difference::Wait { .. } | Difference::AddressReady(_) => 6,
            Difference::Restart(..) => 7,
            Difference::Close(_) => 8,
            Difference::Capability(_) => 9,
            Difference::Sysctl(_) => 10,
            Difference::Assign(..) | Difference::Up(_) => 11,
            Difference::Kernel(_) => 12,
        }
    }

    /// The clause of a sentence; `name` says how other sockets are called.
    pub(crate) fn say(
        &self,
        out: &mut dyn fmt::Write,
        name: &dyn Fn(SocketId, &mut dyn fmt::Write) -> fmt::Result,
    ) -> fmt::Result {
        match *self {
            Difference::Port(0) => write!(out, "let the kernel choose the port (0)"),
            Difference::Port(port) => write!(out, "use port {port}"),
            Difference::Ip(ip) => write!(out, "use the address {ip}"),
            Difference::Scope(index) => write!(out, "name interface {index} as the scope"),
            Difference::WholeAddress => {
                write!(out, "pass the address with its own family and length")
            }
            Difference::WholeOption => write!(out, "pass the value with its own length"),
            Difference::How(0) => write!(out, "use SHUT_RD"),
            Difference::How(1) => write!(out, "use SHUT_WR"),
            Difference::How(_) => write!(out, "use SHUT_RDWR"),
            Difference::Value(opt) => write!(out, "set {opt} instead"),
            Difference::Option(opt) => write!(out, "set {opt} first"),
            Difference::First(call) => say_call(call, out),
            Difference::Fresh(Family::Inet) => write!(out, "use a new IPv4 socket"),
            Difference::Fresh(Family::Inet6) => write!(out, "use a new IPv6 socket"),
            Difference::Owner(uid) => write!(out, "give the socket to user {} (fchown)", uid.0),
            Difference::Listener(addr) => {
                write!(
                    out,
                    "have somebody listen on port {} of {}",
                    addr.port, addr.ip
                )
            }
            Difference::Client => write!(out, "have a client connect"),
            Difference::Accept(socket) => {
                write!(out, "accept a connection from ")?;
                name(socket, out)
            }
            Difference::Backlog(socket, backlog) => {
                write!(out, "call listen({backlog}) again on ")?;
                name(socket, out)
            }
            Difference::Wait { ms } if ms % 1000 == 0 => write!(out, "wait {} s", ms / 1000),
            Difference::Wait { ms } => write!(out, "wait {ms} ms"),
            Difference::Close(socket) => {
                write!(out, "close ")?;
                name(socket, out)
            }
            Difference::Restart(socket, opt) => {
                write!(out, "restart ")?;
                name(socket, out)?;
                write!(out, " with {opt}")
            }
            Difference::Capability(cap) => write!(out, "give the caller {}", cap.name()),
            Difference::Sysctl(setting) => write!(out, "set {setting}"),
            Difference::Assign(device, ip) => {
                write!(out, "give interface {device} the address {ip}")
            }
            Difference::Up(device) => write!(out, "bring interface {device} up"),
            Difference::AddressReady(ip) => {
                write!(
                    out,
                    "wait until duplicate address detection of {ip} has ended"
                )
            }
            Difference::Kernel(kernel) => write!(out, "run Linux {kernel}"),
        }
    }
}

fn say_call(call: Call, out: &mut dyn fmt::Write) -> fmt::Result {
    match call {
        Call::Connect(addr) if addr.family == crate::addr::AF_UNSPEC => {
            write!(out, "disconnect first (connect with AF_UNSPEC)")
        }
        Call::Connect(_) => write!(out, "connect first"),
        Call::Listen(_) => write!(out, "listen first"),
        Call::SetNonblocking(false) => write!(out, "clear O_NONBLOCK first"),
        other => write!(out, "call {other:?} first"),
    }
}

impl fmt::Display for Opt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let switch = |on: bool| if on { "" } else { " = 0" };
        match *self {
            Opt::ReuseAddr(on) => write!(f, "SO_REUSEADDR{}", switch(on)),
            Opt::ReusePort(on) => write!(f, "SO_REUSEPORT{}", switch(on)),
            Opt::V6Only(on) => write!(f, "IPV6_V6ONLY{}", switch(on)),
            Opt::Freebind(on) => write!(f, "IP_FREEBIND{}", switch(on)),
            Opt::Freebind6(on) => write!(f, "IPV6_FREEBIND{}", switch(on)),
            Opt::Transparent(on) => write!(f, "IP_TRANSPARENT{}", switch(on)),
            Opt::Transparent6(on) => write!(f, "IPV6_TRANSPARENT{}", switch(on)),
            Opt::BindToDevice(0) => f.write_str("SO_BINDTODEVICE to none"),
            Opt::BindToDevice(index) => write!(f, "SO_BINDTODEVICE to interface {index}"),
            Opt::BindToIfindex(index) => write!(f, "SO_BINDTOIFINDEX = {index}"),
            Opt::BindAddressNoPort(on) => write!(f, "IP_BIND_ADDRESS_NO_PORT{}", switch(on)),
            Opt::LocalPortRange(0) => f.write_str("IP_LOCAL_PORT_RANGE to none"),
            Opt::LocalPortRange(range) => {
                write!(
                    f,
                    "IP_LOCAL_PORT_RANGE = {} {}",
                    range & 0xffff,
                    range >> 16
                )
            }
            Opt::Linger(Some(seconds)) => write!(f, "SO_LINGER = {seconds} s"),
            Opt::Linger(None) => f.write_str("SO_LINGER off"),
            Opt::IncomingCpu(cpu) => write!(f, "SO_INCOMING_CPU = {cpu}"),
            Opt::ReuseportCbpf(Program::Index(index)) => {
                write!(f, "SO_ATTACH_REUSEPORT_CBPF (return {index})")
            }
            Opt::ReuseportCbpf(Program::CpuModulo(count)) => {
                write!(f, "SO_ATTACH_REUSEPORT_CBPF (return cpu % {count})")
            }
            Opt::DetachReuseport => f.write_str("SO_DETACH_REUSEPORT_BPF"),
            Opt::Repair(value) => write!(f, "TCP_REPAIR = {value}"),
            Opt::FastOpen(length) => write!(f, "TCP_FASTOPEN = {length}"),
            Opt::DeferAccept(seconds) => write!(f, "TCP_DEFER_ACCEPT = {seconds} s"),
        }
    }
}

impl Cap {
    /// The C name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Cap::NetBindService => "CAP_NET_BIND_SERVICE",
            Cap::NetAdmin => "CAP_NET_ADMIN",
            Cap::NetRaw => "CAP_NET_RAW",
        }
    }
}
