//! What clients see of unmodified axum::serve and tonic, with connections that a drain counts; and
//! of `tower_graceful::serve`.
//!
//! Sockets and time are real: a case with a time limit takes that long.

mod accept;
mod answering;
mod capacity;
mod client;
mod handshakes;
mod hangs;
mod http1;
mod http2;
mod lame_duck;
mod limits;
mod lingering;
mod options;
mod report;
mod serve;
mod server;
mod streams;
mod tls;
#[path = "../../../../examples/axum_tls/src/listener.rs"]
mod tls_listener;
mod upgrades;
mod web_clients;
mod websockets;
mod wiring;

use std::time::Duration;

/// Nothing here takes so long on any machine; without it, what hangs would hang for ever.
const GUARD: Duration = Duration::from_secs(30);

async fn guarded<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(GUARD, future).await.expect("it hangs")
}
