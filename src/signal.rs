//! When to stop: SIGTERM and SIGINT, Ctrl-C on Windows.

use crate::drain::Insist;
use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

/// Completes at the first SIGTERM or SIGINT (on Windows, Ctrl-C); given to
/// [`Drain::run`](crate::Drain::run), the second one forces.
///
/// It listens from the call on, not from the first poll: a signal in between is not lost, and from
/// here on none of them ends the process by itself.
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
/// # Panics
///
/// Outside of a tokio runtime with its IO driver, or if the system refuses the handler.
pub fn terminate() -> Terminate {
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
}

impl Future for Terminate {
    type Output = Again;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Again> {
        let signals = self.signals.as_mut().expect("polled after it was ready");
        match signals.poll_recv(cx) {
            Poll::Ready(()) => Poll::Ready(Again {
                signals: self.signals.take().expect("it was here just now"),
            }),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Insist for Again {
    fn poll_insist(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.signals.poll_recv(cx)
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

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Both are polled, so that both wake. `None` never comes: the driver keeps the senders.
        let terminate = self.terminate.poll_recv(cx).is_ready();
        let interrupt = self.interrupt.poll_recv(cx).is_ready();
        if terminate || interrupt {
            Poll::Ready(())
        } else {
            Poll::Pending
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

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.ctrl_c.poll_recv(cx).map(drop)
    }
}
