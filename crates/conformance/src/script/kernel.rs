//! A live kernel as a world: each step is a system call in a network made for it alone.
//!
//! Decides:  how the host that a script wants is made in a fresh network namespace; who a call is made
//!           as; that a call which blocks is waited for a moment only.
//! Kernel:   network_namespaces(7), user_namespaces(7), rtnetlink(7), capabilities(7)
//! Not here: which system call an option is (live.rs).

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portcullis_kernel_model::{Call, Caps, Errno, Family, Host, Interface, Opt, ProcessId, State};
use portcullis_sys::{bare, pass, process, sockopt};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::CapabilitySet;

use super::program::{STATES, Slot};
use super::sysctls::{self, Sysctl};
use super::world::{Outcome, World};
use crate::{live, netlink};

/// How long a call that blocks is waited for.
const BLOCKS: Duration = Duration::from_millis(100);
/// Interfaces are pairs: the far end of number N has number N + 1000.
const FAR_END: u32 = 1000;

/// The kernel that runs here.
#[derive(Debug)]
pub struct Kernel {
    slots: Vec<Sockets>,
    users: Vec<User>,
    devices: Vec<(u32, String)>,
    own_user: u32,
    /// Calls on it answer EBADF, as on a descriptor that is closed.
    nothing: OwnedFd,
}

/// Who makes calls: a user id of this process's user namespace.
#[derive(Debug, Clone, Copy)]
struct User {
    /// Its id in the script.
    named: u32,
    /// Its id here.
    uid: u32,
    caps: Caps,
}

/// The descriptors of one socket.
#[derive(Debug, Default)]
struct Sockets {
    fds: Vec<OwnedFd>,
    blocking: bool,
}

/// Why a script cannot run here.
#[derive(Debug)]
pub enum Obstacle {
    /// This host lacks something that the script needs; it is skipped, and says so.
    Skip(String),
    /// Something failed.
    Failed(io::Error),
}

impl From<io::Error> for Obstacle {
    fn from(error: io::Error) -> Self {
        Obstacle::Failed(error)
    }
}

impl Kernel {
    /// Makes the host in a fresh network namespace, for this process from now on: without root in a
    /// user namespace of its own too. The process has one thread and is a child made for this.
    ///
    /// `ids` are the users who make calls or own sockets in the script.
    pub fn enter(host: &Host, ids: &BTreeSet<u32>) -> Result<Kernel, Obstacle> {
        let root = rustix::process::geteuid().is_root();
        let users = users(host, ids, root)?;
        if !root {
            enter_user_namespace()?;
        }
        bare::enter_network_namespace().map_err(|error| {
            Obstacle::Skip(format!("a network namespace cannot be made here: {error}"))
        })?;
        // Programs that go by processor, and SO_INCOMING_CPU, see the one that the model has: 0.
        let mut first = rustix::thread::CpuSet::new();
        first.set(0);
        let _ = rustix::thread::sched_setaffinity(None, &first);
        let interfaces = &host.namespaces[0].interfaces;
        for interface in interfaces {
            make(interface)?;
        }
        for sysctl in sysctls::ALL {
            let value = sysctl.show(&host.namespaces[0].sysctls);
            write(sysctl, &value).map_err(|error| {
                Obstacle::Skip(format!(
                    "{} cannot be set to {value} here: {error}",
                    sysctl.name
                ))
            })?;
        }
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        let nothing =
            rustix::fs::open("/", flags, rustix::fs::Mode::empty()).map_err(io::Error::from)?;
        let devices = interfaces
            .iter()
            .map(|i| (i.index, i.name.clone()))
            .collect();
        let own_user = rustix::process::geteuid().as_raw();
        Ok(Kernel {
            slots: Vec::new(),
            users,
            devices,
            own_user,
            nothing,
        })
    }

    fn fd(&self, slot: Slot) -> BorrowedFd<'_> {
        let fd = self.slots.get(slot).and_then(|socket| socket.fds.last());
        fd.map_or(self.nothing.as_fd(), AsFd::as_fd)
    }

    /// Runs a call as a user: file-system user id and effective capabilities.
    fn become_user(&mut self, user: ProcessId) -> io::Result<()> {
        let user = self.users[usize::from(user.0)];
        if user.uid != self.own_user {
            bare::set_file_system_user(user.uid)?;
            self.own_user = user.uid;
        }
        let mut sets = rustix::thread::capabilities(None)?;
        sets.effective = sets.permitted;
        sets.effective
            .set(CapabilitySet::NET_BIND_SERVICE, user.caps.net_bind_service);
        sets.effective
            .set(CapabilitySet::NET_ADMIN, user.caps.net_admin);
        sets.effective
            .set(CapabilitySet::NET_RAW, user.caps.net_raw);
        rustix::thread::set_capabilities(None, sets)?;
        Ok(())
    }

    fn put(&mut self, slot: Slot, fd: OwnedFd) -> io::Result<()> {
        if self.slots.len() <= slot {
            self.slots.resize_with(slot + 1, Sockets::default);
        }
        // A call that blocks ends after a moment; the error that says so is no other call's.
        for limit in [Timeout::Recv, Timeout::Send] {
            set_socket_timeout(&fd, limit, Some(BLOCKS))?;
        }
        self.slots[slot] = Sockets {
            fds: vec![fd],
            blocking: true,
        };
        Ok(())
    }

    fn as_user(&mut self, user: ProcessId, call: impl FnOnce(&mut Kernel) -> Outcome) -> Outcome {
        match self.become_user(user) {
            Ok(()) => call(self),
            Err(error) => failed(&error),
        }
    }

    fn plain(&mut self, slot: Slot, call: Call) -> Outcome {
        match call {
            Call::Set(option) => self.set(slot, option),
            Call::Get(name) => match live::get(self.fd(slot), name) {
                Ok(value) => Outcome::Value(value),
                Err(errno) => Outcome::Err(errno.raw_os_error()),
            },
            Call::Bind(addr) => done(bare::bind(self.fd(slot), &live::bytes(&addr), addr.len)),
            Call::Listen(backlog) => done(rustix::net::listen(self.fd(slot), backlog)),
            Call::Connect(addr) => {
                let outcome = done(bare::connect(self.fd(slot), &live::bytes(&addr), addr.len));
                self.or_blocks(slot, outcome, Errno::EINPROGRESS)
            }
            Call::Shutdown(how) => done(bare::shutdown(self.fd(slot), how)),
            Call::Close => {
                match self.slots.get_mut(slot).and_then(|socket| socket.fds.pop()) {
                    Some(fd) => drop(fd),
                    // `close` of a number that is no descriptor would be another's descriptor.
                    None => return Outcome::Err(Errno::EBADF.number()),
                }
                Outcome::Ok
            }
            // `World::pass` passes to other processes.
            Call::Dup | Call::Pass(_) => match rustix::io::fcntl_dupfd_cloexec(self.fd(slot), 3) {
                Ok(fd) if self.is_open(slot) => {
                    self.slots[slot].fds.push(fd);
                    Outcome::Ok
                }
                Ok(_) => Outcome::Err(Errno::EBADF.number()),
                Err(errno) => Outcome::Err(errno.raw_os_error()),
            },
            Call::Fchown(uid) => {
                let user = self.users.iter().find(|user| user.named == uid.0);
                let uid = rustix::fs::Uid::from_raw(user.map_or(uid.0, |user| user.uid));
                done(rustix::fs::fchown(self.fd(slot), Some(uid), None))
            }
            Call::SetNonblocking(on) => {
                let outcome = done(rustix::io::ioctl_fionbio(self.fd(slot), on));
                if outcome == Outcome::Ok && self.is_open(slot) {
                    self.slots[slot].blocking = !on;
                }
                outcome
            }
            Call::GetSockName => named(live::name(bare::local_name(self.fd(slot)))),
            Call::GetPeerName => named(live::name(bare::peer_name(self.fd(slot)))),
            // `World::accept` makes this call.
            Call::Accept => Outcome::Err(Errno::EINVAL.number()),
        }
    }

    fn set(&self, slot: Slot, option: Opt) -> Outcome {
        match option {
            Opt::BindToDevice(index) => {
                let device = self.devices.iter().find(|device| device.0 == index);
                let name = match device {
                    Some(device) => device.1.as_str(),
                    None if index == 0 => "",
                    None => "no-such-device",
                };
                done(sockopt::set_device(self.fd(slot), name))
            }
            option => done(live::set(self.fd(slot), option)),
        }
    }

    fn is_open(&self, slot: Slot) -> bool {
        self.slots
            .get(slot)
            .is_some_and(|socket| !socket.fds.is_empty())
    }

    /// The time limit of a blocking socket means that the call waits.
    fn or_blocks(&self, slot: Slot, outcome: Outcome, limit: Errno) -> Outcome {
        let blocking = self.slots.get(slot).is_some_and(|socket| socket.blocking);
        match outcome {
            Outcome::Err(number) if blocking && number == limit.number() => Outcome::Blocks,
            other => other,
        }
    }

    fn try_pass(&mut self, slot: Slot) -> io::Result<()> {
        let flags = SocketFlags::CLOEXEC;
        let (here, there) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        pass::send(&here, b"x", &[self.fd(slot)])?;
        let mut buffer = [0; 8];
        let received = pass::receive(&there, &mut buffer)?;
        let fd = received.descriptors.into_iter().next();
        let fd = fd.ok_or_else(|| io::Error::other("no descriptor arrived"))?;
        self.slots[slot].fds.push(fd);
        Ok(())
    }
}

impl World for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn open(&mut self, slot: Slot, user: ProcessId, family: Family) -> Outcome {
        let family = match family {
            Family::Inet => AddressFamily::INET,
            Family::Inet6 => AddressFamily::INET6,
        };
        self.as_user(user, |kernel| {
            let made =
                rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None);
            match made
                .map_err(io::Error::from)
                .and_then(|fd| kernel.put(slot, fd))
            {
                Ok(()) => Outcome::Ok,
                Err(error) => failed(&error),
            }
        })
    }

    fn call(&mut self, slot: Slot, user: ProcessId, call: Call) -> Outcome {
        self.as_user(user, |kernel| kernel.plain(slot, call))
    }

    fn pass(&mut self, slot: Slot, user: ProcessId) -> Outcome {
        if !self.is_open(slot) {
            return Outcome::Err(Errno::EBADF.number());
        }
        self.as_user(user, |kernel| match kernel.try_pass(slot) {
            Ok(()) => Outcome::Ok,
            Err(error) => failed(&error),
        })
    }

    fn accept(&mut self, slot: Slot, user: ProcessId, into: Slot) -> Outcome {
        self.as_user(user, |kernel| {
            let accepted = rustix::net::accept_with(kernel.fd(slot), SocketFlags::CLOEXEC);
            match accepted {
                Ok(fd) => match kernel.put(into, fd) {
                    Ok(()) => Outcome::Accepted,
                    Err(error) => failed(&error),
                },
                Err(errno) => {
                    kernel.or_blocks(slot, Outcome::Err(errno.raw_os_error()), Errno::EAGAIN)
                }
            }
        })
    }

    fn sysctl(&mut self, sysctl: &'static Sysctl, value: &str) -> Outcome {
        self.as_user(ProcessId(0), |_| match write(sysctl, value) {
            Ok(()) => Outcome::Ok,
            Err(error) => failed(&error),
        })
    }

    fn wait(&mut self, ms: u64) {
        std::thread::sleep(Duration::from_millis(ms));
    }

    fn waiting(&mut self, slot: Slot) -> u32 {
        if !self.is_open(slot) {
            return 0;
        }
        let queue = sockopt::accept_queue(self.fd(slot)).ok().flatten();
        queue.map_or(0, |queue| queue.waiting)
    }

    fn look(&mut self, slot: Slot) -> Option<(SocketAddr, State)> {
        if !self.is_open(slot) {
            return None;
        }
        let name = live::name(bare::local_name(self.fd(slot))).ok()?;
        let number = bare::tcp_state(self.fd(slot)).ok()?;
        let state = STATES.iter().find(|entry| entry.1 as u8 == number)?;
        Some((name, state.1))
    }

    fn settle(&mut self) -> bool {
        std::thread::sleep(Duration::from_millis(1));
        true
    }
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

fn failed(error: &io::Error) -> Outcome {
    Outcome::Err(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The users here. One user needs no privilege to be: it is this process. Several do.
fn users(host: &Host, ids: &BTreeSet<u32>, root: bool) -> Result<Vec<User>, Obstacle> {
    if !root && ids.len() > 1 {
        let reason = "it has several users, and only root can be several";
        return Err(Obstacle::Skip(reason.to_owned()));
    }
    let own = rustix::process::geteuid().as_raw();
    let user = |process: &portcullis_kernel_model::Process| User {
        named: process.uid.0,
        uid: if root { process.uid.0 } else { own },
        caps: process.caps,
    };
    Ok(host.processes.iter().map(user).collect())
}

/// A user namespace in which this process is root.
fn enter_user_namespace() -> Result<(), Obstacle> {
    let refused =
        |error: io::Error| Obstacle::Skip(format!("a user namespace cannot be made here: {error}"));
    process::enter_user_namespace().map_err(refused)
}

/// Makes an interface and gives it its addresses.
fn make(interface: &Interface) -> io::Result<()> {
    if interface.index != 1 {
        let far = (interface.index + FAR_END, format!("far{}", interface.index));
        // No addresses of the kernel's own making.
        std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1")?;
        netlink::add_pair((interface.index, &interface.name), (far.0, &far.1))?;
    }
    if interface.up {
        netlink::up(interface.index)?;
        // Without a carrier an address stays tentative for good.
        if interface.index != 1 && !interface.v6.iter().any(|own| own.tentative) {
            netlink::up(interface.index + FAR_END)?;
        }
    }
    let mut v4 = interface.v4.as_slice();
    let mut v6 = interface.v6.as_slice();
    if interface.index == 1 && interface.up {
        // The first ones come with it.
        v4 = v4.get(1..).unwrap_or(&[]);
        v6 = v6.get(1..).unwrap_or(&[]);
    }
    for &(ip, prefix) in v4 {
        netlink::add_address(interface.index, ip.into(), prefix)?;
    }
    for address in v6 {
        let detect = match address.tentative {
            true => netlink::Detect::Yes,
            false => netlink::Detect::No,
        };
        netlink::add_address_with(interface.index, address.addr.into(), 64, detect)?;
    }
    if interface.up {
        acknowledge_at_once(interface)?;
    }
    Ok(())
}

/// No state waits for the timer of a delayed acknowledgement.
fn acknowledge_at_once(interface: &Interface) -> io::Result<()> {
    let index = interface.index;
    for &(ip, prefix) in &interface.v4 {
        if ip.is_loopback() && prefix < 32 {
            let net = Ipv4Addr::from_bits(ip.to_bits() & !(u32::MAX >> prefix));
            netlink::acknowledge_at_once(index, net.into(), prefix)?;
        }
        netlink::acknowledge_at_once(index, ip.into(), 32)?;
    }
    for own in interface.v6.iter().filter(|own| !own.tentative) {
        netlink::acknowledge_at_once(index, own.addr.into(), 128)?;
    }
    Ok(())
}

fn write(sysctl: &Sysctl, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{}", sysctl.name.replace('.', "/"));
    // An empty list still is a line.
    std::fs::write(path, format!("{value}\n"))
}
