//! What else may refuse a socket call: security modules, Landlock, BPF programs on control groups.
//!
//! Decides:  which of them are looked for; that what cannot be looked at is not said to be absent.
//! Kernel:   Documentation/admin-guide/LSM; landlock(7); kernel/bpf/cgroup.c, 4.10 to 6.18
//! Not here: seccomp and a process's label, which are the process's own (process.rs).

use std::fs::{File, read_to_string};
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::snapshot::{CgroupProgram, Refusers, Snapshot};

/// Hooks of `enum bpf_attach_type` that hear a socket call.
const HOOKS: [(u32, &str); 9] = [
    (2, "sock_create"),
    (8, "bind4"),
    (9, "bind6"),
    (10, "connect4"),
    (11, "connect6"),
    (12, "post_bind4"),
    (13, "post_bind6"),
    (21, "getsockopt"),
    (22, "setsockopt"),
];

pub(crate) fn read(snapshot: &Snapshot) -> Refusers {
    let caller = snapshot.process(snapshot.caller);
    // Programs are on groups of the unified hierarchy, which may not be the one that names a unit. A process
    // that does not run yet will be in ours.
    let pid = caller.map_or(0, |caller| caller.pid);
    let of = if pid == 0 {
        "self".to_owned()
    } else {
        pid.to_string()
    };
    let (cgroup_programs, cgroup_programs_unread) = programs(
        read_to_string(format!("/proc/{of}/cgroup")),
        &read_to_string("/proc/self/mountinfo").unwrap_or_default(),
        |directory, hook| portcullis_sys::bpf::cgroup_programs(directory, hook, true),
    );
    Refusers {
        modules: modules(Path::new("/sys")),
        selinux_enforcing: selinux_enforces(Path::new("/sys")),
        landlock_abi: portcullis_sys::process::landlock_abi(),
        cgroup_programs,
        cgroup_programs_unread,
    }
}

/// The security modules that are on. Where securityfs is not mounted, as in many containers, those of which
/// other files tell.
fn modules(sys: &Path) -> Vec<String> {
    if let Ok(list) = read_to_string(sys.join("kernel/security/lsm")) {
        let names = list.trim().split(',').filter(|name| !name.is_empty());
        return names.map(str::to_owned).collect();
    }
    let apparmor = read_to_string(sys.join("module/apparmor/parameters/enabled"));
    let apparmor = apparmor.is_ok_and(|text| text.trim() == "Y");
    let selinux = sys.join("fs/selinux/enforce").exists();
    let known = [(apparmor, "apparmor"), (selinux, "selinux")];
    let on = known.into_iter().filter(|(on, _)| *on);
    on.map(|(_, name)| name.to_owned()).collect()
}

fn selinux_enforces(sys: &Path) -> Option<bool> {
    let text = read_to_string(sys.join("fs/selinux/enforce")).ok()?;
    Some(text.trim() == "1")
}

/// Those of the group and of the groups that it is in, and what kept one from being seen.
fn programs(
    groups: io::Result<String>,
    mountinfo: &str,
    query: impl Fn(&File, u32) -> io::Result<Vec<u32>>,
) -> (Vec<CgroupProgram>, Option<String>) {
    let mut found = Vec::new();
    let groups = match groups {
        Ok(groups) => groups,
        Err(error) => return (found, Some(format!("the caller's groups: {error}"))),
    };
    // A kernel without the hierarchy has no such programs.
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
        return (found, None);
    };
    let Some(mount) = unified_mount(mountinfo) else {
        return (
            found,
            Some("their hierarchy is not mounted here".to_owned()),
        );
    };
    let directory = match File::open(mount.join(group.trim_start_matches('/'))) {
        Ok(directory) => directory,
        Err(error) => return (found, Some(format!("the group {group}: {error}"))),
    };
    let mut unread = None;
    for (hook, name) in HOOKS {
        match query(&directory, hook) {
            Ok(programs) => found.extend(programs.into_iter().map(|program| CgroupProgram {
                cgroup: group.to_owned(),
                hook: name.to_owned(),
                program,
            })),
            Err(error) => unread = unread.or_else(|| why_unread(&error)),
        }
    }
    (found, unread)
}

/// Why a hook could not be asked. A hook or a call that this kernel does not know has no programs.
fn why_unread(error: &io::Error) -> Option<String> {
    let errno = Errno::from_io_error(error);
    match errno {
        Some(Errno::INVAL | Errno::NOSYS) => None,
        Some(Errno::PERM) => Some("to ask for them needs CAP_NET_ADMIN (EPERM)".to_owned()),
        _ => Some(error.to_string()),
    }
}

/// Where the unified hierarchy is mounted.
fn unified_mount(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo
        .lines()
        .find(|line| line.contains(" - cgroup2 "))?;
    Some(Path::new(line.split(' ').nth(4)?).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_modules_are_found_with_securityfs_and_without() {
        let place = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = place.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let sys = place.path();
        assert_eq!(modules(sys), [""; 0]);
        assert_eq!(selinux_enforces(sys), None);
        write("module/apparmor/parameters/enabled", "N\n");
        assert_eq!(modules(sys), [""; 0]);
        write("module/apparmor/parameters/enabled", "Y\n");
        assert_eq!(modules(sys), ["apparmor"]);
        write("fs/selinux/enforce", "0");
        assert_eq!(modules(sys), ["apparmor", "selinux"]);
        assert_eq!(selinux_enforces(sys), Some(false));
        write("fs/selinux/enforce", "1");
        assert_eq!(selinux_enforces(sys), Some(true));
        write("kernel/security/lsm", "lockdown,capability,landlock,yama");
        assert_eq!(modules(sys), ["lockdown", "capability", "landlock", "yama"]);
    }

    #[test]
    fn the_unified_hierarchy_is_found_beside_others() {
        let text = "31 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                    42 24 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(
            unified_mount(text).unwrap(),
            Path::new("/sys/fs/cgroup/unified")
        );
        assert_eq!(unified_mount("31 24 0:27 / /x rw - tmpfs x rw\n"), None);
    }

    #[test]
    fn programs_that_could_not_be_asked_for_are_not_said_to_be_absent() {
        let place = tempfile::tempdir().unwrap();
        let mounts = format!(
            "42 24 0:38 / {} rw - cgroup2 cgroup2 rw\n",
            place.path().display()
        );
        let groups = || Ok("1:cpu:/x\n0::/\n".to_owned());
        let fails = |errno: Errno| move |_: &File, _: u32| Err(errno.into());
        let unread = |errno| programs(groups(), &mounts, fails(errno)).1;
        assert!(unread(Errno::PERM).unwrap().contains("CAP_NET_ADMIN"));
        assert!(unread(Errno::BADF).is_some());
        assert_eq!(unread(Errno::INVAL), None, "no such hook, no program");
        assert_eq!(unread(Errno::NOSYS), None);
        // One hook that may be asked does not speak for the others.
        let (found, why) = programs(groups(), &mounts, |_, hook| match hook {
            8 => Ok(vec![7]),
            _ => Err(Errno::PERM.into()),
        });
        assert_eq!((found.len(), found[0].hook.as_str()), (1, "bind4"));
        assert!(why.is_some());
        let none = |_: &File, _: u32| Ok(Vec::new());
        assert_eq!(programs(groups(), &mounts, none), (Vec::new(), None));
        assert!(
            programs(groups(), "", none)
                .1
                .unwrap()
                .contains("not mounted")
        );
        assert!(
            programs(Err(Errno::NOENT.into()), &mounts, none)
                .1
                .is_some()
        );
        assert_eq!(programs(Ok(String::new()), &mounts, none).1, None);
    }
}
