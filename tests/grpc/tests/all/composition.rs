//! The layer among others, and under other roofs.

use crate::{
    gate::{Gate, gate_client::GateClient, gate_server::GateServer, text},
    server::{bind, connect},
    soon,
};
use axum::routing::get;
use http::Response;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tonic::{
    Code,
    service::Routes,
    transport::{Endpoint, Server},
};
use tower::ServiceBuilder;
use tower_graceful::Drain;
use tower_http::trace::TraceLayer;
use tracing::Span;

/// In a service builder, tower-http's tracing outside of it: what is refused is traced.
#[tokio::test]
async fn composition_in_a_service_builder_inside_of_tracing() {
    let drain = Drain::new();
    let (address, incoming) = bind();
    let gate = Gate::new(&drain);

    let traced = Arc::new(Mutex::new(Vec::new()));
    let record = traced.clone();
    let trace = TraceLayer::new_for_grpc().on_response(
        move |response: &Response<_>, _: Duration, _: &Span| {
            let status = response.headers().get("grpc-status").cloned();
            record.lock().unwrap().push(status);
        },
    );
    let layer = ServiceBuilder::new().layer(trace).layer(drain.layer());
    let server = Server::builder()
        .layer(layer)
        .add_service(GateServer::new(gate.clone()))
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);

    let mut client = GateClient::new(connect(address).await);
    gate.let_go();
    let answer = soon("the answer", client.hold(text("hello"))).await;
    assert_eq!(answer.unwrap().into_inner(), text("hello"));
    drain.begin();
    let refusal = soon("the refusal", client.hold(text("late"))).await;
    assert_eq!(refusal.unwrap_err().code(), Code::Unavailable);

    let traced = traced.lock().unwrap();
    assert_eq!(*traced, [None, Some(http::HeaderValue::from_static("14"))]);
    server.abort();
}

/// tonic's routes behind axum's: one port, one layer, a refusal in each protocol.
#[tokio::test]
async fn composition_behind_a_router_of_axum() {
    let drain = Drain::new();
    let gate = Gate::new(&drain);
    let app = Routes::new(GateServer::new(gate.clone()))
        .into_axum_router()
        .route("/hello", get("hello"))
        .layer(drain.layer());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let server = axum::serve(listener, app).with_graceful_shutdown(async {
        stopped.await.ok();
    });
    let server = tokio::spawn(drain.run(server, std::future::pending::<()>()));

    let mut client = GateClient::new(connect(address).await);
    let mut other = client.clone();
    let held = tokio::spawn(async move { other.hold(text("held")).await });
    gate.entered().await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    drain.begin();

    let refusal = soon("the refusal", client.hold(text("late"))).await;
    assert_eq!(refusal.unwrap_err().code(), Code::Unavailable);
    idle.write_all(b"GET /hello HTTP/1.1\r\nhost: gate\r\n\r\n")
        .await
        .unwrap();
    let mut refusal = String::new();
    soon("the refusal", idle.read_to_string(&mut refusal))
        .await
        .unwrap();
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains("\r\nretry-after: 1\r\n"), "{refusal}");
    assert!(refusal.contains("\r\nconnection: close\r\n"), "{refusal}");

    gate.let_go();
    let answer = soon("the held call", held).await.unwrap();
    assert_eq!(answer.unwrap().into_inner(), text("held"));
    stop.send(()).unwrap();
    let drained = soon("the server", server).await.unwrap().unwrap();
    assert_eq!((drained.completed, drained.refused), (1, 2));
}

/// Under `serve`, with nothing written for it.
#[tokio::test]
async fn i76_peers_are_known_to_handlers() {
    use std::{net::SocketAddr, sync::mpsc};
    use tonic::transport::server::UdsConnectInfo;

    type Seen = (Option<SocketAddr>, Option<SocketAddr>, bool);
    let (seen, sees) = mpsc::channel::<Seen>();
    let drain = Drain::new();
    let gate = Gate::new(&drain);
    let looks = move |request: tonic::Request<()>| {
        let unix = request.extensions().get::<UdsConnectInfo>().is_some();
        let all = (request.remote_addr(), request.local_addr(), unix);
        seen.send(all).expect("the test looks");
        Ok(request)
    };
    let service = GateServer::with_interceptor(gate.clone(), looks);
    let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let tcp = tcp.expect("a free port");
    let address = tcp.local_addr().expect("bound");
    let path = std::env::temp_dir().join(format!("i76-{}", address.port()));
    let unix = tokio::net::UnixListener::bind(&path).expect("free");
    let server = tower_graceful::serve(tcp, Routes::new(service).prepare())
        .listen(unix)
        .with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    for target in [
        format!("http://{address}"),
        format!("unix:{}", path.display()),
    ] {
        let channel = Endpoint::from_shared(target)
            .expect("valid")
            .connect()
            .await;
        let mut client = GateClient::new(channel.expect("it listens"));
        gate.let_go();
        let answer = soon("the answer", client.hold(text("here"))).await;
        assert_eq!(answer.expect("OK").into_inner(), text("here"));
    }
    std::fs::remove_file(&path).expect("there");
    let (remote, local, unix) = sees.recv().expect("asked");
    let remote = remote.expect("known");
    assert_eq!(
        (remote.ip(), local, unix),
        (address.ip(), Some(address), false)
    );
    assert_eq!(sees.recv().expect("asked"), (None, None, true));
    drain.begin();
    soon("the server", done)
        .await
        .expect("no panic")
        .expect("drained");
}
