//! One listener of a server: takes on what comes, as long as there is place for it.

use super::{
    Shared, connection,
    listener::{Handshake, Listener, Peer},
    service::HttpService,
};
use crate::net::DrainListener;
use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// One, of whatever kind.
pub(super) trait Accept<S>: Send {
    /// Takes on what has come. Ready once it is closed.
    fn poll(
        &mut self,
        make: &mut (dyn FnMut(&Peer) -> S + Send),
        shared: &Arc<Shared>,
        cx: &mut Context<'_>,
    ) -> Poll<()>;
}

pub(super) struct AcceptLoop<L, H> {
    listener: DrainListener<L>,
    handshake: H,
    permit: Permit,
}

/// Among as many connections as there may be.
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
            // It errs only if it is closed, which nobody does.
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
        make: &mut (dyn FnMut(&Peer) -> S + Send),
        shared: &Arc<Shared>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        loop {
            // At the end, what is in the queue is taken without regard to the limit: it arrived in
            // time, and there is no later.
            if let Some(permits) = &shared.settings.limits.permits {
                if self.listener.poll_open(cx) {
                    ready!(self.permit.poll(permits, cx));
                }
            }
            let accepted = self
                .listener
                .poll_registered(cx, |listener, cx| listener.poll_accept(cx));
            let Poll::Ready(accepted) = accepted else {
                // Whoever waits for a connection keeps no other from it.
                self.permit = Permit::None;
                return Poll::Pending;
            };
            let Some((io, address, registered)) = accepted else {
                return Poll::Ready(());
            };
            let peer = address.into();
            registered.keep_permit(self.permit.take());
            let service = make(&peer);
            let handshake = self.handshake.clone();
            // Boxed: a task copies its future more than once, and this one is large.
            tokio::spawn(Box::pin(connection::serve(
                registered,
                io,
                peer,
                handshake,
                service,
                shared.clone(),
            )));
        }
    }
}
