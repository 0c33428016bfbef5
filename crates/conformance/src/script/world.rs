//! A world in which a script can run: the model, or a live kernel.
//!
//! Decides:  what is looked at after each step, the same for every world.
//! Not here: the model's side (model.rs), the kernel's (kernel.rs), expectations (run.rs).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use portcullis_kernel_model::{AF_UNSPEC, Call, Family, NetId, ProcessId, State, Sysctl};

use super::program::{Action, Slot, Verb};
pub use crate::step::Outcome;

/// Where calls are made. Sockets are named by slots, which the caller numbers.
pub trait World {
    /// How output names it.
    fn name(&self) -> &'static str;
    /// `socket`.
    fn open(&mut self, slot: Slot, user: ProcessId, family: Family) -> Outcome;
    /// Any call but `accept`.
    fn call(&mut self, slot: Slot, user: ProcessId, call: Call) -> Outcome;
    /// The descriptor is sent through a Unix socket, and received by `to`.
    fn pass(&mut self, slot: Slot, user: ProcessId, to: ProcessId) -> Outcome;
    /// `accept`; the new socket gets the slot `into`.
    fn accept(&mut self, slot: Slot, user: ProcessId, into: Slot) -> Outcome;
    /// A process forks; the child is the next process.
    fn fork(&mut self, parent: ProcessId) -> Outcome;
    /// A process ends.
    fn exit(&mut self, process: ProcessId) -> Outcome;
    /// A process goes into a network namespace.
    fn enter_net(&mut self, process: ProcessId, net: NetId) -> Outcome;
    /// Sets a sysctl of a network namespace.
    fn sysctl(&mut self, sysctl: &'static Sysctl, net: NetId, value: &str) -> Outcome;
    /// This processor handles packets from now on.
    fn cpu(&mut self, cpu: u16) -> Outcome;
    /// Lets time pass.
    fn wait(&mut self, ms: u64);
    /// How many connections wait in a listener's queue; 0 for any other socket.
    fn waiting(&mut self, slot: Slot) -> u32;
    /// A socket's own name and its state; `None` once it is closed.
    fn look(&mut self, slot: Slot) -> Option<(SocketAddr, State)>;
    /// A connection may be on its way: wait a moment for it. `false` where there is nothing to wait for.
    fn settle(&mut self) -> bool {
        false
    }
}

/// What came of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The answer.
    pub outcome: Outcome,
    /// The socket's own name and state afterwards.
    pub after: Option<(SocketAddr, State)>,
    /// Of `connect`: the listener whose queue grew.
    pub reached: Option<Slot>,
}

/// How often a connection that nobody got yet is looked for again.
pub(super) const LOOKS: u32 = 5;

/// Takes a step. `listeners` are the open sockets that ever listened, to see whom a connection reaches.
pub fn perform(
    world: &mut dyn World,
    action: &Action,
    ports: &mut [u16],
    listeners: &mut BTreeSet<Slot>,
) -> Observation {
    let mut reached = None;
    let outcome = match action {
        Action::Socket {
            slot,
            family,
            user,
            options,
        } => {
            let opened = world.open(*slot, *user, *family);
            options.iter().fold(opened, |so_far, option| match so_far {
                Outcome::Ok => world.call(*slot, *user, Call::Set(*option)),
                failed => failed,
            })
        }
        Action::Accept { slot, user, into } => world.accept(*slot, *user, *into),
        Action::Call {
            slot,
            user,
            call: Verb::Pass(to),
        } => world.pass(*slot, *user, *to),
        Action::Call { slot, user, call } => {
            let call = call.call(ports);
            if matches!(call, Call::Listen(_)) {
                listeners.insert(*slot);
            }
            // AF_UNSPEC disconnects: it reaches nobody.
            if matches!(call, Call::Connect(to) if to.family != AF_UNSPEC) {
                let before: Vec<u32> = listeners.iter().map(|&at| world.waiting(at)).collect();
                let outcome = world.call(*slot, *user, call);
                reached = grown(world, listeners, &before, outcome);
                outcome
            } else {
                world.call(*slot, *user, call)
            }
        }
        Action::PortOf { port, slot } => match world.look(*slot) {
            Some((name, _)) => {
                ports[*port] = name.port();
                Outcome::Value(i32::from(name.port()))
            }
            None => world.call(*slot, ProcessId(0), Call::GetSockName),
        },
        Action::Sysctl(sysctl, net, value) => world.sysctl(sysctl, *net, value),
        Action::Fork { parent } => world.fork(*parent),
        Action::Exit { process } => world.exit(*process),
        Action::Enter { process, net } => world.enter_net(*process, *net),
        Action::Cpu(cpu) => world.cpu(*cpu),
        Action::Wait { ms } => {
            world.wait(*ms);
            Outcome::Ok
        }
    };
    let after = look_after(world, action, &outcome);
    if let (Action::Call { slot, .. }, None) = (action, &after) {
        listeners.remove(slot);
    }
    Observation {
        outcome,
        after,
        reached,
    }
}

/// The socket that the action was about, as it is now.
pub(super) fn look_after(
    world: &mut dyn World,
    action: &Action,
    outcome: &Outcome,
) -> Option<(SocketAddr, State)> {
    match action {
        Action::Accept { into, .. } if *outcome == Outcome::Accepted => world.look(*into),
        Action::Socket { slot, .. } | Action::Accept { slot, .. } | Action::Call { slot, .. } => {
            world.look(*slot)
        }
        _ => None,
    }
}

/// The listener whose queue grew.
fn grown(
    world: &mut dyn World,
    listeners: &BTreeSet<Slot>,
    before: &[u32],
    outcome: Outcome,
) -> Option<Slot> {
    for _ in 0..LOOKS {
        let mut pairs = listeners.iter().zip(before);
        if let Some((&slot, _)) = pairs.find(|&(&slot, &before)| world.waiting(slot) > before) {
            return Some(slot);
        }
        if outcome != Outcome::Ok || !world.settle() {
            break;
        }
    }
    None
}
