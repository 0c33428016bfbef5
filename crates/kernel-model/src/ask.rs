//! Questions that change nothing: what a call would answer, which ports could be bound.
//!
//! Decides:  nothing; each is a call on a copy of the world.
//! Not here: what would have to differ for another answer (ways_out.rs), the kernel's own choice of a
//!           port (chance.rs).

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::addr::SockAddr;
use crate::attempt::Attempt;
use crate::call::{Answer, Call};
use crate::difference::Difference;
use crate::explain::Explanation;
use crate::host::ProcessId;
use crate::world::{SocketId, World};

impl World {
    /// What a call would answer, and why; nothing changes.
    #[must_use]
    pub fn ask(&self, process: ProcessId, socket: SocketId, call: Call) -> (Answer, Explanation) {
        self.clone().explain(process, socket, call)
    }

    /// Those of the ports to which the socket could be bound now, at this address. Nothing changes.
    ///
    /// It costs one copy of the world, and a bind and a close for each port.
    ///
    /// ```
    /// use portcullis_kernel_model::*;
    ///
    /// let mut world = World::new(Host::new(Kernel::V6_18));
    /// let holder = world.socket(ProcessId(0), Family::Inet);
    /// world.call(holder, Call::Bind(SockAddr::new("127.0.0.1".parse().unwrap(), 8081)));
    /// let socket = world.socket(ProcessId(0), Family::Inet);
    /// let left = world.free_ports(ProcessId(0), socket, "0.0.0.0".parse().unwrap(), 8080..=8083);
    /// assert_eq!(left, [8080, 8082, 8083]);
    /// ```
    #[must_use]
    pub fn free_ports(
        &self,
        process: ProcessId,
        socket: SocketId,
        ip: IpAddr,
        ports: core::ops::RangeInclusive<u16>,
    ) -> Vec<u16> {
        let mut attempt = Attempt {
            world: self.clone(),
            process,
            socket,
            call: Call::Close,
            then: Vec::new(),
        };
        let family = match self.place_of(socket) {
            Some(ix) => self.socks[ix].family,
            None => return Vec::new(),
        };
        ports
            .filter(|&port| {
                attempt.socket = socket;
                attempt.apply(&Difference::Fresh(family));
                attempt.call = Call::Bind(SockAddr::new(ip, port));
                let free = attempt.succeeds();
                attempt.world.close_for_all(attempt.socket);
                free
            })
            .collect()
    }
}
