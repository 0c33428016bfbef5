//! The control plane: from a typed configuration to running workers, and their life until the end.
//!
//! Decides:  which modules there are.
//! Not here: the path of a byte (the proxy crate), the opening of a socket (the listener crate).

pub mod admin;
pub mod compile;
pub mod control_socket;
pub mod daemon;
pub mod health;
pub mod life;
pub mod limits;
pub mod logs;
pub mod memory;
pub mod notify;
pub mod pidfile;
pub mod privileges;
pub mod registry;
pub mod run;
pub mod take_over;

pub use compile::{Overrides, Plan, compile};
pub use registry::Registry;
