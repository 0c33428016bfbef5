//! What the opener is asked, and what it answers.
//!
//! Decides:  the messages. A new one is a new variant and, if an old opener must not misread it,
//!           a new `codec::VERSION`.
//! Not here: how they travel (codec.rs, channel.rs), who may ask for what (process.rs).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::codec::ProtocolError;
use crate::{ListenerFacts, ListenerSpec, Report, SetError};

/// What the worker asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Open all of these or none.
    Open(Vec<ListenerSpec>),
    /// Let go of the terminal.
    Detach,
    /// A question of the program's own.
    Ask(String),
}

/// What the opener answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// All are open: one descriptor comes for each, in this order.
    Opened {
        /// What is known about each.
        listeners: Vec<ListenerFacts>,
        /// What was refused or noted on the way.
        reports: Vec<Report>,
    },
    /// None is.
    NotOpened(SetError),
    /// The opener does not open this one for the worker.
    Refused {
        /// The listener.
        listener: String,
        /// Why not.
        reason: String,
    },
    /// The program's own answer.
    Answer(String),
    /// It is done.
    Done,
    /// It could not be done.
    Failed(String),
    /// The question is not understood.
    NotUnderstood(String),
}

/// A message as text.
pub(crate) fn encode(message: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    serde_json::to_vec(message).map_err(|error| ProtocolError::Text(error.to_string()))
}

/// A text as a message.
pub(crate) fn decode<T: DeserializeOwned>(text: &[u8]) -> Result<T, ProtocolError> {
    serde_json::from_slice(text).map_err(|error| ProtocolError::Text(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_comes_out_as_it_went_in() {
        let mut spec = ListenerSpec::new(crate::Address::Tcp("[::1]:443".parse().unwrap()));
        spec.name = "a \"name\"\n".to_owned();
        spec.owner_uid = Some(99);
        spec.interface = Some("lo".to_owned());
        let text = encode(&Request::Open(vec![spec.clone()])).unwrap();
        let Request::Open(specs) = decode(&text).unwrap() else {
            panic!("another question");
        };
        assert_eq!(specs, [spec]);
    }

    #[test]
    fn a_question_from_a_later_version_is_not_understood_and_says_its_name() {
        let error = decode::<Request>(br#"{"ReadFiles":["/etc/x"]}"#).unwrap_err();
        assert!(error.to_string().contains("ReadFiles"), "{error}");
    }

    #[test]
    fn every_truncated_question_is_refused() {
        let spec = ListenerSpec::new(crate::Address::Tcp("127.0.0.1:1".parse().unwrap()));
        let text = encode(&Request::Open(vec![spec])).unwrap();
        for length in 0..text.len() {
            assert!(decode::<Request>(&text[..length]).is_err(), "{length}");
        }
    }
}
