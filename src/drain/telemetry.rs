//! Says how a drain goes on: to `tracing`, to `metrics`, or to nobody.
//!
//! It is asked after each change of the schedule, whoever made it, and says each phase once and in order. It
//! is said under no lock that anybody waits for, and without letting a panic out: what a subscriber does
//! is nobody's business here. Only who waits for the end waits for it to be said, and not for ever: the
//! process may exit as soon as that returns.

use super::{
    phase::Phase,
    report::{Counts, Report},
    schedule::Entered,
    shared::Shared,
};
use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc, Mutex, TryLockError,
        atomic::{AtomicU8, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Whether anybody is told.
pub(super) const ENABLED: bool = cfg!(any(feature = "tracing", feature = "metrics"));

/// How often it is said, while draining, what is left.
pub(super) const PROGRESS: Duration = Duration::from_secs(5);

/// For how long who waits for the end waits for it to be said, too: a log may be stuck.
const PATIENCE: Duration = Duration::from_millis(500);

/// Runs what calls a subscriber or a recorder, and lets no panic out.
pub(crate) fn contained(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        // The panic hook has reported it. Its payload might panic, too, when dropped.
        std::mem::forget(panic);
    }
}

/// What has been said.
#[derive(Default)]
pub(super) struct Reporter {
    /// The last phase.
    told: AtomicU8,
    telling: Mutex<()>,
}

impl Shared {
    /// Says what has come about, if it has not been said.
    pub(super) fn observe(self: &Arc<Self>, left: impl Fn() -> Counts) {
        if !ENABLED {
            return;
        }
        let reporter = self.reporter();
        if reporter.has_told(self.phase()) {
            return;
        }
        // Who finds somebody telling may go: whoever tells looks once more when it is done. (At the schedule
        // itself, under its lock: who has changed it before, is seen.)
        while !reporter.has_told(self.look(|schedule| schedule.phase())) {
            let _telling = match reporter.telling.try_lock() {
                Ok(telling) => telling,
                Err(TryLockError::Poisoned(telling)) => telling.into_inner(),
                Err(TryLockError::WouldBlock) => return,
            };
            let told = reporter.told.load(Ordering::Acquire);
            let news: Vec<_> = self.look(|schedule| {
                let entered = schedule.entered().iter();
                entered
                    .filter(|it| it.phase as u8 > told)
                    .copied()
                    .collect()
            });
            for Entered { phase, elapsed } in news {
                let report = Report {
                    phase,
                    elapsed,
                    ..self.brief(left())
                };
                contained(|| self.say(&report));
                reporter.told.store(phase as u8, Ordering::Release);
                if phase == Phase::Done {
                    self.wake_waiters();
                }
            }
        }
    }

    fn say(&self, report: &Report) {
        #[cfg(feature = "tracing")]
        {
            let (outcome, has_lame_duck) =
                self.look(|schedule| (schedule.outcome().cloned(), schedule.has_lame_duck()));
            to_tracing::entered(report, outcome, has_lame_duck);
        }
        #[cfg(feature = "metrics")]
        self.record(report);
        let _ = report;
    }

    /// Says what is left, if it is time to.
    pub(super) fn observe_progress(self: &Arc<Self>, now: Instant) {
        if !ENABLED || !self.look(|schedule| schedule.progress_is_due(now)) {
            return;
        }
        let mut due = false;
        // Of all who look after the hour, one says it.
        self.update(|schedule| due = schedule.progress(now));
        if due {
            contained(|| {
                #[cfg(feature = "tracing")]
                to_tracing::progress(|| self.report());
                #[cfg(feature = "metrics")]
                self.record(&self.brief(self.left()));
            });
        }
    }

    #[cfg(feature = "metrics")]
    pub(super) fn record(&self, report: &Report) {
        let cut = self.look(|schedule| match schedule.outcome() {
            Some(Err(timeout)) => timeout.report().left.clone(),
            _ => Counts::default(),
        });
        to_metrics::record(report, &cut);
    }
}

impl Reporter {
    fn has_told(&self, phase: Phase) -> bool {
        self.told.load(Ordering::Acquire) >= phase as u8
    }
}

impl Shared {
    /// Waits until the end has been said, if somebody is told: once it has come.
    pub(super) async fn until_told(self: Arc<Self>) {
        if !ENABLED {
            return;
        }
        let mut changes = self.changes();
        let mut patience = pin!(None);
        loop {
            changes.mark_unchanged();
            self.observe(|| self.left());
            if self.reporter().has_told(Phase::Done) {
                return;
            }
            if patience.is_none() {
                patience.set(Some(sleep(PATIENCE)));
            }
            let mut changed = pin!(changes.changed());
            let out_of_patience = poll_fn(|cx| {
                let changed = changed.as_mut().poll(cx).is_ready();
                let patience = patience.as_mut().as_pin_mut();
                let over = patience.is_some_and(|sleep| sleep.poll(cx).is_ready());
                match over || changed {
                    true => Poll::Ready(over),
                    false => Poll::Pending,
                }
            });
            if out_of_patience.await {
                return;
            }
        }
    }
}

#[cfg(feature = "tracing")]
mod to_tracing {
    use super::*;
    use crate::drain::{outcome::Outcome, report::ForcedBy};
    use tracing::{Level, enabled, info, warn};

    /// More are a number.
    const CUT: usize = 20;

    /// All that the crate says is under one target, which users filter by.
    macro_rules! tell {
        ($level:ident, $report:expr, $message:literal $(, $($more:tt)*)?) => {{
            let Report { name, elapsed, completed, refused, left, .. } = $report;
            $level!(
                target: "tower_graceful",
                drain = name.as_deref(),
                elapsed_seconds = rounded(*elapsed, 1000.0),
                requests = left.requests,
                guards = left.guards,
                tasks = left.tasks,
                servers = left.servers,
                connections = left.connections(),
                completed,
                refused,
                $($($more)*,)?
                $message
            )
        }};
    }

    /// Returns a time in seconds, rounded to so many parts of one. What has passed is a measurement, and
    /// most drains are over within milliseconds; what remains is a countdown, for which tenths are enough.
    fn rounded(duration: Duration, parts: f64) -> f64 {
        (duration.as_secs_f64() * parts).round() / parts
    }

    fn remaining(report: &Report) -> Option<f64> {
        report.remaining.map(|remaining| rounded(remaining, 10.0))
    }

    pub(super) fn entered(report: &Report, outcome: Option<Outcome>, has_lame_duck: bool) {
        let (remaining, forced_by) = (remaining(report), report.forced_by.map(ForcedBy::as_label));
        match (report.phase, outcome) {
            (Phase::Done, Some(Err(timeout))) => {
                tell!(
                    warn,
                    timeout.report(),
                    "the drain was given up",
                    phase = "done",
                    forced_by,
                    hint = timeout.report().hint()
                );
                let name = timeout.report().name.as_deref();
                for blocker in timeout.report().blockers.iter().take(CUT) {
                    warn!(target: "tower_graceful", drain = name, %blocker, "cut");
                }
                let more = timeout.report().blockers.len().saturating_sub(CUT);
                if more > 0 {
                    warn!(target: "tower_graceful", drain = name, more, "cut");
                }
            }
            (Phase::Serving, _) => {}
            (Phase::LameDuck, _) => tell!(
                info,
                report,
                "the drain begins",
                // Without one it is not Draining either, until the listeners have closed.
                phase = has_lame_duck.then_some("lame_duck"),
                remaining_seconds = remaining
            ),
            (Phase::Draining, _) => tell!(
                info,
                report,
                "draining",
                phase = "draining",
                remaining_seconds = remaining
            ),
            (Phase::Forced, _) => tell!(
                warn,
                report,
                "what is left is cut",
                phase = "forced",
                forced_by
            ),
            (Phase::Done, _) => tell!(info, report, "drained", phase = "done"),
        }
    }

    pub(super) fn progress(report: impl Fn() -> Report) {
        // It takes a walk through all that there is.
        if !enabled!(target: "tower_graceful", Level::INFO) {
            return;
        }
        let report = report();
        let first = report.blockers.first().map(ToString::to_string);
        let remaining = remaining(&report);
        tell!(
            info,
            &report,
            "still draining",
            phase = report.phase.as_label(),
            remaining_seconds = remaining,
            first,
            hint = report.hint()
        );
    }
}

#[cfg(feature = "metrics")]
mod to_metrics {
    use super::*;
    use crate::drain::report::ConnectionState;
    use metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge};

    pub(super) fn record(report: &Report, cut: &Counts) {
        describe();
        let labels = || -> Vec<Label> {
            let name = report.name.clone();
            name.map(|name| Label::new("drain", name))
                .into_iter()
                .collect()
        };
        let labelled = |key: &'static str, value: &'static str| {
            let mut labels = labels();
            labels.push(Label::new(key, value));
            labels
        };
        gauge!("graceful_drain_phase", labels()).set(report.phase as u8);
        gauge!("graceful_drain_elapsed_seconds", labels()).set(report.elapsed);
        if let Some(remaining) = report.remaining {
            gauge!("graceful_drain_remaining_seconds", labels()).set(remaining);
        }
        for (kind, count) in by_kind(&report.left) {
            gauge!("graceful_in_flight", labelled("kind", kind)).set(count as f64);
        }
        for state in ConnectionState::ALL {
            let count = report.left.connections_in(state);
            gauge!("graceful_connections", labelled("state", state.as_label())).set(count as f64);
        }
        counter!("graceful_refused_total", labels()).absolute(report.refused);
        counter!("graceful_completed_total", labels()).absolute(report.completed);
        for (kind, count) in by_kind(cut) {
            counter!("graceful_cut_total", labelled("kind", kind)).absolute(count as u64);
        }
    }

    fn by_kind(left: &Counts) -> [(&'static str, usize); 5] {
        [
            ("request", left.requests),
            ("guard", left.guards),
            ("task", left.tasks),
            ("server", left.servers),
            ("connection", left.connections()),
        ]
    }

    /// Each time, as a recorder may be installed at any time.
    fn describe() {
        describe_gauge!(
            "graceful_drain_phase",
            "How far the drain is: 0 serving, 1 lame duck, 2 draining, 3 forced, 4 done."
        );
        describe_gauge!(
            "graceful_drain_elapsed_seconds",
            Unit::Seconds,
            "Since when the drain goes on, or how long it took; 0 before it has begun."
        );
        describe_gauge!(
            "graceful_drain_remaining_seconds",
            Unit::Seconds,
            "How long until the drain's deadline."
        );
        describe_gauge!(
            "graceful_in_flight",
            "What a drain waits for, or would, by kind."
        );
        describe_gauge!(
            "graceful_connections",
            "Connections that the drain knows, by what they were last seen doing."
        );
        describe_counter!(
            "graceful_refused_total",
            "Requests that were refused because of the drain."
        );
        describe_counter!(
            "graceful_completed_total",
            "Requests that ended during the drain."
        );
        describe_counter!(
            "graceful_cut_total",
            "What had not ended when the drain was given up, by kind."
        );
    }
}
