use super::{
    linger::{Linger, Lingering},
    sniff::Sniffer,
    socket,
};
use crate::{
    drain::{ConnectionGuard, ConnectionState, Stage},
    timer::Timer,
};
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::unconstrained,
    time::Instant,
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
    /// * It closes if the peer has sent nothing when its [grace](crate::DrainBuilder::grace) is
    ///   over; if the peer has not sent the rest of a head for 5 s; or if an HTTP/2 peer has no
    ///   streams and has not answered the server's PING for 5 s. The server reads an end of file.
    ///   After a part of the HTTP/2 preface, it gets an error of the kind
    ///   [`TimedOut`](io::ErrorKind::TimedOut) instead.
    /// * At the [deadline](crate::Drain::set_deadline) each read and write fails with an error of
    ///   the kind [`ConnectionAborted`](io::ErrorKind::ConnectionAborted), so that the server drops
    ///   it. While requests are [answered](crate::GracefulLayer::answer_at_deadline) then, this
    ///   waits for up to 400 ms.
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
        // Whether the kernel has bytes that the runtime may not have seen.
        has_unread_bytes: fn(&T) -> bool,
        // Finds a reset while the server handles a request and does not read.
        error: Option<ErrorOf<T>>,
        // Duplicates the socket, if that is possible.
        duplicate: fn(&T) -> Option<net::TcpStream>,
        monitor: Monitor,
    }
}

/// Looks for the error of a connection; see [`socket::error`](super::socket::error).
type ErrorOf<T> = fn(&T, &mut Context<'_>) -> Option<io::Error>;

/// Holds everything except the inner connection. Declared last in [`DrainIo`], so that the socket
/// is closed before the connection is uncounted.
struct Monitor {
    sniffer: Sniffer,
    /// Says whether the last write is pending.
    stalled: bool,
    /// Says whether the last flush is pending.
    unflushed: bool,
    /// Says whether a head was read for which the server may not have called its service yet. The
    /// call could still be refused.
    delivering: bool,
    /// Says whether the kernel has bytes that the runtime has not seen.
    unread: bool,
    /// Records since when an HTTP/2 connection that closes has had no streams.
    idle_since: Option<Instant>,
    /// Limits the time of a head, drain or not.
    head_limit: Option<Duration>,
    /// Records since when a part of a head has been there.
    head_since: Option<Instant>,
    /// Says whether the last read is pending. Its waker is registered then.
    read_pending: bool,
    /// Records what was published last: the activity, and whether a request is on its way.
    published: (ConnectionState, bool),
    multiplexed: bool,
    /// Says whether nothing more is read: the peer has closed its half, or a limit has passed.
    ended: bool,
    /// Limits the lingering, while the connection lingers.
    linger: Option<Linger>,
    /// Fires at the next limit, for a task that reads or lingers.
    reading_timer: Timer,
    /// Fires at the next step of the schedule, for a task that waits for something else.
    waiting_timer: Timer,
    registered: Lingering,
}

impl<T: 'static> DrainIo<T> {
    /// Wraps a connection that was accepted from a listener of any type.
    pub(super) fn accepted(io: T, registered: ConnectionGuard) -> Self {
        Self {
            duplicate: socket::duplicate,
            ..Self::new(io, registered, socket::has_unread_bytes)
        }
    }
}

impl<T> DrainIo<T> {
    pub(crate) fn new(
        io: T,
        registered: ConnectionGuard,
        has_unread_bytes: fn(&T) -> bool,
    ) -> Self {
        Self {
            io,
            has_unread_bytes,
            error: None,
            duplicate: |_| None,
            monitor: Monitor {
                sniffer: Sniffer::new(),
                stalled: false,
                unflushed: false,
                delivering: false,
                unread: false,
                idle_since: None,
                head_limit: None,
                head_since: None,
                read_pending: false,
                published: (ConnectionState::Silent, false),
                multiplexed: false,
                ended: false,
                linger: None,
                reading_timer: Timer::default(),
                waiting_timer: Timer::default(),
                registered: Lingering::new(registered),
            },
        }
    }

    /// Limits the time of a head, drain or not. That of the first one counts from the accept.
    #[cfg(feature = "server")]
    pub(crate) fn limit_heads(mut self, limit: Option<Duration>) -> Self {
        self.monitor.head_limit = limit;
        self
    }

    /// Returns whether the bytes that were read have begun like HTTP/2; `None` while they may still
    /// become it.
    #[cfg(feature = "server")]
    pub(crate) fn speaks_http2(&self) -> Option<bool> {
        match &self.monitor.sniffer {
            Sniffer::Unknown(_) => None,
            sniffer => Some(matches!(sniffer, Sniffer::Http2(_))),
        }
    }

    /// Has each flush look for a reset while a request is handled.
    #[cfg(feature = "server")]
    pub(crate) fn notice_errors(mut self, error: ErrorOf<T>) -> Self {
        self.error = Some(error);
        self
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
        self.monitor.registered.release();
        self.io
    }
}

impl Monitor {
    /// Returns the stage, or fails if the connection has to be aborted. Called before each
    /// operation.
    #[inline]
    fn live_stage(&mut self) -> io::Result<Stage> {
        let connection = self.registered.connection();
        let stage = connection.stage();
        if stage >= Stage::Forced && connection.schedule(|schedule| schedule.aborts()) {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the drain's deadline has passed",
            ));
        }
        Ok(stage)
    }

    /// Does what [`live_stage`](Self::live_stage) does, before a write or a flush. A server gets
    /// here only after it has called its service with the head that it has read.
    #[inline]
    fn before_write(&mut self) -> io::Result<Stage> {
        let stage = self.live_stage()?;
        self.delivering = false;
        if stage >= Stage::LastRead {
            self.publish_changes(stage);
            // In other states, the connection has to look for bytes before it counts as checked.
            if matches!(
                self.published.0,
                ConnectionState::Handling | ConnectionState::Stalled | ConnectionState::Upgraded
            ) {
                self.registered.connection().checked();
            }
        }
        Ok(stage)
    }

    /// Publishes what the connection is doing, if that has changed.
    #[inline]
    fn publish_changes(&mut self, stage: Stage) {
        let activity = match self.stalled || self.unflushed {
            true => ConnectionState::Stalled,
            false => self.sniffer.activity(),
        };
        // Outside of a drain, this does not matter.
        let has_request =
            self.unread || (stage >= Stage::LastRead && (self.delivering || self.is_young()));
        if (activity, has_request) != self.published {
            self.publish(activity, has_request);
        }
    }

    /// Returns whether an opaque connection is within its grace. It may be making a handshake, with
    /// a request on its way.
    fn is_young(&self) -> bool {
        let young = |until: Option<Instant>| until.is_none_or(|until| Instant::now() < until);
        self.sniffer.is_opaque() && young(self.grace_until())
    }

    fn grace_until(&self) -> Option<Instant> {
        let connection = self.registered.connection();
        connection.schedule(|schedule| schedule.first_byte_until(connection.accepted()))
    }

    fn publish(&mut self, activity: ConnectionState, has_request: bool) {
        let connection = self.registered.connection();
        if self.sniffer.is_multiplexed() && !self.multiplexed {
            self.multiplexed = true;
            connection.mark_multiplexed();
        }
        connection.publish(activity, has_request);
        self.published = (activity, has_request);
    }

    #[inline]
    fn saw_read(&mut self, bytes: &[u8], stage: Stage) {
        self.read_pending = false;
        let awaited_response = self.sniffer.awaits_response();
        self.sniffer.read(bytes);
        self.delivering |= !awaited_response && self.sniffer.awaits_response();
        self.publish_changes(stage);
        if self.published.0 != ConnectionState::Reading {
            self.head_since = None;
        }
        if self.is_closing(stage) {
            self.saw_closing();
        }
    }

    #[inline]
    fn saw_write<'a>(
        &mut self,
        result: Poll<io::Result<usize>>,
        slices: impl IntoIterator<Item = &'a [u8]>,
        stage: Stage,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        self.stalled = result.is_pending();
        if let Poll::Ready(Ok(mut written)) = result {
            self.registered.connection().wrote(written);
            for slice in slices {
                let part = &slice[..slice.len().min(written)];
                self.sniffer.wrote(part);
                written -= part.len();
                if written == 0 {
                    break;
                }
            }
        }
        self.publish_changes(stage);
        if self.stalled {
            self.wake_at_abort(cx)?;
        } else if self.is_closing(stage) {
            self.saw_closing();
        }
        result
    }

    /// Returns whether the server has told the peer, over HTTP/2, that the connection closes.
    #[inline]
    fn is_closing(&self, stage: Stage) -> bool {
        stage >= Stage::ClosingConnections || self.registered.connection().retires()
    }

    #[cold]
    fn saw_closing(&mut self) {
        if !self.sniffer.waits_for_pong() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            // The last stream has ended. Only now does the limit for the PONG apply: wake the task
            // that reads, to set its timer.
            self.idle_since = Some(Instant::now());
            self.registered.connection().wake_reader();
        }
    }

    /// Fails if the connection has to be aborted, and otherwise wakes the task when it has to be.
    /// Called if a write is pending, or if the server waits for something else than the connection.
    fn wake_at_abort(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let connection = self.registered.connection();
        connection.register_writer(cx.waker());
        // After the registration: a later change of the stage wakes the task.
        while self.live_stage()? >= Stage::LastRead {
            let next = self
                .registered
                .connection()
                .schedule(|schedule| schedule.next_step());
            match next {
                // Perhaps no waiter is there to advance the schedule.
                Some(next) if self.waiting_timer.poll(next, cx).is_ready() => {
                    self.registered.connection().advance();
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Returns whether unread bytes in the kernel matter: the server closes the connection soon,
    /// and would lose a request.
    fn may_lose_request(&self, stage: Stage) -> bool {
        let closes = stage >= Stage::Settling || self.registered.connection().retires();
        // A GOAWAY names the last request that was seen, and an upgraded connection has no
        // requests.
        let loses = !matches!(self.sniffer, Sniffer::Http2(_) | Sniffer::Upgraded);
        closes && stage < Stage::Forced && loses
    }

    /// Has the task read again: the kernel has bytes that the runtime has not seen yet.
    #[cold]
    fn read_again(&mut self, cx: &mut Context<'_>) {
        self.read_pending = false;
        self.unread = true;
        self.publish(self.published.0, true);
        cx.waker().wake_by_ref();
    }

    /// Handles a read that is pending. Ready if the connection is not waited for any longer.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.read_pending = true;
        let connection = self.registered.connection();
        connection.register_reader(cx.waker());
        // After the registration: a later change of the stage wakes the task.
        let stage = connection.stage();
        let awaits_head = match self.published.0 {
            ConnectionState::Silent | ConnectionState::Reading => self.head_limit.is_some(),
            _ => false,
        };
        if stage >= Stage::LastRead || awaits_head || connection.retires() {
            return self.poll_limits(cx);
        }
        // Not needed before the drain, or the next head that comes in parts.
        self.reading_timer.stop();
        Poll::Pending
    }

    /// Enforces the limits on a connection that has nothing to read.
    #[cold]
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let stage = self.live_stage()?;
            self.publish_changes(stage);
            let limit = self.limit(stage);
            if limit.is_some_and(|limit| limit <= Instant::now()) {
                self.ended = true;
                return Poll::Ready(match self.sniffer.is_in_preface() {
                    // At an end of file, a server may take it for HTTP/1 and answer 400.
                    true => Err(io::ErrorKind::TimedOut.into()),
                    false => Ok(()),
                });
            }
            let connection = self.registered.connection();
            let mut next = limit;
            if stage >= Stage::LastRead {
                connection.checked();
                let step = connection.schedule(|schedule| schedule.next_step());
                // The end of the grace changes what is published.
                let grace = self.grace_until().filter(|_| self.is_young());
                next = [next, step, grace].into_iter().flatten().min();
            }
            let Some(next) = next else {
                return Poll::Pending;
            };
            ready!(self.reading_timer.poll(next, cx));
            // Perhaps no waiter is there to advance the schedule.
            self.registered.connection().advance();
        }
    }

    /// Returns when a connection that has nothing to read is not waited for any longer.
    fn limit(&mut self, stage: Stage) -> Option<Instant> {
        let activity = self.sniffer.activity();
        let connection = self.registered.connection();
        let accepted = connection.accepted();
        let in_drain = stage >= Stage::LastRead;
        let began = match activity {
            ConnectionState::Silent => Some(accepted),
            // Not during a call: the response goes on, and the client has begun its next head.
            ConnectionState::Reading if !connection.calls().is_active() => {
                let now = || match self.sniffer.awaits_first_head() {
                    true => accepted,
                    false => Instant::now(),
                };
                Some(*self.head_since.get_or_insert_with(now))
            }
            _ => None,
        };
        if began.is_none() {
            self.head_since = None;
        }
        let head = began
            .zip(self.head_limit)
            .and_then(|(began, limit)| began.checked_add(limit));
        let closing = connection.schedule(|schedule| match activity {
            // Without any work, it need not be aborted: it just ends.
            ConnectionState::Silent | ConnectionState::Idle if stage >= Stage::Forced => {
                Some(Instant::now())
            }
            ConnectionState::Silent if in_drain || connection.retires() => {
                schedule.first_byte_until(accepted)
            }
            ConnectionState::Reading if in_drain && began.is_some() => schedule.head_until(),
            _ if self.is_closing(stage) && self.sniffer.waits_for_pong() => {
                schedule.pong_until(self.idle_since)
            }
            _ => None,
        });
        [head, closing].into_iter().flatten().min()
    }

    /// Returns how the connection lingers after its write half was closed, if it does.
    fn lingers(&mut self, has_unread_bytes: bool) -> Option<Linger> {
        let linger = match &self.sniffer {
            _ if self.registered.connection().closes_at_once() => return None,
            // The server may go on reading.
            Sniffer::Upgraded | Sniffer::Opaque => return None,
            Sniffer::Http2(_) => return Some(Linger::http2()),
            _ if self.ended => return None,
            sniffer => (sniffer.is_mid_request() || has_unread_bytes).then(Linger::http1),
        };
        if linger.is_some() {
            // No more requests are served. The peer may still be reading its response.
            self.publish(ConnectionState::Streaming, false);
        }
        linger
    }
}

#[cold]
fn read_unconstrained<T: AsyncRead>(
    mut io: Pin<&mut T>,
    cx: &mut Context<'_>,
    buf: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    pin!(unconstrained(poll_fn(|cx| io.as_mut().poll_read(cx, buf)))).poll(cx)
}

impl<T: AsyncRead> AsyncRead for DrainIo<T> {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.project();
        let monitor = this.monitor;
        let stage = monitor.live_stage()?;
        if monitor.ended {
            return Poll::Ready(Ok(()));
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        let mut io = this.io;
        let read = if stage < Stage::Settling {
            io.as_mut().poll_read(cx, buf)
        } else {
            // Otherwise a used-up task budget would look like a peer that has sent nothing.
            read_unconstrained(io.as_mut(), cx, buf)
        };
        monitor.unread = false;
        match read {
            Poll::Pending if monitor.may_lose_request(stage) && (this.has_unread_bytes)(&io) => {
                monitor.read_again(cx);
                Poll::Pending
            }
            Poll::Pending => monitor.poll_idle(cx),
            ready => {
                let read = &buf.filled()[before..];
                monitor.ended = matches!(ready, Poll::Ready(Ok(()))) && read.is_empty() && room > 0;
                monitor.saw_read(read, stage);
                ready
            }
        }
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
        let result = this.io.poll_write_vectored(cx, bufs);
        let slices = bufs.iter().map(|buf| &**buf);
        this.monitor.saw_write(result, slices, stage, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let stage = this.monitor.before_write()?;
        if let Some(error) = *this.error {
            // Not after an upgrade: another task may read then, and this would replace its waker.
            if this.monitor.sniffer.is_in_request() {
                if let Some(error) = error(&this.io, cx) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        let result = this.io.poll_flush(cx);
        // A pending flush counts as stalled: TLS buffers what it could not write.
        if result.is_pending() != this.monitor.unflushed {
            this.monitor.unflushed = result.is_pending();
            this.monitor.publish_changes(stage);
        }
        // A server that only waits for its handler flushes, and its task has to wake at the
        // deadline. If a read is pending, its waker does that until it has been used.
        if result.is_pending() || !this.monitor.read_pending || stage >= Stage::LastRead {
            this.monitor.wake_at_abort(cx)?;
        }
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let monitor = this.monitor;
        monitor.before_write()?;
        if monitor.linger.is_none() {
            match this.io.as_mut().poll_shutdown(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    monitor.wake_at_abort(cx)?;
                    return Poll::Pending;
                }
            }
            monitor.linger = monitor.lingers((this.has_unread_bytes)(&this.io));
            let closes_at_once = monitor.registered.connection().closes_at_once();
            if monitor.sniffer.is_opaque() && !monitor.ended && !closes_at_once {
                monitor.registered.hold((this.duplicate)(&this.io));
            }
        }
        let Some(linger) = &mut monitor.linger else {
            return Poll::Ready(Ok(()));
        };
        let connection = monitor.registered.connection();
        connection.register_reader(cx.waker());
        // After the registration: a later change of the stage wakes the task.
        if connection.closes_at_once() {
            return Poll::Ready(Ok(()));
        }
        connection.checked();
        let (sniffer, has_unread_bytes) = (&mut monitor.sniffer, this.has_unread_bytes);
        linger
            .poll(this.io, cx, |io, bytes| {
                sniffer.read(bytes);
                matches!(sniffer, Sniffer::Http1(_))
                    && !sniffer.is_mid_request()
                    && !has_unread_bytes(io)
            })
            .map(Ok)
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("sniffer", &self.sniffer)
            .field("stalled", &self.stalled)
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
