//! Why a listener of a configuration did not open: who is in the way, by which rule, what would help.
//!
//! Decides:  that the kernel's answer is known, and only what leads to it is told. The host is read after
//!           the failure: nothing of this costs a start that succeeds.
//! Not here: the words (crate `inspect`, verdict), the error itself (crate `listener`).

use std::path::Path;

use portcullis_control::run::Refused;
use portcullis_inspect::verdict::{self, Outcome, Verdict};
use portcullis_inspect::{Means, Place, Wanted, read};
use portcullis_listener::Address;
use portcullis_listener::spec::AbstractForm;
use portcullis_listener::step::Step;
use portcullis_sys::errno;

use super::local;
use super::opening::{opening, tcp};
use crate::commands::why::unix::{self, Reach};

/// The lines below the error; `None` where the host does not explain it.
pub fn explain(refused: &Refused<'_>) -> Option<String> {
    match (&refused.spec.address, refused.error.step()) {
        (Address::UnixPath(path), Step::Bind | Step::UnixPath | Step::UnixReplace) => {
            of_path(path, refused.error.errno())
        }
        (Address::UnixAbstract { name, form }, Step::Bind | Step::Listen) => {
            of_abstract(name, *form, refused)
        }
        (_, Step::Bind | Step::Listen | Step::Interface) => of_tcp(refused),
        _ => None,
    }
}

/// What stands in the way of a path, in the words of `why` and `check`.
fn of_path(path: &Path, number: Option<i32>) -> Option<String> {
    // Nobody's socket is in the way of a path: any port is as good, and one is quick to read.
    let snapshot = read(&Wanted {
        port: Some(1),
        means: Means::SockDiag,
        ..Wanted::default()
    });
    let snapshot = snapshot.ok()?;
    let verdict = unix::ask_beside(&snapshot, path);
    let verdict = match number {
        // Something that is no socket is at the path: nobody asked the kernel.
        None => Some(verdict),
        Some(number) if verdict.error() == errno::name(number) => Some(verdict),
        Some(number) => Some(unix::of_errno(path, number)),
    };
    below(&verdict.filter(|it| it.error().is_some())?.to_string())
}

fn of_abstract(name: &[u8], form: AbstractForm, refused: &Refused<'_>) -> Option<String> {
    let (place, reach) = match refused.spec.network_namespace.clone() {
        None => (Place::Here, Reach::Own),
        Some(name) => (Place::Named(name), Reach::Other),
    };
    // Unix sockets are read with all ports.
    let snapshot = read(&Wanted {
        place,
        means: Means::SockDiag,
        ..Wanted::default()
    });
    let snapshot = snapshot.ok()?;
    let verdict = unix::ask(&snapshot, &local::abstract_name(name, form), reach);
    let agrees =
        verdict.error().is_some() && verdict.error() == errno::name(refused.error.errno()?);
    agrees.then(|| below(&verdict.to_string()))?
}

/// The first line says what is said already.
fn below(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().skip(1).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn of_tcp(refused: &Refused<'_>) -> Option<String> {
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
    below(&agreeing.to_string())
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
