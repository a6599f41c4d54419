//! What `src/drain/sync.rs` is to the crate, over loom.

pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
};

use std::cell::Cell;

loom::thread_local!(static INDEX: Cell<usize> = Cell::new(0));

pub(crate) fn thread_index() -> usize {
    INDEX.with(Cell::get)
}

pub(crate) fn shard_hint() -> usize {
    thread_index()
}

pub(crate) fn learn_hint(_: usize) {}

/// Has this thread enter by that shard from here on.
#[cfg(test)]
pub(crate) fn stand_on(shard: usize) {
    INDEX.with(|index| index.set(shard));
}
