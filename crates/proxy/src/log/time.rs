//! How a moment is written in each kind of line.
//!
//! Decides:  the fields of the formats; the time zone is read once and kept, so that lines stay
//!           the same in a chroot.
//! Source:   HAProxy 3.5-dev5, src/tools.c and src/log.c: `%t` and RFC 3164 are local time,
//!           `%T` is UTC; RFC 5424 section 6.2.3 with microseconds and a numeric offset.
//! Not here: asking what time it is.

use std::fmt::Write as _;

use jiff::Timestamp;
use jiff::tz::TimeZone;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A wall-clock time: microseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub u64);

impl Moment {
    /// From milliseconds since 1970 UTC.
    #[must_use]
    pub fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000))
    }
}

/// The time zone that lines are written in, with its rules in memory.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

impl Zone {
    /// The host's: `TZ`, else `/etc/localtime`, else UTC. Reads files; call it once, at start.
    #[must_use]
    pub fn system() -> Self {
        Self(TimeZone::try_system().unwrap_or(TimeZone::UTC))
    }

    /// UTC.
    #[must_use]
    pub fn utc() -> Self {
        Self(TimeZone::UTC)
    }

    /// By rules in the form of POSIX, like `CET-1CEST,M3.5.0,M10.5.0/3`; `None` if they are none.
    #[must_use]
    pub fn posix(rules: &str) -> Option<Self> {
        TimeZone::posix(rules).ok().map(Self)
    }

    fn civil(&self, moment: Moment) -> Civil {
        let clamped = i64::try_from(moment.0).unwrap_or(i64::MAX);
        let timestamp = Timestamp::from_microsecond(clamped).unwrap_or(Timestamp::MAX);
        let offset = self.0.to_offset(timestamp);
        let time = offset.to_datetime(timestamp);
        Civil {
            year: time.year(),
            month: time.month(),
            day: time.day(),
            hour: time.hour(),
            minute: time.minute(),
            second: time.second(),
            micro: moment.0 % 1_000_000,
            offset_s: offset.seconds(),
        }
    }

    /// `22/Nov/2026:04:31:03.055`: `%t`.
    pub(crate) fn write_date(&self, moment: Moment, out: &mut String) {
        let c = self.civil(moment);
        let milli = c.micro / 1_000;
        c.write_clf(out);
        let _ = write!(out, ".{milli:03}");
    }

    /// `Nov 22 04:31:03`: RFC 3164.
    pub(crate) fn write_legacy(&self, moment: Moment, out: &mut String) {
        let c = self.civil(moment);
        let month = c.month_name();
        let _ = write!(out, "{month} {:2} ", c.day);
        let _ = write!(out, "{:02}:{:02}:{:02}", c.hour, c.minute, c.second);
    }

    /// `2026-11-22T04:31:03.055123+00:00`
    pub(crate) fn write_iso(&self, moment: Moment, out: &mut String) {
        let c = self.civil(moment);
        let _ = write!(out, "{:04}-{:02}-{:02}T", c.year, c.month, c.day);
        let _ = write!(out, "{:02}:{:02}:{:02}", c.hour, c.minute, c.second);
        let _ = write!(out, ".{:06}", c.micro);
        let sign = if c.offset_s < 0 { '-' } else { '+' };
        let minutes = c.offset_s.abs() / 60;
        let _ = write!(out, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
    }
}

/// `22/Nov/2026:04:31:03 +0000`: `%T`, always UTC.
pub(crate) fn write_utc_date(moment: Moment, out: &mut String) {
    Zone::utc().civil(moment).write_clf(out);
    out.push_str(" +0000");
}

struct Civil {
    year: i16,
    month: i8,
    day: i8,
    hour: i8,
    minute: i8,
    second: i8,
    micro: u64,
    offset_s: i32,
}

impl Civil {
    fn month_name(&self) -> &'static str {
        // jiff counts months from 1 to 12.
        MONTHS[(self.month - 1) as usize]
    }

    fn write_clf(&self, out: &mut String) {
        let month = self.month_name();
        let _ = write!(out, "{:02}/{month}/{:04}:", self.day, self.year);
        let _ = write!(
            out,
            "{:02}:{:02}:{:02}",
            self.hour, self.minute, self.second
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_in_their_zone() {
        let berlin = Zone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        let newfoundland = Zone::posix("NST3:30").unwrap();
        for (zone, micro, expected) in [
            (
                Zone::utc(),
                1_795_321_863_055_123,
                "22/Nov/2026:04:31:03.055|Nov 22 04:31:03|2026-11-22T04:31:03.055123+00:00|22/Nov/2026:04:31:03 +0000",
            ),
            (
                berlin.clone(),
                1_795_321_863_055_123,
                "22/Nov/2026:05:31:03.055|Nov 22 05:31:03|2026-11-22T05:31:03.055123+01:00|22/Nov/2026:04:31:03 +0000",
            ),
            // the last second of winter time and the first of summer time, 2027
            (
                berlin.clone(),
                1_806_195_599_000_000,
                "28/Mar/2027:01:59:59.000|Mar 28 01:59:59|2027-03-28T01:59:59.000000+01:00|28/Mar/2027:00:59:59 +0000",
            ),
            (
                berlin,
                1_806_195_600_000_999,
                "28/Mar/2027:03:00:00.000|Mar 28 03:00:00|2027-03-28T03:00:00.000999+02:00|28/Mar/2027:01:00:00 +0000",
            ),
            (
                newfoundland,
                0,
                "31/Dec/1969:20:30:00.000|Dec 31 20:30:00|1969-12-31T20:30:00.000000-03:30|01/Jan/1970:00:00:00 +0000",
            ),
            (
                Zone::utc(),
                951_782_400_999_999,
                "29/Feb/2000:00:00:00.999|Feb 29 00:00:00|2000-02-29T00:00:00.999999+00:00|29/Feb/2000:00:00:00 +0000",
            ),
            (
                Zone::utc(),
                1_796_083_200_000_000,
                "01/Dec/2026:00:00:00.000|Dec  1 00:00:00|2026-12-01T00:00:00.000000+00:00|01/Dec/2026:00:00:00 +0000",
            ),
        ] {
            let mut out = String::new();
            zone.write_date(Moment(micro), &mut out);
            out.push('|');
            zone.write_legacy(Moment(micro), &mut out);
            out.push('|');
            zone.write_iso(Moment(micro), &mut out);
            out.push('|');
            write_utc_date(Moment(micro), &mut out);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn no_moment_panics() {
        let mut out = String::new();
        for moment in [0, u64::MAX, i64::MAX as u64, u64::MAX / 1_000] {
            Zone::utc().write_iso(Moment(moment), &mut out);
            Zone::utc().write_date(Moment::from_ms(moment), &mut out);
        }
        assert!(Zone::posix("no such rules").is_none());
    }
}
