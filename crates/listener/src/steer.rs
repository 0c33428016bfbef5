//! Which shard gets a new connection: the order of a group's members, and programs that choose among them.
//!
//! Decides:  the order after each `listen` and close, as the kernel keeps it; the instructions that spread
//!           connections over some of the members, evenly or by the CPU that received the packet.
//! Kernel:   net/core/sock_reuseport.c, reuseport_add_sock() (a new member is the last),
//!           __reuseport_detach_sock() (the last one takes the hole of the one that leaves),
//!           reuseport_select_sock() and run_bpf_filter() (an index beyond the members means the hash);
//!           net/ipv4/inet_hashtables.c, inet_reuseport_add_sock() (who is of one group: one family, address,
//!           port, device, IPV6_V6ONLY and user); net/core/filter.c, convert_bpf_extensions(), 4.6 to 6.18
//! Not here: when to close a member (retire.rs), keeping SYNs from a single socket (pause.rs).
//!
//! A program sees SYNs, and the last acknowledgement of a handshake that was answered by a SYN cookie, since
//! nothing else is known of that connection. What a listener began stays with it: a half-open connection is
//! found by its addresses before any listener is looked for (tcp_v4_rcv(), tcp_check_req()). A cookie is good
//! for every member of a group, since the group remembers that it gave some (tcp_synq_no_recent_overflow()).

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

use portcullis_sys::filter::{self, Instruction, PROGRAM_MAX};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

// Codes of linux/bpf_common.h.
const LD_W_ABS: u16 = 0x20;
const ALU_ADD_K: u16 = 0x04;
const ALU_MOD_K: u16 = 0x94;
const JMP_JEQ_K: u16 = 0x15;
const JMP_JGE_K: u16 = 0x35;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;
/// `SKF_AD_OFF + SKF_AD_CPU` and `SKF_AD_OFF + SKF_AD_RANDOM`.
const CPU: u32 = 0xffff_f000 + 36;
const RANDOM: u32 = 0xffff_f000 + 56;

/// The members of one SO_REUSEPORT group, by the caller's numbers, in the order that the kernel keeps.
///
/// It is known only to who saw every `listen` and close of the group, in their order; it can be sent along
/// with the sockets. Nothing in the kernel tells it: sock_diag and `/proc/net/tcp` list listeners in the order
/// of `listen`, whatever closed in between.
///
/// ```
/// use portcullis_listener::steer::Order;
///
/// let mut order = Order::of([0, 1, 2, 3]); // four shards, as `open` made them
/// order.left(1);
/// assert_eq!(order.members(), [0, 3, 2]);
/// order.joined(1); // opened again
/// assert_eq!(order.index_of(1), Some(3));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Order {
    members: Vec<u32>,
}

impl Order {
    /// Members that called `listen` in this order, when the group had no others. A number that comes again
    /// is left out.
    pub fn of(members: impl IntoIterator<Item = u32>) -> Order {
        let mut order = Order::default();
        for member in members {
            order.joined(member);
        }
        order
    }

    /// `listen`: it is the last. `false` where it is a member already, which `listen` does not move.
    pub fn joined(&mut self, member: u32) -> bool {
        let new = self.index_of(member).is_none();
        if new {
            self.members.push(member);
        }
        new
    }

    /// It was closed by its last holder, or shut down: the last member takes its place. `false` where it was
    /// no member.
    pub fn left(&mut self, member: u32) -> bool {
        let at = self.members.iter().position(|&one| one == member);
        if let Some(at) = at {
            self.members.swap_remove(at);
        }
        at.is_some()
    }

    /// What a program must return for this member.
    pub fn index_of(&self, member: u32) -> Option<u32> {
        let at = self.members.iter().position(|&one| one == member)?;
        Some(at as u32)
    }

    /// The members, by index.
    pub fn members(&self) -> &[u32] {
        &self.members
    }
}

/// By what a connection's shard is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// All alike. Among all members it is the kernel's own hash, without a program; among some of them the
    /// kernel's random numbers, since classic BPF has no hash of the addresses: a SYN that is sent again
    /// may go to another shard than the first, which was not answered.
    Even,
    /// By the CPU that received the packet: the member of each CPU, by number, from CPU 0; the next CPU
    /// after the last begins again with the first. A CPU whose member is not admitted is shared among the
    /// others. A worker that runs on the CPU of its packets moves no cache lines.
    ByCpu(Vec<u32>),
}

/// Why there is no program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoProgram {
    /// Nobody is admitted: that is for a filter (pause.rs).
    NobodyAdmitted,
    /// This one is to be admitted, and is no member.
    NotAMember(u32),
    /// It would be longer than the kernel takes.
    TooLong(usize),
}

impl fmt::Display for NoProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoProgram::NobodyAdmitted => f.write_str("a program must admit one member at least"),
            NoProgram::NotAMember(member) => write!(f, "{member} is no member of the group"),
            NoProgram::TooLong(length) => write!(
                f,
                "a program of {length} instructions is longer than the kernel takes ({PROGRAM_MAX})"
            ),
        }
    }
}

impl std::error::Error for NoProgram {}

/// A classic BPF program that picks the member of a group; right for one order alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program(Vec<Instruction>);

impl Program {
    /// The program for this order that gives connections to the admitted members alone.
    pub fn new(order: &Order, admitted: &[u32], choice: &Choice) -> Result<Program, NoProgram> {
        let mut indexes = Vec::with_capacity(admitted.len());
        for &member in admitted {
            let index = order.index_of(member);
            indexes.push(index.ok_or(NoProgram::NotAMember(member))?);
        }
        indexes.sort_unstable();
        indexes.dedup();
        if indexes.is_empty() {
            return Err(NoProgram::NobodyAdmitted);
        }
        let code = match choice {
            Choice::ByCpu(homes) if indexes.len() > 1 && !homes.is_empty() => {
                by_cpu(&homes_of(order, &indexes, homes))
            }
            _ => evenly(order.members.len() as u32, &indexes),
        };
        if code.len() > PROGRAM_MAX {
            return Err(NoProgram::TooLong(code.len()));
        }
        Ok(Program(code))
    }

    /// The instructions.
    pub fn instructions(&self) -> &[Instruction] {
        &self.0
    }

    /// `SO_ATTACH_REUSEPORT_CBPF`, by any member: it takes the place of the group's program at once. Packets
    /// that are being received still go by the old one; [`settle`] waits for them.
    pub fn attach(&self, member: impl AsFd) -> io::Result<()> {
        Ok(filter::attach_group_program(member, &self.0)?)
    }

    /// What it returns for a random number and a CPU.
    #[cfg(test)]
    pub(crate) fn run(&self, random: u32, cpu: u32) -> u32 {
        let (mut a, mut at) = (0u32, 0usize);
        loop {
            let (code, jt, jf, k) = self.0[at];
            at += 1;
            match code {
                LD_W_ABS => a = if k == CPU { cpu } else { random },
                ALU_ADD_K => a = a.wrapping_add(k),
                ALU_MOD_K => a %= k,
                JMP_JEQ_K => at += usize::from(if a == k { jt } else { jf }),
                JMP_JGE_K => at += usize::from(if a >= k { jt } else { jf }),
                RET_K => return k,
                RET_A => return a,
                _ => panic!("unknown code {code:#x}"),
            }
        }
    }
}

/// The index of each CPU's member, or of one that is admitted in its place.
fn homes_of(order: &Order, indexes: &[u32], homes: &[u32]) -> Vec<u32> {
    let home = |(cpu, &member): (usize, &u32)| match order.index_of(member) {
        Some(index) if indexes.binary_search(&index).is_ok() => index,
        _ => indexes[cpu % indexes.len()],
    };
    homes.iter().enumerate().map(home).collect()
}

fn by_cpu(homes: &[u32]) -> Vec<Instruction> {
    let mut code = vec![(LD_W_ABS, 0, 0, CPU), (ALU_MOD_K, 0, 0, homes.len() as u32)];
    for (cpu, &index) in homes.iter().enumerate() {
        if cpu as u32 != index {
            code.push((JMP_JEQ_K, 0, 1, cpu as u32));
            code.push((RET_K, 0, 0, index));
        }
    }
    code.push((RET_A, 0, 0, 0));
    code
}

/// `indexes` in order, of a group of `count`. Whichever is shorter: a list of those admitted, or of the others.
fn evenly(count: u32, indexes: &[u32]) -> Vec<Instruction> {
    let (last, rest) = match indexes {
        [] => return vec![(RET_K, 0, 0, 0)],
        [only] => return vec![(RET_K, 0, 0, *only)],
        [rest @ .., last] => (*last, rest),
    };
    let mut code = vec![
        (LD_W_ABS, 0, 0, RANDOM),
        (ALU_MOD_K, 0, 0, indexes.len() as u32),
    ];
    if indexes.len() as u32 <= count - indexes.len() as u32 {
        for (number, &index) in rest.iter().enumerate() {
            code.push((JMP_JEQ_K, 0, 1, number as u32));
            code.push((RET_K, 0, 0, index));
        }
        code.push((RET_K, 0, 0, last));
        return code;
    }
    // The n-th admitted one: each hole at or below it moves it up by one.
    for hole in (0..last).filter(|index| indexes.binary_search(index).is_err()) {
        code.push((JMP_JGE_K, 0, 1, hole));
        code.push((ALU_ADD_K, 0, 0, 1));
    }
    code.push((RET_A, 0, 0, 0));
    code
}

/// `SO_DETACH_REUSEPORT_BPF`, by any member: the hash chooses among all members again. `false` where the
/// group had no program.
///
/// A program outlives who attached it: a process that takes a group over attaches its own, or calls this.
pub fn detach(member: impl AsFd) -> io::Result<bool> {
    match filter::detach_group_program(member) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// How long a packet is given at the most, once it is being received: the kernel receives it without a pause, so that
/// only a processor that is not there (a virtual one that its host does not run) takes longer.
const RECEIVED_WITHIN: Duration = Duration::from_secs(1);

/// Waits until no packet that was being received at the call can still go by a program, filter or member of
/// before. It sleeps some 10 to 30 ms: not for a thread that serves connections. Where all processors are busy with
/// what has more weight, the kernel needs many seconds to tell (a grace period is counted by a thread of its own,
/// `rcu_preempt`, which waits for its turn: 19 s were seen), so it is asked for one second.
///
/// An error where the kernel offers no such wait (`nohz_full` processors); a pause of 100 ms is then as good
/// on a host that is not stopped.
pub fn settle() -> io::Result<()> {
    let (sender, told) = mpsc::channel();
    let wait = move || {
        // Who asked may have gone on.
        let _ = sender.send(filter::wait_for_packets());
    };
    let waiting = std::thread::Builder::new().name("settle".to_owned());
    if waiting.spawn(wait).is_err() {
        std::thread::sleep(RECEIVED_WITHIN);
        return Ok(());
    }
    match told.recv_timeout(RECEIVED_WITHIN) {
        Ok(waited) => Ok(waited?),
        Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
