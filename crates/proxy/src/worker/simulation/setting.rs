//! What a simulated configuration says, by seed.
//!
//! Decides:  a plain one has three equal servers; a wide one draws from all that there is to say of
//!           balancing, limits, rates, PROXY headers and errors.
//! Not here: what must hold with any of it (simulation.rs, invariants.rs).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_balance::{
    AddressHash, Affinity, Algorithm, AllBackups, HashFunction, HashInput, HashTable, Limits,
    Member, Tier,
};

use super::{MAXCONN, Trial};
use crate::net::simulated::Dice;
use crate::snapshot::Watcher;

/// Failed connections in a row of which `observe layer4` tells.
pub(super) const ERROR_LIMIT: u32 = 2;

/// What a trial's configuration says.
#[derive(Debug)]
pub(super) struct Setting {
    pub algorithm: Algorithm,
    pub hash: Option<AddressHash>,
    pub members: Vec<Member>,
    pub all_backups: AllBackups,
    pub fullconn: u32,
    /// `maxconn` of the process and of the listener's address; 0: none.
    pub process_maxconn: u32,
    pub listener_maxconn: u32,
    /// Connections a second of the frontend and of the process; 0: any.
    pub session_rate: u32,
    pub process_rate: u32,
    /// `accept-proxy`, and how long a header may take.
    pub proxies: bool,
    pub greeting_ms: u32,
    /// `observe layer4`
    pub observe: bool,
    /// `slowstart`
    pub slow_start_s: u32,
}

impl Setting {
    /// Of a trial; `limits` are the servers' `maxconn`.
    pub(super) fn of(trial: Trial, dice: &mut Dice, limits: [u32; 3]) -> Setting {
        let members = limits.iter().enumerate().map(|(at, &maxconn)| Member {
            name: format!("s{at}"),
            tier: Tier::Active,
            limits: Limits {
                maxconn,
                ..Limits::default()
            },
            ..Member::default()
        });
        let plain = Setting {
            algorithm: match dice.below(3) {
                0 => Algorithm::LeastConn,
                1 => Algorithm::RoundRobin,
                _ => Algorithm::Random { draws: 2 },
            },
            hash: None,
            members: members.collect(),
            all_backups: AllBackups::No,
            fullconn: 0,
            process_maxconn: 0,
            listener_maxconn: 0,
            session_rate: 0,
            process_rate: 0,
            proxies: false,
            greeting_ms: 0,
            observe: false,
            slow_start_s: 0,
        };
        match trial.wide {
            // Dice of their own: a plain trial of the same seed stays what it is.
            true => plain.widened(trial, &mut Dice::new(trial.seed ^ 0x01de)),
            false => plain,
        }
    }

    fn widened(mut self, trial: Trial, dice: &mut Dice) -> Setting {
        let affinity = [Affinity::Always, Affinity::MaxConn, Affinity::MaxQueue];
        self.algorithm = match dice.below(8) {
            0 => Algorithm::LeastConn,
            1 => Algorithm::RoundRobin,
            2 => Algorithm::Random { draws: 1 },
            3 => Algorithm::StaticRoundRobin,
            4 => Algorithm::First,
            5 => Algorithm::Hash(HashTable::Map),
            _ => Algorithm::Hash(HashTable::Ring {
                balance_factor: dice.below(2) as u32 * 150,
                affinity: affinity[dice.below(3) as usize],
            }),
        };
        if let Algorithm::Hash(_) = self.algorithm {
            let inputs = [HashInput::Source, HashInput::Masked { v4: 31, v6: 64 }];
            self.hash = Some(AddressHash {
                input: inputs[dice.below(2) as usize],
                function: [HashFunction::Sdbm, HashFunction::Wt6][dice.below(2) as usize],
                avalanche: dice.once_in(2),
            });
        }
        let backups = dice.below(3) as usize;
        let minconn = dice.once_in(3);
        for (at, member) in self.members.iter_mut().enumerate() {
            member.weight = 1 + dice.below(4) as u16;
            if at + backups >= 3 {
                member.tier = Tier::Backup;
            }
            if trial.limits {
                member.limits.maxqueue = dice.below(2) as u32 * (1 + dice.below(2) as u32);
                member.limits.minconn = u32::from(minconn);
            }
        }
        if dice.once_in(2) {
            self.all_backups = AllBackups::Yes;
        }
        self.fullconn = u32::from(minconn) * MAXCONN;
        self.process_maxconn = dice.below(2) as u32 * (3 + dice.below(4) as u32);
        self.listener_maxconn = dice.below(2) as u32 * (2 + dice.below(5) as u32);
        // Whose time runs only a little would wait for ever.
        if trial.timeouts {
            self.session_rate = dice.below(2) as u32 * (2 + dice.below(8) as u32);
            self.process_rate = dice.below(2) as u32 * (2 + dice.below(8) as u32);
            self.greeting_ms = dice.below(2) as u32 * 300;
        }
        self.proxies = dice.once_in(3);
        self.observe = dice.once_in(2);
        self.slow_start_s = dice.below(2) as u32 * 3;
        self
    }

    /// The servers that serve who waits for any: the active ones, else the backups.
    pub(super) fn serving(&self, is_usable: impl Fn(u32) -> bool) -> Vec<u32> {
        let of = |tier: Tier| {
            let all = (0..).zip(&self.members);
            let usable = all.filter(|(at, member)| member.tier == tier && is_usable(*at));
            usable.map(|(at, _)| at).collect::<Vec<u32>>()
        };
        let (active, backups) = (of(Tier::Active), of(Tier::Backup));
        match (active.is_empty(), self.all_backups) {
            (false, _) => active,
            (true, AllBackups::Yes) => backups,
            (true, AllBackups::No) => backups.into_iter().take(1).collect(),
        }
    }

    /// Does a server take its whole `maxconn` at any time?
    pub(super) fn has_fixed_limits(&self) -> bool {
        self.fullconn == 0 && self.slow_start_s == 0
    }
}

/// Counts how often `observe layer4` told.
#[derive(Debug, Default)]
pub(super) struct Told(pub AtomicU64);

impl Watcher for Told {
    fn too_many_errors(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Told {
    /// One for each server.
    pub(super) fn of_three() -> [Arc<Told>; 3] {
        Default::default()
    }
}

/// What a client says first, where a PROXY header is expected, and how much of it at once.
pub(super) fn greeting(dice: &mut Dice, id: usize) -> (Vec<u8>, usize) {
    let header = match dice.below(12) {
        0 => b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        1 => b"PROXY TCP4 127.0.0.1 nowhere 1 1\r\n".to_vec(),
        2 => b"PROXY UNKNOWN\r\n".to_vec(),
        _ => format!("PROXY TCP4 127.0.0.1 127.0.0.9 {id} 80\r\n").into_bytes(),
    };
    let at_once = match dice.below(3) {
        0 => header.len(),
        1 => 0,
        _ => dice.below(header.len() as u64) as usize,
    };
    (header, at_once)
}
