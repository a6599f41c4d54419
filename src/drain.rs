//! The handle that everything else stands on.
//!
//! Arrows point down: [`run`] and [`guard`] stand on [`shared`], that on [`schedule`] (what happens when),
//! on [`counter`] (the requests), on [`registry`] (guards, tasks and servers) and on [`connections`].

#[cfg_attr(not(feature = "net"), path = "drain/no_connection.rs")]
mod connection;
mod counter;
#[cfg(test)]
mod counter_tests;
mod current;
mod guard;
mod name;
mod outcome;
mod phase;
mod registry;
mod report;
mod run;
mod schedule;
mod shared;
mod sync;
mod table;
mod telemetry;

#[cfg(feature = "net")]
pub(crate) use self::connection::ConnectionGuard;
#[cfg(feature = "server")]
pub(crate) use self::connection::{CallCounts, Connection};
#[cfg(feature = "server")]
pub(crate) use self::current::{Identity, is_current};
#[cfg(all(feature = "net", feature = "tracing"))]
pub(crate) use self::telemetry::contained;
pub(crate) use self::{
    counter::Entry, guard::InFlight, name::Label, phase::Stage, schedule::Schedule, shared::Shared,
};
pub use self::{
    guard::{DrainGuard, Tracked},
    name::RequestName,
    outcome::{DrainTimeout, Drained, Refused, RunError},
    phase::Phase,
    report::{Blocker, BlockerKind, ConnectionState, Counts, ForcedBy, Report},
    run::{SecondSignal, ServerOutput},
};
pub(crate) type CounterHandle = counter::CounterHandle<Shared>;
#[cfg(feature = "server")]
pub(crate) type Token = counter::Token<Shared>;

use self::{guard::ListedGuard, schedule::Settings, shared::SelfWaiting};
use crate::{
    layer::{Calls, GracefulLayer},
    probe::{Liveness, Readiness, Status},
};
use std::{
    borrow::Cow,
    fmt,
    future::{Future, poll_fn},
    panic::Location,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    thread,
    time::Duration,
};
use tokio::time::Instant;

/// One shutdown, held together: its phase, its deadline, who is in flight, and how it ended.
///
/// Cheap to clone; all clones are the same drain. It counts what [layers](Self::layer), listeners
/// (feature `net`), [guards](Self::guard) and [servers](Self::run) hand to it. That a layer, a
/// service or a `Drain` merely exists holds nothing up. Keep one as long as its services run: when
/// the last one is gone, nobody can begin the drain any more, and its services serve on.
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
/// # Nobody has to drive it
///
/// Nothing is spawned. Time moves the phases when somebody looks: a waiter
/// ([`wait`](Self::wait), [`shutdown`](Self::shutdown), [`run`](Self::run),
/// [`reached`](Self::reached)) wakes up at the hour, a request and a call to
/// [`phase`](Self::phase) check the clock once the drain has begun. Only who waits, be it for the
/// capacity of an inner service, needs a tokio runtime with its time driver; clocks are tokio's, so
/// that tests can pause them.
#[derive(Clone)]
pub struct Drain {
    handles: Arc<Handles>,
}

/// All clones of a drain. With the last one, nobody can begin it any more.
struct Handles {
    shared: Arc<Shared>,
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

/// Settings for a [`Drain`]; from [`Drain::builder`].
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
    settings: Settings,
}

impl DrainBuilder {
    /// What it is called in [reports](Drain::report), and in events and metrics (features `tracing`,
    /// `metrics`): for a process that has several. Default: nothing.
    pub fn name(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// For how long everything is still served after the beginning, while readiness says no and
    /// HTTP/1 responses carry `Connection: close`. Default: zero.
    ///
    /// Give it as long as your balancer takes to send its requests elsewhere: in Kubernetes a pod
    /// still gets new connections for some seconds after its SIGTERM.
    ///
    /// Skipped by a signal that [says so](crate::signal::SecondSignal::skip_lame_duck), such as Ctrl-C at a terminal, and
    /// when the [server](Drain::run) ends by itself.
    pub fn lame_duck(mut self, lame_duck: Duration) -> Self {
        self.settings.lame_duck = lame_duck;
        self
    }

    /// How long the whole drain may take, [`lame_duck`](Self::lame_duck) included. Default: 25 s.
    ///
    /// [`Duration::MAX`] is for ever; zero aborts at once, and a drain with nothing in flight still
    /// ends well. A [server](Drain::run) that has no work left at the deadline, and has not noticed
    /// yet, gets half a second more to end by itself.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Sets how long, at the end of the lame duck, open connections may take to deliver a request that
    /// is on its way. Idle connections are closed after that. Default: 100 ms.
    ///
    /// It is also the time that half-done TCP handshakes of an exclusive listener, and handshakes
    /// inside of a listener of one's own, have to end. It is over at once where no connection is
    /// open and no listener has a handshake to wait for. The drain cannot see what goes on inside
    /// of a listener of one's own, or of a stream: with one, the settling takes its full time.
    ///
    /// It applies to connections that a listener of the drain, or `serve`, has accepted. A request that
    /// arrives within this time is served, however long its connection has been idle. `serve` also gives
    /// it to each connection after its last response: a connection that becomes idle later in the drain
    /// closes this long after its response.
    pub fn settle(mut self, settle: Duration) -> Self {
        self.settings.settle = settle;
        self
    }

    /// How long a connection may stay silent after its accept before a drain closes it: the first
    /// request of a client that has just connected may be on its way. Default: 1 s.
    ///
    /// Only for connections that a listener of the drain has accepted. (Go waits for 5 to 7 s.)
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Sets the lame duck and the timeout for a pod of Kubernetes.
    ///
    /// The timeout is the pod's `terminationGracePeriodSeconds`, less what its preStop hook takes, less 2 s to
    /// abort what is left and to exit. The lame duck is 5 s, and at most half of the timeout.
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
    /// # Why a lame duck
    ///
    /// The kubelet runs the preStop hook and sends SIGTERM. Proxies, ingresses and balancers hear of the
    /// deletion from the control plane, and nothing waits for them: the last one may take the address out
    /// seconds after the signal. Until then it sends requests there, and a closed port turns them into
    /// 502s. If that takes longer than 5 s, call [`lame_duck`](Self::lame_duck) after this method. A preStop
    /// hook that sleeps does the same, but tells no client to close its connection; with a hook, a lame duck
    /// of zero is enough.
    ///
    /// # Short grace periods
    ///
    /// If the hook and the reserve use up the grace period, timeout and lame duck are zero, and the signal
    /// aborts what is in flight. No more can be done: to a pod whose hook has overrun, Kubernetes grants
    /// 2 s, once, between SIGTERM and SIGKILL. For `pre_stop`, give the longest time that the hook may
    /// take. What it does not take stays unused.
    pub fn kubernetes(self, grace_period: Duration, pre_stop: Duration) -> Self {
        const LAME_DUCK: Duration = Duration::from_secs(5);
        /// Aborting takes up to a second. The rest is for what comes after the drain.
        const RESERVE: Duration = Duration::from_secs(2);

        let timeout = grace_period
            .saturating_sub(pre_stop)
            .saturating_sub(RESERVE);
        self.lame_duck(LAME_DUCK.min(timeout / 2)).timeout(timeout)
    }

    /// The drain, in [`Phase::Serving`].
    pub fn build(self) -> Drain {
        // More shards than threads that can run at once, so that two seldom share one.
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
            settings: Settings {
                name: None,
                lame_duck: Duration::ZERO,
                // Kubernetes kills after 30 s unless told otherwise; leave it some.
                timeout: Duration::from_secs(25),
                settle: Duration::from_millis(100),
                grace: Duration::from_secs(1),
            },
        }
    }
}

impl Drain {
    /// A drain without a lame duck and with a timeout of 25 s.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// Settings first.
    pub fn builder() -> DrainBuilder {
        DrainBuilder::default()
    }

    /// A layer for HTTP services: counts each request to the end of its response body, and
    /// answers new ones with a refusal once draining. See [`GracefulLayer`].
    ///
    /// ```
    /// use tower::ServiceBuilder;
    /// use tower_graceful::Drain;
    ///
    /// let drain = Drain::new();
    /// let builder = ServiceBuilder::new().layer(drain.layer());
    /// ```
    pub fn layer(&self) -> GracefulLayer {
        GracefulLayer::new(self)
    }

    /// A layer for any other tower service: counts each call to the end of its future, and
    /// refuses new ones with [`Refused`] as error. See [`GracefulLayer`].
    ///
    /// ```
    /// use tower::{ServiceBuilder, ServiceExt, service_fn};
    /// use tower_graceful::{Drain, Refused};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let drain = Drain::new();
    /// let double = ServiceBuilder::new()
    ///     .layer(drain.call_layer())
    ///     .service(service_fn(async |n: u32| Ok::<_, std::io::Error>(2 * n)));
    ///
    /// assert_eq!(double.clone().oneshot(21).await.unwrap(), 42);
    /// drain.begin();
    /// assert!(double.oneshot(21).await.unwrap_err().is::<Refused>());
    /// # }
    /// ```
    pub fn call_layer(&self) -> GracefulLayer<Calls> {
        GracefulLayer::for_calls(self)
    }

    /// A service for `/readyz`: 200 while [`Phase::Serving`], 503 ever after. See [`Readiness`].
    pub fn readiness(&self) -> Readiness {
        Readiness::new(self.clone())
    }

    /// A service for `/livez`: 200, whatever the drain does. See [`Liveness`].
    pub fn liveness(&self) -> Liveness {
        Liveness::default()
    }

    /// A service that answers with the [report](Self::report), as text or JSON. See [`Status`].
    pub fn status(&self) -> Status {
        Status::new(self.clone())
    }

    /// Begins: [`Phase::LameDuck`] if the builder gave it a duration or there is a listener, which
    /// then closes; else [`Phase::Draining`] at once, and when this returns, no service refuses one
    /// request and admits a later one.
    ///
    /// Any thread may call it, also outside of a runtime, and again: only the first call counts.
    pub fn begin(&self) {
        self.update(|schedule, now| schedule.begin(now));
    }

    /// Ends it now, begun or not: as if the deadline had been reached. With nothing in flight it
    /// still ends as [`Drained`]. Handlers that listen for the drain may not get their farewell out.
    pub fn force(&self) {
        self.update(|schedule, now| schedule.force(now, ForcedBy::Call));
    }

    /// Moves the deadline, to earlier or later; whoever waits sees it at once. An instant in the
    /// past is now. Before the beginning, it stands in for the builder's timeout; once the old
    /// deadline has passed it does nothing.
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

    /// How far it has come.
    pub fn phase(&self) -> Phase {
        self.shared().advance();
        self.shared().phase()
    }

    /// Completes when that phase, or a later one, is reached; at once if it was before.
    ///
    /// The future is `'static`: for a server's graceful shutdown, for the end of an event stream,
    /// for a task that has to finish something. Cancel safe: dropping it changes nothing.
    ///
    /// A drain that nobody begins keeps it pending for ever. It costs one allocation.
    ///
    /// ```
    /// use futures_util::StreamExt;
    /// use tower_graceful::{Drain, Phase};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let drain = Drain::new();
    /// let events = futures_util::stream::repeat("tick").take_until(drain.reached(Phase::Draining));
    /// drain.begin();
    /// assert_eq!(events.count().await, 0);
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When polled outside of a tokio runtime with its time driver, once the drain has begun.
    pub fn reached(&self, phase: Phase) -> Reached {
        Reached::phase(self.shared().clone(), phase)
    }

    /// When a server is to be told: give this to its graceful shutdown.
    ///
    /// Completes at [`Phase::Draining`], or, where a listener of this drain has accepted
    /// connections, when none of them may still bring a request that arrived in time: a server
    /// that is told closes what it takes for idle, without a look at what is in the pipe. So it
    /// waits, each for its own limit, for silent connections that are younger than the
    /// [grace](DrainBuilder::grace), and for those that have sent a part of a head.
    ///
    /// A `'static` future, cancel safe, with the costs and panics of [`reached`](Self::reached).
    ///
    /// ```no_run
    /// # use axum::Router;
    /// # use tower_graceful::Drain;
    /// # async fn f(tcp: tokio::net::TcpListener, app: Router, drain: Drain) {
    /// let server = axum::serve(tcp, app).with_graceful_shutdown(drain.shutdown_signal());
    /// # }
    /// ```
    pub fn shutdown_signal(&self) -> Reached {
        Reached::stage(self.shared().clone(), Stage::ClosingConnections)
    }

    /// When it is over, whatever is left: the [`timeout`](DrainBuilder::timeout) or
    /// [`set_deadline`](Self::set_deadline) has said so. `None` before it has begun, unless it was
    /// set, and where it is never.
    pub fn deadline(&self) -> Option<Instant> {
        self.shared().look(Schedule::deadline)
    }

    /// Has something done when the drain comes, and waits for it until the deadline: Go's
    /// `RegisterOnShutdown`.
    ///
    /// The hook is run once, in a task of its own, when [`Phase::Draining`] is reached, and is given the
    /// [deadline](Self::deadline). One that comes later is run at once; it is waited for, too, as
    /// long as requests are admitted still.
    ///
    /// If the last clone of a drain is dropped before the drain has begun, its hooks are dropped
    /// without being run. A hook that owns a clone itself prevents that: it, and its task, stay until the
    /// runtime ends.
    ///
    /// Until then it shows as a task in what is [left](Self::left).
    ///
    /// ```
    /// use tower_graceful::Drain;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let drain = Drain::new();
    /// drain.on_shutdown(async |_deadline| { /* take the node out of the ring */ });
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When called outside of a tokio runtime.
    #[cfg(feature = "net")]
    #[track_caller]
    pub fn on_shutdown<H, F>(&self, hook: H)
    where
        H: FnOnce(Option<Instant>) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let listed = ListedGuard::enter(self.shared(), BlockerKind::Hook, Location::caller());
        let shared = self.shared().clone();
        tokio::spawn(async move {
            let comes = shared.until(|schedule| match schedule.phase() >= Phase::Draining {
                true => Some(Some(schedule.deadline())),
                false => schedule.is_abandoned().then_some(None),
            });
            if let Some(deadline) = comes.await {
                hook(deadline).await;
            }
            drop(listed);
        });
    }

    /// How many requests are in flight: called, and their response bodies not ended.
    ///
    /// A sum over threads that come and go meanwhile. From [`Phase::Draining`] on it only falls,
    /// but for calls that had begun before, and for what [arrived in time](Self::shutdown_signal).
    pub fn in_flight(&self) -> usize {
        self.left().requests
    }

    /// What a drain waits for, or would wait for, by kind.
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

    /// How it stands, and what is there, one by one: for the person who is paged.
    ///
    /// At any time, also before the drain. Guards and tasks are in it with the place where they were
    /// taken, connections with what they are doing; requests, if a layer [names
    /// them](GracefulLayer::name_requests). It visits all of them, and is for people, not for each request.
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

    /// Records how it stands by the [`metrics`] facade: to be called before each scrape.
    ///
    /// By itself it is recorded at each phase and every five seconds while somebody waits for the drain.
    /// Requests are counted without that: nothing is recorded for each of them.
    ///
    /// The facade is `metrics` 0.24. A recorder that is installed through another version of it gets nothing.
    ///
    /// | metric | | |
    /// |---|---|---|
    /// | `graceful_drain_phase` | gauge | 0 serving, 1 lame duck, 2 draining, 3 forced, 4 done |
    /// | `graceful_drain_elapsed_seconds` | gauge | since the beginning of the drain, at last its duration |
    /// | `graceful_drain_remaining_seconds` | gauge | until the deadline |
    /// | `graceful_in_flight` | gauge, `kind` = `request`, `guard`, `task`, `server`, `connection` | what a drain waits for, or would |
    /// | `graceful_connections` | gauge, `state` = `silent`, `reading`, `handling`, `streaming`, `stalled`, `upgraded`, `idle`, `opaque` | see [`ConnectionState`] |
    /// | `graceful_refused_total` | counter | requests that were refused |
    /// | `graceful_completed_total` | counter | requests that ended during the drain |
    /// | `graceful_cut_total` | counter, `kind` | what was left when the drain was given up |
    ///
    /// Each carries the label `drain`, if the drain has a [name](DrainBuilder::name): of several in a
    /// process, each needs one.
    ///
    /// The process ends with its drain, mostly before it is scraped again: what was refused and cut is in
    /// the outcome, too, for the log.
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
        let shared = self.shared();
        shared.record(&shared.brief(self.left()));
    }

    /// Work that is no request and that the drain is to wait for: until the guard is dropped.
    ///
    /// # Errors
    ///
    /// [`Refused`] from [`Phase::Draining`] on. A guard that one already has can still be cloned.
    ///
    /// ```
    /// use tower_graceful::Drain;
    ///
    /// # async fn send_the_mail() {}
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_graceful::Refused> {
    /// # let drain = Drain::new();
    /// let guard = drain.guard()?;
    /// tokio::spawn(async move {
    ///     send_the_mail().await;
    ///     drop(guard);
    /// });
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn guard(&self) -> Result<DrainGuard, Refused> {
        self.guard_of(BlockerKind::Guard, Location::caller())
    }

    fn guard_of(
        &self,
        kind: BlockerKind,
        taken_at: &'static Location<'static>,
    ) -> Result<DrainGuard, Refused> {
        // Requests may be admitted for a while longer, where connections are known.
        if self.phase() >= Phase::Draining {
            return Err(Refused);
        }
        let listed = ListedGuard::enter(self.shared(), kind, taken_at).ok_or(Refused)?;
        Ok(DrainGuard::new(listed))
    }

    /// A future that the drain waits for, until it has ended or is dropped. It is counted from
    /// now, spawned or not; a task that shall end with the drain asks
    /// [`reached`](Self::reached).
    ///
    /// # Errors
    ///
    /// [`Refused`] from [`Phase::Draining`] on; the future is dropped.
    ///
    /// ```
    /// use tokio::time::{Duration, interval};
    /// use tower_graceful::{Drain, Phase};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_graceful::Refused> {
    /// # let drain = Drain::new();
    /// let (stop, mut tick) = (drain.reached(Phase::Draining), interval(Duration::from_secs(60)));
    /// tokio::spawn(drain.track(async move {
    ///     tokio::pin!(stop);
    ///     loop {
    ///         tokio::select! {
    ///             _ = &mut stop => break,
    ///             _ = tick.tick() => { /* roll the log */ }
    ///         }
    ///     }
    ///     // Write what is left. The drain waits for it.
    /// })?);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn track<F: IntoFuture>(&self, future: F) -> Result<Tracked<F::IntoFuture>, Refused> {
        let guard = self.guard_of(BlockerKind::Task, Location::caller())?;
        Ok(Tracked::new(future.into_future(), guard))
    }

    /// Waits until the drain is over, whoever begins it. All who wait get the same outcome.
    ///
    /// Cancel safe: the drain does not depend on who waits for it.
    ///
    /// # Inside a request
    ///
    /// A handler must not wait for its own drain. Its request is in flight until it has answered, so it
    /// would wait for itself, until the deadline, and its client would get no answer. (To
    /// [exempt](GracefulLayer::exempt) the request from the layer does not help where connections are
    /// counted, too.) Begin the drain and answer, and wait outside of the request:
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
    /// [`DrainTimeout`], if something was still in flight when the time was over.
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
            shared.until_told().await;
            outcome
        }
    }

    /// Begins and waits, for at most `timeout`: Go's `http.Server.Shutdown`. The builder's lame
    /// duck is kept, and counts in.
    ///
    /// If the drain has begun before, its deadline is at most shortened; to extend it there is
    /// [`set_deadline`](Self::set_deadline). It begins with the first poll. Cancel safe: what was begun
    /// goes on, also without a waiter.
    ///
    /// Not for a handler of a request that this drain counts: it would wait for itself until the
    /// deadline. [`wait`](Self::wait) shows the right endpoint.
    ///
    /// # Errors
    ///
    /// [`DrainTimeout`], if something was still in flight when the time was over.
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

    fn update(&self, change: impl FnOnce(&mut Schedule, Instant)) {
        // What is due comes first: a deadline that has passed is not moved any more.
        self.shared().advance();
        self.shared()
            .update(|schedule| change(schedule, Instant::now()));
        self.shared().advance();
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.handles.shared
    }

    pub(crate) fn counter_handle(&self) -> CounterHandle {
        self.shared().counter_handle()
    }

    /// Has all connections looked at again.
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

/// Completes when a [phase](Phase) is reached; from [`Drain::reached`].
#[must_use = "futures do nothing unless polled"]
pub struct Reached {
    future: Pin<Box<dyn Future<Output = ()> + Send + Sync>>,
}

impl Reached {
    fn phase(shared: Arc<Shared>, phase: Phase) -> Self {
        Self::when(shared, move |schedule| schedule.phase() >= phase)
    }

    pub(crate) fn stage(shared: Arc<Shared>, stage: Stage) -> Self {
        Self::when(shared, move |schedule| schedule.stage() >= stage)
    }

    fn when(
        shared: Arc<Shared>,
        reached: impl Fn(&Schedule) -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            future: Box::pin(shared.until(move |schedule| reached(schedule).then_some(()))),
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
