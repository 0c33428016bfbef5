//! Scripts in which time passes: many at once, so that one minute serves all of them.
//!
//! Decides:  how many scripts wait together, and in which networks; which scripts there are.
//! Kernel:   net/ipv4/inet_timewait_sock.c: TIME_WAIT and an orphan's FIN_WAIT2 end by the network
//!           namespace's own timers
//! Not here: scripts in which no time passes (worker.rs).

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::belief::Attempt;
use crate::compare::{Difference, Stop, Walk};
use crate::encounters;
use crate::live::Live;
use crate::step::{Script, Seen};
use crate::worker::{WINDOWS, Worker};

/// Networks whose scripts wait at the same time, in one process.
const NETWORKS: usize = 4;
/// Scripts that wait together.
pub const TOGETHER: usize = NETWORKS * WINDOWS as usize;

/// A wait that was so much longer is still the same to the model: encounters.rs keeps a second from every
/// timer.
const LATE_MAX: Duration = Duration::from_millis(500);

/// The script of a number.
#[must_use]
pub fn script(seed: u64, number: u64) -> Script {
    // An odd factor walks through all of them, neighbours far apart.
    let place = number
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(seed);
    encounters::waiting(place % encounters::WAITING)
}

/// How a script came out.
#[derive(Debug)]
pub struct Ended {
    /// Where the worlds differ.
    pub difference: Option<Difference>,
    /// What the kernel answered, step by step.
    pub said: Vec<Option<Seen>>,
    /// The ports that it ran on.
    pub window: u16,
    /// The longest time between two waits, or what a wait was too long.
    pub took: Duration,
}

impl Ended {
    /// What is to be believed of it.
    #[must_use]
    pub fn attempt(&self) -> Attempt<Difference> {
        Attempt {
            difference: self.difference.clone(),
            took: self.took,
        }
    }
}

struct Waiting {
    walk: Walk,
    live: Live,
    ended: Option<Ended>,
    until: Instant,
    took: Duration,
}

impl Worker {
    /// Runs scripts of the same sysctls together: all until they wait, all on from there, and so on.
    pub fn run_together(&mut self, scripts: &[Script]) -> io::Result<Vec<Ended>> {
        raise_limit()?;
        let mut networks = Vec::new();
        let mut all: Vec<Waiting> = Vec::new();
        for (at, script) in scripts.iter().enumerate() {
            let window = (at % usize::from(WINDOWS)) as u16;
            if window == 0 {
                self.fresh_network()?;
                networks.push(File::open("/proc/thread-self/ns/net")?);
            }
            self.use_window(script.profile, window)?;
            all.push(Waiting {
                walk: self.comparison.begin(),
                live: Live::new(self.several_users())?,
                ended: None,
                until: Instant::now(),
                took: Duration::ZERO,
            });
            self.go_on(script, window, &mut all[at])?;
        }
        while all.iter().any(|one| one.ended.is_none()) {
            for (at, script) in scripts.iter().enumerate() {
                let (network, window) = (at / usize::from(WINDOWS), at % usize::from(WINDOWS));
                if window == 0 {
                    let of = networks[network].as_fd();
                    move_into_link_name_space(of, Some(LinkNameSpaceType::Network))?;
                }
                if all[at].ended.is_some() {
                    continue;
                }
                let left = all[at].until.saturating_duration_since(Instant::now());
                std::thread::sleep(left);
                self.use_window(script.profile, window as u16)?;
                self.go_on(script, window as u16, &mut all[at])?;
            }
        }
        // The networks go, and with them whatever waits there.
        self.fresh_network()?;
        let ended = all.into_iter().filter_map(|one| one.ended);
        Ok(ended.collect())
    }

    fn go_on(&mut self, script: &Script, window: u16, one: &mut Waiting) -> io::Result<()> {
        let (begun, waited) = (Instant::now(), one.live.waited());
        let stop = self
            .comparison
            .go_on(&mut one.walk, script, &mut one.live)?;
        let late = begun.saturating_duration_since(one.until);
        if late > LATE_MAX {
            one.took = one.took.max(late);
        }
        let on_purpose = one.live.waited() - waited;
        one.took = one.took.max(begun.elapsed().saturating_sub(on_purpose));
        let difference = match stop {
            Stop::Waits(seconds) => {
                one.until = Instant::now() + Duration::from_secs(seconds.into());
                return Ok(());
            }
            Stop::Differs(difference) => Some(difference),
            Stop::Ended => None,
        };
        self.counts.scripts += 1;
        one.live.reset()?;
        one.ended = Some(Ended {
            difference,
            said: one.walk.said().to_vec(),
            window,
            took: one.took,
        });
        Ok(())
    }
}

/// Thousands of scripts, or one with a long `repeat`, have their sockets open at once.
pub(crate) fn raise_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, all)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::Op;

    #[test]
    fn every_script_waits_twice_and_past_a_minute() {
        for number in 0..2000 {
            let script = script(3, number);
            let waits: Vec<u32> = script
                .steps
                .iter()
                .filter_map(|step| match step.op {
                    Op::Wait(seconds) => Some(seconds),
                    _ => None,
                })
                .collect();
            assert_eq!(waits.len(), 2, "{script:?}");
            assert!(waits[0] < 60 && waits[0] + waits[1] > 60, "{waits:?}");
        }
    }

    #[test]
    fn scripts_that_follow_each_other_are_not_alike() {
        let all: std::collections::BTreeSet<String> = (0..1000)
            .map(|number| format!("{:?}", script(1, number).steps))
            .collect();
        assert!(all.len() > 950, "{}", all.len());
    }
}
