//! How evenly will eight shards be loaded?
//!
//!     cargo run -p portcullis-kernel-model --example eight_shards
//!
//! Decides:  nothing; it makes connections in the model and counts who got them.
//! Not here: the kernel's hash itself, whose secret is drawn at boot: the model draws in its place.

#![allow(clippy::print_stdout, clippy::expect_used)]

use portcullis_kernel_model::{
    Answer, Call, Family, Host, Kernel, Opt, ProcessId, SockAddr, SocketId, World,
};

const ROOT: ProcessId = ProcessId(0);

fn main() {
    let load = load(8, 8_000, 1);
    for (shard, connections) in load.iter().enumerate() {
        let bar = "#".repeat(connections / 20);
        println!("shard {shard}: {connections:4} {bar}");
    }
    if let (Some(least), Some(most)) = (load.iter().min(), load.iter().max()) {
        println!(
            "least {least}, most {most}; evenly it would be {}",
            8_000 / 8
        );
    }
}

/// How many connections each of so many shards gets, for one seed of the draws.
pub fn load(shards: usize, connections: usize, seed: u64) -> Vec<usize> {
    let there = SockAddr::new([127, 0, 0, 1].into(), 443);
    let mut world = World::new(Host::new(Kernel::V6_18));
    world.seed(seed);
    let shards: Vec<SocketId> = (0..shards)
        .map(|_| {
            let shard = world.socket(ROOT, Family::Inet);
            world.call(shard, Call::Set(Opt::ReusePort(true)));
            world.call(shard, Call::Bind(there));
            assert!(world.call(shard, Call::Listen(128)).is_ok());
            shard
        })
        .collect();
    let mut load = vec![0; shards.len()];
    for _ in 0..connections {
        let client = world.socket(ROOT, Family::Inet);
        // Closing with a reset leaves no TIME_WAIT, so that ports do not run out.
        world.call(client, Call::Set(Opt::Linger(Some(0))));
        assert!(world.call(client, Call::Connect(there)).is_ok());
        let got = shards.iter().position(|&shard| world.queue_len(shard) > 0);
        let got = got.expect("a shard got the connection");
        let Answer::Accepted(child) = world.call(shards[got], Call::Accept) else {
            panic!("it waits in the queue");
        };
        world.call(client, Call::Close);
        world.call(child, Call::Close);
        load[got] += 1;
    }
    load
}
