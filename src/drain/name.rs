//! What a request is known by: nothing, or its name, which is then in the drain's list.

use super::{
    counter::Token,
    entry::RequestEntry,
    shared::{RequestData, Shared},
    sync::Arc,
};
use http::Request;
use std::{fmt, net::SocketAddr};

/// Goes with each request that is inside. `()` is no name, and nothing to do; the default is none, too.
pub(crate) trait Label: Default {
    /// Whether there is anything to do.
    const NAMES: bool;

    /// Of a request that is inside.
    fn of<B>(request: &Request<B>, token: &Token<Shared>) -> Self;

    /// The response has begun, and so many bytes more of its body have been taken by the server.
    fn sent(&self, bytes: usize);
}

impl Label for () {
    const NAMES: bool = false;

    #[inline]
    fn of<B>(_: &Request<B>, _: &Token<Shared>) {}

    #[inline]
    fn sent(&self, _: usize) {}
}

/// What a request is known by in a [report](crate::Drain::report); see
/// [`GracefulLayer::name_requests`](crate::GracefulLayer::name_requests).
#[derive(Default)]
pub struct RequestName(Option<Entry>);

/// In the drain's list, until this is dropped.
struct Entry {
    asked: Arc<RequestEntry>,
    data: &'static RequestData,
}

impl RequestName {
    pub(crate) fn new<B>(
        request: &Request<B>,
        token: &Token<Shared>,
        peer: Option<SocketAddr>,
    ) -> Self {
        let data = token.data();
        let asked = data
            .requests()
            .add(|key| RequestEntry::new(request, peer, key));
        Self(asked.map(|asked| Entry { asked, data }))
    }
}

impl Label for RequestName {
    const NAMES: bool = true;

    fn of<B>(request: &Request<B>, token: &Token<Shared>) -> Self {
        Self::new(request, token, peer(request))
    }

    fn sent(&self, bytes: usize) {
        if let Some(Entry { asked, .. }) = &self.0 {
            asked.sent(bytes);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        // That list is never closed: the counter counts.
        let _ = self.data.requests().remove(self.asked.key);
    }
}

/// Where axum and tonic say it.
fn peer<B>(request: &Request<B>) -> Option<SocketAddr> {
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

impl fmt::Debug for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asked = self.0.as_ref().map(|entry| &entry.asked);
        f.debug_struct("RequestName")
            .field("method", &asked.map(|asked| &asked.method))
            .field("path", &asked.map(|asked| asked.path()))
            .finish()
    }
}
