//! What a drain says of its wiring, on real servers: each rule both ways, and no false alarm.

use crate::{
    client::{Client, frames},
    guarded,
    server::{ALL, Kind, Server, Shared, app, bind},
};
use std::{fmt::Display, future::pending, time::Duration};
use tokio::sync::oneshot;
use tower_graceful::{Drain, Phase, RunError};

/// Returns the hints at the end of the first line. Its figures have that many semicolons.
fn hints(text: impl Display, semicolons: usize) -> Vec<String> {
    let text = text.to_string();
    let line = text.lines().next().unwrap_or_default();
    let parts = line.split("; ").skip(1 + semicolons);
    parts.map(str::to_owned).collect()
}

fn of_report(drain: &Drain) -> Vec<String> {
    hints(drain.report(), 1)
}

/// What each set-up of the guide does, from its start to its end.
async fn expect_no_hint(server: Server, forces: bool) {
    let drain = server.drain.clone();
    let mut client = Client::connect(server.address).await;
    client.get("/").await;
    client.read_until("hello").await;
    let mut slow = Client::connect(server.address).await;
    slow.get("/gate").await;
    server.at_the_gate().await;
    assert!(of_report(&drain).is_empty(), "{}", drain.report());
    drain.begin();
    assert!(of_report(&drain).is_empty(), "{}", drain.report());
    guarded(drain.reached(Phase::Draining)).await;
    assert!(of_report(&drain).is_empty(), "{}", drain.report());
    if forces {
        drain.force();
    } else {
        server.shared.open.notify_one();
    }
    match server.outcome().await {
        Ok(drained) => assert!(!forces && hints(&drained, 0).is_empty(), "{drained}"),
        Err(timeout) => assert!(forces && hints(&timeout, 0).is_empty(), "{timeout}"),
    }
    assert!(of_report(&drain).is_empty(), "{}", drain.report());
}

#[tokio::test]
async fn a_drain_that_is_wired_well_says_nothing() {
    for kind in ALL {
        for forces in [false, true] {
            let drain = || {
                let lame_duck = Duration::from_millis(100);
                Drain::builder().lame_duck(lame_duck).build()
            };
            expect_no_hint(Server::start(kind, drain()).await, forces).await;
            if kind != Kind::Serve && !forces {
                expect_no_hint(Server::start_without(kind, drain()).await, forces).await;
                // The listener alone, and nothing is cut.
                let alone = Server::start_with(kind, drain(), None, bind()).await;
                expect_no_hint(alone, forces).await;
            }
        }
    }
}

/// Each way to stop a server that is not `with_graceful_shutdown(drain.shutdown_signal())`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum StoppedBy {
    Nothing,
    /// A stream that ends is another matter: no server is stopped by it.
    StreamsOnly,
    Phase,
    Hook,
    Drop,
}

#[tokio::test]
async fn a_server_that_is_not_told_is_a_hint_from_the_beginning() {
    use StoppedBy::*;
    for stopped_by in [Nothing, StreamsOnly, Phase, Hook, Drop] {
        let drain = Drain::builder().lame_duck(Duration::from_secs(60)).build();
        let tcp = bind();
        let address = tcp.local_addr().expect("bound");
        let app = app(Shared::new(&drain)).layer(drain.layer());
        let server = axum::serve(drain.listener(tcp), app);
        let told = drain.clone();
        let server = tokio::spawn(async move {
            match stopped_by {
                Nothing => server.await,
                StreamsOnly => {
                    let _ends = told.end_stream(futures_util::stream::empty::<()>());
                    server.await
                }
                Phase => {
                    let signal = told.reached(tower_graceful::Phase::Draining);
                    server.with_graceful_shutdown(signal).await
                }
                Hook => {
                    let (stop, stopped) = oneshot::channel();
                    told.on_shutdown(async |_| {
                        let _ = stop.send(());
                    });
                    let signal = async { stopped.await.unwrap_or_default() };
                    server.with_graceful_shutdown(signal).await
                }
                Drop => tokio::select! {
                    served = server => served,
                    () = told.shutdown_signal() => Ok(()),
                },
            }
        });
        let mut client = Client::connect(address).await;
        client.get("/").await;
        client.read_until("hello").await;
        assert!(of_report(&drain).is_empty(), "{}", drain.report());
        drain.begin();
        let seen = of_report(&drain);
        match stopped_by {
            Nothing | StreamsOnly => {
                let [hint] = &seen[..] else {
                    panic!("{seen:?}");
                };
                assert!(
                    hint.starts_with("the drain does not tell axum's server to stop"),
                    "{hint}"
                );
            }
            _ => assert!(seen.is_empty(), "{stopped_by:?}: {seen:?}"),
        }
        server.abort();
    }
}

/// A listener tells a loop by hand and tonic's server when to stop: it ends.
#[tokio::test]
async fn a_loop_that_ends_with_its_listener_needs_no_signal() {
    let drain = Drain::new();
    let mut listener = drain.listener(bind());
    let server = async move { while listener.accept().await.is_some() {} };
    let run = tokio::spawn(drain.run(server, pending::<()>()));
    tokio::task::yield_now().await;
    drain.begin();
    assert!(of_report(&drain).is_empty(), "{}", drain.report());
    let drained = guarded(run).await.expect("no panic").expect("drained");
    assert!(hints(&drained, 0).is_empty(), "{drained}");
}

#[tokio::test]
async fn a_request_that_is_cut_without_a_layer_is_a_hint() {
    for kind in [Kind::Axum, Kind::Tonic] {
        for has_layer in [false, true] {
            let drain = Drain::new();
            let layer = has_layer.then(|| drain.layer());
            let server = Server::start_with(kind, drain.clone(), layer, bind()).await;
            let mut client = Client::connect(server.address).await;
            client.get("/gate").await;
            server.at_the_gate().await;
            drain.begin();
            assert!(of_report(&drain).is_empty(), "{}", drain.report());
            drain.force();
            let Err(RunError::Timeout(timeout)) = server.outcome().await else {
                panic!("a request was left");
            };
            match (&hints(&timeout, 0)[..], has_layer) {
                ([], true) => {}
                ([hint], false) => assert!(hint.contains("add `.layer(drain.layer())`"), "{hint}"),
                (hints, _) => panic!("{kind:?}: {hints:?}"),
            }
        }
    }
}

/// Nothing is missing: a layer cannot answer a response that has begun, a WebSocket, nor half a head.
#[tokio::test]
async fn other_connections_that_are_cut_are_no_hint() {
    let drain = Drain::new();
    let server = Server::start_with(Kind::Axum, drain.clone(), None, bind()).await;
    let mut events = Client::connect(server.address).await;
    events.send(frames::hello()).await;
    events.send(frames::get(1, "/events")).await;
    while server.shared.handled() == 0 {
        tokio::task::yield_now().await;
    }
    let mut socket = Client::connect(server.address).await;
    let handshake = "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.send(handshake).await;
    assert!(socket.head().await.starts_with("HTTP/1.1 101 "));
    let mut half = Client::connect(server.address).await;
    half.send("GET / HT").await;
    drain.begin();
    drain.force();
    let Err(RunError::Timeout(timeout)) = server.outcome().await else {
        panic!("a WebSocket was left");
    };
    assert!(hints(&timeout, 0).is_empty(), "{timeout}");
}
