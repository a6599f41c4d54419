//! [`Drain::run`]: a server, a signal, the schedule and the deadline, in one future.

use super::{
    Drain,
    guard::DrainGuard,
    outcome::{Drained, RunError},
    report::{BlockerKind, ForcedBy},
    wiring::Fact,
};
use std::{
    convert::Infallible,
    fmt,
    future::{Future, IntoFuture, poll_fn},
    io,
    panic::Location,
    pin::{Pin, pin},
    task::{Context, Poll},
};

impl Drain {
    /// Runs a server until a signal tells it to stop and everything is drained.
    ///
    /// `run` polls the server. When the signal completes, `run` [begins](Self::begin) the drain.
    /// When the signal comes a [second time](crate::signal::SecondSignal), it [forces](Self::force)
    /// the drain. `run` ends when the server and everything that the drain counts have ended, or at
    /// the deadline. It spawns nothing.
    ///
    /// The server has to stop by itself: give it [`shutdown_signal`](Self::shutdown_signal). A
    /// server that does not stop is dropped at the deadline.
    ///
    /// The `signal` is `signal::terminate()`, tokio's `ctrl_c()`, or any other future that ends
    /// with `()`, with an `io::Result<()>` or with a [`SecondSignal`].
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
    /// If the server ends before any signal, with or without an error, the drain begins without its
    /// lame duck, as nothing serves new requests any more. Work in flight is waited for. An error
    /// is returned beside the outcome.
    ///
    /// # Several servers
    ///
    /// Each of several servers may have a `run` of its own, under clones of one drain. One signal,
    /// or the end of one server, ends them all, and each `run` returns when all have ended. A
    /// server that is given to `run` after [`Phase::Draining`](crate::Phase::Draining) began is
    /// dropped unpolled.
    ///
    /// # Errors
    ///
    /// [`RunError::Timeout`] if work was left at the deadline, [`RunError::Server`] if the server
    /// failed.
    ///
    /// After a timeout, some tasks of the server may still run. Connections run on if no listener
    /// of the drain has accepted them. A task that blocks its thread always runs on. To end them,
    /// end the process, with [`std::process::exit`] or tokio's `Runtime::shutdown_background`. The
    /// drop of a runtime, as at the end of `#[tokio::main]`, waits for tasks that block their
    /// thread. The third signal that `signal::terminate()` gets ends the process, too.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future drops the server. A drain that has begun goes on, and others may wait
    /// for it; a drain that has not begun stays as it is.
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
        S: Future<Output: Into<SecondSignal>>,
    {
        let (drain, run_at) = (self.clone(), Location::caller());
        async move {
            let mut guard = DrainGuard::enter(drain.shared(), BlockerKind::Server, run_at);
            let server = guard.is_some().then(|| server.into_future());
            let mut server = pin!(server);
            let mut signal = pin!(Some(signal));
            let mut second = None;
            let mut failure = None;
            let mut outcome = pin!(drain.wait());

            let outcome = poll_fn(|cx| {
                // The signal comes before the server: a busy server may use up all that tokio's
                // coop budget lets a task do in one poll.
                if let Some(polled) = signal.as_mut().as_pin_mut() {
                    if let Poll::Ready(output) = polled.poll(cx) {
                        signal.set(None);
                        let output: SecondSignal = output.into();
                        drain.update(|schedule, now| match output.skips_lame_duck {
                            true => schedule.skip_lame_duck(now),
                            false => schedule.begin(now),
                        });
                        second = Some(output);
                    }
                }
                if second.as_mut().is_some_and(|it| it.poll(cx).is_ready()) {
                    second = None;
                    drain.update(|schedule, now| schedule.force(now, ForcedBy::SecondSignal));
                }
                // So does the outcome, and the deadline with it. A change that the server makes
                // wakes it.
                if let Poll::Ready(outcome) = outcome.as_mut().poll(cx) {
                    return Poll::Ready(outcome);
                }
                if let Some(polled) = server.as_mut().as_pin_mut() {
                    if let Poll::Ready(output) = polled.poll(cx) {
                        server.set(None);
                        // There is nothing left to tell.
                        drain.shared().record(Fact::StopSignal);
                        failure = output.into_result().err();
                        drain.update(|schedule, now| schedule.skip_lame_duck(now));
                        guard = None;
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

/// Waits for the second signal, and forces the drain then; the signal of [`Drain::run`] ends with
/// it.
///
/// The future of `signal::terminate()` ends with it. A future that ends with `()`, or with an
/// `io::Result<()>` such as tokio's `ctrl_c()`, has no second signal. An error begins the drain,
/// too: otherwise nothing could stop the server.
///
/// ```
/// use tokio::sync::mpsc;
/// use tower_graceful::{Drain, signal::SecondSignal};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = std::future::ready(());
/// // From a console: the first word stops the server, the second one forces the drain.
/// let (console, mut words) = mpsc::channel::<String>(1);
/// let signal = async move {
///     let first = words.recv().await;
///     let second = SecondSignal::new(async move {
///         words.recv().await;
///     });
///     match first.as_deref() {
///         Some("quickly") => second.skip_lame_duck(),
///         _ => second,
///     }
/// };
/// # console.send("quickly".to_owned()).await?;
/// Drain::new().run(server, signal).await?;
/// # Ok(())
/// # }
/// ```
pub struct SecondSignal {
    /// Completes at the second signal; `None` if there is none.
    future: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
    skips_lame_duck: bool,
}

impl SecondSignal {
    /// Forces the drain when `future` completes.
    pub fn new(future: impl Future<Output = ()> + Send + Sync + 'static) -> Self {
        Self {
            future: Some(Box::pin(future)),
            skips_lame_duck: false,
        }
    }

    /// Has the first signal skip the [lame duck](crate::DrainBuilder::lame_duck), or the rest of
    /// one that has begun: for a server without a balancer, and a person that waits for its end.
    pub fn skip_lame_duck(mut self) -> Self {
        self.skips_lame_duck = true;
        self
    }

    /// Polls for the second signal. Must not be called again once it is ready.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.future {
            Some(future) => future.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

/// Makes a second signal that never comes.
impl From<()> for SecondSignal {
    fn from((): ()) -> Self {
        Self {
            future: None,
            skips_lame_duck: false,
        }
    }
}

/// Makes a second signal that never comes. An error of the first one counts as a signal.
impl From<io::Result<()>> for SecondSignal {
    fn from(_: io::Result<()>) -> Self {
        Self::from(())
    }
}

impl fmt::Debug for SecondSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecondSignal")
            .field("forces", &self.future.is_some())
            .field("skips_lame_duck", &self.skips_lame_duck)
            .finish()
    }
}

/// Turns what a server future ends with into a result: nothing, or a `Result<(), E>`. Sealed.
///
/// For a server with another output, put an `async` block around it. [`RunError`] is an
/// [`Error`](std::error::Error) only if the server's error is one, and a `Box<dyn Error>` is not:
/// [`io::Error::other`] makes one of it.
#[diagnostic::on_unimplemented(
    message = "`Drain::run` cannot use a server that ends with `{Self}`",
    label = "the output of the server is neither `()` nor a `Result<(), _>`",
    note = "put an `async` block around the server: `async {{ server.await; }}`"
)]
pub trait ServerOutput: sealed::Sealed {
    /// Names the type of the server's error; [`Infallible`] if it has none.
    type Error;

    #[doc(hidden)]
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

mod sealed {
    pub trait Sealed {}

    impl Sealed for () {}

    impl<E> Sealed for Result<(), E> {}
}
