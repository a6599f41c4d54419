//! Records which drain counts the request that this thread is polling.
//!
//! `serve` counts its requests and records the drain here during each poll. A layer of the same
//! drain inside of `serve` then does not count the request again.
//!
//! A layer records its drain too, but only once the drain has begun. By that, a handler is found
//! that waits for the drain of its own request, and so for itself.

use super::counter::{CounterHandle, Owner, Token};
use std::cell::Cell;

/// Marks an identity made by `serve`. The bit is free, as the alignment of blocks is more than 1.
const BY_SERVE: usize = 1;

thread_local! {
    /// Holds the identity of the drain that is current on this thread, or 0.
    static CURRENT: Cell<usize> = const { Cell::new(0) };
}

/// Identifies a drain by the address of its block.
///
/// Another drain can get the block only when this one is gone and the block is not in use. The
/// polled request is counted and keeps the block, so the identity is unique while it is current.
///
/// A layer of a drain that had the block before takes the identity for its own and does not count
/// the request. It would not count the request anyway, as its handle is stale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity(usize);

impl Identity {
    /// Returns the identity that `serve` records for a request that it has counted.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn of<O: Owner>(handle: &CounterHandle<O>) -> Self {
        Self(handle.address() | BY_SERVE)
    }

    /// Returns the identity that a layer records for a request that it has counted. If `serve` has
    /// recorded the same drain, its mark stays.
    pub(super) fn of_token<O: Owner>(token: &Token<O>) -> Self {
        let current = CURRENT.get();
        match current & !BY_SERVE == token.address() {
            true => Self(current),
            false => Self(token.address()),
        }
    }

    /// Makes this the current drain until the returned value is dropped.
    #[inline]
    pub(crate) fn enter(self) -> Current {
        Current {
            before: CURRENT.replace(self.0),
        }
    }
}

/// Restores the drain that was current before. Its drop does that, also while a panic unwinds.
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

/// Returns whether `serve` has counted the polled request for this drain.
#[cfg(feature = "server")]
#[inline]
pub(crate) fn is_current<O: Owner>(handle: &CounterHandle<O>) -> bool {
    CURRENT.get() == handle.address() | BY_SERVE
}

/// Returns whether this thread is polling a request that the drain counts. Without `serve`, this is
/// known only once the drain has begun.
pub(super) fn is_inside<O: Owner>(handle: &CounterHandle<O>) -> bool {
    CURRENT.get() & !BY_SERVE == handle.address()
}

#[cfg(all(test, feature = "server"))]
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
