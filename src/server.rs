//! [`serve`]: Go's `Serve` and `Shutdown`, for any HTTP tower service.
//!
//! One loop accepts, and each connection has a task of its own, on hyper's HTTP/1 and HTTP/2. It
//! stands on what the crate has for other servers' connections, and knows more than they say: when a
//! call begins and ends. So it closes each connection by itself as soon as nothing can be lost by
//! that, where a wrapper has to wait for all of them:
//!
//! * HTTP/1, idle: when the drain's [settling](crate::DrainBuilder::settle) is over (a request may be on
//!   its way when the drain begins), when it has been idle for as long (a client that has just had its
//!   answer may have written its next request), and when a look into the socket itself has found nothing.
//!   The connection's task looks and closes in one poll: a connection that is decided closed executes
//!   nothing more, and a request that was executed is answered.
//! * HTTP/1, busy: its response says `Connection: close`. If its head is out already, it becomes idle as
//!   any other; a client that has not been told and sends another request meanwhile is served.
//! * HTTP/2: as soon as the listeners are closed, by two GOAWAYs ([RFC 9113, section
//!   6.8](https://www.rfc-editor.org/rfc/rfc9113#section-6.8)): streams that are opened between the two
//!   are served.
//! * Silent, or in the middle of a head or a handshake: each has its limit, see
//!   [`DrainIo`](crate::net::DrainIo).
//!
//! # Without a drain
//!
//! (A time of zero is that, and not "none" as in Go.)
//!
//! A handshake and a head have [30 s](Serve::header_read_timeout); connections may be limited in
//! [number](Serve::max_connections), [idleness](Serve::idle_timeout) and
//! [age](Serve::max_connection_age). None of these costs a request a timer.
//!
//! # Sockets that others have, too
//!
//! A socket inherited from systemd (`LISTEN_FDS`, by the crate `listenfd`) or shared with a
//! successor is given to [`serve`] like any other. At the end its accept queue is emptied and it is
//! closed; what comes then is the others'. Do not say [`exclusive`](Serve::exclusive) of it. To
//! hand it on, keep a duplicate of it (`try_clone`), and drop that before the drain, or the port
//! stays open. Sockets with `SO_REUSEPORT` have a queue each, and theirs is emptied likewise; with
//! `exclusive`, a client that comes in the very moment tries again, a second later, and finds the
//! other one; without, it is reset. `examples/restart` replaces a server under load without
//! refusing or losing anything.
//!
//! # Coming from Go
//!
//! | Go's `http.Server` | here | |
//! |---|---|---|
//! | `Serve(l)`, `ListenAndServe()` | [`serve`]`(listener, service)` | any number of [listeners](Serve::listen), TCP, Unix, inherited |
//! | `ServeTLS`, `ListenAndServeTLS` | `Serve::listen_rustls` | feature `rustls`; the handshake never holds up the next accept |
//! | `Shutdown(ctx)` | [`Drain::shutdown`]`(timeout)`, or the [signal](Serve::shutdown_on) | Go asks every 1 to 500 ms whether it is over; here the last one out says so |
//! | … closes the listeners | takes what is in the accept queue, then closes | Go resets what is in the queue |
//! | … closes idle connections | after the [settling](crate::DrainBuilder::settle), when nothing is there to be read | Go closes those whose next request has just arrived |
//! | … waits up to 7 s for those that are silent | [`grace`](crate::DrainBuilder::grace), from their accept: 1 s | |
//! | … does not know of an HTTP/2 connection that is late, and hangs ([go#81153](https://github.com/golang/go/issues/81153)) | it is told when it speaks | |
//! | … leaves what is left when `ctx` ends | cuts it | |
//! | the error of `Shutdown` | [`DrainTimeout`] | it says what was left |
//! | `ErrServerClosed` | `Ok(`[`Drained`]`)` | |
//! | `Close()` | [`Drain::force`], the second signal; or drop the server | |
//! | `RegisterOnShutdown` | [`Drain::on_shutdown`] | waited for, and given the deadline; a late one is run |
//! | `ConnState` | [`Drain::left`]`().`[`connections`](crate::report::Counts::connections) | `StateNew`: silent, reading; `StateActive`: handling, streaming, stalled; `StateIdle`: idle; `StateHijacked`: upgraded, and counted |
//! | `SetKeepAlivesEnabled` | [`KeepAlive`] | |
//! | `BaseContext`, `ConnContext` | [`on_connect`](Serve::on_connect), [`Serve::per_connection`] | |
//! | `ReadHeaderTimeout` | [`header_read_timeout`](Serve::header_read_timeout) | 30 s unless told otherwise; in Go, none |
//! | `IdleTimeout` | [`idle_timeout`](Serve::idle_timeout) | |
//! | `ReadTimeout`, `WriteTimeout` | tower-http's `RequestBodyTimeoutLayer` and `TimeoutLayer`, `ResponseBodyTimeoutLayer` | they answer (408, 503), and a slow body is not taken for a silent one |
//! | `MaxHeaderBytes` | hyper's: some 400 kB and 100 headers, then 431; over HTTP/2, 16 kB | |
//! | `TLSConfig`, `TLSNextProto` | the `ServerConfig` of rustls, its ALPN | |
//! | `Protocols`, `HTTP2` | [`http1_only`](Serve::http1_only), [`http2_only`](Serve::http2_only), [`http2_max_concurrent_streams`](Serve::http2_max_concurrent_streams), [`http2_keep_alive`](Serve::http2_keep_alive) | |
//! | `netutil.LimitListener` | [`max_connections`](Serve::max_connections) | |
//! | – (gRPC's `MaxConnectionAge`) | [`max_connection_age`](Serve::max_connection_age) | |
//! | `Handler` | any `Service<Request<Incoming>>` | |
//! | `ErrorLog` | feature `tracing`, and the panic hook | errors of accept and of the service at level `ERROR`, failed handshakes and connections at `DEBUG`; a panic of a handler ends its connection, over HTTP/2 its stream, as in Go |
//! | – (a client that has closed its half is answered) | [`http1_half_close`](Serve::http1_half_close) | off unless asked for |
//! | `DisableGeneralOptionsHandler` | – | `OPTIONS *` is the service's |

mod accept;
mod connection;
mod info;
mod keep_alive;
mod limits;
mod listener;
mod service;
#[cfg(feature = "rustls")]
mod tls;

pub use self::{
    keep_alive::KeepAlive,
    listener::{Established, Listener, Peer},
    service::NotExecuted,
};

#[cfg(feature = "rustls")]
use self::tls::Tls;
use self::{
    accept::{Accept, AcceptLoop},
    limits::{Age, Limits},
    listener::{Plain, Protocol},
};
use crate::{
    drain::{Drain, DrainTimeout, Drained, RunError, SecondSignal},
    net::SocketOptions,
};
use http::{Extensions, Request, Response};
use http_body::Body;
use hyper::{body::Incoming, server::conn};
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto,
};
use std::{
    error::Error,
    fmt,
    future::{Future, Pending, pending},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::Semaphore;
use tower_service::Service;

/// Serves a service, and drains it when it is told to.
///
/// The service is cloned for each connection, and for each of its requests: an axum `Router`, tonic's
/// `Routes`, a `ServiceBuilder` chain, a `service_fn`. It needs no [layer](Drain::layer) of this
/// crate (one of the same drain that is left in it lets requests pass, and counts none a second time):
/// its requests are counted and refused as if it had one, but that over HTTP/2 a refusal is a
/// RST_STREAM with REFUSED_STREAM, which clients retry whatever the method
/// ([RFC 9113, section 8.7](https://www.rfc-editor.org/rfc/rfc9113#section-8.7)). Not much is refused: what
/// would open a WebSocket or a tunnel while draining, what comes after the deadline, and what the service
/// itself says is [`NotExecuted`].
///
/// WebSockets work over HTTP/1 and, by the extended CONNECT of [RFC
/// 8441](https://www.rfc-editor.org/rfc/rfc8441), over HTTP/2. A [report](Drain::report) shows
/// their connections as [`Upgraded`](crate::report::ConnectionState::Upgraded).
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
/// let server = tower_graceful::serve(tcp, app);
/// # #[cfg(feature = "signal")]
/// let server = server.shutdown_on(tower_graceful::signal::terminate());
/// println!("{}", server.await?); // drained in 12ms: 3 completed, 0 refused, nothing left
/// # Ok(())
/// # }
/// ```
///
/// # Errors of the service
///
/// Most services answer by themselves and have no errors (axum's `Router`, tonic's `Routes`). Where one
/// fails:
///
/// * `Overloaded` and `Elapsed` of the crate `tower` (`load_shed`, `timeout`), also as the source of
///   another error, are answered by a 503 with `Retry-After: 1`, over HTTP/1 and HTTP/2.
/// * [`NotExecuted`] is answered by a refused stream, over HTTP/1 by a 503.
/// * Any other error closes the connection without an answer, over HTTP/2 its stream. With the feature
///   `tracing` it is logged as an error, with method and path.
///
/// See [`Serve`] for the settings, and [`server`](crate::server) for what is what in Go.
pub fn serve<L, S, B>(listener: L, service: S) -> Serve<S>
where
    L: Listener,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    Serve::new(service).listen(listener)
}

/// A server that is set up, from [`serve`]; to be awaited.
///
/// It ends with what its [drain](Self::with_drain) ends with: all is over, or the time was. Without a
/// [signal](Self::shutdown_on) and a drain of one's own it serves for ever.
///
/// # Errors
///
/// [`DrainTimeout`] if something was left at the deadline; it was cut then. Errors of connections are
/// theirs, and an accept that fails is tried again; with the feature `tracing` both are logged.
///
/// # Cancel safety
///
/// Dropping it closes its listeners and ends its connections in the next turn of the runtime, with
/// their requests. (WebSockets and tunnels of HTTP/1 are their handlers', and stay.)
///
/// # Panics
///
/// When polled outside of a tokio runtime with its time and IO drivers.
#[must_use = "servers do nothing unless they are awaited"]
pub struct Serve<S, F = Pending<()>> {
    make: Box<dyn FnMut(&Peer) -> S + Send>,
    listeners: Vec<Listen<S>>,
    drain: Drain,
    signal: F,
    settings: Settings,
}

/// A listener, until it is known whose it is.
type Listen<S> = Box<dyn FnOnce(&Settings, &Drain) -> Box<dyn Accept<S>> + Send>;

struct Settings {
    exclusive: bool,
    tcp: SocketOptions,
    limits: Limits,
    protocol: Option<Protocol>,
    keep_alive: KeepAlive,
    names: bool,
    /// A client that has closed its half is served on: see [`Serve::http1_half_close`].
    half_close: bool,
    on_connect: Option<OnConnect>,
    http: auto::Builder<TokioExecutor>,
    http1: conn::http1::Builder,
    http2: conn::http2::Builder<TokioExecutor>,
}

/// Longer than any connection lasts, and short enough to be added to the time of day.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

type OnConnect = Box<dyn Fn(Established<'_>, &mut Extensions) + Send + Sync>;

/// What all of a server's connections see.
struct ServerShared {
    drain: Drain,
    settings: Settings,
    dropped: AtomicBool,
}

impl ServerShared {
    fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }
}

impl<S> Serve<S> {
    /// Without a listener yet: see [`listen`](Self::listen). One that never gets any ends as soon as
    /// it is awaited.
    pub fn new(service: S) -> Self
    where
        S: Clone + Send + 'static,
    {
        Self::per_connection(move |_| service.clone())
    }

    /// With a service of its own for each connection, made when it is accepted.
    ///
    /// What is known of it only later, after a TLS handshake, [`on_connect`](Self::on_connect) has.
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
        let mut http = auto::Builder::new(TokioExecutor::new());
        let mut http2 = conn::http2::Builder::new(TokioExecutor::new());
        let http1 = conn::http1::Builder::new();
        // WebSockets over HTTP/2 (RFC 8441) are there as on `axum::serve`.
        http.http2()
            .timer(TokioTimer::new())
            .enable_connect_protocol();
        http2.timer(TokioTimer::new()).enable_connect_protocol();
        Self {
            make: Box::new(make),
            listeners: Vec::new(),
            drain: Drain::new(),
            signal: pending(),
            settings: Settings {
                exclusive: false,
                tcp: SocketOptions::default(),
                limits: Limits::default(),
                protocol: None,
                keep_alive: KeepAlive::new(),
                names: false,
                half_close: false,
                on_connect: None,
                http,
                http1,
                http2,
            },
        }
    }
}

impl<S, B, F> Serve<S, F>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Adds a listener.
    ///
    /// ```no_run
    /// # use tower_graceful::{Drain, DrainTimeout};
    /// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
    /// # #[cfg(unix)]
    /// let unix = tokio::net::UnixListener::bind("/run/app.sock")?;
    /// let server = tower_graceful::serve(tcp, app);
    /// # #[cfg(unix)]
    /// let server = server.listen(unix);
    /// server.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn listen<L: Listener>(mut self, listener: L) -> Self {
        self.listeners.push(Box::new(|settings, drain| {
            let listener =
                drain
                    .listener(listener)
                    .with(settings.exclusive, L::tcp_listener, settings.tcp);
            Box::new(AcceptLoop::new(listener, Plain))
        }));
        self
    }

    /// Adds a listener with TLS. If the configuration offers no protocol (ALPN), `h2` and
    /// `http/1.1` are.
    ///
    /// The handshake is part of the connection: it is counted as silent, has the
    /// [header's](Self::header_read_timeout) time, in a drain the
    /// [grace](crate::DrainBuilder::grace), and holds up no other connection.
    ///
    /// A connection that the drain or a limit closes ends with a close_notify. A response that is
    /// cut does not, so its client does not take the cut for the end of the response.
    ///
    /// ```no_run
    /// # use std::{error::Error, sync::Arc};
    /// use tokio::net::TcpListener;
    /// use tokio_rustls::rustls::ServerConfig;
    /// use tower_graceful::server::Serve;
    ///
    /// # async fn f(config: ServerConfig, app: axum::Router) -> Result<(), Box<dyn Error>> {
    /// let tcp = TcpListener::bind("0.0.0.0:443").await?;
    /// Serve::new(app).listen_rustls(tcp, Arc::new(config)).await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "rustls")]
    pub fn listen_rustls<L: Listener>(
        mut self,
        listener: L,
        config: Arc<tokio_rustls::rustls::ServerConfig>,
    ) -> Self {
        self.listeners.push(Box::new(|settings, drain| {
            let listener =
                drain
                    .listener(listener)
                    .with(settings.exclusive, L::tcp_listener, settings.tcp);
            Box::new(AcceptLoop::new(
                listener,
                Tls::new(config, settings.protocol),
            ))
        }));
        self
    }
}

impl<S, F> Serve<S, F> {
    /// Says that this process alone has the sockets of its listeners: they were not inherited, and
    /// are not passed on. Then no client is reset that connects at the very end. A client whose TCP
    /// handshake is half done at that moment is served if it ends within the
    /// [settling](crate::DrainBuilder::settle). See
    /// [`DrainListener::exclusive`](crate::net::DrainListener::exclusive). Through a listener of one's
    /// own it works if that has [`Listener::tcp_listener`].
    pub fn exclusive(mut self) -> Self {
        self.settings.exclusive = true;
        self
    }

    /// Sets whether TCP_NODELAY is set on accepted TCP connections: see
    /// [`DrainListener::tcp_nodelay`](crate::net::DrainListener::tcp_nodelay). Default: `true`.
    pub fn tcp_nodelay(mut self, nodelay: bool) -> Self {
        self.settings.tcp.nodelay = nodelay;
        self
    }

    /// Sets after how long without traffic an accepted TCP connection is probed by TCP keep-alive: see
    /// [`DrainListener::tcp_keepalive`](crate::net::DrainListener::tcp_keepalive). Default: `None`.
    pub fn tcp_keepalive(mut self, keepalive: impl Into<Option<Duration>>) -> Self {
        self.settings.tcp.keepalive = keepalive.into();
        self
    }

    /// With this drain: to [begin](Drain::begin) it from elsewhere, to give it a lame duck and a
    /// timeout, to share it with other servers, guards and tasks.
    pub fn with_drain(mut self, drain: Drain) -> Self {
        self.drain = drain;
        self
    }

    /// Begins the drain when that future ends, and forces it at the [second signal](SecondSignal). See
    /// [`Drain::run`] for what the future may be.
    pub fn shutdown_on<G>(self, signal: G) -> Serve<S, G>
    where
        G: Future<Output: Into<SecondSignal>>,
    {
        let Self {
            make,
            listeners,
            drain,
            settings,
            ..
        } = self;
        Serve {
            make,
            listeners,
            drain,
            signal,
            settings,
        }
    }

    /// Gives each request on a connection these values, among its extensions. The function is called once
    /// for each connection, after its handshake.
    ///
    /// Some values are there without it, and it may overwrite them:
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
        values: impl Fn(Established<'_>, &mut Extensions) + Send + Sync + 'static,
    ) -> Self {
        self.settings.on_connect = Some(Box::new(values));
        self
    }

    /// Whether connections are kept, to be changed while it runs.
    pub fn keep_alive(mut self, keep_alive: &KeepAlive) -> Self {
        self.settings.keep_alive = keep_alive.clone();
        self
    }

    /// Keeps of each request in flight what a [report](Drain::report) names: see
    /// [`GracefulLayer::name_requests`](crate::GracefulLayer::name_requests). Default: not.
    pub fn name_requests(mut self) -> Self {
        self.settings.names = true;
        self
    }

    /// Within which time a connection has to make its handshake and send its first head, from its
    /// accept on, and each later head, from its first byte on. Else it is closed. Default: 30 s;
    /// `None` is for ever.
    pub fn header_read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.head = timeout.into();
        self
    }

    /// For how long a connection is kept that has nothing to do. Default: `None`, for ever.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.idle = timeout.into();
        self
    }

    /// How many connections there may be, upgraded ones included. Others wait in the accept queue.
    /// Default: no limit.
    ///
    /// When the drain closes the listeners, what is in their queues is taken all the same: it has
    /// arrived in time, and there is no later.
    ///
    /// # Panics
    ///
    /// If it is 0, or more than [`Semaphore::MAX_PERMITS`].
    pub fn max_connections(mut self, limit: usize) -> Self {
        assert!(limit > 0, "a server without connections serves nobody");
        self.settings.limits.permits = Some(Arc::new(Semaphore::new(limit)));
        self
    }

    /// For how long a connection is kept, a tenth more or less at random, so that balancers spread
    /// their connections anew. After that its next response says `Connection: close`, or it gets a
    /// GOAWAY, and it has `grace` to end what it is about; `None` is for ever. Default: no limit.
    ///
    /// gRPC's `MaxConnectionAge` and `MaxConnectionAgeGrace`.
    pub fn max_connection_age(mut self, age: Duration, grace: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.age = Some(Age {
            limit: age,
            grace: grace.into(),
        });
        self
    }

    /// Sets whether an HTTP/1 client that closes its half of the connection after its request still gets
    /// its response. Default: false, as in hyper, axum and Node; Go and HAProxy answer such a client.
    ///
    /// To the server, a client that has closed its half looks like one that has gone:
    ///
    /// * With `false`, its handler is dropped as soon as the FIN arrives. A client that ends its request
    ///   with a FIN and then waits (`nc -N`, some scripts and health checks) gets no response.
    /// * With `true`, it gets its response. But then the handler of a client that has gone runs to its
    ///   end and a drain waits for it, up to its deadline. A reset is noticed, within a second, and its
    ///   handler is dropped; this costs a timer for each connection that handles a request.
    pub fn http1_half_close(mut self, allowed: bool) -> Self {
        self.settings.half_close = allowed;
        self.settings.http.http1().half_close(allowed);
        self.settings.http1.half_close(allowed);
        self
    }

    /// HTTP/1 only, on connections without TLS and with it.
    pub fn http1_only(mut self) -> Self {
        self.settings.protocol = Some(Protocol::Http1);
        self
    }

    /// HTTP/2 only, likewise; without TLS "with prior knowledge".
    pub fn http2_only(mut self) -> Self {
        self.settings.protocol = Some(Protocol::Http2);
        self
    }

    /// How many streams there may be on an HTTP/2 connection at a time. Default: 200.
    pub fn http2_max_concurrent_streams(mut self, limit: u32) -> Self {
        self.settings.http.http2().max_concurrent_streams(limit);
        self.settings.http2.max_concurrent_streams(limit);
        self
    }

    /// Sends a PING on HTTP/2 connections when nothing has come for `interval`, and closes those
    /// that do not answer within `timeout`. Default: none.
    pub fn http2_keep_alive(mut self, interval: Duration, timeout: Duration) -> Self {
        let [interval, timeout] = [interval, timeout].map(|duration| duration.min(FOR_EVER));
        let mut http2 = self.settings.http.http2();
        http2
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout);
        let http2 = &mut self.settings.http2;
        http2
            .keep_alive_interval(interval)
            .keep_alive_timeout(timeout);
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

    // So that a report says where it was awaited.
    #[track_caller]
    fn into_future(self) -> Serving {
        let Self {
            make,
            listeners,
            drain,
            signal,
            settings,
        } = self;
        let ports = listeners
            .into_iter()
            .map(|listen| listen(&settings, &drain))
            .collect();
        let shared = Arc::new(ServerShared {
            drain: drain.clone(),
            settings,
            dropped: AtomicBool::new(false),
        });
        shared.settings.keep_alive.add_server(&shared);
        let server = Server {
            ports,
            make,
            shared: shared.clone(),
        };
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

/// A server that runs; from [`Serve`].
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

/// No orphans: connections have tasks of their own.
impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.dropped.store(true, Ordering::Release);
        // After that, so that whoever is woken sees it.
        self.shared.drain.wake_connections();
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

/// The listeners, as [`Drain::run`] has them. Ends when they have closed: the connections are the
/// drain's to wait for.
struct Server<S> {
    ports: Vec<Box<dyn Accept<S>>>,
    make: Box<dyn FnMut(&Peer) -> S + Send>,
    shared: Arc<ServerShared>,
}

impl<S> Unpin for Server<S> {}

impl<S> Future for Server<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            ports,
            make,
            shared,
        } = &mut *self;
        ports.retain_mut(|port| port.poll(make, shared, cx).is_pending());
        match ports.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
