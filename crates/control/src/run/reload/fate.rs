//! What becomes of each listener at a reload.
//!
//! Decides:  which listener of the new plan is one that is open: the same address, namespace and
//!           device, and nothing that only another socket can have; where several are (port 0), the
//!           one of the same name.
//! Not here: what a socket can have (the listener crate's adjust.rs), doing it (prepare.rs).

use std::collections::{BTreeSet, HashMap};

use portcullis_listener::{Address, Change, ListenerSpec, compare};

/// Of a listener of the new plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is open: this one of the old ones, and stays as it is.
    Keep(usize),
    /// It is open, and is given other options.
    Adjust(usize),
    /// It is opened beside this old one, which cannot have what these words of the line say.
    Replace(usize, &'static str),
    /// It is opened.
    Open,
}

impl Fate {
    /// The old listener that goes on.
    pub(super) fn kept(self) -> Option<usize> {
        match self {
            Fate::Keep(old) | Fate::Adjust(old) => Some(old),
            Fate::Replace(..) | Fate::Open => None,
        }
    }
}

/// The fate of each of `new`. Old ones that none of them keeps are to be retired.
pub(super) fn fates(old: &[&ListenerSpec], new: &[&ListenerSpec]) -> Vec<Fate> {
    let mut places: HashMap<Address, Vec<usize>> = HashMap::new();
    for (index, spec) in old.iter().enumerate() {
        places.entry(place(spec)).or_default().push(index);
    }
    let mut taken = BTreeSet::new();
    let mut fates: Vec<Option<Fate>> = vec![None; new.len()];
    // Those that fit best choose first.
    for round in [Round::Name, Round::Socket, Round::Place] {
        for (fate, spec) in fates.iter_mut().zip(new) {
            let candidates = places.get(&place(spec));
            if let (None, Some(candidates)) = (&fate, candidates) {
                *fate = choose(candidates, old, spec, round, &mut taken);
            }
        }
    }
    let or_open = fates.into_iter().map(|fate| fate.unwrap_or(Fate::Open));
    or_open.collect()
}

/// What both must have alike.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Round {
    Name,
    Socket,
    Place,
}

fn choose(
    candidates: &[usize],
    old: &[&ListenerSpec],
    spec: &ListenerSpec,
    round: Round,
    taken: &mut BTreeSet<usize>,
) -> Option<Fate> {
    let free = candidates.iter().filter(|index| !taken.contains(*index));
    let fate = free
        .filter(|&&index| round != Round::Name || old[index].name == spec.name)
        .find_map(|&index| match compare(old[index], spec) {
            Change::None => Some(Fate::Keep(index)),
            Change::Options => Some(Fate::Adjust(index)),
            Change::Socket(what) if round == Round::Place => Some(Fate::Replace(index, what)),
            Change::Socket(_) => None,
        })?;
    if let Fate::Keep(index) | Fate::Adjust(index) | Fate::Replace(index, _) = fate {
        taken.insert(index);
    }
    Some(fate)
}

/// Where it is, whatever it speaks there.
fn place(spec: &ListenerSpec) -> Address {
    match &spec.address {
        Address::Mptcp(address) => Address::Tcp(*address),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> ListenerSpec {
        ListenerSpec::tcp(([127, 0, 0, 1], port).into())
    }

    fn with(port: u16, edit: impl FnOnce(&mut ListenerSpec)) -> ListenerSpec {
        let mut spec = at(port);
        edit(&mut spec);
        spec
    }

    fn named(port: u16, name: &str) -> ListenerSpec {
        with(port, |spec| spec.name = name.to_owned())
    }

    #[test]
    fn every_listener_finds_the_one_that_it_was() {
        let device = |name: &str| with(80, |spec| spec.interface = Some(name.to_owned()));
        let backlog = with(80, |spec| spec.backlog = Some(9));
        let mptcp = ListenerSpec::mptcp(([127, 0, 0, 1], 80).into());
        for (label, old, new, expected) in [
            ("the same", vec![at(80)], vec![at(80)], vec![Fate::Keep(0)]),
            (
                "another order",
                vec![at(80), at(81)],
                vec![at(81), at(80)],
                vec![Fate::Keep(1), Fate::Keep(0)],
            ),
            ("a new one", vec![at(80)], vec![at(81)], vec![Fate::Open]),
            (
                "another name at one address",
                vec![named(80, "a")],
                vec![named(80, "b")],
                vec![Fate::Keep(0)],
            ),
            (
                "port 0, by name",
                vec![named(0, "a"), named(0, "b")],
                vec![named(0, "b"), named(0, "c")],
                vec![Fate::Keep(1), Fate::Keep(0)],
            ),
            (
                "another option",
                vec![at(80)],
                vec![backlog],
                vec![Fate::Adjust(0)],
            ),
            (
                "another protocol",
                vec![at(80)],
                vec![mptcp],
                vec![Fate::Replace(0, "address")],
            ),
            (
                "another device",
                vec![device("lo")],
                vec![device("eth0")],
                vec![Fate::Replace(0, "interface")],
            ),
            (
                "one of two devices",
                vec![device("lo"), device("eth0")],
                vec![device("eth1"), device("eth0")],
                vec![Fate::Replace(0, "interface"), Fate::Keep(1)],
            ),
            (
                "a copy of a descriptor each",
                vec![ListenerSpec::inherited(3), ListenerSpec::inherited(3)],
                vec![ListenerSpec::inherited(3); 3],
                vec![Fate::Keep(0), Fate::Keep(1), Fate::Open],
            ),
        ] {
            let (old, new): (Vec<_>, Vec<_>) = (old.iter().collect(), new.iter().collect());
            assert_eq!(fates(&old, &new), expected, "{label}");
        }
    }
}
