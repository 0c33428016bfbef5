//! The data plane: sessions, health, limits, logs; the worker and its event loop.
//!
//! `worker::thread::spawn` starts a worker; `WorkerHandle::install` gives it a `snapshot::Snapshot`
//! and its listeners. What sessions did comes out as `record::SessionRecord`s, what is counted as
//! `state`. `examples/relay.rs` is the smallest whole: one worker, one frontend, one backend.

pub mod health;
pub mod limits;
pub mod log;
pub mod net;
pub mod proxy_protocol;
pub mod rate;
pub mod record;
pub mod session;
pub mod slab;
pub mod snapshot;
pub mod source;
pub mod state;
pub mod wheel;
pub mod worker;
