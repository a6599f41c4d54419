//! An axum server that stops without losing a request.
//!
//! `cargo run --example axum`, then `curl localhost:3000/slow` in one terminal and Ctrl-C here: the
//! request is answered first. A Ctrl-C at a terminal skips the lame duck. With `kill` in its place,
//! `curl localhost:3000/readyz` says 503 from the signal on, until the listener closes.

use axum::{Router, routing::get};
use std::{error::Error, time::Duration};
use tokio::time::sleep;
use tower_graceful::{Drain, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First in `main`: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    let drain = Drain::builder()
        // The balancer needs this long to ask /readyz and to send requests elsewhere.
        .lame_duck(Duration::from_secs(2))
        // The limit of the whole drain, with the lame duck. Kubernetes kills after 30 s.
        .timeout(Duration::from_secs(25))
        .build();

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow))
        .layer(drain.layer())
        // Added after the layer, so outside of it: probes are neither counted nor refused.
        .route_service("/readyz", drain.readiness())
        .route("/healthz", get(async || "alive\n"));

    let listener = drain.bind("127.0.0.1:3000").await?;
    println!("http://localhost:3000, Ctrl-C to stop");

    // With `drain.bind`, requests that have arrived are served, and no client can hang the drain.
    let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    let drained = drain.run(server, stop).await?;
    println!("{drained}");
    Ok(())
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(5)).await;
    "that took a while\n"
}
