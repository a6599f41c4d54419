//! What a person on call sees of a drain: its phase, what holds it, for how long, and what was lost.
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
//! The app's port closes at the end of the lame duck. The admin port is open until the process ends.
//!
//! The deadline and the lame duck come from `TERMINATION_GRACE_PERIOD_SECONDS` and
//! `PRE_STOP_SECONDS`. A manifest of Kubernetes sets both to its own values.

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
    // First in `main`: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    // Logs each phase, every five seconds what is left, and what was aborted.
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

    // Not part of the drain: it serves until the process ends.
    let admin = admin(&drain, prometheus);
    tokio::spawn(async move { axum::serve(private, admin).await });
    // The report lists this task by its name and this line.
    tokio::spawn(
        drain
            .track(flush_the_outbox(drain.clone()))?
            .named("outbox"),
    );

    let server = tower_graceful::serve(public, app(&drain))
        .with_drain(drain)
        // The report lists requests by method, path and peer.
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

/// Ends at the drain with a last event, and not in the middle.
fn events(drain: &Drain) -> impl Stream<Item = Result<Event, Infallible>> + use<> {
    let ticks = IntervalStream::new(interval(Duration::from_secs(1)))
        .map(|_| Ok(Event::default().data("tick")));
    let goodbye = Event::default().event("goodbye").data("come again");
    drain.end_stream(ticks).with_last(Ok(goodbye))
}

async fn flush_the_outbox(drain: Drain) {
    drain.reached(Phase::Draining).await;
    // Send here what is left to send.
    sleep(Duration::from_millis(100)).await;
}
