//! `Drain::run`: a server, a signal, the schedule and the deadline in one future.

use crate::support::*;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use std::{future, io, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, service_fn};
use tower_graceful::{Drain, Phase, RunError, signal::SecondSignal};

const SECOND: Duration = Duration::from_secs(1);

async fn at(after: Duration) {
    sleep(after).await;
}

#[tokio::test(start_paused = true)]
async fn the_signal_begins_and_the_end_of_the_server_ends() {
    let drain = Drain::builder().lame_duck(SECOND).build();
    let stop = drain.reached(Phase::Draining);
    let server = async {
        stop.await;
        sleep(SECOND).await;
    };
    let start = Instant::now();
    let drained = drain.run(server, at(SECOND)).await.expect("it ends");
    assert_eq!(start.elapsed(), 3 * SECOND);
    assert_eq!(drained.elapsed, 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_flight_is_waited_for_after_the_server_has_ended() {
    let drain = Drain::new();
    let guard = drain.guard().expect("serving");
    let mut run = task::spawn(drain.run(drain.reached(Phase::Draining), future::ready(())));
    assert_pending!(run.poll());
    assert_eq!(drain.left().to_string(), "1 guard");
    drop(guard);
    assert!(run.is_woken());
    assert_ready!(run.poll()).expect("nothing was left");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_stop_is_dropped_at_the_deadline() {
    let drain = Drain::builder().timeout(5 * SECOND).build();
    let (dropped, is_dropped) = oneshot::channel::<()>();
    let server = async move {
        let _dropped = dropped;
        future::pending::<io::Result<()>>().await
    };
    let start = Instant::now();
    match drain.run(server, future::ready(())).await {
        Err(RunError::Timeout(timeout)) => {
            assert_eq!(timeout.report().left.to_string(), "1 server")
        }
        other => panic!("{other:?}"),
    }
    assert!(start.elapsed() <= 6 * SECOND, "within a second of it");
    assert!(is_dropped.await.is_err());
}

/// A deadline that has passed stays passed, even while the server gets its time to end.
#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_can_not_be_extended() {
    let drain = Drain::new();
    let run = tokio::spawn(drain.run(future::pending::<()>(), future::ready(())));
    tokio::task::yield_now().await;
    drain.force();
    assert_eq!(drain.phase(), Phase::Forced);
    let start = Instant::now();
    drain.set_deadline(start + 60 * SECOND);
    run.await
        .expect("no panic")
        .expect_err("the server never stops");
    assert!(start.elapsed() <= SECOND);
}

#[tokio::test(start_paused = true)]
async fn g52_an_idle_server_may_take_a_few_turns_to_notice() {
    let drain = Drain::builder().timeout(Duration::ZERO).build();
    let stop = drain.reached(Phase::Draining);
    let server = tokio::spawn(async move {
        stop.await;
        tokio::task::yield_now().await;
    });
    let server = async { server.await.expect("no panic") };
    drain.run(server, future::ready(())).await.expect("idle");
}

#[tokio::test(start_paused = true)]
async fn g53_the_second_signal_forces() {
    let drain = Drain::new();
    let _guard = drain.guard().expect("serving");
    let signal = async { SecondSignal::new(sleep(SECOND)) };
    let start = Instant::now();
    let error = drain
        .run(drain.reached(Phase::Draining), signal)
        .await
        .expect_err("held");
    assert_eq!(start.elapsed(), SECOND);
    assert!(matches!(error, RunError::Timeout(timeout) if timeout.report().left.guards == 1));
}

#[tokio::test(start_paused = true)]
async fn a_signal_may_skip_the_lame_duck_or_its_rest() {
    for begun in [false, true] {
        let drain = Drain::builder().lame_duck(60 * SECOND).build();
        if begun {
            drain.begin();
            sleep(SECOND).await;
            assert_eq!(drain.phase(), Phase::LameDuck);
        }
        let start = Instant::now();
        let server = drain.reached(Phase::Draining);
        drain
            .run(
                server,
                future::ready(SecondSignal::from(()).skip_lame_duck()),
            )
            .await
            .expect("idle");
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_signal_may_end_with_a_result() {
    for output in [Ok(()), Err(io::Error::other("no handler"))] {
        let drain = Drain::new();
        let server = drain.reached(Phase::Draining);
        let drained = drain.run(server, future::ready(output)).await;
        drained.expect("idle");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_before_any_signal_begins_the_drain() {
    let drain = Drain::builder().lame_duck(60 * SECOND).build();
    let guard = drain.guard().expect("serving");
    let server = async {
        sleep(SECOND).await;
        Err(io::Error::other("the socket is gone"))
    };
    let mut run = task::spawn(drain.run(server, future::pending::<()>()));
    assert_pending!(run.poll());
    sleep(SECOND).await;
    assert!(run.is_woken());
    assert_pending!(run.poll(), "what is in flight is waited for");
    assert_eq!(
        drain.phase(),
        Phase::Draining,
        "no lame duck without a server"
    );
    drop(guard);
    match assert_ready!(run.poll()) {
        Err(RunError::Server { error, outcome, .. }) => {
            assert_eq!(error.to_string(), "the socket is gone");
            assert!(outcome.is_ok());
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_fails_with_work_left_says_both() {
    let drain = Drain::builder().timeout(SECOND).build();
    let _guard = drain.guard().expect("serving");
    let server = future::ready(Err::<(), _>("broken"));
    match drain.run(server, future::pending::<()>()).await {
        Err(RunError::Server { error, outcome, .. }) => {
            assert_eq!(error, "broken");
            assert_eq!(outcome.expect_err("held").report().left.guards, 1);
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_dropped_half_way_leaves_a_drain_that_can_end() {
    for begun in [false, true] {
        let drain = Drain::new();
        let (dropped, is_dropped) = oneshot::channel::<()>();
        let server = async move {
            let _dropped = dropped;
            future::pending::<()>().await
        };
        let mut run = task::spawn(drain.run(server, future::pending::<()>()));
        assert_pending!(run.poll());
        assert_eq!(drain.left().servers, 1);
        if begun {
            drain.begin();
        }
        drop(run);
        assert!(is_dropped.await.is_err(), "the server goes with it");
        assert!(drain.left().is_empty());
        assert_eq!(
            drain.phase(),
            if begun { Phase::Done } else { Phase::Serving }
        );
        drained(&drain).await.to_string();
    }
}

#[tokio::test(start_paused = true)]
async fn b21_begun_before_run() {
    let drain = Drain::new();
    drain.begin();
    let server = future::poll_fn(|_| -> std::task::Poll<()> { panic!("polled") });
    drain
        .run(server, future::pending::<()>())
        .await
        .expect("nothing to do");
}

#[tokio::test(start_paused = true)]
async fn several_servers_end_together() {
    let drain = Drain::new();
    let slow = |seconds: u32| {
        let stop = drain.reached(Phase::Draining);
        async move {
            stop.await;
            sleep(seconds * SECOND).await;
        }
    };
    let start = Instant::now();
    let (first, second) = tokio::join!(
        drain.run(slow(1), at(SECOND)),
        drain.run(slow(3), future::pending::<()>()),
    );
    assert_eq!(start.elapsed(), 4 * SECOND);
    assert_eq!(first.expect("drained"), second.expect("drained"));
}

/// A server that uses up its task budget in each poll does not delay the deadline.
#[tokio::test]
async fn a_server_that_uses_up_its_turns_does_not_starve_the_deadline() {
    let drain = Drain::builder().timeout(Duration::from_millis(20)).build();
    let greedy = async {
        loop {
            tokio::task::consume_budget().await;
        }
    };
    let greedy = async {
        tokio::select! { () = greedy => {}, () = future::pending() => {} }
    };
    guarded(drain.run(greedy, future::ready(())))
        .await
        .expect_err("it never stops");
}

/// A server that is always ready to be polled again does not keep the signal from being seen.
#[tokio::test]
async fn a_busy_server_does_not_starve_the_signal() {
    let drain = Drain::new();
    let busy = future::poll_fn(|cx| {
        cx.waker().wake_by_ref();
        std::task::Poll::<()>::Pending
    });
    let (signal, signalled) = oneshot::channel::<()>();
    let run = tokio::spawn(drain.run(busy, async { signalled.await.expect("sent") }));
    tokio::task::yield_now().await;
    signal.send(()).expect("it waits");
    guarded(drain.reached(Phase::Draining)).await;
    drain.force();
    guarded(run)
        .await
        .expect("no panic")
        .expect_err("it never stops");
}

/// The outcome names a handler that waits for the drain of its own request.
#[tokio::test(start_paused = true)]
async fn i72_a_handler_that_waits_for_its_own_drain_is_said() {
    for waits in [1, 2] {
        let drain = Drain::new();
        let own = drain.clone();
        let service = drain
            .layer()
            .layer(service_fn(move |_: Request<Empty<Bytes>>| {
                let own = own.clone();
                async move {
                    let outcome = own.shutdown(Duration::from_secs(10)).await;
                    let text = outcome.err().map(|timeout| timeout.to_string());
                    Ok::<_, BoxError>(Response::new(text.unwrap_or_default()))
                }
            }));
        let mut requests: Vec<_> = (0..waits)
            .map(|_| task::spawn(service.clone().call(request())))
            .collect();
        for request in &mut requests {
            assert_pending!(request.poll());
            assert_pending!(request.poll());
        }
        let report = drain.report().to_string();
        assert!(report.contains("waits for this drain"), "{report}");
        let other = drain.guard();
        assert!(other.is_err());
        let timeout = drain.wait().await.expect_err("it waits for itself");
        assert!(
            timeout.to_string().contains("waits for this drain"),
            "{timeout}"
        );
        assert_eq!(timeout.report().left.requests, waits);
        for request in &mut requests {
            let response = assert_ready!(request.poll()).expect("an answer");
            assert!(response.headers().contains_key("connection"));
        }
    }
}

/// The hint is not given if another request is in flight, or if the waiter is not a request.
#[tokio::test(start_paused = true)]
async fn i72_nothing_is_said_of_requests_that_work() {
    let drain = Drain::new();
    let (answer, held) = held::<Empty<Bytes>>();
    let mut service = drain.layer().layer(held);
    let mut works = task::spawn(service.call(request()));
    assert_pending!(works.poll());
    drain.begin();
    assert_pending!(works.poll());
    let mut waits = task::spawn(drain.wait());
    assert_pending!(waits.poll());
    let report = drain.report().to_string();
    assert!(!report.contains("waits for this drain"), "{report}");
    drop(answer);
}
