//! The states that a socket can be in, and how scenarios for each of them are run.
//!
//! Decides:  the states; that both worlds must agree on every step.
//! Not here: what is done in a state (options.rs, addresses.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;

use portcullis_conformance::script::{self, Settings};

/// A state, and the lines that bring socket `x` there. `L` is the family's loopback, `P` a port.
pub const STATES: &[(&str, &str)] = &[
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
    // Here `x` is made last.
    (
        "accepted",
        "socket l F by WHO\nl bind L:P -> ok\nl listen -> ok\nsocket p F\n\
     p connect L:P -> ok\nl accept x as WHO -> ok",
    ),
];

/// A scenario that brings a socket `x` of process `who` into a state once for each of these groups of
/// lines, and says them there.
pub fn scenario(family: &str, lines: &str, process: &str, host: &str, groups: &[String]) -> String {
    let who = process.split(' ').next().unwrap();
    let mut text = format!("{host}process {process}\n");
    let (loopback, any) = match family {
        "inet" => ("127.0.0.1", "0.0.0.0"),
        _ => ("[::1]", "[::]"),
    };
    for at in 0..groups.len() {
        let _ = writeln!(text, "port p{at}");
    }
    for (at, group) in groups.iter().enumerate() {
        let lines = lines
            .replace("L:P", &format!("{loopback}:p{at}"))
            .replace("A:", &format!("{any}:"))
            .replace('F', family)
            .replace("WHO", who);
        // The other sockets are root's, so that a reset of theirs leaves nothing behind.
        if !lines.contains("accept x") {
            let _ = writeln!(text, "socket x {family} by {who}");
        }
        let _ = writeln!(text, "{lines}\n{group}");
        for label in ["x", "l", "f", "p"] {
            let made = label == "x" || lines.contains(&format!("socket {label} "));
            let accepted = lines.contains(&format!("accept {label}\n"));
            if (made || accepted) && !lines.contains(&format!("{label} close")) {
                let of_who = lines.contains(&format!("socket {label} {family} by"));
                let caller = if label == "x" || of_who { who } else { "root" };
                let _ = writeln!(text, "{label} set linger 0 as {caller} -> any");
                let _ = writeln!(text, "{label} close as {caller} -> any");
            }
        }
    }
    text
}

/// Scenarios by name, run in both worlds.
pub fn agree(what: &str, scenarios: &[(String, String)], steps_at_least: usize) {
    let directory: PathBuf =
        std::env::temp_dir().join(format!("portcullis-{what}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text) in scenarios {
        let problems = script::parse(text, Settings::default()).err();
        assert!(
            problems.is_none(),
            "{}",
            problems.unwrap()[0].render(name, text)
        );
        let name = format!("{}.bind", name.replace(' ', "_"));
        std::fs::write(directory.join(name), text).unwrap();
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
        assert!(figure("steps").unwrap() >= steps_at_least, "{last}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
