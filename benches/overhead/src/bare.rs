use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::Pin,
    task::{Context, Poll},
};
use tower::Service;

/// The service in every layer: always ready, answers at once with a body of one frame.
///
/// Its functions are not inlined. In an application the layer calls a router or a boxed service,
/// and the compiler does not see both together.
#[derive(Clone, Copy)]
pub(crate) struct Bare;

/// Holds the request, as the future of an `async` handler does.
pub(crate) struct Handler<B>(Option<Request<B>>);

impl<B> Service<Request<B>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Handler<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    #[inline(never)]
    fn call(&mut self, request: Request<B>) -> Handler<B> {
        Handler(Some(request))
    }
}

impl<B> Unpin for Handler<B> {}

impl<B> Future for Handler<B> {
    type Output = Result<Response<Full<Bytes>>, Infallible>;

    #[inline(never)]
    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        let request = self.0.take().expect("polled once");
        Poll::Ready(Ok(respond(request)))
    }
}

#[inline(never)]
fn respond<B>(request: Request<B>) -> Response<Full<Bytes>> {
    black_box(&request);
    Response::new(Full::new(Bytes::from_static(black_box(b"Hello, World!"))))
}
