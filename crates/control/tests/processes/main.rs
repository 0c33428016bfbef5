//! What only a process of one thread can do: fork, split, become another user, become a daemon.
//!
//! Decides:  how such tests run. libtest gives every test a thread, and then nothing may fork; so
//!           this target has its own `main` (`harness = false`). A scenario (scenarios.rs) is a test
//!           as usual; it starts this very program again in a *role* (roles.rs), which has one thread.
//! Not here: the pure parts, tested beside their code.
//!
//! Every role has a network namespace of its own, so ports are fixed. What needs a second user is
//! skipped visibly without root.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod roles;
mod scenarios;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// Before a role's name on the command line.
const ROLE: &str = "--role";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((first, rest)) = arguments.split_first()
        && first == ROLE
    {
        return roles::play(rest);
    }
    let exact = arguments.iter().any(|one| one == "--exact");
    let wanted = names(&arguments);
    let selected = scenarios::ALL.iter().filter(|(name, _)| {
        wanted.is_empty()
            || wanted.iter().any(|one| {
                if exact {
                    *name == *one
                } else {
                    name.contains(one)
                }
            })
    });
    if arguments.iter().any(|one| one == "--list") {
        selected.for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let isolated = scenarios::isolation_works();
    let (mut passed, mut failed) = (0, 0);
    for (name, scenario) in selected {
        let run = AssertUnwindSafe(|| match isolated {
            true => scenario(),
            false => {
                portcullis_testkit::skip(&format!("{name}: this host forbids network namespaces"))
            }
        });
        if catch_unwind(run).is_ok() {
            println!("test {name} ... ok");
            passed += 1;
        } else {
            println!("test {name} ... FAILED");
            failed += 1;
        }
    }
    let filtered = scenarios::ALL.len() - passed - failed;
    let verdict = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {verdict}. {passed} passed; {failed} failed; 0 ignored; 0 measured; \
         {filtered} filtered out"
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What of libtest's command line is a name: neither an option nor an option's value.
fn names(arguments: &[String]) -> Vec<&str> {
    const WITH_VALUE: [&str; 5] = ["--test-threads", "--format", "--color", "--skip", "-Z"];
    let mut names = Vec::new();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            arguments.next();
        } else if !argument.starts_with('-') {
            names.push(argument.as_str());
        }
    }
    names
}
