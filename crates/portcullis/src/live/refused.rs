//! Why a listener of a configuration did not open: who is in the way, by which rule, what would help.
//!
//! Decides:  that the kernel's answer is known, and only what leads to it is told. The host is read after
//!           the failure: nothing of this costs a start that succeeds.
//! Not here: the words (crate `inspect`, verdict), the error itself (crate `listener`).

use portcullis_control::run::Refused;
use portcullis_inspect::verdict::{self, Outcome, Verdict};
use portcullis_inspect::{Place, Wanted, read};
use portcullis_listener::step::Step;
use portcullis_sys::errno;

use super::opening::{opening, tcp};

/// The lines below the error; `None` where the host does not explain it.
pub fn explain(refused: &Refused<'_>) -> Option<String> {
    let (Step::Bind | Step::Listen) = refused.error.step() else {
        return None;
    };
    let number = refused.error.errno()?;
    let at = tcp(refused.spec)?;
    let place = refused.spec.network_namespace.clone();
    let snapshot = read(&Wanted {
        port: Some(at.port()).filter(|&port| port != 0),
        near: verdict::NEAR,
        place: place.map_or(Place::Here, Place::Named),
        ..Wanted::default()
    });
    let snapshot = snapshot.ok()?;
    let opening = opening(refused.spec, &snapshot, refused.owner)?;
    let verdict = verdict::ask(&snapshot, &opening).ok()?;
    let Some(agreeing) = agreeing(&verdict, number) else {
        return other_refusers(&verdict, number);
    };
    let text = agreeing.to_string();
    // The first line says what is said already.
    let lines: Vec<&str> = text.lines().skip(1).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

/// The verdict with the answer that was given alone, if that is among those that are possible.
fn agreeing(verdict: &Verdict, number: i32) -> Option<Verdict> {
    let name = errno::name(number);
    let mut answers = verdict.answers.iter();
    let given = answers.find(|answer| answer.error.is_some() && answer.error == name)?;
    Some(Verdict {
        answers: vec![given.clone()],
        outcome: Outcome::Refused,
        ..verdict.clone()
    })
}

/// Where no rule of bind and listen says no: who else may, on this host.
fn other_refusers(verdict: &Verdict, number: i32) -> Option<String> {
    const EPERM: i32 = 1;
    const EACCES: i32 = 13;
    if ![EPERM, EACCES].contains(&number) {
        return None;
    }
    let told = verdict.refusers.iter().map(|one| {
        format!(
            "  may refuse: {}: {}; it shows by {}",
            one.name, one.what, one.shows
        )
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("\n"))
}
