//! How sessions and events are written as lines of log.
//!
//! Decides:  the text of a line (session.rs, health.rs) and what is around it (frame.rs), byte
//!           for byte as HAProxy writes them.
//! Source:   HAProxy 3.5-dev5, doc/configuration.txt chapters 8.2 and 8.6, `log`; src/log.c.
//! Not here: where lines go and when (the control plane).

#[cfg(test)]
mod differential;
pub mod frame;
pub mod health;
mod json;
pub mod session;
pub mod time;

pub use frame::{Facility, Format, Frame, Level};
pub use session::{Style, session_line};
pub use time::{Moment, Zone};
