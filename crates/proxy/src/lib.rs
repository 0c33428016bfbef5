//! The data plane: sessions, health, limits, logs; the worker and its event loop.

pub mod health;
pub mod limits;
pub mod log;
pub mod net;
pub mod record;
pub mod session;
pub mod slab;
pub mod snapshot;
pub mod state;
pub mod wheel;
pub mod worker;
