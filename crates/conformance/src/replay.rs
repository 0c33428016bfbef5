//! Tapes against the model: as it is, and with each deliberate error.
//!
//! Decides:  that an error is noticed if a replay differs, panics or does not end.
//! Not here: how errors come into a build (xtask/src/conformance/mutants.rs).

use std::io;
use std::path::Path;

use portcullis_kernel_model::Kernel;
use portcullis_sys::process::{Fork, fork};
use rustix::process::{Resource, Rlimit, WaitOptions, setrlimit, waitpid};

use crate::compare::Comparison;
use crate::run::Part;
use crate::step::Ports;
use crate::tape::Reader;
use crate::worker::ports_of_window;
use crate::{mutant, random};

/// A replay that takes longer has lost its way.
const CPU_SECONDS_MAX: u64 = 60;
const DIFFERS: i32 = 1;
const FAILED: i32 = 3;

/// A tape and the scripts that it answers.
pub struct Tape {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Which scripts.
    pub part: Part,
}

/// Replays a tape until the model differs: the steps compared, and the number of the script.
pub fn replay(tape: &Tape) -> io::Result<(u64, Option<u64>)> {
    let (header, mut reader) = Reader::open(&tape.bytes)?;
    let kernel = Kernel::new(header.kernel.0, header.kernel.1);
    let mut ports: Ports = ports_of_window(0);
    let mut comparison = Comparison::new(kernel, header.user, ports);
    let mut host = None;
    let mut at = 0;
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
        if !reader.left_out() && comparison.run(&script, &mut reader)?.is_some() {
            return Ok((comparison.steps, Some(at)));
        }
        reader.next_script()?;
        at += 1;
    }
    Ok((comparison.steps, None))
}

/// Tries every deliberate error of this build; answers which ones nothing noticed.
pub fn survivors(tapes: &[Tape]) -> io::Result<Vec<u32>> {
    let mut survivors = Vec::new();
    for number in 1..=mutant::count() {
        let Fork::Parent(pid) = fork()? else {
            std::process::exit(try_one(number, tapes));
        };
        let status = waitpid(Some(pid), WaitOptions::empty())?;
        match status.and_then(|(_, status)| status.exit_status()) {
            Some(0) => survivors.push(number),
            Some(FAILED) => return Err(io::Error::other("a tape does not fit its scripts")),
            _ => {}
        }
    }
    Ok(survivors)
}

fn try_one(number: u32, tapes: &[Tape]) -> i32 {
    let limit = Some(CPU_SECONDS_MAX);
    if setrlimit(
        Resource::Cpu,
        Rlimit {
            current: limit,
            maximum: limit,
        },
    )
    .is_err()
    {
        return FAILED;
    }
    // A panic is as good as a difference, and its message is of no use.
    std::panic::set_hook(Box::new(|_| ()));
    mutant::activate(number);
    for tape in tapes {
        match replay(tape) {
            Ok((_, None)) => {}
            Ok((_, Some(_))) => return DIFFERS,
            // A wrong model leads the reader astray.
            Err(_) => return DIFFERS,
        }
    }
    0
}

/// Reads the tape of a part.
pub fn load(path: &Path, part: Part) -> io::Result<Tape> {
    Ok(Tape {
        bytes: std::fs::read(path)?,
        part,
    })
}
