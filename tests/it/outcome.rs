//! What a drain says of itself.

use crate::support::*;
use std::{error::Error, io, time::Duration};
use tower_graceful::{Drain, RunError};

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
        "drain given up after 3s with 2 guards left (0 completed, 0 refused)"
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
        "drained in 0ns: 0 completed, 0 refused, nothing left"
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
