//! A look into a socket, of whatever kind it is: what the kernel has, the runtime may not have heard of
//! yet.

use socket2::SockRef;
use std::{any::Any, mem::MaybeUninit, net::SocketAddr};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// Whether there is something to be read; false where it cannot be seen, too.
pub(crate) fn has_news<T: Any>(io: &T) -> bool {
    let io: &dyn Any = io;
    if let Some(tcp) = io.downcast_ref::<TcpStream>() {
        return peeks(SockRef::from(tcp));
    }
    #[cfg(unix)]
    if let Some(unix) = io.downcast_ref::<UnixStream>() {
        return peeks(SockRef::from(unix));
    }
    false
}

/// At the end of what the peer sends there is nothing to be read.
fn peeks(socket: SockRef<'_>) -> bool {
    socket
        .peek(&mut [MaybeUninit::uninit()])
        .is_ok_and(|seen| seen > 0)
}

/// Where it comes from, if that can be seen.
pub(crate) fn peer<T: Any>(io: &T) -> Option<SocketAddr> {
    let io: &dyn Any = io;
    io.downcast_ref::<TcpStream>()?.peer_addr().ok()
}
