//! What an observer may see of sockets and ports, for tables and reports.
//!
//! Decides:  nothing; it copies.
//! Not here: what the fields mean (bucket.rs).

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

use crate::addr::{ip4, is_mapped};
use crate::call::State;
use crate::host::NetId;
use crate::world::{SocketId, World};

/// A port and its owners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketView {
    /// What the bucket remembers of SO_REUSEADDR; -1 where only connect uses the port.
    pub fastreuse: i8,
    /// What it remembers of SO_REUSEPORT: 0 nothing, 1 of any address, 2 of the remembered one; -1 as
    /// above.
    pub fastreuseport: i8,
    /// Owners by address, the newest last.
    pub owners: Vec<(IpAddr, Vec<Owner>)>,
}

/// An owner of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The socket; those that nobody holds have a handle too, which opens nothing.
    pub socket: SocketId,
    /// Its state.
    pub state: State,
}

impl World {
    /// The bucket of a port, if anybody owns it.
    #[must_use]
    pub fn bucket(&self, net: NetId, port: u16) -> Option<BucketView> {
        let at = self.bucket_of(net, port)?;
        let bucket = &self.buckets[at.0];
        let owners = self.lists_of(at).map(|at| {
            let list = &self.owners[at.0];
            let ip = if is_mapped(list.addr) {
                ip4(list.addr as u32)
            } else {
                IpAddr::V6(Ipv6Addr::from_bits(list.addr))
            };
            let owner = |ix| Owner {
                socket: self.handle(ix),
                state: self.socks[ix].state,
            };
            let mut owners: Vec<Owner> = self.owners_in(at).map(owner).collect();
            owners.reverse();
            (ip, owners)
        });
        let mut owners: Vec<_> = owners.collect();
        owners.reverse();
        Some(BucketView {
            fastreuse: bucket.fastreuse,
            fastreuseport: bucket.fastreuseport,
            owners,
        })
    }
}
