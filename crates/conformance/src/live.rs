//! The live kernel as one of the two worlds: performs steps by system call.
//!
//! Decides:  which system call each step is; what is looked at afterwards; how sockets are thrown away
//!           so that nothing of them stays.
//! Kernel:   net/ipv4/tcp.c, tcp_disconnect() on close with SO_LINGER of 0 s
//! Not here: the private network (host.rs); when the network is replaced (worker.rs).

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use portcullis_kernel_model::{
    AF_INET, AF_INET6, Bytes, Call, Family, Opt, OptName, Program, SockAddr,
};
use portcullis_sys::bare::{self, ADDRESS_MAX, Instruction};
use portcullis_sys::sockopt;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::{CapabilitySet, CapabilitySets};

use crate::belief::TICK_MAX;
use crate::host::{CALLERS, Caller, device_name};
use crate::step::{Op, Outcome, SLOTS, Seen, Step, observed};

const SOL_SOCKET: i32 = libc::SOL_SOCKET;
const TCP: i32 = libc::IPPROTO_TCP;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
const SO_BINDTOIFINDEX: i32 = 62;
const SO_DETACH_REUSEPORT_BPF: i32 = 68;
const IP_LOCAL_PORT_RANGE: i32 = 51;
const IPV6_TRANSPARENT: i32 = 75;
const IPV6_FREEBIND: i32 = 78;
/// Longer than the first acknowledgement is delayed (`TCP_DELACK_MIN`, 40 ms).
const DELAYED_ACK: Duration = Duration::from_millis(100);
/// How long a call that blocks is waited for.
const BLOCKS_MS: i64 = 30;
/// What that takes: a time limit ends at a tick.
const BLOCKED: Duration = Duration::from_millis(BLOCKS_MS as u64).saturating_add(TICK_MAX);

/// The sockets of one script in the live kernel.
#[derive(Debug)]
pub struct Live {
    slots: [Slot; SLOTS],
    caller: u8,
    base: CapabilitySets,
    /// Several users exist.
    pub may_change_user: bool,
    /// Calls on it answer EBADF, as on a descriptor that is closed.
    nothing: OwnedFd,
    /// Whether a connection was begun since [`Live::reset`].
    connected: bool,
    /// What was spent in waiting on purpose since [`Live::reset`].
    waited: Cell<Duration>,
}

#[derive(Debug, Default)]
struct Slot {
    fds: Vec<OwnedFd>,
    used: bool,
    listens: bool,
    blocking: bool,
}

impl Live {
    /// No sockets, as the first caller. The process must be in the network that it is to use.
    pub fn new(may_change_user: bool) -> io::Result<Live> {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        Ok(Live {
            slots: std::array::from_fn(|_| Slot::default()),
            caller: 0,
            base: rustix::thread::capabilities(None)?,
            may_change_user,
            nothing: rustix::fs::open("/", flags, rustix::fs::Mode::empty())?,
            connected: false,
            waited: Cell::default(),
        })
    }

    /// What was spent in waiting on purpose since [`Live::reset`]: calls that block have a time limit.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.waited.get()
    }

    /// Performs a step; its ports are numbers. `None` where the step makes no sense: a socket that was
    /// never made, or a place that is taken.
    pub fn perform(&mut self, step: &Step) -> io::Result<Option<Seen>> {
        let slot = usize::from(step.slot);
        let call = match step.op {
            Op::Socket(family) => {
                if self.slots[slot].used {
                    return Ok(None);
                }
                self.become_caller(step.process)?;
                return self.open(slot, family).map(Some);
            }
            // Whoever runs the script waits.
            Op::Wait(_) => return Ok(None),
            Op::Call(call) => call,
        };
        if !self.slots[slot].used {
            return Ok(None);
        }
        if call == Call::Accept && self.slots[usize::from(step.into)].used {
            return Ok(None);
        }
        self.become_caller(step.process)?;
        let connecting = matches!(call, Call::Connect(_));
        self.connected |= connecting;
        let before = if connecting {
            self.queues()
        } else {
            [0; SLOTS]
        };
        let outcome = self.call(slot, usize::from(step.into), call);
        let mut seen = Seen {
            outcome,
            ..Seen::default()
        };
        if observed(call) {
            let looked = match outcome {
                Outcome::Accepted => usize::from(step.into),
                _ => slot,
            };
            self.look(looked, &mut seen);
        }
        if connecting {
            let after = self.queues();
            seen.receiver = (0..SLOTS)
                .find(|&at| after[at] > before[at])
                .map(|at| at as u8);
        }
        Ok(Some(seen))
    }

    /// The state of the step's socket once a delayed acknowledgement must have come.
    pub(crate) fn state_later(&self, step: &Step) -> u8 {
        std::thread::sleep(DELAYED_ACK);
        self.waited.set(self.waited.get() + DELAYED_ACK);
        let looked = match step.op {
            Op::Call(Call::Accept) => step.into,
            _ => step.slot,
        };
        bare::tcp_state(self.fd(usize::from(looked))).unwrap_or(0)
    }

    /// Whether the slot's descriptor exists.
    #[must_use]
    pub fn is_open(&self, slot: usize) -> bool {
        !self.slots[slot].fds.is_empty()
    }

    /// Closes everything at once. A connection is broken by a reset, so that nothing waits.
    pub fn reset(&mut self) -> io::Result<()> {
        for slot in &mut self.slots {
            if self.connected {
                for fd in &slot.fds {
                    sockopt::set_linger(fd, Some(0))?;
                }
            }
            slot.fds.clear();
            slot.used = false;
            slot.listens = false;
            slot.blocking = false;
        }
        self.connected = false;
        self.waited.set(Duration::ZERO);
        Ok(())
    }

    /// Whether the script that is over may have left something: connections can.
    #[must_use]
    pub fn had_connections(&self) -> bool {
        self.connected
    }

    /// Goes on as this caller.
    pub fn become_caller(&mut self, caller: u8) -> io::Result<()> {
        if caller == self.caller {
            return Ok(());
        }
        let old = CALLERS[usize::from(self.caller)];
        let new = CALLERS[usize::from(caller)];
        self.caller = caller;
        let user_changes = self.may_change_user && new.uid != old.uid;
        if user_changes {
            bare::set_file_system_user(new.uid)?;
        }
        // A change of user takes capabilities over files away, chown among them.
        if user_changes || new.capable != old.capable {
            rustix::thread::set_capabilities(None, self.capabilities(new))?;
        }
        Ok(())
    }

    fn capabilities(&self, caller: Caller) -> CapabilitySets {
        let mut sets = CapabilitySets {
            effective: self.base.permitted,
            ..self.base
        };
        if !caller.capable {
            let network =
                CapabilitySet::NET_BIND_SERVICE | CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW;
            sets.effective.remove(network);
        }
        sets
    }

    fn open(&mut self, slot: usize, family: Family) -> io::Result<Seen> {
        let family = match family {
            Family::Inet => AddressFamily::INET,
            Family::Inet6 => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        let slot = &mut self.slots[slot];
        slot.used = true;
        slot.fds.push(fd);
        Ok(Seen::default())
    }

    fn fd(&self, slot: usize) -> BorrowedFd<'_> {
        self.slots[slot]
            .fds
            .last()
            .map_or(self.nothing.as_fd(), AsFd::as_fd)
    }

    fn look(&self, slot: usize, seen: &mut Seen) {
        if let Ok(name) = name(bare::local_name(self.fd(slot))) {
            seen.name = Some(name);
        }
        seen.state = bare::tcp_state(self.fd(slot)).unwrap_or(0);
    }

    /// How many wait to be accepted, of each listener.
    fn queues(&self) -> [u32; SLOTS] {
        std::array::from_fn(|at| {
            if !self.slots[at].listens {
                return 0;
            }
            let queue = sockopt::accept_queue(self.fd(at)).ok().flatten();
            queue.map_or(0, |queue| queue.waiting)
        })
    }

    fn call(&mut self, slot: usize, into: usize, call: Call) -> Outcome {
        let fd = self.fd(slot);
        match call {
            Call::Set(option) => outcome(set(fd, option)),
            Call::SetLen(option, len) => outcome(set_with_length(fd, option, len, device_name)),
            Call::Get(name) => match get(fd, name) {
                Ok(value) => Outcome::Value(value),
                Err(errno) => Outcome::Err(errno.raw_os_error()),
            },
            Call::GetLen(name, len) => get_with_length(fd, name, len),
            Call::Bind(addr) => outcome(bare::bind(fd, &bytes(&addr), addr.len)),
            Call::Listen(backlog) => {
                let done = rustix::net::listen(fd, backlog);
                self.slots[slot].listens |= done.is_ok();
                outcome(done)
            }
            Call::Connect(addr) => {
                let done = bare::connect(fd, &bytes(&addr), addr.len);
                // The second error is that of a connection which had begun before.
                let limit = match done {
                    Err(Errno::ALREADY) => Errno::ALREADY,
                    _ => Errno::INPROGRESS,
                };
                self.blocked(slot, outcome(done), limit)
            }
            Call::Accept => self.accept(slot, into),
            Call::Shutdown(how) => outcome(bare::shutdown(fd, how)),
            Call::Close => self.close(slot),
            // The callers are threads of one process.
            Call::Dup | Call::Pass(_) => self.dup(slot),
            Call::Fchown(uid) => {
                let uid = rustix::fs::Uid::from_raw(uid.0);
                outcome(rustix::fs::fchown(fd, Some(uid), None))
            }
            Call::SetNonblocking(on) => self.set_nonblocking(slot, on),
            Call::GetSockName => address(name(bare::local_name(fd))),
            Call::GetPeerName => address(name(bare::peer_name(fd))),
        }
    }

    fn accept(&mut self, slot: usize, into: usize) -> Outcome {
        // As `socket` here, and so that no run hangs.
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(self.fd(slot), flags) {
            Ok(fd) => {
                let slot = &mut self.slots[into];
                slot.used = true;
                slot.fds.push(fd);
                Outcome::Accepted
            }
            Err(errno) => self.blocked(slot, Outcome::Err(errno.raw_os_error()), Errno::AGAIN),
        }
    }

    /// A blocking socket has a time limit instead, whose error is a waiting call.
    fn blocked(&self, slot: usize, outcome: Outcome, limit: Errno) -> Outcome {
        if self.slots[slot].blocking && outcome == Outcome::Err(limit.raw_os_error()) {
            self.waited.set(self.waited.get() + BLOCKED);
            return Outcome::Blocks;
        }
        outcome
    }

    fn close(&mut self, slot: usize) -> Outcome {
        let slot = &mut self.slots[slot];
        match slot.fds.pop() {
            Some(fd) => {
                drop(fd);
                slot.listens &= !slot.fds.is_empty();
                Outcome::Ok
            }
            None => Outcome::Err(Errno::BADF.raw_os_error()),
        }
    }

    fn dup(&mut self, slot: usize) -> Outcome {
        if self.slots[slot].fds.is_empty() {
            return Outcome::Err(Errno::BADF.raw_os_error());
        }
        match rustix::io::fcntl_dupfd_cloexec(self.fd(slot), 3) {
            Ok(fd) => {
                self.slots[slot].fds.push(fd);
                Outcome::Ok
            }
            Err(errno) => Outcome::Err(errno.raw_os_error()),
        }
    }

    /// What a script calls blocking waits for [`BLOCKS_MS`], so that no run hangs.
    fn set_nonblocking(&mut self, slot: usize, on: bool) -> Outcome {
        let fd = self.fd(slot);
        if self.slots[slot].fds.is_empty() {
            return Outcome::Err(Errno::BADF.raw_os_error());
        }
        let limit = Duration::from_millis(BLOCKS_MS as u64);
        let limited = rustix::net::sockopt::Timeout::Recv;
        let done = rustix::io::ioctl_fionbio(fd, on)
            .and_then(|()| rustix::net::sockopt::set_socket_timeout(fd, limited, Some(limit)))
            .and_then(|()| {
                let limited = rustix::net::sockopt::Timeout::Send;
                rustix::net::sockopt::set_socket_timeout(fd, limited, Some(limit))
            });
        self.slots[slot].blocking = !on;
        outcome(done)
    }
}

fn outcome(done: rustix::io::Result<()>) -> Outcome {
    match done {
        Ok(()) => Outcome::Ok,
        Err(errno) => Outcome::Err(errno.raw_os_error()),
    }
}

fn address(name: Result<SocketAddr, Errno>) -> Outcome {
    match name {
        Ok(address) => Outcome::Address(address),
        Err(errno) => Outcome::Err(errno.raw_os_error()),
    }
}

pub(crate) fn set(fd: BorrowedFd<'_>, option: Opt) -> rustix::io::Result<()> {
    match option {
        Opt::BindToDevice(index) => sockopt::set_device(fd, device_name(index)),
        Opt::ReuseportCbpf(program) => {
            let (code, len) = instructions(program);
            bare::attach_reuseport_program(fd, &code[..len])
        }
        option => {
            let (level, number, value) = value_of(option);
            bare::set_option(fd, level, number, &value, value.len() as i32)
        }
    }
}

/// `setsockopt` with another length; `device` tells the name of a device.
pub(crate) fn set_with_length<'a>(
    fd: BorrowedFd<'_>,
    option: Opt,
    len: i32,
    device: impl FnOnce(u32) -> &'a str,
) -> rustix::io::Result<()> {
    // A structure that points elsewhere: whole, or of no meaning.
    if matches!(option, Opt::ReuseportCbpf(_)) && len as usize == size_of::<libc::sock_fprog>() {
        return set(fd, option);
    }
    let (level, number, value) = match option {
        Opt::BindToDevice(index) => {
            let name = device(index).as_bytes().to_vec();
            (SOL_SOCKET, libc::SO_BINDTODEVICE, name)
        }
        option => value_of(option),
    };
    bare::set_option(fd, level, number, &value, len)
}

/// An option's level, number and value; of one with a pointer or a name, an empty value.
fn value_of(option: Opt) -> (i32, i32, Vec<u8>) {
    let int = |level, number, value: i32| (level, number, value.to_ne_bytes().to_vec());
    match option {
        Opt::ReuseAddr(on) => int(SOL_SOCKET, libc::SO_REUSEADDR, on.into()),
        Opt::ReusePort(on) => int(SOL_SOCKET, libc::SO_REUSEPORT, on.into()),
        Opt::V6Only(on) => int(IPV6, libc::IPV6_V6ONLY, on.into()),
        Opt::Freebind(on) => int(IP, libc::IP_FREEBIND, on.into()),
        Opt::Freebind6(on) => int(IPV6, IPV6_FREEBIND, on.into()),
        Opt::Transparent(on) => int(IP, libc::IP_TRANSPARENT, on.into()),
        Opt::Transparent6(on) => int(IPV6, IPV6_TRANSPARENT, on.into()),
        Opt::BindToDevice(_) => (SOL_SOCKET, libc::SO_BINDTODEVICE, Vec::new()),
        Opt::BindToIfindex(index) => int(SOL_SOCKET, SO_BINDTOIFINDEX, index),
        Opt::BindAddressNoPort(on) => int(IP, libc::IP_BIND_ADDRESS_NO_PORT, on.into()),
        Opt::LocalPortRange(range) => int(IP, IP_LOCAL_PORT_RANGE, range as i32),
        Opt::Linger(seconds) => {
            let (on, seconds) = (i32::from(seconds.is_some()), seconds.unwrap_or(0));
            let both = [on.to_ne_bytes(), i32::from(seconds).to_ne_bytes()];
            (SOL_SOCKET, libc::SO_LINGER, both.concat())
        }
        Opt::IncomingCpu(cpu) => int(SOL_SOCKET, libc::SO_INCOMING_CPU, cpu),
        Opt::ReuseportCbpf(_) => (SOL_SOCKET, libc::SO_ATTACH_REUSEPORT_CBPF, Vec::new()),
        Opt::DetachReuseport => int(SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, 0),
        Opt::Repair(value) => int(TCP, libc::TCP_REPAIR, value),
        Opt::FastOpen(length) => int(TCP, libc::TCP_FASTOPEN, length),
        Opt::DeferAccept(seconds) => int(TCP, libc::TCP_DEFER_ACCEPT, seconds),
    }
}

/// `getsockopt` with this much room for the value.
pub(crate) fn get_with_length(fd: BorrowedFd<'_>, name: OptName, len: i32) -> Outcome {
    let (level, number) = number_of(name);
    match bare::get_option(fd, level, number, len) {
        // Of TCP_INFO only the state is compared (gaps.toml).
        Ok((bytes, len)) if name == OptName::State => {
            Outcome::Bytes(Bytes::new(&bytes[..len.min(1)]))
        }
        Ok((bytes, len)) if len <= Bytes::MAX => Outcome::Bytes(Bytes::new(&bytes[..len])),
        Ok((_, len)) => Outcome::Value(len as i32),
        Err(errno) => Outcome::Err(errno.raw_os_error()),
    }
}

fn number_of(name: OptName) -> (i32, i32) {
    match name {
        OptName::ReuseAddr => (SOL_SOCKET, libc::SO_REUSEADDR),
        OptName::ReusePort => (SOL_SOCKET, libc::SO_REUSEPORT),
        OptName::V6Only => (IPV6, libc::IPV6_V6ONLY),
        OptName::Freebind => (IP, libc::IP_FREEBIND),
        OptName::Transparent => (IP, libc::IP_TRANSPARENT),
        OptName::Freebind6 => (IPV6, IPV6_FREEBIND),
        OptName::Transparent6 => (IPV6, IPV6_TRANSPARENT),
        OptName::BindToDevice => (SOL_SOCKET, libc::SO_BINDTODEVICE),
        OptName::BindToIfindex => (SOL_SOCKET, SO_BINDTOIFINDEX),
        OptName::BindAddressNoPort => (IP, libc::IP_BIND_ADDRESS_NO_PORT),
        OptName::LocalPortRange => (IP, IP_LOCAL_PORT_RANGE),
        OptName::Linger => (SOL_SOCKET, libc::SO_LINGER),
        OptName::IncomingCpu => (SOL_SOCKET, libc::SO_INCOMING_CPU),
        OptName::AcceptConn => (SOL_SOCKET, libc::SO_ACCEPTCONN),
        OptName::Error => (SOL_SOCKET, libc::SO_ERROR),
        OptName::Repair => (TCP, libc::TCP_REPAIR),
        OptName::FastOpen => (TCP, libc::TCP_FASTOPEN),
        OptName::DeferAccept => (TCP, libc::TCP_DEFER_ACCEPT),
        OptName::State => (TCP, libc::TCP_INFO),
    }
}

pub(crate) fn get(fd: BorrowedFd<'_>, name: OptName) -> rustix::io::Result<i32> {
    match name {
        // By its name, which this process's network knows the index of.
        OptName::BindToDevice => match sockopt::device(fd)?.as_str() {
            "" => Ok(0),
            name => rustix::net::netdevice::name_to_index(fd, name).map(|index| index as i32),
        },
        OptName::Linger => sockopt::linger(fd).map(|seconds| seconds.unwrap_or(-1)),
        OptName::State => bare::tcp_state(fd).map(i32::from),
        name => {
            let (level, number) = number_of(name);
            sockopt::get_int(fd, level, number)
        }
    }
}

/// Classic BPF: codes of linux/bpf_common.h, and the ancillary word of the processor's number.
fn instructions(program: Program) -> ([Instruction; 4], usize) {
    const RET_K: u16 = 0x06;
    const RET_A: u16 = 0x16;
    const LD_W_ABS: u16 = 0x20;
    const ALU_MOD_K: u16 = 0x94;
    const AD_OFF_CPU: u32 = 0xffff_f000 + 36;
    let none = (0, 0, 0, 0);
    match program {
        Program::Index(index) => ([(RET_K, 0, 0, index), none, none, none], 1),
        Program::CpuModulo(modulus) => {
            let load = (LD_W_ABS, 0, 0, AD_OFF_CPU);
            (
                [load, (ALU_MOD_K, 0, 0, modulus), (RET_A, 0, 0, 0), none],
                3,
            )
        }
    }
}

/// The bytes of an address argument: of the structure that `ip` belongs to, whatever the family says.
pub(crate) fn bytes(addr: &SockAddr) -> [u8; ADDRESS_MAX] {
    let mut bytes = [0; ADDRESS_MAX];
    bytes[..2].copy_from_slice(&addr.family.to_ne_bytes());
    bytes[2..4].copy_from_slice(&addr.port.to_be_bytes());
    match addr.ip {
        IpAddr::V4(ip) => bytes[4..8].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => {
            bytes[8..24].copy_from_slice(&ip.octets());
            bytes[24..28].copy_from_slice(&addr.scope.to_ne_bytes());
        }
    }
    bytes
}

pub(crate) fn name(
    told: rustix::io::Result<([u8; ADDRESS_MAX], usize)>,
) -> Result<SocketAddr, Errno> {
    let (bytes, len) = told?;
    let family = u16::from_ne_bytes([bytes[0], bytes[1]]);
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    match (family, len) {
        (AF_INET, 16..) => Ok(SocketAddr::new(
            Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]).into(),
            port,
        )),
        (AF_INET6, 28..) => {
            let mut ip = [0; 16];
            ip.copy_from_slice(&bytes[8..24]);
            let scope = u32::from_ne_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]);
            Ok(SocketAddr::V6(SocketAddrV6::new(
                Ipv6Addr::from(ip),
                port,
                0,
                scope,
            )))
        }
        _ => Err(Errno::AFNOSUPPORT),
    }
}
