//! What is inside: requests, guards, servers.

use super::{
    counter::Token,
    current::{Current, Identity},
    name::Label,
    registry::Key,
    report::{Blocker, BlockerKind, Counts},
    shared::Shared,
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
    // First, so that what is in the list is counted.
    name: N,
    token: Token<Shared>,
}

impl<N> InFlight<N> {
    #[inline]
    pub(crate) fn new(token: Token<Shared>, name: impl FnOnce(&Token<Shared>) -> N) -> Self {
        let name = name(&token);
        Self { name, token }
    }

    /// Returns whether the drain has begun.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.token.is_slow()
    }
}

impl<N> InFlight<N> {
    /// Says, once the drain has begun, that this thread polls a request of it, until that is dropped.
    #[inline]
    pub(crate) fn current(&self) -> Option<Current> {
        let identity = |token| Identity::of_token(token).enter();
        self.is_draining().then(|| identity(&self.token))
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
            token: self.token,
        }
    }
}

/// What is known of one that is neither a request nor a connection.
pub(super) struct Work {
    kind: BlockerKind,
    name: Mutex<Option<Cow<'static, str>>>,
    taken_at: &'static Location<'static>,
    since: Instant,
    key: Key,
}

impl Work {
    fn new(
        kind: BlockerKind,
        name: Option<Cow<'static, str>>,
        taken_at: &'static Location<'static>,
        key: Key,
    ) -> Self {
        Self {
            kind,
            name: Mutex::new(name),
            taken_at,
            since: Instant::now(),
            key,
        }
    }

    fn name(&self) -> MutexGuard<'_, Option<Cow<'static, str>>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn count(&self, left: &mut Counts) {
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

/// Such an entry, which the drain waits for until this is dropped.
pub(super) struct ListedGuard {
    work: Arc<Work>,
    shared: Arc<Shared>,
}

impl ListedGuard {
    pub(super) fn enter(
        shared: &Arc<Shared>,
        kind: BlockerKind,
        taken_at: &'static Location<'static>,
    ) -> Option<Self> {
        let make = |key| Work::new(kind, None, taken_at, key);
        Some(Self {
            work: shared.works().add(make)?,
            shared: shared.clone(),
        })
    }
}

/// Work that was admitted may spread.
impl Clone for ListedGuard {
    fn clone(&self) -> Self {
        let Work {
            kind,
            taken_at,
            key,
            ..
        } = *self.work;
        let name = self.work.name().clone();
        let make = |key| Work::new(kind, name, taken_at, key);
        Self {
            work: self.shared.works().add_beside(key, make),
            shared: self.shared.clone(),
        }
    }
}

impl Drop for ListedGuard {
    fn drop(&mut self) {
        let emptied = self.shared.works().remove(self.work.key);
        self.shared.part_emptied(emptied);
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
    listed: ListedGuard,
}

impl DrainGuard {
    pub(super) fn new(listed: ListedGuard) -> Self {
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
        let phase = self.listed.shared.phase();
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
