//! The calls of the model, on the live kernel.
//! Decides:  how each [`Call`] becomes a system call, and its result an [`Answer`].
//! Not here: which calls are made; the two worlds side by side (both.rs).

#![allow(dead_code, reason = "each test uses a part of it")]

pub mod both;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use portcullis_kernel_model::{AF_UNSPEC, Answer, Call, Errno, Family, Opt, OptName, SockAddr};
use portcullis_sys::sockopt::{get_int, linger, set_int, set_linger};
use rustix::net::{
    AddressFamily, Shutdown, SocketAddrAny, SocketFlags, SocketType, accept_with, bind, connect,
    connect_unspec, getpeername, getsockname, listen, shutdown, socket_with,
};

const IP_LOCAL_PORT_RANGE: i32 = 51;

/// The sockets of one script, by number; each with all its descriptors.
#[derive(Default)]
pub struct Live {
    pub sockets: Vec<Vec<OwnedFd>>,
}

impl Live {
    pub fn socket(&mut self, family: Family) {
        let family = match family {
            Family::Inet => AddressFamily::INET,
            Family::Inet6 => AddressFamily::INET6,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(family, SocketType::STREAM, flags, None).unwrap();
        self.sockets.push(vec![fd]);
    }

    /// How many connections wait in a listener's queue.
    pub fn queue_len(&self, number: usize) -> usize {
        let Some(fd) = self.sockets[number].last() else {
            return 0;
        };
        let queue = portcullis_sys::sockopt::accept_queue(fd).unwrap();
        queue.map_or(0, |queue| queue.waiting as usize)
    }

    pub fn queue_is_full(&self, number: usize) -> bool {
        let Some(fd) = self.sockets[number].last() else {
            return false;
        };
        let queue = portcullis_sys::sockopt::accept_queue(fd).unwrap();
        queue.is_some_and(|queue| queue.waiting > queue.limit)
    }

    /// Makes the call. A new socket of `accept` gets the next number.
    pub fn call(&mut self, number: usize, call: Call) -> Answer {
        let Some(fd) = self.sockets[number].last() else {
            return Answer::Err(Errno::EBADF);
        };
        match call {
            Call::Set(option) => done(set(fd, option)),
            Call::SetLen(..) | Call::GetLen(..) => panic!("no odd length in these scripts"),
            Call::Get(name) => match get(fd, name) {
                Ok(value) => Answer::Value(value),
                Err(errno) => error(errno),
            },
            Call::Bind(addr) => done(bind(fd, &address(&addr))),
            Call::Listen(backlog) => done(listen(fd, backlog)),
            Call::Connect(addr) if addr.family == AF_UNSPEC => done(connect_unspec(fd)),
            Call::Connect(addr) => done(connect(fd, &address(&addr))),
            Call::Accept => match accept_with(fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(child) => {
                    self.sockets.push(vec![child]);
                    Answer::Ok
                }
                Err(errno) => error(errno),
            },
            Call::Shutdown(how) => done(shutdown(
                fd,
                match how {
                    0 => Shutdown::Read,
                    1 => Shutdown::Write,
                    _ => Shutdown::Both,
                },
            )),
            Call::Close => {
                self.sockets[number].pop();
                Answer::Ok
            }
            // One process alone makes calls here.
            Call::Dup | Call::Pass(_) => {
                let copy = fd.try_clone().unwrap();
                self.sockets[number].push(copy);
                Answer::Ok
            }
            Call::Fchown(uid) => {
                let uid = rustix::fs::Uid::from_raw(uid.0);
                done(rustix::fs::fchown(fd, Some(uid), None))
            }
            Call::SetNonblocking(_) => Answer::Ok,
            Call::GetSockName => name(getsockname(fd)),
            Call::GetPeerName => name(getpeername(fd).map(|peer| peer.unwrap())),
        }
    }
}

fn address(addr: &SockAddr) -> SocketAddr {
    match addr.ip {
        IpAddr::V4(_) => SocketAddr::new(addr.ip, addr.port),
        IpAddr::V6(ip) => SocketAddr::V6(std::net::SocketAddrV6::new(ip, addr.port, 0, addr.scope)),
    }
}

fn name(result: rustix::io::Result<SocketAddrAny>) -> Answer {
    match result {
        Ok(name) => Answer::Address(SocketAddr::try_from(name).unwrap()),
        Err(errno) => error(errno),
    }
}

fn done(result: rustix::io::Result<()>) -> Answer {
    result.map_or_else(error, |()| Answer::Ok)
}

fn error(errno: rustix::io::Errno) -> Answer {
    match Errno::from_number(errno.raw_os_error()) {
        Some(errno) => Answer::Err(errno),
        None => panic!("the model has no name for {errno:?}"),
    }
}

fn set(fd: &OwnedFd, option: Opt) -> rustix::io::Result<()> {
    use libc::*;
    let (level, number, value) = match option {
        Opt::ReuseAddr(on) => (SOL_SOCKET, SO_REUSEADDR, i32::from(on)),
        Opt::ReusePort(on) => (SOL_SOCKET, SO_REUSEPORT, i32::from(on)),
        Opt::V6Only(on) => (IPPROTO_IPV6, IPV6_V6ONLY, i32::from(on)),
        Opt::Freebind(on) => (IPPROTO_IP, IP_FREEBIND, i32::from(on)),
        Opt::Freebind6(on) => (IPPROTO_IPV6, IPV6_FREEBIND, i32::from(on)),
        Opt::Transparent(on) => (IPPROTO_IP, IP_TRANSPARENT, i32::from(on)),
        Opt::Transparent6(on) => (IPPROTO_IPV6, IPV6_TRANSPARENT, i32::from(on)),
        Opt::BindToDevice(index) => {
            let name = match index {
                0 => "",
                1 => "lo",
                _ => "none",
            };
            return portcullis_sys::sockopt::set_device(fd, name);
        }
        Opt::BindToIfindex(index) => (SOL_SOCKET, SO_BINDTOIFINDEX, index),
        Opt::BindAddressNoPort(on) => (IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, i32::from(on)),
        Opt::LocalPortRange(range) => (IPPROTO_IP, IP_LOCAL_PORT_RANGE, range as i32),
        Opt::Linger(seconds) => return set_linger(fd, seconds),
        Opt::IncomingCpu(cpu) => (SOL_SOCKET, SO_INCOMING_CPU, cpu),
        Opt::ReuseportCbpf(_) => panic!("no program in these scripts"),
        Opt::DetachReuseport => (SOL_SOCKET, 68, 0),
        Opt::Repair(value) => (IPPROTO_TCP, TCP_REPAIR, value),
        Opt::FastOpen(length) => (IPPROTO_TCP, TCP_FASTOPEN, length),
        Opt::DeferAccept(seconds) => (IPPROTO_TCP, TCP_DEFER_ACCEPT, seconds),
    };
    set_int(fd, level, number, value)
}

fn get(fd: &OwnedFd, name: OptName) -> rustix::io::Result<i32> {
    use libc::*;
    let (level, number) = match name {
        OptName::ReuseAddr => (SOL_SOCKET, SO_REUSEADDR),
        OptName::ReusePort => (SOL_SOCKET, SO_REUSEPORT),
        OptName::V6Only => (IPPROTO_IPV6, IPV6_V6ONLY),
        OptName::Freebind => (IPPROTO_IP, IP_FREEBIND),
        OptName::Transparent => (IPPROTO_IP, IP_TRANSPARENT),
        OptName::Freebind6 => (IPPROTO_IPV6, IPV6_FREEBIND),
        OptName::Transparent6 => (IPPROTO_IPV6, IPV6_TRANSPARENT),
        OptName::BindToDevice => panic!("no device by name in these scripts"),
        OptName::BindToIfindex => (SOL_SOCKET, SO_BINDTOIFINDEX),
        OptName::BindAddressNoPort => (IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT),
        OptName::LocalPortRange => (IPPROTO_IP, IP_LOCAL_PORT_RANGE),
        OptName::Linger => return linger(fd).map(|seconds| seconds.unwrap_or(-1)),
        OptName::IncomingCpu => (SOL_SOCKET, SO_INCOMING_CPU),
        OptName::AcceptConn => (SOL_SOCKET, SO_ACCEPTCONN),
        OptName::Error => (SOL_SOCKET, SO_ERROR),
        OptName::Repair => (IPPROTO_TCP, TCP_REPAIR),
        OptName::FastOpen => (IPPROTO_TCP, TCP_FASTOPEN),
        OptName::DeferAccept => (IPPROTO_TCP, TCP_DEFER_ACCEPT),
        // The first byte of TCP_INFO is the state.
        OptName::State => return get_int(fd, IPPROTO_TCP, TCP_INFO).map(|word| word & 0xff),
    };
    get_int(fd, level, number)
}
