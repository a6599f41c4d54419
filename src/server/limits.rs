//! The limits of a server's connections, its versions of HTTP, and its executor.

use super::{
    Serve,
    config::Age,
    executor::{Executor, Task},
    listener::Protocol,
};
use hyper::{
    rt,
    server::conn::{http1, http2},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

impl<S, F> Serve<S, F> {
    /// Sets how long a connection may take to send a head, before it is closed. Default: 30 s;
    /// `None` is no limit.
    ///
    /// The time of the first head counts from the accept, and includes the handshake. The time of
    /// each later head counts from its first byte.
    pub fn header_read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.head = timeout.into();
        self
    }

    /// Sets how long an idle connection is kept. Default: `None`, no limit.
    pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.idle = timeout.into();
        self
    }

    /// Sets how many connections may be open, upgraded ones included. Others wait in the accept
    /// queue. Default: no limit.
    ///
    /// When the drain closes the listeners, they accept the rest of their queues without regard to
    /// the limit: those clients have connected in time, and would be reset otherwise.
    ///
    /// # Panics
    ///
    /// Panics if the limit is 0 or more than [`Semaphore::MAX_PERMITS`].
    pub fn max_connections(mut self, limit: usize) -> Self {
        assert!(limit > 0, "`max_connections` must be greater than 0");
        self.settings.limits.permits = Some(Arc::new(Semaphore::new(limit)));
        self
    }

    /// Sets how long a connection is kept, a tenth more or less at random, so that balancers spread
    /// their connections anew. Default: no limit.
    ///
    /// After that, its next response carries `Connection: close`, or it gets a GOAWAY. An HTTP/1
    /// connection that is idle then is closed. The others have `grace` to end their requests;
    /// `None` is no limit. These are gRPC's `MaxConnectionAge` and `MaxConnectionAgeGrace`.
    pub fn max_connection_age(mut self, age: Duration, grace: impl Into<Option<Duration>>) -> Self {
        self.settings.limits.age = Some(Age {
            limit: age,
            grace: grace.into(),
        });
        self
    }

    /// Sets whether an HTTP/1 client that closes its half of the connection after its request still
    /// gets its response. Default: `false`, as in hyper, axum and Node. Go and HAProxy answer such
    /// a client.
    ///
    /// The server cannot tell a client that has closed its half from one that has closed the
    /// connection:
    ///
    /// * With `false`, the handler is dropped as soon as the FIN arrives. A client that ends its
    ///   request with a FIN and then waits (`nc -N`, some scripts and health checks) gets no
    ///   response.
    /// * With `true`, the client gets its response. But if it has closed the connection, the
    ///   handler still runs to its end, and a drain waits for it until the deadline. Only a reset
    ///   drops the handler, within a second. This costs a timer for each connection that handles a
    ///   request.
    pub fn http1_half_close(mut self, allowed: bool) -> Self {
        self.settings.half_close = allowed;
        self
    }

    /// Has the drain close WebSockets over HTTP/1, also over TLS, with a Close frame of this status
    /// code and reason: see
    /// [`DrainListener::close_websockets`](crate::net::DrainListener::close_websockets). Default:
    /// only their handlers close them.
    ///
    /// # Panics
    ///
    /// Panics if the code may not be sent, or if the reason has more than 123 bytes.
    ///
    /// ```no_run
    /// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router) -> Result<(), tower_graceful::DrainTimeout> {
    /// tower_graceful::serve(tcp, app)
    ///     .close_websockets(1001, "the server restarts")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn close_websockets(mut self, code: u16, reason: &str) -> Self {
        Arc::make_mut(&mut self.settings.close_websockets).set(code, reason);
        self
    }

    /// Spreads these Close frames over a duration: see
    /// [`DrainListener::close_websockets_over`](crate::net::DrainListener::close_websockets_over).
    /// Default: zero.
    pub fn close_websockets_over(mut self, duration: Duration) -> Self {
        Arc::make_mut(&mut self.settings.close_websockets).over = duration;
        self
    }

    /// Serves only HTTP/1, with and without TLS.
    pub fn http1_only(mut self) -> Self {
        self.settings.protocol = Some(Protocol::Http1);
        self
    }

    /// Serves only HTTP/2, with TLS, and without TLS "with prior knowledge".
    pub fn http2_only(mut self) -> Self {
        self.settings.protocol = Some(Protocol::Http2);
        self
    }

    /// Sets hyper's options for HTTP/1. May be called more than once.
    ///
    /// hyper's timeout for heads is off: use [`header_read_timeout`](Self::header_read_timeout).
    /// hyper's timer is tokio's. Use [`http1_half_close`](Self::http1_half_close) for half-closed
    /// connections, and [`KeepAlive`](super::KeepAlive) to close connections after their response.
    ///
    /// ```no_run
    /// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router) -> Result<(), tower_graceful::DrainTimeout> {
    /// tower_graceful::serve(tcp, app)
    ///     .http1(|http1| {
    ///         http1.max_headers(200).title_case_headers(true);
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn http1(mut self, set: impl FnOnce(&mut http1::Builder)) -> Self {
        set(&mut self.settings.http1);
        self
    }

    /// Sets hyper's options for HTTP/2: the limit of streams (hyper's default is 200), windows,
    /// frame sizes, PINGs. May be called more than once.
    ///
    /// The extended CONNECT is enabled, for WebSockets. hyper's timer is tokio's. An interval that
    /// is too long to be added to the time of day, such as `Duration::MAX`, panics in hyper.
    ///
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router) -> Result<(), tower_graceful::DrainTimeout> {
    /// tower_graceful::serve(tcp, app)
    ///     .http2(|http2| {
    ///         http2
    ///             .max_concurrent_streams(1000)
    ///             // A client that has sent nothing for 30 s gets a PING, and has 10 s to answer it.
    ///             .keep_alive_interval(Duration::from_secs(30))
    ///             .keep_alive_timeout(Duration::from_secs(10));
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn http2(mut self, set: impl FnOnce(&mut http2::Builder<Executor>)) -> Self {
        set(&mut self.settings.http2);
        self
    }

    /// Sets how the tasks of connections and of HTTP/2 streams are spawned. Default:
    /// `tokio::spawn`.
    ///
    /// A task that the executor drops closes its connection, or resets its stream. Tasks need a
    /// tokio runtime with its time and IO drivers.
    ///
    /// ```no_run
    /// use tower_graceful::server::Task;
    ///
    /// /// Spawns the tasks on a runtime of their own.
    /// struct On(tokio::runtime::Handle);
    ///
    /// impl hyper::rt::Executor<Task> for On {
    ///     fn execute(&self, task: Task) {
    ///         self.0.spawn(task);
    ///     }
    /// }
    ///
    /// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router, runtime: tokio::runtime::Handle) -> Result<(), tower_graceful::DrainTimeout> {
    /// tower_graceful::serve(tcp, app).executor(On(runtime)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// Panics if it is called twice.
    pub fn executor(self, executor: impl rt::Executor<Task> + Send + Sync + 'static) -> Self {
        let is_first = self.settings.executor.replace(executor);
        assert!(is_first, "the executor of this server is set already");
        self
    }
}
