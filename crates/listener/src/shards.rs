//! One specification, several sockets: which can be, and why others cannot.
//!
//! Decides:  how many sockets a specification is to have.
//! Kernel:   SO_REUSEPORT groups: net/core/sock_reuseport.c, reuseport_add_sock(), 6.1 to 6.18
//! Not here: opening them (set.rs).
//!
//! The backlog of a specification is each shard's own: four shards with a backlog of 100 can hold
//! 400 waiting connections, 100 in each queue.

use std::fmt;

use portcullis_sys::errno;
use serde::{Deserialize, Serialize};

use crate::spec::{Address, ListenerSpec};

/// Why one socket serves all threads where several were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum NotSharded {
    /// It is a Unix socket: the kernel has no groups of them.
    Unix,
    /// It was inherited: there is the one that there is.
    Inherited,
    /// The specification turns `SO_REUSEPORT` off.
    ReusePortOff,
    /// The kernel refused `SO_REUSEPORT`.
    ReusePortRefused,
    /// The kernel did not let a second socket beside the first.
    SecondRefused {
        /// The error number.
        errno: i32,
    },
}

impl fmt::Display for NotSharded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotSharded::Unix => f.write_str("Unix sockets cannot be sharded"),
            NotSharded::Inherited => f.write_str("an inherited socket cannot be sharded"),
            NotSharded::ReusePortOff => f.write_str("SO_REUSEPORT is off"),
            NotSharded::ReusePortRefused => f.write_str("SO_REUSEPORT was refused"),
            NotSharded::SecondRefused { errno } => {
                write!(
                    f,
                    "a second socket was refused: {}",
                    errno::describe(*errno)
                )
            }
        }
    }
}

/// How many sockets a specification is to have, as far as it tells by itself.
pub fn planned(spec: &ListenerSpec) -> Result<u16, NotSharded> {
    if spec.shards <= 1 {
        return Ok(1);
    }
    match spec.address {
        Address::UnixPath(_) | Address::UnixAbstract { .. } => Err(NotSharded::Unix),
        Address::Inherited(_) | Address::Activated(_) => Err(NotSharded::Inherited),
        Address::Tcp(_) | Address::Mptcp(_) if !spec.reuse_port => Err(NotSharded::ReusePortOff),
        Address::Tcp(_) | Address::Mptcp(_) => Ok(spec.shards),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tcp_with_reuseport_can_be_sharded() {
        let sharded = |mut spec: ListenerSpec| {
            spec.shards = 4;
            planned(&spec)
        };
        let address = "127.0.0.1:80".parse().unwrap();
        assert_eq!(sharded(ListenerSpec::tcp(address)), Ok(4));
        assert_eq!(sharded(ListenerSpec::mptcp(address)), Ok(4));
        assert_eq!(sharded(ListenerSpec::unix("/x")), Err(NotSharded::Unix));
        assert_eq!(
            sharded(ListenerSpec::unix_abstract("x")),
            Err(NotSharded::Unix)
        );
        assert_eq!(
            sharded(ListenerSpec::inherited(3)),
            Err(NotSharded::Inherited)
        );
        assert_eq!(
            sharded(ListenerSpec::activated("x")),
            Err(NotSharded::Inherited)
        );
        let mut alone = ListenerSpec::tcp(address);
        alone.reuse_port = false;
        assert_eq!(sharded(alone), Err(NotSharded::ReusePortOff));
    }

    #[test]
    fn one_or_no_shard_is_one_socket_of_any_kind() {
        for shards in [0, 1] {
            let mut spec = ListenerSpec::unix("/x");
            spec.shards = shards;
            assert_eq!(planned(&spec), Ok(1));
        }
    }
}
