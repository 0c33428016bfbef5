//! The data plane: sessions, health, limits, logs; the worker and its event loop.

pub mod snapshot;
pub mod state;
