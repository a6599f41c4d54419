//! Reports of what a drain waits for.

use crate::support::*;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use std::{panic::Location, time::Duration};
use tokio::time::sleep;
use tokio_test::{assert_pending, assert_ready, task};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_graceful::{Drain, Phase, report::BlockerKind};

const SECOND: Duration = Duration::from_secs(1);

fn ask(target: &str) -> Request<Empty<Bytes>> {
    let request = Request::post(target).body(Empty::new());
    request.expect("a request")
}

#[tokio::test(start_paused = true)]
async fn it_lists_each_blocker_with_its_age() {
    let drain = Drain::new();
    let here = Location::caller().line();
    let first = drain.guard().expect("serving").named("outbox");
    sleep(SECOND).await;
    let task = drain.track(std::future::pending::<()>());
    let task = task.expect("serving").named(String::from("sweeper"));
    sleep(SECOND).await;
    let run = drain.run(std::future::pending::<()>(), std::future::pending::<()>());
    let mut run = task::spawn(run);
    assert_pending!(run.poll());
    let spread = first.clone();
    sleep(SECOND).await;

    let report = drain.report();
    let all: Vec<_> = report
        .blockers
        .iter()
        .map(|it| {
            let place = it.taken_at.expect("known");
            assert!(place.file().ends_with("report.rs"), "{place}");
            (
                it.kind,
                it.name.as_deref(),
                it.age.as_secs(),
                place.line() - here,
            )
        })
        .collect();
    let [guard, sweeper] = [Some("outbox"), Some("sweeper")];
    assert_eq!(all[0], (BlockerKind::Guard, guard, 3, 1));
    assert_eq!(all[1], (BlockerKind::Task, sweeper, 2, 3));
    assert_eq!(all[2], (BlockerKind::Guard, guard, 1, 1));
    assert_eq!(all[3], (BlockerKind::Server, None, 1, 6));
    assert_eq!(all.len(), 4);
    assert_eq!(
        (report.phase, report.elapsed),
        (Phase::Serving, Duration::ZERO)
    );
    assert_eq!(report.remaining, None);

    drop((first, task, spread, run));
    assert!(drain.report().blockers.is_empty());
}

#[cfg(feature = "net")]
#[tokio::test]
async fn a_hook_is_in_it_until_it_has_been_run() {
    let drain = Drain::new();
    drain.on_shutdown(async |_| {});
    let report = drain.report();
    let kinds: Vec<_> = report.blockers.iter().map(|it| it.kind).collect();
    assert_eq!(kinds, [BlockerKind::Hook]);
    let place = report.blockers[0].taken_at.expect("known");
    assert!(place.file().ends_with("report.rs"), "{place}");
    drained(&drain).await;
    assert!(drain.report().blockers.is_empty());
}

/// A named request is listed from its call to the end of its body, and its response's begin is seen.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_named_is_followed() {
    let drain = Drain::new();
    let (answer, inner) = held::<Chunks>();
    let mut service = drain.layer().report_requests().layer(inner);
    let seen = || {
        let report = drain.report();
        assert_eq!(report.left.requests, report.blockers.len());
        report.blockers.first().cloned()
    };

    let mut response = task::spawn(service.call(ask("/orders/7?token=secret")));
    assert_pending!(response.poll());
    sleep(SECOND).await;
    let blocker = seen().expect("in flight");
    assert_eq!(blocker.kind, BlockerKind::Request);
    assert_eq!(blocker.method, Some(http::Method::POST));
    assert_eq!(blocker.path.as_deref(), Some("/orders/7"), "no secrets");
    assert_eq!((blocker.age, blocker.response_begun), (SECOND, false));
    assert_eq!(
        blocker.to_string(),
        "request POST /orders/7, waiting, 1.0s old"
    );

    let (mut chunks, body) = Chunks::new(4);
    assert!(answer.send(Response::new(body)).is_ok());
    let mut body = assert_ready!(response.poll())
        .expect("answered")
        .into_body();
    drop(response);
    for _ in 0..2 {
        let blocker = seen().expect("in flight");
        assert!(blocker.response_begun, "its head is out");
        assert_eq!(
            blocker.to_string(),
            "request POST /orders/7, streaming, 1.0s old"
        );
        chunks.send_data("hello".into()).await.expect("it is read");
        body.frame().await.expect("a frame").expect("no error");
    }
    drop(chunks);
    assert!(body.frame().await.is_none());
    assert!(seen().is_some(), "its body is still there");
    drop(body);
    assert_eq!(seen(), None);
}

#[tokio::test]
async fn a_request_leaves_the_list_however_it_ends() {
    let drain = Drain::new();
    let layer = drain.layer().report_requests();
    // The future is dropped.
    let (_answer, inner) = held::<Chunks>();
    let mut response = task::spawn(layer.layer(inner).call(request()));
    assert_pending!(response.poll());
    assert_eq!(drain.report().blockers.len(), 1);
    drop(response);
    assert!(drain.report().blockers.is_empty());
    // The service fails.
    let (answer, inner) = held::<Chunks>();
    let mut response = task::spawn(layer.layer(inner).call(request()));
    assert_pending!(response.poll());
    drop(answer);
    assert!(assert_ready!(response.poll()).is_err());
    assert!(drain.report().blockers.is_empty());
    // It panics in its call, when it has been counted.
    let panics = service_fn(
        |_: Request<Empty<Bytes>>| -> std::future::Ready<Result<Response<Chunks>, BoxError>> {
            panic!("as tests do")
        },
    );
    let mut service = layer.layer(panics);
    let call = std::panic::AssertUnwindSafe(|| drop(service.call(request())));
    assert!(std::panic::catch_unwind(call).is_err());
    assert!(drain.report().blockers.is_empty());
    drained(&drain).await;
}

#[tokio::test]
async fn a_request_without_a_name_is_a_number() {
    let drain = Drain::new();
    let (_answer, inner) = held::<Chunks>();
    let mut response = task::spawn(drain.layer().layer(inner).call(request()));
    assert_pending!(response.poll());
    let report = drain.report();
    assert_eq!((report.left.requests, report.blockers.len()), (1, 0));
}

/// A refusal may be a response that another layer counts.
#[tokio::test]
async fn a_refusal_in_front_of_named_requests_keeps_its_count() {
    let (other, drain) = (Drain::new(), Drain::new());
    let (answer, inner) = held::<Chunks>();
    let mut counted = other.layer().layer(inner);
    let mut response = task::spawn(counted.call(request()));
    let (_chunks, body) = Chunks::new(1);
    assert!(answer.send(Response::new(body)).is_ok());
    let response = assert_ready!(response.poll()).expect("answered");
    let response = std::sync::Mutex::new(Some(response));

    struct OneOfTheirs(
        std::sync::Mutex<Option<Response<tower_graceful::body::ResponseBody<Chunks>>>>,
    );
    impl tower_graceful::refusal::Refusal<Empty<Bytes>, Chunks> for OneOfTheirs {
        fn refuse(&self, _: &Request<Empty<Bytes>>) -> tower_graceful::refusal::Answer<Chunks> {
            let response = self.0.lock().expect("not poisoned").take();
            response.expect("asked once").into()
        }
    }
    let refusal = std::sync::Arc::new(OneOfTheirs(response));
    #[derive(Clone)]
    struct Shared(std::sync::Arc<OneOfTheirs>);
    impl tower_graceful::refusal::Refusal<Empty<Bytes>, Chunks> for Shared {
        fn refuse(
            &self,
            request: &Request<Empty<Bytes>>,
        ) -> tower_graceful::refusal::Answer<Chunks> {
            self.0.refuse(request)
        }
    }
    let layer = drain.layer().report_requests().refuse_with(Shared(refusal));
    drain.begin();
    let (_answer, inner) = held::<Chunks>();
    let refused = layer
        .layer(inner)
        .oneshot(request())
        .await
        .expect("refused");
    assert_eq!(other.in_flight(), 1);
    drop(refused);
    assert_eq!(other.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_that_is_given_up_says_what_was_in_its_way() {
    let drain = Drain::builder().timeout(5 * SECOND).build();
    let (_answer, inner) = held::<Chunks>();
    let mut service = drain.layer().report_requests().layer(inner);
    let mut response = task::spawn(service.call(ask("/slow")));
    assert_pending!(response.poll());
    let guard = drain.guard().expect("serving").named("outbox");
    drain.begin();
    sleep(2 * SECOND).await;
    let live = drain.report();
    assert_eq!((live.phase, live.elapsed), (Phase::Draining, 2 * SECOND));
    assert_eq!(live.remaining, Some(3 * SECOND));
    assert_eq!(live.blockers.len(), 2);
    let line = "draining for 2.0s, 3.0s to go: 1 request, 1 guard left; 0 completed, 0 refused\n";
    assert!(live.to_string().starts_with(line), "{live}");

    let timeout = drain.wait().await.expect_err("held");
    // Nothing polls the request, which has this time to be answered.
    let elapsed = 5 * SECOND + SECOND * 2 / 5;
    assert_eq!(timeout.report().elapsed, elapsed);
    assert_eq!(
        (timeout.report().left.requests, timeout.report().left.guards),
        (1, 1)
    );
    let paths = timeout
        .report()
        .blockers
        .iter()
        .filter_map(|it| it.path.as_deref());
    assert_eq!(paths.collect::<Vec<_>>(), ["/slow"]);
    let names = timeout
        .report()
        .blockers
        .iter()
        .filter_map(|it| it.name.as_deref());
    assert_eq!(names.collect::<Vec<_>>(), ["outbox"]);

    drop((guard, response));
    sleep(SECOND).await;
    assert_eq!(
        timeout.report().blockers.len(),
        2,
        "what was said stays said"
    );
    let after = drain.report();
    assert_eq!((after.phase, after.elapsed), (Phase::Done, elapsed));
    assert_eq!(
        after.to_string(),
        "done after 5.4s: nothing left; 0 completed, 0 refused"
    );
    let whole = format!("{timeout}\n{}", table(&format!("{:#}", timeout.report())));
    assert_eq!(format!("{timeout:#}"), whole);
    assert_eq!(format!("{timeout:?}"), whole, "as `main` prints it");
    assert_eq!(timeout.report().remaining, None);
}

/// The lines of a report after the first.
fn table(report: &str) -> &str {
    report.split_once('\n').map_or("", |(_, table)| table)
}

#[tokio::test(start_paused = true)]
async fn a_report_reads_well() {
    let drain = Drain::builder().name("api").build();
    assert_eq!(
        drain.report().to_string(),
        "api: serving: nothing; 0 completed, 0 refused"
    );
    assert!(drain.report().blockers.is_empty());
    let named = drain.guard().expect("serving").named("outbox");
    sleep(SECOND).await;
    let (_answer, inner) = held::<Chunks>();
    let mut service = drain.layer().report_requests().layer(inner);
    let mut response = task::spawn(service.call(ask(&format!("/{}", "x".repeat(80)))));
    assert_pending!(response.poll());
    let text = drain.report().to_string();
    let lines: Vec<_> = table(&text).lines().collect();
    let place = drain.report().blockers[1].taken_at.expect("known");
    let path = format!("POST /{}…", "x".repeat(59));
    assert_eq!(
        lines,
        [
            format!("kind     {:<66}  state    age   taken at", "name"),
            format!("request  {path}  waiting  0ms"),
            format!("guard    {:<66}           1.0s  {place}", "outbox"),
        ]
    );
    drop(named);

    let guards: Vec<_> = (0..24).map(|_| drain.guard()).collect();
    let report = drain.report();
    let (short, long) = (report.to_string(), format!("{report:#}"));
    let lines = |text| table(text).lines().count();
    assert_eq!((lines(&short), lines(&long)), (22, 26));
    assert!(short.ends_with("\n… and 5 more"), "{short}");
    drop(guards);
}

#[tokio::test(start_paused = true)]
async fn a_report_is_served() {
    let drain = Drain::new();
    let guard = drain.guard().expect("serving").named("outbox");
    drain.begin();
    let response = drain.status().oneshot(request()).await.expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    assert_eq!(response.headers()["cache-control"], "no-store");
    let text = response.into_body().collect().await.expect("infallible");
    let text = String::from_utf8(text.to_bytes().to_vec()).expect("text");
    assert!(
        text.starts_with("draining for 0ms, 25.0s to go: 1 guard left; "),
        "{text}"
    );
    assert!(text.contains("\nguard  outbox"), "{text}");

    let alive = drain
        .liveness()
        .oneshot(request())
        .await
        .expect("infallible");
    assert_eq!(
        alive.status(),
        StatusCode::OK,
        "a drain is no reason to be killed"
    );
    drop(guard);
}
