//! Graceful shutdown for tower services.
#![warn(missing_debug_implementations, missing_docs, unreachable_pub)]

mod body;
mod drain;
mod future;
mod layer;
mod readiness;
pub mod refusal;
mod service;
#[cfg(feature = "signal")]
pub mod signal;

pub use self::{
    body::ResponseBody,
    drain::{
        Drain, DrainBuilder, DrainGuard, DrainTimeout, Drained, Insist, Left, Phase, Reached,
        Refused, RunError, ServerOutput, Tracked,
    },
    future::{CallFuture, ResponseFuture},
    layer::{Calls, GracefulLayer, Http},
    readiness::{Readiness, ReadinessBody},
    service::Graceful,
};
