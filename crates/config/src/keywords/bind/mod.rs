//! The parameters of a `bind` line, by family.
//!
//! Decides:  the families.
//! Source:   HAProxy's configuration manual, chapter 5.1, newest version.
//! Not here: the addresses (address.rs).

pub mod general;
pub mod tcp;
pub mod tls;
pub mod unix;
