//! Asks the kernel about a socket of any type. The runtime may not have seen the latest event yet.

use socket2::{SockRef, TcpKeepalive};
#[cfg(feature = "server")]
use std::task::{Context, Poll};
use std::{
    any::Any,
    io,
    mem::MaybeUninit,
    net::{self, SocketAddr},
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

/// Returns whether the socket has unread bytes; `false` also for a type that is not known.
pub(crate) fn has_unread_bytes<T: Any>(io: &T) -> bool {
    let io: &dyn Any = io;
    if let Some(tcp) = io.downcast_ref::<TcpStream>() {
        return has_unread_bytes_in(SockRef::from(tcp));
    }
    #[cfg(unix)]
    if let Some(unix) = io.downcast_ref::<UnixStream>() {
        return has_unread_bytes_in(SockRef::from(unix));
    }
    false
}

/// Returns whether a socket has unread bytes. The peer's FIN is none.
fn has_unread_bytes_in(socket: SockRef<'_>) -> bool {
    socket
        .peek(&mut [MaybeUninit::uninit()])
        .is_ok_and(|seen| seen > 0)
}

/// Returns the error of a connection that the peer has reset. A FIN is no error.
///
/// The next event of the socket wakes the task. If the socket is readable already, no event comes,
/// and the caller has to ask again by itself.
#[cfg(feature = "server")]
pub(crate) fn error<T: Any>(io: &T, cx: &mut Context<'_>) -> Option<io::Error> {
    let io: &dyn Any = io;
    let (ready, socket) = match io.downcast_ref::<TcpStream>() {
        Some(tcp) => (tcp.poll_read_ready(cx), SockRef::from(tcp)),
        #[cfg(unix)]
        None => {
            let unix = io.downcast_ref::<UnixStream>()?;
            (unix.poll_read_ready(cx), SockRef::from(unix))
        }
        #[cfg(not(unix))]
        None => return None,
    };
    match ready {
        Poll::Pending => None,
        Poll::Ready(_) => socket.take_error().ok().flatten(),
    }
}

/// Returns the peer's address, if this is a TCP connection.
pub(crate) fn peer<T: Any>(io: &T) -> Option<SocketAddr> {
    let io: &dyn Any = io;
    io.downcast_ref::<TcpStream>()?.peer_addr().ok()
}

/// Duplicates the socket, if this is a TCP connection.
pub(super) fn duplicate<T: Any>(io: &T) -> Option<net::TcpStream> {
    let io: &dyn Any = io;
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
    pub(super) fn set<T: Any>(self, io: &T) {
        let io: &dyn Any = io;
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
