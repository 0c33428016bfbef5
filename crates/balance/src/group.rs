//! The servers of one backend, and the one atomic step that chooses and counts.
//!
//! Decides:  which server takes the next connection, exactly, for all workers together.
//! Not here: whether a server is healthy (it is told), waiting for a free slot (queues).

use std::sync::Mutex;

/// How the next server is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// Of `draws` servers drawn by weight, the least loaded for its weight.
    Random {
        /// At least 1.
        draws: u32,
    },
    /// Each in turn by weight; weights may change at run time.
    RoundRobin,
    /// Each in turn by the weight it began with.
    StaticRoundRobin,
    /// The least loaded for its weight; among equals, each in turn.
    LeastConn,
}

/// Whether a server serves always, or only when no other one can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tier {
    /// Serves whenever it is usable.
    Active,
    /// Serves when no active server is usable: the first one, or all with `allbackups`.
    Backup,
}

/// What a configuration says of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name: by it a server keeps its slot and counts over a reconfiguration.
    pub name: String,
    /// 0 to 256; 0 takes no new connection.
    pub weight: u16,
    /// Active or backup.
    pub tier: Tier,
    /// Up, not in maintenance.
    pub usable: bool,
}

/// A server's slot in its group; never reused while connections are counted on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u32);

/// The servers of one backend, shared by all workers; every method is one atomic step.
#[derive(Debug)]
pub struct Group {
    inner: Mutex<()>,
}

// The methods that the other crates rely on (bodies are the balance crate's):
//   Group::new(algorithm, all_backups: AllBackups, members: &[Member]) -> Group
//   group.reconfigure(algorithm, all_backups, members) -> Vec<MemberId>      // slot of each member, in order
//   group.slots(&[names])…  as needed
//   group.choose(random: u64, avoid: Option<MemberId>) -> Option<MemberId>    // chooses AND counts
//   group.release(MemberId)                                                   // the connection ended
//   group.set_usable(MemberId, bool), group.set_weight(MemberId, u16)
//   group.active_connections(MemberId) -> u32, group.total() -> u32, group.usable_members() -> u32
