//! axum on `tower_graceful::serve`, with what a server on the internet wants to have set.
//!
//! `cargo run --example serve`, then `curl localhost:3000/slow` in one terminal and Ctrl-C here: the
//! request is answered first. With `kill` in place of Ctrl-C, which skips the lame duck at a terminal,
//! `curl localhost:3000/readyz` says 503 from the signal on, until the listener closes.

use axum::{Router, extract::ConnectInfo, routing::get};
use std::{error::Error, net::SocketAddr, time::Duration};
use tokio::time::sleep;
use tower_graceful::{Drain, Serve, signal};

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
    // Is waited for, as a request is.
    drain.on_shutdown(async |_deadline| println!("the listener has closed"));

    let app = Router::new()
        .route("/", get(hello))
        .route("/slow", get(slow))
        .route_service("/readyz", drain.readiness());

    let server = Serve::new(app).bind("127.0.0.1:3000").await?;
    println!("http://localhost:3000, Ctrl-C to stop");

    let server = server
        .with_drain(drain)
        .shutdown_on(stop)
        // The rest waits in the accept queue.
        .max_connections(10_000)
        // Longer than that of a proxy in front, so that it is the proxy who closes.
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
