//! What one drain knows: its phase, its plan, its figures. All handles share it.

use super::{
    connections::Registry,
    count::{Home, Hub},
    guard::Work,
    name::Asked,
    observe::Observer,
    phase::{Phase, Stage},
    plan::{Figures, Open, Plan, Settings},
    report::{Blockers, Left, Report},
    roster::Roster,
};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Poll,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

pub(crate) struct State {
    stage: StageCell,
    tally: Tally,
    registry: Registry,
    works: Roster<Work>,
    /// Those that have a name.
    requests: Roster<Asked>,
    observer: Observer,
    plan: watch::Sender<Plan>,
}

/// The plan's stage once more, where each request can read it without a lock. On a line of its
/// own: nobody writes it while nobody shuts down.
#[repr(align(128))]
struct StageCell(AtomicU8);

/// What is counted beside the in-flight count. Requests touch it only once the drain has begun.
#[derive(Default)]
#[repr(align(128))]
struct Tally {
    /// Of those inside, how many are of these kinds; the others are requests.
    works: Turnstile,
    connections: Turnstile,
    /// Listeners are not inside: that one exists holds nothing up.
    listeners: AtomicUsize,
    /// Of them, those whose accept queue may not be empty.
    unemptied: AtomicUsize,
    completed: AtomicU64,
    refused: AtomicU64,
}

/// How many have come, and how many have gone: of both, who looks at them at different moments knows
/// how many there have been at the most meanwhile.
#[derive(Default)]
struct Turnstile {
    come: AtomicUsize,
    gone: AtomicUsize,
}

impl Turnstile {
    /// Never less than there were, if that did not change.
    fn inside(&self) -> usize {
        let gone = self.gone.load(Ordering::Acquire);
        self.come.load(Ordering::Acquire).wrapping_sub(gone)
    }
}

/// What is inside, if it is not a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A guard, a task, a hook, a server: see [`Work`].
    Work,
    #[cfg(feature = "net")]
    Connection,
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            stage: StageCell(AtomicU8::new(Stage::Serving as u8)),
            tally: Tally::default(),
            registry: Registry::new(),
            works: Roster::default(),
            requests: Roster::default(),
            observer: Observer::default(),
            plan: watch::Sender::new(Plan::new(settings)),
        }
    }

    /// As it was last seen; a LameDuck may be over without anybody having looked.
    #[inline]
    pub(crate) fn stage(&self) -> Stage {
        Stage::from_u8(self.stage.0.load(Ordering::Acquire))
    }

    pub(crate) fn phase(&self) -> Phase {
        self.stage().phase()
    }

    #[inline]
    pub(crate) fn is_serving(&self) -> bool {
        self.stage.0.load(Ordering::Acquire) == Stage::Serving as u8
    }

    /// Draining, with requests still admitted.
    #[inline]
    pub(crate) fn is_parting(&self) -> bool {
        let stage = self.stage.0.load(Ordering::Acquire);
        (Stage::Awaiting as u8..Stage::Draining as u8).contains(&stage)
    }

    pub(crate) fn count_completed(&self) {
        // Relaxed: leaving, which comes next, publishes it.
        self.tally.completed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.tally.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// To be called before it is inside.
    pub(super) fn count_in(&self, kind: Kind) {
        self.tally_of(kind).come.fetch_add(1, Ordering::AcqRel);
    }

    /// To be called when it has left.
    pub(super) fn count_out(&self, kind: Kind) {
        self.tally_of(kind).gone.fetch_add(1, Ordering::AcqRel);
    }

    fn tally_of(&self, kind: Kind) -> &Turnstile {
        match kind {
            Kind::Work => &self.tally.works,
            #[cfg(feature = "net")]
            Kind::Connection => &self.tally.connections,
        }
    }

    /// A listener is there that will have to close.
    #[cfg(feature = "net")]
    pub(crate) fn listener_opened(&self) {
        self.tally.unemptied.fetch_add(1, Ordering::AcqRel);
        self.tally.listeners.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one of the listeners as emptied, once for each. It may still be open.
    #[cfg(feature = "net")]
    pub(crate) fn listener_emptied(&self) {
        self.tally.unemptied.fetch_sub(1, Ordering::AcqRel);
    }

    #[cfg(feature = "net")]
    pub(crate) fn has_connections(&self) -> bool {
        self.tally.connections.inside() > 0
    }

    #[cfg(feature = "net")]
    pub(crate) fn listener_closed(&self) {
        self.tally.listeners.fetch_sub(1, Ordering::AcqRel);
    }

    #[cfg(feature = "net")]
    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(super) fn works(&self) -> &Roster<Work> {
        &self.works
    }

    pub(super) fn observer(&self) -> &Observer {
        &self.observer
    }

    pub(super) fn requests(&self) -> &Roster<Asked> {
        &self.requests
    }

    #[cfg(feature = "server")]
    pub(super) fn wake_connections(&self) {
        self.registry.wake_all();
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&Plan) -> T) -> T {
        look(&self.plan.borrow())
    }

    fn figures(&self) -> Figures {
        Figures {
            completed: self.tally.completed.load(Ordering::Relaxed),
            refused: self.tally.refused.load(Ordering::Relaxed),
        }
    }

    /// A report that does not say what blocks.
    pub(super) fn brief(&self, left: Left) -> Report {
        let (now, figures) = (Instant::now(), self.figures());
        self.look(|plan| plan.report(now, left, Blockers::default(), figures))
    }

    /// The one way to change the plan. The requests' copy of the stage is set before anyone who
    /// waits is told, so that nobody who was told is admitted.
    pub(super) fn update(&self, change: impl FnOnce(&mut Plan)) {
        let mut musters = false;
        let changed = self.plan.send_if_modified(|plan| {
            let seen = |plan: &Plan| (plan.stage(), plan.deadline());
            let (before, next) = (seen(plan), plan.next_step());
            change(plan);
            self.stage.0.store(plan.stage() as u8, Ordering::Release);
            musters = before.0 < Stage::Awaiting && plan.stage() >= Stage::Awaiting;
            // Who waits for a step that comes later now, looks in vain and waits again. To wake all
            // for that would be to wake all whenever one of them answers the roll call.
            let sooner = plan
                .next_step()
                .is_some_and(|at| next.is_none_or(|next| at < next));
            before != seen(plan) || sooner
        });
        if musters {
            self.registry.muster();
        }
        if changed && self.stage() >= Stage::Settling {
            self.registry.wake_all();
        }
    }

    /// Moves the plan on, up to the closing of the count.
    fn step(&self, now: Instant) {
        loop {
            let mut before = Stage::Done;
            let mut roll_called = false;
            self.update(|plan| {
                before = plan.stage();
                plan.advance(now, self.open());
                // Not before the muster: then nobody is awaited yet.
                roll_called = before == Stage::Awaiting && plan.end_roll_call(now, self.open());
            });
            if roll_called {
                self.registry.end_roll_call();
            }
            // Then there is more to say about who is awaited.
            let mustered = before < Stage::Awaiting && self.stage() == Stage::Awaiting;
            if !(mustered || roll_called) {
                return;
            }
        }
    }

    fn open(&self) -> Open {
        Open {
            listeners: self.tally.listeners.load(Ordering::Acquire),
            unemptied: self.tally.unemptied.load(Ordering::Acquire),
            connections: self.tally.connections.inside(),
            awaited: self.registry.awaited(),
            multiplexed: self.registry.multiplexed(),
        }
    }

    /// Whether the next step is to be made. Looked at first: those who come by shall not stand in line
    /// to change nothing.
    pub(super) fn is_due(&self) -> bool {
        self.look(|plan| plan.is_due(Instant::now()))
    }

    /// To be woken by each change.
    pub(super) fn changes(&self) -> watch::Receiver<Plan> {
        self.plan.subscribe()
    }

    /// Has them look again.
    pub(super) fn wake_waiters(&self) {
        self.plan.send_modify(|_| ());
    }

    #[cold]
    fn admits_late(&self) -> bool {
        if self.stage() < Stage::Draining && self.is_due() {
            self.step(Instant::now());
        }
        self.stage() < Stage::Draining
    }
}

impl Home for State {
    #[inline]
    fn admits(&self) -> bool {
        self.is_serving() || self.admits_late()
    }

    fn vacated(&self) {
        let figures = self.figures();
        self.update(|plan| plan.vacated(Instant::now(), figures));
        self.observe(Left::default);
    }

    fn abandoned(&self) {
        self.plan.send_if_modified(Plan::abandon);
    }
}

impl Hub<State> {
    /// Moves the plan on to where it should be by now.
    pub(crate) fn advance(&self) {
        let state = self.home();
        if matches!(state.stage(), Stage::Serving | Stage::Done) {
            return;
        }
        let now = Instant::now();
        state.step(now);
        if state.stage() >= Stage::Draining {
            // Before the deadline is judged: only in a closed count is 0 the truth.
            self.close();
            if self.occupancy() == 0 {
                // After that: whoever has left, has said before what it was.
                let figures = state.figures();
                state.update(|plan| plan.vacated(now, figures));
            } else if state.look(|plan| plan.is_due(now)) {
                let (figures, left) = self.figures_and_left();
                let blockers = self.blockers(now);
                state.update(|plan| plan.settle(now, left, blockers, figures));
            }
        }
        state.observe(|| self.left());
    }

    /// Both of one moment, if requests do not end faster than can be counted.
    fn figures_and_left(&self) -> (Figures, Left) {
        const TRIES: usize = 10;
        let state = self.home();
        let mut figures = state.figures();
        let mut left = self.left();
        for _ in 0..TRIES {
            let after = state.figures();
            if after.completed == figures.completed {
                break;
            }
            (figures, left) = (after, self.left());
        }
        (figures, left)
    }

    pub(super) fn left(&self) -> Left {
        let state = self.home();
        // Each of these is tallied for a little longer than it is inside. It may come or go while this
        // looks, and shall not pass for a request: so it counts if it has not gone before, and has
        // come by then.
        let others = [&state.tally.works, &state.tally.connections];
        let gone = others.map(|kind| kind.gone.load(Ordering::Acquire));
        let occupancy = self.occupancy();
        let come = others.map(|kind| kind.come.load(Ordering::Acquire));
        let at_most = come
            .iter()
            .zip(gone)
            .map(|(come, gone)| come.wrapping_sub(gone));
        let mut left = Left {
            requests: occupancy.saturating_sub(at_most.sum()),
            connections: state.registry.survey(),
            ..Left::default()
        };
        // As those are in a list for a little shorter than they are inside, nothing is left when all
        // have gone.
        state.works.each(|work| work.count(&mut left));
        left
    }

    fn blockers(&self, now: Instant) -> Blockers {
        let state = self.home();
        let mut all = Vec::new();
        state.requests.each(|asked| all.push(asked.report(now)));
        state.works.each(|work| all.push(work.report(now)));
        state.registry.list(now, &mut all);
        Blockers::new(all)
    }

    pub(super) fn report(&self) -> Report {
        self.advance();
        Report {
            blockers: self.blockers(Instant::now()),
            ..self.home().brief(self.left())
        }
    }

    /// Waits until the plan has what `look` is after, and moves the plan on meanwhile.
    pub(super) async fn until<T>(self: Arc<Self>, look: impl Fn(&Plan) -> Option<T>) -> T {
        let mut changes = self.home().plan.subscribe();
        loop {
            // First this, then the look: what changes from here on, wakes. (The other way round, a
            // request that ends the lame duck in between would go unnoticed, and nobody would
            // close.)
            changes.mark_unchanged();
            self.advance();
            self.home().observe_progress(Instant::now(), &self);
            let next = {
                let plan = changes.borrow();
                if let Some(found) = look(&plan) {
                    return found;
                }
                plan.next_look()
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

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("stage", &self.stage())
            .field("tally.completed", &self.figures().completed)
            .field("tally.refused", &self.figures().refused)
            .finish()
    }
}
