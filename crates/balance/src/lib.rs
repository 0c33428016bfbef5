//! Choosing a server: no clock, no I/O.

pub mod group;

pub use group::{Algorithm, Group, Member, MemberId, Tier};
