//! Listening sockets from one process to the next, which takes its place: all of them, with who they are.
//!
//! Decides:  that whoever holds the sockets serves: the old process goes on until the new one has said that it
//!           serves, has been told that they are its own, and has confirmed it. Whichever of them dies at any
//!           message, the other one has every socket with its queue.
//! Kernel:   net/core/scm.c: a descriptor on its way keeps its socket open; 6.1 to 6.18
//! Not here: how the two find each other and who may ask (the program), what is opened with the sockets
//!           (adopt.rs), packets and their bounds (opener/codec.rs).
//!
//! | message | from | when | if its sender dies after it |
//! |---|---|---|---|
//! | `Hello` | new | it begins | the old one goes on |
//! | `Offer`, with the descriptors | old | at once | the new one has all, but serves only after its start |
//! | `Ready` | new | it accepts from all of them | the old one goes on; the queues are shared |
//! | `Yours` | old | at once | the new one goes on |
//! | `Keep` | new | at once | it held them: as when any server is killed |
//! | `Refused` | either | instead of any of these | the old one goes on |

pub mod machine;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::adopt::{Known, Options, Pool};
use crate::opener::OpenerError;
use crate::opener::channel::Channel;
use crate::opener::codec::ProtocolError;
use crate::opener::message::{decode, encode};
use crate::{ListenerFacts, ListenerSpec};
use machine::{Action, Event, Giver, Taker};

/// The version of these messages. A process that speaks another one is refused, and says which.
pub const VERSION: u32 = 1;
/// How long one side waits for the other's next word, where that needs no start of a program.
const PATIENCE: Duration = Duration::from_secs(10);

/// What both sides say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The new process asks.
    Hello {
        /// Which messages it knows.
        version: u32,
    },
    /// The old one gives: a descriptor comes for each.
    Offer {
        /// Who they are, in this order.
        sockets: Vec<Identity>,
        /// What else the program wants known.
        state: String,
    },
    /// The new one serves.
    Ready {
        /// The process to signal from now on.
        pid: u32,
    },
    /// The old one agrees.
    Yours,
    /// The new one knows that.
    Keep,
    /// It comes to nothing, and why.
    Refused(String),
}

impl Message {
    /// A message from its text.
    pub fn of(text: &[u8]) -> Result<Message, ProtocolError> {
        decode(text)
    }
}

/// A socket, as the process that has it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Where it listens, and the options that it has.
    pub spec: ListenerSpec,
    /// Its name, shard, file.
    pub facts: ListenerFacts,
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Link {
    channel: Channel,
    sent: u32,
    heard: u32,
}

impl Link {
    /// Our end, and one to be given to the other process.
    pub fn pair() -> io::Result<(Link, OwnedFd)> {
        let (ours, theirs) = Channel::pair()?;
        Ok((Link::new(ours), theirs.into_fd()))
    }

    /// The end that the other process has given.
    pub fn of(fd: OwnedFd) -> Link {
        Link::new(Channel::new(fd))
    }

    fn new(channel: Channel) -> Link {
        Link {
            channel,
            sent: 0,
            heard: 0,
        }
    }

    /// Says this. What [`give`] and [`take`] say is enough for a program; this is for who tests one.
    pub fn say(&mut self, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), OpenerError> {
        self.sent = self.sent.wrapping_add(1);
        self.channel.send(self.sent, &encode(message)?, fds)
    }

    /// Waits for a message, for as long; what comes with it is closed.
    pub fn listen(&mut self, patience: Duration) -> Event {
        self.hear(patience).0
    }

    /// The next message as an event, and what came with it.
    fn hear(&mut self, patience: Duration) -> (Event, Vec<OwnedFd>) {
        self.heard = self.heard.wrapping_add(1);
        let heard = self.channel.wait_for(self.heard, patience);
        let message = heard.and_then(|it| Ok((Message::of(&it.text)?, it.descriptors)));
        match message {
            Ok((message, fds)) => (Event::Heard(message, fds.len()), fds),
            Err(OpenerError::Gone) => (Event::Gone, Vec::new()),
            Err(OpenerError::TimedOut { .. }) => (Event::Late, Vec::new()),
            Err(error) => (Event::Broken(error.to_string()), Vec::new()),
        }
    }

    /// Waits until the other side has closed its end.
    fn until_gone(&mut self) {
        while let (Event::Heard(..), _) = self.hear(PATIENCE) {}
    }
}

/// The old process's side, to its end: gives these sockets and waits at most `patience` for the new process to
/// serve. The answer is the process that has taken over, or why none has: then everything is as it was, but that
/// options of the sockets may be those of the other process ([`crate::enforce`]).
pub fn give(
    mut link: Link,
    sockets: &[(Identity, impl AsFd)],
    state: &str,
    patience: Duration,
) -> Result<u32, String> {
    let mut machine = Giver::default();
    loop {
        let patience = match machine.waits_for_a_start() {
            true => patience,
            false => PATIENCE,
        };
        let (event, _) = link.hear(patience);
        let said = match machine.on(event) {
            Action::Offer => {
                let offer = Message::Offer {
                    sockets: sockets.iter().map(|(it, _)| it.clone()).collect(),
                    state: state.to_owned(),
                };
                let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(|(_, fd)| fd.as_fd()).collect();
                link.say(&offer, &fds)
            }
            Action::Say(message) => link.say(&message, &[]),
            Action::Given(pid) => {
                // It puts its name in our place before it lets go.
                link.until_gone();
                return Ok(pid);
            }
            Action::Nothing(why, last) => {
                if let Some(last) = last {
                    let _ = link.say(&last, &[]);
                }
                return Err(why);
            }
            Action::Adopt { .. } | Action::Wait => Ok(()),
        };
        if let Err(error) = said {
            return Err(error.to_string());
        }
    }
}

/// The new process's side, between the offer and the end of its start.
#[derive(Debug)]
pub struct Taking {
    link: Link,
    machine: Taker,
    count: usize,
    state: String,
}

/// Asks the old process for its sockets. They are in the pool from then on.
pub fn take(mut link: Link, pool: &Pool) -> Result<Taking, OpenerError> {
    let mut machine = Taker::default();
    link.say(&Message::Hello { version: VERSION }, &[])?;
    let (event, fds) = link.hear(PATIENCE);
    match machine.on(event) {
        Action::Adopt { sockets, state } => {
            let count = sockets.len();
            for (identity, fd) in sockets.into_iter().zip(fds) {
                let Identity { spec, facts } = identity;
                let options = Options::AsSpecified;
                let known = Known {
                    spec,
                    facts,
                    options,
                };
                if let Err(fault) = pool.give(fd, Some(known)) {
                    let why = format!("a socket came that cannot listen: {fault}");
                    let _ = link.say(&Message::Refused(why.clone()), &[]);
                    return Err(ProtocolError::Text(why).into());
                }
            }
            Ok(Taking {
                link,
                machine,
                count,
                state,
            })
        }
        Action::Nothing(why, last) => {
            if let Some(last) = last {
                let _ = link.say(&last, &[]);
            }
            Err(ProtocolError::Text(why).into())
        }
        _ => Err(ProtocolError::Text("no offer came".to_owned()).into()),
    }
}

impl Taking {
    /// How many sockets came.
    pub fn count(&self) -> usize {
        self.count
    }

    /// What else the old process wants known.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// The start has failed: the old process goes on, and can tell why.
    pub fn refuse(mut self, why: &str) {
        let _ = self.link.say(&Message::Refused(why.to_owned()), &[]);
    }

    /// This process serves; `pid` is the one to signal. The old one lets go of the sockets when it has heard the
    /// answer. `claim` is for what only one of both can have, such as a pid file, and is called in any case.
    ///
    /// # Errors
    ///
    /// Where the old process has gone, or does not let go: this one serves all the same.
    pub fn ready(mut self, pid: u32, claim: impl FnOnce()) -> Result<(), OpenerError> {
        let agreed = self.agree(pid);
        claim();
        agreed
    }

    fn agree(&mut self, pid: u32) -> Result<(), OpenerError> {
        self.link.say(&Message::Ready { pid }, &[])?;
        self.machine.serving();
        let (event, _) = self.link.hear(PATIENCE);
        match self.machine.on(event) {
            Action::Say(keep) => self.link.say(&keep, &[]),
            Action::Nothing(why, _) => Err(ProtocolError::Text(why).into()),
            _ => Err(ProtocolError::Text("no agreement came".to_owned()).into()),
        }
    }
}
