//! Abstracts over listeners, and describes their connections.

use super::handle::ConnectionHandle;
use std::{
    any::Any,
    io,
    net::SocketAddr,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
#[cfg(unix)]
use {
    std::sync::Arc,
    tokio::net::{UnixListener, UnixStream, unix},
};

/// Accepts connections for [`serve`](crate::serve).
///
/// Tokio's TCP and Unix listeners implement it. Implement it for a listener of your own, such as
/// one that drops clients from other networks:
///
/// ```
/// use std::{io, net::SocketAddr, task::{Context, Poll, ready}};
/// use tokio::net::{TcpListener, TcpStream};
/// use tower_graceful::server::Listener;
///
/// struct Private(TcpListener);
///
/// impl Listener for Private {
///     type Io = TcpStream;
///     type Addr = SocketAddr;
///
///     fn poll_accept(
///         &mut self,
///         cx: &mut Context<'_>,
///     ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
///         loop {
///             let (stream, peer) = ready!(TcpListener::poll_accept(&self.0, cx))?;
///             match peer.ip().to_canonical() {
///                 std::net::IpAddr::V4(ip) if ip.is_private() || ip.is_loopback() => {
///                     return Poll::Ready(Ok((stream, peer)));
///                 }
///                 _ => drop(stream),
///             }
///         }
///     }
///
///     // With it, `Serve::exclusive` works through this listener.
///     fn tcp_listener(&self) -> Option<&TcpListener> {
///         Some(&self.0)
///     }
/// }
/// ```
///
/// For TCP_NODELAY and TCP keep-alive you need no listener of your own: see
/// [`Serve::tcp_nodelay`](super::Serve::tcp_nodelay) and
/// [`Serve::tcp_keepalive`](super::Serve::tcp_keepalive).
///
/// # In a drain
///
/// The accept queue of tokio's listeners is emptied, and they are closed. The queue of any other
/// listener cannot be read. It is polled until the [settling](crate::DrainBuilder::settle) is over,
/// and then dropped.
///
/// Such a listener may have accepted a connection that it has not returned, in the middle of a
/// handshake for example. The connection is served if it is returned within the settling: set a
/// longer one if handshakes take longer. The settling then takes its full time even if no
/// connection is open.
#[diagnostic::on_unimplemented(
    message = "`serve` cannot accept connections from `{Self}`",
    label = "is not a listener for `serve`",
    note = "give it tokio's `TcpListener` or `UnixListener`, not the drain's listener or the standard \
            library's (`TcpListener::from_std`), or use `Serve::bind(address)`"
)]
pub trait Listener: Send + 'static {
    /// Names the type of a connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// Names the type of a peer's address.
    type Addr: Into<Peer> + 'static;

    /// Accepts the next connection.
    ///
    /// An error of one connection is skipped. After any other error, this is called again after 5
    /// ms, then after twice as long, up to a second.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, Self::Addr)>>;

    /// Returns the TCP listener that this one accepts from, if there is one. Default: `None`.
    ///
    /// On Linux, [`Serve::exclusive`](super::Serve::exclusive) needs it to refuse new clients while
    /// the accept queue is emptied. Without it, a client that connects while the listener closes is
    /// reset.
    fn tcp_listener(&self) -> Option<&TcpListener> {
        None
    }
}

impl Listener for TcpListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        Self::poll_accept(self, cx)
    }

    fn tcp_listener(&self) -> Option<&TcpListener> {
        Some(self)
    }
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Io = UnixStream;
    type Addr = unix::SocketAddr;

    fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(UnixStream, unix::SocketAddr)>> {
        Self::poll_accept(self, cx)
    }
}

/// Names the peer of a connection.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Peer {
    /// Holds the peer's address, over TCP.
    Tcp(SocketAddr),
    /// Holds the peer's address, over a Unix socket; mostly unnamed.
    #[cfg(unix)]
    Unix(Arc<unix::SocketAddr>),
    /// Says that the listener gives no address.
    #[default]
    Unknown,
}

impl Peer {
    /// Returns the peer's address, if the connection is over TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            _ => None,
        }
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

#[cfg(unix)]
impl From<unix::SocketAddr> for Peer {
    fn from(address: unix::SocketAddr) -> Self {
        Self::Unix(Arc::new(address))
    }
}

impl From<()> for Peer {
    fn from((): ()) -> Self {
        Self::Unknown
    }
}

/// Describes a connection whose handshake is done, for
/// [`Serve::on_connect`](super::Serve::on_connect).
#[derive(Clone, Copy, Debug)]
pub struct ConnectionInfo<'a> {
    pub(super) io: &'a dyn Any,
    pub(super) peer: &'a Peer,
    pub(super) handle: &'a ConnectionHandle,
    #[cfg(feature = "rustls")]
    pub(super) tls: Option<&'a tokio_rustls::rustls::ServerConnection>,
}

impl<'a> ConnectionInfo<'a> {
    /// Returns the peer.
    pub fn peer(&self) -> &'a Peer {
        self.peer
    }

    /// Returns the connection below rustls, if it is of this type. Use it to get the peer
    /// credentials of a `UnixStream`, for example. After a [handshake of your
    /// own](super::Serve::listen_with) it is what the handshake has returned.
    pub fn io<T: Any>(&self) -> Option<&'a T> {
        self.io.downcast_ref()
    }

    /// Returns a handle by which the connection can be closed, from a handler or from elsewhere.
    pub fn handle(&self) -> ConnectionHandle {
        self.handle.clone()
    }

    /// Returns the TLS state: the peer's certificates, the server name, the negotiated protocol.
    #[cfg(feature = "rustls")]
    pub fn tls(&self) -> Option<&'a tokio_rustls::rustls::ServerConnection> {
        self.tls
    }
}

/// Names the version of HTTP on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}
