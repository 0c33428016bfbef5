//! Why a program cannot be watched, and how it is found.
//!
//! Decides:  the words and the advice of each refusal; where a command's file is looked for.
//! Kernel:   kernel/ptrace.c, ptrace_attach(); security/yama/yama_lsm.c, yama_ptrace_access_check();
//!           kernel/seccomp.c, seccomp_prepare_filter(), 5.6 to 6.18
//! Not here: the exit code of each (who runs it).

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use portcullis_sys::trace::{Failure, Stage};

use crate::facts;

/// Where programs are looked for if `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Why a program cannot be watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// There is no such program.
    NotFound {
        /// As it was given.
        name: String,
    },
    /// The file is not executable, or the kernel cannot execute it.
    NotExecutable {
        /// Its path.
        path: String,
        /// Why.
        errno: i32,
    },
    /// The kernel refuses one of the means.
    Refused {
        /// Which.
        stage: Stage,
        /// Why.
        errno: i32,
        /// This process is traced itself, by this one.
        traced_by: i32,
        /// `kernel.yama.ptrace_scope`, where there is one.
        yama: Option<u8>,
    },
    /// A request on a watched process failed in a way that leaves nothing to do.
    Lost {
        /// Why.
        errno: i32,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = portcullis_sys::errno::describe;
        match self {
            Error::NotFound { name } => write!(f, "cannot run {name}: there is no such program"),
            Error::NotExecutable { path, errno } => {
                write!(f, "cannot run {path}: {}", said(*errno))
            }
            Error::Lost { errno } => {
                write!(f, "cannot watch the program any more: {}", said(*errno))
            }
            Error::Refused {
                stage,
                errno,
                traced_by,
                yama,
            } => {
                let what = match stage {
                    Stage::Fork => "make a process",
                    Stage::Seize => "trace the program (ptrace)",
                    Stage::NoNewPrivs => "set no_new_privs",
                    Stage::Filter => "install a system call filter (seccomp)",
                    Stage::Exec => "execute the program",
                };
                write!(f, "cannot {what}: {}", said(*errno))?;
                match (stage, traced_by, yama) {
                    (Stage::Seize, 1.., _) => write!(
                        f,
                        "\n  rule:   a process has one tracer, and process {traced_by} is this one's\n  hint:   run it outside of that debugger"
                    ),
                    (Stage::Seize, _, Some(2 | 3)) => write!(
                        f,
                        "\n  rule:   kernel.yama.ptrace_scope lets only administrators trace, or nobody\n  hint:   run it as root (2), or set the sysctl to 1 (3: at the next boot)"
                    ),
                    (Stage::Seize | Stage::Filter, ..) => write!(
                        f,
                        "\n  rule:   the host or the container forbids it\n  hint:   run it outside of the container, or allow ptrace and seccomp there (docker: --cap-add SYS_PTRACE)"
                    ),
                    _ => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for Error {}

pub(crate) fn refused(failure: Failure) -> Error {
    let me = facts::caller(std::process::id() as i32);
    let yama = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope");
    Error::Refused {
        stage: failure.stage,
        errno: failure.errno.raw_os_error(),
        traced_by: me.map_or(0, |me| me.tracer),
        yama: yama.ok().and_then(|text| text.trim().parse().ok()),
    }
}

/// The file that a command names, as execvp(3) looks for it.
pub(crate) fn find(name: &OsStr) -> Result<PathBuf, Error> {
    let shown = name.to_string_lossy().into_owned();
    if name.to_string_lossy().contains('/') {
        let path = PathBuf::from(name);
        return match path.metadata() {
            Ok(_) => Ok(path),
            Err(_) => Err(Error::NotFound { name: shown }),
        };
    }
    let list = std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let mut candidates = std::env::split_paths(&list).map(|directory| directory.join(name));
    let mut forbidden = None;
    let found = candidates.find(|path| match is_executable(path) {
        Some(true) => true,
        Some(false) => {
            forbidden.get_or_insert_with(|| path.display().to_string());
            false
        }
        None => false,
    });
    match (found, forbidden) {
        (Some(path), _) if !name.is_empty() => Ok(path),
        (None, Some(path)) => Err(Error::NotExecutable {
            path,
            errno: libc::EACCES,
        }),
        _ => Err(Error::NotFound { name: shown }),
    }
}

/// `None` where there is no file.
fn is_executable(path: &Path) -> Option<bool> {
    let file = path.metadata().ok().filter(|meta| meta.is_file())?;
    Some(file.permissions().mode() & 0o111 != 0)
}
