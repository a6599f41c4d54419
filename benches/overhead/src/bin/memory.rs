//! Allocations of one request on each stack, and by how many bytes the layer makes the response
//! future (around a boxed one, around a `Ready`) and the response body larger.
//!
//! Prints a line per stack, in this order.

use overhead::STACKS;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn main() {
    for entry in STACKS {
        let stack = (entry.set_up)();
        stack.warm_up();
        let region = Region::new(ALLOCATOR);
        stack.request();
        let change = region.change();
        let growth = stack.growth;
        println!(
            "{}\t{}\t{}\t{}\t{}",
            entry.name,
            change.allocations + change.reallocations,
            growth.boxed_future,
            growth.ready_future,
            growth.body,
        );
    }
}
