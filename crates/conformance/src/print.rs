//! A script and a difference as text for a person.
//!
//! Decides:  one line a step, in the words of the system calls.
//! Not here: the scenario language (script/).

use std::fmt::Write as _;

use portcullis_kernel_model::{Call, Errno, SockAddr};

use crate::compare::Difference;
use crate::host::{CALLERS, PROFILES};
use crate::step::{OF_SLOT, ORDINARY, Op, Outcome, PRIVILEGED, RANGE, Script, Seen, Step};

/// All steps, one a line.
#[must_use]
pub fn script(script: &Script) -> String {
    let mut text = String::new();
    let profile = PROFILES
        .get(usize::from(script.profile))
        .map_or("?", |profile| profile.name);
    let _ = writeln!(text, "# sysctls: {profile}");
    for one in &script.steps {
        let _ = writeln!(text, "{}", step(one));
    }
    text
}

/// A script with what the two worlds say at its last step.
#[must_use]
pub fn difference(of: &Script, difference: &Difference) -> String {
    let mut text = script(of);
    let _ = writeln!(text, "# step {}", difference.at + 1);
    let _ = writeln!(text, "#   kernel: {}", seen(&difference.kernel));
    let _ = writeln!(text, "#   model:  {}", seen(&difference.model));
    for rule in &difference.rules {
        let _ = writeln!(text, "#   rule:   {rule}");
    }
    text
}

fn label(slot: u8) -> char {
    char::from(b'a' + slot)
}

fn step(step: &Step) -> String {
    let who = label(step.slot);
    let user = match step.process {
        0 => String::new(),
        process => format!(" as {}", CALLERS[usize::from(process)].name),
    };
    let what = match step.op {
        Op::Socket(family) => format!("socket {family:?}"),
        Op::Call(Call::Bind(addr)) => format!("bind {}", address(&addr)),
        Op::Call(Call::Connect(addr)) => format!("connect {}", address(&addr)),
        Op::Call(Call::Accept) => format!("accept {}", label(step.into)),
        Op::Call(Call::Set(option)) => format!("set {option:?}"),
        Op::Call(Call::Get(name)) => format!("get {name:?}"),
        Op::Call(call) => format!("{call:?}").to_lowercase(),
    };
    format!("{who} {what}{user}")
}

fn address(addr: &SockAddr) -> String {
    let plain = SockAddr {
        scope: addr.scope,
        ..SockAddr::new(addr.ip, addr.port)
    };
    let port = match addr.port {
        0 => "0".to_owned(),
        name @ ORDINARY..RANGE => format!("p{}", name - ORDINARY + 1),
        name @ RANGE..PRIVILEGED => format!("range+{}", name - RANGE),
        name @ PRIVILEGED..OF_SLOT => format!("low{}", name - PRIVILEGED + 1),
        name => format!("port-of-{}", label((name - OF_SLOT) as u8)),
    };
    let mut text = match addr.ip {
        std::net::IpAddr::V4(ip) => format!("{ip}:{port}"),
        std::net::IpAddr::V6(ip) => format!("[{ip}%{}]:{port}", addr.scope),
    };
    if *addr != plain {
        let _ = write!(text, " family {} len {}", addr.family, addr.len);
    }
    text
}

fn seen(seen: &Seen) -> String {
    let mut text = match seen.outcome {
        Outcome::Ok => "ok".to_owned(),
        Outcome::Err(number) => {
            Errno::from_number(number).map_or(format!("errno {number}"), |e| e.name().to_owned())
        }
        Outcome::Value(value) => format!("value {value}"),
        Outcome::Address(address) => format!("address {address}"),
        Outcome::Accepted => "accepted".to_owned(),
        Outcome::Blocks => "blocks".to_owned(),
    };
    if let Some(name) = seen.name {
        let _ = write!(text, ", named {name}");
    }
    if seen.state != 0 {
        let _ = write!(text, ", state {}", seen.state);
    }
    if let Some(receiver) = seen.receiver {
        let _ = write!(text, ", received by {}", label(receiver));
    }
    text
}
