//! Open any kind of Linux listening socket from one specification.

pub mod flags;
pub mod opener;
pub mod spec;

pub use flags::Flags;
pub use spec::{Address, ListenerSpec};
