//! What TCP_NODELAY does for a client that acknowledges late: the first answer over HTTP/2, and bursts
//! of pipelined requests over HTTP/1, on `axum::serve` over loopback, with and without.
//!
//! `cargo run --release --package throughput --bin nodelay` prints a table in Markdown.

use axum::{Router, routing::get};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};
use throughput::runtime;
use tokio::net::TcpListener;
use tower_graceful::Drain;

const ROUNDS: usize = 50;
const BURST: usize = 8;

fn main() {
    println!("| median (worst) of {ROUNDS}, ms | TCP_NODELAY | without |");
    println!("|---|--:|--:|");
    let servers = [true, false].map(start);
    let row = |name: &str, measure: fn(SocketAddr) -> Duration| {
        let cells = servers.map(|address| {
            let mut took: Vec<_> = (0..ROUNDS).map(|_| measure(address)).collect();
            took.sort();
            let ms = |at: usize| took[at].as_secs_f64() * 1e3;
            format!("{:.2} ({:.2})", ms(ROUNDS / 2), ms(ROUNDS - 1))
        });
        println!("| {name} | {} |", cells.join(" | "));
    };
    row("HTTP/2, the first answer", first_answer);
    row(
        "HTTP/1, a burst of 8 on a kept connection",
        pipelined_requests,
    );
}

/// On a thread of its own, for as long as the process lives.
fn start(nodelay: bool) -> SocketAddr {
    let (send, address) = mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let tcp = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
            send.send(tcp.local_addr().expect("bound")).expect("main");
            let drain = Drain::new();
            let app = Router::new()
                .route("/", get(async || "hello"))
                .layer(drain.layer());
            let listener = drain.listener(tcp).tcp_nodelay(nodelay);
            axum::serve(listener, app).await
        })
    });
    address.recv().expect("it is bound")
}

/// The client's own segments are not held back, its acknowledgements are, as on a connection that has
/// been used for a while.
fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it listens");
    stream.set_nodelay(true).expect("possible");
    #[cfg(target_os = "linux")]
    SockRef::from(&stream)
        .set_tcp_quickack(false)
        .expect("possible");
    stream
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, stream];
    frame.extend(payload);
    frame
}

/// GET / over HTTP/2: `:method GET`, `:scheme http`, `:path /`, `:authority test`.
fn get_http2(stream: u8) -> Vec<u8> {
    frame(1, 0x5, stream, b"\x82\x86\x84\x01\x04test")
}

/// Reads frames up to the end of that stream.
fn read_answer(tcp: &mut TcpStream, stream: u8) {
    loop {
        let mut head = [0; 9];
        tcp.read_exact(&mut head).expect("a frame");
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        tcp.read_exact(&mut vec![0; length]).expect("a payload");
        if head[8] == stream && head[3] <= 1 && head[4] & 1 != 0 {
            return;
        }
    }
}

fn first_answer(address: SocketAddr) -> Duration {
    let mut tcp = connect(address);
    let began = Instant::now();
    let hello = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &frame(4, 0, 0, b"")[..],
    ]
    .concat();
    tcp.write_all(&hello).expect("open");
    tcp.write_all(&get_http2(1)).expect("open");
    read_answer(&mut tcp, 1);
    began.elapsed()
}

fn pipelined_requests(address: SocketAddr) -> Duration {
    const WARM_UP: usize = 20;
    let mut tcp = connect(address);
    let mut began = Instant::now();
    for round in 0..=WARM_UP {
        if round == WARM_UP {
            began = Instant::now();
        }
        let requests = "GET / HTTP/1.1\r\nhost: test\r\n\r\n".repeat(BURST);
        tcp.write_all(requests.as_bytes()).expect("open");
        let (mut answers, mut read) = (Vec::<u8>::new(), [0; 1 << 12]);
        while answers.windows(5).filter(|five| five == b"hello").count() < BURST {
            let length = tcp.read(&mut read).expect("open");
            answers.extend(&read[..length]);
        }
    }
    began.elapsed()
}
