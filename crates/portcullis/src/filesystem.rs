//! File systems in which nobody makes a file.
//!
//! Decides:  by which error a Unix socket's file is refused there.
//! Kernel:   fs/namei.c, filename_create(): the lookup's error comes first (/proc and directories that wait for a
//!           mount know no other name: ENOENT); vfs_mknod(): without an operation, EPERM; 6.0 to 6.18
//! Not here: rights and read-only mounts (who asks looks at those).

use std::path::Path;

const PROC: u32 = 0x9fa0;
/// sysfs, cgroup2, devpts, debugfs, tracefs, securityfs, selinuxfs.
const KERNELS: [u32; 7] = [
    0x6265_6572,
    0x6367_7270,
    0x1cd1,
    0x6462_6720,
    0x7472_6163,
    0x7363_6673,
    0xf97c_ff8c,
];

/// The error's name, for a new name in this directory, by whoever may write there; `None` where files are made.
pub fn no_files(directory: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(directory).ok()?.f_type as u32;
    if kind == PROC {
        return Some("ENOENT");
    }
    let waits = || std::fs::read_dir(directory).is_ok_and(|mut all| all.next().is_none());
    KERNELS.contains(&kind).then(|| match waits() {
        true => "ENOENT",
        false => "EPERM",
    })
}
