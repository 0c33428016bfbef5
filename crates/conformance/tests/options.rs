//! Every option in every state by every caller, in the model and on the live kernel.
//!
//! Decides:  the states, the callers, the values and lengths that are tried.
//! Not here: what an option does to bind, listen and lookup (the cases, the random runs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::process::Command;

use portcullis_conformance::script::{self, READABLE, SETTABLE, Settings, Value};

/// A state, and the lines that bring socket `x` there. `L` is the family's loopback, `P` a port.
const STATES: &[(&str, &str)] = &[
    ("new", ""),
    ("bound", "x bind L:P -> ok"),
    ("bound to any address", "x bind A:0 -> ok"),
    ("listening", "x bind L:P -> ok\nx listen -> ok"),
    (
        "connected",
        "socket l F\nl bind L:P -> ok\nl listen -> ok\nx connect L:P -> ok",
    ),
    (
        "connecting",
        "socket l F\nl bind L:P -> ok\nl listen 0 -> ok\nsocket f F\nf connect L:P -> ok\n\
         x nonblocking on\nx connect L:P -> EINPROGRESS",
    ),
    (
        "shut down for reading",
        "socket l F\nl bind L:P -> ok\nl listen -> ok\nx connect L:P -> ok\nx shutdown read -> ok",
    ),
    (
        "shut down for writing",
        "socket l F\nl bind L:P -> ok\nl listen -> ok\nx connect L:P -> ok\nx shutdown write -> ok",
    ),
    (
        "left by its peer",
        "socket l F\nl bind L:P -> ok\nl listen -> ok\nx connect L:P -> ok\nl accept p\np close",
    ),
    (
        "reset by its peer",
        "socket l F\nl bind L:P -> ok\nl listen -> ok\nx connect L:P -> ok\nl close",
    ),
    (
        "no listener any more",
        "x bind L:P -> ok\nx listen -> ok\nx shutdown read -> ok",
    ),
    (
        "disconnected",
        "socket l F\nl bind L:P -> ok\nl listen -> ok\nx connect L:P -> ok\nx connect unspecified -> ok",
    ),
    ("closed", "x close -> ok"),
];

/// The lines for a socket that was accepted: here `x` is made last.
const ACCEPTED: &str = "socket l F by WHO\nl bind L:P -> ok\nl listen -> ok\nsocket p F\n\
     p connect L:P -> ok\nl accept x as WHO -> ok";

/// Who sets, and what he may.
const CALLERS: &[(&str, &str)] = &[
    ("everything", "net_bind_service, net_admin, net_raw"),
    ("nothing", "none"),
    ("admin", "net_admin"),
    ("raw", "net_raw"),
];

/// Values to try, after the option's word.
fn values(value: Value) -> &'static [&'static str] {
    match value {
        Value::Switch(_) => &["on", "off"],
        Value::Number(_) => &[
            "-2147483648",
            "-1",
            "0",
            "1",
            "2",
            "7",
            "70000",
            "2147483647",
        ],
        Value::Repair => &["-2", "-1", "0", "1", "2"],
        Value::Linger => &["off", "0", "1", "65535"],
        Value::Ports => &[
            "0..0",
            "40000..40003",
            "40003..40000",
            "0..40000",
            "40000..0",
        ],
        Value::Device => &["lo", "eth0", "none", "no-such-device"],
        Value::Program => &["index 0", "index 4294", "cpu 2"],
        Value::Nothing(_) => &[""],
    }
}

/// Lengths to try, for the first value of each option.
const LENGTHS: &[u32] = &[0, 1, 3, 4, 5, 7, 8, 15, 16, 17, 64];

/// A line on `x`, and the options to read after it.
struct Setting {
    set: String,
    read: Vec<&'static str>,
}

/// States and callers for whom odd lengths are tried as well: the kernel looks at a length before all
/// else.
fn with_lengths(state: &str, who: &str) -> bool {
    matches!(
        state,
        "new" | "bound" | "listening" | "connected" | "closed"
    ) && matches!(who, "everything" | "nothing")
}

/// Each option: every value, and every length of the first and the last. The first value is followed by
/// a look at all options.
fn settings(lengths: &[u32]) -> Vec<Setting> {
    let mut all = Vec::new();
    for entry in SETTABLE {
        let own = READABLE.iter().filter(|readable| readable.0 == entry.word);
        let own: Vec<&str> = own
            .map(|readable| readable.0)
            .chain(["reuseaddr"])
            .collect();
        let values = values(entry.value);
        for value in values {
            let set = format!("{} {value}", entry.word);
            let read = own.clone();
            all.push(Setting { set, read });
        }
        for value in [values[0], values[values.len() - 1]] {
            for len in lengths {
                // A program's value holds a pointer: a right length would need a right one.
                if !(matches!(entry.value, Value::Program) && *len == 16) {
                    let set = format!("{} {value} length {len}", entry.word);
                    let read = own.clone();
                    all.push(Setting { set, read });
                }
            }
        }
    }
    all[0].read = READABLE.iter().map(|readable| readable.0).collect();
    all
}

/// A scenario that brings a socket into a state for each setting, sets, and reads every option.
fn scenario(family: &str, lines: &str, who: &str, caps: &str, settings: &[Setting]) -> String {
    let mut text = format!("interface eth0 = 192.0.2.7/24\nprocess {who} with {caps}\n");
    let (loopback, any) = match family {
        "inet" => ("127.0.0.1", "0.0.0.0"),
        _ => ("[::1]", "[::]"),
    };
    for at in 0..settings.len() {
        let _ = writeln!(text, "port p{at}");
    }
    for (at, setting) in settings.iter().enumerate() {
        let lines = lines
            .replace("L:P", &format!("{loopback}:p{at}"))
            .replace("A:", &format!("{any}:"))
            .replace('F', family)
            .replace("WHO", who);
        // The other sockets are root's, so that a reset of theirs leaves nothing behind.
        if !lines.contains("accept x") {
            let _ = writeln!(text, "socket x {family} by {who}");
        }
        let _ = writeln!(text, "{lines}\nx set {} as {who} -> any", setting.set);
        for word in &setting.read {
            let _ = writeln!(text, "x get {word} as {who} -> any");
        }
        for label in ["x", "l", "f", "p"] {
            let made = label == "x" || lines.contains(&format!("socket {label} "));
            let accepted = lines.contains(&format!("accept {label}\n"));
            if (made || accepted) && !lines.contains(&format!("{label} close")) {
                let as_who = if label == "x" { who } else { "root" };
                let _ = writeln!(text, "{label} set linger 0 as {as_who} -> any");
                let _ = writeln!(text, "{label} close as {as_who} -> any");
            }
        }
    }
    text
}

/// Runs the scenarios of every state and caller in both worlds.
fn every_state(family: &str) {
    let id = std::process::id();
    let directory = std::env::temp_dir().join(format!("portcullis-options-{family}-{id}"));
    std::fs::create_dir_all(&directory).unwrap();
    let (short, long) = (settings(&[]), settings(LENGTHS));
    let accepted = ("accepted", ACCEPTED);
    for (state, lines) in STATES.iter().copied().chain([accepted]) {
        for (who, caps) in CALLERS {
            let settings = if with_lengths(state, who) {
                &long
            } else {
                &short
            };
            let text = scenario(family, lines, who, caps, settings);
            let problems = script::parse(&text, Settings::default()).err();
            assert!(
                problems.is_none(),
                "{}",
                problems.unwrap()[0].render(state, &text)
            );
            let name = format!("{} by {who}.bind", state.replace(' ', "_"));
            std::fs::write(directory.join(name), text).unwrap();
        }
    }
    // A process of one thread, which a test is not.
    let done = Command::new(env!("CARGO_BIN_EXE_conformance"))
        .arg("--cases")
        .arg(&directory)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    let all = format!("{text}{}", String::from_utf8_lossy(&done.stderr));
    let last = text.lines().last().unwrap_or("");
    let figure = |name: &str| {
        let mut words = last.split(' ').filter_map(|word| word.split_once('='));
        words.find_map(|(is, n)| (is == name).then(|| n.parse::<usize>().unwrap()))
    };
    if figure("skipped") != Some(0) && figure("steps") == Some(0) {
        portcullis_testkit::skip(&all);
    } else {
        assert!(done.status.success(), "{all}");
        assert_eq!(figure("skipped"), Some(0), "{all}");
        assert_eq!(figure("failed"), Some(0), "{all}");
        assert!(figure("steps").unwrap() > 50_000, "{last}");
        println!("{last}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn every_option_in_every_state_by_every_caller_agrees_for_ipv4() {
    every_state("inet");
}

#[test]
fn every_option_in_every_state_by_every_caller_agrees_for_ipv6() {
    every_state("inet6");
}

#[test]
fn every_option_of_the_language_is_tried_with_every_kind_of_value() {
    let settings = settings(LENGTHS);
    for entry in SETTABLE {
        let word = format!("{} ", entry.word);
        let tried = settings.iter().filter(|one| one.set.starts_with(&word));
        assert!(
            tried.count() > LENGTHS.len(),
            "{} is hardly tried",
            entry.word
        );
    }
}
