//! CONFORMANCE.md, section D: the layer under a real tonic server, before real clients, over real
//! sockets. The name of a test begins with the number of its case.

mod composition;
mod gate;
mod health;
mod in_flight;
mod python;
mod refusal;
mod server;
mod wire;

use std::{future::Future, time::Duration};

/// A guard against hanging, far longer than anything here takes.
async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(30), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited in vain for {what}"),
    }
}
