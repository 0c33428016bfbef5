//! One script in both worlds.
//!
//! Decides:  what is compared after each step; how a script that differs is made short.
//! Not here: which scripts.

use portcullis_kernel_model::{
    AF_UNSPEC, Answer, Call, Coverage, Errno, Family, Host, Kernel, OptName, ProcessId, SocketId,
    World,
};

use super::Live;

/// A step of a script: a new socket, or a call on one by its number (modulo those that exist).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    New(Family),
    On(usize, Call),
}

/// Where the two worlds answered differently.
#[derive(Debug)]
pub struct Difference {
    pub step: usize,
    pub model: String,
    pub kernel: String,
}

/// What a run has done.
#[derive(Default)]
pub struct Tally {
    pub scripts: u64,
    pub steps: u64,
    pub coverage: Coverage,
}

pub fn fresh_world(adjust: impl Fn(&mut Host)) -> World {
    let mut host = Host::new(Kernel::V6_18);
    adjust(&mut host);
    World::new(host)
}

/// Runs a script in both worlds and compares every answer; then state and names of every socket.
pub fn run(script: &[Step], mut world: World, tally: &mut Tally) -> Result<(), Difference> {
    let mut live = Live::default();
    let mut ids: Vec<SocketId> = Vec::new();
    tally.scripts += 1;
    for (at, &step) in script.iter().enumerate() {
        tally.steps += 1;
        let (number, call) = match step {
            Step::New(family) => {
                live.socket(family);
                let id = world.socket(ProcessId(0), family);
                world.call(id, Call::SetNonblocking(true));
                ids.push(id);
                continue;
            }
            Step::On(_, _) if ids.is_empty() => continue,
            Step::On(number, call) => (number % ids.len(), call),
        };
        let (model, kernel) = both(&mut world, &mut live, &mut ids, number, call, tally);
        if model != kernel {
            return Err(Difference {
                step: at,
                model,
                kernel,
            });
        }
    }
    for number in 0..ids.len() {
        for call in [
            Call::GetSockName,
            Call::GetPeerName,
            Call::Get(OptName::State),
        ] {
            tally.steps += 1;
            let (model, kernel) = both(&mut world, &mut live, &mut ids, number, call, tally);
            if model != kernel {
                let model = format!("at the end, {call:?} of {number}: {model}");
                return Err(Difference {
                    step: script.len(),
                    model,
                    kernel,
                });
            }
        }
    }
    Ok(())
}

fn both(
    world: &mut World,
    live: &mut Live,
    ids: &mut Vec<SocketId>,
    number: usize,
    call: Call,
    tally: &mut Tally,
) -> (String, String) {
    let id = ids[number];
    let may_choose = match call {
        Call::Bind(_) | Call::Listen(_) => true,
        Call::Connect(addr) => addr.family != AF_UNSPEC,
        _ => false,
    };
    let unbound = world.port(id) == 0;
    let binds = matches!(call, Call::Bind(_) | Call::Listen(_));
    let kernel = live.call(number, call);
    let mut chosen = None;
    if may_choose
        && unbound
        && let Answer::Address(name) = live.call(number, Call::GetSockName)
    {
        let no_port = [Errno::EADDRINUSE, Errno::EADDRNOTAVAIL].map(Answer::Err);
        if no_port.contains(&kernel) {
            world.tell_no_port();
        } else {
            chosen = Some(name.port());
            world.tell_port(name.port());
        }
    }
    // A group's hash has a secret: the model is told whose queue grew, or was full.
    let mut full = None;
    for (other, &listener) in ids.iter().enumerate() {
        for _ in world.queue_len(listener)..live.queue_len(other) {
            world.tell_member(listener);
        }
        if live.queue_is_full(other) {
            full = full.or(Some(listener));
        }
    }
    if let Some(listener) = full {
        world.tell_member(listener);
    }
    let model = world.call_traced(ProcessId(0), id, call, &mut tally.coverage);
    world.forget_told();
    if let Answer::Accepted(child) = model {
        world.call(child, Call::SetNonblocking(true));
        ids.push(child);
        return ("Ok".into(), format!("{kernel:?}"));
    }
    if let Some(port) = chosen
        && binds
        && model == kernel
        && model == Answer::Ok
        && world.port(id) != port
        && world.port(id) != 0
    {
        return (format!("port {}", world.port(id)), format!("port {port}"));
    }
    (format!("{model:?}"), format!("{kernel:?}"))
}

/// The shortest script that still differs, by leaving out steps.
pub fn shrink(mut script: Vec<Step>, mut differs: impl FnMut(&[Step]) -> bool) -> Vec<Step> {
    let mut at = 0;
    while at < script.len() {
        let mut shorter = script.clone();
        shorter.remove(at);
        if differs(&shorter) {
            script = shorter;
            at = 0;
        } else {
            at += 1;
        }
    }
    script
}
