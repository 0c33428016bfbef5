//! What changes while running: counters and what limits count. Kept by name over reloads.
//!
//! Decides:  which numbers exist, who writes them, and how exact they are.
//! Not here: the choice of a server and its connection count (the balance crate).

use std::sync::atomic::{AtomicU32, AtomicU64};

/// Of the process.
#[derive(Debug, Default)]
pub struct ProcessState {
    /// Connections now, counted before accept and given back at the end of the session.
    pub connections: AtomicU32,
    /// The limit.
    pub maxconn: AtomicU32,
}

/// Of a frontend.
#[derive(Debug, Default)]
pub struct FrontendState {
    /// Connections now.
    pub connections: AtomicU32,
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
    /// Connections now.
    pub connections: AtomicU32,
    /// The limit.
    pub maxconn: AtomicU32,
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
}

/// Of a server.
#[derive(Debug, Default)]
pub struct ServerState {
    /// Connections since the start.
    pub total: AtomicU64,
    /// Connects that failed.
    pub connect_errors: AtomicU64,
}
