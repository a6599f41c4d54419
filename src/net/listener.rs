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

/// A listener whose connections a drain knows; from [`Drain::listener`].
///
/// # What it does
///
/// * Each connection that it accepts is [counted](crate::Left::connections) until it is dropped,
///   also when it has become a WebSocket or a tunnel, and is cut at the deadline: see [`DrainIo`].
/// * At the end of the lame duck it takes what waits in the accept queue, for up to 100 ms, and
///   then closes: the kernel refuses clients that connect from then on, and those that were there
///   before are served. (A client that comes in the microsecond between is reset, and so is one whose
///   TCP handshake is half done, unless the listener is [exclusive](DrainListener::exclusive).) It
///   says that it is done by accepting nothing more.
/// * TCP_NODELAY is set on what it accepts: see [`tcp_nodelay`](Self::tcp_nodelay).
///
/// Give the server [`Drain::shutdown_signal`] as its signal: it comes when no connection has
/// anything to say any more that it might lose.
///
/// # Servers
///
/// With the feature `axum` it implements axum's `serve::Listener`, over TCP and Unix listeners and
/// any other that axum can serve:
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
/// // Where nobody else has the socket, bind it so: `drain.bind("127.0.0.1:3000").await?`.
/// let server = axum::serve(drain.listener(tcp), app)
///     .with_graceful_shutdown(drain.shutdown_signal());
/// println!("{}", drain.run(server, signal::terminate()).await?);
/// # Ok(())
/// # }
/// ```
///
/// With the feature `tonic` it is a stream of connections for `serve_with_incoming_shutdown`. And
/// in a loop by hand there is [`accept`](Self::accept).
///
/// # Listeners inside of others
///
/// What axum's `ListenerExt` has, belongs around it, `drain.listener(tcp).tap_io(..)`, and so does
/// TLS: the guide of axum has a listener that makes handshakes around this one. A connection is then
/// counted from its accept on, and its handshake has the [grace](crate::DrainBuilder::grace).
///
/// Of a listener inside that it does not know, this one can see neither the accept queue nor
/// connections that are accepted and not handed over, in the middle of a handshake say. So, at the end
/// of the lame duck, it polls that listener until the [settling](crate::DrainBuilder::settle) is over,
/// then drops it. Whatever is handed over within the settling is served: lengthen that where
/// handshakes take longer. A server with such a listener takes the settling in full even if no
/// connection is open. The `accept` of the listener inside has to be cancel safe, as for axum itself:
/// a server may drop its future and call it again.
#[derive(Debug)]
pub struct DrainListener<L> {
    listening: Listening<L>,
    exclusive: bool,
    /// The socket that a listener of one's own is around, if it says so.
    tcp: fn(&L) -> Option<&TcpListener>,
    options: SocketOptions,
    state: ListenerState,
    backoff: Backoff,
}

#[derive(Debug)]
enum Listening<L> {
    To(L),
    Backlog(Backlog),
    Closed,
}

impl<L> DrainListener<L> {
    pub(super) fn new(listener: L, drain: &Drain) -> Self {
        Self {
            listening: Listening::To(listener),
            exclusive: false,
            tcp: |_| None,
            options: SocketOptions::default(),
            state: ListenerState::new(drain),
            backoff: Backoff::default(),
        }
    }

    /// The listener itself, as long as it is one: at the end it is emptied, and closed.
    pub fn get_ref(&self) -> Option<&L> {
        match &self.listening {
            Listening::To(listener) => Some(listener),
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

    /// Sets whether TCP_NODELAY is set on accepted TCP connections. Default: `true`, as in Go and in
    /// tonic's own server.
    ///
    /// With `false`, a small write may wait for the acknowledgement of the one before, which a client
    /// may delay by 40 ms.
    pub fn tcp_nodelay(mut self, nodelay: bool) -> Self {
        self.options.nodelay = nodelay;
        self
    }

    /// Sets after how long without traffic an accepted TCP connection is probed by TCP keep-alive.
    /// Default: `None`, no keep-alive.
    ///
    /// The number of probes and the time between them are the system's.
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
        // In this order: who is told that it has closed may connect to see.
        self.listening = Listening::Closed;
        self.state.close();
    }
}

impl DrainListener<TcpListener> {
    /// Says that this process alone has the socket, as after [`Drain::bind`]: it was not inherited,
    /// from systemd or a parent, and is not passed on to a successor.
    ///
    /// Then no client is reset that connects at the very end: while the accept queue is emptied, on
    /// Linux, new clients are refused, as they are after that. (Where the system does not allow that,
    /// before Linux 5.7, their SYNs are dropped, by a socket filter: they try again after a second,
    /// and are refused.)
    ///
    /// A client whose TCP handshake is half done at that moment is served if the handshake ends within
    /// the [settling](crate::DrainBuilder::settle), which is a matter of round-trip time. A server
    /// without a connection and without such a handshake closes at once.
    ///
    /// A shared socket can have none of that: a filter or a binding would make it deaf for the other
    /// processes, too, and without them there is always another half-done handshake, so the last ones
    /// are reset. Let the other process accept them: keep a duplicate of the socket there.
    pub fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// Returns the address that it listens on.
    ///
    /// # Errors
    ///
    /// Those of [`TcpListener::local_addr`], and one of the kind
    /// [`NotConnected`](io::ErrorKind::NotConnected) once the drain has closed the listener.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.open()?.local_addr()
    }

    /// The next connection, and where it comes from; `None` once the drain has closed the listener.
    /// Then tell your connections to stop at [`Drain::shutdown_signal`].
    ///
    /// Errors of a connection are skipped, as in `axum::serve`; when none can be accepted (for want
    /// of file descriptors), it tries again after 5 ms, then after twice as long, up to a second, as
    /// Go does.
    ///
    /// Cancel safe: what was not returned is still in the queue.
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
    /// Returns the address that it listens on: see [the other
    /// one](DrainListener::<TcpListener>::local_addr).
    ///
    /// # Errors
    ///
    /// Likewise.
    pub fn local_addr(&self) -> io::Result<unix::SocketAddr> {
        self.open()?.local_addr()
    }

    /// Likewise, for a Unix socket: see [the other one](DrainListener::<TcpListener>::accept).
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

    /// Whether connections come as they do: it is neither emptied nor closed.
    #[cfg(feature = "server")]
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> bool {
        self.state.poll(cx) == ListenerStage::Open
    }

    /// What was accepted, and counted.
    pub(crate) fn poll_registered<T: 'static, A: 'static>(
        &mut self,
        cx: &mut Context<'_>,
        accept: impl Fn(&mut L, &mut Context<'_>) -> Poll<io::Result<(T, A)>>,
    ) -> Poll<Option<(T, A, ConnectionGuard)>> {
        self.poll_door(cx);
        let Self {
            listening,
            state,
            backoff,
            ..
        } = self;
        let next = match listening {
            Listening::To(listener) if state.stage() == ListenerStage::Open => {
                Some(ready!(backoff.poll(cx, |cx| accept(listener, cx))))
            }
            Listening::To(listener) => ready!(state.poll_silence(cx, |cx| {
                backoff.poll(cx, |cx| accept(listener, cx)).map(Some)
            })),
            Listening::Backlog(queue) => ready!(state.poll_queue(cx, || queue.take())),
            Listening::Closed => return Poll::Ready(None),
        };
        Poll::Ready(self.admit(next))
    }

    /// When it is time, keeps new clients out and takes the queue from the listener, if that is
    /// possible.
    fn poll_door(&mut self, cx: &mut Context<'_>) {
        if self.state.poll(cx) != ListenerStage::Backlog
            || !matches!(self.listening, Listening::To(_))
        {
            return;
        }
        if let Listening::To(listener) = std::mem::replace(&mut self.listening, Listening::Closed) {
            // Once.
            if std::mem::take(&mut self.exclusive) {
                self.refuse_new(&listener);
            }
            self.listening = match Backlog::of(listener) {
                Ok(queue) => Listening::Backlog(queue),
                Err(Some(listener)) => Listening::To(listener),
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

    /// Counts what was accepted; closes if that was the last one.
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

/// Ends when servers are told, not before.
impl Stream for DrainListener<TcpListener> {
    type Item = io::Result<DrainIo<TcpStream>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut()
            .poll_stream(cx, |tcp, cx| tcp.poll_accept(cx))
    }
}

/// Ends when servers are told, not before.
#[cfg(unix)]
impl Stream for DrainListener<UnixListener> {
    type Item = io::Result<DrainIo<UnixStream>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut()
            .poll_stream(cx, |unix, cx| unix.poll_accept(cx))
    }
}

/// Once closed it accepts nothing, for ever: the server stops at its own signal.
#[cfg(feature = "axum")]
impl<L: axum::serve::Listener> axum::serve::Listener for DrainListener<L> {
    type Io = DrainIo<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            poll_fn(|cx| {
                self.poll_door(cx);
                Poll::Ready(())
            })
            .await;
            let Self {
                listening, state, ..
            } = self;
            let next = match listening {
                Listening::To(listener) => {
                    let mut accept = pin!(listener.accept());
                    let next = poll_fn(|cx| match state.poll(cx) {
                        ListenerStage::Open => accept.as_mut().poll(cx).map(Some).map(Ok),
                        _ if Backlog::is_of::<L>() => Poll::Ready(Err(())),
                        // What has begun in it goes on: a handshake, perhaps.
                        _ => state
                            .poll_silence(cx, |cx| accept.as_mut().poll(cx).map(Some))
                            .map(Ok),
                    });
                    let Ok(next) = next.await else { continue };
                    next
                }
                Listening::Backlog(queue) => {
                    poll_fn(|cx| state.poll_queue(cx, || queue.take())).await
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

/// What is done about an accept that fails: Go's, see `Server.Serve`.
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
