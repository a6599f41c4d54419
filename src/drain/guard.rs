//! What is inside: requests, guards, servers.

use super::{
    Entrance,
    count::Pass,
    state::{Kind, State},
};
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

/// One request, from its call to the end of its response body.
pub(crate) struct InFlight {
    pass: Pass<State>,
}

impl InFlight {
    #[inline]
    pub(crate) fn enter(entrance: &Entrance) -> Option<Self> {
        entrance.enter().map(|pass| Self { pass })
    }

    /// One more on a connection that is inside, whether or not others are admitted still.
    #[cfg(feature = "server")]
    pub(crate) fn of(connection: &Inside) -> Self {
        Self {
            pass: connection.pass.clone(),
        }
    }

    /// Whether the drain has begun.
    #[inline]
    pub(crate) fn is_last_call(&self) -> bool {
        !self.pass.home().is_serving()
    }
}

impl Drop for InFlight {
    #[inline]
    fn drop(&mut self) {
        if self.is_last_call() {
            self.pass.home().count_completed();
        }
    }
}

/// Something inside that is no request.
pub(crate) struct Inside {
    kind: Kind,
    pass: Pass<State>,
}

impl Inside {
    pub(super) fn enter(entrance: &Entrance, kind: Kind) -> Option<Self> {
        entrance.enter().map(|pass| Self::new(pass, kind))
    }

    fn new(pass: Pass<State>, kind: Kind) -> Self {
        pass.home().count_in(kind);
        Self { kind, pass }
    }
}

impl Clone for Inside {
    fn clone(&self) -> Self {
        Self::new(self.pass.clone(), self.kind)
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.pass.home().count_out(self.kind);
    }
}

/// Work that a drain waits for, until this is dropped; from [`Drain::guard`](crate::Drain::guard).
///
/// A clone is counted for itself, also when it is made during the drain: work that was admitted
/// may spread.
#[derive(Clone)]
#[must_use = "the drain stops waiting when the guard is dropped"]
pub struct DrainGuard {
    _inside: Inside,
}

impl DrainGuard {
    pub(super) fn new(inside: Inside) -> Self {
        Self { _inside: inside }
    }
}

impl fmt::Debug for DrainGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self._inside.pass.home().phase();
        f.debug_struct("DrainGuard").field("phase", &phase).finish()
    }
}

pin_project! {
    /// A future that a drain waits for; from [`Drain::track`](crate::Drain::track).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled, and the drain waits for this one"]
    pub struct Tracked<F> {
        #[pin]
        future: F,
        // Last, so that the future is dropped before it is said to have ended.
        guard: Option<DrainGuard>,
    }
}

impl<F> Tracked<F> {
    pub(super) fn new(future: F, guard: DrainGuard) -> Self {
        Self {
            future,
            guard: Some(guard),
        }
    }
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(cx));
        *this.guard = None;
        Poll::Ready(output)
    }
}
