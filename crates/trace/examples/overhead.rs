//! What watching costs: `cargo run --release -p portcullis-trace --example overhead`.
//!
//! Decides:  what is measured: calls that are watched, one that is not, and starting a program.
//! Not here: the figures of one machine (lib.rs).

use std::ffi::OsString;
use std::time::{Duration, Instant};

use portcullis_sys::process::SignalMask;
use portcullis_trace::{Finding, FromTrace, Observer, Watch};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};

/// How many listeners are opened, and how many other calls are made.
const LISTENERS: u32 = 2_000;
const OTHERS: u32 = 1_000_000;
/// How often a program is started.
const STARTS: u32 = 50;

struct Deaf;

impl Observer for Deaf {
    fn found(&mut self, _: &Finding) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).as_deref() == Some("work") {
        return work();
    }
    let me = std::env::current_exe()?.into_os_string();
    say("not watched:");
    std::process::Command::new(&me).arg("work").status()?;
    say("watched:");
    watch(&[me, "work".into()])?;

    let start = Instant::now();
    for _ in 0..STARTS {
        std::process::Command::new("true").status()?;
    }
    let plain = start.elapsed() / STARTS;
    let start = Instant::now();
    for _ in 0..STARTS {
        watch(&["true".into()])?;
    }
    let watched = start.elapsed() / STARTS;
    say(&format!(
        "starting a program: {plain:?}, watched {watched:?}"
    ));
    Ok(())
}

fn watch(command: &[OsString]) -> Result<(), Box<dyn std::error::Error>> {
    let watch = Watch::start(command, &SignalMask::current()?)?;
    watch.run(&mut FromTrace::here(), &mut Deaf)?;
    Ok(())
}

/// Opens listeners, each by a socket, an option, a bind and a listen, and makes calls that nobody watches.
fn work() -> Result<(), Box<dyn std::error::Error>> {
    let mut spent = [Duration::ZERO; 4];
    let any = "127.0.0.1:0".parse::<std::net::SocketAddrV4>()?;
    for _ in 0..LISTENERS {
        let start = Instant::now();
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let made = Instant::now();
        sockopt::set_socket_reuseaddr(&fd, true)?;
        let set = Instant::now();
        bind(&fd, &any)?;
        let bound = Instant::now();
        listen(&fd, 16)?;
        let times = [start, made, set, bound, Instant::now()];
        for (sum, pair) in spent.iter_mut().zip(times.windows(2)) {
            *sum += pair[1] - pair[0];
        }
    }
    for (name, sum) in ["socket", "setsockopt", "bind", "listen"].iter().zip(spent) {
        say(&format!("  {name}: {:?}", sum / LISTENERS));
    }
    let fd = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    let start = Instant::now();
    for _ in 0..OTHERS {
        sockopt::set_tcp_nodelay(&fd, true)?;
    }
    say(&format!(
        "  setsockopt(TCP_NODELAY), never watched: {:?}",
        start.elapsed() / OTHERS
    ));
    Ok(())
}

#[allow(clippy::print_stdout)]
fn say(line: &str) {
    println!("{line}");
}
