//! Runs a program and everything that it starts, and hears of the calls that open listeners.
//!
//! Decides:  who is resumed when and how; that nobody is left stopped; what is read at which stop.
//! Kernel:   kernel/ptrace.c; kernel/signal.c, ptrace_stop(), do_signal_stop(); ptrace(2), 5.6 to 6.18
//! Not here: what is made of it (recorder.rs), when it counts as stopped (standstill.rs), the terminal and the report (who runs it).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_sys::files;
use portcullis_sys::process::SignalMask;
use portcullis_sys::trace::{self, Happening, Program, Stage, Started, Stop};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use crate::call::{self, Address, Call};
use crate::error::{Error, find, refused};
use crate::explain::Explain;
use crate::facts::{self, Peek};
use crate::filter;
use crate::finding::Finding;
use crate::record::{Ending, Inheritance, Record};
use crate::recorder::{Made, Recorder, Settling};
use crate::standstill::Standstill;

/// The most rivals of a call that are looked after, whether somebody still holds them.
const RIVALS_MAX: usize = 256;

/// Hears of what happens while a program is watched.
pub trait Observer {
    /// Something was found.
    fn found(&mut self, finding: &Finding);

    /// The terminal, or somebody, stopped the program by this signal (Ctrl-Z). It goes on with SIGCONT.
    fn stopped(&mut self, _signal: i32) {}

    /// The first process ended, and these still run.
    fn first_ended(&mut self, _ending: Ending, _left: usize) {}
}

/// What came of it.
#[derive(Debug)]
pub struct Outcome {
    /// How the first process ended.
    pub ended: Ending,
    /// All that was seen.
    pub record: Record,
}

/// A program that is watched. The thread that starts it must run it.
#[derive(Debug)]
pub struct Watch {
    first: i32,
    started: Started,
    shared: Arc<Shared>,
    threads: BTreeMap<i32, Thread>,
    pidfds: BTreeMap<i32, Option<Arc<OwnedFd>>>,
    standstill: Standstill,
    /// A program has been executed.
    runs: bool,
    path: String,
}

/// What other threads may ask.
#[derive(Debug)]
struct Shared {
    recorder: Mutex<Recorder>,
    living: Mutex<Living>,
}

#[derive(Debug, Default)]
struct Living {
    first: Option<(i32, Arc<OwnedFd>)>,
    all: BTreeMap<i32, Arc<OwnedFd>>,
}

/// Reaches a watched program from another thread.
#[derive(Debug, Clone)]
pub struct Handle(Arc<Shared>);

/// A thread of the watched.
#[derive(Debug)]
struct Thread {
    process: i32,
    pending: Option<Pending>,
}

/// A call that its caller stands behind soon.
#[derive(Debug)]
struct Pending {
    call: Call,
    before: Option<Peek>,
}

impl Handle {
    /// Sends a signal to the program: to its first process, or once that has ended to all that are left.
    pub fn send(&self, signal: Signal) {
        for (_, process) in self.addressed() {
            send(&process, signal);
        }
    }

    /// The same for a signal that came from the terminal, which sent it to this process's group itself:
    /// only those outside of it lack it.
    pub fn send_outside_group(&self, signal: Signal) {
        let group = rustix::process::getpgrp();
        for (pid, process) in self.addressed() {
            let theirs =
                Pid::from_raw(pid).and_then(|pid| rustix::process::getpgid(Some(pid)).ok());
            if theirs.is_some_and(|theirs| theirs != group) {
                send(&process, signal);
            }
        }
    }

    /// Whether the first process still runs.
    pub fn first_runs(&self) -> bool {
        lock(&self.0.living).first.is_some()
    }

    fn addressed(&self) -> Vec<(i32, Arc<OwnedFd>)> {
        let living = lock(&self.0.living);
        let all = living
            .all
            .iter()
            .map(|(pid, process)| (*pid, Arc::clone(process)));
        match &living.first {
            Some((pid, first)) => vec![(*pid, Arc::clone(first))],
            None => all.collect(),
        }
    }

    /// Findings that had to wait for what the program does next, and have waited since this was asked last.
    pub fn settle(&self) -> Vec<Finding> {
        let mut recorder = lock(&self.0.recorder);
        recorder.settle(Settling::Old);
        recorder.take_findings()
    }
}

fn send(process: &OwnedFd, signal: Signal) {
    // One that has ended needs it no more.
    let _ = rustix::process::pidfd_send_signal(process, signal);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Watch {
    /// Nobody is left: a stopped process would stand still for ever, and one that runs could open no socket.
    fn drop(&mut self) {
        let living: Vec<Arc<OwnedFd>> = lock(&self.shared.living).all.values().cloned().collect();
        if living.is_empty() {
            return;
        }
        for process in living {
            send(&process, Signal::KILL);
        }
        // On the thread that is the tracer they are reaped, with those that were just made.
        while let Ok(Some((pid, happening))) = trace::wait() {
            if let Happening::Stopped(_) = happening {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = trace::resume(pid, libc::SIGKILL);
            }
        }
    }
}

impl Watch {
    /// Starts a program with this signal mask. It does not run before [`Watch::run`].
    pub fn start(command: &[OsString], mask: &SignalMask) -> Result<Watch, Error> {
        let Some(name) = command.first() else {
            return Err(Error::NotFound {
                name: String::new(),
            });
        };
        let path = find(name)?;
        let shown = path.display().to_string();
        let program = Program::new(&path, command, std::env::vars_os()).map_err(|error| {
            let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
            Error::NotExecutable {
                path: shown.clone(),
                errno,
            }
        })?;
        let me = facts::caller(std::process::id() as i32);
        let started = trace::spawn(&program, &filter::program(), mask).map_err(refused)?;
        let first = started.pid.as_raw_nonzero().get();
        let words = command
            .iter()
            .map(|word| word.to_string_lossy().into_owned());
        let limited = me.is_some_and(|me| me.no_new_privs);
        let recorder = Recorder::new(words.collect(), limited, may_trace_anyone());
        let mut watch = Watch {
            first,
            started,
            shared: Arc::new(Shared {
                recorder: Mutex::new(recorder),
                living: Mutex::default(),
            }),
            threads: BTreeMap::new(),
            pidfds: BTreeMap::new(),
            standstill: Standstill::of(first),
            runs: false,
            path: shown,
        };
        watch.begin(first, first, None);
        let process = watch.pidfd(first);
        lock(&watch.shared.living).first = process.map(|process| (first, process));
        Ok(watch)
    }

    /// Reaches it from another thread.
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Runs it to the end of the last process that it started.
    pub fn run(
        mut self,
        explain: &mut dyn Explain,
        observer: &mut dyn Observer,
    ) -> Result<Outcome, Error> {
        let mut ended = None;
        while let Some((pid, happening)) = trace::wait().map_err(lost)? {
            let pid = pid.as_raw_nonzero().get();
            match happening {
                Happening::Stopped(stop) => {
                    self.stopped(pid, stop, explain, observer).map_err(lost)?
                }
                Happening::Exited(code) => {
                    self.ended(pid, Ending::Exited(code), &mut ended, observer)
                }
                Happening::Killed(signal) => {
                    self.ended(pid, Ending::Killed(signal), &mut ended, observer);
                }
            }
            for finding in lock(&self.shared.recorder).take_findings() {
                observer.found(&finding);
            }
        }
        if !self.runs
            && let Some(failure) = self.started.failure()
        {
            return Err(match failure.stage {
                Stage::Exec => Error::NotExecutable {
                    path: self.path.clone(),
                    errno: failure.errno.raw_os_error(),
                },
                _ => refused(failure),
            });
        }
        let mut recorder = lock(&self.shared.recorder);
        recorder.settle(Settling::All);
        for finding in recorder.take_findings() {
            observer.found(&finding);
        }
        Ok(Outcome {
            ended: ended.unwrap_or(Ending::Exited(0)),
            record: recorder.record().clone(),
        })
    }

    fn stopped(
        &mut self,
        pid: i32,
        stop: Stop,
        explain: &mut dyn Explain,
        observer: &mut dyn Observer,
    ) -> Result<(), Errno> {
        let thread = thread_of(pid)?;
        match stop {
            Stop::Call => self.enters(pid, thread),
            Stop::Returned => {
                self.returns(pid, thread, explain);
                trace::resume(thread, 0)
            }
            Stop::Exec => {
                self.executes(pid, thread);
                trace::resume(thread, 0)
            }
            Stop::New => {
                self.meet_new(pid, thread);
                trace::resume(thread, 0)
            }
            Stop::Vfork => {
                let new = self.meet_new(pid, thread);
                trace::resume(thread, 0)?;
                if let Some(signal) = new.and_then(|new| self.standstill.vforked(pid, new)) {
                    observer.stopped(signal);
                }
                Ok(())
            }
            Stop::Begins => {
                self.standstill.goes_on(pid);
                self.meet(pid, None);
                trace::resume(thread, 0)
            }
            Stop::Group(signal) => {
                trace::stay_stopped(thread)?;
                if let Some(signal) = self.standstill.stopped(pid, signal) {
                    observer.stopped(signal);
                }
                Ok(())
            }
            Stop::Signal(signal) => trace::resume(thread, signal),
        }
    }

    /// A thread stands before a watched call.
    fn enters(&mut self, pid: i32, thread: Pid) -> Result<(), Errno> {
        let Ok(entered) = trace::call(thread) else {
            // Killed meanwhile: its end is told soon.
            return trace::resume(thread, 0);
        };
        let memory = |at, into: &mut [u8]| trace::read_memory(thread, at, into).ok();
        let Some(call) = call::read(&entered, memory) else {
            return trace::resume(thread, 0);
        };
        // Netlink and the like: nothing that anybody connects to.
        if matches!(
            &call,
            Call::Bind {
                address: Address::Other(_),
                ..
            }
        ) {
            return trace::resume(thread, 0);
        }
        let process = self.process_of(pid);
        let before = call.fd().and_then(|fd| self.peek(process, fd));
        if call.fd().is_some() && before.is_none() {
            self.check_access(process);
        }
        self.look_after_rivals(&call, before.as_ref());
        if let Some(known) = self.threads.get_mut(&pid) {
            known.pending = Some(Pending { call, before });
        }
        trace::resume_to_return(thread)
    }

    /// A thread stands behind a watched call.
    fn returns(&mut self, pid: i32, thread: Pid, explain: &mut dyn Explain) {
        let pending = self
            .threads
            .get_mut(&pid)
            .and_then(|known| known.pending.take());
        let (Some(Pending { call, before }), Ok(result)) = (pending, trace::returned(thread))
        else {
            return;
        };
        let process = self.process_of(pid);
        let inet = before.as_ref().is_some_and(Peek::is_inet);
        let after = match (call.fd(), &result) {
            (Some(fd), Ok(_)) if inet => self.peek(process, fd),
            _ => None,
        };
        let result = result.map_err(|errno| errno.raw_os_error());
        // Only an explanation asks who called.
        let caller = if result.is_err() {
            facts::caller(pid).or_else(facts::without_proc)
        } else {
            None
        };
        let made = Made {
            process,
            caller,
            call: &call,
            before,
            after,
            result,
        };
        lock(&self.shared.recorder).made(&made, explain);
    }

    /// Sockets that might stand in the way of a call, and that nobody holds any more, are told as closed.
    fn look_after_rivals(&mut self, call: &Call, socket: Option<&Peek>) {
        let rivals: Vec<(u64, Vec<(i32, i32)>)> = {
            let recorder = lock(&self.shared.recorder);
            let rivals = recorder.rivals(call, socket).into_iter();
            let rivals = rivals.take(RIVALS_MAX);
            rivals
                .map(|inode| (inode, recorder.seen_at(inode).into_iter().collect()))
                .collect()
        };
        let mut unknown = BTreeSet::new();
        for (inode, places) in rivals {
            let is_at = |&(pid, fd): &(i32, i32)| {
                self.peek(pid, fd).is_some_and(|seen| seen.inode == inode)
            };
            if !places.iter().any(is_at) {
                unknown.insert(inode);
            }
        }
        if unknown.is_empty() {
            return;
        }
        let processes: BTreeSet<i32> = self.threads.values().map(|thread| thread.process).collect();
        let gone = facts::gone(&unknown, processes.into_iter());
        lock(&self.shared.recorder).closed(&gone);
    }

    fn executes(&mut self, pid: i32, thread: Pid) {
        self.runs = true;
        self.standstill.executed(pid);
        // Whoever called execve goes by the process's number now; its other threads are gone.
        self.threads
            .retain(|&other, known| other == pid || known.process != pid);
        if let Some(known) = self.threads.get_mut(&pid) {
            known.pending = None;
        }
        let _ = trace::message(thread);
        self.meet(pid, None);
        let caller = facts::caller(pid);
        let image = facts::image(pid, caller.map_or((0, 0), |caller| caller.effective));
        let mut recorder = lock(&self.shared.recorder);
        recorder.executed(pid, image, caller);
        if !recorder.record().sockets.is_empty() {
            recorder.inherited(pid, &facts::held(pid), Inheritance::Exec);
        }
    }

    /// What a thread made, which may have been seen already, and may even have ended since.
    fn meet_new(&mut self, maker: i32, thread: Pid) -> Option<i32> {
        let new = trace::message(thread).ok().flatten()?;
        let pid = new.as_raw_nonzero().get();
        let parent = self.process_of(maker);
        let ended = rustix::process::test_kill_process(new) == Err(Errno::SRCH);
        if ended && !self.threads.contains_key(&pid) {
            return None;
        }
        self.meet(pid, Some(parent));
        Some(pid)
    }

    /// A thread or process is seen for the first time, or again.
    fn meet(&mut self, pid: i32, parent: Option<i32>) {
        if self.threads.contains_key(&pid) {
            return;
        }
        let status = facts::caller(pid);
        let process = status.map_or(pid, |status| status.process);
        let parent = parent.or(status.map(|status| status.parent));
        self.begin(pid, process, parent);
        let mut recorder = lock(&self.shared.recorder);
        if pid == process && !recorder.record().sockets.is_empty() {
            recorder.inherited(pid, &facts::held(pid), Inheritance::Fork);
        }
    }

    fn begin(&mut self, pid: i32, process: i32, parent: Option<i32>) {
        let thread = Thread {
            process,
            pending: None,
        };
        self.threads.insert(pid, thread);
        if pid != process {
            return;
        }
        lock(&self.shared.recorder).began(pid, parent);
        if let Some(pidfd) = self.pidfd(pid) {
            lock(&self.shared.living).all.insert(pid, pidfd);
        }
    }

    fn ended(
        &mut self,
        pid: i32,
        ending: Ending,
        first: &mut Option<Ending>,
        observer: &mut dyn Observer,
    ) {
        self.standstill.ended(pid);
        let known = self.threads.remove(&pid);
        if known.is_some_and(|known| known.process != pid) {
            return;
        }
        self.pidfds.remove(&pid);
        let left = {
            let mut living = lock(&self.shared.living);
            living.all.remove(&pid);
            if pid == self.first {
                living.first = None;
            }
            living.all.len()
        };
        let mut recorder = lock(&self.shared.recorder);
        recorder.ended(pid, ending);
        if pid == self.first {
            recorder.finish(ending);
            *first = Some(ending);
            if self.runs && left > 0 {
                observer.first_ended(ending, left);
            }
        }
    }

    fn process_of(&self, pid: i32) -> i32 {
        self.threads.get(&pid).map_or(pid, |known| known.process)
    }

    fn pidfd(&mut self, process: i32) -> Option<Arc<OwnedFd>> {
        let open = || facts::open_process(process).map(Arc::new);
        self.pidfds.entry(process).or_insert_with(open).clone()
    }

    fn peek(&mut self, process: i32, fd: i32) -> Option<Peek> {
        let known = self.pidfd(process);
        let seen = known.and_then(|known| facts::peek(&known, fd));
        // The first thread may have ended since.
        seen.or_else(|| facts::peek(&files::open(process.unsigned_abs()).ok()?, fd))
    }

    /// A socket that cannot be looked at: because it is none, or because its process does not allow it.
    fn check_access(&self, process: i32) {
        if std::fs::read_link(format!("/proc/{process}/exe")).is_err_and(denied) {
            lock(&self.shared.recorder).unreadable(process);
        }
    }
}

fn denied(error: std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

fn thread_of(pid: i32) -> Result<Pid, Errno> {
    Pid::from_raw(pid).ok_or(Errno::SRCH)
}

fn lost(errno: Errno) -> Error {
    Error::Lost {
        errno: errno.raw_os_error(),
    }
}

/// CAP_SYS_PTRACE.
fn may_trace_anyone() -> bool {
    let sets = rustix::thread::capabilities(None);
    sets.is_ok_and(|sets| {
        sets.effective
            .contains(rustix::thread::CapabilitySet::SYS_PTRACE)
    })
}
