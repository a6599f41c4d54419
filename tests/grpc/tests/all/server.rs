//! The two servers that the cases need: one that stops, and one that has to refuse.

use crate::{
    gate::{Gate, gate_client::GateClient, gate_server::GateServer},
    soon,
};
use std::net::SocketAddr;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use tonic::{
    body::Body,
    server::NamedService,
    service::Routes,
    transport::{Channel, Endpoint, Error, Server, server::TcpIncoming},
};
use tonic_health::{pb::health_client::HealthClient, server::HealthReporter};
use tower_graceful::{Drain, Drained, Phase, RunError};

/// Every service name that health knows of.
pub const NAMES: [&str; 2] = ["", GateServer::<Gate>::NAME];

/// A server that runs in a task, the drain's layer around it.
pub struct Running<T> {
    pub address: SocketAddr,
    pub drain: Drain,
    pub gate: Gate,
    pub health: HealthReporter,
    signal: oneshot::Sender<()>,
    task: Task<T>,
}

/// Ends with the test.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How a server ends that is run by its drain.
pub type Outcome = Result<Drained, RunError<Error>>;

/// What serves.
#[derive(Clone, Copy)]
pub enum Kind {
    Tonic,
    /// `tower_graceful::serve`.
    Serve,
}

pub const KINDS: [Kind; 2] = [Kind::Tonic, Kind::Serve];

/// As in `examples/tonic`: stops at [`Phase::Draining`], and is waited for.
pub async fn that_stops(kind: Kind, drain: Drain) -> Running<Outcome> {
    let (address, tcp) = listen().await;
    let (gate, health, routes) = routes(&drain).await;
    let (signal, signalled) = oneshot::channel();
    let signalled = async {
        // A test that drops it does not signal.
        if signalled.await.is_err() {
            std::future::pending().await
        }
    };
    let task = match kind {
        Kind::Tonic => {
            let server = Server::builder()
                .layer(drain.layer().exempt(is_probe))
                .serve_with_incoming_shutdown(
                    routes.prepare(),
                    TcpIncoming::from(tcp),
                    drain.reached(Phase::Draining),
                );
            tokio::spawn(drain.run(server, signalled))
        }
        Kind::Serve => {
            let server = tower_graceful::serve(tcp, routes.prepare())
                .with_drain(drain.clone())
                .shutdown_on(signalled)
                .into_future();
            tokio::spawn(async { Ok(server.await?) })
        }
    };
    Running {
        address,
        drain,
        gate,
        health,
        signal,
        task: Task(task),
    }
}

/// Starts a server without a shutdown signal. It keeps its port and its connections open, so that
/// requests in the drain reach the layer.
pub async fn that_stays(drain: Drain) -> Running<Result<(), Error>> {
    let (address, incoming) = bind();
    let (gate, health, routes) = routes(&drain).await;
    let server = Server::builder()
        .layer(drain.layer().exempt(is_probe))
        .serve_with_incoming(routes.prepare(), incoming);
    Running {
        address,
        drain,
        gate,
        health,
        signal: oneshot::channel().0,
        task: Task(tokio::spawn(server)),
    }
}

impl Running<Outcome> {
    /// What SIGTERM does; returns when the drain has come to `phase`.
    pub async fn signal(self, phase: Phase) -> Signalled {
        self.signal.send(()).expect("a server that runs");
        soon("the phase", self.drain.reached(phase)).await;
        Signalled { task: self.task }
    }
}

/// A server that has got its signal.
pub struct Signalled {
    task: Task<Outcome>,
}

impl Signalled {
    pub async fn outcome(mut self) -> Outcome {
        soon("the server's end", &mut self.task.0)
            .await
            .expect("a server that does not panic")
    }
}

impl<T> Running<T> {
    pub async fn gate_client(&self) -> GateClient<Channel> {
        GateClient::new(connect(self.address).await)
    }

    pub async fn health_client(&self) -> HealthClient<Channel> {
        HealthClient::new(connect(self.address).await)
    }
}

pub async fn connect(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}"))
        .expect("a valid address")
        .connect()
        .await
        .expect("a server that listens")
}

async fn listen() -> (SocketAddr, TcpListener) {
    let tcp = TcpListener::bind(("127.0.0.1", 0)).await;
    let tcp = tcp.expect("a free port");
    (tcp.local_addr().expect("a bound socket"), tcp)
}

pub fn bind() -> (SocketAddr, TcpIncoming) {
    let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
    (incoming.local_addr().expect("a bound socket"), incoming)
}

async fn routes(drain: &Drain) -> (Gate, HealthReporter, Routes) {
    let (health, _) = tonic_health::server::health_reporter();
    health.set_serving::<GateServer<Gate>>().await;

    let gate = Gate::new(drain);
    let routes =
        Routes::new(GateServer::new(gate.clone())).add_service(drain.grpc_health(health.clone()));
    (gate, health, routes)
}

/// The same as in `examples/tonic`.
fn is_probe(request: &http::Request<Body>) -> bool {
    request.uri().path() == "/grpc.health.v1.Health/Check"
}
