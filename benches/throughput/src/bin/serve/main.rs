//! What `tower_graceful::serve` costs next to `axum::serve`, and next to a bare loop around hyper-util
//! that knows no graceful anything; the same router on each.
//!
//! `cargo run --release --package throughput --bin serve` prints tables in Markdown; with `throughput`,
//! `memory`, `idle`, `peak` or `streams` behind `--` only that one. (A binary of its own, as here a server has
//! a process of its own, for its memory and its file descriptors, and the load is somebody else's:
//! h2load's and wrk's. The other binary has ten times as many rounds in a tenth of the time.)
//!
//! The servers take turns, in an order that changes, and what is compared is what they did in the same
//! round. `axum::serve` takes part twice: by how much its two ratios differ from one is noise. Each
//! server has one thread. Beside the requests per second there is the server's own CPU time for one,
//! which says more where load and server stand in each other's way.

mod client;
mod load;
mod rounds;
mod server;

use client::Kept;
use load::Load;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rounds::turns;
use server::{Kind, Server};
use std::{
    env,
    time::{Duration, Instant},
};
use throughput::runtime;
use tokio::{
    task::{JoinSet, yield_now},
    time::sleep,
};

/// Of memory.
const IDLE: usize = 5_000;
/// Of the drain, and how many more with a request in flight.
const DRAINED: usize = 10_000;
const BUSY: usize = 1_000;
/// Connections, and streams on each.
const MULTIPLEXED: (usize, usize) = (100, 100);

fn main() {
    // For a server, and for its clients.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    let arguments: Vec<String> = env::args().skip(1).collect();
    if let [server::ROLE, kind] = arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        return server::main(Kind::of(kind));
    }
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|one| one == part);
    // A few for the standard streams and the runtime.
    let room = usize::try_from(most).unwrap_or(usize::MAX) - 64;
    runtime().block_on(async {
        if wanted("throughput") {
            throughput().await;
        }
        if wanted("memory") {
            memory(no_more_than(room, IDLE)).await;
        }
        if wanted("idle") {
            idle(no_more_than(room, DRAINED)).await;
        }
        if wanted("peak") {
            peak(no_more_than(room, DRAINED + BUSY) - BUSY).await;
        }
        if wanted("streams") {
            streams().await;
        }
    });
}

fn no_more_than(room: usize, connections: usize) -> usize {
    if room < connections {
        eprintln!(
            "ONLY {room} CONNECTIONS, NOT {connections}: raise the limit of open files (ulimit -n)"
        );
    }
    room.min(connections)
}

/// Requests per second, and what one costs.
async fn throughput() {
    let mut servers = Vec::new();
    for kind in Kind::ALL {
        servers.push(Server::start(kind).await);
    }
    println!(
        "{}",
        rounds::head("median, and ratio (quartiles)", &Kind::ALL)
    );
    for load in Load::ALL {
        let title = load.title().await;
        let all = turns(&Kind::ALL, load.rounds(), async |which| {
            let before = servers[which].cpu_time();
            let (answered, took) = load.run(servers[which].address).await;
            let spent = servers[which].cpu_time() - before;
            [answered / took.as_secs_f64(), spent * 1e6 / answered]
        })
        .await;
        println!(
            "{}",
            all.row(&format!("{title}: requests per second"), 0, 0)
        );
        println!("{}", all.row("the server's CPU for one, µs", 1, 2));
    }
}

/// By how much a server grows with connections that have made one request each, and are idle.
async fn memory(connections: usize) {
    const ROUNDS: usize = 5;
    println!();
    let title = format!("bytes per connection, of {connections} idle ones");
    println!("{}", rounds::head(&title, &Kind::ALL));
    for http2 in [false, true] {
        let all = turns(&Kind::ALL, ROUNDS, async |which| {
            let server = Server::start(Kind::ALL[which]).await;
            let _one = Kept::new(server.address, http2).await;
            let before = server.memory();
            let _all = Kept::many(server.address, http2, connections).await;
            [(server.memory() - before) / connections as f64]
        })
        .await;
        let title = if http2 { "HTTP/2" } else { "HTTP/1" };
        println!("{}", all.row(title, 0, 0));
    }
}

/// How long it takes to stop a server with connections that are idle.
async fn idle(connections: usize) {
    const ROUNDS: usize = 9;
    const KINDS: [Kind; 3] = [Kind::Axum, Kind::AxumAgain, Kind::Ours];
    println!();
    let title = format!("{connections} idle connections, ms");
    println!("{}", rounds::head(&title, &KINDS));
    let all = turns(&KINDS, ROUNDS, async |which| {
        let mut server = Server::start(KINDS[which]).await;
        let clients = Kept::many(server.address, false, connections).await;
        // From the last answer on, all of them are idle; `serve` closes those at once that have been
        // for as long as the drain settles.
        sleep(2 * server::SETTLE).await;
        let mut ends = JoinSet::new();
        for client in clients {
            ends.spawn(client.end());
        }
        yield_now().await;
        let spent = server.cpu_time();
        let began = Instant::now();
        server.order("drain").await;
        while ends.join_next().await.is_some() {}
        let last = began.elapsed().as_secs_f64();
        let (ended, _) = server.ended().await;
        let spent = server.cpu_time() - spent;
        [last * 1e3, ended * 1e3, spent * 1e3]
    })
    .await;
    println!(
        "{}",
        all.row("from the signal to the last FIN at a client", 0, 1)
    );
    println!(
        "{}",
        all.row("from the signal to the end of the server", 1, 1)
    );
    println!("{}", all.row("the server's CPU", 2, 1));
}

/// The most memory that a server has taken by the end of a drain, with connections that are idle and
/// others with a request in flight.
async fn peak(connections: usize) {
    const ROUNDS: usize = 3;
    const KINDS: [Kind; 4] = [Kind::Axum, Kind::AxumAgain, Kind::AxumWithOurs, Kind::Ours];
    println!();
    let title = format!("{connections} idle connections and {BUSY} busy ones, MB");
    println!("{}", rounds::head(&title, &KINDS));
    let all = turns(&KINDS, ROUNDS, async |which| {
        let mut server = Server::start(KINDS[which]).await;
        let idle = Kept::many(server.address, false, connections).await;
        let busy = Kept::many(server.address, false, BUSY).await;
        let mut ends = JoinSet::new();
        for client in busy {
            ends.spawn(client.wait());
        }
        server.order(&format!("await {BUSY}")).await;
        assert_eq!(server.says().await, "they wait");
        for client in idle {
            ends.spawn(client.end());
        }
        let before = server.peak();
        server.order("drain").await;
        // Longer than the settling: the idle ones have been closed, the busy ones have not.
        sleep(4 * server::SETTLE).await;
        server.order("open").await;
        while ends.join_next().await.is_some() {}
        server.ended().await;
        [server.peak() / 1e6, (server.peak() - before) / 1e6]
    })
    .await;
    println!("{}", all.row("peak memory", 0, 0));
    println!("{}", all.row("of it in the drain", 1, 1));
}

/// What becomes of streams whose handlers wait while the server is told to stop.
async fn streams() {
    let (connections, each) = MULTIPLEXED;
    let all = connections * each;
    println!();
    for kind in [Kind::Axum, Kind::Ours] {
        let mut server = Server::start(kind).await;
        let mut answers = JoinSet::new();
        let mut clients = Vec::new();
        for _ in 0..connections {
            let mut client = client::multiplexed(server.address).await;
            for _ in 0..each {
                client = client.ready().await.expect("open");
                answers.spawn(client::get(&mut client, "/wait"));
            }
            clients.push(client);
        }
        server.order(&format!("await {all}")).await;
        assert_eq!(server.says().await, "they wait");
        server.order("drain").await;
        // Told to each: it may have no more streams.
        for mut client in clients {
            while let Ok(ready) = client.ready().await {
                client = ready;
                sleep(Duration::from_millis(1)).await;
            }
        }
        let began = Instant::now();
        server.order("open").await;
        let mut answered = 0;
        while let Some(answer) = answers.join_next().await {
            answered += usize::from(answer.is_ok_and(|answer| answer == "hello"));
        }
        let took = began.elapsed();
        let (_, outcome) = server.ended().await;
        println!(
            "{}: {answered} of {all} streams ({connections} connections) answered in {took:.0?} after \
             their handlers went on; {outcome}",
            kind.title()
        );
        if kind == Kind::Ours {
            assert_eq!(answered, all, "answered");
            assert!(outcome.contains(&format!(": {all} completed, 0 refused, nothing left")));
        }
    }
}
