//! What can be listened to, and what is done before a request can come.

use crate::{drain::Connection, net};
use http::Extensions;
use std::{
    any::Any,
    future::{Future, Ready, ready},
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream, unix};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};

/// Where [`serve`](crate::serve) has its connections from.
///
/// Tokio's TCP and Unix listeners are some. Implement it for one of your own, such as one that turns
/// away clients from other networks:
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
///     fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
///         loop {
///             let (stream, peer) = ready!(TcpListener::poll_accept(&self.0, cx))?;
///             match peer.ip() {
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
/// (TCP_NODELAY and TCP keep-alive need no listener of one's own: see
/// [`Serve::tcp_nodelay`](super::Serve::tcp_nodelay) and
/// [`Serve::tcp_keepalive`](super::Serve::tcp_keepalive).)
///
/// # At the drain
///
/// The accept queue of tokio's listeners is emptied, and they are closed. The queue of a listener of
/// one's own cannot be looked into. It is polled until the
/// [settling](crate::DrainBuilder::settle) is over, then dropped. So a connection that it has
/// accepted and not handed over, in the middle of a handshake say, is served if it is handed over
/// within the settling: lengthen that where handshakes take longer. A server with such a listener
/// takes the settling in full even if no connection is open.
pub trait Listener: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// Where it comes from.
    type Addr: Into<Peer> + 'static;

    /// The next connection.
    ///
    /// An error of one connection is skipped; after another one, it is asked again after a while: 5
    /// ms, then twice as long, up to a second.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Self::Io, Self::Addr)>>;

    /// Returns the TCP listener that this one accepts from, if there is one.
    ///
    /// On Linux, [`Serve::exclusive`](super::Serve::exclusive) keeps new clients out by it while the
    /// accept queue is emptied. Without it, a client that connects at the very end is reset. Default:
    /// `None`.
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

/// Where a connection comes from.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Peer {
    /// Over TCP.
    Tcp(SocketAddr),
    /// Over a Unix socket, mostly without a name.
    #[cfg(unix)]
    Unix(Arc<unix::SocketAddr>),
    /// A listener of one's own does not say.
    #[default]
    Unknown,
}

impl Peer {
    /// Its address, if it comes over TCP.
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

/// A connection on which a request may come now: accepted, and its handshake done.
///
/// For [`Serve::on_connect`](super::Serve::on_connect).
#[derive(Clone, Copy, Debug)]
pub struct Established<'a> {
    pub(super) io: &'a dyn Any,
    pub(super) peer: &'a Peer,
    #[cfg(feature = "rustls")]
    pub(super) tls: Option<&'a tokio_rustls::rustls::ServerConnection>,
}

impl<'a> Established<'a> {
    /// Where it comes from.
    pub fn peer(&self) -> &'a Peer {
        self.peer
    }

    /// The connection itself, below TLS, if it is of that kind: to ask for the credentials of the
    /// process at the other end of a `UnixStream`, say.
    pub fn io<T: Any>(&self) -> Option<&'a T> {
        self.io.downcast_ref()
    }

    /// What TLS knows of it: the peer's certificates, the server's name, the protocol agreed upon.
    #[cfg(feature = "rustls")]
    pub fn tls(&self) -> Option<&'a tokio_rustls::rustls::ServerConnection> {
        self.tls
    }
}

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Its first bytes will tell.
    Either,
    Http1,
    Http2,
}

/// What is done with a connection before a request can come on it.
pub(super) trait Handshake<T>: Clone + Send + 'static {
    type Io: AsyncRead + AsyncWrite + Send + Unpin + 'static;
    /// A type with a name: Rust 1.85 can not say of an `impl Future` that it does not borrow `self`.
    type Shaking: Future<Output = io::Result<Self::Io>> + Send + 'static;

    fn shake(&self, io: T, connection: Arc<Connection>) -> Self::Shaking;

    /// Whether there is something to be read that the runtime has not heard of.
    fn has_unread_bytes(io: &Self::Io) -> bool;

    /// See [`net::error`].
    fn error(io: &Self::Io, cx: &mut Context<'_>) -> Option<io::Error>;

    fn protocol(_: &Self::Io) -> Protocol {
        Protocol::Either
    }

    fn established<'a>(io: &'a Self::Io, peer: &'a Peer) -> Established<'a>;

    /// Inserts what is known of a connection that has made this handshake.
    fn insert_info(_: &Self::Io, _: &mut Extensions) {}
}

/// Nothing.
#[derive(Clone, Debug)]
pub(super) struct Plain;

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Handshake<T> for Plain {
    type Io = T;
    type Shaking = Ready<io::Result<T>>;

    fn shake(&self, io: T, _: Arc<Connection>) -> Self::Shaking {
        ready(Ok(io))
    }

    fn has_unread_bytes(io: &T) -> bool {
        net::has_unread_bytes(io)
    }

    fn error(io: &T, cx: &mut Context<'_>) -> Option<io::Error> {
        net::error(io, cx)
    }

    fn established<'a>(io: &'a T, peer: &'a Peer) -> Established<'a> {
        Established {
            io,
            peer,
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }
}
