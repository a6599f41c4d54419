//! What a drain knows of each guard, task, server and request that it lists.

use super::report::{Blocker, BlockerKind, Counts};
use http::{Method, uri::PathAndQuery};
use std::{
    borrow::Cow,
    net::SocketAddr,
    panic::Location,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::time::Instant;

/// Describes a guard, a task, a hook or a server.
pub(super) struct Entry {
    pub(super) kind: BlockerKind,
    pub(super) taken_at: &'static Location<'static>,
    name: Mutex<Option<Cow<'static, str>>>,
    since: Instant,
}

impl Entry {
    pub(super) fn new(
        kind: BlockerKind,
        name: Option<Cow<'static, str>>,
        taken_at: &'static Location<'static>,
    ) -> Self {
        Self {
            kind,
            taken_at,
            name: Mutex::new(name),
            since: Instant::now(),
        }
    }

    /// Locks the name. A panic cannot leave it half written, so a poisoned lock is fine.
    pub(super) fn name(&self) -> MutexGuard<'_, Option<Cow<'static, str>>> {
        self.name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds this entry to the counts.
    pub(super) fn count(&self, left: &mut Counts) {
        let count = match self.kind {
            BlockerKind::Server => &mut left.servers,
            BlockerKind::Task | BlockerKind::Hook => &mut left.tasks,
            _ => &mut left.guards,
        };
        *count += 1;
    }

    /// Returns this entry as a report lists it.
    pub(super) fn report(&self, now: Instant) -> Blocker {
        Blocker {
            name: self.name().clone(),
            taken_at: Some(self.taken_at),
            ..Blocker::new(self.kind, now.saturating_duration_since(self.since))
        }
    }
}

/// Describes a request that reports list.
pub(super) struct RequestEntry {
    method: Method,
    path: Option<PathAndQuery>,
    peer: Option<SocketAddr>,
    since: Instant,
    response_begun: AtomicBool,
}

impl RequestEntry {
    pub(super) fn new<B>(request: &http::Request<B>, peer: Option<SocketAddr>) -> Self {
        Self {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            peer,
            since: Instant::now(),
            response_begun: AtomicBool::new(false),
        }
    }

    fn path(&self) -> &str {
        self.path.as_ref().map_or("", PathAndQuery::path)
    }

    pub(super) fn response_begun(&self) {
        self.response_begun.store(true, Ordering::Relaxed);
    }

    /// Returns this entry as a report lists it.
    pub(super) fn report(&self, now: Instant) -> Blocker {
        Blocker {
            method: Some(self.method.clone()),
            path: Some(self.path().to_owned()),
            peer: self.peer,
            response_begun: self.response_begun.load(Ordering::Relaxed),
            ..Blocker::new(
                BlockerKind::Request,
                now.saturating_duration_since(self.since),
            )
        }
    }
}
