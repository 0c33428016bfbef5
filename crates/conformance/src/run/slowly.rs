//! A worker whose scripts wait: a minute serves many of them.
//!
//! Decides:  how often those that differ are run again before they are believed, or counted as disturbed.
//! Not here: how scripts wait together (times.rs); which runs decide (belief.rs).

use std::io;

use super::{DIFFERENCES_MAX, Found, Plan};
use crate::belief::Account;
use crate::step::Script;
use crate::worker::Worker;
use crate::{random, times};

/// How often scripts in which time passes are run again: each time takes more than a minute.
const ROUNDS_MAX: u32 = 5;

/// Scripts in which time passes, as many together as one process can have.
pub(super) fn work(plan: &Plan, number: u64, worker: &mut Worker) -> io::Result<Found> {
    let mut found = Found::default();
    let budget = plan.steps.div_ceil(plan.workers);
    let (shard, shards) = plan.shard;
    let mut chunk = shard * plan.workers + number;
    while worker.comparison.steps < budget && found.disagreements < DIFFERENCES_MAX {
        let first = chunk * times::TOGETHER as u64;
        let numbers: Vec<u64> = (first..first + times::TOGETHER as u64).collect();
        let scripts: Vec<Script> = numbers
            .iter()
            .filter_map(|&at| plan.part.script(at))
            .map(|mut script| {
                if !worker.several_users() {
                    found.skipped += random::without_other_users(&mut script);
                }
                script
            })
            .collect();
        let ended = worker.run_together(&scripts)?;
        if let Some(tape) = &mut worker.tape {
            for (script, one) in scripts.iter().zip(&ended) {
                tape.whole(script, one)?;
            }
        }
        let differing = scripts.into_iter().zip(&numbers).zip(&ended);
        let open = differing.filter(|(_, one)| one.difference.is_some());
        let open = open.map(|((script, &at), one)| Open {
            script,
            at,
            account: Account::of(&one.attempt()),
        });
        settle(plan, worker, &mut found, open.collect())?;
        chunk += plan.workers * shards;
        eprintln!(
            "worker {number}: {} scripts in which time passes, {} disagreements",
            worker.counts.scripts, found.disagreements
        );
    }
    found.next = Some(plan.part.number(chunk * times::TOGETHER as u64));
    Ok(found)
}

/// A script in which time passes, and that has differed.
struct Open {
    script: Script,
    at: u64,
    account: Account,
}

/// Runs scripts that differed again, together, until each is believed or not.
fn settle(
    plan: &Plan,
    worker: &mut Worker,
    found: &mut Found,
    mut open: Vec<Open>,
) -> io::Result<()> {
    for round in 1..=ROUNDS_MAX {
        if open.is_empty() {
            return Ok(());
        }
        let scripts: Vec<Script> = open.iter().map(|open| open.script.clone()).collect();
        let ended = worker.run_together(&scripts)?;
        let mut still = Vec::new();
        for (mut one, ended) in open.into_iter().zip(&ended) {
            let attempt = ended.attempt();
            let decided = attempt.is_quick().then_some(attempt);
            if decided.is_none() && round < ROUNDS_MAX {
                still.push(one);
                continue;
            }
            match one.account.take(decided) {
                None => still.push(one),
                Some(belief) => {
                    worker.counts.take(&belief);
                    if let Some(difference) = belief.difference() {
                        found.disagreements += 1;
                        found.show(plan, one.at, &one.script, &ended.said, Some(&difference))?;
                    }
                }
            }
        }
        open = still;
    }
    // Quick runs showed them too seldom.
    worker.counts.disturbed += open.len() as u64;
    Ok(())
}
