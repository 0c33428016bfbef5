//! The verdict before a call, and what the kernel then does: over the model's whole library of scenarios.
//!
//! Decides:  where BPF may be used, every verdict about a `bind` or `listen` of a scenario is certain, the
//!           kernel's, and names the real holder; elsewhere it is never wrong.
//! Not here: the model's own agreement with the kernel (crates/conformance); whole answers in words
//!           (whole/why_ask.rs).
//!
//! `cargo test -p portcullis --test agreement` asks about every third scenario with BPF, and about every
//! twelfth without; `-- --all` about all of them in each way, and says what was skipped; `-- NAME` about
//! those whose file's name has this in it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

use std::collections::BTreeMap;
use std::path::Path;

use portcullis_conformance::script::{
    self, Action, Mode, Obstacle, Outcome as Did, Run, Script, Settings, Slot, Step, Tally,
};
use portcullis_inspect::snapshot::{Known, Snapshot};
use portcullis_inspect::verdict::{Outcome, Verdict, ask_prepared, ask_socket};
use portcullis_inspect::{Caller, Means, Place, Wanted, read};
use portcullis_kernel_model::{Call, Caps, Errno, Family, Kernel, ProcessId, UserNsId};

/// The scenarios that are asked about in a usual run: one of so many, with BPF and without.
const SAMPLE: [usize; 2] = [3, 12];

/// What was counted.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    asked: usize,
    certain: usize,
    refused: usize,
    holders: usize,
    unasked: usize,
    wrong: usize,
}

impl Count {
    fn add(&mut self, other: Count) {
        self.asked += other.asked;
        self.certain += other.certain;
        self.refused += other.refused;
        self.holders += other.holders;
        self.unasked += other.unasked;
        self.wrong += other.wrong;
    }

    fn numbers(&self) -> String {
        let Count {
            asked,
            certain,
            refused,
            holders,
            unasked,
            wrong,
        } = self;
        format!("{asked} {certain} {refused} {holders} {unasked} {wrong}")
    }

    fn read(text: &str) -> Count {
        let all: Vec<usize> = text.split(' ').flat_map(str::parse).collect();
        let [asked, certain, refused, holders, unasked, wrong] = all[..] else {
            panic!("{text:?}");
        };
        Count {
            asked,
            certain,
            refused,
            holders,
            unasked,
            wrong,
        }
    }
}

/// Scenarios of more sockets are left out.
const CROWD: usize = 1_000;

fn cases() -> Vec<(String, Script)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernel-model/cases");
    let all = portcullis_conformance::cases::read(&directory, Settings::default()).unwrap();
    all.into_iter()
        .map(|case| (case.name, case.script.unwrap()))
        // A host is read for each question, and one of them has tens of thousands.
        .filter(|(_, script)| script.labels.len() <= CROWD)
        .collect()
}

/// What has been done to a socket that has no port yet.
#[derive(Debug, Clone)]
struct Made {
    family: Family,
    prepared: Vec<Call>,
    /// It has done more than to be prepared.
    used: bool,
}

struct Watched {
    means: Means,
    run: Run,
    made: Vec<Option<Made>>,
    count: Count,
    text: String,
    /// The kernel is said to have let everything through: the checker is checked.
    lie: bool,
}

/// What is asked about, before it is done.
struct Asked {
    verdict: Verdict,
    snapshot: Snapshot,
}

impl Watched {
    fn step(&mut self, step: &Step) {
        let asked = self.ask(step);
        let row = self.run.step(step);
        let mut did = row.kernel.as_ref().map(|seen| seen.outcome);
        if self.lie {
            did = did.map(|_| Did::Ok);
        }
        if let (Some(asked), Some(did)) = (asked, &did) {
            self.compare(step, &asked, did);
        }
        if let Some(did) = did {
            self.remember(&step.action, &did);
        }
    }

    fn ask(&mut self, step: &Step) -> Option<Asked> {
        let Action::Call { slot, user, call } = &step.action else {
            return None;
        };
        let call = call.call(&self.run.ports.1);
        if !matches!(call, Call::Bind(_) | Call::Listen(_)) {
            return None;
        }
        let (slot, user) = (*slot, *user);
        let cookie = self.run.live()?.cookie(slot)?;
        let snapshot = self.look(slot, user)?;
        let made = self.made.get(slot).cloned().flatten();
        let verdict = ask_socket(&snapshot, cookie, &[call]);
        let verdict = match (verdict, made) {
            (Ok(Some(verdict)), _) => Some(verdict),
            (Ok(None), Some(made)) if !made.used => {
                let asked = ask_prepared(&snapshot, made.family, &made.prepared, &[call]);
                Some(asked.unwrap_or_else(|why| panic!("{}: {why}", step.said)))
            }
            (Ok(None), _) => None,
            (Err(why), _) => panic!("{}: {why}\n{}", step.said, snapshot.render().unwrap()),
        };
        if verdict.is_none() {
            self.count.unasked += 1;
        }
        Some(Asked {
            verdict: verdict?,
            snapshot,
        })
    }

    /// The host as the caller would ask about it, from the network of the socket: one that was passed on
    /// stays in its own.
    fn look(&mut self, slot: Slot, user: ProcessId) -> Option<Snapshot> {
        let model = self.run.model.as_ref()?;
        let net = model.sockets().net_of(model.socket_of(slot)?)?;
        let known = model.sockets().host().processes[usize::from(user.0)];
        let means = self.means;
        let live = self.run.live()?;
        let process = live.process_of(user);
        let wanted = Wanted {
            caller: process.map_or(Caller::Own, Caller::Process),
            place: Place::OfProcess(std::process::id()),
            means,
            ..Wanted::default()
        };
        let mut snapshot = live.beside(net, || read(&wanted)).unwrap().unwrap();
        if process.is_none() {
            // A user is an identity that this process takes for the call.
            assert_eq!(known.user_ns, UserNsId(0));
            let own = snapshot.caller;
            let caller = snapshot.processes.iter_mut().find(|one| one.pid == own);
            let caller = caller.unwrap();
            if rustix::process::geteuid().is_root() {
                caller.uids = Some([known.uid.0; 4]);
            }
            caller.capabilities = Some(bits(known.caps));
        }
        Some(snapshot)
    }

    fn compare(&mut self, step: &Step, asked: &Asked, did: &Did) {
        let verdict = &asked.verdict;
        let live = match did {
            Did::Ok => None,
            Did::Err(number) => Errno::from_number(*number).map(Errno::name),
            other => panic!("{}: {other:?}", step.said),
        };
        self.count.asked += 1;
        self.count.refused += usize::from(live.is_some());
        let among = verdict.answers.iter().any(|answer| answer.error == live);
        let certain = verdict.outcome != Outcome::Unknown;
        self.count.certain += usize::from(certain);
        let bpf = asked.snapshot.sources.bpf == Known::Yes;
        // Which port the kernel takes, and whether it finds one, may hang on its draw.
        let drawn = verdict.question.address.port() == 0;
        let mut right = among && (certain || !bpf || drawn);
        let holder = self.blamed().and_then(|slot| self.run.live()?.cookie(slot));
        if let (Some(holder), true, true) = (holder, live.is_some(), certain) {
            let named = &verdict.answers[0].holders;
            right &= named.iter().any(|one| one.cookie == holder);
            self.count.holders += 1;
        }
        if !right {
            self.count.wrong += 1;
            let line = step.line;
            self.text += &format!(
                "line {line}: {}: the kernel: {live:?}, blamed {holder:?}\n{verdict}{}\n",
                step.said,
                asked.snapshot.render().unwrap()
            );
        }
    }

    /// Whom the model blames that went all the way with the kernel.
    fn blamed(&self) -> Option<Slot> {
        let model = self.run.model.as_ref()?;
        model.slot_of(model.explanation().because_of()?)
    }

    fn remember(&mut self, action: &Action, did: &Did) {
        match action {
            Action::Socket {
                slot,
                family,
                options,
                ..
            } => {
                let prepared = options.iter().map(|&opt| Call::Set(opt)).collect();
                self.put(*slot, *family, prepared);
            }
            Action::Call { slot, call, .. } => {
                let call = call.call(&self.run.ports.1);
                let Some(Some(made)) = self.made.get_mut(*slot) else {
                    return;
                };
                match call {
                    Call::Set(_) | Call::SetLen(..) | Call::Fchown(_) if *did == Did::Ok => {
                        made.prepared.push(call);
                    }
                    Call::Bind(_) | Call::Listen(_) | Call::Shutdown(_) => {
                        made.used |= *did == Did::Ok;
                    }
                    Call::Connect(_) => made.used = true,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn put(&mut self, slot: Slot, family: Family, prepared: Vec<Call>) {
        if self.made.len() <= slot {
            self.made.resize(slot + 1, None);
        }
        self.made[slot] = Some(Made {
            family,
            prepared,
            used: false,
        });
    }
}

fn bits(caps: Caps) -> u64 {
    let bit = |on: bool, number: u32| u64::from(on) << number;
    bit(caps.net_bind_service, 10) | bit(caps.net_admin, 12) | bit(caps.net_raw, 13)
}

/// Runs one scenario, in a child; the counts in the first line, then what was wrong.
fn watch(script: &Script, means: Means) -> (Tally, String) {
    watch_with(script, means, false)
}

fn watch_with(script: &Script, means: Means, lie: bool) -> (Tally, String) {
    let run = match Run::prepare(script, Mode::Both) {
        Ok(run) => run,
        Err(Obstacle::Skip(reason)) => {
            let tally = Tally {
                skipped: 1,
                ..Tally::default()
            };
            return (tally, format!("{}\n{reason}", Count::default().numbers()));
        }
        Err(Obstacle::Failed(error)) => panic!("no host: {error}"),
    };
    let mut watched = Watched {
        means,
        run,
        made: Vec::new(),
        count: Count::default(),
        text: String::new(),
        lie,
    };
    for step in &script.steps {
        watched.step(step);
    }
    let text = format!("{}\n{}", watched.count.numbers(), watched.text);
    (Tally::default(), text)
}

/// The test is tested: a kernel that let in what is refused would be noticed.
fn a_wrong_verdict_is_noticed() {
    let text = "port web\nsocket a inet\nsocket b inet\na bind 127.0.0.1:web\nb bind 127.0.0.1:web -> EADDRINUSE\n";
    let script = script::parse(text, Settings::default()).unwrap();
    let (_, text) = script::apart(|| watch_with(&script, Means::Everything, true)).unwrap();
    assert!(text.starts_with("2 2 0 0 0 1\n"), "{text}");
}

/// Why this host cannot run them.
fn unable() -> Option<String> {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    if Kernel::parse(&release).is_none_or(|kernel| !kernel.is_release(Kernel::V6_18)) {
        return Some(format!(
            "the scenarios are about Linux 6.18, and this is {release}"
        ));
    }
    let probe = script::parse("socket a inet\n", Settings::default()).unwrap();
    let (tally, _) = script::apart(|| watch(&probe, Means::SockDiag)).unwrap();
    (tally.skipped > 0).then(|| "no network namespace can be made here".to_owned())
}

fn main() {
    if let Some(reason) = unable() {
        println!("why and the kernel: skipped: {reason}");
        return;
    }
    a_wrong_verdict_is_noticed();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let all = arguments.iter().any(|argument| argument == "--all");
    let name = arguments.iter().find(|argument| !argument.starts_with('-'));
    let cases = cases();
    let mut failures = String::new();
    for means in [Means::Everything, Means::Descriptors, Means::SockDiag] {
        let (mut count, mut scenarios, mut skipped) = (Count::default(), 0, 0);
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for (at, (file, script)) in cases.iter().enumerate() {
            let one_in = SAMPLE[usize::from(means != Means::Everything)];
            let sampled = all || name.is_some() || at % one_in == 0;
            if !sampled || name.is_some_and(|name| !file.contains(name.as_str())) {
                continue;
            }
            let (tally, text) = script::apart(|| watch(script, means))
                .unwrap_or_else(|error| panic!("{file}: {error}"));
            let (numbers, wrong) = text.split_once('\n').unwrap();
            count.add(Count::read(numbers));
            (scenarios, skipped) = (scenarios + 1, skipped + tally.skipped);
            if tally.skipped > 0 {
                *reasons.entry(wrong.to_owned()).or_default() += 1;
            } else if !wrong.is_empty() {
                failures += &format!("{file}, {means:?}\n{wrong}\n");
            }
        }
        for (reason, times) in reasons.iter().filter(|_| all) {
            println!("skipped: {times} times: {reason}");
        }
        println!(
            "why and the kernel, {means:?}: {scenarios} scenarios ({skipped} skipped), {} verdicts: {} certain, {} of refusals, {} holders compared, {} calls not asked about, {} wrong",
            count.asked, count.certain, count.refused, count.holders, count.unasked, count.wrong
        );
        assert!(
            name.is_some() || count.asked > 30,
            "hardly anything was asked"
        );
    }
    assert!(failures.is_empty(), "{failures}");
}
