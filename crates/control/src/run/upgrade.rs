//! Another process takes this one's place: a new program, with the same or another configuration.
//!
//! Decides:  one at a time, and none beside a reload; that this process goes on as it was, with its sockets'
//!           own options, if the other one does not get as far as serving; what is told, to whom.
//! Source:   HAProxy forks a worker and signals the old one when the new one has bound; nginx's USR2.
//! Not here: the conversation (the listener crate's handover.rs), the other side (take_over.rs).

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_listener::handover::{Gift, Identity, give};
use portcullis_listener::pause::min_ttl;
use portcullis_proxy::log::Level;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::held::HeldSocket;
use super::open::Opening;
use super::reload::{self, Asked, Serving};
use super::workers::Workers;
use crate::health::Checker;
use crate::life::{Event, Life};
use crate::logs::{Audience, LogHandle};
use crate::memory::Witness;
use crate::notify::Notifier;
use crate::take_over;

/// How long the start of the other process may take.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// After it has failed, how long it may take to end.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(50);

/// How this program was started, and how it is started again.
#[derive(Debug, Clone)]
pub struct Relaunch {
    /// The program's file, by the path that it was started by: another one may be there now.
    pub program: PathBuf,
    /// Its arguments, without those of a hand-over.
    pub arguments: Vec<std::ffi::OsString>,
}

/// Variables that were meant for this process alone.
const OWN_VARIABLES: [&str; 4] = ["WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

impl Relaunch {
    /// Starts it again, to take over from the process at this socket.
    pub(super) fn start(&self, socket: &std::path::Path) -> std::io::Result<Child> {
        let mut command = std::process::Command::new(&self.program);
        // After the word `run`: what follows a double dash is files.
        let (word, rest) = self.arguments.split_at(self.arguments.len().min(1));
        command.args(word).arg("-x").arg(socket).args(rest);
        for name in OWN_VARIABLES {
            command.env_remove(name);
        }
        command.spawn()
    }
}

/// What the process that takes over is told besides.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct State {
    /// The frontends that take no new connections.
    #[serde(default)]
    pub(super) paused: std::collections::BTreeSet<String>,
    /// Who waits in a queue may begin with a minimum TTL ([`min_ttl::used`]).
    #[serde(default)]
    pub(super) min_ttl: bool,
}

/// What is under way.
pub(super) struct Upgrades {
    under_way: Option<UnderWay>,
    sender: UnboundedSender<News>,
    news: UnboundedReceiver<News>,
    relaunch: Option<Relaunch>,
    /// Where a process that takes over asks.
    socket: Option<PathBuf>,
    /// A soft stop was asked for while another process had the sockets, and did not serve yet.
    then_stop: bool,
}

struct UnderWay {
    asker: Option<Asked>,
    /// The conversation goes on.
    handing: bool,
    /// The new program was started by us, and has not ended.
    starting: bool,
    /// Why it fails.
    why: Option<String>,
    how: Arc<AtomicU8>,
}

/// How it stands, for the thread that looks after the new program.
const OPEN: u8 = 0;
const HANDED: u8 = 1;
const FAILED: u8 = 2;

/// What comes of it.
#[derive(Debug)]
pub(super) enum News {
    /// The conversation is over.
    Handed(Result<u32, String>),
    /// The new program has ended, or could not be started.
    Ended(String),
}

impl Upgrades {
    pub(super) fn new(relaunch: Option<Relaunch>, socket: Option<PathBuf>) -> Upgrades {
        let (sender, news) = unbounded_channel();
        Upgrades {
            under_way: None,
            sender,
            news,
            relaunch,
            socket,
            then_stop: false,
        }
    }

    /// A soft stop is asked for. `true`: it comes after the hand-over, if that comes to nothing. Until then this
    /// process goes on: the other one may die yet, and nobody else would serve the queues.
    pub(super) fn puts_off_stop(&mut self) -> bool {
        self.then_stop |= self.is_handing();
        self.then_stop
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Does another process have the sockets now?
    pub(super) fn is_handing(&self) -> bool {
        self.under_way.as_ref().is_some_and(|it| it.handing)
    }

    /// The next thing that happens; waits for ever where nothing is under way.
    pub(super) async fn news(&mut self) -> News {
        match self.news.recv().await {
            Some(news) => news,
            // We hold a sender.
            None => std::future::pending().await,
        }
    }
}

/// Who is told.
#[derive(Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) life: &'a Life,
    pub(super) workers: &'a Workers,
    pub(super) checker: &'a Checker,
    pub(super) log: &'a LogHandle,
    pub(super) notifier: &'a Notifier,
}

impl Serving {
    /// Why none can begin now; `busy` where it can soon.
    fn not_now(&self, life: &Life) -> Option<String> {
        if !life.serves() {
            return Some("the process is stopping".to_owned());
        }
        if !self.reloads.is_idle() {
            let busy = take_over::BUSY;
            return Some(format!("{busy}a reload is under way"));
        }
        None
    }

    /// Somebody asks for a new program in this one's place, and waits.
    pub(super) fn upgrade(&mut self, asked: Asked, told: Told<'_>) {
        let why = match (&self.upgrades.relaunch, &self.upgrades.socket) {
            _ if self.upgrades.is_under_way() => "an upgrade is under way".to_owned(),
            (Some(_), Some(_)) => match self.not_now(told.life) {
                Some(why) => why,
                None => return self.start_upgrade(asked, told),
            },
            _ => "this process cannot start itself again".to_owned(),
        };
        reload::send(asked, false, &format!("error: {why}\n"));
    }

    fn start_upgrade(&mut self, asked: Asked, told: Told<'_>) {
        let how = Arc::new(AtomicU8::new(OPEN));
        self.upgrades.under_way = Some(UnderWay {
            asker: Some(asked),
            handing: false,
            starting: true,
            why: None,
            how: Arc::clone(&how),
        });
        told.notifier.reloading("starting the new program");
        say(told.log, Level::Notice, "upgrade: starting the new program");
        let sender = self.upgrades.sender.clone();
        let opening = Arc::clone(&self.opening);
        let relaunch = self.upgrades.relaunch.clone();
        let socket = self.upgrades.socket.clone();
        let started = std::thread::Builder::new()
            .name("upgrade".to_owned())
            .spawn(move || {
                let (Some(relaunch), Some(socket)) = (relaunch, socket) else {
                    return;
                };
                let news = look_after(&relaunch, &socket, &opening, &how, START_PATIENCE);
                let _ = sender.send(News::Ended(news));
            });
        if let Err(why) = started {
            let news = News::Ended(format!("cannot start a thread: {why}"));
            let _ = self.upgrades.sender.send(news);
        }
    }

    /// A process wants the sockets.
    pub(super) fn hand_over(&mut self, stream: UnixStream, told: Told<'_>) {
        let handing = self.upgrades.is_handing();
        let why = match self.not_now(told.life) {
            _ if handing => Some("another process is taking over".to_owned()),
            // A hand-over takes the program off that keeps connections from them.
            None if self.retirer.steers() => {
                let busy = take_over::BUSY;
                Some(format!("{busy}sockets of an address are being retired"))
            }
            other => other,
        };
        // The runtime made it so; the rest is said and heard in a thread of its own.
        let _ = stream.set_nonblocking(false);
        if let Some(why) = why {
            return take_over::refuse(&stream, &why);
        }
        let link = match take_over::agree(&stream) {
            Ok(link) => link,
            Err(why) => {
                let text = format!("no hand-over: {why}");
                return say(told.log, Level::Warning, &text);
            }
        };
        let under_way = self.upgrades.under_way.get_or_insert_with(|| UnderWay {
            asker: None,
            handing: true,
            starting: false,
            why: None,
            how: Arc::new(AtomicU8::new(OPEN)),
        });
        under_way.handing = true;
        let sockets = self.offered();
        let state = State {
            paused: self.paused.names(),
            min_ttl: min_ttl::used(),
        };
        let state = serde_json::to_string(&state).unwrap_or_default();
        let text = format!("handing over {} listening sockets", sockets.len());
        say(told.log, Level::Notice, &text);
        let sender = self.upgrades.sender.clone();
        let looker = told.checker.looker();
        let witness = Witness {
            living: self.registry.living(),
            health: move || looker.look(),
        };
        let started = std::thread::Builder::new()
            .name("hand-over".to_owned())
            .spawn(move || {
                let gift = Gift {
                    sockets: &sockets,
                    state: &state,
                    notes: &|moment| witness.notes(moment),
                };
                let handed = give(link, &gift, START_PATIENCE);
                let _ = sender.send(News::Handed(handed));
            });
        if let Err(why) = started {
            let why = Err(format!("cannot start a thread: {why}"));
            let _ = self.upgrades.sender.send(News::Handed(why));
        }
    }

    /// Every listening socket, those of a group in its order.
    fn offered(&self) -> Vec<(Identity, Arc<std::os::fd::OwnedFd>)> {
        let groups = self.retirer.groups().hold();
        let mut all = Vec::new();
        for held in self.held.iter() {
            let mut sockets: Vec<(Option<u32>, &HeldSocket)> = Vec::new();
            for socket in &held.sockets {
                let group = super::groups::Group::of(&held.spec, socket);
                let order = groups.order(&group);
                sockets.push((order.and_then(|it| it.index_of(socket.member)), socket));
            }
            sockets.sort_by_key(|(place, _)| *place);
            for (place, socket) in sockets {
                let mut facts = socket.facts.clone();
                facts.in_order = place.is_some();
                facts.place = place;
                let identity = Identity {
                    spec: held.spec.clone(),
                    facts,
                };
                all.push((identity, Arc::clone(&socket.fd)));
            }
        }
        all
    }

    /// Something has come of it; the event that it leads to.
    pub(super) fn upgraded(&mut self, news: News, told: Told<'_>) -> Option<Event> {
        let under_way = self.upgrades.under_way.as_mut()?;
        match news {
            News::Handed(Ok(pid)) => {
                under_way.how.store(HANDED, Ordering::Relaxed);
                self.upgrades.then_stop = false;
                let text = format!("process {pid} has taken over");
                if let Some(asker) = under_way.asker.take() {
                    reload::send(asker, true, &format!("{text}\n"));
                }
                self.upgrades.under_way = None;
                told.notifier.main_pid(pid);
                say(told.log, Level::Notice, &text);
                self.reloads.refuse_all(&format!("error: {text}: ask it\n"));
                return Some(Event::HandedOver);
            }
            News::Handed(Err(why)) => {
                under_way.handing = false;
                under_way.how.store(FAILED, Ordering::Relaxed);
                under_way.why = Some(why);
                self.enforce_options();
            }
            News::Ended(how) => {
                under_way.starting = false;
                under_way.why.get_or_insert(how);
            }
        }
        let under_way = self
            .upgrades
            .under_way
            .take_if(|it| !it.handing && !it.starting)?;
        let why = under_way.why.unwrap_or_default();
        say(
            told.log,
            Level::Error,
            "nobody has taken over: this process goes on",
        );
        for line in why.lines() {
            say(told.log, Level::Error, line);
        }
        if let Some(asker) = under_way.asker {
            reload::send(asker, false, &format!("{}\n", why.trim_end()));
        }
        if std::mem::take(&mut self.upgrades.then_stop) {
            self.reloads
                .refuse_all(&format!("error: {}\n", reload::STOPPING));
            return Some(Event::SoftStop);
        }
        told.notifier
            .ready("nobody has taken over: this process goes on");
        self.once_more(told.workers, told.log, told.notifier);
        None
    }

    /// The other process may have set options of its own before it failed, and taken filters off.
    fn enforce_options(&mut self) {
        for held in self.held.iter() {
            for socket in &held.sockets {
                let shard = socket.facts.shard;
                // They had them before.
                let _ = portcullis_listener::enforce(&*socket.fd, shard, &held.spec, 0);
                let _ = portcullis_listener::pause::resume(&*socket.fd);
            }
        }
        let _ = self.paused.carry_over(&self.plan, &self.held);
    }
}

fn say(log: &LogHandle, level: Level, text: &str) {
    log.say(Audience::Global, level, text);
}

/// Starts the new program, and waits for its end, or until nobody waits any more; says how it ended.
fn look_after(
    relaunch: &Relaunch,
    socket: &std::path::Path,
    opening: &Mutex<Opening>,
    how: &AtomicU8,
    patience: Duration,
) -> String {
    let mut program = match Program::start(relaunch, socket, opening) {
        Ok(program) => program,
        Err(why) => return format!("the new program cannot be started: {why}"),
    };
    let mut until = Instant::now() + patience;
    let mut failed = false;
    loop {
        match how.load(Ordering::Relaxed) {
            HANDED => return String::new(),
            FAILED if !failed => {
                failed = true;
                until = Instant::now() + END_PATIENCE;
            }
            _ => {}
        }
        if let Some(ended) = program.ended() {
            return format!("the new program ended before it served: {ended}");
        }
        if Instant::now() >= until {
            program.kill();
            return "the new program did not get ready in time, and was killed".to_owned();
        }
        std::thread::sleep(LOOK);
    }
}

/// The new program: a child of this process, or of the opener.
enum Program<'a> {
    Here(Child),
    There(&'a Mutex<Opening>),
}

impl<'a> Program<'a> {
    fn start(
        relaunch: &Relaunch,
        socket: &std::path::Path,
        opening: &'a Mutex<Opening>,
    ) -> Result<Program<'a>, String> {
        let mut held = opening.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *held {
            Opening::Here(_) => {
                let child = relaunch.start(socket).map_err(|why| why.to_string())?;
                Ok(Program::Here(child))
            }
            Opening::There(parent) => {
                parent.ask(START).map_err(|why| why.to_string())?;
                Ok(Program::There(opening))
            }
        }
    }

    fn ask(&mut self, question: &str) -> Option<String> {
        let Program::There(opening) = self else {
            return None;
        };
        let mut opening = opening.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *opening {
            Opening::There(parent) => parent.ask(question).ok(),
            Opening::Here(_) => None,
        }
    }

    fn ended(&mut self) -> Option<String> {
        match self {
            Program::Here(child) => ended(child),
            Program::There(_) => self.ask(LOOKED_AT).filter(|said| !said.is_empty()),
        }
    }

    fn kill(&mut self) {
        match self {
            Program::Here(child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Program::There(_) => {
                let _ = self.ask(KILL);
            }
        }
    }
}

/// What the opener is asked: to start the new program, whether it has ended, to kill it.
pub(super) const START: &str = "upgrade: start";
pub(super) const LOOKED_AT: &str = "upgrade: look";
pub(super) const KILL: &str = "upgrade: kill";

/// How it ended, if it has.
pub(super) fn ended(child: &mut Child) -> Option<String> {
    match child.try_wait() {
        Ok(Some(status)) => Some(status.to_string()),
        Ok(None) => None,
        Err(why) => Some(why.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_listener::opener::InProcess;

    /// A shell that runs the socket's path: `sh -c -x SOCKET`.
    fn looked_after(script: &str, how: u8, patience: Duration) -> String {
        let relaunch = Relaunch {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into()],
        };
        let opening = Mutex::new(Opening::Here(InProcess::new()));
        let how = AtomicU8::new(how);
        look_after(&relaunch, script.as_ref(), &opening, &how, patience)
    }

    #[test]
    fn a_program_that_hangs_at_its_start_is_killed_and_one_that_ends_is_not_waited_for() {
        let (long, short) = (Duration::from_secs(100), Duration::from_millis(200));
        let began = Instant::now();
        for (label, script, how, patience, expected) in [
            (
                "it hangs",
                "exec sleep 1000",
                OPEN,
                short,
                "not get ready in time, and was killed",
            ),
            (
                "it has failed, and hangs",
                "exec sleep 1000",
                FAILED,
                long,
                "and was killed",
            ),
            (
                "it ends",
                "exit 7",
                OPEN,
                long,
                "ended before it served: exit status: 7",
            ),
            ("it crashes", "kill -SEGV $$", OPEN, long, "signal: 11"),
        ] {
            let said = looked_after(script, how, patience);
            assert!(said.contains(expected), "{label}: {said}");
        }
        assert_eq!(
            looked_after("exit 0", HANDED, long),
            "",
            "it has taken over"
        );
        assert!(began.elapsed() < long);
    }
}
