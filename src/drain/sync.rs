//! The primitives that [`count`](super::count) stands on, in one place, so that the loom tests in
//! `tests/loom` can compile the very same `count.rs` over loom's.

pub(crate) use std::sync::{
    Arc, Mutex, MutexGuard, Weak,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

use std::cell::Cell;

/// A small number of this thread's own; threads get them in turn, so that neighbours differ.
#[inline]
pub(crate) fn thread_index() -> usize {
    const UNSET: usize = usize::MAX;
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static INDEX: Cell<usize> = const { Cell::new(UNSET) });

    #[cold]
    fn assign(index: &Cell<usize>) -> usize {
        // Relaxed: the number only spreads threads; nothing is published with it.
        index.set(NEXT.fetch_add(1, Ordering::Relaxed) % UNSET);
        index.get()
    }

    INDEX.with(|index| match index.get() {
        UNSET => assign(index),
        set => set,
    })
}
