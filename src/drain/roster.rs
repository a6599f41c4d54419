//! A list of those who are inside: in shards, a thread's own, as what comes and goes on many threads
//! shall not stand in line.

use super::sync::{Arc, thread_index};
use slab::Slab;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) struct Roster<T> {
    shards: [Shard<T>; 16],
}

#[repr(align(128))]
struct Shard<T>(Mutex<Slab<Arc<T>>>);

/// So many places an empty shard keeps.
const KEPT: usize = 1024;

/// Where one stands in a list.
#[derive(Clone, Copy)]
pub(super) struct Place {
    shard: u32,
    slot: u32,
}

impl<T> Roster<T> {
    /// Adds one that is told its place, by which it is to be [removed](Self::remove).
    pub(super) fn add(&self, make: impl FnOnce(Place) -> T) -> Arc<T> {
        let shard = thread_index() % self.shards.len();
        let mut list = self.shards[shard].lock();
        let vacancy = list.vacant_entry();
        let place = Place {
            shard: shard as u32,
            // Each has memory of its own: there is no room for so many.
            slot: vacancy.key() as u32,
        };
        let one = Arc::new(make(place));
        vacancy.insert(one.clone());
        one
    }

    pub(super) fn remove(&self, place: Place) {
        let mut list = self.shards[place.shard as usize].lock();
        let removed = list.try_remove(place.slot as usize);
        // It was long once: that is no reason to keep the memory, and to walk through it.
        if list.is_empty() && list.capacity() > KEPT {
            list.shrink_to_fit();
        }
        drop(list);
        // When the lock is free again.
        drop(removed);
    }

    /// Visits all of them, each shard under its lock.
    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<T>)) {
        for shard in &self.shards {
            shard.lock().iter().for_each(|(_, one)| visit(one));
        }
    }
}

impl<T> Shard<T> {
    fn lock(&self) -> MutexGuard<'_, Slab<Arc<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| Shard(Mutex::new(Slab::new()))),
        }
    }
}
