//! When to stop: SIGTERM and SIGINT, Ctrl-C on Windows.

#[cfg(unix)]
mod watch;

#[cfg(unix)]
use self::watch::Seen;
use crate::drain::Insist;
#[cfg(unix)]
use std::fmt;
use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
#[cfg(unix)]
use tokio::sync::watch::Receiver;

/// Completes at the first SIGTERM or SIGINT (on Windows, Ctrl-C); given to
/// [`Drain::run`](crate::Drain::run), the second one forces, and the third one ends the process.
///
/// It listens from the call on, not from the first poll: a signal in between is not lost, and from
/// here on the first two do not end the process by themselves.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = std::future::ready(());
/// let drain = tower_graceful::Drain::new();
/// drain.run(server, tower_graceful::signal::terminate()).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Ctrl-C at a terminal
///
/// skips the [lame duck](crate::DrainBuilder::lame_duck): no balancer sends requests to a server that
/// somebody has started by hand, and somebody is waiting. That is, if the first signal is a SIGINT and
/// the standard input is a terminal; on Windows, always. Requests are waited for as ever. A SIGINT
/// under a supervisor, whose children have no terminal, keeps the lame duck, and so does a SIGTERM
/// anywhere.
///
/// # The third signal
///
/// ends the process on the spot, and needs no runtime for that: it helps, too, where handlers block all
/// threads, or where [`run`](crate::Drain::run) has returned and the drop of the runtime waits for a
/// blocking task. The process is killed by the signal, as one that does not listen for it, and its parent
/// sees that (a shell, as 128 and the signal's number). As the first process of a container, to which such a
/// signal does nothing by itself, it exits with that code. (On Windows, only the first two are heeded.)
///
/// So it stays as long as the process lives, unless `terminate` is called again: from there on, they are
/// counted anew.
///
/// # Two threads
///
/// are started by the first call, on Unix, which sleep until there is a signal. A runtime can be kept from
/// hearing of signals by one handler that blocks its thread, if that is the thread that was about to ask the
/// kernel; whom another thread wakes, is run.
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

/// Waits for every signal after the first; what [`Terminate`] leaves to
/// [`Drain::run`](crate::Drain::run).
#[derive(Debug)]
pub struct Again {
    signals: Signals,
    first: Sender,
}

/// Who sends a signal.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sender {
    /// Somebody at a terminal, who waits for the end.
    Person,
    #[cfg(unix)]
    Program,
}

impl Future for Terminate {
    type Output = Again;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Again> {
        let first = ready!(self.signals.poll_recv(cx));
        Poll::Ready(Again {
            signals: self.signals.rest(),
            first,
        })
    }
}

impl Insist for Again {
    fn poll_insist(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.signals.poll_recv(cx).map(drop)
    }

    fn skips_lame_duck(&self) -> bool {
        self.first == Sender::Person
    }
}

/// What comes after those that have been received.
#[cfg(unix)]
struct Signals {
    received: Seen,
    seen: Receiver<Seen>,
    /// Ready when there are more.
    more: Option<Pin<Box<dyn Future<Output = Seen> + Send + Sync>>>,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        let seen = self::watch::listen()?;
        let received = *seen.borrow();
        Ok(Self {
            received,
            seen,
            more: None,
        })
    }

    /// What comes after what this one has received.
    fn rest(&mut self) -> Self {
        Self {
            received: self.received,
            seen: self.seen.clone(),
            more: None,
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Sender> {
        use std::io::IsTerminal;
        let (mut seen, received) = (self.seen.clone(), self.received.all());
        let more = self.more.get_or_insert_with(|| {
            Box::pin(async move {
                let more = seen.wait_for(|seen| seen.all() > received).await;
                // It errs only without a sender, and that one is the process's.
                *more.expect("it is never dropped")
            })
        });
        let seen = ready!(more.as_mut().poll(cx));
        self.more = None;
        // All that have come by now: a second one is one that comes later.
        let terminated = seen.terminate > self.received.terminate;
        self.received = seen;
        Poll::Ready(match terminated || !io::stdin().is_terminal() {
            true => Sender::Program,
            false => Sender::Person,
        })
    }
}

#[cfg(unix)]
impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.received.fmt(f)
    }
}

#[cfg(windows)]
#[derive(Debug)]
struct Signals {
    // `None` where another one has the rest.
    ctrl_c: Option<tokio::signal::windows::CtrlC>,
}

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            ctrl_c: Some(tokio::signal::windows::ctrl_c()?),
        })
    }

    fn rest(&mut self) -> Self {
        Self {
            ctrl_c: self.ctrl_c.take(),
        }
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Sender> {
        let ctrl_c = self.ctrl_c.as_mut().expect("polled after it was ready");
        ctrl_c.poll_recv(cx).map(|_| Sender::Person)
    }
}
