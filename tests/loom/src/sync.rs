//! What `src/drain/sync.rs` is to the crate, over loom.
//!
//! loom's `Arc` reports what is never freed, and what is used after it was.

pub(crate) use loom::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering, fence},
};

use std::cell::Cell;

loom::thread_local!(static INDEX: Cell<usize> = Cell::new(0));

pub(crate) fn thread_index() -> usize {
    INDEX.with(Cell::get)
}

/// What this thread does from here on, it does on that stripe.
#[cfg(test)]
pub(crate) fn stand_on(stripe: usize) {
    INDEX.with(|index| index.set(stripe));
}

/// Here a panic is a test that fails: it is let out.
pub(crate) fn contained(call: impl FnOnce()) {
    call();
}
