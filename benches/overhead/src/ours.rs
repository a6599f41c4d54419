//! The layer of this crate. Everything that this package uses of it stands here.

use crate::{bare::Bare, stacks::Stack};
use std::mem::forget;
use tower::{Layer, util::MapResponseLayer};
use tower_graceful::{Drain, GracefulLayer};

/// In the order of the table.
pub(crate) fn stacks() -> [Stack; 4] {
    let headers = MapResponseLayer::new(crate::stacks::three_headers);
    [
        Stack::new("serving", "ours, serving", serving().layer(Bare)),
        Stack::new(
            "listing",
            "ours, serving, requests listed in reports",
            serving().report_requests().layer(Bare),
        ),
        Stack::new(
            "headers",
            "ours, serving a response with 3 headers",
            serving().layer(headers.layer(Bare)),
        ),
        Stack::new(
            "refusing",
            "ours, refusing (3 headers)",
            refusing().layer(Bare),
        )
        .refusing(),
    ]
}

fn serving() -> GracefulLayer {
    let drain = Drain::new();
    let layer = drain.layer();
    // It lives as long as the process, as in an application.
    forget(drain);
    layer
}

fn refusing() -> GracefulLayer {
    let drain = Drain::new();
    // Never ends.
    forget(drain.guard());
    drain.begin();
    let layer = drain.layer();
    forget(drain);
    layer
}
