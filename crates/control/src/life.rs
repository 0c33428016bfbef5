//! The life of the running process: which signal does what, in which phase.
//!
//! Decides:  the phases and every transition between them, in one table ([`Life::on`]).
//! Source:   HAProxy's management guide, chapter 4 (USR1, TERM, INT, TTOU, TTIN); manual, `grace`
//!           and `hard-stop-after`; `soft_stop()` and `do_soft_stop_now()` for their order.
//! Not here: receiving signals and keeping time (run/serve.rs).

use std::time::Duration;

/// What the process is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Accepting and serving.
    Running,
    /// Serving, not accepting; queues of the listeners are kept.
    Paused,
    /// Asked to stop softly, still accepting until `grace` is over.
    Grace,
    /// No longer accepting; sessions go on to their end.
    Draining,
    /// Sessions are being ended.
    Ending,
}

/// What happens to the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// TERM: stop now.
    Terminate,
    /// INT: stop now.
    Interrupt,
    /// USR1: stop accepting, let sessions end.
    SoftStop,
    /// TTOU: pause.
    Pause,
    /// TTIN: resume.
    Resume,
    /// HUP or USR2: reload.
    Reload,
    /// QUIT: say how things stand.
    Status,
    /// `grace` is over.
    GraceOver,
    /// `hard-stop-after` is over.
    HardStop,
    /// No session is left.
    Drained,
    /// Another process has the listeners, and serves.
    HandedOver,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Workers stop polling their listeners and keep them.
    PauseListeners,
    /// Workers poll their listeners again.
    ResumeListeners,
    /// The listeners are retired.
    StopAccepting,
    /// Workers close their listeners at once.
    CloseListeners,
    /// Workers let go of their listeners, which another process has too.
    LetGo,
    /// Workers end all their sessions.
    EndSessions,
    /// [`Event::GraceOver`] after this time.
    ArmGrace(Duration),
    /// [`Event::HardStop`] after this time.
    ArmHardStop(Duration),
    /// One line for the user.
    Say(&'static str),
    /// Read the configuration again, and put it in place.
    Reload,
    /// Show the counters.
    ShowStatus,
    /// The end: leave the loop.
    Leave,
}

/// The phase, and the configured times.
#[derive(Debug, Clone, Copy)]
pub struct Life {
    phase: Phase,
    grace: Option<Duration>,
    hard_stop_after: Option<Duration>,
}

impl Life {
    /// A process that runs.
    pub fn new(grace: Option<Duration>, hard_stop_after: Option<Duration>) -> Life {
        Life {
            phase: Phase::Running,
            grace: grace.filter(|g| !g.is_zero()),
            hard_stop_after,
        }
    }

    /// What the process is doing.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Does it take connections, now or after a pause, without being asked to stop?
    pub fn serves(&self) -> bool {
        matches!(self.phase, Phase::Running | Phase::Paused)
    }

    /// Other times, from the next stop on.
    pub fn set_times(&mut self, grace: Option<Duration>, hard_stop_after: Option<Duration>) {
        self.grace = grace.filter(|g| !g.is_zero());
        self.hard_stop_after = hard_stop_after;
    }

    /// The table: the next phase, and what is to be done.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        use Phase::{Draining, Ending, Grace, Paused, Running};
        let (next, actions) = match (self.phase, event) {
            (Ending, Event::Drained) | (Draining, Event::Drained) => (Ending, vec![Action::Leave]),
            (phase, Event::Drained) => (phase, vec![]),

            (Ending, Event::Terminate | Event::Interrupt) => (Ending, vec![Action::Leave]),
            (Ending, _) => (Ending, vec![]),
            (_, Event::Terminate | Event::Interrupt) => (Ending, end("stopping now")),

            (Running | Paused, Event::SoftStop) => match self.grace {
                Some(grace) => (
                    Grace,
                    vec![
                        Action::ResumeListeners,
                        Action::Say("soft stop: still accepting until `grace` is over"),
                        Action::ArmGrace(grace),
                    ],
                ),
                None => (Draining, self.drain()),
            },
            (phase @ (Grace | Draining), Event::SoftStop) => (phase, vec![]),
            (Grace, Event::GraceOver) => (Draining, self.drain()),
            (phase, Event::GraceOver) => (phase, vec![]),
            (Draining, Event::HardStop) => (
                Ending,
                end("hard-stop-after is over: ending the sessions that are left"),
            ),
            (phase, Event::HardStop) => (phase, vec![]),

            (Running, Event::Pause) => (Paused, vec![Action::PauseListeners, Action::Say(PAUSED)]),
            (phase, Event::Pause) => (phase, vec![]),
            (Paused, Event::Resume) => {
                (Running, vec![Action::ResumeListeners, Action::Say(RESUMED)])
            }
            (phase, Event::Resume) => (phase, vec![]),

            (phase @ (Running | Paused), Event::Reload) => (phase, vec![Action::Reload]),
            (phase, Event::Reload) => (phase, vec![Action::Say(NO_RELOAD)]),
            (phase, Event::Status) => (phase, vec![Action::ShowStatus]),

            (Running | Paused | Grace, Event::HandedOver) => {
                let mut actions = vec![Action::Say(HANDED_OVER), Action::LetGo];
                actions.extend(self.hard_stop_after.map(Action::ArmHardStop));
                (Draining, actions)
            }
            // It was stopping already, and lets go at the end.
            (phase, Event::HandedOver) => (phase, vec![]),
        };
        self.phase = next;
        actions
    }

    fn drain(&self) -> Vec<Action> {
        let mut actions = vec![
            Action::Say("soft stop: no longer accepting, sessions go on to their end"),
            Action::StopAccepting,
        ];
        actions.extend(self.hard_stop_after.map(Action::ArmHardStop));
        actions
    }
}

const PAUSED: &str = "paused: connections wait in the queues of the listeners";
const RESUMED: &str = "resumed";
const HANDED_OVER: &str = "handed over: sessions go on here to their end";
const NO_RELOAD: &str = "not reloaded: the process is stopping";

fn end(why: &'static str) -> Vec<Action> {
    vec![
        Action::Say(why),
        Action::CloseListeners,
        Action::EndSessions,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(3);
    const HARD: Duration = Duration::from_secs(9);

    /// Runs the events and gives back the phase after each, with the actions but not the words.
    fn story(mut life: Life, events: &[Event]) -> Vec<(Phase, Vec<Action>)> {
        events
            .iter()
            .map(|&event| {
                let mut actions = life.on(event);
                actions.retain(|a| !matches!(a, Action::Say(_)));
                (life.phase(), actions)
            })
            .collect()
    }

    #[test]
    fn one_that_has_handed_over_drains_without_grace_and_touches_no_listener() {
        let life = Life::new(Some(GRACE), Some(HARD));
        let steps = story(life, &[Event::HandedOver, Event::SoftStop, Event::Drained]);
        assert_eq!(
            steps,
            [
                (
                    Phase::Draining,
                    vec![Action::LetGo, Action::ArmHardStop(HARD)]
                ),
                (Phase::Draining, vec![]),
                (Phase::Ending, vec![Action::Leave]),
            ]
        );
    }

    #[test]
    fn term_and_int_end_the_sessions_at_once_and_leave_when_they_ended() {
        for signal in [Event::Terminate, Event::Interrupt] {
            let steps = story(Life::new(None, None), &[signal, Event::Drained]);
            assert_eq!(
                steps,
                [
                    (
                        Phase::Ending,
                        vec![Action::CloseListeners, Action::EndSessions]
                    ),
                    (Phase::Ending, vec![Action::Leave]),
                ]
            );
        }
    }

    #[test]
    fn soft_stop_waits_for_the_sessions_and_a_second_one_changes_nothing() {
        let steps = story(
            Life::new(None, None),
            &[Event::SoftStop, Event::SoftStop, Event::Drained],
        );
        assert_eq!(
            steps,
            [
                (Phase::Draining, vec![Action::StopAccepting]),
                (Phase::Draining, vec![]),
                (Phase::Ending, vec![Action::Leave]),
            ]
        );
    }

    #[test]
    fn grace_goes_before_the_soft_stop_and_hard_stop_after_counts_from_its_end() {
        let steps = story(
            Life::new(Some(GRACE), Some(HARD)),
            &[Event::SoftStop, Event::GraceOver, Event::HardStop],
        );
        assert_eq!(
            steps,
            [
                (
                    Phase::Grace,
                    vec![Action::ResumeListeners, Action::ArmGrace(GRACE)]
                ),
                (
                    Phase::Draining,
                    vec![Action::StopAccepting, Action::ArmHardStop(HARD)]
                ),
                (
                    Phase::Ending,
                    vec![Action::CloseListeners, Action::EndSessions]
                ),
            ]
        );
    }

    #[test]
    fn an_interrupt_during_a_soft_stop_ends_it_and_one_more_leaves_without_waiting() {
        let steps = story(
            Life::new(None, None),
            &[Event::SoftStop, Event::Interrupt, Event::Interrupt],
        );
        assert_eq!(steps[1].0, Phase::Ending);
        assert_eq!(steps[2], (Phase::Ending, vec![Action::Leave]));
    }

    #[test]
    fn pause_and_resume_alternate_and_repeat_without_effect() {
        let steps = story(
            Life::new(None, None),
            &[
                Event::Resume,
                Event::Pause,
                Event::Pause,
                Event::Resume,
                Event::Reload,
            ],
        );
        assert_eq!(
            steps,
            [
                (Phase::Running, vec![]),
                (Phase::Paused, vec![Action::PauseListeners]),
                (Phase::Paused, vec![]),
                (Phase::Running, vec![Action::ResumeListeners]),
                (Phase::Running, vec![Action::Reload]),
            ]
        );
    }

    /// Every event in every reachable phase, three deep: it never comes back from a stop, and
    /// leaves only when told that nothing is left or told twice to stop.
    #[test]
    fn no_story_of_three_events_comes_back_from_a_stop() {
        use Event::*;
        let events = [
            Terminate, Interrupt, SoftStop, Pause, Resume, Reload, Status, GraceOver, HardStop,
            Drained,
        ];
        let rank = |phase| match phase {
            Phase::Running | Phase::Paused => 0,
            Phase::Grace => 1,
            Phase::Draining => 2,
            Phase::Ending => 3,
        };
        for a in events {
            for b in events {
                for c in events {
                    let mut life = Life::new(Some(GRACE), Some(HARD));
                    let mut last = 0;
                    for event in [a, b, c] {
                        let before = life.phase();
                        let actions = life.on(event);
                        assert!(rank(life.phase()) >= last, "{a:?} {b:?} {c:?}");
                        last = rank(life.phase());
                        if actions.contains(&Action::Leave) {
                            let ended = event == Drained && rank(before) >= 2;
                            let insisted =
                                before == Phase::Ending && matches!(event, Terminate | Interrupt);
                            assert!(ended || insisted, "{a:?} {b:?} {c:?}");
                        }
                    }
                }
            }
        }
    }
}
