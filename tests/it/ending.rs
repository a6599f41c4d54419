//! Streams and bodies that end with the drain.

use crate::support::*;
use axum::{Router, body::Body, response::Response, routing::get};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_test::{assert_pending, assert_ready, assert_ready_eq, task};
use tower_graceful::{Drain, stream::Finite};

/// Yields what is sent.
struct Items(mpsc::UnboundedReceiver<u32>, #[expect(dead_code)] Arc<()>);

impl Stream for Items {
    type Item = u32;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<u32>> {
        self.0.poll_recv(cx)
    }
}

fn items() -> (mpsc::UnboundedSender<u32>, Items, Arc<()>) {
    let (send, receive) = mpsc::unbounded_channel();
    let alive = Arc::new(());
    (send, Items(receive, alive.clone()), alive)
}

#[tokio::test]
async fn a_stream_that_waits_is_woken_and_ends() {
    for last in [None, Some(99)] {
        let drain = Drain::new();
        let (send, items, alive) = items();
        let mut stream = drain.end_stream(items);
        if let Some(last) = last {
            stream = stream.with_last(last);
        }
        let mut stream = task::spawn(stream);
        send.send(1).expect("it is there");
        assert_ready_eq!(stream.poll_next(), Some(1));
        assert_pending!(stream.poll_next());
        drain.begin();
        assert!(stream.is_woken());
        if last.is_some() {
            assert_ready_eq!(stream.poll_next(), last);
        }
        assert_eq!(
            Arc::strong_count(&alive),
            if last.is_some() { 1 } else { 2 }
        );
        assert_ready_eq!(stream.poll_next(), None);
        assert_eq!(Arc::strong_count(&alive), 1, "what it held is let go of");
        assert_ready_eq!(stream.poll_next(), None);
    }
}

#[tokio::test]
async fn a_stream_that_ends_by_itself_says_no_goodbye() {
    let drain = Drain::new();
    let stream = drain.end_stream(stream::iter([1, 2])).with_last(99);
    assert_eq!(stream.size_hint(), (0, Some(3)));
    assert_eq!(stream.collect::<Vec<_>>().await, [1, 2]);
}

/// The stream is never pending, so it ends without a wake-up.
#[tokio::test]
async fn a_stream_that_is_always_ready_ends() {
    let drain = Drain::new();
    let seen = AtomicUsize::new(0);
    let stream = drain.end_stream(stream::repeat_with(|| {
        if seen.fetch_add(1, Ordering::Relaxed) == 9 {
            drain.begin();
        }
    }));
    assert_eq!(guarded(stream.count()).await, 10);
}

#[tokio::test]
async fn a_lame_duck_ends_no_stream() {
    let drain = Drain::builder()
        .lame_duck(Duration::from_secs(3600))
        .build();
    let (send, items, _) = items();
    let mut stream = task::spawn(drain.end_stream(items));
    drain.begin();
    assert_pending!(stream.poll_next());
    send.send(1).expect("it is there");
    assert_ready_eq!(stream.poll_next(), Some(1));
}

#[tokio::test]
async fn a_body_that_knows_its_length_is_left_alone() {
    let drain = Drain::new();
    drain.begin();
    let body = drain.end_body(Full::new(Bytes::from("whole")));
    assert_eq!(body.size_hint().exact(), Some(5));
    assert_eq!(
        body.collect().await.expect("infallible").to_bytes(),
        "whole"
    );
}

#[tokio::test]
async fn a_body_ends_between_two_frames() {
    let drain = Drain::new();
    let (mut chunks, body) = Chunks::new(2);
    let mut body = task::spawn(drain.end_body(body).with_last("bye".into()));
    let frame = |body: &mut task::Spawn<tower_graceful::stream::EndBody<Chunks>>| {
        body.enter(|cx, body| body.poll_frame(cx))
            .map(|frame| frame.map(|frame| frame.expect("no error").into_data().expect("data")))
    };
    assert_eq!(body.size_hint().exact(), None);
    chunks.send_data("event".into()).await.expect("it is there");
    assert_eq!(assert_ready!(frame(&mut body)), Some("event".into()));
    assert_pending!(frame(&mut body));
    drain.begin();
    assert!(body.is_woken());
    assert_eq!(assert_ready!(frame(&mut body)), Some("bye".into()));
    assert!(body.is_end_stream());
    assert!(chunks.send_data("more".into()).await.is_err(), "let go of");
    assert_eq!(assert_ready!(frame(&mut body)), None);
}

/// The stream keeps the only thread, so it has to read the clock itself.
#[tokio::test(start_paused = true)]
async fn a_stream_that_is_always_ready_ends_with_the_lame_duck() {
    let second = Duration::from_secs(1);
    let drain = Drain::builder().lame_duck(second).build();
    let mut stream = task::spawn(drain.end_stream(stream::repeat(1)));
    drain.begin();
    assert_ready_eq!(stream.poll_next(), Some(1));
    tokio::time::advance(second).await;
    assert_ready_eq!(stream.poll_next(), None);
}

#[tokio::test]
async fn a_body_that_has_ended_by_itself_says_no_goodbye() {
    for trailers in [false, true] {
        let drain = Drain::new();
        let (mut chunks, body) = Chunks::new(2);
        let mut body = drain.end_body(body).with_last("bye".into());
        if trailers {
            let sent = chunks.send_trailers(http::HeaderMap::new()).await;
            sent.expect("it is there");
        }
        drop(chunks);
        if trailers {
            assert!(
                body.frame()
                    .await
                    .is_some_and(|frame| frame.is_ok_and(|it| it.is_trailers()))
            );
        } else {
            assert!(body.frame().await.is_none());
        }
        drain.begin();
        assert!(body.frame().await.is_none(), "trailers: {trailers}");
    }
}

/// The layer may be around all routes.
#[tokio::test]
async fn only_event_streams_are_ended() {
    let drain = Drain::new();
    drain.begin();
    let ends = async |headers: &[(&str, &str)]| {
        let mut response = http::Response::builder();
        for (name, value) in headers {
            response = response.header(*name, *value);
        }
        let (mut chunks, body) = Chunks::new(1);
        chunks
            .send_data("event".into())
            .await
            .expect("there is room");
        drop(chunks);
        let response = drain.end_response(response.body(body).expect("a response"));
        assert_eq!(response.headers().len(), headers.len());
        let whole = response.into_body().collect().await.expect("no error");
        whole.to_bytes().is_empty()
    };
    let events = ("content-type", "text/event-stream");
    assert!(ends(&[events]).await);
    assert!(ends(&[("content-type", "Text/Event-Stream; charset=utf-8")]).await);
    for others in [
        &[][..],
        &[("content-type", "application/octet-stream")],
        &[("content-type", "application/grpc")],
        &[events, ("content-length", "5")],
        &[events, ("content-encoding", "gzip")],
    ] {
        assert!(!ends(others).await, "{others:?}");
    }
}

/// A layer further out may want to know it, too.
#[tokio::test]
async fn i14_an_event_stream_that_says_so_is_not_ended() {
    let drain = Drain::new();
    drain.begin();
    let (mut chunks, body) = Chunks::new(1);
    let response = http::Response::builder()
        .header("content-type", "text/event-stream")
        .extension(Finite)
        .body(body)
        .expect("a response");
    let response = drain.end_response(response);
    assert!(response.extensions().get::<Finite>().is_some());
    let mut body = task::spawn(response.into_body());
    assert_pending!(body.enter(|cx, body| body.poll_frame(cx)));
    chunks.send_data("last".into()).await.expect("it is there");
    drop(chunks);
    let whole = body.into_inner().collect().await.expect("no error");
    assert_eq!(whole.to_bytes(), "last");
}

/// On a real server: the client sees the last chunk, and the drain waits for nothing.
#[tokio::test]
async fn f44_an_event_stream_ends_with_its_last_chunk() {
    let drain = Drain::builder().timeout(Duration::from_secs(3600)).build();
    let events = |ends: Drain, by_body: bool| {
        let events = move || {
            let ticks = stream::iter([Ok::<_, Infallible>("data: tick\n\n")]);
            let ticks = ticks.chain(stream::pending());
            let body = match by_body {
                false => Body::from_stream(ends.end_stream(ticks).with_last(Ok("data: bye\n\n"))),
                true => {
                    let body = ends.end_body(Body::from_stream(ticks));
                    Body::new(body.with_last("data: bye\n\n".into()))
                }
            };
            std::future::ready(Response::new(body))
        };
        get(events)
    };
    let app = Router::new()
        .route("/stream", events(drain.clone(), false))
        .route("/body", events(drain.clone(), true))
        .layer(drain.layer());
    let server = Server::start(drain.clone(), app).await;
    for path in ["/stream", "/body"] {
        let mut client = server.connect().await;
        client.get(path).await;
        client.read_until("data: tick\n\n\r\n").await;
        if path == "/body" {
            drain.begin();
            assert_eq!(client.rest().await, "B\r\ndata: bye\n\n\r\n0\r\n\r\n");
        } else {
            let drain = drain.clone();
            tokio::spawn(async move {
                drain.reached(tower_graceful::Phase::Draining).await;
                assert_eq!(client.rest().await, "B\r\ndata: bye\n\n\r\n0\r\n\r\n");
            });
        }
    }
    server.drained().await;
}
