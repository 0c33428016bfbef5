//! Every option in every state by every caller, in the model and on the live kernel.
//!
//! Decides:  the callers, the values and lengths that are tried.
//! Not here: the states (states/mod.rs); what an option does to bind, listen and lookup (the cases, the random runs).

mod states;

use portcullis_conformance::script::{READABLE, SETTABLE, Value};

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

/// Lengths to try, for the first and the last value of each option and for reading each.
const LENGTHS: &[i32] = &[i32::MIN, -1, 0, 1, 3, 4, 5, 7, 8, 15, 16, 17, 64];

/// A line on `x`, and the options to read after it.
struct Setting {
    set: String,
    read: Vec<&'static str>,
}

impl Setting {
    fn lines(&self, who: &str) -> String {
        let mut text = format!("x set {} as {who} -> any\n", self.set);
        for word in &self.read {
            text += &format!("x get {word} as {who} -> any\n");
        }
        text
    }
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
fn settings(lengths: &[i32]) -> Vec<Setting> {
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

/// Each option is read with every length, as it is and after what makes its value unusual.
fn readings() -> Vec<String> {
    let before = [
        "reuseaddr on", // nothing that matters
        "linger 300",
        "device eth0",
        "port-range 40000..40003",
        "fastopen 300",
        "defer-accept 70000",
        "incoming-cpu -1",
        "transparent on",
    ];
    let mut all = Vec::new();
    for set in before {
        let mut text = format!("x set {set} as root -> any\n");
        for (word, _, _) in READABLE {
            for len in LENGTHS {
                text += &format!("x get {word} length {len} as WHO -> any\n");
            }
        }
        all.push(text);
    }
    all
}

fn every_state(family: &str) {
    let (short, long) = (settings(&[]), settings(LENGTHS));
    let mut all = Vec::new();
    for (state, lines) in states::STATES {
        for (who, caps) in CALLERS {
            let settings = if with_lengths(state, who) {
                &long
            } else {
                &short
            };
            let mut groups: Vec<String> =
                settings.iter().map(|setting| setting.lines(who)).collect();
            if matches!(*who, "everything") {
                let readings = readings();
                groups.extend(readings.iter().map(|text| text.replace("WHO", who)));
            }
            let process = format!("{who} with {caps}");
            let host = "interface eth0 = 192.0.2.7/24\n";
            let text = states::scenario(family, lines, &process, host, &groups);
            all.push((format!("{state} by {who}"), text));
        }
    }
    states::agree(&format!("options-{family}"), &all, 50_000);
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
