use crate::{
    drain::{CounterHandle, Drain, Fact, Shared},
    refusal::{AtDeadline, NoExemptions, Unavailable},
};
use std::fmt;

impl Drain {
    /// Returns a layer that counts the requests of an HTTP service, and refuses new ones once
    /// draining.
    ///
    /// For other services there is [`call_layer`](Self::call_layer).
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_graceful::Drain;
    ///
    /// let drain = Drain::new();
    /// let app: Router = Router::new()
    ///     .route("/", get("hello"))
    ///     .layer(drain.layer());
    /// ```
    pub fn layer(&self) -> GracefulLayer {
        GracefulLayer::new(self)
    }
}

/// Counts the requests of an HTTP service, and refuses new ones once draining; from
/// [`Drain::layer`].
///
/// # What it does
///
/// | phase | a new request |
/// |---|---|
/// | [`Serving`](crate::Phase::Serving) | is counted, from its call until its response body is dropped |
/// | [`LameDuck`](crate::Phase::LameDuck) | is counted, and a final HTTP/1 response carries `Connection: close` |
/// | from [`Draining`](crate::Phase::Draining) on | is answered with a refusal and never reaches the inner service |
///
/// Each request that is not [exempt](Self::exempt) is either counted or refused: never neither and
/// never both, even if it comes at the same time as the signal. A refusal is an answer in the
/// protocol of its request: by default a 503 with `Retry-After` and `Connection: close`, or gRPC's
/// UNAVAILABLE ([`Unavailable`]).
///
/// If the drain also counts connections, a request that arrived on one of them in time is still
/// served while draining; see [`Drain::shutdown_signal`]. The exceptions are CONNECT and requests
/// for an upgrade: they would open a tunnel that the drain is about to close.
///
/// When the drain is [`Forced`](crate::Phase::Forced), a request whose response has not begun is
/// [answered](Self::answer_at_deadline) with a 503.
///
/// A count ends once: when the response body is dropped, when the response future is dropped, at an
/// error of the service, or at a panic. A server drops a body at its end, once it is buffered.
///
/// # What it does not
///
/// The layer sees requests, not connections. Its count falls to 0 when the *server* has the last
/// byte, not when the client has it. It aborts no connection. It does not see a request that its
/// server never reads, nor a WebSocket after its upgrade. For these, add the drain's listener
/// (`Drain::listener`, feature `net`), or at least the server's own graceful shutdown, with
/// [`Drain::shutdown_signal`].
///
/// # Where to put it
///
/// Put it outside of layers that may hold a request back (`Timeout`, `ConcurrencyLimit`, `Buffer`):
/// then waiting requests are refused in time. Put it inside of layers that look at responses
/// (`Trace`): then refusals are logged like other responses.
///
/// `poll_ready` is the inner service's, with one exception: once the drain admits nothing more, the
/// layer is ready, because a refusal needs no capacity.
///
/// A request that waits for capacity has not been called, so it is not counted. If the inner
/// service becomes ready while the drain still admits requests, the request is served, otherwise it
/// is refused. The same holds for requests in a `Buffer` outside of the layer. The layer never
/// calls an inner service that is not ready. To have waiting requests counted and served, put a
/// `Buffer` between the layer and the limit, or use `serve`, which counts a request before it
/// waits. tonic's own limits (`Server::timeout`, `concurrency_limit_per_connection`, `load_shed`)
/// are outside of all layers that `Server::layer` gets.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_graceful::{Drain, GracefulLayer};
///
/// let drain = Drain::new();
/// let one = ServiceBuilder::new().layer(GracefulLayer::new(&drain));
/// let same = ServiceBuilder::new().layer(drain.layer());
/// ```
///
/// # Applied twice
///
/// Inside another layer of the same drain, a layer counts each request a second time in the
/// figures. The request is still served once or refused once.
///
/// Under `serve` with the same drain, a layer counts, refuses and answers nothing, because `serve`
/// has counted the request. So its [`report_requests`](Self::report_requests) lists nothing: use
/// `Serve::report_requests`. A middleware between `serve` and such a layer may spawn the future of
/// the inner call and let it outlive its client. The layer does not make the drain wait for that
/// future. (A `Buffer` between the two calls the layer from a task of its own. There the layer
/// counts the request again.)
#[derive(Clone)]
#[must_use = "a layer does nothing until it is given a service"]
pub struct GracefulLayer<R = Unavailable, E = NoExemptions, A = AtDeadline> {
    pub(crate) handle: CounterHandle<Shared>,
    pub(crate) refusal: R,
    pub(crate) exempt: E,
    pub(crate) answer: A,
    pub(crate) reports_requests: bool,
}

impl GracefulLayer {
    /// Returns the same layer as [`Drain::layer`].
    pub fn new(drain: &Drain) -> Self {
        Self {
            handle: drain.layer_handle(Fact::HttpLayer),
            refusal: Unavailable::new(),
            exempt: NoExemptions,
            answer: AtDeadline,
            reports_requests: false,
        }
    }
}

impl<R, E, A> GracefulLayer<R, E, A> {
    /// Replaces the default refusal, [`Unavailable`]: another status, other headers, a body.
    /// `Connection: close` is added where it belongs.
    ///
    /// Takes an [`Unavailable`] with other values, a closure from `&Request<_>` to a response of
    /// the inner service's kind, or your own [`Refusal`](crate::refusal::Refusal). It is cloned
    /// with the service, in most servers for each request: make the clone cheap.
    ///
    /// ```
    /// use axum::{Router, extract::Request, http::StatusCode, response::IntoResponse, routing::get};
    /// use tower_graceful::Drain;
    ///
    /// let drain = Drain::new();
    /// let app: Router = Router::new()
    ///     .route("/", get("hello"))
    ///     .layer(drain.layer().refuse_with(|_: &Request| {
    ///         (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")], "back soon").into_response()
    ///     }));
    /// ```
    pub fn refuse_with<T>(self, refusal: T) -> GracefulLayer<T, E, A> {
        GracefulLayer {
            handle: self.handle,
            refusal,
            exempt: self.exempt,
            answer: self.answer,
            reports_requests: self.reports_requests,
        }
    }

    /// Replaces the answer to a request whose response has not begun when the drain is forced, or
    /// switches it off. Default: [`AtDeadline`].
    ///
    /// At the deadline (or a second signal, or [`Drain::force`]) the layer drops the future of the
    /// handler and answers with 503 Service Unavailable, over HTTP/1 with `Connection: close`.
    /// gRPC clients take it for UNAVAILABLE. There is no `Retry-After`: nobody knows whether the
    /// request was executed. A client may repeat it only if that is safe.
    ///
    /// Where the drain knows the connections, the answers are written before it cuts them, within
    /// the 500 ms after the deadline. A response that has begun is cut. A handler that blocks its
    /// thread is not polled, so its request is cut, too, and so is an exempt one. The drain has
    /// failed in any case: a [report](crate::report::Report::answered_at_deadline) counts these
    /// requests apart.
    ///
    /// Takes a closure from `&Request<()>` to a response of the inner service's kind, or your own
    /// [`Refusal`](crate::refusal::Refusal). The request has gone to the handler: the closure sees
    /// only its version. It is cloned for each request: make the clone cheap.
    /// [`NoAnswer`](crate::refusal::NoAnswer) switches the answer off.
    ///
    /// ```
    /// use axum::{Router, http::{Request, StatusCode}, response::IntoResponse, routing::get};
    /// use tower_graceful::{Drain, refusal::NoAnswer};
    ///
    /// let drain = Drain::new();
    /// let app: Router = Router::new()
    ///     .route("/", get("hello"))
    ///     .layer(drain.layer().answer_at_deadline(|_: &Request<()>| {
    ///         (StatusCode::GATEWAY_TIMEOUT, "the server had to stop").into_response()
    ///     }));
    ///
    /// // Cuts these requests like all others.
    /// let layer = drain.layer().answer_at_deadline(NoAnswer);
    /// ```
    pub fn answer_at_deadline<T>(self, answer: T) -> GracefulLayer<R, E, T> {
        GracefulLayer {
            handle: self.handle,
            refusal: self.refusal,
            exempt: self.exempt,
            answer,
            reports_requests: self.reports_requests,
        }
    }

    /// Exempts the requests for which `exempt` returns true: they are neither refused nor counted.
    ///
    /// Use it for health probes and metrics.
    ///
    /// They still need the inner service's capacity: if it has none during the drain, they are
    /// refused with the others. A probe that has to be answered in any case is better routed around
    /// the layer, as [`Readiness`](crate::probe::Readiness) shows.
    ///
    /// ```
    /// use tower_graceful::Drain;
    /// # type Body = http_body_util::Empty<bytes::Bytes>;
    ///
    /// let drain = Drain::new();
    /// let layer = drain
    ///     .layer()
    ///     .exempt(|request: &http::Request<Body>| request.uri().path() == "/healthz");
    /// ```
    pub fn exempt<T>(self, exempt: T) -> GracefulLayer<R, T, A> {
        GracefulLayer {
            handle: self.handle,
            refusal: self.refusal,
            exempt,
            answer: self.answer,
            reports_requests: self.reports_requests,
        }
    }

    /// Lists each request in flight in [reports](Drain::report): its method, path, peer, age, and
    /// whether its response has begun.
    ///
    /// Without this, a report has only the number of requests. With it, a request costs an
    /// entry in a list. It is added, marked when its response begins, and removed, each
    /// under the lock of one of 16 shards; `benches/overhead/run` shows both. The process keeps up
    /// to 400 bytes for each request that was listed at the busiest moment.
    ///
    /// The peer is known where tonic's server puts it into the request (feature `tonic`), or axum's
    /// `ConnectInfo<SocketAddr>` (feature `axum`: `into_make_service_with_connect_info`, over
    /// `drain.listener(tcp).tap_io(|_| {})`).
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_graceful::Drain;
    ///
    /// let drain = Drain::new();
    /// let app: Router = Router::new()
    ///     .route("/", get("hello"))
    ///     .layer(drain.layer().report_requests());
    /// ```
    pub fn report_requests(mut self) -> Self {
        self.reports_requests = true;
        self
    }
}

impl<R, E, A> fmt::Debug for GracefulLayer<R, E, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GracefulLayer")
            .field("phase", &self.handle.stage().phase())
            .finish()
    }
}
