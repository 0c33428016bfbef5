//! The first process of a virtual machine that exists for one conformance run.
//!
//! Decides:  when this program is the first process; what it mounts and loads, how it starts the run, how
//!           its result leaves the machine, and that the machine ends with it.
//! Kernel:   Documentation/filesystems/ramfs-rootfs-initramfs.rst; init_module(2), reboot(2)
//! Not here: who makes the machine (xtask, conformance/guest). Nothing of this runs on a host.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

/// In the archive: the modules to load, one path a line, in this order.
pub const MODULES: &str = "/modules.list";
/// In the archive: the options of the run, one a line.
pub const OPTIONS: &str = "/options";
/// In the archive: this program.
pub const PROGRAM: &str = "/init";
/// The serial line on which the result leaves.
const RESULT: &str = "/dev/ttyS1";
/// The last line of a run that ended, followed by its exit status.
pub const ENDED: &str = "guest: exit status ";
/// Where what a kernel has is mounted.
const MOUNTS: &[(&str, &str)] = &[("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev")];

/// Whether this process is the first one of a machine whose archive names a run.
#[must_use]
pub fn is_init() -> bool {
    std::process::id() == 1 && Path::new(OPTIONS).exists()
}

/// The whole life of the first process: it ends with the machine.
pub fn init() -> ExitCode {
    let status = serve().unwrap_or_else(|error| {
        // On the console: the result's line may be what is missing.
        eprintln!("guest: {error}");
        2
    });
    eprintln!("{ENDED}{status}");
    // The machine is started so that a restart ends it.
    let error = reboot(RebootCommand::Restart);
    eprintln!("guest: cannot restart: {error:?}");
    ExitCode::FAILURE
}

fn serve() -> io::Result<i32> {
    for (kind, place) in MOUNTS {
        mount(*kind, *place, *kind, MountFlags::empty(), None)?;
    }
    for path in std::fs::read_to_string(MODULES)?.lines() {
        let module = File::open(path)?;
        finit_module(&module, c"", 0)
            .map_err(|error| io::Error::other(format!("{path}: {error}")))?;
    }
    let mut result = OpenOptions::new().write(true).open(RESULT)?;
    let kernel = rustix::system::uname();
    writeln!(
        result,
        "guest: Linux {} {}",
        kernel.release().to_string_lossy(),
        kernel.version().to_string_lossy()
    )?;
    let options = std::fs::read_to_string(OPTIONS)?;
    let status = Command::new(PROGRAM)
        .args(options.lines())
        .stdin(Stdio::null())
        .stdout(result.try_clone()?)
        .stderr(result.try_clone()?)
        .status()?;
    let code = status.code().unwrap_or(2);
    writeln!(result, "{ENDED}{code}")?;
    // What is on its way on the line has left once the terminal is closed (tty(4)).
    rustix::termios::tcdrain(&result)?;
    Ok(code)
}
