//! A drain: the handle of one graceful shutdown, and its settings.
//!
//! Imports point down. At the bottom is what a drain knows: [`counter`], [`registry`], [`report`].
//! Then come the phases ([`schedule`]) and the state that all clones share ([`shared`]). This file
//! has the handle, which [`wait`], [`guard`] and [`run`] use. `.ci/arrows` has the whole order.

mod admission;
mod arrival;
mod block;
mod builder;
mod callers;
#[cfg(feature = "net")]
mod connection;
// Without `net`, the list is there and stays empty.
#[cfg_attr(not(feature = "net"), allow(dead_code))]
mod connection_list;
mod counter;
#[cfg(test)]
mod counter_tests;
mod current;
mod entry;
mod guard;
mod outcome;
mod phase;
mod registry;
mod report;
mod request;
mod run;
mod schedule;
mod shared;
mod sync;
mod table;
mod telemetry;
mod token;
mod wait;
#[cfg_attr(not(feature = "net"), allow(dead_code))]
mod wakers;
mod wiring;

#[cfg(feature = "server")]
pub(crate) use self::connection_list::CallCounts;
#[cfg(feature = "server")]
pub(crate) use self::current::Current;
#[cfg(all(feature = "net", feature = "tracing"))]
pub(crate) use self::telemetry::catch_panic;
pub use self::{
    builder::DrainBuilder,
    guard::{DrainGuard, Tracked},
    outcome::{DrainTimeout, Drained, Refused, RunError},
    phase::Phase,
    report::{Blocker, BlockerKind, ConnectionState, Counts, ForcedBy, Report},
    run::{SecondSignal, ServerOutput},
    wait::Reached,
};
#[cfg(feature = "net")]
pub(crate) use self::{
    connection::{Connection, ConnectionGuard},
    wakers::{RegisteredWaker, Role},
};
pub(crate) use self::{
    counter::CounterHandle,
    current::is_served,
    phase::Stage,
    registry::Key,
    schedule::Schedule,
    shared::{Shared, uncounted},
    token::Token,
    wiring::Fact,
};
#[cfg(feature = "signal")]
pub(crate) use self::{telemetry::shell_is_first, wiring::check_process_one};

use std::{fmt, sync::Arc};
use tokio::time::Instant;

/// Holds one graceful shutdown together: its phase, its deadline, its work in flight, and its
/// outcome.
///
/// A drain is cheap to clone, and all clones are the same drain. It counts what
/// [layers](Self::layer), listeners (feature `net`), [guards](Self::guard) and [servers](Self::run)
/// hand to it. A layer, a service or a `Drain` that merely exists does not hold it. Keep a clone as
/// long as its services run: when the last one is dropped, nothing can begin the drain any more,
/// and its services serve on.
///
/// ```
/// use std::time::Duration;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_graceful::Drain;
/// # use http::{Request, Response};
/// # use http_body_util::Empty;
/// # type Body = Empty<bytes::Bytes>;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let drain = Drain::builder().timeout(Duration::from_secs(10)).build();
/// let service = ServiceBuilder::new()
///     .layer(drain.layer())
///     .service(service_fn(async |_: Request<Body>| {
///         Ok::<_, std::convert::Infallible>(Response::new(Body::new()))
///     }));
///
/// let response = service.clone().oneshot(Request::new(Body::new())).await?;
/// assert_eq!(response.status(), 200);
/// drop(response); // as a server does when it has sent the body
///
/// let drained = drain.shutdown(Duration::from_secs(5)).await?;
/// assert_eq!(drained.refused, 0);
///
/// let response = service.oneshot(Request::new(Body::new())).await?;
/// assert_eq!(response.status(), 503);
/// # Ok(())
/// # }
/// ```
///
/// # What it promises
///
/// * **Done is exact and prompt.** The last request, guard or connection to end wakes the waiters.
///   No timer and no polling is needed for that.
/// * **It ends.** It ends at the [deadline](Self::set_deadline), or at once at
///   [`force`](Self::force) and at the [second signal](crate::signal::SecondSignal). Servers and
///   connections without work (silent ones, and HTTP/2 without streams), and connections that are
///   aborted, get another 0.5 s to end.
/// * **All waiters get the same outcome**: [`Drained`], or [`DrainTimeout`] with a
///   [report](DrainTimeout::report).
///
/// The drain aborts connections, and answers HTTP requests that have no response. It cannot abort
/// guards, tracked futures, hooks, calls of services that are not HTTP, or handlers that block
/// their thread. The report counts them as left, and they run on until the process ends. To stop
/// one before that, await [`reached(Phase::Forced)`](Self::reached) beside it. The third signal
/// that `signal::terminate()` gets ends the process, whatever its threads do.
///
/// # Phases
///
/// | [`Phase`] | from | new requests | readiness |
/// |---|---|---|---|
/// | `Serving` | the start | served | 200 |
/// | `LameDuck` | [`begin`](Self::begin), if there is a [lame duck](DrainBuilder::lame_duck) or a listener | served, HTTP/1 with `Connection: close` | 503 |
/// | `Draining` | the end of the lame duck; the listeners have closed | refused, except those that arrived in time | 503 |
/// | `Forced` | the deadline, [`force`](Self::force), the second signal | refused; requests without a response get a 503, and what is left is aborted | 503 |
/// | `Done` | nothing is left, or the drain was given up | refused | 503 |
///
/// # Which method?
///
/// | | |
/// |---|---|
/// | [`run`](Self::run) | runs a server until a signal, and returns the outcome |
/// | [`layer`](Self::layer), [`call_layer`](Self::call_layer) | count and refuse requests, or calls of a service that is not HTTP |
#[cfg_attr(
    feature = "net",
    doc = "| [`bind`](Self::bind), [`listener`](Self::listener), [`incoming`](Self::incoming) | count and close connections, for `axum::serve`, tonic and loops by hand |"
)]
/// | [`shutdown_signal`](Self::shutdown_signal) | tells a server when to stop |
/// | [`reached`](Self::reached) | tells handlers, streams and tasks when to stop |
/// | [`guard`](Self::guard), [`track`](Self::track) | have the drain wait for work that is no request |
#[cfg_attr(
    feature = "net",
    doc = "| [`on_shutdown`](Self::on_shutdown) | runs work at `Draining`, and waits for it |"
)]
/// | [`end_stream`](Self::end_stream), [`end_response`](Self::end_response) | end streams and bodies with the drain, instead of aborting them |
/// | [`report`](Self::report) | lists what holds the drain, at any time |
/// | [`readiness`](Self::readiness), [`liveness`](Self::liveness), [`status`](Self::status) | answer `/readyz`, `/livez`, and with the report |
///
/// # Without a driver
///
/// A drain spawns nothing. It looks at the clock when it is used: a waiter ([`wait`](Self::wait),
/// [`shutdown`](Self::shutdown), [`run`](Self::run), [`reached`](Self::reached)) wakes when the
/// next phase is due, and requests and calls to [`phase`](Self::phase) look once the drain has
/// begun. Only waiting needs a tokio runtime with its time driver, be it for the drain or for the
/// capacity of an inner service. Clocks are tokio's, so tests can pause them.
#[derive(Clone)]
pub struct Drain {
    handles: Arc<Handles>,
}

/// Abandons the drain when the last clone of it is dropped.
struct Handles {
    shared: Arc<Shared>,
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

impl Drain {
    /// Creates a drain without a lame duck and with a timeout of 25 s.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Returns a builder, for other settings.
    pub fn builder() -> DrainBuilder {
        DrainBuilder::default()
    }

    /// Begins the drain.
    ///
    /// It enters [`Phase::LameDuck`] if the builder gave a lame duck, or if there is a listener.
    /// (The listener closes at the end of that phase.) Otherwise it enters [`Phase::Draining`] at
    /// once: when this returns, no service refuses one request and admits a later one.
    ///
    /// Any thread may call it, also outside of a runtime. Only the first call counts.
    pub fn begin(&self) {
        self.update(|schedule, now| schedule.begin(now));
    }

    /// Ends the drain now, begun or not, as if the deadline had been reached.
    ///
    /// With nothing in flight it still ends as [`Drained`]. Handlers that listen for the drain may
    /// have no time to finish their responses.
    pub fn force(&self) {
        self.update(|schedule, now| schedule.force(now, ForcedBy::Call));
    }

    /// Moves the deadline, to earlier or later. Waiters see it at once.
    ///
    /// An instant in the past is now. Before the beginning, the deadline replaces the builder's
    /// timeout. Once the old deadline has passed, the call does nothing.
    ///
    /// ```
    /// use tokio::time::{Duration, Instant};
    /// use tower_graceful::Drain;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let drain = Drain::new();
    /// drain.begin();
    /// drain.set_deadline(Instant::now() + Duration::from_secs(60)); // a long upload, say
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_deadline(&self, at: Instant) {
        self.update(|schedule, _| schedule.set_deadline(at));
    }

    /// Returns the deadline. `None` before the drain begins, unless
    /// [`set_deadline`](Self::set_deadline) was called, and for an unlimited
    /// [timeout](DrainBuilder::timeout).
    pub fn deadline(&self) -> Option<Instant> {
        self.shared().look(Schedule::deadline)
    }

    /// Returns the phase.
    pub fn phase(&self) -> Phase {
        self.shared().advance();
        self.shared().phase()
    }

    /// Returns how many requests are in flight: called, and their response bodies not dropped.
    ///
    /// The number is a sum over threads, on which requests come and go meanwhile. From
    /// [`Phase::Draining`] on it only falls, but for calls that had begun before, and for requests
    /// that [arrived in time](Self::shutdown_signal).
    pub fn in_flight(&self) -> usize {
        self.left().requests
    }

    /// Counts what the drain waits for, or would wait for, by kind.
    ///
    /// ```
    /// use tower_graceful::Drain;
    ///
    /// # fn main() -> Result<(), tower_graceful::Refused> {
    /// let drain = Drain::new();
    /// let guard = drain.guard()?;
    /// assert_eq!(drain.left().to_string(), "1 guard");
    /// drop(guard);
    /// assert!(drain.left().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    pub fn left(&self) -> Counts {
        self.shared().left()
    }

    /// Returns a report: the phase, the time, and what the drain waits for, one by one.
    ///
    /// At any time, also before the drain begins. It lists guards and tasks with the place where
    /// they were taken, connections with what they are doing, and requests if a layer [lists
    /// them](crate::GracefulLayer::report_requests). It visits all of them, so it is not for each
    /// request.
    ///
    /// ```
    /// use tower_graceful::{Drain, Refused, report::BlockerKind};
    ///
    /// # fn main() -> Result<(), Refused> {
    /// let drain = Drain::new();
    /// let guard = drain.guard()?.named("outbox");
    /// let report = drain.report();
    /// println!("{report}"); // serving: 1 guard; …, and a table
    /// assert_eq!(report.blockers[0].kind, BlockerKind::Guard);
    /// # Ok(())
    /// # }
    /// ```
    pub fn report(&self) -> Report {
        self.shared().report()
    }

    /// Records the state of the drain through the [`metrics`] facade. Call it before each scrape.
    ///
    /// Without a call, the drain records at each phase, and every five seconds while something
    /// waits for it. Nothing is recorded for each request.
    ///
    /// A recorder that is installed through another major version of the facade gets nothing.
    ///
    /// | metric | | |
    /// |---|---|---|
    /// | `graceful_drain_phase` | gauge | 0 serving, 1 lame duck, 2 draining, 3 forced, 4 done |
    /// | `graceful_drain_elapsed_seconds` | gauge | since the beginning of the drain, at last its duration |
    /// | `graceful_drain_remaining_seconds` | gauge | until the deadline |
    /// | `graceful_drain_last_request_seconds` | gauge | from the beginning to the last new request, once one has come |
    /// | `graceful_drain_last_connection_seconds` | gauge | the same for connections |
    /// | `graceful_in_flight` | gauge, `kind` = `request`, `guard`, `task`, `server`, `connection` | what a drain waits for, or would |
    /// | `graceful_connections` | gauge, `state` = `silent`, `reading`, `handling`, `streaming`, `stalled`, `upgraded`, `idle`, `opaque` | see [`ConnectionState`] |
    /// | `graceful_refused_total` | counter | requests that were refused |
    /// | `graceful_completed_total` | counter | requests that ended during the drain |
    /// | `graceful_answered_at_deadline_total` | counter | requests that were answered because the drain was forced |
    /// | `graceful_cut_total` | counter, `kind` | what was left when the drain was given up, answered requests included |
    ///
    /// Each carries the label `drain` if the drain has a [name](DrainBuilder::name). Of several
    /// drains in a process, each needs one.
    ///
    /// A process ends with its drain, mostly before the next scrape. What was refused and aborted
    /// is in the outcome, too, for the log.
    ///
    /// ```no_run
    /// use axum::{Router, routing::get};
    /// use tower_graceful::Drain;
    ///
    /// # trait Render { fn render(&self) -> String; }
    /// # fn f(prometheus: impl Render + Clone + Send + Sync + 'static, drain: Drain) {
    /// // let prometheus = metrics_exporter_prometheus::PrometheusBuilder::new().install_recorder()?;
    /// let admin: Router = Router::new().route(
    ///     "/metrics",
    ///     get(async move || {
    ///         drain.record_metrics();
    ///         prometheus.render()
    ///     }),
    /// );
    /// # }
    /// ```
    #[cfg(feature = "metrics")]
    pub fn record_metrics(&self) {
        self.shared().advance();
        self.shared().record_metrics();
    }

    fn update(&self, change: impl FnOnce(&mut Schedule, Instant)) {
        // What is due comes first: a deadline that has passed does not move any more.
        self.shared().advance();
        self.shared()
            .update(|schedule| change(schedule, Instant::now()));
        self.shared().advance();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handles.shared
    }

    /// Returns what a layer counts by, and records that there is one.
    pub(crate) fn layer_handle(&self, layer: Fact) -> CounterHandle<Shared> {
        self.shared().record(layer);
        self.shared().counter_handle()
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Drain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain")
            .field("phase", &self.shared().phase())
            .field("left", &self.left())
            .finish()
    }
}
