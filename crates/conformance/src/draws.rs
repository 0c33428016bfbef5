//! Scripts whose last call has several permitted answers: is each of them ever given?
//!
//! Decides:  the scripts, how often each is run, and what counts as the same answer in another run.
//! Kernel:   get_random_u32_below() of bind's choice, table_perturb[] of connect's, and the hash of a
//!           reuseport group
//! Not here: that an answer is permitted at all, which every script checks (compare.rs).
//!
//! A model that permits too much agrees with every single answer. So a script is run many times on the
//! kernel, and in the model with many draws: both sets must be equal.

use std::collections::BTreeSet;

use portcullis_kernel_model::{Call, Explanation, Opt, Program};

use crate::compare::Alone;
use crate::exhaustive::{Digits, PLACES, Pen};
use crate::step::{ORDINARY, Outcome, Ports, RANGE, Script, Seen};

/// How often the kernel is asked.
pub const REPEATS: u64 = 64;
/// How often once more before a permitted answer counts as never given.
pub const REPEATS_MORE: u64 = 256;
/// How often the model draws.
const MODEL_DRAWS: u64 = 256;

/// Answers of one script's last call, over many runs.
pub type Answers = BTreeSet<(String, Option<u8>, Option<u16>)>;

/// What is the same in another run: ports count from the first of the range.
#[must_use]
pub fn key(seen: &Seen, ports: &Ports) -> (String, Option<u8>, Option<u16>) {
    let outcome = match seen.outcome {
        Outcome::Address(_) => "address".to_owned(),
        other => format!("{other:?}"),
    };
    let port = seen.name.map(|name| name.port());
    let port = port.and_then(|port| port.checked_sub(ports.range));
    (outcome, seen.receiver, port)
}

/// The model's answers to a script's last call.
#[must_use]
pub fn permitted(alone: &mut Alone, script: &Script, ports: &Ports) -> Answers {
    let mut answers = Answers::new();
    let mut explanation = Explanation::default();
    for seed in 0..MODEL_DRAWS {
        let mut last = None;
        // Small seeds are alike: an odd factor spreads them.
        let seed = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        alone.run(script, seed, &mut explanation, &mut |seen, explanation| {
            last = Some(*seen);
            explanation.steps.clear();
        });
        answers.extend(last.map(|seen| key(&seen, ports)));
    }
    answers
}

/// The script of a number.
#[must_use]
pub fn script(seed: u64, number: u64) -> Script {
    let place = number
        .wrapping_add(seed)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let kind = place % 3;
    match kind {
        0 => receivers(place / 3),
        1 => ports(place / 3, Asks::Bind),
        _ => ports(place / 3, Asks::Connect),
    }
}

/// A group of three: with processors, with a program, with a member that went.
fn receivers(number: u64) -> Script {
    let mut digits = Digits(number);
    let cpus = [0, 1, 2].map(|_| digits.below(4) as i32 - 2);
    let program = digits.below(5);
    let goes = digits.below(4);
    let late = digits.below(2) != 0;
    let mut pen = Pen::new([0, 4][digits.below(2) as usize]);
    let place = PLACES[[1, 3, 0][digits.below(3) as usize]];
    for slot in 0..3_u8 {
        let cpu = cpus[usize::from(slot)].max(-1);
        pen.socket_with(slot, place, 2);
        if !late && cpu >= 0 {
            pen.call(slot, Call::Set(Opt::IncomingCpu(cpu)));
        }
        pen.call(slot, Call::Bind(place.at(ORDINARY)));
        pen.call(slot, Call::Listen(5));
        if late && cpu >= 0 {
            pen.call(slot, Call::Set(Opt::IncomingCpu(cpu)));
        }
    }
    match program {
        0 => pen.call(0, Call::Set(Opt::ReuseportCbpf(Program::Index(2)))),
        1 => pen.call(2, Call::Set(Opt::ReuseportCbpf(Program::CpuModulo(2)))),
        _ => {}
    }
    match goes {
        0 => pen.call(1, Call::Close),
        1 => pen.call(0, Call::Shutdown(0)),
        2 => {
            pen.call(2, Call::Set(Opt::IncomingCpu(-1)));
            pen.call(0, Call::Shutdown(0));
            pen.call(0, Call::Set(Opt::IncomingCpu(1)));
            pen.call(0, Call::Listen(5));
        }
        _ => {}
    }
    let to = PLACES[if place.ip.is_ipv4() { 1 } else { 3 }];
    pen.socket(4, to.family);
    pen.call(4, Call::Connect(to.at(ORDINARY)));
    pen.script
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Bind,
    Connect,
}

/// Two owners of ports in the range, and a third that is given one.
fn ports(number: u64, asks: Asks) -> Script {
    let mut digits = Digits(number);
    let mut pen = Pen::new([0, 3, 5, 10, 11, 12, 13][digits.below(7) as usize]);
    let target = PLACES[1];
    if asks == Asks::Connect {
        pen.socket_with(5, target, 0);
        pen.call(5, Call::Bind(target.at(ORDINARY)));
        pen.call(5, Call::Listen(5));
    }
    for slot in 0..2 {
        let options = digits.below(4);
        let place = PLACES[digits.below(2) as usize];
        let at = RANGE + digits.below(4) as u16;
        let then = digits.below(3);
        pen.socket_with(slot, place, options);
        pen.call(slot, Call::Bind(place.at(at)));
        match (then, asks) {
            (0, _) => pen.call(slot, Call::Listen(5)),
            (1, Asks::Connect) => pen.call(slot, Call::Connect(target.at(ORDINARY))),
            _ => {}
        }
    }
    let options = digits.below(4);
    let place = PLACES[digits.below(2) as usize];
    pen.socket_with(4, place, options);
    match digits.below(4) {
        1 => pen.call(4, own_range(RANGE, RANGE + 1)),
        2 => pen.call(4, own_range(RANGE + 1, RANGE + 3)),
        3 => pen.call(4, own_range(RANGE + 2, 0)),
        _ => {}
    }
    match (asks, digits.below(3)) {
        (Asks::Bind, 0) => pen.call(4, Call::Listen(5)),
        (Asks::Bind, 1) => {
            pen.call(4, Call::Set(Opt::BindAddressNoPort(true)));
            pen.call(4, Call::Bind(place.at(0)));
            pen.call(4, Call::Listen(5));
        }
        (Asks::Bind, _) => pen.call(4, Call::Bind(place.at(0))),
        (Asks::Connect, how) => {
            if how == 1 {
                pen.call(4, Call::Set(Opt::BindAddressNoPort(true)));
                pen.call(4, Call::Bind(place.at(0)));
            }
            pen.call(4, Call::Connect(target.at(ORDINARY)));
        }
    }
    pen.script
}

fn own_range(low: u16, high: u16) -> Call {
    let high = if high == 0 { 0 } else { u32::from(high) << 16 };
    Call::Set(Opt::LocalPortRange(u32::from(low) | high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::ports_of_window;
    use portcullis_kernel_model::Kernel;

    #[test]
    fn many_scripts_have_several_answers_and_some_have_one() {
        let ports = ports_of_window(0);
        let mut alone = Alone::new(Kernel::V6_18, ports);
        let sizes: Vec<usize> = (0..300)
            .map(|number| permitted(&mut alone, &script(1, number), &ports).len())
            .collect();
        let several = sizes.iter().filter(|&&size| size > 1).count();
        assert!((100..290).contains(&several), "{several} of 300");
        assert!(sizes.iter().all(|&size| size > 0));
    }
}
