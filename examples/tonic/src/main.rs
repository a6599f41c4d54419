//! A gRPC server that stops without losing a call: on SIGTERM or Ctrl-C its health service says
//! NOT_SERVING, then new calls are refused with UNAVAILABLE, and those in flight are waited for.
//!
//! ```text
//! cargo run -p example-tonic [ADDRESS]      (127.0.0.1:50051 if there is none)
//! ```

mod greeter {
    tonic::include_proto!("greeter.v1");
}

use futures_util::{Stream, StreamExt, stream};
use greeter::{
    GreetRequest, Greeting,
    greeter_server::{Greeter, GreeterServer},
};
use std::{env, error::Error, pin::Pin, process::ExitCode, time::Duration};
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;
use tonic::{
    Request, Response, Status,
    server::NamedService,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::{ServingStatus::NotServing, server::HealthReporter};
use tower_graceful::{Drain, Phase, signal};

type GreeterService = GreeterServer<Polite>;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let address = env::args().nth(1);
    let incoming = TcpIncoming::bind(address.as_deref().unwrap_or("127.0.0.1:50051").parse()?)?;
    println!("listening on {}", incoming.local_addr()?);

    let drain = Drain::builder()
        // What is served on after the signal, until clients and balancers have moved elsewhere.
        .lame_duck(Duration::from_secs(5))
        // For everything, the lame duck included. Kubernetes kills at 30 s.
        .timeout(Duration::from_secs(25))
        .build();

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<GreeterService>().await;
    tokio::spawn(report_health(drain.clone(), health));

    // A probe is answered to the very end. Not so a health `Watch`: it is a stream like any other,
    // which has to end (see `report_health`) and which nobody shall open any more.
    let probes =
        |request: &http::Request<_>| request.uri().path() == "/grpc.health.v1.Health/Check";
    let server = Server::builder()
        .layer(drain.layer().exempt(probes))
        .add_service(health_service)
        .add_service(GreeterServer::new(Polite {
            drain: drain.clone(),
        }))
        // Closes the door and sends GOAWAY. Not at the signal: the lame duck still serves.
        .serve_with_incoming_shutdown(drain.incoming(incoming), drain.shutdown_signal());

    // The second signal forces: what is left then, or at the deadline, is cut.
    match drain.run(server, signal::terminate()).await {
        Ok(drained) => {
            println!("{drained}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Tells those who ask for our health that they shall go elsewhere, as soon as we know it.
async fn report_health(drain: Drain, mut health: HealthReporter) {
    // "" is the server as a whole; Kubernetes asks for it unless told otherwise.
    let services = ["", GreeterService::NAME];

    drain.reached(Phase::LameDuck).await;
    for service in services {
        health.set_service_status(service, NotServing).await;
    }

    // Left alone, a `Watch` would hold its connection until the deadline. It ends when what it
    // watches is cleared; probes are to find NOT_SERVING all the same.
    drain.reached(Phase::Draining).await;
    for service in services {
        health.clear_service_status(service).await;
        health.set_service_status(service, NotServing).await;
    }
}

struct Polite {
    drain: Drain,
}

#[tonic::async_trait]
impl Greeter for Polite {
    // Nothing to do in here: a call that was admitted is waited for.
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<Greeting>, Status> {
        Ok(Response::new(greeting(request.get_ref())))
    }

    type KeepGreetingStream = Pin<Box<dyn Stream<Item = Result<Greeting, Status>> + Send>>;

    async fn keep_greeting(
        &self,
        request: Request<GreetRequest>,
    ) -> Result<Response<Self::KeepGreetingStream>, Status> {
        // A stream without an end would be cut at the deadline. This one says goodbye in time:
        // UNAVAILABLE is what tells a client to come again, elsewhere.
        let goodbye = stream::iter([Err(Status::unavailable("moving; call again"))]);
        let greetings = IntervalStream::new(interval(Duration::from_secs(1)))
            .map(move |_| Ok(greeting(request.get_ref())))
            .take_until(self.drain.reached(Phase::Draining))
            .chain(goodbye);
        Ok(Response::new(Box::pin(greetings)))
    }
}

fn greeting(request: &GreetRequest) -> Greeting {
    Greeting {
        text: format!("Hello, {}!", request.name),
    }
}
