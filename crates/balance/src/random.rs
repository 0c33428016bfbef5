//! `balance random`: of several servers drawn by weight, the least loaded for its weight.
//!
//! Decides:  each draw takes a server with a probability in proportion to its weight;
//!           a later draw wins against the best so far unless it is more loaded.
//! Source:   HAProxy's manual, `balance random`; src/backend.c, get_server_rnd(), 3.5.
//! Not here: HAProxy breaks a tie of loads by the session rate of the last second; that
//!           needs a clock, so here the later draw wins, which is a draw by weight again. HAProxy
//!           queues when the best of its draws is full; here another one with room is taken.

use crate::schedule::{Candidate, Room, entry_of};

/// Eligible servers by weight.
#[derive(Debug, Default)]
pub(crate) struct Random {
    /// Servers drawn for one choice; at least 1.
    draws: u32,
    /// By slot; weight 0 is not eligible.
    entries: Vec<Entry>,
    /// Partial sums of the weights (a Fenwick tree; node n is at n - 1).
    sums: Vec<u64>,
    /// All weights together.
    total: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    weight: u16,
    load: u32,
}

/// The next random number of a sequence that begins with the caller's: splitmix64
/// (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", OOPSLA 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `bound`, from 64 random bits; the bias is below `bound` / 2^64.
fn below(bound: u64, random: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

impl Random {
    pub(crate) fn new(draws: u32, candidates: &[Candidate]) -> Self {
        let mut all = Self {
            draws: draws.max(1),
            ..Self::default()
        };
        for &candidate in candidates {
            all.add(candidate);
        }
        all
    }

    pub(crate) fn add(&mut self, candidate: Candidate) {
        self.weigh(candidate.slot, candidate.scaled);
        entry_of(&mut self.entries, candidate.slot).load = candidate.load;
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        self.weigh(slot, 0);
    }

    pub(crate) fn load_changed(&mut self, slot: u32, load: u32) {
        entry_of(&mut self.entries, slot).load = load;
    }

    pub(crate) fn pick(&mut self, word: u64, avoid: Option<u32>, room: &Room<'_>) -> Option<u32> {
        if self.total == 0 {
            return None;
        }
        // Drawing among the others is drawing with the avoided weight put to 0.
        let avoided = avoid.map(|slot| (slot, entry_of(&mut self.entries, slot).weight));
        match avoided {
            Some((slot, weight)) if weight > 0 && u64::from(weight) < self.total => {
                self.weigh(slot, 0);
                let best = self.best_with_room(word, room);
                self.weigh(slot, weight);
                best.or(room.has(slot).then_some(slot))
            }
            _ => self.best_with_room(word, room),
        }
    }

    /// Draws; if all that were drawn are full, takes the next one in line that is not.
    fn best_with_room(&self, word: u64, room: &Room<'_>) -> Option<u32> {
        let best = self.best_of_draws(word, room);
        if room.has(best) {
            return Some(best);
        }
        let count = self.entries.len() as u32;
        (1..count)
            .map(|step| (best + step) % count)
            .find(|&slot| self.entries[slot as usize].weight > 0 && room.has(slot))
    }

    fn best_of_draws(&self, word: u64, room: &Room<'_>) -> u32 {
        let mut state = word;
        let mut best = self.at(below(self.total, next_random(&mut state)));
        for _ in 1..self.draws {
            let drawn = self.at(below(self.total, next_random(&mut state)));
            let (a, b) = (self.entries[best as usize], self.entries[drawn as usize]);
            let lighter =
                u64::from(b.load) * u64::from(a.weight) <= u64::from(a.load) * u64::from(b.weight);
            if room.has(drawn) && (lighter || !room.has(best)) {
                best = drawn;
            }
        }
        best
    }

    /// The server whose stretch of the weights, laid end to end by slot, holds `point`.
    fn at(&self, point: u64) -> u32 {
        let mut rest = point;
        let mut node = 0;
        let mut step = self.sums.len().next_power_of_two();
        while step > 0 {
            let next = node + step;
            if let Some(&sum) = self.sums.get(next - 1)
                && sum <= rest
            {
                rest -= sum;
                node = next;
            }
            step /= 2;
        }
        node as u32
    }

    fn weigh(&mut self, slot: u32, weight: u16) {
        let old = std::mem::replace(&mut entry_of(&mut self.entries, slot).weight, weight);
        self.cover(slot);
        self.total = self.total - u64::from(old) + u64::from(weight);
        let mut node = slot as usize + 1;
        while node <= self.sums.len() {
            self.sums[node - 1] = self.sums[node - 1] - u64::from(old) + u64::from(weight);
            node += node & node.wrapping_neg();
        }
    }

    /// Lets the tree reach over `slot`: a new node's sum is that of the nodes below it.
    fn cover(&mut self, slot: u32) {
        while self.sums.len() <= slot as usize {
            let node = self.sums.len() + 1;
            let lowest = node & node.wrapping_neg();
            let mut sum = 0;
            let mut below = node - 1;
            while below > node - lowest {
                sum += self.sums[below - 1];
                below -= below & below.wrapping_neg();
            }
            self.sums.push(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ROOMY;

    fn candidate(slot: u32, weight: u16, load: u32) -> Candidate {
        Candidate {
            slot,
            ordinal: slot,
            id: slot,
            weight,
            scaled: weight,
            load,
        }
    }

    #[test]
    fn every_point_falls_to_the_server_whose_stretch_holds_it() {
        for weights in [
            vec![1_u16],
            vec![3, 0, 2],
            vec![0, 0, 5, 1, 0, 0, 7, 2, 1],
            vec![256; 17],
        ] {
            let mut all = Random::new(1, &[]);
            // From the back, so that growing over gaps is tried too.
            for (slot, &weight) in weights.iter().enumerate().rev() {
                all.add(candidate(slot as u32, weight, 0));
            }
            let naive: Vec<u32> = weights
                .iter()
                .enumerate()
                .flat_map(|(slot, &weight)| vec![slot as u32; weight.into()])
                .collect();
            let tree: Vec<u32> = (0..all.total).map(|point| all.at(point)).collect();
            assert_eq!(tree, naive, "weights {weights:?}");
        }
    }

    #[test]
    fn removed_server_is_never_drawn_and_growing_later_keeps_sums() {
        let mut all = Random::new(1, &[candidate(0, 4, 0), candidate(1, 4, 0)]);
        all.remove(0);
        all.add(candidate(9, 1, 0));
        assert_eq!(all.total, 5);
        let drawn: Vec<u32> = (0..5).map(|point| all.at(point)).collect();
        assert_eq!(drawn, [1, 1, 1, 1, 9]);
    }

    #[test]
    fn of_many_draws_the_least_loaded_for_its_weight_wins() {
        // 64 draws of three servers miss one of them with a probability below 2e-11.
        let servers = [candidate(0, 1, 5), candidate(1, 2, 8), candidate(2, 1, 6)];
        let mut all = Random::new(64, &servers);
        for seed in 0..100 {
            assert_eq!(
                all.pick(seed, None, &ROOMY),
                Some(1),
                "8/2 is the smallest, seed {seed}"
            );
            assert_eq!(
                all.pick(seed, Some(1), &ROOMY),
                Some(0),
                "then 5/1, seed {seed}"
            );
        }
    }
}
