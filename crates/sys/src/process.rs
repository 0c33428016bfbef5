//! A process and who it is: fork, ids, users and groups by name, signals read from a descriptor.
//!
//! Decides:  which of libc's process calls may be made, and what must hold before.
//! Kernel:   kernel/fork.c, kernel/sys.c (`setresuid`, `setgroups`), fs/signalfd.c; stable since 2.6.27
//! Not here: what rustix offers safely (`setsid`, `chroot`, `waitpid`, `prctl`, capabilities, limits):
//!           callers use it directly. In what order privileges go (control/privileges.rs).

use std::ffi::{CStr, CString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, Signal};

/// Which side of a `fork` this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The process that called; the child's id.
    Parent(Pid),
    /// The new process.
    Child,
}

/// A thread that was just joined stays visible in `/proc` for a moment: how often to look again.
const THREAD_COUNT_ATTEMPTS: u32 = 50;

/// `fork`: a second process, from a process of one thread.
///
/// With more than one thread the child would have only the caller's, and every lock that
/// another one held (the allocator's, standard output's) would stay locked in it for ever. So
/// this is refused with `EDEADLK`. Both sides go on with the same memory and descriptors;
/// signals that wait for the parent do not wait for the child, and a parent-death signal and
/// file locks of `fcntl` are not inherited.
pub fn fork() -> io::Result<Fork> {
    if !is_single_threaded()? {
        return Err(io::Error::from_raw_os_error(libc::EDEADLK));
    }
    // SAFETY: this is the only thread, so in the child no lock is held by a thread that is
    // missing there; the child may run any code.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Fork::Child),
        pid => match Pid::from_raw(pid) {
            Some(pid) => Ok(Fork::Parent(pid)),
            None => Err(io::Error::other("fork returned no process id")),
        },
    }
}

/// Is the calling thread the only one of its process?
///
/// Counts `/proc/self/task`; where `/proc` is missing (a chroot), asks the kernel by
/// `unshare(CLONE_THREAD)`, which changes nothing and fails with `EINVAL` for a process of
/// several threads (kernel/fork.c, `check_unshare_flags`).
pub fn is_single_threaded() -> io::Result<bool> {
    for attempt in 0..THREAD_COUNT_ATTEMPTS {
        let single = match std::fs::read_dir("/proc/self/task") {
            Ok(tasks) => tasks.take(2).count() == 1,
            Err(_) => unshare_says_single_threaded()?,
        };
        if single {
            return Ok(true);
        }
        if attempt + 1 < THREAD_COUNT_ATTEMPTS {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(false)
}

/// Asks the kernel whether this process has one thread, without `/proc`.
fn unshare_says_single_threaded() -> io::Result<bool> {
    // SAFETY: no pointers; CLONE_THREAD has no effect on a process of one thread, and is refused
    // in any other.
    if unsafe { libc::unshare(libc::CLONE_THREAD) } == 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(libc::EINVAL) {
        Ok(false)
    } else {
        Err(error)
    }
}

/// `setgroups`: the supplementary groups of the whole process (all threads).
///
/// Needs CAP_SETGID, and a user namespace that allows it (`/proc/self/setgroups`).
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: `groups` is valid for `len` entries of gid_t (u32); the call keeps no pointer.
    check(unsafe { libc::setgroups(groups.len(), groups.as_ptr()) })
}

/// `setresgid`: real, effective and saved group of the whole process (all threads).
///
/// Needs CAP_SETGID unless all three are this process's already.
pub fn set_group(gid: u32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::setresgid(gid, gid, gid) })
}

/// `setresuid`: real, effective and saved user of the whole process (all threads).
///
/// Needs CAP_SETUID unless all three are this process's already. Leaving user 0 clears the
/// effective capabilities, and the permitted ones too unless PR_SET_KEEPCAPS is on for the
/// thread; clears the parent-death signal; makes the process not dumpable
/// (`fs.suid_dumpable`).
pub fn set_user(uid: u32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::setresuid(uid, uid, uid) })
}

/// `seteuid` of this thread (`setresuid` of the effective id alone): who is asked for permission, who
/// owns new sockets, and whose user namespaces are one's own. The real and the saved id stay, so that
/// the way back is open.
///
/// Leaving user 0 clears the effective capabilities, not the permitted ones; makes the process not
/// dumpable.
pub fn set_effective_user(uid: u32) -> io::Result<()> {
    // The library's function changes every thread; this one's identity is meant.
    // SAFETY: plain integers; -1 keeps an id.
    let done = unsafe { libc::syscall(libc::SYS_setresuid, -1, uid, -1) };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The version of Landlock that this kernel has on; rules for TCP ports are in it from 4 on.
///
/// Kernel: security/landlock/syscalls.c, 5.13 to 6.18.
#[must_use]
pub fn landlock_abi() -> Option<u32> {
    const SYS_LANDLOCK_CREATE_RULESET: libc::c_long = 444;
    const CREATE_RULESET_VERSION: libc::c_uint = 1;
    let nothing = std::ptr::null::<libc::c_void>();
    // SAFETY: with this flag no address is read, and nothing is made.
    let version = unsafe {
        libc::syscall(
            SYS_LANDLOCK_CREATE_RULESET,
            nothing,
            0usize,
            CREATE_RULESET_VERSION,
        )
    };
    u32::try_from(version).ok()
}

/// `unshare(CLONE_NEWUSER)` and nothing more: no id is mapped in the new user namespace, which the
/// effective user of this process owns. One thread, as for [`enter_user_namespace`].
pub fn enter_unmapped_user_namespace() -> io::Result<()> {
    // SAFETY: no pointers; only this process's own credentials change.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) })
}

/// `unshare(CLONE_NEWUSER)`: a user namespace in which this process is the user and the group that
/// it was, and has every capability over what belongs to the namespace.
///
/// Nothing that exists belongs to it: not the network, not the files of others. What it gives is
/// `chroot`. Needs no privilege, one thread (`EINVAL` otherwise), a host that allows it (`EPERM`,
/// `ENOSPC`), and a process that is not in a chroot (`EPERM`). Supplementary groups can no longer
/// be changed. After an error of the second half (`/proc` not writable) ids are unmapped.
pub fn enter_user_namespace() -> io::Result<()> {
    let (uid, gid) = (users()?.effective, groups()?.effective);
    // SAFETY: no pointers; only this process's own credentials change.
    check(unsafe { libc::unshare(libc::CLONE_NEWUSER) })?;
    // Without it the kernel does not let an unprivileged process map its group.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1\n"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1\n"))
}

/// Real, effective and saved id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ids {
    /// Whose process it is.
    pub real: u32,
    /// Who is asked for permission.
    pub effective: u32,
    /// What the effective id may become again.
    pub saved: u32,
}

impl Ids {
    /// Are all three this one?
    pub fn all_are(self, id: u32) -> bool {
        self.real == id && self.effective == id && self.saved == id
    }
}

/// `getresuid`: the calling thread's user ids.
pub fn users() -> io::Result<Ids> {
    let (mut real, mut effective, mut saved) = (0, 0, 0);
    // SAFETY: three valid pointers to uid_t, written by the call and not kept.
    check(unsafe { libc::getresuid(&mut real, &mut effective, &mut saved) })?;
    Ok(Ids {
        real,
        effective,
        saved,
    })
}

/// `getresgid`: the calling thread's group ids.
pub fn groups() -> io::Result<Ids> {
    let (mut real, mut effective, mut saved) = (0, 0, 0);
    // SAFETY: three valid pointers to gid_t, written by the call and not kept.
    check(unsafe { libc::getresgid(&mut real, &mut effective, &mut saved) })?;
    Ok(Ids {
        real,
        effective,
        saved,
    })
}

/// `open("/dev/null")`, for [`replace_stdio`] after a chroot has hidden it.
pub fn open_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC | rustix::fs::OFlags::NOCTTY,
        rustix::fs::Mode::empty(),
    )?)
}

/// `dup2` of this descriptor to standard input, output and error, which closes what they were.
///
/// They stay open for programs that are executed, as those three always do.
pub fn replace_stdio(with: impl AsFd) -> io::Result<()> {
    let with = with.as_fd();
    for standard in [libc::STDIN_FILENO, libc::STDOUT_FILENO, libc::STDERR_FILENO] {
        // SAFETY: numbers 0 to 2 belong to the process as a whole and are no OwnedFd of
        // anybody; the standard library expects them to be open, and they are, before and after.
        check(unsafe { libc::dup2(with.as_raw_fd(), standard) })?;
    }
    Ok(())
}

/// `SIG_DFL`: the signal does again what the kernel does by default.
///
/// A process inherits ignored signals from the one that started it. With SIGCHLD ignored the
/// kernel throws away how a child ended, and `waitpid` answers `ECHILD`.
pub fn default_action(signal: Signal) -> io::Result<()> {
    // SAFETY: SIG_DFL installs no handler; a handler that was there is only not called any more.
    if unsafe { libc::signal(signal.as_raw(), libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What the user database says of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
}

/// The most that one entry of the user or group database may take, in bytes: a group with
/// tens of thousands of members.
const MAX_DATABASE_ENTRY: usize = 4 << 20;

/// `getpwnam_r`: a user by name; `None` if there is none.
///
/// Goes through NSS, so it may read files, speak to `nscd` or load modules: call it before a
/// chroot.
pub fn user_by_name(name: &str) -> io::Result<Option<User>> {
    let name = c_name(name)?;
    with_growing_buffer(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found: *mut libc::passwd = std::ptr::null_mut();
        // SAFETY: all pointers are valid for the call, `buffer` for its length; what `entry`
        // points to lies in `buffer`, which outlives the reads below.
        let code = unsafe {
            libc::getpwnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut found,
            )
        };
        let entry = found_entry(code, found.is_null())?.then(|| {
            // SAFETY: `found` is not null, so the call succeeded and has filled `entry`.
            unsafe { entry.assume_init() }
        });
        Ok(entry.map(|entry| User {
            uid: entry.pw_uid,
            gid: entry.pw_gid,
        }))
    })
}

/// `getpwuid_r`: a user's name and primary group by number; `None` if the database has none.
pub fn user_by_number(uid: u32) -> io::Result<Option<(String, User)>> {
    with_growing_buffer(|buffer| {
        let mut entry = MaybeUninit::<libc::passwd>::uninit();
        let mut found: *mut libc::passwd = std::ptr::null_mut();
        // SAFETY: as in `user_by_name`.
        let code = unsafe {
            libc::getpwuid_r(
                uid,
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut found,
            )
        };
        if !found_entry(code, found.is_null())? {
            return Ok(None);
        }
        // SAFETY: `found` is not null, so the call succeeded and has filled `entry`.
        let entry = unsafe { entry.assume_init() };
        // SAFETY: the name is a NUL-terminated string inside `buffer`, which is still alive.
        let name = unsafe { CStr::from_ptr(entry.pw_name) };
        Ok(Some((
            name.to_string_lossy().into_owned(),
            User {
                uid: entry.pw_uid,
                gid: entry.pw_gid,
            },
        )))
    })
}

/// `getgrnam_r`: a group's number by name; `None` if there is none. As [`user_by_name`].
pub fn group_by_name(name: &str) -> io::Result<Option<u32>> {
    let name = c_name(name)?;
    with_growing_buffer(|buffer| {
        let mut entry = MaybeUninit::<libc::group>::uninit();
        let mut found: *mut libc::group = std::ptr::null_mut();
        // SAFETY: as in `user_by_name`.
        let code = unsafe {
            libc::getgrnam_r(
                name.as_ptr(),
                entry.as_mut_ptr(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                &mut found,
            )
        };
        Ok(found_entry(code, found.is_null())?.then(|| {
            // SAFETY: `found` is not null, so the call succeeded and has filled `entry`.
            unsafe { entry.assume_init() }.gr_gid
        }))
    })
}

/// A name as C has it; one with a NUL inside is in no database.
fn c_name(name: &str) -> io::Result<CString> {
    CString::new(name).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// Whether a database call found an entry. Some NSS modules answer "none" with an errno
/// (getpwnam(3), "ERRORS").
fn found_entry(code: i32, null: bool) -> io::Result<bool> {
    match code {
        0 => Ok(!null),
        libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => Ok(false),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Runs a database call with a buffer that doubles while the call says `ERANGE`.
fn with_growing_buffer<T>(
    mut call: impl FnMut(&mut [u8]) -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    let mut size = 1024;
    loop {
        let mut buffer = vec![0_u8; size];
        match call(&mut buffer) {
            Err(error)
                if error.raw_os_error() == Some(libc::ERANGE) && size < MAX_DATABASE_ENTRY =>
            {
                size *= 2;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            answer => return answer,
        }
    }
}

/// Signals blocked for the calling thread, read from a descriptor instead (`signalfd`).
///
/// While it lives the signals are blocked; [`Signals::restore`] (or a drop) sets the mask back
/// to what it was. Threads and children made meanwhile inherit the blocked mask.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
    before: SignalMask,
}

/// A saved signal mask.
#[derive(Clone, Copy)]
pub struct SignalMask(libc::sigset_t);

impl std::fmt::Debug for SignalMask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalMask")
    }
}

/// One signal, as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Which.
    pub signal: Signal,
    /// Who sent it.
    pub from: Sender,
}

/// Who sent a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sender {
    /// The kernel itself: a terminal's keys and hang-up, which go to the whole foreground
    /// process group; the end of a child.
    Kernel,
    /// A process, by `kill` or the like: its id, 0 if it is in another pid namespace.
    Process(u32),
}

impl SignalMask {
    /// The calling thread's mask.
    pub fn current() -> io::Result<SignalMask> {
        change_mask(libc::SIG_BLOCK, &empty_set())
    }

    /// Makes this the calling thread's mask.
    pub fn set(&self) -> io::Result<()> {
        change_mask(libc::SIG_SETMASK, &self.0).map(|_| ())
    }
}

impl Signals {
    /// Blocks these signals and opens a descriptor (non-blocking, close-on-exec) to read them.
    ///
    /// In a process of several threads every thread must block them, or the kernel gives them
    /// to one that does not.
    pub fn block(signals: &[Signal]) -> io::Result<Signals> {
        let mut set = empty_set();
        for signal in signals {
            // SAFETY: `set` is an initialised signal set; a bad number is an error.
            check(unsafe { libc::sigaddset(&mut set, signal.as_raw()) })?;
        }
        let before = change_mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: `set` is initialised, and read only during the call.
        let fd = unsafe { libc::signalfd(-1, &set, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC) };
        if fd < 0 {
            let error = io::Error::last_os_error();
            before.set()?;
            return Err(error);
        }
        // SAFETY: a descriptor that the kernel just made and nobody else owns.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Signals { fd, before })
    }

    /// The next signal that waits; `None` when there is none.
    pub fn next(&self) -> io::Result<Option<Received>> {
        const SIZE: usize = size_of::<libc::signalfd_siginfo>();
        loop {
            let mut bytes = [0_u8; SIZE];
            match rustix::io::read(&self.fd, &mut bytes) {
                Ok(SIZE) => {
                    // SAFETY: signalfd_siginfo is integers and padding only, of this size: any
                    // bytes are a valid value.
                    let info: libc::signalfd_siginfo = unsafe { std::mem::transmute(bytes) };
                    let Some(signal) = i32::try_from(info.ssi_signo)
                        .ok()
                        .and_then(Signal::from_named_raw)
                    else {
                        continue;
                    };
                    let from = if info.ssi_code > 0 {
                        Sender::Kernel
                    } else {
                        Sender::Process(info.ssi_pid)
                    };
                    return Ok(Some(Received { signal, from }));
                }
                Ok(_) => return Err(io::Error::from_raw_os_error(libc::EIO)),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sets the mask back to what it was before [`Signals::block`]. Those that wait are
    /// delivered now, as the process handles them otherwise.
    pub fn restore(self) {
        drop(self);
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        // It can only fail for an invalid address or operation, and these are neither.
        let _ = self.before.set();
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// `pthread_sigmask`; what the mask was before.
fn change_mask(how: i32, set: &libc::sigset_t) -> io::Result<SignalMask> {
    let mut before = empty_set();
    // SAFETY: both sets are initialised; `before` is written, neither is kept.
    match unsafe { libc::pthread_sigmask(how, set, &mut before) } {
        0 => Ok(SignalMask(before)),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// A set without signals.
fn empty_set() -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the whole set and cannot fail on a valid pointer.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// A call's -1 as the error that `errno` has.
fn check(result: i32) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fork_is_refused_in_a_process_of_several_threads() {
        let (tell, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            let _ = wait.recv();
        });
        let error = fork().unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDEADLK));
        drop(tell);
        other.join().unwrap();
    }

    #[test]
    fn unshare_tells_several_threads_without_proc() {
        let (tell, wait) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || {
            let _ = wait.recv();
        });
        assert!(!unshare_says_single_threaded().unwrap());
        drop(tell);
        other.join().unwrap();
    }

    #[test]
    fn root_is_user_and_group_zero_by_name_and_by_number() {
        assert_eq!(user_by_name("root").unwrap(), Some(User { uid: 0, gid: 0 }));
        assert_eq!(group_by_name("root").unwrap(), Some(0));
        let (name, user) = user_by_number(0).unwrap().unwrap();
        assert_eq!((name.as_str(), user.uid), ("root", 0));
    }

    #[test]
    fn a_name_that_is_nobodys_is_none_and_not_an_error() {
        assert_eq!(user_by_name("no-such-user-here").unwrap(), None);
        assert_eq!(group_by_name("no-such-group-here").unwrap(), None);
        assert_eq!(user_by_name("").unwrap(), None);
    }

    #[test]
    fn a_name_with_a_nul_inside_is_refused() {
        let error = user_by_name("ro\0ot").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn the_buffer_grows_until_the_entry_fits_and_not_without_end() {
        let mut sizes = Vec::new();
        let answer = with_growing_buffer(|buffer| {
            sizes.push(buffer.len());
            if buffer.len() < 5000 {
                Err(io::Error::from_raw_os_error(libc::ERANGE))
            } else {
                Ok(Some(buffer.len()))
            }
        });
        assert_eq!(answer.unwrap(), Some(8192));
        assert_eq!(sizes, [1024, 2048, 4096, 8192]);

        let endless: io::Result<Option<()>> =
            with_growing_buffer(|_| Err(io::Error::from_raw_os_error(libc::ERANGE)));
        assert_eq!(endless.unwrap_err().raw_os_error(), Some(libc::ERANGE));
    }

    #[test]
    fn a_blocked_signal_is_read_with_its_sender_and_the_mask_comes_back() {
        // The mask is a thread's own, and so is a signal sent to the thread.
        std::thread::spawn(|| {
            let signals = Signals::block(&[Signal::USR2]).unwrap();
            assert_eq!(signals.next().unwrap(), None);
            // SAFETY: sends a signal, which is blocked here, to the calling thread.
            unsafe {
                libc::pthread_kill(libc::pthread_self(), libc::SIGUSR2);
            }
            assert_eq!(
                signals.next().unwrap(),
                Some(Received {
                    signal: Signal::USR2,
                    from: Sender::Process(std::process::id()),
                })
            );
            assert_eq!(signals.next().unwrap(), None);
            signals.restore();
            let now = SignalMask::current().unwrap();
            // SAFETY: an initialised set.
            assert_eq!(unsafe { libc::sigismember(&now.0, libc::SIGUSR2) }, 0);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn an_id_that_is_not_ours_is_refused_to_an_ordinary_user() {
        if rustix::process::geteuid().is_root() {
            // As root it would succeed and change the whole test process: see control's
            // process scenarios, which do it in a process of their own.
            assert!(users().unwrap().all_are(0));
            return;
        }
        assert_eq!(set_user(0).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert_eq!(set_group(0).unwrap_err().raw_os_error(), Some(libc::EPERM));
    }
}
