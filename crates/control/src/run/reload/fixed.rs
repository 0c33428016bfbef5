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

/// Compares the processes of two plans. Workers that come get the processors that the new one says.
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
        (
            old.pinned.is_empty() != new.pinned.is_empty()
                || old
                    .pinned
                    .iter()
                    .zip(&new.pinned)
                    .any(|(was, is)| was != is),
            "the processors of the workers",
        ),
    ] {
        if differs {
            let text = format!("{what} stays as it was until the process is restarted");
            fixed.stays.push(text);
        }
    }
    fixed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::{HostLookup, Overrides};
    use portcullis_config::model::Id;

    fn plan(edit: impl FnOnce(&mut Plan)) -> Plan {
        let empty = portcullis_config::Config {
            global: Default::default(),
            frontends: vec![],
            backends: vec![],
            rings: vec![],
        };
        let (plan, _) = crate::compile(&empty, &HostLookup::default(), &Overrides::default());
        let mut plan = plan.unwrap();
        edit(&mut plan);
        plan
    }

    #[test]
    fn another_identity_is_refused_and_what_only_a_start_can_do_stays() {
        let old = plan(|_| {});
        assert_eq!(fixed(&old, &plan(|_| {})), Fixed::default());
        let refused = |edit: fn(&mut Plan)| fixed(&old, &plan(edit)).refused.join("");
        let user = refused(|plan| plan.process.privileges.user = Some(Id::Number(7)));
        assert_eq!(
            user,
            "`user` cannot change while the process runs: restart it"
        );
        let group = refused(|plan| plan.process.privileges.group = Some(Id::Number(7)));
        assert!(group.starts_with("`group`"), "{group}");
        let stays = fixed(
            &old,
            &plan(|plan| {
                plan.process.daemon = true;
                plan.process.pidfile = Some("/x".into());
                plan.pinned = vec![0];
                plan.process.maxconn = Some(9);
                plan.process.grace = Some(std::time::Duration::from_secs(1));
            }),
        );
        assert_eq!(stays.refused, Vec::<String>::new());
        assert_eq!(stays.stays.len(), 3, "{stays:?}");
        // More workers, and fewer: those that stay are where they were.
        let on = |cpus: &[u32]| plan(|plan| plan.pinned = cpus.to_vec());
        for (was, is, count) in [
            ([0, 1], [0, 1, 2].as_slice(), 0),
            ([0, 1], &[0], 0),
            ([0, 1], &[1], 1),
        ] {
            let stays = fixed(&on(&was), &on(is)).stays;
            assert_eq!(stays.len(), count, "{was:?} {is:?} {stays:?}");
        }
    }
}
