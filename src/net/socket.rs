//! Asks the kernel about a socket of any type. The runtime may not have seen the latest event yet.

use socket2::{SockRef, TcpKeepalive};
use std::{
    any::Any,
    io,
    mem::MaybeUninit,
    net::{self, SocketAddr},
    task::{Context, Poll},
    time::Duration,
};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::net::{TcpListener, TcpSocket, TcpStream, ToSocketAddrs, lookup_host};

/// Binds a TCP listener, as tokio's `TcpListener::bind` does. Its error names the address, and
/// `[::]` takes IPv4 clients, too.
pub(crate) async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = None;
    for address in lookup_host(address).await? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                let text = format!("cannot listen on {address}: {error}");
                failed = Some(io::Error::new(error.kind(), text));
            }
        }
    }
    let none = || io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
    Err(failed.unwrap_or_else(none))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    // As tokio's: the system limits it further.
    const BACKLOG: u32 = 1024;

    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.is_ipv6() && address.ip().is_unspecified() {
        // Some systems do not allow it. There the listener takes IPv6 clients only.
        let _ = SockRef::from(&socket).set_only_v6(false);
    }
    // On Windows, the option would let another process take the port.
    #[cfg(not(windows))]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Finds the socket of a connection.
#[derive(Debug)]
pub(crate) struct SocketOf<T> {
    /// Returns the connection below, or the connection itself.
    pub(crate) below: fn(&T) -> &dyn Any,
    /// Returns the TCP connection that it is over, if the user has said how to find it.
    pub(crate) tcp: Option<fn(&T) -> Option<&TcpStream>>,
}

impl<T> SocketOf<T> {
    /// Returns a `TcpStream` or a `UnixStream`, or something else if the socket is not known.
    pub(super) fn get<'a>(&self, io: &'a T) -> &'a dyn Any {
        match self.tcp.and_then(|tcp| tcp(io)) {
            Some(tcp) => tcp,
            None => (self.below)(io),
        }
    }
}

fn socket(io: &dyn Any) -> Option<SockRef<'_>> {
    if let Some(tcp) = io.downcast_ref::<TcpStream>() {
        return Some(SockRef::from(tcp));
    }
    #[cfg(unix)]
    if let Some(unix) = io.downcast_ref::<UnixStream>() {
        return Some(SockRef::from(unix));
    }
    None
}

/// Returns whether the socket has unread bytes; `false` also for a type that is not known. The
/// peer's FIN is none.
pub(super) fn has_unread_bytes(io: &dyn Any) -> bool {
    let peek = |socket: SockRef<'_>| socket.peek(&mut [MaybeUninit::uninit()]);
    socket(io).is_some_and(|socket| peek(socket).is_ok_and(|seen| seen > 0))
}

/// Returns the error of a connection that the peer has reset. A FIN is no error.
///
/// The next event of the socket wakes the task. If the socket is readable already, no event comes,
/// and the caller has to ask again by itself.
pub(super) fn error(io: &dyn Any, cx: &mut Context<'_>) -> Option<io::Error> {
    let ready = match io.downcast_ref::<TcpStream>() {
        Some(tcp) => tcp.poll_read_ready(cx),
        #[cfg(unix)]
        None => io.downcast_ref::<UnixStream>()?.poll_read_ready(cx),
        #[cfg(not(unix))]
        None => return None,
    };
    match ready {
        Poll::Pending => None,
        Poll::Ready(_) => socket(io)?.take_error().ok().flatten(),
    }
}

/// Returns the peer's address, if this is a TCP connection.
pub(super) fn peer(io: &dyn Any) -> Option<SocketAddr> {
    io.downcast_ref::<TcpStream>()?.peer_addr().ok()
}

/// Duplicates the socket, if this is a TCP connection.
pub(super) fn duplicate(io: &dyn Any) -> Option<net::TcpStream> {
    let tcp = io.downcast_ref::<TcpStream>()?;
    Some(SockRef::from(tcp).try_clone().ok()?.into())
}

/// Holds the options that are set on each accepted TCP connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    pub(crate) nodelay: bool,
    pub(crate) keepalive: Option<Duration>,
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: None,
        }
    }
}

impl SocketOptions {
    /// Sets the options, if this is a TCP connection. If setting one fails, the connection is
    /// served without it.
    pub(super) fn set(self, io: &dyn Any) {
        let Some(tcp) = io.downcast_ref::<TcpStream>() else {
            return;
        };
        if self.nodelay {
            let _ = tcp.set_nodelay(true);
        }
        if let Some(idle) = self.keepalive {
            let keepalive = TcpKeepalive::new().with_time(idle);
            let _ = SockRef::from(tcp).set_tcp_keepalive(&keepalive);
        }
    }
}
