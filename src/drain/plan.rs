//! The plan of phases: what happens when, as a value. It does not look at the clock and waits for
//! nothing; whoever looks at it says what time it is and what is left, and it says what follows.
//!
//! So nobody has to be there to drive it: the first one who looks after the hour has struck moves
//! it on, be it a waiter whose timer ran out, a request, or a call to [`Drain::phase`].
//!
//! [`Drain::phase`]: crate::Drain::phase

use super::{
    outcome::{DrainTimeout, Drained, Left, Outcome},
    phase::Phase,
};
use std::time::Duration;
use tokio::time::Instant;

/// When the deadline has passed and no work is left, only a server that has not yet noticed: how
/// long it may take to end by itself. A server that was idle all along ends within a few turns of
/// the scheduler, and that is no failed drain.
const WIND_UP: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
pub(super) struct Plan {
    lame_duck: Duration,
    timeout: Duration,
    phase: Phase,
    /// When the drain began.
    begun: Option<Instant>,
    /// When LameDuck ends; `None` is never.
    draining_at: Option<Instant>,
    /// When it is over; `None` is never. Set while Serving, it stands in for `timeout`.
    deadline: Option<Instant>,
    deadline_set: bool,
    forced_at: Option<Instant>,
    outcome: Option<Outcome>,
}

/// What happened during the drain, for its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) completed: u64,
    pub(super) refused: u64,
}

impl Plan {
    pub(super) fn new(lame_duck: Duration, timeout: Duration) -> Self {
        Self {
            lame_duck,
            timeout,
            phase: Phase::Serving,
            begun: None,
            draining_at: None,
            deadline: None,
            deadline_set: false,
            forced_at: None,
            outcome: None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    /// Serving ends. Nothing happens if it has ended before.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.phase > Phase::Serving {
            return;
        }
        self.begun = Some(now);
        // An instant that can not be represented is one that does not come.
        self.draining_at = now.checked_add(self.lame_duck);
        if !self.deadline_set {
            self.deadline = now.checked_add(self.timeout);
        }
        self.phase = Phase::LameDuck;
        self.end_lame_duck(now);
    }

    /// Begins if need be, and does not wait for the end of LameDuck.
    pub(super) fn skip_lame_duck(&mut self, now: Instant) {
        self.begin(now);
        self.draining_at = Some(now);
        self.end_lame_duck(now);
    }

    /// Everything is over now; what that means, [`settle`](Self::settle) says.
    pub(super) fn force(&mut self, now: Instant) {
        self.set_deadline(now);
        self.skip_lame_duck(now);
    }

    /// Too late once it has passed: phases do not go back.
    pub(super) fn set_deadline(&mut self, at: Instant) {
        if self.phase >= Phase::Forced {
            return;
        }
        self.deadline = Some(at);
        self.deadline_set = true;
    }

    /// Like [`set_deadline`](Self::set_deadline), but an earlier deadline stays.
    pub(super) fn shorten(&mut self, at: Option<Instant>) {
        let earlier = match (self.deadline, at) {
            (Some(now), Some(at)) => Some(now.min(at)),
            (now, at) => now.or(at),
        };
        if let Some(at) = earlier {
            self.set_deadline(at);
        }
    }

    /// Sets a deadline for a drain that has not begun; shortens that of one that has.
    pub(super) fn shut_down(&mut self, now: Instant, timeout: Duration) {
        let at = now.checked_add(timeout);
        if self.phase == Phase::Serving {
            self.deadline = at;
            self.deadline_set = true;
            self.begin(now);
        } else {
            self.shorten(at);
        }
    }

    /// LameDuck ends when its time is over; the deadline ends it, too.
    pub(super) fn end_lame_duck(&mut self, now: Instant) {
        if self.phase == Phase::LameDuck && (due(self.draining_at, now) || due(self.deadline, now))
        {
            self.phase = Phase::Draining;
        }
    }

    /// The last one has left.
    pub(super) fn vacated(&mut self, now: Instant, figures: Figures) {
        if self.phase >= Phase::Draining && self.outcome.is_none() {
            self.end(Ok(Drained {
                elapsed: self.elapsed(now),
                completed: figures.completed,
                refused: figures.refused,
            }));
        }
    }

    /// What the deadline means for a drain in which this is left.
    pub(super) fn settle(&mut self, now: Instant, left: Left, figures: Figures) {
        if self.phase < Phase::Draining || self.outcome.is_some() {
            return;
        }
        if left.is_empty() {
            return self.vacated(now, figures);
        }
        if !due(self.deadline, now) {
            return;
        }
        self.phase = Phase::Forced;
        let forced_at = *self.forced_at.get_or_insert(now);
        let only_servers = left.requests == 0 && left.guards == 0;
        if only_servers && now < forced_at + WIND_UP {
            return;
        }
        self.end(Err(DrainTimeout {
            elapsed: self.elapsed(now),
            completed: figures.completed,
            refused: figures.refused,
            left,
        }));
    }

    /// When to look again if nothing happens until then.
    pub(super) fn next_step(&self) -> Option<Instant> {
        match self.phase {
            Phase::Serving | Phase::Done => None,
            Phase::LameDuck => [self.draining_at, self.deadline]
                .into_iter()
                .flatten()
                .min(),
            Phase::Draining => self.deadline,
            Phase::Forced => self.forced_at.map(|at| at + WIND_UP),
        }
    }

    /// Whether the next step is to be made.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        due(self.next_step(), now)
    }

    fn end(&mut self, outcome: Outcome) {
        self.phase = Phase::Done;
        self.outcome = Some(outcome);
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.begun
            .map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun))
    }
}

fn due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}
