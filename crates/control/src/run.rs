//! From a plan to a serving process, and to its end.
//!
//! Decides:  the order of the start: limits, background, opener, sockets, pid file, logs, privileges,
//!           workers; and which failure means what.
//! Source:   HAProxy's order (src/haproxy.c, main()): bind, pid file, chroot, ids, threads.
//! Not here: the life after the start (run/serve.rs), each step itself.

mod asked;
mod error;
mod groups;
mod handing;
mod held;
mod messages;
mod office;
mod open;
mod pausing;
mod probe;
mod reload;
mod retire;
mod roles;
mod serve;
mod share;
mod start;
mod status;
mod supervise;
mod upgrade;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use portcullis_config::Sources;
use portcullis_listener::error::OpenError;
use portcullis_listener::{ListenerSpec, Pool};
use portcullis_proxy::record::ObserverSink;
use portcullis_sys::process::Signals;
/// Signals that are kept from the program's threads.
pub use portcullis_sys::process::Signals as HeldSignals;

use crate::Plan;
use crate::take_over::TakeOver;
pub use error::{Kind, RunError};
pub use reload::read::{Read, Reading, cannot_be_read_twice};
pub use upgrade::Relaunch;

/// A listener that did not open.
#[derive(Debug, Clone, Copy)]
pub struct Refused<'a> {
    /// What was to be opened.
    pub spec: &'a ListenerSpec,
    /// Why it did not.
    pub error: &'a OpenError,
    /// The user that its sockets were given to, where that is another than the opener's.
    pub owner: Option<u32>,
}

/// Finds out why a listener did not open: whole lines, below the error. Called only then.
pub type Explain = Arc<dyn Fn(&Refused<'_>) -> Option<String> + Send + Sync>;

/// What is called once the process serves.
pub type Ready = Box<dyn FnOnce()>;

/// What a run is asked for besides the plan.
#[derive(Default)]
pub struct Job {
    /// Say every listener at the start.
    pub verbose: bool,
    /// Who watches sessions live.
    pub observer: Option<ObserverSink>,
    /// Called once the process serves.
    pub ready: Option<Ready>,
    /// Who knows why a listener does not open.
    pub explain: Option<Explain>,
    /// Reads the configuration again, for a reload; `None`: there is nothing to read.
    pub read: Option<Read>,
    /// End by itself after this time.
    pub run_for: Option<Duration>,
    /// What HUP does.
    pub on_hangup: OnHangup,
    /// Listening sockets of another process, which are taken in place of new ones where they fit. To be
    /// filled before the run; those that nothing takes are closed, which ends nothing for their holder.
    pub pool: Pool,
    /// Whose sockets they are, where it waits until this one serves.
    pub take_over: TakeOver,
    /// How this program can be started again, for an upgrade.
    pub relaunch: Option<Relaunch>,
    /// A parent process keeps the sockets, and starts another worker where one crashes.
    pub supervise: bool,
}

/// What HUP does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnHangup {
    /// The configuration is read again.
    #[default]
    Reload,
    /// It ends as by TERM: for what lives in a terminal, and would outlive it unseen.
    End,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It served until it was told to stop.
    Served,
    /// This process had another role (it launched the one that serves, or opened its sockets),
    /// and ends with this code, after telling this.
    Role {
        /// The exit code.
        code: u8,
        /// What to tell first.
        message: Option<String>,
    },
}

/// Keeps the signals of [`run`] from the calling thread and from all that it starts, for as long
/// as the answer lives. To be called by a program that starts threads before it runs: the kernel
/// gives a signal to any thread that takes it, and its default action would end the process.
pub fn hold_signals() -> std::io::Result<HeldSignals> {
    Signals::block(&serve::SIGNALS)
}

/// Opens what `plan` says, serves until told to stop, and tells how it ended.
///
/// To be called while the process has one thread only, if the plan goes to the background or
/// drops privileges. Signals are taken over from the calling thread; see [`hold_signals`].
pub fn run(plan: Plan, sources: &Sources, job: Job) -> Result<End, RunError> {
    if plan.listeners.is_empty() {
        return Err(RunError::NoListener);
    }
    let take_over = job.take_over.clone();
    let ended = start::start(plan, sources, job);
    // Else it is the launching process or the opener, and another one of ours has it; or it is over.
    if let Err(error) = &ended {
        take_over.refuse(&error.to_string());
    }
    ended
}
