//! Answers that stand beside what a world tells, and the facts on which none depends.
//!
//! Decides:  that who hears "unknown" hears each answer; that no fact is told for nothing.
//! Not here: what is supposed in a world (suppose.rs).

use portcullis_kernel_model::{Errno, Rule};

use super::{PossibleAnswer, RuleText, Tried};
use crate::world::{Possible, Supposed};

pub(super) fn no_port() -> PossibleAnswer {
    PossibleAnswer {
        call: Some("bind".to_owned()),
        error: Some(Errno::EADDRINUSE.name()),
        message: Some(Errno::EADDRINUSE.text()),
        rule: Some(RuleText::of(Rule::NoPortLeft)),
        holders: Vec::new(),
        more_holders: 0,
        supposing: vec!["the kernel's search for a port begins badly".to_owned()],
    }
}

/// What comes of something that no world shows.
pub(super) fn unlisted(port: u16) -> PossibleAnswer {
    let (rule, supposing) = match port {
        0 => (
            Some(RuleText::of(Rule::NoPortLeft)),
            "what cannot be seen leaves no port",
        ),
        _ => (None, "a socket that cannot be seen has the port"),
    };
    PossibleAnswer {
        rule,
        supposing: vec![supposing.to_owned()],
        ..no_port()
    }
}

/// The places, among what is supposed, of the host's own facts on which no answer depends.
pub(super) fn idle_settings(tried: &[(&Possible, Tried)]) -> Vec<usize> {
    let first = tried
        .first()
        .map_or(&[][..], |(possible, _)| &possible.supposed);
    let setting =
        |one: &Supposed| matches!(one, Supposed::Capabilities { .. } | Supposed::Sysctl { .. });
    let decides = |at: usize| {
        tried.iter().enumerate().any(|(place, (one, here))| {
            tried[place + 1..].iter().any(|(other, there)| {
                let (one, other) = (&one.supposed, &other.supposed);
                here.refused != there.refused
                    && one.len() == other.len()
                    && one[..at] == other[..at]
                    && one[at + 1..] == other[at + 1..]
            })
        })
    };
    let settings = first.iter().enumerate().filter(|(_, one)| setting(one));
    let idle = settings.map(|(at, _)| at).filter(|&at| !decides(at));
    idle.collect()
}

pub(super) fn shared_port() -> PossibleAnswer {
    PossibleAnswer {
        call: None,
        error: None,
        message: None,
        rule: Some(RuleText::of(Rule::ChosenShared)),
        holders: Vec::new(),
        more_holders: 0,
        supposing: vec!["a socket whose options cannot be seen would share its port".to_owned()],
    }
}
