//! A script: calls on numbered sockets, with ports by name.
//!
//! Decides:  how a port's name becomes a number, so that one script runs on any free ports; what is
//!           seen of a step on either side.
//! Not here: the language that people write (script/), and what a call does.

use std::net::{IpAddr, SocketAddr};

use portcullis_kernel_model::{Answer, Bytes, Call, Family, Opt, SockAddr};

/// Sockets of one script.
pub const SLOTS: usize = 12;
/// Calls of one script.
pub const STEPS_MAX: usize = 64;

/// Names of ports in a script: ordinary ones, from 1.
pub const ORDINARY: u16 = 1;
/// Names of ports inside the range that the kernel chooses from.
pub const RANGE: u16 = 16;
/// Names of privileged ports.
pub const PRIVILEGED: u16 = 32;
/// The port that the socket of this slot has at the time.
pub const OF_SLOT: u16 = 48;
/// How many of each there are.
pub const NAMES: u16 = 16;
/// Width of the range that the kernel chooses from, below the number of names so that one lies outside.
pub const RANGE_WIDTH: u16 = 6;

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// `socket`; its descriptor does not block.
    Socket(Family),
    /// So many seconds pass.
    Wait(u32),
    /// A call on the socket of the slot. What `accept` returns goes into the step's second slot.
    Call(Call),
}

/// One line of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Which socket.
    pub slot: u8,
    /// Where `accept` puts the new one.
    pub into: u8,
    /// Which of the host's processes calls.
    pub process: u8,
    /// What it does.
    pub op: Op,
}

/// Calls in their order, on a host with one of the profiles.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Script {
    /// Which sysctls: an index into [`crate::host::PROFILES`].
    pub profile: u8,
    /// The calls.
    pub steps: Vec<Step>,
}

/// The numbers behind the names of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Of [`ORDINARY`].
    pub ordinary: u16,
    /// Of [`RANGE`]: the first port that the kernel may choose.
    pub range: u16,
    /// Of [`PRIVILEGED`].
    pub privileged: u16,
    /// Of [`OF_SLOT`].
    pub slots: [u16; SLOTS],
}

impl Ports {
    /// The number of a port by its name.
    #[must_use]
    pub fn number(&self, name: u16) -> u16 {
        match name {
            0 => 0,
            ORDINARY..RANGE => self.ordinary + (name - ORDINARY),
            RANGE..PRIVILEGED => self.range + (name - RANGE),
            PRIVILEGED..OF_SLOT => self.privileged + (name - PRIVILEGED),
            _ => self
                .slots
                .get(usize::from(name - OF_SLOT))
                .copied()
                .unwrap_or(0),
        }
    }

    /// The same call with numbers for names.
    #[must_use]
    pub fn resolve(&self, call: Call) -> Call {
        match call {
            Call::Bind(addr) => Call::Bind(self.address(addr)),
            Call::Connect(addr) => Call::Connect(self.address(addr)),
            Call::Set(option) => Call::Set(self.option(option)),
            Call::SetLen(option, len) => Call::SetLen(self.option(option), len),
            other => other,
        }
    }

    fn option(&self, option: Opt) -> Opt {
        let Opt::LocalPortRange(range) = option else {
            return option;
        };
        let (low, high) = (self.number(range as u16), self.number((range >> 16) as u16));
        Opt::LocalPortRange(u32::from(low) | u32::from(high) << 16)
    }

    fn address(&self, addr: SockAddr) -> SockAddr {
        SockAddr {
            port: self.number(addr.port),
            ..addr
        }
    }
}

/// What a step answered, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Outcome {
    /// Success.
    #[default]
    Ok,
    /// An error number.
    Err(i32),
    /// An option's value.
    Value(i32),
    /// An option's value as bytes.
    Bytes(Bytes),
    /// A socket's name.
    Address(SocketAddr),
    /// `accept` gave a socket.
    Accepted,
    /// It would have waited.
    Blocks,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Outcome {
        match answer {
            Answer::Ok => Outcome::Ok,
            Answer::Err(errno) => Outcome::Err(errno.number()),
            Answer::Value(value) => Outcome::Value(value),
            Answer::Bytes(bytes) => Outcome::Bytes(bytes),
            Answer::Address(address) => Outcome::Address(address),
            Answer::Accepted(_) => Outcome::Accepted,
            Answer::Blocks => Outcome::Blocks,
        }
    }
}

/// All that is compared after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Seen {
    /// The answer.
    pub outcome: Outcome,
    /// The socket's own name after a call that can change it.
    pub name: Option<SocketAddr>,
    /// The state after such a call; 0 where it was not asked.
    pub state: u8,
    /// `connect` only: which listener's queue grew (a slot), where several could.
    pub receiver: Option<u8>,
}

/// Whether the name and the state of the socket are looked at after this call.
#[must_use]
pub fn observed(call: Call) -> bool {
    matches!(
        call,
        Call::Bind(_) | Call::Listen(_) | Call::Connect(_) | Call::Shutdown(_) | Call::Accept
    )
}

/// The wildcard of a family.
#[must_use]
pub fn wildcard(family: Family) -> IpAddr {
    match family {
        Family::Inet => IpAddr::from([0u8; 4]),
        Family::Inet6 => IpAddr::from([0u8; 16]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_of_a_port_has_its_number() {
        let mut slots = [0; SLOTS];
        slots[3] = 777;
        let ports = Ports {
            ordinary: 2000,
            range: 40000,
            privileged: 80,
            slots,
        };
        let table = [
            (0, 0),
            (ORDINARY, 2000),
            (ORDINARY + 2, 2002),
            (RANGE + 5, 40005),
            (PRIVILEGED, 80),
            (OF_SLOT + 3, 777),
            (OF_SLOT + 200, 0),
        ];
        for (name, number) in table {
            assert_eq!(ports.number(name), number, "name {name}");
        }
    }
}
