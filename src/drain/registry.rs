//! Lists and counts entries in shards, so that threads do not wait for one lock.
//!
//! A registry can be closed, and reports when it is closed and its last entry has been removed. The
//! [counter](super::counter) does the same for requests with atomics. A registry needs locks for
//! its lists anyway, and counts under them.

use super::sync::{Arc, AtomicUsize, Ordering, thread_index};
use slab::Slab;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lists entries until they are removed. It admits none once it is closed.
pub(super) struct Registry<T> {
    shards: [ListShard<T>; SHARDS],
    /// Counts the shards that are open or not empty.
    open_shards: AtomicUsize,
}

#[repr(align(128))]
struct ListShard<T>(Mutex<List<T>>);

struct List<T> {
    entries: Slab<Arc<T>>,
    closed: bool,
}

const SHARDS: usize = 16;

/// Limits the entries whose memory an empty shard keeps.
const KEPT: usize = 1024;

/// Locates an entry.
#[derive(Clone, Copy)]
pub(super) struct Key {
    shard: u32,
    slot: u32,
}

/// Says that a registry is closed and empty. Returned once.
#[must_use = "the drain waits for it"]
pub(super) struct Emptied;

impl<T> Registry<T> {
    /// Adds an entry, made from the key by which it is [removed](Self::remove). Returns `None` once
    /// the registry is closed.
    pub(super) fn add(&self, make: impl FnOnce(Key) -> T) -> Option<Arc<T>> {
        let shard = thread_index() % self.shards.len();
        let mut list = self.shards[shard].lock();
        match list.closed {
            true => None,
            false => Some(list.add(shard as u32, make)),
        }
    }

    /// Adds an entry while another one is listed, also to a closed registry.
    pub(super) fn add_beside(&self, other: Key, make: impl FnOnce(Key) -> T) -> Arc<T> {
        // To the other one's shard: it is not empty, so it has not been counted as emptied.
        let mut list = self.shards[other.shard as usize].lock();
        list.add(other.shard, make)
    }

    /// Removes an entry.
    pub(super) fn remove(&self, key: Key) -> Option<Emptied> {
        let mut list = self.shards[key.shard as usize].lock();
        let removed = list.entries.try_remove(key.slot as usize);
        let is_empty = list.entries.is_empty();
        // Otherwise a list that was long once keeps its memory, and each visit walks through it.
        if is_empty && list.entries.capacity() > KEPT {
            list.entries.shrink_to_fit();
        }
        let emptied = is_empty && list.closed && removed.is_some();
        drop(list);
        // Outside of the lock: the entry's own drop may run any code.
        drop(removed);
        emptied.then(|| self.shard_emptied()).flatten()
    }

    /// Closes the registry: it admits no more entries. A second call does nothing.
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
        // Cannot overflow: the entries are allocated, and 2^32 of them do not fit into memory.
        let slot = vacancy.key() as u32;
        let entry = Arc::new(make(Key { shard, slot }));
        vacancy.insert(entry.clone());
        entry
    }
}

impl<T> ListShard<T> {
    fn lock(&self) -> MutexGuard<'_, List<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        let shard = |_| {
            let entries = Slab::new();
            let closed = false;
            ListShard(Mutex::new(List { entries, closed }))
        };
        Self {
            shards: std::array::from_fn(shard),
            open_shards: AtomicUsize::new(SHARDS),
        }
    }
}
