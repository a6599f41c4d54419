//! An axum server that stops without losing what it has begun.
//!
//! `cargo run --example axum`, then `curl localhost:3000/slow` in one terminal and Ctrl-C here: the
//! request is answered first. With `kill` in place of Ctrl-C, which skips the lame duck at a terminal,
//! `curl localhost:3000/readyz` says 503 from the signal on, until the listener closes.

use axum::{Router, routing::get};
use std::{error::Error, time::Duration};
use tokio::time::sleep;
use tower_graceful::{Drain, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First: before it, SIGTERM ends the process.
    let stop = signal::terminate();
    let drain = Drain::builder()
        // As long as the balancer takes to ask /readyz and to send requests elsewhere.
        .lame_duck(Duration::from_secs(2))
        // For everything, the lame duck included. Kubernetes kills after 30 s.
        .timeout(Duration::from_secs(25))
        .build();

    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow))
        .layer(drain.layer())
        // After the layer, hence outside of it: probes are neither counted nor refused.
        .route_service("/readyz", drain.readiness())
        .route("/healthz", get(async || "alive\n"));

    let listener = drain.bind("127.0.0.1:3000").await?;
    println!("http://localhost:3000, Ctrl-C to stop");

    // The drain's own listener: nothing that has arrived is lost, and nobody can hang the end.
    let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    let drained = drain.run(server, stop).await?;
    println!("{drained}");
    Ok(())
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(5)).await;
    "that took a while\n"
}
