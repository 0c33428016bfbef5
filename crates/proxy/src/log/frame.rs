//! What stands around a message: priority, time, host, tag.
//!
//! Decides:  the header of each format, where a line is cut, and what is escaped so that a
//!           message stays one line.
//! Source:   HAProxy 3.5-dev5, src/log.c, build_log_header(); RFC 3164, RFC 5424 section 6;
//!           sd-daemon(3) for `short`.
//! Cases:    the tests below, recorded from HAProxy 2.6.12
//! Not here: which level a message has, and which targets take it.

use std::fmt::Write as _;

use super::time::{Moment, Zone};

/// The header of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Format {
    /// `<PRI>Mmm dd hh:mm:ss tag[pid]: `
    Local,
    /// `<PRI>Mmm dd hh:mm:ss host tag[pid]: `
    Rfc3164,
    /// `<PRI>1 time host tag pid - - `
    Rfc5424,
    /// `<PRI>`
    Priority,
    /// `<level>`
    Short,
    /// `<level>time `
    Timed,
    /// `time `
    Iso,
    /// Nothing.
    Raw,
    /// The line is an object of JSON (json.rs).
    Json,
}

/// How urgent a message is, 0 (emerg) to 7 (debug).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// 0
    Emergency,
    /// 1
    Alert,
    /// 2
    Critical,
    /// 3
    Error,
    /// 4
    Warning,
    /// 5
    Notice,
    /// 6
    Info,
    /// 7
    Debug,
}

impl Level {
    /// 0 to 7; more is taken as 7.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            0 => Self::Emergency,
            1 => Self::Alert,
            2 => Self::Critical,
            3 => Self::Error,
            4 => Self::Warning,
            5 => Self::Notice,
            6 => Self::Info,
            _ => Self::Debug,
        }
    }

    /// 0 to 7.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}

/// A syslog facility, 0 (kern) to 23 (local7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Facility(pub u8);

/// All that does not change from line to line of one target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The header.
    pub format: Format,
    /// The facility.
    pub facility: Facility,
    /// `log-tag`
    pub tag: &'a str,
    /// The process's id.
    pub pid: u32,
    /// `log-send-hostname`; `None`: `localhost` in RFC 3164, `-` in RFC 5424, as HAProxy.
    pub hostname: Option<&'a str>,
    /// Longer lines are cut to this many bytes; the newline is not counted.
    pub max_length: usize,
}

impl Frame<'_> {
    /// Appends a whole line with its newline to `out`.
    pub fn write_line(
        &self,
        level: Level,
        now: Moment,
        zone: &Zone,
        message: &str,
        out: &mut Vec<u8>,
    ) {
        if self.format == Format::Json {
            return self.write_json_message(level, now, zone, message, out);
        }
        let mut line = String::with_capacity(96 + message.len());
        self.write_header(level, now, zone, &mut line);
        for character in message.chars() {
            match character {
                control if control.is_ascii_control() => escape_into(control as u8, &mut line),
                plain => line.push(plain),
            }
        }
        let end = line.floor_char_boundary(self.max_length);
        out.extend_from_slice(&line.as_bytes()[..end]);
        out.push(b'\n');
    }

    fn write_header(&self, level: Level, now: Moment, zone: &Zone, out: &mut String) {
        let priority = u16::from(self.facility.0) * 8 + u16::from(level.number());
        match self.format {
            Format::Raw | Format::Json => {}
            Format::Priority => {
                let _ = write!(out, "<{priority}>");
            }
            Format::Short => {
                let _ = write!(out, "<{}>", level.number());
            }
            Format::Timed => {
                let _ = write!(out, "<{}>", level.number());
                zone.write_iso(now, out);
                out.push(' ');
            }
            Format::Iso => {
                zone.write_iso(now, out);
                out.push(' ');
            }
            Format::Local | Format::Rfc3164 => {
                let _ = write!(out, "<{priority}>");
                zone.write_legacy(now, out);
                out.push(' ');
                if self.format == Format::Rfc3164 {
                    out.push_str(self.hostname.unwrap_or("localhost"));
                    out.push(' ');
                }
                let _ = write!(out, "{}[{}]: ", self.tag, self.pid);
            }
            Format::Rfc5424 => {
                let _ = write!(out, "<{priority}>1 ");
                zone.write_iso(now, out);
                let host = self.hostname.unwrap_or("-");
                let _ = write!(out, " {host} {} {} - - ", self.tag, self.pid);
            }
        }
    }
}

/// Writes a byte that may not stand in a line as `#XX`.
pub(super) fn escape_into(byte: u8, out: &mut String) {
    let _ = write!(out, "#{byte:02X}");
}

/// Writes text of a peer's or a file's: what is not printable ASCII, `#` and `"`, as `#XX`.
pub(super) fn write_escaped(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'#' | b'"' => escape_into(byte, out),
            b' '..=b'~' => out.push(byte as char),
            _ => escape_into(byte, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22 04:31:02.993615 UTC
    const NOW: Moment = Moment(1_795_321_862_993_615);

    fn line(frame: &Frame<'_>, level: Level, message: &str) -> String {
        let mut out = Vec::new();
        frame.write_line(level, NOW, &Zone::utc(), message, &mut out);
        String::from_utf8(out).unwrap()
    }

    fn frame(format: Format, hostname: Option<&str>) -> Frame<'_> {
        Frame {
            format,
            facility: Facility(17),
            tag: "ta g",
            pid: 7174,
            hostname,
            max_length: 1024,
        }
    }

    #[test]
    fn every_format_is_as_haproxy_writes_it() {
        // Recorded from HAProxy 2.6.12 (facility local1, log-tag "ta g"); pid and time replaced.
        for (format, hostname, expected) in [
            (
                Format::Local,
                None,
                "<142>Nov 22 04:31:02 ta g[7174]: Hi.\n",
            ),
            (
                Format::Local,
                Some("vm"),
                "<142>Nov 22 04:31:02 ta g[7174]: Hi.\n",
            ),
            (
                Format::Rfc3164,
                None,
                "<142>Nov 22 04:31:02 localhost ta g[7174]: Hi.\n",
            ),
            (
                Format::Rfc3164,
                Some("vm"),
                "<142>Nov 22 04:31:02 vm ta g[7174]: Hi.\n",
            ),
            (
                Format::Rfc5424,
                None,
                "<142>1 2026-11-22T04:31:02.993615+00:00 - ta g 7174 - - Hi.\n",
            ),
            (
                Format::Rfc5424,
                Some("my.host"),
                "<142>1 2026-11-22T04:31:02.993615+00:00 my.host ta g 7174 - - Hi.\n",
            ),
            (Format::Priority, None, "<142>Hi.\n"),
            (Format::Short, None, "<6>Hi.\n"),
            (
                Format::Timed,
                None,
                "<6>2026-11-22T04:31:02.993615+00:00 Hi.\n",
            ),
            (Format::Iso, None, "2026-11-22T04:31:02.993615+00:00 Hi.\n"),
            (Format::Raw, None, "Hi.\n"),
        ] {
            let written = line(&frame(format, hostname), Level::Info, "Hi.");
            assert_eq!(written, expected, "{format:?} {hostname:?}");
        }
    }

    #[test]
    fn priority_is_facility_and_level() {
        for (facility, level, expected) in [
            (0, Level::Emergency, "<0>x\n"),
            (17, Level::Alert, "<137>x\n"),
            (17, Level::Notice, "<141>x\n"),
            (23, Level::Debug, "<191>x\n"),
        ] {
            let mut frame = frame(Format::Priority, None);
            frame.facility = Facility(facility);
            assert_eq!(line(&frame, level, "x"), expected);
        }
    }

    #[test]
    fn a_long_line_is_cut_before_its_newline() {
        let mut frame = frame(Format::Local, None);
        frame.max_length = 120;
        frame.facility = Facility(19);
        frame.pid = 6833;
        let message = "Health check for server chk/good succeeded, reason: Layer4 check passed, \
                       check duration: 0ms, status: 3/3 UP.";
        assert_eq!(
            line(&frame, Level::Notice, message),
            "<157>Nov 22 04:31:02 ta g[6833]: Health check for server chk/good succeeded, \
             reason: Layer4 check passed, check duration\n"
        );
    }

    #[test]
    fn no_message_breaks_its_line_or_is_cut_inside_a_character() {
        let mut frame = frame(Format::Raw, None);
        assert_eq!(line(&frame, Level::Info, "a\nb\u{7f}\0é"), "a#0Ab#7F#00é\n");
        for length in 0..8 {
            frame.max_length = length;
            let cut = line(&frame, Level::Info, "ééé€");
            assert!(cut.len() <= length + 1 && cut.ends_with('\n'), "{cut:?}");
        }
    }

    #[test]
    fn escaped_text_is_printable_ascii_without_quotes() {
        let mut out = String::new();
        write_escaped("a b#\"{|}~\u{7f}\té", &mut out);
        assert_eq!(out, "a b#23#22{|}~#7F#09#C3#A9");
    }
}
