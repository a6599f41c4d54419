//! Lists the tasks of requests that wait for their response, to be woken when the drain is forced.
//!
//! An HTTP/2 stream is a task of its own, which the drain wakes only by this list. A request gets a
//! place at its first [`Pending`](std::task::Poll::Pending), so one that is ready at once never
//! gets here. The places are in shards, and are used again: there is no allocation for a request.

use super::sync::thread_index;
use slab::Slab;
use std::{
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// Lists the wakers of requests whose response has not begun.
#[derive(Default)]
pub(super) struct WaitList {
    shards: [WaitShard; SHARDS],
}

#[derive(Default)]
#[repr(align(128))]
struct WaitShard(Mutex<Slab<Waker>>);

const SHARDS: usize = 16;

/// Limits the places whose memory an empty shard keeps.
const KEPT: usize = 1024;

/// Locates a waker, or stands for none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place(Option<NonZeroU32>);

impl Place {
    /// Stands for no waker.
    pub(crate) const NONE: Self = Self(None);

    /// Returns the place of a slot. `None` if a number of 32 bits is too short for it.
    fn new(shard: usize, slot: usize) -> Option<Self> {
        let number = u32::try_from(slot * SHARDS + shard + 1).ok()?;
        Some(Self(NonZeroU32::new(number)))
    }

    #[inline]
    pub(crate) fn is_taken(self) -> bool {
        self.0.is_some()
    }

    fn parts(self) -> Option<(usize, usize)> {
        let number = self.0?.get() as usize - 1;
        Some((number % SHARDS, number / SHARDS))
    }
}

impl WaitList {
    /// Lists the waker at the place, or at a new one if there is none.
    pub(super) fn put(&self, place: &mut Place, waker: &Waker) {
        if let Some((shard, slot)) = place.parts() {
            if let Some(listed) = self.shards[shard].lock().get_mut(slot) {
                listed.clone_from(waker);
            }
            return;
        }
        let shard = thread_index() % SHARDS;
        let waker = waker.clone();
        let mut list = self.shards[shard].lock();
        if let Some(new) = Place::new(shard, list.vacant_key()) {
            list.insert(waker);
            *place = new;
        }
    }

    /// Gives the place back. Returns whether its shard is empty.
    pub(super) fn remove(&self, place: &mut Place) -> bool {
        let Some((shard, slot)) = std::mem::take(place).parts() else {
            return false;
        };
        let mut list = self.shards[shard].lock();
        let removed = list.try_remove(slot);
        let is_empty = list.is_empty();
        if is_empty && list.capacity() > KEPT {
            list.shrink_to_fit();
        }
        drop(list);
        // Outside of the lock: the drop of a waker may run any code.
        drop(removed);
        is_empty
    }

    /// Returns how many wakers there are.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Wakes all tasks.
    pub(super) fn wake_all(&self) {
        for shard in &self.shards {
            let wakers: Vec<_> = shard.lock().iter().map(|(_, it)| it.clone()).collect();
            // Outside of the lock: a waker may run any code.
            wakers.iter().for_each(Waker::wake_by_ref);
        }
    }
}

impl WaitShard {
    fn lock(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
