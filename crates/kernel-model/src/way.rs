//! Does a segment between two addresses arrive, and by which interface?
//!
//! Decides:  whether a route exists from this source through this device, and what its want is called;
//!           the interface that the
//!           receiver is looked up by; whether a reset may answer what nobody took.
//! Kernel:   net/ipv4/route.c, ip_route_output_key_hash_rcu(), __mkroute_output(); net/ipv6/route.c,
//!           ip6_route_output_flags(), addrconf_f6i_alloc(); net/ipv6/ip6_input.c, ip6_rcv_core(),
//!           3.9 to 6.18
//! Not here: what the receiver makes of it (receive.rs). Routes to other hosts: gaps.toml.

use crate::addr::{Kind6, is_mapped, kind6};
use crate::connect::LOOPBACK_DEVICE;
use crate::errno::Errno;
use crate::host::{Kind4, NetId};
use crate::version::Change;
use crate::world::World;

/// What a segment asks of the routes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flow {
    pub net: NetId,
    pub from: u128,
    pub to: u128,
    /// The device that it must, or should, leave by; 0 for any.
    pub device: u32,
    pub source: Source,
    pub scope: Scope,
}

/// Which addresses may be the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    Own,
    /// `IP_TRANSPARENT`.
    Any,
}

/// What the device means to an IPv6 route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Strict,
    /// For what a TIME_WAIT socket says: a preference.
    Preferred,
}

/// Where a segment comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub device: u32,
    /// By a route of local type: only then a segment that nobody takes is answered by a reset.
    pub local: bool,
}

impl World {
    /// Where a segment arrives: what goes from one of the host's addresses to another passes the
    /// loopback, and counts as coming in by the interface that has the address.
    pub(crate) fn way(&self, flow: Flow) -> Option<Arrival> {
        let net = self.host.net(flow.net);
        let through = net.interface(flow.device);
        if flow.device != 0 && through.is_none() {
            return None;
        }
        if is_mapped(flow.to) {
            // No IPv4 goes through a device that is down, to its own addresses either. The IPv6 routes
            // to those stand all the same (addrconf_f6i_alloc()).
            let down = through.is_some_and(|i| !i.up);
            return if down { None } else { self.way4(flow) };
        }
        let vrf = net.vrf_of(flow.device);
        if !net.has6(flow.to, Some(vrf).filter(|&vrf| vrf != 0)) {
            return None;
        }
        let strict = flow.scope == Scope::Strict || needs_strict(flow.to);
        if flow.device != 0 && net.is_on6(flow.to, flow.device) {
            let member = net.device_of6(flow.to, vrf).filter(|_| flow.device == vrf);
            return Some(local(member.unwrap_or(flow.device)));
        }
        if flow.device != 0 && strict {
            return None;
        }
        net.device_of6(flow.to, vrf).map(local)
    }

    /// What a route lookup says that found none, where [`World::way`] says that nothing arrives. `None`:
    /// there is a neighbour, or one is taken to be there.
    pub(crate) fn no_route(&self, flow: Flow) -> Option<Errno> {
        let net = self.host.net(flow.net);
        if !is_mapped(flow.to) {
            let neighbour = net.is_neighbour6(flow.to, flow.device);
            return (!neighbour).then_some(Errno::ENETUNREACH);
        }
        let own = net.kind4(self.host.kernel, flow.from as u32, net.vrf_of(flow.device));
        if flow.source != Source::Any && own != Kind4::Local {
            return Some(Errno::ENETUNREACH);
        }
        let leaves = match net.interface(flow.device) {
            None if flow.device != 0 => return Some(Errno::ENODEV),
            None => net.link_of4(self.host.kernel, flow.to as u32),
            Some(through) => Some(through.index).filter(|_| through.up),
        };
        match leaves {
            None => Some(Errno::ENETUNREACH),
            Some(device) if !net.may_leave4(flow.from as u32, device) => Some(Errno::EINVAL),
            Some(_) => None,
        }
    }

    fn way4(&self, flow: Flow) -> Option<Arrival> {
        let net = self.host.net(flow.net);
        let (from, to) = (flow.from as u32, flow.to as u32);
        let vrf = net.vrf_of(flow.device);
        let kind = |addr| net.kind4(self.host.kernel, addr, vrf);
        let own = flow.source == Source::Any || kind(from) == Kind4::Local;
        let kind = kind(to);
        if !own {
            return None;
        }
        let local = |device: u32| {
            let by_address = self.host.kernel.has(Change::LocalArrival);
            local(match flow.device {
                _ if by_address => device,
                0 => LOOPBACK_DEVICE,
                bound => bound,
            })
        };
        match flow.device {
            // Through a VRF every address of its members is reached; through none, the rest.
            device if device == vrf && kind == Kind4::Local => net.device_of4(to, vrf).map(local),
            0 => None,
            device if net.is_on4(to, device) => Some(local(device)),
            // Any address is taken to be a neighbour behind the loopback, even another interface's
            // broadcast address, and comes back from there.
            LOOPBACK_DEVICE if kind != Kind4::Multicast => Some(Arrival {
                device: LOOPBACK_DEVICE,
                local: false,
            }),
            _ => None,
        }
    }
}

const fn local(device: u32) -> Arrival {
    Arrival {
        device,
        local: true,
    }
}

/// `rt6_need_strict`: addresses that mean something on one interface only.
pub(crate) fn needs_strict(addr: u128) -> bool {
    matches!(kind6(addr), Kind6::Loopback | Kind6::LinkLocal)
}
