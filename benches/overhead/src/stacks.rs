//! The stacks that are compared.

use crate::{
    counted::CountLayer,
    designs::{LeakedStripes, SharedWord, Stripes},
    ours::Ours,
    request::Stack,
};
use bytes::Bytes;
use http::{
    HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body_util::Full;
use std::mem::forget;
use tokio_util::task::TaskTracker;
use tower::{ServiceBuilder, layer::util::Identity, limit::ConcurrencyLimitLayer};
use tower_graceful::Drain;
use tower_http::metrics::InFlightRequestsLayer;

/// A stack that can be set up.
#[derive(Clone, Copy)]
pub struct Entry {
    /// In commands and paths.
    pub name: &'static str,
    /// In the table.
    pub title: &'static str,
    pub set_up: fn() -> Stack,
}

/// All of them. The first is what the others are compared with; the second is the yardstick.
pub const STACKS: [Entry; 12] = [
    entry("bare", "bare service", bare),
    entry("in_flight", "tower-http `InFlightRequests`", in_flight),
    entry("limit", "tower `ConcurrencyLimit`", limit),
    entry("tracker", "tokio-util `TaskTracker`", tracker),
    entry("serving", "**tower-graceful**, serving", serving),
    entry(
        "named",
        "**tower-graceful**, serving, requests named",
        named,
    ),
    entry(
        "serving_headers",
        "**tower-graceful**, serving three headers",
        serving_headers,
    ),
    entry("refusing", "**tower-graceful**, refusing", refusing),
    entry("shared_word", "design: one shared word", shared_word),
    entry("striped_word", "design: a word per stripe", striped_word),
    entry(
        "leaked_word",
        "design: a leaked word per stripe",
        leaked_word,
    ),
    entry(
        "ours",
        "design: recycled words with a generation (ours)",
        ours,
    ),
];

const fn entry(name: &'static str, title: &'static str, set_up: fn() -> Stack) -> Entry {
    Entry {
        name,
        title,
        set_up,
    }
}

fn bare() -> Stack {
    Stack::new(Identity::new())
}

/// Counts to the end of the body, does not refuse.
fn in_flight() -> Stack {
    Stack::new(InFlightRequestsLayer::pair().0)
}

/// Never reached. Counts to the end of the future, not of the body.
fn limit() -> Stack {
    Stack::new(ConcurrencyLimitLayer::new(1 << 20))
}

/// Its tokens, in the layer that one would write by hand.
fn tracker() -> Stack {
    Stack::new(CountLayer::new(TaskTracker::new()))
}

/// While nobody shuts down.
fn serving() -> Stack {
    let drain = Drain::new();
    let layer = drain.layer();
    // As long-lived as an application's: it keeps the stripes.
    forget(drain);
    Stack::new(layer)
}

/// Likewise, and each of them is in the list that a report shows.
fn named() -> Stack {
    let drain = Drain::new();
    let layer = drain.layer().report_requests();
    forget(drain);
    Stack::new(layer)
}

/// While nobody shuts down, with as many headers on the response as a refusal has.
fn serving_headers() -> Stack {
    let drain = Drain::new();
    let layer = drain.layer();
    forget(drain);
    Stack::new(
        ServiceBuilder::new()
            .layer(layer)
            .map_response(three_headers)
            .into_inner(),
    )
}

fn three_headers(mut response: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from_static("5"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// While the drain goes on.
fn refusing() -> Stack {
    let drain = Drain::new();
    // Never ends.
    forget(drain.guard());
    drain.begin();
    let layer = drain.layer();
    forget(drain);
    Stack::new(layer)
}

fn shared_word() -> Stack {
    Stack::new(CountLayer::new(SharedWord::default()))
}

fn striped_word() -> Stack {
    Stack::new(CountLayer::new(Stripes::new()))
}

fn leaked_word() -> Stack {
    Stack::new(CountLayer::new(LeakedStripes::new()))
}

fn ours() -> Stack {
    Stack::new(CountLayer::new(Ours::new()))
}
