//! Real signals to this process. One test: signals are the process's, not a test's.

use crate::support::*;
use nix::sys::signal::{Signal, raise};
use tower_graceful::{Drain, Phase, RunError, signal};

#[tokio::test]
async fn g53_the_first_signal_begins_the_second_forces() {
    for (first, second) in [
        (Signal::SIGTERM, Signal::SIGTERM),
        (Signal::SIGINT, Signal::SIGTERM),
        (Signal::SIGTERM, Signal::SIGINT),
    ] {
        let drain = Drain::new();
        let _guard = drain.guard().expect("serving");
        // Listened for from here on, though nobody polls it yet.
        let signals = signal::terminate();
        raise(first).expect("a signal");
        let run = tokio::spawn(drain.run(drain.reached(Phase::Draining), signals));
        guarded(drain.reached(Phase::Draining)).await;
        assert_eq!(drain.phase(), Phase::Draining);
        raise(second).expect("a signal");
        match guarded(run).await.expect("no panic") {
            Err(RunError::Timeout(timeout)) => assert_eq!(timeout.left.guards, 1),
            other => panic!("{other:?}"),
        }
    }
}
