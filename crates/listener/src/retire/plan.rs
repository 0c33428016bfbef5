//! Which way a listener can be retired, by what it is and who is beside it.
//!
//! Decides:  a program where the group's order is known and somebody of ours stays; a filter for other TCP
//!           sockets; a shutdown for Unix sockets; that Multipath TCP sockets are kept while wanted.
//! Kernel:   net/mptcp/sockopt.c: neither SO_ATTACH_FILTER nor SO_ATTACH_REUSEPORT_CBPF; net/unix/af_unix.c,
//!           unix_stream_connect(), unix_accept(): who is shut down refuses, and gives out what it has, 4.4 to 6.18
//! Not here: the steps (retire.rs).

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use crate::pause::{Kind, kind};
use crate::pending::{Looker, inode_of};
use crate::retire::Bounds;
use crate::steer::{Choice, Order};

/// How new connections are kept from those that leave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By a program of the group, which gives them to those who stay: no client notices.
    Program {
        /// The order of all members, and the group has no others.
        order: Order,
        /// By what those who stay are chosen, now and afterwards.
        choice: Choice,
    },
    /// By a filter on each socket, which drops their SYNs. Where others listen at the address, a client whose
    /// SYN was dropped sends it again after a second, and gets one of those.
    Filter {
        /// There is another listener at the address, ours or not.
        somebody_stays: bool,
    },
    /// By `shutdown`, of Unix sockets: it refuses new ones, and what waits can be accepted.
    Shutdown,
    /// By nothing: a connection that comes between the last `accept` and the close is lost.
    Nothing,
}

/// What is to be retired, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The way.
    pub way: Way,
    /// Those that are to be closed.
    pub leaving: Vec<u32>,
    /// `net.ipv4.tcp_migrate_req` is on: half-open connections of a closed member move to another one, by a hash,
    /// whatever the program says.
    pub migrates: bool,
    /// How long to wait.
    pub bounds: Bounds,
}

/// Why a listener is not to be closed.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotRetirable {
    /// Multipath TCP: nothing keeps new connections from it while its siblings are wanted. Another worker can
    /// serve it.
    MptcpWhileWanted(u32),
    /// There is no such socket.
    NoSocket(u32),
    /// Neither TCP, Multipath TCP nor a Unix socket; or of several kinds.
    Kind(u32),
    /// The kernel does not tell what it is.
    Unknown(u32, io::Error),
}

impl fmt::Display for NotRetirable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotRetirable::MptcpWhileWanted(member) => write!(
                f,
                "socket {member} is Multipath TCP, which takes neither program nor filter: kept"
            ),
            NotRetirable::NoSocket(member) => write!(f, "there is no socket {member}"),
            NotRetirable::Kind(member) => write!(f, "socket {member} is of another kind"),
            NotRetirable::Unknown(member, error) => {
                write!(f, "socket {member} does not tell what it is: {error}")
            }
        }
    }
}

impl std::error::Error for NotRetirable {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            NotRetirable::Unknown(_, error) => Some(error),
            _ => None,
        }
    }
}

impl Plan {
    /// Finds the way for closing these of the sockets of one address. `order` is that of the group, where it is
    /// known: of sockets that were inherited it is not, unless it came with them.
    ///
    /// Without a looker nothing tells whether the group has other members, so no order is relied on.
    pub fn find<F: AsFd>(
        sockets: &BTreeMap<u32, F>,
        leaving: &[u32],
        order: Option<&Order>,
        choice: &Choice,
        looker: Option<&mut Looker>,
    ) -> Result<Plan, NotRetirable> {
        Plan::find_since(sockets, leaving, order, choice, looker, Instant::now())
    }

    /// The same, from tables that were read then or later: for many plans at a time.
    pub fn find_since<F: AsFd>(
        sockets: &BTreeMap<u32, F>,
        leaving: &[u32],
        order: Option<&Order>,
        choice: &Choice,
        looker: Option<&mut Looker>,
        since: Instant,
    ) -> Result<Plan, NotRetirable> {
        let ours_stay = sockets.keys().any(|member| !leaving.contains(member));
        let mut migrates = false;
        let way = match kind_of(sockets, leaving)? {
            None => Way::Nothing,
            Some((_, Kind::Unix)) => Way::Shutdown,
            Some((member, Kind::Mptcp)) if ours_stay => {
                return Err(NotRetirable::MptcpWhileWanted(member));
            }
            Some((_, Kind::Mptcp)) => Way::Nothing,
            Some((member, Kind::Other)) => return Err(NotRetirable::Kind(member)),
            Some((_, Kind::Tcp)) => {
                let mut strangers = Strangers::Perhaps;
                if let Some(looker) = looker {
                    migrates = looker.migrates();
                    strangers = Strangers::beside(sockets, looker, since);
                }
                tcp_way(sockets, ours_stay, strangers, order, choice)
            }
        };
        Ok(Plan {
            way,
            leaving: leaving.to_vec(),
            migrates,
            bounds: Bounds::default(),
        })
    }
}

/// Whether others than ours listen at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strangers {
    No,
    Perhaps,
    Yes,
}

impl Strangers {
    pub(crate) fn beside<F: AsFd>(
        sockets: &BTreeMap<u32, F>,
        looker: &mut Looker,
        since: Instant,
    ) -> Strangers {
        let inodes: io::Result<Vec<u64>> = sockets.values().map(inode_of).collect();
        match (inodes, looker.listeners_since(since)) {
            (Ok(inodes), Ok(rows)) if looker.alone(&rows, &inodes) => Strangers::No,
            (Ok(inodes), Ok(rows)) if rows.iter().any(|row| inodes.contains(&row.inode)) => {
                Strangers::Yes
            }
            // Another network namespace, or tables that cannot be read.
            _ => Strangers::Perhaps,
        }
    }
}

fn tcp_way<F>(
    sockets: &BTreeMap<u32, F>,
    ours_stay: bool,
    strangers: Strangers,
    order: Option<&Order>,
    choice: &Choice,
) -> Way {
    let all_known = order.filter(|order| {
        order.members().len() == sockets.len()
            && sockets
                .keys()
                .all(|member| order.index_of(*member).is_some())
    });
    match all_known {
        Some(order) if ours_stay && strangers == Strangers::No => Way::Program {
            order: order.clone(),
            choice: choice.clone(),
        },
        _ => Way::Filter {
            somebody_stays: ours_stay || strangers == Strangers::Yes,
        },
    }
}

/// The one kind of all that leave.
fn kind_of<F: AsFd>(
    sockets: &BTreeMap<u32, F>,
    leaving: &[u32],
) -> Result<Option<(u32, Kind)>, NotRetirable> {
    let mut found: Option<(u32, Kind)> = None;
    for &member in leaving {
        let socket = sockets.get(&member).ok_or(NotRetirable::NoSocket(member))?;
        let kind = kind(socket).map_err(|error| NotRetirable::Unknown(member, error))?;
        if found.is_some_and(|(_, other)| other != kind) {
            return Err(NotRetirable::Kind(member));
        }
        found = Some((member, kind));
    }
    Ok(found)
}
