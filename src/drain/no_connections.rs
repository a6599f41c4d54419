//! Replaces `connection_list` in a build without the feature `net`: there are no connections.

use super::{
    registry::Emptied,
    report::{Blocker, Counts},
};
use tokio::time::Instant;

/// Lists no connections.
pub(super) struct ConnectionList;

impl ConnectionList {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn len(&self) -> usize {
        0
    }

    /// Closes the list, which is always empty.
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

    pub(super) fn wake_multiplexed(&self) {}

    pub(super) fn count(&self, _: &mut Counts) {}

    pub(super) fn list(&self, _: Instant, _: &mut Vec<Blocker>) {}
}
