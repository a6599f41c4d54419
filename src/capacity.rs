//! Waits for the capacity of the inner service, or until the drain refuses.

use crate::drain::{CounterHandle, Shared, is_served};
use std::{
    num::NonZeroU64,
    task::{Context, Poll},
};

/// Records whether the inner service may be called: whether it has capacity for a request.
///
/// It has no drop, as each request would pay for it. The list finds out which callers are gone.
#[derive(Default)]
pub(crate) struct Capacity {
    /// Holds the caller's number in the list of those that the drain wakes, while the inner service
    /// has no capacity.
    missing: Option<NonZeroU64>,
}

impl Capacity {
    /// Passes on whether the inner service is ready. Once the drain admits no request, it is ready
    /// in any case: a refusal needs no capacity.
    ///
    /// Until then a caller waits for capacity. Where the drain tracks connections, it admits
    /// requests for a while after [`Phase::Draining`](crate::Phase::Draining), and a request that
    /// gets capacity meanwhile is served.
    #[inline]
    pub(crate) fn poll<E>(
        &mut self,
        ready: Poll<Result<(), E>>,
        handle: &CounterHandle<Shared>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), E>> {
        match ready {
            Poll::Pending => self.poll_drain(handle, cx).map(Ok),
            ready => {
                if self.missing.is_some() {
                    self.found(handle);
                }
                ready
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn found(&mut self, handle: &CounterHandle<Shared>) {
        if let Some(number) = self.missing.take() {
            handle.stop_waiting(number);
        }
    }

    #[cold]
    #[inline(never)]
    fn poll_drain(&mut self, handle: &CounterHandle<Shared>, cx: &mut Context<'_>) -> Poll<()> {
        match !is_served(handle) && handle.refuses(&mut self.missing, cx.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Returns false if only the drain, and not the inner service, has been ready: then
    /// [`call`](tower_service::Service::call) must not reach the inner service.
    #[inline]
    pub(crate) fn is_there(&self) -> bool {
        self.missing.is_none()
    }
}
