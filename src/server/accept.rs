//! Accepts the connections of one listener, within the limit of the server.

use super::{
    config::{ServerSettings, ServerShared},
    connection,
    listener::{Handshake, Listener},
    service::{HttpService, Services},
};
use crate::{drain::Drain, net::DrainListener};
use hyper::rt::Executor;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio_util::sync::PollSemaphore;

/// Accepts from all listeners, as the server of [`Drain::run`]. Ends when they have closed, as the
/// drain waits for the connections.
pub(super) struct Server<S> {
    pub(super) accept_loops: Vec<Box<dyn Accept<S>>>,
    pub(super) services: Services<S>,
    pub(super) shared: Arc<ServerShared>,
}

impl<S> Unpin for Server<S> {}

impl<S> Future for Server<S> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self {
            accept_loops,
            services,
            shared,
        } = &mut *self;
        accept_loops.retain_mut(|accept| accept.poll(services, shared, cx).is_pending());
        match accept_loops.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

/// Runs an [`AcceptLoop`] over any type of listener.
pub(super) trait Accept<S>: Send {
    /// Accepts connections and spawns a task for each. Ready once the listener is closed.
    fn poll(
        &mut self,
        services: &mut Services<S>,
        shared: &Arc<ServerShared>,
        cx: &mut Context<'_>,
    ) -> Poll<()>;
}

/// Holds a listener until the settings and the drain are known.
pub(super) struct Listen<S> {
    /// Says that no other process has the socket.
    exclusive: bool,
    start: Start<S>,
}

type Start<S> = Box<dyn FnOnce(bool, &ServerSettings, &Drain) -> Box<dyn Accept<S>> + Send>;

impl<S: HttpService> Listen<S> {
    pub(super) fn new<L, H>(
        listener: L,
        exclusive: bool,
        handshake: impl FnOnce(&ServerSettings) -> H + Send + 'static,
    ) -> Self
    where
        L: Listener,
        H: Handshake<L::Io>,
    {
        let start: Start<S> = Box::new(|exclusive, settings, drain| {
            let listener = drain
                .listener(listener)
                .with(exclusive, L::tcp_listener, settings.tcp);
            Box::new(AcceptLoop {
                listener,
                handshake: handshake(settings),
                permits: settings.limits.permits.clone().map(PollSemaphore::new),
            })
        });
        Self { exclusive, start }
    }
}

impl<S> Listen<S> {
    pub(super) fn is_exclusive(&self, settings: &ServerSettings) -> bool {
        self.exclusive || settings.exclusive
    }

    pub(super) fn start(self, settings: &ServerSettings, drain: &Drain) -> Box<dyn Accept<S>> {
        let exclusive = self.is_exclusive(settings);
        (self.start)(exclusive, settings, drain)
    }
}

/// Accepts from one listener.
pub(super) struct AcceptLoop<L, H> {
    listener: DrainListener<L>,
    handshake: H,
    /// Limits the number of connections.
    permits: Option<PollSemaphore>,
}

impl<L, H, S> Accept<S> for AcceptLoop<L, H>
where
    L: Listener,
    H: Handshake<L::Io>,
    S: HttpService,
{
    fn poll(
        &mut self,
        services: &mut Services<S>,
        shared: &Arc<ServerShared>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            // While the queue is emptied, the limit does not apply: those connections arrived in
            // time, and this is the last chance to accept them.
            let permit = match &mut self.permits {
                Some(permits) if self.listener.poll_open(cx) => ready!(permits.poll_acquire(cx)),
                _ => None,
            };
            // If no connection comes, this drops the permit: another listener may use it.
            let accepted = ready!(
                self.listener
                    .poll_registered(cx, |listener, cx| listener.poll_accept(cx))
            );
            let Some((io, address, registered)) = accepted else {
                return Poll::Ready(());
            };
            let peer = address.into();
            registered.keep_permit(permit);
            let service = (services.make)(&peer);
            let answers = services.answers.clone();
            let handshake = self.handshake.clone();
            // Boxed: a task copies its future more than once, and this one is large.
            let connection = Box::pin(connection::serve(
                registered,
                io,
                peer,
                handshake,
                service,
                answers,
                shared.clone(),
            ));
            shared.settings.executor.execute(connection);
        }
    }
}
