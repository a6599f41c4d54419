//! A list of what is inside: in shards, a thread's own, so that what comes and goes on many threads
//! does not stand in line.
//!
//! A registry counts its entries, too: it can be closed, and says when the last one has left. That is
//! what [`counter`](super::counter) does for requests, but under the locks that the lists have anyway.

use super::sync::{Arc, AtomicUsize, Ordering, thread_index};
use slab::Slab;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub(super) struct Registry<T> {
    shards: [Shard<T>; SHARDS],
    /// How many shards are open, or have an entry.
    open_shards: AtomicUsize,
}

#[repr(align(128))]
struct Shard<T>(Mutex<List<T>>);

struct List<T> {
    entries: Slab<Arc<T>>,
    closed: bool,
}

const SHARDS: usize = 16;

/// An empty shard keeps memory for so many entries.
const KEPT: usize = 1024;

/// Where an entry stands.
#[derive(Clone, Copy)]
pub(super) struct Key {
    shard: u32,
    slot: u32,
}

/// The last entry of a closed registry has left. Returned once.
#[must_use = "the drain waits for it"]
pub(super) struct Emptied;

impl<T> Registry<T> {
    /// Adds an entry, which is told the key by which to [remove](Self::remove) it; `None` once closed.
    pub(super) fn add(&self, make: impl FnOnce(Key) -> T) -> Option<Arc<T>> {
        let shard = thread_index() % self.shards.len();
        let mut list = self.shards[shard].lock();
        match list.closed {
            true => None,
            false => Some(list.add(shard as u32, make)),
        }
    }

    /// Adds an entry beside one that is there, closed or not.
    pub(super) fn add_beside(&self, other: Key, make: impl FnOnce(Key) -> T) -> Arc<T> {
        // In its shard, which is not empty and so has not been counted as emptied.
        let mut list = self.shards[other.shard as usize].lock();
        list.add(other.shard, make)
    }

    pub(super) fn remove(&self, key: Key) -> Option<Emptied> {
        let mut list = self.shards[key.shard as usize].lock();
        let removed = list.entries.try_remove(key.slot as usize);
        let is_empty = list.entries.is_empty();
        // A list that was long once need not keep the memory, and be walked through.
        if is_empty && list.entries.capacity() > KEPT {
            list.entries.shrink_to_fit();
        }
        let emptied = is_empty && list.closed && removed.is_some();
        drop(list);
        // When the lock is free again.
        drop(removed);
        emptied.then(|| self.shard_emptied()).flatten()
    }

    /// Admits nothing more. Again does no harm.
    pub(super) fn close(&self) -> Option<Emptied> {
        let mut emptied = None;
        for shard in &self.shards {
            let mut list = shard.lock();
            if !list.closed {
                list.closed = true;
                if list.entries.is_empty() {
                    emptied = emptied.or(self.shard_emptied());
                }
            }
        }
        emptied
    }

    fn shard_emptied(&self) -> Option<Emptied> {
        (self.open_shards.fetch_sub(1, Ordering::AcqRel) == 1).then_some(Emptied)
    }

    /// Visits all entries, each shard under its lock.
    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<T>)) {
        for shard in &self.shards {
            let list = shard.lock();
            list.entries.iter().for_each(|(_, entry)| visit(entry));
        }
    }

    /// Returns how many entries there are.
    #[cfg(feature = "net")]
    pub(super) fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.lock().entries.len()).sum()
    }
}

impl<T> List<T> {
    fn add(&mut self, shard: u32, make: impl FnOnce(Key) -> T) -> Arc<T> {
        let vacancy = self.entries.vacant_entry();
        // Each entry has memory of its own: there is no room for more than 2^32.
        let slot = vacancy.key() as u32;
        let entry = Arc::new(make(Key { shard, slot }));
        vacancy.insert(entry.clone());
        entry
    }
}

impl<T> Shard<T> {
    fn lock(&self) -> MutexGuard<'_, List<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        let shard = |_| {
            let entries = Slab::new();
            let closed = false;
            Shard(Mutex::new(List { entries, closed }))
        };
        Self {
            shards: std::array::from_fn(shard),
            open_shards: AtomicUsize::new(SHARDS),
        }
    }
}
