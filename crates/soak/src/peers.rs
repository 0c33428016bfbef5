//! HAProxy and nginx under the same load, with as many reloads.
//!
//! Decides:  which of their ways to reload are compared: HAProxy without and with hand-over of its sockets, and with
//!           a master; nginx with a socket for each worker, with as many workers as before and with others.
//! Source:   management.txt of HAProxy 2.6 (`-sf`, `-x`, `-W`, USR2); nginx.org, "Controlling nginx" (HUP).
//! Not here: Portcullis (operations.rs).

use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_testkit::{Process, Signal};

use crate::interrupt;
use crate::load::{LONG, Load, local};
use crate::operations::Random;
use crate::program::{self, Failure, children, until};
use crate::shape::Shape;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A peer and its way to reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A new process finishes the old one (`-sf`) and opens everything anew.
    Haproxy,
    /// The same, with the old one's sockets (`-x`).
    HaproxyHandOver,
    /// A master process and USR2.
    HaproxyMaster,
    /// HUP, as many workers.
    Nginx,
    /// HUP, more and fewer workers in turn.
    NginxWorkers,
}

impl Peer {
    /// All of them.
    pub const ALL: [Peer; 5] = [
        Peer::Haproxy,
        Peer::HaproxyHandOver,
        Peer::HaproxyMaster,
        Peer::Nginx,
        Peer::NginxWorkers,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Haproxy => "HAProxy, -sf",
            Peer::HaproxyHandOver => "HAProxy, -sf -x",
            Peer::HaproxyMaster => "HAProxy, -W, USR2",
            Peer::Nginx => "nginx reuseport, HUP",
            Peer::NginxWorkers => "nginx reuseport, HUP, other number of workers",
        }
    }
}

/// One that runs.
pub struct Running {
    peer: Peer,
    binary: PathBuf,
    place: tempfile::TempDir,
    shape: Shape,
    now: Process,
    left: Vec<Process>,
}

impl Running {
    /// Starts it.
    pub fn start(peer: Peer, haproxy: &Path, nginx: &Path) -> Result<Running, Failure> {
        let place = tempfile::tempdir().map_err(|error| error.to_string())?;
        let shape = Shape::new();
        let binary = match peer {
            Peer::Nginx | Peer::NginxWorkers => nginx,
            _ => haproxy,
        };
        let mut it = Running {
            peer,
            binary: binary.to_owned(),
            now: Process::spawn(&mut program::quiet(Path::new("true"))),
            place,
            shape,
            left: Vec::new(),
        };
        it.write()?;
        it.now = it.spawn(&[])?;
        it.now.wait_port(local(LONG), PATIENCE);
        Ok(it)
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("peer.conf")
    }

    fn write(&self) -> Result<(), Failure> {
        let text = match self.peer {
            Peer::Nginx | Peer::NginxWorkers => self.shape.nginx(self.place.path()),
            _ => {
                let socket = self.place.path().join("s");
                let more = format!(
                    "    stats socket {} level admin expose-fd listeners\n",
                    socket.display()
                );
                self.shape.haproxy(&more, "")
            }
        };
        std::fs::write(self.file(), text).map_err(|error| error.to_string())
    }

    fn spawn(&self, more: &[String]) -> Result<Process, Failure> {
        let mut command = program::quiet(&self.binary);
        match self.peer {
            Peer::Nginx | Peer::NginxWorkers => command.arg("-p").arg(self.place.path()).arg("-c"),
            Peer::HaproxyMaster => command.arg("-W").arg("-f"),
            _ => command.arg("-db").arg("-f"),
        };
        command.arg(self.file()).args(more);
        Ok(Process::spawn(&mut command))
    }

    /// Reloads once, with other servers or timeouts (and for the last one, another number of workers).
    pub fn reload(&mut self, random: &mut Random) -> Result<(), Failure> {
        self.shape.servers += 1;
        self.shape.timeout_s = 50 + random.below(20);
        if self.peer == Peer::NginxWorkers {
            self.shape.workers = if self.shape.workers == 2 { 4 } else { 2 };
        }
        self.write()?;
        match self.peer {
            Peer::Haproxy | Peer::HaproxyHandOver => {
                let mut more = vec!["-sf".to_owned(), self.now.pid().to_string()];
                if self.peer == Peer::HaproxyHandOver {
                    more.push("-x".to_owned());
                    more.push(self.place.path().join("s").display().to_string());
                }
                let next = self.spawn(&more)?;
                let pid = next.pid();
                let before = std::mem::replace(&mut self.now, next);
                self.left.push(before);
                until("the new process to listen", || {
                    let wanted = program::listening(LONG).unwrap_or_default();
                    let has = program::sockets_of(pid);
                    wanted.iter().any(|inode| has.contains(inode))
                })
            }
            Peer::HaproxyMaster => self.others_serve(Signal::USR2),
            Peer::Nginx | Peer::NginxWorkers => self.others_serve(Signal::HUP),
        }
    }

    /// Tells the master, and waits for workers that were not there before.
    fn others_serve(&mut self, signal: Signal) -> Result<(), Failure> {
        let before = children(self.now.pid());
        self.now.signal(signal);
        until("new workers that listen", || {
            let wanted = program::listening(LONG).unwrap_or_default();
            let now = children(self.now.pid());
            let mut new = now.iter().filter(|pid| !before.contains(pid));
            new.any(|&pid| {
                let has = program::sockets_of(pid);
                wanted.iter().any(|inode| has.contains(inode))
            })
        })
    }

    /// Ends it.
    pub fn stop(mut self) {
        let left = self.left.drain(..);
        for mut one in left.chain([self.now]) {
            if one.running() {
                program::kill(one.pid(), Signal::TERM);
            }
            one.wait_exit(PATIENCE);
        }
    }
}

/// Reloads it so many times; what was not done.
pub fn reload_often(
    running: &mut Running,
    load: &Load,
    (reloads, between): (usize, u64),
    random: &mut Random,
) -> Vec<Failure> {
    let mut failures = Vec::new();
    for number in 0..reloads {
        if interrupt::asked() {
            failures.push(format!("{} reloads were not begun", reloads - number));
            break;
        }
        load.ledger.during("a reload");
        failures.extend(running.reload(random).err());
        if !load.goes_on(between) {
            failures.push("nobody was served after a reload".to_owned());
        }
    }
    failures
}
