//! Which worker polls which listening socket.
//!
//! Decides:  a shard has as few workers as can be, every worker has a shard of every address, and
//!           what cannot be sharded is polled by all.
//! Not here: how many shards an address has (compile/listeners.rs, and the opener).

use portcullis_proxy::snapshot::Sharing;

/// A socket, as far as sharing goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Socket {
    /// Which socket of its address, from 0.
    pub shard: u16,
    /// How many sockets the address has in one SO_REUSEPORT group.
    pub shards: u16,
}

/// For each worker, the sockets that it polls, by their index.
///
/// With n shards and w workers, shard i belongs to the workers i, i + n, i + 2n …: with as many
/// workers as shards each has its own.
pub fn share(sockets: &[Socket], workers: u16) -> Vec<Vec<(usize, Sharing)>> {
    (0..workers)
        .map(|worker| {
            sockets
                .iter()
                .enumerate()
                .filter_map(|(index, socket)| {
                    let shards = socket.shards.max(1);
                    let sharing = match workers.div_ceil(shards) {
                        1 => Sharing::Own,
                        _ => Sharing::Shared,
                    };
                    // More shards than workers never come out of compiling, but no shard may be
                    // left without a worker: its connections would wait for ever.
                    let mine = if shards > workers {
                        socket.shard % workers == worker
                    } else {
                        worker % shards == socket.shard
                    };
                    mine.then_some((index, sharing))
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Shards of one address.
    fn group(shards: u16) -> Vec<Socket> {
        (0..shards).map(|shard| Socket { shard, shards }).collect()
    }

    #[test]
    fn every_socket_has_a_worker_and_every_worker_a_socket_for_all_small_numbers() {
        for workers in 1..=9 {
            for shards in 1..=9 {
                let shared = share(&group(shards), workers);
                assert_eq!(shared.len(), usize::from(workers));
                for worker in &shared {
                    assert!(!worker.is_empty(), "{shards} shards, {workers} workers");
                }
                for socket in 0..usize::from(shards) {
                    let polls: Vec<Sharing> = shared
                        .iter()
                        .flatten()
                        .filter(|(index, _)| *index == socket)
                        .map(|(_, sharing)| *sharing)
                        .collect();
                    assert!(!polls.is_empty(), "{shards} shards, {workers} workers");
                    let own = polls.iter().filter(|s| **s == Sharing::Own).count();
                    assert!(own == 0 || polls.len() == 1, "an own socket has one worker");
                }
            }
        }
    }

    #[test]
    fn as_many_shards_as_workers_are_each_ones_own() {
        for workers in 1..=5 {
            for (worker, sockets) in share(&group(workers), workers).iter().enumerate() {
                assert_eq!(*sockets, [(worker, Sharing::Own)]);
            }
        }
    }

    #[test]
    fn a_socket_that_cannot_be_sharded_is_polled_by_all() {
        let one = [Socket {
            shard: 0,
            shards: 1,
        }];
        let shared = share(&one, 3);
        assert!(shared.iter().all(|s| *s == [(0, Sharing::Shared)]));
        assert_eq!(share(&one, 1), [[(0, Sharing::Own)]]);
    }
}
