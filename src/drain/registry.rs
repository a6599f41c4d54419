//! Lists entries in shards, so that threads do not wait for one lock: what a report names, and the
//! wakers of tasks that wait for the drain.
//!
//! A registry can be closed, and reports when it is closed and its last entry has been removed. The
//! [counter](super::counter) does the same for requests with atomics. A registry needs locks for
//! its lists anyway, and counts under them.

use super::sync::{AtomicUsize, Ordering, thread_index};
use slab::Slab;
use std::{
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// Lists entries until they are removed. It admits none once it is closed.
pub(super) struct Registry<T> {
    shards: [ListShard<T>; SHARDS],
    /// Counts the shards that are open or not empty.
    open_shards: AtomicUsize,
}

#[repr(align(128))]
struct ListShard<T>(Mutex<List<T>>);

struct List<T> {
    entries: Slab<T>,
    closed: bool,
}

const SHARDS: usize = 16;

/// Limits the entries whose memory an empty shard keeps.
const KEPT: usize = 1024;

/// Locates an entry, by its shard and its slot there. Small, as each response future has room for
/// one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(NonZeroU32);

impl Key {
    /// Returns `None` if a number of 32 bits is too short for the slot.
    fn new(shard: usize, slot: usize) -> Option<Self> {
        let number = u32::try_from(slot * SHARDS + shard + 1).ok()?;
        NonZeroU32::new(number).map(Self)
    }

    fn parts(self) -> (usize, usize) {
        let number = self.0.get() as usize - 1;
        (number % SHARDS, number / SHARDS)
    }
}

impl<T> Registry<T> {
    /// Adds an entry. Returns `None` once the registry is closed, or if the shard has 2^28 entries.
    pub(super) fn add(&self, entry: T) -> Option<Key> {
        let shard = thread_index() % SHARDS;
        let mut list = self.shards[shard].lock();
        match list.closed {
            true => None,
            false => list.add(shard, entry),
        }
    }

    /// Adds an entry that is made from another one, which is listed; also to a closed registry.
    pub(super) fn add_beside(&self, other: Key, make: impl FnOnce(&T) -> T) -> Key {
        // To the other one's shard: it is not empty, so it has not been counted as emptied.
        let (shard, slot) = other.parts();
        let mut list = self.shards[shard].lock();
        let entry = make(&list.entries[slot]);
        list.add(shard, entry)
            .expect("2^28 entries do not fit into memory")
    }

    /// Passes an entry that is listed to `look`, under the lock of its shard.
    pub(super) fn with<R>(&self, key: Key, look: impl FnOnce(&mut T) -> R) -> R {
        let (shard, slot) = key.parts();
        look(&mut self.shards[shard].lock().entries[slot])
    }

    /// Removes an entry. Returns whether the registry is closed and this was its last one.
    #[must_use = "the drain waits for it"]
    pub(super) fn remove(&self, key: Key) -> bool {
        let (is_last, closed) = self.take_out(key);
        is_last && closed && self.shard_emptied()
    }

    /// Removes an entry. Returns whether it was the last one of its shard, and whether the shard is
    /// closed.
    fn take_out(&self, key: Key) -> (bool, bool) {
        let (shard, slot) = key.parts();
        let mut list = self.shards[shard].lock();
        let removed = list.entries.try_remove(slot);
        let is_empty = list.entries.is_empty();
        // Otherwise a list that was long once keeps its memory, and each visit walks through it.
        if is_empty && list.entries.capacity() > KEPT {
            list.entries.shrink_to_fit();
        }
        let seen = (is_empty && removed.is_some(), list.closed);
        drop(list);
        // Outside of the lock: the entry's own drop may run any code.
        drop(removed);
        seen
    }

    /// Closes the registry: it admits no more entries. Returns whether this has closed it and it
    /// is empty. A second call does nothing.
    #[must_use = "the drain waits for it"]
    pub(super) fn close(&self) -> bool {
        let mut emptied = false;
        for shard in &self.shards {
            let mut list = shard.lock();
            if !list.closed {
                list.closed = true;
                if list.entries.is_empty() {
                    emptied |= self.shard_emptied();
                }
            }
        }
        emptied
    }

    fn shard_emptied(&self) -> bool {
        self.open_shards.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Visits all entries, each shard under its lock.
    pub(super) fn each(&self, mut visit: impl FnMut(&T)) {
        for shard in &self.shards {
            let list = shard.lock();
            list.entries.iter().for_each(|(_, entry)| visit(entry));
        }
    }

    /// Returns how many entries there are.
    pub(super) fn len(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| shard.lock().entries.len()).sum()
    }
}

impl Registry<Waker> {
    /// Removes a waker of a registry that is never closed. Returns whether none is left in its
    /// shard.
    pub(super) fn remove_waker(&self, key: Key) -> bool {
        let (is_last, _) = self.take_out(key);
        is_last
    }

    /// Lists the waker at the key, or as a new entry if there is no key yet.
    pub(super) fn put(&self, key: &mut Option<Key>, waker: &Waker) {
        let Some(key) = *key else {
            *key = self.add(waker.clone());
            return;
        };
        let replaced = self.with(key, |listed| {
            (!listed.will_wake(waker)).then(|| std::mem::replace(listed, waker.clone()))
        });
        // Outside of the lock, as above.
        drop(replaced);
    }

    /// Wakes all tasks. Each stays listed.
    pub(super) fn wake_all(&self) {
        let mut wakers = Vec::new();
        self.each(|waker| wakers.push(waker.clone()));
        // Outside of the lock: a waker may run any code.
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> List<T> {
    fn add(&mut self, shard: usize, entry: T) -> Option<Key> {
        let key = Key::new(shard, self.entries.vacant_key())?;
        self.entries.insert(entry);
        Some(key)
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_test::task;

    #[test]
    fn it_is_said_once_that_the_last_entry_is_gone() {
        let registry = Registry::default();
        let key = registry.add("entry").expect("open");
        assert!(!registry.close() && registry.add("late").is_none());
        assert!(registry.remove(key) && !registry.close());
        let empty = Registry::<()>::default();
        assert!(empty.close() && !empty.close());
    }

    #[test]
    fn a_task_is_listed_once_and_woken_until_it_is_removed() {
        let wakers = Registry::default();
        let mut keys = [None; 2];
        let mut tasks = [(); 2].map(|()| task::spawn(()));
        for (key, task) in keys.iter_mut().zip(&mut tasks) {
            task.enter(|cx, _| wakers.put(key, cx.waker()));
        }
        let [first, second] = &mut tasks;
        // The first one's place, polled by the second task from now on.
        second.enter(|cx, _| wakers.put(&mut keys[0], cx.waker()));
        assert_eq!(wakers.len(), 2);
        wakers.wake_all();
        assert!(second.is_woken() && !first.is_woken());
        for key in keys {
            assert!(!wakers.remove(key.expect("listed")), "it is not closed");
        }
        assert_eq!(wakers.len(), 0);
    }
}
