//! SIGTERM and SIGINT, or Ctrl-C on Windows, as one future.

use super::requests::Requests;
#[cfg(unix)]
use super::watch;
use crate::drain::{SecondSignal, check_process_one, shell_is_first};
#[cfg(unix)]
use std::fmt;
use std::{
    future::{Future, poll_fn},
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};
#[cfg(unix)]
use tokio::sync::watch::Receiver;

/// Waits for the first SIGTERM or SIGINT; on Windows, for Ctrl-C.
///
/// Give it to [`Drain::run`](crate::Drain::run): the first signal begins the drain, the second one
/// forces it, and the third one ends the process.
///
/// Call it first in `main`. It listens from the call on, not from the first poll. Before the call,
/// SIGTERM and SIGINT end the process at once. Process 1 of a container ignores them before the
/// call, and is killed at the end of its grace period. So call it before the server connects to its
/// database.
///
/// On Linux, a report and the log (feature `tracing`) say if process 1 is a shell that forwards no
/// signal to this process.
///
/// ```
/// use tower_graceful::{Drain, signal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = std::future::ready(());
/// let stop = signal::terminate(); // before all that takes time
/// let drain = Drain::new();
/// // … configuration, connections, the server …
/// println!("{}", drain.run(server, stop).await?);
/// # Ok(())
/// # }
/// ```
///
/// # Copies of a signal
///
/// All signals within 500 ms of the first one, of either kind and in any number, are one stop
/// signal. A process often gets more than one signal. A terminal and `docker compose` signal the
/// whole process group. A wrapper (npm, `nodemon`, `cargo watch`, a shell script) passes the signal
/// on to its child, which has got it before.
///
/// The same holds for the second stop signal and its copies. So a forwarded second Ctrl-C forces
/// the drain, and does not end the process. A "second signal" comes more than 500 ms after the
/// first one, and a "third signal" more than 500 ms after the second one.
///
/// If the runtime is busy and sees two stop signals at the same time, the second one still forces
/// the drain.
///
/// # Ctrl-C at a terminal
///
/// A Ctrl-C at a terminal skips the [lame duck](crate::DrainBuilder::lame_duck). No balancer sends
/// requests to a server that was started by hand, and a person waits for its end. Requests in
/// flight are waited for as usual.
///
/// This applies if the first stop signal has a SIGINT and the standard input is a terminal; on
/// Windows, always. A SIGTERM that comes with the SIGINT is a copy from a wrapper and does not
/// change that. The lame duck is kept for a SIGTERM alone, and for a SIGINT under a supervisor,
/// whose children have no terminal.
///
/// # The third signal
///
/// The third signal ends the process at once, without the runtime. So it also works if handlers
/// block all threads, or if [`run`](crate::Drain::run) has returned and the drop of the runtime
/// waits for a blocking task.
///
/// The process is killed by the signal, as one without a handler, and its parent sees that; a shell
/// shows 128 plus the signal's number. Such a signal does not end process 1 of a container, so that
/// process exits with the same code instead. On Windows, a third signal does nothing.
///
/// The handlers stay until the process ends. If `terminate` is called again, signals are counted
/// anew: the next one is the first, even if it comes within 500 ms of an earlier one.
///
/// # A thread of its own
///
/// On Unix, the first call starts a thread that sleeps until there is a signal. A handler that
/// blocks its thread can stop a runtime from seeing signals, if that thread was about to poll the
/// kernel. A thread outside of the runtime can wake another worker.
///
/// # Cancel safety
///
/// Polled by reference in a `select!`, the future loses no signal. The handlers stay when it is
/// dropped: then SIGTERM does nothing, and on Unix the third signal ends the process.
///
/// # Panics
///
/// Panics if the system refuses a handler or a thread; on Windows, also outside of a tokio runtime.
pub fn terminate() -> Terminate {
    Terminate {
        signals: Signals::listen().expect("the system takes a handler for termination signals"),
        reports_shell: check_process_one(),
    }
}

/// Waits for the first signal; made by [`terminate`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Terminate {
    signals: Signals,
    /// Says whether the first poll reports that process 1 is a shell. At the call, a program that
    /// calls `terminate` first has no log yet.
    reports_shell: bool,
}

impl Future for Terminate {
    type Output = SecondSignal;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SecondSignal> {
        if mem::take(&mut self.reports_shell) {
            shell_is_first();
        }
        let is_person = ready!(self.signals.poll_recv(cx));
        let mut signals = self.signals.rest();
        let second = SecondSignal::new(async move {
            poll_fn(|cx| signals.poll_recv(cx)).await;
        });
        Poll::Ready(match is_person {
            true => second.skip_lame_duck(),
            false => second,
        })
    }
}

/// Receives requests to stop, one after the other.
#[cfg(unix)]
struct Signals {
    received: u64,
    requests: Receiver<Requests>,
    /// Completes when there are more requests than were received.
    more: Option<Pin<Box<dyn Future<Output = Requests> + Send + Sync>>>,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        let requests = watch::listen()?;
        // Not those until now: one may have come since.
        let received = requests.borrow().before;
        Ok(Self {
            received,
            requests,
            more: None,
        })
    }

    /// Returns a receiver for the later requests.
    fn rest(&mut self) -> Self {
        Self {
            received: self.received,
            requests: self.requests.clone(),
            more: None,
        }
    }

    /// Waits for the next request to stop. Returns whether it comes from a person at a terminal.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        use std::io::IsTerminal;
        let (mut requests, received) = (self.requests.clone(), self.received);
        let more = self.more.get_or_insert_with(|| {
            Box::pin(async move {
                let more = requests.wait_for(|requests| requests.all > received).await;
                // It fails only if all senders are dropped, and a static holds one.
                *more.expect("it is never dropped")
            })
        });
        let requests = ready!(more.as_mut().poll(cx));
        self.more = None;
        // One at a time: if there are two by now, the second one is received by the next call.
        self.received += 1;
        Poll::Ready(requests.interrupt && io::stdin().is_terminal())
    }
}

#[cfg(unix)]
impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals")
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

#[cfg(windows)]
#[derive(Debug)]
struct Signals {
    // `None` if it was moved by `rest`.
    ctrl_c: Option<tokio::signal::windows::CtrlC>,
    requests: Requests,
}

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            ctrl_c: Some(tokio::signal::windows::ctrl_c()?),
            requests: Requests::default(),
        })
    }

    fn rest(&mut self) -> Self {
        Self {
            ctrl_c: self.ctrl_c.take(),
            requests: self.requests,
        }
    }

    /// Waits for the next request to stop. Returns whether it comes from a person: it always does.
    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let ctrl_c = self.ctrl_c.as_mut().expect("polled after it was ready");
        loop {
            ready!(ctrl_c.poll_recv(cx));
            if self.requests.count(std::time::Instant::now(), true) {
                return Poll::Ready(true);
            }
        }
    }
}
