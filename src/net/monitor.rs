//! Watches one connection: publishes what it does, and enforces the limits on it.

mod websocket;

use super::{
    closing_handshake::{CloseWebSockets, ClosingHandshake},
    linger::{Linger, linger},
    sniff::Sniffer,
    socket::{SocketOf, duplicate, has_unread_bytes},
};
use crate::{
    drain::{ConnectionGuard, ConnectionState, RegisteredWaker, Role, Stage},
    timer::Timer,
};
use std::{
    any::Any,
    fmt, io, net,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{io::AsyncRead, runtime::Handle, time::Instant};

/// Holds what is known of a connection, apart from the connection itself.
pub(super) struct Monitor {
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
    pub(super) head_limit: Option<Duration>,
    /// Says whether `serve` has the connection. Then its future advances the schedule. Otherwise
    /// the connection's tasks do, as perhaps nothing waits for the drain. No TLS is around a
    /// connection of `serve`, so it does not linger once it was dropped.
    pub(super) served: bool,
    /// Records since when a part of a head has been there.
    head_since: Option<Instant>,
    /// Says whether the last read is pending. Its waker is registered then.
    read_pending: bool,
    /// Records what was published last: the activity, and whether a request is on its way.
    published: (ConnectionState, bool),
    /// Says whether nothing more is read: the peer has closed its half, or a limit has passed.
    pub(super) ended: bool,
    /// Limits the lingering, while the connection lingers. Boxed, as most connections are open and
    /// do not linger.
    linger: Option<Box<Linger>>,
    /// Says how to close a WebSocket in the drain, if the drain closes it.
    pub(super) close_websockets: Option<Arc<CloseWebSockets>>,
    /// Closes the WebSocket that the connection has become, unless its handler does.
    closing_handshake: Option<Box<ClosingHandshake>>,
    /// Fires at the next limit, for a task that reads.
    reading_timer: Timer,
    /// Fires at the next step of the schedule, for a task that waits for something else.
    waiting_timer: Timer,
    reader: RegisteredWaker,
    writer: RegisteredWaker,
    /// Holds a duplicate of the socket, which lingers once the server has dropped the connection.
    /// Until then, the server may go on reading: a tunnel does if only its other direction has
    /// ended.
    pub(super) duplicate: Option<net::TcpStream>,
    /// Holds bytes that were read to find out the protocol, to be read again.
    #[cfg(feature = "server")]
    pub(super) rewound: Vec<u8>,
    registered: ConnectionGuard,
}

impl Monitor {
    pub(super) fn new(registered: ConnectionGuard) -> Self {
        Self {
            sniffer: Sniffer::new(),
            stalled: false,
            unflushed: false,
            delivering: false,
            unread: false,
            idle_since: None,
            head_limit: None,
            served: false,
            head_since: None,
            read_pending: false,
            published: (ConnectionState::Silent, false),
            ended: false,
            linger: None,
            close_websockets: None,
            closing_handshake: None,
            reading_timer: Timer::default(),
            waiting_timer: Timer::default(),
            reader: RegisteredWaker::default(),
            writer: RegisteredWaker::default(),
            duplicate: None,
            #[cfg(feature = "server")]
            rewound: Vec::new(),
            registered,
        }
    }

    #[cfg(feature = "server")]
    pub(super) fn speaks_http2(&self) -> Option<bool> {
        match &self.sniffer {
            Sniffer::Unknown(_) => None,
            sniffer => Some(matches!(sniffer, Sniffer::Http2(_))),
        }
    }

    /// Returns whether this is HTTP/1 and not upgraded.
    #[inline]
    pub(super) fn is_in_request(&self) -> bool {
        matches!(self.sniffer, Sniffer::Http1(_))
    }

    /// Returns the stage, or fails if the connection has to be aborted. Called before each
    /// operation.
    #[inline]
    pub(super) fn live_stage(&mut self) -> io::Result<Stage> {
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
    pub(super) fn before_write(&mut self) -> io::Result<Stage> {
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
        matches!(self.sniffer, Sniffer::Opaque) && young(self.grace_until())
    }

    fn grace_until(&self) -> Option<Instant> {
        let connection = self.registered.connection();
        connection.schedule(|schedule| schedule.first_byte_until(connection.accepted()))
    }

    fn publish(&mut self, activity: ConnectionState, has_request: bool) {
        let connection = self.registered.connection();
        connection.publish(activity, has_request);
        self.published = (activity, has_request);
    }

    /// Follows bytes that were read. `ended` says that the peer has closed its half.
    #[inline]
    pub(super) fn saw_read(&mut self, bytes: &[u8], ended: bool, stage: Stage) {
        self.unread = false;
        self.ended = ended;
        self.read_pending = false;
        let awaited_response = self.sniffer.awaits_response();
        let was_multiplexed = self.sniffer.is_multiplexed();
        self.sniffer.read(bytes);
        if self.sniffer.is_multiplexed() && !was_multiplexed {
            self.registered.connection().mark_multiplexed();
        }
        self.delivering |= !awaited_response && self.sniffer.awaits_response();
        if let Some(handshake) = &mut self.closing_handshake {
            handshake.websocket.client.follow(bytes);
        }
        self.publish_changes(stage);
        if self.published.0 != ConnectionState::Reading {
            self.head_since = None;
        }
        if self.is_closing(stage) {
            self.saw_closing();
        }
    }

    /// Follows a write.
    #[inline]
    pub(super) fn saw_write<'a>(
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
                self.follow_written(part, part.len() == slice.len());
                written -= part.len();
                if written == 0 {
                    break;
                }
            }
        }
        self.publish_changes(stage);
        self.saw_reading();
        if self.stalled {
            self.wake_at_abort(cx)?;
        } else if self.is_closing(stage) {
            self.saw_closing();
        }
        result
    }

    /// Follows that a write or a flush may have ended what was before a part of a head, while the
    /// read is pending.
    #[inline]
    fn saw_reading(&mut self) {
        if self.published.0 != ConnectionState::Reading {
            self.head_since = None;
        } else if self.read_pending && self.head_limit.is_some() {
            // Only now does the limit apply: wake the task that reads, to set its timer.
            self.registered.connection().wakers.wake(Role::Reads);
        }
    }

    /// Returns whether the server has told the peer, over HTTP/2, that the connection closes.
    #[inline]
    fn is_closing(&self, stage: Stage) -> bool {
        stage >= Stage::ClosingConnections || self.registered.connection().retires()
    }

    #[cold]
    fn saw_closing(&mut self) {
        if !self.sniffer.is_without_streams() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            // The last stream has ended. Only now does the limit apply: wake the task that reads, to
            // set its timer.
            self.idle_since = Some(Instant::now());
            self.registered.connection().wakers.wake(Role::Reads);
        }
    }

    /// Registers the task that reads, to be woken when the stage changes.
    #[inline]
    pub(super) fn register_reader(&mut self, cx: &mut Context<'_>) {
        let connection = self.registered.connection();
        connection
            .wakers
            .register(Role::Reads, cx.waker(), &mut self.reader);
    }

    /// Registers the task that writes.
    #[inline]
    pub(super) fn register_writer(&mut self, cx: &mut Context<'_>) {
        let connection = self.registered.connection();
        connection
            .wakers
            .register(Role::Writes, cx.waker(), &mut self.writer);
    }

    /// Fails if the connection has to be aborted, and otherwise wakes the task when it has to be.
    /// Called if a write is pending, or if the server waits for something else than the connection.
    pub(super) fn wake_at_abort(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.register_writer(cx);
        // After the registration: a later change of the stage wakes the task.
        while self.live_stage()? >= Stage::LastRead {
            match self.next_step() {
                Some(next) if self.waiting_timer.poll(next, cx).is_ready() => {
                    self.registered.connection().advance();
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// Returns when the connection's task has to advance the schedule, or to write a Close frame.
    fn next_step(&self) -> Option<Instant> {
        let connection = self.registered.connection();
        // An upgraded connection may outlive the future of `serve`.
        let step = match self.served && !matches!(self.sniffer, Sniffer::Upgraded) {
            true => None,
            false => connection.schedule(|schedule| schedule.next_step()),
        };
        let handshake = self.closing_handshake.as_ref();
        let close = handshake.and_then(|handshake| handshake.next());
        [step, close].into_iter().flatten().min()
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

    /// Follows a flush. Fails if the connection has to be aborted.
    #[inline]
    pub(super) fn saw_flush(
        &mut self,
        is_pending: bool,
        stage: Stage,
        cx: &mut Context<'_>,
    ) -> io::Result<()> {
        // A pending flush counts as stalled: TLS buffers what it could not write.
        if is_pending != self.unflushed {
            self.unflushed = is_pending;
            self.publish_changes(stage);
            self.saw_reading();
        }
        // A server that only waits for its handler flushes, and its task has to wake at the
        // deadline. If a read is pending, its waker does that until it has been used.
        match is_pending || !self.read_pending || stage >= Stage::LastRead {
            true => self.wake_at_abort(cx),
            false => Ok(()),
        }
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
    pub(super) fn poll_pending_read(
        &mut self,
        has_unread_bytes: impl FnOnce() -> bool,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        self.unread = false;
        self.read_pending = true;
        self.register_reader(cx);
        // After the registration: a later change of the stage wakes the task.
        let stage = self.registered.connection().stage();
        if self.may_lose_request(stage) && has_unread_bytes() {
            self.read_again(cx);
            return Poll::Pending;
        }
        let connection = self.registered.connection();
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
            let handshake = self.closing_handshake.as_ref();
            if handshake.is_some_and(|handshake| handshake.may_begin()) {
                // The next read writes the Close frame.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
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
                let step = self.next_step();
                // The end of the grace changes what is published.
                let grace = self.grace_until().filter(|_| self.is_young());
                next = [next, step, grace].into_iter().flatten().min();
            }
            let Some(next) = next else {
                return Poll::Pending;
            };
            ready!(self.reading_timer.poll(next, cx));
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
            // The peer does not answer the PING, or the server still holds a part of a request.
            ConnectionState::Reading => None,
            _ if self.is_closing(stage) && self.sniffer.is_without_streams() => {
                schedule.idle_until(self.idle_since)
            }
            _ => None,
        });
        let websocket = self.closing_handshake.as_ref();
        let websocket = websocket.and_then(|handshake| handshake.until);
        [head, closing, websocket].into_iter().flatten().min()
    }

    /// Returns whether the write half was closed, and the connection lingers.
    pub(super) fn is_lingering(&self) -> bool {
        self.linger.is_some()
    }

    /// Begins to linger, if need be. The write half has been closed.
    pub(super) fn begin_to_linger(&mut self, socket: &dyn Any) {
        self.linger = match &self.sniffer {
            _ if self.registered.connection().closes_at_once() => None,
            // The server may go on reading.
            Sniffer::Upgraded => None,
            Sniffer::Opaque => {
                if !self.ended && !self.served {
                    self.duplicate = duplicate(socket);
                }
                None
            }
            Sniffer::Http2(_) => {
                self.linger = Some(Box::new(Linger::http2()));
                return;
            }
            _ if self.ended => None,
            sniffer => (sniffer.is_mid_request() || has_unread_bytes(socket))
                .then(|| Box::new(Linger::http1())),
        };
        if self.linger.is_some() {
            // No more requests are served. The peer may still be reading its response.
            self.publish(ConnectionState::Streaming, false);
        }
    }

    /// Lingers, if need be. Ready when the server may drop the connection.
    pub(super) fn poll_linger<T: AsyncRead>(
        &mut self,
        io: Pin<&mut T>,
        socket: &SocketOf<T>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(linger) = &mut self.linger else {
            return Poll::Ready(());
        };
        let (connection, sniffer) = (self.registered.connection(), &mut self.sniffer);
        linger.poll(io, cx, connection, &mut self.reader, |io, bytes| {
            sniffer.read(bytes);
            matches!(sniffer, Sniffer::Http1(_))
                && !sniffer.is_mid_request()
                && !has_unread_bytes(socket.get(io))
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let Some(socket) = self.duplicate.take() else {
            return;
        };
        // Without a runtime, the socket is closed at once.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(linger(self.registered.clone(), socket));
        }
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
