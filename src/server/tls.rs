//! Makes TLS handshakes with rustls.

use super::{
    handle::ConnectionHandle,
    info,
    listener::{ConnectionInfo, Handshake, Peer, Protocol},
};
use crate::{
    drain::{CallCounts, Connection, ConnectionState},
    net,
};
use http::Extensions;
use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::unconstrained,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

/// Makes TLS handshakes.
#[derive(Clone)]
pub(super) struct Tls(TlsAcceptor);

impl Tls {
    /// Offers the protocols that are served, as far as the configuration offers them.
    pub(super) fn new(mut config: Arc<ServerConfig>, protocol: Option<Protocol>) -> Self {
        let served = |name: &Vec<u8>| match protocol {
            Some(Protocol::Http1) => name != b"h2",
            Some(Protocol::Http2) => name == b"h2",
            None => true,
        };
        let offer = &mut Arc::make_mut(&mut config).alpn_protocols;
        if offer.is_empty() {
            *offer = vec![b"h2".into(), b"http/1.1".into()];
        }
        offer.retain(served);
        Self(TlsAcceptor::from(config))
    }
}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Handshake<T> for Tls {
    type Io = TlsIo<T>;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Io, Option<Peer>)>> + Send>>;

    fn start(&self, io: T, _: &Peer, connection: Arc<Connection>) -> Self::Future {
        let accept = self.0.accept(io);
        Box::pin(async {
            let stream = accept.await?;
            let io = TlsIo {
                stream,
                connection,
                wrote_in: None,
                is_shut_down: false,
            };
            Ok((io, None))
        })
    }

    fn has_unread_bytes(io: &Self::Io) -> bool {
        net::has_unread_bytes(io.stream.get_ref().0)
    }

    fn error(io: &Self::Io, cx: &mut Context<'_>) -> Option<io::Error> {
        net::error(io.stream.get_ref().0, cx)
    }

    fn protocol(io: &Self::Io) -> Option<Protocol> {
        Some(match io.stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            // Also without a negotiated protocol: HTTP/2 over TLS has to be negotiated (RFC 9113,
            // section 3.2).
            _ => Protocol::Http1,
        })
    }

    fn info<'a>(
        io: &'a Self::Io,
        peer: &'a Peer,
        handle: &'a ConnectionHandle,
    ) -> ConnectionInfo<'a> {
        let (io, tls) = io.stream.get_ref();
        ConnectionInfo {
            io,
            peer,
            handle,
            tls: Some(tls),
        }
    }

    fn insert_info(io: &Self::Io, extensions: &mut Extensions) {
        info::insert_tls(&io.stream, extensions);
    }
}

/// Wraps a TLS connection, and sends a close_notify when it ends or is dropped.
///
/// Without a close_notify, the client cannot tell the end from an attack, and reports an error. So
/// a connection that is closed while idle sends one. A connection that is dropped in the middle of
/// a response sends none: the client could take the end of the connection for the end of the body.
pub(super) struct TlsIo<T: AsyncRead + AsyncWrite + Unpin> {
    stream: TlsStream<T>,
    connection: Arc<Connection>,
    /// Records the [calls](Connection::calls) at the time of the last write.
    wrote_in: Option<CallCounts>,
    is_shut_down: bool,
}

impl<T: AsyncRead + AsyncWrite + Unpin> TlsIo<T> {
    /// Returns whether a client could take a regular end for the end of a response or of a tunnel's
    /// data.
    fn is_in_response(&self) -> bool {
        if self.connection.speaks_http2() {
            return false;
        }
        match self.connection.activity() {
            ConnectionState::Stalled | ConnectionState::Upgraded => true,
            _ => {
                let calls = self.connection.calls();
                calls.is_active() && self.wrote_in == Some(calls)
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsIo<T> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsIo<T> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.wrote_in = Some(self.connection.calls());
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.wrote_in = Some(self.connection.calls());
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut_down = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Drop for TlsIo<T> {
    fn drop(&mut self) {
        if self.is_shut_down || self.is_in_response() {
            return;
        }
        // One poll, without a task budget. If the socket does not take the bytes now, they are
        // lost.
        let shutdown = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx));
        let mut cx = Context::from_waker(Waker::noop());
        let _ = pin!(unconstrained(shutdown)).poll(&mut cx);
    }
}
