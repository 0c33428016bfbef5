//! One script in two worlds, step by step.
//!
//! Decides:  what counts as agreement; how the model is told of the kernel's random draws.
//! Not here: where the kernel's answers come from (live.rs, tape.rs).

use std::io;

use portcullis_kernel_model::{
    Answer, Call, Coverage, Errno, Explanation, Host, Kernel, NoTrace, ProcessId, Rule, SocketId,
    State, Together, Trace, World,
};

use crate::follow::{Followed, Guess, MOMENT_MS, follow};
use crate::host;
use crate::live::Live;
use crate::step::{Op, Outcome, Ports, SLOTS, Script, Seen, Step, observed};

/// Where the kernel's answers come from: the live kernel, or a tape of it.
pub trait Source {
    /// What the kernel answered to this step; its ports are numbers. `None`: the step makes no sense.
    fn answer(&mut self, step: &Step) -> io::Result<Option<Seen>>;

    /// The state that the step's socket has some time later, where that can be seen.
    fn later(&mut self, _: &Step) -> Option<u8> {
        None
    }
}

impl Source for Live {
    fn answer(&mut self, step: &Step) -> io::Result<Option<Seen>> {
        self.perform(step)
    }

    fn later(&mut self, step: &Step) -> Option<u8> {
        Some(self.state_later(step))
    }
}

/// A script on which the worlds differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// At which step.
    pub at: usize,
    /// What the kernel answered.
    pub kernel: Seen,
    /// What the model answers.
    pub model: Seen,
    /// The rules that the model went by at this step.
    pub rules: Vec<Rule>,
}

/// A script on its way: it can be left while time passes, and taken up again.
#[derive(Debug)]
pub struct Walk {
    /// The worlds that are possible by what was seen of the kernel; one until that is not enough.
    models: Vec<Model>,
    /// All of them are followed.
    wide: bool,
    ports: Ports,
    at: usize,
    said: Vec<Option<Seen>>,
}

impl Walk {
    /// What the kernel answered so far, step by step.
    #[must_use]
    pub fn said(&self) -> &[Option<Seen>] {
        &self.said
    }

    fn step<T: Trace>(&mut self, step: &Step, kernel: &Seen, trace: &mut T) -> Followed<Seen> {
        if self.wide {
            return follow(&mut self.models, step, kernel, trace);
        }
        let said = self.models[0].perform(step, kernel, trace);
        if said == *kernel {
            Followed::Agrees
        } else {
            Followed::Differs(said, Vec::new())
        }
    }
}

/// Why a script does not go on.
#[derive(Debug)]
pub enum Stop {
    /// The worlds differ.
    Differs(Difference),
    /// So many seconds are to pass.
    Waits(u32),
    /// It is over.
    Ended,
}

/// Compares scripts; keeps what it needs between them, so that a step costs no allocation.
#[derive(Debug)]
pub struct Comparison {
    kernel: Kernel,
    user: u32,
    profile: u8,
    /// The numbers of the ports' names.
    pub ports: Ports,
    fresh: World,
    kernel_said: Vec<Option<Seen>>,
    /// Which rules were applied, and how often.
    pub coverage: Coverage,
    /// Steps compared.
    pub steps: u64,
    /// Scripts that ended early, because what the kernel drew left too many possibilities.
    pub unclear: u64,
}

impl Comparison {
    /// For a host of this kernel, whose first user has this id.
    #[must_use]
    pub fn new(kernel: Kernel, user: u32, ports: Ports) -> Comparison {
        Comparison {
            kernel,
            user,
            profile: 0,
            ports,
            fresh: World::new(host::model(kernel, user, 0, &ports)),
            kernel_said: Vec::new(),
            coverage: Coverage::default(),
            steps: 0,
            unclear: 0,
        }
    }

    /// The host that scripts run on from now on.
    pub fn set_host(&mut self, profile: u8, ports: Ports, cpu: i32) {
        self.profile = profile;
        self.ports = ports;
        let host: Host = host::model(self.kernel, self.user, profile, &ports);
        self.fresh = World::new(host);
        self.fresh.set_cpu(cpu);
    }

    /// What the kernel answered to the last script, step by step; `None` where a step made no sense.
    #[must_use]
    pub fn kernel_said(&self) -> &[Option<Seen>] {
        &self.kernel_said
    }

    /// The model by itself on hosts like these.
    #[must_use]
    pub fn alone(&self, profile: u8, cpu: i32) -> Alone {
        let mut comparison = Comparison::new(self.kernel, self.user, self.ports);
        comparison.set_host(profile, self.ports, cpu);
        Alone { comparison, cpu }
    }

    /// A script's beginning, on the host as it is set now.
    #[must_use]
    pub fn begin(&self) -> Walk {
        Walk {
            models: vec![Model::new(self.fresh.clone())],
            wide: false,
            ports: self.ports,
            at: 0,
            said: Vec::new(),
        }
    }

    /// Goes on until the worlds differ, time is to pass, or the script is over. The host must be set as
    /// it was at the beginning.
    pub fn go_on(
        &mut self,
        walk: &mut Walk,
        script: &Script,
        source: &mut impl Source,
    ) -> io::Result<Stop> {
        while let Some(step) = script.steps.get(walk.at) {
            let at = walk.at;
            walk.at += 1;
            if let Op::Wait(seconds) = step.op {
                walk.said.push(Some(Seen::default()));
                if walk
                    .step(step, &Seen::default(), &mut self.coverage)
                    .is_lost()
                {
                    self.unclear += 1;
                    return Ok(Stop::Ended);
                }
                return Ok(Stop::Waits(seconds));
            }
            let Some(resolved) = sensible(step, &walk.models[0], &walk.ports) else {
                walk.said.push(None);
                continue;
            };
            let kernel = source.answer(&resolved)?;
            walk.said.push(kernel);
            let Some(mut kernel) = kernel else { continue };
            let mut followed = walk.step(&resolved, &kernel, &mut self.coverage);
            self.steps += 1;
            // Not every route acknowledges at once (gaps.toml).
            if let Followed::Differs(model, _) = &followed
                && awaits_ack(&kernel, model)
                && source.later(&resolved) == Some(model.state)
            {
                kernel = *model;
                walk.said[at] = Some(kernel);
                followed = Followed::Agrees;
            }
            if !walk.wide && !matches!(followed, Followed::Agrees) {
                followed = self.widen(walk, script, at);
            }
            match followed {
                Followed::Agrees => {}
                Followed::Lost => {
                    self.unclear += 1;
                    return Ok(Stop::Ended);
                }
                Followed::Differs(model, rules) => {
                    return Ok(Stop::Differs(Difference {
                        at,
                        kernel,
                        model,
                        rules,
                    }));
                }
            }
            learn(&resolved, &kernel, &mut walk.ports);
        }
        Ok(Stop::Ended)
    }

    /// The kernel has made choices that nothing showed when they were made: of a group's members, one
    /// that holds the connection back or is full, or to whom waiting connections moved. The model took
    /// others, so that they differ later. Goes through all of them, and on with those that agree so far.
    fn widen(&self, walk: &mut Walk, script: &Script, upto: usize) -> Followed<Seen> {
        let mut models = vec![Model::new(self.fresh.clone())];
        let mut ports = self.ports;
        walk.wide = true;
        for (step, told) in script.steps.iter().zip(&walk.said).take(upto + 1) {
            let resolved = sensible(step, &models[0], &ports);
            let (Some(resolved), Some(told)) = (resolved, told) else {
                continue;
            };
            match follow(&mut models, &resolved, told, &mut NoTrace) {
                Followed::Agrees => {}
                other => return other,
            }
            learn(&resolved, told, &mut ports);
        }
        // The caller learns from the last step.
        walk.models = models;
        Followed::Agrees
    }

    /// Runs a script until the worlds differ; time passes in the model alone.
    pub fn run(
        &mut self,
        script: &Script,
        source: &mut impl Source,
    ) -> io::Result<Option<Difference>> {
        let mut walk = self.begin();
        walk.said = std::mem::take(&mut self.kernel_said);
        walk.said.clear();
        let difference = loop {
            match self.go_on(&mut walk, script, source)? {
                Stop::Waits(_) => {}
                Stop::Differs(difference) => break Some(difference),
                Stop::Ended => break None,
            }
        };
        self.kernel_said = walk.said;
        Ok(difference)
    }
}

/// The model without another world beside it: what deliberate errors change on releases that no live
/// kernel here has.
#[derive(Debug)]
pub struct Alone {
    comparison: Comparison,
    cpu: i32,
}

impl Alone {
    /// On hosts of this release.
    #[must_use]
    pub fn new(kernel: Kernel, ports: Ports) -> Alone {
        Alone {
            comparison: Comparison::new(kernel, 0, ports),
            cpu: 0,
        }
    }

    /// Runs a script; `each` hears what came of each step, and why.
    pub fn run(
        &mut self,
        script: &Script,
        seed: u64,
        explanation: &mut Explanation,
        each: &mut dyn FnMut(&Seen, &mut Explanation),
    ) {
        let comparison = &mut self.comparison;
        if comparison.profile != script.profile {
            comparison.set_host(script.profile, comparison.ports, self.cpu);
        }
        let mut model = Model::new(comparison.fresh.clone());
        model.world.seed(seed);
        let mut ports = comparison.ports;
        for step in &script.steps {
            let Some(resolved) = sensible(step, &model, &ports) else {
                continue;
            };
            let seen = model.perform(&resolved, &Seen::default(), explanation);
            each(&seen, explanation);
            learn(&resolved, &seen, &mut ports);
        }
    }
}

/// Whether all that differs is that the kernel still waits for the acknowledgement of a FIN.
fn awaits_ack(kernel: &Seen, model: &Seen) -> bool {
    let fin_wait = (State::FinWait1 as u8, State::FinWait2 as u8);
    (kernel.state, model.state) == fin_wait
        && *model
            == Seen {
                state: model.state,
                ..*kernel
            }
}

/// The step with numbers for ports, if it makes sense now: its socket exists, a new one has a place.
fn sensible(step: &Step, model: &Model, ports: &Ports) -> Option<Step> {
    let slot = model.ids[usize::from(step.slot)];
    match step.op {
        Op::Socket(_) => slot.is_none().then_some(*step),
        Op::Wait(_) => Some(*step),
        Op::Call(call) => {
            slot?;
            if call == Call::Accept && model.ids[usize::from(step.into)].is_some() {
                return None;
            }
            Some(Step {
                op: Op::Call(ports.resolve(call)),
                ..*step
            })
        }
    }
}

/// What later steps may refer to.
fn learn(step: &Step, seen: &Seen, ports: &mut Ports) {
    if let Some(name) = seen.name {
        let slot = if seen.outcome == Outcome::Accepted {
            step.into
        } else {
            step.slot
        };
        ports.slots[usize::from(slot)] = name.port();
    }
}

/// The model's side of a script.
#[derive(Debug, Clone)]
struct Model {
    world: World,
    ids: [Option<SocketId>; SLOTS],
    /// The choices of the last call among members of groups: of how many, and which.
    made: Vec<(u32, u32)>,
    /// The order of the timers that fire together while time passes next.
    together: Together,
}

impl Model {
    fn new(world: World) -> Model {
        Model {
            world,
            ids: [None; SLOTS],
            made: Vec::new(),
            together: Together::Usual,
        }
    }

    fn perform<T: Trace>(&mut self, step: &Step, kernel: &Seen, trace: &mut T) -> Seen {
        let process = ProcessId(u16::from(step.process));
        let call = match step.op {
            Op::Socket(family) => {
                let id = self.world.socket(process, family);
                self.world.call_as(process, id, Call::SetNonblocking(true));
                self.ids[usize::from(step.slot)] = Some(id);
                return Seen::default();
            }
            Op::Wait(seconds) => {
                let together = std::mem::replace(&mut self.together, Together::Usual);
                let ms = u64::from(seconds) * 1000;
                self.world.pass_time_in(ms, together);
                self.made = self.world.choices_made();
                self.world.forget_told();
                return Seen::default();
            }
            Op::Call(call) => call,
        };
        let Some(id) = self.ids[usize::from(step.slot)] else {
            return Seen::default();
        };
        self.tell_draws(id, call, kernel);
        let connecting = matches!(call, Call::Connect(_));
        let before = if connecting {
            self.queues()
        } else {
            [0; SLOTS]
        };
        let answer = self.world.call_traced(process, id, call, trace);
        self.made = self.world.choices_made();
        self.world.forget_told();
        let mut seen = Seen {
            outcome: answer.into(),
            ..Seen::default()
        };
        if connecting {
            let after = self.queues();
            seen.receiver = (0..SLOTS)
                .find(|&at| after[at] > before[at])
                .map(|at| at as u8);
        }
        let mut looked = id;
        if let Answer::Accepted(new) = answer {
            self.world.call_as(process, new, Call::SetNonblocking(true));
            self.ids[usize::from(step.into)] = Some(new);
            looked = new;
        }
        if observed(call) {
            self.look(looked, &mut seen);
        }
        seen
    }

    /// How many wait to be accepted, of each listener.
    fn queues(&self) -> [usize; SLOTS] {
        self.ids
            .map(|id| id.map_or(0, |id| self.world.queue_len(id)))
    }

    /// The kernel's own choices at this step: its port, and the listener that got a connection.
    fn tell_draws(&mut self, id: SocketId, call: Call, kernel: &Seen) {
        let chooses = matches!(call, Call::Bind(_) | Call::Listen(_) | Call::Connect(_));
        // After a failure the name may still have the port of an older connection.
        let no_port = [Errno::EADDRINUSE, Errno::EADDRNOTAVAIL]
            .iter()
            .any(|errno| kernel.outcome == Outcome::Err(errno.number()));
        if chooses && self.world.port(id) == 0 {
            match kernel.name {
                _ if no_port => self.world.tell_no_port(),
                Some(name) if name.port() != 0 => self.world.tell_port(name.port()),
                _ => {}
            }
        }
        if let Some(receiver) = kernel.receiver
            && let Some(receiver) = self.ids[usize::from(receiver)]
        {
            self.world.tell_member(receiver);
        }
    }

    fn look(&mut self, id: SocketId, seen: &mut Seen) {
        if let Answer::Address(name) = self.world.call(id, Call::GetSockName) {
            seen.name = Some(name);
        }
        seen.state = self.world.state(id).map_or(0, |state| state as u8);
    }
}

impl Guess for Model {
    type Step = Step;
    type Seen = Seen;

    fn tell_choices(&mut self, choices: &[u32]) {
        self.world.tell_choices(choices);
    }

    fn take<T: Trace>(&mut self, step: &Step, kernel: &Seen, trace: &mut T) -> Seen {
        self.perform(step, kernel, trace)
    }

    fn choices_made(&mut self) -> Vec<(u32, u32)> {
        std::mem::take(&mut self.made)
    }

    fn shows_member(kernel: &Seen) -> bool {
        kernel.receiver.is_some()
    }

    fn a_moment_later(&self) -> Option<Model> {
        let soon = self.world.next_event_ms().is_some_and(|ms| ms <= MOMENT_MS);
        soon.then(|| {
            let mut late = self.clone();
            late.world.pass_time(MOMENT_MS);
            late
        })
    }

    fn with_timers_reversed(&self, step: &Step) -> Option<Model> {
        let Op::Wait(seconds) = step.op else {
            return None;
        };
        let meet = self.world.timers_meet(u64::from(seconds) * 1000);
        meet.then(|| Model {
            together: Together::Reversed,
            ..self.clone()
        })
    }

    fn catches_up(&mut self, step: &Step, said: &Seen, kernel: &Seen) -> bool {
        let Some(mut late) = self.a_moment_later() else {
            return false;
        };
        let (Op::Call(call), Some(id)) = (step.op, late.ids[usize::from(step.slot)]) else {
            return false;
        };
        let mut shown = *said;
        if observed(call) && call != Call::Accept {
            late.look(id, &mut shown);
        }
        if shown != *kernel {
            return false;
        }
        *self = late;
        true
    }
}
