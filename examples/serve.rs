//! An axum router on `serve`, with the settings that a server on the internet needs.
//!
//! `cargo run --example serve`, then `curl localhost:3000/slow` in one terminal and Ctrl-C here:
//! the request is answered first. A Ctrl-C at a terminal skips the lame duck. With `kill` in its
//! place, `curl localhost:3000/readyz` says 503 from the signal on, until the listener closes.

use axum::{Router, extract::ConnectInfo, routing::get};
use std::{error::Error, net::SocketAddr, time::Duration};
use tokio::time::sleep;
use tower_graceful::{Drain, Serve, signal};

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
    // The drain waits for this hook.
    drain.on_shutdown(async |_deadline| println!("no new requests"));

    let app = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow))
        .route_service("/readyz", drain.readiness());

    let server = Serve::new(app).bind("127.0.0.1:3000").await?;
    println!("http://localhost:3000, Ctrl-C to stop");

    let server = server
        .with_drain(drain)
        .shutdown_on(stop)
        // More connections wait in the accept queue.
        .max_connections(10_000)
        // Longer than that of a proxy in front, so that the proxy closes idle connections.
        .idle_timeout(Duration::from_secs(75))
        .on_connect(|connection, extensions| {
            if let Some(peer) = connection.peer().tcp() {
                extensions.insert(ConnectInfo(peer));
            }
        });
    println!("{}", server.await?);
    Ok(())
}

async fn hello(ConnectInfo(peer): ConnectInfo<SocketAddr>) -> String {
    format!("hello, {peer}\n")
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(5)).await;
    "that took a while\n"
}
