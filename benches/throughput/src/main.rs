//! Requests per second of `axum::serve`, plain, with a drain's listener, with its layer as well, and
//! with another layer: over loopback, in turns within one run, as ratios. (What `serve` costs, the
//! other binary of this package says: `--bin serve`.)
//!
//! `cargo run --release --package throughput` prints a table in Markdown. A server has a thread of
//! its own, and so has the load: 16 connections, each in a closed loop. Rounds are short and the
//! servers take turns, in an order that changes, so that all of them see the same of what else
//! goes on. Beside the requests per second there is the server's own CPU time for one, which says
//! more on a machine where load and server stand in each other's way.

use axum::{Router, routing::get};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};
use throughput::{Http1, cell, load, runtime};
use tokio::net::TcpListener;
use tower_graceful::Drain;
use tower_http::metrics::InFlightRequestsLayer;

const CONNECTIONS: usize = 16;
const ROUND: Duration = Duration::from_millis(30);
const ROUNDS: usize = 200;

const SERVERS: [&str; 4] = [
    "axum::serve",
    "with the listener",
    "with listener and layer",
    "with tower-http's InFlightRequests",
];

const MODES: [(&str, Http1); 2] = [
    ("HTTP/1, kept connections", Http1::Kept),
    ("HTTP/1, a connection for each request", Http1::Fresh),
];

fn main() {
    let servers: Vec<Server> = (0..SERVERS.len()).map(start).collect();
    let client = runtime();
    println!(
        "| median, and ratio (quartiles) | {} |",
        SERVERS.join(" | ")
    );
    println!("|---|{}", "--:|".repeat(SERVERS.len()));
    for (mode, http1) in MODES {
        let mut rates = vec![Vec::new(); servers.len()];
        let mut costs = rates.clone();
        // The first round warms up.
        for round in 0..=ROUNDS {
            let mut now = vec![(0.0, 0.0); servers.len()];
            for turn in 0..servers.len() {
                let which = (turn + round) % servers.len();
                let server = &servers[which];
                let before = server.cpu_time();
                let load = load(server.address, http1, CONNECTIONS, ROUND);
                let (answered, took) = client.block_on(load);
                let spent = server.cpu_time() - before;
                now[which] = (answered / took.as_secs_f64(), spent / 1e3 / answered);
            }
            if round > 0 {
                for (which, (rate, cost)) in now.iter().enumerate() {
                    // Against the plain one in the same round.
                    rates[which].push((*rate, rate / now[0].0));
                    costs[which].push((*cost, cost / now[0].1));
                }
            }
        }
        let row = |values: &[Vec<(f64, f64)>], digits| {
            let cells = values.iter().map(|values| cell(values, digits));
            cells.collect::<Vec<_>>().join(" | ")
        };
        println!("| {mode}: requests per second | {} |", row(&rates, 0));
        println!("| the server's CPU for one, µs | {} |", row(&costs, 2));
    }
}

struct Server {
    address: SocketAddr,
    /// Of its thread.
    schedstat: PathBuf,
}

impl Server {
    /// So far, in nanoseconds.
    fn cpu_time(&self) -> f64 {
        let schedstat = std::fs::read_to_string(&self.schedstat).expect("Linux");
        let spent = schedstat.split(' ').next().expect("a first field");
        spent.parse().expect("nanoseconds")
    }
}

/// On a thread of its own, for as long as the process lives.
fn start(which: usize) -> Server {
    let (tell, server) = mpsc::channel();
    thread::spawn(move || {
        let thread = std::fs::read_link("/proc/thread-self").expect("Linux");
        runtime().block_on(async {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            let server = Server {
                address: tcp.local_addr().expect("bound"),
                schedstat: Path::new("/proc").join(thread).join("schedstat"),
            };
            assert!(tell.send(server).is_ok(), "main waits");
            let drain = Drain::new();
            let app = Router::new().route("/", get(async || "hello"));
            match which {
                0 => {
                    axum::serve(tcp, app)
                        .with_graceful_shutdown(drain.shutdown_signal())
                        .await
                }
                1 => {
                    axum::serve(drain.listener(tcp), app)
                        .with_graceful_shutdown(drain.shutdown_signal())
                        .await
                }
                2 => {
                    axum::serve(drain.listener(tcp), app.layer(drain.layer()))
                        .with_graceful_shutdown(drain.shutdown_signal())
                        .await
                }
                // A yardstick: what it costs axum to have a layer with a body of its own.
                _ => {
                    let (layer, _) = InFlightRequestsLayer::pair();
                    axum::serve(tcp, app.layer(layer))
                        .with_graceful_shutdown(drain.shutdown_signal())
                        .await
                }
            }
            .expect("it serves");
        });
    });
    server.recv().expect("a server")
}
