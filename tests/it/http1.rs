//! A real axum server, real sockets, a client that sees every byte.

use crate::support::*;
use axum::{
    Router,
    body::Body,
    response::{Sse, sse::Event},
    routing::{any, get},
};
use futures_util::{StreamExt, stream};
use http::StatusCode;
use std::{convert::Infallible, time::Duration};
use tower_graceful::{Drain, Phase, RunError};

#[tokio::test]
async fn a06_handler_running_then_close_once_then_fin() {
    let drain = Drain::new();
    let (gate, pass) = gate();
    let app = Router::new()
        .route(
            "/",
            get(move || async move {
                pass().await;
                "done"
            }),
        )
        .layer(drain.layer());
    let server = Server::start(drain, app).await;
    let mut client = server.connect().await;
    client.get("/").await;
    guarded(gate.reached).await.expect("the handler runs");
    assert_eq!(server.drain.in_flight(), 1);
    server.drain.begin();
    gate.open.send(()).expect("it waits");
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert_eq!(closes(&head), 1, "{head}");
    assert_eq!(client.rest().await, "done");
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (1, 0));
}

#[tokio::test]
async fn f40_streaming_bodies_are_waited_for() {
    let drain = Drain::new();
    let (gate, pass) = gate();
    let app = Router::new()
        .route(
            "/",
            get(move || async move {
                let rest = stream::once(async move {
                    pass().await;
                    "second"
                });
                let chunks = stream::iter(["first "]).chain(rest);
                Body::from_stream(chunks.map(Ok::<_, Infallible>))
            }),
        )
        .layer(drain.layer());
    let server = Server::start(drain, app).await;
    let mut client = server.connect().await;
    client.get("/").await;
    let head = client.head().await;
    assert_eq!(closes(&head), 0, "nobody is leaving yet: {head}");
    client.read_until("first ").await;
    guarded(gate.reached).await.expect("the body is polled");
    server.drain.begin();
    assert_eq!(server.drain.in_flight(), 1);
    gate.open.send(()).expect("it waits");
    assert!(client.rest().await.ends_with("second\r\n0\r\n\r\n"));
    let drained = server.drained().await;
    assert_eq!(drained.completed, 1);
}

#[tokio::test]
async fn f41_a_client_that_resets_ends_its_request() {
    let drain = Drain::new();
    let app = Router::new()
        .route(
            "/",
            get(|| async { Body::from_stream(stream::repeat(Ok::<_, Infallible>("spam"))) }),
        )
        .layer(drain.layer());
    let server = Server::start(drain, app).await;
    let mut client = server.connect().await;
    client.get("/").await;
    client.head().await;
    assert_eq!(server.drain.in_flight(), 1);
    // What it has not read makes the end of its socket a reset.
    drop(client);
    server.drain.begin();
    let drained = server.drained().await;
    assert_eq!(drained.completed, 1);
}

#[tokio::test]
async fn f42_bodies_that_the_server_never_polls() {
    let drain = Drain::new();
    let app = Router::new()
        .route("/ok", get(|| async { "hello" }))
        .route("/204", get(|| async { StatusCode::NO_CONTENT }))
        .route("/304", get(|| async { StatusCode::NOT_MODIFIED }))
        .layer(drain.layer());
    let server = Server::start(drain, app).await;
    let mut client = server.connect().await;
    for line in ["HEAD /ok", "GET /204", "GET /304"] {
        client
            .send(&format!("{line} HTTP/1.1\r\nhost: test\r\n\r\n"))
            .await;
        client.head().await;
    }
    // The head of the last one was written by the time that its body was dropped, or just before:
    // a round trip on the same connection comes after.
    client.get("/ok").await;
    client.read_until("hello").await;
    server.drain.begin();
    let drained = server.drained().await;
    assert!(
        drained.completed <= 1,
        "the connection was kept, the requests were not"
    );
}

#[tokio::test]
async fn f44_an_event_stream_that_listens_ends_well() {
    let drain = Drain::new();
    let listening = drain.clone();
    let app = Router::new()
        .route(
            "/",
            get(move || async move {
                let events = stream::once(async { Event::default().data("first") })
                    .chain(stream::pending())
                    .take_until(listening.reached(Phase::Draining));
                Sse::new(events.map(Ok::<_, Infallible>))
            }),
        )
        .layer(drain.layer());
    let server = Server::start(drain, app).await;
    let mut client = server.connect().await;
    client.get("/").await;
    client.read_until("data: first\n\n").await;
    server.drain.begin();
    assert!(client.rest().await.ends_with("0\r\n\r\n"), "the last chunk");
    server.drained().await;
}

#[tokio::test]
async fn g49_lame_duck_accepts_and_serves() {
    let drain = Drain::builder().lame_duck(Duration::MAX).build();
    let app = Router::new()
        .route("/", any(hello))
        .layer(drain.layer())
        .route_service("/readyz", drain.readiness());
    let server = Server::start(drain, app).await;

    let mut kept = server.connect().await;
    kept.get("/readyz").await;
    assert!(kept.head().await.starts_with("HTTP/1.1 200"));
    kept.read_until("ready\n").await;

    server.drain.begin();
    let mut probe = server.connect().await;
    probe.get("/readyz").await;
    assert!(probe.head().await.starts_with("HTTP/1.1 503"));
    probe.read_until("draining\n").await;
    for client in [&mut kept, &mut server.connect().await] {
        client.get("/").await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(closes(&head), 1, "{head}");
        assert_eq!(client.rest().await, "hello");
    }
    // Its keep-alive probe is an open connection without a request: no one waits for it.
    server.drain.force();
    drop(probe);
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (2, 0));
}

#[tokio::test]
async fn a13_no_close_on_an_upgrade() {
    let drain = Drain::builder().lame_duck(Duration::MAX).build();
    let app = Router::new()
        .route(
            "/",
            any((
                StatusCode::SWITCHING_PROTOCOLS,
                [("connection", "upgrade"), ("upgrade", "websocket")],
            )),
        )
        .layer(drain.layer());
    let server = Server::start(drain, app).await;
    server.drain.begin();
    let mut client = server.connect().await;
    client
        .send(
            "GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        )
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!(closes(&head), 0, "{head}");
    drop(client);
    server.drain.force();
    server.drained().await;
}

/// A handler that never answers holds the drain to its deadline, and the report says what.
#[tokio::test]
async fn a_stuck_handler_is_reported() {
    let drain = Drain::builder().timeout(Duration::from_millis(50)).build();
    let (gate, pass) = gate();
    let app = Router::new()
        .route(
            "/",
            get(move || async move {
                pass().await;
                std::future::pending::<()>().await
            }),
        )
        .layer(drain.layer());
    let server = Server::start(drain, app).await;
    let mut client = server.connect().await;
    client.get("/").await;
    guarded(gate.reached).await.expect("the handler runs");
    server.drain.begin();
    match guarded(server.done).await.expect("no panic") {
        Err(RunError::Timeout(timeout)) => {
            assert_eq!(timeout.report().left.to_string(), "1 request, 1 server");
        }
        other => panic!("{other:?}"),
    }
}
