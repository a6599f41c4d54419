//! The drain that has already counted the request that this thread is polling.
//!
//! `serve` counts its requests. A layer of the same drain that stands below it finds that out here, and
//! counts the request no second time.

use super::CounterHandle;
use std::cell::Cell;

thread_local! {
    /// An identity, or 0.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// A drain, as far as it takes to tell it from another one: the address of its block.
///
/// Another drain can have that block only after this one is gone, and it is not gone while it is current:
/// the request that is polled is counted, which keeps the block. A layer of a drain that had the block
/// before serves uncounted, as it would do otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(usize);

impl Identity {
    #[inline]
    pub(crate) fn of(handle: &CounterHandle) -> Self {
        Self(handle.address())
    }

    /// Makes it the current drain until the value that this returns is dropped.
    #[inline]
    pub(crate) fn enter(self) -> Current {
        Current {
            before: CURRENT.replace(self.0),
        }
    }
}

/// Restores what was current before, also when a panic unwinds.
#[must_use = "the drain is current until this is dropped"]
pub(crate) struct Current {
    before: usize,
}

impl Drop for Current {
    #[inline]
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// Whether the request that this thread is polling is counted by that drain already.
#[inline]
pub(crate) fn is_current(handle: &CounterHandle) -> bool {
    CURRENT.get() == handle.address()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Drain;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn i71_the_drain_before_is_restored_also_after_a_panic() {
        let [one, other] = [Drain::new(), Drain::new()];
        let [one, other] = [&one, &other].map(|drain| drain.counter_handle());
        let outer = Identity::of(&one).enter();
        assert!(is_current(&one) && is_current(&one.clone()) && !is_current(&other));
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let _inner = Identity::of(&other).enter();
            assert!(is_current(&other) && !is_current(&one));
            panic!("as a handler does");
        }));
        assert!(panics.is_err());
        assert!(is_current(&one) && !is_current(&other));
        drop(outer);
        assert!(!is_current(&one));
    }
}
