#[cfg(feature = "axum")]
use super::backlog::has_readable_queue;
#[cfg(feature = "server")]
use super::socket::SocketOptions;
use super::{
    backlog::Listening,
    closing::{ListenerState, poll_logged},
    closing_handshake::CloseWebSockets,
    drain_io::DrainIo,
};
#[cfg(feature = "axum")]
use crate::drain::Fact;
use crate::drain::{ConnectionGuard, Drain};
use futures_core::Stream;
use std::{
    any::Any,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
#[cfg(feature = "axum")]
use std::{
    future::{Future, pending},
    pin::pin,
};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream, unix};

/// Accepts connections and counts them for a drain; made by [`Drain::listener`].
///
/// # What it does
///
/// * Each connection that it accepts is [counted](crate::report::Counts::connections) until it is
///   dropped, also as a WebSocket or a tunnel. At the deadline it is aborted: see [`DrainIo`].
/// * At the end of the lame duck it accepts what is in the accept queue, for up to 100 ms, and then
///   closes. Those clients are served, and the kernel refuses clients that connect later. A client
///   that connects in the microsecond between is reset, and so is one with a half-done TCP
///   handshake, unless the listener is [exclusive](DrainListener::exclusive).
/// * TCP_NODELAY is set on each connection: see [`tcp_nodelay`](Self::tcp_nodelay).
///
/// Give the server [`Drain::shutdown_signal`]. It completes when no connection may still deliver a
/// request that the server would lose.
///
/// # Servers
///
/// With the feature `axum` it implements axum's `serve::Listener`, over TCP and Unix listeners and
/// any other listener that axum can serve:
///
#[cfg_attr(feature = "axum", doc = "```no_run")]
#[cfg_attr(not(feature = "axum"), doc = "```ignore")]
/// use axum::{Router, routing::get};
/// use tower_graceful::{Drain, signal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let drain = Drain::new();
/// let app = Router::new().route("/", get("hello")).layer(drain.layer());
/// let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
///
/// // If no other process has the socket: `drain.bind("127.0.0.1:3000").await?`.
/// let server = axum::serve(drain.listener(tcp), app)
///     .with_graceful_shutdown(drain.shutdown_signal());
/// println!("{}", drain.run(server, signal::terminate()).await?);
/// # Ok(())
/// # }
/// ```
///
/// With the feature `tonic`, give it to `serve_with_incoming_shutdown`, as it is a stream of
/// connections. In a loop of your own, use [`accept`](Self::accept).
///
/// # Listeners inside of others
///
/// Put axum's `ListenerExt` around this listener, as `drain.listener(tcp).tap_io(..)`, and TLS too:
/// the axum guide has a listener that makes handshakes around this one. A connection is then
/// counted from its accept on, and its handshake may take the [grace](crate::DrainBuilder::grace).
///
/// If the inner listener is of an unknown type, its accept queue cannot be read. It may also hold
/// connections that it has accepted and not yet returned, in the middle of a handshake for example.
/// So it is polled until the [settling](crate::DrainBuilder::settle) is over, and then dropped. A
/// connection that it returns within the settling is served: set a longer one if handshakes take
/// longer. The settling then takes its full time even if no connection is open.
///
/// The `accept` of the inner listener has to be cancel safe, as for axum itself: a server may drop
/// its future and call it again.
#[derive(Debug)]
pub struct DrainListener<L> {
    listening: Listening<L>,
    /// Returns the socket, if no other process has it. `None` too once it refuses new clients.
    exclusive: Option<fn(&L) -> Option<&TcpListener>>,
    close_websockets: Arc<CloseWebSockets>,
    state: ListenerState,
}

impl<L> DrainListener<L> {
    pub(super) fn new(listener: L, drain: &Drain) -> Self {
        Self {
            listening: Listening::Inner(listener),
            exclusive: None,
            close_websockets: Arc::default(),
            state: ListenerState::new(drain),
        }
    }

    /// Returns the inner listener; `None` once its queue is being emptied or it is closed.
    pub fn get_ref(&self) -> Option<&L> {
        match &self.listening {
            Listening::Inner(listener) => Some(listener),
            _ => None,
        }
    }

    fn open(&self) -> io::Result<&L> {
        self.get_ref().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::NotConnected,
                "the drain has closed the listener",
            )
        })
    }

    /// Sets whether TCP_NODELAY is set on accepted TCP connections. Default: `true`, as in Go and
    /// in tonic's own server.
    ///
    /// With `false`, a small write may wait for the acknowledgement of the one before, which a
    /// client may delay by 40 ms.
    pub fn tcp_nodelay(mut self, nodelay: bool) -> Self {
        self.state.options.nodelay = nodelay;
        self
    }

    /// Sets after how long without traffic an accepted TCP connection is probed by TCP keep-alive.
    /// Default: `None`, no keep-alive.
    ///
    /// The number of probes and the time between them are settings of the system.
    pub fn tcp_keepalive(mut self, keepalive: impl Into<Option<Duration>>) -> Self {
        self.state.options.keepalive = keepalive.into();
        self
    }

    /// Has the drain close WebSockets, with a Close frame of this status code and reason. Default:
    /// only their handlers close them.
    ///
    /// Neither the handler nor its library has to know of the drain. The library may be axum's,
    /// tungstenite, fastwebsockets or any other, with and without compression (permessage-deflate).
    /// For each WebSocket:
    ///
    /// 1. At [`Draining`](crate::Phase::Draining), its handler has 100 ms to send a Close frame by
    ///    itself. If it does, the drain sends nothing, and waits for that WebSocket to end.
    /// 2. The drain writes the Close frame, between two frames of the server. What the server
    ///    writes after that is discarded.
    /// 3. The handler still reads what the client sends. After the client's Close frame, or after
    ///    5 s without it, the handler reads the end of the connection. After those 5 s, its writes
    ///    fail as well. With most libraries, its loop ends then.
    /// 4. At the [deadline](crate::DrainBuilder::timeout), a WebSocket that is still open is
    ///    aborted and [reported](crate::report::ConnectionState::Upgraded).
    ///
    /// 1001, "going away", is the code for a server that stops. To keep all clients from coming
    /// back at once, set [`close_websockets_over`](Self::close_websockets_over).
    ///
    /// # What it cannot close
    ///
    /// * A WebSocket over HTTP/2 ([RFC 8441](https://www.rfc-editor.org/rfc/rfc8441)), whose frames
    ///   are parts of a stream.
    /// * A WebSocket inside of TLS that was put around this listener: its bytes are encrypted.
    ///   [`Serve::close_websockets`](crate::Serve::close_websockets) closes those of `serve`'s own
    ///   TLS.
    /// * A WebSocket whose handler neither reads nor writes.
    /// * A WebSocket in the middle of a frame that its handler does not end, or that its client
    ///   does not read. It is cut at the deadline.
    ///
    /// The handlers of the first three have to wait for [`Drain::reached`] and close them. A drain
    /// that is [forced](crate::Drain::force) before [`Draining`](crate::Phase::Draining), as by a
    /// second signal in the lame duck, cuts WebSockets without a Close frame.
    ///
    /// # Panics
    ///
    /// Panics if the code may not be sent ([RFC 6455, section
    /// 7.4](https://www.rfc-editor.org/rfc/rfc6455#section-7.4)): it has to be 1000 to 1003, 1007
    /// to 1014 or 3000 to 4999. Panics if the reason has more than 123 bytes.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_graceful::Drain;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let drain = Drain::new();
    /// let listener = drain
    ///     .bind("127.0.0.1:0")
    ///     .await?
    ///     .close_websockets(1001, "the server restarts")
    ///     .close_websockets_over(Duration::from_secs(10));
    /// # Ok(())
    /// # }
    /// ```
    pub fn close_websockets(mut self, code: u16, reason: &str) -> Self {
        Arc::make_mut(&mut self.close_websockets).set(code, reason);
        self
    }

    /// Spreads the Close frames over this duration: each WebSocket gets its own at a random moment,
    /// so that the clients do not all connect anew in one instant. Default: zero.
    ///
    /// The last Close frame is sent after nine tenths of the time to the
    /// [deadline](crate::DrainBuilder::timeout) at the latest, so that clients can answer. The
    /// drain takes as long as the spread. Without effect unless WebSockets
    /// [are closed](Self::close_websockets).
    pub fn close_websockets_over(mut self, duration: Duration) -> Self {
        Arc::make_mut(&mut self.close_websockets).over = duration;
        self
    }

    #[cfg(feature = "server")]
    pub(crate) fn with(
        mut self,
        exclusive: bool,
        tcp: fn(&L) -> Option<&TcpListener>,
        options: SocketOptions,
    ) -> Self {
        self.exclusive = exclusive.then_some(tcp);
        self.state.options = options;
        self
    }

    fn close(&mut self) {
        // Close the socket first: a waiter that learns of the close may connect to check it.
        self.listening = Listening::Closed;
        self.state.close();
    }
}

impl DrainListener<TcpListener> {
    /// Declares that no other process has the socket, as after [`Drain::bind`]: it was not
    /// inherited from systemd or a parent, and is not passed on to a successor.
    ///
    /// Then, on Linux, no client is reset that connects while the listener closes: new clients are
    /// refused from the time on when the accept queue is emptied. Where the system does not allow
    /// that, before Linux 5.7, a socket filter drops their SYNs: they try again after a second, and
    /// are refused.
    ///
    /// A client with a half-done TCP handshake is served if the handshake ends within the
    /// [settling](crate::DrainBuilder::settle). That depends on its round-trip time. Without such a
    /// handshake and without an open connection, the settling ends at once.
    ///
    /// Do not call this for a shared socket: the other processes could not accept either. On a
    /// shared socket, clients go on connecting until the close, and the last ones are reset. To
    /// avoid that, keep a duplicate of the socket in the other process, which accepts those
    /// connections.
    pub fn exclusive(mut self) -> Self {
        self.exclusive = Some(|tcp| Some(tcp));
        self
    }

    /// Returns the address that the listener is bound to.
    ///
    /// # Errors
    ///
    /// Fails as [`TcpListener::local_addr`] does, and with the kind
    /// [`NotConnected`](io::ErrorKind::NotConnected) once the drain has closed the listener.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.open()?.local_addr()
    }

    /// Accepts the next connection, and returns it with its peer's address. Returns `None` once the
    /// drain has closed the listener.
    ///
    /// After that, wait for [`Drain::shutdown_signal`] and shut down the open connections.
    ///
    /// Errors of one connection are skipped, as in `axum::serve`. After any other error, such as a
    /// lack of file descriptors, it tries again after 5 ms. The delay doubles with each error, up
    /// to a second, as in Go.
    ///
    /// Cancel safe: a connection that was not returned is still in the queue.
    ///
    /// ```
    /// use tower_graceful::Drain;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let drain = Drain::new();
    /// let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let mut listener = drain.listener(tcp);
    /// # drain.begin();
    /// while let Some((io, peer)) = listener.accept().await {
    ///     tokio::spawn(async move { /* serve it */ });
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn accept(&mut self) -> Option<(DrainIo<TcpStream>, SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx, |tcp, cx| tcp.poll_accept(cx))).await
    }
}

#[cfg(unix)]
impl DrainListener<UnixListener> {
    /// Returns the address that the listener is bound to; see
    /// [`local_addr`](DrainListener::<TcpListener>::local_addr) of TCP.
    ///
    /// # Errors
    ///
    /// Fails as [`UnixListener::local_addr`] does, and with the kind
    /// [`NotConnected`](io::ErrorKind::NotConnected) once the drain has closed the listener.
    pub fn local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.open()?.local_addr()
    }

    /// Accepts the next connection of a Unix socket; see
    /// [`accept`](DrainListener::<TcpListener>::accept) of TCP.
    ///
    /// Cancel safe, as that one.
    pub async fn accept(&mut self) -> Option<(DrainIo<UnixStream>, unix::SocketAddr)> {
        poll_fn(|cx| self.poll_accept(cx, |unix, cx| unix.poll_accept(cx))).await
    }
}

impl<L: 'static> DrainListener<L> {
    fn poll_accept<T: 'static, A: 'static>(
        &mut self,
        cx: &mut Context<'_>,
        accept: impl Fn(&mut L, &mut Context<'_>) -> Poll<io::Result<(T, A)>>,
    ) -> Poll<Option<(DrainIo<T>, A)>> {
        self.poll_registered(cx, accept).map(|accepted| {
            let (io, address, registered) = accepted?;
            Some((self.wrap(io, registered), address))
        })
    }

    fn wrap<T: 'static>(&self, io: T, registered: ConnectionGuard) -> DrainIo<T> {
        DrainIo::accepted(io, registered).close_websockets(self.close_websockets.share())
    }

    /// Returns whether the listener is neither being emptied nor closed.
    #[cfg(feature = "server")]
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.state.poll_open(cx)
    }

    /// Accepts the next connection, and counts it. Returns `None` once the listener is closed.
    pub(crate) fn poll_registered<T: 'static, A: 'static>(
        &mut self,
        cx: &mut Context<'_>,
        accept: impl Fn(&mut L, &mut Context<'_>) -> Poll<io::Result<(T, A)>>,
    ) -> Poll<Option<(T, A, ConnectionGuard)>> {
        if !self.state.poll_open(cx) {
            self.state.stop(&mut self.listening, &mut self.exclusive);
        }
        let next = match &mut self.listening {
            Listening::Inner(listener) => self
                .state
                .poll_accept(cx, |cx| poll_logged(|| accept(listener, cx))),
            Listening::Closed => Poll::Ready(None),
            queue => self
                .state
                .poll_accept(cx, |_| poll_logged(|| queue.poll_take())),
        };
        next.map(|next| self.admit(next))
    }

    /// Counts an accepted connection. Closes the listener if there is none, or if the drain admits
    /// none.
    fn admit<T: 'static, A: 'static>(
        &mut self,
        next: Option<(T, A)>,
    ) -> Option<(T, A, ConnectionGuard)> {
        let admitted = next.and_then(|(io, address)| {
            let peer = (&address as &dyn Any).downcast_ref().copied();
            let registered = self.state.admit(&io, peer)?;
            Some((io, address, registered))
        });
        if admitted.is_none() {
            self.close();
        }
        admitted
    }

    fn poll_stream<T: 'static, A: 'static>(
        &mut self,
        cx: &mut Context<'_>,
        accept: impl Fn(&mut L, &mut Context<'_>) -> Poll<io::Result<(T, A)>>,
    ) -> Poll<Option<io::Result<DrainIo<T>>>> {
        match ready!(self.poll_accept(cx, accept)) {
            Some((io, _)) => Poll::Ready(Some(Ok(io))),
            None => self.state.poll_ended(cx).map(|()| None),
        }
    }
}

/// Yields connections, and ends when servers get their shutdown signal.
impl Stream for DrainListener<TcpListener> {
    type Item = io::Result<DrainIo<TcpStream>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut()
            .poll_stream(cx, |tcp, cx| tcp.poll_accept(cx))
    }
}

/// Yields connections, and ends when servers get their shutdown signal.
#[cfg(unix)]
impl Stream for DrainListener<UnixListener> {
    type Item = io::Result<DrainIo<UnixStream>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut()
            .poll_stream(cx, |unix, cx| unix.poll_accept(cx))
    }
}

/// Accepts connections, and stays pending once closed: the server stops at its own signal.
#[cfg(feature = "axum")]
impl<L: axum::serve::Listener> axum::serve::Listener for DrainListener<L> {
    type Io = DrainIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        self.state.shared.record(Fact::AxumAccepts);
        if let Listening::Inner(listener) = &mut self.listening {
            let has_queue = has_readable_queue(listener);
            let accepted = {
                let mut accept = pin!(listener.accept());
                let state = &mut self.state;
                poll_fn(|cx| match state.poll_open(cx) {
                    // The queue is taken below.
                    false if has_queue => Poll::Ready(None),
                    // The same future goes on after LameDuck, as it may be in the middle of a
                    // handshake.
                    _ => state.poll_accept(cx, |cx| accept.as_mut().poll(cx).map(Some)),
                })
                .await
            };
            let admitted = accepted.and_then(|accepted| self.admit(Some(accepted)));
            if let Some((io, address, registered)) = admitted {
                return (self.wrap(io, registered), address);
            }
        }
        match poll_fn(|cx| self.poll_accept(cx, |_, _| Poll::Pending)).await {
            Some(accepted) => accepted,
            None => pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.open()?.local_addr()
    }
}
