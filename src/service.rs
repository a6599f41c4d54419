//! The service: counts or refuses.
//!
//! # What it costs
//!
//! By `benches/overhead/run` the layer adds 253 instructions to a request, two of them locked, on a line
//! of the thread's own: 30 are the counter with the simplest future and body around it. More than half of
//! the others are copies of the request, of the response and of the inner future. That harness inlines a
//! whole request into one loop; with each step in a function of its own, as in a server, the layer adds
//! 326, tower-http's layer 135, and a layer that has only one way to the inner service and no place for
//! a wait for capacity 114.

use crate::{
    body::ResponseBody,
    drain::{CounterHandle, Drain, Entry, InFlight, Label, Reached, Shared, Stage},
    future::{CallFuture, HttpState, ResponseFuture},
    layer::{Calls, Http},
    refusal::{Answer, Closing, Exempt, Refusal},
};
use http::{Method, Request, Response, header::UPGRADE};
use http_body::Body;
use std::{
    error::Error,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tower_service::Service;

/// A service whose requests are counted, and refused once draining; from
/// [`GracefulLayer`](crate::GracefulLayer), which says what it does.
///
/// It is a service over `http::Request` with any request body. With [`Calls`] it is one over any
/// request.
pub struct Graceful<S, M = Http> {
    inner: S,
    mode: M,
    handle: CounterHandle,
    /// Set while the inner service has no capacity: completes when the drain admits nothing more.
    /// [`call`](Service::call) must not reach the inner service then.
    saturated: Option<Reached>,
}

impl<S> Graceful<S> {
    /// The same as [`drain.layer()`](Drain::layer) around a service.
    pub fn new(inner: S, drain: &Drain) -> Self {
        Self::with(inner, Http::default(), drain.counter_handle())
    }
}

impl<S, M> Graceful<S, M> {
    pub(crate) fn with(inner: S, mode: M, handle: CounterHandle) -> Self {
        Self {
            inner,
            mode,
            handle,
            saturated: None,
        }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }

    #[inline]
    fn poll_capacity<Req>(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>>
    where
        S: Service<Req>,
    {
        match self.inner.poll_ready(cx) {
            Poll::Pending => self.poll_drain(cx).map(Ok),
            ready => {
                self.saturated = None;
                ready
            }
        }
    }

    /// Completes once the drain admits no request: a refusal needs no capacity of the inner service.
    ///
    /// Until then a caller goes on waiting for capacity. Where connections are known, that is longer
    /// than until [`Phase::Draining`](crate::Phase::Draining), and what gets capacity meanwhile is
    /// served.
    #[cold]
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if is_counted(&self.handle) {
            return Poll::Pending;
        }
        if self.saturated.is_none() {
            // A drain that was dropped before it began never refuses.
            self.saturated = self
                .handle
                .owner()
                .map(|shared| Reached::stage(shared, Stage::Draining));
        }
        if self.handle.stage() >= Stage::Draining {
            return Poll::Ready(());
        }
        match &mut self.saturated {
            Some(draining) => Pin::new(draining).poll(cx),
            None => Poll::Pending,
        }
    }

    /// Whether the inner service may be called. It may not if [`poll_drain`](Self::poll_drain), and
    /// not the inner service itself, has made this one ready.
    #[inline]
    fn has_capacity(&self) -> bool {
        self.saturated.is_none()
    }
}

impl<S, R, E, N, ReqBody, ResBody> Service<Request<ReqBody>> for Graceful<S, Http<R, E, N>>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    R: Refusal<ReqBody, ResBody>,
    E: Exempt<Request<ReqBody>>,
    N: Label,
    ResBody: Body,
{
    type Response = Response<ResponseBody<ResBody, N>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody, N>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.poll_capacity(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let mut closing = Closing::of(&request);
        // One way to the inner service, written out in place: with several, and by way of a
        // constructor, the request and the inner future are copied once more.
        let in_flight = match self.admit(&request) {
            // Entered before the inner service is called: a panic there leaves again.
            Entry::Counted(token) => Some(InFlight::new(token, |token| N::of(&request, token))),
            Entry::Uncounted => {
                // Nothing of the drain goes with it, so how it closes is decided now.
                if is_counted(&self.handle) || self.handle.stage() == Stage::Serving {
                    closing = Closing::Never;
                }
                None
            }
            Entry::Refused => {
                return ResponseFuture {
                    state: HttpState::Refused {
                        answer: Some(self.refuse(&request)),
                        closing,
                    },
                };
            }
        };
        ResponseFuture {
            state: HttpState::Admitted {
                inner: self.inner.call(request),
                closing,
                in_flight,
            },
        }
    }
}

impl<S, R, E, N> Graceful<S, Http<R, E, N>> {
    #[inline]
    fn admit<B>(&self, request: &Request<B>) -> Entry<Shared>
    where
        E: Exempt<Request<B>>,
    {
        match self.has_capacity() {
            true if is_counted(&self.handle) || self.mode.exempt.is_exempt(request) => {
                Entry::Uncounted
            }
            true => enter(&self.handle, request),
            false => Entry::Refused,
        }
    }
}

impl<S, R, E, N> Graceful<S, Http<R, E, N>> {
    #[cold]
    fn refuse<ReqBody, ResBody>(&self, request: &Request<ReqBody>) -> Answer<ResBody>
    where
        R: Refusal<ReqBody, ResBody>,
    {
        self.handle.count_refused();
        self.mode.refusal.refuse(request)
    }
}

impl<S, E, Req> Service<Req> for Graceful<S, Calls<E>>
where
    S: Service<Req, Error: Into<Box<dyn Error + Send + Sync>>>,
    E: Exempt<Req>,
{
    type Response = S::Response;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = CallFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.poll_capacity(cx).map_err(Into::into)
    }

    #[inline]
    fn call(&mut self, request: Req) -> Self::Future {
        if self.mode.exempt.is_exempt(&request) && self.has_capacity() {
            return CallFuture::admitted(self.inner.call(request), None);
        }
        let entry = match self.has_capacity() {
            true => match self.handle.enter() {
                Some(token) => Entry::Counted(token),
                None => self.handle.enter_draining(|| false),
            },
            false => Entry::Refused,
        };
        match entry {
            Entry::Counted(token) => {
                let in_flight = InFlight::new(token, |_| ());
                CallFuture::admitted(self.inner.call(request), Some(in_flight))
            }
            Entry::Uncounted => CallFuture::admitted(self.inner.call(request), None),
            Entry::Refused => {
                self.handle.count_refused();
                CallFuture::refused()
            }
        }
    }
}

/// Whether the request that this thread is polling is counted already, by `serve` with the same drain.
#[inline]
fn is_counted(handle: &CounterHandle) -> bool {
    #[cfg(feature = "server")]
    return crate::drain::is_current(handle);
    #[cfg(not(feature = "server"))]
    {
        let _ = handle;
        false
    }
}

/// Counts a request in or refuses it.
#[inline]
pub(crate) fn enter<B>(handle: &CounterHandle, request: &Request<B>) -> Entry<Shared> {
    match handle.enter() {
        Some(token) => Entry::Counted(token),
        None => handle.enter_draining(|| is_late_upgrade(request)),
    }
}

/// Requests that arrived in time are served while draining. But one that opens a WebSocket or a
/// tunnel would open what is about to be closed.
#[cold]
pub(crate) fn is_late_upgrade<B>(request: &Request<B>) -> bool {
    // What goes on with another HTTP is answered like any other request.
    let leaves_http = |protocol: &str| {
        let protocol = protocol.trim().to_ascii_lowercase();
        !(protocol == "h2c" || protocol.starts_with("http/") || protocol.starts_with("tls/"))
    };
    let mut upgrades = request.headers().get_all(UPGRADE).iter();
    request.method() == Method::CONNECT
        || upgrades.any(|value| {
            let protocols = value.to_str().unwrap_or_default();
            protocols.split(',').any(leaves_http)
        })
}

/// By hand: a clone has not been asked whether it is ready.
impl<S: Clone, M: Clone> Clone for Graceful<S, M> {
    #[inline]
    fn clone(&self) -> Self {
        Self::with(self.inner.clone(), self.mode.clone(), self.handle)
    }
}

impl<S: fmt::Debug, M> fmt::Debug for Graceful<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graceful")
            .field("inner", &self.inner)
            .field("phase", &self.handle.stage().phase())
            .finish()
    }
}
