//! Groups of SO_REUSEPORT listeners.
//!
//! Decides:  who joins which group; the order of its members, which is what a program's index means;
//!           what a close does to the order; closed members, who stay for migration.
//! Kernel:   net/core/sock_reuseport.c; net/ipv4/inet_hashtables.c, inet_reuseport_add_sock(), 4.6 to 6.18
//! Not here: which listener's group is asked (lookup.rs).

use alloc::vec;
use alloc::vec::Vec;

use crate::bind::refuse;
use crate::call::Program;
use crate::conflict::addresses_equal;
use crate::errno::Errno;
use crate::explain::Trace;
use crate::rules::Rule;
use crate::socket::{Hashed, SockIx};
use crate::version::Change;
use crate::world::World;

/// The largest group: the room doubles from 128, and 16 bits count it.
const GROUP_MAX: usize = 32768;

/// A group's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GroupIx(pub u32);

#[derive(Debug, Clone, Default)]
pub(crate) struct Group {
    /// Listening, in the order of their index.
    pub members: Vec<SockIx>,
    /// Shut down or closed while `tcp_migrate_req` was on.
    pub closed_members: Vec<SockIx>,
    pub program: Option<Program>,
    /// How many of both have SO_INCOMING_CPU. A segment that sets it behind the group's back can make
    /// the count wrong, in the kernel too, so it wraps.
    pub with_cpu: u16,
    /// A member has answered SYNs by cookies.
    pub cookies_given: bool,
}

impl Group {
    pub(crate) fn closed(&self) -> usize {
        self.closed_members.len()
    }

    fn is_empty(&self) -> bool {
        self.members.is_empty() && self.closed_members.is_empty()
    }

    /// The last member takes the place of the one that leaves.
    fn remove(list: &mut Vec<SockIx>, ix: SockIx) {
        if let Some(at) = list.iter().position(|&member| member == ix) {
            list.swap_remove(at);
        }
    }
}

impl World {
    fn group_create(&mut self, first: SockIx) -> GroupIx {
        let index = self.groups.take(Group::default);
        let with_cpu = u16::from(self.socks[first].incoming_cpu >= 0);
        self.groups[index] = Group {
            members: vec![first],
            with_cpu,
            ..Group::default()
        };
        self.socks[first].group = Some(GroupIx(index));
        GroupIx(index)
    }

    /// A listener joins the group of the first like listener of its chain, or begins one.
    pub(crate) fn join_group<T: Trace>(&mut self, ix: SockIx, trace: &mut T) -> Result<(), Errno> {
        let sock = &self.socks[ix];
        let like = |other: &SockIx| {
            let them = &self.socks[*other];
            them.family == sock.family
                && them.v6only == sock.v6only
                && them.device == sock.device
                && them.bucket == sock.bucket
                && them.reuseport
                && them.uid == sock.uid
                && addresses_equal(sock, them, false)
        };
        let chain = self.chain_at(sock.net, sock.num, sock.hash_addr_bucket());
        let found = self.listeners_in(chain).find(like);
        match found {
            Some(other) => self.join(ix, other, trace),
            None => {
                trace.rule(Rule::GroupBegun);
                self.begin(ix);
                Ok(())
            }
        }
    }

    /// A group of one's own: the one that an attached program made, a new one otherwise.
    fn begin(&mut self, ix: SockIx) {
        match self.socks[ix].group {
            None => {
                self.group_create(ix);
            }
            Some(old) if self.groups[old.0].closed() > 0 => {
                // It was shut down before, and must not bring the old group's program along.
                self.detach_closed(ix, old);
                self.group_create(ix);
                self.release_group(old);
            }
            Some(_) => {}
        }
    }

    fn join<T: Trace>(&mut self, ix: SockIx, other: SockIx, trace: &mut T) -> Result<(), Errno> {
        let group = match self.socks[other].group {
            Some(group) => group,
            None => self.group_create(other),
        };
        let old = self.socks[ix].group;
        if let Some(old) = old
            && self.groups[old.0].closed() > 0
        {
            if old != group {
                self.make_room(group, trace)?;
            }
            self.detach_closed(ix, old);
            self.enter(ix, group, trace, other);
            self.release_group(old);
            return Ok(());
        }
        if old.is_some_and(|old| self.groups[old.0].members.len() != 1) {
            return refuse(trace, Rule::GroupBusy, Errno::EBUSY);
        }
        self.make_room(group, trace)?;
        if let Some(old) = old {
            self.groups.give_back(old.0);
        }
        self.enter(ix, group, trace, other);
        Ok(())
    }

    /// A full group lets the closed member go that came last.
    fn make_room<T: Trace>(&mut self, group: GroupIx, trace: &mut T) -> Result<(), Errno> {
        let entry = &self.groups[group.0];
        if entry.members.len() + entry.closed() < GROUP_MAX {
            return Ok(());
        }
        let Some(&closed) = entry.closed_members.last() else {
            return refuse(trace, Rule::GroupFull, Errno::ENOMEM);
        };
        self.detach_closed(closed, group);
        self.socks[closed].group = None;
        Ok(())
    }

    fn enter<T: Trace>(&mut self, ix: SockIx, group: GroupIx, trace: &mut T, other: SockIx) {
        trace.blame(Rule::GroupJoined, self.handle(other));
        let with_cpu = u16::from(self.socks[ix].incoming_cpu >= 0);
        let entry = &mut self.groups[group.0];
        entry.members.push(ix);
        entry.with_cpu = entry.with_cpu.wrapping_add(with_cpu);
        self.socks[ix].group = Some(group);
    }

    /// A closed member leaves the group.
    fn detach_closed(&mut self, ix: SockIx, group: GroupIx) {
        let with_cpu = u16::from(self.socks[ix].incoming_cpu >= 0);
        let entry = &mut self.groups[group.0];
        Group::remove(&mut entry.closed_members, ix);
        entry.with_cpu = entry.with_cpu.wrapping_sub(with_cpu);
    }

    fn release_group(&mut self, group: GroupIx) {
        if self.groups[group.0].is_empty() {
            self.groups.give_back(group.0);
        }
    }

    /// A listener stops: where connections may migrate, the group keeps it as a closed member.
    pub(crate) fn leave_group_on_stop(&mut self, ix: SockIx) {
        let Some(group) = self.socks[ix].group else {
            return;
        };
        let migrate = self.host.net(self.socks[ix].net).sysctls.tcp_migrate_req;
        if migrate && self.host.kernel.has(Change::MigrateReq) {
            let entry = &mut self.groups[group.0];
            Group::remove(&mut entry.members, ix);
            entry.closed_members.push(ix);
        } else {
            self.leave_group(ix);
        }
    }

    /// Leaves the group for good.
    pub(crate) fn leave_group(&mut self, ix: SockIx) {
        let Some(group) = self.socks[ix].group.take() else {
            return;
        };
        let with_cpu = u16::from(self.socks[ix].incoming_cpu >= 0);
        let entry = &mut self.groups[group.0];
        // It stands in one of the two.
        Group::remove(&mut entry.closed_members, ix);
        Group::remove(&mut entry.members, ix);
        entry.with_cpu = entry.with_cpu.wrapping_sub(with_cpu);
        self.release_group(group);
    }

    /// `SO_ATTACH_REUSEPORT_CBPF`.
    pub(crate) fn attach_program<T: Trace>(
        &mut self,
        ix: SockIx,
        program: Program,
        trace: &mut T,
    ) -> Result<(), Errno> {
        self.check_known(Change::GroupPrograms, trace)?;
        // A division by a constant zero (bpf_check_classic()).
        if program == Program::CpuModulo(0) {
            return refuse(trace, Rule::BadValue, Errno::EINVAL);
        }
        let sock = &self.socks[ix];
        let asks = sock.group.is_none() || self.host.kernel.has(Change::ProgramAsksReuseport);
        if sock.hashed == Hashed::No && (sock.reuseport || asks) {
            if !sock.reuseport {
                return refuse(trace, Rule::ProgramNeedsReuseport, Errno::EINVAL);
            }
            self.begin(ix);
        } else if sock.group.is_none() {
            return refuse(trace, Rule::ProgramTooLate, Errno::EINVAL);
        }
        if let Some(group) = self.socks[ix].group {
            self.groups[group.0].program = Some(program);
        }
        Ok(())
    }

    /// `SO_DETACH_REUSEPORT_BPF`.
    pub(crate) fn detach_program<T: Trace>(
        &mut self,
        ix: SockIx,
        trace: &mut T,
    ) -> Result<(), Errno> {
        self.check_known(Change::DetachReuseport, trace)?;
        let sock = &self.socks[ix];
        let Some(group) = sock.group else {
            let errno = if sock.reuseport {
                Errno::ENOENT
            } else {
                Errno::EINVAL
            };
            return refuse(trace, Rule::NoProgram, errno);
        };
        let stopped = sock.hashed == Hashed::No && self.groups[group.0].closed() > 0;
        if stopped || self.groups[group.0].program.take().is_none() {
            return refuse(trace, Rule::NoProgram, Errno::ENOENT);
        }
        Ok(())
    }

    /// `SO_INCOMING_CPU`.
    pub(crate) fn set_incoming_cpu<T: Trace>(
        &mut self,
        ix: SockIx,
        cpu: i32,
        trace: &mut T,
    ) -> Result<(), Errno> {
        self.check_known(Change::IncomingCpuSet, trace)?;
        let before = self.socks[ix].incoming_cpu;
        self.socks[ix].incoming_cpu = cpu;
        let Some(group) = self.socks[ix].group else {
            return Ok(());
        };
        let entry = &mut self.groups[group.0];
        if before < 0 && cpu >= 0 {
            entry.with_cpu = entry.with_cpu.wrapping_add(1);
        } else if before >= 0 && cpu < 0 {
            entry.with_cpu = entry.with_cpu.wrapping_sub(1);
        }
        Ok(())
    }

    /// Who of a group gets a connection: the program's choice, else by hash.
    pub(crate) fn choose_member<T: Trace>(
        &mut self,
        group: GroupIx,
        trace: &mut T,
    ) -> Option<SockIx> {
        let count = self.groups[group.0].members.len();
        if count == 0 {
            return None;
        }
        if let Some(member) = self.choice_of_program(group) {
            trace.blame(Rule::LookupProgram, self.handle(member));
            return Some(member);
        }
        let chosen = self.choose_by_hash(group);
        let cpu = self.host.kernel.has(Change::GroupCpu)
            && self.groups[group.0].with_cpu > 0
            && self.socks[chosen].incoming_cpu == self.cpu;
        let rule = match cpu {
            true => Rule::LookupCpu,
            false => Rule::LookupGroup,
        };
        trace.blame(rule, self.handle(chosen));
        Some(chosen)
    }

    /// The member that the group's program names, where it names one.
    pub(crate) fn choice_of_program(&self, group: GroupIx) -> Option<SockIx> {
        let group = &self.groups[group.0];
        let index = match group.program? {
            Program::Index(index) => index,
            Program::CpuModulo(modulus) => (self.cpu as u32).checked_rem(modulus).unwrap_or(0),
        };
        group.members.get(index as usize).copied()
    }

    /// By hash alone; with SO_INCOMING_CPU in the group, the next one of this processor.
    pub(crate) fn choose_by_hash(&mut self, group: GroupIx) -> SockIx {
        let count = self.groups[group.0].members.len();
        let start = self.draw_member(group);
        let entry = &self.groups[group.0];
        if entry.with_cpu == 0 || !self.host.kernel.has(Change::GroupCpu) {
            return entry.members[start];
        }
        let round = (0..count).map(|step| entry.members[(start + step) % count]);
        let here = round
            .clone()
            .find(|&member| self.socks[member].incoming_cpu == self.cpu);
        here.unwrap_or(entry.members[start])
    }
}

impl crate::socket::Sock {
    /// What the hash of listeners is over: IPv4 and its mapped form meet, and so do all wildcards.
    pub(crate) fn hash_addr_bucket(&self) -> u128 {
        Self::listener_hash(self.hash_addr())
    }

    /// The same of an address.
    pub(crate) fn listener_hash(addr: u128) -> u128 {
        if addr == crate::addr::mapped(0) {
            0
        } else {
            addr
        }
    }
}
