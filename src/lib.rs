//! Stops an axum, tonic or hyper server, or any other tower service, without losing a request and
//! without hanging.
//!
//! A layer counts requests and refuses late ones. A listener counts connections, serves what has
//! already arrived, and aborts at a deadline what would hang. Both belong to one [`Drain`], which
//! ends with a typed result: [`Drained`], or a [`DrainTimeout`] that lists what was left.
//!
//! # Which part do I need?
//!
//! | you have | use | it sees |
//! |---|---|---|
//! | a service, and no need for another server | [`serve`] | requests and connections |
//! | axum's or tonic's server, or a hyper loop | [`Drain::bind`], [`Drain::layer`] | both |
//! | a server that cannot take that listener | [`Drain::layer`] alone | requests only |
//! | a tower service that is not HTTP | [`Drain::call_layer`] | calls |
//!
//! Use `serve` unless you need another server:
//!
#![cfg_attr(all(feature = "server", feature = "signal"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "server", feature = "signal")), doc = "```ignore")]
//! use axum::{Router, routing::get};
//! use tower_graceful::{Serve, signal};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stop = signal::terminate(); // first in `main`: before it, SIGTERM ends the process
//! let app = Router::new().route("/", get("hello"));
//! println!("{}", Serve::new(app).bind("[::]:3000").await?.shutdown_on(stop).await?);
//! # Ok(())
//! # }
//! ```
//!
//! Another server gets its layer, its listener and its shutdown signal from one `Drain`:
//!
#![cfg_attr(all(feature = "axum", feature = "signal"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "axum", feature = "signal")), doc = "```ignore")]
//! use axum::{Router, routing::get};
//! use tower_graceful::{Drain, signal};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let stop = signal::terminate();
//! let drain = Drain::new();
//! let app = Router::new().route("/", get("hello")).layer(drain.layer());
//! let listener = drain.bind("[::]:3000").await?; // feature "axum"
//! let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
//! println!("{}", drain.run(server, stop).await?); // drained in 1.2s: 31 completed, …
//! # Ok(()) }
//! ```
//!
//! # What is promised, and what is not
//!
//! * Until the deadline, each request is served, or it gets a refusal and never reaches your
//!   service. At the deadline, a request without a response gets a 503, unless its handler blocks.
//!   [`Drain`] and [`GracefulLayer`] say more.
//! * With the listener, what has arrived is served, and what is done is written; see [`net`].
//!   [`serve`] closes each connection as soon as that loses nothing; see [`server`].
//! * **The layer alone sees requests, not connections.** It counts a response as ended when the
//!   *server* has it. It cuts no connection. You need the listener or `serve` for that.
//! * **The listener alone sees bytes, not requests.** Without the layer, no response says
//!   `Connection: close`, so clients learn of the shutdown when their connection closes.
//! * An idle connection may be closed while a request is on its way.
//! * A handler that blocks its thread cannot be aborted. It ends with the process.
//!
//! # Modules
//!
//! | module | feature | |
//! |---|---|---|
//! | [`guide`] | | whole programs, Kubernetes, systemd, proxies, what to do when a drain hangs |
//! | [`net`], [`server`] | `net`, `server` (default) | listeners, connections; what `serve` does |
//! | [`signal`] | `signal` (default) | SIGTERM and SIGINT; the second signal |
//! | [`probe`] | | readiness, liveness, report |
//! | [`health`] | `tonic-health` | the health service of gRPC |
//! | [`report`] | | what a drain waits for |
//! | [`guard`], [`stream`] | | work that is no request; streams that end with the drain |
//! | [`refusal`], [`call`] | | other refusals; services that are not HTTP |
//! | [`body`], [`future`] | | the types of bodies and futures |
//!
//! `axum` and `tonic` let their servers take the listener. `rustls` is TLS for `serve`. `tracing`
//! and `metrics` say how a drain goes on. With `serde`, reports serialise.
#![cfg_attr(
    not(all(feature = "server", feature = "signal", feature = "tonic-health")),
    doc = include_str!("guide/links.md")
)]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_debug_implementations, missing_docs, unreachable_pub)]

mod capacity;
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
#[doc(inline)]
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
