//! Says what a drain is at, and when a waiter has to say it again.

use super::{Figures, Schedule, add, due};
use crate::drain::{
    outcome::DrainTimeout,
    phase::{Phase, Stage},
    report::{ConnectionState, Report},
    telemetry::PROGRESS,
    wiring::{Fact, Hint},
};
use std::time::Duration;
use tokio::time::Instant;

impl Schedule {
    /// Returns how long after the beginning of the drain a phase was entered.
    pub(in crate::drain) fn entered(&self, phase: Phase) -> Option<Duration> {
        self.since_begin(self.at(phase.first_stage()))
    }

    /// Returns when a waiter has to wake: for the next step, or to report progress.
    pub(in crate::drain) fn next_look(&self) -> Option<Instant> {
        let progress = self.progress_at.filter(|_| self.stage < Stage::Done);
        [self.next_step(), progress].into_iter().flatten().min()
    }

    pub(in crate::drain) fn progress_is_due(&self, now: Instant) -> bool {
        self.stage < Stage::Done && due(self.progress_at, now)
    }

    /// Returns whether progress is due, and sets its next time. So of several callers one reports.
    pub(in crate::drain) fn progress(&mut self, now: Instant) -> bool {
        let due = self.progress_is_due(now);
        if due {
            self.progress_at = now.checked_add(PROGRESS);
        }
        due
    }

    /// Returns the outcome of a drain that is given up.
    pub(super) fn timed_out(&mut self, now: Instant, figures: Figures) -> DrainTimeout {
        let figures = match self.aborted.take() {
            // Of the moment of the deadline. A request that ended later is among those left.
            Some(aborted) => Figures {
                left: aborted.left,
                blockers: aborted.blockers,
                completed: aborted.completed,
                self_waiting: aborted.self_waiting,
                has_http2: aborted.has_http2,
                ..figures
            },
            None => figures,
        };
        DrainTimeout::new(Report {
            remaining: None,
            ..self.report(now, figures)
        })
    }

    pub(in crate::drain) fn report(&self, now: Instant, figures: Figures) -> Report {
        // A request that ends after the deadline is among those left, and does not count.
        let (elapsed, completed) = match (&self.outcome, &self.aborted) {
            (Some(Ok(drained)), _) => (drained.elapsed, drained.completed),
            (Some(Err(timeout)), _) => (timeout.report().elapsed, timeout.report().completed),
            (None, Some(aborted)) => (self.elapsed(now), aborted.completed),
            (None, None) => (self.elapsed(now), figures.completed),
        };
        let hints = self.hints(now, &figures);
        Report {
            name: self.settings.name.clone(),
            phase: self.phase(),
            elapsed,
            remaining: self
                .deadline
                .filter(|_| self.stage < Stage::Done)
                .map(|at| at.saturating_duration_since(now)),
            completed,
            refused: figures.refused,
            last_request: self.since_begin(figures.last_request),
            last_connection: self.since_begin(figures.last_connection),
            answered_at_deadline: figures.answered,
            forced_by: self.forced_by,
            left: figures.left,
            blockers: figures.blockers,
            more_blockers: 0,
            hints,
        }
    }

    /// Returns what is likely to be wrong.
    fn hints(&self, now: Instant, figures: &Figures) -> Vec<Hint> {
        let Figures { left, facts, .. } = figures;
        let has_begun = self.stage > Stage::Serving;
        let goes_on = has_begun && self.stage < Stage::Done;
        let waits_for_itself = left.requests > 0
            && left.requests <= figures.self_waiting
            && left.guards + left.tasks == 0;
        // From Draining on, every server has got its shutdown signal.
        let server_alone =
            goes_on && self.stage >= Stage::Draining && left.servers > 0 && !left.has_work();
        // Longer than a connection lingers after its last request.
        let are_kept = due(add(figures.requests_ended, Duration::from_secs(6)), now);
        let not_closed = goes_on
            && are_kept
            && facts.has(Fact::HttpLayer)
            && left.connections_in(ConnectionState::Streaming) > 0;
        let cause = if waits_for_itself {
            Some(Hint::WaitsForItself)
        } else if goes_on && facts.has(Fact::AxumAccepts) && !facts.has(Fact::StopSignal) {
            Some(Hint::NotTold)
        } else if not_closed {
            Some(Hint::NotClosed)
        } else if server_alone {
            Some(Hint::ServerAlone)
        } else {
            // A drain that has begun needs no signal.
            (!has_begun && facts.has(Fact::ShellIsFirst)).then_some(Hint::ShellIsFirst)
        };
        let handling = left.connections_in(ConnectionState::Handling);
        let no_layer = match self.stage {
            Stage::Forced => Hint::of_cuts(*facts, handling, figures.has_http2),
            _ => None,
        };
        let no_listener = Hint::of_refusals(*facts, figures.refused);
        // The deadline may have been moved since.
        let timeout = self.since_begin(self.deadline);
        let too_long = has_begun.then(|| Hint::too_long(*facts, timeout, self.settings.pod));
        cause
            .into_iter()
            .chain(no_layer)
            .chain(no_listener)
            .chain(too_long.into_iter().flatten())
            .collect()
    }
}
