//! Several openings in one go, each beside those before it.
//!
//! Decides:  which of them meet: those of one port; and that one that would be refused is not there for the
//!           next.
//! Not here: one alone (the parent).

use std::net::IpAddr;

use portcullis_kernel_model::{Call, SocketId, World};

use super::{Asked, NEAR, Opening, Subject, Verdict, ask};
use crate::snapshot::Snapshot;
use crate::world::{Focus, Nonsense, Possible, Worlds};

/// What comes of one of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Together {
    /// As if it were alone, but for the others before it.
    pub verdict: Verdict,
    /// The number of the one before it that is in its way.
    pub stopped_by: Option<usize>,
}

/// Would all of these be opened so, in this order, by the snapshot's caller, who keeps them open?
///
/// # Errors
///
/// As [`ask`].
pub fn ask_together(snapshot: &Snapshot, openings: &[Opening]) -> Result<Vec<Together>, Nonsense> {
    let mut found: Vec<Option<Together>> = openings.iter().map(|_| None).collect();
    for (first, opening) in openings.iter().enumerate() {
        let port = opening.at.port();
        if found[first].is_some() {
            continue;
        }
        if port == 0 {
            found[first] = Some(Together {
                verdict: ask(snapshot, opening)?,
                stopped_by: None,
            });
            continue;
        }
        let numbered = openings.iter().enumerate();
        let of_port: Vec<(usize, &Opening)> =
            numbered.filter(|(_, one)| one.at.port() == port).collect();
        for (number, together) in one_port(snapshot, port, &of_port)? {
            found[number] = Some(together);
        }
    }
    Ok(found.into_iter().flatten().collect())
}

fn one_port(
    snapshot: &Snapshot,
    port: u16,
    openings: &[(usize, &Opening)],
) -> Result<Vec<(usize, Together)>, Nonsense> {
    let focus = Focus {
        port: Some(port),
        near: NEAR,
    };
    let at: Vec<IpAddr> = openings.iter().map(|(_, one)| one.at.ip()).collect();
    let mut worlds = Worlds::for_bind(snapshot, focus, &at)?;
    // Of each world, the sockets that were opened there before, with their numbers.
    let mut ours: Vec<Vec<(SocketId, usize)>> =
        worlds.possible.iter().map(|_| Vec::new()).collect();
    let mut found = Vec::new();
    for &(number, opening) in openings {
        let calls = opening.calls();
        let asked = Asked {
            snapshot,
            worlds: &worlds,
        };
        let subject = Subject::New(opening.family, &[]);
        let blamed = |(possible, ours): (&Possible, &Vec<(SocketId, usize)>)| {
            let tried = asked.attempt(possible, &calls, subject)?;
            tried.refused?;
            let blamed = tried.why.because_of()?;
            ours.iter()
                .find(|(id, _)| *id == blamed)
                .map(|(_, number)| *number)
        };
        let stopped_by = worlds.possible.iter().zip(&ours).find_map(blamed);
        let verdict = asked.verdict(opening.at, &calls, subject);
        found.push((
            number,
            Together {
                verdict,
                stopped_by,
            },
        ));
        let caller = worlds.caller;
        for (possible, ours) in worlds.possible.iter_mut().zip(&mut ours) {
            let mut world = possible.world.clone();
            let socket = world.socket(caller, opening.family);
            if all_succeed(&mut world, caller, socket, &calls) {
                possible.world = world;
                ours.push((socket, number));
            }
        }
    }
    Ok(found)
}

fn all_succeed(
    world: &mut World,
    caller: portcullis_kernel_model::ProcessId,
    socket: SocketId,
    calls: &[Call],
) -> bool {
    calls
        .iter()
        .all(|&call| world.call_as(caller, socket, call).is_ok())
}
