//! Creating a socket in another network namespace.
//!
//! Decides:  that a thread of its own enters the namespace, so the caller's never changes.
//! Kernel:   net/core/net_namespace.c, netns_install(); a socket belongs to the namespace of the
//!           thread that creates it, for ever. Names are files in /run/netns (ip-netns(8)).
//! Not here: the socket (open.rs).

use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::{Errno, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const NAMED: &str = "/run/netns";

/// The file of a namespace: a word without a slash is a name under /run/netns.
pub fn path_of(namespace: &str) -> PathBuf {
    if namespace.contains('/') {
        PathBuf::from(namespace)
    } else {
        Path::new(NAMED).join(namespace)
    }
}

/// Where entering a namespace stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CannotEnter(pub Errno);

/// Runs `f` inside a namespace. Needs `CAP_SYS_ADMIN` here and over the namespace.
pub(crate) fn inside<T: Send>(
    namespace: &str,
    f: impl FnOnce() -> T + Send,
) -> std::result::Result<T, CannotEnter> {
    if namespace.is_empty() || namespace == "." || namespace == ".." {
        return Err(CannotEnter(Errno::NOENT));
    }
    let file = open(&path_of(namespace)).map_err(CannotEnter)?;
    let enter = move || {
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&file),
            Some(LinkNameSpaceType::Network),
        )
        .map_err(CannotEnter)?;
        Ok(f())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, enter)
            .map_err(|error| CannotEnter(Errno::from_io_error(&error).unwrap_or(Errno::AGAIN)))?;
        match thread.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn open(path: &Path) -> Result<std::os::fd::OwnedFd> {
    // A pipe at the path would otherwise be waited for until somebody writes to it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    openat(CWD, path, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_a_name_and_a_path_is_a_path() {
        assert_eq!(path_of("blue"), Path::new("/run/netns/blue"));
        assert_eq!(path_of("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
    }

    #[test]
    fn a_namespace_that_is_not_there_is_enoent_and_nothing_runs() {
        for name in ["portcullis-no-such", "", ".", "..", "/proc/self/ns/nothing"] {
            let ran = std::sync::atomic::AtomicBool::new(false);
            let done = inside(name, || {
                ran.store(true, std::sync::atomic::Ordering::SeqCst)
            });
            assert_eq!(done.unwrap_err(), CannotEnter(Errno::NOENT), "{name}");
            assert!(!ran.into_inner());
        }
    }

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for file in ["/dev/null", "/", pipe.to_str().unwrap()] {
            assert_eq!(
                inside(file, || ()),
                Err(CannotEnter(Errno::INVAL)),
                "{file}"
            );
        }
    }
}
