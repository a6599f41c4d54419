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
    task::unconstrained,
    time::{Sleep, sleep},
};

/// How long a queue that cannot be looked into has to stay silent to be taken for empty; and how
/// long handshakes may take that have begun.
const QUIET: Duration = Duration::from_millis(20);

/// How long to wait after an accept that failed while the queue is emptied: for lack of file
/// descriptors, most likely, of which some become free now.
const RETRY: Duration = Duration::from_millis(5);

/// The end of listening, for whatever is listened to.
///
/// While it is open, connections come as they do. At the end of LameDuck what waits in the accept
/// queue is taken out, and the door closes; so does it when the drain will not wait any longer.
pub(super) struct Door {
    shared: Arc<Shared>,
    state: State,
    /// The end of LameDuck, then the end of emptying, then the moment when servers are told.
    next: Reached,
    pause: Option<Pin<Box<Sleep>>>,
    /// Nobody new comes into the queue, but handshakes that have begun may end there.
    handshakes: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) enum State {
    Open,
    Emptying,
    Closed,
    Told,
}

impl Door {
    pub(super) fn new(drain: &Drain) -> Self {
        let shared = drain.shared().clone();
        shared.listener_opened();
        let next = Reached::stage(shared.clone(), Stage::Emptying);
        Self {
            shared,
            state: State::Open,
            next,
            pause: None,
            handshakes: false,
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Where it stands by now. It is to be [closed](Self::close) by whoever finds the queue empty.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> State {
        if self.state == State::Open && self.poll_next(cx).is_ready() {
            self.state = State::Emptying;
            self.next = Reached::stage(self.shared.clone(), Stage::Settling);
        }
        self.state
    }

    pub(super) fn state(&self) -> State {
        self.state
    }

    /// To be called before the queue is emptied: once it is empty, it is looked at again, after as
    /// long as handshakes may take.
    pub(super) fn wait_for_handshakes(&mut self) {
        self.handshakes = true;
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
            match take() {
                Ok(connection) => return Poll::Ready(Some(connection)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !self.handshakes || self.poll_next(cx).is_ready() {
                        return Poll::Ready(None);
                    }
                    ready!(self.poll_pause(cx, QUIET));
                    self.handshakes = false;
                    continue;
                }
                Err(error) if is_of_the_connection(&error) => continue,
                Err(error) => log::accept_error(&error),
            }
            // The drain does not wait for ever, and nobody waits for what it does not wait for.
            if self.poll_next(cx).is_ready() {
                return Poll::Ready(None);
            }
            ready!(self.poll_pause(cx, RETRY));
        }
    }

    /// Likewise, where the queue cannot be looked into: what still comes, until there is silence.
    pub(super) fn poll_silence<T>(
        &mut self,
        cx: &mut Context<'_>,
        accept: impl FnMut(&mut Context<'_>) -> Poll<Option<T>>,
    ) -> Poll<Option<T>> {
        if self.is_late() {
            return Poll::Ready(None);
        }
        // A task's budget shall not pass for an empty queue.
        let accept = pin!(unconstrained(poll_fn(accept)));
        if let Poll::Ready(connection) = accept.poll(cx) {
            self.pause = None;
            return Poll::Ready(connection);
        }
        if self.poll_next(cx).is_pending() {
            ready!(self.poll_pause(cx, QUIET));
        }
        Poll::Ready(None)
    }

    /// A queue that never runs dry ends here.
    fn is_late(&self) -> bool {
        self.shared.stage() >= Stage::Parting
    }

    fn poll_pause(&mut self, cx: &mut Context<'_>, pause: Duration) -> Poll<()> {
        let sleep = self.pause.get_or_insert_with(|| Box::pin(sleep(pause)));
        ready!(sleep.as_mut().poll(cx));
        self.pause = None;
        Poll::Ready(())
    }

    /// To be called when the listener has been dropped.
    pub(super) fn close(&mut self) {
        if self.state < State::Closed {
            self.state = State::Closed;
            self.next = Reached::stage(self.shared.clone(), Stage::Parting);
            self.shared.listener_closed();
            self.shared.advance();
        }
    }

    /// Waits, once closed, for the moment when servers are told: a stream that ends before tells
    /// tonic to close its connections.
    pub(super) fn poll_told(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.state != State::Told {
            ready!(self.poll_next(cx));
            self.state = State::Told;
        }
        Poll::Ready(())
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.next).poll(cx)
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Door").field("state", &self.state).finish()
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
