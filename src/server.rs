//! Serves any HTTP tower service and shuts it down gracefully: Go's `Serve` and `Shutdown`.
//!
//! One loop accepts for each listener, and each connection has a task of its own, on hyper's HTTP/1
//! and HTTP/2. Connections are handled as under other servers, but [`serve`] also knows when each
//! call begins and ends. So it closes each connection as soon as that loses nothing, and does not
//! wait until all of them can be closed:
//!
//! * An idle HTTP/1 connection closes when three conditions hold. The drain's
//!   [settling](crate::DrainBuilder::settle) is over, as a request may be on its way when the drain
//!   begins. The connection has been idle for as long as the settling takes, as its client may have
//!   sent the next request. And the socket has no unread bytes. The connection's task checks and
//!   closes in one poll. So no request is executed after the decision to close, and each executed
//!   request is answered.
//! * A busy HTTP/1 connection sends its response with `Connection: close`. If the head of the
//!   response was already sent, the connection becomes idle later, and closes as any idle one. A
//!   request that its client sends meanwhile is served.
//! * An HTTP/2 connection gets two GOAWAYs, as soon as the listeners are closed at the latest ([RFC
//!   9113, section 6.8](https://www.rfc-editor.org/rfc/rfc9113#section-6.8)). Streams that are
//!   opened between the two are served.
//! * In a [lame duck](crate::DrainBuilder::lame_duck), each connection that was open before gets a
//!   GOAWAY, or over HTTP/1 is closed while it is idle, at a random moment. So its client connects
//!   to another server. New connections are served.
//! * A connection that is silent, or in the middle of a head (the request line and the headers) or
//!   of a handshake, has a time limit: see [`DrainIo`](crate::net::DrainIo).
//!
//! What [`net`](crate::net#what-is-promised) promises holds here, too. A handshake is a part of
//! its connection: it is counted, has a limit, and is never in the way of another one. With the
//! feature `rustls`, [`serve`] sees the requests over TLS.
//!
//! # Without a drain
//!
//! The handshake and the first head together may take [30 s](Serve::header_read_timeout) from the
//! accept, and each later head 30 s. You can limit the
//! [number](Serve::max_connections) of connections, their [idle time](Serve::idle_timeout) and
//! their [age](Serve::max_connection_age). None of these limits needs a timer for each request. A
//! limit of zero is zero, and not "none" as in Go.
//!
//! # Shared sockets
//!
//! Give a socket that is inherited from systemd (`LISTEN_FDS`, by the crate `listenfd`), or shared
//! with a successor, to [`serve`] like any other. At the end its accept queue is emptied and it is
//! closed. Later clients connect to the other processes. Do not call
//! [`exclusive`](Serve::exclusive) for it.
//!
//! To hand a socket on, keep a duplicate of it (`try_clone`). Drop the duplicate before the drain,
//! or the port stays open.
//!
//! Sockets with `SO_REUSEPORT` have a queue each, which is emptied as well. A client that connects
//! while the socket closes is reset. With `exclusive` it tries again after a second instead, and
//! reaches another socket.
//!
//! `examples/restart` replaces a server under load without refusing or losing anything.
//!
//! [`guide::coming_from_go`](crate::guide::coming_from_go) has the counterpart of each part of Go's
//! `http.Server`.

mod accept;
mod config;
mod connection;
mod executor;
mod handle;
mod handshake;
mod info;
mod keep_alive;
mod limits;
mod listen;
mod listener;
mod preface;
mod service;
#[cfg(feature = "rustls")]
mod tls;

pub use self::{
    executor::{Executor, Task},
    handle::ConnectionHandle,
    handshake::Handshaken,
    keep_alive::KeepAlive,
    listener::{ConnectionInfo, Listener, Peer},
    service::{HttpService, NotExecuted},
};

use self::{
    accept::{Listen, accept_all},
    config::{Limits, ServerSettings, ServerShared},
    service::{Answers, LateAnswer, Services},
};
use crate::{
    drain::{Drain, DrainTimeout, Drained, Fact, RunError, SecondSignal},
    net::SocketOptions,
    refusal::{Exempt, Refusal},
};
use http::{Extensions, Request};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use hyper_util::rt::TokioTimer;
use std::{
    fmt,
    future::{Future, Pending, pending},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

/// Serves a service on a listener, and drains it at a signal.
///
/// For an address in place of a listener there is [`Serve::bind`].
///
/// The service may be an axum `Router`, tonic's `Routes`, a `ServiceBuilder` chain or a
/// `service_fn`. It is cloned for each connection and for each request.
///
/// It needs no [layer](Drain::layer) of this crate: its requests are counted, and late ones are
/// refused. A layer of the same drain does no harm, and does not count a request again.
///
/// Few requests are refused: those that would open a WebSocket or a tunnel while draining, those
/// that come after the deadline, and those that the service fails with [`NotExecuted`]. Over
/// HTTP/2, a refusal is a RST_STREAM with REFUSED_STREAM. Clients retry such a request whatever its
/// method ([RFC 9113, section 8.7](https://www.rfc-editor.org/rfc/rfc9113#section-8.7)). Over
/// HTTP/1, it is a 503. [`Serve::refuse_with`] sends another response (not for `NotExecuted`), and
/// [`Serve::exempt`] admits requests that would be refused.
///
/// WebSockets work over HTTP/1 and, by the extended CONNECT of [RFC
/// 8441](https://www.rfc-editor.org/rfc/rfc8441), over HTTP/2. A [report](Drain::report) shows
/// their connections as [`Upgraded`](crate::report::ConnectionState::Upgraded). On request, the
/// server [closes](Serve::close_websockets) those over HTTP/1 in a drain.
///
/// ```no_run
/// use axum::{Router, routing::get};
/// # use std::error::Error;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn Error>> {
/// let app = Router::new().route("/", get("hello"));
/// let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
///
/// let server = tower_graceful::serve(tcp, app).exclusive(); // no other process has the socket
/// # #[cfg(feature = "signal")]
/// let server = server.shutdown_on(tower_graceful::signal::terminate());
/// println!("{}", server.await?); // drained in 12ms: 3 completed, 0 refused, nothing left
/// # Ok(())
/// # }
/// ```
///
/// # Errors of the service
///
/// Most services have no errors, such as axum's `Router` and tonic's `Routes`. If a service fails:
///
/// * `Overloaded` and `Elapsed` of the crate `tower` (`load_shed`, `timeout`), also as the source
///   of another error, are answered with a 503 and `Retry-After: 1`.
/// * [`NotExecuted`] is answered with REFUSED_STREAM over HTTP/2, and with a 503 over HTTP/1.
/// * Any other error closes the HTTP/1 connection or the HTTP/2 stream without an answer. With the
///   feature `tracing` it is logged as an error, with method and path.
///
/// See [`Serve`] for the settings, and [`server`](crate::server) for a comparison with Go.
pub fn serve<L: Listener, S: HttpService>(listener: L, service: S) -> Serve<S> {
    Serve::new(service).listen(listener)
}

/// Sets up a server; from [`serve`], [`Serve::new`] or [`Serve::per_connection`]. Await it to run
/// the server.
///
/// Its output is the outcome of its [drain](Self::with_drain). With a listener, and without a
/// [signal](Self::shutdown_on) or a drain of your own, it serves for ever.
///
/// # Errors
///
/// Fails with [`DrainTimeout`] if something was left at the deadline. Errors of connections do not
/// end the server, and an accept that fails is tried again. With the feature `tracing`, both are
/// logged.
///
/// # Cancel safety
///
/// Dropping the future closes the listeners, and ends the connections and their requests when the
/// runtime polls them next. WebSockets and tunnels over HTTP/1 stay open, as they belong to their
/// handlers.
///
/// # Panics
///
/// Panics when polled outside of a tokio runtime with its time and IO drivers.
#[must_use = "servers do nothing unless they are awaited"]
pub struct Serve<S, F = Pending<()>> {
    services: Services<S>,
    listeners: Vec<Listen<S>>,
    drain: Drain,
    signal: F,
    settings: ServerSettings,
}

impl<S> Serve<S> {
    /// Creates a server without a listener: add one with [`bind`](Self::bind) or
    /// [`listen`](Self::listen). Without any, the server ends as soon as it is awaited.
    pub fn new(service: S) -> Self
    where
        S: Clone + Send + 'static,
    {
        Self::per_connection(move |_| service.clone())
    }

    /// Creates a server that makes a service for each connection when it is accepted.
    ///
    /// For what is known only after a handshake, use [`on_connect`](Self::on_connect).
    ///
    /// ```no_run
    /// use axum::{Extension, Router, routing::get};
    /// use tower_graceful::server::{Peer, Serve};
    ///
    /// # async fn f(tcp: tokio::net::TcpListener) -> Result<(), tower_graceful::DrainTimeout> {
    /// let app = Router::<()>::new().route("/", get(async |Extension(id): Extension<u64>| id.to_string()));
    /// let mut connections = 0_u64;
    /// let server = Serve::per_connection(move |_: &Peer| {
    ///     connections += 1;
    ///     app.clone().layer(Extension(connections))
    /// });
    /// server.listen(tcp).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn per_connection(make: impl FnMut(&Peer) -> S + Send + 'static) -> Self {
        let mut http1 = http1::Builder::new();
        // The timer is for what `Serve::http1` may set. `header_read_timeout` is ours.
        http1.timer(TokioTimer::new()).header_read_timeout(None);
        let executor = Executor::new();
        let mut http2 = http2::Builder::new(executor.clone());
        // For WebSockets over HTTP/2 (RFC 8441), as in `axum::serve`.
        http2.timer(TokioTimer::new()).enable_connect_protocol();
        Self {
            services: Services {
                make: Box::new(make),
                answers: Answers {
                    refusal: None,
                    at_deadline: LateAnswer(None),
                },
            },
            listeners: Vec::new(),
            drain: Drain::new(),
            signal: pending(),
            settings: ServerSettings {
                exclusive: false,
                tcp: SocketOptions::default(),
                close_websockets: Arc::default(),
                limits: Limits::default(),
                protocol: None,
                keep_alive: KeepAlive::new(),
                reports_requests: false,
                exempt: None,
                half_close: false,
                on_connect: None,
                executor,
                http1,
                http2,
            },
        }
    }
}

impl<S: HttpService, F> Serve<S, F> {
    /// Sets the response to the requests that the drain refuses, over HTTP/1 and HTTP/2. Over
    /// HTTP/1, `Connection: close` is added. Default: a 503 over HTTP/1, and over HTTP/2 a
    /// RST_STREAM with REFUSED_STREAM.
    ///
    /// Takes what [`GracefulLayer::refuse_with`](crate::GracefulLayer::refuse_with) takes: an
    /// [`Unavailable`](crate::refusal::Unavailable), a closure from `&Request<Incoming>` to a
    /// response of the service's kind, or your own [`Refusal`].
    ///
    /// Over HTTP/2, prefer the default unless clients have to see a response. REFUSED_STREAM says
    /// that the request was not executed, so clients retry it whatever its method. A response does
    /// not say so: a client takes it for the result of the request. It retries a 503, or the
    /// `grpc-status` 14 of `Unavailable`, only if it is configured to.
    ///
    /// Without effect on [`NotExecuted`], and on the 503 for an overload: there the service has
    /// taken the request.
    ///
    /// ```no_run
    /// use axum::{http::StatusCode, response::IntoResponse};
    ///
    /// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router) -> Result<(), tower_graceful::DrainTimeout> {
    /// tower_graceful::serve(tcp, app)
    ///     .refuse_with(|_: &http::Request<_>| {
    ///         (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "7")], "back soon").into_response()
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn refuse_with<R>(mut self, refusal: R) -> Self
    where
        R: Refusal<Incoming, S::Body> + Send + Sync + 'static,
    {
        self.services.answers.refusal = Some(Arc::new(refusal));
        self
    }

    /// Replaces the answer to a request whose response has not begun when the drain is forced, or
    /// switches it off. Default: [`AtDeadline`](crate::refusal::AtDeadline), a 503, which gRPC
    /// clients take for UNAVAILABLE.
    ///
    /// Takes what [`GracefulLayer::answer_at_deadline`] takes: a closure from `&Request<()>` to a
    /// response of the service's kind, your own [`Refusal`], or
    /// [`NoAnswer`](crate::refusal::NoAnswer). Over HTTP/2, too, it is a response, and never a
    /// RST_STREAM with REFUSED_STREAM: the request may have been executed.
    ///
    /// Exempt requests do not get this answer: they are cut.
    ///
    /// [`GracefulLayer::answer_at_deadline`]: crate::GracefulLayer::answer_at_deadline
    ///
    /// ```no_run
    /// use axum::{http::StatusCode, response::IntoResponse};
    ///
    /// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router) -> Result<(), tower_graceful::DrainTimeout> {
    /// tower_graceful::serve(tcp, app)
    ///     .answer_at_deadline(|_: &http::Request<()>| {
    ///         (StatusCode::GATEWAY_TIMEOUT, "the server had to stop").into_response()
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn answer_at_deadline<A>(mut self, answer: A) -> Self
    where
        A: Refusal<(), S::Body> + Send + Sync + 'static,
    {
        self.services.answers.at_deadline = LateAnswer(Some(Arc::new(answer)));
        self
    }
}

impl<S, F> Serve<S, F> {
    /// Sets the drain of this server.
    ///
    /// With a drain of your own you can [begin](Drain::begin) it from elsewhere, set its lame duck
    /// and timeout, and share it with other servers, guards and tasks.
    pub fn with_drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Begins the drain when the future `signal` completes, and forces it at the
    /// [second signal](SecondSignal).
    ///
    /// Use `signal::terminate()` (feature `signal`), or any future that [`Drain::run`] takes.
    pub fn shutdown_on<G>(self, signal: G) -> Serve<S, G>
    where
        G: Future<Output: Into<SecondSignal>>,
    {
        let Self {
            services,
            listeners,
            drain,
            settings,
            ..
        } = self;
        Serve {
            services,
            listeners,
            drain,
            signal,
            settings,
        }
    }

    /// Sets a function that adds values to the extensions of each request. It is called once for
    /// each connection, after the handshake.
    ///
    /// Some values are always there. The function may overwrite them:
    ///
    /// | feature | value | connections |
    /// |---|---|---|
    /// | `axum` | `ConnectInfo<SocketAddr>` | TCP |
    /// | `axum` | `ConnectInfo<`[`Peer`]`>` | all |
    /// | `tonic` | `TcpConnectInfo`, for `request.remote_addr()` and `local_addr()` | TCP |
    /// | `tonic` | `UdsConnectInfo` | Unix |
    /// | `tonic`, `rustls` | `TlsConnectInfo<TcpConnectInfo>`, for `request.peer_certs()` | TLS over TCP |
    /// | `tonic`, `rustls` | `TlsConnectInfo<UdsConnectInfo>` | TLS over Unix |
    ///
    /// ```no_run
    /// use axum::{Extension, Router, routing::get};
    /// use tokio::net::{TcpListener, TcpStream};
    ///
    /// #[derive(Clone)]
    /// struct Port(u16);
    ///
    /// # async fn f(tcp: TcpListener) -> Result<(), tower_graceful::DrainTimeout> {
    /// let app = Router::new().route(
    ///     "/",
    ///     get(async |Extension(Port(port)): Extension<Port>| format!("you asked at port {port}")),
    /// );
    /// tower_graceful::serve(tcp, app)
    ///     .on_connect(|connection, extensions| {
    ///         let local = connection.io::<TcpStream>().map(TcpStream::local_addr);
    ///         if let Some(Ok(local)) = local {
    ///             extensions.insert(Port(local.port()));
    ///         }
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_connect(
        mut self,
        values: impl Fn(ConnectionInfo<'_>, &mut Extensions) + Send + Sync + 'static,
    ) -> Self {
        self.settings.on_connect = Some(Box::new(values));
        self
    }

    /// Sets the switch by which keep-alive is disabled while the server runs.
    pub fn keep_alive(mut self, keep_alive: &KeepAlive) -> Self {
        self.settings.keep_alive = keep_alive.clone();
        self
    }

    /// Lists each request in [reports](Drain::report): see
    /// [`GracefulLayer::report_requests`](crate::GracefulLayer::report_requests). Default: off.
    pub fn report_requests(mut self) -> Self {
        self.settings.reports_requests = true;
        self
    }

    /// Exempts the requests for which `exempt` returns true: they are neither refused nor counted.
    /// For health probes and metrics. Default: none.
    ///
    /// An exempt request is answered while draining, over a connection that is still open. Over
    /// HTTP/1, its response carries `Connection: close` from the lame duck on, like any other. The
    /// drain also waits for connections, so an exempt request that is not answered holds the drain
    /// by its connection.
    ///
    /// While draining, no connection is accepted. For a probe that connects anew each time, put
    /// [`Readiness`](crate::probe::Readiness) on a server of its own.
    ///
    /// Takes what [`GracefulLayer::exempt`](crate::GracefulLayer::exempt) takes: a closure from
    /// `&Request<Incoming>` to `bool`, or your own [`Exempt`].
    ///
    /// ```no_run
    /// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router) -> Result<(), tower_graceful::DrainTimeout> {
    /// tower_graceful::serve(tcp, app)
    ///     .exempt(|request: &http::Request<_>| request.uri().path() == "/healthz")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn exempt<E>(mut self, exempt: E) -> Self
    where
        E: Exempt<Request<Incoming>> + Send + Sync + 'static,
    {
        self.settings.exempt = Some(Arc::new(exempt));
        self
    }
}

impl<S, F> IntoFuture for Serve<S, F>
where
    S: 'static,
    F: Future<Output: Into<SecondSignal>> + Send + 'static,
{
    type Output = Result<Drained, DrainTimeout>;
    type IntoFuture = Serving;

    // A report shows where the server was awaited.
    #[track_caller]
    fn into_future(self) -> Serving {
        let Self {
            services,
            listeners,
            drain,
            signal,
            mut settings,
        } = self;
        // `Serve::http1` may have set it otherwise, and more than hyper depends on it.
        settings.http1.half_close(settings.half_close);
        let accept_loops = listeners
            .into_iter()
            .map(|listen| listen.start(&settings, &drain))
            .collect();
        let shared = Arc::new(ServerShared {
            drain: drain.clone(),
            settings,
            dropped: AtomicBool::new(false),
        });
        shared.settings.keep_alive.add_drain(shared.drain.shared());
        for fact in [Fact::HttpLayer, Fact::StopSignal] {
            drain.shared().record(fact);
        }
        let server = accept_all(accept_loops, services, shared.clone());
        let run = drain.run(server, signal);
        Serving {
            shared,
            future: Box::pin(async {
                run.await.map_err(|error| match error {
                    RunError::Timeout(timeout) => timeout,
                    RunError::Server { error, .. } => match error {},
                })
            }),
        }
    }
}

/// Runs a server; made from a [`Serve`].
#[must_use = "futures do nothing unless polled"]
pub struct Serving {
    shared: Arc<ServerShared>,
    future: Pin<Box<dyn Future<Output = Result<Drained, DrainTimeout>> + Send>>,
}

impl Future for Serving {
    type Output = Result<Drained, DrainTimeout>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.future.as_mut().poll(cx)
    }
}

/// Ends the connections, which have tasks of their own.
impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.dropped.store(true, Ordering::Release);
        // After the store, so that a task that wakes sees it.
        self.shared.drain.shared().wake_connections();
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("drain", &self.shared.drain)
            .finish_non_exhaustive()
    }
}

impl<S, F> fmt::Debug for Serve<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("listeners", &self.listeners.len())
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}
