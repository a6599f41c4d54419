//! Accepts connections until the end of listening: the state machine of every listener and stream.
//!
//! Its steps, in the order of this file:
//!
//! 1. [Open](ListenerState::poll_open): connections are accepted until the end of LameDuck.
//! 2. [Stop](ListenerState::stop): an exclusive socket refuses new SYNs, and the accept queue is
//!    taken from tokio.
//! 3. [Accept](ListenerState::poll_accept): what is in the queue is accepted.
//! 4. [Rest](ListenerState::poll_rest): once the queue is empty, half-done handshakes may end until
//!    the settling is over.
//! 5. [Close](ListenerState::close): the socket has been closed, and the drain knows it.
//! 6. [End](ListenerState::poll_ended): servers get their shutdown signal, and streams end.

use super::{
    backlog::{Listening, has_half_done_handshake, refuse_new},
    socket::SocketOptions,
};
use crate::{
    drain::{ConnectionGuard, Drain, Fact, Reached, Shared, Stage},
    log,
};
use std::{
    any::Any,
    fmt,
    future::{Future, poll_fn},
    io, mem,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, spawn_blocking, unconstrained},
    time::{Instant, Sleep, sleep},
};

/// Sets how long a listener without a readable queue has to accept nothing until its queue counts
/// as empty. It also limits the wait for handshakes if the kernel does not list them.
const QUIET: Duration = Duration::from_millis(20);

/// Delays the next look at an empty queue, in which a handshake may end.
const RETRY: Duration = Duration::from_millis(5);

/// Delays the next accept after the first error. The delay doubles with each error, as in Go's
/// `Server.Serve`.
const FIRST_DELAY: Duration = Duration::from_millis(5);
const LAST_DELAY: Duration = Duration::from_secs(1);

/// Tracks how far a listener of any type is on its way to be closed, and delays its accepts.
pub(super) struct ListenerState {
    pub(super) options: SocketOptions,
    pub(super) shared: Arc<Shared>,
    stage: ListenerStage,
    /// Waits for the next stage of the drain that matters here.
    next: Option<Reached>,
    /// Says whether the drain has recorded that the queue is empty.
    emptied: bool,
    /// Delays the next accept after one that has failed. Zero after any other.
    delay: Duration,
    pause: Option<Pin<Box<Sleep>>>,
}

/// Names the stages of a listener, in their order.
#[derive(Debug)]
enum ListenerStage {
    Open,
    /// Polls an inner listener whose queue cannot be read, until the end of the settling. It may
    /// hold connections that it has accepted and not yet returned, in the middle of a TLS handshake
    /// for example.
    Inner,
    /// Takes the queue. If new clients are refused, half-done handshakes with this port may end.
    Backlog(Option<u16>),
    /// Reads the kernel's list of handshakes on a thread for blocking work. The list has a line for
    /// each socket of the machine, and ten thousand lines take the kernel 40 ms.
    Handshakes(JoinHandle<Option<bool>>),
    /// Takes connections whose handshakes end until this instant, if there is one.
    HalfDone(Option<Instant>),
    Closed,
}

impl ListenerState {
    pub(super) fn new(drain: &Drain) -> Self {
        let shared = drain.shared().clone();
        shared.record(Fact::Listener);
        shared.listener_opened();
        Self {
            options: SocketOptions::default(),
            shared,
            stage: ListenerStage::Open,
            next: None,
            emptied: false,
            delay: Duration::ZERO,
            pause: None,
        }
    }

    /// Returns whether LameDuck has not ended. Called before each [`stop`](Self::stop) and
    /// [`poll_accept`](Self::poll_accept).
    pub(super) fn poll_open(&mut self, cx: &mut Context<'_>) -> bool {
        if matches!(self.stage, ListenerStage::Open) && self.poll_reached(Stage::Backlog, cx) {
            self.stage = ListenerStage::Inner;
            // File descriptors may be free before a long delay ends.
            self.delay = Duration::ZERO;
            self.pause = None;
        }
        matches!(self.stage, ListenerStage::Open)
    }

    /// Refuses new clients of an exclusive socket, and takes the queue if it can be read.
    pub(super) fn stop<L: Any>(
        &mut self,
        listening: &mut Listening<L>,
        exclusive: &mut Option<fn(&L) -> Option<&TcpListener>>,
    ) {
        if let Listening::Inner(listener) = listening {
            // Once: a listener without a readable queue gets here again.
            let tcp = exclusive.take().and_then(|tcp| tcp(listener));
            let port = tcp.and_then(refuse_new);
            *listening = mem::replace(listening, Listening::Closed).into_queue();
            if !matches!(listening, Listening::Inner(_)) {
                self.stage = ListenerStage::Backlog(port);
            }
        }
    }

    /// Accepts the next connection; `accept` returns `None` if it has failed. Returns `None` when
    /// the listener has to be closed.
    pub(super) fn poll_accept<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut accept: impl FnMut(&mut Context<'_>) -> Poll<Option<T>>,
    ) -> Poll<Option<T>> {
        let is_open = matches!(self.stage, ListenerStage::Open);
        loop {
            if self.shared.stage() >= Stage::ClosingConnections {
                return Poll::Ready(None);
            }
            // Before the accept, so that the last accept comes after the end of the settling.
            let is_last = !is_open && self.poll_reached(Stage::LastRead, cx);
            if !self.delay.is_zero() && !is_last {
                ready!(self.poll_pause(cx, self.delay));
            }
            let accepted = match is_open {
                true => accept(cx),
                // Unconstrained: otherwise a used-up task budget would look like an empty queue.
                false => pin!(unconstrained(poll_fn(&mut accept))).poll(cx),
            };
            self.delay = match accepted {
                Poll::Ready(None) => (self.delay * 2).clamp(FIRST_DELAY, LAST_DELAY),
                _ => Duration::ZERO,
            };
            if accepted.is_ready() {
                self.pause = None;
            }
            match accepted {
                Poll::Ready(Some(connection)) => return Poll::Ready(Some(connection)),
                Poll::Pending if is_open => return Poll::Pending,
                _ if is_last => return Poll::Ready(None),
                Poll::Ready(None) => {}
                Poll::Pending => {
                    if !ready!(self.poll_rest(cx)) {
                        return Poll::Ready(None);
                    }
                }
            }
        }
    }

    /// Waits until an empty queue has to be polled again. Returns `false` if nothing may come.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match &mut self.stage {
            ListenerStage::Inner => {
                if !self.emptied {
                    ready!(self.poll_pause(cx, QUIET));
                    // If this ends the settling too, it wakes the task.
                    self.record_emptied();
                }
                return Poll::Pending;
            }
            // While a connection is open, the settling takes its full time anyway, so the kernel's
            // list is not read.
            ListenerStage::Backlog(Some(_)) if self.shared.has_connections() => {}
            ListenerStage::Backlog(Some(port)) => {
                let port = *port;
                let list = spawn_blocking(move || has_half_done_handshake(port));
                self.stage = ListenerStage::Handshakes(list);
                return Poll::Ready(true);
            }
            ListenerStage::Handshakes(list) => {
                // It errs if the runtime shuts down.
                let half_done = ready!(Pin::new(list).poll(cx)).unwrap_or_default();
                self.stage = ListenerStage::HalfDone(match half_done {
                    Some(true) => None,
                    // A handshake may have ended after the accept and before the list was read.
                    // Its connection is in the queue then.
                    Some(false) => Some(Instant::now()),
                    None => Some(Instant::now() + QUIET),
                });
                return Poll::Ready(true);
            }
            ListenerStage::HalfDone(until) if until.is_none_or(|at| Instant::now() < at) => {}
            _ => return Poll::Ready(false),
        }
        self.record_emptied();
        self.poll_pause(cx, RETRY).map(|()| true)
    }

    /// Records that the listener has been dropped.
    pub(super) fn close(&mut self) {
        if !matches!(self.stage, ListenerStage::Closed) {
            self.stage = ListenerStage::Closed;
            self.next = None;
            self.record_emptied();
            self.shared.listener_closed();
            self.shared.advance();
        }
    }

    /// Waits, once closed, until servers get their shutdown signal. A stream that ends before that
    /// makes tonic close its connections.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_reached(Stage::ClosingConnections, cx) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// Counts an accepted connection, and sets its options. Returns `None` if the drain admits none.
    pub(super) fn admit(&self, io: &dyn Any, peer: Option<SocketAddr>) -> Option<ConnectionGuard> {
        let registered = ConnectionGuard::enter(&self.shared, peer)?;
        self.options.set(io);
        Some(registered)
    }

    /// Returns whether the drain has reached a stage. Otherwise the task wakes then. Stages are
    /// asked for in their order, each until it is reached or the listener has closed.
    fn poll_reached(&mut self, stage: Stage, cx: &mut Context<'_>) -> bool {
        let wait = || Reached::stage(self.shared.clone(), stage);
        let next = self.next.get_or_insert_with(wait);
        let reached = self.shared.stage() >= stage || Pin::new(next).poll(cx).is_ready();
        if reached {
            self.next = None;
        }
        reached
    }

    fn record_emptied(&mut self) {
        if !mem::replace(&mut self.emptied, true) {
            self.shared.listener_emptied();
            self.shared.advance();
        }
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>, pause: Duration) -> Poll<()> {
        let sleep = self.pause.get_or_insert_with(|| Box::pin(sleep(pause)));
        ready!(sleep.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(())
    }
}

impl Drop for ListenerState {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for ListenerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerState")
            .field("stage", &self.stage)
            .finish()
    }
}

/// Accepts the next connection, and skips those that were gone before they were accepted. Logs any
/// other error, and returns `None` then.
pub(super) fn poll_logged<T>(mut accept: impl FnMut() -> Poll<io::Result<T>>) -> Poll<Option<T>> {
    loop {
        let error = match ready!(accept()) {
            Ok(accepted) => return Poll::Ready(Some(accepted)),
            Err(error) => error,
        };
        let is_of_the_connection = matches!(
            error.kind(),
            io::ErrorKind::ConnectionRefused
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::Interrupted
        );
        if !is_of_the_connection {
            log::accept_error(&error);
            return Poll::Ready(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Otherwise a lack of file descriptors is logged every few milliseconds.
    #[tokio::test(start_paused = true)]
    async fn an_accept_that_fails_while_closing_is_retried_with_growing_delays() {
        let drain = Drain::builder().settle(Duration::from_millis(100)).build();
        let mut state = ListenerState::new(&drain);
        drain.begin();
        let began = Instant::now();
        let mut attempts = Vec::new();
        let accepted: Option<()> = poll_fn(|cx| {
            state.poll_open(cx);
            state.poll_accept(cx, |_| {
                attempts.push(began.elapsed().as_millis());
                Poll::Ready(None)
            })
        })
        .await;
        assert!(accepted.is_none());
        // The last one at the end of the settling, which follows 100 ms for the queue.
        assert_eq!(attempts, [0, 5, 15, 35, 75, 155, 200]);
    }
}
