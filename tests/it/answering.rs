//! The answer at the deadline, by the layer alone.

use crate::support::{Server, closes, gate, guarded, held, request};
use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::{Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, service_fn};
use tower_graceful::{
    Drain, Phase, RunError,
    refusal::{Answer, NoAnswer, Refusal},
};

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn ask(version: Version) -> Request<Empty<Bytes>> {
    let mut request = request();
    *request.version_mut() = version;
    request
}

#[tokio::test]
async fn the_handler_is_dropped_and_a_503_takes_its_place() {
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let drain = Drain::new();
        let (answer, inner) = held::<Body>();
        let mut service = drain.layer().layer(inner);
        let mut response = task::spawn(service.call(ask(version)));
        assert_pending!(response.poll());
        drain.begin();
        assert_pending!(response.poll());
        assert!(!response.is_woken());
        drain.force();
        assert!(response.is_woken(), "by the drain alone");
        let response = assert_ready!(response.poll()).expect("an answer");
        assert!(answer.is_closed(), "its handler was dropped");
        assert_eq!(drain.left().requests, 0);
        assert_eq!(response.status(), 503);
        assert!(!response.headers().contains_key(header::RETRY_AFTER));
        let closes = response.headers().get(header::CONNECTION);
        let expected = (version == Version::HTTP_11).then_some("close");
        assert_eq!(closes.map(|it| it.to_str().expect("text")), expected);
        let body = response.into_body().collect().await.expect("a body");
        assert!(body.to_bytes().is_empty());
        let timeout = guarded(drain.wait()).await.expect_err("it was left");
        let report = timeout.report();
        let figures = (
            report.left.requests,
            report.completed,
            report.answered_at_deadline,
        );
        assert_eq!(figures, (1, 0, 1), "{timeout}");
        let text = "with 1 request left (0 completed, 0 refused, 1 answered at the deadline)";
        assert!(timeout.to_string().contains(text), "{timeout}");
        assert!(
            drain
                .report()
                .to_string()
                .contains(", 1 answered at the deadline")
        );
    }
}

/// Another task may poll the future than the one that polled it first.
#[tokio::test]
async fn the_latest_waker_of_a_request_is_woken() {
    let drain = Drain::new();
    let (_answer, inner) = held::<Body>();
    let mut response = Box::pin(drain.layer().layer(inner).call(request()));
    let mut first = task::spawn(());
    assert_pending!(first.enter(|cx, _| response.as_mut().poll(cx)));
    let mut second = task::spawn(());
    assert_pending!(second.enter(|cx, _| response.as_mut().poll(cx)));
    drain.force();
    assert!(second.is_woken() && !first.is_woken());
}

/// Nothing waits for an answer: the end comes at once, as if there were none.
#[tokio::test(start_paused = true)]
async fn the_end_comes_later_only_for_an_answer() {
    let start = Instant::now();
    for case in [
        "begun",
        "never polled",
        "dropped",
        "off",
        "answered by itself",
    ] {
        let drain = Drain::new();
        let guard = drain.guard().expect("serving");
        let (answer, inner) = held::<Body>();
        let mut ordinary = drain.layer().layer(inner);
        let off = service_fn(async |_: Request<Empty<Bytes>>| {
            pending::<Result<Response<Body>, Failure>>().await
        });
        let mut off = drain.layer().answer_at_deadline(NoAnswer).layer(off);
        let mut kept = None;
        if case == "off" {
            let mut response = task::spawn(Box::pin(off.call(request())));
            assert_pending!(response.poll());
            drain.force();
            assert!(!response.is_woken());
            assert_pending!(response.poll());
        } else {
            let mut response = task::spawn(ordinary.call(request()));
            if case != "never polled" {
                assert_pending!(response.poll());
            }
            match case {
                "begun" | "answered by itself" => {
                    answer.send(Response::new(Body::empty())).expect("awaited");
                    let ready = assert_ready!(response.poll()).expect("a response");
                    kept = (case == "begun").then_some(ready);
                }
                "dropped" => drop(response),
                _ => {}
            }
            drain.force();
        }
        guarded(drain.wait()).await.expect_err("the guard");
        assert_eq!(start.elapsed(), Duration::ZERO, "{case}");
        assert_eq!(drain.report().answered_at_deadline, 0, "{case}");
        drop((guard, kept));
    }
}

/// With a layer alone the drain does not see the answer written: it gives the server a moment.
#[tokio::test(start_paused = true)]
async fn an_answer_has_time_to_be_written() {
    let drain = Drain::new();
    let (_answer, inner) = held::<Body>();
    let mut response = task::spawn(drain.layer().layer(inner).call(request()));
    assert_pending!(response.poll());
    let start = Instant::now();
    drain.force();
    let mut wait = task::spawn(drain.wait());
    assert_pending!(wait.poll());
    sleep(Duration::from_millis(100)).await;
    drop(assert_ready!(response.poll()));
    assert_pending!(wait.poll());
    assert_eq!(drain.phase(), Phase::Forced);
    assert!(wait.await.is_err());
    assert_eq!(start.elapsed(), Duration::from_millis(300));
}

/// A request that is polled first when the drain has been forced is answered, too.
#[tokio::test]
async fn a_late_first_poll_is_answered() {
    let drain = Drain::new();
    let (_answer, inner) = held::<Body>();
    let mut response = task::spawn(drain.layer().layer(inner).call(request()));
    drain.force();
    let response = assert_ready!(response.poll()).expect("an answer");
    assert_eq!(response.status(), 503);
}

#[tokio::test]
async fn an_exempt_request_goes_on() {
    let drain = Drain::new();
    let (answer, inner) = held::<Body>();
    let mut service = drain.layer().exempt(|_: &_| true).layer(inner);
    let mut response = task::spawn(service.call(request()));
    assert_pending!(response.poll());
    drain.force();
    assert!(guarded(drain.wait()).await.is_ok());
    assert_pending!(response.poll());
    answer.send(Response::new(Body::empty())).expect("awaited");
    assert_eq!(
        assert_ready!(response.poll()).expect("its own").status(),
        200
    );
}

/// A request that is listed in reports has a token of its own.
#[tokio::test]
async fn a_listed_request_is_answered() {
    let drain = Drain::new();
    let (_answer, inner) = held::<Body>();
    let mut service = drain.layer().report_requests().layer(inner);
    let mut response = task::spawn(service.call(request()));
    assert_pending!(response.poll());
    drain.force();
    assert!(response.is_woken());
    assert_eq!(
        assert_ready!(response.poll()).expect("an answer").status(),
        503
    );
    let timeout = guarded(drain.wait()).await.expect_err("it was left");
    let report = timeout.report();
    assert_eq!((report.blockers.len(), report.answered_at_deadline), (1, 1));
}

/// Counts what it makes.
#[derive(Clone, Default)]
struct Teapot(Arc<AtomicUsize>);

impl Refusal<(), Body> for Teapot {
    fn refuse(&self, request: &Request<()>) -> Answer<Body> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let mut response = Response::new(Body::from(format!("{:?}", request.version())).into());
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        response.into()
    }
}

#[tokio::test]
async fn the_answer_is_replaced() {
    let drain = Drain::new();
    let teapot = Teapot::default();
    let inner = service_fn(async |_: Request<Empty<Bytes>>| {
        pending::<Result<Response<Body>, Failure>>().await
    });
    let layer = drain.layer().answer_at_deadline(teapot.clone());
    let mut service = layer.exempt(|_: &_| false).layer(inner);
    let mut response = task::spawn(Box::pin(service.call(ask(Version::HTTP_11))));
    assert_pending!(response.poll());
    assert_eq!(
        teapot.0.load(Ordering::SeqCst),
        0,
        "it costs nothing while serving"
    );
    drain.force();
    let response = assert_ready!(response.poll()).expect("an answer");
    assert_eq!(response.status(), 418);
    assert_eq!(response.headers()[header::CONNECTION], "close");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "HTTP/1.1");
}

/// Ten thousand requests wait, are answered, and leave no places behind.
#[tokio::test]
async fn each_of_many_is_woken_and_answered() {
    let drain = Drain::new();
    let inner = service_fn(async |_: Request<Empty<Bytes>>| {
        pending::<Result<Response<Body>, Failure>>().await
    });
    let mut service = drain.layer().layer(inner);
    let mut all: Vec<_> = (0..10_000)
        .map(|_| task::spawn(Box::pin(service.call(request()))))
        .collect();
    for response in &mut all {
        assert_pending!(response.poll());
    }
    // Some leave, and others take their places.
    for response in all.iter_mut().step_by(3) {
        *response = task::spawn(Box::pin(service.call(request())));
        assert_pending!(response.poll());
    }
    drain.force();
    for response in &mut all {
        assert!(response.is_woken());
        assert_eq!(
            assert_ready!(response.poll()).expect("an answer").status(),
            503
        );
    }
    let timeout = guarded(drain.wait()).await.expect_err("they were left");
    assert_eq!(timeout.report().answered_at_deadline, 10_000);
}

/// On a server that the drain knows nothing of but the layer.
#[tokio::test]
async fn a_server_with_a_layer_alone_writes_the_answer() {
    let drain = Drain::builder().timeout(Duration::from_millis(50)).build();
    let (gate, pass) = gate();
    let stuck = get(move || async move {
        pass().await;
        pending::<()>().await
    });
    let app = Router::new().route("/", stuck).layer(drain.layer());
    let server = Server::start(drain, app).await;
    let mut client = server.connect().await;
    client.get("/").await;
    guarded(gate.reached).await.expect("the handler runs");
    gate.open.send(()).expect("it waits");
    server.drain.begin();
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    assert_eq!(closes(&head), 1, "{head}");
    assert_eq!(client.rest().await, "");
    match guarded(server.done).await.expect("no panic") {
        Err(RunError::Timeout(timeout)) => {
            assert_eq!(timeout.report().answered_at_deadline, 1, "{timeout}");
        }
        other => panic!("{other:?}"),
    }
}
