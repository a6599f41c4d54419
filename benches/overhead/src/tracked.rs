//! A request counter by hand, on tokio-util's `TaskTracker`.

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

#[derive(Clone, Debug, Default)]
pub struct TrackLayer(TaskTracker);

impl<S> Layer<S> for TrackLayer {
    type Service = Track<S>;

    fn layer(&self, inner: S) -> Track<S> {
        Track(inner, self.0.clone())
    }
}

#[derive(Clone, Debug)]
pub struct Track<S>(S, TaskTracker);

impl<S, Q, B> Service<Request<Q>> for Track<S>
where
    S: Service<Request<Q>, Response = Response<B>>,
{
    type Response = Response<TrackBody<B>>;
    type Error = S::Error;
    type Future = TrackFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let token = Some(self.1.token());
        TrackFuture {
            inner: self.0.call(request),
            token,
        }
    }
}

pin_project! {
    pub struct TrackFuture<F> {
        #[pin]
        inner: F,
        token: Option<TaskTrackerToken>,
    }
}

impl<F, B, E> Future for TrackFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<TrackBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let token = this.token.take();
        Poll::Ready(Ok(response.map(|inner| TrackBody { inner, token })))
    }
}

pin_project! {
    pub struct TrackBody<B> {
        #[pin]
        inner: B,
        token: Option<TaskTrackerToken>,
    }
}

impl<B: Body> Body for TrackBody<B> {
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
