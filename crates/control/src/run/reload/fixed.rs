//! What a running process cannot change.
//!
//! Decides:  another identity refuses the reload, since the file would lie about who serves; what
//!           only the start needs, or what works on as it is, is told and stays.
//! Not here: what can be changed (everything else).

use crate::Plan;

/// What `new` says that cannot be had.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fixed {
    /// It refuses the reload.
    pub(super) refused: Vec<String>,
    /// It stays as it was.
    pub(super) stays: Vec<String>,
}

/// Compares the processes of two plans. The number of workers is compared where it is known what
/// the file says of it (compile/process.rs).
pub(super) fn fixed(old: &Plan, new: &Plan) -> Fixed {
    let mut fixed = Fixed::default();
    let (was, is) = (&old.process, &new.process);
    for (differs, what) in [
        (was.privileges.user != is.privileges.user, "user"),
        (was.privileges.group != is.privileges.group, "group"),
        (was.privileges.chroot != is.privileges.chroot, "chroot"),
        (was.privileges.keep != is.privileges.keep, "setcap"),
    ] {
        if differs {
            let text = format!("`{what}` cannot change while the process runs: restart it");
            fixed.refused.push(text);
        }
    }
    for (differs, what) in [
        (was.daemon != is.daemon, "`daemon`"),
        (was.pidfile != is.pidfile, "`pidfile`"),
        (old.pinned != new.pinned, "the processors of the workers"),
    ] {
        if differs {
            let text = format!("{what} stays as it was until the process is restarted");
            fixed.stays.push(text);
        }
    }
    fixed
}
