//! Tapes against the model.
//!
//! Decides:  which host a script of a tape ran on.
//! Not here: the tape's bytes (tape.rs), deliberate errors (mutants.rs).

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use portcullis_kernel_model::Kernel;

use crate::compare::Comparison;
use crate::draws::{self, Answers};
use crate::random;
use crate::run::Part;
use crate::step::Ports;
use crate::tape::Reader;
use crate::worker::ports_of_window;

/// More scripts with missing answers than chance would give.
const UNCLEAR_MAX: usize = 20;

/// A tape and the scripts that it answers.
pub struct Tape {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Which scripts.
    pub part: Part,
    /// Of scripts that were run many times, the last places of those whose answers on the tape are not
    /// all that there are: chance.
    pub unclear: BTreeSet<u64>,
}

/// Replays a tape until the model differs: the steps compared, and the number of the script.
pub fn replay(tape: &Tape) -> io::Result<(u64, Option<u64>)> {
    let (header, mut reader) = Reader::open(&tape.bytes)?;
    let kernel = Kernel::new(header.kernel.0, header.kernel.1);
    let mut ports: Ports = ports_of_window(0);
    let mut comparison = Comparison::new(kernel, header.user, ports);
    let mut host = None;
    let mut at = 0;
    let (mut answers, mut whole) = (Answers::new(), true);
    while !reader.at_end() {
        let Some(mut script) = tape.part.script(at) else {
            break;
        };
        if !header.several_users {
            random::without_other_users(&mut script);
        }
        if let Some(window) = reader.window() {
            ports = ports_of_window(window);
        }
        if host != Some((script.profile, ports)) {
            host = Some((script.profile, ports));
            comparison.set_host(script.profile, ports, header.cpu);
        }
        let left_out = reader.left_out();
        if !left_out && comparison.run(&script, &mut reader)?.is_some() {
            return Ok((comparison.steps, Some(at)));
        }
        if let Part::Draws { .. } = tape.part {
            whole &= !left_out;
            let last = comparison.kernel_said().last().copied().flatten();
            answers.extend(last.map(|seen| draws::key(&seen, &ports)));
            if (at + 1).is_multiple_of(draws::REPEATS) {
                let mut alone = comparison.alone(script.profile, header.cpu);
                let model = draws::permitted(&mut alone, &script, &ports);
                if whole && answers != model && !tape.unclear.contains(&at) {
                    return Ok((comparison.steps, Some(at)));
                }
                answers.clear();
                whole = true;
            }
        }
        reader.next_script()?;
        at += 1;
    }
    Ok((comparison.steps, None))
}

/// Reads the tape of a part.
pub fn load(path: &Path, part: Part) -> io::Result<Tape> {
    let mut tape = Tape {
        bytes: std::fs::read(path)?,
        part,
        unclear: BTreeSet::new(),
    };
    if let Part::Draws { .. } = part {
        while let (_, Some(at)) = replay(&tape)? {
            if tape.unclear.len() >= UNCLEAR_MAX || !tape.unclear.insert(at) {
                break;
            }
        }
    }
    Ok(tape)
}
