//! Makes TLS handshakes with rustls.

use super::{handshake::Handshaken, info, listener::Protocol};
use crate::drain::{CallCounts, Connection, ConnectionState};
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
use tokio_rustls::{Accept, TlsAcceptor, rustls::ServerConfig, server::TlsStream};

/// Creates what makes handshakes. It offers the protocols that are served, as far as the
/// configuration offers them.
pub(super) fn acceptor(mut config: Arc<ServerConfig>, protocol: Option<Protocol>) -> TlsAcceptor {
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
    TlsAcceptor::from(config)
}

/// Makes the handshake of one connection.
pub(super) async fn accept<T>(
    accept: Accept<T>,
    connection: Arc<Connection>,
) -> io::Result<Handshaken<TlsIo<T>>>
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let stream = accept.await?;
    let protocol = match stream.get_ref().1.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        // Also without a negotiated protocol: HTTP/2 over TLS has to be negotiated (RFC 9113,
        // section 3.2).
        _ => Protocol::Http1,
    };
    let io = TlsIo {
        stream,
        connection,
        wrote_in: None,
        is_shut_down: false,
    };
    Ok(Handshaken {
        below: Some(|io| io.stream.get_ref().0),
        protocol: Some(protocol),
        tls: Some(|io| io.stream.get_ref().1),
        insert_info: |io, extensions| info::insert_tls(&io.stream, extensions),
        ..Handshaken::new(io)
    })
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
