//! The descriptors of one live process, and the calls that it makes on them.
//!
//! Decides:  which system call is made on which descriptor; that a call which blocks is waited for a
//!           moment only; that a socket without a descriptor here answers EBADF.
//! Kernel:   socket(7), SO_RCVTIMEO and SO_SNDTIMEO
//! Not here: as whom (kernel.rs, helper.rs), which system call an option is (live.rs).

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portcullis_kernel_model::{Call, Errno, Family, Opt, State};
use portcullis_sys::{bare, sockopt};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::{Resource, getrlimit};

use super::program::{STATES, Slot};
use super::world::Outcome;
use crate::live;

/// How long a call that blocks is waited for.
pub(super) const BLOCKS: Duration = Duration::from_millis(100);

/// One process's sockets.
#[derive(Debug)]
pub(super) struct Hands {
    slots: Vec<Sockets>,
    devices: Vec<(u32, String)>,
    /// User ids of the script, and what they are here.
    ids: Vec<(u32, u32)>,
    /// Calls on it answer EBADF, as on a descriptor that is closed.
    nothing: OwnedFd,
}

/// The descriptors of one socket.
#[derive(Debug, Default)]
struct Sockets {
    fds: Vec<OwnedFd>,
}

impl Hands {
    pub fn new(devices: Vec<(u32, String)>, ids: Vec<(u32, u32)>) -> io::Result<Hands> {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let nothing = rustix::fs::open("/", flags, rustix::fs::Mode::empty())?;
        Ok(Hands {
            slots: Vec::new(),
            devices,
            ids,
            nothing: high(nothing)?,
        })
    }

    /// `socket`.
    pub fn open(&mut self, slot: Slot, family: Family) -> Outcome {
        let family = match family {
            Family::Inet => AddressFamily::INET,
            Family::Inet6 => AddressFamily::INET6,
        };
        let made = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
        match made
            .map_err(io::Error::from)
            .and_then(|fd| self.put(slot, fd))
        {
            Ok(()) => Outcome::Ok,
            Err(error) => failed(&error),
        }
    }

    /// `accept`.
    pub fn accept(&mut self, slot: Slot, into: Slot) -> Outcome {
        let accepted = rustix::net::accept_with(self.fd(slot), SocketFlags::CLOEXEC);
        match accepted {
            Ok(fd) => match self.put(into, fd) {
                Ok(()) => Outcome::Accepted,
                Err(error) => failed(&error),
            },
            Err(errno) => self.or_blocks(slot, Outcome::Err(errno.raw_os_error()), Errno::EAGAIN),
        }
    }

    /// Any other call.
    pub fn call(&mut self, slot: Slot, call: Call) -> Outcome {
        match call {
            Call::Set(option) => self.set(slot, option),
            Call::SetLen(option, len) => {
                done(live::set_with_length(self.fd(slot), option, len, |index| {
                    self.device(index)
                }))
            }
            Call::Get(name) => match live::get(self.fd(slot), name) {
                Ok(value) => Outcome::Value(value),
                Err(errno) => Outcome::Err(errno.raw_os_error()),
            },
            Call::GetLen(name, len) => live::get_with_length(self.fd(slot), name, len),
            Call::Bind(addr) => done(bare::bind(self.fd(slot), &live::bytes(&addr), addr.len)),
            Call::Listen(backlog) => done(rustix::net::listen(self.fd(slot), backlog)),
            Call::Connect(addr) => {
                let outcome = done(bare::connect(self.fd(slot), &live::bytes(&addr), addr.len));
                // The second error is that of a connection which had begun before.
                let outcome = self.or_blocks(slot, outcome, Errno::EINPROGRESS);
                self.or_blocks(slot, outcome, Errno::EALREADY)
            }
            Call::Shutdown(how) => done(bare::shutdown(self.fd(slot), how)),
            Call::Close => match self.slots.get_mut(slot).and_then(|socket| socket.fds.pop()) {
                Some(fd) => {
                    drop(fd);
                    Outcome::Ok
                }
                // `close` of a number that is no descriptor would be another's descriptor.
                None => Outcome::Err(Errno::EBADF.number()),
            },
            Call::Dup => match self.copy(slot) {
                Ok(fd) => {
                    self.slots[slot].fds.push(fd);
                    Outcome::Ok
                }
                Err(error) => failed(&error),
            },
            Call::Fchown(uid) => {
                let known = self.ids.iter().find(|known| known.0 == uid.0);
                let uid = known.map_or(uid.0, |known| known.1);
                // (uid_t)-1 is "as it is", which is no id.
                let uid = (uid != u32::MAX).then(|| rustix::fs::Uid::from_raw(uid));
                done(rustix::fs::fchown(self.fd(slot), uid, None))
            }
            Call::SetNonblocking(on) => done(rustix::io::ioctl_fionbio(self.fd(slot), on)),
            Call::GetSockName => named(live::name(bare::local_name(self.fd(slot)))),
            Call::GetPeerName => named(live::name(bare::peer_name(self.fd(slot)))),
            // `accept` and `take` are those.
            Call::Accept | Call::Pass(_) => Outcome::Err(Errno::EINVAL.number()),
        }
    }

    fn set(&self, slot: Slot, option: Opt) -> Outcome {
        match option {
            Opt::BindToDevice(index) => {
                done(sockopt::set_device(self.fd(slot), self.device(index)))
            }
            option => done(live::set(self.fd(slot), option)),
        }
    }

    fn device(&self, index: u32) -> &str {
        let device = self.devices.iter().find(|device| device.0 == index);
        match device {
            Some(device) => device.1.as_str(),
            None if index == 0 => "",
            None => "no-such-device",
        }
    }

    /// Another descriptor of the socket, with the lowest free number.
    pub fn copy(&self, slot: Slot) -> io::Result<OwnedFd> {
        if !self.is_open(slot) {
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        Ok(rustix::io::fcntl_dupfd_cloexec(self.fd(slot), 3)?)
    }

    /// A descriptor of the socket came from elsewhere.
    pub fn take(&mut self, slot: Slot, fd: OwnedFd) {
        self.room(slot);
        self.slots[slot].fds.push(fd);
    }

    /// How many connections wait in a listener's queue; 0 for any other socket.
    pub fn waiting(&self, slot: Slot) -> u32 {
        if !self.is_open(slot) {
            return 0;
        }
        let queue = sockopt::accept_queue(self.fd(slot)).ok().flatten();
        queue.map_or(0, |queue| queue.waiting)
    }

    /// The socket's own name and its state.
    pub fn look(&self, slot: Slot) -> Option<(SocketAddr, State)> {
        if !self.is_open(slot) {
            return None;
        }
        let name = live::name(bare::local_name(self.fd(slot))).ok()?;
        let number = bare::tcp_state(self.fd(slot)).ok()?;
        let state = STATES.iter().find(|entry| entry.1 as u8 == number)?;
        Some((name, state.1))
    }

    pub fn is_open(&self, slot: Slot) -> bool {
        let socket = self.slots.get(slot);
        socket.is_some_and(|socket| !socket.fds.is_empty())
    }

    fn fd(&self, slot: Slot) -> BorrowedFd<'_> {
        let fd = self.slots.get(slot).and_then(|socket| socket.fds.last());
        fd.map_or(self.nothing.as_fd(), AsFd::as_fd)
    }

    fn room(&mut self, slot: Slot) {
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, Sockets::default);
        }
    }

    fn put(&mut self, slot: Slot, fd: OwnedFd) -> io::Result<()> {
        // A call that blocks ends after a moment; the error that says so is no other call's.
        for limit in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&fd, limit, Some(BLOCKS))?;
        }
        self.take(slot, fd);
        Ok(())
    }

    /// The time limit of a blocking socket means that the call waits.
    fn or_blocks(&self, slot: Slot, outcome: Outcome, limit: Errno) -> Outcome {
        if outcome != Outcome::Err(limit.number()) {
            return outcome;
        }
        // Whoever shares the socket may have changed it: the flag is the socket's.
        let flags = rustix::fs::fcntl_getfl(self.fd(slot));
        let blocking = flags.is_ok_and(|flags| !flags.contains(rustix::fs::OFlags::NONBLOCK));
        if blocking { Outcome::Blocks } else { outcome }
    }
}

/// A descriptor that is no socket of the script moves out of the way of those, whose numbers matter.
pub(super) fn high(fd: OwnedFd) -> io::Result<OwnedFd> {
    const FIRST: i32 = 500;
    rustix::io::fcntl_dupfd_cloexec(&fd, FIRST).map_err(|errno| {
        let limit = getrlimit(Resource::Nofile).current;
        match (errno, limit) {
            // What fcntl() says of a number that no descriptor can have.
            (rustix::io::Errno::INVAL | rustix::io::Errno::MFILE, Some(limit)) => {
                io::Error::other(format!(
                    "it takes descriptors from {FIRST} on, and the limit is {limit} (ulimit -Hn)"
                ))
            }
            _ => errno.into(),
        }
    })
}

fn done(result: rustix::io::Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::Ok,
        Err(errno) => Outcome::Err(errno.raw_os_error()),
    }
}

fn named(name: Result<SocketAddr, rustix::io::Errno>) -> Outcome {
    match name {
        Ok(address) => Outcome::Address(address),
        Err(errno) => Outcome::Err(errno.raw_os_error()),
    }
}

pub(super) fn failed(error: &io::Error) -> Outcome {
    Outcome::Err(error.raw_os_error().unwrap_or(libc::EIO))
}
