//! From root to the user that runs: chroot, groups, user, kept capabilities.
//!
//! Decides:  which steps, in which order, and what must be true afterwards.
//! Source:   HAProxy 3.5-dev5, src/haproxy.c, set_identity(), do_chroot(); src/linuxcap.c;
//!           configuration.txt 3.1 `user`, `group`, `chroot`, `setcap`.
//! Kernel:   kernel/cred.c, commit_creds(); security/commoncap.c, cap_task_fix_setuid(); 6.1 to 6.18
//! Not here: the calls themselves (sys, rustix), and the opener, which stays privileged.
//!
//! As HAProxy: `user` sets the user only; without `group` the group stays what it was (of root:
//! 0), which is warned of here. Numbers 0 mean "stay as you are". Differently: the supplementary
//! groups are dropped whenever root becomes another user (HAProxy keeps root's unless `group` is
//! given), no_new_privs is set before anything is served, and every claim is verified after the
//! drop: that ids and capabilities are what was asked, in every thread, and that the way back
//! is refused.
//!
//! A `chroot` that an ordinary user may not do is done in a user namespace, as HAProxy does since
//! 3.4; capabilities that `setcap` would have kept are lost by that, which is warned of.
//!
//! PR_SET_NO_NEW_PRIVS is always set: the worker executes no program, and what an intruder
//! executes must not gain rights through a set-user-id file. The opener, which may start a new
//! binary, does not set it. PR_SET_DUMPABLE is left as the kernel makes it: 0 after a change of
//! user (`fs.suid_dumpable`), so no core is written and other processes of that user cannot
//! attach.

use std::fmt;
use std::io;
use std::path::PathBuf;

use portcullis_config::model::{Capability, Chroot, Id};
use portcullis_sys::process::{self, User};
use rustix::thread::CapabilitySet;

pub use edge::{apply, present};

/// What the configuration asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `user` or `uid`.
    pub user: Option<Id>,
    /// `group` or `gid`.
    pub group: Option<Id>,
    /// `chroot`.
    pub chroot: Option<Chroot>,
    /// `setcap`.
    pub keep: Vec<Capability>,
}

/// The same with names looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user to become; `None` where `user` is not given.
    pub uid: Option<u32>,
    /// The group to become; `None` where `group` is not given.
    pub gid: Option<u32>,
    /// Where to be locked up.
    pub chroot: Option<Chroot>,
    /// Capabilities to keep.
    pub keep: CapabilitySet,
}

/// What the process is before anything is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Present {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Whether there are supplementary groups besides `gid`.
    pub other_groups: bool,
    /// Permitted capabilities.
    pub permitted: CapabilitySet,
    /// Whether CAP_SYS_CHROOT is in the bounding set.
    pub chroot_possible: bool,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make this directory the root, and go there.
    Chroot(PathBuf),
    /// Make a directory, unlink it, and make it the root: empty, nameless, unwritable.
    ChrootAuto,
    /// Go to `/`.
    ChangeDirectory,
    /// Leave all supplementary groups.
    DropGroups(IfRefused),
    /// Real, effective and saved group.
    SetGroup(u32),
    /// Let the permitted capabilities survive the change of user.
    KeepCapabilities,
    /// Real, effective and saved user.
    SetUser(u32),
    /// Permitted and effective are these, inheritable and ambient none.
    SetCapabilities(CapabilitySet),
    /// Make these, which are permitted, effective.
    RaiseCapabilities(CapabilitySet),
    /// What is executed gains nothing.
    NoNewPrivileges,
}

/// What a refusal of a step means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfRefused {
    /// The process must not go on.
    Fail,
    /// It is said, and the process goes on.
    Warn,
}

/// The steps, and what is to be true after them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// In this order.
    pub steps: Vec<Step>,
    /// Who the process then is.
    pub uid: u32,
    /// And its group.
    pub gid: u32,
    /// Capabilities that it then has, where they are known: after a change of user.
    pub capabilities: Option<CapabilitySet>,
    /// What the operator should hear.
    pub warnings: Vec<Warning>,
    /// Whether a step gives something up that opening a listener may need.
    gives_up: bool,
}

impl Plan {
    /// The user to whom listening sockets are given, where it is another one than now: what
    /// `ListenerSpec::owner_uid` is to be.
    pub fn owner_uid(&self, present: &Present) -> Option<u32> {
        (self.uid != present.uid).then_some(self.uid)
    }

    /// Whether anything that the opener needs is given up, so that a later open must go through
    /// a process that keeps it. Who is already the wanted user gives nothing up.
    pub fn needs_opener(&self) -> bool {
        self.gives_up
    }
}

/// What the operator should hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// Started as root without `chroot`.
    RootWithoutChroot,
    /// Stays root, and not because the configuration says so.
    RootWithoutUser,
    /// The user changes and the group does not.
    GroupStays {
        /// The group that stays.
        gid: u32,
    },
    /// Supplementary groups cannot be left.
    GroupsStay,
    /// A capability that `setcap` lists is not there to be kept.
    CapabilityMissing(CapabilitySet),
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Warning::RootWithoutChroot => f.write_str(
                "started as root without `chroot`: an intruder would see the whole file system; \
                 use `chroot auto`, or say `chroot /` if it is meant so",
            ),
            Warning::RootWithoutUser => f.write_str(
                "runs as root without `user`: an intruder would own the host; name an \
                 unprivileged `user` (with `setcap` for what it needs), or say `uid 0` if it is \
                 meant so",
            ),
            Warning::GroupStays { gid } => write!(
                f,
                "`user` without `group`: the group stays {gid}; name a `group` too"
            ),
            Warning::GroupsStay => f.write_str(
                "supplementary groups cannot be left: that needs root (`group` without it is of \
                 little use)",
            ),
            Warning::CapabilityMissing(set) => write!(
                f,
                "cannot keep {}: the process does not have it",
                names(*set)
            ),
        }
    }
}

/// Why privileges could not be dropped.
#[derive(Debug)]
pub enum PrivilegeError {
    /// `user` names nobody.
    NoSuchUser {
        /// The name.
        name: String,
    },
    /// `group` names no group.
    NoSuchGroup {
        /// The name.
        name: String,
    },
    /// The user database did not answer.
    Lookup {
        /// The name.
        name: String,
        /// What it said instead.
        error: io::Error,
    },
    /// The kernel refused a step.
    Step {
        /// Which.
        step: Step,
        /// How.
        error: io::Error,
    },
    /// The kernel refused to show what the process is now.
    Verify(io::Error),
    /// After all steps something is not as it should be. The process must end.
    NotDropped(Remains),
}

/// What is still there that should be gone, or gone that should be there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remains {
    /// User ids: real, effective, saved.
    Users([u32; 3]),
    /// Group ids: real, effective, saved.
    Groups([u32; 3]),
    /// This many supplementary groups.
    SupplementaryGroups(usize),
    /// These capabilities instead of those.
    Capabilities {
        /// Permitted, effective or inheritable.
        found: CapabilitySet,
        /// What was asked.
        expected: CapabilitySet,
    },
    /// The process could become root again.
    WayBack,
    /// A thread that was started earlier is still somebody else.
    Thread {
        /// Its id.
        id: u32,
        /// The line of its status that says so.
        line: String,
    },
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PrivilegeError::NoSuchUser { name } => write!(f, "there is no user `{name}`"),
            PrivilegeError::NoSuchGroup { name } => write!(f, "there is no group `{name}`"),
            PrivilegeError::Lookup { name, error } => write!(f, "cannot look up `{name}`: {error}"),
            PrivilegeError::Step { step, error } => write!(f, "cannot {step}: {error}"),
            PrivilegeError::Verify(error) => {
                write!(f, "cannot verify that privileges are dropped: {error}")
            }
            PrivilegeError::NotDropped(remains) => {
                write!(f, "privileges are not dropped: {remains}")
            }
        }
    }
}

impl std::error::Error for PrivilegeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PrivilegeError::Lookup { error, .. }
            | PrivilegeError::Step { error, .. }
            | PrivilegeError::Verify(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Chroot(path) => write!(f, "chroot to {}", path.display()),
            Step::ChrootAuto => f.write_str("chroot to an empty directory (`chroot auto`)"),
            Step::ChangeDirectory => f.write_str("go to `/`"),
            Step::DropGroups(_) => f.write_str("leave the supplementary groups"),
            Step::SetGroup(gid) => write!(f, "become group {gid}"),
            Step::KeepCapabilities => f.write_str("keep capabilities"),
            Step::SetUser(uid) => write!(f, "become user {uid}"),
            Step::SetCapabilities(set) if set.is_empty() => f.write_str("drop all capabilities"),
            Step::SetCapabilities(set) => write!(f, "drop all capabilities but {}", names(*set)),
            Step::RaiseCapabilities(set) => write!(f, "make {} effective", names(*set)),
            Step::NoNewPrivileges => f.write_str("give up new privileges (PR_SET_NO_NEW_PRIVS)"),
        }
    }
}

impl fmt::Display for Remains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Remains::Users([real, effective, saved]) => write!(
                f,
                "the user ids are {real} (real), {effective} (effective), {saved} (saved)"
            ),
            Remains::Groups([real, effective, saved]) => write!(
                f,
                "the group ids are {real} (real), {effective} (effective), {saved} (saved)"
            ),
            Remains::SupplementaryGroups(count) => write!(f, "{count} supplementary groups remain"),
            Remains::Capabilities { found, expected } => write!(
                f,
                "the capabilities are {} instead of {}",
                names(*found),
                names(*expected)
            ),
            Remains::WayBack => f.write_str("the process could become root again"),
            Remains::Thread { id, line } => write!(f, "thread {id} still has `{line}`"),
        }
    }
}

/// Names of capabilities, as `setcap` writes them where it knows them.
fn names(set: CapabilitySet) -> String {
    if set.is_empty() {
        return "none".to_owned();
    }
    let names: Vec<String> = set
        .iter_names()
        .map(|(name, _)| format!("cap_{}", name.to_ascii_lowercase()))
        .collect();
    names.join(",")
}

/// The kernel's bit of a capability of the configuration.
fn bit(capability: Capability) -> CapabilitySet {
    match capability {
        Capability::NetBindService => CapabilitySet::NET_BIND_SERVICE,
        Capability::NetAdmin => CapabilitySet::NET_ADMIN,
        Capability::NetRaw => CapabilitySet::NET_RAW,
        Capability::SysAdmin => CapabilitySet::SYS_ADMIN,
    }
}

/// Where names are looked up: the host's databases, or a test's table.
pub trait Names {
    /// A user by name.
    fn user(&self, name: &str) -> io::Result<Option<User>>;
    /// A group by name.
    fn group(&self, name: &str) -> io::Result<Option<u32>>;
}

/// The host's user and group databases (NSS).
#[derive(Debug, Clone, Copy, Default)]
pub struct HostNames;

impl Names for HostNames {
    fn user(&self, name: &str) -> io::Result<Option<User>> {
        process::user_by_name(name)
    }

    fn group(&self, name: &str) -> io::Result<Option<u32>> {
        process::group_by_name(name)
    }
}

/// A user's number. The caller adds the place to the error.
pub fn resolve_user(id: &Id, names: &dyn Names) -> Result<u32, PrivilegeError> {
    match id {
        Id::Number(uid) => Ok(*uid),
        Id::Name(name) => match names.user(name) {
            Ok(Some(user)) => Ok(user.uid),
            Ok(None) => Err(PrivilegeError::NoSuchUser { name: name.clone() }),
            Err(error) => Err(PrivilegeError::Lookup {
                name: name.clone(),
                error,
            }),
        },
    }
}

/// A group's number. The caller adds the place to the error.
pub fn resolve_group(id: &Id, names: &dyn Names) -> Result<u32, PrivilegeError> {
    match id {
        Id::Number(gid) => Ok(*gid),
        Id::Name(name) => match names.group(name) {
            Ok(Some(gid)) => Ok(gid),
            Ok(None) => Err(PrivilegeError::NoSuchGroup { name: name.clone() }),
            Err(error) => Err(PrivilegeError::Lookup {
                name: name.clone(),
                error,
            }),
        },
    }
}

/// Looks all names up.
pub fn resolve(wanted: &Wanted, names: &dyn Names) -> Result<Identity, PrivilegeError> {
    Ok(Identity {
        uid: match &wanted.user {
            Some(id) => Some(resolve_user(id, names)?),
            None => None,
        },
        gid: match &wanted.group {
            Some(id) => Some(resolve_group(id, names)?),
            None => None,
        },
        chroot: wanted.chroot.clone(),
        keep: wanted.keep.iter().map(|one| bit(*one)).collect(),
    })
}

/// What is to be done, from what is wanted and what the process is.
pub fn plan(identity: &Identity, present: &Present) -> Plan {
    let mut steps = Vec::new();
    let mut warnings = Vec::new();
    let root = present.uid == 0;
    match &identity.chroot {
        // Said so, and then there is nothing to do but to go there.
        Some(Chroot::Directory(path)) if path.as_os_str() == "/" => {
            steps.push(Step::ChangeDirectory);
        }
        Some(Chroot::Directory(path)) => steps.push(Step::Chroot(path.clone())),
        Some(Chroot::Auto) => steps.push(Step::ChrootAuto),
        None if root && present.chroot_possible => warnings.push(Warning::RootWithoutChroot),
        None => {}
    }
    // 0 is "stay", as in HAProxy.
    let new_uid = identity.uid.filter(|uid| *uid > 0);
    let new_gid = identity.gid.filter(|gid| *gid > 0);
    let leaves_root = root && new_uid.is_some();
    if present.other_groups && (leaves_root || new_gid.is_some()) {
        steps.push(Step::DropGroups(if root {
            IfRefused::Fail
        } else {
            IfRefused::Warn
        }));
    }
    if let Some(gid) = new_gid {
        steps.push(Step::SetGroup(gid));
    } else if leaves_root {
        warnings.push(Warning::GroupStays { gid: present.gid });
    }
    let mut capabilities = None;
    if let Some(uid) = new_uid {
        let keep = identity.keep & present.permitted;
        missing(identity.keep - keep, &mut warnings);
        if uid != present.uid {
            if !keep.is_empty() {
                steps.push(Step::KeepCapabilities);
            }
            steps.extend([Step::SetUser(uid), Step::SetCapabilities(keep)]);
            capabilities = Some(keep);
        } else {
            steps.push(Step::SetUser(uid));
            raise(keep, &mut steps);
        }
    } else if !root {
        let keep = identity.keep & present.permitted;
        missing(identity.keep - keep, &mut warnings);
        raise(keep, &mut steps);
    } else if identity.uid.is_none() {
        warnings.push(Warning::RootWithoutUser);
    }
    steps.push(Step::NoNewPrivileges);
    let uid = new_uid.unwrap_or(present.uid);
    let gid = new_gid.unwrap_or(present.gid);
    let locked_up = steps
        .iter()
        .any(|step| matches!(step, Step::Chroot(_) | Step::ChrootAuto));
    Plan {
        gives_up: locked_up || uid != present.uid || gid != present.gid,
        steps,
        uid,
        gid,
        capabilities,
        warnings,
    }
}

fn missing(set: CapabilitySet, warnings: &mut Vec<Warning>) {
    if !set.is_empty() {
        warnings.push(Warning::CapabilityMissing(set));
    }
}

fn raise(set: CapabilitySet, steps: &mut Vec<Step>) {
    if !set.is_empty() {
        steps.push(Step::RaiseCapabilities(set));
    }
}

mod edge;

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Present = Present {
        uid: 0,
        gid: 0,
        other_groups: true,
        permitted: CapabilitySet::all(),
        chroot_possible: true,
    };
    const USER: Present = Present {
        uid: 1000,
        gid: 1000,
        other_groups: false,
        permitted: CapabilitySet::empty(),
        chroot_possible: true,
    };

    struct Table;

    impl Names for Table {
        fn user(&self, name: &str) -> io::Result<Option<User>> {
            match name {
                "haproxy" => Ok(Some(User { uid: 99, gid: 98 })),
                "broken" => Err(io::Error::from(rustix::io::Errno::IO)),
                _ => Ok(None),
            }
        }

        fn group(&self, name: &str) -> io::Result<Option<u32>> {
            Ok((name == "haproxy").then_some(98))
        }
    }

    fn directory(path: &str) -> Option<Chroot> {
        Some(Chroot::Directory(path.into()))
    }

    #[test]
    fn names_become_numbers_and_a_user_does_not_bring_its_group() {
        let identity = resolve(
            &Wanted {
                user: Some(Id::Name("haproxy".into())),
                keep: vec![Capability::NetRaw, Capability::NetBindService],
                ..Wanted::default()
            },
            &Table,
        )
        .unwrap();
        assert_eq!((identity.uid, identity.gid), (Some(99), None));
        assert_eq!(
            identity.keep,
            CapabilitySet::NET_RAW | CapabilitySet::NET_BIND_SERVICE
        );
    }

    #[test]
    fn a_name_that_is_nobodys_is_an_error_that_says_it() {
        for (wanted, expected) in [
            (
                Wanted {
                    user: Some(Id::Name("nemo".into())),
                    ..Wanted::default()
                },
                "there is no user `nemo`",
            ),
            (
                Wanted {
                    group: Some(Id::Name("nemo".into())),
                    ..Wanted::default()
                },
                "there is no group `nemo`",
            ),
            (
                Wanted {
                    user: Some(Id::Name("broken".into())),
                    ..Wanted::default()
                },
                "cannot look up `broken`: Input/output error (os error 5)",
            ),
        ] {
            let error = resolve(&wanted, &Table).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
    }

    /// Rows: who starts, what is wanted; then the steps before the last (no new privileges),
    /// and the warnings.
    #[test]
    fn the_steps_are_in_the_order_that_the_kernel_needs() {
        let keep = CapabilitySet::NET_BIND_SERVICE;
        let rows = [
            (
                "everything",
                ROOT,
                (Some(99), Some(98), directory("/var/empty"), keep),
                vec![
                    Step::Chroot("/var/empty".into()),
                    Step::DropGroups(IfRefused::Fail),
                    Step::SetGroup(98),
                    Step::KeepCapabilities,
                    Step::SetUser(99),
                    Step::SetCapabilities(keep),
                ],
                vec![],
            ),
            (
                "user alone: the group stays and that is said",
                ROOT,
                (Some(99), None, Some(Chroot::Auto), CapabilitySet::empty()),
                vec![
                    Step::ChrootAuto,
                    Step::DropGroups(IfRefused::Fail),
                    Step::SetUser(99),
                    Step::SetCapabilities(CapabilitySet::empty()),
                ],
                vec![Warning::GroupStays { gid: 0 }],
            ),
            (
                "root and nothing said",
                ROOT,
                (None, None, None, keep),
                vec![],
                vec![Warning::RootWithoutChroot, Warning::RootWithoutUser],
            ),
            (
                "root on purpose",
                ROOT,
                (Some(0), Some(0), directory("/"), keep),
                vec![Step::ChangeDirectory],
                vec![],
            ),
            (
                "a container's root that may not chroot",
                Present {
                    chroot_possible: false,
                    other_groups: false,
                    ..ROOT
                },
                (Some(99), Some(98), None, CapabilitySet::empty()),
                vec![
                    Step::SetGroup(98),
                    Step::SetUser(99),
                    Step::SetCapabilities(CapabilitySet::empty()),
                ],
                vec![],
            ),
            (
                "an ordinary user, nothing wanted",
                USER,
                (None, None, None, CapabilitySet::empty()),
                vec![],
                vec![],
            ),
            (
                "an ordinary user who is already who is wanted, with a file capability",
                Present {
                    permitted: keep,
                    ..USER
                },
                (Some(1000), Some(1000), None, keep),
                vec![
                    Step::SetGroup(1000),
                    Step::SetUser(1000),
                    Step::RaiseCapabilities(keep),
                ],
                vec![],
            ),
            (
                "an ordinary user with groups that cannot be left",
                Present {
                    other_groups: true,
                    ..USER
                },
                (None, Some(1000), None, CapabilitySet::empty()),
                vec![Step::DropGroups(IfRefused::Warn), Step::SetGroup(1000)],
                vec![],
            ),
            (
                "a capability that is not there",
                USER,
                (None, None, None, keep),
                vec![],
                vec![Warning::CapabilityMissing(keep)],
            ),
        ];
        for (what, present, (uid, gid, chroot, keep), steps, warnings) in rows {
            let identity = Identity {
                uid,
                gid,
                chroot,
                keep,
            };
            let mut plan = plan(&identity, &present);
            assert_eq!(plan.steps.pop(), Some(Step::NoNewPrivileges), "{what}");
            assert_eq!(plan.steps, steps, "{what}");
            assert_eq!(plan.warnings, warnings, "{what}");
        }
    }

    #[test]
    fn whatever_is_wanted_the_user_changes_after_the_group_and_the_chroot_comes_first() {
        // Every combination of the inputs that matter.
        for bits in 0..64_u32 {
            let on = |bit: u32| bits & (1 << bit) != 0;
            let identity = Identity {
                uid: on(0).then_some(99),
                gid: on(1).then_some(98),
                chroot: on(2).then_some(Chroot::Auto),
                keep: if on(3) {
                    CapabilitySet::NET_RAW
                } else {
                    CapabilitySet::empty()
                },
            };
            let present = Present {
                other_groups: on(4),
                ..if on(5) { ROOT } else { USER }
            };
            let plan = plan(&identity, &present);
            let at = |wanted: fn(&Step) -> bool| plan.steps.iter().position(wanted);
            let chroot = at(|step| matches!(step, Step::ChrootAuto));
            let groups = at(|step| matches!(step, Step::DropGroups(_)));
            let group = at(|step| matches!(step, Step::SetGroup(_)));
            let keep = at(|step| matches!(step, Step::KeepCapabilities));
            let user = at(|step| matches!(step, Step::SetUser(_)));
            let set = at(|step| matches!(step, Step::SetCapabilities(_)));
            let order: Vec<usize> = [chroot, groups, group, keep, user, set]
                .into_iter()
                .flatten()
                .collect();
            assert!(order.is_sorted(), "{bits:#b}: {:?}", plan.steps);
            assert!(chroot.is_none_or(|at| at == 0), "{bits:#b}");
            assert_eq!(user.is_some(), on(0), "{bits:#b}");
            assert_eq!(plan.owner_uid(&present), on(0).then_some(99), "{bits:#b}");
            assert_eq!(plan.needs_opener(), on(0) || on(1) || on(2), "{bits:#b}");
        }
    }

    #[test]
    fn who_is_already_the_wanted_user_needs_no_opener() {
        let mut identity = Identity {
            uid: Some(1000),
            gid: Some(1000),
            chroot: None,
            keep: CapabilitySet::empty(),
        };
        assert!(!plan(&identity, &USER).needs_opener());
        assert!(plan(&identity, &ROOT).needs_opener());
        identity.chroot = directory("/");
        assert!(!plan(&identity, &USER).needs_opener());
        identity.chroot = directory("/var/empty");
        assert!(plan(&identity, &USER).needs_opener());
    }

    #[test]
    fn errors_and_warnings_are_one_line_each() {
        let error = PrivilegeError::Step {
            step: Step::SetUser(99),
            error: rustix::io::Errno::PERM.into(),
        };
        assert_eq!(
            error.to_string(),
            "cannot become user 99: Operation not permitted (os error 1)"
        );
        let remains = Remains::Capabilities {
            found: CapabilitySet::NET_RAW | CapabilitySet::SETUID,
            expected: CapabilitySet::empty(),
        };
        assert_eq!(
            PrivilegeError::NotDropped(remains).to_string(),
            "privileges are not dropped: the capabilities are cap_setuid,cap_net_raw instead of \
             none"
        );
        for warning in [
            Warning::RootWithoutChroot,
            Warning::RootWithoutUser,
            Warning::GroupStays { gid: 0 },
            Warning::GroupsStay,
            Warning::CapabilityMissing(CapabilitySet::NET_RAW),
        ] {
            assert!(!warning.to_string().contains('\n'));
        }
    }
}
