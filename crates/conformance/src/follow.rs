//! The model beside a kernel whose draws cannot be seen at once.
//!
//! Decides:  which of the worlds that the kernel's hash may have made are still possible. Whom a group's
//!           hash chose for a half-open connection, or to whom the waiting connections of a closed
//!           listener moved, is seen only later: until then every possibility is followed.
//! Not here: what a step answers (compare.rs), draws that are seen at once (its `tell_draws`).

use portcullis_kernel_model::{Explanation, NoTrace, Rule, Trace};

use crate::compare::Model;
use crate::step::{Seen, Step};

/// Possible worlds that are followed; a script with more is given up, and counted as unclear.
pub(crate) const WORLDS_MAX: usize = 128;

/// Sequences of choices that one step is tried with; a step with more is given up likewise. Twenty
/// connections that a closed listener leaves to two others have a million.
const TRIES_MAX: usize = 20_000;

/// What came of a step.
pub(crate) enum Followed {
    /// Some possible world agrees.
    Agrees,
    /// None does: what the first one answers, and by which rules.
    Differs(Seen, Vec<Rule>),
    /// There are too many.
    Lost,
}

impl Followed {
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Followed::Lost)
    }
}

/// The choices of one call among the members of groups: one sequence after the other.
#[derive(Debug, Default)]
struct Choices {
    tell: Vec<u32>,
}

impl Choices {
    /// The next sequence, after the call has chosen among so many, so often.
    fn next(&mut self, made: &[(u32, u32)]) -> bool {
        self.tell = made.iter().map(|&(_, chosen)| chosen).collect();
        while let Some(last) = self.tell.pop() {
            let (count, _) = made[self.tell.len()];
            if last + 1 < count {
                self.tell.push(last + 1);
                return true;
            }
        }
        false
    }
}

/// Performs a step in every world that is still possible, and keeps those that the kernel agrees with.
pub(crate) fn follow<T: Trace>(
    models: &mut Vec<Model>,
    step: &Step,
    kernel: &Seen,
    trace: &mut T,
) -> Followed {
    let mut first: Option<(Model, Seen)> = None;
    let mut kept = Vec::new();
    let mut tried = 0;
    // On a busy machine a timer of a few milliseconds may have fired before this step, or before its socket
    // is looked at.
    let mut late: Vec<Model> = models.iter().filter_map(Model::a_moment_later).collect();
    late.extend(
        models
            .iter()
            .filter_map(|model| model.with_timers_reversed(step)),
    );
    for model in models.drain(..).chain(late) {
        // Mostly the draw was seen.
        if kernel.receiver.is_some() {
            let mut copy = model.clone();
            let said = copy.perform(step, kernel, trace);
            if said == *kernel && copy.made.len() < 2 {
                kept.push(copy);
                continue;
            }
        }
        let mut choices = Choices::default();
        loop {
            tried += 1;
            if tried > TRIES_MAX {
                return Followed::Lost;
            }
            let mut copy = model.clone();
            copy.world.tell_choices(&choices.tell);
            let said = if first.is_none() {
                copy.perform(step, kernel, trace)
            } else {
                copy.perform(step, kernel, &mut NoTrace)
            };
            if first.is_none() {
                first = Some((model.clone(), said));
            }
            let made = std::mem::take(&mut copy.made);
            if said == *kernel || copy.catches_up(step, said, kernel) {
                kept.push(copy);
            }
            if kept.len() > WORLDS_MAX {
                return Followed::Lost;
            }
            if !choices.next(&made) {
                break;
            }
        }
    }
    if !kept.is_empty() {
        *models = kept;
        return Followed::Agrees;
    }
    let Some((mut model, said)) = first else {
        return Followed::Lost;
    };
    let mut explanation = Explanation::default();
    model.perform(step, kernel, &mut explanation);
    let rules = explanation.steps.iter().map(|&(rule, _)| rule).collect();
    Followed::Differs(said, rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_of_choices_comes_once() {
        // Two choices: among two, and then among three where the first was 0, else among one.
        let mut choices = Choices::default();
        let mut seen = Vec::new();
        loop {
            let told = choices.tell.clone();
            let first = told.first().copied().unwrap_or(0);
            let count = if first == 0 { 3 } else { 1 };
            let second = told.get(1).copied().unwrap_or(0);
            seen.push((first, second));
            if !choices.next(&[(2, first), (count, second)]) {
                break;
            }
        }
        assert_eq!(seen, [(0, 0), (0, 1), (0, 2), (1, 0)]);
    }
}
