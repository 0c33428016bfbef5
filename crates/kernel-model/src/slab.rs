//! Numbered places that are used again.
//!
//! Decides:  the last place freed is the next one used, so a replay uses the same numbers.
//! Not here: what stands in the places.

use alloc::vec::Vec;

/// Things by number. A freed thing keeps its memory (its vectors' room) for the next one.
#[derive(Debug, Clone)]
pub(crate) struct Slab<T> {
    items: Vec<T>,
    free: Vec<u32>,
}

impl<T> Slab<T> {
    pub(crate) const fn new() -> Self {
        Slab {
            items: Vec::new(),
            free: Vec::new(),
        }
    }

    /// A place: a used one if there is one (as its last user left it), else `fresh`.
    pub(crate) fn take(&mut self, fresh: impl FnOnce() -> T) -> u32 {
        if let Some(index) = self.free.pop() {
            return index;
        }
        let index = self.items.len() as u32;
        self.items.push(fresh());
        index
    }

    pub(crate) fn give_back(&mut self, index: u32) {
        self.free.push(index);
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }
}

impl<T> core::ops::Index<u32> for Slab<T> {
    type Output = T;
    fn index(&self, index: u32) -> &T {
        &self.items[index as usize]
    }
}

impl<T> core::ops::IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.items[index as usize]
    }
}
