//! Serves one connection, from its handshake to its end, in a task of its own.

use super::{
    config::ServerShared,
    handle::ConnectionHandle,
    handshake::Handshaken,
    info,
    listener::{Peer, Protocol},
    preface::read_protocol,
    service::{Answers, ConnectionService, HttpService},
};
use crate::{
    drain::{
        CallCounts, Connection, ConnectionGuard, ConnectionState, RegisteredWaker, Role, Stage,
    },
    log,
    net::DrainIo,
    timer::{Timer, random},
};
use http::Extensions;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use std::{
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

/// Serves a connection until it ends or is upgraded.
///
/// Its start is boxed, and so is what serves it then. Otherwise each task would have room for all
/// of them, as long as its connection is open.
pub(super) fn serve<T, H, R, U, S>(
    registered: ConnectionGuard,
    io: T,
    peer: Peer,
    handshake: H,
    service: S,
    answers: Answers<S>,
    shared: Arc<ServerShared>,
) -> impl Future<Output = ()> + Send
where
    T: Send + 'static,
    H: Fn(T, Peer, Arc<Connection>) -> R + Send,
    R: Future<Output = io::Result<Handshaken<U>>> + Send,
    U: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    S: HttpService,
{
    let start = Box::pin(start(
        Driver::new(registered.handle(), shared),
        io,
        registered,
        peer,
        handshake,
        service,
        answers,
    ));
    async move {
        let Some((mut driver, io, calls, protocol)) = start.await else {
            return;
        };
        let io = TokioIo::new(io);
        // Until the error is logged: the process may exit once no connection is counted.
        let registered = calls.registered.clone();
        let settings = &driver.shared.settings;
        let end = match protocol {
            Protocol::Http1 => {
                let connection = settings.http1.serve_connection(io, calls).with_upgrades();
                let mut connection = Box::pin(connection);
                driver
                    .drive(connection.as_mut(), |http1| http1.graceful_shutdown())
                    .await
            }
            Protocol::Http2 => {
                let mut connection = Box::pin(settings.http2.serve_connection(io, calls));
                driver
                    .drive(connection.as_mut(), |http2| http2.graceful_shutdown())
                    .await
            }
        };
        if let Some(Err(error)) = end {
            log::connection_error(registered.connection().peer(), &error);
        }
    }
}

/// Makes the handshake of a connection, and finds out its protocol. Returns `None` if it has ended.
async fn start<T, H, R, U, S>(
    mut driver: Driver,
    io: T,
    registered: ConnectionGuard,
    peer: Peer,
    handshake: H,
    service: S,
    answers: Answers<S>,
) -> Option<(Driver, DrainIo<U>, ConnectionService<S>, Protocol)>
where
    H: Fn(T, Peer, Arc<Connection>) -> R,
    R: Future<Output = io::Result<Handshaken<U>>>,
    U: AsyncRead + AsyncWrite + Unpin + 'static,
    S: HttpService,
{
    let connection = registered.connection();
    let mut shaken = {
        let mut handshake = pin!(handshake(io, peer.clone(), registered.handle()));
        match poll_fn(|cx| driver.poll_handshake(handshake.as_mut(), cx)).await {
            Some(Ok(shaken)) => shaken,
            // The handshake's own protocol has told the peer why.
            Some(Err(error)) => {
                log::handshake_error(connection.peer(), &error);
                return None;
            }
            None => {
                if !driver.shared.is_dropped() {
                    log::handshake_error(connection.peer(), &"it took too long");
                }
                return None;
            }
        }
    };
    let peer = shaken.peer.take().unwrap_or(peer);
    if connection.peer() != peer.tcp() {
        connection.set_peer(peer.tcp());
    }
    let shared = &driver.shared;
    let (mut io, calls, protocol) = prepare(shaken, &peer, &registered, service, answers, shared);
    let protocol = match protocol {
        Some(protocol) => protocol,
        None => match driver.drive(pin!(read_protocol(&mut io)), |_| {}).await? {
            Ok(protocol) => protocol?,
            Err(error) => {
                log::connection_error(connection.peer(), &error);
                return None;
            }
        },
    };
    Some((driver, io, calls, protocol))
}

/// Returns what hyper needs of a connection whose handshake is done, and the protocol that the
/// settings or the handshake say.
fn prepare<T, S>(
    shaken: Handshaken<T>,
    peer: &Peer,
    registered: &ConnectionGuard,
    service: S,
    answers: Answers<S>,
    shared: &ServerShared,
) -> (DrainIo<T>, ConnectionService<S>, Option<Protocol>)
where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let settings = &shared.settings;
    let protocol = settings.protocol.or(shaken.protocol);
    let mut extensions = Extensions::new();
    let connection = registered.handle();
    let handle = ConnectionHandle::new(&connection);
    let connection_info = shaken.info(peer, &handle);
    info::insert(connection_info, &mut extensions);
    (shaken.insert_info)(&shaken.io, &mut extensions);
    if let Some(on_connect) = &settings.on_connect {
        on_connect(connection_info, &mut extensions);
    }
    let calls = ConnectionService {
        inner: TowerToHyperService::new(service),
        handle: shared.drain.shared().counter_handle(),
        connection,
        registered: registered.clone(),
        extensions: Some(extensions).filter(|extensions| !extensions.is_empty()),
        reports_requests: settings.reports_requests,
        exempt: settings.exempt.clone(),
        answers,
    };
    let socket = shaken.socket();
    let io = DrainIo::new(shaken.io, registered.clone(), socket)
        .served(settings.limits.head, settings.half_close)
        .close_websockets(settings.close_websockets.share());
    (io, calls, protocol)
}

/// Sets how often to look for a reset during a call. The runtime does not wake for a reset if the
/// client has closed its half before, or has sent its next request.
const RESET_CHECK: Duration = Duration::from_secs(1);

/// Limits how long an HTTP/1 connection without a call counts as busy by its bytes alone. hyper
/// pauses between pipelined requests while a task reads the body of the first one. But bytes can
/// mislead, too: a body that begins like a response, while a pipelined request waits, looks like
/// that request's response.
const WITHOUT_CALL: Duration = Duration::from_secs(5);

/// Polls a connection, and shuts it down in time.
///
/// hyper's graceful shutdown closes an idle HTTP/1 connection without looking for unread bytes. So
/// the driver looks first. It does both in one poll of one task: in between, no request can be
/// read.
struct Driver {
    connection: Arc<Connection>,
    shared: Arc<ServerShared>,
    /// Records since when the connection is idle, and its calls by then.
    idle: Option<(CallCounts, Instant)>,
    /// Says whether hyper's graceful shutdown has begun.
    shutdown_sent: bool,
    /// Says when the connection is too old.
    retires_at: Option<Instant>,
    /// Says when the connection tells its client to go elsewhere, once LameDuck has been seen.
    moves_at: Option<Option<Instant>>,
    timer: Timer,
    waker: RegisteredWaker,
}

/// Names what to do with a connection that is pending.
enum Action {
    /// Waits until an instant, or only for the connection.
    Wait(Option<Instant>),
    /// Polls the connection again, as one that closes once it is idle. Only then do its reads look
    /// for bytes that the runtime has not seen.
    Retire,
    /// Begins the graceful shutdown of the connection.
    Shutdown,
    /// Drops the connection.
    Close,
}

impl Driver {
    fn new(connection: Arc<Connection>, shared: Arc<ServerShared>) -> Self {
        let retires_at = shared.settings.limits.retirement(connection.accepted());
        Self {
            connection,
            shared,
            idle: None,
            shutdown_sent: false,
            retires_at,
            moves_at: None,
            timer: Timer::default(),
            waker: RegisteredWaker::default(),
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
            let Some(limit) = limit else {
                return Poll::Pending;
            };
            if limit <= Instant::now() {
                return Poll::Ready(None);
            }
            ready!(self.timer.poll(limit, cx));
        }
    }

    /// Polls the connection to its end. Returns `None` if it is closed here.
    async fn drive<C: Future>(
        &mut self,
        mut http: Pin<&mut C>,
        shutdown: fn(Pin<&mut C>),
    ) -> Option<C::Output> {
        poll_fn(|cx| {
            loop {
                let stage = self.watch_stage(cx);
                // Before the poll: its responses carry `Connection: close` then, and its reads look
                // for bytes that the runtime has not seen.
                let closes = self.closes(stage);
                if self.shared.is_dropped() {
                    return Poll::Ready(None);
                }
                if let Poll::Ready(end) = http.as_mut().poll(cx) {
                    return Poll::Ready(Some(end));
                }
                match self.next_action(stage, closes) {
                    Action::Wait(None) => return Poll::Pending,
                    Action::Wait(Some(until)) => ready!(self.timer.poll(until, cx)),
                    Action::Retire => self.connection.retire(),
                    Action::Shutdown => {
                        self.shutdown_sent = true;
                        self.idle = None;
                        shutdown(http.as_mut());
                    }
                    Action::Close => return Poll::Ready(None),
                }
            }
        })
        .await
    }

    /// Returns the stage. The task wakes when it changes.
    #[inline]
    fn watch_stage(&mut self, cx: &Context<'_>) -> Stage {
        let connection = &self.connection;
        connection
            .wakers
            .register(Role::Drives, cx.waker(), &mut self.waker);
        // After the registration: a later change of the stage wakes the task.
        connection.stage()
    }

    /// Returns whether the connection closes once it is idle.
    fn closes(&mut self, stage: Stage) -> bool {
        let connection = &self.connection;
        if stage == Stage::LameDuck && self.moves_at.is_none() {
            let (accepted, http2) = (connection.accepted(), connection.speaks_http2());
            let at = connection.schedule(|schedule| schedule.moves_at(accepted, http2, random()));
            self.moves_at = Some(at);
        }
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= Instant::now());
        if is_due(self.retires_at)
            || is_due(self.moves_at.flatten())
            || !self.shared.settings.keep_alive.is_enabled()
        {
            connection.retire();
        }
        stage >= Stage::Settling || connection.retires()
    }

    /// Returns what to do with a connection that is pending. `DrainIo` limits the time of silent
    /// connections, of heads, and of HTTP/2 that has no streams and closes.
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
        let moves_at = self.moves_at.flatten().filter(|_| !closes);
        let wait = |until: Option<Instant>| {
            Action::Wait([until, age, moves_at, reset].into_iter().flatten().min())
        };
        let over = |at: Option<Instant>, next: Action| match at {
            Some(at) if at <= Instant::now() => next,
            at => wait(at),
        };
        if http2 && closes && !self.shutdown_sent {
            // No request is lost: the GOAWAY names the last one that was seen.
            return Action::Shutdown;
        }
        // Without a call, an HTTP/1 connection handles no request, whatever its bytes look like.
        let misleads = !http2
            && matches!(
                activity,
                ConnectionState::Handling | ConnectionState::Upgraded
            );
        let is_idle = match activity {
            ConnectionState::Idle => true,
            ConnectionState::Streaming => !connection.has_unread(),
            _ => misleads,
        };
        if !is_idle || calls.is_active() {
            if http2 {
                self.idle = None;
            }
            return wait(None);
        }
        let since = since(&mut self.idle, calls);
        let at_least = if misleads {
            WITHOUT_CALL
        } else {
            Duration::ZERO
        };
        if self.shutdown_sent {
            let at = since.checked_add(at_least).filter(|_| misleads);
            return over(at, Action::Close);
        }
        let (limit, settling, next) = match closes {
            // A client that has just got its response may have sent its next request. One that has
            // been idle for long may have sent a request just before the drain began.
            true => connection.schedule(|schedule| {
                let settle = Some(schedule.settle_time());
                (settle, schedule.settling_until(), Action::Shutdown)
            }),
            false => (limits.idle, None, Action::Retire),
        };
        let limit = limit.map(|limit| limit.max(at_least));
        // `None` is less than any instant.
        let at = limit
            .and_then(|limit| since.checked_add(limit))
            .max(settling);
        match stage >= Stage::Forced {
            true => over(Some(since), next),
            false => over(at, next),
        }
    }
}

/// Returns since when a state lasts. It starts anew when the calls change.
fn since(seen: &mut Option<(CallCounts, Instant)>, calls: CallCounts) -> Instant {
    match seen {
        Some((then, since)) if *then == calls => *since,
        _ => seen.insert((calls, Instant::now())).1,
    }
}
