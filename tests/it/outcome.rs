//! Outcomes and reports as text.

use crate::support::*;
use std::{error::Error, future, io, time::Duration};
use tokio::time::{advance, sleep};
use tower_graceful::{Drain, Phase, RunError, report::ForcedBy, signal::SecondSignal};

#[tokio::test(start_paused = true)]
async fn outcomes_read_well() {
    let drain = Drain::new();
    let guards = [drain.guard(), drain.guard()];
    assert_eq!(drain.left().to_string(), "2 guards");
    drain.begin();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let timeout = timed_out(&drain).await;
    assert_eq!(
        timeout.to_string(),
        "drain given up after 3.0s by a call to force with 2 guards left (0 completed, 0 refused)"
    );
    drop(guards);
    assert_eq!(
        drain.wait().await,
        Err(timeout.clone()),
        "what was said stays said"
    );
    assert_eq!(drain.left().to_string(), "nothing");

    let drained = drained(&Drain::new()).await;
    assert_eq!(
        drained.to_string(),
        "drained in 0ms: 0 completed, 0 refused, nothing left"
    );

    let error = RunError::<io::Error>::from(timeout.clone());
    assert_eq!(error.to_string(), timeout.to_string());
    assert!(error.source().is_none());

    let server = std::future::ready(Err::<(), _>(io::Error::other("no socket")));
    let error = Drain::new()
        .run(server, std::future::pending::<()>())
        .await
        .expect_err("it failed");
    let text = error.to_string();
    assert!(text.starts_with("the server failed; drained in"), "{text}");
    let source = error.source().expect("the server's error");
    assert_eq!(source.to_string(), "no socket");
}

#[tokio::test(start_paused = true)]
async fn i20_durations_are_rounded() {
    for (nanos, text) in [
        (125_264_043, "125ms"),
        (999_500_000, "1.0s"),
        (1_117_396_016, "1.1s"),
        (83_000_000_000, "1m23s"),
    ] {
        let drain = Drain::builder().timeout(Duration::MAX).build();
        let guard = drain.guard().expect("serving");
        drain.begin();
        advance(Duration::from_nanos(nanos)).await;
        drop(guard);
        let drained = drain.wait().await.expect("nothing was left");
        assert_eq!(drained.elapsed, Duration::from_nanos(nanos));
        assert_eq!(
            drained.to_string(),
            format!("drained in {text}: 0 completed, 0 refused, nothing left")
        );
    }
}

#[tokio::test(start_paused = true)]
async fn i20_what_forced_it_is_said() {
    let seconds = Duration::from_secs;
    for by in [ForcedBy::Deadline, ForcedBy::SecondSignal, ForcedBy::Call] {
        let drain = Drain::builder().timeout(seconds(2)).build();
        let _guard = drain.guard().expect("serving");
        if by != ForcedBy::Deadline {
            drain.set_deadline(tokio::time::Instant::now() + seconds(60));
        }
        let again = sleep(match by {
            ForcedBy::SecondSignal => seconds(2),
            _ => seconds(3600),
        });
        let signal = async { SecondSignal::new(again) };
        let run = tokio::spawn(drain.run(drain.reached(Phase::Draining), signal));
        drain.reached(Phase::Draining).await;
        assert_eq!(drain.report().forced_by, None);
        if by == ForcedBy::Call {
            sleep(seconds(2)).await;
            drain.force();
        }
        let Err(RunError::Timeout(timeout)) = run.await.expect("no panic") else {
            panic!("a guard was left");
        };
        assert_eq!(timeout.report().forced_by, Some(by));
        let how = match by {
            ForcedBy::Deadline => "at the deadline",
            ForcedBy::SecondSignal => "by a second signal",
            _ => "by a call to force",
        };
        assert_eq!(
            timeout.to_string(),
            format!("drain given up after 2.0s {how} with 1 guard left (0 completed, 0 refused)")
        );
        // What comes after that changes nothing.
        drain.force();
        assert_eq!(drain.report().forced_by, Some(by));
    }
}

/// A report shows the cause from `Forced` on.
#[tokio::test(start_paused = true)]
async fn i20_a_report_says_what_forced_it() {
    let drain = Drain::builder().timeout(Duration::from_secs(2)).build();
    // A server has half a second to notice.
    let run = tokio::spawn(drain.run(future::pending::<()>(), future::ready(())));
    drain.reached(Phase::Forced).await;
    let report = drain.report();
    assert_eq!(report.forced_by, Some(ForcedBy::Deadline));
    let text = "forced at the deadline after 2.0s: 1 server left; ";
    assert!(report.to_string().starts_with(text), "{report}");
    assert!(run.await.expect("no panic").is_err());
}

/// A server that is left alone has mostly not been given the shutdown signal.
#[tokio::test(start_paused = true)]
async fn i20_a_server_alone_says_what_is_missing() {
    const HINT: &str = "`with_graceful_shutdown(drain.shutdown_signal())`";
    for other in [false, true] {
        let drain = Drain::builder().timeout(Duration::from_secs(5)).build();
        let guard = other.then(|| drain.guard().expect("serving"));
        assert!(
            !drain.report().to_string().contains(HINT),
            "nobody stops it"
        );
        let run = drain.run(future::pending::<()>(), future::ready(()));
        let run = tokio::spawn(run);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(drain.report().to_string().contains(HINT), !other);
        let Err(RunError::Timeout(timeout)) = run.await.expect("no panic") else {
            panic!("the server never stops");
        };
        assert_eq!(timeout.to_string().contains(HINT), !other, "{timeout}");
        assert_eq!(format!("{timeout:#}").contains(HINT), !other);
        drop(guard);
        assert!(!drain.report().to_string().contains(HINT), "it is over");
    }
}
