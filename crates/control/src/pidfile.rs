//! The file that says whom to signal.
//!
//! Decides:  when it is written and by whom it may be removed.
//! Source:   HAProxy 3.5-dev5, src/haproxy.c, handle_pidfile(); configuration.txt 3.1 `pidfile`.
//! Not here: which process's id it is (the opener's where there is one, see daemon.rs).
//!
//! HAProxy unlinks the file and writes it anew, so that a reader can find none or half of one,
//! and never removes it. Here it appears whole (written aside, then renamed) and goes with the
//! process, unless another process has put its own there meanwhile.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A pid and a newline are no longer than this; what is longer is not ours.
const MAX_LENGTH: u64 = 32;

/// A pid file that names a process of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pidfile {
    path: PathBuf,
    pid: u32,
}

impl Pidfile {
    /// Writes the file, in the place of one that is there. Readable by all (0644 less the umask).
    ///
    /// The directory must be writable to the process: to be called before privileges are dropped
    /// and before a chroot.
    pub fn write(path: &Path, pid: u32) -> io::Result<Pidfile> {
        let pidfile = Pidfile::claim(path, pid)?;
        let aside = pidfile.aside();
        let written = write_new(&aside, pid).and_then(|()| fs::rename(&aside, &pidfile.path));
        if let Err(error) = written {
            // Ours, or not there: what it is changes nothing about the error.
            if error.kind() != io::ErrorKind::AlreadyExists {
                let _ = fs::remove_file(&aside);
            }
            return Err(error);
        }
        Ok(pidfile)
    }

    /// A file that another process of ours (the worker) writes, or has written, with this pid.
    ///
    /// For the opener, which removes it in the end. A relative path is made absolute here.
    pub fn claim(path: &Path, pid: u32) -> io::Result<Pidfile> {
        Ok(Pidfile {
            path: std::path::absolute(path)?,
            pid,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the file if it still names our process; says whether it did.
    ///
    /// A file that another process put there, none, and one that we may not remove (privileges
    /// are dropped, the file is outside the chroot) are left: the process ends all the same.
    pub fn remove_if_ours(&self) -> bool {
        read_pid(&self.path) == Some(self.pid) && fs::remove_file(&self.path).is_ok()
    }

    /// Where it is written before it is renamed: beside it, so on the same file system.
    fn aside(&self) -> PathBuf {
        let mut name = std::ffi::OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", self.pid));
        self.path.with_file_name(name)
    }
}

/// The process id that a file holds, if it is a regular file that holds just that.
pub fn read_pid(path: &Path) -> Option<u32> {
    let file = OpenOptions::new()
        .read(true)
        // A FIFO in its place must not stop us.
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_LENGTH).read_to_string(&mut text).ok()?;
    text.trim_end().parse().ok()
}

/// A new file: an old one, or a link that somebody laid, is an error.
fn write_new(path: &Path, pid: u32) -> io::Result<()> {
    let open = || {
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
    };
    let mut file: File = match open() {
        // Left by a process that had our id and died half way.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::remove_file(path)?;
            open()?
        }
        other => other?,
    };
    file.write_all(format!("{pid}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    #[test]
    fn the_file_holds_the_pid_and_a_newline_and_nothing_is_left_beside_it() {
        let dir = directory();
        let path = dir.path().join("portcullis.pid");
        let pidfile = Pidfile::write(&path, 4711).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "4711\n");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        assert!(pidfile.remove_if_ours());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_old_file_is_replaced_in_one_step() {
        let dir = directory();
        let path = dir.path().join("pid");
        fs::write(&path, "1\n").unwrap();
        // Whoever has the old file open still reads the old text: it was not written over.
        let mut old = File::open(&path).unwrap();
        Pidfile::write(&path, 2).unwrap();
        let mut text = String::new();
        old.read_to_string(&mut text).unwrap();
        assert_eq!(text, "1\n");
        assert_eq!(read_pid(&path), Some(2));
    }

    #[test]
    fn a_file_that_another_process_wrote_is_not_removed() {
        let dir = directory();
        let path = dir.path().join("pid");
        let ours = Pidfile::write(&path, 10).unwrap();
        Pidfile::write(&path, 11).unwrap();
        assert!(!ours.remove_if_ours());
        assert_eq!(read_pid(&path), Some(11));
    }

    #[test]
    fn a_file_that_is_gone_or_is_no_pid_is_left_alone() {
        let dir = directory();
        let path = dir.path().join("pid");
        let ours = Pidfile::claim(&path, 10).unwrap();
        assert!(!ours.remove_if_ours());
        for text in [
            "",
            "10 11\n",
            "ten\n",
            "10\0",
            "999999999999999999999999999",
        ] {
            fs::write(&path, text).unwrap();
            assert!(!ours.remove_if_ours(), "{text:?}");
        }
        fs::write(&path, format!("10{}", "\n".repeat(100))).unwrap();
        assert!(ours.remove_if_ours());
    }

    #[test]
    fn a_link_laid_at_the_temporary_name_is_not_followed() {
        let dir = directory();
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let path = dir.path().join("pid");
        let aside = Pidfile::claim(&path, 10).unwrap().aside();
        symlink(&victim, &aside).unwrap();
        Pidfile::write(&path, 10).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let dir = directory();
        let error = Pidfile::write(&dir.path().join("no/such/pid"), 1).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_file_is_readable_by_all_and_writable_by_its_owner_only() {
        let dir = directory();
        let path = dir.path().join("pid");
        Pidfile::write(&path, 1).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o133, 0);
    }

    #[test]
    fn a_fifo_in_its_place_stops_nobody() {
        let dir = directory();
        let path = dir.path().join("pid");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        assert_eq!(read_pid(&path), None);
    }
}
