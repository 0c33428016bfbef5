//! Virtual routing and forwarding: sockets, ports and packets of a VRF.
//!
//! Decides:  which VRF a socket and its port belong to; whether a socket hears packets from an interface.
//! Kernel:   include/net/inet_sock.h, inet_sk_bound_l3mdev(), inet_bound_dev_eq(); net/l3mdev/l3mdev.c,
//!           l3mdev_master_ifindex_by_index(); drivers/net/vrf.c, vrf_ip_rcv(), 5.0 to 6.18
//! Not here: which addresses a VRF has (host.rs).

use crate::socket::{Sock, SockIx};
use crate::version::Change;
use crate::world::World;

impl World {
    /// The VRF of the socket's device; 0 for none. Its addresses are those of this VRF.
    pub(crate) fn device_vrf(&self, ix: SockIx) -> u32 {
        let sock = &self.socks[ix];
        match sock.device {
            0 => 0,
            device => self.host.net(sock.net).vrf_of(device),
        }
    }

    /// The same as a device, where an address is looked for in all of the VRF.
    pub(crate) fn vrf_device(&self, ix: SockIx) -> Option<u32> {
        Some(self.device_vrf(ix)).filter(|&vrf| vrf != 0)
    }

    /// The VRF whose ports the socket shares with others; `tcp_l3mdev_accept` makes all of them one.
    pub(crate) fn port_vrf(&self, ix: SockIx) -> u32 {
        let accept = self.host.net(self.socks[ix].net).sysctls.tcp_l3mdev_accept;
        if accept || !self.host.kernel.has(Change::VrfBuckets) {
            return 0;
        }
        self.device_vrf(ix)
    }

    /// Whether a socket hears what comes in by an interface: one without a device hears a VRF's only with
    /// `tcp_l3mdev_accept`; one that is bound to the VRF hears all its members.
    pub(crate) fn hears(&self, sock: &Sock, device: u32) -> bool {
        if sock.device == device {
            return true;
        }
        let net = self.host.net(sock.net);
        let vrf = net.vrf_of(device);
        match sock.device {
            0 => vrf == 0 || net.sysctls.tcp_l3mdev_accept,
            own => own == vrf,
        }
    }
}
