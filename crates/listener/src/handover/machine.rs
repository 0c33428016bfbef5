//! Both sides of the hand-over as state machines without I/O.
//!
//! Decides:  which message may follow which, what each side does then, and when it is over.
//! Not here: sending and waiting ([`super::give`], [`super::take`]).

use super::{Identity, MOST_NOTES, Message, Note, VERSION};
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
    /// Send the sockets, after the notes of the beginning if there are to be any.
    Offer(Notes),
    /// Send the notes of the end if there are to be any, and `Yours`.
    Agree(Notes),
    /// What the old process wants remembered; more may come.
    Learn(Note),
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

/// Does the other side listen to [`Message::Told`]?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notes {
    /// It said so.
    Heard,
    /// It is of a time when there were none: none are sent.
    Unknown,
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
    Ready(Notes),
    Keep {
        pid: u32,
    },
    Over,
}

impl Giver {
    /// Is the other process starting now?
    pub fn waits_for_a_start(&self) -> bool {
        matches!(self.state, Giving::Ready(_))
    }

    /// Is `Keep` all that is missing?
    pub fn waits_for_keep(&self) -> bool {
        matches!(self.state, Giving::Keep { .. })
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
            (
                Giving::Hello,
                Message::Hello {
                    version: VERSION,
                    notes,
                },
            ) => {
                let notes = match notes {
                    true => Notes::Heard,
                    false => Notes::Unknown,
                };
                (Giving::Ready(notes), Action::Offer(notes))
            }
            (Giving::Hello, Message::Hello { version, .. }) => {
                return refused(other_version(version));
            }
            (Giving::Ready(notes), Message::Ready { pid }) if pid > 1 => {
                (Giving::Keep { pid }, Action::Agree(notes))
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
    /// Notes that came.
    notes: usize,
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
            (State::Offer | State::Yours, Message::Told(note)) if fds == 0 => {
                self.notes += 1;
                if self.notes > MOST_NOTES {
                    return refused(format!("more than {MOST_NOTES} notes came"));
                }
                (before, Action::Learn(note))
            }
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
        Message::Told(_) => "Told",
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
        Message::Hello {
            version: VERSION,
            notes: true,
        }
    }

    fn note() -> Message {
        Message::Told(Note {
            kind: "weather".to_owned(),
            version: 1,
            text: "fine".to_owned(),
        })
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
            heard(Message::Hello {
                version: 9,
                notes: false,
            }),
            heard(note()),
            Event::Heard(note(), 1),
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
        assert_eq!(giver.on(heard(hello())), Action::Offer(Notes::Heard));
        assert!(matches!(taker.on(heard(note())), Action::Learn(_)));
        assert!(matches!(taker.on(heard(offer())), Action::Adopt { .. }));
        taker.serving();
        let yours = giver.on(heard(Message::Ready { pid: 7 }));
        assert_eq!(yours, Action::Agree(Notes::Heard));
        assert!(matches!(taker.on(heard(note())), Action::Learn(_)));
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
            story in prop::collection::vec((0..15_usize, any::<bool>()), 0..8),
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
                    Action::Learn(_) => prop_assert!(event == heard(note())),
                    Action::Nothing(..) | Action::Wait => {}
                    other => prop_assert!(false, "{:?}", other),
                }
            }
        }
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let action = Giver::default().on(heard(Message::Hello {
            version: 2,
            notes: true,
        }));
        assert!(matches!(action, Action::Nothing(why, Some(_)) if why.contains("version 2")));
    }

    #[test]
    fn one_that_does_not_say_it_hears_notes_is_told_none() {
        let said = Message::of(br#"{"Hello":{"version":1}}"#).unwrap();
        let mut giver = Giver::default();
        assert_eq!(giver.on(heard(said)), Action::Offer(Notes::Unknown));
        let agreed = giver.on(heard(Message::Ready { pid: 7 }));
        assert_eq!(agreed, Action::Agree(Notes::Unknown));
    }

    /// As the first version of these messages was written.
    #[test]
    fn a_hello_of_today_is_understood_by_who_knows_no_notes() {
        #[derive(serde::Deserialize)]
        enum Before {
            Hello { version: u32 },
        }
        let text = crate::opener::message::encode(&hello()).unwrap();
        let Before::Hello { version } = crate::opener::message::decode(&text).unwrap();
        assert_eq!(version, 1);
    }

    #[test]
    fn notes_without_end_are_refused() {
        let mut taker = Taker::default();
        for _ in 0..MOST_NOTES {
            assert!(matches!(taker.on(heard(note())), Action::Learn(_)));
        }
        let last = taker.on(heard(note()));
        assert!(matches!(last, Action::Nothing(why, Some(_)) if why.contains("notes")));
        assert_eq!(taker.on(heard(offer())), Action::Wait, "it is over");
    }
}
