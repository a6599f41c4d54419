//! The HTTP service that counts and refuses.
//!
//! # What it costs
//!
//! The instructions that the layer adds to a request, by callgrind, where each step of a request is
//! a function of its own and the service is cloned for each request. (`benches/overhead/run` counts
//! the whole in another such shape.)
//!
//! | step | added | for |
//! |---|--:|---|
//! | `poll_ready` and `call` | 45 | entering: a thread-local, a load, a compare-exchange; whether there is capacity and requests are listed; the version and method of the request; a call, so that the request is copied only once |
//! | polling the future | 62 | whether the drain has begun, before and after; taking the token; a copy of the response's head, by way of its parts |
//! | polling the body to its end | 3 | whether it is the empty one of a refusal |
//! | clone and drops | 32 | the clone, the drops, leaving |
//!
//! That is 142 in all. Two of these are locked, on a line of the thread's own. tower-http's layer
//! adds 135, 6 of them locked. A prototype that does not wait for capacity, lists no requests and
//! needs a body with `Default` adds 114.
//!
//! A POST pays 90 more, and 180 if it has a content type, as it may be gRPC. A request that is
//! pending at its first poll pays 300 once, for a place in the list of those that the drain wakes.
//! Four of them are locked, and there is no allocation.
//!
//! Where the inner service's functions are not inlined, as in `benches/overhead`, the whole is
//! more: the future and the response are copied more often. Measured and not taken: a future
//! without the enum, `call` in one piece, and polling apart once the drain has begun.

use crate::{
    body::ResponseBody,
    capacity::Capacity,
    close::Closing,
    drain::{Drain, Stage, is_served, uncounted},
    future::{Admitted, ResponseFuture},
    layer::GracefulLayer,
    refusal::{AtDeadline, Exempt, NoExemptions, Refusal, Unavailable},
};
use http::{Method, Request, Response, header::UPGRADE};
use http_body::Body;
use std::{
    fmt,
    task::{Context, Poll},
};
use tower_layer::Layer;
use tower_service::Service;

/// Counts the requests of an HTTP service, and refuses new ones once draining; from
/// [`GracefulLayer`], which says what it does.
pub struct Graceful<S, R = Unavailable, E = NoExemptions, A = AtDeadline> {
    inner: S,
    layer: GracefulLayer<R, E, A>,
    capacity: Capacity,
}

impl<S> Graceful<S> {
    /// Wraps a service as [`drain.layer()`](Drain::layer) does.
    pub fn new(inner: S, drain: &Drain) -> Self {
        GracefulLayer::new(drain).layer(inner)
    }
}

impl<S, R: Clone, E: Clone, A: Clone> Layer<S> for GracefulLayer<R, E, A> {
    type Service = Graceful<S, R, E, A>;

    fn layer(&self, inner: S) -> Self::Service {
        Graceful {
            inner,
            layer: self.clone(),
            capacity: Capacity::default(),
        }
    }
}

impl<S, R, E, A> Graceful<S, R, E, A> {
    /// Returns the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, R, E, A, ReqBody, ResBody> Service<Request<ReqBody>> for Graceful<S, R, E, A>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    R: Refusal<ReqBody, ResBody>,
    E: Exempt<Request<ReqBody>>,
    A: Refusal<(), ResBody> + Clone,
    ResBody: Body,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, ResBody, A>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = self.inner.poll_ready(cx);
        self.capacity.poll(ready, &self.layer.handle, cx)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let is_exempt = self.layer.exempt.is_exempt(&request);
        let is_usual = self.capacity.is_there() && !is_exempt && !self.layer.reports_requests;
        let token = is_usual.then(|| self.layer.handle.enter()).flatten();
        match token {
            // Counted before the inner service is called, so that a panic there ends the count.
            Some(token) => {
                let closing = Closing::of(&request);
                let answer = self.layer.answer.clone();
                let admitted = Admitted::new(closing, token, answer);
                self.call_admitted(request, admitted)
            }
            None => self.call_closely(request, is_exempt),
        }
    }
}

impl<S, R, E, A> Graceful<S, R, E, A> {
    /// Calls the inner service for an admitted request.
    // In a function of its own: `call` then only passes the request on, and copies no part of it.
    #[inline(never)]
    fn call_admitted<ReqBody, ResBody>(
        &mut self,
        request: Request<ReqBody>,
        admitted: Admitted<A>,
    ) -> ResponseFuture<S::Future, ResBody, A>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    {
        ResponseFuture::admitted(self.inner.call(request), admitted)
    }

    /// Handles each call but the usual one.
    #[cold]
    #[inline(never)]
    fn call_closely<ReqBody, ResBody>(
        &mut self,
        request: Request<ReqBody>,
        is_exempt: bool,
    ) -> ResponseFuture<S::Future, ResBody, A>
    where
        S: Service<Request<ReqBody>, Response = Response<ResBody>>,
        R: Refusal<ReqBody, ResBody>,
        A: Refusal<(), ResBody> + Clone,
    {
        let mut closing = Closing::of(&request);
        let is_served = is_served(&self.layer.handle);
        let token = if !self.capacity.is_there() {
            None
        } else if is_exempt || is_served {
            Some(uncounted())
        } else {
            self.layer
                .handle
                .enter_closely(|| is_late_upgrade(&request))
        };
        let Some(mut token) = token else {
            self.layer.handle.count_refused();
            let answer = self.layer.refusal.refuse(&request);
            return ResponseFuture::refused(answer, closing);
        };
        if self.layer.reports_requests {
            token = token.listed(&request, None);
        }
        if !token.is_counted() && (is_served || self.layer.handle.stage() == Stage::Serving) {
            // The future has no way to the drain, so how the response closes its connection is
            // decided now.
            closing = Closing::NEVER;
        }
        let answer = self.layer.answer.clone();
        self.call_admitted(request, Admitted::new(closing, token, answer))
    }
}

/// Returns whether a request asks for a WebSocket or a tunnel. While draining it is refused, even if it
/// arrived in time: the drain is about to close what the request would open.
#[cold]
pub(crate) fn is_late_upgrade<B>(request: &Request<B>) -> bool {
    // A request that goes on with another version of HTTP is answered like any other.
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

/// Clones by hand: the clone of the inner service has not been asked whether it is ready.
impl<S: Clone, R: Clone, E: Clone, A: Clone> Clone for Graceful<S, R, E, A> {
    #[inline]
    fn clone(&self) -> Self {
        self.layer.layer(self.inner.clone())
    }
}

impl<S: fmt::Debug, R, E, A> fmt::Debug for Graceful<S, R, E, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Graceful")
            .field("inner", &self.inner)
            .field("phase", &self.layer.handle.stage().phase())
            .finish()
    }
}
