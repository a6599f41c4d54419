//! The stacks that are compared, and the one thing that is done with each: a request, from the
//! clone of the service to the end of the response body, as hyper-util and axum do it.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
};
use tower::{Layer, Service};
use tower_graceful::Drain;

mod tracked;
pub use tracked::TrackLayer;

/// What every stack wraps: answers at once, with a body of one frame.
#[derive(Clone, Copy, Debug)]
pub struct Bare;

impl Service<Request<Full<Bytes>>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Answer;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<Full<Bytes>>) -> Self::Future {
        black_box(&request);
        Answer
    }
}

pub struct Answer;
impl Future for Answer {
    type Output = Result<Response<Full<Bytes>>, Infallible>;
    #[inline(never)]
    fn poll(self: std::pin::Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
    }
}

/// A stack, set up once and then called.
pub trait Stack: Send + Sync {
    /// One request, start to end, as hyper-util calls a tower service: a clone, `oneshot`.
    fn request(&self);
}

impl<S, B> Stack for TowerToHyperService<S>
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>> + Clone + Send + Sync,
    B: Body<Data = Bytes>,
{
    #[inline]
    fn request(&self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut future = pin!(self.call(Request::new(Full::default())));
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
            panic!("none of the stacks makes wait");
        };
        let mut body = pin!(response.into_body());
        while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
            black_box(frame.is_data());
        }
    }
}

fn stack<S>(service: S) -> TowerToHyperService<S> {
    TowerToHyperService::new(service)
}

pub fn bare() -> impl Stack {
    stack(Bare)
}

/// tower-http's `InFlightRequestsLayer`: counts to the end of the body, does not refuse.
pub fn in_flight() -> impl Stack {
    let (layer, counter) = tower_http::metrics::InFlightRequestsLayer::pair();
    std::mem::forget(counter);
    stack(layer.layer(Bare))
}

/// tower's `ConcurrencyLimit`, never reached: counts to the end of the future.
pub fn limit() -> impl Stack {
    stack(tower::limit::ConcurrencyLimitLayer::new(1 << 20).layer(Bare))
}

/// tokio-util's `TaskTracker` tokens, in the layer that one would write by hand.
pub fn tracker() -> impl Stack {
    stack(TrackLayer::default().layer(Bare))
}

/// Ours, while nobody shuts down.
pub fn serving() -> impl Stack {
    stack(Drain::new().layer().layer(Bare))
}

/// Ours, while the drain goes on: every request is refused.
pub fn refusing() -> impl Stack {
    let drain = Drain::new();
    std::mem::forget(drain.guard());
    drain.begin();
    stack(drain.layer().layer(Bare))
}
