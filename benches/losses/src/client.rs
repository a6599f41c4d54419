//! One strict client: one request at a time, the next one as soon as the answer is there, no retry,
//! until one is not answered.
//!
//! What it calls what:
//!
//! * *answered*: 200, and the whole body.
//! * *not connected*: nobody listened, so that nothing was sent.
//! * *told so*: a whole 503, or, on HTTP/2, a REFUSED_STREAM or a GOAWAY that names an earlier
//!   stream as the last. Like the one before, safe to send elsewhere, whatever the method.
//! * *lost*: bytes of the request were written, and the connection ended without a whole answer.
//!   Whether it was executed, the client can not know.
//!
//! A connection that has ended before the next request was written has lost nothing: the client
//! looks at the socket right before it writes, and makes a new one.

mod http1;
mod http2;

use socket2::SockRef;
use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};
use tokio::net::TcpStream;

/// How the clients use their connections.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    KeepAlive,
    OneEach,
    Http2,
}

impl Mode {
    pub const ALL: [Self; 3] = [Self::KeepAlive, Self::OneEach, Self::Http2];

    /// In commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::OneEach => "one-each",
            Self::Http2 => "http2",
        }
    }

    /// In the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::KeepAlive => "HTTP/1.1, kept connections",
            Self::OneEach => "HTTP/1.1, a connection each",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What the last request of a client came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    NotConnected,
    ToldSo,
    Lost,
}

/// How many answers a client has got so far.
#[derive(Default)]
pub struct Answers(AtomicUsize);

impl Answers {
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn one_more(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Asks until a request is not answered.
pub async fn run(address: SocketAddr, mode: Mode, answers: &Answers) -> Fate {
    match mode {
        Mode::KeepAlive => http1::run(address, true, answers).await,
        Mode::OneEach => http1::run(address, false, answers).await,
        Mode::Http2 => http2::run(address, answers).await,
    }
}

/// `None` if nobody listens.
async fn connect(address: SocketAddr) -> Option<TcpStream> {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    match TcpStream::connect(address).await {
        // The port is free, and the system has given it to this very socket, which TCP then
        // connects to itself.
        Ok(stream) if stream.local_addr().is_ok_and(|own| own == address) => None,
        Ok(stream) => {
            stream.set_nodelay(true).expect("an open socket");
            Some(stream)
        }
        Err(error)
            if matches!(
                error.kind(),
                ConnectionRefused | ConnectionReset | ConnectionAborted
            ) =>
        {
            None
        }
        // Out of ports or files: that is not the server's fault, and not to be counted.
        Err(error) => panic!("the load can not connect: {error}"),
    }
}

/// What has arrived on a connection, and was not read yet.
enum Arrived {
    Nothing,
    Bytes,
    End,
}

impl Arrived {
    /// Asks the socket itself: the runtime may not have heard yet.
    fn on(socket: &SockRef<'_>) -> Self {
        match socket.peek(&mut [MaybeUninit::uninit()]) {
            Ok(0) => Self::End,
            Ok(_) => Self::Bytes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Self::Nothing,
            Err(_) => Self::End,
        }
    }
}
