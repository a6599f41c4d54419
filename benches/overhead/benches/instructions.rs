//! Instructions of one request on each stack, counted by callgrind. The profiles also hold how
//! often each instruction was executed, from which the table counts the locked operations.

use gungraun::{
    Callgrind, LibraryBenchmarkConfig, library_benchmark, library_benchmark_group, main,
};
use overhead::{STACKS, Stack};

fn warm(name: &str) -> Stack {
    let entry = STACKS.iter().find(|entry| entry.name == name);
    let stack = (entry.expect("a stack of that name").set_up)();
    stack.warm_up();
    stack
}

// Returns the stack, so that it is dropped outside of the measurement.
#[library_benchmark(setup = warm)]
#[bench::bare("bare")]
#[bench::in_flight("in_flight")]
#[bench::limit("limit")]
#[bench::tracker("tracker")]
#[bench::serving("serving")]
#[bench::named("named")]
#[bench::serving_headers("serving_headers")]
#[bench::refusing("refusing")]
#[bench::shared_word("shared_word")]
#[bench::striped_word("striped_word")]
#[bench::leaked_word("leaked_word")]
#[bench::ours("ours")]
fn request(stack: Stack) -> Stack {
    stack.request();
    stack
}

library_benchmark_group!(name = stacks, benchmarks = request);

main!(
    config = LibraryBenchmarkConfig::default()
        .tool(Callgrind::with_args(["--dump-instr=yes", "--dump-line=no"])),
    library_benchmark_groups = stacks
);
