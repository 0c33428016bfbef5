//! The data plane: sessions, health, limits, logs; the worker and its event loop.

pub mod record;
pub mod snapshot;
pub mod state;
