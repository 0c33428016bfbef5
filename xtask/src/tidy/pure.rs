//! Pure crates take events and a clock reading, and touch nothing.
//!
//! Decides:  which paths the sources of pure crates must not name, outside their tests.
//! Source:   STYLE.md 2.

use super::{Finding, source::Source};

/// A directory of pure sources and what it must not name.
const PURE: &[(&str, &[&str])] = &[
    (
        "crates/balance/src",
        &[
            "Instant::now",
            "SystemTime::now",
            "std::fs",
            "std::net::Tcp",
            "std::thread",
            "std::process",
            "thread_rng",
            "HashMap",
            "HashSet",
        ],
    ),
    (
        "crates/config/src",
        &[
            "Instant::now",
            "SystemTime::now",
            "TcpListener",
            "TcpStream",
            "UdpSocket",
            "UnixStream",
            "ToSocketAddrs",
            "std::thread",
            "std::process::Command",
        ],
    ),
    (
        "crates/sockopt/src",
        &[
            "std::fs",
            "TcpListener",
            "TcpStream",
            "std::thread",
            "std::process",
        ],
    ),
];

pub fn check(source: &Source, findings: &mut Vec<Finding>) {
    let Some((_, forbidden)) = PURE
        .iter()
        .find(|(place, _)| source.path.starts_with(place))
    else {
        return;
    };
    let tokens = source.tokens();
    for name in *forbidden {
        let wanted = words(name);
        for window in tokens.windows(wanted.len()) {
            let line = window.first().map_or(1, |(_, line)| *line);
            let same = window.iter().map(|(word, _)| word).eq(&wanted);
            if same && !source.in_test(line) {
                let message = format!("a pure crate names `{name}`: let the caller bring it in");
                findings.push(Finding::new(&source.path, line, "pure", message));
            }
        }
    }
}

/// `a::b` as tokens.
fn words(path: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in path.split("::").enumerate() {
        if index > 0 {
            words.extend([":".to_owned(), ":".to_owned()]);
        }
        words.push(part.to_owned());
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_clock_in_a_pure_crate_is_found_except_in_its_tests() {
        let clock = "fn f() { let _ = std::time::Instant::now(); }";
        let tested = format!("#[cfg(test)]\nmod tests {{ {clock} }}");
        let table = [
            ("crates/balance/src/a.rs", clock, 1),
            ("crates/balance/src/a.rs", tested.as_str(), 0),
            ("crates/proxy/src/a.rs", clock, 0),
            (
                "crates/balance/src/a.rs",
                "/// `Instant::now` is not called\nfn f() {}",
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
