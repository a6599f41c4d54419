//! Empties an accept queue with non-blocking accepts.
//!
//! Tokio's readiness is no help: its event for a new connection may not have arrived yet, and a
//! task's budget may be used up.
//!
//! The listener is taken from tokio first, so that the close follows directly on the last accept. A
//! client that connects between the two is reset. That is about a microsecond, but many clients
//! that reconnect at once hit it in about one of ten shutdowns. If no other process has the socket,
//! [`refuse_new`] prevents this too.

use std::{any::Any, io, net, task::Poll};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use {
    std::os::unix,
    tokio::net::{UnixListener, UnixStream, unix::SocketAddr},
};

/// Holds what connections are accepted from: a listener, or the queue of one that was taken from
/// tokio.
#[derive(Debug)]
pub(super) enum Listening<L> {
    Inner(L),
    Tcp(net::TcpListener),
    #[cfg(unix)]
    Unix(unix::net::UnixListener),
    Closed,
}

impl<L: Any> Listening<L> {
    /// Takes the queue of the listener, if it can be read. Closes the listener if tokio does not
    /// give its socket back.
    pub(super) fn into_queue(self) -> Self {
        let Self::Inner(listener) = self else {
            return self;
        };
        let listener = match cast(listener) {
            Ok(tcp) => return TcpListener::into_std(tcp).map_or(Self::Closed, Self::Tcp),
            Err(listener) => listener,
        };
        #[cfg(unix)]
        let listener = match cast(listener) {
            Ok(unix) => return UnixListener::into_std(unix).map_or(Self::Closed, Self::Unix),
            Err(listener) => listener,
        };
        Self::Inner(listener)
    }

    /// Accepts the next connection. Pending if the queue is empty: nothing wakes the task then.
    pub(super) fn poll_take<C: Any>(&self) -> Poll<io::Result<C>> {
        match self.take() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            taken => Poll::Ready(taken),
        }
    }

    fn take<C: Any>(&self) -> io::Result<C> {
        let other = || io::Error::other("no queue of such connections");
        match self {
            Self::Inner(_) | Self::Closed => Err(other()),
            Self::Tcp(listener) => {
                let (socket, address) = listener.accept()?;
                socket.set_nonblocking(true)?;
                cast((TcpStream::from_std(socket)?, address)).map_err(|_| other())
            }
            #[cfg(unix)]
            Self::Unix(listener) => {
                let (socket, address) = listener.accept()?;
                socket.set_nonblocking(true)?;
                let address = SocketAddr::from(address);
                cast((UnixStream::from_std(socket)?, address)).map_err(|_| other())
            }
        }
    }
}

/// Returns whether the queue of this listener can be read.
#[cfg(feature = "axum")]
pub(super) fn has_readable_queue(listener: &dyn Any) -> bool {
    #[cfg(unix)]
    if listener.is::<UnixListener>() {
        return true;
    }
    listener.is::<TcpListener>()
}

/// Refuses new connections while those in the queue are accepted, and returns the port of the
/// socket. Returns `None` if the system does not allow that.
///
/// This binds the socket to a network interface that does not exist. On the interfaces of new
/// clients nothing listens then, and the kernel refuses them at once. Handshakes that have
/// begun can complete, except those by SYN cookies, of which the kernel keeps nothing.
///
/// The binding is not always allowed: before Linux 5.7, and for a socket that is bound to an
/// interface already, it needs CAP_NET_RAW. It also keeps no client out that a `SO_REUSEPORT`
/// group assigns to this socket. So a socket filter drops SYNs as well. Those clients try again
/// after a second, and find the port closed or another socket of the group.
///
/// If another process has the socket too, this must not be called: it would get no connections
/// either.
#[cfg(target_os = "linux")]
pub(super) fn refuse_new(listener: &TcpListener) -> Option<u16> {
    use socket2::{SockFilter, SockRef};
    use std::num::NonZeroU32;

    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // The offset of the flags in a TCP header; then the flag SYN, and SYN with ACK.
    const FLAGS: u32 = 13;
    const SYN: u32 = 0x02;
    const SYN_AND_ACK: u32 = 0x12;
    // The highest possible index of an interface; they are assigned from 1 on. On Linux, one
    // call binds both IPv4 and IPv6.
    const NO_INTERFACE: Option<NonZeroU32> = NonZeroU32::new(i32::MAX as u32);

    let dropping_syns = [
        SockFilter::new(LOAD_BYTE, 0, 0, FLAGS),
        SockFilter::new(AND, 0, 0, SYN_AND_ACK),
        SockFilter::new(JUMP_IF_EQUAL, 0, 1, SYN),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
    ];
    let socket = SockRef::from(listener);
    let refuses = socket.bind_device_by_index_v4(NO_INTERFACE).is_ok();
    let drops = socket.attach_filter(&dropping_syns).is_ok();
    let address = listener.local_addr().ok()?;
    (refuses || drops).then(|| address.port())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn refuse_new(_: &TcpListener) -> Option<u16> {
    None
}

/// Returns the value as type `U` if that is its type, and as `T` otherwise.
fn cast<T: Any, U: Any>(value: T) -> Result<U, T> {
    let mut slot = Some(value);
    let any: &mut dyn Any = &mut slot;
    match any.downcast_mut::<Option<U>>().and_then(Option::take) {
        Some(same) => Ok(same),
        None => Err(slot.expect("not taken")),
    }
}

/// Returns whether a client has begun a handshake with this port and not ended it. The kernel lists
/// such a connection as SYN_RECV. Returns `None` if the list cannot be read.
#[cfg(target_os = "linux")]
pub(super) fn has_half_done_handshake(port: u16) -> Option<bool> {
    use std::{
        fs::File,
        io::{BufRead, BufReader},
    };

    const SYN_RECV: &str = "03";
    let port = format!("{port:04X}");
    let is_half_done = |line: io::Result<String>| {
        let Ok(line) = line else { return false };
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|local| local.rsplit_once(':'));
        local.is_some_and(|local| local.1 == port) && fields.nth(1) == Some(SYN_RECV)
    };
    let mut seen = None;
    for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        // The second one is missing on a system without IPv6.
        let Ok(list) = File::open(path) else { continue };
        if BufReader::new(list).lines().any(is_half_done) {
            return Some(true);
        }
        seen = Some(false);
    }
    seen
}

#[cfg(not(target_os = "linux"))]
pub(super) fn has_half_done_handshake(_: u16) -> Option<bool> {
    None
}
