//! [`Drain::run`]: a server, a signal, the schedule and the deadline, in one future.

use super::{
    Drain,
    guard::ListedGuard,
    outcome::{Drained, RunError},
    report::{BlockerKind, ForcedBy},
};
use std::{
    convert::Infallible,
    future::{Future, IntoFuture, poll_fn},
    panic::Location,
    pin::pin,
    task::{Context, Poll},
};

/// What a server future ends with: nothing, or a `Result<(), E>`.
///
/// A server with another output is told as an `async` block around it. So is one whose error is a
/// `Box<dyn Error>`, if [`RunError`] shall be an [`Error`](std::error::Error): a box is none, and
/// [`io::Error::other`](std::io::Error::other) makes one of it.
pub trait ServerOutput {
    /// The server's error; [`Infallible`] for one that has none.
    type Error;

    /// How the server ended.
    fn into_result(self) -> Result<(), Self::Error>;
}

impl ServerOutput for () {
    type Error = Infallible;

    fn into_result(self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl<E> ServerOutput for Result<(), E> {
    type Error = E;

    fn into_result(self) -> Self {
        self
    }
}

/// What a signal leaves behind when it has come: a way to insist, or none.
///
/// The output of the `signal` that [`Drain::run`] gets. For `()` there is none; what
/// `signal::terminate()` leaves waits for the second signal. Implement it for a signal of your own
/// that knows "now, at once".
///
/// ```
/// use std::task::{Context, Poll};
/// use tokio::sync::mpsc;
/// use tower_graceful::{Drain, Insist};
///
/// /// From a console: the first word stops, the second one insists.
/// struct Word {
///     next: mpsc::Receiver<String>,
///     first: String,
/// }
///
/// impl Insist for Word {
///     fn poll_insist(&mut self, cx: &mut Context<'_>) -> Poll<()> {
///         self.next.poll_recv(cx).map(drop)
///     }
///
///     fn skips_lame_duck(&self) -> bool {
///         self.first == "quickly"
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = std::future::ready(());
/// let (console, mut words) = mpsc::channel(1);
/// let signal = async move {
///     let first = words.recv().await.unwrap_or_default();
///     Word { next: words, first }
/// };
/// Drain::new().run(server, signal).await?;
/// # Ok(())
/// # }
/// ```
pub trait Insist {
    /// Ready when the drain is to be [forced](Drain::force). Not polled again after that.
    fn poll_insist(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether the drain is to begin without its [lame duck](crate::DrainBuilder::lame_duck), or to
    /// end one that goes on: where no balancer has to notice, and somebody waits. Asked once, when the
    /// signal has come. Default: no.
    fn skips_lame_duck(&self) -> bool {
        false
    }
}

impl Insist for () {
    fn poll_insist(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

impl Drain {
    /// Runs a server until it has been told to stop and everything is drained.
    ///
    /// Polls the server; at the signal [begins](Self::begin) the drain, without its lame duck if the
    /// signal [says so](Insist::skips_lame_duck); if the signal insists, [forces](Self::force) it;
    /// ends when the server has ended and everything counted has, or at
    /// the deadline with what was left. Spawns nothing.
    ///
    /// The server itself has to stop at its time: give it
    /// [`shutdown_signal`](Self::shutdown_signal). If it does not, it is dropped at the deadline. The `signal` is a future that ends with `()`, or with something that can
    /// [`Insist`]; for another one, write `async { let _ = tokio::signal::ctrl_c().await; }`.
    ///
    /// ```no_run
    /// use axum::{Router, routing::get};
    /// use tower_graceful::Drain;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let drain = Drain::new();
    /// let app = Router::new().route("/", get("hello")).layer(drain.layer());
    /// let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    /// # #[cfg(feature = "axum")]
    /// let listener = drain.listener(listener); // feature "axum"
    ///
    /// let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    /// # #[cfg(feature = "signal")]
    /// let drained = drain.run(server, tower_graceful::signal::terminate()).await?;
    /// # #[cfg(feature = "signal")]
    /// println!("{drained}");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # When the server ends by itself
    ///
    /// before any signal, well or with an error, there is nothing left to keep the door open for:
    /// the drain begins without its lame duck, what is in flight is waited for, and an error is
    /// returned with the outcome beside it.
    ///
    /// # Several servers
    ///
    /// may run under clones of one drain, each in a `run` of its own: one signal, or the end of
    /// one of them, ends them all, and each `run` returns when all have ended. A server that is
    /// given to `run` after [`Phase::Draining`](crate::Phase::Draining) began is dropped unpolled.
    ///
    /// # Errors
    ///
    /// [`RunError::Timeout`] if something was left at the deadline, [`RunError::Server`] if the
    /// server failed.
    ///
    /// After a timeout, tasks that the server has spawned may still run: all of its connections,
    /// if they are not the drain's own, and in any case those that block their thread. To cut them,
    /// end the process, with [`std::process::exit`] or by tokio's `Runtime::shutdown_background`: the drop
    /// of a runtime, as at the end of `#[tokio::main]`, waits for handlers that block their thread. The
    /// third signal that `signal::terminate()` gets ends that, too.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the server. The drain itself stays as it is: one that has begun goes on
    /// and others may wait for it; one that has not, has not.
    ///
    /// # Panics
    ///
    /// When polled outside of a tokio runtime with its time driver, once the drain has begun.
    #[track_caller]
    pub fn run<V, S>(
        &self,
        server: V,
        signal: S,
    ) -> impl Future<Output = Result<Drained, RunError<<V::Output as ServerOutput>::Error>>> + use<V, S>
    where
        V: IntoFuture<Output: ServerOutput>,
        S: Future<Output: Insist>,
    {
        let (drain, run_at) = (self.clone(), Location::caller());
        async move {
            let mut listed = ListedGuard::enter(drain.shared(), BlockerKind::Server, run_at);
            let server = listed.is_some().then(|| server.into_future());
            let mut server = pin!(server);
            let mut signal = pin!(Some(signal));
            let mut insist = None;
            let mut failure = None;
            let mut outcome = pin!(drain.wait());

            let outcome = poll_fn(|cx| {
                // The signal comes before the server, which may be so busy that it uses up what a
                // task may do in a turn (tokio's coop budget).
                if let Some(polled) = signal.as_mut().as_pin_mut() {
                    if let Poll::Ready(output) = polled.poll(cx) {
                        signal.set(None);
                        drain.update(|schedule, now| match output.skips_lame_duck() {
                            true => schedule.skip_lame_duck(now),
                            false => schedule.begin(now),
                        });
                        insist = Some(output);
                    }
                }
                if insist
                    .as_mut()
                    .is_some_and(|insist| insist.poll_insist(cx).is_ready())
                {
                    insist = None;
                    drain.update(|schedule, now| schedule.force(now, ForcedBy::SecondSignal));
                }
                // So does the outcome, and the deadline with it; what the server changes, wakes it.
                if let Poll::Ready(outcome) = outcome.as_mut().poll(cx) {
                    return Poll::Ready(outcome);
                }
                if let Some(polled) = server.as_mut().as_pin_mut() {
                    if let Poll::Ready(output) = polled.poll(cx) {
                        server.set(None);
                        failure = output.into_result().err();
                        drain.update(|schedule, now| schedule.skip_lame_duck(now));
                        listed = None;
                    }
                }
                Poll::Pending
            })
            .await;

            match failure {
                Some(error) => Err(RunError::Server { error, outcome }),
                None => Ok(outcome?),
            }
        }
    }
}
