//! The calls that drop privileges, and the proof that they did.
//!
//! Decides:  what is verified.
//! Kernel:   kernel/sys.c, kernel/capability.c, fs/open.c (`chroot`); 6.1 to 6.18
//! Not here: which steps (privileges.rs).

use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use portcullis_sys::process;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{IfRefused, Plan, Present, PrivilegeError, Remains, Step, Warning};

/// Where `chroot auto` may make its directory, in this order.
const JAIL_PARENTS: [&str; 3] = ["/tmp", "/run", "/"];
/// How many names are tried in one of them.
const JAIL_NAME_ATTEMPTS: u32 = 16;

/// What the process is now.
pub fn present() -> io::Result<Present> {
    let (users, groups) = (process::users()?, process::groups()?);
    let others = rustix::process::getgroups()?;
    Ok(Present {
        uid: users.effective,
        gid: groups.effective,
        other_groups: others.iter().any(|gid| gid.as_raw() != groups.effective),
        permitted: rustix::thread::capabilities(None)?.permitted,
        chroot_possible: rustix::thread::capability_is_in_bounding_set(CapabilitySet::SYS_CHROOT)?,
    })
}

/// Does every step, then verifies that all is as planned. Warnings are those that only doing it
/// could show.
///
/// Ids change for all threads; capabilities and no_new_privs are the calling thread's own and go
/// on to the threads that it starts. So call it before the workers are started; a thread that is
/// there already (a log writer) loses its capabilities with the user, which is verified.
///
/// After an error the process is half way: it must end.
pub fn apply(plan: &Plan) -> Result<Vec<Warning>, PrivilegeError> {
    let mut warnings = Vec::new();
    let mut dropped_groups = false;
    let mut namespace = false;
    // Before a chroot hides it. Where there is no /proc the other threads are not looked at.
    let threads = openat(
        CWD,
        "/proc/self/task",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .ok();
    for step in &plan.steps {
        if let Step::RaiseCapabilities(lost) = step
            && namespace
        {
            warnings.push(Warning::CapabilityMissing(*lost));
            continue;
        }
        let mut done = do_step(step);
        if matches!(step, Step::Chroot(_) | Step::ChrootAuto)
            && refused_to_ordinary_user(&done)
            // Where that is not possible either, the first refusal is the one to tell.
            && process::enter_user_namespace().is_ok()
        {
            namespace = true;
            done = do_step(step).and_then(|()| no_capabilities());
        }
        match (done, step) {
            (Ok(()), Step::DropGroups(_)) => dropped_groups = true,
            (Ok(()), _) => {}
            (Err(_), Step::DropGroups(IfRefused::Warn)) => warnings.push(Warning::GroupsStay),
            (Err(error), step) => {
                return Err(PrivilegeError::Step {
                    step: step.clone(),
                    error,
                });
            }
        }
    }
    verify(plan, dropped_groups, threads.as_ref())?;
    Ok(warnings)
}

/// Was it refused for want of CAP_SYS_CHROOT, to somebody who is not root?
fn refused_to_ordinary_user(done: &io::Result<()>) -> bool {
    let not_permitted = Some(rustix::io::Errno::PERM.raw_os_error());
    let refused = matches!(done, Err(error) if error.raw_os_error() == not_permitted);
    refused && !rustix::process::geteuid().is_root()
}

/// Gives up all capabilities: those over a user namespace have done their work.
fn no_capabilities() -> io::Result<()> {
    let none = CapabilitySet::empty();
    Ok(rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: none,
            permitted: none,
            inheritable: none,
        },
    )?)
}

fn do_step(step: &Step) -> io::Result<()> {
    match step {
        Step::Chroot(path) => chroot_to(path),
        Step::ChrootAuto => chroot_to_nowhere(),
        Step::ChangeDirectory => Ok(rustix::process::chdir("/")?),
        Step::DropGroups(_) => process::set_groups(&[]),
        Step::SetGroup(gid) => process::set_group(*gid),
        Step::KeepCapabilities => Ok(rustix::thread::set_keep_capabilities(true)?),
        Step::SetUser(uid) => process::set_user(*uid),
        Step::SetCapabilities(keep) => {
            rustix::thread::set_capabilities(
                None,
                CapabilitySets {
                    effective: *keep,
                    permitted: *keep,
                    inheritable: CapabilitySet::empty(),
                },
            )?;
            rustix::thread::clear_ambient_capability_set()?;
            Ok(rustix::thread::set_keep_capabilities(false)?)
        }
        Step::RaiseCapabilities(raise) => {
            let mut sets = rustix::thread::capabilities(None)?;
            sets.effective |= *raise;
            Ok(rustix::thread::set_capabilities(None, sets)?)
        }
        Step::NoNewPrivileges => Ok(rustix::thread::set_no_new_privs(true)?),
    }
}

/// Into a directory first, so that no path is looked up twice.
fn chroot_to(path: &Path) -> io::Result<()> {
    rustix::process::chdir(path)?;
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

/// A directory that nobody can name any more: it is empty, and since it is unlinked nothing can
/// be made in it.
fn chroot_to_nowhere() -> io::Result<()> {
    let path = make_jail()?;
    let entered = openat(
        CWD,
        &path,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|dir| rustix::process::fchdir(&dir));
    // Also after a failure: nothing is left behind. That it is gone is seen by its link count.
    let removed = std::fs::remove_dir(&path);
    entered?;
    removed?;
    if rustix::fs::stat(".")?.st_nlink != 0 {
        return Err(io::Error::from(rustix::io::Errno::NOTEMPTY));
    }
    rustix::process::chroot(".")?;
    Ok(rustix::process::chdir("/")?)
}

/// A new directory of mode 0: creating it fails where anything has the name.
fn make_jail() -> io::Result<PathBuf> {
    let mut last = io::Error::from(rustix::io::Errno::NOENT);
    for parent in JAIL_PARENTS {
        for attempt in 0..JAIL_NAME_ATTEMPTS {
            let pid = std::process::id();
            let path = Path::new(parent).join(format!(".portcullis-jail.{pid}.{attempt}"));
            match DirBuilder::new().mode(0o500).create(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => last = error,
                Err(error) => {
                    last = error;
                    break;
                }
            }
        }
    }
    Err(last)
}

fn verify(
    plan: &Plan,
    dropped_groups: bool,
    threads: Option<&OwnedFd>,
) -> Result<(), PrivilegeError> {
    let wrong = |remains| Err(PrivilegeError::NotDropped(remains));
    let changes = |wanted: fn(&Step) -> bool| plan.steps.iter().any(wanted);
    let user_changes = changes(|step| matches!(step, Step::SetUser(_)));
    let group_changes = changes(|step| matches!(step, Step::SetGroup(_)));

    let users = process::users().map_err(PrivilegeError::Verify)?;
    if user_changes && !users.all_are(plan.uid) {
        return wrong(Remains::Users([users.real, users.effective, users.saved]));
    }
    let groups = process::groups().map_err(PrivilegeError::Verify)?;
    if group_changes && !groups.all_are(plan.gid) {
        return wrong(Remains::Groups([
            groups.real,
            groups.effective,
            groups.saved,
        ]));
    }
    if dropped_groups {
        let left =
            rustix::process::getgroups().map_err(|error| PrivilegeError::Verify(error.into()))?;
        if !left.is_empty() {
            return wrong(Remains::SupplementaryGroups(left.len()));
        }
    }
    if let Some(expected) = plan.capabilities {
        verify_capabilities(expected)?;
    }
    if user_changes && plan.uid != 0 && process::set_user(0).is_ok() {
        return wrong(Remains::WayBack);
    }
    if let Some(threads) = threads
        && user_changes
    {
        verify_threads(plan, threads)?;
    }
    Ok(())
}

fn verify_capabilities(expected: CapabilitySet) -> Result<(), PrivilegeError> {
    let sets =
        rustix::thread::capabilities(None).map_err(|error| PrivilegeError::Verify(error.into()))?;
    for (found, expected) in [
        (sets.permitted, expected),
        (sets.effective, expected),
        (sets.inheritable, CapabilitySet::empty()),
    ] {
        if found != expected {
            return Err(PrivilegeError::NotDropped(Remains::Capabilities {
                found,
                expected,
            }));
        }
    }
    Ok(())
}

/// Looks at every thread's ids and permitted capabilities (`/proc/self/task/*/status`).
fn verify_threads(plan: &Plan, tasks: &OwnedFd) -> Result<(), PrivilegeError> {
    let failed = |error: rustix::io::Errno| PrivilegeError::Verify(error.into());
    for entry in rustix::fs::Dir::read_from(tasks).map_err(failed)? {
        let name = entry
            .map_err(failed)?
            .file_name()
            .to_string_lossy()
            .into_owned();
        let Ok(id) = name.parse::<u32>() else {
            continue; // `.` and `..`
        };
        let status = openat(
            tasks,
            format!("{name}/status"),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let text = match status
            .map_err(io::Error::from)
            .and_then(|fd| io::read_to_string(std::fs::File::from(fd)))
        {
            Ok(text) => text,
            // It ended meanwhile.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc_errno::ENOENT | libc_errno::ESRCH)
                ) =>
            {
                continue;
            }
            Err(error) => return Err(PrivilegeError::Verify(error)),
        };
        if let Some(line) = somebody_else(&text, plan) {
            return Err(PrivilegeError::NotDropped(Remains::Thread {
                id,
                line: line.to_owned(),
            }));
        }
    }
    Ok(())
}

mod libc_errno {
    //! Two numbers that `raw_os_error` gives, as patterns.
    pub const ENOENT: i32 = rustix::io::Errno::NOENT.raw_os_error();
    pub const ESRCH: i32 = rustix::io::Errno::SRCH.raw_os_error();
}

/// The line of a thread's status that says that it is not who it should be.
fn somebody_else<'a>(status: &'a str, plan: &Plan) -> Option<&'a str> {
    let group_changes = plan
        .steps
        .iter()
        .any(|step| matches!(step, Step::SetGroup(_)));
    let may_have = plan.capabilities.unwrap_or(CapabilitySet::all());
    status.lines().find(|line| {
        let Some((key, values)) = line.split_once(':') else {
            return false;
        };
        let mut values = values.split_whitespace();
        match key {
            "Uid" => values.any(|value| value.parse() != Ok(plan.uid)),
            "Gid" if group_changes => values.any(|value| value.parse() != Ok(plan.gid)),
            "CapPrm" => values.any(|value| {
                u64::from_str_radix(value, 16).map_or(true, |set| set & !may_have.bits() != 0)
            }),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            steps: vec![Step::SetGroup(98), Step::SetUser(99)],
            uid: 99,
            gid: 98,
            capabilities: Some(CapabilitySet::NET_RAW),
            warnings: Vec::new(),
            gives_up: true,
        }
    }

    #[test]
    fn a_thread_that_is_somebody_else_is_found_by_its_status() {
        let good =
            "Name:\tx\nUid:\t99\t99\t99\t99\nGid:\t98\t98\t98\t98\nCapPrm:\t0000000000002000\n";
        assert_eq!(somebody_else(good, &plan()), None);
        for (from, to, found) in [
            ("\t99\n", "\t0\n", "Uid:\t99\t99\t99\t0"),
            ("\t98\nCap", "\t0\nCap", "Gid:\t98\t98\t98\t0"),
            ("2000", "2080", "CapPrm:\t0000000000002080"),
            ("CapPrm:\t0000000000002000", "CapPrm:\t?", "CapPrm:\t?"),
        ] {
            assert_eq!(
                somebody_else(&good.replacen(from, to, 1), &plan()),
                Some(found)
            );
        }
    }

    #[test]
    fn the_process_can_say_what_it_is() {
        let present = present().unwrap();
        assert_eq!(present.uid, rustix::process::geteuid().as_raw());
        assert_eq!(present.gid, rustix::process::getegid().as_raw());
    }
}
