//! SIGTERM and SIGINT, or Ctrl-C on Windows, as one future.

use super::requests::Requests;
#[cfg(unix)]
use super::watch;
use crate::drain::SecondSignal;
#[cfg(unix)]
use std::fmt;
use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
#[cfg(unix)]
use tokio::sync::watch::Receiver;

/// Completes at the first SIGTERM or SIGINT (on Windows, Ctrl-C); given to
/// [`Drain::run`](crate::Drain::run), the second one forces, and the third one ends the process.
///
/// Call it first in `main`. It listens from the call on, not from the first poll. Before the call,
/// SIGTERM and SIGINT end the process at once; sent to process 1 of a container, they do nothing
/// at all, and the server is killed at the end of the grace period. A server that connects to its
/// database before it calls `terminate` is in that state for as long as the connect takes.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = std::future::ready(());
/// let terminate = tower_graceful::signal::terminate(); // before all that takes time
/// let drain = tower_graceful::Drain::new();
/// // … configuration, connections, the server …
/// drain.run(server, terminate).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Copies of a signal
///
/// All signals that come within 500 ms of the first one, of either kind and in any number, are the
/// same request to stop. A process often gets more than one: a terminal and `docker compose` signal
/// the whole process group, and a wrapper (npm, `nodemon`, `cargo watch`, a shell script) passes
/// the signal on to its child, which has got it already. The same holds for the second request and
/// its copies, so a forwarded second Ctrl-C forces and does not end the process.
///
/// So what is called a second signal here comes more than 500 ms after the first one, and a third one
/// more than 500 ms after the second one. If the runtime is busy meanwhile and hears of two requests
/// at the same time, it still takes the second one to force.
///
/// # Ctrl-C at a terminal
///
/// skips the [lame duck](crate::DrainBuilder::lame_duck): no balancer sends requests to a server that
/// was started by hand, and a person waits for its end. That is, if the first request to stop is a
/// SIGINT and the standard input is a terminal; on Windows, always. A SIGTERM that comes with the
/// SIGINT is a copy from a wrapper and does not change that. Requests are waited for as ever. A
/// SIGINT under a supervisor, whose children have no terminal, keeps the lame duck, and so does a
/// SIGTERM alone.
///
/// # The third signal
///
/// ends the process on the spot, and needs no runtime for that: it helps, too, where handlers block all
/// threads, or where [`run`](crate::Drain::run) has returned and the drop of the runtime waits for a
/// blocking task. The process is killed by the signal, as one that does not listen for it, and its parent
/// sees that (a shell, as 128 and the signal's number). As the first process of a container, to which such a
/// signal does nothing by itself, it exits with that code. (On Windows, only the first two are heeded.)
///
/// The handlers stay as long as the process. If `terminate` is called again, signals are counted anew from
/// there on: the next one is the first, even if it comes within 500 ms of an earlier one.
///
/// # Two threads
///
/// are started by the first call, on Unix, which sleep until there is a signal. One handler that blocks its
/// thread can keep a runtime from hearing of signals, if that thread was about to poll the kernel. A thread
/// outside of the runtime can wake another worker.
///
/// # Panics
///
/// If the system refuses a handler, or a thread; on Windows, outside of a tokio runtime.
pub fn terminate() -> Terminate {
    Terminate {
        signals: Signals::listen().expect("the system takes a handler for termination signals"),
    }
}

/// Waits for the first signal; from [`terminate`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Terminate {
    signals: Signals,
}

/// Where a request to stop comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sender {
    /// A person at a terminal, who waits for the end.
    Person,
    #[cfg(unix)]
    Program,
}

impl Future for Terminate {
    type Output = SecondSignal;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<SecondSignal> {
        let first = ready!(self.signals.poll_recv(cx));
        let mut signals = self.signals.rest();
        let second = SecondSignal::new(async move {
            poll_fn(|cx| signals.poll_recv(cx)).await;
        });
        Poll::Ready(match first {
            Sender::Person => second.skip_lame_duck(),
            #[cfg(unix)]
            Sender::Program => second,
        })
    }
}

/// The requests to stop that come after those that have been received.
#[cfg(unix)]
struct Signals {
    received: u64,
    requests: Receiver<Requests>,
    /// Ready when there are more.
    more: Option<Pin<Box<dyn Future<Output = Requests> + Send + Sync>>>,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        let requests = watch::listen()?;
        let received = requests.borrow().all;
        Ok(Self {
            received,
            requests,
            more: None,
        })
    }

    /// Returns those that come after what this one has received.
    fn rest(&mut self) -> Self {
        Self {
            received: self.received,
            requests: self.requests.clone(),
            more: None,
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Sender> {
        use std::io::IsTerminal;
        let (mut requests, received) = (self.requests.clone(), self.received);
        let more = self.more.get_or_insert_with(|| {
            Box::pin(async move {
                let more = requests.wait_for(|requests| requests.all > received).await;
                // It errs only without a sender, and that one is the process's.
                *more.expect("it is never dropped")
            })
        });
        let requests = ready!(more.as_mut().poll(cx));
        self.more = None;
        // One at a time: if there are two by now, the first one begins and the second one forces.
        self.received += 1;
        Poll::Ready(match requests.interrupt && io::stdin().is_terminal() {
            true => Sender::Person,
            false => Sender::Program,
        })
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
    // `None` where another one has the rest.
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

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Sender> {
        let ctrl_c = self.ctrl_c.as_mut().expect("polled after it was ready");
        loop {
            ready!(ctrl_c.poll_recv(cx));
            if self.requests.count(std::time::Instant::now(), true) {
                return Poll::Ready(Sender::Person);
            }
        }
    }
}
