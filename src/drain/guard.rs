//! What is inside: requests, guards, servers.

use super::{
    Entrance,
    count::Pass,
    name::Label,
    report::{Blocker, BlockerKind, Left},
    roster::Place,
    state::{Kind, State},
    sync::Arc,
};
use pin_project_lite::pin_project;
use std::{
    borrow::Cow,
    fmt,
    future::Future,
    panic::Location,
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};
use tokio::time::Instant;

/// One request, from its call to the end of its response body; and what it is known by.
pub(crate) struct InFlight<N = ()> {
    // First, so that whoever is in the list is counted.
    name: N,
    counted: Counted,
}

/// A request that is inside.
struct Counted {
    pass: Pass<State>,
}

impl<N> InFlight<N> {
    #[inline]
    pub(crate) fn enter(entrance: &Entrance, name: impl FnOnce() -> N) -> Option<Self> {
        let counted = Counted {
            pass: entrance.enter()?,
        };
        Some(Self {
            name: name(),
            counted,
        })
    }

    /// One more on a connection that is inside, whether or not others are admitted still.
    #[cfg(feature = "server")]
    pub(crate) fn of(connection: &Inside, name: impl FnOnce() -> N) -> Self {
        let counted = Counted {
            pass: connection.pass.clone(),
        };
        Self {
            name: name(),
            counted,
        }
    }

    /// Whether the drain has begun.
    #[inline]
    pub(crate) fn is_last_call(&self) -> bool {
        self.counted.is_last_call()
    }
}

impl<N: Label> InFlight<N> {
    /// See [`Label::sent`].
    #[inline]
    pub(crate) fn sent(&self, bytes: usize) {
        self.name.sent(bytes);
    }
}

impl InFlight {
    /// The same request, where others have names.
    pub(crate) fn renamed<N: Label>(self) -> InFlight<N> {
        InFlight {
            name: N::default(),
            counted: self.counted,
        }
    }
}

impl Counted {
    #[inline]
    fn is_last_call(&self) -> bool {
        !self.pass.home().is_serving()
    }
}

impl Drop for Counted {
    #[inline]
    fn drop(&mut self) {
        if self.is_last_call() {
            self.pass.home().count_completed();
        }
    }
}

/// Something inside that is no request.
pub(crate) struct Inside {
    // First, so that it is tallied for longer than it is inside: it shall not pass for a request.
    pass: Pass<State>,
    tallied: Tallied,
}

struct Tallied {
    kind: Kind,
    entrance: Entrance,
}

impl Inside {
    pub(super) fn enter(entrance: &Entrance, kind: Kind) -> Option<Self> {
        let tallied = Tallied::new(entrance, kind);
        Some(Self {
            pass: entrance.enter()?,
            tallied,
        })
    }
}

impl Clone for Inside {
    fn clone(&self) -> Self {
        let Tallied { kind, entrance } = &self.tallied;
        let tallied = Tallied::new(entrance, *kind);
        Self {
            pass: self.pass.clone(),
            tallied,
        }
    }
}

impl Tallied {
    fn new(entrance: &Entrance, kind: Kind) -> Self {
        let entrance = entrance.clone();
        entrance.home().count_in(kind);
        Self { kind, entrance }
    }
}

impl Drop for Tallied {
    fn drop(&mut self) {
        self.entrance.home().count_out(self.kind);
    }
}

/// What is known of one that is neither a request nor a connection.
pub(super) struct Work {
    kind: BlockerKind,
    name: Mutex<Option<Cow<'static, str>>>,
    taken_at: &'static Location<'static>,
    since: Instant,
    place: Place,
}

impl Work {
    fn name(&self) -> MutexGuard<'_, Option<Cow<'static, str>>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, left: &mut Left) {
        let count = match self.kind {
            BlockerKind::Server => &mut left.servers,
            BlockerKind::Task | BlockerKind::Hook => &mut left.tasks,
            _ => &mut left.guards,
        };
        *count += 1;
    }

    pub(super) fn report(&self, now: Instant) -> Blocker {
        Blocker {
            name: self.name().clone(),
            taken_at: Some(self.taken_at),
            ..Blocker::new(self.kind, now.saturating_duration_since(self.since))
        }
    }
}

/// Such a one, inside and in the list.
pub(super) struct Listed {
    work: Arc<Work>,
    // Last, likewise.
    inside: Inside,
}

impl Listed {
    pub(super) fn enter(
        entrance: &Entrance,
        kind: BlockerKind,
        taken_at: &'static Location<'static>,
    ) -> Option<Self> {
        let inside = Inside::enter(entrance, Kind::Work)?;
        Some(Self::new(inside, kind, None, taken_at))
    }

    fn new(
        inside: Inside,
        kind: BlockerKind,
        name: Option<Cow<'static, str>>,
        taken_at: &'static Location<'static>,
    ) -> Self {
        let work = inside.pass.home().works().add(|place| Work {
            kind,
            name: Mutex::new(name),
            taken_at,
            since: Instant::now(),
            place,
        });
        Self { work, inside }
    }
}

impl Clone for Listed {
    fn clone(&self) -> Self {
        let Work { kind, taken_at, .. } = *self.work;
        Self::new(
            self.inside.clone(),
            kind,
            self.work.name().clone(),
            taken_at,
        )
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.inside.pass.home().works().remove(self.work.place);
    }
}

/// Work that a drain waits for, until this is dropped; from [`Drain::guard`](crate::Drain::guard).
///
/// A clone is counted for itself, also when it is made during the drain: work that was admitted
/// may spread.
///
/// A [report](crate::Drain::report) says where it was taken, since when it is there, and its
/// [name](Self::named).
#[derive(Clone)]
#[must_use = "the drain stops waiting when the guard is dropped"]
pub struct DrainGuard {
    listed: Listed,
}

impl DrainGuard {
    pub(super) fn new(listed: Listed) -> Self {
        Self { listed }
    }

    /// Says in a [report](crate::Drain::report) whose it is.
    ///
    /// ```
    /// use tower_graceful::{Drain, Refused};
    ///
    /// # fn main() -> Result<(), Refused> {
    /// let drain = Drain::new();
    /// let guard = drain.guard()?.named("outbox");
    /// assert_eq!(drain.report().blockers[0].name.as_deref(), Some("outbox"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn named(self, name: impl Into<Cow<'static, str>>) -> Self {
        *self.listed.work.name() = Some(name.into());
        self
    }
}

impl fmt::Debug for DrainGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = self.listed.inside.pass.home().phase();
        f.debug_struct("DrainGuard")
            .field("phase", &phase)
            .field("name", &*self.listed.work.name())
            .field("taken_at", &self.listed.work.taken_at)
            .finish()
    }
}

pin_project! {
    /// A future that a drain waits for; from [`Drain::track`](crate::Drain::track).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled, and the drain waits for this one"]
    pub struct Tracked<F> {
        #[pin]
        future: F,
        // Last, so that the future is dropped before it is said to have ended.
        guard: Option<DrainGuard>,
    }
}

impl<F> Tracked<F> {
    pub(super) fn new(future: F, guard: DrainGuard) -> Self {
        Self {
            future,
            guard: Some(guard),
        }
    }

    /// Says in a [report](crate::Drain::report) whose it is; see [`DrainGuard::named`].
    pub fn named(mut self, name: impl Into<Cow<'static, str>>) -> Self {
        self.guard = self.guard.map(|guard| guard.named(name));
        self
    }
}

impl<F: Future> Future for Tracked<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let output = ready!(this.future.poll(cx));
        *this.guard = None;
        Poll::Ready(output)
    }
}
