//! The worker's side: asking the privileged process.
//!
//! Decides:  what of an answer is believed: each descriptor must be a listening socket, one for
//!           each fact.
//! Not here: the opener's side (process.rs).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::channel::Channel;
use super::codec::{Message, ProtocolError};
use super::message::{Reply, Request, decode, encode};
use super::{Opener, OpenerError};
use crate::{Listener, ListenerFacts, ListenerSpec, Opened, Report};

/// How long the opener may take to answer, unless [`Parent::set_patience`] says otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// The privileged process that this one was split from.
///
/// Its calls block until the answer is there, so an async program makes them in a thread of its
/// own. The descriptor ([`AsFd`]) becomes readable when the opener is gone.
#[derive(Debug)]
pub struct Parent {
    channel: Channel,
    pid: u32,
    last_id: u32,
    patience: Duration,
}

impl Parent {
    pub(super) fn new(channel: Channel, pid: u32) -> Self {
        Parent {
            channel,
            pid,
            last_id: 0,
            patience: PATIENCE,
        }
    }

    /// The opener's process id: whom to signal, since it passes signals on.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// How long the opener may take to answer before it is [`OpenerError::TimedOut`]. The default
    /// is 60 seconds.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// A question of the program's own, which `OpenerProcess::serve_with` answers.
    pub fn ask(&mut self, question: &str) -> Result<String, OpenerError> {
        match self.request(&Request::Ask(question.to_owned()))? {
            (Reply::Answer(answer), _) => Ok(answer),
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn request(&mut self, request: &Request) -> Result<(Reply, Vec<OwnedFd>), OpenerError> {
        let text = encode(request)?;
        self.last_id = self.last_id.wrapping_add(1);
        self.channel.send(self.last_id, &text, &[])?;
        let Message {
            text, descriptors, ..
        } = self.channel.wait_for(self.last_id, self.patience)?;
        match decode(&text)? {
            Reply::Refused { listener, reason } => Err(OpenerError::Refused { listener, reason }),
            Reply::NotOpened(error) => Err(OpenerError::NotOpened(error)),
            Reply::NotUnderstood(why) => Err(ProtocolError::Text(why).into()),
            Reply::Failed(why) => Err(OpenerError::io(
                "the opener could not do it",
                std::io::Error::other(why),
            )),
            reply => Ok((reply, descriptors)),
        }
    }
}

impl Opener for Parent {
    fn open(&mut self, specs: &[ListenerSpec]) -> Result<Opened, OpenerError> {
        match self.request(&Request::Open(specs.to_vec()))? {
            (Reply::Opened { listeners, reports }, descriptors) => {
                assemble(specs.len(), listeners, reports, descriptors)
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    fn detach(&mut self) -> Result<(), OpenerError> {
        match self.request(&Request::Detach)? {
            (Reply::Done, _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }
}

impl AsFd for Parent {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

fn unexpected(reply: &Reply) -> OpenerError {
    let name = match reply {
        Reply::Opened { .. } => "opened",
        Reply::Done => "done",
        Reply::Answer(_) => "answer",
        _ => "something else",
    };
    ProtocolError::Text(format!("`{name}` does not answer the question")).into()
}

/// Facts and descriptors as listeners, all of them or none.
fn assemble(
    specs: usize,
    facts: Vec<ListenerFacts>,
    reports: Vec<Report>,
    descriptors: Vec<OwnedFd>,
) -> Result<Opened, OpenerError> {
    if facts.len() != descriptors.len() {
        return Err(ProtocolError::DescriptorCount {
            said: facts.len(),
            came: descriptors.len(),
        }
        .into());
    }
    if let Some(fact) = facts.iter().find(|fact| fact.spec >= specs) {
        return Err(ProtocolError::Text(format!(
            "a listener of specification {} of {specs}",
            fact.spec
        ))
        .into());
    }
    let listeners = descriptors
        .into_iter()
        .zip(facts)
        .map(|(fd, facts)| Listener::from_parts(fd, facts))
        .collect::<Result<Vec<Listener>, _>>()
        .map_err(|error| OpenerError::io("a descriptor from the opener is no listener", error))?;
    Ok(Opened { listeners, reports })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// An opener that answers one question with this text and these descriptors.
    fn answers(
        text: &'static str,
        descriptors: Vec<OwnedFd>,
    ) -> (Parent, std::thread::JoinHandle<()>) {
        let (ours, mut theirs) = Channel::pair().unwrap();
        let opener = std::thread::spawn(move || {
            let question = theirs.wait_for(1, Duration::from_secs(10)).unwrap();
            let fds: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
            theirs.send(question.id, text.as_bytes(), &fds).unwrap();
        });
        (Parent::new(ours, 1), opener)
    }

    fn spec() -> ListenerSpec {
        ListenerSpec::new(crate::Address::Tcp("127.0.0.1:0".parse().unwrap()))
    }

    #[test]
    fn an_answer_with_another_number_of_descriptors_than_listeners_is_refused() {
        let extra = TcpListener::bind("127.0.0.1:0").unwrap();
        let (mut parent, opener) = answers(
            r#"{"Opened":{"listeners":[],"reports":[]}}"#,
            vec![extra.into()],
        );
        let error = parent.open(&[spec()]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the opener's protocol is broken: 0 descriptors were announced and 1 came"
        );
        opener.join().unwrap();
    }

    #[test]
    fn an_answer_to_another_question_and_one_that_is_none_are_refused() {
        for (text, said) in [
            (r#""Done""#, "`done` does not answer the question"),
            (r#"{"Opened":"#, "a message is not understood"),
            (r#""Dance""#, "Dance"),
        ] {
            let (mut parent, opener) = answers(text, Vec::new());
            let error = parent.open(&[spec()]).unwrap_err();
            assert!(matches!(error, OpenerError::Protocol(_)));
            assert!(error.to_string().contains(said), "{error}");
            opener.join().unwrap();
        }
    }

    #[test]
    fn an_opener_that_dies_before_it_answers_is_gone() {
        let (ours, mut theirs) = Channel::pair().unwrap();
        let opener = std::thread::spawn(move || {
            theirs.wait_for(1, Duration::from_secs(10)).unwrap();
        });
        let mut parent = Parent::new(ours, 1);
        assert!(matches!(parent.open(&[spec()]), Err(OpenerError::Gone)));
        opener.join().unwrap();
        // And from then on, at once.
        assert!(matches!(parent.open(&[spec()]), Err(OpenerError::Gone)));
        assert!(matches!(parent.detach(), Err(OpenerError::Gone)));
    }

    #[test]
    fn an_opener_that_hangs_is_waited_for_as_long_as_said() {
        let (ours, _theirs) = Channel::pair().unwrap();
        let mut parent = Parent::new(ours, 1);
        parent.set_patience(Duration::from_millis(20));
        assert!(matches!(
            parent.open(&[spec()]),
            Err(OpenerError::TimedOut { .. })
        ));
    }
}
