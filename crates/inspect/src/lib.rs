//! Reads a live Linux host, and makes the kernel model's worlds of it: what `ss`, `lsof` and `netstat` list,
//! and what the kernel decides by beside.
//!
//! <!--
//! Decides:  nothing itself; the files below each read one thing.
//! Not here: the answers to questions (the crate `kernel-model`), and how they are told (the binary).
//! -->
//!
//! ```no_run
//! use portcullis_inspect::{Focus, Outcome, Wanted, Worlds, read};
//! use portcullis_kernel_model::{Answer, Call, Family, SockAddr};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let snapshot = read(&Wanted::default())?;
//! let worlds = Worlds::of(&snapshot, Focus { port: Some(443), near: 0 })?;
//! let answer = worlds.ask(|possible| {
//!     let mut world = possible.world.clone();
//!     let socket = world.socket(worlds.caller, Family::Inet);
//!     world.call_as(worlds.caller, socket, Call::Bind(SockAddr::new([0, 0, 0, 0].into(), 443)))
//! });
//! match answer {
//!     Outcome::Certain(Answer::Ok) => println!("port 443 is free"),
//!     Outcome::Certain(answer) => println!("bind would say {answer:?}"),
//!     Outcome::Depends(answers) => println!("it depends: {answers:?}"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # From a host to a world
//!
//! 1. [`read`] lists sockets by sock_diag, in the network namespace that is asked about, with what the kernel
//!    tells there: addresses, states, users, queues, the bound device, some options.
//! 2. What it does not tell decides most verdicts: SO_REUSEADDR, SO_REUSEPORT, the groups, and what the
//!    *bucket* of a port remembers of sockets that are gone. Two small BPF programs read it, one over the
//!    namespace's sockets and one over all descriptors; they are put together here, with offsets from the
//!    kernel's own description of its types. Where BPF may not be used, options come from a copy of the
//!    owner's descriptor (pidfd_getfd(2)), and the bucket stays unknown.
//! 3. Owners come from /proc: each process that holds a descriptor, the heirs of a fork included.
//! 4. The [`Snapshot`](snapshot::Snapshot) is all of it, a file that can be sent. Every fact may be unknown.
//! 5. [`Worlds::of`] makes worlds of it (`World::found` of the model, which takes the state as it is: no
//!    history is made up). Of an unknown fact there is a world for each value, so an answer is
//!    [`Certain`](Outcome::Certain) or [`Depends`](Outcome::Depends), and names on what.
//!
//! Whole questions, *would this port open, who is in the way, what helps*, are [`verdict::ask`]'s: it answers
//! with a [`Verdict`](verdict::Verdict) that prints as people read it and serialises for programs.
//!
//! Nothing is bound or connected to find out, since that would change the bucket. A copy of a descriptor
//! keeps its port busy as long as it is open, which is a few microseconds.
//!
//! # What it needs
//!
//! | fact | from | needs |
//! |---|---|---|
//! | sockets, queues, addresses, sysctls | netlink, /proc | nothing |
//! | sockets that are bound and no more | sock_diag since 6.8, else BPF | |
//! | options, buckets, groups | BPF iterators since 5.11 | CAP_BPF, CAP_PERFMON, BTF |
//! | options | pidfd_getfd since 5.6 | the same user, or CAP_SYS_PTRACE |
//! | owners | /proc/PID/fd | the same |
//! | another network namespace | setns(2) | CAP_SYS_ADMIN |
//!
//! What could not be had is written down in [`Sources`](snapshot::Sources).
//!
//! `cargo run --release -p portcullis-inspect --example host -- --quiet` (`examples/host.rs`) tells how long
//! a host takes.
#![forbid(unsafe_code)]

mod beside;
mod btf;
mod crowd;
mod datagram;
mod diag;
mod file;
mod found;
mod getfd;
mod host;
mod iter;
mod layout;
mod limits;
mod links;
mod model_host;
mod owners;
mod place;
mod plain;
mod polls;
mod process;
mod program;
pub mod recorded;
mod refusers;
mod routes;
pub mod snapshot;
mod suppose;
mod sysctls;
pub mod traffic;
pub mod verdict;
mod world;

pub use datagram::{bound_to_file, datagram_holders};
pub use host::read;
pub use place::{Caller, Means, Others, Place, Wanted};
pub use plain::plain;
pub use world::{Focus, Nonsense, Outcome, Possible, Supposed, Worlds};
