//! Does a program file give privilege to who executes it, and does it do so while it is watched?
//!
//! Decides:  a set-user-ID, set-group-ID or capability file gives nothing to a process with
//!           `no_new_privs`, nor to one whose tracer has no power over what it would become.
//! Kernel:   fs/exec.c, bprm_fill_uid(); security/commoncap.c, cap_bprm_creds_from_file(),
//!           ptracer_capable(); include/uapi/linux/capability.h, struct vfs_cap_data, 5.3 to 6.18
//! Not here: what the missing privilege then breaks (recorder.rs).

use serde::Serialize;

/// `CAP_NET_BIND_SERVICE`.
pub const CAP_NET_BIND_SERVICE: u32 = 10;
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_SYS_PTRACE: u32 = 19;

const REVISION_MASK: u32 = 0xff00_0000;

/// What a program file would give.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Gift {
    /// The set-user-ID bit: the owner that the process would run as.
    pub user: Option<u32>,
    /// The set-group-ID bit: the group.
    pub group: Option<u32>,
    /// The permitted capabilities of its `security.capability`, as bits.
    pub capabilities: u64,
}

impl Gift {
    /// What a file's mode, owners and extended attribute say, for a process with these ids. What the
    /// process is already is no gift.
    pub fn of(
        mode: u32,
        (owner, group): (u32, u32),
        attribute: Option<&[u8]>,
        (uid, gid): (u32, u32),
    ) -> Gift {
        let set_user = mode & libc::S_ISUID != 0 && owner != uid;
        // Without the group's x bit it once meant mandatory locking.
        let both = libc::S_ISGID | libc::S_IXGRP;
        let set_group = mode & both == both && group != gid;
        Gift {
            user: set_user.then_some(owner),
            group: set_group.then_some(group),
            capabilities: attribute.and_then(permitted).unwrap_or(0),
        }
    }

    /// Whether it gives anything.
    pub fn is_any(self) -> bool {
        self != Gift::default()
    }

    /// Whether it would have let the process bind a port below 1024.
    pub fn lets_bind_low_ports(self) -> bool {
        self.user == Some(0) || self.has(CAP_NET_BIND_SERVICE)
    }

    fn has(self, capability: u32) -> bool {
        self.capabilities >> capability & 1 != 0
    }

    /// What it is, in words.
    pub fn words(self) -> String {
        let mut parts = Vec::new();
        if let Some(user) = self.user {
            parts.push(format!("user {user} (set-user-ID)"));
        }
        if let Some(group) = self.group {
            parts.push(format!("group {group} (set-group-ID)"));
        }
        if self.capabilities != 0 {
            parts.push(format!("{} (file capabilities)", names(self.capabilities)));
        }
        parts.join(" and ")
    }
}

fn names(capabilities: u64) -> String {
    let known = [
        (CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE"),
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (CAP_NET_RAW, "CAP_NET_RAW"),
        (CAP_SYS_PTRACE, "CAP_SYS_PTRACE"),
    ];
    let mut rest = capabilities;
    let mut names = Vec::new();
    for (number, name) in known {
        if rest >> number & 1 != 0 {
            names.push(name.to_owned());
            rest &= !(1 << number);
        }
    }
    if rest != 0 {
        names.push(format!("capabilities {rest:#x}"));
    }
    names.join(", ")
}

/// The permitted set of a `struct vfs_cap_data` of revision 1 to 3; `None` where it is none.
fn permitted(attribute: &[u8]) -> Option<u64> {
    let word = |index: usize| {
        let bytes = attribute.get(4 * index..4 * index + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let low = u64::from(word(1)?);
    match (word(0)? & REVISION_MASK) >> 24 {
        1 => Some(low),
        2 | 3 => Some(low | u64::from(word(3)?) << 32),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `setcap cap_net_bind_service=ep`, revision 2, as Linux writes it.
    const BIND_SERVICE: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn bits_and_attributes_give_what_the_process_is_not_already() {
        let table = [
            ("plain", 0o755, None, (1000, 1000), None, None, 0),
            ("set-user-ID", 0o4755, None, (1000, 1000), Some(0), None, 0),
            ("by its owner", 0o4755, None, (0, 1000), None, None, 0),
            ("set-group-ID", 0o2755, None, (1000, 1000), None, Some(0), 0),
            ("without x", 0o2745, None, (1000, 1000), None, None, 0),
            (
                "file caps",
                0o755,
                Some(&BIND_SERVICE[..]),
                (1000, 1000),
                None,
                None,
                1 << 10,
            ),
            (
                "cut short",
                0o755,
                Some(&BIND_SERVICE[..7]),
                (1000, 1000),
                None,
                None,
                0,
            ),
        ];
        for (label, mode, attribute, me, user, group, capabilities) in table {
            let gift = Gift::of(mode, (0, 0), attribute, me);
            let expected = Gift {
                user,
                group,
                capabilities,
            };
            assert_eq!(gift, expected, "{label}");
            assert_eq!(gift.is_any(), gift != Gift::default());
        }
        assert!(Gift::of(0o755, (0, 0), Some(&BIND_SERVICE), (1, 1)).lets_bind_low_ports());
        assert!(!Gift::of(0o4755, (5, 0), None, (1, 1)).lets_bind_low_ports());
    }

    #[test]
    fn a_gift_is_said_in_words() {
        let gift = Gift {
            user: Some(0),
            group: None,
            capabilities: 1 << 10 | 1 << 21,
        };
        let words = "user 0 (set-user-ID) and CAP_NET_BIND_SERVICE, capabilities 0x200000 (file capabilities)";
        assert_eq!(gift.words(), words);
    }
}
