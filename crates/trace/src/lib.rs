//! Runs a program, watches how it opens its listening sockets, and says what went wrong.
//!
//! <!--
//! Decides:  nothing itself; the files below each do.
//! Not here: the command line (crate `portcullis`), the kernel's rules (kernel-model).
//! -->

pub mod call;
mod error;
pub mod explain;
pub mod facts;
pub mod filter;
pub mod finding;
pub mod privilege;
mod reasons;
pub mod record;
pub mod recorder;
mod traps;
pub mod watch;
mod words;

pub use error::Error;
pub use explain::{Explain, FromTrace, Question, Reason};
pub use finding::{Finding, Holder, Kind, RuleText, Severity, Way};
pub use record::{Ending, Record};
pub use watch::{Handle, Observer, Outcome, Watch};
