//! Times, sizes and whole numbers.
//!
//! Decides:  which spellings are numbers, the units, the limits.
//! Source:   HAProxy's manual, chapter 2.5; src/tools.c, parse_time_err(), parse_size_ui(),
//!           parse_size_ull(), 3.5-dev5.
//! Not here: which keyword takes which unit and range (the keyword entries).

use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::syntax::Word;

/// A unit of time: what a bare number counts, and what a value is rounded up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// `us`
    Microseconds,
    /// `ms`, the unit of nearly every keyword.
    Milliseconds,
    /// `s`
    Seconds,
    /// `m`
    Minutes,
    /// `h`
    Hours,
    /// `d`
    Days,
}

impl TimeUnit {
    /// One of it, in microseconds.
    fn microseconds(self) -> u128 {
        match self {
            TimeUnit::Microseconds => 1,
            TimeUnit::Milliseconds => 1_000,
            TimeUnit::Seconds => 1_000_000,
            TimeUnit::Minutes => 60_000_000,
            TimeUnit::Hours => 3_600_000_000,
            TimeUnit::Days => 86_400_000_000,
        }
    }

    /// As it is written after a number.
    pub fn suffix(self) -> &'static str {
        match self {
            TimeUnit::Microseconds => "us",
            TimeUnit::Milliseconds => "ms",
            TimeUnit::Seconds => "s",
            TimeUnit::Minutes => "m",
            TimeUnit::Hours => "h",
            TimeUnit::Days => "d",
        }
    }

    fn leading(text: &str) -> Option<TimeUnit> {
        Some(match text.as_bytes() {
            [b'u', b's', ..] => TimeUnit::Microseconds,
            [b'm', b's', ..] => TimeUnit::Milliseconds,
            [b's', ..] => TimeUnit::Seconds,
            [b'm', ..] => TimeUnit::Minutes,
            [b'h', ..] => TimeUnit::Hours,
            [b'd', ..] => TimeUnit::Days,
            _ => return None,
        })
    }
}

/// The largest time, in the keyword's unit: about 24.8 days in milliseconds.
pub const MAX_TIME: u64 = i32::MAX as u64;

/// A time as a file gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Time {
    /// The time.
    pub duration: Duration,
    /// Bytes after the unit that mean nothing (`5min` is `5m`); HAProxy warns of them.
    pub ignored: Option<Range<usize>>,
}

/// Why a word is no number of its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitError {
    /// What is wrong.
    pub fault: UnitFault,
    /// The bytes of the word at fault.
    pub at: Range<usize>,
}

/// What can be wrong with a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitFault {
    /// No digit where the number should begin.
    NotANumber {
        /// What is expected instead.
        expected: &'static str,
    },
    /// A unit that does not exist.
    UnknownUnit {
        /// What is expected instead.
        expected: &'static str,
    },
    /// More than the unit can hold.
    TimeTooLong {
        /// The unit of the limit, [`MAX_TIME`].
        unit: TimeUnit,
    },
    /// A size over the limit.
    SizeTooLarge {
        /// The largest.
        most: u64,
    },
    /// A number outside its range.
    OutOfRange {
        /// The least.
        least: i64,
        /// The most.
        most: i64,
    },
}

const A_TIME: &str = "a number and one of us, ms, s, m, h, d";
const A_SIZE: &str = "a number and k, m, g or nothing";
const AN_INTEGER: &str = "a whole number";

impl UnitError {
    fn new(fault: UnitFault, at: Range<usize>) -> UnitError {
        UnitError { fault, at }
    }

    /// The stable name of the finding.
    pub fn code(&self) -> &'static str {
        match self.fault {
            UnitFault::NotANumber { .. } => "not-a-number",
            UnitFault::UnknownUnit { .. } => "unknown-unit",
            UnitFault::TimeTooLong { .. } => "time-out-of-range",
            UnitFault::SizeTooLarge { .. } => "size-out-of-range",
            UnitFault::OutOfRange { .. } => "number-out-of-range",
        }
    }

    /// The finding, for the word that was read; `what` names the value (`timeout client`).
    pub fn diagnostic(&self, word: &Word, what: &str) -> Diagnostic {
        let message = format!("`{}` is no valid {what}", word.text);
        Diagnostic::error(self.code(), word.place_of(self.at.clone()), message)
            .label(self.to_string())
    }
}

impl fmt::Display for UnitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fault {
            UnitFault::NotANumber { expected } | UnitFault::UnknownUnit { expected } => {
                write!(f, "expected {expected}")
            }
            UnitFault::TimeTooLong { unit } => {
                write!(f, "must be at most {MAX_TIME}{}", unit.suffix())?;
                match unit {
                    TimeUnit::Milliseconds => write!(f, " (about 24.8 days)"),
                    _ => Ok(()),
                }
            }
            UnitFault::SizeTooLarge { most } => write!(f, "must be at most {most} bytes"),
            UnitFault::OutOfRange { least, most } if *most == i64::MAX => {
                write!(f, "must be {least} or more")
            }
            UnitFault::OutOfRange { least, most } => {
                write!(f, "must be from {least} to {most}")
            }
        }
    }
}

impl std::error::Error for UnitError {}

/// The digits that the text begins with: their value (saturating) and their length.
fn digits(text: &str) -> (u128, usize) {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let value = text.bytes().take(length).fold(0u128, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(u128::from(digit - b'0'))
    });
    (value, length)
}

/// A time. A number without a unit counts `unit`; the result is rounded up to it.
pub fn time(text: &str, unit: TimeUnit) -> Result<Time, UnitError> {
    let (value, length) = digits(text);
    if length == 0 {
        let fault = UnitFault::NotANumber { expected: A_TIME };
        return Err(UnitError::new(fault, 0..text.len()));
    }
    let rest = &text[length..];
    let (given, used) = match TimeUnit::leading(rest) {
        _ if rest.is_empty() => (unit, 0),
        Some(given) => (given, given.suffix().len()),
        None => {
            let fault = UnitFault::UnknownUnit { expected: A_TIME };
            return Err(UnitError::new(fault, length..text.len()));
        }
    };
    let step = unit.microseconds();
    let exact = value.saturating_mul(given.microseconds());
    let count = exact.div_ceil(step);
    if count > u128::from(MAX_TIME) {
        let fault = UnitFault::TimeTooLong { unit };
        return Err(UnitError::new(fault, 0..text.len()));
    }
    let micros = u64::try_from(count * step).unwrap_or(u64::MAX);
    let end = length + used;
    Ok(Time {
        duration: Duration::from_micros(micros),
        ignored: (end < text.len()).then_some(end..text.len()),
    })
}

/// A time from a word; `what` names the value (`timeout client`). Findings go to the list.
pub fn time_word(
    word: &Word,
    unit: TimeUnit,
    what: &str,
    findings: &mut impl Extend<Diagnostic>,
) -> Option<Duration> {
    match time(&word.text, unit) {
        Ok(time) => {
            if let Some(ignored) = time.ignored {
                let used = &word.text[..ignored.start];
                let message = format!("`{}` is read as {used}", word.text);
                let place = word.place_of(ignored);
                findings.extend([Diagnostic::warning("ignored-suffix", place, message)
                    .label("ignored after the unit")]);
            }
            Some(time.duration)
        }
        Err(error) => {
            findings.extend([error.diagnostic(word, what)]);
            None
        }
    }
}

/// A size in bytes, up to 4 GiB less one.
pub fn size(text: &str) -> Result<u32, UnitError> {
    let value = scaled(text, u64::from(u32::MAX))?;
    Ok(u32::try_from(value).unwrap_or(u32::MAX))
}

/// A size in bytes that may be larger; `t` and `p` are units too.
pub fn size64(text: &str) -> Result<u64, UnitError> {
    scaled(text, u64::MAX)
}

fn scaled(text: &str, most: u64) -> Result<u64, UnitError> {
    let (value, length) = digits(text);
    if length == 0 {
        let fault = UnitFault::NotANumber { expected: A_SIZE };
        return Err(UnitError::new(fault, 0..text.len()));
    }
    let large = most == u64::MAX;
    let shift = match text.as_bytes()[length..].to_ascii_lowercase()[..] {
        [] => 0,
        [b'k'] => 10,
        [b'm'] => 20,
        [b'g'] => 30,
        [b't'] if large => 40,
        [b'p'] if large => 50,
        _ => {
            let fault = UnitFault::UnknownUnit { expected: A_SIZE };
            return Err(UnitError::new(fault, length..text.len()));
        }
    };
    let bytes = value.saturating_mul(1 << shift);
    match u64::try_from(bytes) {
        Ok(bytes) if bytes <= most => Ok(bytes),
        _ => Err(UnitError::new(
            UnitFault::SizeTooLarge { most },
            0..text.len(),
        )),
    }
}

/// A size from a word; `what` names the value (`tune.bufsize`).
pub fn size_word(word: &Word, what: &str) -> Result<u32, Diagnostic> {
    size(&word.text).map_err(|error| error.diagnostic(word, what))
}

/// A whole number in a range.
///
/// Everything up to the end must be digits (a sign before them): HAProxy's `atol()` would take
/// `10k` for 10 and `many` for 0.
pub fn integer(text: &str, range: RangeInclusive<i64>) -> Result<i64, UnitError> {
    let (negative, unsigned) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (value, length) = digits(unsigned);
    if length == 0 || length < unsigned.len() {
        let fault = UnitFault::NotANumber {
            expected: AN_INTEGER,
        };
        let good = if length == 0 {
            0
        } else {
            text.len() - unsigned.len() + length
        };
        return Err(UnitError::new(fault, good..text.len()));
    }
    let value = i128::try_from(value).unwrap_or(i128::MAX);
    let value = i64::try_from(if negative { -value } else { value });
    match value {
        Ok(value) if range.contains(&value) => Ok(value),
        _ => {
            let fault = UnitFault::OutOfRange {
                least: *range.start(),
                most: *range.end(),
            };
            Err(UnitError::new(fault, 0..text.len()))
        }
    }
}

/// A whole number from a word; `what` names the value (`maxconn`).
pub fn integer_word(
    word: &Word,
    range: RangeInclusive<i64>,
    what: &str,
) -> Result<i64, Diagnostic> {
    integer(&word.text, range).map_err(|error| error.diagnostic(word, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(text: &str, unit: TimeUnit) -> Result<u64, String> {
        match time(text, unit) {
            Ok(time) if time.ignored.is_some() => Err(format!("{:?}", time.ignored)),
            Ok(time) => Ok(time.duration.as_micros() as u64),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn times_are_read_in_every_unit_and_rounded_up() {
        use TimeUnit::{Milliseconds, Seconds};
        let table = [
            ("0", Milliseconds, 0),
            ("1", Milliseconds, 1_000),
            ("1us", Milliseconds, 1_000),
            ("1001us", Milliseconds, 2_000),
            ("5s", Milliseconds, 5_000_000),
            ("5", Seconds, 5_000_000),
            ("1500ms", Seconds, 2_000_000),
            ("1m", Milliseconds, 60_000_000),
            ("1h", Milliseconds, 3_600_000_000),
            ("24d", Milliseconds, 24 * 86_400_000_000),
            ("2147483647", Milliseconds, 2_147_483_647_000),
            ("0s", Seconds, 0),
        ];
        for (text, unit, expected) in table {
            assert_eq!(micros(text, unit), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bad_times_say_what_is_expected() {
        let table = [
            ("", "expected a number"),
            ("-1", "expected a number"),
            ("s", "expected a number"),
            ("1 s", "expected a number and one of us"),
            ("1u", "expected a number and one of us"),
            ("1S", "expected a number and one of us"),
            ("25d", "must be at most 2147483647ms (about 24.8 days)"),
            ("2147483648", "must be at most"),
            (
                "99999999999999999999999999999999999999999999",
                "must be at most",
            ),
            ("5min", "2..4"),
            ("5ss", "2..3"),
        ];
        for (text, expected) in table {
            let found = micros(text, TimeUnit::Milliseconds).unwrap_err();
            assert!(found.contains(expected), "{text}: {found}");
        }
    }

    #[test]
    fn sizes_are_powers_of_two() {
        let table = [
            ("0", Ok(0)),
            ("16384", Ok(16384)),
            ("16k", Ok(16384)),
            ("1M", Ok(1 << 20)),
            ("3g", Ok(3 << 30)),
            ("4294967295", Ok(u32::MAX)),
            ("4g", Err("size-out-of-range")),
            ("4294967296", Err("size-out-of-range")),
            ("1kb", Err("unknown-unit")),
            ("1t", Err("unknown-unit")),
            ("k", Err("not-a-number")),
            ("", Err("not-a-number")),
        ];
        for (text, expected) in table {
            assert_eq!(size(text).map_err(|e| e.code()), expected, "{text}");
        }
        assert_eq!(size64("2t"), Ok(2 << 40));
        assert_eq!(size64("18446744073709551615"), Ok(u64::MAX));
        assert_eq!(size64("16384p").unwrap_err().code(), "size-out-of-range");
    }

    #[test]
    fn integers_stay_in_their_range() {
        let table = [
            ("5", Ok(5)),
            ("+5", Ok(5)),
            ("-5", Ok(-5)),
            ("10", Ok(10)),
            ("11", Err((0, 2))),
            ("10k", Err((2, 3))),
            ("-", Err((0, 1))),
            ("", Err((0, 0))),
            ("99999999999999999999999", Err((0, 23))),
            ("-170141183460469231731687303715884105729", Err((0, 40))),
        ];
        for (text, expected) in table {
            let found = integer(text, -10..=10).map_err(|e| (e.at.start, e.at.end));
            assert_eq!(found, expected, "{text}");
        }
    }
}
