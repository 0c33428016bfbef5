//! The keywords of `defaults`, `frontend`, `listen` and `backend`, by family.
//!
//! Decides:  the families.
//! Source:   HAProxy's configuration manual, chapter 4, newest version.
//! Not here: the parameters of `bind` and `server` lines (bind/, server/).

pub mod balance;
pub mod checks;
pub mod general;
pub mod http;
pub mod listening;
pub mod log;
pub mod option;
pub mod past;
pub mod rules;
pub mod servers;
pub mod timeout;
