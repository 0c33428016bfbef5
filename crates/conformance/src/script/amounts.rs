//! Arguments that are numbers with a meaning: times, processors, lengths, directions, ranges.
//!
//! Decides:  their forms and bounds, and what is said of one that does not fit.
//! Not here: numbers alone, and words in quotes (cursor.rs, words.rs).

use super::cursor::Cursor;
use super::problem::Problem;
use super::program::Action;

/// More processors than a set of them holds (`CPU_SETSIZE`).
const CPUS: u16 = 1024;

/// The length of an option's value: any negative one, or at most more than an option takes.
pub(super) fn length(at: &mut Cursor<'_>) -> Result<i32, Problem> {
    const LONGEST: i32 = portcullis_sys::bare::OPTION_MAX as i32;
    let here = at.at;
    at.number()?.filter(|&len| len <= LONGEST).ok_or_else(|| {
        at.line.problem(
            here,
            format!("a length is a number of bytes, {LONGEST} at most"),
            "",
        )
    })
}

pub(super) fn wait(at: &mut Cursor<'_>) -> Result<Action, Problem> {
    let here = at.at;
    let amount = at.next().unwrap_or("");
    let parsed = match amount.strip_suffix("ms") {
        Some(ms) => ms.parse::<u64>().ok(),
        None => amount
            .strip_suffix('s')
            .and_then(|s| s.parse::<u64>().ok())
            .map(|s| s.saturating_mul(1000)),
    };
    match parsed.filter(|&ms| ms <= 600_000) {
        Some(ms) => Ok(Action::Wait { ms }),
        None => Err(at.line.problem(
            here,
            "`wait` takes a time, ten minutes at most",
            "wait 500ms, wait 61s",
        )),
    }
}

pub(super) fn cpu(at: &mut Cursor<'_>) -> Result<Action, Problem> {
    let here = at.at;
    match at.number()?.and_then(|number| u16::try_from(number).ok()) {
        Some(cpu) if cpu < CPUS => Ok(Action::Cpu(cpu)),
        _ => {
            let text = format!("`cpu` takes the number of a processor, less than {CPUS}");
            Err(at.line.problem(here, text, "cpu 1"))
        }
    }
}

pub(super) fn shutdown_how(at: &mut Cursor<'_>) -> Result<i32, Problem> {
    let here = at.at;
    match at.next() {
        Some("read") => Ok(0),
        Some("write") => Ok(1),
        Some("both") => Ok(2),
        Some(word) if word.parse::<i32>().is_ok() => Ok(word.parse().unwrap_or(0)),
        _ => Err(at.line.problem(
            here,
            "`shutdown` takes `read`, `write`, `both` or a number",
            "",
        )),
    }
}

/// `LOW..HIGH` as the kernel packs it, or the packed number.
pub(super) fn port_range(text: &str) -> Option<u32> {
    match text.split_once("..") {
        Some((low, high)) => {
            let (low, high) = (low.parse::<u16>().ok()?, high.parse::<u16>().ok()?);
            Some(u32::from(high) << 16 | u32::from(low))
        }
        None => text.parse().ok(),
    }
}
