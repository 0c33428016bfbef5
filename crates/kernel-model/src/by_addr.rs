//! What stands at one port, by address.
//!
//! Decides:  nothing; it keeps the order of coming, and finds an address among many as fast as among few.
//! Kernel:   the second hash and the hash of listeners, which are over port and address
//! Not here: what stands there: owners of a port (bucket.rs), chains of listeners (chain.rs).

use alloc::collections::BTreeMap;

use crate::slab::Slab;
use crate::socket::NONE;

/// More than so many addresses are found through an index.
const WALKED_MAX: u32 = 8;

/// The place of a thing between older and newer ones.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Links {
    pub older: u32,
    pub newer: u32,
}

impl Links {
    pub(crate) const NONE: Links = Links {
        older: NONE,
        newer: NONE,
    };
}

/// A thing that belongs to an address.
pub(crate) trait Listed {
    fn addr(&self) -> u128;
    fn links(&self) -> Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// Things of a slab, one for each address.
#[derive(Debug, Clone)]
pub(crate) struct ByAddr {
    newest: u32,
    count: u32,
    /// Empty as long as walking is good enough.
    index: BTreeMap<u128, u32>,
}

impl ByAddr {
    pub(crate) const fn new() -> ByAddr {
        ByAddr {
            newest: NONE,
            count: 0,
            index: BTreeMap::new(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.newest == NONE
    }

    /// The newest first, as the kernel inserts at the head and walks from there.
    pub(crate) fn iter<T: Listed>(&self, slab: &Slab<T>) -> impl Iterator<Item = u32> {
        let mut at = self.newest;
        core::iter::from_fn(move || {
            let now = (at != NONE).then_some(at)?;
            at = slab[now].links().older;
            Some(now)
        })
    }

    pub(crate) fn find<T: Listed>(&self, slab: &Slab<T>, addr: u128) -> Option<u32> {
        if !self.index.is_empty() {
            return self.index.get(&addr).copied();
        }
        self.iter(slab).find(|&at| slab[at].addr() == addr)
    }

    pub(crate) fn insert<T: Listed>(&mut self, slab: &mut Slab<T>, at: u32) {
        *slab[at].links_mut() = Links {
            older: self.newest,
            newer: NONE,
        };
        if self.newest != NONE {
            slab[self.newest].links_mut().newer = at;
        }
        self.newest = at;
        self.count += 1;
        if !self.index.is_empty() {
            self.index.insert(slab[at].addr(), at);
        } else if self.count > WALKED_MAX {
            self.index = self.iter(slab).map(|at| (slab[at].addr(), at)).collect();
        }
    }

    pub(crate) fn remove<T: Listed>(&mut self, slab: &mut Slab<T>, at: u32) {
        let Links { older, newer } = slab[at].links();
        if older != NONE {
            slab[older].links_mut().newer = newer;
        }
        if newer == NONE {
            self.newest = older;
        } else {
            slab[newer].links_mut().older = older;
        }
        self.count -= 1;
        self.index.remove(&slab[at].addr());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    struct Thing(u128, Links);

    impl Listed for Thing {
        fn addr(&self) -> u128 {
            self.0
        }
        fn links(&self) -> Links {
            self.1
        }
        fn links_mut(&mut self) -> &mut Links {
            &mut self.1
        }
    }

    #[test]
    fn an_address_is_found_among_few_and_among_many_and_not_once_it_has_gone() {
        for many in [3, 8, 9, 40] {
            let (mut set, mut slab) = (ByAddr::new(), Slab::new());
            for addr in 0..many {
                let at = slab.take(|| Thing(addr, Links::NONE));
                set.insert(&mut slab, at);
            }
            let order: Vec<u128> = set.iter(&slab).map(|at| slab[at].0).collect();
            assert_eq!(order, (0..many).rev().collect::<Vec<_>>());
            for gone in [1, 0, many - 1] {
                let at = set.find(&slab, gone).unwrap();
                assert_eq!(slab[at].0, gone);
                set.remove(&mut slab, at);
                assert_eq!(set.find(&slab, gone), None, "{gone} of {many}");
            }
            let left: Vec<u128> = set.iter(&slab).map(|at| slab[at].0).collect();
            assert_eq!(left, (2..many - 1).rev().collect::<Vec<_>>());
        }
    }
}
