//! Finds out by its first bytes whether a connection speaks HTTP/1 or HTTP/2.

use super::listener::Protocol;
use crate::net::{DrainIo, PREFACE};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Limits how much is read: after as many bytes the protocol is known.
const LENGTH: usize = PREFACE.len();

/// Gives hyper a connection, after the bytes that were read of it.
pub(super) struct Rewound<T> {
    io: TokioIo<DrainIo<T>>,
    bytes: [u8; LENGTH],
    /// Counts the bytes that hyper has read.
    start: u8,
    /// Counts the bytes that were read before hyper.
    end: u8,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Rewound<T> {
    pub(super) fn new(io: DrainIo<T>) -> Self {
        Self {
            io: TokioIo::new(io),
            bytes: [0; LENGTH],
            start: 0,
            end: 0,
        }
    }

    /// Reads until the protocol is known. Returns `None` if the peer ends without a byte.
    pub(super) async fn read_protocol(mut self) -> io::Result<Option<(Self, Protocol)>> {
        loop {
            let io = self.io.inner_mut();
            match io.speaks_http2() {
                Some(true) => return Ok(Some((self, Protocol::Http2))),
                Some(false) => return Ok(Some((self, Protocol::Http1))),
                None => {}
            }
            match io.read(&mut self.bytes[usize::from(self.end)..]).await? {
                0 if self.end == 0 => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.end += read as u8,
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Read for Rewound<T> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.start == this.end {
            return Pin::new(&mut this.io).poll_read(cx, buf);
        }
        let bytes = &this.bytes[usize::from(this.start)..usize::from(this.end)];
        let bytes = &bytes[..bytes.len().min(buf.remaining())];
        buf.put_slice(bytes);
        this.start += bytes.len() as u8;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Write for Rewound<T> {
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
