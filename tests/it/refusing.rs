//! Requests that come too late get a refusal of their protocol, and do not reach the inner service.

use crate::support::*;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::{BodyExt, Empty, Full};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio_test::{assert_pending, assert_ready, assert_ready_ok, task};
use tower::{Layer, Service, ServiceExt, limit::ConcurrencyLimitLayer, service_fn};
use tower_graceful::{Drain, Phase, Refused, refusal::Unavailable};

/// Answers 200, and counts.
fn counting() -> (
    Arc<AtomicUsize>,
    impl Service<
        Request<Empty<Bytes>>,
        Response = Response<Full<Bytes>>,
        Error = BoxError,
        Future: Send,
    > + Clone,
) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let service = service_fn(move |_: Request<Empty<Bytes>>| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::future::ready(Ok(Response::new(Full::new(Bytes::from("hello")))))
    });
    (calls, service)
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_reaches_nobody() {
    let drain = Drain::new();
    let (calls, service) = counting();
    let service = drain.layer().layer(service);
    let guard = drain.guard().expect("serving");
    drain.begin();
    let response = service.clone().oneshot(request()).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    assert_eq!(response.headers()["connection"], "close");
    assert_eq!(response.headers()["content-length"], "0");
    assert_eq!(response.headers().len(), 3);
    assert!(response.body().is_end_stream());
    assert_eq!(response.body().size_hint().exact(), Some(0));
    assert!(response.into_body().frame().await.is_none());
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(drain.in_flight(), 0);
    drop(guard);
    assert_eq!(drain.wait().await.expect("nothing was left").refused, 1);
}

#[tokio::test]
async fn d34_grpc_is_refused_in_its_own_words() {
    let drain = Drain::new();
    let service = drain.layer().layer(counting().1);
    drain.begin();
    for (content_type, answered) in [
        ("application/grpc", "application/grpc"),
        ("application/grpc+proto", "application/grpc"),
        ("application/grpc-web+proto", "application/grpc-web+proto"),
    ] {
        let mut request = request();
        *request.version_mut() = Version::HTTP_2;
        request
            .headers_mut()
            .insert("content-type", content_type.parse().expect("a value"));
        let response = service.clone().oneshot(request).await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], answered);
        assert_eq!(response.headers()["grpc-status"], "14");
        assert_eq!(
            response.headers()["grpc-message"],
            "the server is shutting down"
        );
        assert_eq!(response.headers().len(), 3);
        assert!(response.body().is_end_stream(), "trailers only");
    }
    let mut json = request();
    json.headers_mut()
        .insert("content-type", "application/json".parse().expect("a value"));
    let response = service.oneshot(json).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_refusal_can_be_replaced() {
    let drain = Drain::new();
    drain.begin();
    let own = drain
        .layer()
        .refuse_with(|request: &Request<Empty<Bytes>>| {
            let body = Full::new(Bytes::from(format!("{} is closed", request.uri())));
            Response::builder()
                .status(599)
                .header("x-reason", "deploy")
                .body(body)
                .expect("legal")
        })
        .layer(counting().1);
    let response = own.oneshot(request()).await.expect("an answer");
    assert_eq!(response.status(), 599);
    assert_eq!(response.headers()["x-reason"], "deploy");
    assert_eq!(
        response.headers()["connection"],
        "close",
        "added where it belongs"
    );
    let body = response.into_body().collect().await.expect("whole");
    assert_eq!(body.to_bytes(), "/ is closed");

    let later = drain
        .layer()
        .refuse_with(Unavailable::new().retry_after(77))
        .layer(counting().1);
    let response = later.oneshot(request()).await.expect("an answer");
    assert_eq!(response.headers()["retry-after"], "77");
}

/// Whether it serves, listing requests or not, or refuses.
#[tokio::test]
async fn an_exemption_is_decided_once_for_each_request() {
    for lists in [false, true] {
        let drain = Drain::new();
        let decisions = std::sync::atomic::AtomicUsize::new(0);
        let layer = drain.layer().exempt(|_: &Request<Empty<Bytes>>| {
            decisions.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % 2 == 1
        });
        let layer = if lists {
            layer.report_requests()
        } else {
            layer
        };
        let mut service = layer.layer(counting().1);
        for count in 1..=6 {
            if count == 4 {
                drain.begin();
            }
            let response = service.ready().await.expect("ready").call(request()).await;
            let is_refused = response.expect("an answer").status() == 503;
            assert_eq!(is_refused, count == 5, "{count}");
            assert_eq!(decisions.load(std::sync::atomic::Ordering::Relaxed), count);
        }
    }
}

#[tokio::test]
async fn exempt_requests_are_neither_refused_nor_counted() {
    let drain = Drain::new();
    let (answer, service) = held::<Empty<Bytes>>();
    let mut service = drain
        .layer()
        .exempt(|request: &Request<Empty<Bytes>>| request.uri().path() == "/metrics")
        .layer(service);
    let probe = || {
        let mut request = request();
        *request.uri_mut() = "/metrics".parse().expect("a path");
        request
    };
    let mut call = task::spawn(service.call(probe()));
    assert_pending!(call.poll());
    assert_eq!(drain.in_flight(), 0);
    let drained = drained(&drain).await;
    assert!(answer.send(Response::new(Empty::new())).is_ok());
    let response = assert_ready_ok!(call.poll());
    assert_eq!(response.status(), 200);
    assert_eq!((drained.completed, drained.refused), (0, 0));

    let (calls, service) = counting();
    let mut service = drain
        .layer()
        .exempt(|request: &Request<Empty<Bytes>>| request.uri().path() == "/metrics")
        .layer(service);
    let response = service
        .ready()
        .await
        .expect("ready")
        .call(probe())
        .await
        .expect("served");
    assert_eq!(
        (response.status(), &response.headers()["connection"]),
        (StatusCode::OK, &"close".parse().expect("a value"))
    );
    let response = service
        .ready()
        .await
        .expect("ready")
        .call(request())
        .await
        .expect("refused");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

/// `Connection: close` on what is final and HTTP/1, from LameDuck on, and nowhere else.
#[tokio::test]
async fn a13_close_only_where_it_belongs() {
    let ask = async |drain: &Drain, method: Method, version: Version, status: u16| {
        let mut service = drain.layer().layer(service_fn(move |_| {
            std::future::ready(
                Response::builder()
                    .status(status)
                    .body(Empty::<Bytes>::new()),
            )
        }));
        let mut request = request();
        *request.method_mut() = method;
        *request.version_mut() = version;
        let response = service.call(request).await.expect("an answer");
        response.headers().get_all("connection").iter().count()
    };
    let drain = Drain::builder().lame_duck(Duration::MAX).build();
    assert_eq!(
        ask(&drain, Method::GET, Version::HTTP_11, 200).await,
        0,
        "serving"
    );
    drain.begin();
    for (method, version, status, closes) in [
        (Method::GET, Version::HTTP_11, 200, 1),
        (Method::GET, Version::HTTP_10, 404, 1),
        (Method::HEAD, Version::HTTP_11, 204, 1),
        (Method::GET, Version::HTTP_11, 101, 0),
        (Method::GET, Version::HTTP_11, 103, 0),
        (Method::CONNECT, Version::HTTP_11, 200, 0),
        (Method::CONNECT, Version::HTTP_11, 403, 1),
        (Method::GET, Version::HTTP_2, 200, 0),
        (Method::GET, Version::HTTP_3, 200, 0),
    ] {
        let said = ask(&drain, method.clone(), version, status).await;
        assert_eq!(said, closes, "{method} {version:?} {status}");
    }
}

/// The header is decided when the head is there, not when the request came.
#[tokio::test]
async fn a06_a_request_in_its_handler_at_the_drain_says_close() {
    let drain = Drain::new();
    let (answer, service) = held::<Empty<Bytes>>();
    let mut service = drain.layer().layer(service);
    let mut call = task::spawn(service.call(request()));
    assert_pending!(call.poll());
    drain.begin();
    assert!(answer.send(Response::new(Empty::new())).is_ok());
    let response = assert_ready_ok!(call.poll());
    assert_eq!(response.headers()["connection"], "close");
}

#[tokio::test]
async fn f47_a_million_refusals_after_done_change_nothing() {
    let drain = Drain::new();
    let mut service = drain
        .call_layer()
        .layer(service_fn(async |()| Ok::<_, BoxError>(())));
    let mut told = task::spawn(drain.reached(Phase::Done));
    assert_pending!(told.poll());
    drain.begin();
    assert!(told.is_woken());
    let outcome = drain.wait().await;
    assert_ready!(told.poll());
    let mut waiting = task::spawn(drain.reached(Phase::Done));
    for _ in 0..1_000_000 {
        assert!(assert_ready!(task::spawn(service.call(())).poll()).is_err());
    }
    assert_eq!(drain.in_flight(), 0);
    assert_eq!(drain.phase(), Phase::Done);
    assert_eq!(drain.wait().await, outcome);
    assert_ready!(waiting.poll());
}

#[tokio::test]
async fn g54_begin_without_a_server_refuses_at_once() {
    let drain = Drain::new();
    let (calls, service) = counting();
    let service = drain.layer().layer(service);
    drain.begin();
    let response = service.oneshot(request()).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

/// The inner service is at its limit: a refusal needs no capacity, and a waiting caller wakes.
#[tokio::test]
async fn g54_a_saturated_inner_service_does_not_hang_a_refusal() {
    let drain = Drain::new();
    let (_answer, service) = held::<Empty<Bytes>>();
    let limited = ConcurrencyLimitLayer::new(1).layer(tower::util::BoxService::new(service));
    let mut service = drain
        .layer()
        .exempt(|request: &Request<Empty<Bytes>>| request.uri().path() == "/metrics")
        .layer(limited);
    let mut busy = task::spawn(service.ready().await.expect("free").call(request()));
    assert_pending!(busy.poll());
    {
        let mut ready = task::spawn(service.ready());
        assert_pending!(ready.poll(), "at the limit");
        drain.begin();
        assert!(ready.is_woken(), "by the drain");
        assert!(assert_ready!(ready.poll()).is_ok());
    }
    let response = service.call(request()).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    // An exempt request is refused too: there is no capacity for it.
    let mut probe = request();
    *probe.uri_mut() = "/metrics".parse().expect("a path");
    let ready = service.ready().await.expect("a drain makes it ready");
    let response = ready.call(probe).await.expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(drain.in_flight(), 1);
}

/// The drain keeps no waker of it, as it never refuses.
#[tokio::test]
async fn i61_a_caller_of_a_drain_that_is_dropped_gets_capacity() {
    let drain = Drain::new();
    let (answer, service) = held::<Empty<Bytes>>();
    let limited = ConcurrencyLimitLayer::new(1).layer(tower::util::BoxService::new(service));
    let mut service = drain.layer().layer(limited);
    let mut busy = task::spawn(service.ready().await.expect("free").call(request()));
    assert_pending!(busy.poll());
    let mut ready = task::spawn(service.ready());
    assert_pending!(ready.poll(), "at the limit");
    drop(drain);
    assert!(ready.is_woken(), "let go");
    assert_pending!(ready.poll(), "still at the limit");
    drop((busy, answer));
    assert!(assert_ready!(ready.poll()).is_ok());
}

/// The drain is in [`Phase::Draining`] and still admits requests, as long as the connection that is
/// returned has not been dropped: its first request may be on its way.
#[cfg(feature = "net")]
async fn draining_and_admitting() -> (Drain, impl Sized) {
    use futures_util::{StreamExt, stream};

    let drain = Drain::builder().grace(Duration::from_secs(20)).build();
    let (client, accepted) = tokio::io::duplex(64);
    let accepted = stream::iter([Ok::<_, BoxError>(accepted)]);
    let mut incoming = drain.incoming(accepted.chain(stream::pending()));
    let io = incoming.next().await.expect("one").expect("no error");
    drain.begin();
    drop(incoming);
    drain.reached(Phase::Draining).await;
    (drain, (client, io))
}

/// Neither a drain that begins nor one that admits nothing more makes an inner service ready that
/// is not: these two would panic.
#[cfg(feature = "net")]
#[tokio::test(start_paused = true)]
async fn i61_an_unready_service_is_not_called() {
    use tower::limit::{ConcurrencyLimit, RateLimit, rate::Rate};

    async fn check<S: Service<u32, Error = BoxError, Response = u32>>(
        limited: impl FnOnce(tower::util::BoxService<u32, u32, BoxError>) -> S,
    ) {
        let (drain, admitting) = draining_and_admitting().await;
        let (answer, answered) = tokio::sync::oneshot::channel::<u32>();
        let mut answered = Some(answered);
        let inner = limited(tower::util::BoxService::new(service_fn(move |_: u32| {
            let answered = answered.take().expect("called once");
            async { Ok::<_, BoxError>(answered.await?) }
        })));
        let mut service = drain.call_layer().layer(inner);
        let mut running = task::spawn(service.ready().await.expect("free").call(1));
        assert_pending!(running.poll());
        {
            let mut ready = task::spawn(service.ready());
            assert!(
                ready.poll().is_pending(),
                "no capacity, and the drain still admits"
            );
            drop(admitting);
            assert_eq!(drain.phase(), Phase::Draining);
            assert!(ready.is_woken(), "by the drain");
            assert!(assert_ready!(ready.poll()).is_ok());
        }
        let error = service.call(2).await.expect_err("refused");
        assert!(error.is::<Refused>(), "{error}");
        answer.send(7).expect("it waits");
        assert_eq!(assert_ready_ok!(running.poll()), 7);
        let drained = drain.wait().await.expect("nothing was left");
        assert_eq!((drained.completed, drained.refused), (1, 1));
    }

    check(|service| ConcurrencyLimit::new(service, 1)).await;
    check(|service| RateLimit::new(service, Rate::new(1, Duration::from_secs(3600)))).await;
}

/// What gets capacity while the drain still admits requests is served.
#[cfg(feature = "net")]
#[tokio::test(start_paused = true)]
async fn i61_capacity_that_comes_in_time_is_used() {
    let (drain, admitting) = draining_and_admitting().await;
    let (calls, service) = counting();
    let (answer, held) = held::<Full<Bytes>>();
    let mut held = Some(held);
    let inner = service_fn(move |request| match held.take() {
        Some(mut held) => futures_util::future::Either::Left(held.call(request)),
        None => futures_util::future::Either::Right(service.clone().oneshot(request)),
    });
    let mut service = drain
        .layer()
        .layer(ConcurrencyLimitLayer::new(1).layer(inner));
    let mut running = task::spawn(service.ready().await.expect("free").call(request()));
    assert_pending!(running.poll());
    let mut ready = task::spawn(service.ready());
    assert_pending!(ready.poll());
    assert!(answer.send(Response::new(Full::default())).is_ok());
    drop(assert_ready_ok!(running.poll()));
    drop(running);
    assert!(ready.is_woken(), "by the limit");
    let service = assert_ready_ok!(ready.poll());
    let response = service.call(request()).await.expect("served");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    drop((response, admitting));
    let drained = drain.wait().await.expect("nothing was left");
    assert_eq!((drained.completed, drained.refused), (2, 0));
}

/// Above the layer, a `LoadShed` sheds what has no capacity as long as the drain admits, and hands
/// on to the refusal after that.
#[cfg(feature = "net")]
#[tokio::test(start_paused = true)]
async fn i61_a_load_shed_above_sheds_until_the_layer_refuses() {
    use tower::load_shed::{LoadShed, error::Overloaded};

    let (drain, admitting) = draining_and_admitting().await;
    let (_answer, service) = held::<Empty<Bytes>>();
    let limited = ConcurrencyLimitLayer::new(1).layer(tower::util::BoxService::new(service));
    let mut service = LoadShed::new(drain.layer().layer(limited));
    let mut running = task::spawn(service.ready().await.expect("free").call(request()));
    assert_pending!(running.poll());
    let error = service.ready().await.expect("always").call(request()).await;
    assert!(error.expect_err("shed").is::<Overloaded>());
    drop(admitting);
    let response = service.ready().await.expect("always").call(request()).await;
    assert_eq!(
        response.expect("an answer").status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
}

#[tokio::test]
async fn g55_layers_share_one_count_and_may_nest() {
    let drain = Drain::new();
    let (answer, service) = held::<Empty<Bytes>>();
    let mut nested = drain.layer().layer(drain.layer().layer(service));
    let other = drain.layer().layer(counting().1);
    let mut call = task::spawn(nested.call(request()));
    assert_pending!(call.poll());
    let response = other.clone().oneshot(request()).await.expect("served");
    assert_eq!(drain.in_flight(), 3, "two for the nested one");
    drain.begin();
    drop(response);
    let refused = other.oneshot(request()).await.expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    let mut waiting = task::spawn(drain.wait());
    assert_pending!(waiting.poll());
    assert!(answer.send(Response::new(Empty::new())).is_ok());
    let response = assert_ready_ok!(call.poll());
    assert_eq!(
        response.headers().get_all("connection").iter().count(),
        1,
        "said once"
    );
    drop(response);
    assert_ready!(waiting.poll()).expect("nothing was left");
}

/// The drain begins between the two layers: the inner one refuses, and no request hangs.
#[tokio::test]
async fn g55_a_drain_between_two_nested_layers() {
    let drain = Drain::new();
    let (calls, service) = counting();
    let inner = drain.layer().layer(service);
    let begins = drain.clone();
    let between = service_fn(move |request| {
        begins.begin();
        inner.clone().oneshot(request)
    });
    let response = drain
        .layer()
        .layer(between)
        .oneshot(request())
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    drop(response);
    let drained = drain.wait().await.expect("nothing was left");
    assert_eq!((drained.completed, drained.refused), (1, 1));
}

#[tokio::test]
async fn g56_any_service_is_counted_to_the_end_of_its_future() {
    let drain = Drain::new();
    let (send, receive) = tokio::sync::oneshot::channel::<u32>();
    let mut receive = Some(receive);
    let mut service = drain
        .call_layer()
        .exempt(|n: &u32| *n == 99)
        .layer(service_fn(move |n: u32| {
            let receive = receive.take();
            async move {
                match receive {
                    Some(receive) => Ok::<_, BoxError>(n + receive.await?),
                    None => Ok(n),
                }
            }
        }));
    let mut call = task::spawn(service.call(1));
    assert_pending!(call.poll());
    assert_eq!(drain.in_flight(), 1);
    drain.begin();
    let error = service.call(2).await.expect_err("refused");
    assert!(error.is::<Refused>(), "{error}");
    assert_eq!(service.call(99).await.expect("exempt"), 99);
    send.send(41).expect("it waits");
    assert_eq!(assert_ready_ok!(call.poll()), 42);
    assert_eq!(drain.phase(), Phase::Done, "before the future is dropped");
    assert_eq!(drain.wait().await.expect("nothing was left").refused, 1);
}
