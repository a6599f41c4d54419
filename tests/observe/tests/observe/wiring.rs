//! What the log says of the wiring, and what depends on the environment: that runs in a child.

use crate::{Log, SECOND};
use http::{Request, Response};
use std::{
    convert::Infallible,
    env,
    future::{IntoFuture, poll_fn},
    io,
    process::{Command, Stdio},
    task::Poll,
    time::Duration,
};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_graceful::Drain;

const WARNING: &str = "WARN tower_graceful: check the wiring ";

fn of_wiring(lines: &[String]) -> Vec<&String> {
    let says = |line: &&String| line.contains("check the wiring");
    lines.iter().filter(says).collect()
}

#[tokio::test(start_paused = true)]
async fn a_mistake_is_logged_once_when_the_drain_begins() {
    let (log, _guard) = Log::of_this_thread();
    for timeout in [Some(60 * SECOND), None] {
        let builder = Drain::builder().name("api");
        let builder = builder.kubernetes(30 * SECOND, Duration::ZERO);
        let drain = match timeout {
            Some(timeout) => builder.timeout(timeout).build(),
            None => builder.build(),
        };
        let guard = drain.guard().expect("serving");
        drain.report();
        assert!(log.lines().is_empty(), "it has not begun");
        drain.begin();
        let lines = log.lines();
        assert!(lines[0].contains(": the drain begins "), "{lines:?}");
        let hint = "drain=\"api\" hint=the timeout of 60 s is longer than the 30 s that";
        match (&of_wiring(&lines)[..], timeout) {
            ([line], Some(_)) => assert!(line.starts_with(&format!("{WARNING}{hint}")), "{line}"),
            ([], None) => {}
            (lines, _) => panic!("{lines:?}"),
        }
        let waiting = tokio::spawn(drain.wait());
        drain.begin();
        sleep(20 * SECOND).await;
        drop(guard);
        waiting.await.expect("no panic").expect("nothing was left");
        let lines = log.lines();
        assert!(lines.iter().any(|line| line.contains("still draining")));
        assert!(!lines.concat().contains(" hint="), "{lines:?}");
    }
}

#[tokio::test]
async fn a_server_that_is_not_told_is_logged_once() {
    let (log, _guard) = Log::of_this_thread();
    for is_told in [false, true] {
        let drain = Drain::builder().lame_duck(3600 * SECOND).build();
        let listener = drain.bind("127.0.0.1:0").await.expect("loopback");
        let app = axum::Router::new().layer(drain.layer());
        let server = axum::serve(listener, app);
        let server = match is_told {
            true => {
                let server = server.with_graceful_shutdown(drain.shutdown_signal());
                tokio::spawn(server.into_future())
            }
            false => tokio::spawn(server.into_future()),
        };
        // It accepts.
        tokio::task::yield_now().await;
        drain.begin();
        drain.begin();
        let lines = log.lines();
        match (&of_wiring(&lines)[..], is_told) {
            ([], true) => {}
            ([line], false) => {
                let hint = "hint=the drain does not tell axum's server to stop: \
                            `with_graceful_shutdown(drain.shutdown_signal())` is missing";
                assert_eq!(**line, format!("{WARNING}{hint}"));
            }
            (lines, _) => panic!("{lines:?}"),
        }
        server.abort();
    }
}

/// Its end begins the drain, and nothing is left to tell.
#[tokio::test]
async fn a_server_that_ends_by_itself_is_no_hint() {
    let (log, _guard) = Log::of_this_thread();
    let drain = Drain::new();
    let listener = drain.bind("127.0.0.1:0").await.expect("loopback");
    let app = axum::Router::new().layer(drain.layer());
    let server = axum::serve(listener, app);
    let server = async move {
        let mut server = std::pin::pin!(server.into_future());
        // It accepts, and ends.
        let accepts = poll_fn(|cx| Poll::Ready(server.as_mut().poll(cx)));
        assert!(accepts.await.is_pending());
    };
    let drained = drain.run(server, std::future::pending::<()>()).await;
    drained.expect("nothing was left");
    let lines = log.lines();
    assert!(lines.iter().any(|line| line.contains("the drain begins")));
    assert!(!lines.concat().contains("hint="), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_logged_at_the_end() {
    let (log, _guard) = Log::of_this_thread();
    for refused in [0, 1] {
        let drain = Drain::new();
        let service = drain.layer().layer(service_fn(async |_: Request<_>| {
            Ok::<_, Infallible>(Response::new(http_body_util::Empty::<bytes::Bytes>::new()))
        }));
        let guard = drain.guard().expect("serving");
        drain.begin();
        for _ in 0..refused {
            let request = Request::new(http_body_util::Empty::<bytes::Bytes>::new());
            drop(service.clone().oneshot(request).await);
        }
        drop(guard);
        let drained = drain.wait().await.expect("nothing was left");
        let lines = log.lines();
        assert!(of_wiring(&lines).is_empty(), "{lines:?}");
        let last = lines.last().expect("a line");
        assert!(last.contains("INFO tower_graceful: drained "), "{last}");
        let says = last.contains(" hint=\"requests were refused, and the drain has no listener ");
        assert_eq!(says, refused > 0, "{last}");
        let [drained, report] = [
            serde_json::to_value(drained).expect("it serialises"),
            serde_json::to_value(drain.report()).expect("it serialises"),
        ];
        for json in [drained, report] {
            let hint = json["hints"][0].as_str();
            let says = hint.is_some_and(|hint| hint.starts_with("requests were refused, and "));
            assert_eq!(says, refused > 0, "{json}");
            assert_eq!(json.get("hints").is_some(), refused > 0, "{json}");
        }
    }
}

const ROLE: &str = "TOWER_GRACEFUL_ROLE";

/// Runs as the child process of other tests, which name its role.
#[test]
#[ignore = "is a child of others, and alone has no role to play"]
fn child() {
    let Ok(role) = env::var(ROLE) else { return };
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build().expect("a runtime");
    let _entered = runtime.enter();
    match &*role {
        "says what its process 1 is" => say_process_one(),
        seconds => {
            start_log();
            let timeout = Duration::from_secs(seconds.parse().expect("a number"));
            let drain = Drain::builder().timeout(timeout).build();
            let _guard = drain.guard().expect("serving");
            drain.begin();
            println!("report: {}", drain.report());
        }
    }
}

/// Logs to the standard output.
fn start_log() {
    let log = tracing_subscriber::fmt().with_writer(io::stdout);
    log.with_ansi(false).without_time().init();
}

fn say_process_one() {
    let [mut stop, mut again] = [(); 2].map(|()| Box::pin(tower_graceful::signal::terminate()));
    // As in most programs: the log comes after the call.
    start_log();
    println!("report: {}", Drain::new().report());
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..2 {
        assert!(stop.as_mut().poll(&mut cx).is_pending());
        assert!(again.as_mut().poll(&mut cx).is_pending());
    }
    let drain = Drain::new();
    let _guard = drain.guard();
    drain.begin();
    println!("begun: {}", drain.report());
}

/// Runs the child by way of that command, and returns what it says.
fn said(mut command: Command, role: &str) -> Vec<String> {
    let child = command
        .args(["--exact", "wiring::child", "--ignored", "--nocapture"])
        .env(ROLE, role)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let text = String::from_utf8(child.stdout).expect("text");
    assert!(child.status.success(), "{text}");
    text.lines().map(str::to_owned).collect()
}

#[test]
fn what_the_supervisor_allows_by_default_is_a_question() {
    let pod = "KUBERNETES_SERVICE_HOST";
    let unit = "NOTIFY_SOCKET";
    for (variable, seconds, hint) in [
        (None, "3600", None),
        (Some(pod), "30", None),
        (
            Some(pod),
            "31",
            Some("the timeout of 31 s is longer than the default of Kubernetes"),
        ),
        (Some(unit), "90", None),
        (
            Some(unit),
            "91",
            Some("the timeout of 91 s is longer than the default of systemd"),
        ),
    ] {
        let mut command = Command::new(env::current_exe().expect("a test binary"));
        command.env_remove(pod).env_remove(unit);
        command.envs(variable.map(|name| (name, "/run/some")));
        let lines = said(command, seconds);
        let report = lines.iter().find(|line| line.contains("report: "));
        let report = report.expect("a report");
        assert_eq!(
            report.contains("is longer than"),
            hint.is_some(),
            "{report}"
        );
        match (&of_wiring(&lines)[..], hint) {
            ([], None) => {}
            ([line], Some(hint)) => {
                // It may be wrong.
                assert!(line.trim_start().starts_with("INFO "), "{line}");
                assert!(
                    line.contains(hint) && report.contains(hint),
                    "{line}\n{report}"
                );
            }
            (lines, _) => panic!("{lines:?}"),
        }
    }
}

/// In a container: as the start script of an image runs the program.
#[cfg(target_os = "linux")]
#[test]
fn a_shell_as_process_1_is_said() {
    let container = || {
        let mut unshare = Command::new("unshare");
        unshare.args([
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
        ]);
        unshare.arg("--kill-child");
        unshare
    };
    let able = container().arg("true").status();
    if !able.is_ok_and(|status| status.success()) {
        return eprintln!("SKIPPED: no namespaces here");
    }
    let shell = "process 1 is a shell";
    for (script, expected) in [
        (r#""$0" "$@"; exit $?"#, true),
        (r#""$0" "$@" & wait $!"#, true),
        (r#"exec "$0" "$@""#, false),
        // It forwards the signal.
        (r#"trap 'kill -TERM $!' TERM; "$0" "$@" & wait $!"#, false),
        // By hand, in a container that has a shell as process 1 for another reason.
        (
            r#"setsid -w sh -c '"$0" "$@"; exit $?' "$0" "$@"; exit $?"#,
            false,
        ),
    ] {
        let mut command = container();
        command.args(["sh", "-c", script]);
        command.arg(env::current_exe().expect("a test binary"));
        let lines = said(command, "says what its process 1 is");
        let is_of = |name: &str| {
            let line = lines.iter().find(|line| line.contains(name));
            line.expect("it is said").contains(shell)
        };
        assert_eq!(is_of("report: "), expected, "{script}: {lines:?}");
        assert!(!is_of("begun: "), "{script}: {lines:?}");
        match (&of_wiring(&lines)[..], expected) {
            ([], false) => {}
            ([line], true) => {
                let line = line.trim_start();
                assert!(
                    line.starts_with(&format!("{WARNING}hint={shell}")),
                    "{line}"
                );
            }
            (lines, _) => panic!("{script}: {lines:?}"),
        }
    }
}
