//! Words, conditions, times and addresses: are they what the installed HAProxy makes of them?
//!
//! Decides:  which lines are compared. Every one must agree; what differs on purpose is left out
//!           by name, with the reason.
//! Source:   /usr/sbin/haproxy, any version from 2.6.
//! Not here: keywords (differential.rs); what HAProxy 2.6 does not know yet.

#![allow(clippy::unwrap_used, reason = "the helpers of tests")]

use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_config::address::Addresses;
use portcullis_config::units::{TimeUnit, size, time};
use portcullis_config::{
    Diagnostic, Environment, Features, MemoryFiles, Place, Severity, Word, load_document,
};
use portcullis_testkit::need_program;

const VARIABLES: [(&str, &str); 4] = [
    ("PC_A", "one"),
    ("PC_TWO", "a b"),
    ("PC_EMPTY", ""),
    ("PC_Q", "x\"'\\#$PC_A"),
];

/// What a line comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Nothing said about it.
    Silent,
    /// `.warning` said this.
    Said(String),
    /// Refused.
    Refused,
}

fn in_haproxy(haproxy: &Path, name: &str, text: &str) -> Vec<Outcome> {
    let file = std::env::temp_dir().join(format!("pc-{name}-{}.cfg", std::process::id()));
    std::fs::write(&file, text).unwrap();
    let mut command = Command::new(haproxy);
    command
        .arg("-c")
        .arg("-f")
        .arg(&file)
        .env_clear()
        .envs(VARIABLES);
    let output = command.output().unwrap();
    std::fs::remove_file(&file).unwrap();
    let messages = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut outcomes = vec![Outcome::Silent; text.lines().count()];
    for message in messages.lines() {
        let Some((_, rest)) = message.split_once(&format!("[{}:", file.display())) else {
            continue;
        };
        let Some((number, said)) = rest.split_once(']') else {
            continue;
        };
        let Some(line) = number
            .parse::<usize>()
            .ok()
            .filter(|n| *n <= outcomes.len())
        else {
            continue;
        };
        let quoted = said.strip_prefix(": '").and_then(|s| s.strip_suffix("'."));
        let outcome = match quoted {
            _ if message.starts_with("[ALERT]") => Outcome::Refused,
            Some(text) => Outcome::Said(text.to_string()),
            None => continue,
        };
        outcomes[line - 1] = outcome;
    }
    outcomes
}

fn in_ours(text: &str) -> Vec<Outcome> {
    let mut environment = Environment::default();
    for (name, value) in VARIABLES {
        environment.set(name, value);
    }
    let paths = [PathBuf::from("haproxy.cfg")];
    let files = MemoryFiles::single(text);
    let document = load_document(&paths, &files, &mut environment, &Features::default());
    let mut outcomes = vec![Outcome::Silent; text.lines().count()];
    let line_of = |d: &Diagnostic| d.place.map_or(0, |place| place.line as usize);
    for diagnostic in &document.diagnostics {
        let outcome = match (diagnostic.severity, diagnostic.code) {
            (Severity::Error, _) => Outcome::Refused,
            (_, "warning") => Outcome::Said(diagnostic.message.clone()),
            _ => continue,
        };
        outcomes[line_of(diagnostic) - 1] = outcome;
    }
    outcomes
}

/// HAProxy stops at 50 fatal errors.
const BATCH: usize = 40;

/// A long first line. HAProxy reads a line again when it is longer than any before it, and the
/// first reading has already cut it at the end of a `${V-default}` (2.6 to 3.5-dev5).
fn room() -> String {
    format!(".notice {}", "x".repeat(4000))
}

fn compare_lines(haproxy: &Path, name: &str, lines: &[String]) {
    let mut differences = Vec::new();
    for batch in lines.chunks(BATCH) {
        let text = format!("{}\n{}\n", room(), batch.join("\n"));
        let theirs = in_haproxy(haproxy, name, &text);
        let ours = in_ours(&text);
        let outcomes = theirs.iter().zip(&ours).skip(1);
        for (line, (theirs, ours)) in batch.iter().zip(outcomes) {
            if theirs != ours {
                differences.push(format!("{line}\n  haproxy {theirs:?}\n  ours    {ours:?}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn words_are_those_of_haproxy() {
    let Some(haproxy) = need_program("haproxy") else {
        return;
    };
    let words = [
        "a",
        "",
        "a b",
        "a\\ b",
        "'a b'",
        "\"a b\"",
        "a'b'\"c\"d",
        "# c",
        "a#b",
        "a\\#b",
        "'#'",
        "\"#\"",
        "\\x41\\x7e",
        "\\x4",
        "\\xzz",
        "\"\\x41\"",
        "'\\x41'",
        "\\q\\1",
        "\\\\",
        "\\'",
        "\\\"",
        "\"\\\"\"",
        "\"\\'\"",
        "'\\\\'",
        "\"a",
        "'a",
        "\"a'",
        "$PC_A",
        "\"$PC_A\"",
        "\"${PC_A}\"",
        "\"x$PC_A.y\"",
        "\"$PC_NONE\"",
        "\"${PC_NONE-d e}\"",
        "\"${PC_A-d}\"",
        "\"${PC_EMPTY-d}\"",
        "\"${PC_EMPTY}\"",
        "\"$PC_TWO\"",
        "\"${PC_TWO[*]}\"",
        "\"${PC_A[*]}\"",
        "\"$PC_Q\"",
        "\"\\$PC_A\"",
        "\\$PC_A",
        "\"$1\"",
        "\"${}\"",
        "\"${PC_A\"",
        "\"${PC_A+x}\"",
        "\"${PC_A[1]}\"",
        "\"$.BOGUS\"",
        "\"${.LINE}\"",
        "\"${PC_NONE-\\\"}\"",
        "\\t",
        "a\tb",
    ];
    let lines: Vec<String> = words
        .iter()
        .map(|word| format!(".warning {word}"))
        .collect();
    compare_lines(&haproxy, "words", &lines);
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }
}

#[test]
fn random_words_are_those_of_haproxy() {
    let Some(haproxy) = need_program("haproxy") else {
        return;
    };
    // Left out: `${V[*]}` of an empty value in the middle of quotes, whose reading HAProxy changed
    // after 2.6; a backslash at the end, which we refuse on purpose.
    const PIECES: [&str; 24] = [
        "a",
        "b",
        " ",
        "\"",
        "'",
        "\\ ",
        "\\\"",
        "\\'",
        "\\\\",
        "\\#",
        "#",
        "$PC_A",
        "${PC_A}",
        "${PC_NONE-d e}",
        "${PC_Q}",
        "$PC_NONE",
        "\\x4b",
        "\\x",
        "\\$",
        "$",
        "{",
        "}",
        "-",
        "\"\"",
    ];
    let seed = std::env::var("SEED").ok().and_then(|s| s.parse().ok());
    let seed = seed.unwrap_or(u64::from(std::process::id()) * 7919 + 1);
    println!("SEED={seed}");
    let mut random = Random(seed);
    let lines: Vec<String> = (0..600)
        .map(|_| {
            let length = 1 + random.below(7);
            let pieces = (0..length).map(|_| PIECES[random.below(PIECES.len())]);
            format!(".warning {}z", pieces.collect::<String>())
        })
        .collect();
    compare_lines(&haproxy, "random", &lines);
}

#[test]
fn conditions_hold_as_in_haproxy() {
    let Some(haproxy) = need_program("haproxy") else {
        return;
    };
    // Left out: `enabled()`, newer than 2.6; `feature()` of nothing, which HAProxy finds true.
    let conditions = [
        "",
        "0",
        "1",
        "-1",
        "00",
        "0x0",
        "0x1f",
        "010",
        "!1",
        "! 0",
        "!!1",
        "1 && 0",
        "1 || 0",
        "0 || 1 && 0",
        "1 || 0 && 0",
        "(0 || 1) && 0",
        "( ( 1 ) )",
        "!(1 && 0)",
        "1&&1||0",
        "defined(PC_A)",
        "defined(PC_EMPTY)",
        "defined(PC_NONE)",
        "!defined(PC_NONE)",
        "defined()",
        "streq(a,a)",
        "streq(a,b)",
        "streq(a, a)",
        "streq(,)",
        "strneq(a,b)",
        "streq(\"$PC_A\",one)",
        "streq(\\\"$PC_TWO\\\",'a b')",
        "streq('a,b','a,b')",
        "version_atleast(1.5)",
        "version_atleast(2.4)",
        "version_atleast(99)",
        "version_before(2.4)",
        "version_before(99.1-dev3)",
        "feature(THREAD)",
        "feature(EPOLL)",
        "feature(KQUEUE)",
        "feature(THREA)",
        "feature(QUIC)",
        "streq(\\x41,A)",
        "1 && streq(x,x) && !streq(x,y)",
    ];
    let mut lines = Vec::new();
    for (n, condition) in conditions.iter().enumerate() {
        lines.push(format!(".if {condition}"));
        lines.push(format!(".warning true{n}"));
        lines.push(".else".to_string());
        lines.push(format!(".warning false{n}"));
        lines.push(".endif".to_string());
    }
    compare_lines(&haproxy, "conditions", &lines);
}

#[test]
fn bad_conditions_are_refused_as_in_haproxy() {
    let Some(haproxy) = need_program("haproxy") else {
        return;
    };
    let bad = [
        "x",
        "1 1",
        "1 &&",
        "&& 1",
        "1 || || 1",
        "(1",
        "1)",
        "()",
        "!",
        "streq(a)",
        "streq(a,b,c)",
        "streq",
        "streq(a,b",
        "defined(a) b",
        "0x",
        "1 & 1",
        "nosuch(1)",
        "1 !1",
        "defined (a)",
    ];
    for condition in bad {
        let text = format!(".if {condition}\n.endif\n");
        let theirs = in_haproxy(&haproxy, "bad", &text);
        assert_eq!(theirs[0], Outcome::Refused, "haproxy: {condition}");
        assert_eq!(in_ours(&text)[0], Outcome::Refused, "ours: {condition}");
    }
}

/// Each value in a line of its own after `head`; are those refused that we refuse?
fn compare_values(haproxy: &Path, name: &str, head: &str, line: &str, values: &[(&str, bool)]) {
    let mut differences = Vec::new();
    for batch in values.chunks(BATCH) {
        let mut text = if head.is_empty() {
            String::new()
        } else {
            format!("{head}\n")
        };
        for (value, _) in batch {
            text.push_str(&format!("{}\n", line.replace('@', value)));
        }
        let theirs = in_haproxy(haproxy, name, &text);
        let theirs = &theirs[head.lines().count()..];
        for ((value, ours), theirs) in batch.iter().zip(theirs.chunks(line.lines().count())) {
            if *ours == theirs.contains(&Outcome::Refused) {
                differences.push(format!("{value}: haproxy {theirs:?}, taken by us: {ours}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn times_and_sizes_are_taken_and_refused_as_in_haproxy() {
    let Some(haproxy) = need_program("haproxy") else {
        return;
    };
    let times = [
        "0",
        "1",
        "1us",
        "999us",
        "1ms",
        "5s",
        "5m",
        "5h",
        "24d",
        "25d",
        "2147483647",
        "2147483648",
        "2147483647ms",
        "2147483s",
        "2147484s",
        "35791m",
        "35792m",
        "596h",
        "597h",
        "5S",
        "5x",
        "5u",
        "s",
        "-1",
        "+1",
        "1.5s",
        "5min",
        "5ss",
        "5sx",
        "1d1h",
        "99999999999",
    ];
    let times = times.map(|text| (text, time(text, TimeUnit::Milliseconds).is_ok()));
    compare_values(&haproxy, "times", "defaults", " timeout client @", &times);
    let sizes = [
        "1",
        "16384",
        "16k",
        "16K",
        "1m",
        "1M",
        "1g",
        "3g",
        "4g",
        "4294967295",
        "4294967296",
        "1t",
        "1kb",
        "k",
        "-1",
        "0x10",
        "1.5k",
    ];
    let sizes = sizes.map(|text| (text, size(text).is_ok()));
    let line = "backend \"b${.LINE}\"\n stick-table type ip size @";
    compare_values(&haproxy, "sizes", "", line, &sizes);
}

#[test]
fn addresses_are_taken_and_refused_as_in_haproxy() {
    let Some(haproxy) = need_program("haproxy") else {
        return;
    };
    let environment: Environment = VARIABLES
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    let addresses = Addresses {
        environment: &environment,
        unix_prefix: "",
    };
    let word = |text: &str| {
        let place = Place {
            file: 0,
            line: 1,
            start: 0,
            end: text.len() as u32,
        };
        Word::plain(text, place)
    };
    // Left out: names (HAProxy resolves them while it reads), `fd@` and `sockpair@` (it looks at the
    // descriptor), `abnsz@`, `mptcp@` and `rhttp@` (newer than 2.6), `1.2.3` (HAProxy asks the
    // resolver, which reads it as 1.2.0.3; we refuse) and `01.2.3.4` (as octal), `:80x` and `:1-2-3`
    // (taken by 2.6, refused since), `unix@` (taken, and refused when it is opened).
    let binds = [
        ":80",
        "*:80",
        "0.0.0.0:80",
        "1.2.3.4:80",
        ":::80",
        "[::]:80",
        "::1:80",
        "[::1]:80",
        "ip@1.2.3.4:80",
        "ipv4@:80",
        "ipv6@:80",
        "ipv6@*:80",
        "ipv6@::1:80",
        "ipv4@::1:80",
        "ipv6@1.2.3.4:80",
        "tcp@:80",
        "tcp4@:80",
        "tcp6@:80",
        "stream+ip@:80",
        "dgram+ip@:80",
        "udp@:80",
        "udp4@:80",
        "uxdg@/tmp/x",
        "unix@/tmp/x",
        "uxst@/tmp/x",
        "/tmp/x",
        "abns@x",
        "stream+unix@/tmp/x",
        ":80-85",
        ":80-80",
        ":85-80",
        ":0",
        ":0-5",
        ":65535",
        ":65536",
        ":80-65536",
        ":+1",
        ":-1",
        ":80-",
        "80",
        "1.2.3.4",
        "[::1]",
        "::1",
        "1.2.3.4:",
        "[::1:80",
        "::1]:80",
        "1.2.3.256:80",
        ":80,:81",
        ":80,,:81",
        ":80,",
        ",:80",
        "a_b!:80",
        "ring@x",
        "quic4@:443",
        "$PC_NONE:80",
        "[]:80",
        "[:]:80",
        "::ffff:1.2.3.4:80",
        "1.2.3.4:080",
    ];
    let taken = |text: &&'static str| (*text, addresses.bind(&word(text)).is_ok());
    let binds: Vec<_> = binds.iter().map(taken).collect();
    compare_values(&haproxy, "binds", "frontend f", " bind @", &binds);
    // Left out: what HAProxy takes for a name and refuses only when it resolves it (`a!b`), and `:+`
    // without a number, which is +0 there.
    let servers = [
        "1.2.3.4:80",
        "1.2.3.4",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:+5",
        "1.2.3.4:-5",
        "1.2.3.4:80-81",
        "1.2.3.4:x",
        "1.2.3.4:65536",
        "[::1]",
        "[::1]:80",
        "::1:80",
        "0.0.0.0:80",
        "*:80",
        "*",
        ":80",
        "/tmp/x",
        "unix@/tmp/x",
        "abns@x",
        "ipv4@1.2.3.4",
        "fd@1",
        "udp@1.2.3.4:1",
    ];
    let taken = |text: &&'static str| (*text, addresses.server(&word(text)).is_ok());
    let servers: Vec<_> = servers.iter().map(taken).collect();
    compare_values(
        &haproxy,
        "servers",
        "backend b",
        " server \"s${.LINE}\" @",
        &servers,
    );
}
