//! The model as a world.
//!
//! Decides:  how the model follows what the live kernel drew at random, where it permits that draw.
//! Not here: what the model answers.

use std::net::SocketAddr;

use portcullis_kernel_model::{
    Answer, Call, Errno, Explanation, Family, Host, ProcessId, SocketId, State, World as Sockets,
};

use super::program::{Action, Slot};
use super::sysctls::Sysctl;
use super::world::{Observation, Outcome, World, perform};

/// The model.
#[derive(Debug, Clone)]
pub struct Model {
    sockets: Sockets,
    slots: Vec<Option<SocketId>>,
    explanation: Explanation,
}

impl Model {
    /// A host without sockets.
    #[must_use]
    pub fn new(host: Host) -> Model {
        Model {
            sockets: Sockets::new(host),
            slots: Vec::new(),
            explanation: Explanation::default(),
        }
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
        self.slots.iter().rposition(|&known| known == Some(socket))
    }

    /// Takes a step as the other world took it: where the kernel draws at random, the draw that gives
    /// what was seen, if the model permits one.
    pub fn follow(
        &mut self,
        action: &Action,
        seen: &Observation,
        ports: &mut [u16],
        listeners: &mut Vec<Slot>,
    ) -> Observation {
        self.sockets
            .tell_port(seen.after.map_or(0, |(name, _)| name.port()));
        if let Some(member) = seen.reached.and_then(|slot| self.socket_of(slot)) {
            self.sockets.tell_member(member);
        }
        let observation = perform(self, action, ports, listeners);
        self.sockets.forget_told();
        observation
    }

    fn put(&mut self, slot: Slot, socket: SocketId) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot] = Some(socket);
    }

    fn ask(&mut self, slot: Slot, user: ProcessId, call: Call) -> Answer {
        let Some(socket) = self.socket_of(slot) else {
            self.explanation = Explanation::default();
            return Answer::Err(Errno::EBADF);
        };
        let (answer, explanation) = self.sockets.explain(user, socket, call);
        self.explanation = explanation;
        answer
    }
}

impl World for Model {
    fn name(&self) -> &'static str {
        "model"
    }

    fn open(&mut self, slot: Slot, user: ProcessId, family: Family) -> Outcome {
        self.explanation = Explanation::default();
        let socket = self.sockets.socket(user, family);
        self.put(slot, socket);
        Outcome::Ok
    }

    fn call(&mut self, slot: Slot, user: ProcessId, call: Call) -> Outcome {
        self.ask(slot, user, call).into()
    }

    fn pass(&mut self, slot: Slot, user: ProcessId) -> Outcome {
        self.ask(slot, user, Call::Dup).into()
    }

    fn accept(&mut self, slot: Slot, user: ProcessId, into: Slot) -> Outcome {
        let answer = self.ask(slot, user, Call::Accept);
        if let Answer::Accepted(socket) = answer {
            self.put(into, socket);
        }
        answer.into()
    }

    fn sysctl(&mut self, sysctl: &'static Sysctl, value: &str) -> Outcome {
        self.explanation = Explanation::default();
        match sysctl.set(&mut self.sockets.host_mut().namespaces[0].sysctls, value) {
            Some(()) => Outcome::Ok,
            None => Outcome::Err(Errno::EINVAL.number()),
        }
    }

    fn wait(&mut self, ms: u64) {
        self.explanation = Explanation::default();
        self.sockets.pass_time(ms);
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
