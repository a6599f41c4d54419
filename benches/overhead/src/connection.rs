//! Requests on an HTTP/1 connection of hyper, without a network: reads come from a constant, writes
//! go nowhere.

use bytes::Bytes;
use futures_util::{Stream, stream};
use http::{Request, Response};
use http_body::Body;
use hyper::{
    body::Incoming,
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use std::{
    convert::Infallible,
    error::Error,
    future::Future,
    io::{IoSlice, Result},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};
use tower::Service;
use tower_graceful::Drain;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost:8080\r\nAccept: */*\r\n\r\n";

/// Serves a connection as hyper does by itself.
#[inline(never)]
pub(crate) fn serve<S, B>(service: &S, requests: u64)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    drive(Client::new(requests), service, requests);
}

/// Serves a connection that a drain's listener has accepted.
#[inline(never)]
pub(crate) fn serve_listened<S, B>(service: &S, requests: u64)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let drain = Drain::new();
    let client = Ok::<_, Infallible>(TokioIo::new(Client::new(requests)));
    let mut incoming = pin!(drain.incoming(stream::iter([client])));
    let mut cx = Context::from_waker(Waker::noop());
    match incoming.as_mut().poll_next(&mut cx) {
        Poll::Ready(Some(Ok(io))) => drive(TokioIo::new(io), service, requests),
        _ => panic!("a connection is there"),
    }
}

fn drive<T, S, B>(io: T, service: &S, requests: u64)
where
    T: Read + Write + Unpin,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
{
    let service = TowerToHyperService::new(service.clone());
    let mut connection = pin!(http1::Builder::new().serve_connection(io, service));
    let mut cx = Context::from_waker(Waker::noop());
    // Pending: the client waits for a flush. So a connection that makes progress is polled at most
    // once for a request, and once for the end.
    for _ in 0..=requests + 1 {
        if let Poll::Ready(end) = connection.as_mut().poll(&mut cx) {
            return end.expect("the connection ends as the client ends it");
        }
    }
    panic!("the connection makes no progress");
}

/// Sends a request when the response to the one before was flushed, and at last the end.
struct Client {
    requests: u64,
    waits: bool,
}

impl Client {
    fn new(requests: u64) -> Self {
        Self {
            requests,
            waits: false,
        }
    }
}

impl Read for Client {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<Result<()>> {
        if self.waits {
            return Poll::Pending;
        }
        if let Some(left) = self.requests.checked_sub(1) {
            buffer.put_slice(REQUEST);
            self.requests = left;
            self.waits = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Write for Client {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        self.waits = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }
}
