//! Exports the primitives of [`counter`](super::counter). The loom tests in `tests/loom` compile
//! the same `counter.rs` over loom's primitives instead.

pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence},
};

use std::cell::Cell;

/// Returns this thread's number. Threads are numbered one after the other, so neighbours differ.
#[inline]
pub(crate) fn thread_index() -> usize {
    const UNSET: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static INDEX: Cell<usize> = const { Cell::new(UNSET) });

    #[cold]
    fn assign() -> usize {
        // Relaxed: the number only spreads threads; nothing is published with it.
        let index = NEXT.fetch_add(1, Ordering::Relaxed) & (UNSET >> 1);
        INDEX.set(index);
        index
    }

    match INDEX.get() {
        UNSET => assign(),
        set => set,
    }
}
