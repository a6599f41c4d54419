//! What the token of a request does beside counting it, and what a report says of the request.

use super::{
    current::Current,
    entry::RequestEntry,
    registry::Key,
    shared::{ListedRequest, Shared},
    token::Token,
};
use http::Request;
use std::{net::SocketAddr, task::Waker};

impl Token<Shared> {
    /// Lists the request, so that reports say what it is. It costs an entry in a list, which is in
    /// shards, each under a lock. A request that is not counted is not listed.
    #[cold]
    pub(crate) fn listed<B>(self, request: &Request<B>, peer: Option<SocketAddr>) -> Self {
        if !self.is_counted() {
            return self;
        }
        let peer = peer.or_else(|| peer_of(request));
        let entry = RequestEntry::new(request, peer);
        match ListedRequest::new(entry, self.data()) {
            Some(listed) => self.with_details(listed),
            None => self,
        }
    }

    /// Returns whether the response closes its connection: the drain has begun. (Of a request that is
    /// not counted, its [`Closing`](crate::close::Closing) says all.)
    #[cold]
    pub(crate) fn closes(&self) -> bool {
        !self.is_counted() || self.has_begun()
    }

    /// Records, once the drain has begun, that this thread polls one of its requests, until the value
    /// that this returns is dropped.
    #[inline]
    pub(crate) fn current(&self) -> Option<Current> {
        (self.is_slow() && self.has_begun()).then(|| Current::of_layer(self))
    }

    /// Returns whether a pending request has to be answered now, as the drain is forced, and counts
    /// it then. Otherwise the drain wakes the task once it has to be. Only for a request that is
    /// counted.
    #[inline(never)]
    pub(crate) fn answer_is_due(&self, place: &mut Option<Key>, waker: &Waker) -> bool {
        self.data().answer_is_due(place, waker)
    }

    /// Ends the waiting of a request.
    #[inline(never)]
    pub(crate) fn stop_waiting(&self, place: &mut Option<Key>) {
        if self.data().stop_waiting(place) {
            if let Some(shared) = self.owner() {
                shared.all_answered();
            }
        }
    }

    /// Records that the response has begun, where the request is listed.
    #[cold]
    pub(crate) fn response_begun(&self) {
        self.details(ListedRequest::response_begun);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Drain;
    use std::thread;

    /// Each thread lists its requests in a shard of its own.
    #[test]
    fn only_the_last_request_of_all_threads_ends_the_answering() {
        let drain = Drain::new();
        let waits = || {
            let handle = drain.shared().counter_handle();
            let token = handle.enter_by_index().expect("it has not begun");
            let mut place = None;
            assert!(!token.answer_is_due(&mut place, Waker::noop()));
            (token, place)
        };
        let [(one, mut first), (other, mut last)] = thread::scope(|scope| {
            let threads = [scope.spawn(waits), scope.spawn(waits)];
            threads.map(|thread| thread.join().expect("no panic"))
        });
        drain.force();
        assert!(!one.data().stop_waiting(&mut first), "another one waits");
        assert!(other.data().stop_waiting(&mut last));
        assert!(!other.data().stop_waiting(&mut last), "it has ended");
    }
}
