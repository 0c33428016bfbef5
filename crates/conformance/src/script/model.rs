//! The model as a world.
//!
//! Decides:  how the model follows what the live kernel drew at random, where it permits that draw.
//! Not here: what the model answers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use portcullis_kernel_model::{
    Answer, Call, Errno, Explanation, Family, Host, NetId, ProcessId, Rule, SocketId, State,
    Sysctl, Together, Trace as _, WayOut, World as Sockets,
};

use super::program::{Action, Slot};
use super::world::{Observation, Outcome, World, perform};

/// With how many sockets copies of the world become too dear to make one for each call.
const CROWD: usize = 1_000;

/// The model.
#[derive(Debug, Clone)]
pub struct Model {
    sockets: Sockets,
    slots: Vec<Option<SocketId>>,
    /// The slot of each socket.
    named: BTreeMap<SocketId, Slot>,
    explanation: Explanation,
    /// Whether ways out are looked for where a call is refused.
    finds_ways: bool,
    ways: Vec<WayOut>,
    /// The order of the timers that fire together while time passes next.
    pub(super) together: Together,
}

impl Model {
    /// A host without sockets.
    #[must_use]
    pub fn new(host: Host) -> Model {
        Model {
            sockets: Sockets::new(host),
            slots: Vec::new(),
            named: BTreeMap::new(),
            explanation: Explanation::default(),
            finds_ways: false,
            ways: Vec::new(),
            together: Together::Usual,
        }
    }

    /// From now on, looks for ways out of every refusal; each costs some dozens of copies of the world, and
    /// each call one. A world of more than 1,000 sockets is not copied: nothing is found there.
    pub fn find_ways(&mut self) {
        self.finds_ways = true;
    }

    pub(super) fn is_finding_ways(&self) -> bool {
        self.finds_ways
    }

    /// What would have had to differ for the last call to succeed.
    #[must_use]
    pub fn ways(&self) -> &[WayOut] {
        &self.ways
    }

    /// The sockets by slot.
    #[must_use]
    pub fn known(&self) -> &[Option<SocketId>] {
        &self.slots
    }

    /// The rules of the last call.
    #[must_use]
    pub fn explanation(&self) -> &Explanation {
        &self.explanation
    }

    /// The sockets.
    #[must_use]
    pub fn sockets(&self) -> &Sockets {
        &self.sockets
    }

    pub(super) fn sockets_mut(&mut self) -> &mut Sockets {
        &mut self.sockets
    }

    /// The host, to change it.
    pub fn host_mut(&mut self) -> &mut Host {
        self.sockets.host_mut()
    }

    /// The socket of a slot.
    #[must_use]
    pub fn socket_of(&self, slot: Slot) -> Option<SocketId> {
        self.slots.get(slot).copied().flatten()
    }

    /// The slot of a socket.
    #[must_use]
    pub fn slot_of(&self, socket: SocketId) -> Option<Slot> {
        self.named.get(&socket).copied()
    }

    /// Takes a step as the other world took it: where the kernel draws at random, the draw that gives
    /// what was seen, if the model permits one. Also the choices that it made, of its own or told before:
    /// of how many, and which.
    pub(super) fn follow(
        &mut self,
        action: &Action,
        seen: &Observation,
        ports: &mut [u16],
        listeners: &mut BTreeSet<Slot>,
    ) -> (Observation, Vec<(u32, u32)>) {
        // After a failure the name may still have the port of an older connection.
        let no_port = [Errno::EADDRINUSE, Errno::EADDRNOTAVAIL]
            .iter()
            .any(|errno| seen.outcome == Outcome::Err(errno.number()));
        match seen.after {
            _ if no_port => self.sockets.tell_no_port(),
            Some((name, _)) if name.port() != 0 => self.sockets.tell_port(name.port()),
            _ => {}
        }
        if let Some(member) = seen.reached.and_then(|slot| self.socket_of(slot)) {
            self.sockets.tell_member(member);
        }
        let observation = perform(self, action, ports, listeners);
        let made = self.sockets.choices_made();
        self.sockets.forget_told();
        (observation, made)
    }

    fn forget_reasons(&mut self) {
        self.explanation = Explanation::default();
        self.ways.clear();
    }

    fn put(&mut self, slot: Slot, socket: SocketId) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(socket);
        self.named.insert(socket, slot);
    }

    fn ask(&mut self, slot: Slot, user: ProcessId, call: Call) -> Answer {
        let Some(socket) = self.socket_of(slot) else {
            // Never opened, since its `accept` failed.
            self.forget_reasons();
            self.explanation.rule(Rule::BadDescriptor);
            return Answer::Err(Errno::EBADF);
        };
        let finds_ways = self.finds_ways && self.slots.len() <= CROWD;
        let before = finds_ways.then(|| self.sockets.clone());
        let (answer, explanation) = self.sockets.explain(user, socket, call);
        self.explanation = explanation;
        self.ways.clear();
        if let (Some(before), Answer::Err(_) | Answer::Blocks) = (before, answer) {
            self.ways = before.ways_out(user, socket, call);
        }
        answer
    }
}

impl World for Model {
    fn name(&self) -> &'static str {
        "model"
    }

    fn open(&mut self, slot: Slot, user: ProcessId, family: Family) -> Outcome {
        self.forget_reasons();
        let socket = self.sockets.socket(user, family);
        self.put(slot, socket);
        Outcome::Ok
    }

    fn call(&mut self, slot: Slot, user: ProcessId, call: Call) -> Outcome {
        self.ask(slot, user, call).into()
    }

    fn pass(&mut self, slot: Slot, user: ProcessId, to: ProcessId) -> Outcome {
        self.ask(slot, user, Call::Pass(to)).into()
    }

    fn accept(&mut self, slot: Slot, user: ProcessId, into: Slot) -> Outcome {
        let answer = self.ask(slot, user, Call::Accept);
        if let Answer::Accepted(socket) = answer {
            self.put(into, socket);
        }
        answer.into()
    }

    fn fork(&mut self, parent: ProcessId) -> Outcome {
        self.forget_reasons();
        self.sockets.fork(parent);
        Outcome::Ok
    }

    fn exit(&mut self, process: ProcessId) -> Outcome {
        self.forget_reasons();
        self.sockets.exit_traced(process, &mut self.explanation);
        Outcome::Ok
    }

    fn enter_net(&mut self, process: ProcessId, net: NetId) -> Outcome {
        self.forget_reasons();
        self.sockets.host_mut().processes[usize::from(process.0)].net = net;
        Outcome::Ok
    }

    fn sysctl(&mut self, sysctl: &'static Sysctl, net: NetId, value: &str) -> Outcome {
        self.forget_reasons();
        let sockets = &mut self.sockets;
        match sockets.write_sysctl_traced(net, sysctl, value, &mut self.explanation) {
            Ok(()) => Outcome::Ok,
            Err(errno) => Outcome::Err(errno.number()),
        }
    }

    fn cpu(&mut self, cpu: u16) -> Outcome {
        self.forget_reasons();
        self.sockets.set_cpu(i32::from(cpu));
        Outcome::Ok
    }

    fn wait(&mut self, ms: u64) {
        self.forget_reasons();
        let together = std::mem::replace(&mut self.together, Together::Usual);
        self.sockets.pass_time_in(ms, together);
    }

    fn waiting(&mut self, slot: Slot) -> u32 {
        self.socket_of(slot)
            .map_or(0, |socket| self.sockets.queue_len(socket) as u32)
    }

    fn look(&mut self, slot: Slot) -> Option<(SocketAddr, State)> {
        let socket = self.socket_of(slot)?;
        Some((self.sockets.name(socket)?, self.sockets.state(socket)?))
    }
}
