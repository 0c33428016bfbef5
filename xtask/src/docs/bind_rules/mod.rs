//! docs/bind-rules.md: the account of Linux's bind and listen, from the rules of the kernel model, its
//! tables and the library of scenarios.
//!
//! Decides:  how a rule reads: what it says, what the call answers, where the kernel has it, what helps,
//!           and its scenarios; each scenario is quoted once, at the rule that fewest others name.
//! Source:   `portcullis_kernel_model::{Rule, Chapter, Change}`, crates/kernel-model/cases.

mod library;
mod tables;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use portcullis_kernel_model::{Change, Chapter, Kernel, MOVED, Rule};

use crate::workspace::Failure;
use library::{Case, Library};

const HEAD: &str = "\
# How Linux binds and listens

Made from the rules of `crates/kernel-model` and the scenarios in `crates/kernel-model/cases` by
`cargo xtask docs`: change them there.

What the kernel answers to `bind`, `listen` and `connect` on a TCP socket, and to whom it gives a
connection, in the order in which questions come up. Every statement is a rule of [a model of the
kernel](conformance.md) and has a stable name, which `portcullis sim` prints beside its answers. Under each
rule: the error where it refuses, the place in the kernel's source, and a scenario that shows it. The tables
are computed by the model.

A scenario is a file that can be run: in the model, or on the kernel of your own machine, in a network
namespace of its own ([the language](scenarios.md)):

```text
portcullis sim --explain crates/kernel-model/cases/a_wildcard_covers_every_address.bind
portcullis sim --both crates/kernel-model/cases
```

";

/// The whole document.
pub fn markdown() -> Result<String, Failure> {
    let library = Library::read()?;
    let mut text = HEAD.to_owned();
    text += &versions_note();
    contents(&mut text);
    for &chapter in Chapter::ALL {
        let _ = write!(text, "\n## {}\n\n{}\n", chapter.title(), chapter.intro());
        text += &tables::of(chapter);
        for rule in chapter.rules().iter().copied() {
            entry(&mut text, rule, &library);
        }
    }
    connections(&mut text, &library);
    changes(&mut text);
    let _ = write!(
        text,
        "\n## What is left out\n\nWhat the model knowingly does not know stands with its reason in \
         [gaps.toml](../crates/kernel-model/gaps.toml).\n"
    );
    Ok(text)
}

fn versions_note() -> String {
    let verified = verified();
    format!(
        "The model has been compared, live, with Linux {verified}. What is said of other releases was read in \
         their source, or is known from the change itself: transcribed, not verified. [What each release \
         changed](#what-each-release-changed).\n"
    )
}

/// The releases that a live kernel has confirmed.
fn verified() -> String {
    let known = (3..=9).flat_map(|major| (0..=30).map(move |minor| Kernel::new(major, minor)));
    let names: Vec<String> = known
        .filter(|kernel| kernel.verified())
        .map(|kernel| kernel.to_string())
        .collect();
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} and {last}", rest.join(", ")),
        _ => names.join(""),
    }
}

fn contents(text: &mut String) {
    text.push('\n');
    for &chapter in Chapter::ALL {
        let names: Vec<String> = chapter
            .rules()
            .iter()
            .map(|rule| format!("[{0}](#{0})", rule.info().id))
            .collect();
        let _ = writeln!(
            text,
            "- [{}](#{}): {}",
            chapter.title(),
            anchor(chapter.title()),
            names.join(", ")
        );
    }
}

/// As a renderer makes the anchor of a heading.
fn anchor(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let kept = lower
        .chars()
        .filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn entry(text: &mut String, rule: Rule, library: &Library) {
    let info = rule.info();
    let _ = write!(text, "\n### {}\n\n{}\n\n", info.id, code(info.text));
    let answers = library.answers(rule);
    if !answers.is_empty() {
        let _ = writeln!(text, "- Answer: {}.", answers.join(" or "));
    }
    if !info.remedy.is_empty() {
        let _ = writeln!(text, "- What helps: {}", code(info.remedy));
    }
    let _ = writeln!(
        text,
        "- Kernel: {}; {}.",
        places(info.kernel),
        releases(rule)
    );
    let quoted = library.at_home(rule);
    let mentioned = library.elsewhere(rule);
    if let (true, true, Some(reason)) = (
        quoted.is_empty(),
        mentioned.is_empty(),
        library::without_scenario(rule),
    ) {
        let _ = writeln!(text, "- No scenario: {reason}.");
    }
    for case in quoted {
        quote(text, case, rule);
    }
    if !mentioned.is_empty() {
        let links: Vec<String> = mentioned.iter().map(|case| case.link()).collect();
        let _ = write!(text, "\nSeen as well in: {}.\n", links.join("; "));
    }
}

/// What follows from a connection's state without a rule of its own.
fn connections(text: &mut String, library: &Library) {
    *text += "\n## Which segments does a connection believe?\n\nNo rule of bind, listen or lookup speaks \
              here, but a connection's state decides how long it holds its port and who is told of its \
              end. `TCP_REPAIR` makes segments of any number.\n";
    for case in library.of_connections() {
        let _ = write!(text, "\n{}:\n\n{}", case.link(), case.fenced());
    }
}

fn quote(text: &mut String, case: &Case, rule: Rule) {
    let _ = write!(text, "\n{}:\n\n{}", case.link(), case.fenced());
    let Some((line, ways)) = case.ways.get(&rule).filter(|(_, ways)| !ways.is_empty()) else {
        return;
    };
    let _ = writeln!(
        text,
        "\nIn the model, `{line}` succeeds after each of these:\n"
    );
    for way in ways {
        let _ = writeln!(text, "- {}", code(way));
    }
}

/// Files and functions as code.
fn places(kernel: &str) -> String {
    let mut out = Vec::new();
    for place in kernel.split(';') {
        let parts: Vec<String> = place
            .split(',')
            .map(|part| format!("`{}`", part.trim()))
            .collect();
        out.push(parts.join(", "));
    }
    out.join("; ")
}

fn releases(rule: Rule) -> String {
    let since = rule.info().since;
    let first = if since <= Kernel::OLDEST {
        format!("{since} and later")
    } else {
        format!("since {since}")
    };
    match rule.until() {
        Some(end) => format!("{first}, until {end} ended it"),
        None => first,
    }
}

/// C names and sysctls as code; everything else as it is.
fn code(text: &str) -> String {
    let is_name = |word: &str| {
        let name = word.trim_matches(|c: char| !c.is_alphanumeric() && c != '_');
        let c_name = name.len() > 3
            && name.contains('_')
            && name
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '_' | '.'));
        let errno = name.len() > 3
            && name.starts_with('E')
            && name
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit());
        (c_name || errno).then(|| name.to_owned())
    };
    let words = text.split(' ').map(|word| match is_name(word) {
        Some(name) if !word.contains('`') => word.replacen(&name, &format!("`{name}`"), 1),
        _ => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn changes(text: &mut String) {
    *text += "\n## Places that were others before\n\nThe rules above name files and functions as 6.18 has \
              them; of a rule that ended, as the last release with it.\n\n| place | since | before |\n|---|---|---|\n";
    for row in MOVED {
        let (now, before) = (places(row.now), places(row.before));
        let _ = writeln!(text, "| {now} | {} | {before} |", row.since);
    }
    *text += "\n## What each release changed\n\n| since | what | where |\n|---|---|---|\n";
    let mut all: Vec<Change> = Change::ALL.to_vec();
    all.sort_by_key(|change| change.since());
    for change in all {
        let updates: Vec<String> = change.backports().iter().map(Kernel::to_string).collect();
        let also = match updates.is_empty() {
            true => String::new(),
            false => format!(", {}", updates.join(", ")),
        };
        let place = match change.place() {
            "" => String::new(),
            place => places(place),
        };
        let _ = writeln!(
            text,
            "| {}{also} | {} | {place} |",
            change.since(),
            code(change.text())
        );
    }
    // Rules that came with a release, by release.
    let mut by_release: BTreeMap<Kernel, Vec<&str>> = BTreeMap::new();
    for rule in Rule::ALL {
        let info = rule.info();
        if info.since > Kernel::OLDEST {
            by_release.entry(info.since).or_default().push(info.id);
        }
    }
    *text += "\nRules that came with a release:\n\n| since | rules |\n|---|---|\n";
    for (release, ids) in by_release {
        let links: Vec<String> = ids.iter().map(|id| format!("[{id}](#{id})")).collect();
        let _ = writeln!(text, "| {release} | {} |", links.join(", "));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_has_an_entry_and_every_scenario_is_quoted_once() {
        let text = markdown().unwrap();
        for rule in Rule::ALL {
            let heading = format!("\n### {}\n", rule.info().id);
            assert_eq!(text.matches(&heading).count(), 1, "{}", rule.info().id);
        }
        let library = Library::read().unwrap();
        assert!(library.cases.len() > 100);
        for case in &library.cases {
            assert_eq!(text.matches(&case.fenced()).count(), 1, "{}", case.name);
        }
    }

    #[test]
    fn every_rule_leads_to_a_scenario_or_says_why_it_has_none() {
        let library = Library::read().unwrap();
        for &rule in Rule::ALL {
            let none = library.at_home(rule).is_empty() && library.elsewhere(rule).is_empty();
            let reason = library::without_scenario(rule);
            assert_eq!(none, reason.is_some(), "{}", rule.info().id);
        }
    }

    #[test]
    fn names_of_the_kernel_are_code_and_words_are_not() {
        assert_eq!(
            code("Set SO_REUSEADDR, or EADDRINUSE comes; a host's net.ipv4.tcp_tw_reuse."),
            "Set `SO_REUSEADDR`, or `EADDRINUSE` comes; a host's `net.ipv4.tcp_tw_reuse.`"
                .replace(".`", "`.")
        );
    }
}
