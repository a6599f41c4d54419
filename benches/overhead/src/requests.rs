//! Requests without a server.
//!
//! Each step is a function that is not inlined. In a server the steps are apart: other code polls
//! the future, and yet other code polls the body. If the compiler inlines all of it into one loop,
//! it removes copies that every server makes. Then each layer seems cheaper than it is.

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use std::{
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use tower::Service;

type Sent = Request<Full<Bytes>>;

/// Clones the service for each request, as axum and hyper-util do.
#[inline(never)]
pub(crate) fn cloned<S, B>(service: &S, requests: u64)
where
    S: Service<Sent, Response = Response<B>> + Clone,
    B: Body,
{
    for _ in 0..requests {
        let mut service = clone(service);
        one(&mut service);
        discard(service);
    }
}

/// Calls one service for all requests.
#[inline(never)]
pub(crate) fn kept<S, B>(service: &mut S, requests: u64)
where
    S: Service<Sent, Response = Response<B>>,
    B: Body,
{
    for _ in 0..requests {
        one(service);
    }
}

#[inline(always)]
fn one<S, B>(service: &mut S)
where
    S: Service<Sent, Response = Response<B>>,
    B: Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    let request = make();
    ready(service, &mut cx);
    // In an `Option`, as hyper keeps them.
    let mut future = pin!(Some(call(service, request)));
    let polled = poll(future.as_mut(), &mut cx);
    end(future);
    let Poll::Ready(Ok(response)) = polled else {
        panic!("every stack answers at once");
    };
    let mut body = pin!(Some(send_head(response)));
    read(body.as_mut(), &mut cx);
    end(body);
}

#[inline(never)]
fn make() -> Sent {
    black_box(Request::new(Full::default()))
}

#[inline(never)]
fn clone<S: Clone>(service: &S) -> S {
    service.clone()
}

#[inline(never)]
fn ready<S: Service<Sent>>(service: &mut S, cx: &mut Context<'_>) {
    assert!(matches!(service.poll_ready(cx), Poll::Ready(Ok(()))));
}

#[inline(never)]
fn call<S: Service<Sent>>(service: &mut S, request: Sent) -> S::Future {
    service.call(request)
}

#[inline(never)]
fn poll<F: Future>(future: Pin<&mut Option<F>>, cx: &mut Context<'_>) -> Poll<F::Output> {
    let future = future.as_pin_mut().expect("not ended");
    future.poll(cx)
}

#[inline(never)]
fn send_head<B>(response: Response<B>) -> B {
    let (head, body) = response.into_parts();
    black_box(&head);
    body
}

#[inline(never)]
fn read<B: Body>(body: Pin<&mut Option<B>>, cx: &mut Context<'_>) {
    let mut body = body.as_pin_mut().expect("not ended");
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(cx) {
        black_box(frame.is_ok());
    }
}

/// Drops a future or a body where it is.
#[inline(never)]
fn end<T>(mut pinned: Pin<&mut Option<T>>) {
    pinned.set(None);
}

#[inline(never)]
fn discard<S>(service: S) {
    drop(service);
}
