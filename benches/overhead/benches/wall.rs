//! Time by the clock of one request on each stack, on one thread. Criterion does the statistics.

use criterion::{Criterion, criterion_group, criterion_main};
use overhead::STACKS;
use std::time::Duration;

fn wall(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("overhead");
    for entry in STACKS {
        let stack = (entry.set_up)();
        group.bench_function(entry.name, |bencher| bencher.iter(|| stack.request()));
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = wall
}
criterion_main!(benches);
