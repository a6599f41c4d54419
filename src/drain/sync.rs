//! Exports the primitives of [`counter`](super::counter). The loom tests in `tests/loom` compile
//! the same `counter.rs` over loom's primitives instead.

pub(crate) use std::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
};

use std::cell::Cell;

const UNSET: usize = usize::MAX;

thread_local! {
    /// Holds this thread's number, once it has one.
    static INDEX: Cell<usize> = const { Cell::new(UNSET) };

    /// Holds the number of the shard by which this thread enters a counter, if it enters one in the
    /// usual way.
    ///
    /// Before the first entry it is [`UNSET`], and while the thread polls a request of `serve` it is
    /// the address of a block ([`current`](super::current)). No counter has a shard of such a number,
    /// so an entry that looks for its shard learns by that, too, that it has to look closer.
    pub(super) static HINT: Cell<usize> = const { Cell::new(UNSET) };
}

/// Returns this thread's number. Threads are numbered one after the other, so neighbours differ.
pub(crate) fn thread_index() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    if INDEX.get() == UNSET {
        // Relaxed: the number only spreads threads; nothing is published with it.
        INDEX.set(NEXT.fetch_add(1, Ordering::Relaxed) & (UNSET >> 1));
    }
    INDEX.get()
}

/// Returns the number of this thread's shard, or a number that no shard has.
#[inline]
pub(crate) fn shard_hint() -> usize {
    HINT.get()
}

/// Sets the number of this thread's shard, if it is not set.
pub(crate) fn learn_hint(shard: usize) {
    if HINT.get() == UNSET {
        HINT.set(shard);
    }
}
