//! One listener of a server: takes on what comes, as long as there is place for it.

use super::{
    Shared,
    call::HttpService,
    connection,
    listener::{Handshake, Listener, Peer},
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

pub(super) struct Port<L, H> {
    listener: DrainListener<L>,
    handshake: H,
    place: Place,
}

/// Among as many connections as there may be.
#[derive(Default)]
enum Place {
    #[default]
    None,
    Waiting(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
    Found(OwnedSemaphorePermit),
}

impl<L, H> Port<L, H> {
    pub(super) fn new(listener: DrainListener<L>, handshake: H) -> Self {
        Self {
            listener,
            handshake,
            place: Place::None,
        }
    }
}

impl Place {
    fn poll(&mut self, places: &Arc<Semaphore>, cx: &mut Context<'_>) -> Poll<()> {
        if let Self::None = self {
            *self = match places.clone().try_acquire_owned() {
                Ok(place) => Self::Found(place),
                Err(_) => Self::Waiting(Box::pin(places.clone().acquire_owned())),
            };
        }
        if let Self::Waiting(place) = self {
            // It errs only if it is closed, which nobody does.
            if let Ok(place) = ready!(place.as_mut().poll(cx)) {
                *self = Self::Found(place);
            }
        }
        Poll::Ready(())
    }

    fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        match std::mem::take(self) {
            Self::Found(place) => Some(place),
            Self::None | Self::Waiting(_) => None,
        }
    }
}

impl<L, H, S> Accept<S> for Port<L, H>
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
            if let Some(places) = &shared.settings.limits.places {
                if self.listener.poll_open(cx) {
                    ready!(self.place.poll(places, cx));
                }
            }
            let accepted = self
                .listener
                .poll_registered(cx, |listener, cx| listener.poll_accept(cx));
            let Poll::Ready(accepted) = accepted else {
                // Whoever waits for a connection keeps no other from it.
                self.place = Place::None;
                return Poll::Pending;
            };
            let Some((io, address, registered)) = accepted else {
                return Poll::Ready(());
            };
            let peer = address.into();
            registered.keep(self.place.take());
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
