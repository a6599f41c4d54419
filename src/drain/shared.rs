//! What all clones of a drain share: its phase, its schedule, what is inside, its figures.

use super::{
    connection::ConnectionList,
    counter::{Counter, CounterHandle, Entry, Owner, Pool},
    current::is_inside,
    guard::Work,
    name::Asked,
    phase::{Phase, Stage},
    registry::{Emptied, Registry},
    report::{Blocker, Counts, Report},
    schedule::{Figures, Open, Schedule, Settings},
    telemetry::Reporter,
};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

pub(crate) struct Shared {
    /// The requests.
    counter: Counter<Shared>,
    works: Registry<Work>,
    connections: ConnectionList,
    /// How many of these three are open, or have something inside.
    open_parts: AtomicUsize,
    /// All three of them are closed.
    closed: AtomicBool,
    /// Listeners are not inside: that one exists holds nothing up.
    listeners: AtomicUsize,
    /// Of them, those whose accept queue may not be empty.
    unemptied: AtomicUsize,
    /// Requests that have ended and were counted by their connection alone.
    completed_late: AtomicU64,
    /// Requests whose handlers wait for this drain.
    self_waiting: AtomicUsize,
    reporter: Reporter,
    schedule: watch::Sender<Schedule>,
}

/// What requests read and write, without a way to [`Shared`].
#[derive(Default)]
pub(crate) struct RequestData {
    /// The schedule's stage once more, to be read without a lock.
    stage: AtomicU8,
    refused: AtomicU64,
    /// Those that have a name.
    requests: Registry<Asked>,
}

static POOL: LazyLock<Pool<Shared>> = LazyLock::new(Pool::new);

impl RequestData {
    #[inline]
    pub(super) fn stage(&self) -> Stage {
        Stage::from_u8(self.stage.load(Ordering::Acquire))
    }

    pub(super) fn requests(&self) -> &Registry<Asked> {
        &self.requests
    }
}

impl Owner for Shared {
    type Data = RequestData;

    fn reset(data: &RequestData) {
        data.stage.store(Stage::Serving as u8, Ordering::Relaxed);
        data.refused.store(0, Ordering::Relaxed);
    }

    fn counter_emptied(self: &Arc<Self>) {
        self.part_emptied(Some(Emptied));
    }
}

impl CounterHandle<Shared> {
    /// Returns the stage as it was last seen. A drain that was dropped before it began serves.
    pub(crate) fn stage(&self) -> Stage {
        self.data().map_or(Stage::Serving, RequestData::stage)
    }

    /// Counts a request in or refuses it, once the drain has begun. One that would open what is about
    /// to be closed (`is_late_upgrade`) is refused a little earlier than others.
    #[cold]
    pub(crate) fn enter_draining(&self, is_late_upgrade: impl FnOnce() -> bool) -> Entry<Shared> {
        if self.stage() < Stage::Draining {
            if let Some(shared) = self.owner() {
                // Nobody else may be there to say that it is time. No further than to the close: the
                // outcome is to count this request, if it is refused.
                if shared.is_due() {
                    shared.step(Instant::now());
                }
            }
            let stage = self.stage();
            if (Stage::LastRead..Stage::Draining).contains(&stage) && is_late_upgrade() {
                return Entry::Refused;
            }
        }
        self.enter_late(|data| data.stage() < Stage::Draining)
    }

    pub(crate) fn count_refused(&self) {
        if let Some(data) = self.data() {
            data.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Shared {
    pub(super) fn new(settings: Settings, shards: usize) -> Arc<Self> {
        Arc::new_cyclic(|shared| Self {
            counter: Counter::new(&POOL, shards, shared.clone()),
            works: Registry::default(),
            connections: ConnectionList::new(),
            open_parts: AtomicUsize::new(3),
            closed: AtomicBool::new(false),
            listeners: AtomicUsize::new(0),
            unemptied: AtomicUsize::new(0),
            completed_late: AtomicU64::new(0),
            self_waiting: AtomicUsize::new(0),
            reporter: Reporter::default(),
            schedule: watch::Sender::new(Schedule::new(settings)),
        })
    }

    pub(crate) fn counter_handle(&self) -> CounterHandle<Shared> {
        self.counter.handle()
    }

    /// Returns the stage as it was last seen; a LameDuck may be over without anybody having looked.
    #[inline]
    pub(crate) fn stage(&self) -> Stage {
        self.counter.data().stage()
    }

    pub(crate) fn phase(&self) -> Phase {
        self.stage().phase()
    }

    /// Returns the phase as it is by now, for a caller that does not wait for it.
    pub(crate) fn phase_by_now(self: &Arc<Self>) -> Phase {
        let phase = self.phase();
        if phase > Phase::Serving && phase < Phase::Draining && self.is_due() {
            self.advance();
        }
        self.phase()
    }

    /// Counts a request as completed that was counted by its connection alone.
    #[cfg(feature = "server")]
    pub(crate) fn count_completed_late(&self) {
        self.completed_late.fetch_add(1, Ordering::Relaxed);
    }

    /// A listener is there that will have to close.
    #[cfg(feature = "net")]
    pub(crate) fn listener_opened(&self) {
        self.unemptied.fetch_add(1, Ordering::AcqRel);
        self.listeners.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one of the listeners as emptied, once for each. It may still be open.
    #[cfg(feature = "net")]
    pub(crate) fn listener_emptied(&self) {
        self.unemptied.fetch_sub(1, Ordering::AcqRel);
    }

    #[cfg(feature = "net")]
    pub(crate) fn has_connections(&self) -> bool {
        self.connections.len() > 0
    }

    #[cfg(feature = "net")]
    pub(crate) fn listener_closed(&self) {
        self.listeners.fetch_sub(1, Ordering::AcqRel);
    }

    #[cfg(feature = "net")]
    pub(super) fn connections(&self) -> &ConnectionList {
        &self.connections
    }

    pub(super) fn works(&self) -> &Registry<Work> {
        &self.works
    }

    pub(super) fn reporter(&self) -> &Reporter {
        &self.reporter
    }

    #[cfg(feature = "server")]
    pub(crate) fn wake_connections(&self) {
        self.connections.wake_all();
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Schedule) -> T) -> T {
        look(&self.schedule.borrow())
    }

    /// Returns the figures for so many requests in flight.
    fn figures(&self, in_flight: usize) -> Figures {
        let late = self.completed_late.load(Ordering::Relaxed);
        Figures {
            completed: self.counter.ended(in_flight) + late,
            refused: self.counter.data().refused.load(Ordering::Relaxed),
            self_waiting: self.self_waiting.load(Ordering::Relaxed),
        }
    }

    /// A report that does not say what blocks.
    pub(super) fn brief(&self, left: Counts) -> Report {
        let (now, figures) = (Instant::now(), self.figures(left.requests));
        self.look(|schedule| schedule.report(now, left, Vec::new(), figures))
    }

    /// Changes the schedule; there is no other way. The requests' copy of the stage is set before any
    /// waiter is woken, so that no request is admitted after one of them has seen the change.
    pub(super) fn update(self: &Arc<Self>, change: impl FnOnce(&mut Schedule)) {
        let mut starts_last_read = false;
        let changed = self.schedule.send_if_modified(|schedule| {
            let seen = |schedule: &Schedule| (schedule.stage(), schedule.deadline());
            let (before, next) = (seen(schedule), schedule.next_step());
            change(schedule);
            let stage = &self.counter.data().stage;
            stage.store(schedule.stage() as u8, Ordering::Release);
            if before.0 == Stage::Serving && schedule.stage() > Stage::Serving {
                // Under the schedule's lock: nobody closes before that has been done.
                self.counter.begin(self.clone());
            }
            starts_last_read = before.0 < Stage::LastRead && schedule.stage() >= Stage::LastRead;
            // Who waits for a step that comes later now, looks in vain and waits again. To wake all
            // for that would be to wake all whenever one of them answers the roll call.
            let sooner = schedule
                .next_step()
                .is_some_and(|at| next.is_none_or(|next| at < next));
            before != seen(schedule) || sooner
        });
        if starts_last_read {
            self.connections.start_last_read();
        }
        if changed && self.stage() >= Stage::Settling {
            self.connections.wake_all();
        }
        if self.stage() == Stage::Done {
            drop(self.counter.release());
        }
    }

    /// Moves the schedule on, up to the closing of the count.
    fn step(self: &Arc<Self>, now: Instant) {
        loop {
            let mut before = Stage::Done;
            let mut skipped = false;
            self.update(|schedule| {
                before = schedule.stage();
                schedule.advance(now, self.open());
                // Not before the muster: then nobody is awaited yet.
                skipped = before == Stage::LastRead && schedule.skip_unchecked(now, self.open());
            });
            if skipped {
                self.connections.skip_unchecked();
            }
            // Then there is more to say about who is awaited.
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
            // Later stages do not ask, and each connection that ends comes by here.
            connections: match self.stage() <= Stage::Settling {
                true => self.connections.len(),
                false => 0,
            },
            unchecked: self.connections.unchecked(),
            multiplexed: self.connections.multiplexed(),
        }
    }

    /// Whether the next step is to be made. Looked at first: those who come by shall not stand in line
    /// to change nothing.
    pub(super) fn is_due(&self) -> bool {
        self.look(|schedule| schedule.is_due(Instant::now()))
    }

    /// To be woken by each change.
    pub(super) fn changes(&self) -> watch::Receiver<Schedule> {
        self.schedule.subscribe()
    }

    /// Has them look again.
    pub(super) fn wake_waiters(&self) {
        self.schedule.send_modify(|_| ());
    }

    /// The last handle was dropped: nobody can begin the drain any more.
    pub(super) fn abandon(&self) {
        self.schedule.send_if_modified(Schedule::abandon);
    }

    /// Moves the schedule on to where it should be by now.
    pub(crate) fn advance(self: &Arc<Self>) {
        if matches!(self.stage(), Stage::Serving | Stage::Done) {
            return;
        }
        let now = Instant::now();
        self.step(now);
        if self.stage() >= Stage::Draining {
            // Before the deadline is judged: only what is closed is empty for good.
            self.close();
            if self.stage() < Stage::Done && self.look(|schedule| schedule.is_due(now)) {
                let left = self.left();
                let figures = self.figures(left.requests);
                let blockers = self.blockers(now);
                self.update(|schedule| schedule.settle(now, left, blockers, figures));
            }
        }
        self.observe(|| self.left());
    }

    /// Admits nothing more.
    fn close(self: &Arc<Self>) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        self.counter.close();
        self.part_emptied(self.works.close());
        self.part_emptied(self.connections.close());
        // After that: a thread that finds it set finds nothing open.
        self.closed.store(true, Ordering::Release);
    }

    /// Ends the drain if that was the last part of it that had something inside.
    pub(super) fn part_emptied(self: &Arc<Self>, emptied: Option<Emptied>) {
        if emptied.is_none() || self.open_parts.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        let figures = self.figures(0);
        self.update(|schedule| schedule.vacated(Instant::now(), figures));
        self.observe(Counts::default);
    }

    pub(super) fn left(&self) -> Counts {
        let mut left = Counts::default();
        self.works.each(|work| work.count(&mut left));
        self.connections.count(&mut left);
        left.requests = self.counter.inside();
        left
    }

    fn blockers(&self, now: Instant) -> Vec<Blocker> {
        let mut all = Vec::new();
        let requests = self.counter.data().requests();
        requests.each(|asked| all.push(asked.report(now)));
        self.works.each(|work| all.push(work.report(now)));
        self.connections.list(now, &mut all);
        Blocker::sort(&mut all);
        all
    }

    pub(super) fn report(self: &Arc<Self>) -> Report {
        self.advance();
        Report {
            blockers: self.blockers(Instant::now()),
            ..self.brief(self.left())
        }
    }

    /// Waits until the schedule has what `look` is after, and moves the schedule on meanwhile.
    pub(super) async fn until<T>(self: Arc<Self>, look: impl Fn(&Schedule) -> Option<T>) -> T {
        let mut changes = self.schedule.subscribe();
        loop {
            // First this, then the look: what changes from here on, wakes. (The other way round, a
            // request that ends the lame duck in between would go unnoticed, and nobody would
            // close.)
            changes.mark_unchanged();
            self.advance();
            self.observe_progress(Instant::now());
            let next = {
                let schedule = changes.borrow();
                if let Some(found) = look(&schedule) {
                    return found;
                }
                schedule.next_look()
            };
            let mut changed = pin!(changes.changed());
            let mut timer = pin!(async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            });
            poll_fn(|cx| {
                // It errs only without a sender, and `self` has one.
                if changed.as_mut().poll(cx).is_ready() || timer.as_mut().poll(cx).is_ready() {
                    Poll::Ready(())
                } else {
                    Poll::Pending
                }
            })
            .await;
        }
    }
}

/// A handler that waits for the drain that counts its request, until this is dropped.
pub(super) struct SelfWaiting(Arc<Shared>);

impl SelfWaiting {
    /// To be called where a waiter is polled.
    pub(super) fn see(seen: &mut Option<Self>, shared: &Arc<Shared>) {
        if seen.is_none() && is_inside(&shared.counter_handle()) {
            shared.self_waiting.fetch_add(1, Ordering::Relaxed);
            *seen = Some(Self(shared.clone()));
        }
    }
}

impl Drop for SelfWaiting {
    fn drop(&mut self) {
        self.0.self_waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}
