//! What is measured: a service that answers at once, alone and in each of the compared layers.
//! `benches/table` measures it, and `benches/overhead/run` is the command.

mod bare;
mod connection;
mod ours;
mod requests;
mod stacks;

pub use self::stacks::{Drive, Loop, Stack, stacks};
