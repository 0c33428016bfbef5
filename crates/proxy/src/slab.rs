//! A table of slots whose keys carry a generation, so that an old key never finds a new tenant.
//!
//! Decides:  the lowest-numbered free slot is not sought: the last one freed is used, it is warm.
//! Not here: what a key looks like inside an epoll event (worker/token.rs).

/// A slot and the tenant's generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key {
    /// The slot.
    pub index: u32,
    /// Which tenant of the slot.
    pub generation: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    tenant: Option<T>,
}

/// Slots that are reused, last freed first.
#[derive(Debug)]
pub struct Slab<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Slab {
            slots: Vec::new(),
            free: Vec::new(),
        }
    }
}

impl<T> Slab<T> {
    /// How many tenants there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Is there no tenant?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key that the next [`Slab::insert`] will give.
    pub fn next_key(&self) -> Key {
        match self.free.last() {
            Some(&index) => Key {
                index,
                generation: self.slots[index as usize].generation,
            },
            None => Key {
                index: self.slots.len() as u32,
                generation: 0,
            },
        }
    }

    /// Moves a tenant in.
    pub fn insert(&mut self, tenant: T) -> Key {
        let key = self.next_key();
        match self.free.pop() {
            Some(index) => self.slots[index as usize].tenant = Some(tenant),
            None => self.slots.push(Slot {
                generation: 0,
                tenant: Some(tenant),
            }),
        }
        key
    }

    /// The tenant, if the key is still his.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.tenant.as_mut()
    }

    /// The tenant, if the key is still his.
    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        slot.tenant.as_ref()
    }

    /// The key of whoever lives in slot `index` now.
    pub fn key_at(&self, index: u32) -> Option<Key> {
        let slot = self.slots.get(index as usize)?;
        slot.tenant.as_ref().map(|_| Key {
            index,
            generation: slot.generation,
        })
    }

    /// Moves the tenant out; his key finds nobody from now on. The slot itself is reused only after
    /// [`Slab::free`].
    pub fn evict(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let tenant = slot.tenant.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        Some(tenant)
    }

    /// Gives an evicted tenant's slot to the next one.
    pub fn free(&mut self, index: u32) {
        debug_assert!(self.slots[index as usize].tenant.is_none());
        self.free.push(index);
    }

    /// How many slots there are, with and without a tenant.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// All tenants.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.tenant.as_ref())
    }

    /// The keys of all tenants.
    pub fn keys(&self) -> Vec<Key> {
        (0..self.slots.len() as u32)
            .filter_map(|index| self.key_at(index))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_key_does_not_find_the_new_tenant_of_its_slot() {
        let mut slab = Slab::default();
        let first = slab.insert("first");
        assert_eq!(slab.evict(first), Some("first"));
        slab.free(first.index);
        let second = slab.insert("second");
        assert_eq!(second.index, first.index);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.get(second), Some(&"second"));
        assert_eq!(slab.evict(first), None);
        assert_eq!(slab.len(), 1);
    }

    #[test]
    fn an_evicted_slot_is_not_reused_before_it_is_freed() {
        let mut slab = Slab::default();
        let first = slab.insert(1);
        slab.evict(first);
        let second = slab.insert(2);
        assert_ne!(second.index, first.index);
        slab.free(first.index);
        assert_eq!(slab.insert(3).index, first.index);
    }

    #[test]
    fn the_next_key_is_the_one_that_insert_gives() {
        let mut slab = Slab::default();
        for round in 0..50u32 {
            let foretold = slab.next_key();
            let key = slab.insert(round);
            assert_eq!(key, foretold);
            if round % 3 == 0 {
                slab.evict(key);
                slab.free(key.index);
            }
        }
    }
}
