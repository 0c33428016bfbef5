//! A neighbour behind an interface, who does not answer.
//!
//! Decides:  which addresses are a neighbour's and whence he is spoken to; when the search for his link
//!           address is given up, and whether connect hears of that.
//! Kernel:   net/core/neighbour.c, __neigh_event_send(), neigh_timer_handler(); net/ipv4/arp.c,
//!           arp_error_report(); net/ipv4/route.c, ipv4_link_failure(), ip_route_output_key_hash_rcu();
//!           net/ipv4/tcp_ipv4.c, tcp_v4_err(); net/ipv6/route.c, ip6_link_failure();
//!           net/ipv6/tcp_ipv6.c, tcp_v6_err(); net/ipv6/addrconf.c, ipv6_dev_get_saddr(), 4.13 to 6.18
//! Not here: neighbours who answer, other routes (gaps.toml); the repetition of a SYN (timer.rs).

use crate::addr::{Kind6, is_mapped, kind6};
use crate::connect::LOOPBACK_DEVICE;
use crate::errno::Errno;
use crate::host::{Interface, Kind4, Namespace, Vrf};
use crate::net4::{Net4, zeronet};
use crate::socket::SockIx;
use crate::version::{Change, Kernel};
use crate::wire::Tuple;
use crate::world::World;

/// Three questions (`mcast_solicit`), a second apart (`retrans_time_ms`).
const SEARCH_MS: u64 = 3000;

impl Interface {
    /// Whether there can be neighbours: neither the loopback nor a VRF has any.
    fn has_neighbours(&self) -> bool {
        self.up && !self.is_loopback() && self.vrf != Vrf::Itself
    }
}

impl Namespace {
    /// The interface of the network that an IPv4 address is in, outside of any VRF: the longest prefix
    /// decides, then who came first.
    pub(crate) fn link_of4(&self, kernel: Kernel, to: u32) -> Option<u32> {
        let mut found: Option<(u8, u32)> = None;
        let all = self.interfaces.iter();
        for interface in all.filter(|i| i.has_neighbours() && i.vrf == Vrf::Outside) {
            for &(own, prefix) in &interface.v4 {
                let net = Net4::of(own, prefix);
                let routed = prefix < 32 && !zeronet(kernel, net.first) && net.contains(to);
                if routed && found.is_none_or(|(longest, _)| prefix > longest) {
                    found = Some((prefix, interface.index));
                }
            }
        }
        found.map(|(_, index)| index)
    }

    /// The interface of the network that an IPv6 address is in, this one where a device is given.
    pub(crate) fn link_of6(&self, to: u128, device: u32) -> Option<u32> {
        let mut found: Option<(u8, u32)> = None;
        let all = self.interfaces.iter().filter(|interface| {
            let meant = device == 0 || interface.index == device;
            meant && interface.vrf == Vrf::Outside && interface.has_neighbours()
        });
        for interface in all {
            for own in &interface.v6 {
                let routed = common(own.addr.to_bits(), to) >= u32::from(own.prefix);
                if routed && found.is_none_or(|(longest, _)| own.prefix > longest) {
                    found = Some((own.prefix, interface.index));
                }
            }
        }
        found.map(|(_, index)| index)
    }

    /// The IPv6 address that a neighbour is spoken to from: his own (which this host has elsewhere), then
    /// one of his kind, then of the interface that he is behind, then with the longest common prefix, then
    /// the newest.
    pub(crate) fn source_on_link6(&self, to: u128, device: u32) -> Option<u128> {
        let is_global = |addr| !matches!(kind6(addr), Kind6::LinkLocal | Kind6::Loopback);
        let kind = is_global(to);
        let all = self.interfaces.iter().rev();
        let outside = all.filter(|i| i.vrf == Vrf::Outside && (kind || i.index == device));
        let addresses = outside.flat_map(|i| i.v6.iter().map(|own| (i.index, own)));
        let ready = addresses.filter(|(_, own)| !own.tentative);
        let best = ready.max_by_key(|&(index, own)| {
            let addr = own.addr.to_bits();
            let near = common(addr, to).min(u32::from(own.prefix));
            (addr == to, is_global(addr) == kind, index == device, near)
        });
        best.map(|(_, own)| own.addr.to_bits())
    }
}

/// The length of the longest prefix that two addresses share.
fn common(one: u128, other: u128) -> u32 {
    (one ^ other).leading_zeros()
}

impl World {
    /// A SYN that arrives nowhere waits for a neighbour's link address. Whether connect will hear that
    /// nobody answered: the kernel tells the sender by an ICMP message, which it sends to itself, and
    /// which comes in by the interface that has the address; for IPv6 by the loopback.
    pub(crate) fn ask_neighbour(&mut self, ix: SockIx) -> bool {
        let Some(device) = self.link_of(ix) else {
            return false;
        };
        let sock = &self.socks[ix];
        let net = sock.net;
        let to = Tuple::of(sock, sock.sport).peer;
        let by_ipv4 = is_mapped(to);
        let key = (net, device, to);
        let now = self.now_ms;
        self.searches.retain(|_, end| *end > now);
        let end = *self.searches.entry(key).or_insert(now + SEARCH_MS);
        let hears = if by_ipv4 {
            self.hears_icmp4(ix)
        } else {
            let sock = &self.socks[ix];
            sock.device == 0 && self.host.net(net).has6(sock.rcv6, None)
        };
        if hears {
            self.socks[ix].searching = true;
            self.set_timer(ix, end - now);
        }
        hears
    }

    fn hears_icmp4(&self, ix: SockIx) -> bool {
        let sock = &self.socks[ix];
        let net = self.host.net(sock.net);
        let vrf = net.vrf_of(sock.device);
        let own = net.kind4(self.host.kernel, sock.src4, vrf) == Kind4::Local;
        let by = match self.host.kernel.has(Change::LocalArrival) {
            true => net.device_of4(sock.src4, vrf),
            false => Some(LOOPBACK_DEVICE),
        };
        own && (sock.device == 0 || by == Some(sock.device))
    }

    /// The interface whose neighbour a socket calls; none where its SYN goes another way.
    fn link_of(&self, ix: SockIx) -> Option<u32> {
        let sock = &self.socks[ix];
        let net = self.host.net(sock.net);
        let to = Tuple::of(sock, sock.sport).peer;
        if !is_mapped(to) {
            return net.link_of6(to, sock.device);
        }
        match sock.device {
            0 => net.link_of4(self.host.kernel, to as u32),
            device => {
                let through = net.interface(device)?;
                through.has_neighbours().then_some(device)
            }
        }
    }

    /// Nobody has answered: connect ends. `false` where the socket does not wait for that.
    pub(crate) fn give_up_search(&mut self, ix: SockIx) -> bool {
        let searching = core::mem::take(&mut self.socks[ix].searching);
        if searching {
            self.socks[ix].error = Some(Errno::EHOSTUNREACH);
            self.done(ix);
        }
        searching
    }
}
