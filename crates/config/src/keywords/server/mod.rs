//! The parameters of `server`, `server-template` and `default-server` lines, by family.
//!
//! Decides:  the families.
//! Source:   HAProxy's configuration manual, chapter 5.2, newest version.
//! Not here: the addresses (address.rs).

pub mod check;
pub mod connection;
pub mod general;
pub mod http;
pub mod name;
pub mod source;
pub mod tls;
