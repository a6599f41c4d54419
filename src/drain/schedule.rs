//! Decides when the drain enters each stage: a pure state machine.
//!
//! A [`Schedule`] does not read the clock, and neither waits nor wakes. Its callers pass it the
//! time and the open counts, and act on the stage that follows.
//!
//! So no task has to drive it. The first caller after a step is due takes that step: a waiter whose
//! timer has fired, a request, or a call to [`Drain::phase`].
//!
//! [`Drain::phase`]: crate::Drain::phase

#[cfg(feature = "net")]
mod connection_times;
mod reporting;

use super::{
    outcome::{Drained, Outcome},
    phase::{Phase, Stage},
    report::{Blocker, Counts, ForcedBy},
    telemetry::{ENABLED, PROGRESS},
    wiring::{Facts, Hint},
};
use std::{borrow::Cow, time::Duration};
use tokio::time::Instant;

/// Limits how long listeners may accept from their queues at the end of LameDuck. A listener that
/// is not polled delays the drain by no more than that.
const BACKLOG_LIMIT: Duration = Duration::from_millis(100);

/// Limits how long the last-read check waits for the next connection to be checked. A busy server
/// polls its connections one after the other, so each check starts this time anew.
const LAST_READ_SILENCE: Duration = Duration::from_millis(100);

/// Limits how long the rest of a request's head may take in a drain. Further bytes do not extend
/// it.
const HEAD_LIMIT: Duration = Duration::from_secs(5);

/// Limits how long the drain goes on after its deadline.
///
/// If no work is left, servers and idle connections get this time to end by themselves. An idle
/// server ends as soon as it is polled, and such a drain has not failed. If work is left, servers
/// get this time to drop the connections that are aborted.
const WIND_UP: Duration = Duration::from_millis(500);

/// Limits how long requests may be answered after the deadline, before connections are aborted. The
/// rest of [`WIND_UP`] is for servers to drop them.
const ANSWERING: Duration = Duration::from_millis(400);

/// Limits how long the last answers may take to be written.
const WRITING: Duration = Duration::from_millis(200);

/// Holds what a drain is built with.
#[derive(Clone, Debug)]
pub(super) struct DrainSettings {
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) lame_duck: Duration,
    /// Says how long nothing new may have come for LameDuck to end early, if it may.
    pub(super) quiet: Option<Duration>,
    pub(super) timeout: Duration,
    /// Says after what time Kubernetes kills the process, where the program has said it.
    pub(super) pod: Option<Duration>,
    /// Limits the wait for requests in transit, after which idle connections are closed.
    pub(super) settle: Duration,
    /// Limits the time from the accept of a connection to its first byte.
    pub(super) grace: Duration,
}

/// Holds the stage of a drain and the times of the next ones.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    settings: DrainSettings,
    stage: Stage,
    /// Says whether the last handle was dropped before the drain began. It never begins then.
    abandoned: bool,
    /// Records when each stage was entered, by its number. The drain began with LameDuck.
    entered: [Option<Instant>; Stage::Done as usize + 1],
    /// Says when LameDuck ends; `None` for never.
    draining_at: Option<Instant>,
    /// Says when LameDuck ends if nothing new comes. An arrival does not move it: the next look at
    /// the clock does.
    quiet_at: Option<Instant>,
    /// Says when Forced begins; `None` for never. If set while Serving, it replaces the timeout.
    deadline: Option<Instant>,
    /// Records the number of unchecked connections when it last fell, and when that was. `None`
    /// once connections that have not been checked are skipped.
    last_read: Option<(usize, Instant)>,
    /// Holds the figures of the deadline, if work was left.
    aborted: Option<Figures>,
    /// Says until when answers may be written after the deadline, while they are.
    answering: Option<Instant>,
    outcome: Option<Outcome>,
    /// Names what has forced the drain, once something has.
    forced_by: Option<ForcedBy>,
    /// Says when progress is reported next.
    progress_at: Option<Instant>,
}

/// Counts the listeners and connections that the schedule depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Open {
    /// Counts listeners that have not closed.
    pub(super) listeners: usize,
    /// Counts those of these listeners that may have connections in their accept queue.
    pub(super) unemptied: usize,
    /// Counts connections; 0 once the settling is over.
    pub(super) connections: usize,
    /// Counts connections that may still deliver a request that arrived in time.
    pub(super) unchecked: usize,
    /// Counts connections that may deliver requests until they are closed.
    pub(super) multiplexed: usize,
    /// Records when the last new request or connection came, since the drain began.
    pub(super) last_arrival: Option<Instant>,
}

/// Counts what is left at one moment, and what happened during the drain until then.
#[derive(Clone, Debug)]
pub(super) struct Figures {
    pub(super) left: Counts,
    /// Lists what is left; empty for a report without blockers.
    pub(super) blockers: Vec<Blocker>,
    pub(super) completed: u64,
    pub(super) refused: u64,
    /// Counts requests that were answered because the drain was forced.
    pub(super) answered: u64,
    /// Counts requests with a handler that waits for this drain.
    pub(super) self_waiting: usize,
    pub(super) last_request: Option<Instant>,
    pub(super) last_connection: Option<Instant>,
    /// Says when no request was left, and none came any more.
    pub(super) requests_ended: Option<Instant>,
    pub(super) facts: Facts,
    /// Says whether a connection is open that speaks HTTP/2, or may.
    pub(super) has_http2: bool,
}

impl Schedule {
    pub(super) fn new(settings: DrainSettings) -> Self {
        Self {
            settings,
            stage: Stage::Serving,
            abandoned: false,
            entered: Default::default(),
            draining_at: None,
            quiet_at: None,
            deadline: None,
            last_read: None,
            aborted: None,
            answering: None,
            outcome: None,
            forced_by: None,
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

    /// Records that no handle is left to begin the drain. Returns whether it had not begun.
    pub(super) fn abandon(&mut self) -> bool {
        self.abandoned = self.stage == Stage::Serving;
        self.abandoned
    }

    /// Begins the drain. Does nothing if it has begun before.
    pub(super) fn begin(&mut self, now: Instant) {
        if self.stage > Stage::Serving {
            return;
        }
        // An instant that cannot be represented never comes.
        self.draining_at = now.checked_add(self.settings.lame_duck);
        self.quiet_at = self.quiet_after(Some(now));
        self.deadline = self.deadline.or(now.checked_add(self.settings.timeout));
        self.enter(Stage::LameDuck, now);
    }

    /// Ends LameDuck now. Begins the drain first if it has not begun.
    pub(super) fn skip_lame_duck(&mut self, now: Instant) {
        self.begin(now);
        self.draining_at = Some(now);
    }

    /// Moves the deadline to now; [`enforce_deadline`](Self::enforce_deadline) does the rest.
    ///
    /// If the drain is forced more than once, reports name the first cause.
    pub(super) fn force(&mut self, now: Instant, by: ForcedBy) {
        if self.stage < Stage::Forced {
            self.forced_by.get_or_insert(by);
        }
        self.set_deadline(now);
        self.skip_lame_duck(now);
    }

    /// Sets the deadline. Does nothing once the deadline has passed: phases do not go back.
    pub(super) fn set_deadline(&mut self, at: Instant) {
        if self.stage >= Stage::Forced {
            return;
        }
        self.deadline = Some(at);
    }

    /// Begins the drain with this timeout. If it has begun, shortens its deadline to the timeout.
    pub(super) fn shut_down(&mut self, now: Instant, timeout: Duration) {
        let at = now.checked_add(timeout);
        if self.stage == Stage::Serving {
            self.begin(now);
            self.deadline = at;
        } else if let Some(earlier) = self.deadline.into_iter().chain(at).min() {
            self.set_deadline(earlier);
        }
    }

    /// Advances up to [`Stage::Draining`], as far as the time and the open counts allow.
    ///
    /// Always stops when it enters [`Stage::LastRead`]. The caller has to mark the
    /// [unchecked](Open::unchecked) connections before it calls this again.
    pub(super) fn advance(&mut self, now: Instant, open: Open) {
        // The deadline ends each of these stages, as `next_step` has it.
        if self.stage == Stage::LameDuck && due(self.quiet_at, now) {
            self.quiet_at = self.quiet_after(open.last_arrival.max(self.begun()));
        }
        if self.stage == Stage::LameDuck && self.is_due(now) {
            self.enter(Stage::Backlog, now);
        }
        if self.stage == Stage::Backlog && (open.unemptied == 0 || self.is_due(now)) {
            self.enter(Stage::Settling, now);
        }
        if self.stage == Stage::Settling
            && (open.listeners + open.connections == 0 || self.is_due(now))
        {
            self.progress_at = now.checked_add(PROGRESS).filter(|_| ENABLED);
            self.last_read = Some((usize::MAX, now));
            return self.enter(Stage::LastRead, now);
        }
        // A listener that was emptied and is still open accepts once more at the end of the
        // settling, and closes. This stage waits for it until unchecked connections are skipped.
        let are_closed = open.listeners <= open.unemptied || self.last_read.is_none();
        if self.stage == Stage::LastRead
            && ((open.unchecked == 0 && are_closed)
                || due(self.last_read_until(), now)
                || due(self.deadline, now))
        {
            self.enter(Stage::ClosingConnections, now);
        }
        if self.stage == Stage::ClosingConnections && (open.multiplexed == 0 || self.is_due(now)) {
            self.enter(Stage::Draining, now);
        }
    }

    /// Returns `true` once: when the drain stops waiting for connections that were not checked.
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

    /// Returns when the last-read check ends at the latest.
    ///
    /// A connection that is polled keeps to a limit of its own. This one is for those that are not.
    fn last_read_until(&self) -> Option<Instant> {
        let head = self.settings.grace.max(HEAD_LIMIT);
        self.after(Stage::LastRead, head.saturating_add(LAST_READ_SILENCE))
    }

    /// Ends the drain, as nothing is left. Called when its last part is closed and empty.
    pub(super) fn emptied(&mut self, now: Instant, figures: Figures) {
        if self.outcome.is_some() {
            return;
        }
        let aborted = self.aborted.as_ref();
        let knows_connections = aborted.is_some_and(|it| it.left.connections() > 0);
        if self.answering.is_some() && !knows_connections {
            // The server has the last answers, and may not have written them. The drain does not
            // see that, so it gives them the whole time.
            return;
        }
        let outcome = match self.aborted {
            None => Ok(Drained {
                elapsed: self.elapsed(now),
                completed: figures.completed,
                refused: figures.refused,
                last_request: self.since_begin(figures.last_request),
                last_connection: self.since_begin(figures.last_connection),
                hints: Hint::of_refusals(figures.facts, figures.refused)
                    .into_iter()
                    .collect(),
            }),
            Some(_) => Err(self.timed_out(now, figures)),
        };
        self.end(outcome, now);
    }

    /// Enters [`Stage::Forced`] and later [`Stage::Done`], if the deadline has passed. Called once
    /// all parts are closed.
    ///
    /// The drain cannot abort requests, guards or tasks. If some are left, but no connection, it is
    /// done at once. Otherwise it goes on for up to [`WIND_UP`].
    ///
    /// While requests are `waiting` for their response, they are answered first; see [`ANSWERING`].
    pub(super) fn enforce_deadline(&mut self, now: Instant, waiting: usize, figures: Figures) {
        if self.outcome.is_some() || !due(self.deadline, now) {
            return;
        }
        let is_first = self.stage < Stage::Forced;
        if is_first {
            self.forced_by.get_or_insert(ForcedBy::Deadline);
            self.enter(Stage::Forced, now);
            self.answering = now.checked_add(ANSWERING).filter(|_| waiting > 0);
        }
        let has_work = match is_first {
            true => waiting > 0 || figures.left.has_work(),
            false => self.aborted.is_some(),
        };
        self.answering = self.answering.filter(|until| *until > now);
        // Connections end because they are aborted, the rest only by itself.
        let is_answering = self.answering.is_some();
        let may_end = is_answering || figures.left.connections() > 0 || !has_work;
        if may_end && !due(self.after(Stage::Forced, WIND_UP), now) {
            if has_work {
                self.aborted.get_or_insert(figures);
            }
            return;
        }
        let outcome = Err(self.timed_out(now, figures));
        self.end(outcome, now);
    }

    /// Records that each request has been answered, and that the answers need not be written yet.
    pub(super) fn all_answered(&mut self, now: Instant) {
        self.answering = self.answering.map(|until| until.min(now + WRITING));
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Returns when the next step is due if nothing else happens before.
    pub(crate) fn next_step(&self) -> Option<Instant> {
        let limit = match self.stage {
            Stage::Serving | Stage::Done => return None,
            Stage::Forced => {
                return self.answering.or(self.after(Stage::Forced, WIND_UP));
            }
            Stage::LameDuck => self.lame_duck_until(),
            Stage::Backlog => self.after(Stage::Backlog, BACKLOG_LIMIT),
            Stage::Settling => self.after(Stage::Settling, self.settings.settle),
            Stage::LastRead => match self.last_read {
                Some((_, since)) => since.checked_add(LAST_READ_SILENCE),
                None => self.last_read_until(),
            },
            Stage::ClosingConnections | Stage::Draining => None,
        };
        [limit, self.deadline].into_iter().flatten().min()
    }

    /// Returns whether the next step is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        due(self.next_step(), now)
    }

    fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.entered[stage as usize] = Some(now);
    }

    /// Returns when that stage was entered.
    fn at(&self, stage: Stage) -> Option<Instant> {
        self.entered[stage as usize]
    }

    /// Returns the time that long after a stage was entered; see [`add`].
    fn after(&self, stage: Stage, duration: Duration) -> Option<Instant> {
        add(self.at(stage), duration)
    }

    /// Returns when the drain began.
    fn begun(&self) -> Option<Instant> {
        self.at(Stage::LameDuck)
    }

    fn end(&mut self, outcome: Outcome, now: Instant) {
        self.outcome = Some(outcome);
        self.enter(Stage::Done, now);
    }

    /// Returns when LameDuck ends early, if the last arrival was then.
    fn quiet_after(&self, last: Option<Instant>) -> Option<Instant> {
        add(last, self.settings.quiet?)
    }

    /// Returns when LameDuck ends, if nothing new comes until then.
    fn lame_duck_until(&self) -> Option<Instant> {
        let ends = [self.draining_at, self.quiet_at];
        ends.into_iter().flatten().min()
    }

    /// Returns whether LameDuck has a duration. Called after the beginning.
    pub(super) fn has_lame_duck(&self) -> bool {
        let until = self.lame_duck_until();
        until.is_none_or(|at| Some(at) > self.begun())
    }

    /// Returns whether connections are aborted now.
    ///
    /// If no work is left at the deadline, they have [`WIND_UP`] to end by themselves before that.
    pub(crate) fn aborts(&self) -> bool {
        self.stage == Stage::Done || (self.aborted.is_some() && self.answering.is_none())
    }

    fn elapsed(&self, now: Instant) -> Duration {
        self.since_begin(Some(now)).unwrap_or_default()
    }

    fn since_begin(&self, at: Option<Instant>) -> Option<Duration> {
        Some(at?.saturating_duration_since(self.begun()?))
    }
}

fn due(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| at <= now)
}

/// Adds a duration. An instant that cannot be represented never comes, so the sum is `None`.
fn add(at: Option<Instant>, duration: Duration) -> Option<Instant> {
    at?.checked_add(duration)
}
