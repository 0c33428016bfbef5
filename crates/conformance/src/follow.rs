//! The model beside a kernel whose draws cannot be seen at once.
//!
//! Decides:  which of the worlds that the kernel's hash may have made are still possible. Whom a group's
//!           hash chose for a half-open connection, or to whom the waiting connections of a closed
//!           listener moved, is seen only later: until then every possibility is followed.
//! Not here: what a step answers (compare.rs), draws that are seen at once (its `tell_draws`).

use portcullis_kernel_model::{Explanation, NoTrace, Rule, Trace};

/// The model's side of a script, which can be gone through again with other choices.
pub(crate) trait Guess: Clone {
    /// What is done.
    type Step: ?Sized;
    /// What is seen of it.
    type Seen: PartialEq;

    /// The next choices of a step.
    fn tell_choices(&mut self, choices: &[u32]);
    /// Takes a step. Draws that show in what the kernel answered are the kernel's.
    fn take<T: Trace>(
        &mut self,
        step: &Self::Step,
        kernel: &Self::Seen,
        trace: &mut T,
    ) -> Self::Seen;
    /// The choices of the last step: of how many, and which.
    fn choices_made(&mut self) -> Vec<(u32, u32)>;
    /// Whether who got a connection shows in this answer.
    fn shows_member(kernel: &Self::Seen) -> bool;
    /// The same after a moment, if something happens by itself until then.
    fn a_moment_later(&self) -> Option<Self>;
    /// The same, whose timers will fire in the other order where two of them fire together in this step: those
    /// that the kernel set a moment apart may be in two slots of its wheel (gaps.toml).
    fn with_timers_reversed(&self, step: &Self::Step) -> Option<Self>;
    /// Whether it shows what the kernel shows once a moment has passed after the step.
    fn catches_up(&mut self, step: &Self::Step, said: &Self::Seen, kernel: &Self::Seen) -> bool;
}

/// Possible worlds that are followed; a script with more is given up, and counted as unclear.
pub(crate) const WORLDS_MAX: usize = 128;

/// Sequences of choices that one step is tried with; a step with more is given up likewise. Twenty
/// connections that a closed listener leaves to two others have a million.
const TRIES_MAX: usize = 20_000;

/// What may pass between two looks: `TCP_TIMEOUT_MIN`, 8 ms, is shorter.
pub(crate) const MOMENT_MS: u64 = 12;

/// What came of a step.
pub(crate) enum Followed<S> {
    /// Some possible world agrees.
    Agrees,
    /// None does: what the first one answers, and by which rules.
    Differs(S, Vec<Rule>),
    /// There are too many.
    Lost,
}

impl<S> Followed<S> {
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
pub(crate) fn follow<M: Guess, T: Trace>(
    models: &mut Vec<M>,
    step: &M::Step,
    kernel: &M::Seen,
    trace: &mut T,
) -> Followed<M::Seen> {
    let mut first: Option<(M, M::Seen)> = None;
    let mut kept = Vec::new();
    let mut tried = 0;
    // On a busy machine a timer of a few milliseconds may have fired before this step, or before its socket
    // is looked at.
    let mut late: Vec<M> = models.iter().filter_map(M::a_moment_later).collect();
    let reversed = models
        .iter()
        .filter_map(|model| model.with_timers_reversed(step));
    late.extend(reversed);
    for model in models.drain(..).chain(late) {
        // Mostly the draw was seen.
        if M::shows_member(kernel) {
            let mut copy = model.clone();
            let said = copy.take(step, kernel, trace);
            if said == *kernel && copy.choices_made().len() < 2 {
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
            copy.tell_choices(&choices.tell);
            let said = if first.is_none() {
                copy.take(step, kernel, trace)
            } else {
                copy.take(step, kernel, &mut NoTrace)
            };
            let made = copy.choices_made();
            if said == *kernel || copy.catches_up(step, &said, kernel) {
                kept.push(copy);
            }
            if first.is_none() {
                first = Some((model.clone(), said));
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
    model.take(step, kernel, &mut explanation);
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
