use super::{
    backlog::Backlog,
    closing::{ListenerStage, ListenerState, is_of_the_connection},
    drain_io::DrainIo,
    socket::SocketOptions,
};
use crate::{
    drain::{ConnectionGuard, Drain},
    log,
};
use futures_core::Stream;
#[cfg(feature = "axum")]
use std::pin::pin;
use std::{
    any::Any,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream, unix};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Sleep, sleep},
};

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
    exclusive: bool,
    /// Returns the TCP listener inside of a custom listener, if it has one.
    tcp: fn(&L) -> Option<&TcpListener>,
    options: SocketOptions,
    state: ListenerState,
    backoff: Backoff,
}

#[derive(Debug)]
enum Listening<L> {
    Inner(L),
    Backlog(Backlog),
    Closed,
}

impl<L> DrainListener<L> {
    pub(super) fn new(listener: L, drain: &Drain) -> Self {
        Self {
            listening: Listening::Inner(listener),
            exclusive: false,
            tcp: |_| None,
            options: SocketOptions::default(),
            state: ListenerState::new(drain),
            backoff: Backoff::default(),
        }
    }

    /// Returns the inner listener; `None` once its queue is being emptied or it is closed.
    pub fn get_ref(&self) -> Option<&L> {
        match &self.listening {
            Listening::Inner(listener) => Some(listener),
            Listening::Backlog(_) | Listening::Closed => None,
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
        self.options.nodelay = nodelay;
        self
    }

    /// Sets after how long without traffic an accepted TCP connection is probed by TCP keep-alive.
    /// Default: `None`, no keep-alive.
    ///
    /// The number of probes and the time between them are settings of the system.
    pub fn tcp_keepalive(mut self, keepalive: impl Into<Option<Duration>>) -> Self {
        self.options.keepalive = keepalive.into();
        self
    }

    #[cfg(feature = "server")]
    pub(crate) fn with(
        mut self,
        exclusive: bool,
        tcp: fn(&L) -> Option<&TcpListener>,
        options: SocketOptions,
    ) -> Self {
        self.exclusive = exclusive;
        self.tcp = tcp;
        self.options = options;
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
    /// Then no client is reset that connects while the listener closes. On Linux, new clients are
    /// refused from the time on when the accept queue is emptied. Where the system does not allow
    /// that, before Linux 5.7, a socket filter drops their SYNs: they try again after a second, and
    /// are refused.
    ///
    /// A client with a half-done TCP handshake is served if the handshake ends within the
    /// [settling](crate::DrainBuilder::settle). That depends on its round-trip time. Without such a
    /// handshake and without an open connection, the settling ends at once.
    ///
    /// A shared socket cannot have this, as the filter or the binding would stop the other
    /// processes from accepting too. Without them new handshakes go on, and the last ones are
    /// reset. To avoid that, keep a duplicate of the socket in the other process, which accepts
    /// those connections.
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
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
            Some((DrainIo::accepted(io, registered), address))
        })
    }

    /// Returns whether the listener is neither being emptied nor closed.
    #[cfg(feature = "server")]
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.state.poll(cx) == ListenerStage::Open
    }

    /// Accepts the next connection, and counts it. Returns `None` once the listener is closed.
    pub(crate) fn poll_registered<T: 'static, A: 'static>(
        &mut self,
        cx: &mut Context<'_>,
        accept: impl Fn(&mut L, &mut Context<'_>) -> Poll<io::Result<(T, A)>>,
    ) -> Poll<Option<(T, A, ConnectionGuard)>> {
        self.poll_stop(cx);
        let Self {
            listening,
            state,
            backoff,
            ..
        } = self;
        let next = match listening {
            Listening::Inner(listener) if state.stage() == ListenerStage::Open => {
                Some(ready!(backoff.poll(cx, |cx| accept(listener, cx))))
            }
            Listening::Inner(listener) => ready!(state.poll_inner(cx, |cx| {
                backoff.poll(cx, |cx| accept(listener, cx)).map(Some)
            })),
            Listening::Backlog(queue) => ready!(state.poll_backlog(cx, || queue.take())),
            Listening::Closed => return Poll::Ready(None),
        };
        Poll::Ready(self.admit(next))
    }

    /// Refuses new clients and takes the accept queue at the end of LameDuck, as far as possible.
    fn poll_stop(&mut self, cx: &mut Context<'_>) {
        if self.state.poll(cx) != ListenerStage::Backlog
            || !matches!(self.listening, Listening::Inner(_))
        {
            return;
        }
        if let Listening::Inner(listener) =
            std::mem::replace(&mut self.listening, Listening::Closed)
        {
            // Once: a listener without a readable queue gets here again.
            if std::mem::take(&mut self.exclusive) {
                self.refuse_new(&listener);
            }
            self.listening = match Backlog::of(listener) {
                Ok(queue) => Listening::Backlog(queue),
                Err(Some(listener)) => Listening::Inner(listener),
                Err(None) => return self.state.close(),
            };
        }
    }

    fn refuse_new(&mut self, listener: &L) {
        let tcp = (listener as &dyn Any).downcast_ref();
        let Some(tcp) = tcp.or_else(|| (self.tcp)(listener)) else {
            return;
        };
        if let (true, Ok(address)) = (Backlog::refuse_new(tcp), tcp.local_addr()) {
            self.state.wait_for_handshakes(address.port());
        }
    }

    /// Counts an accepted connection. Closes the listener if there is none, or if the drain admits
    /// none.
    fn admit<T: 'static, A: 'static>(
        &mut self,
        next: Option<(T, A)>,
    ) -> Option<(T, A, ConnectionGuard)> {
        let admitted = next.and_then(|(io, address)| {
            let peer = (&address as &dyn Any).downcast_ref().copied();
            let registered = ConnectionGuard::enter(self.state.shared(), peer)?;
            self.options.set(&io);
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
        loop {
            poll_fn(|cx| {
                self.poll_stop(cx);
                Poll::Ready(())
            })
            .await;
            let Self {
                listening, state, ..
            } = self;
            let next = match listening {
                Listening::Inner(listener) => {
                    let mut accept = pin!(listener.accept());
                    let next = poll_fn(|cx| match state.poll(cx) {
                        ListenerStage::Open => accept.as_mut().poll(cx).map(Some).map(Ok),
                        _ if Backlog::is_of::<L>() => Poll::Ready(Err(())),
                        // The same future goes on, as it may be in the middle of a handshake.
                        _ => state
                            .poll_inner(cx, |cx| accept.as_mut().poll(cx).map(Some))
                            .map(Ok),
                    });
                    let Ok(next) = next.await else { continue };
                    next
                }
                Listening::Backlog(queue) => {
                    poll_fn(|cx| state.poll_backlog(cx, || queue.take())).await
                }
                Listening::Closed => return std::future::pending().await,
            };
            if let Some((io, address, registered)) = self.admit(next) {
                return (DrainIo::accepted(io, registered), address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.open()?.local_addr()
    }
}

/// Retries an accept that fails, with the delays of Go's `Server.Serve`.
#[derive(Debug, Default)]
struct Backoff {
    last: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Backoff {
    fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<T> {
        const FIRST: Duration = Duration::from_millis(5);
        const LAST: Duration = Duration::from_secs(1);
        loop {
            if let Some(sleep) = &mut self.sleep {
                ready!(sleep.as_mut().poll(cx));
                self.sleep = None;
            }
            match ready!(accept(cx)) {
                Ok(accepted) => {
                    self.last = Duration::ZERO;
                    return Poll::Ready(accepted);
                }
                Err(error) if is_of_the_connection(&error) => {}
                Err(error) => {
                    log::accept_error(&error);
                    self.last = (self.last * 2).clamp(FIRST, LAST);
                    self.sleep = Some(Box::pin(sleep(self.last)));
                }
            }
        }
    }
}
