use crate::drain::{Drain, Phase};
use bytes::Bytes;
use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body::{Body, Frame, SizeHint};
use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    task::{Context, Poll},
};
use tower_service::Service;

/// Answers `/readyz`: 200 `ready` while [`Phase::Serving`], 503 `draining` from
/// [`Phase::LameDuck`] on; from [`Drain::readiness`].
///
/// Put it where a [`GracefulLayer`](crate::GracefulLayer) does not count or refuse it: outside of
/// the layer, or [exempt](crate::GracefulLayer::exempt).
///
/// Liveness is another question, and a drain does not change its answer: a server that drains is
/// alive, and to restart it would lose what it drains.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_graceful::Drain;
///
/// let drain = Drain::new();
/// let app: Router = Router::new()
///     .route("/", get("hello"))
///     .layer(drain.layer())
///     .route_service("/readyz", drain.readiness());
/// ```
#[derive(Clone, Debug)]
pub struct Readiness {
    drain: Drain,
}

impl Readiness {
    pub(crate) fn new(drain: Drain) -> Self {
        Self { drain }
    }
}

impl<B> Service<Request<B>> for Readiness {
    type Response = Response<ReadinessBody>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<B>) -> Self::Future {
        let (status, text) = match self.drain.phase() {
            Phase::Serving => (StatusCode::OK, "ready\n"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        };
        let mut response = Response::new(ReadinessBody(Some(Bytes::from_static(text.as_bytes()))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        // An answer of a moment ago is worth nothing.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        ready(Ok(response))
    }
}

/// The body of [`Readiness`]'s answer: one word.
#[derive(Debug)]
pub struct ReadinessBody(Option<Bytes>);

impl Body for ReadinessBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|text| Ok(Frame::data(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |text| text.len() as u64))
    }
}
