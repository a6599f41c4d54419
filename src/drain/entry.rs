//! What a drain knows of each guard, task, server and request that it lists.

use super::report::{Blocker, BlockerKind, Counts};
use http::{Method, uri::PathAndQuery};
use std::{borrow::Cow, net::SocketAddr, panic::Location};
use tokio::time::Instant;

/// Describes a guard, a task, a hook or a server.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) kind: BlockerKind,
    pub(super) taken_at: &'static Location<'static>,
    pub(super) name: Option<Cow<'static, str>>,
    pub(super) since: Instant,
}

impl Entry {
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
            name: self.name.clone(),
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
    pub(super) response_begun: bool,
}

impl RequestEntry {
    pub(super) fn new<B>(request: &http::Request<B>, peer: Option<SocketAddr>) -> Self {
        Self {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            peer,
            since: Instant::now(),
            response_begun: false,
        }
    }

    /// Returns this entry as a report lists it.
    pub(super) fn report(&self, now: Instant) -> Blocker {
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        Blocker {
            method: Some(self.method.clone()),
            path: Some(path.to_owned()),
            peer: self.peer,
            response_begun: self.response_begun,
            ..Blocker::new(
                BlockerKind::Request,
                now.saturating_duration_since(self.since),
            )
        }
    }
}
