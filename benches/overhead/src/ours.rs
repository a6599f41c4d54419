//! The count of the crate by itself, in the same layer as the other [designs](crate::designs): the
//! difference to the crate's own stack is what its layer costs. Compiled from the very same files.

use crate::{counted, designs};
use count::{Count, Entrance, Home, Pass};
use std::{mem::forget, sync::atomic::AtomicBool};
use sync::Ordering;

// What a layer needs not.
#[allow(dead_code)]
#[path = "../../../src/drain/count.rs"]
mod count;
#[path = "../../../src/drain/sync.rs"]
pub(crate) mod sync;

/// Stands for the drain's phase, which each request reads.
#[derive(Default)]
#[repr(align(128))]
struct Phase {
    closed: AtomicBool,
}

impl Home for Phase {
    #[inline]
    fn admits(&self) -> bool {
        !self.closed.load(Ordering::Acquire)
    }

    fn vacated(&self) {}

    fn abandoned(&self) {}
}

#[derive(Clone)]
pub(crate) struct Ours {
    entrance: Entrance<Phase>,
}

pub(crate) struct OurGuard {
    _pass: Pass<Phase>,
}

impl Ours {
    pub(crate) fn new() -> Self {
        let count = Count::new(Phase::default(), designs::stripes());
        let entrance = count.entrance();
        // In an application the drain keeps it, as long as there is traffic.
        forget(count);
        Self { entrance }
    }
}

impl counted::Count for Ours {
    type Guard = OurGuard;

    #[inline]
    fn enter(&self) -> Option<OurGuard> {
        self.entrance.enter().map(|_pass| OurGuard { _pass })
    }
}
