//! A hierarchical timer wheel: one timer a session, set and taken in constant time.
//!
//! Decides:  a timer fires at the first `advance` whose time is not before its deadline, to the tick;
//!           timers that are due together come out in order of deadline.
//! Source:   G. Varghese, T. Lauck, "Hashed and Hierarchical Timing Wheels", SOSP 1987, scheme 7.
//! Not here: what a tick is (the worker uses milliseconds), what a timer means.

const LEVELS: usize = 6;
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
/// The longest wait that is kept exactly; what is further off fires then and is set again.
const SPAN: u64 = 1 << (BITS * LEVELS as u32);
const NIL: u32 = u32::MAX;
const IDLE: u16 = u16::MAX;

#[derive(Debug, Clone, Copy)]
struct Node {
    deadline: u64,
    next: u32,
    previous: u32,
    /// `level * SLOTS + slot`, or [`IDLE`].
    bucket: u16,
}

const UNSET: Node = Node {
    deadline: 0,
    next: NIL,
    previous: NIL,
    bucket: IDLE,
};

/// Timers by small integer keys (slots of a slab).
#[derive(Debug)]
pub struct Wheel {
    now: u64,
    nodes: Vec<Node>,
    heads: Box<[u32; LEVELS * SLOTS]>,
    occupied: [u64; LEVELS],
}

impl Wheel {
    /// A wheel whose time is `now`.
    pub fn new(now: u64) -> Self {
        Wheel {
            now,
            nodes: Vec::new(),
            heads: Box::new([NIL; LEVELS * SLOTS]),
            occupied: [0; LEVELS],
        }
    }

    /// Sets the timer of `key`, replacing an earlier one. A deadline that is past fires at the next
    /// tick.
    pub fn set(&mut self, key: u32, deadline: u64) {
        self.cancel(key);
        if self.nodes.len() <= key as usize {
            self.nodes.resize(key as usize + 1, UNSET);
        }
        let deadline = deadline.clamp(self.now + 1, self.now + SPAN - 1);
        self.nodes[key as usize].deadline = deadline;
        self.link(key);
    }

    /// Takes the timer of `key` away, if it is set.
    pub fn cancel(&mut self, key: u32) {
        let Some(&node) = self.nodes.get(key as usize) else {
            return;
        };
        if node.bucket == IDLE {
            return;
        }
        if node.next != NIL {
            self.nodes[node.next as usize].previous = node.previous;
        }
        if node.previous != NIL {
            self.nodes[node.previous as usize].next = node.next;
        } else {
            self.heads[node.bucket as usize] = node.next;
            if node.next == NIL {
                let (level, slot) = (node.bucket as usize / SLOTS, node.bucket as usize % SLOTS);
                self.occupied[level] &= !(1 << slot);
            }
        }
        self.nodes[key as usize] = UNSET;
    }

    /// The deadline of `key`, if it is set.
    pub fn deadline(&self, key: u32) -> Option<u64> {
        let node = self.nodes.get(key as usize)?;
        (node.bucket != IDLE).then_some(node.deadline)
    }

    /// A time not after the first deadline, and after the wheel's own time: when to call `advance`.
    pub fn next_stop(&self) -> Option<u64> {
        self.next_bucket().map(|(_, _, time)| time)
    }

    /// Goes on to `now`; keys whose timers are due are appended to `due`, and are no longer set.
    pub fn advance(&mut self, now: u64, due: &mut Vec<u32>) {
        while let Some((level, slot, time)) = self.next_bucket() {
            if time > now {
                break;
            }
            self.now = time;
            let bucket = level * SLOTS + slot;
            let mut key = std::mem::replace(&mut self.heads[bucket], NIL);
            self.occupied[level] &= !(1 << slot);
            while key != NIL {
                let node = self.nodes[key as usize];
                if node.deadline <= time {
                    self.nodes[key as usize] = UNSET;
                    due.push(key);
                } else {
                    self.link(key);
                }
                key = node.next;
            }
        }
        self.now = self.now.max(now);
    }

    /// Puts `key` where its deadline belongs, seen from the wheel's time.
    fn link(&mut self, key: u32) {
        let deadline = self.nodes[key as usize].deadline;
        let differing = (deadline ^ self.now) | (SLOTS as u64 - 1);
        let level = ((63 - differing.leading_zeros()) / BITS) as usize;
        // A deadline less than SPAN away can still differ in a higher bit, when time carries into it.
        let level = level.min(LEVELS - 1);
        let slot = (deadline >> (BITS * level as u32)) as usize % SLOTS;
        let bucket = level * SLOTS + slot;
        let head = self.heads[bucket];
        if head != NIL {
            self.nodes[head as usize].previous = key;
        }
        self.heads[bucket] = key;
        self.occupied[level] |= 1 << slot;
        let node = &mut self.nodes[key as usize];
        node.next = head;
        node.previous = NIL;
        node.bucket = bucket as u16;
    }

    /// The first bucket that is not empty, and the time at which it must be opened.
    fn next_bucket(&self) -> Option<(usize, usize, u64)> {
        let level = (0..LEVELS).find(|&level| self.occupied[level] != 0)?;
        let shift = BITS * level as u32;
        let here = (self.now >> shift) as u32 % SLOTS as u32;
        // The bucket that time is in is empty, or (on the top level) holds what is a whole turn away.
        let ahead = 1 + self.occupied[level].rotate_right(here + 1).trailing_zeros();
        let slot = (here + ahead) as usize % SLOTS;
        let time = ((self.now >> shift) + u64::from(ahead)) << shift;
        Some((level, slot, time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// The same, as anyone would write it.
    #[derive(Default)]
    struct Naive {
        now: u64,
        timers: BTreeMap<u32, u64>,
    }

    impl Naive {
        fn set(&mut self, key: u32, deadline: u64) {
            let deadline = deadline.clamp(self.now + 1, self.now + SPAN - 1);
            self.timers.insert(key, deadline);
        }

        fn advance(&mut self, now: u64) -> Vec<u32> {
            self.now = self.now.max(now);
            let due: Vec<u32> = self
                .timers
                .iter()
                .filter(|&(_, &deadline)| deadline <= now)
                .map(|(&key, _)| key)
                .collect();
            self.timers.retain(|_, &mut deadline| deadline > now);
            due
        }
    }

    fn random(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn the_wheel_does_what_a_naive_list_does() {
        for seed in 1..=60u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut now = random(&mut state) >> (random(&mut state) % 40 + 20);
            let mut wheel = Wheel::new(now);
            let mut naive = Naive {
                now,
                ..Naive::default()
            };
            for step in 0..3_000 {
                let key = (random(&mut state) % 40) as u32;
                match random(&mut state) % 4 {
                    0 | 1 => {
                        let reach = random(&mut state) % 40;
                        let deadline = now + random(&mut state) % (1 << reach);
                        wheel.set(key, deadline);
                        naive.set(key, deadline);
                    }
                    2 => {
                        wheel.cancel(key);
                        naive.timers.remove(&key);
                    }
                    _ => {
                        let reach = random(&mut state) % 34;
                        now += random(&mut state) % (1 << reach);
                        let mut due = Vec::new();
                        wheel.advance(now, &mut due);
                        due.sort_unstable();
                        assert_eq!(due, naive.advance(now), "seed {seed}, step {step}");
                    }
                }
                assert_eq!(wheel.deadline(key), naive.timers.get(&key).copied());
                let first = naive.timers.values().min().copied();
                match (wheel.next_stop(), first) {
                    (None, None) => {}
                    (Some(stop), Some(first)) => assert!(
                        stop <= first && stop >= now,
                        "seed {seed}, step {step}: {stop} {first} {now}"
                    ),
                    other => panic!("seed {seed}, step {step}: {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_timer_never_fires_early_or_late_around_each_power_of_the_slots() {
        for level in 0..LEVELS as u32 {
            let edge = 1u64 << (BITS * level);
            for start in [0, 1, edge - 1, edge, edge * 63 + 7] {
                for wait in [1, edge.saturating_sub(1).max(1), edge, edge + 1] {
                    let wait = wait.min(SPAN - 1);
                    let mut wheel = Wheel::new(start);
                    wheel.set(0, start + wait);
                    let mut due = Vec::new();
                    wheel.advance(start + wait - 1, &mut due);
                    assert!(due.is_empty(), "start {start}, wait {wait}");
                    wheel.advance(start + wait, &mut due);
                    assert_eq!(due, [0], "start {start}, wait {wait}");
                }
            }
        }
    }
}
