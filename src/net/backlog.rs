//! An accept queue that is emptied: without a look at tokio's readiness, as the event that says
//! "there is one" may not have been heard yet, and a task's budget may be used up.
//!
//! The listener is taken from tokio first, so that nothing lies between the last look into the queue
//! and the close. A client that connects between the two is reset: it is a microsecond, which a storm
//! of clients that reconnect finds in one of ten shutdowns or so. Where the socket is this process's
//! alone, [`refuse_new`](Backlog::refuse_new) closes that gap, too.

use socket2::{SockRef, Socket};
#[cfg(feature = "axum")]
use std::any::TypeId;
use std::{any::Any, io, net};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use {
    std::os::unix,
    tokio::net::{UnixListener, UnixStream},
};

#[derive(Debug)]
pub(super) enum Backlog {
    Tcp(net::TcpListener),
    #[cfg(unix)]
    Unix(unix::net::UnixListener),
}

impl Backlog {
    /// Whether that of such a listener can be looked into.
    #[cfg(feature = "axum")]
    pub(super) fn is_of<L: Any>() -> bool {
        let listener = TypeId::of::<L>();
        #[cfg(unix)]
        if listener == TypeId::of::<UnixListener>() {
            return true;
        }
        listener == TypeId::of::<TcpListener>()
    }

    /// Keeps new connections out while those that are in the queue are taken. False if that is not
    /// possible.
    ///
    /// The socket is bound to an interface that there is not: for those who come from here on, nobody
    /// listens on theirs, and the kernel refuses them at once. Handshakes that have begun complete (but for those
    /// of SYN cookies, of which the kernel keeps nothing).
    ///
    /// Not everywhere is that allowed (before Linux 5.7, and to a socket that is bound to an interface
    /// already, only with CAP_NET_RAW), nor does it keep those out whom a group of sockets with
    /// `SO_REUSEPORT` gives to this one. So, besides, the kernel is asked to drop SYNs: their clients
    /// try again after a second, and find the port closed, or another one of the group.
    ///
    /// Not for a socket that another process has, too: it would be deaf from then on.
    #[cfg(target_os = "linux")]
    pub(super) fn refuse_new(listener: &TcpListener) -> bool {
        use socket2::SockFilter;
        use std::num::NonZeroU32;

        const LOAD_BYTE: u16 = 0x30;
        const AND: u16 = 0x54;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        /// In a TCP header, where the flags are; and of them, SYN, and SYN with ACK.
        const FLAGS: u32 = 13;
        const SYN: u32 = 0x02;
        const SYN_AND_ACK: u32 = 0x12;
        /// The greatest there could be: they are counted from 1. (Of both IPv4 and IPv6, on Linux.)
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
        refuses || drops
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn refuse_new(_: &TcpListener) -> bool {
        false
    }

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

/// Whether a client has begun a handshake with this port and not ended it: the kernel lists such a
/// connection as SYN_RECV. `None` where its list cannot be read.
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
        // One of them is missing where there is no IPv6.
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
