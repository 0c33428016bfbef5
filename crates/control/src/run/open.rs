//! Opening the listeners of a plan: all or none, with the place of each that fails.
//!
//! Decides:  what is said about a listener that does not open, or opens with something refused;
//!           how the sockets are dealt to the workers.
//! Not here: opening (the listener crate).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use portcullis_config::{Place, Sources};
use portcullis_listener::error::{OpenError, Report};
use portcullis_listener::opener::{Opener, OpenerError};
use portcullis_listener::{Flags, Listener, ListenerSpec};
use portcullis_proxy::snapshot::WorkerListener;
use portcullis_proxy::state::ListenerState;

use super::messages::Messages;
use super::share::{Socket, share};
use super::{Explain, Refused, RunError, probe};
use crate::Plan;

/// What is known where something is to be told of a listener.
#[derive(Clone, Copy)]
pub(super) struct Telling<'a> {
    pub(super) plan: &'a Plan,
    pub(super) sources: &'a Sources,
    pub(super) messages: Messages,
    /// The user that sockets are given to.
    pub(super) owner: Option<u32>,
    pub(super) explain: Option<&'a Explain>,
}

/// Opens all listeners of the plan.
pub(super) fn open(
    opener: &mut dyn Opener,
    telling: Telling<'_>,
) -> Result<Vec<Listener>, RunError> {
    let Telling {
        plan,
        sources,
        messages,
        ..
    } = telling;
    let specs: Vec<ListenerSpec> = plan.listeners.iter().map(|l| l.spec.clone()).collect();
    // Before ours are there: they would be found.
    let held: Vec<bool> = specs.iter().map(probe::is_held).collect();
    match opener.open(&specs) {
        Ok(opened) => {
            for (listener, _) in plan.listeners.iter().zip(held).filter(|(_, held)| *held) {
                messages.warning(&format!(
                    "another process of this user listens on {} too, or on a part of it, and \
                     gets a share of the connections: is this server running already? ({})",
                    listener.spec.address,
                    shown(listener.place, sources)
                ));
            }
            for report in &opened.reports {
                tell(report, plan, sources, messages);
            }
            Ok(opened.listeners)
        }
        Err(OpenerError::NotOpened(set)) => Err(RunError::Open {
            errors: set
                .errors
                .iter()
                .map(|error| failure(error, telling))
                .collect(),
        }),
        Err(other) => Err(RunError::Open {
            errors: vec![other.to_string()],
        }),
    }
}

/// What was refused is a warning; what is only worth knowing is a notice.
fn tell(report: &Report, plan: &Plan, sources: &Sources, messages: Messages) {
    let text = match plan.listeners.get(report.spec) {
        Some(listener) => format!("{report} ({})", shown(listener.place, sources)),
        None => report.to_string(),
    };
    if report.flags.intersects(Flags::ALERT | Flags::WARN) {
        messages.warning(&text);
    } else {
        messages.notice(&text);
    }
}

/// The error, its place in the file, and what may help.
fn failure(error: &OpenError, telling: Telling<'_>) -> String {
    let Telling { plan, sources, .. } = telling;
    let mut text = error.to_string();
    let mut explained = None;
    if let Some(listener) = plan.listeners.get(error.spec()) {
        let frontend = &plan.frontends[listener.frontend].name;
        text += &format!(
            "\n  --> {}, frontend `{frontend}`",
            shown(listener.place, sources)
        );
        let refused = Refused {
            spec: &listener.spec,
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
fn shown(place: Place, sources: &Sources) -> String {
    let column = place.start + 1;
    format!("{}:{}:{column}", sources.name(place.file), place.line)
}

/// The listening sockets of each worker.
pub(super) fn deal(
    listeners: Vec<Listener>,
    states: &[Arc<ListenerState>],
    plan: &Plan,
) -> Vec<Vec<WorkerListener>> {
    let sockets: Vec<Socket> = listeners.iter().map(socket).collect();
    let opened: Vec<(usize, Arc<OwnedFd>)> = listeners
        .into_iter()
        .map(|listener| (listener.spec(), Arc::new(OwnedFd::from(listener))))
        .collect();
    share(&sockets, plan.workers)
        .into_iter()
        .map(|mine| {
            mine.into_iter()
                .map(|(index, sharing)| {
                    let (spec, fd) = &opened[index];
                    WorkerListener {
                        socket: Arc::clone(fd),
                        sharing,
                        frontend: plan.listeners[*spec].frontend,
                        state: Arc::clone(&states[*spec]),
                    }
                })
                .collect()
        })
        .collect()
}

/// Only sockets that we opened as one SO_REUSEPORT group share one queue of connections; those
/// that were inherited may be anything, so each is polled by all.
fn socket(listener: &Listener) -> Socket {
    let facts = listener.facts();
    match facts.inherited {
        Some(_) => Socket {
            shard: 0,
            shards: 1,
        },
        None => Socket {
            shard: facts.shard,
            shards: facts.shards,
        },
    }
}
