//! Which crate may depend on which.
//!
//! Decides:  the arrows of ARCHITECTURE.md, as a table; a crate that is not in it has no arrows.
//! Not here: what a pure crate may call (pure.rs).

use super::Finding;
use crate::workspace::{Dependency, Package};

/// Ours carry this before the directory's name.
const PREFIX: &str = "portcullis-";

/// A crate, those of ours that it may use, and outside crates that it must not.
struct Arrows {
    name: &'static str,
    may_use: &'static [&'static str],
    never: &'static [&'static str],
}

/// Anything that makes system calls.
const SYSTEM: &[&str] = &["rustix", "libc", "nix", "socket2", "mio", "tokio"];
/// An async runtime has no place on the path of a byte, nor in a library that opens sockets.
const RUNTIME: &[&str] = &["tokio", "mio", "async-std", "smol"];

const ARROWS: &[Arrows] = &[
    Arrows {
        name: "sys",
        may_use: &[],
        never: RUNTIME,
    },
    Arrows {
        name: "sockopt",
        may_use: &[],
        never: SYSTEM,
    },
    Arrows {
        name: "listener",
        may_use: &["sys", "sockopt"],
        never: RUNTIME,
    },
    Arrows {
        name: "config",
        may_use: &[],
        never: SYSTEM,
    },
    Arrows {
        name: "balance",
        may_use: &[],
        never: SYSTEM,
    },
    Arrows {
        name: "proxy",
        may_use: &["sys", "sockopt", "listener", "balance"],
        never: RUNTIME,
    },
    Arrows {
        name: "control",
        may_use: &["sys", "sockopt", "listener", "config", "balance", "proxy"],
        never: &[],
    },
    Arrows {
        name: "kernel-model",
        may_use: &[],
        never: SYSTEM,
    },
    Arrows {
        name: "conformance",
        may_use: &["sys", "kernel-model"],
        never: RUNTIME,
    },
    Arrows {
        name: "trace",
        may_use: &["sys", "sockopt", "kernel-model"],
        never: RUNTIME,
    },
    Arrows {
        name: "inspect",
        may_use: &["sys", "kernel-model"],
        never: RUNTIME,
    },
    Arrows {
        name: "portcullis",
        may_use: &[
            "sys",
            "sockopt",
            "listener",
            "config",
            "balance",
            "proxy",
            "control",
            "kernel-model",
            "conformance",
            "trace",
            "inspect",
        ],
        never: &[],
    },
    Arrows {
        name: "testkit",
        may_use: &["sys"],
        never: RUNTIME,
    },
    Arrows {
        // Never shipped: a chore's other half.
        name: "bench",
        may_use: &["testkit"],
        never: RUNTIME,
    },
    Arrows {
        // Its signals are tokio's.
        name: "soak",
        may_use: &["testkit"],
        never: &[],
    },
    Arrows {
        name: "xtask",
        may_use: &[
            "config",
            "sockopt",
            "listener",
            "kernel-model",
            "conformance",
        ],
        never: &[],
    },
];

pub fn check(packages: &[Package], findings: &mut Vec<Finding>) {
    for package in packages
        .iter()
        .filter(|package| !package.directory.starts_with("fuzz"))
    {
        let manifest = package.directory.join("Cargo.toml");
        let name = ours(&package.name).unwrap_or(&package.name);
        let Some(arrows) = ARROWS.iter().find(|arrows| arrows.name == name) else {
            let message =
                format!("`{name}` has no entry in the table of arrows (xtask/src/tidy/arrows.rs)");
            findings.push(Finding::new(manifest, 1, "arrows", message));
            continue;
        };
        for dependency in &package.dependencies {
            if let Some(message) = refused(arrows, dependency) {
                findings.push(Finding::new(&manifest, 1, "arrows", message));
            }
        }
    }
}

fn refused(arrows: &Arrows, dependency: &Dependency) -> Option<String> {
    let Arrows {
        name,
        may_use,
        never,
    } = arrows;
    match ours(&dependency.name) {
        Some("testkit") if dependency.only_tests || may_use.contains(&"testkit") => None,
        Some("testkit") => Some(format!("`{name}` ships, and `testkit` is for tests only")),
        Some(target) if may_use.contains(&target) || dependency.only_tests => None,
        Some(target) => Some(format!("`{name}` must not depend on `{target}`")),
        None if never.contains(&dependency.name.as_str()) && !dependency.only_tests => {
            Some(format!("`{name}` must not depend on `{}`", dependency.name))
        }
        None => None,
    }
}

fn ours(name: &str) -> Option<&str> {
    name.strip_prefix(PREFIX)
        .or_else(|| (name == "portcullis").then_some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(name: &str, dependency: &str, only_tests: bool) -> usize {
        let dependency = Dependency {
            name: dependency.into(),
            only_tests,
        };
        let dependencies = vec![dependency];
        let package = Package {
            name: name.into(),
            dependencies,
            ..Package::default()
        };
        let mut findings = Vec::new();
        check(&[package], &mut findings);
        findings.len()
    }

    #[test]
    fn arrows_point_one_way() {
        let table = [
            ("portcullis-listener", "portcullis-sys", false, 0),
            ("portcullis-config", "portcullis-sys", false, 1),
            ("portcullis-config", "libc", false, 1),
            ("portcullis-balance", "rustix", false, 1),
            ("portcullis-balance", "rustix", true, 0),
            ("portcullis-proxy", "portcullis-control", false, 1),
            ("portcullis-proxy", "tokio", false, 1),
            ("portcullis-listener", "tokio", true, 0),
            ("portcullis-proxy", "portcullis-testkit", true, 0),
            ("portcullis", "portcullis-testkit", false, 1),
            ("portcullis-new", "serde", false, 1),
        ];
        for (name, dependency, only_tests, expected) in table {
            assert_eq!(
                found(name, dependency, only_tests),
                expected,
                "{name} -> {dependency}"
            );
        }
    }

    #[test]
    fn the_table_of_arrows_has_no_circle() {
        for (index, arrows) in ARROWS.iter().enumerate() {
            for target in arrows.may_use {
                let position = ARROWS.iter().position(|arrows| arrows.name == *target);
                assert!(
                    position.is_some_and(|position| position < index),
                    "{} -> {target}",
                    arrows.name
                );
            }
        }
    }
}
