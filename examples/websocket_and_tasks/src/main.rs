//! What outlives its request: a WebSocket, an event stream, work after the answer, a background task.
//!
//! `cargo run -p example-websocket-and-tasks`, then `curl -N localhost:3000/events` and
//! `websocat ws://localhost:3000/echo` and `curl -X POST localhost:3000/report`, and Ctrl-C here: the
//! stream ends with its last chunk, the socket with a Close frame, the report is written, the task
//! ends with its work.

use axum::{
    Router,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code},
    },
    http::StatusCode,
    response::{Response, Sse, sse::Event},
    routing::{get, post},
};
use futures_util::{Stream, StreamExt};
use std::{convert::Infallible, error::Error, time::Duration};
use tokio::time::{interval, sleep, timeout};
use tokio_stream::wrappers::IntervalStream;
use tower_graceful::{Drain, Phase, Refused, signal};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // First: before it, SIGTERM ends the process.
    let stop = signal::terminate();
    let drain = Drain::builder().timeout(Duration::from_secs(10)).build();

    // Counted from here on: the drain waits for the task, and the task listens for the drain.
    tokio::spawn(drain.track(background(drain.clone()))?);

    let app = Router::new()
        .route("/events", get(events))
        .route("/echo", get(upgrade))
        .route("/report", post(report))
        .with_state(drain.clone())
        .layer(drain.layer());
    let listener = drain.bind("127.0.0.1:3000").await?;
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
    // Here one writes what is left to write.
    sleep(Duration::from_millis(100)).await;
    println!("the background task has finished");
}

/// Ends at the drain, with the last chunk: the client sees an end, not a cut.
async fn events(State(drain): State<Drain>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let ticks = IntervalStream::new(interval(Duration::from_secs(1)))
        .map(|_| Ok(Event::default().data("tick")));
    let goodbye = Event::default().event("goodbye").data("come again");
    Sse::new(drain.end_stream(ticks).with_last(Ok(goodbye)))
}

/// Answers at once, and goes on: the guard is waited for.
async fn report(State(drain): State<Drain>) -> Result<&'static str, (StatusCode, String)> {
    let late = |refused: Refused| (StatusCode::SERVICE_UNAVAILABLE, refused.to_string());
    // Taken before the answer, so that there is no moment at which nothing is counted.
    let guard = drain.guard().map_err(late)?.named("report");
    tokio::spawn(async move {
        sleep(Duration::from_secs(3)).await;
        println!("the report is written");
        drop(guard);
    });
    Ok("it will be written\n")
}

/// The request ends with its 101. What comes after it is the connection's, which the drain counts,
/// as it was its listener that accepted it.
async fn upgrade(State(drain): State<Drain>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(move |socket| echo(socket, drain))
}

async fn echo(mut socket: WebSocket, drain: Drain) {
    let mut draining = drain.reached(Phase::Draining);
    loop {
        tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                    if socket.send(message).await.is_err() {
                        return;
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            },
            () = &mut draining => break,
        }
    }
    let going_away = CloseFrame {
        code: close_code::AWAY,
        reason: "the server is shutting down".into(),
    };
    let close = async {
        if socket.send(Message::Close(Some(going_away))).await.is_ok() {
            while let Some(Ok(_)) = socket.recv().await {}
        }
    };
    // Without a limit, one client that never answers holds the drain to its deadline.
    let _ = timeout(Duration::from_secs(2), close).await;
}
