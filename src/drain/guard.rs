//! Work that a drain waits for, beside requests and connections: guards, tracked futures, hooks.

use super::{
    Drain, entry::Entry, outcome::Refused, phase::Phase, registry::Key, report::BlockerKind,
    shared::Shared,
};
use pin_project_lite::pin_project;
use std::{
    borrow::Cow,
    fmt,
    future::Future,
    panic::Location,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::time::Instant;

impl Drain {
    /// Returns a guard for work that is no request. The drain waits until the guard is dropped.
    ///
    /// # Errors
    ///
    /// [`Refused`] from [`Phase::Draining`] on. A guard that was taken before can still be cloned.
    ///
    /// ```
    /// use tower_graceful::Drain;
    ///
    /// # async fn send_the_mail() {}
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_graceful::Refused> {
    /// # let drain = Drain::new();
    /// let guard = drain.guard()?;
    /// tokio::spawn(async move {
    ///     send_the_mail().await;
    ///     drop(guard);
    /// });
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn guard(&self) -> Result<DrainGuard, Refused> {
        self.guard_of(BlockerKind::Guard, Location::caller())
    }

    /// Wraps a future. The drain waits until the future has ended or is dropped.
    ///
    /// The future is counted from this call on, polled or not. A task that has to end with the
    /// drain asks [`reached`](Self::reached).
    ///
    /// # Errors
    ///
    /// [`Refused`] from [`Phase::Draining`] on. The future is dropped then.
    ///
    /// ```
    /// use tokio::time::{Duration, interval};
    /// use tower_graceful::{Drain, Phase};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_graceful::Refused> {
    /// # let drain = Drain::new();
    /// let (stop, mut tick) = (drain.reached(Phase::Draining), interval(Duration::from_secs(60)));
    /// tokio::spawn(drain.track(async move {
    ///     tokio::pin!(stop);
    ///     loop {
    ///         tokio::select! {
    ///             _ = &mut stop => break,
    ///             _ = tick.tick() => { /* roll the log */ }
    ///         }
    ///     }
    ///     // Write what is left. The drain waits for it.
    /// })?);
    /// # Ok(())
    /// # }
    /// ```
    #[track_caller]
    pub fn track<F: IntoFuture>(&self, future: F) -> Result<Tracked<F::IntoFuture>, Refused> {
        let guard = self.guard_of(BlockerKind::Task, Location::caller())?;
        Ok(Tracked {
            future: future.into_future(),
            guard: Some(guard),
        })
    }

    fn guard_of(
        &self,
        kind: BlockerKind,
        taken_at: &'static Location<'static>,
    ) -> Result<DrainGuard, Refused> {
        // The list may close later: requests are admitted for longer where the drain has a
        // listener.
        if self.phase() >= Phase::Draining {
            return Err(Refused);
        }
        DrainGuard::enter(self.shared(), kind, taken_at).ok_or(Refused)
    }

    /// Runs a hook at [`Phase::Draining`], and waits for it until the deadline: Go's
    /// `RegisterOnShutdown`.
    ///
    /// The hook runs once, in a task of its own, and gets the [deadline](Self::deadline). For work
    /// at the signal, before a lame duck, await [`reached(Phase::LameDuck)`](Self::reached) in a
    /// task.
    ///
    /// A hook that is registered later runs at once. The drain waits for a late hook, too, if it is
    /// registered while the drain still admits requests.
    ///
    /// If the last clone of a drain is dropped before the drain has begun, its hooks are dropped
    /// without being run. A hook that owns a clone prevents that: the hook and its task stay until
    /// the runtime ends.
    ///
    /// Until the hook has run, it counts as a task in [`left`](Self::left).
    ///
    /// This method needs the feature `net`.
    ///
    /// ```
    /// use tower_graceful::Drain;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let drain = Drain::new();
    /// drain.on_shutdown(async |_deadline| { /* take the node out of the ring */ });
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// When called outside of a tokio runtime.
    #[cfg(feature = "net")]
    #[track_caller]
    pub fn on_shutdown<H, F>(&self, hook: H)
    where
        H: FnOnce(Option<Instant>) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let guard = DrainGuard::enter(self.shared(), BlockerKind::Hook, Location::caller());
        let shared = self.shared().clone();
        // It may stop a server.
        shared.record(super::Fact::StopSignal);
        tokio::spawn(async move {
            let comes = shared.until(|schedule| match schedule.phase() >= Phase::Draining {
                true => Some(Some(schedule.deadline())),
                false => schedule.is_abandoned().then_some(None),
            });
            if let Some(deadline) = comes.await {
                hook(deadline).await;
            }
            drop(guard);
        });
    }
}

/// Keeps a drain waiting until it is dropped; from [`Drain::guard`].
///
/// Each clone counts, also one that is made during the drain: work that was admitted may spread.
///
/// A [report](Drain::report) says where the guard was taken, its age, and its [name](Self::named).
#[must_use = "the drain stops waiting when the guard is dropped"]
pub struct DrainGuard {
    key: Key,
    shared: Arc<Shared>,
}

impl DrainGuard {
    /// Lists an entry. Returns `None` once the drain admits nothing more.
    pub(super) fn enter(
        shared: &Arc<Shared>,
        kind: BlockerKind,
        taken_at: &'static Location<'static>,
    ) -> Option<Self> {
        let entry = Entry {
            kind,
            taken_at,
            name: None,
            since: Instant::now(),
        };
        Some(Self {
            key: shared.entries.add(entry)?,
            shared: shared.clone(),
        })
    }

    /// Sets the name under which a [report](Drain::report) lists the guard.
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
        let name = Some(name.into());
        let entries = &self.shared.entries;
        entries.with(self.key, |entry| entry.name = name);
        self
    }
}

/// Lists another entry, also during the drain: work that was admitted may spread.
impl Clone for DrainGuard {
    fn clone(&self) -> Self {
        let since = Instant::now();
        let copy = |entry: &Entry| Entry {
            since,
            ..entry.clone()
        };
        Self {
            key: self.shared.entries.add_beside(self.key, copy),
            shared: self.shared.clone(),
        }
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        if self.shared.entries.remove(self.key) {
            self.shared.part_emptied();
        }
    }
}

impl fmt::Debug for DrainGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entry = self.shared.entries.with(self.key, |entry| entry.clone());
        f.debug_struct("DrainGuard")
            .field("phase", &self.shared.phase())
            .field("name", &entry.name)
            .field("taken_at", &entry.taken_at)
            .finish()
    }
}

pin_project! {
    /// Keeps a drain waiting for a future; from [`Drain::track`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled, and the drain waits for this one"]
    pub struct Tracked<F> {
        #[pin]
        future: F,
        // Last, so that the future is dropped before it is uncounted.
        guard: Option<DrainGuard>,
    }
}

impl<F> Tracked<F> {
    /// Sets the name under which a [report](Drain::report) lists the future; see
    /// [`DrainGuard::named`].
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
