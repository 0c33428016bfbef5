//! The kernel model and the live kernel, side by side.
//!
//! Decides:  nothing itself: each file holds one part of a conformance run.
//! Not here: the kernel's rules (crate `kernel-model`); the system calls (crate `sys`).
//!
//! A [`step::Script`] is calls on numbered sockets. A [`worker::Worker`] performs it in a private network
//! ([`live::Live`]) and on the model at once ([`compare::Comparison`]); where they differ, the script is
//! made smaller ([`shrink`]) and shown ([`mod@print`]), if it is believed ([`belief`]). Scripts come from [`exhaustive`] and [`random`].
//! `cargo xtask conformance` is the command.

pub mod belief;
pub mod branches;
pub mod cases;
pub mod compare;
pub mod draws;
mod encounters;
pub mod evidence;
pub mod exhaustive;
mod follow;
mod forms;
pub mod guest;
pub mod host;
pub mod live;
pub mod mutant;
pub mod mutants;
pub mod netlink;
pub mod print;
pub mod processes;
pub mod random;
pub mod replay;
pub mod report;
pub mod run;
pub mod script;
pub mod shrink;
pub mod speed;
pub mod step;
pub mod tape;
pub mod times;
pub mod worker;
