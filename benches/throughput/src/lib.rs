//! What both benches have: their own client over HTTP/1, and medians with quartiles.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Runtime},
    task::JoinSet,
};

/// How a client over HTTP/1 has its connections.
#[derive(Clone, Copy)]
pub enum Http1 {
    Kept,
    /// One for each request.
    Fresh,
}

/// On this thread.
pub fn runtime() -> Runtime {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

/// How many requests were answered by so many clients in a closed loop, and in what time.
pub async fn load(
    server: SocketAddr,
    http1: Http1,
    clients: usize,
    round: Duration,
) -> (f64, Duration) {
    let began = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..clients {
        all.spawn(async move {
            let mut answered = 0u32;
            let mut connection = TcpStream::connect(server).await.expect("it listens");
            while began.elapsed() < round {
                ask(&mut connection, http1).await;
                answered += 1;
                if let Http1::Fresh = http1 {
                    connection = TcpStream::connect(server).await.expect("it listens");
                }
            }
            answered
        });
    }
    let answered: u32 = all.join_all().await.into_iter().sum();
    (f64::from(answered), began.elapsed())
}

/// One request, up to its `hello`.
pub async fn ask(connection: &mut TcpStream, http1: Http1) {
    let request = match http1 {
        Http1::Kept => {
            "GET / HTTP/1.1\r\nhost: localhost\r\nuser-agent: throughput/0\r\naccept: */*\r\n\r\n"
        }
        Http1::Fresh => {
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

/// The median of the first of each pair, and that of the second with its quartiles.
pub fn cell(pairs: &[(f64, f64)], digits: usize) -> String {
    let (absolute, ratios): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    format!("{:.digits$}, {}", quartiles(absolute)[1], ratio(ratios))
}

/// A median with its quartiles.
pub fn ratio(ratios: Vec<f64>) -> String {
    let [lower, median, upper] = quartiles(ratios);
    format!("{median:.3} ({lower:.3}–{upper:.3})")
}

fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[(values.len() - 1) * quarter / 4])
}
