//! When the lame duck ends, and what is known of the last requests in it.

use crate::support::*;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use std::{convert::Infallible, time::Duration};
use tokio::time::{Instant, advance, sleep, sleep_until};
use tower::{Layer, ServiceExt, service_fn};
use tower_graceful::{Drain, DrainBuilder, Phase};

const SECOND: Duration = Duration::from_secs(1);

fn quiet() -> DrainBuilder {
    let builder = Drain::builder().lame_duck(20 * SECOND);
    builder.quiet(5 * SECOND).timeout(100 * SECOND)
}

/// Sends a request to that path. Returns whether it was served.
async fn send(drain: &Drain, path: &str) -> bool {
    let probes = |request: &Request<Empty<Bytes>>| request.uri().path() == "/readyz";
    let service = service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let service = drain.layer().exempt(probes).layer(service);
    let request = Request::get(path).body(Empty::new()).expect("a request");
    let response = service.oneshot(request).await.expect("infallible");
    response.status() == 200
}

/// Begins the drain and sends requests after that many seconds each. Returns after how many the
/// lame duck has ended.
async fn ends_after(drain: Drain, path: &str, requests: &[u64]) -> Duration {
    let _guard = drain.guard().expect("serving");
    let begun = Instant::now();
    drain.begin();
    let reached = drain.reached(Phase::Draining);
    let draining = tokio::spawn(async move {
        reached.await;
        begun.elapsed()
    });
    for seconds in requests {
        sleep_until(begun + *seconds as u32 * SECOND).await;
        send(&drain, path).await;
    }
    draining.await.expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn i14_the_lame_duck_ends_once_nothing_new_comes() {
    for (requests, end) in [
        (&[][..], 5),
        (&[0], 5),
        (&[3], 8),
        (&[4, 8, 12], 17),
        // A look in between finds the time of the last one.
        (&[1, 2, 4, 4], 9),
        // Too late: it is over.
        (&[3, 9], 8),
        // Never after its own end.
        (&[4, 8, 12, 16], 20),
        (&[4, 8, 12, 16, 19], 20),
    ] {
        let drain = quiet().build();
        assert_eq!(
            ends_after(drain, "/", requests).await,
            end * SECOND,
            "{requests:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn i14_exempt_requests_are_not_new() {
    let drain = quiet().build();
    let probes = [1, 2, 3, 4, 5, 6];
    let end = ends_after(drain.clone(), "/readyz", &probes).await;
    assert_eq!(end, 5 * SECOND);
    assert_eq!(drain.report().last_request, None);
}

#[tokio::test(start_paused = true)]
async fn i14_calls_that_are_not_http_are_new() {
    let drain = quiet().build();
    let service = service_fn(async |_: ()| Ok::<_, Infallible>(()));
    let service = drain.call_layer().layer(service);
    drain.begin();
    sleep(3 * SECOND).await;
    service.oneshot(()).await.expect("served");
    assert_eq!(drain.report().last_request, Some(3 * SECOND));
    sleep(4 * SECOND).await;
    assert_eq!(drain.phase(), Phase::LameDuck);
    sleep(SECOND).await;
    assert_eq!(drain.phase(), Phase::Done);
}

#[tokio::test(start_paused = true)]
async fn i14_quiet_is_at_most_the_lame_duck() {
    for (lame_duck, quiet, end) in [
        (2 * SECOND, 5 * SECOND, 2 * SECOND),
        (2 * SECOND, Duration::MAX, 2 * SECOND),
        (2 * SECOND, Duration::ZERO, Duration::ZERO),
        (Duration::ZERO, 5 * SECOND, Duration::ZERO),
        (Duration::MAX, 5 * SECOND, 5 * SECOND),
        // The deadline ends both.
        (Duration::MAX, 200 * SECOND, 100 * SECOND),
    ] {
        let builder = Drain::builder().lame_duck(lame_duck).quiet(quiet);
        let drain = builder.timeout(100 * SECOND).build();
        let ended = ends_after(drain, "/", &[]).await;
        assert_eq!(ended, end, "{lame_duck:?}, {quiet:?}");
    }
    let without = Drain::builder().lame_duck(2 * SECOND).build();
    assert_eq!(ends_after(without, "/", &[]).await, 2 * SECOND);
}

/// Without a waiter, the next look at the clock ends it.
#[tokio::test(start_paused = true)]
async fn i14_quiet_needs_no_waiter() {
    let drain = quiet().build();
    let _guard = drain.guard().expect("serving");
    drain.begin();
    advance(4 * SECOND).await;
    assert!(send(&drain, "/").await);
    // The time without a request in it is over, but one has come.
    advance(4 * SECOND).await;
    assert_eq!(drain.phase(), Phase::LameDuck);
    assert!(send(&drain, "/").await);
    advance(5 * SECOND).await;
    assert_eq!(drain.phase(), Phase::Draining);
    assert!(!send(&drain, "/").await);
}

#[tokio::test(start_paused = true)]
async fn i14_the_outcome_says_when_the_last_request_came() {
    let drain = Drain::builder().lame_duck(5 * SECOND).build();
    assert!(send(&drain, "/").await);
    sleep(SECOND).await;
    drain.begin();
    assert_eq!(drain.report().last_request, None, "it came before");
    let guard = drain.guard();
    sleep(2 * SECOND).await;
    assert!(send(&drain, "/").await);
    sleep(SECOND).await;
    assert!(send(&drain, "/readyz").await);
    let report = drain.report();
    assert_eq!(report.last_request, Some(2 * SECOND));
    assert_eq!(report.last_connection, None, "there is no listener");
    assert_eq!(
        report.to_string().lines().next(),
        Some(
            "lame duck for 3.0s, 22.0s to go: 1 guard left; 1 completed, 0 refused, \
             last request after 2.0s"
        )
    );
    sleep(3 * SECOND).await;
    assert!(!send(&drain, "/").await, "too late, and still there");
    assert_eq!(drain.report().last_request, Some(6 * SECOND));
    sleep(SECOND).await;
    drop(guard);
    let drained = drain.wait().await.expect("nothing was left");
    assert_eq!(drained.last_request, Some(6 * SECOND));
    assert_eq!(drained.elapsed, 7 * SECOND);
    sleep(SECOND).await;
    assert!(!send(&drain, "/").await);
    let report = drain.report();
    assert_eq!((report.refused, report.last_request), (2, Some(6 * SECOND)));

    // A drain in the same memory knows nothing of it.
    drop(drain);
    for _ in 0..100 {
        let next = Drain::new();
        assert_eq!(drained_after_nothing(&next).await, None);
    }
}

async fn drained_after_nothing(drain: &Drain) -> Option<Duration> {
    drained(drain).await.last_request
}

#[tokio::test(start_paused = true)]
async fn i14_a_timeout_says_when_the_last_request_came() {
    let drain = Drain::builder().lame_duck(5 * SECOND).build();
    let _guard = drain.guard().expect("serving");
    drain.begin();
    sleep(4 * SECOND).await;
    send(&drain, "/").await;
    sleep(SECOND).await;
    let timeout = timed_out(&drain).await;
    assert_eq!(timeout.report().last_request, Some(4 * SECOND));
}
