//! One binary for all tests of this crate that need no heavy peer; tonic's are in `tests/grpc`,
//! tower-http's in `tests/composition`, loom's in `tests/loom`. A test that stands for a case of
//! the conformance list carries its number in its name.

mod answering;
mod auto_traits;
mod counting;
mod ending;
mod http1;
mod lame_duck;
mod outcome;
mod phases;
mod refusing;
mod report;
mod running;
#[cfg(all(unix, feature = "signal"))]
mod signals;
mod support;
mod wiring;
