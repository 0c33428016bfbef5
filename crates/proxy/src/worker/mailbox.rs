//! Where a worker's waiting sessions are told that their turn has come, by any thread.
//!
//! Decides:  a grant is never lost: one that comes to a worker that is gone is given back; the bell
//!           is rung only when the worker sleeps.
//! Not here: who waits for what (the balance crate), what a granted session does (queue.rs).

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use portcullis_balance::{Grant, Group, Waiter};

use crate::limits::Bell;

/// A grant for the session of `token`.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) token: u64,
    pub(super) grant: Grant,
    pub(super) group: Arc<Group>,
}

/// A worker's letters.
pub(super) struct Mailbox {
    /// `None`: the worker is gone.
    letters: Mutex<Option<Vec<Letter>>>,
    /// There are some.
    some: AtomicBool,
    /// The worker will look before it sleeps.
    awake: AtomicBool,
    bell: Arc<Bell>,
}

impl fmt::Debug for Mailbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mailbox").finish_non_exhaustive()
    }
}

impl Mailbox {
    pub(super) fn new(bell: Arc<Bell>) -> Arc<Mailbox> {
        Arc::new(Mailbox {
            letters: Mutex::new(Some(Vec::new())),
            some: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            bell,
        })
    }

    /// The worker woke up: it looks here before it sleeps again.
    pub(super) fn wake(&self) {
        self.awake.store(true, Ordering::SeqCst);
    }

    /// The worker is about to sleep. True: it must not, there is a letter.
    pub(super) fn doze(&self) -> bool {
        self.awake.store(false, Ordering::SeqCst);
        self.some.load(Ordering::SeqCst)
    }

    /// Takes the letters.
    pub(super) fn take(&self) -> Vec<Letter> {
        if !self.some.load(Ordering::SeqCst) || !self.some.swap(false, Ordering::SeqCst) {
            return Vec::new();
        }
        let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        letters.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Is there one for this session?
    #[cfg(test)]
    pub(super) fn has_letter_for(&self, token: u64) -> bool {
        let letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut letters = letters.iter().flatten();
        letters.any(|letter| letter.token == token)
    }

    /// The worker is gone: what was not read, and what still comes, is given back.
    pub(super) fn close(&self) {
        let left = {
            let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
            letters.take()
        };
        for letter in left.unwrap_or_default() {
            give_back(&letter);
        }
    }

    fn post(&self, letter: Letter) {
        let refused = {
            let mut letters = self.letters.lock().unwrap_or_else(PoisonError::into_inner);
            match letters.as_mut() {
                Some(letters) => {
                    letters.push(letter);
                    self.some.store(true, Ordering::SeqCst);
                    None
                }
                None => Some(letter),
            }
        };
        match refused {
            Some(letter) => give_back(&letter),
            // It says that it dozes before it looks (both SeqCst): either it sees the letter, or
            // it is seen to doze here.
            None if !self.awake.load(Ordering::SeqCst) => self.bell.ring(),
            None => {}
        }
    }
}

/// Nobody uses this grant: the next one may.
pub(super) fn give_back(letter: &Letter) {
    if let Some(member) = letter.grant.member {
        letter.group.release(member);
    }
}

/// A worker's sessions that wait for the servers of one group.
#[derive(Debug)]
pub(super) struct Desk {
    mailbox: Arc<Mailbox>,
    group: Weak<Group>,
}

impl Desk {
    /// Its sessions, as the group tells them.
    pub(super) fn of(mailbox: &Arc<Mailbox>, group: &Arc<Group>) -> Arc<dyn Waiter> {
        Arc::new(Desk {
            mailbox: Arc::clone(mailbox),
            group: Arc::downgrade(group),
        })
    }
}

impl Waiter for Desk {
    fn granted(&self, token: u64, grant: Grant) {
        // A group that is gone has nothing to be given back to.
        if let Some(group) = self.group.upgrade() {
            self.mailbox.post(Letter {
                token,
                grant,
                group,
            });
        }
    }
}
