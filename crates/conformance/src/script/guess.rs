//! The model of a scenario beside a kernel whose choices show later.
//!
//! Decides:  when the scenario is gone through again with every choice that the kernel may have made: where the
//!           model, which took the likely ones, differs.
//! Not here: how the worlds that are possible are found (follow.rs), what one of them answers (model.rs).

use std::collections::BTreeSet;

use portcullis_kernel_model::{NoTrace, Together, Trace};

use super::model::Model;
use super::program::{Action, Slot};
use super::world::{Observation, look_after};
use crate::follow::{Followed, Guess, MOMENT_MS, follow};

/// A world that the kernel's may be.
#[derive(Debug, Clone)]
pub(super) struct Possible {
    pub model: Model,
    pub ports: Vec<u16>,
    pub listeners: BTreeSet<Slot>,
    /// The choices of the last step: of how many, and which.
    pub made: Vec<(u32, u32)>,
}

impl Guess for Possible {
    type Step = Action;
    type Seen = Observation;

    fn tell_choices(&mut self, choices: &[u32]) {
        self.model.sockets_mut().tell_choices(choices);
    }

    /// The model keeps the reasons itself.
    fn take<T: Trace>(&mut self, action: &Action, kernel: &Observation, _: &mut T) -> Observation {
        let (ports, listeners) = (&mut self.ports, &mut self.listeners);
        let (seen, made) = self.model.follow(action, kernel, ports, listeners);
        self.made = made;
        seen
    }

    fn choices_made(&mut self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.made)
    }

    fn shows_member(kernel: &Observation) -> bool {
        kernel.reached.is_some()
    }

    fn a_moment_later(&self) -> Option<Possible> {
        let next = self.model.sockets().next_event_ms();
        next.is_some_and(|ms| ms <= MOMENT_MS).then(|| {
            let mut late = self.clone();
            late.model.sockets_mut().pass_time(MOMENT_MS);
            late
        })
    }

    fn with_timers_reversed(&self, action: &Action) -> Option<Possible> {
        let Action::Wait { ms } = *action else {
            return None;
        };
        self.model.sockets().timers_meet(ms).then(|| {
            let mut reversed = self.clone();
            reversed.model.together = Together::Reversed;
            reversed
        })
    }

    fn catches_up(&mut self, action: &Action, said: &Observation, kernel: &Observation) -> bool {
        let Some(mut late) = self.a_moment_later() else {
            return false;
        };
        let after = look_after(&mut late.model, action, &said.outcome);
        let agrees = *kernel
            == Observation {
                after,
                ..said.clone()
            };
        if agrees {
            *self = late;
        }
        agrees
    }
}

/// What a step beside the kernel leads to.
#[derive(Debug)]
pub(super) struct Turn {
    /// The first of the worlds that are possible.
    pub now: Possible,
    /// What it shows.
    pub seen: Observation,
    /// Whether every possibility was looked at.
    pub clear: bool,
}

/// What a scenario did so far, to go through it again.
#[derive(Debug)]
pub(super) struct Past {
    begin: Possible,
    steps: Vec<(Action, Observation)>,
    /// The other worlds that are possible, once they are followed.
    others: Vec<Possible>,
    /// The choices were too many, or none led on: the first world is followed alone from here.
    given_up: bool,
}

impl Past {
    /// At a scenario's beginning.
    pub fn new(model: Option<Model>, ports: Vec<u16>) -> Option<Past> {
        let begin = Possible {
            model: model?,
            ports,
            listeners: BTreeSet::new(),
            made: Vec::new(),
        };
        Some(Past {
            begin,
            steps: Vec::new(),
            others: Vec::new(),
            given_up: false,
        })
    }

    /// Takes a step in every world that is still possible; in one alone until that is not enough.
    pub fn step(&mut self, now: Possible, action: &Action, kernel: &Observation) -> Turn {
        let finds_ways = now.model.is_finding_ways();
        let before = (!self.others.is_empty() && !self.given_up).then(|| now.clone());
        let mut next = now;
        let seen = next.take(action, kernel, &mut NoTrace);
        self.steps.push((action.clone(), kernel.clone()));
        if self.given_up || (seen == *kernel && self.others.is_empty()) {
            let clear = true;
            return Turn {
                now: next,
                seen,
                clear,
            };
        }
        let (worlds, followed) = match before {
            None => self.again(),
            Some(before) => {
                let mut worlds = vec![before];
                worlds.append(&mut self.others);
                let followed = follow(&mut worlds, action, kernel, &mut NoTrace);
                (worlds, followed)
            }
        };
        let mut worlds = worlds.into_iter();
        match (followed, worlds.next()) {
            (Followed::Agrees, Some(mut now)) => {
                if finds_ways {
                    now.model.find_ways();
                }
                self.others = worlds.collect();
                let (seen, clear) = (kernel.clone(), true);
                Turn { now, seen, clear }
            }
            (followed, _) => {
                self.given_up = true;
                Turn {
                    now: next,
                    seen,
                    clear: !followed.is_lost(),
                }
            }
        }
    }

    /// Goes through all steps with every choice.
    fn again(&self) -> (Vec<Possible>, Followed<Observation>) {
        let mut worlds = vec![self.begin.clone()];
        for (action, kernel) in &self.steps {
            match follow(&mut worlds, action, kernel, &mut NoTrace) {
                Followed::Agrees => {}
                other => return (Vec::new(), other),
            }
        }
        (worlds, Followed::Agrees)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::script::program::Script;
    use crate::script::world::Outcome;
    use crate::script::{Settings, parse};

    /// Who of two has the connection is decided at connect, and shows after a second.
    const DEFERRED: &str = "port web
        socket l1 inet with reuseport, defer-accept 1
        l1 bind 127.0.0.1:web
        l1 listen
        l1 nonblocking on
        socket l2 inet with reuseport, defer-accept 1
        l2 bind 127.0.0.1:web
        l2 listen
        l2 nonblocking on
        socket c inet
        c nonblocking on
        c connect 127.0.0.1:web -> EINPROGRESS
        wait 3s
        l1 accept first -> any
        l2 accept second -> any
    ";

    fn script() -> Script {
        let lines: Vec<&str> = DEFERRED.lines().map(str::trim).collect();
        parse(&lines.join("\n"), Settings::default()).unwrap()
    }

    fn begin(script: &Script) -> Possible {
        let ports = script.ports.iter().map(|port| port.1).collect();
        let model = Model::new(script.host.clone());
        Past::new(Some(model), ports).unwrap().begin
    }

    /// What a kernel shows that takes this member of the group.
    fn kernel(script: &Script, member: u32) -> Vec<Observation> {
        let (mut kernel, nothing) = (begin(script), shown(Outcome::Ok));
        let steps = script.steps.iter();
        steps
            .map(|step| {
                kernel.tell_choices(&[member]);
                kernel.take(&step.action, &nothing, &mut NoTrace)
            })
            .collect()
    }

    fn shown(outcome: Outcome) -> Observation {
        Observation {
            outcome,
            after: None,
            reached: None,
        }
    }

    /// What the model shows beside a kernel that shows this.
    fn beside(script: &Script, kernel: &[Observation]) -> Vec<(Observation, bool)> {
        let mut now = begin(script);
        let mut past = Past::new(Some(now.model.clone()), now.ports.clone()).unwrap();
        let mut out = Vec::new();
        for (step, told) in script.steps.iter().zip(kernel) {
            let turn = past.step(now, &step.action, told);
            now = turn.now;
            out.push((turn.seen, turn.clear));
        }
        out
    }

    #[test]
    fn a_choice_that_shows_later_is_followed() {
        let script = script();
        let both = [kernel(&script, 0), kernel(&script, 1)];
        assert_ne!(both[0], both[1], "the choice never shows");
        for told in both {
            let clear: Vec<_> = told.iter().cloned().map(|seen| (seen, true)).collect();
            assert_eq!(beside(&script, &told), clear);
        }
    }

    #[test]
    fn what_no_choice_leads_to_differs() {
        let script = script();
        let (first, second) = (kernel(&script, 0), kernel(&script, 1));
        // Both get the one connection.
        let mut told = first.clone();
        let last = told.len() - 1;
        told[last].clone_from(&second[last]);
        let seen = beside(&script, &told);
        assert_ne!(seen[last].0, told[last]);
        assert!(seen[last].1);
    }
}
