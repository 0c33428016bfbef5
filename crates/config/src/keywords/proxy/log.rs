//! `log` and what shapes a log line.
//!
//! Decides:  the arguments of `log`, for `global` and for proxies.
//! Source:   HAProxy's manual, chapter 4.2 `log`; src/log.c, parse_logger(), 3.5-dev5.
//! Not here: what a target may be (address.rs), log options (option.rs).

use crate::arguments::Args;
use crate::build::draft::{LogLine, ProxyDraft};
use crate::keyword::{Entry, Prefixes, entries};
use crate::model::{LogFormat, LogTarget, Sample};

const SHAPE: &str = "lines keep the shape of `option tcplog`";

/// The family's entries.
pub const ENTRIES: &[Entry<ProxyDraft>] = entries! {
    "log" "global | <target> [len <bytes>] [format <format>] [sample <ranges>:<size>] <facility> [<level> [<minimum>]]" DFLB supported(log) "where to log" prefixes(Prefixes::No) default("nowhere");
    "log-tag" "<text>" DFLB supported(log_tag) "the program's name in log lines" default("`log-tag` of `global`");
    "log-format" "<format>" DFL warned(SHAPE) "the shape of a session's log line";
    "log-format-sd" "<format>" DFL warned(SHAPE) "structured data for rfc5424";
    "error-log-format" "<format>" DFL warned(SHAPE) "the shape of a failed session's log line";
    "log-steps" "<step>,…" DFL warned("a session is logged at its end") "when to log a session";
    "unique-id-format" "<format>" DFLB inert("`log-format` and PROXY v2") "a session's unique name";
    "email-alert from" "<address>" DFLB inert("`email-alert mailers`") "an alert's sender";
    "email-alert level" "<level>" DFLB inert("`email-alert mailers`") "which alerts are sent";
    "email-alert mailers" "<mailers>" DFLB warned("no mail is sent") "who sends alerts";
    "email-alert myhostname" "<name>" DFLB inert("`email-alert mailers`") "our name in an alert";
    "email-alert to" "<address>" DFLB inert("`email-alert mailers`") "who gets alerts";
};

fn log(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    if args.negated() {
        args.end()?;
        proxy.logs.clear();
        return Some(());
    }
    if args.peek_is("global") {
        let place = args.peek_place();
        args.optional();
        args.end()?;
        proxy.logs.push(LogLine::Global(place));
        return Some(());
    }
    let target = log_target(args)?;
    proxy.logs.push(LogLine::Target(target));
    Some(())
}

fn log_tag(proxy: &mut ProxyDraft, args: &mut Args<'_>) -> Option<()> {
    proxy.log_tag = Some(args.word("a tag")?.text.clone());
    args.end()
}

/// The names of `format`.
pub(crate) const FORMATS: [(&str, LogFormat); 9] = [
    ("local", LogFormat::Local),
    ("rfc3164", LogFormat::Rfc3164),
    ("rfc5424", LogFormat::Rfc5424),
    ("priority", LogFormat::Priority),
    ("short", LogFormat::Short),
    ("timed", LogFormat::Timed),
    ("iso", LogFormat::Iso),
    ("raw", LogFormat::Raw),
    ("json", LogFormat::Json),
];

const FACILITIES: [(&str, u8); 24] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("auth2", 10),
    ("ftp", 11),
    ("ntp", 12),
    ("audit", 13),
    ("alert", 14),
    ("cron2", 15),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

const LEVELS: [(&str, u8); 8] = [
    ("emerg", 0),
    ("alert", 1),
    ("crit", 2),
    ("err", 3),
    ("warning", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

/// `len`: HAProxy's range and default.
const LENGTH: std::ops::RangeInclusive<i64> = 80..=65535;
const DEFAULT_LENGTH: u32 = 1024;

/// What stands after `log`, when it is a target.
pub(crate) fn log_target(args: &mut Args<'_>) -> Option<LogTarget> {
    let place = args.place();
    let to = args.log_destination()?;
    let mut max_length = DEFAULT_LENGTH;
    let mut format = None;
    let mut sample = None;
    loop {
        if args.take("len") {
            max_length = args.integer_of("length of log lines", LENGTH)?.value as u32;
        } else if args.take("format") {
            format = Some(args.choice("a log format", &FORMATS)?.value);
        } else if args.take("sample") {
            sample = Some(read_sample(args)?);
        } else if args.take("profile") {
            let place = args.peek_place();
            return args.not_supported(place, "`profile`", "there are no log profiles yet");
        } else {
            break;
        }
    }
    let facility = args.choice("a syslog facility", &FACILITIES)?.value;
    let max_level = match args.more() {
        true => args.choice("a syslog level", &LEVELS)?.value,
        false => 7,
    };
    let min_level = match args.more() {
        true => args.choice("a syslog level", &LEVELS)?.value,
        false => 0,
    };
    args.end()?;
    Some(LogTarget {
        place,
        format,
        to,
        max_length,
        facility,
        max_level,
        min_level,
        sample,
    })
}

/// `1,3-5:10`: of every ten lines the first, and the third to fifth.
fn read_sample(args: &mut Args<'_>) -> Option<Sample> {
    const EXPECTED: &str = "expected ranges of numbers from 1, and of how many, like `1,3-5:10`";
    let word = args.word("ranges and a size, like `1,3-5:10`")?;
    let wrong = |args: &mut Args<'_>, message: &str| args.bad_at(word.place, message, EXPECTED);
    let Some((ranges, size)) = word.text.rsplit_once(':') else {
        return wrong(args, "a sample needs its size");
    };
    let number = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u32>().ok().filter(|&n| plain && n > 0)
    };
    let Some(size) = number(size) else {
        return wrong(args, &format!("`{size}` is no size of a sample"));
    };
    let mut read = Vec::new();
    for part in ranges.split(',') {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        match (number(low), number(high)) {
            (Some(low), Some(high)) if low <= high => read.push((low, high)),
            _ => return wrong(args, &format!("`{part}` is no range of a sample")),
        }
    }
    read.sort_unstable();
    if read.windows(2).any(|pair| pair[1].0 <= pair[0].1) {
        return wrong(args, "the ranges of a sample overlap");
    }
    match read.last() {
        Some(&(_, last)) if last > size => wrong(args, "a range goes beyond the sample's size"),
        _ => Some(Sample { ranges: read, size }),
    }
}
