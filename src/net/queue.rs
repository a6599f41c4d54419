//! An accept queue that is emptied: without a look at tokio's readiness, as the event that says
//! "there is one" may not have been heard yet, and a task's budget may be used up.
//!
//! The listener is taken from tokio first. Then nothing lies between the last look into the queue
//! and the close: whoever connects between the two is lost, and it is a microsecond.

use socket2::{SockRef, Socket};
use std::{any::Any, io, net};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use {
    std::os::unix,
    tokio::net::{UnixListener, UnixStream},
};

#[derive(Debug)]
pub(super) enum Queue {
    Tcp(net::TcpListener),
    #[cfg(unix)]
    Unix(unix::net::UnixListener),
}

impl Queue {
    /// That of a listener, if it is one whose queue can be looked into; else, itself again.
    pub(super) fn of<L: Any>(listener: L) -> Result<Self, Option<L>> {
        let listener = match cast(listener) {
            Ok(tcp) => return TcpListener::into_std(tcp).map(Self::Tcp).map_err(|_| None),
            Err(listener) => listener,
        };
        #[cfg(unix)]
        let listener = match cast(listener) {
            Ok(unix) => {
                return UnixListener::into_std(unix)
                    .map(Self::Unix)
                    .map_err(|_| None);
            }
            Err(listener) => listener,
        };
        Err(Some(listener))
    }

    /// The next connection, as the listener would have accepted it; an error of the kind
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) at the end of the queue.
    pub(super) fn take<C: Any>(&self) -> io::Result<C> {
        let other = || io::Error::other("another kind of connection than the listener's");
        match self {
            Self::Tcp(listener) => {
                let (socket, address) = accept(SockRef::from(listener))?;
                let address = address.as_socket().ok_or_else(other)?;
                cast((TcpStream::from_std(socket.into())?, address)).map_err(|_| other())
            }
            #[cfg(unix)]
            Self::Unix(listener) => {
                let (socket, _) = accept(SockRef::from(listener))?;
                let stream = UnixStream::from_std(socket.into())?;
                let address = stream.peer_addr()?;
                cast((stream, address)).map_err(|_| other())
            }
        }
    }
}

fn accept(listener: SockRef<'_>) -> io::Result<(Socket, socket2::SockAddr)> {
    let (socket, address) = listener.accept()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// The same value, of a type that is known to be another name of its own.
fn cast<T: Any, U: Any>(value: T) -> Result<U, T> {
    let mut slot = Some(value);
    let any: &mut dyn Any = &mut slot;
    match any.downcast_mut::<Option<U>>().and_then(Option::take) {
        Some(same) => Ok(same),
        None => Err(slot.expect("not taken")),
    }
}
