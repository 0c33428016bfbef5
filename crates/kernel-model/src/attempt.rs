//! A call that is tried on a copy of the world in which something differs.
//!
//! Decides:  what each difference does there, and when the call has come out well.
//! Not here: which differences are tried for which call (ways_out.rs).

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::addr::{Family, SockAddr, is_mapped};
use crate::call::{Answer, Call, Opt, State};
use crate::connect::LOOPBACK_DEVICE;
use crate::difference::Difference;
use crate::errno::Errno;
use crate::explain::{Explanation, NoTrace};
use crate::host::{Addr6, Cap, Interface, Process, ProcessId};
use crate::socket::{ADDR_LOCK, NONE, PORT_LOCK, Sock, SockIx};
use crate::world::{SocketId, World};

/// A call on a copy of the world, to be made after some differences.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub world: World,
    pub process: ProcessId,
    pub socket: SocketId,
    pub call: Call,
    /// Calls on the same socket behind it, which must succeed too.
    pub then: Vec<Call>,
}

impl Attempt {
    /// Makes the calls, and says whether they came out well.
    pub(crate) fn succeeds(&mut self) -> bool {
        self.make().0
    }

    /// The same, with the rules that decided: those of the call that did not come out well, if one did not.
    pub(crate) fn make(&mut self) -> (bool, Explanation) {
        let (well, why) = self.make_one(self.call);
        for at in 0..self.then.len() {
            let (later_well, later) = match well {
                true => self.make_one(self.then[at]),
                false => break,
            };
            if !later_well {
                return (false, later);
            }
        }
        (well, why)
    }

    fn make_one(&mut self, call: Call) -> (bool, Explanation) {
        let (answer, why) = self.world.explain(self.process, self.socket, call);
        let well = match answer {
            Answer::Blocks => false,
            // A non-blocking connect has come through if the handshake has ended.
            Answer::Err(Errno::EINPROGRESS) => {
                self.world.state(self.socket) == Some(State::Established)
            }
            Answer::Err(_) => false,
            _ => true,
        };
        (well, why)
    }

    /// Whether this difference could be brought about.
    pub(crate) fn apply(&mut self, difference: &Difference) -> bool {
        match *difference {
            Difference::Port(_)
            | Difference::Ip(_)
            | Difference::Scope(_)
            | Difference::WholeAddress
            | Difference::WholeOption
            | Difference::How(_)
            | Difference::Value(_) => return self.change_call(difference),
            Difference::Option(opt) => return self.first(Call::Set(opt)),
            Difference::First(call) => return self.first(call),
            Difference::Fresh(family) => self.renew(family),
            Difference::Owner(uid) => return self.first(Call::Fchown(uid)),
            Difference::Listener(addr) => return self.somebody_listens(addr),
            Difference::Client => return self.somebody_connects(),
            Difference::Accept(_)
            | Difference::Backlog(..)
            | Difference::Close(_)
            | Difference::Restart(..) => return self.change_other(difference),
            Difference::Wait { ms } => self.world.pass_time(ms),
            Difference::Capability(_)
            | Difference::Sysctl(_)
            | Difference::Assign(..)
            | Difference::Up(_)
            | Difference::AddressReady(_)
            | Difference::Kernel(_) => return self.change_host(difference),
        }
        true
    }

    fn first(&mut self, call: Call) -> bool {
        let answer = self.world.call_as(self.process, self.socket, call);
        !matches!(answer, Answer::Err(_) | Answer::Blocks)
    }

    fn change_call(&mut self, difference: &Difference) -> bool {
        if let Call::Bind(addr) | Call::Connect(addr) = &mut self.call {
            match *difference {
                Difference::Port(port) => addr.port = port,
                Difference::Ip(ip) => {
                    *addr = SockAddr {
                        scope: addr.scope,
                        ..SockAddr::new(ip, addr.port)
                    };
                }
                Difference::Scope(index) => addr.scope = index,
                Difference::WholeAddress => {
                    *addr = SockAddr {
                        scope: addr.scope,
                        ..SockAddr::new(addr.ip, addr.port)
                    };
                }
                _ => return false,
            }
            return true;
        }
        match (*difference, &mut self.call) {
            (Difference::How(how), Call::Shutdown(told)) => *told = how,
            (Difference::Value(value), Call::Set(opt)) => *opt = value,
            (Difference::WholeOption, Call::SetLen(opt, _)) => self.call = Call::Set(*opt),
            (Difference::WholeOption, Call::GetLen(name, _)) => self.call = Call::Get(*name),
            _ => return false,
        }
        true
    }

    /// A new socket with the options of the old one; the old one stays as it is.
    fn renew(&mut self, family: Family) {
        let old = self.world.place_of(self.socket);
        self.socket = self.world.socket(self.process, family);
        let (Some(old), Some(new)) = (old, self.world.place_of(self.socket)) else {
            return;
        };
        let old = self.world.socks[old].clone();
        copy_options(&mut self.world.socks[new], &old);
        self.world.socks[new].uid = old.uid;
    }

    fn somebody_listens(&mut self, addr: SockAddr) -> bool {
        let family = match addr.ip {
            IpAddr::V4(_) => Family::Inet,
            IpAddr::V6(_) => Family::Inet6,
        };
        let Some(root) = self.almighty() else {
            return false;
        };
        let listener = self.world.socket(root, family);
        let calls = [Call::Bind(addr), Call::Listen(128)];
        calls
            .into_iter()
            .all(|call| self.world.call_as(root, listener, call).is_ok())
    }

    fn somebody_connects(&mut self) -> bool {
        let Answer::Address(name) =
            self.world
                .call_as(self.process, self.socket, Call::GetSockName)
        else {
            return false;
        };
        let family = match name.ip() {
            IpAddr::V4(_) => Family::Inet,
            IpAddr::V6(_) => Family::Inet6,
        };
        let Some(root) = self.almighty() else {
            return false;
        };
        let client = self.world.socket(root, family);
        let to = Call::Connect(SockAddr::new(name.ip(), name.port()));
        self.world.call_as(root, client, to).is_ok()
    }

    /// One more process, in the caller's network, who may do everything there.
    fn almighty(&mut self) -> Option<ProcessId> {
        let processes = &mut self.world.host.processes;
        let caller = *processes.get(usize::from(self.process.0))?;
        let namespaces = &self.world.host.namespaces;
        let user_ns = namespaces.get(usize::from(caller.net.0))?.user_ns;
        processes.push(Process {
            user_ns,
            caps: crate::host::Caps::ALL,
            ..caller
        });
        u16::try_from(processes.len() - 1).ok().map(ProcessId)
    }

    fn change_other(&mut self, difference: &Difference) -> bool {
        match *difference {
            Difference::Accept(socket) => {
                let Some(ix) = self.world.place_of(socket) else {
                    return false;
                };
                let answer = self.world.accept(self.process, ix, &mut NoTrace);
                matches!(answer, Answer::Accepted(_))
            }
            Difference::Backlog(socket, backlog) => {
                let Some(ix) = self.world.place_of(socket) else {
                    return false;
                };
                self.world.listen(ix, backlog, &mut NoTrace).is_ok()
            }
            Difference::Close(socket) => self.world.close_for_all(socket),
            Difference::Restart(socket, opt) => self.restart(socket, opt),
            _ => false,
        }
    }

    /// Closes a socket and makes it again with one option more: the same options, address and port, and
    /// listening if it did. Connections that it accepted live on.
    fn restart(&mut self, socket: SocketId, opt: Opt) -> bool {
        let Some(ix) = self.world.place_of(socket) else {
            return false;
        };
        let old = self.world.socks[ix].clone();
        let server = matches!(old.state, State::Close | State::Listen) && old.num != 0;
        if !server || !self.world.close_for_all(socket) {
            return false;
        }
        let Some(root) = self.almighty() else {
            return false;
        };
        let again = self.world.socket(root, old.family);
        let Some(new) = self.world.place_of(again) else {
            return false;
        };
        let sock = &mut self.world.socks[new];
        copy_options(sock, &old);
        sock.uid = old.uid;
        if !self.world.call_as(root, again, Call::Set(opt)).is_ok() {
            return false;
        }
        let sock = &mut self.world.socks[new];
        if old.v6only != sock.v6only && is_mapped(old.rcv6) {
            // Its bind would be refused.
            return false;
        }
        (sock.rcv4, sock.src4) = (old.rcv4, old.src4);
        sock.rcv6 = old.rcv6;
        sock.locks |= old.locks & (ADDR_LOCK | PORT_LOCK);
        if self.world.get_port(new, old.num, &mut NoTrace).is_err() {
            return false;
        }
        let sock = &mut self.world.socks[new];
        sock.sport = sock.num;
        old.state != State::Listen
            || self
                .world
                .listen(new, old.backlog as i32, &mut NoTrace)
                .is_ok()
    }

    fn change_host(&mut self, difference: &Difference) -> bool {
        let host = &mut self.world.host;
        let Some(process) = host.processes.get_mut(usize::from(self.process.0)) else {
            return false;
        };
        let net = process.net;
        match *difference {
            Difference::Capability(cap) => {
                *match cap {
                    Cap::NetBindService => &mut process.caps.net_bind_service,
                    Cap::NetAdmin => &mut process.caps.net_admin,
                    Cap::NetRaw => &mut process.caps.net_raw,
                } = true;
                return true;
            }
            Difference::Kernel(kernel) => {
                host.kernel = kernel;
                return true;
            }
            _ => {}
        }
        let Some(namespace) = host.namespaces.get_mut(usize::from(net.0)) else {
            return false;
        };
        match *difference {
            Difference::Sysctl(setting) => setting.set(&mut namespace.sysctls),
            Difference::Assign(device, ip) => {
                let known = namespace.interfaces.iter_mut().find(|i| i.index == device);
                let Some(interface) = known else { return false };
                if !may_have(interface, ip) {
                    return false;
                }
                match ip {
                    IpAddr::V4(ip) => interface.v4.push((ip, 32)),
                    IpAddr::V6(addr) => interface.v6.push(Addr6 {
                        addr,
                        prefix: 128,
                        tentative: false,
                    }),
                }
            }
            Difference::Up(device) => {
                let known = namespace.interfaces.iter_mut().find(|i| i.index == device);
                let Some(interface) = known else { return false };
                interface.up = true;
            }
            Difference::AddressReady(ip) => {
                let all = namespace.interfaces.iter_mut().flat_map(|i| &mut i.v6);
                let found: Vec<&mut Addr6> = all.filter(|own| IpAddr::V6(own.addr) == ip).collect();
                for own in found {
                    own.tentative = false;
                }
            }
            _ => return false,
        }
        true
    }
}

/// What a program sets on its socket before bind.
fn copy_options(new: &mut Sock, old: &Sock) {
    new.reuse = old.reuse;
    new.reuseport = old.reuseport;
    if new.family == old.family {
        // A true IPv6 address made it so; the user had not asked.
        let by_address = old.rcv6 != 0 && !is_mapped(old.rcv6);
        new.v6only = if by_address { new.v6only } else { old.v6only };
    }
    new.device = old.device;
    new.nonblocking = old.nonblocking;
    new.freebind = old.freebind;
    new.transparent = old.transparent;
    new.bind_address_no_port = old.bind_address_no_port;
    new.local_port_range = old.local_port_range;
    new.fastopen_queue = old.fastopen_queue;
    new.defer_accept = old.defer_accept;
}

impl World {
    /// The place of a socket that exists, whether a descriptor holds it or not.
    pub(crate) fn place_of(&self, socket: SocketId) -> Option<SockIx> {
        if socket.index == NONE || socket.index as usize >= self.socks.len() {
            return None;
        }
        let alive = self.socks[socket.index].alive && self.handle(socket.index) == socket;
        alive.then_some(socket.index)
    }

    /// Closes every descriptor of a socket; of a connection that nobody accepted, those of its listener.
    pub(crate) fn close_for_all(&mut self, socket: SocketId) -> bool {
        let Some(mut ix) = self.place_of(socket) else {
            return false;
        };
        if self.socks[ix].holders == 0 && self.socks[ix].parent != NONE {
            ix = self.socks[ix].parent;
        }
        if self.socks[ix].holders == 0 {
            return false;
        }
        while let Some(&(files, _)) = self.socks[ix].held.last() {
            self.drop_newest(files, ix);
            self.close(ix, &mut NoTrace);
        }
        true
    }
}

/// Whether an interface takes an address: one that it has not, and ::1 only on the loopback device
/// (net/ipv6/addrconf.c, ipv6_add_addr(): "Cannot assign loopback address on this device").
fn may_have(interface: &Interface, ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => interface.v4.iter().all(|own| own.0 != ip),
        IpAddr::V6(ip) => {
            (!ip.is_loopback() || interface.index == LOOPBACK_DEVICE)
                && interface.v6.iter().all(|own| own.addr != ip)
        }
    }
}
