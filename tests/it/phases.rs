//! When each phase is entered, and which waiters wake.

use crate::support::*;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use std::{sync::mpsc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, sleep_until},
};
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, ServiceExt, service_fn};
use tower_graceful::{Drain, Phase};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn b18_a_late_subscriber_completes_at_once() {
    let drain = Drain::builder().lame_duck(SECOND).build();
    let guard = drain.guard().expect("serving");
    let phases = [Phase::LameDuck, Phase::Draining, Phase::Forced, Phase::Done];
    let completes = |phase| task::spawn(drain.reached(phase)).poll().is_ready();

    assert!(completes(Phase::Serving));
    assert!(phases.into_iter().all(|phase| !completes(phase)));
    drain.begin();
    assert!(completes(Phase::LameDuck) && !completes(Phase::Draining));
    sleep(SECOND).await;
    assert!(completes(Phase::Draining) && !completes(Phase::Forced));
    drain.force();
    assert!(phases.into_iter().all(completes));
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn in_kubernetes_everything_is_over_before_the_kill() {
    let ms = Duration::from_millis;
    for (grace_period, pre_stop, lame_duck, timeout) in [
        (ms(30_000), Duration::ZERO, ms(5_000), Some(ms(28_000))),
        (ms(60_000), ms(20_000), ms(5_000), Some(ms(38_000))),
        (ms(12_000), Duration::ZERO, ms(5_000), Some(ms(10_000))),
        // Short: half of it.
        (ms(10_000), ms(2_000), ms(3_000), Some(ms(6_000))),
        (ms(2_002), Duration::ZERO, ms(1), Some(ms(2))),
        // Too short: nothing.
        (ms(2_000), Duration::ZERO, ms(0), Some(ms(0))),
        (ms(30_000), ms(29_000), ms(0), Some(ms(0))),
        (Duration::ZERO, Duration::ZERO, ms(0), Some(ms(0))),
        (ms(30_000), ms(31_000), ms(0), Some(ms(0))),
        (ms(30_000), Duration::MAX, ms(0), Some(ms(0))),
        (Duration::MAX, Duration::MAX, ms(0), Some(ms(0))),
        // For ever.
        (Duration::MAX, Duration::ZERO, ms(5_000), None),
    ] {
        let case = format!("{grace_period:?} less {pre_stop:?}");
        let drain = Drain::builder().kubernetes(grace_period, pre_stop).build();
        let _guard = drain.guard().expect("serving");
        let start = Instant::now();
        drain.begin();
        assert_eq!(drain.deadline().map(|at| at - start), timeout, "{case}");
        drain.reached(Phase::Draining).await;
        assert_eq!(start.elapsed(), lame_duck, "{case}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiters_wake_when_their_phase_is_due() {
    let drain = Drain::builder()
        .lame_duck(2 * SECOND)
        .timeout(5 * SECOND)
        .build();
    let _guard = drain.guard().expect("serving");
    let start = Instant::now();
    let at = |phase| {
        let reached = drain.reached(phase);
        tokio::spawn(async move {
            reached.await;
            start.elapsed()
        })
    };
    let (draining, forced, done) = (at(Phase::Draining), at(Phase::Forced), at(Phase::Done));
    sleep(SECOND).await;
    drain.begin();
    assert_eq!(draining.await.expect("no panic").as_secs(), 3);
    assert_eq!(forced.await.expect("no panic").as_secs(), 6);
    assert_eq!(done.await.expect("no panic").as_secs(), 6);
}

/// The guard leaves before, at and after the deadline, and is polled before or after the waiter.
#[tokio::test(start_paused = true)]
async fn b20_ends_at_the_deadline_one_way_or_the_other() {
    for millis in [999, 1000, 1001] {
        for guard_first in [true, false] {
            let drain = Drain::builder().timeout(SECOND).build();
            let guard = drain.guard().expect("serving");
            let end = Instant::now() + Duration::from_millis(millis);
            let leave = async {
                sleep_until(end).await;
                drop(guard);
            };
            drain.begin();
            let outcome = if guard_first {
                tokio::join!(biased; leave, drain.wait()).1
            } else {
                tokio::join!(biased; drain.wait(), leave).0
            };
            match millis {
                999 => assert!(outcome.is_ok()),
                1001 => assert!(outcome.is_err()),
                _ => {}
            }
            assert_eq!(drain.wait().await, outcome, "one outcome");
            assert_eq!(drain.phase(), Phase::Done);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b22_two_wait_and_a_shorter_deadline_is_obeyed_by_both() {
    let drain = Drain::new();
    let _guard = drain.guard().expect("serving");
    let start = Instant::now();
    let first = tokio::spawn(drain.shutdown(60 * SECOND));
    sleep(SECOND).await;
    let second = tokio::spawn(drain.shutdown(SECOND));
    let first = first.await.expect("no panic").expect_err("held");
    assert_eq!(start.elapsed(), 2 * SECOND);
    assert_eq!(second.await.expect("no panic"), Err(first.clone()));
    assert_eq!(drain.shutdown(SECOND).await, Err(first), "late, too");
}

#[tokio::test(start_paused = true)]
async fn a_second_shutdown_does_not_extend() {
    let drain = Drain::new();
    let _guard = drain.guard().expect("serving");
    let start = Instant::now();
    let (first, second) = tokio::join!(drain.shutdown(SECOND), drain.shutdown(60 * SECOND));
    assert_eq!((first, start.elapsed()), (second, SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_moves_while_draining() {
    let drain = Drain::builder().timeout(SECOND).build();
    let _guard = drain.guard().expect("serving");
    let start = Instant::now();
    drain.begin();
    let waiting = tokio::spawn(drain.wait());
    tokio::task::yield_now().await;
    drain.set_deadline(start + 10 * SECOND);
    sleep(5 * SECOND).await;
    assert!(!waiting.is_finished(), "extended");
    drain.set_deadline(start + 6 * SECOND);
    let timeout = waiting.await.expect("no panic").expect_err("held");
    assert_eq!(
        (start.elapsed(), timeout.report().elapsed),
        (6 * SECOND, 6 * SECOND)
    );

    drain.set_deadline(start + 60 * SECOND);
    assert_eq!(drain.phase(), Phase::Done, "phases do not go back");
    assert_eq!(drain.wait().await, Err(timeout));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_has_passed_stays_though_nobody_looked() {
    let drain = Drain::builder().timeout(SECOND).build();
    let _guard = drain.guard().expect("serving");
    drain.begin();
    sleep(2 * SECOND).await;
    drain.set_deadline(Instant::now() + 60 * SECOND);
    assert_eq!(drain.phase(), Phase::Done);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_set_before_the_beginning_stands() {
    let drain = Drain::new();
    let _guard = drain.guard().expect("serving");
    let start = Instant::now();
    drain.set_deadline(start + 3 * SECOND);
    sleep(SECOND).await;
    drain.begin();
    drain.wait().await.expect_err("held");
    assert_eq!(start.elapsed(), 3 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn durations_too_long_for_an_instant_never_end() {
    for lame_duck in [Duration::ZERO, SECOND, Duration::MAX] {
        for timeout in [Duration::ZERO, SECOND, Duration::MAX] {
            let drain = Drain::builder()
                .lame_duck(lame_duck)
                .timeout(timeout)
                .build();
            drain.begin();
            drain.begin();
            drain.set_deadline(Instant::now() - Duration::from_millis(1));
            let _ = drain.wait().await.expect("nothing was in flight");

            let drain = Drain::builder()
                .lame_duck(lame_duck)
                .timeout(timeout)
                .build();
            let guard = drain.guard().expect("serving");
            let waiting = drain.shutdown(Duration::MAX);
            let leave = async {
                sleep(100 * SECOND).await;
                drop(guard);
                drain.force();
            };
            let _ = tokio::join!(waiting, leave).0.expect("nothing was left");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn g49_lame_duck_serves_and_says_close() {
    let drain = Drain::builder().lame_duck(5 * SECOND).build();
    let service = drain
        .layer()
        .layer(service_fn(async |_: Request<Empty<Bytes>>| {
            Ok::<_, BoxError>(Response::new(Empty::<Bytes>::new()))
        }));
    let ask = || async { service.clone().oneshot(request()).await.expect("an answer") };
    let ready = || async {
        let response = drain
            .readiness()
            .oneshot(request())
            .await
            .expect("infallible");
        let status = response.status();
        assert_eq!(response.headers()["cache-control"], "no-store");
        (
            status,
            response
                .into_body()
                .collect()
                .await
                .expect("infallible")
                .to_bytes(),
        )
    };

    assert!(!ask().await.headers().contains_key("connection"));
    assert_eq!(ready().await, (StatusCode::OK, "ready\n".into()));

    drain.begin();
    for _ in 0..5 {
        assert_eq!(drain.phase(), Phase::LameDuck);
        let response = ask().await;
        assert_eq!(
            (response.status(), &response.headers()["connection"]),
            (StatusCode::OK, &"close".parse().expect("a value"))
        );
        assert_eq!(
            ready().await,
            (StatusCode::SERVICE_UNAVAILABLE, "draining\n".into())
        );
        sleep(SECOND).await;
    }
    // No waiter has advanced the drain. The first request after the lame duck is refused.
    assert_eq!(ask().await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(drain.phase(), Phase::Done);
    assert_eq!(ready().await.0, StatusCode::SERVICE_UNAVAILABLE);
    let drained = drain.wait().await.expect("nothing was left");
    assert_eq!((drained.completed, drained.refused), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn g50_done_when_the_last_one_has_left() {
    let drain = Drain::builder().timeout(60 * SECOND).build();
    let guard = drain.guard().expect("serving");
    drain.begin();
    let mut waiting = task::spawn(drain.wait());
    assert_pending!(waiting.poll());
    sleep(SECOND).await;
    drop(guard);
    assert!(waiting.is_woken(), "by the last one out, not by a timer");
    let drained = assert_ready!(waiting.poll()).expect("nothing was left");
    assert_eq!(drained.elapsed, SECOND);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g51_a_handler_that_blocks_its_thread_does_not_block_the_drain() {
    let drain = Drain::builder().timeout(Duration::from_millis(20)).build();
    let (release, blocked) = mpsc::channel::<()>();
    let (entered, mut enters) = tokio::sync::mpsc::unbounded_channel();
    let blocking = drain
        .track(async move {
            entered.send(()).expect("the test waits");
            let _ = blocked.recv();
        })
        .expect("serving");
    let blocking = tokio::spawn(blocking);
    guarded(enters.recv()).await.expect("it runs");
    drain.begin();
    let timeout = guarded(drain.wait()).await.expect_err("it never yields");
    assert_eq!(timeout.report().left.tasks, 1);
    drop(release);
    guarded(blocking).await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn g52_a_deadline_in_the_past_drains_what_is_idle() {
    let drain = Drain::new();
    drain.set_deadline(Instant::now() - SECOND);
    drain.begin();
    assert_eq!(drain.wait().await.expect("idle").elapsed, Duration::ZERO);
    let _ = Drain::new().shutdown(Duration::ZERO).await.expect("idle");
    let forced = Drain::new();
    forced.force();
    let _ = forced.wait().await.expect("idle");
}

#[tokio::test(start_paused = true)]
async fn guards_and_tasks_are_waited_for() {
    let drain = Drain::new();
    let guard = drain.guard().expect("serving");
    let stop = drain.reached(Phase::Draining);
    let task = tokio::spawn(
        drain
            .track(async move {
                stop.await;
                sleep(SECOND).await;
                "finished"
            })
            .expect("serving"),
    );
    assert_eq!(drain.left().to_string(), "1 guard, 1 task");
    assert_eq!(drain.in_flight(), 0, "they are no requests");
    let waiting = tokio::spawn(drain.shutdown(60 * SECOND));
    sleep(SECOND / 2).await;
    assert!(
        drain.guard().is_err() && drain.track(async {}).is_err(),
        "too late"
    );
    let spread = guard.clone();
    assert_eq!(drain.left().guards, 2, "a clone is one more");
    drop(guard);
    assert_eq!((drain.left().guards, drain.left().tasks), (1, 1));
    assert_eq!(task.await.expect("no panic"), "finished");
    assert!(!waiting.is_finished());
    drop(spread);
    let drained = waiting.await.expect("no panic").expect("nothing was left");
    assert_eq!((drained.elapsed, drained.completed), (SECOND, 0));
}

/// A tracked future that has ended is not counted, even if it is not dropped.
#[tokio::test]
async fn a_task_that_has_ended_is_not_waited_for() {
    let drain = Drain::new();
    let mut task = task::spawn(drain.track(async {}).expect("serving"));
    assert_ready!(task.poll());
    assert!(drain.left().is_empty());
    drop(task);
}

/// A waiter needs no handle of the drain, not even for the end of the lame duck.
#[tokio::test(start_paused = true)]
async fn waiting_outlives_every_handle() {
    let drain = Drain::builder().lame_duck(SECOND).build();
    let guard = drain.guard().expect("serving");
    let (idle, held) = (Drain::builder().lame_duck(SECOND).build(), drain.clone());
    idle.begin();
    held.begin();
    let (idle_wait, held_wait) = (idle.wait(), held.wait());
    drop((drain, idle, held));
    assert_eq!(idle_wait.await.expect("idle").elapsed, SECOND);
    let mut held_wait = task::spawn(held_wait);
    assert_pending!(held_wait.poll(), "the guard is still there");
    drop(guard);
    assert!(held_wait.is_woken());
    assert_ready!(held_wait.poll()).expect("nothing was left");
}

#[test]
fn works_without_a_runtime_until_somebody_waits() {
    let drain = Drain::new();
    let guard = drain.guard().expect("serving");
    drain.begin();
    drain.set_deadline(Instant::now() + SECOND);
    assert_eq!(drain.phase(), Phase::Draining);
    drop(guard);
    assert_eq!(drain.phase(), Phase::Done);
    assert!(tokio_test::block_on(drain.wait()).is_ok());
    assert!(format!("{drain:?}").contains("Done"));
}

/// A runtime that is dropped drops its tasks, and with them what they hold.
#[test]
fn a_runtime_that_is_dropped_ends_what_it_ran() {
    let drain = Drain::new();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let never = drain.track(std::future::pending::<()>()).expect("serving");
    runtime.spawn(never);
    drain.begin();
    assert_eq!(drain.left().tasks, 1);
    drop(runtime);
    assert_eq!(drain.phase(), Phase::Done);
}

/// The drop of the last handle drops the hooks and ends their tasks.
#[cfg(feature = "net")]
#[tokio::test]
async fn i70_hooks_of_a_drain_that_is_dropped_unbegun_are_dropped() {
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let drain = Drain::new();
    let layer = drain.layer();
    let (kept, mut dropped) = oneshot::channel::<()>();
    drain.on_shutdown(async move |_| drop(kept));
    let clone = drain.clone();
    drop(drain);
    tokio::task::yield_now().await;
    assert_eq!(tasks(), before + 1);
    assert!(
        dropped
            .try_recv()
            .is_err_and(|error| error == oneshot::error::TryRecvError::Empty)
    );
    drop(clone);
    guarded(dropped).await.expect_err("dropped, not run");
    tokio::task::yield_now().await;
    assert_eq!(tasks(), before);
    drop(layer);
}

/// A drain that has begun goes on without a handle, and runs its hooks.
#[cfg(feature = "net")]
#[tokio::test]
async fn i70_hooks_of_a_drain_that_is_dropped_while_it_goes_on_are_run() {
    let drain = Drain::builder()
        .lame_duck(Duration::from_millis(20))
        .build();
    let (run, ran) = oneshot::channel();
    drain.on_shutdown(async move |_| run.send(()).expect("listened to"));
    drain.begin();
    drop(drain);
    guarded(ran).await.expect("run");
}
