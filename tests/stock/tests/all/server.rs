//! The same app on each of the servers.

use crate::guarded;
use axum::{
    Router,
    body::Body,
    extract::{
        State,
        ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade},
    },
    http::HeaderMap,
    routing::{any, get, post},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tonic::service::Routes;
use tower_graceful::{Drain, Drained, GracefulLayer, Phase, RunError, server::Serve};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Axum,
    /// With HTTP/1, so that the tests of axum can run with it.
    Tonic,
    /// As it is set up for gRPC: HTTP/2 only.
    Tonic2,
    /// `tower_graceful::serve`.
    Serve,
}

/// The servers that speak HTTP/1.
pub const ALL: [Kind; 3] = [Kind::Axum, Kind::Tonic, Kind::Serve];

/// What a test and its handlers share.
#[derive(Clone)]
pub struct Shared {
    pub drain: Drain,
    /// How many requests have reached a handler.
    pub handled: Arc<AtomicUsize>,
    /// `/gate` is reached, and is opened.
    pub reached: Arc<Notify>,
    pub open: Arc<Notify>,
}

impl Shared {
    fn handle(&self) {
        self.handled.fetch_add(1, Ordering::SeqCst);
    }

    pub fn handled(&self) -> usize {
        self.handled.load(Ordering::SeqCst)
    }
}

pub type Outcome = Result<Drained, RunError<io::Error>>;

pub struct Server {
    pub drain: Drain,
    pub address: SocketAddr,
    pub shared: Shared,
    pub done: JoinHandle<Outcome>,
}

impl Server {
    /// With the layer and the connection side.
    pub async fn start(kind: Kind, drain: Drain) -> Self {
        let tcp = bind();
        Self::start_on(kind, drain, tcp).await
    }

    pub async fn start_on(kind: Kind, drain: Drain, tcp: TcpListener) -> Self {
        // `serve` counts by itself.
        let layer = (kind != Kind::Serve).then(|| drain.layer());
        Self::start_with(kind, drain, layer, tcp).await
    }

    /// With a layer that may be another drain's.
    pub async fn start_with(
        kind: Kind,
        drain: Drain,
        layer: Option<GracefulLayer>,
        tcp: TcpListener,
    ) -> Self {
        Self::start_as(kind, drain, tcp, |app| match layer {
            Some(layer) => app.layer(layer),
            None => app,
        })
    }

    /// With the connection side, and with layers of the test's own.
    pub fn start_as(
        kind: Kind,
        drain: Drain,
        tcp: TcpListener,
        wrap: impl FnOnce(Router) -> Router,
    ) -> Self {
        let address = tcp.local_addr().expect("bound");
        let shared = Shared::new(&drain);
        let app = wrap(app(shared.clone()));
        let pending = std::future::pending::<()>();
        let done = match kind {
            Kind::Axum => tokio::spawn(
                drain.run(
                    axum::serve(drain.listener(tcp).exclusive(), app)
                        .with_graceful_shutdown(drain.shutdown_signal()),
                    pending,
                ),
            ),
            Kind::Tonic | Kind::Tonic2 => {
                let server = tonic::transport::Server::builder()
                    .accept_http1(kind == Kind::Tonic)
                    .serve_with_incoming_shutdown(
                        Routes::from(app),
                        drain.listener(tcp).exclusive(),
                        drain.shutdown_signal(),
                    );
                let server = async { server.await.map_err(io::Error::other) };
                tokio::spawn(drain.run(server, pending))
            }
            Kind::Serve => {
                let server = tower_graceful::serve(tcp, app)
                    .with_drain(drain.clone())
                    .exclusive();
                let server = server.into_future();
                tokio::spawn(async { Ok(server.await?) })
            }
        };
        Self {
            drain,
            address,
            shared,
            done,
        }
    }

    /// `tower_graceful::serve`, as it is set up.
    pub fn serve(drain: Drain, set_up: impl FnOnce(TcpListener, Router) -> Serve<Router>) -> Self {
        let tcp = bind();
        let address = tcp.local_addr().expect("bound");
        let shared = Shared::new(&drain);
        let server = set_up(tcp, app(shared.clone())).with_drain(drain.clone());
        let server = server.into_future();
        Self {
            drain,
            address,
            shared,
            done: tokio::spawn(async { Ok(server.await?) }),
        }
    }

    /// With neither: as one finds it. Ends when the server does, once the drain has begun.
    pub async fn start_without(kind: Kind, drain: Drain) -> Self {
        let tcp = bind();
        let address = tcp.local_addr().expect("bound");
        let shared = Shared::new(&drain);
        let app = app(shared.clone());
        let told = drain.reached(Phase::Draining);
        let waits = drain.clone();
        let done = tokio::spawn(async move {
            match kind {
                Kind::Axum => {
                    let server = axum::serve(tcp, app).with_graceful_shutdown(told);
                    server.await.expect("it serves");
                }
                Kind::Serve => unreachable!("it does not come without"),
                Kind::Tonic | Kind::Tonic2 => {
                    let incoming = tonic::transport::server::TcpIncoming::from(tcp);
                    tonic::transport::Server::builder()
                        .accept_http1(kind == Kind::Tonic)
                        .serve_with_incoming_shutdown(Routes::from(app), incoming, told)
                        .await
                        .expect("it serves");
                }
            }
            Ok(waits.wait().await?)
        });
        Self {
            drain,
            address,
            shared,
            done,
        }
    }

    pub async fn outcome(self) -> Outcome {
        guarded(self.done).await.expect("no panic")
    }

    pub async fn drained(self) -> Drained {
        self.outcome().await.expect("drained")
    }

    /// The handler of `/gate` is running.
    pub async fn at_the_gate(&self) {
        guarded(self.shared.reached.notified()).await;
    }
}

impl Shared {
    pub fn new(drain: &Drain) -> Self {
        Self {
            drain: drain.clone(),
            handled: Arc::default(),
            reached: Arc::default(),
            open: Arc::default(),
        }
    }
}

pub fn bind() -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(any).expect("loopback");
    // More than the tests ever have in the queue.
    socket.listen(1024).expect("possible")
}

pub fn app(shared: Shared) -> Router {
    Router::new()
        .route("/", get(hello))
        .route("/gate", any(gate))
        .route("/trailers", get(trailers))
        .route("/upload", post(upload))
        .route("/echo", post(echo))
        .route("/keeps", post(keeps))
        .route("/reject", any(reject))
        .route("/stuck", any(stuck))
        .route("/drain", post(drain))
        .route("/drain-and-wait", post(drain_and_wait))
        .route("/block/{ms}", get(block))
        .route("/big", get(big))
        .route("/megabyte", get(async || Body::from(vec![b'x'; MEGABYTE])))
        .route("/events", get(events))
        .route("/ws", any(web_socket))
        .route("/ws-polite", any(web_socket_polite))
        .fallback(tunnel)
        .with_state(shared)
}

/// Answers a CONNECT with an echo, and any other request with 404.
async fn tunnel(mut request: axum::extract::Request) -> http::StatusCode {
    if request.method() != http::Method::CONNECT {
        return http::StatusCode::NOT_FOUND;
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let upgraded = upgrade.await.expect("a tunnel");
        let (mut from, mut to) = tokio::io::split(hyper_util::rt::TokioIo::new(upgraded));
        let _ = tokio::io::copy(&mut from, &mut to).await;
    });
    http::StatusCode::OK
}

async fn hello(State(shared): State<Shared>) -> &'static str {
    shared.handle();
    "hello"
}

async fn gate(State(shared): State<Shared>) -> &'static str {
    shared.handle();
    shared.reached.notify_one();
    shared.open.notified().await;
    "passed"
}

/// A chunk at once, a chunk and trailers when the gate is opened.
async fn trailers(State(shared): State<Shared>) -> ([(&'static str, &'static str); 1], Body) {
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    shared.handle();
    shared.reached.notify_one();
    let last = async move {
        shared.open.notified().await;
        Frame::data(Bytes::from_static(b"last"))
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().expect("a value"));
    let frames = stream::once(async { Frame::data(Bytes::from_static(b"first")) })
        .chain(stream::once(last))
        .chain(stream::once(async { Frame::trailers(trailers) }))
        .map(Ok::<_, Infallible>);
    ([("trailer", "x-sum")], Body::new(StreamBody::new(frames)))
}

async fn upload(State(shared): State<Shared>, body: Bytes) -> String {
    shared.handle();
    body.len().to_string()
}

/// Answers at once, and has a task of its own read the request.
async fn keeps(State(shared): State<Shared>, body: Body) -> &'static str {
    shared.handle();
    tokio::spawn(async move {
        let mut body = body.into_data_stream();
        while let Some(Ok(_)) = body.next().await {}
    });
    "hello"
}

/// Answers with the body, after a write that has the head alone.
async fn echo(State(shared): State<Shared>, body: Bytes) -> Body {
    shared.handle();
    let first = stream::once(async { Bytes::from_static(b"first") });
    let later = stream::once(async {
        tokio::task::yield_now().await;
        body
    });
    Body::from_stream(first.chain(later).map(Ok::<_, Infallible>))
}

/// Answers without reading the body.
async fn reject(State(shared): State<Shared>) -> (http::StatusCode, Body) {
    shared.handle();
    (http::StatusCode::UNAUTHORIZED, Body::from(vec![b'x'; 1024]))
}

/// Neither reads its body nor answers.
async fn stuck(State(shared): State<Shared>) -> &'static str {
    shared.handle();
    shared.reached.notify_one();
    std::future::pending().await
}

/// Begins the drain that its request belongs to.
async fn drain(State(shared): State<Shared>) -> http::StatusCode {
    shared.drain.begin();
    http::StatusCode::ACCEPTED
}

/// Waits for the drain that its request belongs to, and so for itself.
async fn drain_and_wait(State(shared): State<Shared>) -> &'static str {
    let outcome = shared.drain.shutdown(Duration::from_millis(700)).await;
    if outcome.is_ok() {
        "drained"
    } else {
        "given up"
    }
}

/// Blocks its thread.
async fn block(axum::extract::Path(ms): axum::extract::Path<u64>) -> &'static str {
    std::thread::sleep(Duration::from_millis(ms));
    "hello"
}

pub const MEGABYTE: usize = 1 << 20;
pub const BIG: usize = 64 << 20;

async fn big(State(shared): State<Shared>) -> Body {
    shared.handle();
    let chunk = Bytes::from(vec![b'x'; 1 << 16]);
    let chunks = stream::iter((0..BIG >> 16).map(move |_| Ok::<_, Infallible>(chunk.clone())));
    Body::from_stream(chunks)
}

/// Never ends, and does not listen.
async fn events(State(shared): State<Shared>) -> Body {
    shared.handle();
    let ticks = tokio_stream::wrappers::IntervalStream::new(tokio::time::interval(
        Duration::from_millis(20),
    ));
    Body::from_stream(ticks.map(|_| Ok::<_, Infallible>("tick\n")))
}

/// Echoes, and does not listen.
async fn web_socket(
    State(shared): State<Shared>,
    upgrade: WebSocketUpgrade,
) -> axum::response::Response {
    shared.handle();
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        while let Some(Ok(message)) = socket.recv().await {
            if socket.send(message).await.is_err() {
                return;
            }
        }
    })
}

/// Sends a Close frame at the drain.
async fn web_socket_polite(
    State(shared): State<Shared>,
    upgrade: WebSocketUpgrade,
) -> axum::response::Response {
    shared.handle();
    let draining = shared.drain.reached(Phase::Draining);
    upgrade.on_upgrade(async |mut socket: WebSocket| {
        draining.await;
        let goodbye = CloseFrame {
            code: 1001,
            reason: "going away".into(),
        };
        if socket.send(Message::Close(Some(goodbye))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    })
}
