//! One connection, from its handshake to its end: a task of its own.

use super::{
    Shared, info,
    listener::{Handshake, Peer, Protocol},
    service::{ConnectionService, HttpService},
};
use crate::{
    drain::{CallCounts, Connection, ConnectionGuard, ConnectionState, Schedule, Stage},
    log,
    net::DrainIo,
};
use http::Extensions;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep_until};

/// Ends when the connection has ended, or has become something else (a WebSocket).
pub(super) async fn serve<T, H, S>(
    // First, so that it is dropped last: what is not counted any more has been closed.
    registered: ConnectionGuard,
    io: T,
    peer: Peer,
    handshake: H,
    service: S,
    shared: Arc<Shared>,
) where
    H: Handshake<T>,
    S: HttpService,
{
    let settings = &shared.settings;
    let connection = registered.handle();
    let mut driver = Driver::new(connection.clone(), &shared);
    let io = {
        let mut shake = pin!(handshake.shake(io, connection.clone()));
        match poll_fn(|cx| driver.poll_handshake(shake.as_mut(), cx)).await {
            Some(Ok(io)) => io,
            // The peer is told why by the protocol of the handshake.
            Some(Err(error)) => return log::handshake_error(&peer, &error),
            None if shared.is_dropped() => return,
            None => return log::handshake_error(&peer, &"it took too long"),
        }
    };
    let protocol = settings.protocol.unwrap_or_else(|| H::protocol(&io));
    let mut extensions = Extensions::new();
    let established = H::established(&io, &peer);
    info::insert(established, &mut extensions);
    H::insert_info(&io, &mut extensions);
    if let Some(on_connect) = &settings.on_connect {
        on_connect(established, &mut extensions);
    }
    let calls = ConnectionService {
        inner: TowerToHyperService::new(service),
        handle: shared.drain.counter_handle(),
        connection,
        registered: registered.clone(),
        extensions: Some(extensions).filter(|extensions| !extensions.is_empty()),
        names: settings.names,
    };
    let mut io = DrainIo::new(io, registered, H::has_unread_bytes);
    if settings.half_close {
        io = io.notice_errors(H::error);
    }
    let io = TokioIo::new(io);
    match protocol {
        Protocol::Either => {
            let connection = pin!(settings.http.serve_connection_with_upgrades(io, calls));
            let end = driver.drive(connection, |it| it.graceful_shutdown()).await;
            if let Err(error) = end {
                log::connection_error(&peer, &*error);
            }
        }
        Protocol::Http1 => {
            let connection = settings.http1.serve_connection(io, calls).with_upgrades();
            let connection = pin!(connection);
            let end = driver.drive(connection, |it| it.graceful_shutdown()).await;
            if let Err(error) = end {
                log::connection_error(&peer, &error);
            }
        }
        Protocol::Http2 => {
            let connection = pin!(settings.http2.serve_connection(io, calls));
            let end = driver.drive(connection, |it| it.graceful_shutdown()).await;
            if let Err(error) = end {
                log::connection_error(&peer, &error);
            }
        }
    }
}

/// How often to look for a reset of a client that has closed its half, or has sent the next request: the
/// runtime does not wake for it then.
const RESET_LOOK: Duration = Duration::from_secs(1);

/// Sees to it that a connection ends in time.
///
/// Whoever is told by it is idle: hyper closes such a connection without another look. So that look
/// comes first, and both happen in one task, in which a connection is either read or closed.
struct Driver<'a> {
    connection: Arc<Connection>,
    shared: &'a Shared,
    /// Since when it is idle, and what turn that was seen in.
    idle: Option<(CallCounts, Instant)>,
    /// Likewise, since when a head is read.
    reading: Option<(CallCounts, Instant)>,
    /// It was told to shut down.
    shutdown_sent: bool,
    /// When it is too old.
    retires_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What is to be done about a connection that waits.
enum Action {
    Wait(Option<Instant>),
    Recheck,
    Shutdown,
    Close,
}

impl<'a> Driver<'a> {
    fn new(connection: Arc<Connection>, shared: &'a Shared) -> Self {
        let retires_at = shared.settings.limits.retirement(connection.accepted());
        Self {
            connection,
            shared,
            idle: None,
            reading: None,
            shutdown_sent: false,
            retires_at,
            timer: None,
        }
    }

    /// `None` if it has taken too long.
    fn poll_handshake<F: Future>(
        &mut self,
        handshake: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<F::Output>> {
        if let Poll::Ready(io) = handshake.poll(cx) {
            return Poll::Ready(Some(io));
        }
        loop {
            let stage = self.listen(cx);
            if self.shared.is_dropped() || stage >= Stage::Forced {
                return Poll::Ready(None);
            }
            let accepted = self.connection.accepted();
            let mut limit = self.shared.settings.limits.head_until(accepted);
            if stage >= Stage::LastRead {
                let grace = self
                    .connection
                    .schedule(|schedule| schedule.first_byte_until(accepted));
                limit = [limit, grace].into_iter().flatten().min();
            }
            if limit.is_some_and(|limit| limit <= Instant::now()) {
                return Poll::Ready(None);
            }
            if !self.poll_timer(limit, cx) {
                return Poll::Pending;
            }
        }
    }

    /// Errs if the connection has failed; one that is closed here has not.
    async fn drive<C, E>(mut self, mut http: Pin<&mut C>, tell: fn(Pin<&mut C>)) -> Result<(), E>
    where
        C: Future<Output = Result<(), E>>,
    {
        poll_fn(|cx| {
            loop {
                let stage = self.listen(cx);
                // Before it is polled: a call that comes now says so, and what is read is looked at
                // closely.
                let closes = self.closes(stage);
                if self.shared.is_dropped() {
                    return Poll::Ready(Ok(()));
                }
                if let Poll::Ready(end) = http.as_mut().poll(cx) {
                    return Poll::Ready(end);
                }
                match self.look(stage, closes) {
                    Action::Wait(until) => {
                        if !self.poll_timer(until, cx) {
                            return Poll::Pending;
                        }
                    }
                    Action::Recheck => {}
                    Action::Shutdown => {
                        self.shutdown_sent = true;
                        self.idle = None;
                        tell(http.as_mut());
                    }
                    Action::Close => return Poll::Ready(Ok(())),
                }
            }
        })
        .await
    }

    /// The stage; when it changes, the task is woken.
    #[inline]
    fn listen(&mut self, cx: &Context<'_>) -> Stage {
        let connection = &self.connection;
        connection.register_driver(cx.waker());
        // After that: whoever changes the stage from here on, wakes.
        connection.stage()
    }

    /// Whether it is to be closed at the next occasion.
    fn closes(&self, stage: Stage) -> bool {
        let is_old = self.retires_at.is_some_and(|at| at <= Instant::now());
        if is_old || !self.shared.settings.keep_alive.is_enabled() {
            self.connection.retire();
        }
        stage >= Stage::Settling || self.connection.retires()
    }

    fn look(&mut self, stage: Stage, closes: bool) -> Action {
        let connection = &self.connection;
        let limits = &self.shared.settings.limits;
        if let Some(at) = self.retires_at {
            if limits.is_overdue(at, Instant::now()) {
                return Action::Close;
            }
        }
        let age = match self.retires_at {
            Some(at) if connection.retires() => limits.overdue_at(at),
            at => at,
        };
        let activity = connection.activity();
        let calls = connection.calls();
        let http2 = connection.speaks_http2();
        let handles = self.shared.settings.half_close && calls.is_active();
        let reset = handles.then(|| Instant::now() + RESET_LOOK);
        let until =
            |limit: Option<Instant>| Action::Wait([limit, age, reset].into_iter().flatten().min());
        if activity != ConnectionState::Reading {
            self.reading = None;
        }
        if activity != ConnectionState::Idle && http2 {
            self.idle = None;
        }
        let over = |at: Option<Instant>, next: Action| match at {
            Some(at) if at <= Instant::now() => next,
            at => until(at),
        };
        if http2 && closes && !self.shutdown_sent {
            // Nothing is lost by that: HTTP/2 says which requests it has not seen.
            return Action::Shutdown;
        }
        match activity {
            // In a drain there are other limits for these, too, which are kept where it is read.
            ConnectionState::Silent => {
                let mut limit = limits.head_until(connection.accepted());
                if connection.retires() {
                    // Its request may be on its way, as in a drain.
                    let grace =
                        |schedule: &Schedule| schedule.first_byte_until(connection.accepted());
                    limit = [limit, connection.schedule(grace)]
                        .into_iter()
                        .flatten()
                        .min();
                }
                over(limit, Action::Close)
            }
            // Not while a response is on: then it is the beginning of the next head.
            ConnectionState::Reading if !calls.is_active() => {
                let first = calls.started == 0 && !http2;
                let began = match first {
                    true => connection.accepted(),
                    false => since(&mut self.reading, calls),
                };
                over(limits.head_until(began), Action::Close)
            }
            // Whoever does not answer the PING that came with the GOAWAY is gone.
            ConnectionState::Idle if self.shutdown_sent && http2 => {
                let since = since(&mut self.idle, calls);
                over(
                    connection.schedule(|schedule| schedule.pong_until(Some(since))),
                    Action::Close,
                )
            }
            _ if self.shutdown_sent => until(None),
            ConnectionState::Idle if http2 => {
                let since = since(&mut self.idle, calls);
                over(
                    limits.idle.and_then(|limit| since.checked_add(limit)),
                    Action::Shutdown,
                )
            }
            ConnectionState::Streaming if !calls.is_active() && !connection.has_unread() => {
                // Whoever has just had an answer may have written the next request by now.
                let (limit, settling) = match closes {
                    true => connection.schedule(|schedule| {
                        (Some(schedule.settle_time()), schedule.settling_until())
                    }),
                    false => (limits.idle, None),
                };
                let since = since(&mut self.idle, calls);
                // A client that has long been idle may have sent one just before the drain began. (`None`
                // is less than any instant.)
                let mut at = limit
                    .and_then(|limit| since.checked_add(limit))
                    .max(settling);
                if stage >= Stage::Forced {
                    at = Some(since);
                }
                if closes {
                    return over(at, Action::Shutdown);
                }
                // Once more, closely: what the runtime has not heard of does not show in a read.
                let next = over(at, Action::Recheck);
                if let Action::Recheck = next {
                    connection.retire();
                }
                next
            }
            _ => until(None),
        }
    }

    /// True if it has fired: then it may be time for something.
    fn poll_timer(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(at) = at else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // One that fires too early costs a look, and is not moved for each request.
        if timer.is_elapsed() || timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

/// Since when it has been so in this turn.
fn since(seen: &mut Option<(CallCounts, Instant)>, calls: CallCounts) -> Instant {
    match seen {
        Some((then, since)) if *then == calls => *since,
        _ => seen.insert((calls, Instant::now())).1,
    }
}
