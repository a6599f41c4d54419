//! Makes handshakes of the user's own.

use super::{
    handle::ConnectionHandle,
    listener::{ConnectionInfo, Handshake, Peer},
};
use crate::{drain::Connection, net};
use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Holds a connection after a handshake, for [`Serve::listen_with`](super::Serve::listen_with).
#[derive(Debug)]
#[must_use = "the handshake returns it"]
pub struct Handshaken<T> {
    io: T,
    peer: Option<Peer>,
    tcp: Option<fn(&T) -> Option<&TcpStream>>,
}

impl<T> Handshaken<T> {
    /// Returns the connection that requests are read from.
    pub fn new(io: T) -> Self {
        Self {
            io,
            peer: None,
            tcp: None,
        }
    }

    /// Sets the peer, where the handshake has learned it: a PROXY protocol header names the client
    /// of the balancer. From then on, reports, logs, [`on_connect`](super::Serve::on_connect) and
    /// `ConnectInfo` have it. [`Serve::per_connection`](super::Serve::per_connection) was called
    /// before, with the peer that the listener has returned, which is the default here.
    pub fn peer(mut self, peer: impl Into<Peer>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// Sets the way to the TCP connection below, where the type of the connection is a wrapper such
    /// as the stream of a TLS library. A `TcpStream` itself is known.
    ///
    /// Before an idle connection closes, its socket is asked for bytes that the runtime has not seen.
    /// Without this, a request that arrives in the moment in which its connection closes may be
    /// lost, and [`http1_half_close`](super::Serve::http1_half_close) does not notice a reset.
    pub fn over_tcp(mut self, tcp: fn(&T) -> Option<&TcpStream>) -> Self {
        self.tcp = Some(tcp);
        self
    }
}

/// Makes the handshake of [`Serve::listen_with`](super::Serve::listen_with).
pub(super) struct OwnHandshake<F>(Arc<F>);

impl<F> OwnHandshake<F> {
    pub(super) fn new(handshake: F) -> Self {
        Self(Arc::new(handshake))
    }
}

impl<F> Clone for OwnHandshake<F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, F, R, U> Handshake<T> for OwnHandshake<F>
where
    F: Fn(T, Peer) -> R + Send + Sync + 'static,
    R: Future<Output = io::Result<Handshaken<U>>> + Send + 'static,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Io = OwnIo<U>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(OwnIo<U>, Option<Peer>)>> + Send>>;

    fn start(&self, io: T, peer: &Peer, _: Arc<Connection>) -> Self::Future {
        let handshake = self.0(io, peer.clone());
        Box::pin(async {
            let Handshaken { io, peer, tcp } = handshake.await?;
            Ok((OwnIo { io, tcp }, peer))
        })
    }

    fn has_unread_bytes(io: &OwnIo<U>) -> bool {
        match io.tcp() {
            Some(tcp) => net::has_unread_bytes(tcp),
            None => net::has_unread_bytes(&io.io),
        }
    }

    fn error(io: &OwnIo<U>, cx: &mut Context<'_>) -> Option<io::Error> {
        match io.tcp() {
            Some(tcp) => net::error(tcp, cx),
            None => net::error(&io.io, cx),
        }
    }

    fn info<'a>(
        io: &'a OwnIo<U>,
        peer: &'a Peer,
        handle: &'a ConnectionHandle,
    ) -> ConnectionInfo<'a> {
        ConnectionInfo {
            io: &io.io,
            peer,
            handle,
            #[cfg(feature = "rustls")]
            tls: None,
        }
    }
}

/// Wraps a connection after a handshake of the user's own.
pub(super) struct OwnIo<T> {
    io: T,
    tcp: Option<fn(&T) -> Option<&TcpStream>>,
}

impl<T> OwnIo<T> {
    fn tcp(&self) -> Option<&TcpStream> {
        self.tcp.and_then(|tcp| tcp(&self.io))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for OwnIo<T> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for OwnIo<T> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
