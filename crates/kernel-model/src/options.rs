//! `setsockopt` and `getsockopt`.
//!
//! Decides:  which option may be set in which state and by whom, and what is read back.
//! Kernel:   net/core/sock.c, sk_setsockopt(), sk_getsockopt(), sock_bindtoindex_locked();
//!           net/ipv4/ip_sockglue.c, do_ip_setsockopt(); net/ipv6/ipv6_sockglue.c,
//!           do_ipv6_setsockopt(); net/ipv4/tcp.c, do_tcp_setsockopt(), 3.9 to 6.18
//! Not here: options without a part in bind, listen or lookup.

use crate::addr::Family;
use crate::bind::refuse;
use crate::call::{Bytes, Opt, OptName, State};
use crate::errno::Errno;
use crate::explain::Trace;
use crate::host::{Cap, ProcessId};
use crate::rules::Rule;
use crate::socket::{Reuse, SockIx};
use crate::version::Change;
use crate::world::World;

/// The first and the longest wait between two SYN-ACKs, in seconds.
const SYNACK_FIRST_S: i32 = 1;
const SYNACK_LONGEST_S: i32 = 120;

/// Bytes of an `int`, of a `struct linger`, of a `struct sock_fprog` (with 64-bit pointers).
const INT_LEN: u32 = 4;
const LINGER_LEN: u32 = 8;
const SOCK_FPROG_LEN: u32 = 16;
/// Bytes of a device's name with its end.
const IFNAMSIZ: usize = 16;

impl World {
    pub(crate) fn set_option<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        option: Opt,
        trace: &mut T,
    ) -> Result<(), Errno> {
        match option {
            Opt::ReuseAddr(on) => {
                self.socks[ix].reuse = if on { Reuse::Can } else { Reuse::No };
            }
            Opt::ReusePort(on) => self.socks[ix].reuseport = on,
            Opt::Freebind(on) => self.socks[ix].freebind = on,
            Opt::Transparent(on) => {
                self.check_transparent(process, ix, on, trace)?;
                self.socks[ix].transparent = on;
            }
            Opt::V6Only(_) | Opt::Freebind6(_) | Opt::Transparent6(_) => {
                return self.set_option6(process, ix, option, trace);
            }
            Opt::BindToDevice(index) => {
                self.may_name_device(process, ix, trace)?;
                let known = self.host.net(self.socks[ix].net).interface(index).is_some();
                if index != 0 && !known {
                    return refuse(trace, Rule::NoSuchDevice, Errno::ENODEV);
                }
                self.set_device(process, ix, index as i32, trace)?;
            }
            Opt::BindToIfindex(index) => {
                self.check_known(Change::BindToIfindex, trace)?;
                self.set_device(process, ix, index, trace)?;
            }
            Opt::BindAddressNoPort(on) => {
                self.check_known(Change::BindAddressNoPort, trace)?;
                self.socks[ix].bind_address_no_port = on;
            }
            Opt::LocalPortRange(range) => {
                self.check_known(Change::LocalPortRange, trace)?;
                let (low, high) = (range as u16, (range >> 16) as u16);
                if low != 0 && high != 0 && low > high {
                    return refuse(trace, Rule::BadValue, Errno::EINVAL);
                }
                self.socks[ix].local_port_range = range;
            }
            Opt::Linger(seconds) => {
                self.socks[ix].linger_on = seconds.is_some();
                if let Some(seconds) = seconds {
                    self.socks[ix].linger_s = seconds;
                }
            }
            Opt::IncomingCpu(cpu) => return self.set_incoming_cpu(ix, cpu, trace),
            Opt::ReuseportCbpf(program) => return self.attach_program(ix, program, trace),
            Opt::DetachReuseport => return self.detach_program(ix, trace),
            Opt::Repair(value) => return self.set_repair(process, ix, value, trace),
            Opt::FastOpen(length) => {
                let state = self.socks[ix].state;
                if length < 0 || !matches!(state, State::Close | State::Listen) {
                    return refuse(trace, Rule::BadValue, Errno::EINVAL);
                }
                let limit = self.host.net(self.socks[ix].net).sysctls.somaxconn;
                self.socks[ix].fastopen_queue = (length as u32).min(limit);
            }
            Opt::DeferAccept(seconds) => {
                self.socks[ix].defer_accept = retransmissions(seconds);
            }
        }
        Ok(())
    }

    /// The bytes that a length leaves of the value, and what the option makes of them.
    pub(crate) fn set_with_length<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        option: Opt,
        len: i32,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let Ok(len) = u32::try_from(len) else {
            return refuse(trace, Rule::OptionLength, Errno::EINVAL);
        };
        let option = match option {
            Opt::BindToDevice(index) => Opt::BindToDevice(self.device_by_name(ix, index, len)),
            // The options of IPv4 alone take a byte for an int, and nothing for 0.
            Opt::Freebind(_) | Opt::Transparent(_) | Opt::BindAddressNoPort(_) if len == 0 => {
                if !matches!(option, Opt::BindAddressNoPort(_)) {
                    return refuse(trace, Rule::OptionLength, Errno::EINVAL);
                }
                Opt::BindAddressNoPort(false)
            }
            Opt::Freebind(_) | Opt::Transparent(_) | Opt::BindAddressNoPort(_) => option,
            Opt::V6Only(_) | Opt::Freebind6(_) | Opt::Transparent6(_)
                if self.socks[ix].family == Family::Inet =>
            {
                option
            }
            Opt::LocalPortRange(_) => {
                self.check_known(Change::LocalPortRange, trace)?;
                if len != INT_LEN {
                    return refuse(trace, Rule::OptionLength, Errno::EINVAL);
                }
                option
            }
            Opt::ReuseportCbpf(_) if len != SOCK_FPROG_LEN => {
                return refuse(trace, Rule::OptionLength, Errno::EINVAL);
            }
            Opt::Linger(_) if len < LINGER_LEN => {
                return refuse(trace, Rule::OptionLength, Errno::EINVAL);
            }
            _ if len < INT_LEN => return refuse(trace, Rule::OptionLength, Errno::EINVAL),
            _ => option,
        };
        self.set_option(process, ix, option, trace)
    }

    /// The device whose name is the beginning of this one's.
    fn device_by_name(&self, ix: SockIx, index: u32, len: u32) -> u32 {
        let net = self.host.net(self.socks[ix].net);
        if index == 0 || len == 0 {
            return 0;
        }
        let Some(named) = net.interface(index) else {
            return index;
        };
        // The kernel reads one byte less than the room for a name.
        let len = (len as usize).min(IFNAMSIZ - 1).min(named.name.len());
        let cut = &named.name.as_bytes()[..len];
        let found = net.interfaces.iter().find(|one| one.name.as_bytes() == cut);
        found.map_or(u32::MAX, |device| device.index)
    }

    fn set_option6<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        option: Opt,
        trace: &mut T,
    ) -> Result<(), Errno> {
        if self.socks[ix].family == Family::Inet {
            return refuse(trace, Rule::OptionForeign, Errno::ENOPROTOOPT);
        }
        match option {
            Opt::V6Only(on) => {
                if self.socks[ix].num != 0 {
                    return refuse(trace, Rule::V6OnlyTooLate, Errno::EINVAL);
                }
                self.socks[ix].v6only = on;
            }
            Opt::Freebind6(on) => {
                self.check_known(Change::Freebind6, trace)?;
                self.socks[ix].freebind = on;
            }
            Opt::Transparent6(on) => {
                self.check_transparent(process, ix, on, trace)?;
                self.socks[ix].transparent = on;
            }
            _ => {}
        }
        Ok(())
    }

    /// An older kernel asks for the capability before it looks for the device.
    fn may_name_device<T: Trace>(
        &self,
        process: ProcessId,
        ix: SockIx,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let anybody = self.host.kernel.has(Change::DeviceForEveryone);
        if anybody || self.capable(process, ix, Cap::NetRaw) {
            return Ok(());
        }
        refuse(trace, Rule::NeedsCapability, Errno::EPERM)
    }

    pub(crate) fn check_known<T: Trace>(&self, change: Change, trace: &mut T) -> Result<(), Errno> {
        if self.host.kernel.has(change) {
            return Ok(());
        }
        refuse(trace, Rule::OptionForeign, Errno::ENOPROTOOPT)
    }

    fn check_transparent<T: Trace>(
        &self,
        process: ProcessId,
        ix: SockIx,
        on: bool,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let may =
            self.capable(process, ix, Cap::NetRaw) || self.capable(process, ix, Cap::NetAdmin);
        if on && !may {
            return refuse(trace, Rule::NeedsCapability, Errno::EPERM);
        }
        Ok(())
    }

    fn set_device<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        index: i32,
        trace: &mut T,
    ) -> Result<(), Errno> {
        let may = self.capable(process, ix, Cap::NetRaw);
        if !may && !self.host.kernel.has(Change::DeviceForEveryone) {
            return refuse(trace, Rule::NeedsCapability, Errno::EPERM);
        }
        if self.socks[ix].device != 0 && !may {
            return refuse(trace, Rule::DeviceTaken, Errno::EPERM);
        }
        if index < 0 {
            return refuse(trace, Rule::BadValue, Errno::EINVAL);
        }
        self.socks[ix].device = index as u32;
        self.socks[ix].routed_any = false;
        Ok(())
    }

    fn set_repair<T: Trace>(
        &mut self,
        process: ProcessId,
        ix: SockIx,
        value: i32,
        trace: &mut T,
    ) -> Result<(), Errno> {
        if !self.capable(process, ix, Cap::NetAdmin) {
            return refuse(trace, Rule::NeedsCapability, Errno::EPERM);
        }
        let state = self.socks[ix].state;
        let can = match self.host.kernel.has(Change::RepairAnyState) {
            true => state != State::Listen,
            false => matches!(state, State::Close | State::Established),
        };
        if !can {
            return refuse(trace, Rule::RepairState, Errno::EPERM);
        }
        if value == -1 && !self.host.kernel.has(Change::RepairNoProbe) {
            return refuse(trace, Rule::BadValue, Errno::EINVAL);
        }
        let sock = &mut self.socks[ix];
        match value {
            1 => {
                sock.repair = true;
                sock.reuse = Reuse::Force;
            }
            0 | -1 => {
                sock.repair = false;
                sock.reuse = Reuse::No;
                if value == 0 {
                    self.send_probe(ix, trace);
                }
            }
            _ => return refuse(trace, Rule::BadValue, Errno::EINVAL),
        }
        Ok(())
    }

    /// What `getsockopt` writes where there is this much room.
    pub(crate) fn get_with_length<T: Trace>(
        &mut self,
        ix: SockIx,
        name: OptName,
        len: i32,
        trace: &mut T,
    ) -> Result<Bytes, Errno> {
        let level = Level::of(name);
        let looks = match level {
            Level::Socket | Level::Ip => true,
            Level::Tcp => self.host.kernel.has(Change::TcpLengthChecked),
            Level::Ipv6 => false,
        };
        if looks && len < 0 {
            return refuse(trace, Rule::OptionLength, Errno::EINVAL);
        }
        let room = len as u32 as usize;
        if name == OptName::BindToDevice {
            return self.get_device(ix, room, trace);
        }
        let value = self.get_option(ix, name, trace)?;
        let int = value.to_le_bytes();
        let sock = &self.socks[ix];
        Ok(match name {
            OptName::Linger => {
                let on = i32::from(sock.linger_on).to_le_bytes();
                let seconds = i32::from(sock.linger_s).to_le_bytes();
                let both = [on, seconds];
                Bytes::new(&both.as_flattened()[..room.min(LINGER_LEN as usize)])
            }
            // What follows the state in TCP_INFO is left out (gaps.toml).
            OptName::State => Bytes::new(&int[..room.min(1)]),
            // A value that fits a byte is one, where there is no room for an int.
            _ if level == Level::Ip && (1..4).contains(&room) && (0..256).contains(&value) => {
                Bytes::new(&int[..1])
            }
            _ => Bytes::new(&int[..room.min(INT_LEN as usize)]),
        })
    }

    /// The name of the device; nothing, in whatever room, where there is none.
    fn get_device<T: Trace>(&self, ix: SockIx, room: usize, trace: &mut T) -> Result<Bytes, Errno> {
        let sock = &self.socks[ix];
        if sock.device == 0 {
            return Ok(Bytes::default());
        }
        if room < IFNAMSIZ {
            return refuse(trace, Rule::OptionLength, Errno::EINVAL);
        }
        let Some(named) = self.host.net(sock.net).interface(sock.device) else {
            return refuse(trace, Rule::NoSuchDevice, Errno::ENODEV);
        };
        let mut bytes = [0; IFNAMSIZ];
        let len = named.name.len().min(IFNAMSIZ - 1);
        bytes[..len].copy_from_slice(&named.name.as_bytes()[..len]);
        Ok(Bytes::new(&bytes[..=len]))
    }

    pub(crate) fn get_option<T: Trace>(
        &mut self,
        ix: SockIx,
        name: OptName,
        trace: &mut T,
    ) -> Result<i32, Errno> {
        match name {
            OptName::BindAddressNoPort => self.check_known(Change::BindAddressNoPort, trace)?,
            OptName::LocalPortRange => self.check_known(Change::LocalPortRange, trace)?,
            OptName::BindToIfindex => self.check_known(Change::BindToIfindex, trace)?,
            OptName::IncomingCpu => self.check_known(Change::IncomingCpuRead, trace)?,
            OptName::Freebind6 if self.socks[ix].family == Family::Inet6 => {
                self.check_known(Change::Freebind6, trace)?;
            }
            OptName::V6Only | OptName::Freebind6 | OptName::Transparent6
                if self.socks[ix].family == Family::Inet =>
            {
                // Setting it says ENOPROTOOPT; reading it, this.
                return refuse(trace, Rule::OptionForeign, Errno::EOPNOTSUPP);
            }
            OptName::BindToDevice => {
                let sock = &self.socks[ix];
                let known = self.host.net(sock.net).interface(sock.device).is_some();
                if sock.device != 0 && !known {
                    return refuse(trace, Rule::NoSuchDevice, Errno::ENODEV);
                }
            }
            _ => {}
        }
        let sock = &mut self.socks[ix];
        Ok(match name {
            OptName::ReuseAddr => sock.reuse as i32,
            OptName::ReusePort => i32::from(sock.reuseport),
            OptName::V6Only => i32::from(sock.v6only),
            OptName::Freebind | OptName::Freebind6 => i32::from(sock.freebind),
            OptName::Transparent | OptName::Transparent6 => i32::from(sock.transparent),
            OptName::BindToDevice | OptName::BindToIfindex => sock.device as i32,
            OptName::BindAddressNoPort => i32::from(sock.bind_address_no_port),
            OptName::LocalPortRange => sock.local_port_range as i32,
            OptName::Linger if !sock.linger_on => -1,
            OptName::Linger => i32::from(sock.linger_s),
            OptName::IncomingCpu => sock.incoming_cpu,
            OptName::AcceptConn => i32::from(sock.state == State::Listen),
            OptName::Error => {
                let error = sock.error.take().or_else(|| sock.soft_error.take());
                error.map_or(0, Errno::number)
            }
            OptName::Repair => i32::from(sock.repair),
            OptName::FastOpen => sock.fastopen_queue as i32,
            OptName::DeferAccept => seconds(sock.defer_accept),
            OptName::State => sock.state as i32,
        })
    }
}

/// Whose `getsockopt` reads an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Socket,
    Ip,
    Ipv6,
    Tcp,
}

impl Level {
    fn of(name: OptName) -> Level {
        match name {
            OptName::ReuseAddr
            | OptName::ReusePort
            | OptName::BindToDevice
            | OptName::BindToIfindex
            | OptName::Linger
            | OptName::IncomingCpu
            | OptName::AcceptConn
            | OptName::Error => Level::Socket,
            OptName::Freebind
            | OptName::Transparent
            | OptName::BindAddressNoPort
            | OptName::LocalPortRange => Level::Ip,
            OptName::V6Only | OptName::Freebind6 | OptName::Transparent6 => Level::Ipv6,
            OptName::Repair | OptName::FastOpen | OptName::DeferAccept | OptName::State => {
                Level::Tcp
            }
        }
    }
}

/// The number of retransmissions that take at least these seconds.
fn retransmissions(seconds: i32) -> u8 {
    if seconds <= 0 {
        return 0;
    }
    let (mut count, mut wait, mut total) = (1_u8, SYNACK_FIRST_S, SYNACK_FIRST_S);
    while seconds > total && count < u8::MAX {
        count += 1;
        wait = (wait << 1).min(SYNACK_LONGEST_S);
        total += wait;
    }
    count
}

/// The seconds that these retransmissions take.
fn seconds(retransmissions: u8) -> i32 {
    let (mut wait, mut total) = (SYNACK_FIRST_S, 0);
    for _ in 0..retransmissions {
        total += wait;
        wait = (wait << 1).min(SYNACK_LONGEST_S);
    }
    total
}
