//! What a drain says of its wiring: each rule both ways. Those of servers are in `tests/stock`,
//! those of the environment in `tests/observe`.

use crate::support::*;
use std::{future::pending, time::Duration};
use tokio::time::{advance, sleep};
use tokio_test::{assert_pending, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_graceful::{Drain, Drained, Graceful, Phase};

const KEPT: &str = "connections are left on which the drain counts no request";
const NO_LISTENER: &str = "the drain has no listener";
const SECOND: Duration = Duration::from_secs(1);

/// Has a request refused while another one is in flight, which then ends.
async fn refuses<S, T>(drain: &Drain, mut layered: impl FnMut() -> S) -> Drained
where
    S: Service<http::Request<http_body_util::Empty<bytes::Bytes>>, Response = T>,
{
    let guard = drain.guard().expect("serving");
    drain.begin();
    let _ = layered().oneshot(request()).await;
    assert_eq!(drain.report().refused, 1);
    drop(guard);
    drained(drain).await
}

#[tokio::test(start_paused = true)]
async fn a_refusal_without_a_listener_is_a_hint() {
    for by_layer in [true, false] {
        let drain = Drain::new();
        let drained = refuses(&drain, || {
            let (_, inner) = held::<Chunks>();
            match by_layer {
                true => drain.layer().layer(inner),
                false => Graceful::new(inner, &drain),
            }
        });
        let drained = drained.await.to_string();
        let begin = "drained in 0ms: 0 completed, 1 refused, nothing left; requests were refused";
        assert!(drained.starts_with(begin), "{drained}");
        assert!(drained.contains(NO_LISTENER), "{drained}");
        let report = drain.report().to_string();
        assert!(report.contains(NO_LISTENER), "{report}");
    }
}

/// The set-up is supported: a hint needs a loss.
#[tokio::test(start_paused = true)]
async fn a_layer_alone_is_no_mistake() {
    let drain = Drain::builder().lame_duck(SECOND).build();
    let (answer, inner) = held::<Chunks>();
    let mut response = task::spawn(drain.layer().layer(inner).call(request()));
    assert_pending!(response.poll());
    drain.begin();
    let expected = "lame duck for 0ms, 25.0s to go: 1 request left; 0 completed, 0 refused";
    assert_eq!(drain.report().to_string(), expected);
    advance(SECOND).await;
    assert_eq!(drain.phase(), Phase::Draining);
    let expected = "draining for 1.0s, 24.0s to go: 1 request left; 0 completed, 0 refused";
    assert_eq!(drain.report().to_string(), expected);
    drop((answer, response));
    let drained = drained(&drain).await.to_string();
    assert!(
        drained.ends_with("1 completed, 0 refused, nothing left"),
        "{drained}"
    );
}

/// A listener is of no use to the calls of a service that is not HTTP.
#[tokio::test(start_paused = true)]
async fn a_refused_call_is_no_hint() {
    let drain = Drain::new();
    let drained = refuses(&drain, || {
        let calls = service_fn(async |_| Ok::<_, std::io::Error>(()));
        drain.call_layer().layer(calls)
    });
    let drained = drained.await.to_string();
    assert!(drained.ends_with("1 refused, nothing left"), "{drained}");
}

#[cfg(feature = "net")]
#[tokio::test]
async fn a_refusal_with_a_listener_is_no_hint() {
    let drain = Drain::new();
    drop(drain.bind("127.0.0.1:0").await.expect("loopback"));
    let drained = refuses(&drain, || drain.layer().layer(held::<Chunks>().1));
    let drained = drained.await.to_string();
    assert!(drained.ends_with("1 refused, nothing left"), "{drained}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_that_is_longer_than_the_pod_has_is_a_hint() {
    let [grace, pre_stop] = [30 * SECOND, 10 * SECOND];
    let builder = || Drain::builder().kubernetes(grace, pre_stop);
    for (builder, hint) in [
        (builder(), None),
        (builder().lame_duck(15 * SECOND), None),
        (builder().timeout(20 * SECOND), None),
        (
            Drain::builder()
                .timeout(60 * SECOND)
                .kubernetes(grace, pre_stop),
            None,
        ),
        (
            builder().timeout(21 * SECOND),
            Some("; the timeout of 21 s is longer than the 20 s "),
        ),
        (
            builder().timeout(Duration::MAX),
            Some("; an unlimited timeout is longer than the 20 s "),
        ),
    ] {
        let drain = builder.build();
        let guard = drain.guard().expect("serving");
        let says = |text: String| {
            assert_eq!(text.contains(" is longer than "), hint.is_some(), "{text}");
            assert!(hint.is_none_or(|hint| text.contains(hint)), "{text}");
        };
        let serving = drain.report().to_string();
        assert!(!serving.contains(" is longer than "), "{serving}");
        drain.begin();
        says(drain.report().to_string());
        if drain.deadline().is_some() {
            says(drain.wait().await.expect_err("a guard is left").to_string());
        }
        drop(guard);
    }
}

/// The mistake may be made while the drain goes on.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_is_moved_counts() {
    let drain = Drain::builder()
        .kubernetes(30 * SECOND, Duration::ZERO)
        .build();
    let _guard = drain.guard().expect("serving");
    drain.begin();
    let deadline = drain.deadline().expect("it has one");
    for (later, expected) in [(0, false), (60, true), (0, false)] {
        drain.set_deadline(deadline + later * SECOND);
        let report = drain.report().to_string();
        assert_eq!(report.contains("the timeout of 88 s"), expected, "{report}");
    }
}

/// As in a loop that never calls hyper's `graceful_shutdown`.
#[cfg(feature = "net")]
#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_its_server_keeps_is_a_hint() {
    use futures_util::{StreamExt, stream};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    for (has_layer, is_busy, runs, is_wrong) in [
        (true, false, false, true),
        (true, false, true, true),
        // Perhaps the connection is busy: nothing counts its requests.
        (false, false, false, false),
        // Perhaps it belongs to the request.
        (true, true, false, false),
    ] {
        let drain = Drain::new();
        let (answer, inner) = held::<Chunks>();
        let mut service = has_layer.then(|| drain.layer().layer(inner));
        let call = service.as_mut().filter(|_| is_busy);
        let call = call.map(|service| task::spawn(service.call(request())));
        let (mut client, accepted) = tokio::io::duplex(64);
        let mut incoming = drain.incoming(stream::iter([Ok::<_, BoxError>(accepted)]));
        let mut io = incoming.next().await.expect("one").expect("no error");
        let request = b"GET / HTTP/1.1\r\n\r\n";
        client.write_all(request).await.expect("open");
        io.read_exact(&mut [0; 18]).await.expect("open");
        let response = b"HTTP/1.1 204 No Content\r\n\r\n";
        io.write_all(response).await.expect("open");
        // The server reads its next request.
        let server = tokio::spawn(async move { io.read(&mut [0; 64]).await });
        let outcome = match runs {
            // Its server waits for the connection.
            true => tokio::spawn({
                let run = drain.run(pending::<()>(), pending::<()>());
                async { run.await.map_err(|error| error.to_string()) }
            }),
            false => tokio::spawn({
                let wait = drain.wait();
                async { wait.await.map_err(|timeout| timeout.to_string()) }
            }),
        };
        tokio::task::yield_now().await;
        assert_eq!(drain.left().servers, usize::from(runs));
        drain.begin();
        drop(incoming);
        drain.reached(Phase::Draining).await;
        // It may linger for as long as that.
        sleep(5 * SECOND).await;
        let report = drain.report().to_string();
        assert!(!report.contains(KEPT), "{report}");
        sleep(2 * SECOND).await;
        let report = drain.report().to_string();
        assert_eq!(report.contains(KEPT), is_wrong, "{report}");
        let outcome = outcome.await.expect("no panic");
        let timeout = outcome.expect_err("the connection is left");
        assert_eq!(timeout.contains(KEPT), is_wrong, "{timeout}");
        drop((answer, call, server));
    }
}
