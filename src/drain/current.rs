//! The drain that counts the request which this thread is polling.
//!
//! `serve` counts its requests, and says so here during each poll. A layer of the same drain that stands
//! below it then counts the request no second time. A layer says so, too, but only once the drain has
//! begun: that is for a handler that waits for the drain, and so for itself.

use super::{CounterHandle, counter::Token, shared::Shared};
use std::cell::Cell;

/// Set in an identity that `serve` makes. Blocks are aligned to more.
const BY_SERVE: usize = 1;

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
    /// Returns the identity by which `serve` says that it has counted the request.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn of(handle: &CounterHandle) -> Self {
        Self(handle.address() | BY_SERVE)
    }

    /// Returns the identity by which a layer says that it has counted the request. What `serve` has said
    /// of the same drain stays.
    pub(super) fn of_token(token: &Token<Shared>) -> Self {
        let current = CURRENT.get();
        match current & !BY_SERVE == token.address() {
            true => Self(current),
            false => Self(token.address()),
        }
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

/// Returns whether `serve` has counted the request that this thread is polling, for that drain.
#[cfg(feature = "server")]
#[inline]
pub(crate) fn is_current(handle: &CounterHandle) -> bool {
    CURRENT.get() == handle.address() | BY_SERVE
}

/// Returns whether this thread is polling a request that the drain counts. Without `serve`, it is only
/// known once the drain has begun.
pub(super) fn is_inside(handle: &CounterHandle) -> bool {
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
