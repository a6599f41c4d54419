//! The counter of the crate by itself, in the same layer as the other [designs](crate::designs): the
//! difference to the crate's own stack is what its layer costs. Compiled from the very same files.

use crate::{counted, designs};
use counter::{Counter, CounterHandle, Owner, Pool, Token};
use std::sync::{Arc, LazyLock, Weak};

// A layer does not need all of it.
#[allow(dead_code)]
#[path = "../../../src/drain/counter.rs"]
mod counter;
#[allow(unused_imports)]
#[path = "../../../src/drain/sync.rs"]
pub(crate) mod sync;

/// Stands for the drain.
pub(crate) struct Nobody;

impl Owner for Nobody {
    type Data = ();
    type Details = ();

    fn reset((): &()) {}

    fn counter_emptied(self: &Arc<Self>) {}
}

static POOL: LazyLock<Pool<Nobody>> = LazyLock::new(Pool::new);

#[derive(Clone)]
pub(crate) struct Ours {
    handle: CounterHandle<Nobody>,
}

pub(crate) struct OurGuard {
    _token: Token<Nobody>,
}

impl Ours {
    pub(crate) fn new() -> Self {
        let counter = Counter::new(&POOL, designs::stripes(), Weak::new());
        let handle = counter.handle();
        // In an application the drain keeps it, as long as there is traffic.
        std::mem::forget(counter);
        Self { handle }
    }
}

impl counted::Count for Ours {
    type Guard = OurGuard;

    #[inline]
    fn enter(&self) -> Option<OurGuard> {
        self.handle.enter().map(|_token| OurGuard { _token })
    }
}
