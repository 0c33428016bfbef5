//! Opening listeners of a plan: all or none, with the place of each that fails.
//!
//! Decides:  what is said about a listener that does not open, or opens with something refused.
//! Not here: opening (the listener crate), what becomes of the sockets (held.rs).

use portcullis_config::{Place, Sources};
use portcullis_listener::error::{OpenError, Report};
use portcullis_listener::opener::{InProcess, Opener, OpenerError, Parent};
use portcullis_listener::{Flags, Listener, ListenerSpec, Opened};
use portcullis_proxy::log::Level;

use super::{Explain, Refused, RunError, probe};
use crate::Plan;

/// Who opens: this process, or the privileged one that it was split from.
pub(super) enum Opening {
    Here(InProcess),
    There(Parent),
}

impl Opening {
    pub(super) fn opener(&mut self) -> &mut dyn Opener {
        match self {
            Opening::Here(here) => here,
            Opening::There(parent) => parent,
        }
    }
}

/// What is known where something is to be told of a listener.
#[derive(Clone, Copy)]
pub(super) struct Telling<'a> {
    pub(super) plan: &'a Plan,
    pub(super) sources: &'a Sources,
    /// The user that sockets are given to.
    pub(super) owner: Option<u32>,
    pub(super) explain: Option<&'a Explain>,
}

/// An open listener, and its place in the plan.
pub(super) type Placed = (usize, Listener);

/// Something to tell.
pub(super) type Note = (Level, String);

/// Which listeners are opened.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// Their places in the plan.
    pub(super) indexes: &'a [usize],
    /// Listeners that this process has on ports of theirs already: nobody else is looked for there.
    pub(super) ours: &'a [&'a ListenerSpec],
    /// They listen when somebody is there who accepts ([`super::held::begin`]): another process serves meanwhile.
    pub(super) later: bool,
}

/// Opens these listeners of the plan; each comes with its place in the plan.
pub(super) fn open(
    opener: &mut dyn Opener,
    telling: Telling<'_>,
    wanted: Wanted<'_>,
) -> Result<(Vec<Placed>, Vec<Note>), RunError> {
    let Telling { plan, sources, .. } = telling;
    let indexes = wanted.indexes;
    let all = plan.to_open();
    let specs: Vec<ListenerSpec> = indexes
        .iter()
        .map(|&index| {
            let mut spec = all[index].spec.clone();
            spec.listen_later = wanted.later;
            spec
        })
        .collect();
    // Before ours are there: they would be found.
    let held: Vec<bool> = specs
        .iter()
        .map(|spec| !wanted.ours.iter().any(|ours| probe::share_port(ours, spec)))
        .zip(&specs)
        .map(|(alone, spec)| alone && probe::is_held(spec))
        .collect();
    match opener.open(&specs) {
        Ok(Opened {
            listeners, reports, ..
        }) => {
            let shared = indexes.iter().zip(held).filter(|(_, held)| *held);
            let mut notes: Vec<Note> = shared
                .map(|(&index, _)| (Level::Warning, shared_with(index, plan, sources)))
                .collect();
            notes.extend(reports.iter().map(|report| {
                let index = indexes.get(report.spec).copied();
                tell(report, index, plan, sources)
            }));
            let numbered = listeners.into_iter().filter_map(|listener| {
                let index = indexes.get(listener.spec()).copied();
                index.map(|index| (index, listener))
            });
            Ok((numbered.collect(), notes))
        }
        Err(OpenerError::NotOpened(set)) => Err(RunError::Open {
            errors: set
                .errors
                .iter()
                .map(|error| failure(error, indexes.get(error.spec()).copied(), telling))
                .collect(),
        }),
        Err(other) => Err(RunError::Open {
            errors: vec![other.to_string()],
        }),
    }
}

fn shared_with(index: usize, plan: &Plan, sources: &Sources) -> String {
    let listener = plan.to_open()[index];
    format!(
        "another process of this user listens on {} too, or on a part of it, and \
         gets a share of the connections: is this server running already? ({})",
        listener.spec.address,
        shown(listener.place, sources)
    )
}

/// What was refused is a warning; what is only worth knowing is a notice.
pub(super) fn tell(report: &Report, index: Option<usize>, plan: &Plan, sources: &Sources) -> Note {
    let text = match index.and_then(|index| plan.to_open().get(index).copied()) {
        Some(listener) => format!("{report} ({})", shown(listener.place, sources)),
        None => report.to_string(),
    };
    match report.flags.intersects(Flags::ALERT | Flags::WARN) {
        true => (Level::Warning, text),
        false => (Level::Notice, text),
    }
}

/// The error, its place in the file, and what may help.
pub(super) fn failure(error: &OpenError, index: Option<usize>, telling: Telling<'_>) -> String {
    let Telling { plan, sources, .. } = telling;
    let mut text = error.to_string();
    let mut explained = None;
    if let Some(listener) = index.and_then(|index| plan.to_open().get(index).copied()) {
        let owner = match listener.frontend {
            Some(frontend) => format!("frontend `{}`", frontend.name),
            None => "`stats socket`".to_owned(),
        };
        text += &format!("\n  --> {}, {owner}", shown(listener.place, sources));
        let refused = Refused {
            spec: listener.spec,
            error,
            owner: telling.owner,
        };
        explained = telling.explain.and_then(|explain| explain(&refused));
    }
    if let Some(explained) = explained {
        return text + "\n" + &explained;
    }
    for hint in error.hints() {
        text += &format!("\n  help: {hint}");
    }
    text
}

/// `file:line:column`, both from 1.
pub(super) fn shown(place: Place, sources: &Sources) -> String {
    let column = place.start + 1;
    format!("{}:{}:{column}", sources.name(place.file), place.line)
}
