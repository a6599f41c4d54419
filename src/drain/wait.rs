//! Waits for a phase of a drain, or for its outcome.

use super::{
    Drain,
    current::is_inside,
    outcome::{DrainTimeout, Drained},
    phase::{Phase, Stage},
    schedule::Schedule,
    shared::Shared,
    wiring::Fact,
};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, timeout, timeout_at};

/// Limits how long a waiter for the outcome waits for the report of the end. A log may be stuck.
const PATIENCE: Duration = Duration::from_millis(500);

impl Drain {
    /// Completes when the drain has reached that phase or a later one.
    ///
    /// Use it for the end of an event stream, or for a task that has to finish something. For a
    /// server's graceful shutdown there is [`shutdown_signal`](Self::shutdown_signal). The future
    /// is `'static` and cancel safe: dropping it changes nothing.
    ///
    /// If nothing begins the drain, the future stays pending for ever. It costs one allocation.
    ///
    /// ```
    /// use futures_util::StreamExt;
    /// use tower_graceful::{Drain, Phase};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let drain = Drain::new();
    /// let ticks = futures_util::stream::repeat("tick");
    /// let events = ticks.take_until(drain.reached(Phase::Draining));
    /// drain.begin();
    /// assert_eq!(events.count().await, 0);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When polled outside of a tokio runtime with its time driver, once the drain has begun.
    pub fn reached(&self, phase: Phase) -> Reached {
        if phase <= Phase::Draining {
            self.shared().record(Fact::StopSignal);
        }
        Reached::stage(self.shared().clone(), phase.first_stage())
    }

    /// Completes when a server has to stop: give it to the server's graceful shutdown.
    ///
    /// Without a listener of this drain, the future completes at [`Phase::Draining`]. With a
    /// listener, it completes later: when no connection can still bring a request that arrived in
    /// time. It waits for silent connections within their [grace](crate::DrainBuilder::grace), and
    /// for connections that have sent a part of a head, for 5 s or for the grace if that is longer.
    /// The reason: a server closes idle connections without looking for unread bytes.
    ///
    /// The future is `'static` and cancel safe, with the costs and panics of
    /// [`reached`](Self::reached).
    ///
    /// ```no_run
    /// # use axum::Router;
    /// # use tower_graceful::Drain;
    /// # async fn f(tcp: tokio::net::TcpListener, app: Router, drain: Drain) {
    /// let server = axum::serve(tcp, app).with_graceful_shutdown(drain.shutdown_signal());
    /// # }
    /// ```
    pub fn shutdown_signal(&self) -> Reached {
        self.shared().record(Fact::StopSignal);
        Reached::stage(self.shared().clone(), Stage::ClosingConnections)
    }

    /// Waits until the drain is done, and returns its outcome. Does not begin it.
    ///
    /// All waiters get the same outcome. Cancel safe: the drain does not depend on its waiters.
    ///
    /// # Inside a request
    ///
    /// A handler must not wait for its own drain. Its request is in flight until it has answered,
    /// so it would wait for itself until the deadline, and its client would get no answer. To
    /// [exempt](crate::GracefulLayer::exempt) the request from the layer does not help where
    /// connections are counted, too. Begin the drain and answer, and wait outside of the request:
    ///
    /// ```
    /// use axum::{Router, http::StatusCode, routing::post};
    /// use tower_graceful::Drain;
    /// # use axum::body::Body;
    /// # use http::Request;
    /// # use tower::ServiceExt;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let drain = Drain::new();
    /// let begins = drain.clone();
    /// let app = Router::new()
    ///     .route(
    ///         "/drain",
    ///         post(async move || {
    ///             begins.begin();
    ///             // To do something with the outcome, wait for it in a task.
    ///             tokio::spawn(async move { println!("{:?}", begins.wait().await) });
    ///             StatusCode::ACCEPTED
    ///         }),
    ///     )
    ///     .layer(drain.layer());
    /// # let response = app.oneshot(Request::post("/drain").body(Body::empty())?).await?;
    /// # assert_eq!(response.status(), 202);
    /// # drop(response);
    /// # assert_eq!(drain.wait().await?.completed, 1);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A [report](Self::report) says so when only such requests are left.
    ///
    /// # Errors
    ///
    /// [`DrainTimeout`] if work was left at the deadline.
    ///
    /// # Panics
    ///
    /// When polled outside of a tokio runtime with its time driver, once the drain has begun.
    pub fn wait(
        &self,
    ) -> impl Future<Output = Result<Drained, DrainTimeout>> + Send + Sync + use<> {
        let shared = self.shared().clone();
        async move {
            let outcome = {
                let mut over = pin!(shared.clone().until(|schedule| schedule.outcome().cloned()));
                let mut self_waiting = None;
                poll_fn(|cx| {
                    SelfWaiting::see(&mut self_waiting, &shared);
                    over.as_mut().poll(cx)
                })
                .await
            };
            shared.until_reported().await;
            outcome
        }
    }

    /// Begins the drain and waits for at most `timeout` and 1 s: Go's `http.Server.Shutdown`.
    ///
    /// What is left at the deadline is aborted in that second. The builder's lame duck is kept, and
    /// is a part of the timeout. If the drain has begun before, this can make its deadline earlier,
    /// but never later: for that there is [`set_deadline`](Self::set_deadline).
    ///
    /// The drain begins with the first poll. Cancel safe: a drain that has begun goes on without a
    /// waiter.
    ///
    /// Not for the handler of a request that this drain counts: it would wait for itself until the
    /// deadline. [`wait`](Self::wait) shows the right endpoint.
    ///
    /// # Errors
    ///
    /// [`DrainTimeout`] if work was left at the deadline.
    ///
    /// # Panics
    ///
    /// When polled outside of a tokio runtime with its time driver.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_graceful::Drain;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// # let drain = Drain::new();
    /// match drain.shutdown(Duration::from_secs(10)).await {
    ///     Ok(drained) => println!("nothing lost in {:?}", drained.elapsed),
    ///     Err(timeout) => eprintln!("gave up with {} left", timeout.report().left),
    /// }
    /// # }
    /// ```
    pub fn shutdown(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<Drained, DrainTimeout>> + Send + Sync + use<> {
        let drain = self.clone();
        async move {
            drain.update(|schedule, now| schedule.shut_down(now, timeout));
            drain.wait().await
        }
    }
}

/// Completes when a drain has reached a phase; from [`Drain::reached`] and
/// [`Drain::shutdown_signal`].
#[must_use = "futures do nothing unless polled"]
pub struct Reached {
    future: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Reached {
    pub(crate) fn stage(shared: Arc<Shared>, stage: Stage) -> Self {
        let reached = move |schedule: &Schedule| (schedule.stage() >= stage).then_some(());
        Self {
            future: Box::pin(shared.until(reached)),
        }
    }
}

impl Future for Reached {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.future.as_mut().poll(cx)
    }
}

impl fmt::Debug for Reached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reached").finish_non_exhaustive()
    }
}

impl Shared {
    /// Waits until `look` returns a value, and advances the schedule meanwhile.
    pub(super) async fn until<T>(self: Arc<Self>, look: impl Fn(&Schedule) -> Option<T>) -> T {
        let mut changes = self.changes();
        loop {
            // Mark first, then look: every later change wakes this task. In the other order, a
            // request that ends the lame duck in between goes unnoticed, and nothing closes the
            // counter.
            changes.mark_unchanged();
            self.advance();
            self.observe_progress(Instant::now());
            let next = {
                let schedule = changes.borrow();
                if let Some(found) = look(&schedule) {
                    return found;
                }
                schedule.next_look()
            };
            // It errs only without a sender, and `self` has one.
            let changed = changes.changed();
            match next {
                Some(at) => drop(timeout_at(at, changed).await),
                None => drop(changed.await),
            }
        }
    }

    /// Waits, once the drain is over, until that has been reported, or until [`PATIENCE`] is over.
    ///
    /// The process may exit as soon as the wait returns, and the report would be lost.
    async fn until_reported(self: Arc<Self>) {
        self.observe();
        let is_reported = |_: &Schedule| self.has_reported(Phase::Done).then_some(());
        if !self.has_reported(Phase::Done) {
            let _ = timeout(PATIENCE, self.clone().until(is_reported)).await;
        }
    }
}

/// Counts a handler that waits for the drain of its own request, until this is dropped.
struct SelfWaiting(Arc<Shared>);

impl SelfWaiting {
    /// Counts the polled task once, if it handles a request of the drain.
    fn see(seen: &mut Option<Self>, shared: &Arc<Shared>) {
        if seen.is_none() && is_inside(&shared.counter_handle()) {
            shared.self_waiting.fetch_add(1, Ordering::Relaxed);
            *seen = Some(Self(shared.clone()));
        }
    }
}

impl Drop for SelfWaiting {
    fn drop(&mut self) {
        self.0.self_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
