//! Events, metrics and JSON of a drain. The clock is paused, so that the durations are known.

#[path = "observe/serve.rs"]
mod serve;
#[path = "observe/wiring.rs"]
mod wiring;

use bytes::Bytes;
use http::{Request, Response, header::ACCEPT};
use http_body_util::{BodyExt, Empty, channel::Channel};
use metrics_util::{
    CompositeKey,
    debugging::{DebugValue, DebuggingRecorder, Snapshotter},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    panic::Location,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, advance, sleep};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_graceful::{Drain, Phase, signal::SecondSignal};
use tracing::{Level, subscriber::DefaultGuard};

type Body = Channel<Bytes, Infallible>;

const SECOND: Duration = Duration::from_secs(1);

/// Lines of a log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn of_this_thread() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Returns the lines since the last call.
    fn lines(&self) -> Vec<String> {
        let bytes = std::mem::take(&mut *self.0.lock().expect("not poisoned"));
        let text = String::from_utf8(bytes).expect("text");
        text.lines().map(|line| line.trim().to_owned()).collect()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("not poisoned").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn each_phase_is_one_event() {
    let (log, _guard) = Log::of_this_thread();
    let drain = Drain::builder().lame_duck(2 * SECOND).build();
    let guard = drain.guard().expect("serving");
    assert!(log.lines().is_empty());
    drain.begin();
    drain.begin();
    let figures = "servers=0 connections=0 completed=0 refused=0";
    assert_eq!(
        log.lines(),
        [format!(
            "INFO tower_graceful: the drain begins elapsed_seconds=0.0 requests=0 guards=1 tasks=0 {figures} \
             phase=\"lame_duck\" remaining_seconds=25.0"
        )]
    );
    let waiting = tokio::spawn(drain.wait());
    sleep(3 * SECOND).await;
    assert_eq!(
        log.lines(),
        [format!(
            "INFO tower_graceful: draining elapsed_seconds=2.0 requests=0 guards=1 tasks=0 {figures} \
             phase=\"draining\" remaining_seconds=23.0"
        )]
    );
    drop(guard);
    assert!(waiting.await.expect("no panic").is_ok());
    assert_eq!(
        log.lines(),
        [format!(
            "INFO tower_graceful: drained elapsed_seconds=3.0 requests=0 guards=0 tasks=0 {figures} phase=\"done\""
        )]
    );
    drain.force();
    drop(drain);
    assert!(log.lines().is_empty(), "it is over");
}

/// That is how long the lame duck has to be.
#[tokio::test(start_paused = true)]
async fn i14_events_and_figures_say_when_the_last_request_came() {
    let (log, _guard) = Log::of_this_thread();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let drain = Drain::builder().lame_duck(5 * SECOND).build();
    let guard = drain.guard().expect("serving");
    let service = drain
        .layer()
        .layer(service_fn(async |_: Request<Empty<Bytes>>| {
            Ok::<_, Infallible>(Response::new(Body::new(1).1))
        }));
    drain.begin();
    let waiting = tokio::spawn(drain.wait());
    sleep(SECOND).await;
    drain.record_metrics();
    let name = "graceful_drain_last_request_seconds{}";
    assert!(!snapshot(&snapshotter).contains_key(name), "none has come");
    for _ in 0..2 {
        sleep(1500 * Duration::from_millis(1)).await;
        let request = Request::new(Empty::new());
        drop(service.clone().oneshot(request).await);
    }
    sleep(2 * SECOND).await;
    let lines = log.lines();
    let [begins, draining] = &lines[..] else {
        panic!("{lines:?}");
    };
    assert!(!begins.contains("last"), "{begins}");
    let last = " completed=2 refused=0 last_request_seconds=4.0 phase=\"draining\"";
    assert!(draining.contains(last), "{draining}");
    assert_eq!(snapshot(&snapshotter)[name], 4.0);
    // Too late, and so the lame duck was too short.
    drop(service.oneshot(Request::new(Empty::new())).await);
    sleep(SECOND).await;
    drop(guard);
    let drained = waiting.await.expect("no panic").expect("nothing was left");
    let lines = log.lines().concat();
    assert!(
        lines.contains(" refused=1 last_request_seconds=6.0 phase=\"done\""),
        "{lines}"
    );
    assert_eq!(snapshot(&snapshotter)[name], 6.0);
    assert_eq!(
        serde_json::to_value(&drained).expect("it serialises"),
        json!({
            "elapsed_seconds": 7.0,
            "completed": 2,
            "refused": 1,
            "last_request_seconds": 6.0,
            "last_connection_seconds": null,
            "hints": [
                "requests were refused, and the drain has no listener to tell those that came in time: \
                 give the server `drain.listener(..)`, or set a longer lame duck",
            ],
        })
    );
    let report = serde_json::to_value(drain.report()).expect("it serialises");
    assert_eq!(report["last_request_seconds"], 6.0);
}

/// Without a lame duck there is a moment between the beginning and Draining, too, if there is a
/// listener.
#[tokio::test(start_paused = true)]
async fn i20_a_lame_duck_that_there_is_not_is_not_said() {
    let (log, _guard) = Log::of_this_thread();
    for (lame_duck, forced) in [(0, false), (0, true), (3600, true)] {
        let drain = Drain::builder().lame_duck(lame_duck * SECOND).build();
        match forced {
            true => drain.force(),
            false => drain.begin(),
        }
        let lines = log.lines();
        assert!(lines[0].contains("the drain begins"), "{lines:?}");
        assert!(!lines.concat().contains("phase=\"lame_duck\""), "{lines:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn i20_times_in_events_are_rounded() {
    let (log, _guard) = Log::of_this_thread();
    let drain = Drain::builder().timeout(30 * SECOND).build();
    let guard = drain.guard().expect("serving");
    advance(Duration::from_nanos(123)).await;
    drain.begin();
    advance(Duration::from_nanos(1_117_396_016)).await;
    drain.set_deadline(Instant::now() + Duration::from_nanos(24_877_025_512));
    let waiting = tokio::spawn(drain.wait());
    advance(5 * SECOND).await;
    tokio::task::yield_now().await;
    drop(guard);
    waiting.await.expect("no panic").expect("nothing was left");
    let said = log.lines().join("\n");
    assert!(
        said.contains("still draining elapsed_seconds=6.117 "),
        "{said}"
    );
    assert!(said.contains(" remaining_seconds=19.9 "), "{said}");
    assert!(said.contains("drained elapsed_seconds=6.117 "), "{said}");
}

#[tokio::test(start_paused = true)]
async fn i20_what_forced_it_is_said() {
    let (log, _guard) = Log::of_this_thread();
    let drain = Drain::new();
    let guard = drain.guard().expect("serving");
    drain.force();
    let lines = log.lines();
    for says in ["what is left is cut ", "the drain was given up "] {
        let line = lines.iter().find(|line| line.contains(says)).expect(says);
        assert!(line.ends_with(" forced_by=\"call\""), "{line}");
    }
    let report = serde_json::to_value(drain.report()).expect("it serialises");
    assert_eq!(report["forced_by"], "call");
    drop(guard);

    let insists = async { SecondSignal::new(std::future::ready(())) };
    let drain = Drain::new();
    let run = drain.run(std::future::pending::<()>(), insists);
    run.await.expect_err("the server never stops");
    let lines = log.lines();
    for says in ["what is left is cut ", "the drain was given up "] {
        let line = lines.iter().find(|line| line.contains(says)).expect(says);
        assert!(line.contains(" forced_by=\"second_signal\""), "{line}");
    }
    let given_up = lines.iter().find(|line| line.contains("given up"));
    let hint = "`with_graceful_shutdown(drain.shutdown_signal())`";
    assert!(
        given_up.is_some_and(|line| line.contains(hint)),
        "{lines:?}"
    );
}

/// With several waiters and many readers, each progress report is made once.
#[tokio::test(start_paused = true)]
async fn every_five_seconds_what_is_left() {
    let (log, _guard) = Log::of_this_thread();
    let drain = Drain::builder().name("api").timeout(12 * SECOND).build();
    let here = Location::caller();
    let guard = drain.guard().expect("serving").named("outbox");
    drain.begin();
    for _ in 0..3 {
        tokio::spawn(drain.wait());
    }
    log.lines();
    sleep(11 * SECOND).await;
    let figures = "requests=0 guards=1 tasks=0 servers=0 connections=0 completed=0 refused=0";
    let place = format!("{}:{}:23", here.file(), here.line() + 1);
    let progress = |elapsed: u64, remaining: u64| {
        format!(
            "INFO tower_graceful: still draining drain=\"api\" elapsed_seconds={elapsed}.0 {figures} \
             phase=\"draining\" remaining_seconds={remaining}.0 \
             first=\"guard outbox, {elapsed}.0s old, taken at {place}\""
        )
    };
    assert_eq!(log.lines(), [progress(5, 7), progress(10, 2)]);

    sleep(2 * SECOND).await;
    let lines = log.lines();
    assert_eq!(
        lines,
        [
            format!(
                "WARN tower_graceful: what is left is cut drain=\"api\" elapsed_seconds=12.0 {figures} \
                 phase=\"forced\" forced_by=\"deadline\""
            ),
            format!(
                "WARN tower_graceful: the drain was given up drain=\"api\" elapsed_seconds=12.0 {figures} \
                 phase=\"done\" forced_by=\"deadline\""
            ),
            format!(
                "WARN tower_graceful: cut drain=\"api\" blocker=guard outbox, 12.0s old, taken at \
                 {place}"
            ),
        ]
    );
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn many_that_are_cut_are_a_number() {
    let (log, _guard) = Log::of_this_thread();
    let drain = Drain::new();
    let guards: Vec<_> = (0..25).map(|_| drain.guard()).collect();
    drain.force();
    let lines = log.lines();
    let cut = lines.iter().filter(|line| line.contains(": cut "));
    assert_eq!(cut.count(), 21, "{lines:#?}");
    assert!(
        lines
            .last()
            .is_some_and(|line| line.ends_with(": cut more=5"))
    );
    drop(guards);
}

/// In the log and in the metrics, apart from what has completed.
#[tokio::test(start_paused = true)]
async fn an_answer_at_the_deadline_is_counted() {
    let (log, _guard) = Log::of_this_thread();
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let drain = Drain::builder().name("api").build();
    let mut service = drain
        .layer()
        .layer(service_fn(async |_: Request<Empty<Bytes>>| {
            std::future::pending::<Result<Response<Body>, Infallible>>().await
        }));
    let call = tokio::spawn(service.call(Request::new(Empty::new())));
    tokio::task::yield_now().await;
    drain.force();
    let response = call.await.expect("no panic").expect("infallible");
    assert_eq!(response.status(), 503);
    assert!(drain.wait().await.is_err());
    let lines = log.lines();
    let last = lines.last().expect("a line");
    let figures = " completed=0 refused=0 answered_at_deadline=1 phase=\"done\"";
    assert!(
        last.contains(": the drain was given up ") && last.contains(figures),
        "{last}"
    );
    let seen = snapshot(&snapshotter);
    assert_eq!(seen["graceful_answered_at_deadline_total{drain=api}"], 1.0);
    assert_eq!(seen["graceful_completed_total{drain=api}"], 0.0);
}

/// A subscriber may look at the drain that speaks to it.
#[tokio::test(start_paused = true)]
async fn a_subscriber_may_ask_back() {
    let drain = Drain::builder().lame_duck(SECOND).build();
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let (asked, sees) = (drain.clone(), seen.clone());
    let _guard = tracing::subscriber::set_default(Does(move |_| {
        asked.force();
        let phase = asked.report().phase.to_string();
        sees.lock().expect("not poisoned").push(phase);
    }));
    drain.begin();
    // LameDuck, which it forces; then Draining and Done, which have come of that.
    assert_eq!(
        *seen.lock().expect("not poisoned"),
        ["done", "done", "done"]
    );
}

/// Calls a function with the message of each event.
struct Does<F>(F);

impl<F: Fn(String) + 'static> tracing::Subscriber for Does<F> {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        struct Message(String);
        impl tracing::field::Visit for Message {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut message = Message(String::new());
        event.record(&mut message);
        (self.0)(message.0);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// As one does whose output has gone.
#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_harms_nobody() {
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let sees = seen.clone();
    let _guard = tracing::subscriber::set_default(Does(move |message| {
        sees.lock().expect("not poisoned").push(message);
        panic!("as tests do");
    }));
    let drain = Drain::new();
    let guard = drain.guard().expect("serving");
    tokio::spawn(async move {
        sleep(7 * SECOND).await;
        drop(guard);
    });
    let server = drain.reached(Phase::Draining);
    let run = drain.run(server, sleep(SECOND)).await;
    assert_eq!(run.expect("nothing is left").elapsed, 6 * SECOND);
    let seen = seen.lock().expect("not poisoned").clone();
    assert_eq!(
        seen,
        ["the drain begins", "draining", "still draining", "drained"]
    );
}

/// The process may exit once the wait returns, and would end another thread that reports.
#[tokio::test]
async fn a_waiter_for_the_end_waits_for_its_event() {
    let (entered, enters) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let told = Arc::new(AtomicBool::new(false));
    let tells = told.clone();
    let goes_on = Mutex::new(goes_on);
    let subscriber = Does(move |message| {
        if message == "drained" {
            entered.send(()).expect("the test waits");
            let goes_on = goes_on.lock().expect("not poisoned").recv();
            goes_on.expect("the test says so");
            tells.store(true, Ordering::SeqCst);
        }
    });
    let drain = Drain::new();
    let guard = drain.guard().expect("serving");
    drain.begin();
    let mut waiting = tokio_test::task::spawn(drain.wait());
    assert!(waiting.poll().is_pending());
    let last = std::thread::spawn(move || {
        tracing::subscriber::with_default(subscriber, || drop(guard));
    });
    enters.recv().expect("it comes to that");
    assert_eq!(drain.phase(), Phase::Done);
    assert!(waiting.poll().is_pending(), "it has not been said");
    go_on.send(()).expect("it waits");
    last.join().expect("no panic");
    assert!(told.load(Ordering::SeqCst));
    assert!(
        waiting.is_woken(),
        "by the thread that reports, not by a timer"
    );
    tokio_test::assert_ready!(waiting.poll()).expect("nothing was left");
}

/// A log that is stuck does not hang the drain.
#[tokio::test(start_paused = true)]
async fn a_waiter_for_the_end_does_not_wait_for_a_stuck_log() {
    let (entered, enters) = std::sync::mpsc::channel();
    let (go_on, goes_on) = std::sync::mpsc::channel::<()>();
    let goes_on = Mutex::new(goes_on);
    let subscriber = Does(move |message| {
        if message == "drained" {
            entered.send(()).expect("the test waits");
            let _ = goes_on.lock().expect("not poisoned").recv();
        }
    });
    let drain = Drain::new();
    let guard = drain.guard().expect("serving");
    drain.begin();
    let last = std::thread::spawn(move || {
        tracing::subscriber::with_default(subscriber, || drop(guard));
    });
    enters.recv().expect("it comes to that");
    let start = tokio::time::Instant::now();
    assert!(drain.wait().await.is_ok());
    assert_eq!(start.elapsed(), SECOND / 2);
    drop(go_on);
    last.join().expect("no panic");
}

/// Name and labels, and the value.
fn snapshot(snapshotter: &Snapshotter) -> BTreeMap<String, f64> {
    let text = |key: CompositeKey| {
        let (_, key) = key.into_parts();
        let labels = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()));
        let labels = labels.collect::<Vec<_>>().join(",");
        format!("{}{{{labels}}}", key.name())
    };
    let all = snapshotter.snapshot().into_vec().into_iter();
    all.map(|(key, _, _, value)| {
        let value = match value {
            DebugValue::Counter(value) => value as f64,
            DebugValue::Gauge(value) => value.0,
            DebugValue::Histogram(_) => panic!("there are none"),
        };
        (text(key), value)
    })
    .collect()
}

#[tokio::test(start_paused = true)]
async fn metrics_say_how_it_stands() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let drain = Drain::builder().name("api").timeout(10 * SECOND).build();
    let guards = [drain.guard(), drain.guard()];
    let (_send, body) = Body::new(1);
    let body = Mutex::new(Some(body));
    let mut service = drain
        .layer()
        .layer(service_fn(async |_: Request<Empty<Bytes>>| {
            let body = body.lock().expect("not poisoned").take();
            Ok::<_, Infallible>(Response::new(body.unwrap_or(Body::new(1).1)))
        }));
    let held = service
        .call(Request::new(Empty::new()))
        .await
        .expect("infallible");

    drain.record_metrics();
    let seen = snapshot(&snapshotter);
    assert_eq!(seen["graceful_drain_phase{drain=api}"], 0.0);
    assert_eq!(seen["graceful_in_flight{drain=api,kind=request}"], 1.0);
    assert_eq!(seen["graceful_in_flight{drain=api,kind=guard}"], 2.0);
    assert_eq!(seen["graceful_drain_elapsed_seconds{drain=api}"], 0.0);
    assert!(!seen.contains_key("graceful_drain_remaining_seconds{drain=api}"));
    assert_eq!(seen["graceful_connections{drain=api,state=silent}"], 0.0);

    // Recorded without a call, at each phase and while a task waits.
    let waiting = tokio::spawn(drain.wait());
    drain.begin();
    let seen = snapshot(&snapshotter);
    assert_eq!(seen["graceful_drain_phase{drain=api}"], 2.0);
    assert_eq!(seen["graceful_drain_remaining_seconds{drain=api}"], 10.0);
    drop(service.call(Request::new(Empty::new())).await);
    drop(held);
    sleep(6 * SECOND).await;
    let seen = snapshot(&snapshotter);
    assert_eq!(seen["graceful_drain_elapsed_seconds{drain=api}"], 5.0);
    assert_eq!(seen["graceful_refused_total{drain=api}"], 1.0);
    assert_eq!(seen["graceful_completed_total{drain=api}"], 1.0);
    assert_eq!(seen["graceful_in_flight{drain=api,kind=request}"], 0.0);
    assert_eq!(seen["graceful_cut_total{drain=api,kind=guard}"], 0.0);

    assert!(waiting.await.expect("no panic").is_err());
    let seen = snapshot(&snapshotter);
    assert_eq!(seen["graceful_drain_phase{drain=api}"], 4.0);
    assert_eq!(seen["graceful_drain_elapsed_seconds{drain=api}"], 10.0);
    assert_eq!(seen["graceful_cut_total{drain=api,kind=guard}"], 2.0);
    // All that the docs name.
    let names: Vec<_> = seen
        .keys()
        .filter_map(|key| key.split('{').next())
        .collect();
    for name in names {
        assert!(
            include_str!("../../../src/drain.rs").contains(&format!("/// | `{name}` |")),
            "{name}"
        );
    }
    drop(guards);
}

#[tokio::test(start_paused = true)]
async fn it_serialises_and_is_served_as_json() {
    let drain = Drain::builder().timeout(10 * SECOND).build();
    let here = Location::caller();
    let guard = drain.guard().expect("serving").named("outbox");
    let mut service =
        drain
            .layer()
            .report_requests()
            .layer(service_fn(async |_: Request<Empty<Bytes>>| {
                Ok::<_, Infallible>(Response::new(Body::new(1).1))
            }));
    sleep(SECOND).await;
    let request = Request::put("/orders/7?token=secret").body(Empty::new());
    let held = service
        .call(request.expect("a request"))
        .await
        .expect("infallible");
    drain.begin();
    sleep(SECOND).await;

    let place = format!("{}:{}:23", here.file(), here.line() + 1);
    let expected = json!({
        "name": null,
        "phase": "draining",
        "elapsed_seconds": 1.0,
        "remaining_seconds": 9.0,
        "forced_by": null,
        "completed": 0,
        "refused": 0,
        "last_request_seconds": null,
        "last_connection_seconds": null,
        "answered_at_deadline": 0,
        "left": {
            "requests": 1,
            "guards": 1,
            "tasks": 0,
            "servers": 0,
            "connections": {
                "silent": 0, "reading": 0, "handling": 0, "streaming": 0,
                "stalled": 0, "upgraded": 0, "idle": 0, "opaque": 0,
            },
        },
        "blockers": [
            { "kind": "request", "state": "streaming", "method": "PUT", "path": "/orders/7", "age_seconds": 1.0 },
            { "kind": "guard", "name": "outbox", "taken_at": place, "age_seconds": 2.0 },
        ],
    });
    assert_eq!(
        serde_json::to_value(drain.report()).expect("it serialises"),
        expected
    );

    let ask = async |accept: &str| {
        let request = Request::get("/drainz")
            .header(ACCEPT, accept)
            .body(Empty::<Bytes>::new());
        let response = drain.status().oneshot(request.expect("a request")).await;
        let (head, body) = response.expect("infallible").into_parts();
        let body = body.collect().await.expect("infallible").to_bytes();
        let content_type = head.headers["content-type"]
            .to_str()
            .expect("text")
            .to_owned();
        (
            content_type,
            String::from_utf8(body.to_vec()).expect("text"),
        )
    };
    for accept in [
        "application/json",
        "text/html, Application/JSON;q=0.9",
        "application/json, text/plain; q=0.5, */*",
    ] {
        let (content_type, body) = ask(accept).await;
        assert_eq!(content_type, "application/json");
        let body: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(body, expected);
    }
    for accept in [
        "*/*",
        "text/plain",
        "application/jsonp",
        "application/json;q=0",
        "text/plain, application/json;q=0.5",
    ] {
        let (content_type, body) = ask(accept).await;
        assert_eq!(content_type, "text/plain; charset=utf-8");
        assert!(body.starts_with("draining for 1.0s, 9.0s to go"), "{body}");
    }
    drop((guard, held));
}

#[tokio::test(start_paused = true)]
async fn a_long_list_is_not_served_whole() {
    let drain = Drain::new();
    let guards: Vec<_> = (0..1005).map(|_| drain.guard()).collect();
    let ask = async |accept: &str| {
        let request = Request::get("/")
            .header(ACCEPT, accept)
            .body(Empty::<Bytes>::new());
        let response = drain.status().oneshot(request.expect("a request")).await;
        let body = response.expect("infallible").into_body().collect().await;
        String::from_utf8(body.expect("infallible").to_bytes().to_vec()).expect("text")
    };
    let text = ask("*/*").await;
    assert!(text.ends_with("\n… and 5 more\n"), "{text}");
    assert_eq!(text.lines().count(), 1003);
    let json: serde_json::Value =
        serde_json::from_str(&ask("application/json").await).expect("JSON");
    assert_eq!(json["blockers"].as_array().map(Vec::len), Some(1000));
    assert_eq!(json["more_blockers"], 5);
    assert_eq!(drain.report().blockers.len(), 1005);
    drop(guards);
}
