//! What the layer costs, next to its neighbours and next to other ways to count.
//!
//! Every stack answers the same request: the service is cloned and called as hyper-util and axum
//! do it, and the response body is read to its end. What is measured is one such request on a
//! stack that has answered some before; what is reported is the difference to the bare service.
//!
//! `benches/overhead/run` measures everything and prints one table. The parts, each of which also
//! runs by itself:
//!
//! * `benches/instructions.rs`: instructions, by gungraun. From its profiles the table also reads
//!   the locked operations.
//! * `benches/wall.rs`: time by the clock, by Criterion.
//! * `src/bin/cpu.rs`: CPU time with one to eight threads on one stack.
//! * `src/bin/memory.rs`: allocations and the growth of futures and bodies.

mod counted;
mod designs;
mod ours;
mod request;
mod stacks;

pub use self::{
    request::{Growth, Stack},
    stacks::{Entry, STACKS},
};
