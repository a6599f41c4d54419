//! Response bodies that are counted until they are dropped.

use crate::drain::{InFlight, Label};
use bytes::Buf;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

pin_project! {
    /// The body of a response from [`Graceful`](crate::Graceful): the inner service's, whose drop
    /// is the end of its request. A refusal's body is empty, unless it was given one.
    ///
    /// Frames, trailers, errors, size hint and end pass through as they are.
    ///
    /// [`Default`] is an empty body and [`From`] one that is not counted, for middleware outside
    /// that wants to answer by itself.
    #[must_use = "dropping a body ends its request"]
    pub struct ResponseBody<B, N = ()> {
        #[pin]
        inner: Option<B>,
        // Last, so that the body is dropped before its request is said to have ended.
        in_flight: Option<InFlight<N>>,
    }
}

impl<B, N> ResponseBody<B, N> {
    #[inline]
    pub(crate) fn new(inner: B, in_flight: Option<InFlight<N>>) -> Self {
        Self {
            inner: Some(inner),
            in_flight,
        }
    }
}

impl<B> ResponseBody<B> {
    /// A refusal's, where others have names. It is counted if it is another layer's.
    pub(crate) fn renamed<N: Label>(self) -> ResponseBody<B, N> {
        ResponseBody {
            inner: self.inner,
            in_flight: self.in_flight.map(InFlight::renamed),
        }
    }
}

impl<B: Body, N: Label> Body for ResponseBody<B, N> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = self.project();
        let Some(inner) = this.inner.as_pin_mut() else {
            return Poll::Ready(None);
        };
        let frame = inner.poll_frame(cx);
        if N::NAMES {
            if let (Poll::Ready(Some(Ok(frame))), Some(in_flight)) = (&frame, &*this.in_flight) {
                let bytes = frame.data_ref().map_or(0, Buf::remaining);
                in_flight.sent(bytes);
            }
        }
        frame
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(B::is_end_stream)
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}

impl<B, N> Default for ResponseBody<B, N> {
    fn default() -> Self {
        Self {
            inner: None,
            in_flight: None,
        }
    }
}

impl<B, N> From<B> for ResponseBody<B, N> {
    fn from(inner: B) -> Self {
        Self {
            inner: Some(inner),
            in_flight: None,
        }
    }
}

impl<B, N> fmt::Debug for ResponseBody<B, N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody")
            .field("in_flight", &self.in_flight.is_some())
            .finish_non_exhaustive()
    }
}
