//! The control thread: signals and times in, commands to the workers out, until the end.
//!
//! Decides:  which signal is which event, and how long an event may take.
//! Source:   HAProxy's management guide, chapter 4.
//! Not here: what an event leads to (life.rs), what a worker does with a command (the proxy crate).

use std::io;
use std::os::unix::net::UnixListener;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use portcullis_proxy::log::Level;
use portcullis_sys::process::Signals;
use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{Interval, Sleep};

use super::asked::Known;
use super::reload::{Others, Outcome, Serving};
use super::status::{self, Report};
use super::upgrade::{self, Told};
use super::workers::{Command, News, Workers};
use super::{OnHangup, RunError};
use crate::admin::commands::Question;
use crate::admin::server::Ask;
use crate::health::{Checker, HealthPlan};
use crate::life::{Action, Event, Life};
use crate::logs::{Audience, LogHandle};
use crate::memory::Memory;
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
    pub(super) serving: Serving,
    pub(super) health: HealthPlan,
    /// What the process before this one knew.
    pub(super) remembered: Memory,
    /// The socket beside the pid file.
    pub(super) beside: Option<UnixListener>,
    /// What clients of the runtime sockets ask.
    pub(super) asks: UnboundedReceiver<Ask>,
    /// Ends by itself after this time.
    pub(super) run_for: Option<Duration>,
    /// What HUP does.
    pub(super) on_hangup: OnHangup,
}

/// What follows once everybody who waits was told that this process serves.
pub(super) enum Begins {
    /// It does; and what the process before it knew.
    Serving(Memory),
    /// The process before it goes on, and why: what was accepted here is served to its end.
    Leaving(String),
}

/// Serves until the end, after `announce` has told that it does.
pub(super) fn serve(
    mut control: Control,
    announce: impl FnOnce() -> Result<Begins, RunError>,
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::host("start the control thread"))?;
    let mut checker = Checker::new(
        runtime.handle().clone(),
        control.log.clone(),
        control.workers.remotes(),
    )
    .remembering(std::mem::take(&mut control.remembered));
    checker.apply(&control.health);
    let superfluous = match announce()? {
        Begins::Serving(last) => {
            control.remember(&last, &mut checker);
            None
        }
        Begins::Leaving(why) => Some(why),
    };
    runtime.block_on(control.serve(checker, superfluous))
}

impl Control {
    /// Goes on with what the process before this one knew at last.
    fn remember(&self, last: &Memory, checker: &mut Checker) {
        last.add_to(&self.serving.registry.living());
        checker.told_again(last);
        let (known, down) = last.servers();
        if known > 0 {
            let text = format!(
                "as the process before this one knew, {down} of {known} checked servers are down"
            );
            self.log.say(Audience::Global, Level::Notice, text);
        }
    }

    async fn serve(self, checker: Checker, superfluous: Option<String>) -> Result<(), RunError> {
        let signals = heard(self.signals, self.on_hangup);
        let mut signals = signals.map_err(RunError::host("wait for signals"))?;
        let mut asks = self.asks;
        let mut watchdog = self.notifier.watchdog().map(tokio::time::interval);
        let mut process = Process {
            life: self.life,
            workers: self.workers,
            checker,
            log: self.log,
            notifier: self.notifier,
            serving: self.serving,
            timers: Timers {
                own_end: self.run_for.map(armed),
                ..Timers::default()
            },
        };
        let mut result = Ok(());
        if let Some(why) = superfluous {
            process.on(Event::HandedOver);
            result = Err(RunError::Superfluous(why));
        } else {
            process.open_admin(self.beside)?;
        }
        process.say_started();
        loop {
            let event = tokio::select! {
                Some(event) = signals.recv() => event,
                news = process.workers.news() => match news {
                    News::Installed(pause) => {
                        process.installed(pause);
                        process.give_to_askers();
                        continue;
                    }
                    News::Drained => Event::Drained,
                    News::Failed(why) if result.is_ok() => {
                        result = Err(RunError::Worker(why));
                        Event::Terminate
                    }
                    News::Failed(_) => continue,
                },
                news = process.serving.upgrades.news() => match process.upgraded(news) {
                    Some(event) => event,
                    None => continue,
                },
                outcome = process.serving.reloads.prepared() => {
                    process.prepared(outcome);
                    process.give_to_askers();
                    continue;
                }
                Some(()) = ticked(&mut watchdog) => {
                    if process.workers.are_alive() {
                        process.notifier.alive();
                    }
                    continue;
                }
                Some(ask) = asks.recv() => {
                    process.asked(ask);
                    continue;
                }
                event = process.timers.next() => event,
            };
            if process.on(event) == Next::Leave {
                break;
            }
        }
        // Nobody asks any more.
        drop(asks);
        result.and(process.leave().await)
    }
}

/// The process while it serves.
struct Process {
    life: Life,
    workers: Workers,
    checker: Checker,
    log: LogHandle,
    notifier: Notifier,
    serving: Serving,
    timers: Timers,
}

/// What comes after an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Serve,
    Leave,
}

impl Process {
    /// Another process has the sockets: this one does not stop before it is known what comes of that.
    fn puts_off_stop(&mut self) -> bool {
        let puts_off = self.serving.upgrades.puts_off_stop();
        if puts_off {
            let text = "soft stop: when it is known whether the other process serves";
            self.log.say(Audience::Global, Level::Notice, text);
        }
        puts_off
    }

    /// Does what the event leads to.
    fn on(&mut self, event: Event) -> Next {
        if event == Event::SoftStop && self.puts_off_stop() {
            return Next::Serve;
        }
        for action in self.life.on(event) {
            match action {
                Action::PauseListeners => self.workers.tell(Command::Pause),
                Action::ResumeListeners => self.workers.tell(Command::Resume),
                Action::StopAccepting => {
                    self.notifier.stopping("no longer accepting");
                    self.serving.admin.close();
                    self.serving.retire_all(&self.workers, &self.log);
                    self.serving.tell_opener();
                    self.workers.tell(Command::WindDown);
                }
                Action::CloseListeners => {
                    self.notifier.stopping("no longer accepting");
                    // Workers are to be the last ones to hold them.
                    self.serving.held = Arc::default();
                    self.serving.tell_opener();
                    self.serving.admin.close();
                    self.workers.tell(Command::StopAccepting);
                }
                Action::LetGo => self.let_go(),
                Action::EndSessions => {
                    self.workers.tell(Command::EndSessions);
                    self.timers.patience = Some(armed(END_PATIENCE));
                }
                Action::ArmGrace(after) => self.timers.grace = Some(armed(after)),
                Action::ArmHardStop(after) => self.timers.hard_stop = Some(armed(after)),
                Action::Say(words) => self.log.say(Audience::Global, Level::Notice, words),
                Action::Reload => {
                    self.serving
                        .reload(&self.workers, &self.log, &self.notifier);
                }
                Action::ShowStatus => {
                    for line in self.serving.report().to_string().lines() {
                        self.log.say(Audience::Global, Level::Notice, line);
                    }
                    let lost = lost_lines(&self.log);
                    self.log.say(Audience::Global, Level::Notice, lost);
                    self.log.show_rings();
                }
                Action::Leave => return Next::Leave,
            }
        }
        Next::Serve
    }

    fn say_started(&self) {
        for (audience, name) in status::proxies(&self.serving.plan) {
            self.log.say(audience, Level::Info, status::started(name));
        }
    }

    /// Whoever else holds the listeners serves them.
    fn let_go(&mut self) {
        self.serving.held = Arc::default();
        self.serving.tell_opener();
        self.serving.admin.close();
        self.workers.tell(Command::StopAccepting);
    }

    /// Serves the runtime sockets.
    fn open_admin(&mut self, beside: Option<UnixListener>) -> Result<(), RunError> {
        let serving = &mut self.serving;
        if let Some(beside) = beside {
            let opened = serving.admin.open_beside(beside);
            opened.map_err(RunError::host("listen beside the pid file"))?;
        }
        let (plan, held) = (&serving.plan, &serving.held);
        serving.admin.open(plan, held, &self.log);
        Ok(())
    }

    /// Somebody asks through a runtime socket, and waits.
    fn asked(&mut self, ask: Ask) {
        match ask {
            Ask::Question(Question::Reload, asked) => {
                let (serving, others) = self.split();
                serving.asked(asked, others);
            }
            Ask::Question(Question::Upgrade, asked) => {
                let (serving, told) = self.told();
                serving.upgrade(asked, told);
            }
            Ask::HandOver(stream) => {
                let (serving, told) = self.told();
                serving.hand_over(stream, told);
            }
            Ask::Question(question, asked) => {
                let known = Known {
                    life: &self.life,
                    log: &self.log,
                };
                // Who went away does not want to know.
                let _ = asked.send(self.serving.answer(&question, &known));
            }
            // Closed, as HAProxy does with whom it gives nothing.
            Ask::Sockets(_) if !self.life.serves() => {}
            Ask::Sockets(stream) => {
                self.serving.give(stream, &mut self.workers, &self.log);
            }
        }
    }

    /// Those who asked for the listeners while they had to wait.
    fn give_to_askers(&mut self) {
        if self.life.serves() {
            self.serving.give_to_askers(&mut self.workers, &self.log);
        }
    }

    /// A hand-over has come to something.
    fn upgraded(&mut self, news: upgrade::News) -> Option<Event> {
        let (serving, told) = self.told();
        let event = serving.upgraded(news, told);
        if event.is_none() {
            self.give_to_askers();
        }
        event
    }

    fn told(&mut self) -> (&mut Serving, Told<'_>) {
        let told = Told {
            life: &self.life,
            workers: &self.workers,
            checker: &self.checker,
            log: &self.log,
            notifier: &self.notifier,
        };
        (&mut self.serving, told)
    }

    /// A reload is prepared, or refused.
    fn prepared(&mut self, outcome: Outcome) {
        let (serving, others) = self.split();
        serving.prepared(outcome, others);
    }

    /// All workers have what a reload brought.
    fn installed(&mut self, pause: Duration) {
        let (serving, others) = self.split();
        serving.installed(pause, others);
    }

    fn split(&mut self) -> (&mut Serving, Others<'_>) {
        let others = Others {
            workers: &mut self.workers,
            checker: &mut self.checker,
            log: &self.log,
            notifier: &self.notifier,
            life: &mut self.life,
        };
        (&mut self.serving, others)
    }

    /// The end, once everybody who asked something has the answer.
    async fn leave(self) -> Result<(), RunError> {
        let stopped = self.workers.stop().await;
        let report = self.serving.report();
        if let Some(line) = report.shortage() {
            self.log.say(Audience::Global, Level::Warning, line);
        }
        for (audience, name) in status::proxies(report.plan) {
            let line = status::stopped(name, report.registry);
            self.log.say(audience, Level::Warning, line);
        }
        let answering = self.serving.admin.answering.clone();
        // With it whoever waits for an outcome.
        drop(self.serving);
        answering.done().await;
        stopped
    }
}

impl Serving {
    fn report(&self) -> Report<'_> {
        Report {
            plan: &self.plan,
            registry: &self.registry,
        }
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

/// The next turn of an interval; waits for ever without one.
async fn ticked(interval: &mut Option<Interval>) -> Option<()> {
    interval.as_mut()?.tick().await;
    Some(())
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
