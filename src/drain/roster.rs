//! A list of those who are inside: in shards, as what comes and goes on many threads shall not stand
//! in line.

use super::sync::Arc;
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub(super) struct Roster<T> {
    shards: [Shard<T>; 16],
}

type Shard<T> = Mutex<HashMap<usize, Arc<T>>>;

impl<T> Roster<T> {
    pub(super) fn add(&self, one: &Arc<T>) {
        self.shard(one).insert(key(one), one.clone());
    }

    pub(super) fn remove(&self, one: &Arc<T>) {
        // Dropped when the lock is free again.
        let removed = self.shard(one).remove(&key(one));
        drop(removed);
    }

    /// Visits all of them, each shard under its lock.
    pub(super) fn each(&self, mut visit: impl FnMut(&Arc<T>)) {
        for shard in &self.shards {
            lock(shard).values().for_each(&mut visit);
        }
    }

    fn shard(&self, one: &Arc<T>) -> MutexGuard<'_, HashMap<usize, Arc<T>>> {
        // An address: its lowest bits are all the same.
        lock(&self.shards[(key(one) >> 6) % self.shards.len()])
    }
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self {
            shards: Default::default(),
        }
    }
}

fn key<T>(one: &Arc<T>) -> usize {
    Arc::as_ptr(one) as usize
}

fn lock<T>(shard: &Shard<T>) -> MutexGuard<'_, HashMap<usize, Arc<T>>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
