//! Namespaces, asked through their descriptors.
//!
//! Decides:  nothing.
//! Kernel:   ioctl_nsfs(2); fs/nsfs.c, ns_ioctl(), 4.9 to 6.18 (the owner's id since 4.11)
//! Not here: entering one (rustix).

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_PARENT: libc::c_ulong = 0xb702;
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

/// The user namespace that owns this namespace; of a user namespace, its parent.
///
/// # Errors
///
/// EPERM where it is outside of the caller's own user namespace.
pub fn user_namespace_of(namespace: impl AsFd) -> io::Result<OwnedFd> {
    related(namespace, NS_GET_USERNS)
}

/// The namespace that this user or process namespace was made in.
///
/// # Errors
///
/// EPERM for the outermost that the caller may see.
pub fn parent_of(namespace: impl AsFd) -> io::Result<OwnedFd> {
    related(namespace, NS_GET_PARENT)
}

fn related(namespace: impl AsFd, request: libc::c_ulong) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument.
    let fd = unsafe { libc::ioctl(namespace.as_fd().as_raw_fd(), request as _) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for this process, and it is close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The user who made a user namespace, as the caller's own counts.
///
/// # Errors
///
/// EINVAL for another kind of namespace.
pub fn owner_of(user_namespace: impl AsFd) -> io::Result<u32> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the kernel writes one uid_t, where `uid` is.
    let done = unsafe {
        libc::ioctl(
            user_namespace.as_fd().as_raw_fd(),
            NS_GET_OWNER_UID as _,
            &raw mut uid,
        )
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_network_namespace_is_owned_by_a_user_namespace() {
        let net = File::open("/proc/self/ns/net").unwrap();
        let Ok(owner) = user_namespace_of(&net) else {
            return; // A network namespace of somebody outside.
        };
        let owner = File::from(owner);
        let own = std::fs::metadata("/proc/self/ns/user").unwrap();
        assert_eq!(owner.metadata().unwrap().dev(), own.dev());
        assert!(owner_of(&owner).is_ok());
        assert!(owner_of(&net).is_err(), "no user namespace");
    }
}
