//! One small work for each of many things, on a few threads.
//!
//! Decides:  how many threads, and that a thread which cannot be had is done without.
//! Kernel:   a look at a process's descriptors is a system call each: two processors do two at a time
//! Not here: the works (owners.rs, host.rs).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Fewer things than these are not worth a thread.
const THINGS_MIN: usize = 64;
/// More threads than these only wait for the kernel's locks.
const THREADS_MAX: usize = 4;

/// Does the work for each thing; every thread gathers what it finds, in no order.
pub(crate) fn each<T: Sync, A: Send>(
    things: &[T],
    empty: impl Fn() -> A + Sync,
    work: impl Fn(&mut A, &T) + Sync,
) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let gather = || {
        let mut found = empty();
        while let Some(thing) = things.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(&mut found, thing);
        }
        found
    };
    let threads = match things.len() / THINGS_MIN {
        0 | 1 => 1,
        worth => thread::available_parallelism().map_or(1, |many| many.get().min(worth)),
    };
    thread::scope(|scope| {
        let helpers: Vec<_> = (1..threads.min(THREADS_MAX))
            .map_while(|_| thread::Builder::new().spawn_scoped(scope, gather).ok())
            .collect();
        let mut all = vec![gather()];
        for helper in helpers {
            match helper.join() {
                Ok(found) => all.push(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_thing_is_worked_on_once_however_many_there_are() {
        for many in [0, 1, THINGS_MIN - 1, THINGS_MIN * 2, THINGS_MIN * 100] {
            let things: Vec<usize> = (0..many).collect();
            let found = each(&things, Vec::new, |found, &thing| found.push(thing));
            assert!(found.len() <= THREADS_MAX);
            let mut found = found.concat();
            found.sort_unstable();
            assert_eq!(found, things);
        }
    }
}
