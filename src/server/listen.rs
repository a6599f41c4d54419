//! The listeners of a server.

#[cfg(feature = "rustls")]
use super::tls;
use super::{
    Serve,
    accept::Listen,
    handshake::{self, Handshaken},
    listener::{Listener, Peer},
    service::HttpService,
};
use crate::net;
use std::{future::Future, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::ToSocketAddrs,
};

impl<S: HttpService, F> Serve<S, F> {
    /// Binds a TCP listener and adds it.
    ///
    /// No other process has its socket. So it is [`exclusive`](Self::exclusive): on Linux, no
    /// client is reset that connects while it closes. `[::]` takes IPv4 clients, too, where the
    /// system lets an IPv6 socket do that. To let the system choose the port, bind a `TcpListener`,
    /// ask it for its address, and give it to [`listen`](Self::listen).
    ///
    /// ```no_run
    /// use axum::{Router, routing::get};
    /// use tower_graceful::Serve;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let app = Router::new().route("/", get("hello"));
    /// let server = Serve::new(app).bind("[::]:3000").await?;
    /// # #[cfg(feature = "signal")]
    /// let server = server.shutdown_on(tower_graceful::signal::terminate());
    /// println!("{}", server.await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails as tokio's `TcpListener::bind` does. The error names the address, if it is not that of
    /// a lookup of a name: `cannot listen on 0.0.0.0:80: Permission denied (os error 13)`.
    pub async fn bind(self, address: impl ToSocketAddrs) -> io::Result<Self> {
        let listener = net::bind(address).await?;
        Ok(self.add(Listen::new(listener, true, |_| handshake::none)))
    }

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
    pub fn listen<L: Listener>(self, listener: L) -> Self {
        self.add(Listen::new(listener, false, |_| handshake::none))
    }

    /// Adds a listener with TLS. If the configuration names no protocols (ALPN), `h2` and
    /// `http/1.1` are offered.
    ///
    /// A connection counts as silent during its handshake. The handshake may take the time of a
    /// [head](Self::header_read_timeout), in a drain the [grace](crate::DrainBuilder::grace), and
    /// does not delay other connections.
    ///
    /// If the drain or a limit closes a connection, it ends with a close_notify. If a response is
    /// aborted, there is no close_notify, so that its client does not take the abort for the end of
    /// the response.
    ///
    /// ```no_run
    /// # use std::{error::Error, sync::Arc};
    /// use tokio::net::TcpListener;
    /// use tokio_rustls::rustls::ServerConfig;
    /// use tower_graceful::server::Serve;
    ///
    /// # async fn f(config: ServerConfig, app: axum::Router) -> Result<(), Box<dyn Error>> {
    /// let tcp = TcpListener::bind("0.0.0.0:443").await?;
    /// Serve::new(app)
    ///     .listen_rustls(tcp, Arc::new(config))
    ///     .exclusive() // no other process has the socket
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "rustls")]
    pub fn listen_rustls<L: Listener>(
        self,
        listener: L,
        config: Arc<tokio_rustls::rustls::ServerConfig>,
    ) -> Self {
        self.add(Listen::new(listener, false, |settings| {
            let acceptor = tls::acceptor(config, settings.protocol);
            move |io, _, connection| Box::pin(tls::accept(acceptor.accept(io), connection))
        }))
    }

    /// Adds a listener with a handshake of your own, such as TLS by another library than rustls, or
    /// the PROXY protocol of a balancer.
    ///
    /// The function gets each connection and its peer. It runs in the task of the connection, so it
    /// does not delay other connections. As with TLS, a connection counts as silent during its
    /// handshake, which may take the time of a [head](Self::header_read_timeout), and in a drain
    /// the [grace](crate::DrainBuilder::grace). Then it is dropped. An error closes the connection.
    /// With the feature `tracing`, both are logged at level `DEBUG`.
    ///
    /// A later close by a limit or by the drain drops the connection, too. Only over
    /// `listen_rustls` does it end with a close_notify then.
    ///
    /// `examples/proxy_protocol` reads the header of a balancer. With `tokio-native-tls`:
    ///
    /// ```ignore
    /// let acceptor = tokio_native_tls::TlsAcceptor::from(acceptor);
    /// let server = Serve::new(app).listen_with(tcp, move |io: TcpStream, _peer| {
    ///     let acceptor = acceptor.clone();
    ///     async move {
    ///         let io = acceptor.accept(io).await.map_err(io::Error::other)?;
    ///         Ok(Handshaken::new(io).over_tcp(|tls| Some(tls.get_ref().get_ref().get_ref())))
    ///     }
    /// });
    /// ```
    ///
    /// A handshake that only looks, and keeps the connection:
    ///
    /// ```no_run
    /// use std::io;
    /// use tokio::net::{TcpListener, TcpStream};
    /// use tower_graceful::server::{Handshaken, Serve};
    ///
    /// # async fn f(tcp: TcpListener, app: axum::Router) -> Result<(), tower_graceful::DrainTimeout> {
    /// // The first byte is not that of a TLS handshake.
    /// let server = Serve::new(app).listen_with(tcp, async |io: TcpStream, _peer| {
    ///     let mut first = [0];
    ///     match io.peek(&mut first).await? {
    ///         1.. if first[0] != 0x16 => Ok(Handshaken::new(io)),
    ///         _ => Err(io::ErrorKind::InvalidData.into()),
    ///     }
    /// });
    /// server.await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn listen_with<L, H, R, T>(self, listener: L, handshake: H) -> Self
    where
        L: Listener,
        H: Fn(L::Io, Peer) -> R + Send + Sync + 'static,
        R: Future<Output = io::Result<Handshaken<T>>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = Arc::new(handshake);
        self.add(Listen::new(listener, false, |_| {
            move |io, peer, _| Box::pin(handshake(io, peer))
        }))
    }

    fn add(mut self, listen: Listen<S>) -> Self {
        self.listeners.push(listen);
        self
    }
}

impl<S, F> Serve<S, F> {
    /// Declares that no other process has the sockets of the listeners: they were not inherited,
    /// and are not passed on.
    ///
    /// Then, on Linux, no client is reset that connects while the listeners close. A client with a
    /// half-done TCP handshake is served if the handshake ends within the
    /// [settling](crate::DrainBuilder::settle). See
    /// [`DrainListener::exclusive`](crate::net::DrainListener::exclusive). A listener of your own
    /// has to implement [`Listener::tcp_listener`] for that.
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

    /// Sets after how long without traffic an accepted TCP connection is probed by TCP keep-alive:
    /// see [`DrainListener::tcp_keepalive`](crate::net::DrainListener::tcp_keepalive). Default:
    /// `None`.
    pub fn tcp_keepalive(mut self, keepalive: impl Into<Option<Duration>>) -> Self {
        self.settings.tcp.keepalive = keepalive.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use hyper::body::Incoming;
    use std::convert::Infallible;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn b16_what_bind_has_bound_is_exclusive() {
        let service = tower::service_fn(async |_: Request<Incoming>| {
            Ok::<_, Infallible>(Response::new(String::new()))
        });
        let given = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let server = Serve::new(service).listen(given).bind("127.0.0.1:0").await;
        let server = server.expect("bound");
        let exclusive = |server: &Serve<_>| -> Vec<bool> {
            let listeners = server.listeners.iter();
            listeners
                .map(|listen| listen.is_exclusive(&server.settings))
                .collect()
        };
        assert_eq!(exclusive(&server), [false, true]);
        assert_eq!(exclusive(&server.exclusive()), [true, true]);
    }
}
