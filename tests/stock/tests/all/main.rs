//! What clients see of axum::serve and tonic, unmodified, when their connections are the drain's; and
//! of `tower_graceful::serve`.
//!
//! Real sockets, and no clock but the real one: where a case says "for so long", it takes so long.

mod accept;
mod capacity;
mod client;
mod handshakes;
mod hangs;
mod http1;
mod http2;
mod limits;
mod lingering;
mod options;
mod report;
mod serve;
mod server;
mod tls;
#[path = "../../../../examples/axum_tls/src/listener.rs"]
mod tls_listener;
mod upgrades;

use std::time::Duration;

/// Nothing here takes so long on any machine; without it, what hangs would hang for ever.
const GUARD: Duration = Duration::from_secs(30);

async fn guarded<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(GUARD, future).await.expect("it hangs")
}
