//! Watching another process: started under a filter of system calls, stopped at those that are asked for.
//!
//! Decides:  what happens between `fork` and `exec` of a watched program; how a stop is read.
//! Kernel:   kernel/ptrace.c, ptrace_attach(), ptrace_get_syscall_info(); kernel/seccomp.c,
//!           seccomp_set_mode_filter(), __seccomp_filter(); kernel/exit.c, do_wait(), 5.3 to 6.18
//! Not here: which calls are watched, and what is made of them (crate `trace`).
//!
//! The kernel knows the tracer as a thread, not as a process: what is started by a thread is waited for
//! and resumed by that thread alone.

use std::ffi::{CString, OsStr, OsString, c_char, c_long};
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::{Errno, Result};
use rustix::process::Pid;

use crate::bare::Instruction;
use crate::process::SignalMask;

/// The longest classic BPF program (`BPF_MAXINSNS`).
const PROGRAM_MAX: usize = 4096;
/// `SIGTRAP` with this bit is a stop at a system call (`PTRACE_O_TRACESYSGOOD`).
const SYSCALL_BIT: i32 = 0x80;

/// A program to be executed, with all that the new process needs put together before the `fork`.
#[derive(Debug, Clone)]
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// The file at `path`, with these arguments (the first is the name that it is called by) and
    /// `NAME=value` for its environment. `EINVAL` where one contains a NUL.
    pub fn new(
        path: &Path,
        arguments: &[OsString],
        environment: impl Iterator<Item = (OsString, OsString)>,
    ) -> io::Result<Program> {
        let text = |bytes: &OsStr| {
            CString::new(bytes.as_bytes()).map_err(|_| io::Error::from(Errno::INVAL))
        };
        let variables = environment.map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(&name)
        });
        Ok(Program {
            path: text(path.as_os_str())?,
            arguments: arguments
                .iter()
                .map(|a| text(a))
                .collect::<io::Result<_>>()?,
            environment: variables.collect::<io::Result<_>>()?,
        })
    }
}

/// How far the start of a watched program came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// `pipe` and `fork`.
    Fork,
    /// `PTRACE_SEIZE`.
    Seize,
    /// `prctl(PR_SET_NO_NEW_PRIVS)`, which an ordinary user needs for the filter.
    NoNewPrivs,
    /// `seccomp(SECCOMP_SET_MODE_FILTER)`.
    Filter,
    /// `execve`.
    Exec,
}

/// Why a watched program was not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// What was tried.
    pub stage: Stage,
    /// What the kernel said.
    pub errno: Errno,
}

/// A watched process before its program runs.
#[derive(Debug)]
pub struct Started {
    /// The process.
    pub pid: Pid,
    report: OwnedFd,
}

impl Started {
    /// Why it never came to the program: asked once it has ended without one.
    pub fn failure(&self) -> Option<Failure> {
        let mut bytes = [0_u8; 8];
        match rustix::io::read(&self.report, &mut bytes) {
            Ok(8) => {
                let [a, b, c, d, e, f, g, h] = bytes;
                let stage = match u32::from_ne_bytes([a, b, c, d]) {
                    1 => Stage::NoNewPrivs,
                    2 => Stage::Filter,
                    _ => Stage::Exec,
                };
                let errno = Errno::from_raw_os_error(i32::from_ne_bytes([e, f, g, h]));
                Some(Failure { stage, errno })
            }
            _ => None,
        }
    }
}

/// Starts a program of which this thread is the tracer, in this process's group and on its terminal.
///
/// It inherits open descriptors as any program does, has the given signal mask, no more privileges than
/// the filter demands (without CAP_SYS_ADMIN the kernel demands `no_new_privs`), and is killed when the
/// tracer ends. New processes and threads of it are traced as well. Whether the program was found is told
/// by the first stop, [`Stop::Exec`], or by its end and [`Started::failure`].
pub fn spawn(
    program: &Program,
    filter: &[Instruction],
    mask: &SignalMask,
) -> std::result::Result<Started, Failure> {
    let at = |stage| move |errno| Failure { stage, errno };
    let mut code: Vec<libc::sock_filter> = filter
        .iter()
        .map(|&(code, jt, jf, k)| libc::sock_filter { code, jt, jf, k })
        .collect();
    let len = u16::try_from(code.len()).unwrap_or(u16::MAX);
    if code.len() > PROGRAM_MAX {
        return Err(at(Stage::Filter)(Errno::TOOBIG));
    }
    let fprog = libc::sock_fprog {
        len,
        filter: code.as_mut_ptr(),
    };
    let arguments = pointers(&program.arguments);
    let environment = pointers(&program.environment);
    let flags = rustix::pipe::PipeFlags::CLOEXEC;
    let (go, tell) = rustix::pipe::pipe_with(flags).map_err(at(Stage::Fork))?;
    let (report, say) = rustix::pipe::pipe_with(flags).map_err(at(Stage::Fork))?;
    let child = Child {
        go: go.as_raw_fd(),
        tell: tell.as_raw_fd(),
        say: say.as_raw_fd(),
        fprog: &fprog,
        mask,
        path: program.path.as_ptr(),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
    };
    // SAFETY: the child runs `Child::run` only, which calls nothing but async-signal-safe functions,
    // allocates nothing and never returns: locks of other threads do not matter to it.
    let pid = match unsafe { libc::fork() } {
        -1 => return Err(at(Stage::Fork)(last_error())),
        0 => child.run(),
        pid => pid,
    };
    drop((go, say));
    let Some(pid) = Pid::from_raw(pid) else {
        return Err(at(Stage::Fork)(Errno::CHILD));
    };
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_TRACESECCOMP
        | libc::PTRACE_O_EXITKILL;
    if let Err(errno) = request(libc::PTRACE_SEIZE, pid, 0, options as usize) {
        // It waits for the word to go on, and ends when it does not come.
        drop(tell);
        wait_for_end(pid);
        return Err(at(Stage::Seize)(errno));
    }
    // A process that was killed meanwhile does not read it; its end is told by `wait`.
    let _ = rustix::io::write(&tell, &[1]);
    Ok(Started { pid, report })
}

/// What the new process needs until it is a program: plain numbers and pointers made before the fork.
struct Child<'a> {
    go: i32,
    tell: i32,
    say: i32,
    fprog: &'a libc::sock_fprog,
    mask: &'a SignalMask,
    path: *const c_char,
    arguments: *const *const c_char,
    environment: *const *const c_char,
}

impl Child<'_> {
    /// Waits for the tracer, then becomes the program or says why not.
    fn run(&self) -> ! {
        let mut byte = 0_u8;
        // SAFETY: closes this process's copy of the other end, so that a tracer that ends is seen here;
        // then reads one byte into `byte`.
        let told = unsafe {
            libc::close(self.tell);
            loop {
                let read = libc::read(self.go, (&raw mut byte).cast(), 1);
                if read >= 0 || *libc::__errno_location() != libc::EINTR {
                    break read;
                }
            }
        };
        if told == 1 {
            let (stage, errno) = self.execute();
            let mut bytes = [0_u8; 8];
            bytes[..4].copy_from_slice(&u32::to_ne_bytes(stage));
            bytes[4..].copy_from_slice(&i32::to_ne_bytes(errno));
            // SAFETY: eight initialised bytes.
            unsafe { libc::write(self.say, bytes.as_ptr().cast(), bytes.len()) };
        }
        // SAFETY: ends the process without running anything of its parent's.
        unsafe { libc::_exit(127) }
    }

    /// Returns only on failure: at which stage, and why.
    fn execute(&self) -> (u32, i32) {
        let filter = || {
            // SAFETY: `fprog` points to `len` initialised instructions, which the kernel copies and checks.
            unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    0,
                    std::ptr::from_ref(self.fprog),
                )
            }
        };
        // SAFETY: calls of plain numbers, on this process alone, which has one thread; the Rust runtime
        // ignores SIGPIPE, and a program expects it as the system has it.
        unsafe {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
            if filter() != 0 {
                if *libc::__errno_location() != libc::EACCES {
                    return (2, *libc::__errno_location());
                }
                if libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 {
                    return (1, *libc::__errno_location());
                }
                if filter() != 0 {
                    return (2, *libc::__errno_location());
                }
            }
        }
        if self.mask.set().is_err() {
            return (3, libc::EINVAL);
        }
        // SAFETY: NUL-terminated strings and null-terminated arrays of them, made before the fork and
        // alive in this copy of its memory.
        unsafe {
            libc::execve(self.path, self.arguments, self.environment);
            (3, *libc::__errno_location())
        }
    }
}

/// The strings' addresses and a null behind them.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    let ends = std::iter::once(std::ptr::null());
    strings.iter().map(|s| s.as_ptr()).chain(ends).collect()
}

/// Something that happened to a watched process or thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// It ended with this code.
    Exited(i32),
    /// It was ended by this signal.
    Killed(i32),
    /// It stands still until it is resumed.
    Stopped(Stop),
}

/// Why a watched thread stands still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The filter said so: before a watched call. [`call`] tells which.
    Call,
    /// Behind a call, where [`resume_to_return`] asked for it. [`returned`] tells the result.
    Returned,
    /// It executed a program. [`message`] tells the thread that it was before.
    Exec,
    /// It made a process or a thread. [`message`] tells which.
    New,
    /// The same by vfork(2): it waits, and cannot be stopped, until the new one executes a program or ends.
    Vfork,
    /// It begins to be watched, or goes on after a group stop.
    Begins,
    /// A signal stopped its whole process (`SIGSTOP`, `SIGTSTP`, `SIGTTIN`, `SIGTTOU`).
    Group(i32),
    /// A signal is to be delivered; [`resume`] delivers it, or another, or none.
    Signal(i32),
}

/// The next thing that happens to one of those that this thread watches; waits for it. `None` when there
/// is none left. Children of other threads are not touched, untraced ones of this thread are.
pub fn wait() -> Result<Option<(Pid, Happening)>> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is a valid place for an int.
        let pid = unsafe { libc::waitpid(-1, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        if pid > 0 {
            if let (Some(pid), Some(happening)) = (Pid::from_raw(pid), read_status(status)) {
                return Ok(Some((pid, happening)));
            }
            continue;
        }
        match last_error() {
            Errno::CHILD => return Ok(None),
            Errno::INTR => {}
            errno => return Err(errno),
        }
    }
}

fn read_status(status: i32) -> Option<Happening> {
    if libc::WIFEXITED(status) {
        return Some(Happening::Exited(libc::WEXITSTATUS(status)));
    }
    if libc::WIFSIGNALED(status) {
        return Some(Happening::Killed(libc::WTERMSIG(status)));
    }
    if !libc::WIFSTOPPED(status) {
        return None;
    }
    let signal = libc::WSTOPSIG(status);
    let stop = match status >> 16 {
        0 if signal == libc::SIGTRAP | SYSCALL_BIT => Stop::Returned,
        0 => Stop::Signal(signal),
        libc::PTRACE_EVENT_SECCOMP => Stop::Call,
        libc::PTRACE_EVENT_EXEC => Stop::Exec,
        libc::PTRACE_EVENT_FORK | libc::PTRACE_EVENT_CLONE => Stop::New,
        libc::PTRACE_EVENT_VFORK => Stop::Vfork,
        libc::PTRACE_EVENT_STOP if signal == libc::SIGTRAP => Stop::Begins,
        libc::PTRACE_EVENT_STOP => Stop::Group(signal),
        // Asked for by no option here: nothing to do but to go on.
        _ => Stop::Begins,
    };
    Some(Happening::Stopped(stop))
}

/// Lets a stopped thread go on, with this signal (0 for none). One that was killed meanwhile is no error:
/// [`wait`] tells its end.
pub fn resume(thread: Pid, signal: i32) -> Result<()> {
    gone_is_fine(request(libc::PTRACE_CONT, thread, 0, signal as usize))
}

/// Lets a thread that stands before a call make it, and stop again behind it. As [`resume`].
pub fn resume_to_return(thread: Pid) -> Result<()> {
    gone_is_fine(request(libc::PTRACE_SYSCALL, thread, 0, 0))
}

/// Leaves a thread in the stop that a signal put its process in, until SIGCONT. As [`resume`].
pub fn stay_stopped(thread: Pid) -> Result<()> {
    gone_is_fine(request(libc::PTRACE_LISTEN, thread, 0, 0))
}

fn gone_is_fine(done: Result<c_long>) -> Result<()> {
    match done {
        Ok(_) | Err(Errno::SRCH) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The number that comes with a stop: a new process, or who it was before `exec`.
pub fn message(thread: Pid) -> Result<Option<Pid>> {
    let mut value: libc::c_ulong = 0;
    request(
        libc::PTRACE_GETEVENTMSG,
        thread,
        0,
        (&raw mut value).expose_provenance(),
    )?;
    Ok(i32::try_from(value).ok().and_then(Pid::from_raw))
}

/// A call that a thread is about to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entered {
    /// Which calling convention (`AUDIT_ARCH_…`).
    pub arch: u32,
    /// The call's number there.
    pub number: u64,
    /// Its arguments, as registers hold them.
    pub arguments: [u64; 6],
    /// The filter's 16 bits.
    pub data: u32,
}

/// `struct ptrace_syscall_info`, by its documented offsets.
const INFO_LEN: usize = 88;
const INFO_EXIT: u8 = 2;
const INFO_SECCOMP: u8 = 3;

/// The call at which a thread stands, in [`Stop::Call`].
pub fn call(thread: Pid) -> Result<Entered> {
    let info = syscall_info(thread)?;
    if info[0] != INFO_SECCOMP {
        return Err(Errno::INVAL);
    }
    let mut arguments = [0; 6];
    for (index, argument) in arguments.iter_mut().enumerate() {
        *argument = word(&info, 32 + 8 * index);
    }
    Ok(Entered {
        arch: half(&info, 4),
        number: word(&info, 24),
        arguments,
        data: half(&info, 80),
    })
}

/// What the call returned behind which a thread stands, in [`Stop::Returned`].
pub fn returned(thread: Pid) -> Result<std::result::Result<i64, Errno>> {
    let info = syscall_info(thread)?;
    if info[0] != INFO_EXIT {
        return Err(Errno::INVAL);
    }
    let value = word(&info, 24) as i64;
    Ok(match info[32] {
        0 => Ok(value),
        // Beyond the numbers that programs see there are those that restart a call.
        _ => Err(Errno::from_raw_os_error((-value).clamp(1, 4095) as i32)),
    })
}

fn syscall_info(thread: Pid) -> Result<[u8; INFO_LEN]> {
    let mut info = [0_u8; INFO_LEN];
    request(
        libc::PTRACE_GET_SYSCALL_INFO,
        thread,
        INFO_LEN,
        info.as_mut_ptr().expose_provenance(),
    )?;
    Ok(info)
}

fn word(info: &[u8; INFO_LEN], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&info[at..at + 8]);
    u64::from_ne_bytes(bytes)
}

fn half(info: &[u8; INFO_LEN], at: usize) -> u32 {
    let mut bytes = [0; 4];
    bytes.copy_from_slice(&info[at..at + 4]);
    u32::from_ne_bytes(bytes)
}

/// `process_vm_readv`: bytes of another process's memory; how many could be read.
///
/// Less than asked for where the rest is not mapped; `EFAULT` where nothing is.
pub fn read_memory(process: Pid, address: u64, into: &mut [u8]) -> Result<usize> {
    if into.is_empty() {
        return Ok(0);
    }
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(address as usize),
        iov_len: into.len(),
    };
    // SAFETY: `local` is a writable place of its length; `remote` is an address in the other process,
    // which the kernel checks there.
    let read =
        unsafe { libc::process_vm_readv(process.as_raw_nonzero().get(), &local, 1, &remote, 1, 0) };
    usize::try_from(read).map_err(|_| last_error())
}

/// `SO_COOKIE`: the number of a socket, which no other one of this boot has.
pub fn socket_cookie(fd: impl AsFd) -> Result<u64> {
    let mut value = 0_u64;
    let mut len = size_of::<u64>() as libc::socklen_t;
    // SAFETY: `value` is an initialised u64 of `len` bytes, which the kernel may overwrite.
    let done = unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut value).cast(),
            &mut len,
        )
    };
    if done == 0 {
        Ok(value)
    } else {
        Err(last_error())
    }
}

/// A `ptrace` request of plain numbers, or with the address of a place that the caller owns.
fn request(request: libc::c_uint, pid: Pid, addr: usize, data: usize) -> Result<c_long> {
    // SAFETY: requests of this file write either nothing, or at most the size of the place at `data`
    // (a long for GETEVENTMSG, `addr` bytes for GET_SYSCALL_INFO), which outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_ptrace,
            c_long::from(request),
            c_long::from(pid.as_raw_nonzero().get()),
            addr,
            data,
        )
    };
    if done < 0 {
        Err(last_error())
    } else {
        Ok(done)
    }
}

/// Reaps a child that is about to end.
fn wait_for_end(pid: Pid) {
    loop {
        // SAFETY: no place for a status is given.
        let waited = unsafe {
            libc::waitpid(
                pid.as_raw_nonzero().get(),
                std::ptr::null_mut(),
                libc::__WALL,
            )
        };
        if waited >= 0 || last_error() != Errno::INTR {
            return;
        }
    }
}

fn last_error() -> Errno {
    let error = io::Error::last_os_error();
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt as _;

    /// Stops at `getppid`, whose result nobody needs here.
    fn filter() -> Vec<Instruction> {
        vec![
            (0x20, 0, 0, 0),
            (0x15, 0, 1, libc::SYS_getppid as u32),
            (0x06, 0, 0, libc::SECCOMP_RET_TRACE | 7),
            (0x06, 0, 0, libc::SECCOMP_RET_ALLOW),
        ]
    }

    fn shell(script: &str) -> Started {
        let arguments = ["sh", "-c", script].map(OsString::from);
        let program = Program::new(Path::new("/bin/sh"), &arguments, std::env::vars_os()).unwrap();
        spawn(&program, &filter(), &SignalMask::current().unwrap()).unwrap()
    }

    /// Runs what this thread has started to its end: all that happened, in order.
    fn run(started: &Started, mut at_call: impl FnMut(Pid)) -> Vec<Happening> {
        let mut seen = Vec::new();
        while let Some((pid, happening)) = wait().unwrap() {
            if pid == started.pid {
                seen.push(happening);
            }
            let Happening::Stopped(stop) = happening else {
                continue;
            };
            match stop {
                Stop::Call => {
                    at_call(pid);
                    resume_to_return(pid).unwrap();
                }
                Stop::Signal(signal) => resume(pid, signal).unwrap(),
                Stop::Group(_) => stay_stopped(pid).unwrap(),
                _ => resume(pid, 0).unwrap(),
            }
        }
        seen
    }

    #[test]
    fn a_program_stops_where_the_filter_says_and_its_memory_can_be_read() {
        // The shell asks for its parent's number when it starts.
        let started = shell("exit 4");
        let me = std::process::id();
        let mut calls = 0;
        let seen = run(&started, |pid| {
            let entered = call(pid).unwrap();
            assert_eq!(
                (entered.number, entered.data),
                (libc::SYS_getppid as u64, 7)
            );
            assert_eq!(returned(pid), Err(Errno::INVAL), "it has not returned yet");
            let mut byte = [0];
            assert_eq!(read_memory(pid, 16, &mut byte), Err(Errno::FAULT));
            calls += 1;
        });
        assert!(me > 0 && calls > 0);
        assert_eq!(seen.first(), Some(&Happening::Stopped(Stop::Exec)));
        assert_eq!(seen.last(), Some(&Happening::Exited(4)));
        let at = seen
            .iter()
            .position(|h| *h == Happening::Stopped(Stop::Call))
            .unwrap();
        assert_eq!(seen[at + 1], Happening::Stopped(Stop::Returned));
        assert!(started.failure().is_none());
    }

    #[test]
    fn children_are_seen_and_signals_are_delivered() {
        let started = shell("(exit 1); trap 'exit 9' USR1; kill -USR1 $$; exit 0");
        let seen = run(&started, |_| ());
        assert!(seen.contains(&Happening::Stopped(Stop::New)));
        assert!(seen.contains(&Happening::Stopped(Stop::Signal(libc::SIGUSR1))));
        assert_eq!(seen.last(), Some(&Happening::Exited(9)));
        let killed = run(&shell("kill -KILL $$"), |_| ());
        assert_eq!(killed.last(), Some(&Happening::Killed(libc::SIGKILL)));
    }

    #[test]
    fn a_program_that_cannot_be_executed_tells_why() {
        let mask = SignalMask::current().unwrap();
        let program =
            Program::new(Path::new("/no/such"), &["x".into()], std::iter::empty()).unwrap();
        let started = spawn(&program, &filter(), &mask).unwrap();
        assert_eq!(run(&started, |_| ()), [Happening::Exited(127)]);
        let expected = Failure {
            stage: Stage::Exec,
            errno: Errno::NOENT,
        };
        assert_eq!(started.failure(), Some(expected));
        let broken = spawn(&program, &[(0x06, 0, 0, 0), (0xff, 0, 0, 0)], &mask).unwrap();
        run(&broken, |_| ());
        let expected = Failure {
            stage: Stage::Filter,
            errno: Errno::INVAL,
        };
        assert_eq!(broken.failure(), Some(expected));
        let nul = OsString::from_vec(b"a\0b".to_vec());
        assert!(Program::new(Path::new("/bin/sh"), &[nul], std::iter::empty()).is_err());
    }

    #[test]
    fn a_socket_has_one_cookie_and_it_is_its_own() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let cookie = socket_cookie(&socket).unwrap();
        assert_eq!(socket_cookie(socket.try_clone().unwrap()), Ok(cookie));
        assert_ne!(socket_cookie(&other), Ok(cookie));
    }
}
