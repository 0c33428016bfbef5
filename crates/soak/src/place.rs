//! The place of a run: its own network, and limits.
//!
//! Decides:  the run starts itself again under `unshare`, in a network namespace of its own (with a user namespace
//!           for those who are not root), and ends with its parent.
//! Kernel:   network_namespaces(7); Documentation/networking/ip-sysctl.rst
//! Not here: what runs there.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Says that this process is inside.
const INSIDE: &str = "PORTCULLIS_SOAK_INSIDE";

/// Goes on inside a private network. Returns only there, or with what forbids it.
pub fn enter_private_network() -> io::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let flags = match rustix::process::geteuid().is_root() {
        true => "-n",
        false => "-Urn",
    };
    let error = Command::new("unshare")
        .arg(flags)
        .args(["setpriv", "--pdeathsig", "KILL"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .exec();
    Err(error)
}

/// Prepares the private network, and takes over processes whose parents end.
pub fn prepare() -> io::Result<()> {
    portcullis_testkit::loopback_up()?;
    for (name, value) in [
        ("ipv4/ip_local_port_range", "15000 65535"),
        // Few, so that ports are soon free again.
        ("ipv4/tcp_max_tw_buckets", "4096"),
        ("core/somaxconn", "4096"),
    ] {
        std::fs::write(format!("/proc/sys/net/{name}"), value)
            .map_err(|error| io::Error::other(format!("net/{name} = {value}: {error}")))?;
    }
    let own = rustix::process::getpid();
    Ok(rustix::process::set_child_subreaper(Some(own))?)
}
