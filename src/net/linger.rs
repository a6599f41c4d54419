//! Lingers: after the write half of a connection is closed, reads and discards what the peer still
//! sends ([RFC 9112, section 9.6](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)).
//!
//! A socket that is closed with unread bytes, or that gets bytes later, sends a reset. A reset
//! destroys the part of the response that the peer has not read.

use crate::{
    drain::{Connection, ConnectionGuard, ConnectionState, RegisteredWaker, Role},
    timer::Timer,
};
use std::{
    future::poll_fn,
    mem::MaybeUninit,
    net,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
    time::Instant,
};

/// Limits how long a connection lingers.
const LIMIT: Duration = Duration::from_secs(5);

/// Limits the lingering of one connection.
pub(super) struct Linger {
    /// Ends the lingering when nothing has come for this long.
    quiet: Duration,
    quiet_at: Instant,
    ends_at: Instant,
    /// Counts the bytes that may still be read.
    left: usize,
    timer: Timer,
}

impl Linger {
    /// Returns the limits for HTTP/1: the peer may read its response only after its upload.
    pub(super) fn http1() -> Self {
        Self::new(Duration::from_millis(500), 16 << 20)
    }

    /// Returns the limits for HTTP/2: a peer that is still reading sends WINDOW_UPDATE frames.
    pub(super) fn http2() -> Self {
        Self::new(Duration::from_secs(1), 4 << 20)
    }

    fn new(quiet: Duration, left: usize) -> Self {
        let now = Instant::now();
        Self {
            quiet,
            quiet_at: now + quiet,
            ends_at: now + LIMIT,
            left,
            timer: Timer::default(),
        }
    }

    /// Reads and discards until a limit is reached, the peer has ended, `is_last` returns `true`
    /// for the bytes that were read, or the drain is forced. Ends the last-read check of the
    /// connection.
    pub(super) fn poll<T: AsyncRead>(
        &mut self,
        mut io: Pin<&mut T>,
        cx: &mut Context<'_>,
        connection: &Connection,
        reader: &mut RegisteredWaker,
        mut is_last: impl FnMut(&T, &[u8]) -> bool,
    ) -> Poll<()> {
        connection.wakers.register(Role::Reads, cx.waker(), reader);
        // After the registration: a later change of the stage wakes the task.
        if connection.closes_at_once() {
            return Poll::Ready(());
        }
        connection.checked();
        let mut scratch = [MaybeUninit::uninit(); 4096];
        loop {
            let until = self.quiet_at.min(self.ends_at);
            if self.timer.poll(until, cx).is_ready() {
                return Poll::Ready(());
            }
            let mut discarded = ReadBuf::uninit(&mut scratch);
            let read = ready!(io.as_mut().poll_read(cx, &mut discarded));
            let discarded = discarded.filled();
            self.left = self.left.saturating_sub(discarded.len());
            // After an error, the response has been read or is lost.
            let ends = read.is_err() || discarded.is_empty() || self.left == 0;
            if ends || is_last(&io, discarded) {
                return Poll::Ready(());
            }
            self.quiet_at = Instant::now() + self.quiet;
        }
    }
}

/// Lingers on a socket that its server has dropped. Drops it before the connection is uncounted.
pub(super) async fn linger(registered: ConnectionGuard, socket: net::TcpStream) {
    let Ok(mut tcp) = TcpStream::from_std(socket) else {
        return;
    };
    let connection = registered.connection();
    connection.publish(ConnectionState::Opaque, false);
    let (mut linger, mut reader) = (Linger::http1(), RegisteredWaker::default());
    poll_fn(|cx| {
        linger.poll(Pin::new(&mut tcp), cx, connection, &mut reader, |_, _| {
            false
        })
    })
    .await;
}
