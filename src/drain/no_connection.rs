//! In place of `connections` where the crate is built without `net`: there are none.

use super::{
    registry::Emptied,
    report::{Blocker, Counts},
};
use tokio::time::Instant;

pub(super) struct ConnectionList;

impl ConnectionList {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn len(&self) -> usize {
        0
    }

    /// There is nothing in it.
    pub(super) fn close(&self) -> Option<Emptied> {
        Some(Emptied)
    }

    pub(super) fn multiplexed(&self) -> usize {
        0
    }

    pub(super) fn unchecked(&self) -> usize {
        0
    }

    pub(super) fn start_last_read(&self) {}

    pub(super) fn skip_unchecked(&self) {}

    pub(super) fn wake_all(&self) {}

    pub(super) fn count(&self, _: &mut Counts) {}

    pub(super) fn list(&self, _: Instant, _: &mut Vec<Blocker>) {}
}
