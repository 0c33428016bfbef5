//! When has Ctrl-Z stopped the program, so that who runs it may stop as well?
//!
//! Decides:  when its first process has stopped; or, where that one waits for a child of vfork(2), when the
//!           last one in the chain of such waits has, which is what the first waits for.
//! Kernel:   kernel/fork.c, kernel_clone(), wait_for_vfork_done(); kernel/signal.c, do_signal_stop(),
//!           5.6 to 6.18
//! Not here: the stops themselves (watch.rs).
//!
//! The kernel wakes the child before its parent's stop for PTRACE_EVENT_VFORK, and stops are told in no order
//! across processes. So both orders are answered: the child that stops while its parent waits, and the parent
//! that is found to wait for a child that has stopped, executed a program or ended before.

use std::collections::{BTreeMap, BTreeSet};

/// Who of a program's tree stands still, and who waits for whom.
#[derive(Debug)]
pub(crate) struct Standstill {
    first: i32,
    /// From a thread to the child of its vfork(2).
    waiting: BTreeMap<i32, i32>,
    /// By which signal a process was stopped.
    stopped: BTreeMap<i32, i32>,
    /// Living ones for which no vfork(2) waits any more.
    executed: BTreeSet<i32>,
}

impl Standstill {
    pub(crate) fn of(first: i32) -> Standstill {
        Standstill {
            first,
            waiting: BTreeMap::new(),
            stopped: BTreeMap::new(),
            executed: BTreeSet::new(),
        }
    }

    /// A thread made a process by vfork(2), and waits for it. The signal if that stops the program.
    pub(crate) fn vforked(&mut self, thread: i32, child: i32) -> Option<i32> {
        if self.executed.contains(&child) {
            return None;
        }
        self.waiting.insert(thread, child);
        let last = self.last();
        // Another vfork(2), beside the chain, changes nothing that was not told before.
        let news = self.waits_in_chain(thread);
        self.stopped.get(&last).copied().filter(|_| news)
    }

    /// A signal stopped a thread. The signal if that stops the program.
    pub(crate) fn stopped(&mut self, thread: i32, signal: i32) -> Option<i32> {
        // Who waits cannot be stopped: so it waits no more.
        self.waiting.remove(&thread);
        self.stopped.insert(thread, signal);
        (thread == self.last()).then_some(signal)
    }

    /// A thread goes on after SIGCONT.
    pub(crate) fn goes_on(&mut self, thread: i32) {
        self.stopped.remove(&thread);
    }

    /// A process executed a program: who waited for it goes on.
    pub(crate) fn executed(&mut self, pid: i32) {
        self.free(pid);
        self.executed.insert(pid);
    }

    /// A thread ended: who waited for it goes on.
    pub(crate) fn ended(&mut self, thread: i32) {
        self.free(thread);
        self.executed.remove(&thread);
        self.stopped.remove(&thread);
    }

    fn free(&mut self, pid: i32) {
        self.waiting.remove(&pid);
        self.waiting.retain(|_, child| *child != pid);
    }

    /// From the first process along the waits to the one that all of them wait for.
    fn chain(&self) -> impl Iterator<Item = i32> {
        let next = |thread: &i32| self.waiting.get(thread).copied();
        // Nobody waits twice, so a chain is no longer than there are waits.
        std::iter::successors(Some(self.first), next).take(self.waiting.len() + 1)
    }

    fn last(&self) -> i32 {
        self.chain().last().unwrap_or(self.first)
    }

    fn waits_in_chain(&self, thread: i32) -> bool {
        self.chain().any(|known| known == thread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TSTP: i32 = libc::SIGTSTP;
    const FIRST: i32 = 10;
    const CHILD: i32 = 11;
    const GRANDCHILD: i32 = 12;

    /// What is told about a process, in the order in which it happens to it.
    #[derive(Debug, Clone, Copy)]
    enum Told {
        Vforked(i32, i32),
        Stopped(i32),
        GoesOn(i32),
        Executed(i32),
        Ended(i32),
    }
    use Told::{Ended, Executed, GoesOn, Stopped, Vforked};

    /// After which of these the program counts as stopped.
    fn stops(told: &[Told]) -> Vec<usize> {
        let mut standstill = Standstill::of(FIRST);
        standstill.executed(FIRST);
        let mut at = Vec::new();
        for (index, told) in told.iter().enumerate() {
            let signal = match *told {
                Vforked(thread, child) => standstill.vforked(thread, child),
                Stopped(thread) => standstill.stopped(thread, TSTP),
                GoesOn(thread) => {
                    standstill.goes_on(thread);
                    None
                }
                Executed(pid) => {
                    standstill.executed(pid);
                    None
                }
                Ended(pid) => {
                    standstill.ended(pid);
                    None
                }
            };
            if let Some(signal) = signal {
                assert_eq!(signal, TSTP);
                at.push(index);
            }
        }
        at
    }

    #[test]
    fn the_program_has_stopped_when_its_first_process_has_or_what_that_waits_for() {
        let table: [(&str, &[Told], &[usize]); 12] = [
            ("alone", &[Stopped(FIRST)], &[0]),
            (
                "each time",
                &[Stopped(FIRST), GoesOn(FIRST), Stopped(FIRST)],
                &[0, 2],
            ),
            ("a child of fork alone", &[Stopped(CHILD)], &[]),
            (
                "a child that is waited for",
                &[Vforked(FIRST, CHILD), Stopped(CHILD)],
                &[1],
            ),
            (
                "the child's stop is told first",
                &[Stopped(CHILD), Vforked(FIRST, CHILD)],
                &[1],
            ),
            (
                "it went on before the parent is told",
                &[Stopped(CHILD), GoesOn(CHILD), Vforked(FIRST, CHILD)],
                &[],
            ),
            (
                "a child that executed a program is not waited for",
                &[
                    Vforked(FIRST, CHILD),
                    Executed(CHILD),
                    Stopped(CHILD),
                    Stopped(FIRST),
                ],
                &[3],
            ),
            (
                "nor one that did before its parent is told",
                &[
                    Executed(CHILD),
                    Stopped(CHILD),
                    Vforked(FIRST, CHILD),
                    Stopped(FIRST),
                ],
                &[3],
            ),
            (
                "nor one that ended",
                &[Vforked(FIRST, CHILD), Ended(CHILD), Stopped(FIRST)],
                &[2],
            ),
            (
                "nor one that was believed to live",
                &[Ended(CHILD), Vforked(FIRST, CHILD), Stopped(FIRST)],
                &[2],
            ),
            (
                "a chain of waits",
                &[
                    Vforked(FIRST, CHILD),
                    Vforked(CHILD, GRANDCHILD),
                    Stopped(GRANDCHILD),
                ],
                &[2],
            ),
            (
                "somebody else's wait while the chain stands still",
                &[
                    Vforked(FIRST, CHILD),
                    Stopped(CHILD),
                    Vforked(20, 21),
                    Stopped(21),
                ],
                &[1],
            ),
        ];
        for (label, told, expected) in table {
            assert_eq!(stops(told), expected, "{label}");
        }
    }

    /// Every order in which the stops of several processes can be told, each one's own in order.
    fn orders(sequences: &[&[Told]]) -> Vec<Vec<Told>> {
        if sequences.iter().all(|sequence| sequence.is_empty()) {
            return vec![Vec::new()];
        }
        let mut all = Vec::new();
        for index in 0..sequences.len() {
            let Some((next, rest)) = sequences[index].split_first() else {
                continue;
            };
            let mut left = sequences.to_vec();
            left[index] = rest;
            for mut order in orders(&left) {
                order.insert(0, *next);
                all.push(order);
            }
        }
        all
    }

    #[test]
    fn in_every_order_of_a_chain_it_has_stopped_once_and_only_when_all_is_told() {
        let sequences: [&[Told]; 3] = [
            &[Vforked(FIRST, CHILD)],
            &[Vforked(CHILD, GRANDCHILD)],
            &[Stopped(GRANDCHILD)],
        ];
        let orders = orders(&sequences);
        assert_eq!(orders.len(), 6);
        for told in orders {
            assert_eq!(stops(&told), [2], "{told:?}");
        }
    }

    #[test]
    fn in_every_order_a_child_that_executed_leaves_the_stop_to_the_first() {
        let sequences: [&[Told]; 2] = [
            &[Vforked(FIRST, CHILD), Stopped(FIRST)],
            &[Executed(CHILD), Stopped(CHILD)],
        ];
        for told in orders(&sequences) {
            let at = told.iter().position(|told| matches!(told, Stopped(FIRST)));
            assert_eq!(stops(&told), [at.unwrap()], "{told:?}");
        }
    }
}
