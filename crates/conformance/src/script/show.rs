//! Results as people read them.
//!
//! Decides:  the layout of a line's answer, of its explanation, and of the table of sockets and ports.
//! Not here: what an answer is (world.rs), whether it is right (run.rs).

use std::fmt::Write as _;

use portcullis_kernel_model::{FilesId, Kernel, NetId, OptName, ProcessId, Rule, SocketId, State};

use super::expect::print_address;
use super::model::Model;
use super::program::{
    Action, Expect, Pattern, Port, PortPattern, Reaches, STATES, Script, Step, Verb, state_name,
};
use super::run::{Complaint, Reason, Row, Run, traits};
use super::world::{Observation, Outcome};

/// Columns of the calls; a longer one pushes its answer to the right.
const SAID: usize = 44;
/// Columns of the first of two answers.
const ANSWER: usize = 24;

/// How much is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Detail {
    /// The rules and the sockets of each line.
    pub explain: bool,
    /// Escape sequences for colours.
    pub colour: bool,
}

/// One line: what was said, what came of it, and what is wrong with that.
#[must_use]
pub fn row(script: &Script, step: &Step, row: &Row, ports: &[u16], detail: Detail) -> String {
    let mut out = String::new();
    let model = row
        .model
        .as_ref()
        .map(|seen| answer(script, step, seen, ports));
    let kernel = row
        .kernel
        .as_ref()
        .map(|seen| answer(script, step, seen, ports));
    let answers = match (model, kernel) {
        (Some(model), Some(kernel)) => format!("{model:ANSWER$} {kernel}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => String::new(),
    };
    let failed = !row.complaints.is_empty();
    let mark = if failed { "!" } else { " " };
    let line = format!("{mark}{:4}  {:SAID$} {answers}", step.line, step.said);
    out.push_str(&paint(
        detail,
        if failed { "1;31" } else { "" },
        line.trim_end(),
    ));
    out.push('\n');
    for complaint in &row.complaints {
        let text = complain(script, step, row, complaint, ports);
        let _ = writeln!(out, "       {}", paint(detail, "31", &text));
    }
    if detail.explain || failed {
        for reason in &row.reasons {
            // A row with reasons has the release of the model that gave them.
            let release = row.release.unwrap_or(script.host.kernel);
            out.push_str(&explain(script, reason, release));
        }
        out.push_str(&ways(script, row));
    }
    out
}

fn paint(detail: Detail, code: &str, text: &str) -> String {
    if detail.colour && !code.is_empty() {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

fn explain(script: &Script, reason: &Reason, kernel: Kernel) -> String {
    let info = reason.rule.info();
    let mut out = format!("       rule {}: {}\n", info.id, info.text);
    match reason.about {
        Some(Some(slot)) => {
            let _ = writeln!(out, "            socket: {}", script.labels[slot]);
        }
        Some(None) => out.push_str(
            "            socket: one without a descriptor (TIME_WAIT, or not accepted)\n",
        ),
        None => {}
    }
    let _ = writeln!(
        out,
        "            kernel: {}, in {kernel}; the rule holds {}",
        reason.rule.place(kernel),
        holds(reason.rule)
    );
    out
}

/// Between which releases a rule holds.
fn holds(rule: Rule) -> String {
    let since = rule.info().since;
    let first = if since <= Kernel::OLDEST {
        format!("since {since} or longer")
    } else {
        format!("since {since}")
    };
    match rule.until() {
        Some(end) => format!("{first}, until {end} ended it"),
        None => first,
    }
}

/// What would have to differ: each was tried in the model. Where nothing that was tried helps, what the
/// rule says of it.
fn ways(script: &Script, row: &Row) -> String {
    let mut out = String::new();
    let known = |socket: SocketId| row.known.iter().rposition(|&other| other == Some(socket));
    let name = |socket: SocketId, out: &mut dyn std::fmt::Write| match known(socket) {
        Some(slot) => out.write_str(&script.labels[slot]),
        None => out.write_str("a socket without a name"),
    };
    for (at, way) in row.ways.iter().enumerate() {
        let head = if at == 0 {
            "it succeeds if you:"
        } else {
            "or:"
        };
        let _ = writeln!(out, "       {head:>19} {}", way.told(&name));
    }
    let refused = row
        .model
        .as_ref()
        .is_some_and(|seen| matches!(seen.outcome, Outcome::Err(_) | Outcome::Blocks));
    if let (true, true, Some(last)) = (refused, row.ways.is_empty(), row.reasons.last()) {
        let info = last.rule.info();
        let advice = last.rule.no_way_out().unwrap_or(info.remedy);
        if !advice.is_empty() {
            let _ = writeln!(out, "            advice: {advice}");
        }
    }
    out
}

fn complain(
    script: &Script,
    step: &Step,
    row: &Row,
    complaint: &Complaint,
    ports: &[u16],
) -> String {
    match complaint {
        Complaint::Answer(world) => match &step.expect {
            Some(expect) => format!(
                "the {world} was expected to answer {}",
                expected(script, expect)
            ),
            None => format!("the {world} was expected to succeed: a failure has its `-> ERRNO`"),
        },
        Complaint::Reach(world) => {
            let wanted = step
                .expect
                .as_ref()
                .and_then(|expect| expect.reaches.as_ref());
            let wanted = wanted.map_or(String::new(), |reaches| print_reaches(script, reaches));
            format!("in the {world} the connection was expected to reach {wanted}")
        }
        Complaint::NotBy(rule) => format!("the model did not go by the rule {}", rule.info().id),
        Complaint::NotBecause(slot) => format!("the model did not blame {}", script.labels[*slot]),
        Complaint::Unclear => "the kernel may have made too many choices to follow".to_owned(),
        Complaint::Differ => {
            let side = |seen: &Option<Observation>| {
                seen.as_ref()
                    .map_or(String::new(), |seen| whole(script, step, seen, ports))
            };
            format!(
                "model and kernel differ: {} / {}",
                side(&row.model),
                side(&row.kernel)
            )
        }
    }
}

/// The answer as a script would expect it.
#[must_use]
pub fn answer(script: &Script, step: &Step, seen: &Observation, ports: &[u16]) -> String {
    let read = match step.action {
        Action::Call {
            call: Verb::Get(name),
            ..
        } => Some(name),
        _ => None,
    };
    let mut text = match &seen.outcome {
        Outcome::Ok | Outcome::Accepted => "ok".to_owned(),
        Outcome::Err(number) => errno(*number),
        Outcome::Blocks => "blocks".to_owned(),
        Outcome::Value(value) if read == Some(OptName::State) => {
            state_name(*value).map_or_else(|| value.to_string(), str::to_owned)
        }
        Outcome::Value(value) if read == Some(OptName::LocalPortRange) => {
            format!("{}..{}", value & 0xffff, (*value as u32) >> 16)
        }
        Outcome::Value(value) => value.to_string(),
        Outcome::Bytes(bytes) => bytes.to_string(),
        Outcome::Address(address) => {
            let plain = print_address(*address);
            let name = script
                .ports
                .iter()
                .zip(ports)
                .find(|&(_, &port)| port != 0 && port == address.port());
            match (name, plain.rsplit_once(':')) {
                (Some(((name, _), _)), Some((ip, _))) => format!("{ip}:{name}"),
                _ => plain,
            }
        }
    };
    if let Some(slot) = seen.reached {
        let _ = write!(text, " reaches {}", script.labels[slot]);
    }
    text
}

/// With everything that is compared.
fn whole(script: &Script, step: &Step, seen: &Observation, ports: &[u16]) -> String {
    let mut text = answer(script, step, seen, ports);
    if let Some((name, state)) = seen.after {
        let _ = write!(
            text,
            " at {} in {}",
            print_address(name),
            print_state(state)
        );
    }
    text
}

/// An error by its C name.
#[must_use]
pub fn errno(number: i32) -> String {
    match portcullis_kernel_model::Errno::from_number(number) {
        Some(errno) => errno.name().to_owned(),
        None => portcullis_sys::errno::name(number)
            .map_or_else(|| format!("errno {number}"), str::to_owned),
    }
}

fn print_state(state: State) -> &'static str {
    STATES
        .iter()
        .find(|entry| entry.1 == state)
        .map_or("?", |entry| entry.0)
}

fn expected(script: &Script, expect: &Expect) -> String {
    let answers: Vec<String> = expect
        .answers
        .iter()
        .map(|pattern| print_pattern(script, *pattern))
        .collect();
    if answers.len() > 1 {
        format!("one of {}", answers.join(", "))
    } else {
        answers.concat()
    }
}

fn print_pattern(script: &Script, pattern: Pattern) -> String {
    match pattern {
        Pattern::Ok => "ok".to_owned(),
        Pattern::Errno(errno) => errno.name().to_owned(),
        Pattern::Blocks => "blocks".to_owned(),
        Pattern::Value(value) => value.to_string(),
        Pattern::State(state) => print_state(state).to_owned(),
        Pattern::Bytes(bytes) => bytes.to_string(),
        Pattern::Address(ip, port) => {
            let port = match port {
                PortPattern::Any => "any".to_owned(),
                PortPattern::Is(Port::Number(number)) => number.to_string(),
                PortPattern::Is(Port::Named(at)) => script.ports[at].0.clone(),
                PortPattern::Range(low, high) => format!("{low}..{high}"),
            };
            if ip.is_ipv6() {
                format!("[{ip}]:{port}")
            } else {
                format!("{ip}:{port}")
            }
        }
    }
}

fn print_reaches(script: &Script, reaches: &Reaches) -> String {
    match reaches {
        Reaches::Nobody => "nobody".to_owned(),
        Reaches::OneOf(slots) => {
            let names: Vec<&str> = slots
                .iter()
                .map(|&slot| script.labels[slot].as_str())
                .collect();
            if names.len() == 1 {
                names.concat()
            } else {
                format!("one of {}", names.join(", "))
            }
        }
    }
}

/// The table of sockets, and of the ports that they own.
#[must_use]
pub fn table(script: &Script, run: &mut Run) -> String {
    let Some(model) = &mut run.model else {
        return String::new();
    };
    let mut out = format!("  {:8} {:12} {:26} options\n", "socket", "state", "address");
    let mut ports: Vec<(NetId, u16)> = Vec::new();
    for (slot, label) in script.labels.iter().enumerate() {
        let Some(socket) = model.socket_of(slot) else {
            continue;
        };
        let Some(state) = model.sockets().state(socket) else {
            continue;
        };
        let name = super::world::World::look(model, slot)
            .map_or(String::new(), |(name, _)| print_address(name));
        let mut traits = traits(model, slot);
        traits.extend(holders(script, model, socket));
        let traits = traits.join(", ");
        let line = format!("  {label:8} {:12} {name:26} {traits}", print_state(state));
        let _ = writeln!(out, "{}", line.trim_end());
        let net = model.sockets().net_of(socket).unwrap_or(NetId(0));
        ports.push((net, model.sockets().port(socket)));
    }
    ports.sort_unstable();
    ports.dedup();
    for (net, port) in ports.into_iter().filter(|&(_, port)| port != 0) {
        out.push_str(&bucket(script, run, net, port));
    }
    out
}

/// Which processes hold a socket, where it is not the one of all users.
fn holders(script: &Script, model: &Model, socket: SocketId) -> Option<String> {
    let holders = model.sockets().holders(socket);
    let users = model.sockets().host().processes.iter();
    let users = users.filter(|process| process.files == FilesId(0)).count();
    let shared = holders.contains(&ProcessId(0));
    if shared && holders.len() == users {
        return None;
    }
    let processes = holders.into_iter().filter(|holder| {
        let process = &model.sockets().host().processes[usize::from(holder.0)];
        process.files != FilesId(0)
    });
    let mut names: Vec<&str> = if shared {
        vec!["the users"]
    } else {
        Vec::new()
    };
    names
        .extend(processes.filter_map(|at| script.users.get(usize::from(at.0)).map(String::as_str)));
    Some(format!("held by {}", names.join(" and ")))
}

fn bucket(script: &Script, run: &Run, net: NetId, port: u16) -> String {
    let Some(model) = &run.model else {
        return String::new();
    };
    let Some(view) = model.sockets().bucket(net, port) else {
        return String::new();
    };
    let named = script
        .ports
        .iter()
        .zip(&run.ports.0)
        .find(|&(_, &number)| number == port);
    let name = named.map_or(String::new(), |((name, _), _)| format!(" ({name})"));
    let place = match script.namespaces.get(usize::from(net.0)) {
        Some(name) if net != NetId(0) => format!(" inside {name}"),
        _ => String::new(),
    };
    let mut out = format!(
        "  port {port}{name}{place}: fastreuse {}, fastreuseport {}\n",
        view.fastreuse, view.fastreuseport
    );
    for (address, owners) in view.owners {
        let label = |owner: portcullis_kernel_model::Owner| match model.slot_of(owner.socket) {
            Some(slot) => script.labels[slot].clone(),
            None => format!("one in {} without a descriptor", print_state(owner.state)),
        };
        let owners: Vec<String> = owners.into_iter().map(label).collect();
        let _ = writeln!(out, "    {address}: {}", owners.join(", "));
    }
    out
}
