//! A network namespace made as a script's host wants it.
//!
//! Decides:  how interfaces, addresses and sysctls are made in a fresh namespace.
//! Kernel:   network_namespaces(7), rtnetlink(7)
//! Not here: which process is in which namespace (kernel.rs, helper.rs).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use portcullis_kernel_model::{Interface, Namespace, Sysctl, Sysctls, Vrf};

use super::kernel::Obstacle;
use crate::host::{SETTLE, set_window_scale};
use crate::netlink;

/// Interfaces are pairs: the far end of number N has number N + 1000.
const FAR_END: u32 = 1000;
/// The IPv6 routes of this thread's network, all tables.
const ROUTES: &str = "/proc/thread-self/net/ipv6_route";
/// The flag of a route to an address of this host.
const RTF_LOCAL: u32 = 0x8000_0000;
/// How long the routes to the addresses of an interface that is down may take, and how often to look.
const ROUTE_WAIT: Duration = Duration::from_secs(5);
const ROUTE_LOOK: Duration = Duration::from_millis(1);

/// Makes the network that this process is in the one that is wanted; it is fresh.
pub(super) fn set_up(wanted: &Namespace) -> Result<(), Obstacle> {
    set_window_scale()?;
    for interface in &wanted.interfaces {
        make(interface)?;
    }
    // The loopback's own one is there from the beginning.
    let added = |interface: &Interface| interface.v6.len() > usize::from(interface.index == 1);
    if wanted.interfaces.iter().any(|one| one.up && added(one)) {
        // Soon the kernel notices that a pair is up, and that an address needs no detection, and makes its
        // own IPv6 routes again.
        std::thread::sleep(SETTLE);
    }
    for interface in wanted.interfaces.iter().filter(|one| !one.up) {
        wait_for_routes(interface)?;
    }
    // Of an address that two interfaces have, the first one's route is the kernel's choice: ours is put last,
    // since each takes the other's place.
    for interface in wanted.interfaces.iter().rev() {
        // The routes of a VRF stand in a table of its own.
        if interface.vrf == Vrf::Outside {
            acknowledge_at_once(interface)?;
        }
    }
    let usual = Sysctls::default();
    // Out of the way of the range of ports, which comes before its own value.
    match std::fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        outcome => outcome
            .map_err(|error| Obstacle::Skip(format!("sysctls cannot be set here: {error}")))?,
    }
    for sysctl in Sysctl::ALL {
        let value = sysctl.show(&wanted.sysctls);
        match write(sysctl, &value) {
            // An older kernel, which does as one with the usual value.
            Err(error)
                if error.kind() == io::ErrorKind::NotFound && value == sysctl.show(&usual) => {}
            outcome => outcome.map_err(|error| {
                Obstacle::Skip(format!(
                    "{} cannot be set to {value} here: {error}",
                    sysctl.name
                ))
            })?,
        }
    }
    Ok(())
}

/// Makes an interface and gives it its addresses.
fn make(interface: &Interface) -> Result<(), Obstacle> {
    if interface.vrf == Vrf::Itself {
        netlink::add_vrf(interface.index, &interface.name)
            .map_err(|error| Obstacle::Skip(format!("a VRF cannot be made here: {error}")))?;
    } else if interface.index != 1 {
        let far = (interface.index + FAR_END, format!("far{}", interface.index));
        // No addresses of the kernel's own making.
        match std::fs::write("/proc/sys/net/ipv6/conf/default/addr_gen_mode", "1") {
            // Before 4.11 there is no such choice, and no scenario knows those addresses.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            outcome => outcome?,
        }
        netlink::add_pair((interface.index, &interface.name), (far.0, &far.1))?;
    }
    if let Vrf::Member(vrf) = interface.vrf {
        netlink::enslave(interface.index, vrf)?;
    }
    if interface.up {
        netlink::up(interface.index)?;
        // Without a carrier an address stays tentative for good.
        let pair = interface.index != 1 && interface.vrf != Vrf::Itself;
        if pair && !interface.v6.iter().any(|own| own.tentative) {
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
        netlink::add_address_with(interface.index, address.addr.into(), address.prefix, detect)?;
    }
    Ok(())
}

/// The kernel enters the route to an IPv6 address of an interface that is down a moment later than the
/// address.
fn wait_for_routes(interface: &Interface) -> io::Result<()> {
    let end = Instant::now() + ROUTE_WAIT;
    for own in interface.v6.iter().filter(|own| !own.tentative) {
        while !has_local_route(&std::fs::read_to_string(ROUTES)?, own.addr) {
            if Instant::now() > end {
                let message = format!("the route to {} does not come", own.addr);
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            std::thread::sleep(ROUTE_LOOK);
        }
    }
    Ok(())
}

/// Whether a list of IPv6 routes has the local one of an address.
fn has_local_route(routes: &str, address: Ipv6Addr) -> bool {
    let wanted = format!("{:032x}", address.to_bits());
    routes.lines().any(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let flags = words
            .get(8)
            .and_then(|word| u32::from_str_radix(word, 16).ok());
        words.first() == Some(&wanted.as_str())
            && words.get(1) == Some(&"80")
            && flags.is_some_and(|flags| flags & RTF_LOCAL != 0)
    })
}

/// No state waits for the timer of a delayed acknowledgement.
fn acknowledge_at_once(interface: &Interface) -> io::Result<()> {
    let index = interface.index;
    for &(ip, prefix) in &interface.v4 {
        let net = first_of_net(ip, prefix);
        // The others of its network are secondary: what is sent to them comes from the first.
        let mut all = interface.v4.iter();
        let first = all.find(|own| own.1 == prefix && first_of_net(own.0, own.1) == net);
        let source = first.map_or(ip, |own| own.0).into();
        if index == 1 && interface.up && prefix < 32 {
            netlink::acknowledge_at_once(index, net.into(), prefix, source)?;
        }
        netlink::acknowledge_at_once(index, ip.into(), 32, source)?;
    }
    // The kernel takes no IPv6 route of an interface that is down.
    let v6 = interface.v6.iter().filter(|_| interface.up);
    for own in v6.filter(|own| !own.tentative) {
        netlink::acknowledge_at_once(index, own.addr.into(), 128, own.addr.into())?;
    }
    Ok(())
}

fn first_of_net(ip: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    Ipv4Addr::from_bits(ip.to_bits() & !host_bits)
}

/// Sets a sysctl of the network that this process is in.
pub(super) fn write(sysctl: &Sysctl, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{}", sysctl.name.replace('.', "/"));
    // An empty list still is a line.
    std::fs::write(path, format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_route_of_an_address_is_told_from_a_route_to_it() {
        let local = "20010db8000000000000000000000009 80 00000000000000000000000000000000 00 \
                     00000000000000000000000000000000 00000000 00000001 00000000 80200001     eth1";
        let address = "2001:db8::9".parse().unwrap();
        assert!(has_local_route(local, address));
        assert!(!has_local_route(
            &local.replace("80200001", "00000001"),
            address
        ));
        assert!(!has_local_route(local, "2001:db8::8".parse().unwrap()));
        assert!(!has_local_route("", address));
    }
}
