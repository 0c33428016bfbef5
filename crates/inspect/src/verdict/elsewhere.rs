//! Who has a port in another network namespace.
//!
//! Decides:  that a port that is free here is not said to be free on the host, nor that none but those seen
//!           are there.
//! Kernel:   network_namespaces(7): ports are a namespace's own
//! Not here: which namespaces are read (place.rs).

use serde::Serialize;

use super::holder::Holder;
use super::owns_server_port;
use crate::snapshot::{Namespace, Snapshot};

/// Somebody who has the port, in a namespace that is not the one asked about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Elsewhere {
    /// The namespace, by number.
    pub namespace: u64,
    /// Its names.
    pub names: Vec<String>,
    /// Who.
    pub holder: Holder,
}

impl Elsewhere {
    /// The namespace in a sentence.
    #[must_use]
    pub fn place(&self) -> String {
        match self.names.first() {
            Some(name) => format!("network namespace {name}"),
            None => format!("network namespace net:[{}]", self.namespace),
        }
    }
}

/// Those who have a port in the other namespaces of a snapshot.
#[must_use]
pub fn elsewhere(snapshot: &Snapshot, port: u16) -> Vec<Elsewhere> {
    let others = snapshot.namespaces.iter().skip(1);
    others.flat_map(|net| there(snapshot, net, port)).collect()
}

/// Which other namespaces the port may be taken in, since they could not be looked at.
#[must_use]
pub fn unseen_elsewhere(snapshot: &Snapshot) -> Option<String> {
    let notes = snapshot.sources.notes.iter();
    let of_namespace =
        |note: &&String| note.starts_with("namespace ") || note.starts_with("network namespaces ");
    let mut notes = notes.filter(of_namespace);
    let first = notes.next()?;
    let more = match notes.count() {
        0 => String::new(),
        more => format!(" (and {more} more like it)"),
    };
    Some(format!(
        "whether the port is taken in another network namespace: {first}{more}"
    ))
}

fn there<'a>(
    snapshot: &'a Snapshot,
    net: &'a Namespace,
    port: u16,
) -> impl Iterator<Item = Elsewhere> + 'a {
    let sockets = net.sockets.iter();
    sockets
        .filter(move |socket| owns_server_port(socket, port))
        .map(move |socket| Elsewhere {
            namespace: net.inode,
            names: net.names.clone(),
            holder: Holder::of(snapshot, net, socket),
        })
}
