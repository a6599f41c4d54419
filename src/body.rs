//! Counts each request until its response body is dropped.

use crate::drain::{Shared, Token, uncounted};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

pin_project! {
    /// Wraps the inner service's body in a response from [`Graceful`](crate::Graceful), and ends
    /// the count of the request when it is dropped. The body of a refusal is empty, unless it was
    /// given one.
    ///
    /// Frames, trailers, errors, size hint and end pass through unchanged.
    ///
    /// [`Default`] makes an empty body and [`From`] one that is not counted, for middleware outside
    /// of the layer that answers by itself.
    #[must_use = "dropping a body ends its request"]
    pub struct ResponseBody<B> {
        #[pin]
        state: BodyState<B>,
    }
}

pin_project! {
    // No larger than the inner body and a reference.
    #[project = StateProj]
    enum BodyState<B> {
        Inner {
            #[pin]
            inner: B,
            // Last, so that the body is dropped before the count ends.
            token: Token<Shared>,
        },
        Empty,
    }
}

impl<B> ResponseBody<B> {
    #[inline]
    pub(crate) fn new(inner: B, token: Token<Shared>) -> Self {
        Self {
            state: BodyState::Inner { inner, token },
        }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match self.project().state.project() {
            StateProj::Inner { inner, .. } => inner.poll_frame(cx),
            StateProj::Empty => Poll::Ready(None),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.state {
            BodyState::Inner { inner, .. } => inner.is_end_stream(),
            BodyState::Empty => true,
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.state {
            BodyState::Inner { inner, .. } => inner.size_hint(),
            BodyState::Empty => SizeHint::with_exact(0),
        }
    }
}

impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            state: BodyState::Empty,
        }
    }
}

impl<B> From<B> for ResponseBody<B> {
    fn from(inner: B) -> Self {
        Self::new(inner, uncounted())
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let empty = matches!(self.state, BodyState::Empty);
        f.debug_struct("ResponseBody")
            .field("empty", &empty)
            .finish_non_exhaustive()
    }
}
