//! Holds what all clones of a drain share: the schedule, the counts and lists, the figures.

use super::{
    arrival::LastArrival,
    block::{Owner, Pool},
    callers::Callers,
    connection_list::ConnectionList,
    counter::{Counter, CounterHandle},
    entry::{Entry, RequestEntry},
    phase::{Phase, Stage},
    registry::{Key, Registry},
    report::{Blocker, Counts, Report},
    schedule::{DrainSettings, Figures, Open, Schedule},
    telemetry::{self, ENABLED, Reporter},
    token::Token,
    wiring::{Fact, Wiring},
};
use std::{
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};
use tokio::{sync::watch, time::Instant};

/// Holds the state that all clones of a drain share.
pub(crate) struct Shared {
    /// Counts the requests.
    pub(super) counter: Counter<Shared>,
    pub(super) entries: Registry<Entry>,
    pub(super) connections: ConnectionList,
    /// Counts those of the three parts above that are open or not empty. At 0, the drain is over.
    open_parts: AtomicUsize,
    /// Says whether all three parts are closed.
    closed: AtomicBool,
    /// Counts the open listeners. Only the stages up to `LastRead` wait for them.
    listeners: AtomicUsize,
    /// Counts those of these listeners that may have connections in their accept queue.
    unemptied: AtomicUsize,
    /// Counts completed requests that were not counted as requests: the drain waited for their
    /// connection instead.
    pub(super) completed_late: AtomicU64,
    /// Counts requests with a handler that waits for this drain.
    pub(super) self_waiting: AtomicUsize,
    /// Records the last connection that was accepted since the drain began.
    last_connection: LastArrival,
    /// Records when no request was left, and none came any more.
    requests_ended: OnceLock<Instant>,
    wiring: Wiring,
    reporter: Reporter,
    schedule: watch::Sender<Schedule>,
}

/// Holds what the request path reads and writes without a reference to [`Shared`].
#[derive(Default)]
pub(crate) struct RequestData {
    /// Copies the stage of the schedule, to be read without a lock.
    stage: AtomicU8,
    /// Records the last request that came since the drain began.
    pub(super) last_request: LastArrival,
    /// Lists requests for reports.
    requests: Registry<RequestEntry>,
    /// Lists the tasks that wait for capacity, to be woken when the drain refuses.
    pub(super) callers: Callers,
    /// Lists the tasks of requests whose response has not begun, to be woken when the drain is
    /// forced. An HTTP/2 stream is a task of its own, which nothing else wakes then. A request is
    /// listed at its first [`Pending`](std::task::Poll::Pending), without an allocation.
    waiting: Registry<Waker>,
    /// Counts requests that were answered because the drain was forced.
    answered: AtomicU64,
}

static POOL: LazyLock<Pool<Shared>> = LazyLock::new(|| Pool::new(16));

/// Returns a token for a request that nothing counts, or that something else counts.
#[cold]
pub(crate) fn uncounted() -> Token<Shared> {
    Token::uncounted(&POOL)
}

impl RequestData {
    #[inline]
    pub(super) fn stage(&self) -> Stage {
        Stage::from_u8(self.stage.load(Ordering::Acquire))
    }

    /// Returns whether a pending request has to be answered now, as the drain is forced, and counts
    /// it then. Otherwise the drain wakes the task once it has to be.
    pub(super) fn answer_is_due(&self, place: &mut Option<Key>, waker: &Waker) -> bool {
        if self.stage() < Stage::Forced {
            self.waiting.put(place, waker);
        }
        // After the registration: a later change of the stage wakes the task.
        let is_due = self.stage() >= Stage::Forced;
        if is_due {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        is_due
    }

    /// Ends the waiting of a request. Returns whether it was the last one that a forced drain had
    /// to answer.
    pub(super) fn stop_waiting(&self, place: &mut Option<Key>) -> bool {
        let Some(key) = place.take() else {
            return false;
        };
        let is_last = self.waiting.remove_waker(key);
        // Looks at the other shards last: each pending request comes here, and many end at one
        // time.
        is_last && self.stage() >= Stage::Forced && self.waiting.len() == 0
    }
}

/// Keeps a request in the list of requests until it is dropped.
pub(crate) struct ListedRequest {
    key: Key,
    data: &'static RequestData,
}

impl ListedRequest {
    /// Lists a request. Returns `None` if the list is full.
    pub(super) fn new(entry: RequestEntry, data: &'static RequestData) -> Option<Self> {
        let key = data.requests.add(entry)?;
        Some(Self { key, data })
    }

    pub(super) fn response_begun(&self) {
        let requests = &self.data.requests;
        requests.with(self.key, |request| request.response_begun = true);
    }
}

impl Drop for ListedRequest {
    fn drop(&mut self) {
        // This list is never closed, so its last entry ends nothing.
        let _ = self.data.requests.remove(self.key);
    }
}

impl Owner for Shared {
    type Data = RequestData;
    type Details = ListedRequest;

    fn reset(data: &RequestData) {
        data.stage.store(Stage::Serving as u8, Ordering::Relaxed);
        data.last_request.clear();
        data.answered.store(0, Ordering::Relaxed);
        data.callers.wake_all();
    }

    fn counter_emptied(self: &Arc<Self>) {
        // Called once.
        let _ = self.requests_ended.set(Instant::now());
        self.part_emptied();
    }
}

impl Shared {
    pub(super) fn new(settings: DrainSettings, shards: usize) -> Arc<Self> {
        Arc::new_cyclic(|shared| Self {
            counter: Counter::new(&POOL, shards, shared.clone()),
            entries: Registry::default(),
            connections: ConnectionList::new(),
            open_parts: AtomicUsize::new(3),
            closed: AtomicBool::new(false),
            listeners: AtomicUsize::new(0),
            unemptied: AtomicUsize::new(0),
            completed_late: AtomicU64::new(0),
            self_waiting: AtomicUsize::new(0),
            last_connection: LastArrival::default(),
            requests_ended: OnceLock::new(),
            wiring: Wiring::default(),
            reporter: Reporter::default(),
            schedule: watch::Sender::new(Schedule::new(settings)),
        })
    }

    pub(crate) fn counter_handle(&self) -> CounterHandle<Shared> {
        self.counter.handle()
    }

    /// Returns the last recorded stage. It does not look at the clock, so a later one may be due.
    #[inline]
    pub(crate) fn stage(&self) -> Stage {
        self.counter.data().stage()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.stage().phase()
    }

    /// Returns the phase. Ends a LameDuck first whose time is over.
    pub(crate) fn phase_by_now(self: &Arc<Self>) -> Phase {
        let phase = self.phase();
        if phase > Phase::Serving && phase < Phase::Draining && self.is_due() {
            self.advance();
        }
        self.phase()
    }

    /// Records which part of the drain is used.
    pub(crate) fn record(&self, fact: Fact) {
        self.wiring.record(fact);
    }

    /// Learns that no request is left that a forced drain has to answer.
    pub(super) fn all_answered(self: &Arc<Self>) {
        self.update(|schedule| schedule.all_answered(Instant::now()));
    }

    /// Counts a listener that has opened.
    #[cfg(feature = "net")]
    pub(crate) fn listener_opened(&self) {
        self.unemptied.fetch_add(1, Ordering::AcqRel);
        self.listeners.fetch_add(1, Ordering::AcqRel);
    }

    /// Records that a listener's accept queue is empty. Called once for each listener, which may
    /// still be open.
    #[cfg(feature = "net")]
    pub(crate) fn listener_emptied(&self) {
        self.unemptied.fetch_sub(1, Ordering::AcqRel);
    }

    #[cfg(feature = "net")]
    pub(crate) fn has_connections(&self) -> bool {
        self.connections.len() > 0
    }

    /// Records that a listener has closed.
    #[cfg(feature = "net")]
    pub(crate) fn listener_closed(&self) {
        self.listeners.fetch_sub(1, Ordering::AcqRel);
    }

    /// Records when a connection was accepted, if the drain has begun.
    #[cfg(feature = "net")]
    pub(super) fn connection_arrived(&self, accepted: Instant) {
        if self.stage() > Stage::Serving {
            self.last_connection.note(accepted);
        }
    }

    /// Wakes the tasks of all connections, to look at their server's state again.
    #[cfg(feature = "server")]
    pub(crate) fn wake_connections(&self) {
        self.connections.wake_all();
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Schedule) -> T) -> T {
        look(&self.schedule.borrow())
    }

    /// Returns the figures of this moment, with these blockers.
    fn figures(&self, blockers: Vec<Blocker>) -> Figures {
        let left = self.left();
        let late = self.completed_late.load(Ordering::Relaxed);
        Figures {
            completed: self.counter.ended(left.requests) + late,
            refused: self.counter.refused(),
            answered: self.counter.data().answered.load(Ordering::Relaxed),
            self_waiting: self.self_waiting.load(Ordering::Relaxed),
            last_request: self.counter.data().last_request.get(),
            last_connection: self.last_connection.get(),
            requests_ended: self.requests_ended.get().copied(),
            facts: self.wiring.facts(),
            has_http2: self.connections.multiplexed() > 0,
            left,
            blockers,
        }
    }

    /// Returns a report without blockers.
    fn brief(&self) -> Report {
        self.report_with(Vec::new())
    }

    fn report_with(&self, blockers: Vec<Blocker>) -> Report {
        let figures = self.figures(blockers);
        self.look(|schedule| schedule.report(Instant::now(), figures))
    }

    /// Changes the schedule, and does what a new stage requires.
    ///
    /// Every change of the stage or of the deadline goes through here. The requests' copy of the
    /// stage is stored before any waiter wakes. So no request is admitted by the old stage after a
    /// waiter has seen the new one.
    pub(super) fn update(self: &Arc<Self>, change: impl FnOnce(&mut Schedule)) {
        let (mut before, mut after) = (Stage::Done, Stage::Done);
        let changed = self.schedule.send_if_modified(|schedule| {
            let seen =
                |schedule: &Schedule| (schedule.stage(), schedule.deadline(), schedule.aborts());
            let (was, next) = (seen(schedule), schedule.next_step());
            change(schedule);
            (before, after) = (was.0, schedule.stage());
            let stage = &self.counter.data().stage;
            stage.store(after as u8, Ordering::Release);
            if before == Stage::Serving && after > Stage::Serving {
                // Under the schedule's lock. Only a later change under this lock reaches
                // `Draining`, so no thread closes the counter before `begin` has returned.
                self.counter.begin(self.clone());
                self.wiring.record_environment();
            }
            // Moving a step later needs no wake-up: a waiter that wakes at the old time finds
            // nothing due and sleeps again. With a wake-up, each connection that has done its
            // last-read check would wake all others.
            let sooner = schedule
                .next_step()
                .is_some_and(|at| next.is_none_or(|next| at < next));
            was != seen(schedule) || sooner
        });
        let reaches = |stage| before < stage && after >= stage;
        if reaches(Stage::LastRead) {
            self.connections.start_last_read();
        }
        let stage = self.stage();
        match stage {
            _ if !changed => {}
            // `serve` has clients go elsewhere then.
            Stage::LameDuck if self.look(Schedule::has_lame_duck) => self.connections.wake_all(),
            // For its GOAWAY. HTTP/1 has nothing to do before the last-read check.
            Stage::Settling => self.connections.wake_multiplexed(),
            stage if stage >= Stage::LastRead => self.connections.wake_all(),
            _ => {}
        }
        if reaches(Stage::Draining) {
            self.counter.data().callers.wake_all();
        }
        if reaches(Stage::Forced) {
            self.counter.data().waiting.wake_all();
        }
        if stage == Stage::Done {
            drop(self.counter.release());
        }
    }

    /// Advances the schedule up to [`Stage::Draining`], and closes nothing.
    pub(super) fn advance_to_close(self: &Arc<Self>, now: Instant) {
        loop {
            let mut before = Stage::Done;
            let mut skipped = false;
            self.update(|schedule| {
                before = schedule.stage();
                schedule.advance(now, self.open());
                // Not in the change that enters `LastRead`: no connection is marked yet.
                skipped = before == Stage::LastRead && schedule.skip_unchecked(now, self.open());
            });
            if skipped {
                self.connections.skip_unchecked();
            }
            // Both change the number of unchecked connections, so look at it again.
            let started_last_read = before < Stage::LastRead && self.stage() == Stage::LastRead;
            if !(started_last_read || skipped) {
                return;
            }
        }
    }

    fn open(&self) -> Open {
        Open {
            listeners: self.listeners.load(Ordering::Acquire),
            unemptied: self.unemptied.load(Ordering::Acquire),
            // Counting takes every lock of the list, and each connection that ends gets here.
            // Stages after `Settling` do not need the number.
            connections: match self.stage() <= Stage::Settling {
                true => self.connections.len(),
                false => 0,
            },
            unchecked: self.connections.unchecked(),
            multiplexed: self.connections.multiplexed(),
            last_arrival: self
                .last_connection
                .get()
                .max(self.counter.data().last_request.get()),
        }
    }

    /// Returns whether a step of the schedule is due.
    ///
    /// Callers ask before they change the schedule. This takes the lock for reading, so callers
    /// that find nothing due do not wait for each other.
    pub(super) fn is_due(&self) -> bool {
        self.look(|schedule| schedule.is_due(Instant::now()))
    }

    /// Returns a receiver that wakes at each change of the schedule.
    pub(super) fn changes(&self) -> watch::Receiver<Schedule> {
        self.schedule.subscribe()
    }

    /// Records that the last handle was dropped. A drain that has not begun can never begin then.
    pub(super) fn abandon(&self) {
        if self.schedule.send_if_modified(Schedule::abandon) {
            // It never refuses, so callers have nothing to wait for here.
            self.counter.data().callers.wake_all();
        }
    }

    /// Advances the schedule to the present, and ends the drain if that is due.
    pub(crate) fn advance(self: &Arc<Self>) {
        if matches!(self.stage(), Stage::Serving | Stage::Done) {
            return;
        }
        let now = Instant::now();
        self.advance_to_close(now);
        if self.stage() >= Stage::Draining {
            // Before the deadline is enforced: only a closed part stays empty.
            self.close();
            if self.stage() < Stage::Done && self.look(|schedule| schedule.is_due(now)) {
                let mut figures = self.figures(Vec::new());
                // After what is left was counted: no report has a blocker that it counts as completed.
                figures.blockers = self.blockers(now);
                let waiting = self.counter.data().waiting.len();
                self.update(|schedule| schedule.enforce_deadline(now, waiting, figures));
            }
        }
        self.observe();
    }

    /// Closes all three parts: none admits anything more.
    fn close(self: &Arc<Self>) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        self.counter.close();
        for emptied in [self.entries.close(), self.connections.close()] {
            if emptied {
                self.part_emptied();
            }
        }
        // Last: a thread that reads `true` finds all three parts closed.
        self.closed.store(true, Ordering::Release);
    }

    /// Records that one of the three parts is closed and empty. The last one ends the drain.
    pub(super) fn part_emptied(self: &Arc<Self>) {
        if self.open_parts.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let figures = self.figures(Vec::new());
        self.update(|schedule| schedule.emptied(Instant::now(), figures));
        self.observe();
    }

    pub(super) fn left(&self) -> Counts {
        let mut left = Counts::default();
        self.entries.each(|entry| entry.count(&mut left));
        self.connections.count(&mut left);
        left.requests = self.counter.inside();
        left
    }

    fn blockers(&self, now: Instant) -> Vec<Blocker> {
        let mut all = Vec::new();
        let requests = &self.counter.data().requests;
        requests.each(|request| all.push(request.report(now)));
        self.entries.each(|entry| all.push(entry.report(now)));
        self.connections.list(now, &mut all);
        Blocker::sort(&mut all);
        all
    }

    pub(super) fn report(self: &Arc<Self>) -> Report {
        self.advance();
        self.report_with(self.blockers(Instant::now()))
    }

    /// Reports each phase that has been entered and not reported, once and in order.
    ///
    /// Runs after each change of the schedule, on any thread.
    pub(super) fn observe(&self) {
        if self.has_reported(self.phase()) {
            return;
        }
        // A thread that finds another one reporting may return. The other one looks again after it
        // has let go of its lock. It looks under the schedule's lock, so it sees every change made
        // before.
        while !self.has_reported(self.look(Schedule::phase)) {
            let Some(_reporting) = self.reporter.lock() else {
                return;
            };
            let unreported: Vec<_> = self.look(|schedule| {
                [Phase::LameDuck, Phase::Draining, Phase::Forced, Phase::Done]
                    .into_iter()
                    .filter(|phase| !self.has_reported(*phase))
                    .filter_map(|phase| Some((phase, schedule.entered(phase)?)))
                    .collect()
            });
            for (phase, elapsed) in unreported {
                let report = Report {
                    phase,
                    elapsed,
                    ..self.brief()
                };
                let (outcome, has_lame_duck) =
                    self.look(|schedule| (schedule.outcome().cloned(), schedule.has_lame_duck()));
                self.reporter
                    .report(&report, outcome.as_ref(), has_lame_duck);
                if phase == Phase::Done {
                    // Waiters for the outcome wait for the report of the end.
                    self.schedule.send_modify(|_| ());
                }
            }
        }
    }

    /// Returns whether that phase has been reported. True if nothing reports.
    pub(super) fn has_reported(&self, phase: Phase) -> bool {
        !ENABLED || self.reporter.has_reported(phase)
    }

    /// Reports progress, if that is due.
    pub(super) fn observe_progress(self: &Arc<Self>, now: Instant) {
        if !ENABLED || !self.look(|schedule| schedule.progress_is_due(now)) {
            return;
        }
        let mut due = false;
        // Of several threads that find it due, one reports.
        self.update(|schedule| due = schedule.progress(now));
        if due {
            telemetry::progress(|| self.report(), || self.brief());
        }
    }

    /// Records the state of the drain as metrics.
    #[cfg(feature = "metrics")]
    pub(super) fn record_metrics(&self) {
        let outcome = self.look(|schedule| schedule.outcome().cloned());
        telemetry::record(&self.brief(), outcome.as_ref());
    }
}
