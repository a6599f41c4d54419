//! When to stop: SIGTERM and SIGINT, Ctrl-C on Windows.

#[cfg(unix)]
mod last_resort;

use crate::drain::Insist;
use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

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
/// ends the process on the spot, and needs no runtime for that: it helps, too, where a handler blocks
/// the only thread, or where [`run`](crate::Drain::run) has returned and the drop of the runtime
/// waits for a blocking task. The process is killed by the signal, as one that does not listen for it,
/// and its parent sees that (a shell, as 128 and the signal's number). As the first process of a
/// container, to which such a signal does nothing by itself, it exits with that code.
///
/// (Where the server has ended by itself, and nobody waits for a first signal any more, it is the second
/// one.)
///
/// So it stays as long as the process lives, unless `terminate` is called again: from there on, they
/// are counted anew. The runtime has to have noticed the first one, by a poll of this future: one whose
/// only thread is blocked before that can but be killed. On Windows, only the first two are heeded.
///
/// # Panics
///
/// Outside of a tokio runtime with its IO driver, or if the system refuses the handler.
pub fn terminate() -> Terminate {
    #[cfg(unix)]
    last_resort::withdraw();
    let signals = Signals::listen().expect("the system takes a handler for termination signals");
    Terminate {
        signals: Some(signals),
    }
}

/// Waits for the first signal; from [`terminate`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Terminate {
    signals: Option<Signals>,
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
        let signals = self.signals.as_mut().expect("polled after it was ready");
        match signals.poll_recv(cx) {
            Poll::Ready(first) => {
                #[cfg(unix)]
                last_resort::prepare();
                Poll::Ready(Again {
                    signals: self.signals.take().expect("it was here just now"),
                    first,
                })
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Nobody waits for the first one any more, and tokio's handlers, which stay, keep it from the process.
#[cfg(unix)]
impl Drop for Terminate {
    fn drop(&mut self) {
        if self.signals.is_some() {
            last_resort::prepare();
        }
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

#[cfg(unix)]
#[derive(Debug)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Sender> {
        use std::io::IsTerminal;
        // Both are polled, so that both wake. `None` never comes: the driver keeps the senders.
        let terminate = self.terminate.poll_recv(cx).is_ready();
        let interrupt = self.interrupt.poll_recv(cx).is_ready();
        match (terminate, interrupt) {
            (true, _) => Poll::Ready(Sender::Program),
            (false, true) if io::stdin().is_terminal() => Poll::Ready(Sender::Person),
            (false, true) => Poll::Ready(Sender::Program),
            (false, false) => Poll::Pending,
        }
    }
}

#[cfg(windows)]
#[derive(Debug)]
struct Signals {
    ctrl_c: tokio::signal::windows::CtrlC,
}

#[cfg(windows)]
impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            ctrl_c: tokio::signal::windows::ctrl_c()?,
        })
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Sender> {
        self.ctrl_c.poll_recv(cx).map(|_| Sender::Person)
    }
}
