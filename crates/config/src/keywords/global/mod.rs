//! The keywords of `global`, by family.
//!
//! Decides:  the families.
//! Source:   HAProxy's configuration manual, chapter 3, newest version.
//! Not here: `unix-bind` taken into `bind` lines (bind/unix.rs).

pub mod http;
pub mod limits;
pub mod log;
pub mod network;
pub mod process;
pub mod stats;
pub mod threads;
pub mod tls;
pub mod tune;
pub mod various;
