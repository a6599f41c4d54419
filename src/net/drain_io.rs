use super::{
    linger::{Linger, Lingering},
    sniff::Sniffer,
    socket,
};
use crate::drain::{ConnectionGuard, ConnectionState, Stage};
use pin_project_lite::pin_project;
use std::{
    fmt,
    future::{Future, poll_fn},
    io::{self, IoSlice},
    net,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::unconstrained,
    time::{Instant, Sleep, sleep_until},
};

pin_project! {
    /// A connection that a drain knows: counted from its accept to its drop, and cut at the deadline.
    ///
    /// From a [`DrainListener`](crate::DrainListener) or a [`DrainIncoming`](crate::DrainIncoming).
    /// It is read and written like the connection inside of it, and stays so when a server hands it
    /// on: a WebSocket is counted, too.
    ///
    /// # What it does during a drain
    ///
    /// * It closes for a peer that has never sent a byte, once its
    ///   [grace](crate::DrainBuilder::grace) is over; that has sent half a head for 5 s; that
    ///   speaks HTTP/2, has no streams and does not answer the server's PING for 5 s. To the server
    ///   that looks like a peer that has closed; after a part of HTTP/2's preface, like an error of the
    ///   kind [`TimedOut`](io::ErrorKind::TimedOut).
    /// * At the [deadline](crate::Drain::set_deadline) everything that is done with it ends with an
    ///   error of kind [`ConnectionAborted`](io::ErrorKind::ConnectionAborted), and the server drops
    ///   it.
    ///
    /// # What it does at any time
    ///
    /// When the server closes it while the peer may still be sending, it *lingers*: it closes its write
    /// half, then reads and discards what comes. Without that, the peer would get a reset in place of
    /// its response, or of the end of it ([RFC 9112, section
    /// 9.6](https://www.rfc-editor.org/rfc/rfc9112#section-9.6)). Lingering ends
    ///
    /// * with the end of the request, over HTTP/1;
    /// * when nothing has come for 500 ms, over HTTP/2 for 1 s;
    /// * after 5 s, or 16 MiB (4 MiB over HTTP/2), whatever comes;
    /// * with the end of what the peer sends, and at the drain's deadline.
    ///
    /// A connection whose bytes cannot be read, as with TLS around it, lingers after it was dropped,
    /// in a task of its own, if it is a `TcpStream` whose write half was shut down: only then is it
    /// certain that no part of the server reads it any more.
    ///
    /// # Panics
    ///
    /// When polled outside of a tokio runtime with its time driver, once the drain has begun or while
    /// it lingers.
    #[derive(Debug)]
    pub struct DrainIo<T> {
        #[pin]
        io: T,
        // Whether it has something to be read that the runtime has not heard of.
        has_unread_bytes: fn(&T) -> bool,
        // How a reset is noticed by a server that does not read while it handles a request.
        error: Option<ErrorOf<T>>,
        // Duplicates its socket, where that is possible.
        duplicate: fn(&T) -> Option<net::TcpStream>,
        monitor: Monitor,
    }
}

/// See [`socket::error`](super::socket::error).
type ErrorOf<T> = fn(&T, &mut Context<'_>) -> Option<io::Error>;

/// All but the connection itself. It is dropped after that: what is not counted any more has been
/// closed.
struct Monitor {
    sniffer: Sniffer,
    /// The last write had to wait.
    stalled: bool,
    /// Likewise, the last flush.
    unflushed: bool,
    /// The head of a request was read, of which the server has not made a call yet: it could
    /// still be refused.
    delivering: bool,
    /// Something is there to be read that the runtime has not heard of.
    unread: bool,
    /// Since when HTTP/2 has had no streams, as far as that was seen while parting.
    idle_since: Option<Instant>,
    /// The last read had to wait: its waker will do.
    reading: bool,
    /// What was said of it last; and whether a request is expected.
    shown: (ConnectionState, bool),
    multiplexed: bool,
    /// Nothing more is read: the peer has ended, or it was closed from here.
    ended: bool,
    /// Its write half is closed, and it lingers.
    linger: Option<Linger>,
    /// For the next limit of one who reads, or lingers.
    reading_timer: Timer,
    /// For the next step of the schedule, while something else is waited for.
    waiting_timer: Timer,
    registered: Lingering,
}

impl<T: 'static> DrainIo<T> {
    /// A connection of a listener, of which nothing is known but its type.
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
                reading: false,
                shown: (ConnectionState::Silent, false),
                multiplexed: false,
                ended: false,
                linger: None,
                reading_timer: Timer::default(),
                waiting_timer: Timer::default(),
                registered: Lingering::new(registered),
            },
        }
    }

    /// Looks for errors of the connection when it is flushed while a request is handled.
    #[cfg(feature = "server")]
    pub(crate) fn notice_errors(mut self, error: ErrorOf<T>) -> Self {
        self.error = Some(error);
        self
    }

    /// The connection itself.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// The connection itself, to set its options. What is read or written this way goes unseen.
    pub fn get_mut(&mut self) -> &mut T {
        &mut self.io
    }

    /// The connection itself, which the drain forgets.
    pub fn into_inner(mut self) -> T {
        self.monitor.registered.release();
        self.io
    }
}

/// Not there before a drain.
#[derive(Default)]
pub(super) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    pub(super) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

impl Monitor {
    /// Before anything is done with the connection: errs if it is to be cut.
    #[inline]
    fn enter(&mut self) -> io::Result<Stage> {
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

    /// Likewise, before something is written or flushed. A server comes by here when it has made a
    /// call of what it has read, and not before.
    #[inline]
    fn enter_write(&mut self) -> io::Result<Stage> {
        let stage = self.enter()?;
        self.delivering = false;
        if stage >= Stage::LastRead {
            self.show(stage);
            // The others have to look for bytes first.
            if matches!(
                self.shown.0,
                ConnectionState::Handling | ConnectionState::Stalled | ConnectionState::Upgraded
            ) {
                self.registered.connection().checked();
            }
        }
        Ok(stage)
    }

    /// Says what it was seen doing.
    #[inline]
    fn show(&mut self, stage: Stage) {
        let activity = match self.stalled || self.unflushed {
            true => ConnectionState::Stalled,
            false => self.sniffer.activity(),
        };
        // Of interest to a drain only.
        let expected =
            self.unread || (stage >= Stage::LastRead && (self.delivering || self.is_young()));
        if (activity, expected) != self.shown {
            self.publish(activity, expected);
        }
    }

    /// Of what cannot be read, a handshake may be going on, and a request be on its way.
    fn is_young(&self) -> bool {
        let young = |until: Option<Instant>| until.is_none_or(|until| Instant::now() < until);
        self.sniffer.is_opaque() && young(self.graced_until())
    }

    fn graced_until(&self) -> Option<Instant> {
        let connection = self.registered.connection();
        connection.schedule(|schedule| schedule.first_byte_until(connection.accepted()))
    }

    fn publish(&mut self, activity: ConnectionState, expected: bool) {
        let connection = self.registered.connection();
        if self.sniffer.is_multiplexed() && !self.multiplexed {
            self.multiplexed = true;
            connection.mark_multiplexed();
        }
        connection.publish(activity, expected);
        self.shown = (activity, expected);
    }

    #[inline]
    fn saw_read(&mut self, bytes: &[u8], stage: Stage) {
        self.reading = false;
        let awaited_response = self.sniffer.awaits_response();
        self.sniffer.read(bytes);
        self.delivering |= !awaited_response && self.sniffer.awaits_response();
        self.show(stage);
        if stage >= Stage::ClosingConnections {
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
        self.show(stage);
        if self.stalled {
            self.poll_changes(cx)?;
        } else if stage >= Stage::ClosingConnections {
            self.saw_closing();
        }
        result
    }

    #[cold]
    fn saw_closing(&mut self) {
        if !self.sniffer.waits_for_pong() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            // Its last stream has ended: only now there is a limit, for one who reads.
            self.idle_since = Some(Instant::now());
            self.registered.connection().wake_reader();
        }
    }

    /// A write has to wait, or a server with nothing to read or write has to wait for something
    /// else: errs if it is to be cut, and sees to it that the task is woken when it is.
    fn poll_changes(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let connection = self.registered.connection();
        connection.register_writer(cx.waker());
        // After that: whoever changes the stage from here on, wakes.
        while self.enter()? >= Stage::LastRead {
            let next = self
                .registered
                .connection()
                .schedule(|schedule| schedule.next_step());
            match next {
                // Nobody else may be there to say that it is time.
                Some(next) if self.waiting_timer.poll(next, cx).is_ready() => {
                    self.registered.connection().advance();
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Whether it matters what is there to be read, and has not been: the connection is closed soon.
    fn looks_closely(&self, stage: Stage) -> bool {
        let closes = stage >= Stage::Settling || self.registered.connection().retires();
        // HTTP/2 says by itself which requests it has not seen, and what is upgraded has none.
        let has_turns = !matches!(self.sniffer, Sniffer::Http2(_) | Sniffer::Upgraded);
        closes && stage < Stage::Forced && has_turns
    }

    /// Something is there to be read, and the runtime will hear of it.
    #[cold]
    fn expect(&mut self, cx: &mut Context<'_>) {
        self.reading = false;
        self.unread = true;
        self.publish(self.shown.0, true);
        cx.waker().wake_by_ref();
    }

    /// Nothing is there to be read: ready if nothing more is waited for.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.reading = true;
        let connection = self.registered.connection();
        connection.register_reader(cx.waker());
        // After that: whoever changes the stage from here on, wakes.
        if connection.stage() < Stage::LastRead {
            return Poll::Pending;
        }
        self.poll_limits(cx)
    }

    #[cold]
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let stage = self.enter()?;
            self.show(stage);
            let connection = self.registered.connection();
            connection.checked();
            let (sniffer, idle_since) = (&self.sniffer, self.idle_since);
            let (limit, next_step) = connection.schedule(|schedule| {
                let limit = match sniffer.activity() {
                    // There is nothing to cut, and nothing more to wait for.
                    ConnectionState::Silent | ConnectionState::Idle if stage >= Stage::Forced => {
                        Some(Instant::now())
                    }
                    ConnectionState::Silent => schedule.first_byte_until(connection.accepted()),
                    ConnectionState::Reading => schedule.head_until(),
                    _ if sniffer.waits_for_pong() => schedule.pong_until(idle_since),
                    _ => None,
                };
                (limit, schedule.next_step())
            });
            if limit.is_some_and(|limit| limit <= Instant::now()) {
                self.ended = true;
                return Poll::Ready(match self.sniffer.is_in_preface() {
                    // At an end a server may take it for HTTP/1 and answer 400.
                    true => Err(io::ErrorKind::TimedOut.into()),
                    false => Ok(()),
                });
            }
            // That it is not young any more is worth a look, too.
            let grown = self.graced_until().filter(|_| self.is_young());
            let Some(next) = [limit, next_step, grown].into_iter().flatten().min() else {
                return Poll::Pending;
            };
            ready!(self.reading_timer.poll(next, cx));
            // Nobody else may be there to say that it is time.
            self.registered.connection().advance();
        }
    }

    /// After its write half was closed: how the rest of what the peer sends is read here, if it is.
    fn lingers(&mut self, stage: Stage, has_unread_bytes: bool) -> Option<Linger> {
        let linger = match &self.sniffer {
            // The server may go on reading.
            _ if stage >= Stage::Forced => return None,
            Sniffer::Upgraded | Sniffer::Opaque => return None,
            Sniffer::Http2(_) => return Some(Linger::http2()),
            _ if self.ended => return None,
            sniffer => (sniffer.is_mid_request() || has_unread_bytes).then(Linger::http1),
        };
        if linger.is_some() {
            // No request is expected any more. Its response is still being read, perhaps.
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
        let stage = monitor.enter()?;
        if monitor.ended {
            return Poll::Ready(Ok(()));
        }
        let (before, room) = (buf.filled().len(), buf.remaining());
        let mut io = this.io;
        let read = if stage < Stage::Settling {
            io.as_mut().poll_read(cx, buf)
        } else {
            // A task's budget shall not pass for a peer that has nothing to say.
            read_unconstrained(io.as_mut(), cx, buf)
        };
        monitor.unread = false;
        match read {
            Poll::Pending if monitor.looks_closely(stage) && (this.has_unread_bytes)(&io) => {
                monitor.expect(cx);
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
        let stage = this.monitor.enter_write()?;
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
        let stage = this.monitor.enter_write()?;
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
        let stage = this.monitor.enter_write()?;
        if let Some(error) = *this.error {
            // Not once it is upgraded: its reader may be another task, whose waker this would take.
            if this.monitor.sniffer.is_in_request() {
                if let Some(error) = error(&this.io, cx) {
                    return Poll::Ready(Err(error));
                }
            }
        }
        let result = this.io.poll_flush(cx);
        // What TLS holds has not been written.
        if result.is_pending() != this.monitor.unflushed {
            this.monitor.unflushed = result.is_pending();
            this.monitor.show(stage);
        }
        // A server with nothing to read or write, but a handler to wait for, comes by here: it has
        // to hear of the deadline. The waker of a read will do, until it has been used.
        if result.is_pending() || !this.monitor.reading || stage >= Stage::LastRead {
            this.monitor.poll_changes(cx)?;
        }
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut this = self.project();
        let monitor = this.monitor;
        let stage = monitor.enter_write()?;
        if monitor.linger.is_none() {
            match this.io.as_mut().poll_shutdown(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => {
                    monitor.poll_changes(cx)?;
                    return Poll::Pending;
                }
            }
            monitor.linger = monitor.lingers(stage, (this.has_unread_bytes)(&this.io));
            if monitor.sniffer.is_opaque() && !monitor.ended && stage < Stage::Forced {
                monitor.registered.hold((this.duplicate)(&this.io));
            }
        }
        let Some(linger) = &mut monitor.linger else {
            return Poll::Ready(Ok(()));
        };
        let connection = monitor.registered.connection();
        connection.register_reader(cx.waker());
        // After that: a change of the stage from here on wakes the task.
        if connection.stage() >= Stage::Forced {
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
