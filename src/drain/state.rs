//! What one drain knows: its phase, its plan, its figures. All handles share it.

use super::{
    count::{Home, Hub},
    outcome::Left,
    phase::Phase,
    plan::{Figures, Plan},
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
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

pub(crate) struct State {
    phase: PhaseCell,
    tally: Tally,
    plan: watch::Sender<Plan>,
}

/// The plan's phase once more, where each request can read it without a lock. On a line of its
/// own: nobody writes it while nobody shuts down.
#[repr(align(128))]
struct PhaseCell(AtomicU8);

/// What is counted beside the in-flight count. Requests touch it only once the drain has begun.
#[derive(Default)]
#[repr(align(128))]
struct Tally {
    /// Of those inside, how many are guards, and how many are servers; the others are requests.
    guards: AtomicUsize,
    servers: AtomicUsize,
    completed: AtomicU64,
    refused: AtomicU64,
}

/// What is inside, if it is not a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Guard,
    Server,
}

impl State {
    pub(super) fn new(lame_duck: Duration, timeout: Duration) -> Self {
        Self {
            phase: PhaseCell(AtomicU8::new(Phase::Serving as u8)),
            tally: Tally::default(),
            plan: watch::Sender::new(Plan::new(lame_duck, timeout)),
        }
    }

    /// As it was last seen; a LameDuck may be over without anybody having looked.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        Phase::from_u8(self.phase.0.load(Ordering::Acquire))
    }

    #[inline]
    pub(crate) fn is_serving(&self) -> bool {
        self.phase.0.load(Ordering::Acquire) == Phase::Serving as u8
    }

    pub(crate) fn count_completed(&self) {
        // Relaxed: leaving, which comes next, publishes it.
        self.tally.completed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.tally.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// To be called while inside.
    pub(super) fn count_in(&self, kind: Kind) {
        self.tally_of(kind).fetch_add(1, Ordering::Relaxed);
    }

    /// To be called while still inside.
    pub(super) fn count_out(&self, kind: Kind) {
        self.tally_of(kind).fetch_sub(1, Ordering::Relaxed);
    }

    fn tally_of(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Guard => &self.tally.guards,
            Kind::Server => &self.tally.servers,
        }
    }

    fn figures(&self) -> Figures {
        Figures {
            completed: self.tally.completed.load(Ordering::Relaxed),
            refused: self.tally.refused.load(Ordering::Relaxed),
        }
    }

    /// The one way to change the plan. The requests' copy of the phase is set before anyone who
    /// waits is told, so that nobody who was told is admitted.
    pub(super) fn update(&self, change: impl FnOnce(&mut Plan)) {
        self.plan.send_if_modified(|plan| {
            let before = (plan.phase(), plan.next_step());
            change(plan);
            self.phase.0.store(plan.phase() as u8, Ordering::Release);
            before != (plan.phase(), plan.next_step())
        });
    }

    #[cold]
    fn admits_late(&self) -> bool {
        // Looked at first: while it lasts, requests shall not stand in line to change nothing.
        if self.phase() == Phase::LameDuck && self.plan.borrow().is_due(Instant::now()) {
            self.update(|plan| plan.end_lame_duck(Instant::now()));
        }
        self.phase() < Phase::Draining
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
    }
}

impl Hub<State> {
    /// Moves the plan on to where it should be by now.
    pub(super) fn advance(&self) {
        let state = self.home();
        if matches!(state.phase(), Phase::Serving | Phase::Done) {
            return;
        }
        let now = Instant::now();
        state.update(|plan| plan.end_lame_duck(now));
        if state.phase() >= Phase::Draining {
            // Before the deadline is judged: only in a closed count is 0 the truth.
            self.close();
            let (left, figures) = (self.left(), state.figures());
            state.update(|plan| plan.settle(now, left, figures));
        }
    }

    pub(super) fn left(&self) -> Left {
        let tally = &self.home().tally;
        let guards = tally.guards.load(Ordering::Acquire);
        let servers = tally.servers.load(Ordering::Acquire);
        // Those two are always inside while they are tallied. Between these reads some may have
        // left, hence saturating.
        let requests = self.occupancy().saturating_sub(guards + servers);
        Left {
            requests,
            guards,
            servers,
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
            let next = {
                let plan = changes.borrow();
                if let Some(found) = look(&plan) {
                    return found;
                }
                plan.next_step()
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
            .field("phase", &self.phase())
            .field("tally.completed", &self.figures().completed)
            .field("tally.refused", &self.figures().refused)
            .finish()
    }
}
