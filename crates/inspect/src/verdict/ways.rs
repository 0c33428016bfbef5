//! What would help, as the model found it, in the words of this host.
//!
//! Decides:  that a way is told only if it helps in every world that refuses; how it is said.
//! Not here: finding and trying ways (`World::ways_out_of_all` of the model).

use portcullis_kernel_model::{Difference, Opt, SocketId, WayOut};
use serde::Serialize;

use super::holder::{Holder, device_name};
use super::{Asked, Tried};
use crate::snapshot::Snapshot;
use crate::world::Possible;

/// Of more worlds than these, the first and the last are asked for ways out where each has many sockets.
const WORLDS_MAX: usize = 8;
/// So many sockets are many: each way out is tried on a copy of them.
const SOCKETS_MANY: usize = 500;
/// So many to close one after the other are said by name.
const NAMED_MAX: usize = 3;

/// Something that would help.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Way {
    /// In words.
    pub text: String,
    /// It was tried on the model of this host, and all calls succeeded there.
    pub tried: bool,
    /// What differs: `option`, `port`, `address`, `scope`, `owner`, `wait`, `stop`, `restart`,
    /// `capability`, `sysctl`, `interface`, `socket`, `limit`, `other`.
    pub kinds: Vec<&'static str>,
}

impl Way {
    /// Advice that was not tried.
    #[must_use]
    pub fn advice(text: &str) -> Way {
        Way {
            text: text.to_owned(),
            tried: false,
            kinds: vec!["other"],
        }
    }

    /// A way out that the model found, in the words of its host. Sockets of the caller itself are closed, those
    /// of others are stopped.
    #[must_use]
    pub fn on(snapshot: &Snapshot, possible: &Possible, way: &WayOut) -> Way {
        let mut parts: Vec<String> = Vec::new();
        let mut kinds: Vec<&'static str> = Vec::new();
        for difference in &way.differences {
            let part = clause(snapshot, possible, difference);
            if !parts.contains(&part) {
                parts.push(part);
            }
            if !kinds.contains(&kind(difference)) {
                kinds.push(kind(difference));
            }
        }
        if parts.len() > NAMED_MAX + 1 {
            let more = parts.len() - NAMED_MAX;
            parts.truncate(NAMED_MAX);
            parts.push(format!("{more} more like them"));
        }
        let text = match parts.split_last() {
            Some((last, [])) => last.clone(),
            Some((last, before)) => format!("{} and {last}", before.join(", ")),
            None => String::new(),
        };
        Way {
            text,
            tried: true,
            kinds,
        }
    }
}

impl Asked<'_> {
    /// What helps in each of these worlds.
    pub(super) fn ways(&self, refused: &[(&Possible, Tried)]) -> Vec<Way> {
        let many = refused.len();
        let chosen = refused
            .iter()
            .enumerate()
            .filter(|(at, (possible, _))| {
                let few = possible.sockets.len() < SOCKETS_MANY;
                few || *at < WORLDS_MAX || at + 1 == many
            })
            .map(|(_, one)| one);
        let common = in_each(chosen.filter_map(|(possible, tried)| {
            let (&call, then) = tried.calls.split_first()?;
            let caller = self.worlds.caller;
            let found = tried
                .world
                .ways_out_of_all(caller, tried.socket, call, then);
            let told = found.iter().filter(|way| !way.needs_another_kernel());
            Some(
                told.map(|way| Way::on(self.snapshot, possible, way))
                    .collect(),
            )
        }));
        let mut ways: Vec<Way> = Vec::new();
        for way in common {
            // The shortest time is enough, and two sockets of one process are one to stop.
            let waits = |one: &Way| one.kinds == ["wait"];
            let known = |one: &Way| one.text == way.text || (waits(one) && waits(&way));
            if !ways.iter().any(known) {
                ways.push(way);
            }
        }
        ways
    }

    /// A socket of the model, as the snapshot has it.
    pub(super) fn holder(&self, possible: &Possible, id: SocketId) -> Option<Holder> {
        holder(self.snapshot, possible, id)
    }
}

fn holder(snapshot: &Snapshot, possible: &Possible, id: SocketId) -> Option<Holder> {
    let place = possible.sockets.iter().find(|(_, known)| **known == id)?.0;
    let net = snapshot.namespaces.get(place.0)?;
    Some(Holder::of(snapshot, net, net.sockets.get(place.1)?))
}

/// A clause: in the model's words where the host has no better ones.
fn clause(snapshot: &Snapshot, possible: &Possible, difference: &Difference) -> String {
    let device = |index| match snapshot.namespaces.first() {
        Some(net) => device_name(net, index),
        None => format!("number {index}"),
    };
    let holder = |id| holder(snapshot, possible, id);
    match *difference {
        Difference::Close(socket) => match holder(socket) {
            Some(holder) => closing(snapshot, &holder),
            None => format!("close {socket}"),
        },
        Difference::Restart(socket, opt) => match holder(socket) {
            Some(holder) => match own(snapshot, &holder) {
                Some(its) => format!("set {opt} on {its} before its bind too"),
                // Workers of the same program go with it; what else it left behind does not.
                None if holder.is_shared_by_others() => format!(
                    "restart {} with {opt}, and stop all else that holds the socket",
                    holder.called()
                ),
                None => format!("restart {} with {opt}", holder.called()),
            },
            None => format!("restart {socket} with {opt}"),
        },
        Difference::Owner(uid) => {
            let name = snapshot.user_name(uid.0);
            let name = name.map_or_else(String::new, |name| format!("{name}, "));
            format!(
                "give the socket to user {name}{} before bind (fchown, by a privileged process)",
                uid.0
            )
        }
        Difference::Wait { ms } => format!("wait {} s", ms.div_ceil(1000)),
        Difference::Scope(index) => format!("name interface {} as the scope", device(index)),
        Difference::Option(Opt::BindToDevice(index)) if index != 0 => {
            format!("set SO_BINDTODEVICE to {} first", device(index))
        }
        Difference::Value(Opt::BindToDevice(index)) => {
            format!("set SO_BINDTODEVICE to {} instead", device(index))
        }
        Difference::Assign(index, ip) => {
            format!("give interface {} the address {ip}", device(index))
        }
        Difference::Up(index) => format!("bring interface {} up", device(index)),
        other => {
            let alone = WayOut {
                differences: vec![other],
            };
            let name = |id: SocketId, out: &mut dyn std::fmt::Write| match holder(id) {
                Some(holder) => write!(out, "the socket of {}", holder.called()),
                None => write!(out, "{id}"),
            };
            alone.told(&name).to_string()
        }
    }
}

/// What ends a socket: all that hold it, or nobody does.
fn closing(snapshot: &Snapshot, holder: &Holder) -> String {
    match (own(snapshot, holder), holder.processes.len()) {
        (Some(its), 1) => format!("close {its} first"),
        (Some(its), _) => format!("close {its}, and in all that hold the socket too, first"),
        (None, 0) if holder.inode == 0 => format!("end {}", holder.what),
        (None, 0 | 1) => format!("stop {}", holder.called()),
        (None, _) => format!("stop {} and all that hold the socket too", holder.called()),
    }
}

/// The caller's own descriptor of a socket, where it has one: nobody is told to stop himself.
fn own(snapshot: &Snapshot, holder: &Holder) -> Option<String> {
    let mut all = holder.processes.iter();
    let its = all.find(|one| one.pid == snapshot.caller)?;
    let fd = its.descriptors.first()?;
    Some(format!("fd {fd} of {} (pid {})", its.program, its.pid))
}

/// What all of these lists have, in the order of the first.
pub fn in_each<T: PartialEq>(lists: impl IntoIterator<Item = Vec<T>>) -> Vec<T> {
    let mut lists = lists.into_iter();
    let first = lists.next().unwrap_or_default();
    lists.fold(first, |mut common, list| {
        common.retain(|it| list.contains(it));
        common
    })
}

fn kind(difference: &Difference) -> &'static str {
    match difference {
        Difference::Option(_) | Difference::Value(_) => "option",
        Difference::Port(_) => "port",
        Difference::Ip(_) => "address",
        Difference::Scope(_) => "scope",
        Difference::Owner(_) => "owner",
        Difference::Wait { .. } | Difference::AddressReady(_) => "wait",
        Difference::Close(_) => "stop",
        Difference::Restart(..) => "restart",
        Difference::Capability(_) => "capability",
        Difference::Sysctl(_) => "sysctl",
        Difference::Assign(..) | Difference::Up(_) => "interface",
        Difference::Fresh(_) => "socket",
        _ => "other",
    }
}
