//! A script of the exhaustive and random runs as a scenario: to be read, kept, and run by `sim`.
//!
//! Decides:  how numbered sockets, callers and named ports are called in the language.
//! Not here: which scripts there are (exhaustive.rs, random.rs), what they play with (host.rs).

use std::fmt::Write as _;
use std::net::IpAddr;

use portcullis_kernel_model::{Call, Family, Kernel, SockAddr, Sysctl, Sysctls};

use super::options::{print as print_option, print_name};
use super::program::state_name;
use super::{errno, format};
use crate::host::{self, CALLERS, device_name};
use crate::step::{NAMES, OF_SLOT, ORDINARY, Op, Outcome, Ports, RANGE, SLOTS, Script, Seen, Step};

/// The numbers of ports that the language names by number.
const PORTS: Ports = Ports {
    ordinary: 20001,
    range: 40000,
    privileged: 900,
    slots: [0; SLOTS],
};

/// The scenario of a script. `answers` are what the steps are expected to answer, as far as known; the
/// comment stands at its top.
#[must_use]
pub fn write(script: &Script, answers: &[Option<Seen>], comment: &str) -> String {
    let mut out = String::new();
    for line in comment.lines() {
        let _ = writeln!(out, "# {line}");
    }
    out += &host_lines(script);
    for (at, step) in script.steps.iter().enumerate() {
        out += &port_line(step);
        let expected = match (step.op, answers.get(at).copied().flatten()) {
            (Op::Socket(_) | Op::Wait(_), _) => String::new(),
            (_, Some(seen)) => {
                format!(" -> {}{}", expectation(step, &seen.outcome), reaches(&seen))
            }
            (_, None) => " -> any".to_owned(),
        };
        let _ = writeln!(out, "{}{expected}", line(step));
        if let Op::Socket(_) = step.op {
            let _ = writeln!(out, "{} nonblocking on", label(step.slot));
        }
        let accepted = answers.get(at).copied().flatten();
        if accepted.is_some_and(|seen| seen.outcome == Outcome::Accepted) {
            let _ = writeln!(out, "{} nonblocking on", label(step.into));
        }
    }
    format(&out)
}

/// Interfaces, users, sysctls and ports, as far as the script needs them.
fn host_lines(script: &Script) -> String {
    let mut out = String::new();
    let model = host::model(Kernel::V6_18, 0, script.profile, &PORTS);
    for interface in &model.namespaces[0].interfaces {
        // The first addresses of the loopback are there already.
        let own = usize::from(interface.index == host::LOOPBACK);
        let v4 = interface
            .v4
            .iter()
            .skip(own)
            .map(|(ip, prefix)| format!("{ip}/{prefix}"));
        let v6 = interface
            .v6
            .iter()
            .skip(own)
            .map(|own| format!("{}/{}", own.addr, own.prefix));
        let all: Vec<String> = v4.chain(v6).collect();
        let equals = if all.is_empty() { "" } else { " = " };
        let _ = writeln!(
            out,
            "interface {}{}{equals}{}",
            interface.name,
            if interface.up { "" } else { " down" },
            all.join(", ")
        );
    }
    for (process, caller) in CALLERS.iter().enumerate().skip(1) {
        if script
            .steps
            .iter()
            .any(|step| usize::from(step.process) == process)
        {
            let caps = if caller.capable {
                " with net_bind_service, net_admin, net_raw"
            } else {
                ""
            };
            let _ = writeln!(out, "user {} {}{caps}", caller.name, caller.uid);
        }
    }
    let (usual, sysctls) = (Sysctls::default(), host::sysctls(script.profile, &PORTS));
    for sysctl in Sysctl::ALL {
        let value = sysctl.show(&sysctls);
        if value != sysctl.show(&usual) {
            let _ = writeln!(out, "sysctl {} = {value}", sysctl.name);
        }
    }
    for name in ORDINARY..RANGE {
        if script
            .steps
            .iter()
            .any(|step| address_of(step).is_some_and(|addr| addr.port == name))
        {
            let _ = writeln!(out, "port p{name} = {}", PORTS.number(name));
        }
    }
    out + "\n"
}

fn address_of(step: &Step) -> Option<SockAddr> {
    match step.op {
        Op::Call(Call::Bind(addr) | Call::Connect(addr)) => Some(addr),
        _ => None,
    }
}

/// The port of a socket at this time gets its name before the step that uses it.
fn port_line(step: &Step) -> String {
    match address_of(step) {
        Some(addr) if (OF_SLOT..OF_SLOT + NAMES).contains(&addr.port) => {
            let of = label((addr.port - OF_SLOT) as u8);
            format!("port of-{of} of {of} -> any\n")
        }
        _ => String::new(),
    }
}

/// What the socket of a slot is called.
#[must_use]
pub fn label(slot: u8) -> char {
    char::from(b'a' + slot)
}

fn line(step: &Step) -> String {
    let who = label(step.slot);
    let caller = match step.process {
        0 => None,
        process => Some(CALLERS[usize::from(process)].name),
    };
    let call = match step.op {
        Op::Socket(family) => {
            let family = if family == Family::Inet {
                "inet"
            } else {
                "inet6"
            };
            let by = caller.map_or(String::new(), |name| format!(" by {name}"));
            return format!("socket {who} {family}{by}");
        }
        Op::Wait(seconds) => return format!("wait {seconds}s"),
        Op::Call(call) => call,
    };
    let call = PORTS.resolve_options(call);
    let device = |index: u32| device_name(index).to_owned();
    let said = match call {
        Call::Accept => format!("accept {}", label(step.into)),
        Call::Pass(to) => format!("pass to {}", CALLERS[usize::from(to.0)].name),
        other => words_of(&other, port_name, device),
    };
    format!("{who} {said} as {}", caller.unwrap_or("root"))
}

/// A call on one socket alone, without the socket's label. `port` and `device` name ports and
/// interfaces by their numbers.
pub(super) fn words_of(
    call: &Call,
    port: impl Fn(u16) -> String,
    device: impl Fn(u32) -> String,
) -> String {
    match *call {
        Call::Bind(addr) => format!("bind {}", address(&addr, port)),
        Call::Connect(addr) => format!("connect {}", address(&addr, port)),
        Call::Accept => "accept".to_owned(),
        Call::Set(option) => format!("set {}", print_option(&option, device)),
        Call::SetLen(option, len) => format!("set {} length {len}", print_option(&option, device)),
        Call::GetLen(name, len) => format!("get {} length {len}", print_name(name)),
        Call::Get(name) => format!("get {}", print_name(name)),
        Call::Listen(backlog) => format!("listen {backlog}"),
        Call::Shutdown(how) => format!("shutdown {how}"),
        Call::Close => "close".to_owned(),
        Call::Dup => "dup".to_owned(),
        Call::Pass(to) => format!("pass to {}", to.0),
        Call::Fchown(uid) => format!("fchown {}", uid.0),
        Call::SetNonblocking(on) => format!("nonblocking {}", if on { "on" } else { "off" }),
        Call::GetSockName => "getsockname".to_owned(),
        Call::GetPeerName => "getpeername".to_owned(),
    }
}

impl Ports {
    /// Numbers for names in options; addresses keep theirs.
    fn resolve_options(&self, call: Call) -> Call {
        match call {
            Call::Set(_) | Call::SetLen(..) => self.resolve(call),
            other => other,
        }
    }
}

/// What a script of ours calls a port.
fn port_name(name: u16) -> String {
    match name {
        name @ ORDINARY..RANGE => format!("p{name}"),
        name if (OF_SLOT..OF_SLOT + NAMES).contains(&name) => {
            format!("of-{}", label((name - OF_SLOT) as u8))
        }
        name => PORTS.number(name).to_string(),
    }
}

fn address(addr: &SockAddr, port: impl Fn(u16) -> String) -> String {
    if *addr == SockAddr::unspecified() {
        return "unspecified".to_owned();
    }
    let port = port(addr.port);
    let mut text = match addr.ip {
        IpAddr::V4(ip) => format!("{ip}:{port}"),
        IpAddr::V6(ip) if addr.scope == 0 => format!("[{ip}]:{port}"),
        IpAddr::V6(ip) => format!("[{ip}%{}]:{port}", addr.scope),
    };
    let usual = SockAddr::new(addr.ip, addr.port);
    if addr.family != usual.family {
        let _ = write!(text, " family {}", addr.family);
    }
    if addr.len != usual.len {
        let _ = write!(text, " length {}", addr.len);
    }
    text
}

fn expectation(step: &Step, answer: &Outcome) -> String {
    let state = matches!(
        step.op,
        Op::Call(Call::Get(portcullis_kernel_model::OptName::State))
    );
    match answer {
        Outcome::Ok | Outcome::Accepted => "ok".to_owned(),
        Outcome::Err(number) => errno(*number),
        Outcome::Value(value) if state => state_name(*value).unwrap_or("any").to_owned(),
        Outcome::Value(value) => value.to_string(),
        Outcome::Bytes(bytes) => bytes.to_string(),
        // It holds a port, which may be another in another run.
        Outcome::Address(_) => "any".to_owned(),
        Outcome::Blocks => "blocks".to_owned(),
    }
}

fn reaches(seen: &Seen) -> String {
    match seen.receiver {
        Some(slot) => format!(" reaches {}", label(slot)),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Action, Settings, Verb, parse};
    use super::*;
    use portcullis_kernel_model::Opt;

    use crate::random;

    /// What a script's step would call, with the numbers that the language uses.
    fn wanted(step: &Step) -> Option<Call> {
        let Op::Call(call) = step.op else { return None };
        if call == Call::Accept {
            return None;
        }
        // A port of a socket is read while the script runs: 0 here on both sides.
        Some(match PORTS.resolve(call) {
            // One without a name is named by a number that the host does not have.
            Call::Set(Opt::BindToDevice(index)) if index > host::DOWN => {
                Call::Set(Opt::BindToDevice(super::super::parse::NO_DEVICE))
            }
            Call::SetLen(Opt::BindToDevice(index), len) if index > host::DOWN => {
                Call::SetLen(Opt::BindToDevice(super::super::parse::NO_DEVICE), len)
            }
            // An IPv4 address has no room for a scope.
            Call::Bind(addr) if addr.ip.is_ipv4() => Call::Bind(SockAddr { scope: 0, ..addr }),
            Call::Connect(addr) if addr.ip.is_ipv4() => {
                Call::Connect(SockAddr { scope: 0, ..addr })
            }
            call => call,
        })
    }

    #[test]
    fn a_written_random_script_is_read_as_the_same_calls() {
        let mut calls = 0;
        for number in 0..2000 {
            let script = random::script(0x5eed, number);
            let text = write(&script, &[], "random");
            assert_eq!(format(&text), text);
            let read = parse(&text, Settings::default());
            let read =
                read.unwrap_or_else(|problems| panic!("{}", problems[0].render("random", &text)));
            let ports: Vec<u16> = read.ports.iter().map(|port| port.1).collect();
            let made = read.steps.iter().filter_map(|step| match &step.action {
                Action::Call {
                    call: Verb::Plain(Call::SetNonblocking(true)),
                    ..
                } => None,
                Action::Call { call, .. } => Some(call.call(&ports)),
                _ => None,
            });
            let made: Vec<Call> = made.collect();
            let wanted = script.steps.iter().filter_map(wanted);
            let wanted: Vec<Call> = wanted
                .filter(|call| *call != Call::SetNonblocking(true))
                .collect();
            assert_eq!(made, wanted, "script {number}:\n{text}");
            calls += made.len();
        }
        assert!(calls > 10_000, "only {calls} calls were compared");
    }
}
