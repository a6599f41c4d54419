//! The layer among its neighbours: that it compiles there is half of the test.

use axum::{Router, body::Body, routing::get};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioIo},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use std::{convert::Infallible, time::Duration};
use tokio::net::TcpListener;
use tower::{
    Layer, Service, ServiceBuilder, ServiceExt, buffer::BufferLayer, limit::ConcurrencyLimitLayer,
    load_shed::LoadShedLayer, service_fn,
};
use tower_graceful::{Drain, Phase};
use tower_http::{
    catch_panic::CatchPanicLayer, compression::CompressionLayer, timeout::TimeoutLayer,
    trace::TraceLayer,
};

/// Nothing here takes so long on any machine; without it, what hangs would hang for ever.
const GUARD: Duration = Duration::from_secs(20);

async fn guarded<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(GUARD, future).await.expect("it hangs")
}

async fn hello(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::from("hello")))
}

/// Asks the app, and sees the whole request counted while it runs and no more when its body ended.
async fn check<S, B>(drain: &Drain, service: S)
where
    S: Service<Request<Body>, Response = Response<B>, Error: std::fmt::Debug> + Clone,
    B: http_body::Body<Data = Bytes, Error: std::fmt::Debug>,
{
    let response = service
        .clone()
        .oneshot(Request::new(Body::empty()))
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(drain.in_flight(), 1, "its body has not ended");
    let body = response
        .into_body()
        .collect()
        .await
        .expect("whole")
        .to_bytes();
    assert_eq!(body, "hello");
    assert_eq!(drain.in_flight(), 0);

    drain.begin();
    let refused = service
        .oneshot(Request::new(Body::empty()))
        .await
        .expect("an answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn counts_between_tower_https_layers() {
    let timeout = || TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, GUARD);
    let drain = Drain::new();
    let outside = ServiceBuilder::new()
        .layer(drain.layer())
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::new())
        .service(service_fn(hello));
    check(&drain, outside).await;

    let drain = Drain::new();
    let inside = ServiceBuilder::new()
        .layer(TraceLayer::new_for_http())
        .layer(CompressionLayer::new())
        .layer(CatchPanicLayer::new())
        .layer(drain.layer())
        .service(service_fn(hello));
    check(&drain, inside).await;

    // `Timeout` answers by itself, which takes a body that it can make: outside and inside.
    let drain = Drain::new();
    let with_timeouts = ServiceBuilder::new()
        .layer(timeout())
        .layer(drain.layer())
        .layer(timeout())
        .service(service_fn(hello));
    check(&drain, with_timeouts).await;
}

#[tokio::test]
async fn counts_around_and_inside_of_towers_layers() {
    let drain = Drain::new();
    let outside = ServiceBuilder::new()
        .layer(drain.layer())
        .layer(BufferLayer::new(8))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(8))
        .service(service_fn(hello));
    check(&drain, outside).await;

    let drain = Drain::new();
    let inside = ServiceBuilder::new()
        .layer(BufferLayer::new(8))
        .layer(LoadShedLayer::new())
        .layer(ConcurrencyLimitLayer::new(8))
        .layer(drain.layer())
        .service(service_fn(hello));
    check(&drain, inside).await;
}

#[tokio::test]
async fn counts_in_an_axum_router() {
    let drain = Drain::new();
    let layered: Router = Router::new()
        .route("/", get(async || "hello"))
        .layer(drain.layer());
    check(&drain, layered).await;

    let drain = Drain::new();
    let routes: Router = Router::new()
        .route("/", get(async || "hello"))
        .route_layer(drain.layer())
        .route_service("/readyz", drain.readiness());
    check(&drain, routes).await;

    let drain = Drain::new();
    let handler: Router = Router::new().route("/", get(async || "hello").layer(drain.layer()));
    check(&drain, handler).await;

    let drain = Drain::new();
    let around = ServiceBuilder::new()
        .layer(drain.layer())
        .service(Router::new().route("/", get(async || "hello")));
    check(&drain, around).await;
}

/// A panic that is caught outside of the layer, or inside of it, is counted to its end.
#[tokio::test]
async fn a_panic_that_is_caught_ends_its_count() {
    let drain = Drain::new();
    let panics = || {
        service_fn(
            async |_: Request<Body>| -> Result<Response<Body>, Infallible> { panic!("a handler") },
        )
    };
    let outside = CatchPanicLayer::new().layer(drain.layer().layer(panics()));
    let inside = drain.layer().layer(CatchPanicLayer::new().layer(panics()));
    let request = || Request::new(Body::empty());
    assert_eq!(
        outside.oneshot(request()).await.expect("caught").status(),
        500
    );
    assert_eq!(drain.in_flight(), 0);
    let response = inside.oneshot(request()).await.expect("caught");
    assert_eq!(response.status(), 500);
    response.into_body().collect().await.expect("whole");
    assert_eq!(drain.in_flight(), 0);
}

/// A timeout outside drops the future of a request that is stuck; nothing is left of it.
#[tokio::test(start_paused = true)]
async fn a_timeout_outside_ends_the_count() {
    let drain = Drain::new();
    let stuck = service_fn(async |_: Request<Body>| {
        std::future::pending::<Result<Response<Body>, Infallible>>().await
    });
    let service =
        TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, Duration::from_secs(1))
            .layer(drain.layer().layer(stuck));
    let response = service
        .oneshot(Request::new(Body::empty()))
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(drain.in_flight(), 0);
}

/// A hand-written accept loop on hyper, HTTP/1 and HTTP/2, and hyper's own client.
#[tokio::test]
async fn counts_in_a_hand_written_hyper_server() {
    for http2 in [false, true] {
        let drain = Drain::new();
        let service = ServiceBuilder::new()
            .layer(drain.layer())
            .service(service_fn(async |_: Request<hyper::body::Incoming>| {
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello"))))
            }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let stop = drain.reached(Phase::Draining);
        let server = async move {
            let graceful = GracefulShutdown::new();
            let connections = auto::Builder::new(TokioExecutor::new());
            let accept = async {
                loop {
                    let (stream, _) = listener.accept().await.expect("accepts");
                    let service = TowerToHyperService::new(service.clone());
                    let connection =
                        connections.serve_connection_with_upgrades(TokioIo::new(stream), service);
                    tokio::spawn(graceful.watch(connection.into_owned()));
                }
            };
            tokio::select! {
                () = accept => {}
                () = stop => {}
            }
            graceful.shutdown().await;
        };
        let done = tokio::spawn(drain.run(server, std::future::pending::<()>()));
        let client = HttpClient::builder(TokioExecutor::new())
            .http2_only(http2)
            .build_http::<Empty<Bytes>>();
        let uri: http::Uri = format!("http://{address}/").parse().expect("a URI");
        for _ in 0..3 {
            let response = guarded(client.get(uri.clone())).await.expect("served");
            assert_eq!(response.status(), 200);
            assert!(!response.headers().contains_key("connection"));
            response.into_body().collect().await.expect("whole");
        }
        drain.begin();
        guarded(done).await.expect("no panic").expect("drained");
        guarded(client.get(uri)).await.expect_err("nobody listens");
    }
}
