//! SIGTERM and SIGINT, or Ctrl-C on Windows, as one future.

use super::requests::Requests;
#[cfg(unix)]
use super::watch;
use crate::drain::{SecondSignal, check_process_one, shell_is_first};
use std::{
    fmt,
    future::Future,
    io,
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
/// Polled by reference in a `select!`, the future loses no signal. It completes once, and is pending
/// if it is polled after that: await its output for the second signal. The handlers stay when it is
/// dropped: then SIGTERM does nothing, and on Unix the third signal ends the process.
///
/// # Panics
///
/// Panics if the system refuses a handler or a thread; on Windows, also outside of a tokio runtime.
pub fn terminate() -> Terminate {
    let signals = Signals::listen().expect("the system takes a handler for termination signals");
    let reports_shell = check_process_one();
    Terminate {
        first: Some(Box::pin(async move {
            // Not before: a program that calls `terminate` first has no log at that time.
            if reports_shell {
                shell_is_first();
            }
            first(signals).await
        })),
    }
}

/// Waits for the first stop signal. Returns what waits for the second one.
async fn first(mut signals: Signals) -> SecondSignal {
    let is_person = signals.next().await;
    let second = SecondSignal::new(async move {
        signals.next().await;
    });
    match is_person {
        true => second.skip_lame_duck(),
        false => second,
    }
}

/// Waits for the first signal; made by [`terminate`].
#[must_use = "futures do nothing unless polled"]
pub struct Terminate {
    /// `None` once it has completed.
    first: Option<Pin<Box<dyn Future<Output = SecondSignal> + Send + Sync>>>,
}

impl Future for Terminate {
    type Output = SecondSignal;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SecondSignal> {
        let Some(first) = &mut self.first else {
            return Poll::Pending;
        };
        let second = ready!(first.as_mut().poll(cx));
        self.first = None;
        Poll::Ready(second)
    }
}

impl fmt::Debug for Terminate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminate").finish_non_exhaustive()
    }
}

/// Receives requests to stop, one after the other.
#[cfg(unix)]
struct Signals {
    received: u64,
    requests: Receiver<Requests>,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        let requests = watch::listen()?;
        // Not those until now: one may have come since.
        let received = requests.borrow().before;
        Ok(Self { received, requests })
    }

    /// Waits for the next request to stop. Returns whether it comes from a person at a terminal.
    async fn next(&mut self) -> bool {
        use std::io::IsTerminal;
        let received = self.received;
        let more = self.requests.wait_for(|it| it.all > received).await;
        // It fails only if all senders are dropped, and a static holds one.
        let interrupt = more.expect("it is never dropped").interrupt;
        // One at a time: if there are two by now, the second one is received by the next call.
        self.received += 1;
        interrupt && io::stdin().is_terminal()
    }
}

#[cfg(windows)]
struct Signals {
    ctrl_c: tokio::signal::windows::CtrlC,
    requests: Requests,
}

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            ctrl_c: tokio::signal::windows::ctrl_c()?,
            requests: Requests::default(),
        })
    }

    /// Waits for the next request to stop. Returns whether it comes from a person: it always does.
    async fn next(&mut self) -> bool {
        loop {
            self.ctrl_c.recv().await;
            if self.requests.count(std::time::Instant::now(), true) {
                return true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_test::{assert_pending, assert_ready, task};

    #[test]
    fn it_completes_once_and_may_be_polled_after_that() {
        let first = async { SecondSignal::new(std::future::pending::<()>()) };
        let first: Pin<Box<dyn Future<Output = _> + Send + Sync>> = Box::pin(first);
        let mut terminate = task::spawn(Terminate { first: Some(first) });
        let _second = assert_ready!(terminate.poll());
        assert_pending!(terminate.poll());
    }
}
