//! WebSockets, event streams, work after a response and background tasks: each ends with the drain.
//!
//! `cargo run -p example-websocket-and-tasks`, then `curl -N localhost:3000/events`,
//! `websocat ws://localhost:3000/echo` and `curl -X POST localhost:3000/report`, and Ctrl-C here.
//! The stream ends with a last event, and the WebSocket with a Close frame. The drain waits for the
//! report and for the background task.

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::StatusCode,
    response::{Response, Sse, sse::Event},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt};
use std::{convert::Infallible, error::Error, time::Duration};
use tokio::time::{interval, sleep};
use tokio_stream::wrappers::IntervalStream;
use tower_graceful::{Drain, Phase, Refused, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First in `main`: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    let drain = Drain::builder().timeout(Duration::from_secs(10)).build();

    // The drain waits for the task, and the task waits for `Phase::Draining` to end.
    tokio::spawn(drain.track(background(drain.clone()))?);

    let app = Router::new()
        .route("/events", get(events))
        .route("/echo", get(upgrade))
        .route("/report", post(report))
        .with_state(drain.clone())
        .layer(drain.layer());
    let listener = drain
        .bind("127.0.0.1:3000")
        .await?
        .close_websockets(1001, "the server is shutting down");
    println!("http://localhost:3000, Ctrl-C to stop");

    let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    let drained = drain.run(server, stop).await?;
    println!("{drained}");
    Ok(())
}

async fn background(drain: Drain) {
    let mut draining = drain.reached(Phase::Draining);
    let mut tick = interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = tick.tick() => println!("{} in flight", drain.in_flight()),
            () = &mut draining => break,
        }
    }
    // Write here what is left to write.
    sleep(Duration::from_millis(100)).await;
    println!("the background task has finished");
}

/// Ends at the drain with a last event: the client sees a regular end.
async fn events(State(drain): State<Drain>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_secs(1)))
        .map(|_| Ok(Event::default().data("tick")));
    let goodbye = Event::default().event("goodbye").data("come again");
    Sse::new(drain.end_stream(ticks).with_last(Ok(goodbye)))
}

/// Responds at once, and works on. The drain waits for the guard.
async fn report(State(drain): State<Drain>) -> Result<&'static str, (StatusCode, String)> {
    let late = |refused: Refused| (StatusCode::SERVICE_UNAVAILABLE, refused.to_string());
    // Taken before the response ends, so that the drain is never without a count of this work.
    let guard = drain.guard().map_err(late)?.named("report");
    tokio::spawn(async move {
        sleep(Duration::from_secs(3)).await;
        println!("the report is written");
        drop(guard);
    });
    Ok("it will be written\n")
}

/// Makes a WebSocket. The request ends with its 101, but the drain's listener has accepted the
/// connection, so the drain counts the WebSocket until it closes.
async fn upgrade(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo)
}

/// Need not know of the drain, which sends a Close frame. After that of the client, the loop ends.
async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let has_data = matches!(message, Message::Text(_) | Message::Binary(_));
        if has_data && socket.send(message).await.is_err() {
            return;
        }
    }
}
