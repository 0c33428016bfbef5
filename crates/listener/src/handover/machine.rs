//! Both sides of the hand-over as state machines without I/O.
//!
//! Decides:  which message may follow which, what each side does then, and when it is over.
//! Not here: sending and waiting ([`super::give`], [`super::take`]).

use super::{Identity, Message, VERSION};
use crate::opener::codec::MAX_MESSAGE_DESCRIPTORS;

/// What comes to one side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message, and how many descriptors came with it.
    Heard(Message, usize),
    /// What came is no message.
    Broken(String),
    /// The other side has ended.
    Gone,
    /// The other side is silent for too long.
    Late,
}

/// What one side does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send the sockets.
    Offer,
    /// Take the sockets; the descriptors came with the message.
    Adopt {
        /// Who they are.
        sockets: Vec<Identity>,
        /// What the program says besides.
        state: String,
    },
    /// Send this.
    Say(Message),
    /// Wait for what comes next.
    Wait,
    /// The end: they are the other process's, which is this one.
    Given(u32),
    /// The end: nothing was given; why, and what is to be said.
    Nothing(String, Option<Message>),
}

/// The side that has the sockets.
#[derive(Debug, Clone, Default)]
pub struct Giver {
    state: Giving,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Giving {
    #[default]
    Hello,
    Ready,
    Keep {
        pid: u32,
    },
    Over,
}

impl Giver {
    /// Is the other process starting now?
    pub fn waits_for_a_start(&self) -> bool {
        self.state == Giving::Ready
    }

    /// Is it over?
    pub fn is_over(&self) -> bool {
        self.state == Giving::Over
    }

    /// The table.
    pub fn on(&mut self, event: Event) -> Action {
        let before = std::mem::replace(&mut self.state, Giving::Over);
        if before == Giving::Over {
            return Action::Wait;
        }
        let (message, fds) = match event {
            Event::Heard(message, fds) => (message, fds),
            other => return ended(other, "the new process"),
        };
        if fds > 0 {
            return refused("the new process sent descriptors".to_owned());
        }
        let (next, action) = match (before, message) {
            (Giving::Hello, Message::Hello { version: VERSION }) => (Giving::Ready, Action::Offer),
            (Giving::Hello, Message::Hello { version }) => return refused(other_version(version)),
            (Giving::Ready, Message::Ready { pid }) if pid > 1 => {
                (Giving::Keep { pid }, Action::Say(Message::Yours))
            }
            (Giving::Keep { pid }, Message::Keep) => (Giving::Over, Action::Given(pid)),
            (_, Message::Refused(why)) => return Action::Nothing(why, None),
            (_, other) => return refused(unexpected(&other)),
        };
        self.state = next;
        action
    }
}

/// The side that is given them.
#[derive(Debug, Clone, Default)]
pub struct Taker {
    state: State,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum State {
    #[default]
    Offer,
    Starting,
    Yours,
    Over,
}

impl Taker {
    /// `Ready` was sent.
    pub fn serving(&mut self) {
        if self.state == State::Starting {
            self.state = State::Yours;
        }
    }

    /// The table.
    pub fn on(&mut self, event: Event) -> Action {
        let before = std::mem::replace(&mut self.state, State::Over);
        if before == State::Over {
            return Action::Wait;
        }
        let (message, fds) = match event {
            Event::Heard(message, fds) => (message, fds),
            other => return ended(other, "the old process"),
        };
        let (next, action) = match (before, message) {
            (State::Offer, Message::Offer { sockets, state }) => {
                if sockets.len() != fds || fds > MAX_MESSAGE_DESCRIPTORS {
                    let count = sockets.len();
                    return refused(format!("{count} sockets were announced and {fds} came"));
                }
                (State::Starting, Action::Adopt { sockets, state })
            }
            (_, Message::Refused(why)) => return Action::Nothing(why, None),
            (State::Yours, Message::Yours) if fds == 0 => (State::Over, Action::Say(Message::Keep)),
            (_, other) => return refused(unexpected(&other)),
        };
        self.state = next;
        action
    }
}

fn ended(event: Event, who: &str) -> Action {
    match event {
        Event::Broken(why) => refused(format!("{who} is not understood: {why}")),
        Event::Late => refused(format!("{who} was silent for too long")),
        Event::Gone | Event::Heard(..) => Action::Nothing(format!("{who} ended"), None),
    }
}

fn refused(why: String) -> Action {
    let last = Message::Refused(why.clone());
    Action::Nothing(why, Some(last))
}

fn other_version(theirs: u32) -> String {
    format!("the new process speaks version {theirs} of the hand-over, this one {VERSION}")
}

fn unexpected(message: &Message) -> String {
    let name = match message {
        Message::Hello { .. } => "Hello",
        Message::Offer { .. } => "Offer",
        Message::Ready { .. } => "Ready",
        Message::Yours => "Yours",
        Message::Keep => "Keep",
        Message::Refused(_) => "Refused",
    };
    format!("`{name}` came where it means nothing")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn heard(message: Message) -> Event {
        Event::Heard(message, 0)
    }

    fn hello() -> Message {
        Message::Hello { version: VERSION }
    }

    fn offer() -> Message {
        Message::Offer {
            sockets: Vec::new(),
            state: String::new(),
        }
    }

    /// Every event that a side can meet.
    fn events() -> Vec<Event> {
        vec![
            heard(hello()),
            heard(Message::Hello { version: 9 }),
            heard(offer()),
            Event::Heard(offer(), 1),
            heard(Message::Ready { pid: 7 }),
            heard(Message::Ready { pid: 0 }),
            heard(Message::Yours),
            heard(Message::Keep),
            heard(Message::Refused("no".to_owned())),
            Event::Heard(Message::Keep, 3),
            Event::Broken("{".to_owned()),
            Event::Gone,
            Event::Late,
        ]
    }

    #[test]
    fn both_sides_come_to_the_same_end_when_nothing_goes_wrong() {
        let (mut giver, mut taker) = (Giver::default(), Taker::default());
        assert_eq!(giver.on(heard(hello())), Action::Offer);
        assert!(matches!(taker.on(heard(offer())), Action::Adopt { .. }));
        taker.serving();
        let yours = giver.on(heard(Message::Ready { pid: 7 }));
        assert_eq!(yours, Action::Say(Message::Yours));
        let keep = taker.on(heard(Message::Yours));
        assert_eq!(keep, Action::Say(Message::Keep));
        assert_eq!(giver.on(heard(Message::Keep)), Action::Given(7));
    }

    /// Every story of up to five events: given only by the one that is right, and never twice.
    #[test]
    fn sockets_are_given_only_after_hello_ready_and_keep_in_this_order() {
        let events = events();
        let right = [
            heard(hello()),
            heard(Message::Ready { pid: 7 }),
            heard(Message::Keep),
        ];
        let mut given = 0;
        for story in 0..events.len().pow(4) {
            let mut giver = Giver::default();
            let mut number = story;
            let mut told = Vec::new();
            for _ in 0..4 {
                let event = events[number % events.len()].clone();
                number /= events.len();
                told.push(event.clone());
                let over = giver.is_over();
                match giver.on(event) {
                    Action::Given(pid) => {
                        given += 1;
                        assert_eq!((pid, &told[..]), (7, &right[..]));
                    }
                    Action::Nothing(..) => assert!(giver.is_over()),
                    action => assert!(!over || action == Action::Wait),
                }
            }
        }
        // The fourth event is any.
        assert_eq!(given, events.len());
    }

    proptest! {
        #[test]
        fn a_taker_keeps_only_what_was_offered_and_agreed(
            story in prop::collection::vec((0..13_usize, any::<bool>()), 0..8),
        ) {
            let events = events();
            let mut taker = Taker::default();
            let (mut adopted, mut serving) = (false, false);
            for (event, serves) in story {
                if serves {
                    serving |= adopted;
                    taker.serving();
                }
                let event = events[event].clone();
                match taker.on(event.clone()) {
                    Action::Adopt { sockets, .. } => {
                        prop_assert!(sockets.is_empty() && !adopted);
                        adopted = true;
                    }
                    Action::Say(said) => {
                        prop_assert_eq!(said, Message::Keep);
                        prop_assert!(adopted && serving && event == heard(Message::Yours));
                    }
                    Action::Nothing(..) | Action::Wait => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let action = Giver::default().on(heard(Message::Hello { version: 2 }));
        assert!(matches!(action, Action::Nothing(why, Some(_)) if why.contains("version 2")));
    }
}
