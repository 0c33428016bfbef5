//! The place of a run: its own network, and what machine it is.
//!
//! Decides:  the run starts itself again under `unshare`, in a network namespace of its own (with a
//!           user namespace for those who are not root); congestion control is named there, since
//!           the host's default changes bulk altogether.
//! Kernel:   network_namespaces(7); Documentation/networking/ip-sysctl.rst
//! Not here: contenders' processors (contender.rs).

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::Serialize;

/// Says that this process is inside.
const INSIDE: &str = "PORTCULLIS_BENCH_INSIDE";
/// Descriptors of one process: two for each of the idle connections, and some.
const DESCRIPTORS: u64 = 65_536;

/// Goes on inside a private network. Returns only there, or with what forbids it.
pub fn enter_private_network() -> io::Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(());
    }
    let flags = if rustix::process::geteuid().is_root() {
        "-n"
    } else {
        "-Urn"
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

/// Prepares the private network and this process's limits.
pub fn prepare(congestion: &str) -> io::Result<()> {
    portcullis_testkit::loopback_up()?;
    set("ipv4/tcp_congestion_control", congestion)?;
    // So that a port is found at once.
    set("ipv4/ip_local_port_range", "10000 65535")?;
    // Few, so that all rounds find as many of them: short connections fill this in a moment.
    set("ipv4/tcp_max_tw_buckets", "4096")?;
    set("core/somaxconn", "4096")?;
    let limit = getrlimit(Resource::Nofile);
    let most = limit
        .maximum
        .map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    let raised = Rlimit {
        current: Some(most),
        maximum: limit.maximum,
    };
    Ok(setrlimit(Resource::Nofile, raised)?)
}

fn set(name: &str, value: &str) -> io::Result<()> {
    fs::write(format!("/proc/sys/net/{name}"), value)
        .map_err(|error| io::Error::other(format!("net/{name} = {value}: {error}")))
}

/// What a measurement depends on.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// `uname -r`
    pub kernel: String,
    /// The processor's name.
    pub processor: String,
    /// How many there are.
    pub processors: usize,
    /// In the private network.
    pub congestion_control: String,
    /// Load average of the last minute at the start.
    pub load_before: String,
    /// The same at the end.
    pub load_after: String,
}

/// Looks at the machine.
pub fn machine() -> Machine {
    let read = |path: &str| {
        fs::read_to_string(path)
            .unwrap_or_default()
            .trim()
            .to_owned()
    };
    let cpuinfo = read("/proc/cpuinfo");
    let named = cpuinfo.lines().find(|line| line.starts_with("model name"));
    let processor = named
        .and_then(|line| line.split_once(": "))
        .map_or("", |(_, name)| name);
    Machine {
        kernel: read("/proc/sys/kernel/osrelease"),
        processor: processor.to_owned(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        load_before: load_average(),
        load_after: String::new(),
    }
}

/// Load average of the last minute.
pub fn load_average() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}
