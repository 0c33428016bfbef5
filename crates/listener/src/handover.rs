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
//! | `Told` | old | before `Offer` and before `Yours`, to who hears it: any number of notes | as after the message before it |
//! | `Offer`, with the descriptors | old | at once | the new one has all, but serves only after its start |
//! | `Ready` | new | it accepts from all of them | the old one goes on; the queues are shared |
//! | `Yours` | old | at once | the new one goes on |
//! | `Keep` | new | at once | it held them: as when any server is killed |
//! | `Refused` | either | instead of any of these | the old one goes on |
//!
//! Where both live and one of them has waited too long, the old one goes on, and both know: it hears nothing that
//! the new one says later, and the new one that cannot say `Keep` looks for the refusal.

pub mod machine;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::adopt::{Known, Options, Pool};
use crate::opener::OpenerError;
use crate::opener::channel::Channel;
use crate::opener::codec::{MAX_TEXT, ProtocolError};
use crate::opener::message::{decode, encode};
use crate::{ListenerFacts, ListenerSpec};
use machine::{Action, Event, Giver, Notes, Taker};

/// The version of these messages. A process that speaks another one is refused, and says which.
pub const VERSION: u32 = 1;
/// The most notes of one conversation.
pub const MOST_NOTES: usize = 256;
/// How long one side waits for the other's next word, where that needs no start of a program.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is there already.
const AT_ONCE: Duration = Duration::from_millis(1);

/// What both sides say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The new process asks.
    Hello {
        /// Which messages it knows.
        version: u32,
        /// Does it hear notes?
        #[serde(default)]
        notes: bool,
    },
    /// The old one tells something that is worth knowing, and that nothing depends on.
    Told(Note),
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

/// What a program that takes over may want to know. Who does not know a kind, or its version, passes over it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// What it is about.
    pub kind: String,
    /// In which form.
    pub version: u32,
    /// What there is to say.
    pub text: String,
}

/// When notes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before the sockets are offered: what must be known before the first connection is served.
    Offer,
    /// When the new process serves: what goes on to change until then.
    Yours,
}

/// What the old process gives.
pub struct Gift<'a, F> {
    /// Every socket.
    pub sockets: &'a [(Identity, F)],
    /// What else the program wants known, in a form that never changes.
    pub state: &'a str,
    /// The notes of each moment. One that is too long for a message is left out.
    pub notes: &'a dyn Fn(Moment) -> Vec<Note>,
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

    /// The end itself, for who tests what else may come.
    pub fn into_fd(self) -> OwnedFd {
        self.channel.into_fd()
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
        let next = self.heard.wrapping_add(1);
        let heard = self.channel.wait_for(next, patience);
        if heard.is_ok() {
            self.heard = next;
        }
        let message = heard.and_then(|it| Ok((Message::of(&it.text)?, it.descriptors)));
        match message {
            Ok((message, fds)) => (Event::Heard(message, fds.len()), fds),
            Err(OpenerError::Gone) => (Event::Gone, Vec::new()),
            Err(OpenerError::TimedOut { .. }) => (Event::Late, Vec::new()),
            Err(error) => (Event::Broken(error.to_string()), Vec::new()),
        }
    }

    /// Says what fits into a message.
    fn tell(&mut self, notes: Vec<Note>) -> Result<(), OpenerError> {
        for note in notes.into_iter().take(MOST_NOTES / 2) {
            let message = Message::Told(note);
            if encode(&message).is_ok_and(|text| text.len() <= MAX_TEXT) {
                self.say(&message, &[])?;
            }
        }
        Ok(())
    }

    /// The other side is silent: what it has said by now, and it is not to say more. So it never believes that
    /// something was heard which was not.
    fn last_words(&mut self) -> Event {
        self.channel.stop_hearing();
        match self.listen(AT_ONCE) {
            said @ Event::Heard(..) => said,
            _ => Event::Late,
        }
    }

    /// The other side does not listen any more: has it refused, or does it only not answer?
    fn refusal(&mut self) -> Option<String> {
        // Its end comes as one error, or as two.
        for _ in 0..3 {
            match self.listen(PATIENCE) {
                Event::Heard(Message::Refused(why), _) => return Some(why),
                Event::Late => return Some(format!("{OLD} does not answer")),
                _ => {}
            }
        }
        None
    }

    /// Waits until the other side has closed its end.
    fn until_gone(&mut self) {
        while let (Event::Heard(..), _) = self.hear(PATIENCE) {}
    }
}

/// The old process's side, to its end: gives the sockets and waits at most `patience` for the new process to
/// serve. The answer is the process that has taken over, or why none has: then everything is as it was, but that
/// options of the sockets may be those of the other process ([`crate::enforce`]).
pub fn give(mut link: Link, gift: &Gift<'_, impl AsFd>, patience: Duration) -> Result<u32, String> {
    let mut machine = Giver::default();
    loop {
        let patience = match machine.waits_for_a_start() {
            true => patience,
            false => PATIENCE,
        };
        let event = match link.listen(patience) {
            Event::Late if machine.waits_for_keep() => link.last_words(),
            other => other,
        };
        let said = match machine.on(event) {
            Action::Offer(notes) => gift.offer(notes, &mut link),
            Action::Agree(notes) => {
                let told = gift.tell(notes, Moment::Yours, &mut link);
                told.and_then(|()| link.say(&Message::Yours, &[]))
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
            Action::Adopt { .. } | Action::Learn(_) | Action::Wait => Ok(()),
        };
        said.map_err(|it| words(&it, NEW))?;
    }
}

const OLD: &str = "the old process";
const NEW: &str = "the new process";

/// The channel's errors speak of an opener.
fn words(error: &OpenerError, who: &str) -> String {
    match error {
        OpenerError::Gone => format!("{who} ended"),
        OpenerError::TimedOut { .. } => format!("{who} was silent for too long"),
        other => other.to_string(),
    }
}

impl<F: AsFd> Gift<'_, F> {
    fn offer(&self, notes: Notes, link: &mut Link) -> Result<(), OpenerError> {
        self.tell(notes, Moment::Offer, link)?;
        let offer = Message::Offer {
            sockets: self.sockets.iter().map(|(it, _)| it.clone()).collect(),
            state: self.state.to_owned(),
        };
        let fds = self.sockets.iter().map(|(_, fd)| fd.as_fd());
        link.say(&offer, &fds.collect::<Vec<BorrowedFd<'_>>>())
    }

    fn tell(&self, notes: Notes, moment: Moment, link: &mut Link) -> Result<(), OpenerError> {
        match notes {
            Notes::Heard => link.tell((self.notes)(moment)),
            Notes::Unknown => Ok(()),
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
    notes: Vec<Note>,
}

/// Asks the old process for its sockets. They are in the pool from then on.
pub fn take(mut link: Link, pool: &Pool) -> Result<Taking, String> {
    let mut machine = Taker::default();
    let hello = Message::Hello {
        version: VERSION,
        notes: true,
    };
    link.say(&hello, &[]).map_err(|it| words(&it, OLD))?;
    let mut notes = Vec::new();
    loop {
        let (event, fds) = link.hear(PATIENCE);
        match machine.on(event) {
            Action::Learn(note) => notes.push(note),
            Action::Adopt { sockets, state } => {
                let count = sockets.len();
                if let Err(why) = adopt(sockets, fds, pool) {
                    let _ = link.say(&Message::Refused(why.clone()), &[]);
                    return Err(why);
                }
                return Ok(Taking {
                    link,
                    machine,
                    count,
                    state,
                    notes,
                });
            }
            Action::Nothing(why, last) => {
                if let Some(last) = last {
                    let _ = link.say(&last, &[]);
                }
                return Err(why);
            }
            _ => return Err("no offer came".to_owned()),
        }
    }
}

/// All of them into the pool, each checked; or why not.
fn adopt(sockets: Vec<Identity>, fds: Vec<OwnedFd>, pool: &Pool) -> Result<(), String> {
    for (identity, fd) in sockets.into_iter().zip(fds) {
        let Identity { spec, facts } = identity;
        let known = Known {
            spec,
            facts,
            options: Options::AsSpecified,
        };
        let given = pool.give(fd, Some(known));
        given.map_err(|fault| format!("a socket came that cannot listen: {fault}"))?;
    }
    Ok(())
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

    /// The notes that came with the sockets.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// The start has failed: the old process goes on, and can tell why.
    pub fn refuse(mut self, why: &str) {
        let _ = self.link.say(&Message::Refused(why.to_owned()), &[]);
    }

    /// This process serves; `pid` is the one to signal. The old one lets go of the sockets when it has heard the
    /// answer. `claim` is for what only one of both can have, such as a pid file; it is called where the answer
    /// is that this process goes on.
    ///
    /// # Errors
    ///
    /// Where the old process goes on: this one is to let go of the sockets, without shutting them down.
    pub fn ready(mut self, pid: u32, claim: impl FnOnce()) -> Result<Agreed, String> {
        let agreed = self.agree(pid)?;
        claim();
        Ok(agreed)
    }

    fn agree(&mut self, pid: u32) -> Result<Agreed, String> {
        let mut notes = Vec::new();
        if self.link.say(&Message::Ready { pid }, &[]).is_err() {
            return self.link.refusal().map_or(Ok(Agreed::Alone(notes)), Err);
        }
        self.machine.serving();
        loop {
            let event = self.link.listen(PATIENCE);
            let gone = event == Event::Gone;
            match self.machine.on(event) {
                Action::Learn(note) => notes.push(note),
                Action::Say(keep) => {
                    return match self.link.say(&keep, &[]) {
                        Ok(()) => Ok(Agreed::Given(notes)),
                        Err(_) => self.link.refusal().map_or(Ok(Agreed::Alone(notes)), Err),
                    };
                }
                Action::Nothing(..) if gone => {
                    return self.link.refusal().map_or(Ok(Agreed::Alone(notes)), Err);
                }
                Action::Nothing(why, last) => {
                    if let Some(last) = last {
                        let _ = self.link.say(&last, &[]);
                    }
                    return Err(why);
                }
                _ => return Err("no agreement came".to_owned()),
            }
        }
    }
}

/// How the new process goes on, with what the old one told last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agreed {
    /// The sockets are its own.
    Given(Vec<Note>),
    /// The old one has ended.
    Alone(Vec<Note>),
}

impl Agreed {
    /// What the old process told last.
    pub fn notes(&self) -> &[Note] {
        match self {
            Agreed::Given(notes) | Agreed::Alone(notes) => notes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn note(moment: Moment) -> Note {
        Note {
            kind: "moment".to_owned(),
            version: 1,
            text: format!("{moment:?}"),
        }
    }

    /// Gives nothing but notes, in a thread of its own.
    fn giver(
        notes: impl Fn(Moment) -> Vec<Note> + Send + 'static,
    ) -> (Link, std::thread::JoinHandle<Result<u32, String>>) {
        let (ours, theirs) = Link::pair().unwrap();
        let given = std::thread::spawn(move || {
            let gift = Gift::<File> {
                sockets: &[],
                state: "{}",
                notes: &notes,
            };
            give(ours, &gift, PATIENCE)
        });
        (Link::of(theirs), given)
    }

    #[test]
    fn who_hears_notes_is_told_before_the_sockets_come_and_when_it_serves() {
        let too_long = "x".repeat(MAX_TEXT);
        let (link, given) = giver(move |moment| {
            let long = Note {
                text: too_long.clone(),
                ..note(moment)
            };
            vec![long, note(moment)]
        });
        let taking = take(link, &Pool::default()).unwrap();
        assert_eq!(taking.notes(), [note(Moment::Offer)]);
        let agreed = taking.ready(7, || {}).unwrap();
        assert_eq!(agreed, Agreed::Given(vec![note(Moment::Yours)]));
        assert_eq!(given.join().unwrap(), Ok(7));
    }

    /// The new side, after its offer, with the old side in the test's hands.
    fn offered() -> (Link, Taking) {
        let (mut ours, theirs) = Link::pair().unwrap();
        let taking = std::thread::spawn(|| take(Link::of(theirs), &Pool::default()));
        assert!(matches!(
            ours.listen(PATIENCE),
            Event::Heard(Message::Hello { .. }, 0)
        ));
        let offer = Message::Offer {
            sockets: Vec::new(),
            state: String::new(),
        };
        ours.say(&offer, &[]).unwrap();
        (ours, taking.join().unwrap().unwrap())
    }

    #[test]
    fn either_both_know_that_the_new_process_goes_on_or_the_old_one_does() {
        let refused = || Message::Refused("too late".to_owned());
        let told = |words: &[Message]| {
            let (mut ours, taking) = offered();
            for said in words {
                ours.say(said, &[]).unwrap();
            }
            ours.channel.stop_hearing();
            drop(ours);
            let mut claimed = false;
            let agreed = taking.ready(7, || claimed = true);
            assert_eq!(claimed, agreed.is_ok());
            agreed
        };
        assert_eq!(told(&[]), Ok(Agreed::Alone(Vec::new())), "it died");
        assert_eq!(told(&[refused()]), Err("too late".to_owned()));
        // It said `Yours`, and then died, or gave up waiting.
        assert_eq!(told(&[Message::Yours]), Ok(Agreed::Alone(Vec::new())));
        let gave_up = told(&[Message::Yours, refused()]);
        assert_eq!(gave_up, Err("too late".to_owned()));
    }

    #[test]
    fn a_keep_that_comes_at_the_last_moment_counts_and_one_that_comes_after_it_cannot_be_sent() {
        let (mut old, theirs) = Link::pair().unwrap();
        let mut new = Link::of(theirs);
        new.say(&Message::Keep, &[]).unwrap();
        assert_eq!(old.last_words(), Event::Heard(Message::Keep, 0));
        assert_eq!(old.last_words(), Event::Late);
        assert!(matches!(
            new.say(&Message::Keep, &[]),
            Err(OpenerError::Gone)
        ));
        old.say(&Message::Refused("silent".to_owned()), &[])
            .unwrap();
        drop(old);
        assert_eq!(new.refusal(), Some("silent".to_owned()));
        assert_eq!(new.refusal(), None);
    }

    #[test]
    fn who_is_of_a_time_without_notes_is_told_none() {
        let (mut link, given) = giver(|moment| vec![note(moment)]);
        let hello = Message::of(br#"{"Hello":{"version":1}}"#).unwrap();
        link.say(&hello, &[]).unwrap();
        let offer = link.listen(PATIENCE);
        assert!(
            matches!(offer, Event::Heard(Message::Offer { .. }, 0)),
            "{offer:?}"
        );
        link.say(&Message::Ready { pid: 9 }, &[]).unwrap();
        assert_eq!(link.listen(PATIENCE), Event::Heard(Message::Yours, 0));
        link.say(&Message::Keep, &[]).unwrap();
        drop(link);
        assert_eq!(given.join().unwrap(), Ok(9));
    }
}
