//! The primitives that [`count`](super::count) stands on, in one place, so that the loom tests in
//! `tests/loom` can compile the very same `count.rs` over loom's.

pub(crate) use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};

use std::{
    cell::Cell,
    mem::forget,
    panic::{AssertUnwindSafe, catch_unwind},
};

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

/// Does what is seldom done at the end of something, out of line and without letting a panic out:
/// the end of a request is no place for one, and who may have to unwind costs all who do not (see
/// [`count`](super::count)). `extern "C"` is what says so to callers in other crates.
#[cold]
#[inline(never)]
pub(crate) extern "C" fn contained<F: FnOnce()>(end: F) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(end)) {
        // The panic hook has told of it. Its payload might panic, too, when dropped.
        forget(panic);
    }
}
