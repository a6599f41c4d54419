//! Accept queues, emptied without a look at tokio's readiness: the event that says "there is one"
//! may not have been heard yet, and a task's budget may be used up.

use socket2::{SockRef, Socket};
use std::{any::Any, io, net::SocketAddr};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream, unix};

/// Takes the next connection out of the queue, if `listener` is one whose queue is known here.
///
/// `&mut`, though `&` would do: held over an await, that would ask for `L: Sync`.
pub(super) fn take<L: Any, C: Any>(listener: &mut L) -> Option<io::Result<C>> {
    let listener: &dyn Any = listener;
    if let Some(listener) = listener.downcast_ref::<TcpListener>() {
        return Some(take_tcp(listener).and_then(into));
    }
    #[cfg(unix)]
    if let Some(listener) = listener.downcast_ref::<UnixListener>() {
        return Some(take_unix(listener).and_then(into));
    }
    None
}

#[cfg(feature = "axum")]
pub(super) fn is_known<L: Any>(listener: &L) -> bool {
    let listener: &dyn Any = listener;
    #[cfg(unix)]
    if listener.is::<UnixListener>() {
        return true;
    }
    listener.is::<TcpListener>()
}

/// What `C` is, is known by the listener: this only tells the compiler.
fn into<T: Any, C: Any>(connection: T) -> io::Result<C> {
    let mut slot = Some(connection);
    (&mut slot as &mut dyn Any)
        .downcast_mut::<Option<C>>()
        .and_then(Option::take)
        .ok_or_else(|| io::Error::other("another kind of connection than the listener's"))
}

fn take_tcp(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    let (socket, address) = accept(SockRef::from(listener))?;
    let address = address.as_socket().ok_or(io::ErrorKind::InvalidData)?;
    Ok((TcpStream::from_std(socket.into())?, address))
}

#[cfg(unix)]
fn take_unix(listener: &UnixListener) -> io::Result<(UnixStream, unix::SocketAddr)> {
    let (socket, _) = accept(SockRef::from(listener))?;
    let stream = UnixStream::from_std(socket.into())?;
    let address = stream.peer_addr()?;
    Ok((stream, address))
}

fn accept(listener: SockRef<'_>) -> io::Result<(Socket, socket2::SockAddr)> {
    let (socket, address) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}
