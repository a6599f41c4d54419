//! What the person on call sees: is it draining, how long still, what holds it, was anything lost.
//!
//! `cargo run -p example-operations`, then
//!
//! ```text
//! curl localhost:3000/slow &  curl -N localhost:3000/events &
//! kill <the process>
//! curl localhost:9000/drainz                                  the report, as a table
//! curl -H 'accept: application/json' localhost:9000/drainz    for machines
//! curl localhost:9000/metrics                                 for Prometheus
//! curl -i localhost:9000/readyz                               503 from the signal on
//! curl -i localhost:9000/livez                                200 to the end
//! ```
//!
//! The admin port is there as long as the process: that of the app closes when the lame duck is over, and
//! with it all that is asked there.
//!
//! The seconds are Kubernetes': they come from `TERMINATION_GRACE_PERIOD_SECONDS` and `PRE_STOP_SECONDS`,
//! which a manifest sets to what it says itself.

use axum::{
    Router,
    response::{Sse, sse::Event},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use std::{
    convert::Infallible,
    env::{self, VarError},
    error::Error,
    io::IsTerminal,
    process::ExitCode,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    time::{interval, sleep},
};
use tokio_stream::wrappers::IntervalStream;
use tower_graceful::{Drain, Phase, signal};

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    // First: before it, SIGTERM ends the process.
    let stop = signal::terminate();
    // Each phase, what is left every five seconds, and what was cut.
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let prometheus = PrometheusBuilder::new().install_recorder()?;

    let grace = seconds("TERMINATION_GRACE_PERIOD_SECONDS", 30)?;
    let drain = Drain::builder()
        .kubernetes(grace, seconds("PRE_STOP_SECONDS", 0)?)
        .build();

    let mut addresses = env::args().skip(1);
    let mut bind = async |default: &str| {
        let address = addresses.next();
        TcpListener::bind(address.as_deref().unwrap_or(default)).await
    };
    let (public, private) = (bind("127.0.0.1:3000").await?, bind("127.0.0.1:9000").await?);
    println!("http://{}", public.local_addr()?);
    println!("http://{}", private.local_addr()?);

    // Not drained, and not waited for: it ends with the process.
    tokio::spawn(axum::serve(private, admin(&drain, prometheus)).into_future());
    // In the report by this name, with this line.
    tokio::spawn(
        drain
            .track(flush_the_outbox(drain.clone()))?
            .named("outbox"),
    );

    let server = tower_graceful::serve(public, app(&drain))
        .with_drain(drain)
        // In the report by method, path and peer.
        .report_requests()
        .exclusive()
        .shutdown_on(stop);
    match server.await {
        Ok(drained) => {
            println!("{drained}");
            Ok(ExitCode::SUCCESS)
        }
        Err(timeout) => {
            eprintln!("{timeout:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn seconds(variable: &str, default: u64) -> Result<Duration, Box<dyn Error>> {
    let seconds = match env::var(variable) {
        Ok(seconds) => seconds
            .parse()
            .map_err(|error| format!("{variable}={seconds}: {error}"))?,
        Err(VarError::NotPresent) => default,
        Err(error) => return Err(format!("{variable}: {error}").into()),
    };
    Ok(Duration::from_secs(seconds))
}

fn app(drain: &Drain) -> Router {
    let drain = drain.clone();
    Router::new()
        .route("/", get(async || "hello\n"))
        .route("/slow", get(slow))
        .route("/upload", post(async |body: String| body.len().to_string()))
        .route("/events", get(async move || Sse::new(events(&drain))))
}

fn admin(drain: &Drain, prometheus: PrometheusHandle) -> Router {
    let metrics = drain.clone();
    Router::new()
        .route_service("/readyz", drain.readiness())
        .route_service("/livez", drain.liveness())
        .route_service("/drainz", drain.status())
        .route(
            "/metrics",
            get(async move || {
                metrics.record_metrics();
                prometheus.render()
            }),
        )
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(20)).await;
    "that took a while\n"
}

/// Says goodbye at the drain, and ends with its last chunk.
fn events(drain: &Drain) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
    let ticks = IntervalStream::new(interval(Duration::from_secs(1)))
        .map(|_| Ok(Event::default().data("tick")));
    let goodbye = Event::default().event("goodbye").data("come again");
    drain.end_stream(ticks).with_last(Ok(goodbye))
}

async fn flush_the_outbox(drain: Drain) {
    drain.reached(Phase::Draining).await;
    // Here one sends what is left to send.
    sleep(Duration::from_millis(100)).await;
}
