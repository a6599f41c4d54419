//! Records which drains count the request that this thread is polling.
//!
//! `serve` counts its requests and records the drain during each poll, in [`HINT`]: by that, a layer
//! below it takes a closer look, and if it is of the same drain it does not count the request again.
//!
//! A layer records its drain too, but only once the drain has begun. By that, a handler is found
//! that waits for the drain of its own request, and so for itself. The two stand apart: a layer of
//! one drain inside of `serve` with another hides nothing from the layers below it.

use super::{block::Owner, counter::CounterHandle, sync::HINT, token::Token};
use std::{cell::Cell, thread::LocalKey};

thread_local! {
    /// Holds the address of the block of the drain that the innermost layer counts by, or 0.
    static LAYERED: Cell<usize> = const { Cell::new(0) };
}

/// Restores the drain that was current before. Its drop does that, also while a panic unwinds.
#[must_use = "the drain is current until this is dropped"]
pub(crate) struct Current {
    cell: &'static LocalKey<Cell<usize>>,
    before: usize,
}

impl Current {
    /// Records the drain of `serve`, which polls a request that it has admitted.
    ///
    /// The address of a block identifies its drain. Another drain can get the block only when this
    /// one is gone and the block is not in use. The polled request keeps the block if it is
    /// counted, and its server keeps the drain if it is exempt. So the address is unique while it
    /// is current.
    ///
    /// A layer of a drain that had the block before takes the drain for its own and does not count
    /// the request. It would not count the request anyway, as its handle is stale.
    #[cfg(feature = "server")]
    #[inline]
    pub(crate) fn of_server<O: Owner>(handle: &CounterHandle<O>) -> Self {
        Self::set(&HINT, handle.address())
    }

    /// Records the drain of a layer that polls one of its requests.
    pub(super) fn of_layer<O: Owner>(token: &Token<O>) -> Self {
        Self::set(&LAYERED, token.address())
    }

    #[inline]
    fn set(cell: &'static LocalKey<Cell<usize>>, address: usize) -> Self {
        let before = cell.replace(address);
        Self { cell, before }
    }
}

impl Drop for Current {
    #[inline]
    fn drop(&mut self) {
        self.cell.set(self.before);
    }
}

/// Returns whether `serve`, with this drain, has counted the request that this thread polls.
#[inline]
pub(crate) fn is_served<O: Owner>(handle: &CounterHandle<O>) -> bool {
    HINT.get() == handle.address()
}

/// Returns whether this thread is polling a request that the drain counts. Without `serve`, this is
/// known only once the drain has begun.
pub(super) fn is_inside<O: Owner>(handle: &CounterHandle<O>) -> bool {
    [&HINT, &LAYERED]
        .iter()
        .any(|cell| cell.get() == handle.address())
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;
    use crate::Drain;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn i71_the_drain_before_is_restored_also_after_a_panic() {
        let [one, other] = [Drain::new(), Drain::new()];
        let [one, other] = [&one, &other].map(|drain| drain.shared().counter_handle());
        let outer = Current::of_server(&one);
        assert!(is_served(&one) && is_served(&one.clone()) && !is_served(&other));
        let panics = catch_unwind(AssertUnwindSafe(|| {
            let _inner = Current::of_server(&other);
            assert!(is_served(&other) && !is_served(&one));
            panic!("as a handler does");
        }));
        assert!(panics.is_err());
        assert!(is_served(&one) && !is_served(&other));
        drop(outer);
        assert!(!is_served(&one));
    }

    /// While it is polled, that is: the layers below it still see the drain of `serve`.
    #[test]
    fn i71_a_layer_of_another_drain_does_not_hide_the_drain_of_serve() {
        let [served, layered] = [Drain::new(), Drain::new()];
        let [served, layered] = [&served, &layered].map(|drain| drain.shared().counter_handle());
        let token = layered.enter_by_index().expect("it has not begun");
        let outer = Current::of_server(&served);
        let inner = Current::of_layer(&token);
        assert!(is_served(&served) && !is_served(&layered));
        assert!(is_inside(&served) && is_inside(&layered));
        drop(inner);
        assert!(is_inside(&served) && !is_inside(&layered));
        drop(outer);
        assert!(!is_inside(&served));
    }
}
