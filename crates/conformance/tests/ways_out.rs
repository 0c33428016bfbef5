//! Every refusal in the library of scenarios: what would have to differ, or why nothing helps.
//!
//! Decides:  that each rule that refuses is refused somewhere with a way out, and that a rule with a
//!           reason why there is none has none.
//! Not here: whether the scenarios hold (cases.rs).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

mod library;

use portcullis_conformance::cases::Case;
use portcullis_conformance::script::{Mode, Outcome, Run};
use portcullis_kernel_model::{Rule, SocketId};

/// The refusals of all scenarios: where, by which rule, and the sentences of the ways out.
fn refusals() -> Vec<(String, Rule, Vec<String>)> {
    let mut all = Vec::new();
    for Case { name, script, .. } in library::cases() {
        let script = script.unwrap();
        let mut run = Run::prepare(&script, Mode::Model).unwrap();
        run.model.as_mut().unwrap().find_ways();
        for step in &script.steps {
            let row = run.step(step);
            let seen = row.model.unwrap();
            if !matches!(seen.outcome, Outcome::Err(_) | Outcome::Blocks) {
                continue;
            }
            let Some(reason) = row.reasons.last() else {
                continue;
            };
            let name_of = |socket: SocketId, out: &mut dyn std::fmt::Write| {
                let slot = row.known.iter().rposition(|&other| other == Some(socket));
                out.write_str(slot.map_or("?", |slot| &script.labels[slot]))
            };
            let ways = row.ways.iter().map(|way| way.told(&name_of).to_string());
            all.push((
                format!("{name}: {}", step.said),
                reason.rule,
                ways.collect(),
            ));
        }
    }
    all
}

#[test]
fn every_rule_that_refuses_has_a_way_out_or_a_reason_why_there_is_none() {
    let mut by_rule: BTreeMap<Rule, Vec<(String, usize)>> = BTreeMap::new();
    for (place, rule, ways) in refusals() {
        by_rule.entry(rule).or_default().push((place, ways.len()));
    }
    assert!(by_rule.len() > 40, "only {} rules refused", by_rule.len());
    for (rule, refused) in by_rule {
        let id = rule.info().id;
        let some = refused.iter().any(|&(_, count)| count > 0);
        let none = refused.iter().any(|&(_, count)| count == 0);
        match rule.no_way_out() {
            None => assert!(some, "{id} has neither a way out nor a reason: {refused:?}"),
            Some(reason) => assert!(none, "{id} always has a way out, against: {reason}"),
        }
    }
}

/// Told as people read them: some whole lists, so that a change of what is tried or of its order shows.
#[test]
fn ways_out_are_told_smallest_first() {
    let rows: &[(&str, &[&str])] = &[
        (
            "the_ipv6_wildcard_covers_ipv4.bind: four bind 0.0.0.0:web",
            &[
                "use port 20002",
                "restart six with IPV6_V6ONLY",
                "close six",
                "set SO_REUSEPORT first and restart six with SO_REUSEPORT",
                "set SO_REUSEADDR first and restart six with SO_REUSEADDR",
            ],
        ),
        (
            "reuseaddr_binds_over_a_time_wait_connection.bind: plain bind 127.0.0.1:web",
            &[
                "set SO_REUSEADDR first",
                "use port 20002",
                "use the address 127.0.0.2",
                "wait 60 s",
            ],
        ),
        (
            "a_privileged_port_needs_the_capability.bind: a bind 0.0.0.0:http",
            &[
                "use port 1024",
                "give the caller CAP_NET_BIND_SERVICE",
                "set net.ipv4.ip_unprivileged_port_start = 80",
            ],
        ),
        (
            "reuseport_of_another_user_is_refused.bind: b bind 0.0.0.0:web",
            &[
                "use port 20002",
                "give the socket to user 1000 (fchown)",
                "close a",
                "set SO_REUSEADDR first and restart a with SO_REUSEADDR",
            ],
        ),
    ];
    let all = refusals();
    for (place, expected) in rows {
        let found = all.iter().find(|refusal| refusal.0 == *place);
        let found = found.unwrap_or_else(|| panic!("no such refusal: {place}"));
        assert_eq!(found.2, *expected, "{place}");
    }
}
