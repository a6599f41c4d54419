//! What blocks a drain, on real servers: connections by state and peer, requests by name.

use crate::{
    client::{Client, closes, frames},
    guarded,
    server::{ALL, Kind, Server, Shared, app, bind},
};
use axum::serve::ListenerExt;
use std::{io, net::SocketAddr, time::Duration};
use tonic::service::Routes;
use tower_graceful::{
    Drain, Phase, RunError,
    report::{Blocker, BlockerKind, ConnectionState},
};

/// Polls until `look` returns a value, as the server sees a client's bytes a moment later.
async fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    guarded(async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
}

fn local(client: &Client) -> SocketAddr {
    client.stream.local_addr().expect("connected")
}

/// Returns the entry of a client's connection in the report.
fn connection(drain: &Drain, peer: SocketAddr) -> Option<(ConnectionState, Blocker)> {
    let report = drain.report();
    let mut all = report.blockers.iter().filter(|it| it.peer == Some(peer));
    all.find_map(|it| match it.kind {
        BlockerKind::Connection(state) => Some((state, it.clone())),
        _ => None,
    })
}

async fn state(drain: &Drain, client: &Client, wanted: ConnectionState) -> Blocker {
    let peer = local(client);
    let look = || connection(drain, peer).filter(|(state, _)| *state == wanted);
    until(look).await.1
}

/// `with_graceful_shutdown` is missing: with a client that keeps its connection, and without.
#[tokio::test]
async fn i20_a_server_that_is_never_told_says_what_is_missing() {
    for keeps in [false, true] {
        let timeout = Duration::from_millis(300);
        let drain = Drain::builder().timeout(timeout).build();
        let tcp = bind();
        let address = tcp.local_addr().expect("bound");
        let app = app(Shared::new(&drain)).layer(drain.layer());
        let server = axum::serve(drain.listener(tcp), app).into_future();
        let run = tokio::spawn(drain.run(server, std::future::pending::<()>()));
        let mut client = Client::connect(address).await;
        client.get("/").await;
        client.read_until("hello").await;
        let client = keeps.then_some(client);
        drain.begin();
        let outcome = guarded(run).await.expect("no panic");
        let Err(RunError::Timeout(timeout)) = outcome else {
            panic!("nobody tells it: {outcome:?}");
        };
        let hint = "`with_graceful_shutdown(drain.shutdown_signal())` is missing";
        assert!(timeout.to_string().contains(hint), "{timeout}");
        drop(client);
    }
}

#[tokio::test]
async fn connections_are_named_by_peer_and_state() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let drain = &server.drain;
        let connect = || Client::connect(server.address);

        let silent = connect().await;
        assert_eq!(
            state(drain, &silent, ConnectionState::Silent).await.sent,
            Some(0)
        );
        let mut reading = connect().await;
        reading.send("GET / HT").await;
        state(drain, &reading, ConnectionState::Reading).await;
        let mut handling = connect().await;
        handling.get("/gate").await;
        server.at_the_gate().await;
        state(drain, &handling, ConnectionState::Handling).await;
        let mut stalled = connect().await;
        stalled.get("/big").await;
        let blocker = state(drain, &stalled, ConnectionState::Stalled).await;
        assert!(blocker.sent > Some(1 << 16), "{blocker}");
        let mut idle = connect().await;
        idle.get("/").await;
        idle.read_until("hello").await;
        let seen = match kind {
            // It alone knows that the response has ended.
            Kind::Serve => ConnectionState::Idle,
            _ => ConnectionState::Streaming,
        };
        let blocker = state(drain, &idle, seen).await;
        assert!(blocker.sent > Some(5), "{blocker}");
        if kind != Kind::Tonic {
            let mut socket = connect().await;
            let handshake = "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
            socket.send(handshake).await;
            assert!(socket.head().await.starts_with("HTTP/1.1 101 "));
            state(drain, &socket, ConnectionState::Upgraded).await;
        }
        let text = drain.report().to_string();
        assert!(text.contains("not read by the peer"), "{text}");
        server.shared.open.notify_one();
    }
}

/// The request, its connection, and both by the same peer.
#[tokio::test]
async fn requests_are_named_on_each_server() {
    for kind in ALL {
        let drain = Drain::new();
        let (address, shared) = start_naming(kind, &drain);
        let mut client = Client::connect(address).await;
        client.get("/gate?token=secret").await;
        guarded(shared.reached.notified()).await;
        let peer = local(&client);
        let report = drain.report();
        let mut requests = report.blockers.iter();
        let request = requests.find(|it| it.kind == BlockerKind::Request);
        let request = request.expect("in flight");
        assert_eq!(request.method, Some(http::Method::GET), "{kind:?}");
        assert_eq!(request.path.as_deref(), Some("/gate"));
        assert_eq!((request.peer, request.response_begun), (Some(peer), false));
        assert!(connection(&drain, peer).is_some());

        shared.open.notify_one();
        client.read_until("passed").await;
        until(|| drain.report().left.requests.eq(&0).then_some(())).await;
        let report = drain.report();
        assert!(
            report
                .blockers
                .iter()
                .all(|it| it.kind != BlockerKind::Request)
        );
    }
}

/// A server is in the report as long as it listens, with the place where it was awaited.
#[tokio::test]
async fn a_server_is_in_it() {
    let drain = Drain::new();
    let (server, ..) = naming(Kind::Serve, &drain);
    tokio::spawn(server);
    let server = until(|| drain.report().blockers.first().cloned()).await;
    assert_eq!(server.kind, BlockerKind::Server);
    let place = server.taken_at.expect("known");
    assert!(place.file().ends_with("report.rs"), "{place}");
}

/// Over HTTP/2 there are several on one connection.
#[tokio::test]
async fn requests_are_named_on_one_connection() {
    let drain = Drain::new();
    let (address, shared) = start_naming(Kind::Serve, &drain);
    let mut client = Client::connect(address).await;
    client.send(frames::hello()).await;
    for (stream, path) in [(1, "/gate"), (3, "/stuck")] {
        client.send(frames::get(stream, path)).await;
        guarded(shared.reached.notified()).await;
    }
    let report = drain.report();
    let requests = report
        .blockers
        .iter()
        .filter(|it| it.kind == BlockerKind::Request);
    let mut paths: Vec<_> = requests.filter_map(|it| it.path.as_deref()).collect();
    paths.sort_unstable();
    assert_eq!(paths, ["/gate", "/stuck"]);
}

/// Aborted requests are in the outcome by name, and do not count as completed.
#[tokio::test]
async fn what_is_cut_is_named_and_not_completed() {
    for kind in ALL {
        let timeout = Duration::from_millis(300);
        let drain = Drain::builder().timeout(timeout).build();
        let (server, address, shared) = naming(kind, &drain);
        let server = tokio::spawn(server);
        let mut client = Client::connect(address).await;
        client.get("/stuck").await;
        guarded(shared.reached.notified()).await;
        drain.begin();
        let Err(timeout) = guarded(server).await.expect("no panic") else {
            panic!("{kind:?}: it was cut");
        };
        assert_eq!(
            (timeout.report().completed, timeout.report().left.requests),
            (0, 1),
            "{kind:?}"
        );
        let paths: Vec<_> = timeout
            .report()
            .blockers
            .iter()
            .filter_map(|it| it.path.as_deref())
            .collect();
        assert_eq!(paths, ["/stuck"]);
        let peers = timeout
            .report()
            .blockers
            .iter()
            .filter(|it| it.peer == Some(local(&client)));
        assert_eq!(peers.count(), 2, "the request and its connection");
        client.end().await;
    }
}

type Naming = std::pin::Pin<
    Box<dyn Future<Output = Result<tower_graceful::Drained, tower_graceful::DrainTimeout>> + Send>,
>;

/// Starts a server that lists its requests by name.
fn naming(kind: Kind, drain: &Drain) -> (Naming, SocketAddr, Shared) {
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let shared = Shared::new(drain);
    let app = app(shared.clone());
    let pending = std::future::pending::<()>();
    fn outcome<T>(
        result: Result<T, RunError<io::Error>>,
    ) -> Result<T, tower_graceful::DrainTimeout> {
        result.map_err(|error| match error {
            RunError::Timeout(timeout) => timeout,
            other => panic!("{other}"),
        })
    }
    let server: Naming = match kind {
        Kind::Serve => {
            let server = tower_graceful::serve(tcp, app).report_requests();
            Box::pin(server.with_drain(drain.clone()).into_future())
        }
        Kind::Axum => {
            let app = app.layer(drain.layer().report_requests());
            let app = app.into_make_service_with_connect_info::<SocketAddr>();
            let server = axum::serve(drain.listener(tcp).tap_io(|_| {}), app)
                .with_graceful_shutdown(drain.shutdown_signal());
            let run = drain.run(server, pending);
            Box::pin(async { outcome(run.await) })
        }
        Kind::Tonic | Kind::Tonic2 => {
            let server = tonic::transport::Server::builder()
                .accept_http1(true)
                .layer(drain.layer().report_requests())
                .serve_with_incoming_shutdown(
                    Routes::from(app),
                    drain.incoming(tonic::transport::server::TcpIncoming::from(tcp)),
                    drain.shutdown_signal(),
                );
            let run = drain.run(async { server.await.map_err(io::Error::other) }, pending);
            Box::pin(async { outcome(run.await) })
        }
    };
    (server, address, shared)
}

fn start_naming(kind: Kind, drain: &Drain) -> (SocketAddr, Shared) {
    let (server, address, shared) = naming(kind, drain);
    tokio::spawn(server);
    (address, shared)
}

const POST_DRAIN: &str = "POST /drain HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn i72_a_request_can_begin_its_own_drain() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::connect(server.address).await;
        client.send(POST_DRAIN).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 202"), "{kind:?}: {answer}");
        assert_eq!(closes(&answer), 1);
        assert_eq!(server.drained().await.completed, 1, "{kind:?}");
    }
}

/// The request waits for itself until the deadline, and the report shows that.
#[tokio::test]
async fn i72_a_request_that_waits_for_its_own_drain_is_said() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let drain = server.drain.clone();
        let mut client = Client::connect(server.address).await;
        let request = POST_DRAIN.replace("/drain", "/drain-and-wait");
        client.send(request).await;
        guarded(drain.shutdown_signal()).await;
        while !drain.report().to_string().contains("waits for this drain") {
            assert!(
                drain.phase() < Phase::Forced,
                "{kind:?}: {}",
                drain.report()
            );
            tokio::task::yield_now().await;
        }
        let error = server.outcome().await.expect_err("it waits for itself");
        let text = error.to_string();
        assert!(text.contains("waits for this drain"), "{kind:?}: {text}");
    }
}
