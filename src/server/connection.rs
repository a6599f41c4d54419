//! Serves one connection, from its handshake to its end, in a task of its own.

use super::{
    config::ServerShared,
    handle::ConnectionHandle,
    info,
    listener::{Handshake, Peer, Protocol},
    service::{ConnectionService, HttpService, Refuse},
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

/// Serves a connection until it ends or is upgraded.
pub(super) async fn serve<T, H, S>(
    // First, so that it is dropped last: the socket is closed before the connection is uncounted.
    registered: ConnectionGuard,
    io: T,
    mut peer: Peer,
    handshake: H,
    service: S,
    refusal: Option<Arc<dyn Refuse<S>>>,
    shared: Arc<ServerShared>,
) where
    H: Handshake<T>,
    S: HttpService,
{
    let settings = &shared.settings;
    let connection = registered.handle();
    let mut driver = Driver::new(connection.clone(), &shared);
    let (io, named) = {
        let mut handshake = pin!(handshake.start(io, &peer, connection.clone()));
        match poll_fn(|cx| driver.poll_handshake(handshake.as_mut(), cx)).await {
            Some(Ok(done)) => done,
            // The handshake's own protocol has told the peer why.
            Some(Err(error)) => return log::handshake_error(peer.tcp(), &error),
            None if shared.is_dropped() => return,
            None => return log::handshake_error(peer.tcp(), &"it took too long"),
        }
    };
    if let Some(named) = named {
        connection.set_peer(named.tcp());
        peer = named;
    }
    let protocol = settings.protocol.unwrap_or_else(|| H::protocol(&io));
    let mut extensions = Extensions::new();
    let handle = ConnectionHandle::new(&connection);
    let connection_info = H::info(&io, &peer, &handle);
    info::insert(connection_info, &mut extensions);
    H::insert_info(&io, &mut extensions);
    if let Some(on_connect) = &settings.on_connect {
        on_connect(connection_info, &mut extensions);
    }
    let calls = ConnectionService {
        inner: TowerToHyperService::new(service),
        handle: shared.drain.counter_handle(),
        connection,
        registered: registered.clone(),
        extensions: Some(extensions).filter(|extensions| !extensions.is_empty()),
        reports_requests: settings.reports_requests,
        exempt: settings.exempt.clone(),
        refusal,
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
                log::connection_error(peer.tcp(), &*error);
            }
        }
        Protocol::Http1 => {
            let connection = settings.http1.serve_connection(io, calls).with_upgrades();
            let connection = pin!(connection);
            let end = driver.drive(connection, |it| it.graceful_shutdown()).await;
            if let Err(error) = end {
                log::connection_error(peer.tcp(), &error);
            }
        }
        Protocol::Http2 => {
            let connection = pin!(settings.http2.serve_connection(io, calls));
            let end = driver.drive(connection, |it| it.graceful_shutdown()).await;
            if let Err(error) = end {
                log::connection_error(peer.tcp(), &error);
            }
        }
    }
}

/// Sets how often to look for a reset during a call. The runtime does not wake for a reset if the
/// client has closed its half before, or has sent its next request.
const RESET_CHECK: Duration = Duration::from_secs(1);

/// Limits how long an HTTP/1 connection without a call counts as busy by its bytes alone. hyper may
/// pause between pipelined requests, but not for long. And bytes can mislead: a body that begins
/// like a response, while a pipelined request waits, looks like that request's response.
const WITHOUT_CALL: Duration = Duration::from_secs(1);

/// Polls a connection, and shuts it down in time.
///
/// hyper's graceful shutdown closes an idle HTTP/1 connection without looking for unread bytes. So
/// the driver looks first. It does both in one poll of one task: in between, no request can be
/// read.
struct Driver<'a> {
    connection: Arc<Connection>,
    shared: &'a ServerShared,
    /// Records since when the connection is idle, and its calls by then.
    idle: Option<(CallCounts, Instant)>,
    /// Records since when a head is being read, and the calls by then.
    reading: Option<(CallCounts, Instant)>,
    /// Says whether hyper's graceful shutdown has begun.
    shutdown_sent: bool,
    /// Says when the connection is too old.
    retires_at: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// Names what to do with a connection that is pending.
enum Action {
    /// Waits until an instant, or only for the connection.
    Wait(Option<Instant>),
    /// Polls the connection again.
    Recheck,
    /// Begins the graceful shutdown of the connection.
    Shutdown,
    /// Drops the connection.
    Close,
}

impl<'a> Driver<'a> {
    fn new(connection: Arc<Connection>, shared: &'a ServerShared) -> Self {
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

    /// Waits for the handshake. Returns `None` if it has taken too long.
    fn poll_handshake<F: Future>(
        &mut self,
        handshake: Pin<&mut F>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<F::Output>> {
        if let Poll::Ready(io) = handshake.poll(cx) {
            return Poll::Ready(Some(io));
        }
        loop {
            let stage = self.watch_stage(cx);
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

    /// Polls the connection to its end. Fails if it fails, but not if it is closed here.
    async fn drive<C, E>(
        mut self,
        mut http: Pin<&mut C>,
        shutdown: fn(Pin<&mut C>),
    ) -> Result<(), E>
    where
        C: Future<Output = Result<(), E>>,
    {
        poll_fn(|cx| {
            loop {
                let stage = self.watch_stage(cx);
                // Before the poll: its responses carry `Connection: close` then, and its reads look
                // for bytes that the runtime has not seen.
                let closes = self.closes(stage);
                if self.shared.is_dropped() {
                    return Poll::Ready(Ok(()));
                }
                if let Poll::Ready(end) = http.as_mut().poll(cx) {
                    return Poll::Ready(end);
                }
                match self.next_action(stage, closes) {
                    Action::Wait(until) => {
                        if !self.poll_timer(until, cx) {
                            return Poll::Pending;
                        }
                    }
                    Action::Recheck => {}
                    Action::Shutdown => {
                        self.shutdown_sent = true;
                        self.idle = None;
                        shutdown(http.as_mut());
                    }
                    Action::Close => return Poll::Ready(Ok(())),
                }
            }
        })
        .await
    }

    /// Returns the stage. The task wakes when it changes.
    #[inline]
    fn watch_stage(&mut self, cx: &Context<'_>) -> Stage {
        let connection = &self.connection;
        connection.register_driver(cx.waker());
        // After the registration: a later change of the stage wakes the task.
        connection.stage()
    }

    /// Returns whether the connection closes once it is idle.
    fn closes(&self, stage: Stage) -> bool {
        let is_old = self.retires_at.is_some_and(|at| at <= Instant::now());
        if is_old || !self.shared.settings.keep_alive.is_enabled() {
            self.connection.retire();
        }
        stage >= Stage::Settling || self.connection.retires()
    }

    /// Returns what to do with a connection that is pending.
    fn next_action(&mut self, stage: Stage, closes: bool) -> Action {
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
        let checks_reset = self.shared.settings.half_close && calls.is_active();
        let reset = checks_reset.then(|| Instant::now() + RESET_CHECK);
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
            // No request is lost: the GOAWAY names the last one that was seen.
            return Action::Shutdown;
        }
        match activity {
            // In a drain, `DrainIo` enforces further limits on these states.
            ConnectionState::Silent => {
                let mut limit = limits.head_until(connection.accepted());
                if connection.retires() {
                    // As in a drain, its first request may be on its way.
                    let grace =
                        |schedule: &Schedule| schedule.first_byte_until(connection.accepted());
                    limit = [limit, connection.schedule(grace)]
                        .into_iter()
                        .flatten()
                        .min();
                }
                over(limit, Action::Close)
            }
            // Not during a call: the response goes on, and the client has begun its next head.
            ConnectionState::Reading if !calls.is_active() => {
                let first = calls.started == 0 && !http2;
                let began = match first {
                    true => connection.accepted(),
                    false => since(&mut self.reading, calls),
                };
                over(limits.head_until(began), Action::Close)
            }
            // A peer that does not answer the PING after the GOAWAY is gone.
            ConnectionState::Idle if self.shutdown_sent && http2 => {
                let since = since(&mut self.idle, calls);
                over(
                    connection.schedule(|schedule| schedule.pong_until(Some(since))),
                    Action::Close,
                )
            }
            ConnectionState::Handling | ConnectionState::Upgraded
                if !http2 && !calls.is_active() =>
            {
                let next = match closes && !self.shutdown_sent {
                    true => Action::Shutdown,
                    false => Action::Close,
                };
                let since = since(&mut self.idle, calls);
                let limit = match closes || self.shutdown_sent {
                    true => Some(WITHOUT_CALL),
                    false => limits.idle.map(|limit| limit.max(WITHOUT_CALL)),
                };
                over(limit.and_then(|limit| since.checked_add(limit)), next)
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
                // A client that has just got its response may have sent its next request.
                let (limit, settling) = match closes {
                    true => connection.schedule(|schedule| {
                        (Some(schedule.settle_time()), schedule.settling_until())
                    }),
                    false => (limits.idle, None),
                };
                let since = since(&mut self.idle, calls);
                // A client that has been idle for long may have sent a request just before the
                // drain began. (`None` is less than any instant.)
                let mut at = limit
                    .and_then(|limit| since.checked_add(limit))
                    .max(settling);
                if stage >= Stage::Forced {
                    at = Some(since);
                }
                if closes {
                    return over(at, Action::Shutdown);
                }
                // Poll again after `retire`: only then do reads look for bytes that the runtime has
                // not seen.
                let next = over(at, Action::Recheck);
                if let Action::Recheck = next {
                    connection.retire();
                }
                next
            }
            _ => until(None),
        }
    }

    /// Returns whether the timer has fired. Then the next action may be due.
    fn poll_timer(&mut self, at: Option<Instant>, cx: &mut Context<'_>) -> bool {
        let Some(at) = at else { return false };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
        // A timer that fires too early costs one poll. Moving it would cost more, for each request.
        if timer.is_elapsed() || timer.deadline() > at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx).is_ready()
    }
}

/// Returns since when a state lasts. It starts anew when the calls change.
fn since(seen: &mut Option<(CallCounts, Instant)>, calls: CallCounts) -> Instant {
    match seen {
        Some((then, since)) if *then == calls => *since,
        _ => seen.insert((calls, Instant::now())).1,
    }
}
