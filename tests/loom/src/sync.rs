//! What `src/drain/sync.rs` is to the crate, over loom.
//!
//! loom's `Arc` has no `Weak`, so this one stands in for both, with the orderings of the standard
//! library's (`library/alloc/src/sync.rs`): what is explored is the protocol that `count.rs`
//! builds on them. The memory itself is kept by std's `Arc`, out of loom's sight; what loom sees is
//! the strong count, and that the value is dropped by whoever takes it to 0.

pub(crate) use loom::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicBool, AtomicUsize, Ordering, fence},
};

use std::{cell::Cell, ops::Deref, sync};

struct Shared<T> {
    strong: AtomicUsize,
    /// Gone with the last strong reference.
    value: sync::Mutex<Option<sync::Arc<T>>>,
}

pub(crate) struct Arc<T> {
    shared: sync::Arc<Shared<T>>,
    value: sync::Arc<T>,
}

pub(crate) struct Weak<T> {
    shared: sync::Arc<Shared<T>>,
}

impl<T> Arc<T> {
    pub(crate) fn new(value: T) -> Self {
        let value = sync::Arc::new(value);
        Self {
            shared: sync::Arc::new(Shared {
                strong: AtomicUsize::new(1),
                value: sync::Mutex::new(Some(value.clone())),
            }),
            value,
        }
    }

    pub(crate) fn downgrade(this: &Self) -> Weak<T> {
        Weak {
            shared: this.shared.clone(),
        }
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        self.shared.strong.fetch_add(1, Ordering::Relaxed);
        Self {
            shared: self.shared.clone(),
            value: self.value.clone(),
        }
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> Drop for Arc<T> {
    fn drop(&mut self) {
        if self.shared.strong.fetch_sub(1, Ordering::Release) == 1 {
            fence(Ordering::Acquire);
            let value = self.shared.value.lock().unwrap().take();
            // The last but for `self.value`, which goes next, with nothing of loom's in between.
            drop(value);
        }
    }
}

impl<T> Weak<T> {
    pub(crate) fn upgrade(&self) -> Option<Arc<T>> {
        self.shared
            .strong
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |strong| {
                (strong > 0).then_some(strong + 1)
            })
            .ok()?;
        let value = self.shared.value.lock().unwrap().clone();
        Some(Arc {
            shared: self.shared.clone(),
            value: value.expect("there while the strong count is not 0"),
        })
    }

    pub(crate) fn strong_count(&self) -> usize {
        self.shared.strong.load(Ordering::Relaxed)
    }
}

impl<T> Clone for Weak<T> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

loom::thread_local!(static INDEX: Cell<usize> = Cell::new(0));

pub(crate) fn thread_index() -> usize {
    INDEX.with(Cell::get)
}

/// What this thread does from here on, it does on that stripe.
#[cfg(test)]
pub(crate) fn stand_on(stripe: usize) {
    INDEX.with(|index| index.set(stripe));
}
