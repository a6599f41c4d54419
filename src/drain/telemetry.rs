//! Reports how a drain goes on, to `tracing` and `metrics`.
//!
//! A subscriber may run any code. So it is called under no lock that another thread waits for, and
//! its panics are caught. A report is often made where a panic does harm: in the drop of the last
//! request's token, which may run while another panic unwinds, and in the future of each waiter.

use super::{outcome::Outcome, phase::Phase, report::Report};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Mutex, MutexGuard, TryLockError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

/// Says whether a feature is enabled that reports.
pub(super) const ENABLED: bool = cfg!(any(feature = "tracing", feature = "metrics"));

/// Sets how often progress is reported while draining.
pub(super) const PROGRESS: Duration = Duration::from_secs(5);

/// Runs a call to a subscriber or a recorder, and catches its panic.
pub(crate) fn catch_panic(call: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        // The panic hook has reported it. The payload is not dropped, as its drop might panic.
        std::mem::forget(panic);
    }
}

/// Records what has been reported.
#[derive(Default)]
pub(super) struct Reporter {
    /// Records the last phase that has been reported.
    reported: AtomicU8,
    /// Locks out other threads while one reports. No thread waits for it.
    reporting: Mutex<()>,
}

impl Reporter {
    pub(super) fn has_reported(&self, phase: Phase) -> bool {
        self.reported.load(Ordering::Acquire) >= phase as u8
    }

    /// Returns `None` while another thread reports. No other one reports while the returned value
    /// is held.
    pub(super) fn lock(&self) -> Option<MutexGuard<'_, ()>> {
        match self.reporting.try_lock() {
            Ok(reporting) => Some(reporting),
            Err(TryLockError::Poisoned(reporting)) => Some(reporting.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Reports that the phase of the report has been entered. Called under the [lock](Self::lock).
    pub(super) fn report(&self, report: &Report, outcome: Option<&Outcome>, has_lame_duck: bool) {
        catch_panic(|| {
            #[cfg(feature = "tracing")]
            to_tracing::entered(report, outcome, has_lame_duck);
            #[cfg(feature = "metrics")]
            to_metrics::record(report, outcome);
        });
        let _ = (outcome, has_lame_duck);
        self.reported.store(report.phase as u8, Ordering::Release);
    }
}

/// Reports progress: to `tracing` a whole report, to `metrics` one without blockers.
pub(super) fn progress(whole: impl Fn() -> Report, brief: impl Fn() -> Report) {
    catch_panic(|| {
        #[cfg(feature = "tracing")]
        to_tracing::progress(&whole);
        #[cfg(feature = "metrics")]
        to_metrics::record(&brief(), None);
    });
    let _ = (whole, brief);
}

/// Reports that process 1 is a shell.
#[cfg(feature = "signal")]
pub(crate) fn shell_is_first() {
    #[cfg(feature = "tracing")]
    catch_panic(|| to_tracing::wiring(None, &super::wiring::Hint::ShellIsFirst));
}

#[cfg(feature = "metrics")]
pub(super) use self::to_metrics::record;

#[cfg(feature = "tracing")]
mod to_tracing {
    use super::*;
    use crate::drain::{report::ForcedBy, wiring::Hint};
    use tracing::{Level, enabled, info, warn};

    /// Limits how many blockers are logged one by one. Of the others, only the number is logged.
    const LISTED: usize = 20;

    /// Emits an event with the figures of a report. All events have one target, for filters.
    macro_rules! emit {
        ($level:ident, $report:expr, $message:literal $(, $($more:tt)*)?) => {{
            let Report { name, elapsed, completed, refused, left, .. } = $report;
            let answered = Some($report.answered_at_deadline).filter(|count| *count > 0);
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
                last_request_seconds = $report.last_request.map(|at| rounded(at, 1000.0)),
                last_connection_seconds = $report.last_connection.map(|at| rounded(at, 1000.0)),
                answered_at_deadline = answered,
                $($($more)*,)?
                $message
            )
        }};
    }

    /// Returns a duration in seconds, rounded to that many parts of a second.
    ///
    /// The elapsed time needs milliseconds, as most drains are over within some. For the remaining
    /// time, tenths are enough.
    fn rounded(duration: Duration, parts: f64) -> f64 {
        (duration.as_secs_f64() * parts).round() / parts
    }

    fn remaining(report: &Report) -> Option<f64> {
        report.remaining.map(|remaining| rounded(remaining, 10.0))
    }

    pub(super) fn entered(report: &Report, outcome: Option<&Outcome>, has_lame_duck: bool) {
        let (remaining, forced_by) = (remaining(report), report.forced_by.map(ForcedBy::as_label));
        match (report.phase, outcome) {
            (Phase::Done, Some(Err(timeout))) => {
                emit!(
                    warn,
                    timeout.report(),
                    "the drain was given up",
                    phase = "done",
                    forced_by,
                    hint = hint(timeout.report())
                );
                let name = timeout.report().name.as_deref();
                for blocker in timeout.report().blockers.iter().take(LISTED) {
                    warn!(target: "tower_graceful", drain = name, %blocker, "cut");
                }
                let more = timeout.report().blockers.len().saturating_sub(LISTED);
                if more > 0 {
                    warn!(target: "tower_graceful", drain = name, more, "cut");
                }
            }
            (Phase::Serving, _) => {}
            (Phase::LameDuck, _) => {
                emit!(
                    info,
                    report,
                    "the drain begins",
                    // Without a lame duck, no phase is named: Draining comes when the listeners are
                    // closed.
                    phase = has_lame_duck.then_some("lame_duck"),
                    remaining_seconds = remaining
                );
                let is_known = |hint: &&Hint| hint.is_known_at_begin();
                for hint in report.hints.iter().filter(is_known) {
                    wiring(report.name.as_deref(), hint);
                }
            }
            (Phase::Draining, _) => emit!(
                info,
                report,
                "draining",
                phase = "draining",
                remaining_seconds = remaining
            ),
            (Phase::Forced, _) => emit!(
                warn,
                report,
                "what is left is cut",
                phase = "forced",
                forced_by
            ),
            (Phase::Done, _) => emit!(info, report, "drained", phase = "done", hint = hint(report)),
        }
    }

    /// Logs a hint that is known when the drain begins, or before.
    pub(super) fn wiring(drain: Option<&str>, hint: &Hint) {
        match hint.is_likely_only() {
            true => info!(target: "tower_graceful", drain, %hint, "check the wiring"),
            false => warn!(target: "tower_graceful", drain, %hint, "check the wiring"),
        }
    }

    /// Returns the hints of a report as a text, without those that were logged at the beginning.
    fn hint(report: &Report) -> Option<String> {
        let hints = report.hints.iter();
        let hints = hints.filter(|hint| !matches!(hint, Hint::TooLong { .. }));
        let hints: Vec<_> = hints.map(ToString::to_string).collect();
        (!hints.is_empty()).then(|| hints.join("; "))
    }

    pub(super) fn progress(report: impl Fn() -> Report) {
        // The report visits every entry, so it is not made for a level that is off.
        if !enabled!(target: "tower_graceful", Level::INFO) {
            return;
        }
        let report = report();
        let first = report.blockers.first().map(ToString::to_string);
        let remaining = remaining(&report);
        emit!(
            info,
            &report,
            "still draining",
            phase = report.phase.as_str(),
            remaining_seconds = remaining,
            first,
            hint = hint(&report)
        );
    }
}

#[cfg(feature = "metrics")]
mod to_metrics {
    use super::*;
    use crate::drain::report::{ConnectionState, Counts};
    use metrics::{Label, Unit, counter, describe_counter, describe_gauge, gauge};

    /// Records a report, and what the outcome says was aborted.
    pub(in crate::drain) fn record(report: &Report, outcome: Option<&Outcome>) {
        let name = report.name.clone();
        let labels: Vec<_> = name
            .map(|name| Label::new("drain", name))
            .into_iter()
            .collect();
        let labelled = |key: &'static str, value: &'static str| {
            let mut labels = labels.clone();
            labels.push(Label::new(key, value));
            labels
        };
        // Each is described at each record, as a recorder may be installed at any time.
        let seconds = |name: &'static str, time: Option<Duration>, what: &'static str| {
            describe_gauge!(name, Unit::Seconds, what);
            if let Some(time) = time {
                gauge!(name, labels.clone()).set(time);
            }
        };
        let total = |name: &'static str, count: u64, what: &'static str| {
            describe_counter!(name, what);
            counter!(name, labels.clone()).absolute(count);
        };
        describe_gauge!(
            "graceful_drain_phase",
            "How far the drain is: 0 serving, 1 lame duck, 2 draining, 3 forced, 4 done."
        );
        gauge!("graceful_drain_phase", labels.clone()).set(report.phase as u8);
        seconds(
            "graceful_drain_elapsed_seconds",
            Some(report.elapsed),
            "Since when the drain goes on, or how long it took; 0 before it has begun.",
        );
        seconds(
            "graceful_drain_remaining_seconds",
            report.remaining,
            "How long until the drain's deadline.",
        );
        seconds(
            "graceful_drain_last_request_seconds",
            report.last_request,
            "How long after the beginning of the drain its last new request came.",
        );
        seconds(
            "graceful_drain_last_connection_seconds",
            report.last_connection,
            "How long after the beginning of the drain its last new connection came.",
        );
        describe_gauge!(
            "graceful_in_flight",
            "What a drain waits for, or would, by kind."
        );
        for (kind, count) in report.left.by_kind() {
            gauge!("graceful_in_flight", labelled("kind", kind)).set(count as f64);
        }
        describe_gauge!(
            "graceful_connections",
            "Connections that the drain knows, by what they were last seen doing."
        );
        for state in ConnectionState::ALL {
            let count = report.left.connections_in(state);
            gauge!("graceful_connections", labelled("state", state.as_label())).set(count as f64);
        }
        total(
            "graceful_refused_total",
            report.refused,
            "Requests that were refused because of the drain.",
        );
        total(
            "graceful_completed_total",
            report.completed,
            "Requests that ended during the drain.",
        );
        total(
            "graceful_answered_at_deadline_total",
            report.answered_at_deadline,
            "Requests that were answered because the drain was forced.",
        );
        describe_counter!(
            "graceful_cut_total",
            "What had not ended when the drain was given up, by kind."
        );
        let nothing = Counts::default();
        let aborted = match outcome {
            Some(Err(timeout)) => &timeout.report().left,
            _ => &nothing,
        };
        for (kind, count) in aborted.by_kind() {
            counter!("graceful_cut_total", labelled("kind", kind)).absolute(count as u64);
        }
    }
}
