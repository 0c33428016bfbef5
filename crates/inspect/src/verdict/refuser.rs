//! Who else may refuse, where no rule of bind and listen does.
//!
//! Decides:  which of them are told for which caller, and by what one tells them apart.
//! Kernel:   security/security.c, security_socket_bind(); Documentation/admin-guide/LSM; seccomp(2);
//!           kernel/bpf/cgroup.c
//! Not here: finding them (refusers.rs, process.rs).

use portcullis_kernel_model::{Errno, Family};
use serde::Serialize;

use crate::snapshot::{CgroupProgram, Process, Snapshot};

/// Landlock has rules about TCP ports since this version of its interface.
const LANDLOCK_PORTS: u32 = 4;
const SECCOMP_FILTER: u8 = 2;

/// Somebody who may refuse a call that the kernel's own rules allow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refuser {
    /// Who: `SELinux`, `a BPF program`.
    pub name: &'static str,
    /// What is known of it here.
    pub what: String,
    /// By what one sees that it was the one.
    pub shows: &'static str,
    /// Whether something of this caller says that it is subject to it.
    pub likely: bool,
}

impl Refuser {
    /// Whether it can have answered so. Landlock and the modules with labels say EACCES and nothing else; a
    /// program and a filter choose.
    #[must_use]
    pub fn may_say(&self, errno: Errno) -> bool {
        let one_error = ["Landlock", "SELinux", "AppArmor", "Smack"].contains(&self.name);
        match errno {
            Errno::EACCES => true,
            Errno::EPERM => !one_error,
            _ => false,
        }
    }
}

/// Those that are present, for a socket of this family (of any, without one) and the caller of the snapshot.
#[must_use]
pub fn refusers(snapshot: &Snapshot, family: Option<Family>) -> Vec<Refuser> {
    let caller = snapshot.process(snapshot.caller);
    let programs = programs(snapshot, family).map(of_program);
    let mut found: Vec<Refuser> = programs.collect();
    found.extend(modules(snapshot, caller));
    if caller.and_then(|caller| caller.seccomp) == Some(SECCOMP_FILTER) {
        found.push(Refuser {
            name: "seccomp",
            what: "the caller has a filter".to_owned(),
            shows: "an error of the filter's own choice, often EPERM, or the end by SIGSYS",
            likely: true,
        });
    }
    found.extend(landlock(snapshot, caller));
    found
}

/// A process that forbids itself ports cannot be told from one that does not; but it needs `no_new_privs`
/// for it, or CAP_SYS_ADMIN.
fn landlock(snapshot: &Snapshot, caller: Option<&Process>) -> Option<Refuser> {
    let version = snapshot.refusers.landlock_abi?;
    let may_have = caller.and_then(|caller| caller.no_new_privs) == Some(true);
    let what = match may_have {
        true => "the caller has no_new_privs, and can have forbidden itself all ports but some",
        false => "a program can have forbidden itself all ports but some",
    };
    (version >= LANDLOCK_PORTS).then(|| Refuser {
        name: "Landlock",
        what: what.to_owned(),
        shows: "EACCES, in the program that did so and in what it started; since 6.15 an audit record LANDLOCK_ACCESS",
        likely: may_have,
    })
}

/// BPF programs on the caller's control groups that are asked when a socket of this family is made or bound.
pub(super) fn programs(
    snapshot: &Snapshot,
    family: Option<Family>,
) -> impl Iterator<Item = &CgroupProgram> {
    let all = snapshot.refusers.cgroup_programs.iter();
    let hears = move |one: &&CgroupProgram| match one.hook.as_str() {
        "sock_create" => true,
        "bind4" | "post_bind4" => family != Some(Family::Inet6),
        "bind6" | "post_bind6" => family != Some(Family::Inet),
        _ => false,
    };
    all.filter(hears)
}

/// A program in words: `program 7 on bind4 of the control group /x`.
pub(super) fn program(one: &CgroupProgram) -> String {
    format!(
        "program {} on {} of the control group {}",
        one.program, one.hook, one.cgroup
    )
}

fn of_program(one: &CgroupProgram) -> Refuser {
    Refuser {
        name: "a BPF program",
        what: program(one),
        shows: "EPERM, or an error of its own; bpftool cgroup tree lists it",
        likely: true,
    }
}

/// Security modules.
fn modules(snapshot: &Snapshot, caller: Option<&Process>) -> Vec<Refuser> {
    let known = &snapshot.refusers;
    let label = caller.and_then(|caller| caller.label.as_deref());
    let unconfined = label.is_some_and(|label| label.contains("unconfined"));
    let has = |module: &str| known.modules.iter().any(|on| on == module);
    let mut found = Vec::new();
    if known.selinux_enforcing == Some(true) {
        found.push(Refuser {
            name: "SELinux",
            what: match label {
                Some(label) => format!("it enforces, and the caller is {label}"),
                None => "it enforces".to_owned(),
            },
            shows: "EACCES, with an AVC in the audit log: ausearch -m avc -ts recent; semanage port -l lists the ports of each type",
            likely: !unconfined,
        });
    }
    if has("apparmor") {
        found.push(Refuser {
            name: "AppArmor",
            what: match label {
                Some(label) => format!("the caller's profile is {label}"),
                None => "the caller's profile is not known".to_owned(),
            },
            shows: "EACCES, with apparmor=\"DENIED\" in the kernel's log",
            // In complain mode it writes down what it would refuse, and refuses nothing.
            likely: label.is_some_and(|label| !label.ends_with("(complain)")) && !unconfined,
        });
    }
    for (module, name) in [("smack", "Smack"), ("tomoyo", "TOMOYO")] {
        if has(module) {
            found.push(Refuser {
                name,
                what: "it is on".to_owned(),
                shows: "EACCES, with a line in the kernel's log",
                likely: false,
            });
        }
    }
    found
}
