//! A drain: the handle of one graceful shutdown, and its settings.
//!
//! Imports point down. At the bottom is what a drain knows: [`counter`], [`registry`], [`report`].
//! Then come the phases ([`schedule`]) and the state that all clones share ([`shared`]). This file
//! has the handle, which [`wait`], [`guard`] and [`run`] use. `.ci/arrows` has the whole order.

mod arrival;
mod block;
mod callers;
#[cfg(feature = "net")]
mod connection;
#[cfg_attr(not(feature = "net"), path = "drain/no_connections.rs")]
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
mod waiting;
#[cfg(feature = "net")]
mod wakers;
mod wiring;

#[cfg(feature = "server")]
pub(crate) use self::connection_list::CallCounts;
#[cfg(feature = "server")]
pub(crate) use self::current::{Identity, is_current};
#[cfg(all(feature = "net", feature = "tracing"))]
pub(crate) use self::telemetry::catch_panic;
pub(crate) use self::{
    callers::CallerKey,
    phase::Stage,
    request::InFlight,
    schedule::Schedule,
    shared::{Admission, CounterHandle, Shared},
    waiting::Place,
    wiring::Fact,
};
#[cfg(feature = "net")]
pub(crate) use self::{
    connection::{Connection, ConnectionGuard},
    wakers::RegisteredWaker,
};
pub use self::{
    guard::{DrainGuard, Tracked},
    outcome::{DrainTimeout, Drained, Refused, RunError},
    phase::Phase,
    report::{Blocker, BlockerKind, ConnectionState, Counts, ForcedBy, Report},
    run::{SecondSignal, ServerOutput},
    wait::Reached,
};
#[cfg(feature = "signal")]
pub(crate) use self::{telemetry::shell_is_first, wiring::check_process_one};

use self::schedule::DrainSettings;
use std::{borrow::Cow, fmt, sync::Arc, thread, time::Duration};
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
///   idle connections without work, and connections that are aborted, get another 0.5 s to end.
/// * **All waiters get the same outcome**: [`Drained`], or [`DrainTimeout`] with a
///   [report](DrainTimeout::report).
///
/// A task that blocks its thread cannot be aborted. The report lists it as left, and it ends with
/// the process. The third signal that `signal::terminate()` gets ends the process, whatever its
/// threads do.
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
    doc = "| [`on_shutdown`](Self::on_shutdown) | runs work when the drain begins, and waits for it |"
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
    /// It enters [`Phase::LameDuck`] if the builder gave it a duration or there is a listener,
    /// which then closes. Else it enters [`Phase::Draining`] at once: when this returns, no service
    /// refuses one request and admits a later one.
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
    pub(crate) fn layer_handle(&self, layer: Fact) -> CounterHandle {
        self.shared().record(layer);
        self.shared().counter_handle()
    }

    #[cfg(feature = "server")]
    pub(crate) fn counter_handle(&self) -> CounterHandle {
        self.shared().counter_handle()
    }

    /// Wakes the tasks of all connections, to look at their server's state again.
    #[cfg(feature = "server")]
    pub(crate) fn wake_connections(&self) {
        self.shared().wake_connections();
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

/// Builds a [`Drain`] with other settings than the default; from [`Drain::builder`].
///
/// ```
/// use std::time::Duration;
/// use tower_graceful::Drain;
///
/// // Five seconds for the balancer to notice, twenty-five for everything; Kubernetes kills at 30.
/// let drain = Drain::builder()
///     .lame_duck(Duration::from_secs(5))
///     .timeout(Duration::from_secs(25))
///     .build();
/// ```
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct DrainBuilder {
    settings: DrainSettings,
}

impl DrainBuilder {
    /// Sets the name of the drain in [reports](Drain::report), events and metrics. Default: none.
    ///
    /// For a process that has several drains.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Sets for how long everything is still served after the drain has begun, while readiness says
    /// no and HTTP/1 responses carry `Connection: close`. Default: zero.
    ///
    /// Give it as long as your balancer takes to send its requests elsewhere. In Kubernetes a pod
    /// still gets new connections for some seconds after its SIGTERM. The outcome says how long
    /// that was: [`Drained::last_connection`] and [`Drained::last_request`].
    ///
    /// [`quiet`](Self::quiet) ends it early, if nothing new comes.
    ///
    /// Under `serve`, connections that were open before have their clients go elsewhere meanwhile,
    /// each at a moment of its own. Otherwise all of them would connect anew at the end, in one
    /// instant. HTTP/2 connections get a GOAWAY in the first 90 % of the time. HTTP/1 connections
    /// that carry no request are closed between 30 % and 90 % of it. As with any close of a kept
    /// connection, a request that its client sends in that instant is lost ([RFC 9112, section
    /// 9.5](https://www.rfc-editor.org/rfc/rfc9112#section-9.5)). If [`quiet`](Self::quiet) ends the
    /// lame duck before, the others close together. Under another server, connections stay open to
    /// the end of the lame duck, as a listener and a layer cannot send a GOAWAY.
    ///
    /// It is skipped by a signal that [says so](SecondSignal::skip_lame_duck), such as Ctrl-C at a
    /// terminal, and when the [server](Drain::run) ends by itself.
    pub fn lame_duck(mut self, lame_duck: Duration) -> Self {
        self.settings.lame_duck = lame_duck;
        self
    }

    /// Ends the lame duck early, once nothing new has come for that long. Default: never before its
    /// time.
    ///
    /// The lame duck then takes at least this long, and at most what
    /// [`lame_duck`](Self::lame_duck) says. Each new request and each new connection starts the
    /// time anew. Zero is no lame duck.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_graceful::Drain;
    ///
    /// // Until nothing has come for 5 s: most deploys take as long as that, and the worst 20 s.
    /// let drain = Drain::builder()
    ///     .lame_duck(Duration::from_secs(20))
    ///     .quiet(Duration::from_secs(5))
    ///     .timeout(Duration::from_secs(60))
    ///     .build();
    /// ```
    ///
    /// # What it cannot see
    ///
    /// * **A balancer that has not heard of the stop, and by chance has sent nothing.** So make it
    ///   longer than the period of the balancer's checks, and than the pauses of your traffic.
    /// * **A client with an idle connection**, which may send its next request after the lame duck.
    ///
    /// # What counts as new
    ///
    /// All requests count that the drain counts or refuses. Requests that are
    /// [exempt](crate::GracefulLayer::exempt) do not, such as those of health probes. Every
    /// connection counts that a listener of the drain accepts, also those of probes. So probes
    /// belong on a port of their own: otherwise they keep the lame duck at its full length.
    ///
    /// HTTP/2 clients keep their connection until its GOAWAY. [`lame_duck`](Self::lame_duck) says
    /// when that is sent. If they go on with requests, the lame duck takes its full time.
    ///
    /// A [report](Drain::report) and the [outcome](Drained) say when the last ones came.
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.settings.quiet = Some(quiet);
        self
    }

    /// Sets how long the whole drain may take, [`lame_duck`](Self::lame_duck) included. Default: 25
    /// s.
    ///
    /// [`Duration::MAX`] is for ever. Zero aborts at once, and a drain with nothing in flight still
    /// ends as [`Drained`]. A [server](Drain::run) without work that has not ended by the deadline
    /// gets half a second more.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Sets the lame duck and the timeout for a pod of Kubernetes.
    ///
    /// The timeout is the pod's `terminationGracePeriodSeconds`, less what its preStop hook takes,
    /// less 2 s to abort what is left and to exit. The lame duck is 5 s, and at most half of the
    /// timeout.
    ///
    /// ```no_run
    /// use std::{env, error::Error, time::Duration};
    /// use tower_graceful::Drain;
    ///
    /// # fn main() -> Result<(), Box<dyn Error>> {
    /// let seconds = env::var("TERMINATION_GRACE_PERIOD_SECONDS")?.parse()?;
    /// let pre_stop = Duration::ZERO; // no hook
    /// let drain = Drain::builder()
    ///     .kubernetes(Duration::from_secs(seconds), pre_stop)
    ///     .build();
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// The Downward API does not offer that field, so the manifest states it twice:
    ///
    /// ```yaml
    /// spec:
    ///   terminationGracePeriodSeconds: 60
    ///   containers:
    ///     - name: server
    ///       env:
    ///         - name: TERMINATION_GRACE_PERIOD_SECONDS
    ///           value: "60"
    /// ```
    ///
    /// Without it, Kubernetes takes 30 s, which leave 28 s for the drain.
    ///
    /// Call [`timeout`](Self::timeout) before this method, not after it. If the drain takes longer
    /// than the pod has, the log and the report say so.
    ///
    /// # Why a lame duck
    ///
    /// The kubelet runs the preStop hook and sends SIGTERM. Proxies, ingresses and balancers hear
    /// of the deletion from the control plane, and nothing waits for them: the last one may take
    /// the address out seconds after the signal. Until then it sends requests there, and a closed
    /// port turns them into 502s. If that takes longer than 5 s, call
    /// [`lame_duck`](Self::lame_duck) after this method. A preStop hook that sleeps does the same,
    /// but tells no client to close its connection; with a hook, a lame duck of zero is enough.
    ///
    /// # Short grace periods
    ///
    /// If the hook and the reserve use up the grace period, timeout and lame duck are zero, and the
    /// signal aborts what is in flight. No more can be done: to a pod whose hook has overrun,
    /// Kubernetes grants 2 s, once, between SIGTERM and SIGKILL. For `pre_stop`, give the longest
    /// time that the hook may take. What it does not take stays unused.
    pub fn kubernetes(self, grace_period: Duration, pre_stop: Duration) -> Self {
        const LAME_DUCK: Duration = Duration::from_secs(5);
        /// Aborting takes up to a second. The rest is for what comes after the drain.
        const RESERVE: Duration = Duration::from_secs(2);

        let timeout = grace_period
            .saturating_sub(pre_stop)
            .saturating_sub(RESERVE);
        let mut builder = self.lame_duck(LAME_DUCK.min(timeout / 2)).timeout(timeout);
        builder.settings.pod = Some(grace_period.saturating_sub(pre_stop));
        builder
    }

    /// Sets how long, at the end of the lame duck, open connections may take to deliver a request
    /// that is on its way. Idle connections are closed after that. Default: 100 ms.
    ///
    /// Half-done TCP handshakes of an exclusive listener, and handshakes inside of a listener of
    /// your own, have the same time to end. It is over at once where no connection is open and no
    /// listener has a handshake to wait for. The drain cannot see what goes on inside of a listener
    /// of your own, or of a stream: with one, the settling takes its full time.
    ///
    /// It applies to connections that a listener of the drain, or `serve`, has accepted. A request
    /// that arrives within this time is served, however long its connection has been idle. `serve`
    /// also gives it to each connection after its last response: a connection that becomes idle
    /// later in the drain closes this long after its response.
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settings.settle = settle;
        self
    }

    /// Sets how long a connection may stay silent after its accept before a drain closes it.
    /// Default: 1 s.
    ///
    /// The first request of a client that has just connected may be on its way. Go waits for 5 to 7
    /// s. It applies to connections that a listener of the drain has accepted.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Builds the drain, in [`Phase::Serving`].
    pub fn build(self) -> Drain {
        // More shards than threads that can run at once, so that two threads seldom share one.
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let shards = (threads * 4).clamp(8, 256);
        let shared = Shared::new(self.settings, shards);
        Drain {
            handles: Arc::new(Handles { shared }),
        }
    }
}

impl Default for DrainBuilder {
    fn default() -> Self {
        Self {
            settings: DrainSettings {
                name: None,
                lame_duck: Duration::ZERO,
                quiet: None,
                // Kubernetes kills after 30 s by default.
                timeout: Duration::from_secs(25),
                pod: None,
                settle: Duration::from_millis(100),
                grace: Duration::from_secs(1),
            },
        }
    }
}
