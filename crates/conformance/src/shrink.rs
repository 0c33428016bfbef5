//! The shortest script that still shows a difference.
//!
//! Decides:  which smaller scripts are tried, and when it is enough.
//! Not here: what a difference is (compare.rs).

use std::io;

use portcullis_kernel_model::{Call, Opt, SockAddr};

use crate::exhaustive::PLACES;
use crate::step::{OF_SLOT, ORDINARY, Op, Script, Step};

/// Scripts tried for one difference.
const ATTEMPTS_MAX: u32 = 3000;

/// Makes a script smaller while `differs` says at which step the worlds still differ.
pub fn shrink(
    script: &Script,
    mut differs: impl FnMut(&Script) -> io::Result<Option<usize>>,
) -> io::Result<Script> {
    let mut best = script.clone();
    let mut attempts = 0;
    loop {
        let before = best.clone();
        for candidate in candidates(&best) {
            // Taken in from what was tried, not from `best`: each is small work.
            attempts += 1;
            if attempts > ATTEMPTS_MAX {
                return Ok(best);
            }
            if let Some(at) = differs(&candidate)? {
                best = candidate;
                best.steps.truncate(at + 1);
                break;
            }
        }
        if best == before {
            return Ok(best);
        }
    }
}

/// The same script with its sockets numbered in the order in which they come, so that equal ones look it.
#[must_use]
pub fn relabelled(script: &Script) -> Script {
    let mut order: Vec<u8> = Vec::new();
    for step in &script.steps {
        for slot in [step.slot, step.into] {
            if !order.contains(&slot) {
                order.push(slot);
            }
        }
    }
    let new = |slot: u8| {
        order
            .iter()
            .position(|&old| old == slot)
            .unwrap_or_default() as u8
    };
    let port = |name: u16| match name.checked_sub(OF_SLOT) {
        Some(slot) => OF_SLOT + u16::from(new(slot as u8)),
        None => name,
    };
    let address = |addr: SockAddr| SockAddr {
        port: port(addr.port),
        ..addr
    };
    let steps = script.steps.iter().map(|step| {
        let op = match step.op {
            Op::Call(Call::Bind(addr)) => Op::Call(Call::Bind(address(addr))),
            Op::Call(Call::Connect(addr)) => Op::Call(Call::Connect(address(addr))),
            op => op,
        };
        Step {
            slot: new(step.slot),
            into: new(step.into),
            op,
            ..*step
        }
    });
    Script {
        profile: script.profile,
        steps: steps.collect(),
    }
}

/// Smaller or plainer scripts, the boldest first.
fn candidates(script: &Script) -> Vec<Script> {
    let mut all = Vec::new();
    let mut add = |steps: Vec<Step>, profile: u8| all.push(Script { profile, steps });
    let count = script.steps.len();
    for slot in 0..crate::step::SLOTS as u8 {
        let kept: Vec<Step> = script
            .steps
            .iter()
            .filter(|step| step.slot != slot)
            .copied()
            .collect();
        if kept.len() < count {
            add(kept, script.profile);
        }
    }
    for length in [8, 4, 2, 1] {
        for start in (0..count.saturating_sub(length - 1)).rev() {
            let mut kept = script.steps.clone();
            kept.drain(start..start + length);
            add(kept, script.profile);
        }
    }
    if script.profile != 0 {
        add(script.steps.clone(), 0);
    }
    for at in 0..count {
        for plainer in plainer(script.steps[at]) {
            let mut steps = script.steps.clone();
            steps[at] = plainer;
            add(steps, script.profile);
        }
    }
    all
}

/// The same step with plainer arguments.
fn plainer(step: Step) -> Vec<Step> {
    let mut all = Vec::new();
    if step.process != 0 {
        all.push(Step { process: 0, ..step });
    }
    let Op::Call(call) = step.op else { return all };
    let mut add = |call: Call| {
        all.push(Step {
            op: Op::Call(call),
            ..step
        })
    };
    match call {
        Call::Bind(addr) => plainer_addresses(addr)
            .into_iter()
            .for_each(|a| add(Call::Bind(a))),
        Call::Connect(addr) => {
            plainer_addresses(addr)
                .into_iter()
                .for_each(|a| add(Call::Connect(a)));
        }
        Call::Listen(backlog) if backlog != 5 => add(Call::Listen(5)),
        Call::Set(Opt::LocalPortRange(range)) if range != 0 => {
            add(Call::Set(Opt::LocalPortRange(0)));
        }
        _ => {}
    }
    all
}

fn plainer_addresses(addr: SockAddr) -> Vec<SockAddr> {
    let mut all = Vec::new();
    if addr.port > ORDINARY {
        all.push(SockAddr {
            port: ORDINARY,
            ..addr
        });
    }
    // Each place is plainer than those behind it, so that this ends.
    let rank = PLACES
        .iter()
        .position(|place| place.ip == addr.ip)
        .unwrap_or(PLACES.len());
    for place in &PLACES[..rank] {
        if place.ip.is_ipv4() == addr.ip.is_ipv4() {
            all.push(SockAddr {
                ip: place.ip,
                ..addr
            });
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    /// A made-up difference: a reuseport socket is bound after two closes.
    fn made_up(script: &Script) -> Option<usize> {
        let closes = |upto: usize| {
            let close = |step: &&Step| step.op == Op::Call(Call::Close);
            script.steps[..upto].iter().filter(close).count()
        };
        let bind = |step: &Step| matches!(step.op, Op::Call(Call::Bind(_)));
        (0..script.steps.len()).find(|&at| bind(&script.steps[at]) && closes(at) >= 2)
    }

    #[test]
    fn a_difference_shrinks_to_the_steps_that_make_it() {
        let mut shrunk = 0;
        for number in 0..200 {
            let script = random::script(5, number);
            if made_up(&script).is_none() {
                continue;
            }
            let small = shrink(&script, |script| Ok(made_up(script))).unwrap();
            assert_eq!(small.steps.len(), 3, "{small:?}");
            assert_eq!(small.profile, 0);
            shrunk += 1;
        }
        assert!(shrunk > 20, "only {shrunk} scripts had the difference");
    }
}
