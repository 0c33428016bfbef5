//! The library of scenarios, in the model: every one holds, every rule has one.
//!
//! Decides:  that each holds, is laid out, expects something, and names a rule.
//! Not here: the live kernel's side (crates/portcullis/tests/whole/sim.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

mod library;

use portcullis_conformance::cases::Case;
use portcullis_conformance::script::{self, Mode, Run, Script, Settings};
use portcullis_kernel_model::{Kernel, Rule};

fn cases() -> Vec<(String, String, Script)> {
    let all = library::cases().into_iter();
    let all = all.map(|Case { name, text, script }| {
        let script =
            script.unwrap_or_else(|problems| panic!("{}", problems[0].render(&name, &text)));
        (name, text, script)
    });
    all.collect()
}

#[test]
fn every_case_holds_in_the_model() {
    for (name, _, script) in cases() {
        let mut run = Run::prepare(&script, Mode::Model).unwrap();
        for step in &script.steps {
            let row = run.step(step);
            let shown = script::row(&script, step, &row, &run.ports.0, script::Detail::default());
            assert!(row.complaints.is_empty(), "{name}\n{shown}");
        }
    }
}

#[test]
fn every_case_is_laid_out_as_the_formatter_does_it() {
    for (name, text, _) in cases() {
        assert_eq!(
            script::format(&text),
            text,
            "{name}: run `portcullis sim --format` over it"
        );
    }
}

#[test]
fn every_case_expects_something_that_could_be_otherwise() {
    for (name, _, script) in cases() {
        let expects =
            |step: &&script::Step| step.expect.as_ref().is_some_and(|e| !e.answers.is_empty());
        assert!(
            script.steps.iter().any(|step| expects(&step)),
            "{name} expects nothing"
        );
    }
}

#[test]
fn every_rule_has_a_case_that_names_it() {
    let mut named: BTreeSet<Rule> = BTreeSet::new();
    for (_, _, script) in cases() {
        named.extend(
            script
                .steps
                .iter()
                .filter_map(|step| step.expect.as_ref())
                .flat_map(|e| e.by.clone()),
        );
    }
    let excused = |rule: &Rule| {
        script::WITHOUT_SCENARIO
            .iter()
            .any(|entry| entry.0 == *rule)
    };
    let missing = Rule::ALL
        .iter()
        .filter(|rule| !named.contains(rule) && !excused(rule));
    let missing: Vec<&str> = missing.map(|rule| rule.info().id).collect();
    assert!(missing.is_empty(), "rules without a case: {missing:?}");
    for (rule, _) in script::WITHOUT_SCENARIO {
        assert!(
            !named.contains(rule),
            "{} has a case by now",
            rule.info().id
        );
    }
}

#[test]
fn every_case_names_the_rule_that_it_is_about_or_looks_at_a_connections_state() {
    for (name, _, script) in cases() {
        let by = |step: &script::Step| {
            let expect = step.expect.as_ref();
            let looks = ["get state", "get error"]
                .iter()
                .any(|call| step.said.contains(call));
            expect.is_some_and(|expect| looks || !expect.by.is_empty())
        };
        assert!(
            script.steps.iter().any(by),
            "{name} has no `by RULE`: which chapter of docs/bind-rules.md does it belong to?"
        );
    }
}

#[test]
fn both_seed_documents_of_the_kernel_are_covered() {
    let all = cases();
    for source in ["seeds/002:", "seeds/003:", "the issue:"] {
        let from = all
            .iter()
            .filter(|case| case.2.from.iter().any(|from| from.contains(source)));
        assert!(from.count() >= 2, "few cases come from {source}");
    }
}

#[test]
fn a_case_fails_under_another_kernels_rules() {
    // The checker is checked: under the rules of 5.4 some case about the running kernel does not hold.
    let mut failed = 0;
    for (_, text, script) in cases() {
        if script.kernel.is_some() {
            continue;
        }
        let old = Settings {
            kernel: Kernel::new(5, 4),
            ..Settings::default()
        };
        // Its sysctls may be newer.
        let Ok(script) = script::parse(&text, old) else {
            continue;
        };
        let mut run = Run::prepare(&script, Mode::Model).unwrap();
        failed += script
            .steps
            .iter()
            .filter(|step| !run.step(step).complaints.is_empty())
            .count();
    }
    assert!(failed > 0);
}
