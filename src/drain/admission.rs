//! Lets requests in, or refuses them, where a look at the counter alone does not decide.

use super::{
    callers::Callers,
    counter::CounterHandle,
    phase::Stage,
    shared::{RequestData, Shared},
    token::Token,
};
use std::{num::NonZeroU64, task::Waker};
use tokio::time::Instant;

impl CounterHandle<Shared> {
    /// Returns the last recorded stage. A drain that was dropped before it began is `Serving`.
    pub(crate) fn stage(&self) -> Stage {
        self.data().map_or(Stage::Serving, RequestData::stage)
    }

    /// Counts a request, or returns `None` to refuse it. The token counts nothing if the drain was
    /// dropped before it began.
    #[inline]
    pub(crate) fn admit(&self, is_late_upgrade: impl FnOnce() -> bool) -> Option<Token<Shared>> {
        self.enter().or_else(|| self.enter_closely(is_late_upgrade))
    }

    /// Does what [`admit`](Self::admit) does, where [`enter`](Self::enter) has not counted it.
    ///
    /// A request for an upgrade (`is_late_upgrade`) is refused from [`Stage::LastRead`] on: its
    /// connection is about to be closed. Other requests are refused from [`Stage::Draining`] on.
    #[cold]
    pub(crate) fn enter_closely(
        &self,
        is_late_upgrade: impl FnOnce() -> bool,
    ) -> Option<Token<Shared>> {
        if let Some(token) = self.enter_by_index() {
            return Some(token);
        }
        if let Some(data) = self.data() {
            // Not once the drain is over: its outcome is known, and refusals cost less.
            if (Stage::LameDuck..Stage::Done).contains(&data.stage()) {
                // Before the schedule looks at the clock: this request keeps the lame duck from
                // ending early.
                data.last_request.note(Instant::now());
            }
        }
        if self.stage() < Stage::Draining {
            self.advance_to_close();
            let stage = self.stage();
            if (Stage::LastRead..Stage::Draining).contains(&stage) && is_late_upgrade() {
                return None;
            }
        }
        self.enter_late(|data| data.stage() < Stage::Draining)
    }

    /// Advances the schedule, if that is due: perhaps no waiter is there to do it. Stops before the
    /// close: an outcome that is set now would not count the caller's request as refused.
    fn advance_to_close(&self) {
        if let Some(shared) = self.owner().filter(|shared| shared.is_due()) {
            shared.advance_to_close(Instant::now());
        }
    }
}

/// Lets callers wait for capacity.
impl CounterHandle<Shared> {
    /// Returns whether the drain refuses requests. If not, it wakes the task once it does.
    pub(crate) fn refuses(&self, caller: &mut Option<NonZeroU64>, waker: &Waker) -> bool {
        // A drain that was dropped before it began never refuses.
        let Some(data) = self.data() else {
            return false;
        };
        let caller = caller.get_or_insert(Callers::NONE);
        if (Stage::LameDuck..Stage::Draining).contains(&data.stage()) {
            // If no caller is polled when it is due, the next request or the next look at the phase
            // does it.
            self.advance_to_close();
        }
        if data.stage() < Stage::Draining {
            data.callers.put(caller, waker);
        }
        // After the registration: a later change of the stage wakes the task.
        data.stage() >= Stage::Draining
    }

    /// Removes a caller that has got capacity.
    pub(crate) fn stop_waiting(&self, caller: NonZeroU64) {
        if let Some(data) = self.data() {
            data.callers.remove(caller);
        }
    }
}
