//! Why the kernel answered what it answered.
//!
//! Decides:  how a call reports the rules that it went by, at no cost when nobody listens.
//! Not here: the rules' texts (rules.rs).

use alloc::vec::Vec;

use crate::rules::Rule;
use crate::world::SocketId;

/// Hears which rules decided. The last one heard is the one that gave the answer.
pub trait Trace {
    /// Whether anybody listens: what is looked up only to be told is not, where nobody does.
    const ASKED: bool = true;
    /// A rule was applied.
    fn rule(&mut self, rule: Rule);
    /// A rule was applied because of another socket.
    fn blame(&mut self, rule: Rule, other: SocketId);
}

/// Nobody listens; the compiler removes the reports.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTrace;

impl Trace for NoTrace {
    const ASKED: bool = false;
    #[inline(always)]
    fn rule(&mut self, _: Rule) {}
    #[inline(always)]
    fn blame(&mut self, _: Rule, _: SocketId) {}
}

/// The rules of one call, in the order in which they were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Explanation {
    /// Each rule, with the socket that it was about where there is one.
    pub steps: Vec<(Rule, Option<SocketId>)>,
}

impl Explanation {
    /// The rule that gave the answer.
    #[must_use]
    pub fn decided_by(&self) -> Option<Rule> {
        self.steps.last().map(|&(rule, _)| rule)
    }

    /// The other socket of the rule that gave the answer.
    #[must_use]
    pub fn because_of(&self) -> Option<SocketId> {
        self.steps.last().and_then(|&(_, other)| other)
    }
}

impl Trace for Explanation {
    fn rule(&mut self, rule: Rule) {
        self.steps.push((rule, None));
    }

    fn blame(&mut self, rule: Rule, other: SocketId) {
        self.steps.push((rule, Some(other)));
    }
}

/// Counts how often each rule was applied: what a fuzzer has covered.
#[derive(Debug, Clone)]
pub struct Coverage {
    hits: [u64; Rule::ALL.len()],
}

impl Default for Coverage {
    fn default() -> Self {
        Coverage {
            hits: [0; Rule::ALL.len()],
        }
    }
}

impl Coverage {
    /// How often a rule was applied.
    #[must_use]
    pub fn hits(&self, rule: Rule) -> u64 {
        self.hits[rule as usize]
    }

    /// The rules that were never applied.
    pub fn missed(&self) -> impl Iterator<Item = Rule> + '_ {
        Rule::ALL
            .iter()
            .copied()
            .filter(|&rule| self.hits(rule) == 0)
    }
}

impl Trace for Coverage {
    fn rule(&mut self, rule: Rule) {
        self.hits[rule as usize] += 1;
    }

    fn blame(&mut self, rule: Rule, _: SocketId) {
        self.rule(rule);
    }
}
