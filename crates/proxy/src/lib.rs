//! The data plane: sessions, health, limits, logs; the worker and its event loop.

pub mod health;
pub mod log;
pub mod record;
pub mod snapshot;
pub mod state;
