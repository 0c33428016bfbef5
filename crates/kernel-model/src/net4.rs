//! IPv4 networks as numbers.
//!
//! Decides:  the first and the last address of a network; what "this network" is in each release.
//! Kernel:   include/linux/in.h, ipv4_is_zeronet(), 3.9 to 6.18
//! Not here: who has the addresses (host.rs), where they lead (way.rs, neighbour.rs).

use core::net::Ipv4Addr;

use crate::version::{Change, Kernel};

/// An IPv4 network: its first address and its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Net4 {
    pub(crate) first: u32,
    pub(crate) last: u32,
}

impl Net4 {
    pub(crate) fn of(own: Ipv4Addr, prefix: u8) -> Net4 {
        let host_bits = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
        Net4 {
            first: own.to_bits() & !host_bits,
            last: own.to_bits() | host_bits,
        }
    }

    pub(crate) fn contains(self, addr: u32) -> bool {
        (self.first..=self.last).contains(&addr)
    }
}

/// Whether an address is of "this network": 0.0.0.0, and once all of 0.0.0.0/8.
pub(crate) fn zeronet(kernel: Kernel, addr: u32) -> bool {
    if kernel.has(Change::ZeronetIsOneAddress) {
        addr == 0
    } else {
        addr >> 24 == 0
    }
}
