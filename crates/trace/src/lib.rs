//! Runs a program, watches how it opens its listening sockets, and says what went wrong.
//!
//! <!--
//! Decides:  nothing itself; the files below each do.
//! Not here: the command line (crate `portcullis`), the kernel's rules (kernel-model).
//! -->
//!
//! ```no_run
//! use portcullis_sys::process::SignalMask;
//! use portcullis_trace::{Finding, FromTrace, Observer, Watch};
//!
//! struct Print;
//! impl Observer for Print {
//!     fn found(&mut self, finding: &Finding) {
//!         eprintln!("{finding}");
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let command = ["python3", "-m", "http.server"].map(Into::into);
//! let watch = Watch::start(&command, &SignalMask::current()?)?;
//! let outcome = watch.run(&mut FromTrace::here(), &mut Print)?;
//! println!("{} sockets", outcome.record.sockets.len());
//! # Ok(())
//! # }
//! ```
//!
//! # What is watched
//!
//! The program runs under a seccomp filter ([`filter`]) that stops it, by `SECCOMP_RET_TRACE` and ptrace,
//! at `socket` (streams of IPv4 and IPv6), `setsockopt` (but for options that servers set on every
//! connection, like TCP_NODELAY), `bind` and `listen`, and at what hides such calls: `io_uring_setup`, a
//! seccomp filter or a debugger of the program's own, calls of 32-bit and x32 programs. Nothing else stops.
//! New processes and threads are followed to the end of the last one: the filter cannot be taken off, and
//! without a tracer its calls fail with ENOSYS. Should the tracer be killed, the kernel kills the tree; a
//! [`Watch`] that is dropped before its end does.
//!
//! `close`, `dup`, `fcntl` and passing over Unix sockets are not watched. A socket is known by its cookie,
//! asked from a copy of the descriptor (pidfd_getfd(2)) while the caller stands still; the copy lives for
//! microseconds. Whether a socket in the way is still open is looked up in `/proc/PID/fd` at that moment.
//!
//! # From a call to a finding
//!
//! | file | what |
//! |---|---|
//! | [`filter`] | which calls stop |
//! | [`watch`] | who is resumed when; what is read at which stop |
//! | `standstill` | pure: when Ctrl-Z has stopped the program, though it may wait for a child of vfork(2) |
//! | [`call`], [`facts`] | the call as it was written; the socket, the caller and the program behind it |
//! | [`recorder`] | pure: from calls and answers to the [`Record`] and its [`Finding`]s |
//! | [`explain`] | why a call was refused: [`FromTrace`] replays the traced sockets in the kernel model; who knows the host implements [`Explain`] |
//! | [`privilege`] | what a set-user-ID or capability file would give, and does not while it is watched |
//!
//! A rule is told only where the model, given the sockets, answers with the error that the kernel gave.
//!
//! # What watching takes away
//!
//! Without CAP_SYS_ADMIN the kernel demands `no_new_privs` for a filter, and with that a set-user-ID or
//! capability file gives nothing; nor does it to one whose tracer lacks CAP_SYS_PTRACE. Such a program is
//! told by name when it is executed ([`Kind::PrivilegeLost`]), and a refusal that this may have caused is
//! not called anything else. Root watches without taking anything away. A program that asks for seccomp's
//! strict mode is refused it, and one that debugs its children cannot ([`Kind::Debugger`]).
//!
//! # What is not seen
//!
//! Sockets made and bound by io_uring, by 32-bit and x32 programs, and calls that a filter of the program's
//! own refuses: each is said once ([`Severity::Note`]). A process made with CLONE_UNTRACED is not followed,
//! and is not said. Sockets of protocols other than TCP have no rules here, only their errors.
//!
//! # What it costs
//!
//! Two stops a watched call. `examples/overhead.rs` measures it (`cargo run --release -p portcullis-trace
//! --example overhead`); on 2 cores of a virtual machine with Linux 6.18.44 under a load of 10 to 12 by other
//! work, 2,000 listeners:
//!
//! | call | alone | watched |
//! |---|---|---|
//! | `socket` | 1.9 µs | 28 µs |
//! | `setsockopt(SO_REUSEADDR)` | 0.2 µs | 29 µs |
//! | `bind` | 0.8 µs | 31 µs |
//! | `listen` | 0.5 µs | 86 µs, much of it looking through the 2,000 sockets of the record |
//! | `setsockopt(TCP_NODELAY)`, which never stops | 0.24 µs | 0.37 µs |
//!
//! Starting a program costs no more than otherwise, within what the load lets see (9 ms and 4 ms). A call
//! that fails waits for its explanation: by the whole host, 0.2 s of processor time in a debug build.

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
mod standstill;
mod traps;
pub mod watch;
mod words;

pub use error::Error;
pub use explain::{Explain, FromTrace, Question, Reason, Refused, Wanted};
pub use finding::{Finding, Holder, Kind, RuleText, Severity, Way};
pub use record::{Ending, Record};
pub use watch::{Handle, Observer, Outcome, Watch};
