//! What opening depends on besides the specifications.
//!
//! Decides:  the descriptor limit, when to try again, and where activated sockets come from.
//! Source:   HAProxy's MAX_START_RETRIES and `maxsock`; here nothing is tried again unless asked for.
//! Not here: the trying itself (set.rs).

use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::activation::Activation;
use crate::adopt::Pool;

/// What opening depends on besides the specifications.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct OpenContext {
    /// Descriptors must be below this; `None` takes the soft limit of open files.
    pub max_descriptor: Option<u64>,
    /// When to try a set again.
    pub retry: RetryPolicy,
    /// The sockets that systemd passed; `None` takes the process's own ([`Activation::of_process`]).
    pub activation: Option<Activation>,
    /// Sockets that are taken in place of new ones, where they fit; none unless given.
    pub pool: Pool,
}

impl OpenContext {
    /// The limit that holds for descriptors.
    pub(crate) fn descriptor_limit(&self) -> u64 {
        self.max_descriptor.unwrap_or_else(|| {
            rustix::process::getrlimit(rustix::process::Resource::Nofile)
                .current
                .unwrap_or(u64::MAX)
        })
    }
}

/// When to try a set of listeners again that did not open: never, unless said otherwise.
///
/// A set is tried again only where every error of the try is one of `errors` at a step whose
/// failure is [`Flags::RETRYABLE`](crate::Flags::RETRYABLE). What had opened stays open between
/// the tries. The waiting is at most `times` × `delay`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Which error numbers.
    pub errors: Vec<i32>,
    /// How many more tries.
    pub times: u32,
    /// How long to wait before each.
    pub delay: Duration,
}

impl RetryPolicy {
    /// Wait for an address that is still held: `times` more tries, `delay` apart.
    pub fn while_in_use(times: u32, delay: Duration) -> Self {
        RetryPolicy {
            errors: vec![Errno::ADDRINUSE.raw_os_error()],
            times,
            delay,
        }
    }
}
