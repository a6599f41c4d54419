//! A count starts with the call and ends exactly once, whatever ends it.

use crate::support::*;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
};
use tokio_test::{assert_pending, assert_ready, assert_ready_err, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_graceful::{Drain, Graceful, body::ResponseBody};

/// Sends a request, and returns its response with the body still open.
fn streaming<B>(drain: &Drain, body: B) -> Response<ResponseBody<B>>
where
    B: Body + Send + Unpin + 'static,
{
    let (answer, service) = held();
    let mut service = Graceful::new(service, drain);
    let mut call = task::spawn(service.call(request()));
    assert_pending!(call.poll());
    assert!(answer.send(Response::new(body)).is_ok());
    assert_ready_ok!(call.poll())
}

/// Ends one request in a given way while another one stays, and checks that it counts once.
#[track_caller]
fn ends_once(what: &str, end: impl FnOnce(&Drain)) {
    let drain = Drain::new();
    let stays = streaming(&drain, Chunks::new(1).1);
    assert_eq!(drain.in_flight(), 1, "{what}: before");
    end(&drain);
    assert_eq!(drain.in_flight(), 1, "{what}: after");
    drop(stays);
    assert_eq!(drain.in_flight(), 0, "{what}: in the end");
}

fn poll_frame<B: Body + Unpin>(body: &mut B) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
    Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn f40_in_flight_until_the_body_has_ended() {
    let drain = Drain::new();
    let (mut sender, body) = Chunks::new(1);
    let mut body = streaming(&drain, body).into_body();
    assert_eq!(drain.in_flight(), 1, "the handler has returned");

    assert!(poll_frame(&mut body).is_pending());
    sender.try_send(Frame::data("one".into())).expect("room");
    assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Ok(_)))));
    assert_eq!(drain.in_flight(), 1, "more may come");

    drop(sender);
    assert!(matches!(poll_frame(&mut body), Poll::Ready(None)));
    assert_eq!(drain.in_flight(), 1, "the body is still there");
    drop(body);
    assert_eq!(drain.in_flight(), 0);
}

#[test]
fn f41_released_at_the_end_of_the_stream() {
    ends_once("end", |drain| {
        let (sender, body) = Chunks::new(1);
        let mut body = streaming(drain, body).into_body();
        drop(sender);
        assert!(matches!(poll_frame(&mut body), Poll::Ready(None)));
        assert_eq!(drain.in_flight(), 2, "until the body is dropped");
    });
}

#[test]
fn f41_released_at_the_trailers() {
    ends_once("trailers", |drain| {
        let (mut sender, body) = Chunks::new(1);
        let mut body = streaming(drain, body).into_body();
        sender
            .try_send(Frame::trailers(HeaderMap::new()))
            .expect("room");
        assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Ok(_)))));
        assert_eq!(drain.in_flight(), 2, "until the body is dropped");
    });
}

#[test]
fn f41_released_by_a_frame_that_is_the_last() {
    ends_once("is_end_stream", |drain| {
        let mut body = streaming(drain, Full::new(Bytes::from("all"))).into_body();
        assert_eq!(drain.in_flight(), 2);
        assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Ok(_)))));
        assert!(body.is_end_stream());
        assert_eq!(drain.in_flight(), 2, "until the body is dropped");
    });
}

#[test]
fn f41_released_by_an_error_of_the_body() {
    ends_once("error", |drain| {
        let (sender, body) = Chunks::new(1);
        let mut body = streaming(drain, body).into_body();
        sender.abort("broken".into());
        assert!(matches!(poll_frame(&mut body), Poll::Ready(Some(Err(_)))));
        assert_eq!(drain.in_flight(), 2, "until the body is dropped");
    });
}

#[test]
fn f41_released_by_drops() {
    ends_once("body drop", |drain| {
        drop(streaming(drain, Chunks::new(1).1));
    });
    ends_once("future drop before its first poll", |drain| {
        let (_answer, service) = held::<Empty<Bytes>>();
        let future = Graceful::new(service, drain).call(request());
        assert_eq!(drain.in_flight(), 2);
        drop(future);
    });
    ends_once("future drop before the head", |drain| {
        let (_answer, service) = held::<Empty<Bytes>>();
        let mut call = task::spawn(Graceful::new(service, drain).call(request()));
        assert_pending!(call.poll());
        assert_eq!(drain.in_flight(), 2);
    });
    ends_once("future drop after the head, before the body's", |drain| {
        let (answer, service) = held();
        let mut call = task::spawn(Graceful::new(service, drain).call(request()));
        assert!(answer.send(Response::new(Chunks::new(1).1)).is_ok());
        let response = assert_ready_ok!(call.poll());
        drop(call);
        assert_eq!(drain.in_flight(), 2, "it is the body's now");
        drop(response);
    });
}

#[test]
fn f41_released_by_an_error_of_the_service() {
    ends_once("Err", |drain| {
        let (answer, service) = held::<Empty<Bytes>>();
        let mut call = task::spawn(Graceful::new(service, drain).call(request()));
        drop(answer);
        assert_ready_err!(call.poll());
        assert_eq!(drain.in_flight(), 1, "before the future is dropped");
    });
}

#[test]
fn f41_released_by_panics() {
    ends_once("panic in call", |drain| {
        let mut service = drain.layer().layer(service_fn(
            |_| -> std::future::Ready<Result<Response<Empty<Bytes>>, BoxError>> {
                panic!("in call")
            },
        ));
        catch_unwind(AssertUnwindSafe(|| drop(service.call(request())))).expect_err("it panics");
    });
    ends_once("panic in poll", |drain| {
        let mut service = drain.layer().layer(service_fn(
            async |_| -> Result<Response<Empty<Bytes>>, BoxError> { panic!("in poll") },
        ));
        let call = service.call(request());
        catch_unwind(AssertUnwindSafe(|| drop(task::spawn(call).poll()))).expect_err("it panics");
    });
}

#[test]
fn f42_bodies_that_nobody_polls() {
    ends_once("kept, and not polled", |drain| {
        let response = streaming(drain, Empty::<Bytes>::new());
        assert!(response.body().is_end_stream());
        assert_eq!(drain.in_flight(), 2, "until the body is dropped");
    });
    ends_once("dropped unpolled", |drain| {
        drop(streaming(drain, Full::new(Bytes::from("to a HEAD"))));
    });
}

/// Shows all that a body can show.
struct Telling;

impl Body for Telling {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut trailers = HeaderMap::new();
        trailers.insert("checksum", "7".parse().expect("a value"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn size_hint(&self) -> SizeHint {
        let mut hint = SizeHint::new();
        hint.set_lower(3);
        hint.set_upper(7);
        hint
    }
}

#[tokio::test]
async fn f43_what_a_response_says_passes_unchanged() {
    #[derive(Clone, Debug, PartialEq)]
    struct Extension(u8);

    let drain = Drain::new();
    let service = drain.layer().layer(service_fn(async |_| {
        let mut response = Response::new(Telling);
        response.extensions_mut().insert(Extension(7));
        response.headers_mut().insert("x", "y".parse()?);
        *response.status_mut() = http::StatusCode::CREATED;
        *response.version_mut() = http::Version::HTTP_10;
        Ok::<_, BoxError>(response)
    }));
    let response = service.oneshot(request()).await.expect("served");
    assert_eq!(response.status(), 201);
    assert_eq!(response.version(), http::Version::HTTP_10);
    assert_eq!(response.headers()["x"], "y");
    assert_eq!(response.extensions().get(), Some(&Extension(7)));
    let body = response.into_body();
    assert!(!body.is_end_stream());
    assert_eq!(
        (body.size_hint().lower(), body.size_hint().upper()),
        (3, Some(7))
    );
    let mut body = Box::pin(body);
    let frame = body.frame().await.expect("a frame").expect("no error");
    assert_eq!(frame.trailers_ref().expect("trailers")["checksum"], "7");

    let body = Graceful::new(
        service_fn(async |_| Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))),
        &drain,
    )
    .oneshot(request())
    .await
    .expect("served")
    .into_body();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(0));
}

#[tokio::test(start_paused = true)]
async fn f46_a_forgotten_body_holds_until_the_deadline() {
    let drain = Drain::new();
    std::mem::forget(streaming(&drain, Chunks::new(1).1));
    let timeout = drain
        .shutdown(std::time::Duration::from_secs(3))
        .await
        .expect_err("it is never dropped");
    assert_eq!(timeout.report().left.requests, 1);
    assert_eq!(timeout.report().elapsed.as_secs(), 3);
    assert!(timeout.to_string().contains("1 request left"), "{timeout}");
}

#[tokio::test]
async fn f48_entered_on_one_thread_left_on_another() {
    let drain = Drain::new();
    let (send, receive) = std::sync::mpsc::channel::<Vec<Response<ResponseBody<Chunks>>>>();
    let elsewhere = std::thread::spawn(move || receive.into_iter().for_each(drop));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (drain, send) = (drain.clone(), send.clone());
            std::thread::spawn(move || {
                let bodies = (0..100)
                    .map(|_| streaming(&drain, Chunks::new(1).1))
                    .collect();
                assert!(drain.in_flight() >= 100, "these are inside");
                send.send(bodies).expect("it listens");
            })
        })
        .collect();
    let stays = streaming(&drain, Chunks::new(1).1);
    for thread in threads {
        thread.join().expect("no panic");
    }
    drop(send);
    drain.begin();
    assert!(drain.in_flight() >= 1);
    elsewhere.join().expect("no panic");
    assert_eq!(drain.in_flight(), 1);
    let mut wait = task::spawn(drain.wait());
    assert_pending!(wait.poll());
    drop(stays);
    assert!(wait.is_woken(), "by the last one out");
    let drained = assert_ready!(wait.poll()).expect("all have left");
    assert_eq!(drain.in_flight(), 0);
    assert!(drained.completed >= 1);
}

#[test]
fn layers_and_services_without_requests_are_not_counted() {
    let drain = Drain::new();
    let layer = drain.layer();
    let service = layer.layer(service_fn(async |_: http::Request<Empty<Bytes>>| {
        Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
    }));
    let clones: Vec<_> = (0..10)
        .map(|_| (drain.clone(), layer.clone(), service.clone()))
        .collect();
    drain.begin();
    assert!(drain.left().is_empty());
    assert_eq!(drain.phase(), tower_graceful::Phase::Done);
    drop(clones);
}

/// A service whose drain was dropped before it began goes on serving.
#[tokio::test]
async fn services_outlive_their_drain() {
    let drain = Drain::new();
    let mut service = drain.layer().layer(service_fn(async |_| {
        Ok::<_, BoxError>(Response::new(Full::new(Bytes::from("hello"))))
    }));
    let body = service.call(request()).await.expect("served").into_body();
    drop(drain);
    let elsewhere = service.clone();
    let served = std::thread::spawn(move || {
        let mut clone = elsewhere.clone();
        tokio_test::block_on(clone.call(request())).map(|response| response.status())
    });
    assert_eq!(served.join().expect("no panic").expect("served"), 200);
    assert_eq!(service.call(request()).await.expect("served").status(), 200);
    assert_eq!(body.collect().await.expect("whole").to_bytes(), "hello");
}

/// Guards that come and go are not counted as requests.
#[test]
fn a_guard_does_not_pass_for_a_request() {
    let drain = Drain::new();
    let guard = drain.guard().expect("serving");
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                drop(guard.clone());
            }
        });
        let phantoms = (0..100_000).filter(|_| drain.in_flight() > 0).count();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(phantoms, 0);
    });
}

/// The number is exact, even if another thread reads the phase meanwhile.
#[test]
fn what_was_completed_is_exact() {
    use std::sync::atomic::{AtomicBool, Ordering};

    const REQUESTS: usize = 50;
    for _ in 0..300 {
        let drain = Drain::new();
        let service = service_fn(async |_: Request<Empty<Bytes>>| {
            Ok::<_, BoxError>(Response::new(Chunks::new(1).1))
        });
        let service = drain.layer().layer(service);
        let in_flight: Vec<_> = (0..REQUESTS)
            .map(|_| {
                let response = task::spawn(service.clone().oneshot(request())).poll();
                assert_ready!(response).expect("answered")
            })
            .collect();
        drain.begin();
        let looks = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while drain.phase() < tower_graceful::Phase::Done {
                    looks.store(true, Ordering::Release);
                }
            });
            while !looks.load(Ordering::Acquire) {
                std::thread::yield_now();
            }
            drop(in_flight);
        });
        let drained = task::spawn(drain.wait()).poll();
        let drained = assert_ready!(drained).expect("nothing was left");
        assert_eq!(drained.completed, REQUESTS as u64);
    }
}

/// A thread that reads `Done` finds nothing left, even while the last guard is being dropped.
#[test]
fn nothing_is_left_when_it_is_done() {
    use tower_graceful::Phase;

    for _ in 0..300 {
        let drain = Drain::new();
        let guards: Vec<_> = (0..5).map(|_| drain.guard()).collect();
        drain.begin();
        std::thread::scope(|scope| {
            scope.spawn(move || drop(guards));
            while drain.phase() < Phase::Done {
                std::hint::spin_loop();
            }
            assert_eq!(drain.left().to_string(), "nothing");
        });
    }
}
