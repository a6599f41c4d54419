//! Accepts the connections of one listener, within the limit of the server.

use super::{
    config::{ServerSettings, ServerShared},
    connection,
    handshake::Handshaken,
    listener::{Listener, Peer},
    service::{HttpService, Services},
};
use crate::{
    drain::{Connection, Drain},
    net::DrainListener,
};
use hyper::rt::Executor;
use std::{
    future::{Future, poll_fn},
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::PollSemaphore;

/// Accepts the connections of one listener and spawns a task for each. Ready once the listener is
/// closed.
pub(super) type AcceptLoop<S> =
    Box<dyn FnMut(&mut Services<S>, &Arc<ServerShared>, &mut Context<'_>) -> Poll<()> + Send>;

/// Accepts from all listeners, as the server of [`Drain::run`]. Ends when they have closed, as the
/// drain waits for the connections.
pub(super) fn accept_all<S>(
    mut accept_loops: Vec<AcceptLoop<S>>,
    mut services: Services<S>,
    shared: Arc<ServerShared>,
) -> impl Future<Output = ()> {
    poll_fn(move |cx| {
        accept_loops.retain_mut(|accept| accept(&mut services, &shared, cx).is_pending());
        match accept_loops.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
}

/// Holds a listener until the settings and the drain are known.
pub(super) struct Listen<S> {
    /// Says that no other process has the socket.
    exclusive: bool,
    start: Box<dyn FnOnce(bool, &ServerSettings, &Drain) -> AcceptLoop<S> + Send>,
}

impl<S: HttpService> Listen<S> {
    pub(super) fn new<L, H, R, T>(
        listener: L,
        exclusive: bool,
        handshake: impl FnOnce(&ServerSettings) -> H + Send + 'static,
    ) -> Self
    where
        L: Listener,
        H: Fn(L::Io, Peer, Arc<Connection>) -> R + Clone + Send + 'static,
        R: Future<Output = io::Result<Handshaken<T>>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self {
            exclusive,
            start: Box::new(|exclusive, settings, drain| {
                let listener = drain.listener(listener);
                let listener = listener.with(exclusive, L::tcp_listener, settings.tcp);
                let permits = settings.limits.permits.clone();
                accept_loop(
                    listener,
                    handshake(settings),
                    permits.map(PollSemaphore::new),
                )
            }),
        }
    }
}

impl<S> Listen<S> {
    pub(super) fn is_exclusive(&self, settings: &ServerSettings) -> bool {
        self.exclusive || settings.exclusive
    }

    pub(super) fn start(self, settings: &ServerSettings, drain: &Drain) -> AcceptLoop<S> {
        let exclusive = self.is_exclusive(settings);
        (self.start)(exclusive, settings, drain)
    }
}

/// Accepts from one listener. `permits` limits the number of connections.
fn accept_loop<S, L, H, R, T>(
    mut listener: DrainListener<L>,
    handshake: H,
    mut permits: Option<PollSemaphore>,
) -> AcceptLoop<S>
where
    S: HttpService,
    L: Listener,
    H: Fn(L::Io, Peer, Arc<Connection>) -> R + Clone + Send + 'static,
    R: Future<Output = io::Result<Handshaken<T>>> + Send + 'static,
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    Box::new(move |services, shared, cx| {
        loop {
            // While the queue is emptied, the limit does not apply: those connections arrived in
            // time, and this is the last chance to accept them.
            let permit = match &mut permits {
                Some(permits) if listener.poll_open(cx) => ready!(permits.poll_acquire(cx)),
                _ => None,
            };
            // If no connection comes, this drops the permit: another listener may use it.
            let accepted = ready!(listener.poll_registered(cx, L::poll_accept));
            let Some((io, address, registered)) = accepted else {
                return Poll::Ready(());
            };
            let peer = address.into();
            registered.keep_permit(permit);
            let service = (services.make)(&peer);
            let answers = services.answers.clone();
            let connection = connection::serve(
                registered,
                io,
                peer,
                handshake.clone(),
                service,
                answers,
                shared.clone(),
            );
            shared.settings.executor.execute(connection);
        }
    })
}
