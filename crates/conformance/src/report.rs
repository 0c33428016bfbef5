//! What a conformance run reports, for people and for machines.
//!
//! Decides:  which counts there are; what is said of rules and branches that never came up; the last line.
//! Not here: the run (run.rs).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use portcullis_kernel_model::Rule;

use crate::{belief, branches, mutant};

/// Rules that no run on the newest kernel can reach, with the reason.
pub const OUT_OF_REACH: &[(Rule, &str)] = &[
    (
        Rule::BucketRemembersReuseaddr,
        "kernels before 6.8 alone; scenarios show it",
    ),
    (
        Rule::GroupFull,
        "a group of 32,768 listeners is more than a script has; a scenario shows it",
    ),
    (
        Rule::VrfPorts,
        "a run's network has no VRF; scenarios show it where the kernel has them, as 6.1 and 6.12 do",
    ),
    (
        Rule::LookupEquals,
        "kernels before 4.6 alone; scenarios show it",
    ),
    (
        Rule::RequestElsewhere,
        "kernels before 4.4 alone; scenarios show it",
    ),
    (
        Rule::GroupBusy,
        "only a listener has others in its group, and one that stops listening leaves it, or stays as a closed member, whom listen takes out first; UDP sockets meet the rule",
    ),
    (
        Rule::NoSuchSysctl,
        "the newest kernel has every sysctl that the model knows; scenarios show it on older ones",
    ),
];

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Steps compared.
    pub steps: u64,
    /// Scripts run.
    pub scripts: u64,
    /// Steps not run for lack of a second user.
    pub skipped: u64,
    /// Differences that happened again.
    pub disagreements: u64,
    /// Differences that did not happen again.
    pub unrepeated: u64,
    /// Differences of slow runs that a quick run did not show.
    pub delayed: u64,
    /// Scripts that differed and never ran quickly enough to be believed.
    pub disturbed: u64,
    /// Scripts that left something behind.
    pub left_over: u64,
    /// Scripts that ended early, because what the kernel drew left too many possibilities.
    pub unclear: u64,
    /// Of a tape, scripts whose answers are not on it, since the worlds differed when it was recorded.
    pub left_out: u64,
    /// Networks used.
    pub networks: u64,
    /// How often each rule was applied.
    pub hits: BTreeMap<String, u64>,
    /// The shrunk scripts, as text.
    pub shown: BTreeSet<String>,
    /// Of a build that counts branches, by their numbers: 1 never true, 2 never false, 3 both came.
    pub branches: BTreeMap<u32, u8>,
    /// The same of scenarios that this kernel cannot run beside the model.
    pub elsewhere: BTreeMap<u32, u8>,
    /// Every script before this one was run.
    pub next: Option<u64>,
    /// The time it took.
    pub took: Duration,
    /// The steps of each part.
    pub parts: Vec<(String, u64, Duration)>,
}

impl Report {
    /// How many rules were applied at least once.
    #[must_use]
    pub fn rules_hit(&self) -> usize {
        self.hits.values().filter(|&&hits| hits > 0).count()
    }

    /// Takes another's counts in.
    pub fn add(&mut self, other: Report) {
        self.steps += other.steps;
        self.scripts += other.scripts;
        self.skipped += other.skipped;
        self.disagreements += other.disagreements;
        self.unrepeated += other.unrepeated;
        self.delayed += other.delayed;
        self.disturbed += other.disturbed;
        self.left_over += other.left_over;
        self.unclear += other.unclear;
        self.left_out += other.left_out;
        self.networks += other.networks;
        for (rule, hits) in other.hits {
            *self.hits.entry(rule).or_default() += hits;
        }
        for (number, seen) in other.branches {
            *self.branches.entry(number).or_default() |= seen;
        }
        for (number, seen) in other.elsewhere {
            *self.elsewhere.entry(number).or_default() |= seen;
        }
        self.shown.extend(other.shown);
        self.next = match (self.next, other.next) {
            (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
            (ours, theirs) => ours.or(theirs),
        };
        self.took += other.took;
        self.parts.extend(other.parts);
    }

    /// One line of a worker's account; what is unknown is left alone.
    pub fn take_line(&mut self, line: &str) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let number = value.parse().unwrap_or(0);
        match key {
            "steps" => self.steps += number,
            "scripts" => self.scripts += number,
            "skipped" => self.skipped += number,
            "disagreements" => self.disagreements += number,
            "unrepeated" => self.unrepeated += number,
            "delayed" => self.delayed += number,
            "disturbed" => self.disturbed += number,
            "left_over" => self.left_over += number,
            "unclear" => self.unclear += number,
            "networks" => self.networks += number,
            "next" => self.next = Some(self.next.map_or(number, |next| next.min(number))),
            "rule" => {
                if let Some((rule, hits)) = value.split_once(' ') {
                    *self.hits.entry(rule.to_owned()).or_default() += hits.parse().unwrap_or(0);
                }
            }
            "branch" => {
                if let Some((branch, seen)) = value.split_once(' ') {
                    *self
                        .branches
                        .entry(branch.parse().unwrap_or(0))
                        .or_default() |= seen.parse().unwrap_or(0);
                }
            }
            "shown" => {
                self.shown.insert(value.replace("\\n", "\n"));
            }
            _ => {}
        }
    }

    /// The last line, for machines.
    #[must_use]
    pub fn line(&self) -> String {
        let rate = self.steps as f64 / self.took.as_secs_f64().max(1e-9);
        format!(
            "steps={} steps_per_s={rate:.0} rules={}/{} skipped={} disagreements={}",
            self.steps,
            self.rules_hit(),
            Rule::ALL.len(),
            self.skipped,
            self.disagreements
        )
    }

    /// Everything for a person, without the last line.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        for shown in &self.shown {
            let _ = writeln!(text, "{shown}");
        }
        for (part, steps, took) in &self.parts {
            let share = 100.0 * *steps as f64 / self.steps.max(1) as f64;
            let seconds = took.as_secs_f64();
            let _ = writeln!(
                text,
                "{part}: {steps} steps, {share:.0} %, {seconds:.1} s, {:.0} steps a second",
                *steps as f64 / seconds.max(1e-9)
            );
        }
        let _ = writeln!(
            text,
            "scripts {}, seconds {:.1}, networks {}, scripts that left something {}, differences \
             that did not happen again {}",
            self.scripts,
            self.took.as_secs_f64(),
            self.networks,
            self.left_over,
            self.unrepeated
        );
        if self.delayed + self.disturbed > 0 {
            let _ = writeln!(
                text,
                "differences of scripts that took longer than {} ms: {}, and quick runs of them agree; \
                 disturbed, with no quick run in {}: {}",
                belief::QUICK.as_millis(),
                self.delayed,
                belief::ATTEMPTS_MAX,
                self.disturbed
            );
        }
        if self.unclear > 0 {
            let _ = writeln!(
                text,
                "scripts that ended early, because what the kernel drew left too many possibilities \
                 (gaps.toml: draws) {}",
                self.unclear
            );
        }
        if self.left_out > 0 {
            let _ = writeln!(
                text,
                "scripts whose answers are not on the tape, since they differed when it was made {}",
                self.left_out
            );
        }
        self.tell_rules(&mut text);
        text
    }

    fn tell_rules(&self, text: &mut String) {
        let reason = |rule: Rule| {
            OUT_OF_REACH
                .iter()
                .find(|entry| entry.0 == rule)
                .map(|entry| entry.1)
        };
        let missed = Rule::ALL.iter().copied().filter(|rule| {
            let hits = self.hits.get(rule.info().id);
            hits.is_none_or(|&hits| hits == 0)
        });
        let (apart, missed): (Vec<Rule>, Vec<Rule>) =
            missed.partition(|&rule| reason(rule).is_some());
        let names: Vec<&str> = missed.iter().map(|rule| rule.info().id).collect();
        let names = if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        };
        let _ = writeln!(text, "rules never applied: {names}");
        for rule in apart {
            let why = reason(rule).unwrap_or_default();
            let _ = writeln!(text, "out of a run's reach: {} ({why})", rule.info().id);
        }
    }

    /// The branches that never came up, by the list of the build's conditions; empty for an ordinary
    /// build, which counts none. What only scenarios reach that are about another release, take minutes or
    /// need what this host has not, is counted apart.
    #[must_use]
    pub fn branches_text(&self, list: &str) -> String {
        let mut text = String::new();
        let (mut both, mut all, mut elsewhere, mut explained) = (0, 0, 0, 0);
        let mut apart: BTreeMap<&str, usize> = BTreeMap::new();
        for line in list.lines() {
            let Some(condition) = mutant::Place::read(line) else {
                continue;
            };
            let bits = |seen: &BTreeMap<u32, u8>| seen.get(&condition.number).copied().unwrap_or(0);
            let seen = bits(&self.branches);
            let sides: &[(u8, &str)] = if condition.is_error() {
                &[(mutant::TRUE, "reached")]
            } else {
                &[(mutant::TRUE, "true"), (mutant::FALSE, "false")]
            };
            all += sides.len();
            for (bit, name) in sides {
                if seen & bit != 0 {
                    both += 1;
                } else if bits(&self.elsewhere) & bit != 0 {
                    elsewhere += 1;
                } else if let Some(reason) = branches::reason(&condition) {
                    explained += 1;
                    *apart.entry(reason).or_default() += 1;
                } else {
                    let _ = writeln!(text, "never {name}: {condition}");
                }
            }
        }
        if all > 0 {
            for (reason, count) in apart {
                let _ = writeln!(text, "out of a run's reach: {count} sides ({reason})");
            }
            let _ = writeln!(
                text,
                "branches={both}/{all} scenarios={elsewhere} explained={explained}"
            );
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_of_workers_add_up() {
        let mut report = Report::default();
        for line in [
            "steps 10",
            "steps 5",
            "rule port-free 3",
            "rule port-free 4",
            "rule port-held 0",
            "branch 2 1",
            "branch 2 2",
            "next 512",
            "next 256",
            "shown a\\nb",
            "disagreements 1",
            "delayed 3",
            "disturbed 1",
            "disturbed 2",
            "from-a-newer-build 1",
        ] {
            report.take_line(line);
        }
        assert_eq!((report.steps, report.disagreements), (15, 1));
        assert_eq!(report.next, Some(256));
        assert_eq!((report.delayed, report.disturbed), (3, 3));
        assert_eq!(report.branches.get(&2), Some(&3));
        assert!(report.shown.contains("a\nb"));
        assert_eq!(report.rules_hit(), 1);
        report.took = Duration::from_secs(3);
        let all = Rule::ALL.len();
        assert_eq!(
            report.line(),
            format!("steps=15 steps_per_s=5 rules=1/{all} skipped=0 disagreements=1")
        );
        let text = report.text();
        assert!(
            text.contains("rules never applied: bad-descriptor"),
            "{text}"
        );
        assert!(text.contains("out of a run's reach: group-full"), "{text}");
        assert!(
            text.contains("longer than 30 ms: 3, and quick runs of them agree; disturbed, with no quick run in 20: 3"),
            "{text}"
        );
    }

    #[test]
    fn sides_that_no_run_reaches_are_told_apart_with_their_reason() {
        let list = "1\tfiles.rs:7\tfork\tcomparison turned round\tix != NONE\n\
                    2\trover.rs:9\tturn\tcomparison turned round\tcount < least\n";
        let text = Report::default().branches_text(list);
        assert!(text.contains("never true: files.rs:7 fork"), "{text}");
        assert!(!text.contains("rover.rs"), "{text}");
        assert!(text.contains("out of a run's reach: 2 sides"), "{text}");
        assert!(
            text.ends_with("branches=0/4 scenarios=0 explained=2\n"),
            "{text}"
        );
    }

    #[test]
    fn branches_that_never_came_are_told_by_name() {
        let mut report = Report::default();
        report.branches.insert(1, mutant::TRUE);
        report.elsewhere.insert(3, mutant::TRUE);
        let list = "3\tbind.rs:11\tbind\tEACCES becomes another\tErrno::EACCES\n\
                    1\tport.rs:7\tget_port\tcomparison turned round\tport == 0\n\
                    2\tbind.rs:9\tbind\tEINVAL becomes another\tErrno::EINVAL\n";
        let text = report.branches_text(list);
        assert!(
            text.contains("never false: port.rs:7 get_port: `port == 0`"),
            "{text}"
        );
        assert!(
            text.contains("never reached: bind.rs:9 bind: `Errno::EINVAL`"),
            "{text}"
        );
        assert!(
            text.ends_with("branches=1/4 scenarios=1 explained=0\n"),
            "{text}"
        );
    }
}
