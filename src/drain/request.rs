//! A request in flight: its token, and what a report says of it where requests are listed.

use super::{
    counter::Token,
    current::{Current, Identity},
    registry::Key,
    report::{Blocker, BlockerKind},
    shared::{RequestData, Shared},
    sync::{Arc, AtomicU64, Ordering},
};
use http::{Method, Request, uri::PathAndQuery};
use std::net::SocketAddr;
use tokio::time::Instant;

/// A request that is counted, from its call until its response body is dropped.
pub(crate) struct InFlight {
    token: Token<Shared>,
}

impl InFlight {
    #[inline]
    pub(crate) fn new(token: Token<Shared>) -> Self {
        Self { token }
    }

    /// Lists the request, so that reports say what it is. It costs an allocation and an entry in a
    /// list, which is in shards, each under a lock.
    #[cold]
    pub(crate) fn listed<B>(self, request: &Request<B>, peer: Option<SocketAddr>) -> Self {
        let data = self.token.data();
        let entry = data.requests().add(|key| RequestEntry {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            peer: peer.or_else(|| peer_of(request)),
            since: Instant::now(),
            sent: AtomicU64::new(0),
            key,
        });
        match entry {
            Some(entry) => Self::new(self.token.with_details(ListedRequest { entry, data })),
            // The list is never closed; the counter closes.
            None => self,
        }
    }

    /// Returns whether one of the cold methods below has something to do. One load.
    #[inline]
    pub(crate) fn is_slow(&self) -> bool {
        self.token.is_slow()
    }

    /// Returns whether the drain has begun.
    #[inline]
    pub(crate) fn is_draining(&self) -> bool {
        self.is_slow() && self.token.has_begun()
    }

    /// Records, once the drain has begun, that this thread polls one of its requests, until the value
    /// that this returns is dropped.
    #[inline]
    pub(crate) fn current(&self) -> Option<Current> {
        self.is_slow()
            .then(|| Identity::of_token(&self.token).enter())
    }

    /// Records that the response has begun, and that the server took so many bytes more of its body.
    #[cold]
    pub(crate) fn sent(&self, bytes: usize) {
        self.token.details(|listed| listed.entry.sent(bytes));
    }
}

/// An entry in the drain's list of requests, until this is dropped.
pub(crate) struct ListedRequest {
    entry: Arc<RequestEntry>,
    data: &'static RequestData,
}

impl Drop for ListedRequest {
    fn drop(&mut self) {
        // The list is never closed, so it is never emptied for good.
        let _ = self.data.requests().remove(self.entry.key);
    }
}

/// What is known of a request that is listed.
pub(super) struct RequestEntry {
    method: Method,
    path: Option<PathAndQuery>,
    peer: Option<SocketAddr>,
    since: Instant,
    /// Bytes plus one; 0 before the response has begun.
    sent: AtomicU64,
    key: Key,
}

impl RequestEntry {
    fn sent(&self, bytes: usize) {
        // Only the task that has the response writes here.
        let before = self.sent.load(Ordering::Relaxed).max(1);
        let sent = before.saturating_add(bytes as u64);
        self.sent.store(sent, Ordering::Relaxed);
    }

    pub(super) fn report(&self, now: Instant) -> Blocker {
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        Blocker {
            method: Some(self.method.clone()),
            path: Some(path.to_owned()),
            peer: self.peer,
            sent: self.sent.load(Ordering::Relaxed).checked_sub(1),
            ..Blocker::new(
                BlockerKind::Request,
                now.saturating_duration_since(self.since),
            )
        }
    }
}

/// Returns the peer's address, where axum or tonic have put it into the request.
fn peer_of<B>(request: &Request<B>) -> Option<SocketAddr> {
    #[cfg(feature = "axum")]
    if let Some(info) = request
        .extensions()
        .get::<axum::extract::ConnectInfo<SocketAddr>>()
    {
        return Some(info.0);
    }
    #[cfg(feature = "tonic")]
    if let Some(info) = request
        .extensions()
        .get::<tonic::transport::server::TcpConnectInfo>()
    {
        return info.remote_addr();
    }
    let _ = request;
    None
}
