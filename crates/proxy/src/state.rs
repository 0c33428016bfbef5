//! What changes while running: counters and what limits count. Kept by name over reloads.
//!
//! Decides:  which numbers exist, who writes them, and how exact they are.
//! Not here: the choice of a server and its connection count (the balance crate).

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};

use crate::limits::Waiters;
use crate::rate::Rate;

/// Of the process.
#[derive(Debug, Default)]
pub struct ProcessState {
    /// Connections now, counted before accept and given back at the end of the session.
    pub connections: AtomicU32,
    /// The limit; 0: none.
    pub maxconn: AtomicU32,
    /// Workers that wait for a place.
    pub waiters: Waiters,
    /// Connections taken a second at most; 0: no limit.
    pub max_rate: AtomicU32,
    /// Connections taken a second.
    pub rate: Rate,
    /// Splice pipes that exist now, in use or pooled.
    pub pipes: AtomicU32,
    /// Connections accepted since the start.
    pub total: AtomicU64,
    /// Times that descriptors or memory ran out at accept or connect.
    pub starved: AtomicU64,
}

/// Of a frontend.
#[derive(Debug, Default)]
pub struct FrontendState {
    /// Connections now.
    pub connections: AtomicU32,
    /// Workers that wait for a place under the frontend's limit.
    pub waiters: Waiters,
    /// Connections taken a second, where that is limited.
    pub rate: Rate,
    /// Connections since the start.
    pub total: AtomicU64,
    /// Bytes from clients.
    pub bytes_in: AtomicU64,
    /// Bytes to clients.
    pub bytes_out: AtomicU64,
}

/// Of one address of a `bind` line, over its shards.
#[derive(Debug, Default)]
pub struct ListenerState {
    /// Its number in its frontend: `id`, or its place among the addresses, from 1.
    pub number: AtomicU32,
    /// `name`
    pub name: Mutex<Option<Arc<str>>>,
    /// `accept-proxy`
    pub accepts_proxy: AtomicBool,
    /// Connections now.
    pub connections: AtomicU32,
    /// The limit; 0: none.
    pub maxconn: AtomicU32,
    /// Workers that wait for a place.
    pub waiters: Waiters,
    /// Connections since the start.
    pub total: AtomicU64,
}

/// Of a backend.
#[derive(Debug, Default)]
pub struct BackendState {
    /// Connections now, waiting ones too.
    pub connections: AtomicU32,
    /// Since the start.
    pub total: AtomicU64,
    /// Bytes from clients.
    pub bytes_in: AtomicU64,
    /// Bytes to clients.
    pub bytes_out: AtomicU64,
    /// Sessions for which no server could be chosen or connected.
    pub failed: AtomicU64,
    /// Connection attempts after a session's first.
    pub retries: AtomicU64,
    /// Sessions that a retry took to another server.
    pub redispatches: AtomicU64,
}

/// Of a server.
#[derive(Debug, Default)]
pub struct ServerState {
    /// Connections since the start.
    pub total: AtomicU64,
    /// Connects that failed since the last that did not.
    pub errors_in_a_row: AtomicU32,
    /// Connects that failed.
    pub connect_errors: AtomicU64,
    /// Socket options that the kernel refused on connections to it.
    pub option_errors: AtomicU64,
    /// Bytes from clients.
    pub bytes_in: AtomicU64,
    /// Bytes to clients.
    pub bytes_out: AtomicU64,
}
