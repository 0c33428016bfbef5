//! The scenario language `.bind`: socket calls that a person can read aloud, run unchanged on the
//! model and on a live kernel.
//!
//! Decides:  which files know what; docs/scenarios.md is the language's own page.
//! Not here: exhaustive and random runs (the rest of this crate), the command line (`portcullis sim`).
//!
//! ```
//! use portcullis_conformance::script::{self, Mode, Run, Settings};
//!
//! let text = "\
//! port web
//! socket a inet
//! socket b inet
//! a bind 127.0.0.1:web -> ok
//! b bind 0.0.0.0:web -> EADDRINUSE by port-held because of a
//! ";
//! let script = script::parse(text, Settings::default()).unwrap();
//! let mut run = Run::prepare(&script, Mode::Model).unwrap();
//! for step in &script.steps {
//!     assert_eq!(run.step(step).complaints, []);
//! }
//! ```

mod amounts;
mod cursor;
mod expect;
mod format;
mod guess;
mod hands;
mod helper;
mod kernel;
mod model;
mod network;
mod options;
mod parse;
mod problem;
mod processes;
mod program;
mod run;
mod setup;
mod show;
#[cfg(test)]
mod tests;
mod verdict;
mod words;
mod world;
mod write;

pub use expect::print_address;
pub use format::format;
pub use kernel::{Kernel, Obstacle};
pub use model::Model;
pub use options::{Entry, READABLE, SETTABLE, Value, print as print_option, print_name};
pub use parse::{Reader, Settings, parse};
pub use portcullis_kernel_model::Sysctl;
pub use problem::Problem;
pub use program::{
    Action, Address, Expect, Kernels, Pattern, Port, PortPattern, Reaches, STATES, Script, Slot,
    Step, Verb, state_name,
};
pub(crate) use run::check_patience;
pub use run::{Complaint, Mode, Reason, Row, Run, Tally, apart};
pub use show::{Detail, answer, errno, row, table};
pub use verdict::settled;
pub use words::unrolled;
pub use world::{Observation, Outcome, World, perform};
pub use write::{label, write};

/// Rules that no scenario can show, with the reason.
pub const WITHOUT_SCENARIO: &[(portcullis_kernel_model::Rule, &str)] = &[(
    portcullis_kernel_model::Rule::GroupBusy,
    "only a listener has others in its group, and one that stops listening leaves it, or stays as a closed member, whom listen takes out first; UDP sockets meet the rule",
)];
