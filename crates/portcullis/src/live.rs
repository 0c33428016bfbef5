//! What this host says, or would say, to the listeners of a configuration.
//!
//! Decides:  nothing itself.
//! Not here: the rules and their words (crates `kernel-model` and `inspect`), opening (crate `listener`).

mod balancers;
pub mod foreseen;
mod local;
mod opening;
pub mod refused;
mod sources;
