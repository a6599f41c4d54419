//! CONFORMANCE.md, section H: clients that would hold a drain, and what the limits do about them.

use crate::{
    client::{Client, frames, get},
    guarded,
    server::{ALL, Kind, Server},
};
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tower_graceful::{Drain, RunError, report::ConnectionState};

fn drain_in(timeout: Duration) -> Drain {
    Drain::builder().timeout(timeout).build()
}

async fn trickle(client: Client) -> Duration {
    let began = Instant::now();
    // A head that never ends.
    let mut bytes = b"GET / HTTP/1.1\r\nx: "
        .iter()
        .copied()
        .chain(std::iter::repeat(b'x'));
    loop {
        let byte = bytes.next().expect("endless");
        if client.stream.try_write(&[byte]).is_err() || !client.is_open() {
            return began.elapsed();
        }
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn h57_a_trickle_does_not_extend_the_header_limit() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let new = Client::connect(server.address).await;
        let mut kept = Client::connect(server.address).await;
        kept.get("/").await;
        kept.read_until("hello").await;
        let (new, kept) = (tokio::spawn(trickle(new)), tokio::spawn(trickle(kept)));
        sleep(Duration::from_millis(300)).await;
        server.drain.begin();
        let drained = server.drained().await;
        let limit = Duration::from_secs(5);
        assert!(drained.elapsed >= limit, "{kind:?}: {drained}");
        assert!(drained.elapsed < limit * 2, "{kind:?}: {drained}");
        guarded(new).await.expect("closed");
        guarded(kept).await.expect("closed");
    }
}

/// A part of an HTTP/2 head: HEADERS without END_HEADERS.
#[tokio::test]
async fn h57_half_a_head_over_http2_is_cut_at_the_limit() {
    let servers = [Kind::Axum, Kind::Tonic2, Kind::Serve].map(|kind| async move {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::connect(server.address).await;
        client.send(frames::hello()).await;
        client.frame_of(frames::SETTINGS).await;
        let half = frames::frame(frames::HEADERS, frames::END_STREAM, 1, &[0x82, 0x86]);
        client.send(half).await;
        sleep(Duration::from_millis(100)).await;
        server.drain.begin();
        let drained = server.drained().await;
        assert!(
            drained.elapsed < Duration::from_secs(10),
            "{kind:?}: {drained}"
        );
    });
    for server in servers.map(tokio::spawn) {
        guarded(server).await.expect("in time");
    }
}

#[tokio::test]
async fn h58_slow_uploads_and_clients_that_never_read_end_at_the_deadline() {
    for kind in ALL {
        let server = Server::start(kind, drain_in(Duration::from_millis(500))).await;
        let mut slow = Client::connect(server.address).await;
        slow.send("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 999\r\n\r\nx")
            .await;
        let mut deaf = Client::connect(server.address).await;
        deaf.get("/big").await;
        deaf.head().await;
        // Its handler does not read, and does not answer: no read, no write, only a wait.
        let mut stuck = Client::connect(server.address).await;
        stuck
            .send("POST /stuck HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999\r\n\r\n")
            .await;
        let body = vec![b'x'; 1 << 22];
        let mut sent = 0;
        while let Ok(n) = stuck.stream.try_write(&body[sent..]) {
            sent += n;
        }
        server.at_the_gate().await;
        server.drain.begin();
        let shared = server.shared.clone();
        let Err(RunError::Timeout(timeout)) = server.outcome().await else {
            panic!("{kind:?}: nothing was cut");
        };
        assert_eq!(timeout.report().left.connections(), 3, "{timeout}");
        assert_eq!(
            timeout
                .report()
                .left
                .connections_in(ConnectionState::Stalled),
            1,
            "{timeout}"
        );
        assert_eq!(timeout.report().left.requests, 3, "{timeout}");
        // Aborted before the waiter returned: their tasks have dropped them.
        assert!(
            shared.drain.left().is_empty(),
            "{kind:?}: {}",
            shared.drain.left()
        );
        assert!(
            timeout.report().elapsed < Duration::from_millis(1500),
            "{timeout}"
        );
        for mut client in [slow, deaf, stuck] {
            client.end().await;
        }
    }
}

/// Its body was dropped unread, and hyper reads no more: nothing but the handler is waited for.
#[tokio::test]
async fn h58_an_upload_that_nobody_reads_is_cut_at_the_deadline() {
    for kind in ALL {
        let server = Server::start(kind, drain_in(Duration::from_millis(500))).await;
        let mut client = Client::connect(server.address).await;
        client
            .send("POST /stuck HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nhello")
            .await;
        server.at_the_gate().await;
        server.drain.begin();
        let drain = server.drain.clone();
        let Err(RunError::Timeout(timeout)) = server.outcome().await else {
            panic!("{kind:?}: nothing was cut");
        };
        assert!(
            timeout.report().elapsed < Duration::from_millis(900),
            "{kind:?}: {timeout}"
        );
        assert!(drain.left().is_empty(), "{kind:?}: {}", drain.left());
        client.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g51_a_handler_that_blocks_its_thread_holds_nobody() {
    use axum::{Router, routing::get};
    let drain = drain_in(Duration::from_millis(300));
    let (open, opened) = std::sync::mpsc::channel::<()>();
    let opened = std::sync::Arc::new(std::sync::Mutex::new(opened));
    let reached = std::sync::Arc::new(tokio::sync::Notify::new());
    let tell = reached.clone();
    let app: Router = Router::new()
        .route(
            "/",
            get(async move || {
                tell.notify_one();
                let _ = opened.lock().expect("no panic").recv();
            }),
        )
        .layer(drain.layer());
    let tcp = crate::server::bind();
    let address = tcp.local_addr().expect("bound");
    let server =
        axum::serve(drain.listener(tcp), app).with_graceful_shutdown(drain.shutdown_signal());
    let run = tokio::spawn(drain.run(server, std::future::pending::<()>()));
    let mut client = Client::connect(address).await;
    client.get("/").await;
    guarded(reached.notified()).await;
    drain.begin();
    let Err(RunError::Timeout(timeout)) = guarded(run).await.expect("no panic") else {
        panic!("nothing was cut");
    };
    assert!(
        timeout.report().elapsed < Duration::from_millis(1300),
        "{timeout}"
    );
    assert_eq!(
        timeout
            .report()
            .left
            .connections_in(ConnectionState::Handling),
        1,
        "{timeout}"
    );
    drop(open);
}

#[tokio::test]
async fn g52_a_deadline_in_the_past_closes_idle_connections_properly() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut idle = Client::connect(server.address).await;
        idle.get("/").await;
        idle.read_until("hello").await;
        let mut silent = Client::connect(server.address).await;
        // Accepted: the one after it was served.
        let mut next = Client::connect(server.address).await;
        next.get("/").await;
        next.read_until("hello").await;
        server.drain.set_deadline(tokio::time::Instant::now());
        server.drain.begin();
        assert_eq!(idle.rest().await, "");
        assert_eq!(silent.rest().await, "");
        server.drained().await;
    }
}

#[tokio::test]
async fn g53_force_cuts_at_once() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::connect(server.address).await;
        client.get("/gate").await;
        server.at_the_gate().await;
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        server.drain.force();
        client.end().await;
        let outcome = server.outcome().await;
        assert!(matches!(outcome, Err(RunError::Timeout(_))), "{kind:?}");
    }
}

#[tokio::test]
async fn b22_a_deadline_that_is_moved_is_obeyed_by_connections() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::connect(server.address).await;
        client.get("/gate").await;
        server.at_the_gate().await;
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        let soon = tokio::time::Instant::now() + Duration::from_millis(200);
        server.drain.set_deadline(soon);
        client.end().await;
        assert!(tokio::time::Instant::now() >= soon);
        assert!(server.outcome().await.is_err());
    }
}

/// No task waits for the drain. The connections enforce the deadline themselves, whether they read,
/// write or wait for a handler.
#[tokio::test]
async fn the_deadline_needs_no_waiter() {
    let upload = "POST /stuck HTTP/1.1\r\nhost: test\r\ncontent-length: 100\r\n\r\nhello";
    let unread = get("/big") + "G";
    for (request, layered) in [
        (get("/gate"), true),
        (upload.to_owned(), true),
        (unread, true),
        (get("/events"), true),
        (get("/events"), false),
    ] {
        let drain = drain_in(Duration::from_millis(400));
        let shared = crate::server::Shared::new(&drain);
        let mut app = crate::server::app(shared.clone());
        if layered {
            app = app.layer(drain.layer());
        }
        let tcp = crate::server::bind();
        let address = tcp.local_addr().expect("bound");
        let server =
            axum::serve(drain.listener(tcp), app).with_graceful_shutdown(drain.shutdown_signal());
        let server = tokio::spawn(server.into_future());
        let mut client = Client::connect(address).await;
        client.send(&request).await;
        while shared.handled() == 0 {
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        drain.begin();
        guarded(server).await.expect("no panic").expect("it ends");
        assert!(
            began.elapsed() < Duration::from_millis(1400),
            "{request}: {:?}",
            began.elapsed()
        );
        client.end().await;
    }
}

/// A client that has sent a part of the preface is closed in time, without an answer in HTTP/1.
#[tokio::test]
async fn i73_half_a_preface_is_closed_without_an_answer() {
    let parts = [1, 3, 12, 16, 18, 20, 22, 23];
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut clients = Vec::new();
        for part in parts {
            let mut client = Client::connect(server.address).await;
            client.send(&frames::PREFACE[..part]).await;
            clients.push((part, client));
        }
        guarded(async {
            while server.drain.left().connections_in(ConnectionState::Reading) < parts.len() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server.drain.begin();
        for (part, mut client) in clients {
            assert_eq!(client.rest().await, "", "{kind:?}, {part} bytes");
        }
        server.drained().await;
    }
    let limit = Duration::from_millis(100);
    let server = Server::serve(Drain::new(), |tcp, app| {
        tower_graceful::serve(tcp, app).header_read_timeout(limit)
    });
    for part in parts {
        let mut client = Client::connect(server.address).await;
        client.send(&frames::PREFACE[..part]).await;
        assert_eq!(client.rest().await, "", "{part} bytes");
    }
    server.drain.begin();
    server.drained().await;
}
