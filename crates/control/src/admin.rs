//! The runtime sockets: HAProxy's command language, on `stats socket` and beside the pid file.
//!
//! Decides:  which modules there are.
//! Source:   HAProxy's management guide, chapter 9.3; src/cli.c, 2.6 and 3.5-dev5.
//! Not here: opening the sockets (run/open.rs), what a command changes (run/).

pub mod commands;
pub mod dialect;
pub mod getsocks;
pub mod give;
pub mod info;
pub(crate) mod server;
pub mod take;

pub use commands::{Reply, Session};
pub use dialect::{Command, Next, Reader};
