//! Random draws: made up, or told.
//!
//! Decides:  what the kernel's random number is where nobody tells it; how a caller who has watched a
//!           kernel tells what it drew.
//! Kernel:   get_random_u32_below() in inet_csk_find_open_port(); inet_sk_port_offset() and
//!           table_perturb in __inet_hash_connect(); reuseport_select_sock(), 3.9 to 6.18
//! Not here: which ports or members a draw can lead to (scan.rs, rover.rs, reuseport.rs).
//!
//! Where Linux draws at random, there is a set of answers that it may give, and for one draw one answer.
//! [`World::port_choice`] gives the set before a call. To follow a kernel that has answered already,
//! tell what came out before the same call on the model: [`World::tell_port`], [`World::tell_no_port`]
//! or [`World::tell_member`]. The model then draws so that this comes out, if any draw can; where none
//! can, it answers something else, and the two differ. To follow a kernel whose numbers are known, tell
//! the numbers, with [`World::tell_draw`]. [`World::forget_told`] ends it.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::call::Call;
use crate::errno::Errno;
use crate::host::ProcessId;
use crate::ports::{PortChoice, Told};
use crate::reuseport::GroupIx;
use crate::scan::Reach;
use crate::socket::SockIx;
use crate::world::{SocketId, World};

/// Where draws come from.
#[derive(Debug, Clone)]
pub(crate) struct Chance {
    random: u64,
    port: Told,
    draws: VecDeque<u32>,
    members: VecDeque<SocketId>,
    choices: Option<VecDeque<u32>>,
    /// The choices among members since [`World::forget_told`]: of how many, and which.
    made: Vec<(u32, u32)>,
    /// Nothing is to be chosen, only what could be.
    asked: bool,
    answer: Option<Reach>,
}

impl Chance {
    pub(crate) fn new() -> Chance {
        Chance {
            random: 0x9e37_79b9_7f4a_7c15,
            port: Told::Nothing,
            draws: VecDeque::new(),
            members: VecDeque::new(),
            choices: None,
            made: Vec::new(),
            asked: false,
            answer: None,
        }
    }
}

impl World {
    /// What a call would choose from, if it leaves the choice of a port to the kernel: `bind` to port
    /// 0, `listen` without `bind`, `connect` without a port. `None` where it chooses none: it has a
    /// port, defers the choice to `connect`, or fails before.
    ///
    /// It makes the call on a copy of the world, so it is for questions and not for inner loops.
    ///
    /// ```
    /// use portcullis_kernel_model::*;
    ///
    /// let mut host = Host::new(Kernel::V6_18);
    /// host.namespaces[0].sysctls.ip_local_port_range = (40_000, 40_004);
    /// let mut world = World::new(host);
    /// let socket = world.socket(ProcessId(0), Family::Inet);
    /// let bind = Call::Bind(SockAddr::new("127.0.0.1".parse().unwrap(), 0));
    /// let choice = world.port_choice(ProcessId(0), socket, bind).unwrap();
    /// assert_eq!(choice.ports, [40_001, 40_003]);
    /// assert!(!choice.may_fail);
    /// ```
    #[must_use]
    pub fn port_choice(
        &self,
        process: ProcessId,
        socket: SocketId,
        call: Call,
    ) -> Option<PortChoice> {
        let mut copy = self.clone();
        copy.chance.asked = true;
        copy.call_as(process, socket, call);
        copy.chance.answer.map(PortChoice::from)
    }

    /// Whether a choice is only to be described.
    pub(crate) fn is_asked(&self) -> bool {
        self.chance.asked
    }

    /// Describes a choice; the call ends here, as if there were none.
    pub(crate) fn answer_asked<V>(&mut self, reach: Reach, errno: Errno) -> Result<V, Errno> {
        self.chance.answer = Some(reach);
        Err(errno)
    }

    pub(crate) fn told(&self) -> Told {
        if self.chance.draws.is_empty() {
            self.chance.port
        } else {
            Told::Nothing
        }
    }

    /// The next choice of a port comes out as this one, if any draw of the kernel's leads to it.
    pub fn tell_port(&mut self, port: u16) {
        self.chance.port = Told::Port(port);
    }

    /// The next choice of a port finds none, if any draw of the kernel's finds none.
    pub fn tell_no_port(&mut self) {
        self.chance.port = Told::NoPort;
    }

    /// A random number, for the next draw of one; several are used in the order in which they are told.
    ///
    /// - `bind` and `listen` draw one for each stretch that they search (`get_random_u32_below`, before
    ///   it is made odd): the offset in the range, or in its half; until 4.5 the rover's start.
    /// - `connect` draws one: the offset that the hash of the addresses and `table_perturb` add up to.
    /// - A group of SO_REUSEPORT listeners draws the index of a member.
    ///
    /// A number beyond the bound is reduced to its rest.
    pub fn tell_draw(&mut self, draw: u32) {
        self.chance.draws.push_back(draw);
    }

    /// The next choice among the members of a group by hash falls on this one, if it is a member. May
    /// be told several times, for several choices.
    pub fn tell_member(&mut self, member: SocketId) {
        self.chance.members.push_back(member);
    }

    /// Forgets what was told, once a call has used it.
    pub fn forget_told(&mut self) {
        self.chance.port = Told::Nothing;
        self.chance.draws.clear();
        self.chance.members.clear();
        self.chance.choices = None;
        self.chance.made.clear();
    }

    /// Seeds the draws that nobody tells.
    pub fn seed(&mut self, seed: u64) {
        self.chance.random = seed | 1;
    }

    /// The next choices among the members of groups by hash fall on those of these indices, and any
    /// after them on the first (of two: whether something came in time): to go through every possibility, with [`World::choices_made`].
    pub fn tell_choices(&mut self, choices: &[u32]) {
        self.chance.choices = Some(choices.iter().copied().collect());
    }

    /// The choices among members of groups, and of what came in time, since [`World::forget_told`]: of
    /// how many, and which.
    #[must_use]
    pub fn choices_made(&self) -> Vec<(u32, u32)> {
        self.chance.made.clone()
    }

    /// Where in the group a hash points to.
    pub(crate) fn draw_member(&mut self, members: GroupIx) -> usize {
        let count = self.groups[members.0].members.len();
        if count < 2 {
            return 0;
        }
        let chosen = self.draw_index(members, count);
        self.chance.made.push((count as u32, chosen as u32));
        chosen
    }

    /// Whether something came in time, where that is a matter of milliseconds, or is later by a number that
    /// is drawn: `likely` unless told.
    pub(crate) fn draw_moment(&mut self, likely: bool) -> bool {
        let in_time = match &mut self.chance.choices {
            Some(choices) => choices.pop_front().unwrap_or(0) == 0,
            None => likely,
        };
        self.chance.made.push((2, u32::from(!in_time)));
        in_time
    }

    fn draw_index(&mut self, members: GroupIx, count: usize) -> usize {
        if let Some(choices) = &mut self.chance.choices {
            return choices.pop_front().unwrap_or(0) as usize % count;
        }
        if let Some(told) = self.chance.members.pop_front() {
            let list = &self.groups[members.0].members;
            if let Some(at) = list.iter().position(|&ix| ix == told.index) {
                return at;
            }
        }
        self.draw(count as u32) as usize
    }

    /// Among equal listeners, each one after the first replaces the choice with a chance of one in as many
    /// as were met.
    pub(crate) fn draw_equal(&mut self, equals: &[SockIx]) -> SockIx {
        if let Some(told) = self.chance.members.pop_front()
            && equals.contains(&told.index)
        {
            return told.index;
        }
        let mut chosen = equals[0];
        for (met, &ix) in equals.iter().enumerate().skip(1) {
            if self.draw(met as u32 + 1) == 0 {
                chosen = ix;
            }
        }
        chosen
    }

    /// A number below `below`.
    pub(crate) fn draw(&mut self, below: u32) -> u32 {
        let chance = &mut self.chance;
        if let Some(draw) = chance.draws.pop_front() {
            return draw.checked_rem(below).unwrap_or(0);
        }
        // xorshift64*, to be the same everywhere.
        chance.random ^= chance.random >> 12;
        chance.random ^= chance.random << 25;
        chance.random ^= chance.random >> 27;
        let drawn = chance.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32;
        ((drawn * u64::from(below)) >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Family;
    use crate::host::Host;
    use crate::version::Kernel;

    #[test]
    fn what_nobody_tells_is_the_same_everywhere() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        world.seed(1);
        let drawn: Vec<u32> = (0..4).map(|_| world.draw(1000)).collect();
        // The first numbers of xorshift64* from 1: 5180492295206395165, ...
        assert_eq!(drawn, [280, 671, 725, 303]);
        world.seed(1);
        assert_eq!(world.draw(1000), 280);
        world.seed(2);
        assert_ne!(world.draw(1000), 280);
    }

    #[test]
    fn what_was_told_is_forgotten_whole() {
        let mut world = World::new(Host::new(Kernel::V6_18));
        let member = world.socket(ProcessId(0), Family::Inet);
        world.tell_port(80);
        assert_eq!(world.told(), Told::Port(80));
        world.tell_draw(7);
        assert_eq!(world.told(), Told::Nothing, "numbers come before a port");
        world.tell_member(member);
        world.tell_choices(&[1]);
        assert!(!world.draw_moment(true));
        assert_eq!(world.choices_made(), [(2, 1)]);
        assert_eq!(world.chance.members, [member]);
        world.forget_told();
        let chance = &world.chance;
        assert_eq!(chance.port, Told::Nothing);
        assert_eq!((chance.draws.len(), chance.members.len()), (0, 0));
        assert_eq!(chance.choices, None);
        assert_eq!(world.choices_made(), []);
        world.tell_no_port();
        assert_eq!(world.told(), Told::NoPort);
    }
}
