//! One process with a network of its own: runs scripts on both sides, and reports.
//!
//! Decides:  when ports are taken afresh and when the whole network is, so that no script meets what
//!           another left.
//! Kernel:   /proc/net/sockstat: sockets in the tables, and in TIME_WAIT, of one network namespace
//! Not here: which scripts there are (exhaustive.rs, random.rs); which differences are believed (belief.rs).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use portcullis_kernel_model::Kernel;
use portcullis_sys::{bare, process};

use crate::belief::{self, Attempt, Belief};
use crate::compare::{Comparison, Difference, Source};
use crate::draws::{self, Answers};
use crate::host;
use crate::live::Live;
use crate::step::{NAMES, Ports, SLOTS, Script, Seen, Step};
use crate::tape::Writer;

const ORDINARY_FIRST: u16 = 2000;
const RANGE_FIRST: u16 = 20000;
const PRIVILEGED_FIRST: u16 = 64;
/// Ports of each kind are in windows; a network has this many of each before it is replaced.
pub const WINDOWS: u16 = 470;
const ORDINARY_NAMES: u16 = 4;
const PRIVILEGED_NAMES: u16 = 2;
/// Without connections nothing can stay; it is looked at every so many scripts all the same.
const LOOK_EVERY: u64 = 256;
/// What a segment on its way may need to arrive: so many looks at once, and where ksoftirqd does not get
/// a processor, so many more with [`SETTLE_PAUSE`] between them.
const SETTLE_ATTEMPTS: u32 = 50;
const SETTLE_PAUSED: u32 = 1000;
const SETTLE_PAUSE: Duration = Duration::from_millis(2);
/// TIME_WAIT lasts a minute, an orphan's retransmissions some seconds more than this.
const LEFT_OVER_MAX: Duration = Duration::from_secs(20);

/// A process's private network, and the comparison in it.
pub struct Worker {
    /// The comparison: its counts and coverage.
    pub comparison: Comparison,
    live: Live,
    user: u32,
    cpu: i32,
    profile: u8,
    window: u16,
    sockstat: [File; 2],
    since_look: u64,
    left: LeftOver,
    /// Where the kernel's answers are kept too.
    pub tape: Option<Writer>,
    /// What did not happen again, and how often ports or the network were replaced.
    pub counts: Counts,
}

/// What scripts left in this network, on ports that are not used again: sockets in the tables, and in
/// TIME_WAIT; since when. Before the first of it can go by itself, the network is replaced, so that
/// the numbers never fall while they are relied on.
#[derive(Debug, Clone, Copy, Default)]
struct LeftOver {
    busy: u64,
    waiting: u64,
    since: Option<Instant>,
}

/// Events of a run that are no steps.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Scripts run.
    pub scripts: u64,
    /// Differences that did not happen again.
    pub unrepeated: u64,
    /// Differences of scripts that took longer than the model knows of, which a quick run did not show.
    pub delayed: u64,
    /// Scripts that differed and never ran quickly enough to be believed.
    pub disturbed: u64,
    /// Scripts that left something behind, after which other ports were used.
    pub left_over: u64,
    /// Networks used.
    pub networks: u64,
}

impl Counts {
    /// Counts what came of a difference.
    pub(crate) fn take<D>(&mut self, belief: &Belief<D>) {
        match belief {
            Belief::Differs(_) => {}
            Belief::Unrepeated => self.unrepeated += 1,
            Belief::Delayed => self.delayed += 1,
            Belief::Disturbed => self.disturbed += 1,
        }
    }
}

fn ports(window: u16) -> Ports {
    Ports {
        ordinary: ORDINARY_FIRST + window * ORDINARY_NAMES,
        range: RANGE_FIRST + window * NAMES,
        privileged: PRIVILEGED_FIRST + window * PRIVILEGED_NAMES,
        slots: [0; SLOTS],
    }
}

/// This process, of one thread, leaves the host's network: root keeps its users, others get a user
/// namespace in which theirs is the only one.
fn leave_network() -> io::Result<bool> {
    let root = rustix::process::geteuid().is_root();
    if !root {
        process::enter_user_namespace()?;
    }
    bare::enter_network_namespace()?;
    Ok(root)
}

/// The user that this process is.
#[must_use]
pub fn own_user() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The running kernel's release.
pub fn running_kernel() -> io::Result<Kernel> {
    let name = rustix::system::uname();
    let text = name.release().to_string_lossy();
    // Ubuntu's; others have no such file.
    let signature = std::fs::read_to_string("/proc/version_signature").unwrap_or_default();
    let more = format!("{} {signature}", name.version().to_string_lossy());
    Kernel::of_host(&text, &more)
        .ok_or_else(|| io::Error::other(format!("unknown kernel release {text}")))
}

impl Worker {
    /// Takes this process, of one thread, into a network of its own.
    pub fn enter(cpu: usize) -> io::Result<Worker> {
        let kernel = running_kernel()?;
        let user = own_user();
        let several_users = leave_network()?;
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(cpu);
        rustix::thread::sched_setaffinity(None, &cpus)?;
        host::set_up()?;
        let first = ports(0);
        host::apply(&host::sysctls(0, &first))?;
        let mut comparison = Comparison::new(kernel, user, first);
        comparison.set_host(0, first, cpu as i32);
        Ok(Worker {
            comparison,
            live: Live::new(several_users)?,
            user,
            cpu: cpu as i32,
            profile: 0,
            window: 0,
            sockstat: open_sockstat()?,
            since_look: 0,
            left: LeftOver::default(),
            tape: None,
            counts: Counts {
                networks: 1,
                ..Counts::default()
            },
        })
    }

    /// Whether scripts may have several users.
    #[must_use]
    pub fn several_users(&self) -> bool {
        self.live.may_change_user
    }

    /// The user that the worker runs as.
    #[must_use]
    pub fn user(&self) -> u32 {
        self.user
    }

    /// Runs a script. A difference is only reported if it is believed: it happens again on other ports, and
    /// no time passed that the model does not know of.
    pub fn run(&mut self, script: &Script) -> io::Result<Option<Difference>> {
        self.set_profile(script.profile)?;
        self.counts.scripts += 1;
        if self
            .left
            .since
            .is_some_and(|since| since.elapsed() > LEFT_OVER_MAX)
        {
            self.next_window()?;
        }
        if let Some(tape) = &mut self.tape {
            tape.window(self.window)?;
        }
        let first = self.run_once(script)?;
        if let Some(tape) = &mut self.tape {
            tape.end_script(first.difference.is_none())?;
        }
        if first.difference.is_none() {
            return Ok(None);
        }
        let again = || {
            self.next_window()?;
            self.attempt(script)
        };
        let belief = belief::settle(&first, again, std::thread::sleep)?;
        self.counts.take(&belief);
        Ok(belief.difference())
    }

    /// Runs a script so many times, now and then on other ports: every answer to its last call; `None` if
    /// the worlds differ.
    pub fn run_often(&mut self, script: &Script, times: u64) -> io::Result<Option<Answers>> {
        /// A group's hash is over the ports too.
        const SAME_PORTS: u64 = 4;
        let mut answers = Answers::new();
        for round in 0..times {
            if round % SAME_PORTS == 0 {
                self.next_window()?;
            }
            if self.run(script)?.is_some() {
                if let Some(tape) = &mut self.tape {
                    for _ in round + 1..times {
                        tape.end_script(false)?;
                    }
                }
                return Ok(None);
            }
            let last = self.comparison.kernel_said().last().copied().flatten();
            answers.extend(last.map(|seen| draws::key(&seen, &self.comparison.ports)));
        }
        Ok(Some(answers))
    }

    /// The model's answers to a script's last call.
    #[must_use]
    pub fn permitted(&self, script: &Script) -> Answers {
        let mut alone = self.comparison.alone(script.profile, self.cpu);
        draws::permitted(&mut alone, script, &self.comparison.ports)
    }

    /// Runs a script without keeping it, until it was quick; a difference if that run showed one.
    pub fn try_script(&mut self, script: &Script) -> io::Result<Option<Difference>> {
        let decided = belief::decide(|| self.attempt(script), std::thread::sleep)?;
        Ok(decided.and_then(|attempt| attempt.difference))
    }

    fn attempt(&mut self, script: &Script) -> io::Result<Attempt<Difference>> {
        let tape = self.tape.take();
        self.set_profile(script.profile)?;
        let outcome = self.run_once(script);
        self.tape = tape;
        outcome
    }

    fn run_once(&mut self, script: &Script) -> io::Result<Attempt<Difference>> {
        let Worker {
            comparison,
            live,
            tape,
            ..
        } = self;
        let begun = Instant::now();
        let mut source = Recorded {
            live,
            tape: tape.as_mut(),
            answered: begun,
        };
        let difference = comparison.run(script, &mut source)?;
        // What the model thinks after the last answer disturbs nobody.
        let took = source.answered - begun;
        let attempt = Attempt {
            difference,
            took: took.saturating_sub(self.live.waited()),
        };
        let connected = self.live.had_connections();
        self.live.reset()?;
        self.since_look += 1;
        if connected {
            if !self.is_clean(0)? {
                self.counts.left_over += 1;
                self.next_window()?;
            }
        } else if self.since_look >= LOOK_EVERY {
            self.since_look = 0;
            if !self.is_clean(SETTLE_PAUSED)? {
                return Err(io::Error::other(
                    "sockets stayed after scripts without connections",
                ));
            }
        }
        Ok(attempt)
    }

    /// Nothing new in the tables of connections and listeners, and nothing new in TIME_WAIT; `paused`: how
    /// many more looks it takes with pauses.
    fn is_clean(&mut self, paused: u32) -> io::Result<bool> {
        let attempts = SETTLE_ATTEMPTS + paused;
        for attempt in 0..attempts {
            let (mut busy, mut waiting) = (0, 0);
            for file in &self.sockstat {
                let mut text = [0; 512];
                let len = file.read_at(&mut text, 0)?;
                let (inuse, tw) = tcp_counts(&text[..len]);
                busy += inuse;
                waiting += tw;
            }
            if busy <= self.left.busy && waiting <= self.left.waiting {
                return Ok(true);
            }
            // TIME_WAIT does not go by itself; a segment on its way arrives.
            if waiting > self.left.waiting || attempt + 1 == attempts {
                let since = self.left.since.or_else(|| Some(Instant::now()));
                self.left = LeftOver {
                    busy,
                    waiting,
                    since,
                };
                break;
            }
            if attempt >= SETTLE_ATTEMPTS {
                std::thread::sleep(SETTLE_PAUSE);
                continue;
            }
            std::thread::yield_now();
        }
        Ok(false)
    }

    fn set_profile(&mut self, profile: u8) -> io::Result<()> {
        if profile == self.profile {
            return Ok(());
        }
        self.profile = profile;
        self.set_host()
    }

    /// Other ports for the scripts to come; another network once all were used.
    fn next_window(&mut self) -> io::Result<()> {
        self.window += 1;
        let old = self
            .left
            .since
            .is_some_and(|since| since.elapsed() > LEFT_OVER_MAX);
        if self.window == WINDOWS || old {
            self.fresh_network()?;
        }
        self.set_host()
    }

    /// Another network, and its first window.
    pub(crate) fn fresh_network(&mut self) -> io::Result<()> {
        self.window = 0;
        self.left = LeftOver::default();
        self.live.become_caller(0)?;
        bare::enter_network_namespace()?;
        host::set_up()?;
        self.sockstat = open_sockstat()?;
        self.counts.networks += 1;
        Ok(())
    }

    /// The ports of this window and these sysctls from now on.
    pub(crate) fn use_window(&mut self, profile: u8, window: u16) -> io::Result<()> {
        (self.profile, self.window) = (profile, window);
        self.set_host()
    }

    fn set_host(&mut self) -> io::Result<()> {
        self.live.become_caller(0)?;
        let ports = ports(self.window);
        match host::apply(&host::sysctls(self.profile, &ports)) {
            // An older kernel: the scripts of this profile run with the usual sysctls.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.profile = 0;
                host::apply(&host::sysctls(0, &ports))?;
            }
            outcome => outcome?,
        }
        self.comparison.set_host(self.profile, ports, self.cpu);
        Ok(())
    }
}

/// The numbers of a window's ports, for a replay.
#[must_use]
pub fn ports_of_window(window: u16) -> Ports {
    ports(window)
}

fn open_sockstat() -> io::Result<[File; 2]> {
    Ok([
        File::open("/proc/thread-self/net/sockstat")?,
        File::open("/proc/thread-self/net/sockstat6")?,
    ])
}

/// `inuse` and `tw` of the line of TCP.
fn tcp_counts(text: &[u8]) -> (u64, u64) {
    let text = std::str::from_utf8(text).unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with("TCP: ") || line.starts_with("TCP6: "));
    let mut words = line.unwrap_or_default().split_ascii_whitespace();
    let (mut inuse, mut waiting) = (0, 0);
    while let Some(word) = words.next() {
        match word {
            "inuse" => inuse = words.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            "tw" => waiting = words.next().and_then(|n| n.parse().ok()).unwrap_or(0),
            _ => {}
        }
    }
    (inuse, waiting)
}

/// The live kernel, with its answers kept on a tape.
struct Recorded<'a> {
    live: &'a mut Live,
    tape: Option<&'a mut Writer>,
    /// When the last answer came.
    answered: Instant,
}

impl Source for Recorded<'_> {
    fn answer(&mut self, step: &Step) -> io::Result<Option<Seen>> {
        let seen = self.live.perform(step)?;
        self.answered = Instant::now();
        if let Some(tape) = &mut self.tape {
            tape.seen(seen.as_ref());
        }
        Ok(seen)
    }

    fn later(&mut self, step: &Step) -> Option<u8> {
        // A tape holds the first answer.
        if self.tape.is_some() {
            return None;
        }
        let state = self.live.state_later(step);
        self.answered = Instant::now();
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_tcp_is_read_among_the_others() {
        let text =
            b"sockets: used 98\nTCP: inuse 4 orphan 0 tw 2 alloc 9 mem 1\nUDP: inuse 3 mem 5\n";
        assert_eq!(tcp_counts(text), (4, 2));
        assert_eq!(tcp_counts(b"TCP6: inuse 7\nUDP6: inuse 1\n"), (7, 0));
        assert_eq!(tcp_counts(b""), (0, 0));
    }

    #[test]
    fn windows_of_ports_do_not_overlap() {
        let last = ports(WINDOWS - 1);
        assert!(last.ordinary + ORDINARY_NAMES <= RANGE_FIRST);
        assert!(
            last.privileged + PRIVILEGED_NAMES <= 1024,
            "{}",
            last.privileged
        );
        assert!(ports(1).range >= ports(0).range + NAMES);
    }
}
