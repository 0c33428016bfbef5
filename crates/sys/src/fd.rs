//! Descriptors that this process was started with, known by number only.
//!
//! Decides:  that a number is never taken over: whoever uses it gets a duplicate of its own.
//! Kernel:   fs/fcntl.c, f_dupfd(); fs/file.c, 6.1 to 6.18
//! Not here: whether the descriptor is a socket that may be trusted (listener, inherited.rs).
//!
//! A number that some other part of the process owns as an `OwnedFd` must not be closed behind
//! its back, and nothing tells a number that was inherited from one that was opened since. So
//! the number stays what it is, close-on-exec, until `close_inherited`, which first makes sure
//! that it still is the same file.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::fstat;
use rustix::io::{Errno, FdFlags, Result, fcntl_dupfd_cloexec, fcntl_getfd, fcntl_setfd};

/// Duplicates keep clear of the standard streams.
const FIRST_DUPLICATE: RawFd = 3;

/// Which file a number stood for when it was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of an open file.
    pub fn of(fd: impl AsFd) -> Result<Self> {
        let stat = fstat(fd)?;
        Ok(Identity {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }
}

/// A descriptor of one's own for the file that `number` stands for, close-on-exec, and the
/// file's identity. `EBADF` where the number is not open.
pub fn duplicate_inherited(number: RawFd) -> Result<(OwnedFd, Identity)> {
    with_number(number, |fd| {
        let duplicate = fcntl_dupfd_cloexec(fd, FIRST_DUPLICATE)?;
        let identity = Identity::of(&duplicate)?;
        Ok((duplicate, identity))
    })
}

/// Sets `FD_CLOEXEC` on an inherited number, keeping its other descriptor flags.
pub fn close_inherited_on_exec(number: RawFd) -> Result<()> {
    with_number(number, |fd| {
        let flags = fcntl_getfd(fd)?;
        if flags.contains(FdFlags::CLOEXEC) {
            return Ok(());
        }
        fcntl_setfd(fd, flags | FdFlags::CLOEXEC)
    })
}

/// Closes an inherited number if it still stands for the same file; false where it does not.
///
/// The standard streams are refused with `EINVAL`: their numbers would be given out again.
pub fn close_inherited(number: RawFd, identity: Identity) -> Result<bool> {
    if number < FIRST_DUPLICATE {
        return Err(Errno::INVAL);
    }
    let same = with_number(number, |fd| Ok(Identity::of(fd)? == identity))?;
    if same {
        // SAFETY: the number is open and is the very file that this process was given under it,
        // as a socket's inode is not reused while it is open; whoever started the process gave
        // the number to it, and the other users of it in this process hold duplicates.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
    Ok(same)
}

fn with_number<T>(number: RawFd, f: impl FnOnce(BorrowedFd<'_>) -> Result<T>) -> Result<T> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the number is not -1, and is used for calls only that fail with EBADF where it is
    // not open; it is not closed through the borrow.
    f(unsafe { BorrowedFd::borrow_raw(number) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    fn a_file() -> OwnedFd {
        std::fs::File::open("/dev/null").unwrap().into()
    }

    #[test]
    fn a_number_that_is_not_open_is_ebadf() {
        assert_eq!(duplicate_inherited(-1).unwrap_err(), Errno::BADF);
        assert_eq!(duplicate_inherited(1_000_000).unwrap_err(), Errno::BADF);
        assert_eq!(close_inherited_on_exec(-7).unwrap_err(), Errno::BADF);
    }

    #[test]
    fn a_duplicate_is_close_on_exec_and_leaves_the_number_open() {
        let original = a_file();
        let (duplicate, _) = duplicate_inherited(original.as_raw_fd()).unwrap();
        assert_ne!(duplicate.as_raw_fd(), original.as_raw_fd());
        assert!(fcntl_getfd(&duplicate).unwrap().contains(FdFlags::CLOEXEC));
        drop(duplicate);
        assert!(fcntl_getfd(&original).is_ok());
    }

    #[test]
    fn only_the_same_file_is_closed() {
        let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let (other, _other_peer) = std::os::unix::net::UnixStream::pair().unwrap();
        let number = OwnedFd::from(socket).into_raw_fd();
        let (duplicate, identity) = duplicate_inherited(number).unwrap();
        assert_eq!(close_inherited(other.as_raw_fd(), identity), Ok(false));
        assert!(fcntl_getfd(&other).is_ok());
        assert_eq!(close_inherited(number, identity), Ok(true));
        assert!(fcntl_getfd(&duplicate).is_ok());
        assert_eq!(close_inherited(1, identity), Err(Errno::INVAL));
    }
}
