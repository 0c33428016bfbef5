//! Giving a Unix socket its path: beside the old one first, then in its place without a gap.
//!
//! Decides:  the name to bind to, what may be replaced, how it is put back on failure.
//! Kernel:   net/unix/af_unix.c, unix_bind_bsd(), unix_find_bsd(); rename(2) RENAME_EXCHANGE
//! Source:   HAProxy binds to `path.PID.tmp`, links the old socket to `path.PID.bak`, renames.
//! Not here: bind and listen (open.rs).
//!
//! The socket is bound to `path.PID.tmp`, gets its owner and mode, listens, and only then
//! exchanges its name with the old one in one step. The old one stays at the temporary name until
//! the whole set is open, and goes back if it does not open. Nothing but a socket is ever removed.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, RenameFlags, Stat, Uid, chmodat, chownat, link, lstat,
    rename, renameat_with, stat, unlink,
};
use rustix::io::{Errno, Result};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use crate::address::UNIX_PATH_MAX;
use crate::error::Cause;
use crate::listener::SocketFile;
use crate::spec::UnixPermissions;

/// How often a path that changes under our hands is looked at again.
const TRIES: u32 = 4;
/// How many names beside a path are tried, where sockets that are open have some of them.
const NAMES: u32 = 256;

/// A path that a socket is to take, and the free name beside it.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    path: PathBuf,
    beside: PathBuf,
}

/// A socket bound to the name beside its path; dropped, the name is removed.
#[derive(Debug)]
pub(crate) struct Beside {
    place: Place,
    file: SocketFile,
    done: bool,
}

/// A socket that has its path; dropped before `keep`, the old one gets the path back.
#[derive(Debug)]
pub(crate) struct Placed {
    place: Place,
    file: SocketFile,
    old: Option<Old>,
    kept: bool,
}

/// The socket that had the path, and the name that it has now.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Old {
    live: bool,
    at: PathBuf,
}

impl Place {
    /// Finds the name beside the path, and makes sure that nothing but a socket is in the way.
    pub fn find(path: &Path) -> std::result::Result<Place, Cause> {
        let length = path.as_os_str().len();
        if length == 0 {
            return Err(Errno::NOENT.into());
        }
        if length > UNIX_PATH_MAX {
            let max = UNIX_PATH_MAX;
            return Err(Cause::PathTooLong { length, max });
        }
        socket_at(path)?;
        for number in 0..NAMES {
            let beside = beside(path, std::process::id(), number)?;
            if socket_at(&beside)?.is_some() {
                if is_live(&beside) {
                    // Another one on its way: of this process, or of one that has the same
                    // number in another container.
                    continue;
                }
                // Left behind by an earlier process of our number.
                unlink(&beside)?;
            }
            let path = path.to_owned();
            return Ok(Place { path, beside });
        }
        Err(Errno::BUSY.into())
    }

    /// The address to bind to.
    pub fn address(&self) -> Result<SocketAddrUnix> {
        SocketAddrUnix::new(self.beside.as_path())
    }

    /// The socket is bound now: takes care of its file.
    pub fn bound(self) -> Result<Beside> {
        let stat = lstat(&self.beside)?;
        Ok(Beside {
            file: socket_file(&self.path, &stat),
            place: self,
            done: false,
        })
    }

    /// Takes a path that is free; EEXIST where it is not.
    fn take_free(&self) -> Result<()> {
        let (beside, path) = (&self.beside, &self.path);
        match renameat_with(CWD, beside, CWD, path, RenameFlags::NOREPLACE) {
            // The file system does not know the flag: a link does not replace either.
            Err(Errno::INVAL | Errno::NOSYS) => {
                link(beside, path)?;
                unlink(beside)
            }
            done => done,
        }
    }

    /// Takes the path from the socket that has it, and says where that one is now.
    fn exchange(&self) -> Result<PathBuf> {
        let (beside, path) = (&self.beside, &self.path);
        match renameat_with(CWD, beside, CWD, path, RenameFlags::EXCHANGE) {
            Ok(()) => Ok(beside.clone()),
            // The file system does not know the flag: a second name keeps the old one.
            Err(Errno::INVAL | Errno::NOSYS) => {
                let backup = beside.with_extension("bak");
                link(path, &backup)?;
                if let Err(errno) = rename(beside, path) {
                    let _ = unlink(&backup);
                    return Err(errno);
                }
                Ok(backup)
            }
            Err(errno) => Err(errno),
        }
    }

    fn old_is_a_socket(&self) -> std::result::Result<bool, Cause> {
        Ok(socket_at(&self.path)?.is_some())
    }
}

impl Beside {
    /// Owner and mode, before anybody can connect.
    pub fn set_permissions(&self, permissions: UnixPermissions) -> Result<()> {
        let path = &self.place.beside;
        let uid = permissions.uid.map(user).transpose()?;
        let gid = permissions.gid.map(group).transpose()?;
        if uid.is_some() || gid.is_some() {
            chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = permissions.mode {
            chmodat(
                CWD,
                path,
                Mode::from_raw_mode(mode & 0o7777),
                AtFlags::empty(),
            )?;
        }
        Ok(())
    }

    /// The file, by its final path.
    pub fn file(&self) -> &SocketFile {
        &self.file
    }

    /// Takes the path, in one step, whether or not an old socket has it.
    pub fn take_path(mut self) -> std::result::Result<Placed, Cause> {
        for _ in 0..TRIES {
            let old = self.place.old_is_a_socket()?;
            let live = old && is_live(&self.place.path);
            let taken = if old {
                self.place.exchange().map(Some)
            } else {
                self.place.take_free().map(|()| None)
            };
            match taken {
                Ok(at) => {
                    self.done = true;
                    let placed = Placed {
                        place: self.place.clone(),
                        file: self.file.clone(),
                        old: at.map(|at| Old { live, at }),
                        kept: false,
                    };
                    // Something else may have come to the path since it was looked at: then
                    // dropping `placed` puts it back.
                    if let Some(old) = &placed.old {
                        socket_at(&old.at)?;
                    }
                    return Ok(placed);
                }
                // The path came or went in between: look again.
                Err(Errno::EXIST | Errno::NOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Err(Errno::BUSY.into())
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if !self.done {
            let _ = remove_if_same(&SocketFile {
                path: self.place.beside.clone(),
                ..self.file.clone()
            });
        }
    }
}

impl Placed {
    /// Was there an old socket, and was it still open somewhere?
    pub fn replaced_live(&self) -> Option<bool> {
        self.old.as_ref().map(|old| old.live)
    }

    /// The set is open: the old socket's file can go.
    pub fn keep(mut self) {
        self.kept = true;
        if let Some(old) = &self.old
            && matches!(socket_at(&old.at), Ok(Some(_)))
        {
            let _ = unlink(&old.at);
        }
    }
}

impl Drop for Placed {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let Some(old) = &self.old else {
            let _ = remove_if_same(&self.file);
            return;
        };
        // In one step: back by exchange, or over ours where names cannot be exchanged.
        let path = &self.place.path;
        if renameat_with(CWD, &old.at, CWD, path, RenameFlags::EXCHANGE).is_ok() {
            let _ = remove_if_same(&SocketFile {
                path: old.at.clone(),
                ..self.file.clone()
            });
        } else {
            let _ = rename(&old.at, path);
        }
    }
}

/// A user id for chown, to which 2^32 - 1 means "leave it" and would change nothing: EINVAL.
pub(crate) fn user(id: u32) -> Result<Uid> {
    match id {
        u32::MAX => Err(Errno::INVAL),
        id => Ok(Uid::from_raw(id)),
    }
}

fn group(id: u32) -> Result<Gid> {
    match id {
        u32::MAX => Err(Errno::INVAL),
        id => Ok(Gid::from_raw(id)),
    }
}

/// Do two paths lead to one name, whatever they look like (`/run/door` and `/var/run/door`)?
pub(crate) fn same_name(one: &Path, other: &Path) -> bool {
    let directory = |path: &Path| {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
        let stat = stat(parent.unwrap_or(Path::new("."))).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    if one == other {
        return true;
    }
    let (Some(name), Some(other_name)) = (one.file_name(), other.file_name()) else {
        return false;
    };
    name == other_name && directory(one).is_some_and(|at| directory(other) == Some(at))
}

/// `path.PID.tmp`, as HAProxy names it, or a shorter name in the same directory where that is
/// too long to be bound; the next ones for a `number` that is not 0.
fn beside(path: &Path, pid: u32, number: u32) -> std::result::Result<PathBuf, Cause> {
    let mut long: OsString = path.as_os_str().to_owned();
    match number {
        0 => long.push(format!(".{pid}.tmp")),
        _ => long.push(format!(".{pid}.{number}.tmp")),
    }
    if long.len() <= UNIX_PATH_MAX {
        return Ok(PathBuf::from(long));
    }
    // 256 names by the path's bytes, so that two long paths of one directory seldom share one.
    let sum = path.as_os_str().as_bytes().iter().fold(0u32, |sum, b| {
        sum.wrapping_mul(31).wrapping_add(u32::from(*b))
    });
    let parent = path.parent().unwrap_or(Path::new(""));
    let short = parent.join(format!(".{pid:x}{:02x}", sum.wrapping_add(number) % 256));
    let length = short.as_os_str().len();
    if length > UNIX_PATH_MAX {
        let max = UNIX_PATH_MAX;
        return Err(Cause::PathTooLong { length, max });
    }
    Ok(short)
}

/// The socket at a path; `None` where nothing is, an error where something else is.
fn socket_at(path: &Path) -> std::result::Result<Option<Stat>, Cause> {
    match lstat(path) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => Ok(Some(stat)),
        Ok(_) => Err(Cause::NotASocket {
            path: path.display().to_string(),
        }),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Is the socket at a path open somewhere, as far as can be told? Asked without making a
/// connection: a datagram socket that connects to a stream socket is told EPROTOTYPE if there is
/// one, ECONNREFUSED if not.
fn is_live(path: &Path) -> bool {
    let probe = || -> Result<()> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let probe: OwnedFd = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
        connect(&probe, &SocketAddrUnix::new(path)?)
    };
    !matches!(probe(), Err(Errno::CONNREFUSED | Errno::NOENT))
}

/// The socket's file at a path, whosever it is.
pub(crate) fn file_at(path: &Path) -> Option<SocketFile> {
    let stat = socket_at(path).ok().flatten()?;
    Some(socket_file(path, &stat))
}

fn socket_file(path: &Path, stat: &Stat) -> SocketFile {
    SocketFile {
        path: path.to_owned(),
        device: stat.st_dev,
        inode: stat.st_ino,
    }
}

/// Removes a socket's file if the path still leads to it.
pub(crate) fn remove_if_same(file: &SocketFile) -> Result<bool> {
    match lstat(&file.path) {
        Ok(stat) if (stat.st_dev, stat.st_ino) == (file.device, file.inode) => {
            unlink(&file.path).map(|()| true)
        }
        Ok(_) | Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}
