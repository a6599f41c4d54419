//! CPU time of one request while 1, 2, 4 and 8 threads share a stack, in ns: what contention costs.
//!
//! Prints a line per stack, with a figure for each number of threads: the median of the rounds in
//! which the threads ran most side by side, as the others say nothing about contention. There are
//! rounds until there are enough of those, or patience is over. The last line says how many CPUs
//! were in use in them: far less than there are, and the figures are not about contention.
//!
//! Rounds are short, and the stacks take turns in each, so that all of them see the same of what
//! else goes on.

use cpu_time::ThreadTime;
use overhead::{STACKS, Stack};
use std::{
    sync::Barrier,
    thread,
    time::{Duration, Instant},
};

const THREADS: [usize; 4] = [1, 2, 4, 8];
/// By each thread, in each round: some milliseconds, long next to the start of a thread.
const REQUESTS: u32 = 20_000;
/// So many rounds count.
const ENOUGH: usize = 20;
const PATIENCE: Duration = Duration::from_secs(12);

fn main() {
    let stacks = STACKS.map(|entry| (entry.set_up)());
    let columns = THREADS.map(|threads| measure(&stacks, threads));
    for (index, entry) in STACKS.iter().enumerate() {
        print(entry.name, columns.iter().map(|column| column[index].ns));
    }
    let least = |column: &[Round]| {
        column
            .iter()
            .fold(f64::MAX, |cpus, round| cpus.min(round.cpus))
    };
    print("cpus", columns.iter().map(|column| least(column)));
}

fn print(name: &str, figures: impl Iterator<Item = f64>) {
    let figures: Vec<_> = figures.map(|figure| figure.to_string()).collect();
    println!("{name}\t{}", figures.join("\t"));
}

#[derive(Clone, Copy)]
struct Round {
    /// CPU time that all threads have spent, per request.
    ns: f64,
    /// How many of them ran at a time.
    cpus: f64,
}

/// For each stack.
fn measure(stacks: &[Stack], threads: usize) -> Vec<Round> {
    let began = Instant::now();
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let side_by_side = |round: &&Round| round.cpus > 0.85 * threads.min(cpus) as f64;
    let enough = |rounds: &Vec<Round>| rounds.iter().filter(side_by_side).count() >= ENOUGH;

    let mut rounds = vec![Vec::new(); stacks.len()];
    while rounds[0].len() < ENOUGH || !rounds.iter().all(enough) && began.elapsed() < PATIENCE {
        for (stack, rounds) in stacks.iter().zip(&mut rounds) {
            rounds.push(round(stack, threads));
        }
    }
    rounds.into_iter().map(typical).collect()
}

/// The medians of the rounds that were the most parallel.
fn typical(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|a, b| b.cpus.total_cmp(&a.cpus));
    let best = &mut rounds[..ENOUGH];
    let cpus = best[best.len() / 2].cpus;
    best.sort_by(|a, b| a.ns.total_cmp(&b.ns));
    let ns = best[best.len() / 2].ns;
    Round { ns, cpus }
}

fn round(stack: &Stack, threads: usize) -> Round {
    let start = Barrier::new(threads);
    let run = || {
        stack.warm_up();
        start.wait();
        let (began, cpu) = (Instant::now(), ThreadTime::now());
        for _ in 0..REQUESTS {
            stack.request();
        }
        (began, cpu.elapsed(), Instant::now())
    };
    let runs: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended.map(|run| run.expect("no request panics")).collect()
    });
    let began = runs.iter().map(|(began, ..)| *began).min();
    let ended = runs.iter().map(|(.., ended)| *ended).max();
    let elapsed = began
        .zip(ended)
        .map_or(Duration::ZERO, |(began, ended)| ended - began);
    let spent: Duration = runs.iter().map(|(_, spent, _)| *spent).sum();
    Round {
        ns: spent.as_nanos() as f64 / (threads as f64 * f64::from(REQUESTS)),
        cpus: spent.as_secs_f64() / elapsed.as_secs_f64(),
    }
}
