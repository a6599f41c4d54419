//! Stops a tower, axum, tonic or hyper server without losing a request, and without hanging.
//!
//! Go has had `http.Server.Shutdown` since 1.8. This is that for the servers of Rust, which stay as
//! they are:
//!
//! * a layer around any [tower] service counts requests and refuses new ones;
//! * a listener counts connections, empties the accept queue, and aborts what would hang;
//! * the [`Drain`] that they share has phases, a deadline, a second signal that forces, and a
//!   report that says what was left.
//!
//! If you own the accept loop, [`serve`] does all of this in one call.
//!
#![cfg_attr(all(feature = "axum", feature = "signal"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "axum", feature = "signal")), doc = "```ignore")]
//! use axum::{Router, routing::get};
//! use tower_graceful::{Drain, signal};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stop = signal::terminate(); // first: before it, SIGTERM ends the process
//! let drain = Drain::new();
//! let app = Router::new().route("/", get("hello")).layer(drain.layer());
//! let listener = drain.bind("127.0.0.1:3000").await?; // feature "axum"
//!
//! let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
//! let drained = drain.run(server, stop).await?;
//! println!("{drained}"); // drained in 1.2s: 31 completed, 0 refused, nothing left
//! # Ok(())
//! # }
//! ```
//!
//! Or, without axum's or tonic's server, for any HTTP tower service: Go's `Serve` and `Shutdown`.
//!
#![cfg_attr(all(feature = "server", feature = "signal"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "server", feature = "signal")), doc = "```ignore")]
//! # use axum::{Router, routing::get};
//! # use tower_graceful::signal;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stop = signal::terminate();
//! let app = Router::new().route("/", get("hello"));
//! let tcp = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//! let drained = tower_graceful::serve(tcp, app).shutdown_on(stop).await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What the layer promises
//!
//! * **Each request is counted and waited for, or it is refused** and never reaches your service:
//!   never neither, never both, however it races with the signal.
//! * **A count ends exactly once**: with the drop of the response *body* (a server drops it at its
//!   end) or of the future, at an error of the service, at a panic.
//! * **Done is exact and prompt.** The last request to leave wakes the waiter: no polling, no
//!   timer.
//! * **It ends.** At the deadline, which can be moved while it runs. At once at the second signal,
//!   if that comes more than 500 ms after the first. At the third signal with the process, whatever
//!   its threads do. (Servers and idle connections without work get another 0.5 s to end, and so do
//!   connections that are aborted.) The outcome is [`Drained`], or [`DrainTimeout`] with a
//!   [report](DrainTimeout::report), and the same for all waiters.
//! * **Nothing that merely exists holds it**: layers, services, listeners and [`Drain`]s are not
//!   counted.
//! * **A refusal is an answer** in the protocol of its request: 503 with `Retry-After` and
//!   `Connection: close`, gRPC's UNAVAILABLE, or [`Refused`] as an error. `poll_ready` neither
//!   errs nor hangs because of a drain.
//! * **At the deadline, a request without a response gets one**, and its client no reset: 503
//!   without `Retry-After`, or gRPC's UNAVAILABLE. Its handler is dropped. It is
//!   [counted](report::Report::answered_at_deadline) apart, and
//!   [replaceable](GracefulLayer::answer_at_deadline).
//!
//! # What the listener promises
//!
//! * **What arrived is served**: what is in the accept queue or in the buffer of a kept connection,
//!   half a head, the first request of a connection that was accepted a moment ago. Its answer says
//!   `Connection: close`, if there is a layer to say it.
//! * **Nothing holds the drain for ever.** A silent connection is closed a
//!   [second](DrainBuilder::grace) after its accept, half a head after 5 s, an HTTP/2 client that
//!   answers no PING after 5 s, all others at the deadline. Sockets are closed within a second,
//!   even if the server has detached their connections.
//! * **Done means written.** A connection is counted until its server drops it. By then its last
//!   byte is with the kernel, and the process may exit.
//! * **WebSockets and tunnels are counted**, told at [`Phase::Draining`] if they ask, waited for,
//!   aborted at the deadline, and [reported](report::ConnectionState::Upgraded).
//! * **A response is not destroyed by the close**: when the server closes in the middle of a
//!   request, the drain reads and discards the rest of it, for up to 5 s and 16 MiB (HTTP/2: 4
//!   MiB).
//!
//! # What `serve` promises
//!
//! All of that, and:
//!
//! * **Each connection is closed as soon as nothing can be lost by it**, and not before: see
//!   [`server`]. Over HTTP/2 a refusal is a REFUSED_STREAM, which clients send elsewhere.
//! * **A handshake is part of its connection**: counted, limited in time, and never in the way of
//!   another.
//! * **No orphans**: dropping the server ends its connections.
//!
//! # What is not promised
//!
//! * **A layer alone sees requests, not connections.** Its count falls to 0 when the *server* has
//!   the last byte. A request that its server never reads never comes to it. It aborts no
//!   connection and counts no WebSocket. That takes the listener.
//! * **A listener sees bytes, not requests.** From them it learns the
//!   [state](report::ConnectionState) of a connection, unless they are encrypted. [`serve`] with
//!   the feature `rustls` sees requests over TLS. TLS around the listener loses nothing
//!   ([`guide::axum`] has the program), and its connections are reported as
//!   [`Opaque`](report::ConnectionState::Opaque).
//! * The kernel resets a client that connects in the very microsecond in which the listener closes,
//!   or whose TCP handshake is half done then. On Linux it does not if the process alone has the
//!   listener (`Drain::bind`, `Serve::bind`, `Serve::exclusive`). A client that sends a request on a kept
//!   connection later than the [settling](DrainBuilder::settle) allows finds it closed.
//! * A task that blocks its thread cannot be aborted. It is reported as left, and ends with the
//!   process.
//!
//! # The parts
//!
//! | | |
//! |---|---|
//! | [`Drain`] | begins, forces, waits; has the phase, the deadline and the report |
//! | [`Drain::run`] | runs a server until a signal, and ends with the outcome |
//! | [`GracefulLayer`] | counts and refuses, for HTTP ([`Drain::layer`]) and for any other service ([`Drain::call_layer`]) |
#![cfg_attr(
    feature = "net",
    doc = "| [`Drain::bind`], [`Drain::listener`], [`Drain::incoming`] | count and close connections, for `axum::serve`, tonic and loops by hand |"
)]
#![cfg_attr(
    feature = "server",
    doc = "| [`serve`] | serves any HTTP tower service: listeners, TLS, limits, and what Go's server has |"
)]
//! | [`Drain::shutdown_signal`] | tells a server when to stop |
//! | [`Drain::reached`] | tells handlers, streams and tasks when to stop |
//! | [`Drain::guard`], [`Drain::track`] | have the drain wait for work that is no request |
#![cfg_attr(
    feature = "net",
    doc = "| [`Drain::on_shutdown`] | runs work when the drain begins, and waits for it |"
)]
//! | [`Drain::end_stream`], [`Drain::end_response`] | end streams and bodies with the drain, instead of aborting them |
//! | [`Drain::report`] | lists what holds the drain, at any time; [`DrainTimeout`] has one, too |
//! | [`Drain::readiness`], [`Drain::liveness`], [`Drain::status`] | answer `/readyz`, `/livez`, and with the report |
//! | [`signal::terminate`] | waits for SIGTERM, SIGINT, Ctrl-C |
//! | [`refusal`] | answers requests that come too late |
//!
//! # The guide
//!
//! The [`guide`] has whole programs for axum, tonic and hyper. It has manifests and units for
//! Kubernetes and systemd, and settings for nginx, HAProxy and Envoy. It says what to do when a
//! drain hangs.
//!
//! # Phases
//!
//! | [`Phase`] | from | new requests | readiness |
//! |---|---|---|---|
//! | `Serving` | the start | served | 200 |
//! | `LameDuck` | [`begin`](Drain::begin), if there is a [lame duck](DrainBuilder::lame_duck) or a listener | served, HTTP/1 with `Connection: close` | 503 |
//! | `Draining` | the end of the lame duck; the listeners have closed | refused, but for those that arrived in time | 503 |
//! | `Forced` | the deadline, [`force`](Drain::force), the second signal | refused; those without a response are answered 503; what is left is aborted | 503 |
//! | `Done` | nothing is left, or the drain was given up | refused | 503 |
//!
//! # Features
//!
//! * `server` (default): [`serve`], on hyper's HTTP/1 and HTTP/2.
//! * `rustls`: TLS for it.
//! * `net` (with `server`): listeners and connections, with tokio's `net`.
//! * `signal` (default): [`signal::terminate`], on Unix by signal-hook and a thread that sleeps
//!   until there is a signal.
//! * `axum`: the listener for `axum::serve`.
//! * `tonic`: the connections for tonic's `serve_with_incoming_shutdown`.
//! * `tonic-health`: gRPC's health service, `Drain::grpc_health`.
//! * `serde`: reports serialise, and [`Drain::status`] answers in JSON, too.
//! * `tracing`: an event for each phase, for what is left every five seconds, and for what was
//!   aborted; errors of listeners, and of the services and connections of `serve`. All have the
//!   target `tower_graceful`, which a filter has to let through
//!   (`RUST_LOG=my_crate=debug,tower_graceful=info`).
//! * `metrics`: the same as figures, through the crate `metrics`; see `Drain::record_metrics`.
//!
//! Without default features the crate stands on `http`, `http-body`, `bytes`, `futures-core`,
//! `pin-project-lite`, `slab`, `tower-layer`, `tower-service` and tokio's `sync` and `time`.
//!
//! [tower]: https://docs.rs/tower
#![cfg_attr(
    not(feature = "signal"),
    doc = "\n[`signal::terminate`]: https://docs.rs/tower-graceful"
)]
#![cfg_attr(
    not(feature = "server"),
    doc = "\n[`serve`]: https://docs.rs/tower-graceful\n[`server`]: https://docs.rs/tower-graceful"
)]
#![warn(missing_debug_implementations, missing_docs, unreachable_pub)]

mod close;
mod drain;
mod layer;
#[cfg(feature = "net")]
mod log;
mod service;
#[cfg(feature = "net")]
mod timer;

pub mod body;
pub mod call;
pub mod future;
// Made when the docs are, and only then: it costs a user nothing. (`tests/guide` compiles its
// programs.)
#[cfg(all(doc, not(doctest)))]
pub mod guide;
#[cfg(feature = "tonic-health")]
pub mod health;
#[cfg(feature = "net")]
pub mod net;
pub mod probe;
pub mod refusal;
#[cfg(feature = "server")]
pub mod server;
pub mod signal;
pub mod stream;

/// Keeps a drain waiting for work that is no request.
pub mod guard {
    pub use crate::drain::{DrainGuard, Tracked};
}

/// Tells what a drain waits for, in figures and one by one.
pub mod report {
    pub use crate::drain::{Blocker, BlockerKind, ConnectionState, Counts, ForcedBy, Report};
}

#[cfg(feature = "server")]
pub use self::server::{Serve, serve};
pub use self::{
    drain::{Drain, DrainBuilder, DrainTimeout, Drained, Phase, Refused, RunError},
    layer::GracefulLayer,
    service::Graceful,
};

/// Compiles the README's code with the doctests.
#[cfg(all(doctest, feature = "axum", feature = "signal", feature = "tonic"))]
#[doc = include_str!("../README.md")]
struct Readme;
