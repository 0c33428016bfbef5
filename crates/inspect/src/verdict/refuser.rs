//! Who else may refuse, where no rule of bind and listen does.
//!
//! Decides:  which of them are told for which caller, and by what one tells them apart.
//! Kernel:   security/security.c, security_socket_bind(); Documentation/admin-guide/LSM; seccomp(2);
//!           kernel/bpf/cgroup.c
//! Not here: finding them (refusers.rs, process.rs).

use portcullis_kernel_model::Errno;
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

/// Those that are present, for the caller of the snapshot.
#[must_use]
pub fn refusers(snapshot: &Snapshot) -> Vec<Refuser> {
    let caller = snapshot.process(snapshot.caller);
    let mut found: Vec<Refuser> = programs(snapshot).collect();
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

/// BPF programs on the caller's control groups.
fn programs(snapshot: &Snapshot) -> impl Iterator<Item = Refuser> + '_ {
    let all = snapshot.refusers.cgroup_programs.iter();
    let hears = |one: &&CgroupProgram| one.hook.contains("bind") || one.hook == "sock_create";
    all.filter(hears).map(|one| Refuser {
        name: "a BPF program",
        what: format!(
            "program {} on {} of the control group {}",
            one.program, one.hook, one.cgroup
        ),
        shows: "EPERM, or an error of its own; bpftool cgroup tree lists it",
        likely: true,
    })
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
