//! Connection limits that several workers share, exactly, and who waits for a free place.
//!
//! Decides:  a place is taken by one compare-and-swap that never goes above the limit; a place given
//!           back rings the worker that waited longest, so none starves and none sleeps on a free place.
//! Not here: which limits a connection counts against (worker/accept.rs).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Takes one place under `limit` (0: no limit). False when there is none.
pub fn take(count: &AtomicU32, limit: u32) -> bool {
    count
        .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |now| {
            (limit == 0 || now < limit).then(|| now + 1)
        })
        .is_ok()
}

/// Gives a place back and rings one worker that waits for it.
pub fn give_back(count: &AtomicU32, waiters: &Waiters) {
    let before = count.fetch_sub(1, Ordering::SeqCst);
    debug_assert!(before > 0, "a place was given back twice");
    waiters.ring_one();
}

/// Hands a ring on that its receiver could not use, if there is a place.
pub fn pass_on(count: &AtomicU32, limit: u32, waiters: &Waiters) {
    if limit == 0 || count.load(Ordering::SeqCst) < limit {
        waiters.ring_one();
    }
}

/// How a worker is woken from another thread.
pub struct Bell {
    rung: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell")
            .field("rung", &self.rung)
            .finish_non_exhaustive()
    }
}

impl Bell {
    /// A bell that calls `wake` each time it goes from silent to rung.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Arc<Bell> {
        Arc::new(Bell {
            rung: AtomicBool::new(false),
            wake: Box::new(wake),
        })
    }

    /// Rings; once is enough until the worker has heard it.
    pub fn ring(&self) {
        if !self.rung.swap(true, Ordering::SeqCst) {
            (self.wake)();
        }
    }

    /// Was it rung since the last call?
    pub fn heard(&self) -> bool {
        self.rung.load(Ordering::SeqCst) && self.rung.swap(false, Ordering::SeqCst)
    }
}

/// The workers that wait for a place, first come first served.
#[derive(Debug, Default)]
pub struct Waiters {
    length: AtomicU32,
    queue: Mutex<VecDeque<Arc<Bell>>>,
}

impl Waiters {
    /// Puts a worker at the end of the queue, unless it is there already. Afterwards it must try to
    /// take a place once more: one that was given back before this call rang for somebody else.
    pub fn wait(&self, bell: &Arc<Bell>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if !queue.iter().any(|waiting| Arc::ptr_eq(waiting, bell)) {
            queue.push_back(Arc::clone(bell));
        }
        self.length.store(queue.len() as u32, Ordering::SeqCst);
    }

    /// Takes a worker out of the queue, if it is still there.
    pub fn leave(&self, bell: &Arc<Bell>) {
        if self.length.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.retain(|waiting| !Arc::ptr_eq(waiting, bell));
        self.length.store(queue.len() as u32, Ordering::SeqCst);
    }

    fn ring_one(&self) {
        // `wait` stores the length before its caller tries again, and a place is given back before
        // this load (both SeqCst): either the waiter is seen here, or the waiter sees the place.
        if self.length.load(Ordering::SeqCst) == 0 {
            return;
        }
        let bell = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let bell = queue.pop_front();
            self.length.store(queue.len() as u32, Ordering::SeqCst);
            bell
        };
        if let Some(bell) = bell {
            bell.ring();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn many_threads_never_go_above_the_limit_and_reach_it() {
        let count = AtomicU32::new(0);
        let highest = AtomicU32::new(0);
        let waiters = Waiters::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5_000 {
                        if take(&count, 3) {
                            highest.fetch_max(count.load(Ordering::SeqCst), Ordering::SeqCst);
                            std::hint::spin_loop();
                            give_back(&count, &waiters);
                        }
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 0);
        assert!((1..=3).contains(&highest.load(Ordering::SeqCst)));
    }

    #[test]
    fn a_limit_of_zero_is_no_limit() {
        let count = AtomicU32::new(1_000_000);
        assert!(take(&count, 0));
    }

    #[test]
    fn the_longest_waiter_is_rung_first_and_only_once() {
        let rings = Arc::new(AtomicUsize::new(0));
        let bells: Vec<_> = (0..2)
            .map(|_| {
                let rings = Arc::clone(&rings);
                Bell::new(move || {
                    rings.fetch_add(1, Ordering::SeqCst);
                })
            })
            .collect();
        let waiters = Waiters::default();
        let count = AtomicU32::new(2);
        waiters.wait(&bells[0]);
        waiters.wait(&bells[1]);
        waiters.wait(&bells[0]);
        give_back(&count, &waiters);
        assert!(bells[0].heard() && !bells[1].heard());
        pass_on(&count, 2, &waiters);
        assert!(!bells[0].heard() && bells[1].heard());
        pass_on(&count, 2, &waiters);
        assert_eq!(rings.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn no_waiter_sleeps_while_a_place_is_free() {
        // Threads take a place or wait for their bell; were a ring lost, a thread would time out.
        const ROUNDS: usize = 2_000;
        let count = Arc::new(AtomicU32::new(0));
        let waiters = Arc::new(Waiters::default());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let (count, waiters) = (Arc::clone(&count), Arc::clone(&waiters));
                scope.spawn(move || {
                    let (sender, receiver) = std::sync::mpsc::channel();
                    let bell = Bell::new(move || {
                        let _ = sender.send(());
                    });
                    for _ in 0..ROUNDS {
                        while !take(&count, 1) {
                            waiters.wait(&bell);
                            if take(&count, 1) {
                                waiters.leave(&bell);
                                break_out(&bell, &count, &waiters);
                                continue;
                            }
                            receiver
                                .recv_timeout(std::time::Duration::from_secs(20))
                                .expect("a place was free and nobody rang");
                            bell.heard();
                        }
                        give_back(&count, &waiters);
                        if bell.heard() {
                            pass_on(&count, 1, &waiters);
                        }
                    }
                });
            }
        });
        assert_eq!(count.load(Ordering::SeqCst), 0);
    }

    fn break_out(bell: &Arc<Bell>, count: &AtomicU32, waiters: &Waiters) {
        give_back(count, waiters);
        if bell.heard() {
            pass_on(count, 1, waiters);
        }
    }
}
