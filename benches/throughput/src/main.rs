//! Requests per second of `axum::serve`, plain, with a drain's listener, and with its layer as well:
//! over loopback, in turns within one run, as ratios.
//!
//! `cargo run --release --package throughput` prints a table in Markdown. A server has a thread of
//! its own, and so has the load: 16 connections, each in a closed loop. Rounds are short and the
//! servers take turns, in an order that changes, so that all of them see the same of what else
//! goes on.

use axum::{Router, routing::get};
use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    task::JoinSet,
};
use tower_graceful::Drain;

const CONNECTIONS: usize = 16;
const ROUND: Duration = Duration::from_millis(30);
const ROUNDS: usize = 200;

const SERVERS: [&str; 3] = [
    "axum::serve",
    "with the listener",
    "with listener and layer",
];

const MODES: [(&str, Load); 2] = [
    ("HTTP/1, kept connections", Load::Kept),
    ("HTTP/1, a connection for each request", Load::Fresh),
];

#[derive(Clone, Copy)]
enum Load {
    Kept,
    Fresh,
}

fn main() {
    let servers: Vec<SocketAddr> = (0..SERVERS.len()).map(start).collect();
    let client = runtime();
    println!(
        "| requests per second, and ratio (quartiles) | {} |",
        SERVERS.join(" | ")
    );
    println!("|---|{}", "--:|".repeat(SERVERS.len()));
    for (mode, load) in MODES {
        let mut rates = vec![Vec::new(); servers.len()];
        // The first round warms up.
        for round in 0..=ROUNDS {
            let mut rates_now = vec![0.0; servers.len()];
            for turn in 0..servers.len() {
                let server = (turn + round) % servers.len();
                rates_now[server] = client.block_on(rate(servers[server], load));
            }
            if round > 0 {
                for (rates, rate) in rates.iter_mut().zip(&rates_now) {
                    // Against the plain one in the same round.
                    rates.push((*rate, rate / rates_now[0]));
                }
            }
        }
        let cells: Vec<String> = rates.iter().map(|rates| cell(rates)).collect();
        println!("| {mode} | {} |", cells.join(" | "));
    }
}

fn cell(rates: &[(f64, f64)]) -> String {
    let sorted = |values: &mut Vec<f64>| values.sort_by(f64::total_cmp);
    let (mut absolute, mut ratios): (Vec<f64>, Vec<f64>) = rates.iter().copied().unzip();
    sorted(&mut absolute);
    sorted(&mut ratios);
    let at = |values: &[f64], quarter: usize| values[(values.len() - 1) * quarter / 4];
    format!(
        "{:.0}, {:.3} ({:.3}–{:.3})",
        at(&absolute, 2),
        at(&ratios, 2),
        at(&ratios, 1),
        at(&ratios, 3)
    )
}

fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// On a thread of its own, for as long as the process lives.
fn start(which: usize) -> SocketAddr {
    let (tell, address) = mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            tell.send(tcp.local_addr().expect("bound"))
                .expect("main waits");
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
                _ => {
                    axum::serve(drain.listener(tcp), app.layer(drain.layer()))
                        .with_graceful_shutdown(drain.shutdown_signal())
                        .await
                }
            }
            .expect("it serves");
        });
    });
    address.recv().expect("a server")
}

async fn rate(server: SocketAddr, load: Load) -> f64 {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        clients.spawn(async move {
            let mut answered = 0u32;
            let mut connection = TcpStream::connect(server).await.expect("it listens");
            while began.elapsed() < ROUND {
                ask(&mut connection, load).await;
                answered += 1;
                if let Load::Fresh = load {
                    connection = TcpStream::connect(server).await.expect("it listens");
                }
            }
            answered
        });
    }
    let answered: u32 = clients.join_all().await.into_iter().sum();
    f64::from(answered) / began.elapsed().as_secs_f64()
}

async fn ask(connection: &mut TcpStream, load: Load) {
    let request = match load {
        Load::Kept => {
            "GET / HTTP/1.1\r\nhost: localhost\r\nuser-agent: throughput/0\r\naccept: */*\r\n\r\n"
        }
        Load::Fresh => {
            "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\naccept: */*\r\n\r\n"
        }
    };
    connection
        .write_all(request.as_bytes())
        .await
        .expect("open");
    let mut answer = [0; 1024];
    let mut filled = 0;
    while !answer[..filled].ends_with(b"hello") {
        match connection.read(&mut answer[filled..]).await.expect("open") {
            0 => panic!("no whole answer"),
            read => filled += read,
        }
    }
}
