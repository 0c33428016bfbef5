//! (see simulation.rs)
