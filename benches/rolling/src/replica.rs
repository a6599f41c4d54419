//! A server that is restarted: this binary in another role, a process of its own. HTTP/1, HTTP/2 and
//! gRPC on one port, and a SIGTERM as from any supervisor.
//!
//! It says on its standard output what happens, with the time, for the rig to wait for and to draw.

mod greeter {
    tonic::include_proto!("greeter.v1");
}

use crate::{
    BoxError,
    events::{self, Change},
};
use axum::{
    Router,
    routing::{get, post},
};
use bytes::Bytes;
use greeter::{
    GreetRequest, Greeting,
    greeter_server::{Greeter, GreeterServer},
};
use std::{
    io::{Read, stdin},
    net::{Ipv4Addr, SocketAddr},
    process,
    sync::{
        Once,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};
use tokio::{net::TcpListener, time::sleep};
use tonic::{Request, Response, Status, codegen::BoxStream, service::Routes};
use tower_graceful::{Drain, DrainTimeout, Phase, signal};

/// The argument that makes a replica of this binary.
pub const ROLE: &str = "replica";

/// What `GET /` is answered with.
pub const BODY: &str = "hello\n";

/// How it is made to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Serve,
    Axum,
    Plain,
}

impl Server {
    pub const ALL: [Self; 3] = [Self::Serve, Self::Axum, Self::Plain];

    /// In commands.
    pub fn name(self) -> &'static str {
        match self {
            Self::Serve => "serve",
            Self::Axum => "axum",
            Self::Plain => "plain",
        }
    }

    /// In the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Serve => "tower_graceful::serve",
            Self::Axum => "axum::serve + tower-graceful",
            Self::Plain => "axum::serve",
        }
    }

    /// Whether the run fails if it loses a request.
    pub fn is_ours(self) -> bool {
        self != Self::Plain
    }
}

#[derive(Clone, Copy)]
pub struct Settings {
    pub server: Server,
    pub port: u16,
    pub lame_duck: Duration,
    pub timeout: Duration,
}

impl Settings {
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// What `options` reads.
    pub fn arguments(&self) -> [String; 5] {
        [
            ROLE.to_owned(),
            self.server.name().to_owned(),
            self.port.to_string(),
            self.lame_duck.as_millis().to_string(),
            self.timeout.as_millis().to_string(),
        ]
    }
}

#[tokio::main(worker_threads = 2)]
pub async fn run(settings: Settings) -> Result<(), BoxError> {
    // No task: a runtime does not end before its standard input does.
    thread::spawn(end_with_the_rig);
    match settings.server {
        Server::Serve => serve(settings).await,
        Server::Axum => axum_with_drain(settings).await,
        Server::Plain => plain(settings).await,
    }
}

async fn serve(settings: Settings) -> Result<(), BoxError> {
    let drain = drain(settings);
    let tcp = TcpListener::bind(settings.address()).await?;
    let app = app().route_service("/readyz", drain.readiness());
    let server = tower_graceful::serve(tcp, app)
        .with_drain(drain)
        .exclusive()
        .shutdown_on(signal::terminate());
    events::say(Change::Serving, "");
    ended(server.await)
}

async fn axum_with_drain(settings: Settings) -> Result<(), BoxError> {
    let drain = drain(settings);
    let listener = drain.bind(settings.address()).await?;
    let app = app()
        .layer(drain.layer())
        .route_service("/readyz", drain.readiness());
    let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    let terminate = signal::terminate();
    events::say(Change::Serving, "");
    match drain.run(server, terminate).await {
        Ok(drained) => ended(Ok(drained)),
        Err(tower_graceful::RunError::Timeout(timeout)) => ended(Err(timeout)),
        Err(error) => Err(error.into()),
    }
}

/// What one finds in many a main function.
async fn plain(settings: Settings) -> Result<(), BoxError> {
    let listener = TcpListener::bind(settings.address()).await?;
    let app = app().route("/readyz", get("ready\n"));
    let terminate = signal::terminate();
    let server = axum::serve(listener, app).with_graceful_shutdown(async {
        terminate.await;
        events::say(Change::Draining, "");
    });
    events::say(Change::Serving, "");
    server.await?;
    events::say(Change::Ended, "axum::serve has returned");
    Ok(())
}

fn drain(settings: Settings) -> Drain {
    let drain = Drain::builder()
        .lame_duck(settings.lame_duck)
        .timeout(settings.timeout)
        .build();
    for (phase, change) in [
        (Phase::LameDuck, Change::LameDuck),
        (Phase::Draining, Change::Draining),
    ] {
        let reached = drain.reached(phase);
        tokio::spawn(async move {
            reached.await;
            events::say(change, "");
        });
    }
    drain
}

fn ended(outcome: Result<tower_graceful::Drained, DrainTimeout>) -> Result<(), BoxError> {
    match outcome {
        Ok(drained) => events::say(Change::Ended, &drained.to_string()),
        Err(timeout) => {
            events::say(Change::Ended, &timeout.to_string());
            return Err(timeout.into());
        }
    }
    Ok(())
}

/// Its standard input ends with the rig, however that ends.
fn end_with_the_rig() {
    let _ = stdin().read_to_end(&mut Vec::new());
    process::exit(1);
}

fn app() -> Router {
    Router::new()
        .route("/", get(hello))
        .route("/echo", post(echo))
        .merge(Routes::new(GreeterServer::new(Polite)).into_axum_router())
}

async fn hello() -> &'static str {
    static FIRST: Once = Once::new();
    FIRST.call_once(|| events::say(Change::AnswersHttp, ""));
    work().await;
    BODY
}

async fn echo(body: Bytes) -> Bytes {
    work().await;
    body
}

/// What every handler does: at once, at the most 2 ms, or, one in sixteen, 20 to 50 ms.
async fn work() {
    static TURN: AtomicU64 = AtomicU64::new(0);
    // Scattered, but the same on each run.
    let turn = TURN
        .fetch_add(1, Ordering::Relaxed)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        >> 32;
    match turn % 16 {
        0 => sleep(Duration::from_millis(20 + turn / 16 % 30)).await,
        1..8 => sleep(Duration::from_micros(turn / 16 % 2000)).await,
        _ => {}
    }
}

struct Polite;

#[tonic::async_trait]
impl Greeter for Polite {
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<Greeting>, Status> {
        static FIRST: Once = Once::new();
        FIRST.call_once(|| events::say(Change::AnswersGrpc, ""));
        work().await;
        Ok(Response::new(Greeting {
            text: format!("Hello, {}!", request.get_ref().name),
        }))
    }

    type KeepGreetingStream = BoxStream<Greeting>;

    async fn keep_greeting(
        &self,
        _: Request<GreetRequest>,
    ) -> Result<Response<Self::KeepGreetingStream>, Status> {
        Err(Status::unimplemented("nobody asks for that here"))
    }
}
