use crate::{
    drain::{CounterHandle, Drain, RequestName},
    refusal::{NoneExempt, Unavailable},
    service::Graceful,
};
use std::{fmt, marker::PhantomData};
use tower_layer::Layer;

/// Counts requests and refuses new ones once draining; from [`Drain::layer`], or for services that
/// are not HTTP from [`Drain::call_layer`].
///
/// # What it does
///
/// | phase | a new request |
/// |---|---|
/// | [`Serving`](crate::Phase::Serving) | is counted, from its call to the end of its response body |
/// | [`LameDuck`](crate::Phase::LameDuck) | likewise, and an HTTP/1 response that is final carries `Connection: close` |
/// | from [`Draining`](crate::Phase::Draining) on | is answered with a refusal and never reaches the inner service |
///
/// Where the drain knows connections, those on them that arrived in time are still served while
/// draining: see [`Drain::shutdown_signal`]. But one that asks for an upgrade, or a CONNECT, is
/// refused even then: it would open what is about to be closed.
///
/// A count ends once, with the drop of the response body, or of the response future, or at an error of
/// the service or a panic. A server drops a body at its end, when it is buffered.
///
/// # What it does not
///
/// It sees requests, not connections. Its count falls to 0 when the *server* has the last byte,
/// not when the client has; a request whose connection the server closes before it was read never
/// comes here; nor does a WebSocket, once upgraded. That takes the drain's listener next to it
/// (`Drain::listener`, feature `net`), or at least the server's own graceful shutdown, as in
/// [`Drain::run`].
///
/// # Where to put it
///
/// Outside of what may hold a request back (`Timeout`, `ConcurrencyLimit`, `Buffer`), so that
/// requests that wait are refused in time, not kept waiting; inside of what looks at responses
/// (`Trace`), so that a refusal is logged like any other. `poll_ready` is the inner service's,
/// except that the drain makes it ready once it admits nothing more: a refusal needs no capacity.
///
/// A request that waits for capacity has not been called and is not counted. If capacity comes while
/// the drain still admits requests, it is served, else it is refused; the same holds for what waits in
/// a `Buffer` outside of the layer. An inner service is never called before it has said that it is
/// ready. To have waiting requests counted and served, put a `Buffer` between the layer and the limit,
/// or use `serve`, which counts a request before it waits. tonic's own limits (`Server::timeout`,
/// `concurrency_limit_per_connection`, `load_shed`) are outside of all that `Server::layer` gets.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_graceful::{Drain, GracefulLayer};
///
/// let drain = Drain::new();
/// let same = ServiceBuilder::new().layer(GracefulLayer::new(&drain));
/// let same = ServiceBuilder::new().layer(drain.layer());
/// ```
///
/// # Applied twice
///
/// Nested in another layer of the same drain, by mistake say, a layer counts each request a second
/// time in the figures. The request is still served once or refused once.
///
/// Under `serve` with the same drain, a layer counts and refuses nothing, because `serve` has
/// counted the request. So its [`name_requests`](Self::name_requests) lists nothing: use
/// `Serve::name_requests`. A middleware between `serve` and such a layer may spawn the future of
/// the inner call and let it outlive its client. The layer does not make the drain wait for that
/// future. (A `Buffer` between the two calls the layer from a task of its own. There the layer
/// counts the request again.)
#[derive(Clone)]
#[must_use = "a layer does nothing until it is given a service"]
pub struct GracefulLayer<M = Http> {
    handle: CounterHandle,
    mode: M,
}

/// How a [`Graceful`] treats HTTP requests: `R` makes the [refusal](crate::refusal::Refusal), `E`
/// says which requests are [exempt](crate::refusal::Exempt), and `N` is what they are known by: nothing,
/// or their [name](RequestName).
#[derive(Debug)]
pub struct Http<R = Unavailable, E = NoneExempt, N = ()> {
    pub(crate) refusal: R,
    pub(crate) exempt: E,
    naming: PhantomData<fn() -> N>,
}

/// By hand: there is no `N` in it.
impl<R: Clone, E: Clone, N> Clone for Http<R, E, N> {
    #[inline]
    fn clone(&self) -> Self {
        Self {
            refusal: self.refusal.clone(),
            exempt: self.exempt.clone(),
            naming: PhantomData,
        }
    }
}

/// Likewise.
impl<R: Copy, E: Copy, N> Copy for Http<R, E, N> {}

impl<R: Default, E: Default> Default for Http<R, E> {
    fn default() -> Self {
        Self {
            refusal: R::default(),
            exempt: E::default(),
            naming: PhantomData,
        }
    }
}

/// How a [`Graceful`] treats calls of any other kind: `E` says which are exempt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Calls<E = NoneExempt> {
    pub(crate) exempt: E,
}

impl GracefulLayer {
    /// For HTTP services; the same as [`Drain::layer`].
    pub fn new(drain: &Drain) -> Self {
        Self {
            handle: drain.counter_handle(),
            mode: Http::default(),
        }
    }
}

impl GracefulLayer<Calls> {
    /// For any other service; the same as [`Drain::call_layer`].
    pub fn for_calls(drain: &Drain) -> Self {
        Self {
            handle: drain.counter_handle(),
            mode: Calls::default(),
        }
    }
}

impl<R, E, N> GracefulLayer<Http<R, E, N>> {
    /// Answers in place of the default refusal, [`Unavailable`]: with another status, other
    /// headers, a body. `Connection: close` is added where it belongs.
    ///
    /// Takes an [`Unavailable`] with other values, a closure from `&Request<_>` to a response of
    /// the inner service's kind, or a [`Refusal`](crate::refusal::Refusal) of your own. It is
    /// cloned with the service, per request in most servers: make that cheap.
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
    pub fn refuse_with<T>(self, refusal: T) -> GracefulLayer<Http<T, E, N>> {
        self.with(|mode| (refusal, mode.exempt))
    }

    /// Requests for which this is true are neither refused nor counted: health probes, metrics.
    ///
    /// They still need the inner service's capacity: if that has none during the drain, they are
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
    pub fn exempt<T>(self, exempt: T) -> GracefulLayer<Http<R, T, N>> {
        self.with(|mode| (mode.refusal, exempt))
    }

    /// Keeps of each request in flight its method, its path, its peer, since when it is there and how
    /// many bytes of its response were sent: what a [report](Drain::report) names.
    ///
    /// Without this, requests are counted and nothing is kept, and nothing is paid for it: that is
    /// decided when the layer is built, by its type. With it, a request costs an allocation and an
    /// entry in a list, made and removed under a lock of one of sixteen shards; `benches/overhead/run` shows
    /// both.
    ///
    /// The peer is known where tonic's server says it (feature `tonic`), or axum's
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
    ///     .layer(drain.layer().name_requests());
    /// ```
    pub fn name_requests(self) -> GracefulLayer<Http<R, E, RequestName>> {
        self.with(|mode| (mode.refusal, mode.exempt))
    }

    fn with<S, F, M>(
        self,
        parts: impl FnOnce(Http<R, E, N>) -> (S, F),
    ) -> GracefulLayer<Http<S, F, M>> {
        let (refusal, exempt) = parts(self.mode);
        GracefulLayer {
            handle: self.handle,
            mode: Http {
                refusal,
                exempt,
                naming: PhantomData,
            },
        }
    }
}

impl<E> GracefulLayer<Calls<E>> {
    /// Calls for which this is true are neither refused nor counted.
    pub fn exempt<T>(self, exempt: T) -> GracefulLayer<Calls<T>> {
        GracefulLayer {
            handle: self.handle,
            mode: Calls { exempt },
        }
    }
}

impl<S, M: Clone> Layer<S> for GracefulLayer<M> {
    type Service = Graceful<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        Graceful::with(inner, self.mode.clone(), self.handle)
    }
}

impl<M> fmt::Debug for GracefulLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GracefulLayer")
            .field("phase", &self.handle.stage().phase())
            .finish()
    }
}
