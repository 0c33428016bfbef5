//! Choosing a server: no clock, no I/O, nothing that differs from one run to the next.
//!
//! A [`Group`] holds the servers of one backend and what is counted on them.
//! [`Group::choose`] picks a server *and* counts the connection on it in one
//! atomic step, so any number of workers share a group and the choice is as
//! exact as with one worker:
//!
//! ```
//! use portcullis_balance::{Algorithm, AllBackups, Group, Member};
//!
//! let server = |name: &str| Member {
//!     name: name.to_owned(),
//!     ..Member::default()
//! };
//! let group = Group::new(Algorithm::LeastConn, AllBackups::No, &[server("a"), server("b")]);
//! let first = group.choose(0, None).expect("a server is usable");
//! let second = group.choose(0, None).expect("a server is usable");
//! assert_ne!(first, second);
//! assert_eq!(group.total(), 2);
//! group.release(first);
//! assert_eq!(group.active_connections(first), 0);
//! ```
//!
//! Decides:  what the crate shows; one file below is one algorithm.
//! Source:   HAProxy's configuration manual, `balance`, `weight`, `backup`, `option allbackups`.
//! Not here: health (a server is told usable or not), how long one waits in a queue (the proxy).

mod first;
pub mod group;
pub mod hash;
mod leastconn;
mod random;
mod ring;
mod roundrobin;
mod schedule;
mod static_rr;

pub use group::{
    Affinity, Algorithm, AllBackups, Choice, Grant, Group, HashTable, Limits, MAX_WEIGHT, Member,
    MemberId, Ticket, Tier, Usable, Waited, Waiter, WarmUp,
};
pub use hash::{AddressHash, HashFunction, HashInput};
