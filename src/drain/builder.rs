//! Builds a drain.

use super::{Drain, Handles, Shared, schedule::DrainSettings};
use std::{borrow::Cow, sync::Arc, thread, time::Duration};

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
    /// that was: [`Drained::last_connection`](crate::Drained::last_connection) and
    /// [`Drained::last_request`](crate::Drained::last_request).
    ///
    /// [`quiet`](Self::quiet) ends it early, if nothing new comes. After it, what is on its way to
    /// open connections still has the time of [`settle`](Self::settle).
    ///
    /// Under `serve`, connections that were open before have their clients go elsewhere meanwhile,
    /// each at a moment of its own. Otherwise all of them would connect anew at the end, in one
    /// instant. HTTP/2 connections get a GOAWAY in the first 90 % of the time. HTTP/1 connections
    /// that carry no request are closed between 30 % and 90 % of it. As with any close of a kept
    /// connection, a request that its client sends in that instant is lost ([RFC 9112, section
    /// 9.5](https://www.rfc-editor.org/rfc/rfc9112#section-9.5)). If [`quiet`](Self::quiet) ends
    /// the lame duck before, the others close together. Under another server, connections stay open
    /// to the end of the lame duck, as a listener and a layer cannot send a GOAWAY.
    ///
    /// It is skipped by a signal that [says so](crate::signal::SecondSignal::skip_lame_duck), such
    /// as Ctrl-C at a terminal, and when the [server](Drain::run) ends by itself.
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
    /// A [report](Drain::report) and the [outcome](crate::Drained) say when the last ones came.
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.settings.quiet = Some(quiet);
        self
    }

    /// Sets how long the whole drain may take, [`lame_duck`](Self::lame_duck) included. Default: 25
    /// s.
    ///
    /// [`Duration::MAX`] is for ever. Zero aborts at once, and a drain with nothing in flight still
    /// ends as [`Drained`](crate::Drained). A [server](Drain::run) without work that has not ended
    /// by the deadline gets half a second more.
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
    /// It replaces an earlier [`timeout`](Self::timeout), and a later one replaces it. If the
    /// timeout is then longer than the pod has, the log and the report say so.
    ///
    /// # Why a lame duck
    ///
    /// The kubelet runs the preStop hook and sends SIGTERM. Proxies, ingresses and balancers hear
    /// of the deletion from the control plane, and nothing waits for them: the last one may take
    /// the address out seconds after the signal. Until then it sends requests there, and a closed
    /// port turns them into 502s. If that takes longer than 5 s, call
    /// [`lame_duck`](Self::lame_duck) after this method. A preStop hook that sleeps does the same,
    /// but tells no client to close its connection. With a hook, a lame duck of 1 s is enough for
    /// that.
    ///
    /// # Short grace periods
    ///
    /// If the hook and the reserve use up the grace period, timeout and lame duck are zero, and the
    /// signal aborts what is in flight. No more can be done: to a pod whose hook has overrun,
    /// Kubernetes grants 2 s, once, between SIGTERM and SIGKILL. For `pre_stop`, give the longest
    /// time that the hook may take. What it does not take stays unused.
    pub fn kubernetes(self, grace_period: Duration, pre_stop: Duration) -> Self {
        const LAME_DUCK: Duration = Duration::from_secs(5);
        // Aborting takes up to a second. The rest is for what comes after the drain.
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
    /// your own, have the same time to end. The settling ends at once if no connection is open and
    /// no listener waits for a handshake. The drain cannot see what goes on inside of a listener
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
    /// The first request of a client that has just connected may be on its way. (Go waits for 5 to
    /// 7 s.) The grace applies to connections that a listener of the drain, or `serve`, has
    /// accepted.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// Builds the drain, in [`Phase::Serving`](crate::Phase::Serving).
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
