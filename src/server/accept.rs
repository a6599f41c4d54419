//! Accepts the connections of one listener, within the limit of the server.

use super::{
    config::ServerShared,
    connection,
    listener::{Handshake, Listener},
    service::{HttpService, Services},
};
use crate::net::DrainListener;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

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

/// Accepts from one listener.
pub(super) struct AcceptLoop<L, H> {
    listener: DrainListener<L>,
    handshake: H,
    permit: Permit,
}

/// Holds the permit for the next connection, if the number of connections is limited.
#[derive(Default)]
enum Permit {
    #[default]
    None,
    Waiting(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
    Found(OwnedSemaphorePermit),
}

impl<L, H> AcceptLoop<L, H> {
    pub(super) fn new(listener: DrainListener<L>, handshake: H) -> Self {
        Self {
            listener,
            handshake,
            permit: Permit::None,
        }
    }
}

impl Permit {
    fn poll(&mut self, permits: &Arc<Semaphore>, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::None = self {
            *self = match permits.clone().try_acquire_owned() {
                Ok(permit) => Self::Found(permit),
                Err(_) => Self::Waiting(Box::pin(permits.clone().acquire_owned())),
            };
        }
        if let Self::Waiting(permit) = self {
            // It fails only if the semaphore is closed, which never happens.
            if let Ok(permit) = ready!(permit.as_mut().poll(cx)) {
                *self = Self::Found(permit);
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        match std::mem::take(self) {
            Self::Found(permit) => Some(permit),
            Self::None | Self::Waiting(_) => None,
        }
    }
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
            if let Some(permits) = &shared.settings.limits.permits {
                if self.listener.poll_open(cx) {
                    ready!(self.permit.poll(permits, cx));
                }
            }
            let accepted = self
                .listener
                .poll_registered(cx, |listener, cx| listener.poll_accept(cx));
            let Poll::Ready(accepted) = accepted else {
                // Give the permit back while waiting: another listener may use it.
                self.permit = Permit::None;
                return Poll::Pending;
            };
            let Some((io, address, registered)) = accepted else {
                return Poll::Ready(());
            };
            let peer = address.into();
            registered.keep_permit(self.permit.take());
            let service = (services.make)(&peer);
            let refusal = services.refusal.clone();
            let handshake = self.handshake.clone();
            // Boxed: a task copies its future more than once, and this one is large.
            tokio::spawn(Box::pin(connection::serve(
                registered,
                io,
                peer,
                handshake,
                service,
                refusal,
                shared.clone(),
            )));
        }
    }
}
