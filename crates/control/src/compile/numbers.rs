//! The numbers of a backend's servers and of a frontend's addresses.
//!
//! Decides:  `id` where it is given; else the next number that no `id` took, where each entry before,
//!           also one with an `id`, was a step further. `balance first` and consistent hashing go by a
//!           server's number, a log line by an address's.
//! Source:   HAProxy 2.6, src/cfgparse.c, check_config_validity(); 3.5-dev5, src/proxy.c,
//!           proxy_finalize().
//! Not here: that no two have the same `id` (the config crate).

use std::collections::BTreeSet;

/// Gives numbers, in the order of the file.
pub(super) struct Numbers {
    taken: BTreeSet<u32>,
    next: u32,
}

impl Numbers {
    /// For entries with these `id`s.
    pub(super) fn taken_by(ids: impl Iterator<Item = Option<u32>>) -> Numbers {
        Numbers {
            taken: ids.flatten().collect(),
            next: 1,
        }
    }

    /// The number of the next entry.
    pub(super) fn next(&mut self, id: Option<u32>) -> u32 {
        let number = id.unwrap_or_else(|| {
            let free = (self.next..=u32::MAX).find(|number| !self.taken.contains(number));
            self.next = free.unwrap_or(u32::MAX);
            self.next
        });
        self.next = self.next.saturating_add(1);
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_with_an_id_of_its_own_is_a_step_for_those_after_it() {
        // As `show servers state` of HAProxy 2.6 has them.
        for (ids, expected) in [
            (vec![0, 0, 0], vec![1, 2, 3]),
            (vec![7, 0, 0], vec![7, 2, 3]),
            (vec![0, 7, 0], vec![1, 7, 3]),
            (vec![2, 0, 0], vec![2, 3, 4]),
            (vec![0, 0, 2, 0], vec![1, 3, 2, 5]),
            (vec![0, 1, 0], vec![2, 1, 4]),
            (vec![3, 3_000, 0, 0], vec![3, 3_000, 4, 5]),
        ] {
            let id = |id: &u32| (*id > 0).then_some(*id);
            let mut numbers = Numbers::taken_by(ids.iter().map(id));
            let found: Vec<u32> = ids.iter().map(|given| numbers.next(id(given))).collect();
            assert_eq!(found, expected, "{ids:?}");
        }
    }
}
