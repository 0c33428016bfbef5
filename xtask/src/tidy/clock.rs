//! The clock on the wall may step at any moment: only dates that are shown come from it.
//!
//! Decides:  which names mean that clock, and the two places of what ships that read it; all waits,
//!           timeouts and intervals are of the monotonic clock.
//! Cases:    crates/portcullis/tests/whole/clock.rs, the binary under a clock that steps.

use super::{Finding, source::Source};

/// What the product is made of.
const SHIPPED: [&str; 8] = [
    "crates/balance/src",
    "crates/config/src",
    "crates/control/src",
    "crates/listener/src",
    "crates/portcullis/src",
    "crates/proxy/src",
    "crates/sockopt/src",
    "crates/sys/src",
];

/// The dates of log lines: now, and of a session's accept.
const READERS: [&str; 2] = [
    "crates/control/src/logs.rs",
    "crates/proxy/src/worker/thread.rs",
];

const NAMES: [&str; 8] = [
    "SystemTime",
    "Realtime",
    "RealtimeCoarse",
    "RealtimeAlarm",
    "CLOCK_REALTIME",
    "CLOCK_REALTIME_COARSE",
    "gettimeofday",
    "settimeofday",
];

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    let shipped = SHIPPED.iter().any(|place| source.path.starts_with(place));
    let reader = READERS.iter().any(|file| source.path.ends_with(file));
    if !shipped || reader {
        return;
    }
    for (word, line) in source.tokens() {
        if NAMES.contains(&word.as_str()) && !source.in_test(line) {
            let message = format!("`{word}` may step: take the monotonic clock");
            findings.push(Finding::new(&source.path, line, "clock", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_wall_clock_is_found_in_what_ships_but_for_the_log() {
        let reading = "fn f() { let _ = std::time::SystemTime::now(); }";
        let raw = "fn f() { clock_gettime(ClockId::Realtime); }";
        let tested = format!("#[cfg(test)]\nmod tests {{ {reading} }}");
        let table = [
            ("crates/proxy/src/session.rs", reading, 1),
            ("crates/control/src/health.rs", raw, 1),
            ("crates/proxy/src/session.rs", tested.as_str(), 0),
            ("crates/control/src/logs.rs", reading, 0),
            ("crates/proxy/src/worker/thread.rs", reading, 0),
            ("crates/bench/src/main.rs", reading, 0),
            (
                "crates/proxy/src/session.rs",
                "fn f() { clock_gettime(ClockId::Monotonic); }",
                0,
            ),
        ];
        for (path, text, expected) in table {
            let source = Source::parse(Path::new(path), text.into()).unwrap();
            let mut findings = Vec::new();
            check(&source, &mut findings);
            assert_eq!(findings.len(), expected, "{path}: {text}");
        }
    }
}
