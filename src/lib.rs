//! Stops a tower, axum, tonic or hyper server without losing the requests that it has begun, and
//! without hanging.
//!
//! Go has had `http.Server.Shutdown` since 1.8. This is its request side for any [tower] service,
//! with a deadline, phases, a second signal that forces, and a report that says what was left.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use tower_graceful::{Drain, Phase};
//!
//! # #[cfg(feature = "signal")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let drain = Drain::new();
//! let app = Router::new().route("/", get("hello")).layer(drain.layer());
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!
//! let server = axum::serve(listener, app).with_graceful_shutdown(drain.reached(Phase::Draining));
//! let drained = drain.run(server, tower_graceful::signal::terminate()).await?;
//! println!("{drained}"); // drained in 1.2s: 31 completed, 4 refused, nothing left
//! # Ok(())
//! # }
//! # #[cfg(not(feature = "signal"))]
//! # fn main() {}
//! ```
//!
//! # What is promised
//!
//! * **A request is counted and waited for, or it is refused** and never reaches your service:
//!   never neither, never both, however it races with the signal.
//! * **A count ends exactly once**, with the response *body*: at its end, its trailers, its error
//!   or its drop, at the drop of the future, at an error of the service, at a panic.
//! * **Done is exact and prompt.** The last one out wakes the waiter: no polling, no timer.
//! * **It ends.** At the deadline, which can be moved while it runs; at the second signal at once.
//!   (A server with no work left gets half a second to notice.) The outcome is [`Drained`], or
//!   [`DrainTimeout`] with what was [`Left`], and the same for all who wait.
//! * **Nothing that merely exists holds it**: layers, services and [`Drain`]s are not counted.
//! * **A refusal is an answer** in the protocol of its request: 503 with `Retry-After` and
//!   `Connection: close`, gRPC's UNAVAILABLE, or [`Refused`] as an error; `poll_ready` neither
//!   errs nor hangs because of a drain.
//!
//! # What is not
//!
//! A layer sees requests, not connections. So it cannot promise
//!
//! * that a response was **written**. Its body ends when the server has buffered it; with a client
//!   that reads nothing, 64 MiB later the count is already 0. The server's own graceful shutdown
//!   waits for that, which is why [`Drain::run`] waits for the server, too;
//! * that a request is **seen**. One that was sent while its connection was closed, or that sat in
//!   the accept queue, never comes here. A [lame duck](DrainBuilder::lame_duck) makes that rare;
//! * that a stuck **connection is cut**. `axum::serve` and tonic detach their connection tasks: at
//!   the deadline [`Drain::run`] drops the server and says what was left; the end of the process
//!   cuts it (`run` says how to end it);
//! * that a **WebSocket** is waited for. Its request ends with the 101; hold a
//!   [guard](Drain::guard) for what comes after.
//!
//! # The parts
//!
//! | | |
//! |---|---|
//! | [`Drain`] | the handle: begin, force, wait, deadline, phase, guards |
//! | [`Drain::run`] | a server and a signal in one future, which ends with the outcome |
//! | [`GracefulLayer`] | counts and refuses, for HTTP ([`Drain::layer`]) and for any other service ([`Drain::call_layer`]) |
//! | [`Drain::reached`] | tells handlers, streams and tasks when to stop |
//! | [`Drain::guard`], [`Drain::track`] | work that is no request and is waited for |
//! | [`Drain::readiness`] | `/readyz` |
//! | [`signal::terminate`] | SIGTERM, SIGINT, Ctrl-C |
//! | [`refusal`] | what is said to those who come too late |
//!
//! # Phases
//!
//! | [`Phase`] | from | new requests | readiness |
//! |---|---|---|---|
//! | `Serving` | the start | served | 200 |
//! | `LameDuck` | [`begin`](Drain::begin), if there is a [lame duck](DrainBuilder::lame_duck) | served, HTTP/1 with `Connection: close` | 503 |
//! | `Draining` | the end of the lame duck | refused | 503 |
//! | `Forced` | the deadline, [`force`](Drain::force), the second signal | refused | 503 |
//! | `Done` | nothing is left, or it was given up | refused | 503 |
//!
//! # Features
//!
//! * `signal` (default): the [`signal`] module, with tokio's signal driver.
//!
//! Without default features the crate stands on `http`, `http-body`, `bytes`, `pin-project-lite`,
//! `tower-layer`, `tower-service` and tokio's `sync` and `time`.
//!
//! [tower]: https://docs.rs/tower
#![cfg_attr(
    not(feature = "signal"),
    doc = "\n[`signal`]: https://docs.rs/tower-graceful\n[`signal::terminate`]: https://docs.rs/tower-graceful"
)]
#![warn(missing_debug_implementations, missing_docs, unreachable_pub)]

mod body;
mod drain;
mod future;
mod layer;
#[cfg(feature = "net")]
mod net;
mod readiness;
pub mod refusal;
mod service;
#[cfg(feature = "signal")]
pub mod signal;

#[cfg(feature = "net")]
pub use self::net::{DrainIncoming, DrainIo, DrainListener};
pub use self::{
    body::ResponseBody,
    drain::{
        Connections, Drain, DrainBuilder, DrainGuard, DrainTimeout, Drained, Insist, Left, Phase,
        Reached, Refused, RunError, ServerOutput, Tracked,
    },
    future::{CallFuture, ResponseFuture},
    layer::{Calls, GracefulLayer, Http},
    readiness::{Readiness, ReadinessBody},
    service::Graceful,
};

/// The README's code is compiled with the doctests.
#[cfg(all(doctest, feature = "signal"))]
#[doc = include_str!("../README.md")]
struct Readme;
