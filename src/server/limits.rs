//! The limits of a server's connections, and its versions of HTTP.

use super::{Serve, config::Age, listener::Protocol};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// Lasts longer than any connection, and is short enough to be added to the time of day.
const FOR_EVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

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
    /// After that, its next response carries `Connection: close`, or it gets a GOAWAY. It then has
    /// `grace` to end its requests; `None` is no limit. These are gRPC's `MaxConnectionAge` and
    /// `MaxConnectionAgeGrace`.
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
        self.settings.http.http1().half_close(allowed);
        self.settings.http1.half_close(allowed);
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

    /// Sets how many streams may be open on an HTTP/2 connection. Default: 200.
    pub fn http2_max_concurrent_streams(mut self, limit: u32) -> Self {
        self.settings.http.http2().max_concurrent_streams(limit);
        self.settings.http2.max_concurrent_streams(limit);
        self
    }

    /// Sends a PING on each HTTP/2 connection on which nothing has come for `interval`, and closes
    /// it if it does not answer within `timeout`. Default: no PING.
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
