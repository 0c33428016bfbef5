//! The programs under test: how each is started, told of another configuration, replaced and killed.
//!
//! Decides:  what counts as done: the program says so itself, by its exit code, its pid file or its processes.
//! Not here: which of it is done when (operations.rs, peers.rs).

use std::collections::HashSet;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use portcullis_testkit::{Process, Signal};
use rustix::process::{Pid, kill_process};

use crate::ledger::{Ledger, Ports};
use crate::load::{LONG, NARROW, WIDE, local};
use crate::shape::Shape;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a process may need to do what it was told.
const UNDERSTOOD: Duration = Duration::from_millis(50);
/// Upgrades that are begun to kill one new process.
const KILLS_TRIED: u32 = 6;
/// How often is looked.
const LOOK: Duration = Duration::from_millis(2);

/// Why something was not done.
pub type Failure = String;

/// Portcullis, with its files and those that come after it.
pub struct Portcullis {
    binary: PathBuf,
    place: tempfile::TempDir,
    /// The one that was started here; others follow it.
    first: Process,
}

impl Portcullis {
    /// Starts it; with a supervisor where asked for.
    pub fn start(binary: &Path, shape: &Shape, supervise: bool) -> Result<Portcullis, Failure> {
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = place.path().join("soak.cfg");
        write(&file, &shape.haproxy("", ""))?;
        let mut command = apart(binary);
        command.arg("run").arg("-f").arg(&file);
        command.arg("-p").arg(place.path().join("pid"));
        if supervise {
            command.arg("--supervise");
        }
        let mut first = Process::spawn(&mut command);
        first.wait_port(local(LONG), PATIENCE);
        let it = Portcullis {
            binary: binary.to_owned(),
            place,
            first,
        };
        until("its socket", || it.place.path().join("pid.sock").exists())?;
        Ok(it)
    }

    /// The process that the pid file names.
    pub fn pid(&self) -> Result<u32, Failure> {
        let text = std::fs::read_to_string(self.place.path().join("pid"));
        let text = text.map_err(|error| format!("the pid file: {error}"))?;
        text.trim()
            .parse()
            .map_err(|_| format!("the pid file says {text:?}"))
    }

    /// Writes the file for the next reload.
    pub fn write(&self, text: &str) -> Result<(), Failure> {
        write(&self.place.path().join("soak.cfg"), text)
    }

    fn command(&self, name: &str) -> Command {
        let mut command = apart(&self.binary);
        command.arg(name);
        command.arg("-p").arg(self.place.path().join("pid"));
        command
    }

    /// `portcullis reload`, which must succeed.
    pub fn reload(&self) -> Result<(), Failure> {
        succeeded("reload", self.command("reload").output())
    }

    /// The same, which must be refused and change nothing: not one socket that listens.
    pub fn refused_reload(&self) -> Result<(), Failure> {
        let sockets = || {
            let mut all = Vec::new();
            for port in [WIDE, NARROW, LONG] {
                all.extend(listening(port)?);
            }
            all.sort_unstable();
            Ok::<_, Failure>(all)
        };
        // Sockets of the reload before may still retire.
        let mut before = sockets()?;
        until("sockets to retire", || {
            std::thread::sleep(UNDERSTOOD);
            let now = sockets().unwrap_or_default();
            std::mem::replace(&mut before, now) == before
        })?;
        let output = self.command("reload").output();
        let output = output.map_err(|error| format!("portcullis reload: {error}"))?;
        let mut after = Vec::new();
        let same = until("the sockets that were there", || {
            after = sockets().unwrap_or_default();
            after == before
        });
        match output.status.code() {
            Some(1) => same.map_err(|why| format!("{why}: {before:?}, now {after:?}")),
            other => Err(format!("a reload that must fail ended with {other:?}")),
        }
    }

    /// `portcullis upgrade`, which must succeed.
    pub fn upgrade(&self) -> Result<(), Failure> {
        let before = self.pid()?;
        succeeded("upgrade", self.command("upgrade").output())?;
        match self.pid()? == before {
            true => Err("the pid file names the same process after an upgrade".to_owned()),
            false => Ok(()),
        }
    }

    /// Begins an upgrade, and kills the new process `delay` after it is there, with the sessions that it may have. One
    /// that is alone by then is let live, and another upgrade begun, whose new one is killed sooner.
    pub fn upgrade_whose_new_one_is_killed(
        &self,
        mut delay: Duration,
        ledger: &Ledger,
    ) -> Result<(), Failure> {
        for _ in 0..KILLS_TRIED {
            let before = self.pid()?;
            let mut asker = self.asker()?;
            let new = self.new_one(before, &mut asker)?;
            std::thread::sleep(delay);
            let still = Still::stop(new)?;
            // What it has said already is done by the old one meanwhile.
            std::thread::sleep(UNDERSTOOD);
            let is_alone = self.pid()? != before || !has_listener(before)?;
            if is_alone {
                still.go_on();
            } else {
                still.kill(ledger);
            }
            asker.wait_exit(PATIENCE);
            until("somebody to serve", || self.pid().is_ok_and(is_there))?;
            if !is_alone {
                return Ok(());
            }
            delay /= 2;
        }
        Err(format!("{KILLS_TRIED} new processes were too fast"))
    }

    /// Begins an upgrade, and kills the old process once the new one has the sockets.
    pub fn upgrade_whose_old_one_is_killed(&self, ledger: &Ledger) -> Result<(), Failure> {
        let before = self.pid()?;
        let wanted = listening(LONG)?;
        let mut asker = self.asker()?;
        let new = self.new_one(before, &mut asker)?;
        until("the new one to have the sockets", || {
            // In this order: until execve(2) it has its parent's, which are closed then.
            let runs = is_another_program(new, before);
            let has = sockets_of(new);
            runs && wanted.iter().all(|inode| has.contains(inode)) || !is_there(new)
        })?;
        Still::stop(before)?.kill(ledger);
        asker.wait_exit(PATIENCE);
        until("the new one to serve", || {
            self.pid().is_ok_and(|pid| pid == new)
        })?;
        // The path may still be the old one's, whom nobody answers for.
        let socket = self.place.path().join("pid.sock");
        until("its socket to answer", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })
    }

    fn asker(&self) -> Result<Process, Failure> {
        Ok(Process::spawn(&mut self.command("upgrade")))
    }

    fn new_one(&self, old: u32, asker: &mut Process) -> Result<u32, Failure> {
        let mut found = None;
        until("a new process", || {
            found = children(old).into_iter().find(|&pid| is_there(pid));
            found.is_some() || !asker.running()
        })?;
        found.ok_or_else(|| format!("no new process: {}", asker.transcript()))
    }

    /// The process that serves under the supervisor.
    pub fn worker(&self) -> Result<u32, Failure> {
        let supervisor = self.pid()?;
        let mut found = None;
        until("a worker", || {
            found = children(supervisor).into_iter().find(|&pid| is_there(pid));
            found.is_some()
        })?;
        found.ok_or_else(|| "no worker".to_owned())
    }

    /// Kills the worker; waits until there is another.
    pub fn kill_worker(&self, ledger: &Ledger) -> Result<(), Failure> {
        let worker = self.worker()?;
        Still::stop(worker)?.kill(ledger);
        until("another worker", || {
            self.worker().is_ok_and(|pid| pid != worker)
        })
    }

    /// What was said on standard error, by all that have it.
    pub fn said(&self) -> String {
        self.first.transcript()
    }

    /// Ends the one that serves.
    pub fn stop(self) -> Result<(), Failure> {
        let pid = self.pid()?;
        kill(pid, Signal::TERM);
        until("its end", || !is_there(pid))
    }
}

impl Drop for Portcullis {
    fn drop(&mut self) {
        for pid in self.pid().into_iter().chain([self.first.pid()]) {
            for one in children(pid).into_iter().chain([pid]) {
                kill(one, Signal::KILL);
            }
        }
    }
}

/// HAProxy or Portcullis on one file, each of which takes over from the other.
pub struct Moving {
    place: tempfile::TempDir,
    portcullis: PathBuf,
    haproxy: PathBuf,
    now: Process,
    is_ours: bool,
    left: Vec<Process>,
}

impl Moving {
    /// HAProxy serves first.
    pub fn start(portcullis: &Path, haproxy: &Path, shape: &Shape) -> Result<Moving, Failure> {
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        let socket = place.path().join("s");
        let more = format!(
            "    stats socket {} level admin expose-fd listeners\n",
            socket.display()
        );
        let file = place.path().join("both.cfg");
        write(&file, &shape.haproxy(&more, ""))?;
        let mut now = Process::spawn(apart(haproxy).arg("-db").arg("-f").arg(&file));
        now.wait_port(local(LONG), PATIENCE);
        Ok(Moving {
            place,
            portcullis: portcullis.to_owned(),
            haproxy: haproxy.to_owned(),
            now,
            is_ours: false,
            left: Vec::new(),
        })
    }

    /// Whether Portcullis serves.
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// The other one takes over.
    pub fn move_on(&mut self) -> Result<(), Failure> {
        let mut command = match self.is_ours {
            true => {
                let mut command = apart(&self.haproxy);
                command.arg("-db");
                command
            }
            false => {
                let mut command = apart(&self.portcullis);
                command.arg("run");
                command
            }
        };
        command.arg("-f").arg(self.place.path().join("both.cfg"));
        command.arg("-x").arg(self.place.path().join("s"));
        command.arg("-sf").arg(self.now.pid().to_string());
        let next = Process::spawn(&mut command);
        let pid = next.pid();
        let before = std::mem::replace(&mut self.now, next);
        let old = before.pid();
        self.left.push(before);
        self.is_ours = !self.is_ours;
        until("the new one to listen, and the old one to let go", || {
            let has = |pid| has_listener(pid).unwrap_or(false);
            has(pid) && !has(old) || !is_there(pid)
        })?;
        match self.now.running() {
            true => Ok(()),
            false => Err(format!("it ended: {}", self.now.transcript())),
        }
    }

    /// What both said.
    pub fn said(&self) -> String {
        let left = self.left.iter().map(Process::transcript);
        left.chain([self.now.transcript()]).collect()
    }

    /// Ends them; those that were told to finish have.
    pub fn stop(mut self) -> Result<(), Failure> {
        self.now.signal(Signal::TERM);
        self.now.wait_exit(PATIENCE);
        for mut one in self.left.drain(..) {
            one.wait_exit(PATIENCE);
        }
        Ok(())
    }
}

/// A process that stands still, so that what it has is known.
struct Still(u32);

impl Still {
    fn stop(pid: u32) -> Result<Still, Failure> {
        kill(pid, Signal::STOP);
        until("a process to stand still", || {
            threads(pid).all(|stat| is_in(&stat, &['T', 't', 'Z', 'X']))
        })?;
        Ok(Still(pid))
    }

    fn go_on(self) {
        kill(self.0, Signal::CONT);
    }

    /// With the sessions that it has, and no other: what waits in a queue is not a session yet.
    fn kill(self, ledger: &Ledger) {
        ledger.killing(&sessions_of(self.0));
        kill(self.0, Signal::KILL);
    }
}

/// Waits for something.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), Failure> {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        if Instant::now() > end {
            return Err(format!("waited {} s for {what}", PATIENCE.as_secs()));
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// Sends a signal, to a process of ours.
pub fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, signal);
    }
}

/// Whether it runs: not one that ended and is not waited for yet.
pub fn is_there(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !is_in(&stat, &['Z', 'X'])
}

/// Whether /proc/PID/stat tells one of these states.
fn is_in(stat: &str, states: &[char]) -> bool {
    let state = stat.rsplit(") ").next().unwrap_or_default();
    state.starts_with(states)
}

/// What /proc/PID/task/TID/stat says of each thread.
fn threads(pid: u32) -> impl Iterator<Item = String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok())
}

/// Its child processes.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task"));
    let tasks = tasks.into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let mut found: Vec<u32> = lists
        .flat_map(|list| {
            let pids = list.split_whitespace().map(str::parse::<u32>);
            pids.flatten().collect::<Vec<_>>()
        })
        .collect();
    found.sort_unstable();
    found
}

/// Whether a child is past execve(2): before it, it has its parent's descriptors, and its parent's stack.
fn is_another_program(child: u32, parent: u32) -> bool {
    let stack = |pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields = stat.rsplit(") ").next()?.split(' ');
        // startstack, the 28th of all; the state is the third.
        fields.clone().nth(25)?.parse::<u64>().ok()
    };
    stack(child).is_some_and(|own| own != 0 && Some(own) != stack(parent))
}

/// A line of /proc/net/tcp.
struct Line {
    ports: Ports,
    listens: bool,
    inode: u64,
}

fn table() -> Result<Vec<Line>, Failure> {
    let text = std::fs::read_to_string("/proc/self/net/tcp");
    let text = text.map_err(|error| format!("/proc/self/net/tcp: {error}"))?;
    let port = |address: &str| u16::from_str_radix(address.rsplit(':').next()?, 16).ok();
    let lines = text.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, local, remote, state, _, _, _, _, _, inode, ..] = *words else {
            return None;
        };
        let ports = Ports {
            listener: port(local)?,
            client: port(remote)?,
        };
        Some(Line {
            ports,
            listens: state == "0A",
            inode: inode.parse().ok()?,
        })
    });
    Ok(lines.collect())
}

/// The inodes of the sockets that listen at a port.
pub fn listening(port: u16) -> Result<Vec<u64>, Failure> {
    let lines = table()?.into_iter();
    let there = lines.filter(|it| it.listens && it.ports.listener == port);
    Ok(there.map(|it| it.inode).collect())
}

/// Whether a process has a socket that listens for sessions.
fn has_listener(pid: u32) -> Result<bool, Failure> {
    let (has, wanted) = (sockets_of(pid), listening(LONG)?);
    Ok(wanted.iter().any(|inode| has.contains(inode)))
}

/// The connections that a process has accepted, and those that it has made, whose ports nobody asks for.
fn sessions_of(pid: u32) -> Vec<Ports> {
    let has: HashSet<u64> = sockets_of(pid).into_iter().collect();
    let lines = table().unwrap_or_default().into_iter();
    let own = lines.filter(|it| !it.listens && has.contains(&it.inode));
    own.map(|it| it.ports).collect()
}

/// The inodes of a process's sockets.
pub fn sockets_of(pid: u32) -> Vec<u64> {
    let all = std::fs::read_dir(format!("/proc/{pid}/fd"));
    let all = all.into_iter().flatten().flatten();
    all.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let target = target.to_str()?.strip_prefix("socket:[")?;
        target.strip_suffix(']')?.parse().ok()
    })
    .collect()
}

fn write(file: &Path, text: &str) -> Result<(), Failure> {
    std::fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}

fn succeeded(what: &str, output: io::Result<Output>) -> Result<(), Failure> {
    let output = output.map_err(|error| format!("portcullis {what}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("portcullis {what}: {}\n{said}", output.status))
}

/// A program that the terminal's Ctrl-C does not reach: it is served to the end of the run.
fn apart(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.process_group(0);
    command
}

/// A program whose output nobody wants, of the peers.
pub fn quiet(program: &Path) -> Command {
    let mut command = apart(program);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}
