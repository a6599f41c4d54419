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

/// How long a queue that cannot be looked into has to stay silent to be taken for empty; and how
/// long handshakes are waited for where it cannot be seen whether there are any.
const QUIET: Duration = Duration::from_millis(20);

/// How long to wait before the next look into a queue: for a handshake to end there, or, after an
/// accept that failed, for file descriptors to become free.
const RETRY: Duration = Duration::from_millis(5);

/// The end of listening, for whatever is listened to.
///
/// While it is open, connections come as they do. At the end of LameDuck what waits in the accept
/// queue is taken out. Then the listener closes, or, where handshakes may still be going on that have
/// begun before, at the end of the settling.
pub(super) struct ListenerState {
    shared: Arc<Shared>,
    stage: ListenerStage,
    /// The end of LameDuck, then the end of the settling, then the moment when servers are told.
    next: Reached,
    pause: Option<Pin<Box<Sleep>>>,
    /// The drain knows that the queue is empty.
    emptied: bool,
    handshakes: Handshakes,
}

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) enum ListenerStage {
    Open,
    Backlog,
    Closed,
    Ended,
}

/// What is known of handshakes that may still end in the queue, when new ones are kept out of it.
enum Handshakes {
    /// They are not waited for: there is always a next one.
    Ignored,
    /// None has been looked for, which is to be done by this port.
    Unknown(u16),
    /// The kernel's list is read, on a thread for blocking work: it has a line for each socket of the
    /// machine, and ten thousand lines take the kernel 40 ms.
    Looking(JoinHandle<Option<bool>>),
    HalfDone,
    /// It cannot be seen: they have until then.
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

    /// Where it stands by now. It is to be [closed](Self::close) by whoever finds the queue empty.
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

    /// Waits for handshakes that have begun: they may end in the queue until the settling is over. To be
    /// called when new clients are kept out, before the queue is emptied.
    pub(super) fn wait_for_handshakes(&mut self, port: u16) {
        self.handshakes = Handshakes::Unknown(port);
    }

    /// What comes out of a queue that is being emptied; `None` when it is to be closed.
    pub(super) fn poll_queue<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut() -> io::Result<T>,
    ) -> Poll<Option<T>> {
        loop {
            if self.is_late() {
                return Poll::Ready(None);
            }
            // Asked first, so that the last look comes after the end.
            let over = self.is_over(cx);
            match take() {
                Ok(connection) => return Poll::Ready(Some(connection)),
                Err(error) if is_of_the_connection(&error) => continue,
                Err(_) if over => return Poll::Ready(None),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let looks = matches!(
                        self.handshakes,
                        Handshakes::Unknown(_) | Handshakes::Looking(_)
                    );
                    match ready!(self.poll_handshakes(cx)) {
                        true => self.say_emptied(),
                        // One may have ended between the two looks: into the queue, then here.
                        false if looks => continue,
                        false => return Poll::Ready(None),
                    }
                }
                Err(error) => log::accept_error(&error),
            }
            ready!(self.poll_pause(cx, RETRY));
        }
    }

    /// Says whether a handshake may still end in the empty queue. While a connection is open, the
    /// settling lasts anyway, so the kernel's list need not be read.
    fn poll_handshakes(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if let Handshakes::Unknown(port) = self.handshakes {
            if self.shared.has_connections() {
                return Poll::Ready(true);
            }
            let list = spawn_blocking(move || has_half_done_handshake(port));
            self.handshakes = Handshakes::Looking(list);
        }
        if let Handshakes::Looking(list) = &mut self.handshakes {
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
            Handshakes::Ignored | Handshakes::Unknown(_) | Handshakes::Looking(_) => false,
        })
    }

    /// What still comes, where the queue cannot be looked into; `None` when it is to be closed.
    ///
    /// Silence ends the emptying, and not the wait: a listener inside may have accepted connections
    /// that it has not handed over, in the middle of a TLS handshake, say.
    pub(super) fn poll_silence<T>(
        &mut self,
        cx: &mut Context<'_>,
        accept: impl FnMut(&mut Context<'_>) -> Poll<Option<T>>,
    ) -> Poll<Option<T>> {
        if self.is_late() {
            return Poll::Ready(None);
        }
        // Asked first, so that the last look comes after the end.
        let over = self.is_over(cx);
        // A task's budget shall not pass for an empty queue.
        let accept = pin!(unconstrained(poll_fn(accept)));
        if let Poll::Ready(connection) = accept.poll(cx) {
            self.pause = None;
            return Poll::Ready(connection);
        }
        if over {
            return Poll::Ready(None);
        }
        if !self.emptied {
            ready!(self.poll_pause(cx, QUIET));
            // Wakes the task if that was the end of the settling, too.
            self.say_emptied();
        }
        Poll::Pending
    }

    /// Has the task woken for another try after an accept that failed. True if it is too late for one.
    pub(super) fn retry(&mut self, cx: &mut Context<'_>) -> bool {
        self.pause = None;
        let _ = self.poll_pause(cx, RETRY);
        self.is_over(cx)
    }

    /// The settling is over, and with it the time for the last look.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.drain_stage() >= Stage::LastRead || self.poll_next(cx).is_ready()
    }

    fn say_emptied(&mut self) {
        if !self.emptied {
            self.emptied = true;
            self.shared.listener_emptied();
            self.shared.advance();
        }
    }

    fn drain_stage(&self) -> Stage {
        self.shared.stage()
    }

    /// A queue that never runs dry ends here.
    fn is_late(&self) -> bool {
        self.drain_stage() >= Stage::ClosingConnections
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>, pause: Duration) -> Poll<()> {
        let sleep = self.pause.get_or_insert_with(|| Box::pin(sleep(pause)));
        ready!(sleep.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(())
    }

    /// To be called when the listener has been dropped.
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

    /// Waits, once closed, for the moment when servers are told: a stream that ends before tells
    /// tonic to close its connections.
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

/// An error of one connection, which was gone before it was accepted: the next one may be fine.
pub(super) fn is_of_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}
