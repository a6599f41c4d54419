use super::{
    closing_handshake::CloseWebSockets,
    monitor::Monitor,
    socket::{self, SocketOf, has_unread_bytes},
};
use crate::drain::{ConnectionGuard, Stage};
use pin_project_lite::pin_project;
use std::{
    future::{Future, poll_fn},
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::unconstrained,
};

pin_project! {
    /// Wraps a connection that a drain counts from its accept to its drop, and aborts at the
    /// deadline.
    ///
    /// It comes from a [`DrainListener`](crate::net::DrainListener) or a
    /// [`DrainIncoming`](crate::net::DrainIncoming), and reads and writes like the inner
    /// connection. If the server hands it on, as a WebSocket, it is still counted.
    ///
    /// # What it does during a drain
    ///
    /// * It closes in three cases. The peer has sent nothing when its
    ///   [grace](crate::DrainBuilder::grace) is over. The peer has not sent the rest of a head (the
    ///   request line and the headers) for 5 s. Or an HTTP/2 connection has had no streams for 5 s
    ///   and is still open, because the peer does not answer a PING, or because a task of the
    ///   server holds a request body. The server reads an end of file. After a part of the HTTP/2
    ///   preface, it gets an error of the kind [`TimedOut`](io::ErrorKind::TimedOut) instead.
    /// * A WebSocket is closed in place of its handler, if the listener was told to
    ///   [close WebSockets](crate::net::DrainListener::close_websockets). After its Close frame,
    ///   writes are discarded.
    /// * At the [deadline](crate::Drain::set_deadline) each read and write fails with an error of
    ///   the kind [`ConnectionAborted`](io::ErrorKind::ConnectionAborted), so that the server drops
    ///   it. While requests are still being [answered](crate::GracefulLayer::answer_at_deadline),
    ///   the failure comes up to 400 ms later. If the drain knows of no work (no request, and only
    ///   connections that are `streaming` or `opaque`), it comes 500 ms later.
    ///
    /// # What it does at any time
    ///
    /// If the server closes it while the peer may still be sending, it *lingers*: it closes its
    /// write half, then reads and discards. Otherwise the peer could get a reset instead of its
    /// response ([RFC 9112, section 9.6](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)).
    /// Lingering ends
    ///
    /// * with the end of the request, over HTTP/1;
    /// * when nothing has come for 500 ms, over HTTP/2 for 1 s;
    /// * after 5 s or 16 MiB (4 MiB over HTTP/2);
    /// * when the peer closes its half, and at the drain's deadline.
    ///
    /// With TLS around it, its bytes cannot be read, and the server may go on reading after it has
    /// shut down the write half. If it is a `TcpStream`, it then lingers once it was dropped, in a
    /// task of its own.
    ///
    /// # Panics
    ///
    /// Panics when polled outside of a tokio runtime with its time driver, once the drain has begun
    /// or while it lingers.
    #[derive(Debug)]
    pub struct DrainIo<T> {
        #[pin]
        io: T,
        socket: SocketOf<T>,
        // Whether flushes look for a reset while the server handles a request and does not read.
        notices_errors: bool,
        // Boxed, as servers move connections and keep room for each place that they were in. Last,
        // so that the socket is closed before the connection is uncounted.
        monitor: Box<Monitor>,
    }
}

impl<T: 'static> DrainIo<T> {
    /// Wraps a connection that was accepted from a listener of any type.
    pub(super) fn accepted(io: T, registered: ConnectionGuard) -> Self {
        let socket = SocketOf {
            below: |io| io,
            tcp: None,
        };
        Self::new(io, registered, socket)
    }
}

impl<T> DrainIo<T> {
    pub(crate) fn new(io: T, registered: ConnectionGuard, socket: SocketOf<T>) -> Self {
        Self {
            io,
            socket,
            notices_errors: false,
            monitor: Box::new(Monitor::new(registered)),
        }
    }

    /// Has the connection close its WebSocket in the drain.
    pub(crate) fn close_websockets(mut self, settings: Option<Arc<CloseWebSockets>>) -> Self {
        self.monitor.close_websockets = settings;
        self
    }

    /// Prepares a connection of `serve`, whose future advances the schedule, so that connections
    /// need not. `head_limit` limits the time of each head, drain or not. That of the first one
    /// counts from the accept. With `notices_errors`, each flush looks for a reset while a request
    /// is handled.
    #[cfg(feature = "server")]
    pub(crate) fn served(
        mut self,
        head_limit: Option<std::time::Duration>,
        notices_errors: bool,
    ) -> Self {
        self.monitor.served = true;
        self.monitor.head_limit = head_limit;
        self.notices_errors = notices_errors;
        self
    }

    /// Returns whether the bytes that were read have begun like HTTP/2; `None` while they may still
    /// become it.
    #[cfg(feature = "server")]
    pub(crate) fn speaks_http2(&self) -> Option<bool> {
        self.monitor.speaks_http2()
    }

    /// Has the next reads return bytes that were read before.
    #[cfg(feature = "server")]
    pub(crate) fn rewind(&mut self, bytes: Vec<u8>) {
        self.monitor.rewound = bytes;
    }

    /// Returns the inner connection.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// Returns the inner connection, to set its options. The drain does not see bytes that are read
    /// or written this way.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// Returns the inner connection, which is not counted any more.
    pub fn into_inner(mut self) -> T {
        // The socket stays in use elsewhere.
        self.monitor.duplicate = None;
        self.io
    }
}

#[cfg(feature = "server")]
#[cold]
fn read_rewound(rewound: &mut Vec<u8>, buf: &mut ReadBuf<'_>) {
    let rest = rewound.split_off(rewound.len().min(buf.remaining()));
    buf.put_slice(rewound);
    *rewound = rest;
}

#[cold]
fn read_unconstrained<T: AsyncRead>(
    mut io: Pin<&mut T>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    pin!(unconstrained(poll_fn(|cx| io.as_mut().poll_read(cx, buf)))).poll(cx)
}

impl<T: AsyncRead + AsyncWrite> AsyncRead for DrainIo<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let monitor = this.monitor;
        let stage = monitor.live_stage()?;
        let mut io = this.io;
        #[cfg(feature = "server")]
        if !monitor.rewound.is_empty() {
            read_rewound(&mut monitor.rewound, buf);
            return Poll::Ready(Ok(()));
        }
        if monitor.closes_websocket(stage) {
            monitor.register_reader(cx);
            monitor.close_websocket(io.as_mut());
        }
        if monitor.ended {
            return Poll::Ready(Ok(()));
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        let result = if stage < Stage::Settling {
            io.as_mut().poll_read(cx, buf)
        } else {
            // Otherwise a used-up task budget would look like a peer that has sent nothing.
            read_unconstrained(io.as_mut(), cx, buf)
        };
        if result.is_pending() {
            return monitor.poll_pending_read(|| has_unread_bytes(this.socket.get(&io)), cx);
        }
        let read = &buf.filled()[before..];
        let ended = matches!(result, Poll::Ready(Ok(()))) && read.is_empty() && room > 0;
        monitor.saw_read(read, ended, stage);
        result
    }
}

impl<T: AsyncRead + AsyncWrite> AsyncWrite for DrainIo<T> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let stage = this.monitor.before_write()?;
        if this.monitor.closes_websocket(stage) {
            return this.monitor.poll_write_websocket(this.io, cx, buf, stage);
        }
        let result = this.io.poll_write(cx, buf);
        this.monitor.saw_write(result, [buf], stage, cx)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        let stage = this.monitor.before_write()?;
        if this.monitor.closes_websocket(stage) {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            let first = first.map_or(&[][..], |buf| buf);
            return this.monitor.poll_write_websocket(this.io, cx, first, stage);
        }
        let result = this.io.poll_write_vectored(cx, bufs);
        let slices = bufs.iter().map(|buf| &**buf);
        this.monitor.saw_write(result, slices, stage, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let stage = this.monitor.before_write()?;
        if this.monitor.closes_websocket(stage) {
            this.monitor.register_writer(cx);
            if this.monitor.close_websocket(this.io.as_mut()) {
                return Poll::Ready(Ok(()));
            }
        }
        // Not after an upgrade: another task may read then, and this would replace its waker.
        if *this.notices_errors && this.monitor.is_in_request() {
            if let Some(error) = socket::error(this.socket.get(&this.io), cx) {
                return Poll::Ready(Err(error));
            }
        }
        let result = this.io.poll_flush(cx);
        this.monitor.saw_flush(result.is_pending(), stage, cx)?;
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        this.monitor.before_write()?;
        if !this.monitor.is_lingering() {
            if this.io.as_mut().poll_shutdown(cx)?.is_pending() {
                this.monitor.wake_at_abort(cx)?;
                return Poll::Pending;
            }
            this.monitor.begin_to_linger(this.socket.get(&this.io));
        }
        this.monitor.poll_linger(this.io, this.socket, cx).map(Ok)
    }
}
