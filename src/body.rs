//! Response bodies that are counted until they are dropped.

use crate::drain::InFlight;
use bytes::Buf;
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
        // `None` is empty.
        #[pin]
        inner: Option<B>,
        // Last, so that the body is dropped before the count ends.
        in_flight: Option<InFlight>,
    }
}

impl<B> ResponseBody<B> {
    #[inline]
    pub(crate) fn new(inner: B, in_flight: Option<InFlight>) -> Self {
        Self {
            inner: Some(inner),
            in_flight,
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
        let this = self.project();
        match (this.inner.as_pin_mut(), this.in_flight) {
            (Some(inner), Some(in_flight)) if in_flight.is_listed() => {
                poll_counting(inner, in_flight, cx)
            }
            (Some(inner), _) => inner.poll_frame(cx),
            (None, _) => Poll::Ready(None),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(B::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let inner = self.inner.as_ref();
        inner.map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}

/// Polls the body of a listed request and counts the bytes. Apart, because looking at a frame costs a
/// copy of it.
#[cold]
#[inline(never)]
fn poll_counting<B: Body>(
    inner: Pin<&mut B>,
    in_flight: &InFlight,
    cx: &mut Context<'_>,
) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
    let frame = inner.poll_frame(cx);
    if let Poll::Ready(Some(Ok(frame))) = &frame {
        in_flight.sent(frame.data_ref().map_or(0, Buf::remaining));
    }
    frame
}

impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self {
            inner: None,
            in_flight: None,
        }
    }
}

impl<B> From<B> for ResponseBody<B> {
    fn from(inner: B) -> Self {
        Self::new(inner, None)
    }
}

impl<B> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("in_flight", &self.in_flight.is_some())
            .finish_non_exhaustive()
    }
}
