//! Requests that wait in `poll_ready` when the drain begins: the inner service has no capacity for
//! them.

use crate::{
    client::{Client, closes},
    guarded,
    server::{Kind, Server, bind},
};
use axum::{Router, error_handling::HandleErrorLayer};
use http::StatusCode;
use std::time::Duration;
use tower::{BoxError, ServiceBuilder, buffer::BufferLayer, limit::ConcurrencyLimitLayer};
use tower_graceful::{Drain, Phase, report::ConnectionState};

/// One runs, the others wait.
const CLIENTS: usize = 8;

/// Puts a limit of one request next to the drain's layer.
type Stack = fn(Router, &Drain) -> Router;

const STACKS: [(&str, Stack); 4] = [
    ("below", |app, drain| {
        app.layer(
            ServiceBuilder::new()
                .layer(drain.layer())
                .layer(ConcurrencyLimitLayer::new(1)),
        )
    }),
    ("above", |app, drain| {
        app.layer(
            ServiceBuilder::new()
                .layer(ConcurrencyLimitLayer::new(1))
                .layer(drain.layer()),
        )
    }),
    ("below, with a buffer above", |app, drain| {
        app.layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(failed))
                .layer(BufferLayer::new(CLIENTS))
                .layer(drain.layer())
                .layer(ConcurrencyLimitLayer::new(1)),
        )
    }),
    ("below, with a buffer between", |app, drain| {
        app.layer(
            ServiceBuilder::new()
                .layer(HandleErrorLayer::new(failed))
                .layer(drain.layer())
                .layer(BufferLayer::new(CLIENTS))
                .layer(ConcurrencyLimitLayer::new(1)),
        )
    }),
];

async fn failed(error: BoxError) -> (StatusCode, String) {
    (StatusCode::INTERNAL_SERVER_ERROR, error.to_string())
}

/// A server with one request in its handler, and others that wait for it to end.
async fn saturated(kind: Kind, drain: Drain, stack: Stack) -> (Server, Vec<Client>) {
    let server = Server::start_as(kind, drain.clone(), bind(), |app| stack(app, &drain));
    let mut clients = Vec::new();
    for count in 1..=CLIENTS {
        let mut client = Client::connect(server.address).await;
        client.get("/gate").await;
        // There is only this thread: a task that has read the head has also polled for capacity.
        while server
            .drain
            .left()
            .connections_in(ConnectionState::Handling)
            < count
        {
            tokio::task::yield_now().await;
        }
        clients.push(client);
    }
    server.at_the_gate().await;
    (server, clients)
}

#[tokio::test]
async fn i61_requests_that_get_capacity_in_time_are_served() {
    for kind in [Kind::Axum, Kind::Tonic] {
        for (name, stack) in STACKS {
            println!("{kind:?}: limit {name}");
            let drain = Drain::builder().grace(Duration::from_secs(20)).build();
            let (server, mut clients) = saturated(kind, drain, stack).await;
            // As long as this one may send its first request, the drain admits what has arrived.
            let silent = Client::connect(server.address).await;
            while server.drain.left().connections_in(ConnectionState::Silent) == 0 {
                tokio::task::yield_now().await;
            }
            server.drain.begin();
            guarded(server.drain.reached(Phase::Draining)).await;
            for _ in 1..CLIENTS {
                server.shared.open.notify_one();
                server.at_the_gate().await;
            }
            server.shared.open.notify_one();
            for client in &mut clients {
                let answer = client.rest().await;
                assert!(answer.ends_with("passed"), "{answer:?}");
                assert_eq!(closes(&answer), 1);
            }
            drop(silent);
            let drained = server.drained().await;
            assert_eq!((drained.completed, drained.refused), (CLIENTS as u64, 0));
        }
    }
}

#[tokio::test]
async fn i61_requests_that_get_no_capacity_are_refused() {
    for kind in [Kind::Axum, Kind::Tonic] {
        for (name, stack) in STACKS {
            println!("{kind:?}: limit {name}");
            let (server, clients) = saturated(kind, Drain::new(), stack).await;
            let counted = server.drain.in_flight();
            server.drain.begin();
            guarded(server.drain.shutdown_signal()).await;
            while server
                .drain
                .left()
                .connections_in(ConnectionState::Handling)
                > counted
            {
                tokio::task::yield_now().await;
                if name == "above" {
                    // A limit above the layer holds requests back by itself.
                    break;
                }
            }
            for _ in 0..counted {
                server.shared.open.notify_one();
                tokio::task::yield_now().await;
            }
            let mut served = 0;
            for mut client in clients {
                let answer = client.rest().await;
                match answer.ends_with("passed") {
                    true => served += 1,
                    false => assert!(answer.starts_with("HTTP/1.1 503"), "{answer:?}"),
                }
                assert_eq!(closes(&answer), 1, "{answer:?}");
            }
            let drained = server.drained().await;
            assert_eq!(served, drained.completed);
            assert_eq!(CLIENTS as u64 - served, drained.refused);
        }
    }
}
