//! The layer that one would write by hand around a count: enters with the call, leaves with the
//! end of the response body. What counts is exchangeable.

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tower::{Layer, Service};

/// Cloned with the service, for each request.
pub(crate) trait Count: Clone {
    /// Leaves when it is dropped.
    type Guard;

    /// `None` if the count is closed. Then the request is let through uncounted: none of the
    /// measurements closes a count, and what is measured is the check.
    fn enter(&self) -> Option<Self::Guard>;
}

impl Count for TaskTracker {
    type Guard = TaskTrackerToken;

    #[inline]
    fn enter(&self) -> Option<TaskTrackerToken> {
        Some(self.token())
    }
}

pub(crate) struct CountLayer<C>(C);

impl<C> CountLayer<C> {
    pub(crate) fn new(count: C) -> Self {
        Self(count)
    }
}

impl<C: Count, S> Layer<S> for CountLayer<C> {
    type Service = Counted<C, S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted {
            inner,
            count: self.0.clone(),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Counted<C, S> {
    inner: S,
    count: C,
}

impl<C, S, Q, B> Service<Request<Q>> for Counted<C, S>
where
    C: Count,
    S: Service<Request<Q>, Response = Response<B>>,
{
    type Response = Response<CountedBody<C::Guard, B>>;
    type Error = S::Error;
    type Future = CountedFuture<C::Guard, S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let guard = self.count.enter();
        CountedFuture {
            inner: self.inner.call(request),
            guard,
        }
    }
}

pin_project! {
    pub(crate) struct CountedFuture<G, F> {
        #[pin]
        inner: F,
        guard: Option<G>,
    }
}

impl<G, F, B, E> Future for CountedFuture<G, F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<CountedBody<G, B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let guard = this.guard.take();
        Poll::Ready(Ok(response.map(|inner| CountedBody { inner, guard })))
    }
}

pin_project! {
    pub(crate) struct CountedBody<G, B> {
        #[pin]
        inner: B,
        guard: Option<G>,
    }
}

impl<G, B: Body> Body for CountedBody<G, B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().inner.poll_frame(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
