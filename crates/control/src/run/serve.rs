//! The control thread: signals and times in, commands to the workers out, until the end.
//!
//! Decides:  which signal is which event, and how long an event may take.
//! Source:   HAProxy's management guide, chapter 4.
//! Not here: what an event leads to (life.rs), what a worker does with a command (the proxy crate).

use std::io;
use std::pin::Pin;
use std::time::Duration;

use portcullis_proxy::log::Level;
use portcullis_sys::process::Signals;
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::Sleep;

use super::status::Report;
use super::workers::{Command, News, Workers};
use super::{OnHangup, RunError};
use crate::health::{Checker, HealthPlan};
use crate::life::{Action, Event, Life};
use crate::logs::{Audience, LogHandle};
use crate::notify::Notifier;

/// The signals that the process takes; PIPE is ignored from the start, as Rust programs do.
pub(super) const SIGNALS: [Signal; 8] = [
    Signal::TERM,
    Signal::INT,
    Signal::USR1,
    Signal::USR2,
    Signal::HUP,
    Signal::TTOU,
    Signal::TTIN,
    Signal::QUIT,
];

/// After all sessions were told to end, workers that do not answer are waited for so long.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// What a signal asks for.
fn event_of(signal: Signal, on_hangup: OnHangup) -> Option<Event> {
    Some(match signal {
        Signal::HUP if on_hangup == OnHangup::End => Event::Terminate,
        Signal::TERM => Event::Terminate,
        Signal::INT => Event::Interrupt,
        Signal::USR1 => Event::SoftStop,
        Signal::USR2 | Signal::HUP => Event::Reload,
        Signal::TTOU => Event::Pause,
        Signal::TTIN => Event::Resume,
        Signal::QUIT => Event::Status,
        _ => return None,
    })
}

/// Everything that the control thread holds while the process serves.
pub(super) struct Control {
    pub(super) life: Life,
    pub(super) signals: Signals,
    pub(super) workers: Workers,
    pub(super) log: LogHandle,
    pub(super) notifier: Notifier,
    pub(super) status: Report,
    pub(super) health: HealthPlan,
    /// Ends by itself after this time.
    pub(super) run_for: Option<Duration>,
    /// What HUP does.
    pub(super) on_hangup: OnHangup,
}

/// Serves until the end, after `announce` has told that it does.
pub(super) fn serve(
    control: Control,
    announce: impl FnOnce() -> Result<(), RunError>,
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::host("start the control thread"))?;
    let mut checker = Checker::new(
        runtime.handle().clone(),
        control.log.clone(),
        control.workers.remotes(),
    );
    checker.apply(&control.health);
    announce()?;
    runtime.block_on(control.serve())
}

impl Control {
    async fn serve(self) -> Result<(), RunError> {
        let Control {
            mut life,
            signals,
            mut workers,
            log,
            notifier,
            status,
            run_for,
            on_hangup,
            health: _,
        } = self;
        let mut signals = heard(signals, on_hangup).map_err(RunError::host("wait for signals"))?;
        for (audience, line) in status.started() {
            log.say(audience, Level::Info, line);
        }
        let mut timers = Timers {
            own_end: run_for.map(armed),
            ..Timers::default()
        };
        let mut result = Ok(());
        'serving: loop {
            let event = tokio::select! {
                Some(event) = signals.recv() => event,
                news = workers.news() => match news {
                    News::Drained => Event::Drained,
                    News::Failed(why) if result.is_ok() => {
                        result = Err(RunError::Worker(why));
                        Event::Terminate
                    }
                    News::Failed(_) => continue,
                },
                event = timers.next() => event,
            };
            for action in life.on(event) {
                match action {
                    Action::PauseListeners => workers.tell(Command::Pause),
                    Action::ResumeListeners => workers.tell(Command::Resume),
                    Action::StopAccepting => {
                        notifier.stopping("no longer accepting");
                        workers.tell(Command::StopAccepting);
                    }
                    Action::EndSessions => {
                        workers.tell(Command::EndSessions);
                        timers.patience = Some(armed(END_PATIENCE));
                    }
                    Action::ArmGrace(after) => timers.grace = Some(armed(after)),
                    Action::ArmHardStop(after) => timers.hard_stop = Some(armed(after)),
                    Action::Say(words) => log.say(Audience::Global, Level::Notice, words),
                    Action::ShowStatus => {
                        for line in status.to_string().lines() {
                            log.say(Audience::Global, Level::Notice, line);
                        }
                        log.say(Audience::Global, Level::Notice, lost_lines(&log));
                        log.show_rings();
                    }
                    Action::Leave => break 'serving,
                }
            }
        }
        let stopped = workers.stop().await;
        for (audience, line) in status.stopped() {
            log.say(audience, Level::Warning, line);
        }
        result.and(stopped)
    }
}

/// How many log lines nobody got.
fn lost_lines(log: &LogHandle) -> String {
    let lost = log.dropped();
    format!(
        "  log lines lost: {} by full queues, {} by targets",
        lost.by_queues, lost.by_targets
    )
}

/// The times that are running.
#[derive(Default)]
struct Timers {
    own_end: Option<Pin<Box<Sleep>>>,
    grace: Option<Pin<Box<Sleep>>>,
    hard_stop: Option<Pin<Box<Sleep>>>,
    patience: Option<Pin<Box<Sleep>>>,
}

impl Timers {
    /// The next time that is over; waits for ever where none is running.
    async fn next(&mut self) -> Event {
        tokio::select! {
            () = over(&mut self.own_end) => Event::Terminate,
            () = over(&mut self.grace) => Event::GraceOver,
            () = over(&mut self.hard_stop) => Event::HardStop,
            // Told to end and not ended: insist.
            () = over(&mut self.patience) => Event::Terminate,
        }
    }
}

fn armed(after: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(after))
}

/// Waits for the time, and forgets it.
async fn over(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(sleep) => sleep.as_mut().await,
        None => std::future::pending().await,
    }
    *timer = None;
}

/// Reads signals in a thread of its own, which lives as long as the process: the runtime has no
/// safe way to wait on a descriptor that is not a socket.
fn heard(signals: Signals, on_hangup: OnHangup) -> io::Result<UnboundedReceiver<Event>> {
    let (sender, receiver) = unbounded_channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            loop {
                let mut waited = [PollFd::new(&signals, PollFlags::IN)];
                // Interrupted or not: what is there is read.
                let _ = rustix::event::poll(&mut waited, None);
                while let Ok(Some(received)) = signals.next() {
                    let Some(event) = event_of(received.signal, on_hangup) else {
                        continue;
                    };
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            }
        })?;
    Ok(receiver)
}
