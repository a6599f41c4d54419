//! A gRPC server that stops without losing a call.
//!
//! On SIGTERM its health service says NOT_SERVING. After 5 s new calls are refused with UNAVAILABLE,
//! and the drain waits for the calls in flight. A Ctrl-C at a terminal skips the 5 s.
//!
//! ```text
//! cargo run -p example-tonic [ADDRESS]      (127.0.0.1:50051 if there is none)
//! ```

mod greeter {
    tonic::include_proto!("greeter.v1");
}

use futures_util::{Stream, StreamExt};
use greeter::{
    GreetRequest, Greeting,
    greeter_server::{Greeter, GreeterServer},
};
use std::{env, error::Error, pin::Pin, process::ExitCode, time::Duration};
use tokio::time::interval;
use tokio_stream::wrappers::IntervalStream;
use tonic::{Request, Response, Status, transport::Server};
use tower_graceful::{Drain, signal};

type GreeterService = GreeterServer<Polite>;

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    // First in `main`: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    let address = env::args().nth(1);

    let drain = Drain::builder()
        // For this long after the signal all calls are served: clients and balancers have to notice
        // the signal.
        .lame_duck(Duration::from_secs(5))
        // The limit of the whole drain, with the lame duck. Kubernetes kills after 30 s.
        .timeout(Duration::from_secs(25))
        .build();
    let listener = drain
        .bind(address.as_deref().unwrap_or("127.0.0.1:50051"))
        .await?;
    println!("listening on {}", listener.local_addr()?);

    // From the signal on, `grpc_health` answers NOT_SERVING for all services.
    let (health, _) = tonic_health::server::health_reporter();
    health.set_serving::<GreeterService>().await;

    // Exempt, so that `Check` is answered to the end. A new `Watch` is refused while draining.
    let probes =
        |request: &http::Request<_>| request.uri().path() == "/grpc.health.v1.Health/Check";
    let server = Server::builder()
        .layer(drain.layer().exempt(probes))
        .add_service(drain.grpc_health(health))
        .add_service(GreeterServer::new(Polite {
            drain: drain.clone(),
        }))
        // Has tonic send GOAWAY after the lame duck, when the listener has closed.
        .serve_with_incoming_shutdown(listener, drain.shutdown_signal());

    // At the second signal, or at the deadline, the calls that are left are aborted.
    match drain.run(server, stop).await {
        Ok(drained) => {
            println!("{drained}");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            eprintln!("{error:#}"); // what was aborted, one by one
            Ok(ExitCode::FAILURE)
        }
    }
}

struct Polite {
    drain: Drain,
}

#[tonic::async_trait]
impl Greeter for Polite {
    // Needs no change: the drain waits for each call that was admitted.
    async fn greet(&self, request: Request<GreetRequest>) -> Result<Response<Greeting>, Status> {
        Ok(Response::new(greeting(request.get_ref())))
    }

    type KeepGreetingStream = Pin<Box<dyn Stream<Item = Result<Greeting, Status>> + Send>>;

    async fn keep_greeting(
        &self,
        request: Request<GreetRequest>,
    ) -> Result<Response<Self::KeepGreetingStream>, Status> {
        // A stream without an end would hold the drain to its deadline. UNAVAILABLE tells the client
        // to call again.
        let greetings = IntervalStream::new(interval(Duration::from_secs(1)))
            .map(move |_| Ok(greeting(request.get_ref())));
        let greetings = self
            .drain
            .end_stream(greetings)
            .with_last(Err(Status::unavailable("moving; call again")));
        Ok(Response::new(Box::pin(greetings)))
    }
}

fn greeting(request: &GreetRequest) -> Greeting {
    Greeting {
        text: format!("Hello, {}!", request.name),
    }
}
