//! Lines as JSON objects: `log … format json`, ours.
//!
//! Decides:  the names of the members, which programs rely on: one may be added, none renamed.
//! Source:   RFC 8259 section 7 for strings; the meaning of each member is that of the field of
//!           HAProxy's manual, chapter 8.2.2, that it stands for.
//! Not here: which lines are written, and where to.

use std::fmt::Write as _;

use super::frame::{Frame, Level};
use super::time::{Moment, Zone};
use crate::record::{EndCause, PeerAddress, RecordKind, SessionRecord};

const LEVELS: [&str; 8] = [
    "emerg", "alert", "crit", "err", "warning", "notice", "info", "debug",
];

impl Frame<'_> {
    /// Appends a line with a message; a message that is too long for the line is cut.
    pub fn write_json_message(
        &self,
        level: Level,
        now: Moment,
        zone: &Zone,
        message: &str,
        out: &mut Vec<u8>,
    ) {
        let mut line = self.json_head(level, now, zone);
        line.push_str("\"message\":\"");
        for character in message.chars() {
            let before = line.len();
            push_escaped(character, &mut line);
            if line.len() + "\"}".len() > self.max_length {
                line.truncate(before);
                break;
            }
        }
        line.push_str("\"}\n");
        out.extend_from_slice(line.as_bytes());
    }

    /// Appends a line with a session's fields. It is never cut: half an object is none.
    pub fn write_json_session(
        &self,
        level: Level,
        now: Moment,
        zone: &Zone,
        record: &SessionRecord,
        out: &mut Vec<u8>,
    ) {
        let mut line = self.json_head(level, now, zone);
        write_session(record, zone, &mut line);
        line.push_str("}\n");
        out.extend_from_slice(line.as_bytes());
    }

    fn json_head(&self, level: Level, now: Moment, zone: &Zone) -> String {
        let mut line = String::with_capacity(640);
        line.push_str("{\"time\":\"");
        zone.write_iso(now, &mut line);
        let level = LEVELS[usize::from(level.number())];
        let _ = write!(line, "\",\"level\":\"{level}\",");
        let _ = write!(line, "\"facility\":{},", self.facility.0);
        if let Some(hostname) = self.hostname {
            write_text("host", hostname, &mut line);
        }
        write_text("tag", self.tag, &mut line);
        let _ = write!(line, "\"pid\":{},", self.pid);
        line
    }
}

fn write_session(record: &SessionRecord, zone: &Zone, out: &mut String) {
    let event = match record.kind {
        RecordKind::Accepted => "accepted",
        RecordKind::Connected => "connected",
        RecordKind::Ended => "ended",
        RecordKind::Refused(_) => "refused",
        RecordKind::NoAddress(_) => "no-address",
    };
    write_text("event", event, out);
    out.push_str("\"accepted\":\"");
    zone.write_iso(Moment::from_ms(record.accepted_ms), out);
    out.push_str("\",");
    write_peer("client", record.client, out);
    if let Some(local) = record.local {
        write_peer("destination", local, out);
    }
    let _ = write!(out, "\"listener\":{},", record.listener);
    write_text("frontend", &record.frontend.name, out);
    let backend = record.backend.as_ref().map(|backend| &*backend.name);
    write_optional_text("backend", backend, out);
    let server = record.server.as_ref().map(|server| &*server.name);
    write_optional_text("server", server, out);
    write_optional("queue_ms", record.queue_ms, out);
    write_optional("connect_ms", record.connect_ms, out);
    let _ = write!(out, "\"total_ms\":{},", record.total_ms);
    let _ = write!(out, "\"bytes_in\":{},", record.bytes_in);
    let _ = write!(out, "\"bytes_out\":{},", record.bytes_out);
    let _ = write!(out, "\"termination\":\"{}\",", record.termination);
    match record.kind {
        RecordKind::Refused(fault) => write_text("reason", &fault.to_string(), out),
        RecordKind::NoAddress(why) => write_text("reason", &why.to_string(), out),
        _ => write_text("reason", reason(record.termination.cause), out),
    }
    let _ = write!(out, "\"retries\":{},", record.retries);
    let _ = write!(out, "\"redispatched\":{},", record.redispatched);
    let _ = write!(
        out,
        "\"connections\":{{\"process\":{},\"frontend\":{},\"backend\":{},\"server\":{}}},",
        record.process_connections,
        record.frontend_connections,
        record.backend_connections,
        record.server_connections
    );
    let _ = write!(
        out,
        "\"queues\":{{\"server\":{},\"backend\":{}}}",
        record.server_queue, record.backend_queue
    );
}

/// The first letter of the termination state, as a word.
fn reason(cause: EndCause) -> &'static str {
    match cause {
        EndCause::Normal => "normal",
        EndCause::ClientAbort => "client abort",
        EndCause::ServerAbort => "server abort",
        EndCause::ClientTimeout => "client timeout",
        EndCause::ServerTimeout => "server timeout",
        EndCause::Resource => "resource",
        EndCause::Killed => "killed",
        EndCause::Local => "local",
        EndCause::Down => "server down",
        EndCause::Up => "active server up",
        EndCause::Internal => "internal error",
        EndCause::Lifetime => "lifetime",
        EndCause::Drained => "drained",
    }
}

fn write_peer(name: &str, peer: PeerAddress, out: &mut String) {
    match peer {
        PeerAddress::Ip(address) => write_text(name, &address.to_string(), out),
        PeerAddress::Unix => write_text(name, "unix", out),
    }
}

fn write_optional(name: &str, value: Option<u64>, out: &mut String) {
    match value {
        Some(value) => {
            let _ = write!(out, "\"{name}\":{value},");
        }
        None => {
            let _ = write!(out, "\"{name}\":null,");
        }
    }
}

fn write_optional_text(name: &str, value: Option<&str>, out: &mut String) {
    match value {
        Some(value) => write_text(name, value, out),
        None => write_optional(name, None, out),
    }
}

fn write_text(name: &str, value: &str, out: &mut String) {
    let _ = write!(out, "\"{name}\":\"");
    for character in value.chars() {
        push_escaped(character, out);
    }
    out.push_str("\",");
}

fn push_escaped(character: char, out: &mut String) {
    match character {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        control if control.is_control() => {
            let _ = write!(out, "\\u{:04x}", u32::from(control));
        }
        plain => out.push(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::{Facility, Format};
    use super::super::session::tests::{backend, ended, record};
    use super::*;
    use crate::record::EndPhase;

    const NOW: Moment = Moment(1_795_321_862_993_615);

    fn frame(hostname: Option<&str>, max_length: usize) -> Frame<'_> {
        Frame {
            format: Format::Json,
            facility: Facility(16),
            tag: "t\"g",
            pid: 7,
            hostname,
            max_length,
        }
    }

    fn message(frame: &Frame<'_>, text: &str) -> String {
        let mut out = Vec::new();
        frame.write_line(Level::Notice, NOW, &Zone::utc(), text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_session_is_one_object_with_every_field() {
        let mut record = record();
        record.termination = ended(EndCause::Drained, EndPhase::Data);
        record.connect_ms = None;
        let mut out = Vec::new();
        frame(Some("vm"), 80).write_json_session(Level::Info, NOW, &Zone::utc(), &record, &mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "{\"time\":\"2026-11-22T04:31:02.993615+00:00\",\"level\":\"info\",\"facility\":16,\
             \"host\":\"vm\",\"tag\":\"t\\\"g\",\"pid\":7,\"event\":\"ended\",\
             \"accepted\":\"2026-11-22T04:31:03.475000+00:00\",\"client\":\"127.0.0.1:50308\",\
             \"listener\":1,\"frontend\":\"fe\",\"backend\":\"be\",\"server\":\"s0\",\
             \"queue_ms\":1,\"connect_ms\":null,\"total_ms\":0,\"bytes_in\":5,\"bytes_out\":5,\
             \"termination\":\"AD\",\"reason\":\"drained\",\"retries\":0,\"redispatched\":false,\
             \"connections\":{\"process\":1,\"frontend\":1,\"backend\":0,\"server\":0},\
             \"queues\":{\"server\":0,\"backend\":0}}\n"
        );
    }

    #[test]
    fn names_and_messages_cannot_break_out_of_their_strings() {
        let mut record = record();
        record.backend = Some(backend("b\\\"\n\u{85}é"));
        let mut out = Vec::new();
        frame(None, 80).write_json_session(Level::Info, NOW, &Zone::utc(), &record, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("\"backend\":\"b\\\\\\\"\\u000a\\u0085é\","),
            "{text}"
        );
        let text = message(&frame(None, 1024), "a\"\\\n\u{7f}");
        assert!(
            text.ends_with("\"message\":\"a\\\"\\\\\\u000a\\u007f\"}\n"),
            "{text}"
        );
    }

    #[test]
    fn a_long_message_is_cut_inside_its_string() {
        for length in 130..160 {
            let text = message(&frame(None, length), &"é\n\"".repeat(40));
            assert!(
                text.ends_with("\"}\n") && text.len() <= length + 1,
                "{text}"
            );
            let said = text.split_once("\"message\":\"").unwrap().1;
            let said = said.strip_suffix("\"}\n").unwrap();
            let escapes = said.replace("\\u000a", "").replace("\\\"", "");
            assert!(escapes.chars().all(|c| c == 'é'), "{text}");
        }
    }
}
