//! Decides when a listener stops listening, and when a server learns of it.

use super::backlog::has_half_done_handshake;
use crate::{
    drain::{Drain, Reached, Shared, Stage},
    log,
};
use std::{
    fmt,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    task::{JoinHandle, spawn_blocking, unconstrained},
    time::{Instant, Sleep, sleep},
};

/// Sets how long a listener without a readable queue has to accept nothing until its queue counts
/// as empty. It also limits the wait for handshakes if the kernel does not list them.
const QUIET: Duration = Duration::from_millis(20);

/// Delays the next accept from a queue, after an empty queue or an error. By then a handshake may
/// have ended, or file descriptors may be free.
const RETRY: Duration = Duration::from_millis(5);

/// Tracks how far a listener of any type is on its way to be closed.
///
/// At the end of LameDuck the listener empties its accept queue. It closes after that, or at the
/// end of the settling if handshakes may still be going on that began before.
pub(super) struct ListenerState {
    shared: Arc<Shared>,
    stage: ListenerStage,
    /// Completes at the end of LameDuck, then at the end of the settling, then when servers get
    /// their shutdown signal.
    next: Reached,
    pause: Option<Pin<Box<Sleep>>>,
    /// Says whether the drain has recorded that the queue is empty.
    emptied: bool,
    handshakes: Handshakes,
}

/// Names the stages of a listener.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) enum ListenerStage {
    Open,
    /// Empties the accept queue.
    Backlog,
    Closed,
    /// Has closed, and servers have got their shutdown signal.
    Ended,
}

/// Tells what is known of handshakes that may still end in the queue, if no new ones can begin.
enum Handshakes {
    /// Ignores handshakes: new ones can begin, or none is half done.
    Ignored,
    /// Names the port to look for in the kernel's list, which has not been read.
    Unknown(u16),
    /// Reads the kernel's list on a thread for blocking work. The list has a line for each socket
    /// of the machine, and ten thousand lines take the kernel 40 ms.
    Reading(JoinHandle<Option<bool>>),
    HalfDone,
    /// Waits for handshakes until this instant, as the kernel does not list them.
    Until(Instant),
}

impl ListenerState {
    pub(super) fn new(drain: &Drain) -> Self {
        let shared = drain.shared().clone();
        shared.listener_opened();
        let next = Reached::stage(shared.clone(), Stage::Backlog);
        Self {
            shared,
            stage: ListenerStage::Open,
            next,
            pause: None,
            emptied: false,
            handshakes: Handshakes::Ignored,
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Polls for the end of LameDuck, and returns the stage. In the stage `Backlog`, the caller
    /// empties the queue and then calls [`close`](Self::close).
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> ListenerStage {
        if self.stage == ListenerStage::Open && self.poll_next(cx).is_ready() {
            self.stage = ListenerStage::Backlog;
            self.next = Reached::stage(self.shared.clone(), Stage::LastRead);
        }
        self.stage
    }

    pub(super) fn stage(&self) -> ListenerStage {
        self.stage
    }

    /// Keeps the listener open for handshakes that have begun, until the settling is over at the
    /// latest. Called when new clients are kept out, before the queue is emptied.
    pub(super) fn wait_for_handshakes(&mut self, port: u16) {
        self.handshakes = Handshakes::Unknown(port);
    }

    /// Takes the next connection out of the queue. Returns `None` when the listener has to be
    /// closed.
    pub(super) fn poll_backlog<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut() -> io::Result<T>,
    ) -> Poll<Option<T>> {
        loop {
            if self.must_close() {
                return Poll::Ready(None);
            }
            // Before the accept, so that the last accept comes after the end of the settling.
            let is_last = self.settling_is_over(cx);
            match take() {
                Ok(connection) => return Poll::Ready(Some(connection)),
                Err(error) if is_of_the_connection(&error) => continue,
                Err(_) if is_last => return Poll::Ready(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let reads_list = matches!(
                        self.handshakes,
                        Handshakes::Unknown(_) | Handshakes::Reading(_)
                    );
                    match ready!(self.poll_handshakes(cx)) {
                        true => self.record_emptied(),
                        // A handshake may have ended after the accept and before the list was read.
                        // Its connection is in the queue then.
                        false if reads_list => continue,
                        false => return Poll::Ready(None),
                    }
                }
                Err(error) => log::accept_error(&error),
            }
            ready!(self.poll_pause(cx, RETRY));
        }
    }

    /// Returns whether a handshake may still end in the empty queue. While a connection is open,
    /// the settling takes its full time anyway, so the kernel's list is not read.
    fn poll_handshakes(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Handshakes::Unknown(port) = self.handshakes {
            if self.shared.has_connections() {
                return Poll::Ready(true);
            }
            let list = spawn_blocking(move || has_half_done_handshake(port));
            self.handshakes = Handshakes::Reading(list);
        }
        if let Handshakes::Reading(list) = &mut self.handshakes {
            // It errs if the runtime shuts down.
            let half_done = ready!(Pin::new(list).poll(cx)).unwrap_or_default();
            self.handshakes = match half_done {
                Some(true) => Handshakes::HalfDone,
                Some(false) => Handshakes::Ignored,
                None => Handshakes::Until(Instant::now() + QUIET),
            };
        }
        Poll::Ready(match self.handshakes {
            Handshakes::HalfDone => true,
            Handshakes::Until(at) => Instant::now() < at,
            Handshakes::Ignored | Handshakes::Unknown(_) | Handshakes::Reading(_) => false,
        })
    }

    /// Accepts the next connection from an inner listener whose queue cannot be read. Returns
    /// `None` when the listener has to be closed.
    ///
    /// If it accepts nothing for a while, the queue counts as empty. It is polled until the end of
    /// the settling all the same: it may hold connections that it has accepted and not yet
    /// returned, in the middle of a TLS handshake for example.
    pub(super) fn poll_inner<T>(
        &mut self,
        cx: &mut Context<'_>,
        accept: impl FnMut(&mut Context<'_>) -> Poll<Option<T>>,
    ) -> Poll<Option<T>> {
        if self.must_close() {
            return Poll::Ready(None);
        }
        // Before the accept, so that the last accept comes after the end of the settling.
        let is_last = self.settling_is_over(cx);
        // Unconstrained: otherwise a used-up task budget would look like an empty queue.
        let accept = pin!(unconstrained(poll_fn(accept)));
        if let Poll::Ready(connection) = accept.poll(cx) {
            self.pause = None;
            return Poll::Ready(connection);
        }
        if is_last {
            return Poll::Ready(None);
        }
        if !self.emptied {
            ready!(self.poll_pause(cx, QUIET));
            // If this ends the settling too, it wakes the task.
            self.record_emptied();
        }
        Poll::Pending
    }

    /// Wakes the task for another accept after one that failed. Returns `true` if it was the last
    /// one.
    pub(super) fn retry(&mut self, cx: &mut Context<'_>) -> bool {
        self.pause = None;
        let _ = self.poll_pause(cx, RETRY);
        self.settling_is_over(cx)
    }

    /// Returns whether the settling is over. The next accept is the last one then.
    fn settling_is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.drain_stage() >= Stage::LastRead || self.poll_next(cx).is_ready()
    }

    fn record_emptied(&mut self) {
        if !self.emptied {
            self.emptied = true;
            self.shared.listener_emptied();
            self.shared.advance();
        }
    }

    fn drain_stage(&self) -> Stage {
        self.shared.stage()
    }

    /// Returns whether the listener has to close even if its queue is not empty.
    fn must_close(&self) -> bool {
        self.drain_stage() >= Stage::ClosingConnections
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>, pause: Duration) -> Poll<()> {
        let sleep = self.pause.get_or_insert_with(|| Box::pin(sleep(pause)));
        ready!(sleep.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(())
    }

    /// Records that the listener has been dropped.
    pub(super) fn close(&mut self) {
        if self.stage < ListenerStage::Closed {
            self.stage = ListenerStage::Closed;
            self.next = Reached::stage(self.shared.clone(), Stage::ClosingConnections);
            if !self.emptied {
                self.emptied = true;
                self.shared.listener_emptied();
            }
            self.shared.listener_closed();
            self.shared.advance();
        }
    }

    /// Waits, once closed, until servers get their shutdown signal. A stream that ends before that
    /// makes tonic close its connections.
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stage != ListenerStage::Ended {
            ready!(self.poll_next(cx));
            self.stage = ListenerStage::Ended;
        }
        Poll::Ready(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.next).poll(cx)
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

/// Returns whether an accept failed because of one connection, which was gone before it was
/// accepted. The next accept may succeed.
pub(super) fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
