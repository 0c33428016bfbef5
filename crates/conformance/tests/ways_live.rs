//! Ways out on the live kernel: what the model says would help does help.
//!
//! Decides:  how a difference is brought about by socket calls; those that calls cannot bring about (a
//!           peer, a capability, another kernel, a minute's waiting) are counted, not run.
//! Not here: that every rule has a way out (ways_out.rs).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod library;

use portcullis_conformance::cases::Case;
use portcullis_conformance::script::{
    self, Action, Address, Complaint, Expect, Mode, Obstacle, Pattern, Port, Run, Script, Settings,
    Slot, Step, Tally, Verb,
};
use portcullis_kernel_model::Sysctl;
use portcullis_kernel_model::{
    AF_UNSPEC, Call, Difference, Errno, Family, Kernel, Opt, ProcessId, SocketId, State, WayOut,
    World,
};

/// A refusal, the world before it, and a way out of it.
struct Refusal<'a> {
    script: &'a Script,
    at: usize,
    before: &'a World,
    known: &'a [Option<SocketId>],
}

impl Refusal<'_> {
    fn slot(&self, socket: SocketId) -> Option<Slot> {
        self.known.iter().rposition(|&other| other == Some(socket))
    }

    /// The scenario up to the refusal, the differences, and the call again; `None` where calls cannot
    /// bring them about.
    fn scenario(&self, way: &WayOut) -> Option<Script> {
        let mut script = self.script.clone();
        let mut call = script.steps[self.at].clone();
        let connects = matches!(
            call.action,
            Action::Call {
                call: Verb::Connect(_),
                ..
            }
        );
        call.expect = connects.then(|| Expect {
            answers: vec![Pattern::Ok, Pattern::Errno(Errno::EINPROGRESS)],
            ..Expect::default()
        });
        script.steps.truncate(self.at);
        for difference in &way.differences {
            let actions = self.actions(difference, &mut call.action, &mut script.labels)?;
            script.steps.extend(actions.into_iter().map(|action| Step {
                line: 0,
                said: format!("{difference:?}"),
                action,
                expect: None,
            }));
        }
        script.steps.push(call);
        Some(script)
    }

    fn actions(
        &self,
        difference: &Difference,
        call: &mut Action,
        labels: &mut Vec<String>,
    ) -> Option<Vec<Action>> {
        let Action::Call {
            slot,
            user,
            call: verb,
        } = call
        else {
            return None;
        };
        let own = |call: Verb, user: ProcessId| Action::Call {
            slot: *slot,
            user,
            call,
        };
        Some(match *difference {
            Difference::Option(opt) => vec![own(Verb::Set(opt), *user)],
            Difference::First(call @ (Call::Listen(_) | Call::SetNonblocking(_))) => {
                vec![own(Verb::Plain(call), *user)]
            }
            Difference::First(Call::Connect(to)) if to.family == AF_UNSPEC => {
                let nowhere = Address {
                    ip: to.ip,
                    port: Port::Number(0),
                    scope: 0,
                    family: Some(AF_UNSPEC),
                    len: None,
                };
                vec![own(Verb::Connect(nowhere), *user)]
            }
            Difference::Owner(uid) => vec![own(Verb::Plain(Call::Fchown(uid)), ProcessId(0))],
            Difference::Value(opt) => {
                *verb = Verb::Set(opt);
                Vec::new()
            }
            Difference::WholeOption => {
                *verb = match *verb {
                    Verb::SetLen(opt, _) => Verb::Set(opt),
                    Verb::GetLen(name, _) => Verb::Get(name),
                    _ => return None,
                };
                Vec::new()
            }
            Difference::Port(_) | Difference::Ip(_) | Difference::Scope(_) => {
                let (Verb::Bind(address) | Verb::Connect(address)) = verb else {
                    return None;
                };
                match *difference {
                    Difference::Port(port) => address.port = Port::Number(port),
                    Difference::Ip(ip) => {
                        (address.ip, address.family, address.len) = (ip, None, None);
                    }
                    Difference::Scope(index) => address.scope = index,
                    _ => {}
                }
                Vec::new()
            }
            Difference::WholeAddress => {
                let (Verb::Bind(address) | Verb::Connect(address)) = verb else {
                    return None;
                };
                (address.family, address.len) = (None, None);
                Vec::new()
            }
            Difference::Fresh(family) => {
                let options = self.options(*slot)?;
                let made = self.fresh(*user, family, options, labels);
                *slot = labels.len() - 1;
                vec![made]
            }
            Difference::Close(socket) => vec![self.close(socket)?],
            Difference::Restart(socket, opt) => self.restart(socket, opt)?,
            // The kernel's timers are a little late.
            Difference::Wait { ms } if ms < 2_000 => vec![Action::Wait { ms: ms + 200 }],
            Difference::Sysctl(setting) => {
                let said = setting.to_string();
                let (name, value) = said.split_once(" = ")?;
                let sysctl = Sysctl::ALL.iter().find(|sysctl| sysctl.name == name)?;
                let net = self.before.host().processes[usize::from(user.0)].net;
                vec![Action::Sysctl(sysctl, net, value.to_owned())]
            }
            _ => return None,
        })
    }

    fn fresh(
        &self,
        user: ProcessId,
        family: Family,
        options: Vec<Opt>,
        labels: &mut Vec<String>,
    ) -> Action {
        labels.push("fresh".to_owned());
        Action::Socket {
            slot: labels.len() - 1,
            family,
            user,
            options,
        }
    }

    /// The options that were set on a socket that was made here; no program.
    fn options(&self, slot: Slot) -> Option<Vec<Opt>> {
        let mut found = None;
        for step in &self.script.steps[..self.at] {
            match &step.action {
                Action::Socket {
                    slot: made,
                    options,
                    ..
                } if *made == slot => {
                    found = Some(options.clone());
                }
                Action::Call {
                    slot: of,
                    call: Verb::Set(opt),
                    ..
                } if *of == slot => {
                    found.as_mut()?.push(*opt);
                }
                _ => {}
            }
        }
        found.map(|mut options| {
            options.retain(|opt| !matches!(opt, Opt::ReuseportCbpf(_) | Opt::DetachReuseport));
            options
        })
    }

    /// One close by its only holder, if that closes it.
    fn close(&self, socket: SocketId) -> Option<Action> {
        let slot = self.slot(socket)?;
        let user = *self.before.holders(socket).first()?;
        let mut world = self.before.clone();
        world.call_as(user, socket, Call::Close);
        world.state(socket).is_none().then_some(Action::Call {
            slot,
            user,
            call: Verb::Plain(Call::Close),
        })
    }

    fn restart(&self, socket: SocketId, opt: Opt) -> Option<Vec<Action>> {
        let slot = self.slot(socket)?;
        let close = self.close(socket)?;
        let mut options = self.options(slot)?;
        options.push(opt);
        let mut again = vec![close];
        for step in &self.script.steps[..self.at] {
            match &step.action {
                Action::Socket {
                    slot: made,
                    family,
                    user,
                    ..
                } if *made == slot => {
                    if !self.before.holders(socket).contains(user) {
                        return None;
                    }
                    again.truncate(1);
                    again.push(Action::Socket {
                        slot,
                        family: *family,
                        user: *user,
                        options: options.clone(),
                    });
                }
                Action::Call {
                    slot: of,
                    call: Verb::Bind(_),
                    ..
                } if *of == slot => {
                    let well = step.expect.as_ref().is_none_or(|expect| {
                        expect
                            .answers
                            .iter()
                            .any(|answer| matches!(answer, Pattern::Ok))
                    });
                    let mut action = step.action.clone();
                    if let Action::Call {
                        call: Verb::Bind(address),
                        ..
                    } = &mut action
                        && address.port == Port::Number(0)
                    {
                        address.port = Port::Number(self.before.port(socket));
                    }
                    if well {
                        again.push(action);
                    }
                }
                // Given to another user: who restarts it would have to do that again.
                Action::Call {
                    slot: of,
                    call: Verb::Plain(Call::Fchown(_)),
                    ..
                } if *of == slot => {
                    again.push(step.action.clone());
                }
                _ => {}
            }
        }
        if self.before.state(socket) == Some(State::Listen) {
            let user = *self.before.holders(socket).first()?;
            again.push(Action::Call {
                slot,
                user,
                call: Verb::Plain(Call::Listen(128)),
            });
        }
        Some(again)
    }
}

/// Every way out of every refusal that calls can bring about, and how many others there are.
fn scenarios() -> (Vec<(String, Script)>, usize) {
    let (mut all, mut others) = (Vec::new(), 0);
    for Case { name, script, .. } in library::cases() {
        let script = script.unwrap();
        // Where an answer is a matter of chance, so is what was refused.
        let chance = script.steps.iter().any(|step| {
            let expect = step.expect.as_ref();
            expect.is_some_and(|expect| expect.answers.len() > 1)
        });
        // The model looks for no way out among so many sockets.
        let crowd = script.labels.len() > 1_000;
        if chance || crowd || script.kernel.is_some() || script.waits_ms() > 2_000 {
            continue;
        }
        let mut run = Run::prepare(&script, Mode::Model).unwrap();
        run.model.as_mut().unwrap().find_ways();
        for (at, step) in script.steps.iter().enumerate() {
            let model = run.model.as_ref().unwrap();
            let (before, known) = (model.sockets().clone(), model.known().to_vec());
            let row = run.step(step);
            let refusal = Refusal {
                script: &script,
                at,
                before: &before,
                known: &known,
            };
            for way in &row.ways {
                match refusal.scenario(way) {
                    Some(scenario) => {
                        all.push((format!("{name}: {}, but {way}", step.said), scenario))
                    }
                    None => others += 1,
                }
            }
        }
    }
    (all, others)
}

/// What went wrong with it on the live kernel and in the model, side by side.
fn failure(script: &Script) -> (Tally, String) {
    let mut tally = Tally::default();
    let mut run = match Run::prepare(script, Mode::Both) {
        Ok(run) => run,
        Err(Obstacle::Skip(_)) => {
            tally.skipped = 1;
            return (tally, String::new());
        }
        Err(Obstacle::Failed(error)) => return (tally, format!("no host: {error}")),
    };
    let mut text = String::new();
    let last = script.steps.len() - 1;
    for (at, step) in script.steps.iter().enumerate() {
        let row = run.step(step);
        let ours = at == last || step.line == 0 || row.complaints.contains(&Complaint::Differ);
        if ours && !row.complaints.is_empty() {
            tally.failed += 1;
            text += &script::row(script, step, &row, &run.ports.1, script::Detail::default());
        }
    }
    (tally, text)
}

/// Ways out that the kernel does not bear out, each for a reason that gaps.toml names.
///
/// Timestamps: the SYN has the very number of the half-open connection of another socket, so it is
/// answered with that one's timestamp, which the socket does not believe (tcp_check_req(),
/// tcp_rcv_synsent_state_process()).
const GAPS: [&str; 1] = [
    "a_later_syn_in_the_window_ends_a_half_open_connection.bind: e2 connect 127.0.0.1:web, but disconnect first (connect with AF_UNSPEC)",
];

/// A program of one thread, since each scenario runs in a forked child with networks of its own.
fn main() {
    if let Some(reason) = unable() {
        println!("ways out on the live kernel: skipped: {reason}");
        return;
    }
    nothing_is_no_way_out();
    let (scenarios, others) = scenarios();
    assert!(scenarios.len() > 150, "only {} were made", scenarios.len());
    let (mut skipped, mut failures) = (0, String::new());
    for gap in GAPS {
        let known = scenarios.iter().any(|(name, _)| name == gap);
        assert!(known, "there is no {gap:?} any more");
    }
    let tried = scenarios
        .iter()
        .filter(|(name, _)| !GAPS.contains(&name.as_str()));
    for (name, script) in tried {
        let (tally, text) = script::apart(|| failure(script)).unwrap();
        skipped += tally.skipped;
        if !text.is_empty() {
            failures += &format!("{name}\n{text}\n");
        }
    }
    println!(
        "ways out on the live kernel: {} tried, {skipped} skipped, {others} not made by calls",
        scenarios.len()
    );
    assert!(failures.is_empty(), "{failures}");
}

/// Why this host cannot run them.
fn unable() -> Option<String> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    if Kernel::parse(&release).is_none_or(|kernel| !kernel.is_release(Kernel::V6_18)) {
        return Some(format!(
            "the scenarios are about Linux 6.18, and this is {release}"
        ));
    }
    let probe = script::parse("socket a inet\n", Settings::default()).unwrap();
    let (_, text) = script::apart(|| failure(&probe)).unwrap();
    text.contains("no host").then_some(text)
}

/// The test is tested: a refused call for which nothing was done fails in the model and on the kernel.
fn nothing_is_no_way_out() {
    let text =
        "port web\nsocket a inet\nsocket b inet\na bind 127.0.0.1:web\nb bind 127.0.0.1:web\n";
    let script = script::parse(text, Settings::default()).unwrap();
    let (tally, text) = script::apart(|| failure(&script)).unwrap();
    assert!(tally.failed == 1 || tally.skipped == 1, "{text}");
}
