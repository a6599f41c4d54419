//! The schedule of phases: what happens when, as a value. It does not look at the clock and waits for
//! nothing; whoever looks at it says what time it is and what is left, and it says what follows.
//!
//! So nobody has to be there to drive it: the first one who looks after the hour has struck moves
//! it on, be it a waiter whose timer ran out, a request, or a call to [`Drain::phase`].
//!
//! [`Drain::phase`]: crate::Drain::phase

use super::{
    outcome::{DrainTimeout, Drained, Outcome},
    phase::{Phase, Stage},
    report::{Blocker, Counts, ForcedBy, Report},
    telemetry::{ENABLED, PROGRESS},
};
use std::{borrow::Cow, time::Duration};
use tokio::time::Instant;

/// For how long listeners may take connections out of their accept queues at the end of LameDuck.
/// One that is not polled holds the drain up for no longer than that.
const BACKLOG_LIMIT: Duration = Duration::from_millis(100);

/// For how long connections that are not polled may leave the roll call unanswered, after the last
/// one that has answered: a server that is busy answers one after the other.
const LAST_READ_SILENCE: Duration = Duration::from_millis(100);

/// How long the rest of a request's head may take, once draining; a trickle does not extend it.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// When the deadline has passed and no work is left, only a server or an idle connection that has
/// not yet noticed: how long they may take to end by themselves. A server that was idle all along
/// ends within a few turns of the scheduler, and that is no failed drain. It is also how long the
/// connections that are cut may take to be dropped by their server.
const WIND_UP: Duration = Duration::from_millis(500);

/// What a drain is built with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) lame_duck: Duration,
    pub(super) timeout: Duration,
    /// For how long what is in the pipe is waited for before idle connections are closed.
    pub(super) settle: Duration,
    /// For how long, from its accept on, a connection may take to send its first byte.
    pub(super) grace: Duration,
}

#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    settings: Settings,
    stage: Stage,
    /// The last handle was dropped before the drain began: it never will.
    abandoned: bool,
    /// When this stage began.
    since: Option<Instant>,
    /// When the drain began.
    begun: Option<Instant>,
    /// When LameDuck ends; `None` is never.
    draining_at: Option<Instant>,
    /// When it is over; `None` is never. Set while Serving, it stands in for the timeout.
    deadline: Option<Instant>,
    deadline_set: bool,
    last_read_at: Option<Instant>,
    /// How many were awaited when that last changed, and when that was; `None` once those who did
    /// not answer the roll call are not waited for any more.
    last_read: Option<(usize, Instant)>,
    closing_at: Option<Instant>,
    /// What was left when the deadline had passed, if any of it was work.
    aborted: Option<Aborted>,
    outcome: Option<Outcome>,
    /// What has ended the waiting.
    forced_by: Option<ForcedBy>,
    /// The phases that it has come through, for those who are told.
    entered: Vec<Entered>,
    /// When it is to be said again what is left.
    progress_at: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Aborted {
    left: Counts,
    blockers: Vec<Blocker>,
    /// Until then. What ends after it, was left.
    completed: u64,
    self_waiting: usize,
}

/// A phase, and how long after the beginning it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entered {
    pub(super) phase: Phase,
    pub(super) elapsed: Duration,
}

/// What there is of the connection side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Open {
    /// Listeners that have not closed.
    pub(super) listeners: usize,
    /// Of them, those whose accept queue may not be empty.
    pub(super) unemptied: usize,
    /// Until the settling is over.
    pub(super) connections: usize,
    /// Of them, those that may still bring a request that has arrived in time.
    pub(super) unchecked: usize,
    /// Of them, those on which requests may come until they are closed.
    pub(super) multiplexed: usize,
}

/// What happened during the drain, for its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Figures {
    pub(super) completed: u64,
    pub(super) refused: u64,
    /// Requests whose handlers wait for this drain.
    pub(super) self_waiting: usize,
}

impl Schedule {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            stage: Stage::Serving,
            abandoned: false,
            since: None,
            begun: None,
            draining_at: None,
            deadline: None,
            deadline_set: false,
            last_read_at: None,
            last_read: None,
            closing_at: None,
            aborted: None,
            outcome: None,
            forced_by: None,
            entered: Vec::new(),
            progress_at: None,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.stage.phase()
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    pub(super) fn outcome(&self) -> Option<&Outcome> {
        self.outcome.as_ref()
    }

    #[cfg(feature = "net")]
    pub(super) fn is_abandoned(&self) -> bool {
        self.abandoned
    }

    /// Records that no handle is left that could begin the drain. Returns whether that matters.
    pub(super) fn abandon(&mut self) -> bool {
        self.abandoned = self.stage == Stage::Serving;
        self.abandoned
    }

    /// Serving ends. Nothing happens if it has ended before.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.stage > Stage::Serving {
            return;
        }
        self.begun = Some(now);
        // An instant that can not be represented is one that does not come.
        self.draining_at = now.checked_add(self.settings.lame_duck);
        if !self.deadline_set {
            self.deadline = now.checked_add(self.settings.timeout);
        }
        self.enter(Stage::LameDuck, now);
    }

    /// Begins if need be, and does not wait for the end of LameDuck.
    pub(super) fn skip_lame_duck(&mut self, now: Instant) {
        self.begin(now);
        self.draining_at = Some(now);
    }

    /// Moves the deadline to now; what that means, [`settle`](Self::settle) says. The first of
    /// several that force is the one that a report names.
    pub(super) fn force(&mut self, now: Instant, by: ForcedBy) {
        if self.stage < Stage::Forced {
            self.forced_by.get_or_insert(by);
        }
        self.set_deadline(now);
        self.skip_lame_duck(now);
    }

    /// Too late once it has passed: phases do not go back.
    pub(super) fn set_deadline(&mut self, at: Instant) {
        if self.stage >= Stage::Forced {
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
        if self.stage == Stage::Serving {
            self.deadline = at;
            self.deadline_set = true;
            self.begin(now);
        } else {
            self.shorten(at);
        }
    }

    /// What time and connections have come to, up to the closing of the count. Stops at
    /// [`Stage::LastRead`], where somebody has to say first who is [unchecked](Open::unchecked).
    pub(super) fn advance(&mut self, now: Instant, open: Open) {
        // The deadline ends all of these stages.
        let over = due(self.deadline, now);
        let waited = |since: Option<Instant>, limit| due(add(since, limit), now);
        if self.stage == Stage::LameDuck && (over || due(self.draining_at, now)) {
            self.enter(Stage::Backlog, now);
        }
        if self.stage == Stage::Backlog
            && (over || open.unemptied == 0 || waited(self.since, BACKLOG_LIMIT))
        {
            self.enter(Stage::Settling, now);
        }
        if self.stage == Stage::Settling
            && (over
                || open.listeners + open.connections == 0
                || waited(self.since, self.settings.settle))
        {
            self.last_read_at = Some(now);
            self.progress_at = now.checked_add(PROGRESS).filter(|_| ENABLED);
            self.last_read = Some((usize::MAX, now));
            return self.enter(Stage::LastRead, now);
        }
        // Listeners that were emptied and are still open look into their queues once more. They have
        // the time of the roll call for that.
        let looked = open.listeners <= open.unemptied || self.last_read.is_none();
        if self.stage == Stage::LastRead
            && (over || (open.unchecked == 0 && looked) || due(self.last_read_until(), now))
        {
            self.closing_at = Some(now);
            self.enter(Stage::ClosingConnections, now);
        }
        if self.stage == Stage::ClosingConnections && (over || open.multiplexed == 0) {
            self.enter(Stage::Draining, now);
        }
    }

    /// True once: when connections that have not answered are not to be waited for any more.
    pub(super) fn skip_unchecked(&mut self, now: Instant, open: Open) -> bool {
        let Some((unchecked, since)) = self.last_read.filter(|_| self.stage == Stage::LastRead)
        else {
            return false;
        };
        if open.unchecked < unchecked {
            self.last_read = Some((open.unchecked, now));
            return false;
        }
        let ends = due(since.checked_add(LAST_READ_SILENCE), now);
        if ends {
            self.last_read = None;
        }
        ends
    }

    /// Each connection that is awaited has a limit of its own, and keeps it; this one is for those
    /// that nobody polls.
    fn last_read_until(&self) -> Option<Instant> {
        add(
            self.last_read_at,
            self.settings
                .grace
                .max(HEAD_LIMIT)
                .saturating_add(LAST_READ_SILENCE),
        )
    }

    /// The last one has left.
    pub(super) fn vacated(&mut self, now: Instant, figures: Figures) {
        if self.stage < Stage::Draining || self.outcome.is_some() {
            return;
        }
        let outcome = match self.aborted.take() {
            None => Ok(Drained {
                elapsed: self.elapsed(now),
                completed: figures.completed,
                refused: figures.refused,
            }),
            Some(cut) => Err(self.timed_out(now, cut, figures.refused)),
        };
        self.end(outcome, now);
    }

    /// What the deadline means for a drain in which this is left.
    pub(super) fn settle(
        &mut self,
        now: Instant,
        left: Counts,
        blockers: Vec<Blocker>,
        figures: Figures,
    ) {
        if self.stage < Stage::Draining || self.outcome.is_some() || !due(self.deadline, now) {
            return;
        }
        let cut = Aborted {
            left,
            blockers,
            completed: figures.completed,
            self_waiting: figures.self_waiting,
        };
        let is_first = self.stage < Stage::Forced;
        if is_first {
            self.forced_by.get_or_insert(ForcedBy::Deadline);
            self.enter(Stage::Forced, now);
        }
        let has_work = match is_first {
            true => cut.left.has_work(),
            false => self.aborted.is_some(),
        };
        // Connections end by being cut, the others only by themselves.
        let ends = cut.left.connections() > 0 || !has_work;
        if ends && !due(add(self.since, WIND_UP), now) {
            self.aborted = self.aborted.take().or(Some(cut).filter(|_| has_work));
            return;
        }
        let cut = self.aborted.take().unwrap_or(cut);
        let outcome = Err(self.timed_out(now, cut, figures.refused));
        self.end(outcome, now);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// When to look again if nothing happens until then.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let limit = match self.stage {
            Stage::Serving | Stage::Done => return None,
            Stage::Forced => return add(self.since, WIND_UP),
            Stage::LameDuck => self.draining_at,
            Stage::Backlog => add(self.since, BACKLOG_LIMIT),
            Stage::Settling => add(self.since, self.settings.settle),
            Stage::LastRead => match self.last_read {
                Some((_, since)) => since.checked_add(LAST_READ_SILENCE),
                None => self.last_read_until(),
            },
            Stage::ClosingConnections | Stage::Draining => None,
        };
        [limit, self.deadline].into_iter().flatten().min()
    }

    /// Whether the next step is to be made.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        due(self.next_step(), now)
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = Some(now);
        let phase = stage.phase();
        if ENABLED && self.entered.last().is_none_or(|last| last.phase < phase) {
            let elapsed = self.elapsed(now);
            self.entered.push(Entered { phase, elapsed });
        }
    }

    fn end(&mut self, outcome: Outcome, now: Instant) {
        self.outcome = Some(outcome);
        self.enter(Stage::Done, now);
    }

    /// Whether everything is served for a while after the beginning.
    #[cfg(feature = "tracing")]
    pub(super) fn has_lame_duck(&self) -> bool {
        self.draining_at.is_none_or(|at| Some(at) > self.begun)
    }

    pub(super) fn entered(&self) -> &[Entered] {
        &self.entered
    }

    /// When somebody who waits has to look again: for the next step, or to say how it goes on.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let progress = self.progress_at.filter(|_| self.stage < Stage::Done);
        [self.next_step(), progress].into_iter().flatten().min()
    }

    pub(super) fn progress_is_due(&self, now: Instant) -> bool {
        self.stage < Stage::Done && due(self.progress_at, now)
    }

    /// True for the first who asks after the hour.
    pub(super) fn progress(&mut self, now: Instant) -> bool {
        let due = self.progress_is_due(now);
        if due {
            self.progress_at = now.checked_add(PROGRESS);
        }
        due
    }

    fn timed_out(&self, now: Instant, cut: Aborted, refused: u64) -> DrainTimeout {
        let figures = Figures {
            completed: cut.completed,
            refused,
            self_waiting: cut.self_waiting,
        };
        DrainTimeout::new(Report {
            remaining: None,
            ..self.report(now, cut.left, cut.blockers, figures)
        })
    }

    pub(super) fn report(
        &self,
        now: Instant,
        left: Counts,
        blockers: Vec<Blocker>,
        figures: Figures,
    ) -> Report {
        // What ends after the cut was left.
        let (elapsed, completed) = match (&self.outcome, &self.aborted) {
            (Some(Ok(drained)), _) => (drained.elapsed, drained.completed),
            (Some(Err(timeout)), _) => (timeout.report().elapsed, timeout.report().completed),
            (None, Some(cut)) => (self.elapsed(now), cut.completed),
            (None, None) => (self.elapsed(now), figures.completed),
        };
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
            forced_by: self.forced_by,
            // At Draining, all servers have been told.
            server_alone: (Stage::Draining..Stage::Done).contains(&self.stage)
                && left.servers > 0
                && !left.has_work(),
            waits_for_itself: left.requests > 0
                && left.requests <= figures.self_waiting
                && left.guards + left.tasks == 0,
            left,
            blockers,
            more_blockers: 0,
        }
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.begun
            .map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun))
    }
}

/// What connections have to know.
#[cfg(feature = "net")]
impl Schedule {
    /// Whether what is left is cut now. Before that, after the deadline, it is given a moment to
    /// end by itself, if none of it is work.
    pub(crate) fn aborts(&self) -> bool {
        self.stage == Stage::Done || self.aborted.is_some()
    }

    /// How long a connection has to have been idle to be closed.
    #[cfg(feature = "server")]
    pub(crate) fn settle_time(&self) -> Duration {
        self.settings.settle
    }

    /// When the settling ends that goes on, if one does.
    #[cfg(feature = "server")]
    pub(crate) fn settling_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Settling => add(self.since, self.settings.settle),
            _ => None,
        }
    }

    /// When a connection that has not sent a byte, and was accepted then, is closed.
    pub(crate) fn first_byte_until(&self, accepted: Instant) -> Option<Instant> {
        accepted.checked_add(self.settings.grace)
    }

    /// When a connection is closed that has sent a part of a head.
    pub(crate) fn head_until(&self) -> Option<Instant> {
        add(self.last_read_at, HEAD_LIMIT.max(self.settings.grace))
    }

    /// When an HTTP/2 connection is closed that has had no streams since then and has not answered
    /// the PING.
    pub(crate) fn pong_until(&self, since: Option<Instant>) -> Option<Instant> {
        // `None` is less than any instant.
        add(self.closing_at.max(since), HEAD_LIMIT)
    }
}

fn due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

/// An instant that can not be represented is one that does not come.
fn add(at: Option<Instant>, duration: Duration) -> Option<Instant> {
    at?.checked_add(duration)
}
