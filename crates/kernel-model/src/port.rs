//! Taking a port: the one that was asked for, or one that is free.
//!
//! Decides:  whether the bucket's memory lets a socket in, and if not, whether the owners do; what
//!           happens to the bucket then. `bind` and `listen` both ask here.
//! Kernel:   net/ipv4/inet_connection_sock.c, inet_csk_get_port(), 3.9 to 6.18
//! Not here: which free port (ports.rs); the walk (conflict.rs).

use crate::bucket::BucketIx;
use crate::call::State;
use crate::conflict::Strictness;
use crate::errno::Errno;
use crate::explain::Trace;
use crate::rules::Rule;
use crate::socket::{Reuse, SockIx};
use crate::version::Change;
use crate::world::World;

impl World {
    /// Makes the socket an owner of the port; of any free one for 0. A socket that owns it already
    /// (it listens now) is checked again.
    pub(crate) fn get_port<T: Trace>(
        &mut self,
        ix: SockIx,
        port: u16,
        trace: &mut T,
    ) -> Result<(), Errno> {
        if port == 0 && self.port_range(ix).2 {
            trace.rule(Rule::OwnPortRange);
        }
        let (port, check) = if port == 0 {
            (self.choose_port(ix, trace)?, false)
        } else {
            (port, true)
        };
        if self.port_vrf(ix) != 0 {
            trace.rule(Rule::VrfPorts);
        }
        // One that owns the port already is checked against those that it owns it with.
        let owned = self.socks[ix].bucket;
        let found = owned.or_else(|| self.bucket_for(ix, port));
        let mut unasked = false;
        if let Some(bucket) = found
            && check
        {
            unasked = self.memory_allows(ix, bucket, trace);
            if !unasked {
                if self.conflicts(ix, bucket, Strictness::NAMED, trace) {
                    return Err(Errno::EADDRINUSE);
                }
                match self.first_other_owner(ix, bucket).filter(|_| T::ASKED) {
                    Some(other) => trace.blame(Rule::PortShared, self.handle(other)),
                    None => trace.rule(Rule::PortShared),
                }
            }
        }
        let first = found.is_none();
        let bucket = match found {
            Some(bucket) => bucket,
            None => {
                trace.rule(Rule::PortFree);
                self.bucket_create(ix, port)
            }
        };
        let list = match self.owners_of(bucket, ix) {
            Some(list) => list,
            None => self.owners_create(bucket, ix),
        };
        // Where it let a socket in, an older kernel's memory stays as it was, even if the socket listens.
        if !unasked || self.host.kernel.has(Change::StrictReuseport) {
            self.update_memory(ix, bucket, list, first);
        }
        if self.socks[ix].bucket.is_none() {
            self.own(ix, bucket, list);
        }
        Ok(())
    }

    fn first_other_owner(&self, ix: SockIx, bucket: BucketIx) -> Option<SockIx> {
        let lists = self.lists_of(bucket);
        let mut owners = lists.flat_map(|list| self.owners_in(list));
        owners.find(|&other| other != ix)
    }

    /// Whether no owner need be asked.
    fn memory_allows<T: Trace>(&self, ix: SockIx, bucket: BucketIx, trace: &mut T) -> bool {
        let sock = &self.socks[ix];
        if sock.reuse == Reuse::Force {
            trace.rule(Rule::RepairForcesReuse);
            return true;
        }
        let reuse = sock.reuse != Reuse::No && sock.state != State::Listen;
        if self.buckets[bucket.0].fastreuse > 0 && reuse {
            trace.rule(Rule::BucketRemembersReuseaddr);
            return true;
        }
        if self.reuseport_matches(bucket, ix) {
            trace.rule(Rule::BucketRemembersReuseport);
            return true;
        }
        false
    }
}
