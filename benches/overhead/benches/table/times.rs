//! CPU time per request, of threads that make requests at the same time.
//!
//! The machine has other work to do, and its clock speed drifts. So the time is that of the thread,
//! not of the wall. In each round every stack has a turn, in another order than before. A difference is
//! taken within a round, and the median of the rounds is reported. Contention exists only while
//! threads run side by side, so turns in which they did not are left out.

use cpu_time::ThreadTime;
use overhead::{Drive, Loop, Stack};
use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long rounds may take in all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How many rounds are enough, if all their turns are good.
const ENOUGH: usize = 300;
/// With fewer good rounds, the figure is marked.
const LEAST: usize = 20;
/// Requests by each thread in a turn: about a millisecond.
const REQUESTS: u32 = 10_000;

/// What one number of threads says about all stacks.
pub(crate) struct Column {
    /// The time of a request without a layer, in ns.
    pub(crate) bare: f64,
    /// What each stack adds to it, in ns.
    pub(crate) added: Vec<f64>,
    pub(crate) is_reliable: bool,
}

/// What one thread saw of a turn.
#[derive(Clone, Copy)]
struct Span {
    began: Instant,
    ended: Instant,
    cpu: Duration,
}

/// What all threads saw of it.
#[derive(Clone, Copy)]
struct Turn {
    /// CPU time per request, in ns.
    time: f64,
    side_by_side: bool,
}

pub(crate) fn measure(stacks: &[Stack], how: Loop, threads: usize) -> Column {
    let began = Instant::now();
    let barrier = Barrier::new(threads);
    let is_over = AtomicBool::new(false);
    let work = |mut drives: Vec<Drive>, leads: bool| {
        let mut spans = Vec::new();
        for round in 0..ENOUGH {
            if leads {
                is_over.store(began.elapsed() > PATIENCE, Ordering::Relaxed);
            }
            barrier.wait();
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            spans.push(vec![None; drives.len()]);
            for index in order(drives.len(), round) {
                let drive = &mut drives[index];
                drive(u64::from(REQUESTS) / 20);
                barrier.wait();
                let (began, cpu) = (Instant::now(), ThreadTime::now());
                drive(u64::from(REQUESTS));
                let (cpu, ended) = (cpu.elapsed(), Instant::now());
                spans[round][index] = Some(Span { began, ended, cpu });
            }
            // All have read `is_over` before it is stored again.
            barrier.wait();
        }
        spans
    };
    let seen: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                // Cloned here, by one thread, as a server does that hands its service on.
                let drives = stacks.iter().map(|stack| stack.drive(how)).collect();
                scope.spawn(move || work(drives, thread == 0))
            })
            .collect();
        let ended = running.into_iter().map(|thread| thread.join());
        ended.map(|seen| seen.expect("no request panics")).collect()
    });

    let turn = |round: usize, index: usize| {
        let spans: Vec<_> = seen
            .iter()
            .filter_map(|thread| thread[round][index])
            .collect();
        Turn::new(&spans)
    };
    let rounds = (0..seen[0].len()).map(|round| {
        let turns = (0..stacks.len()).map(|index| turn(round, index));
        turns.collect::<Vec<_>>()
    });
    Column::new(&rounds.collect::<Vec<_>>())
}

/// Returns an order that puts each stack in each place, and after each other stack.
fn order(stacks: usize, round: usize) -> impl Iterator<Item = usize> {
    // Every step but 0, if the number of stacks is prime, as it is.
    let step = 1 + round / stacks % (stacks - 1);
    (0..stacks).map(move |place| (place * step + round) % stacks)
}

impl Turn {
    fn new(spans: &[Span]) -> Self {
        let began = spans.iter().map(|span| span.began).min();
        let ended = spans.iter().map(|span| span.ended).max();
        let wall = ended
            .zip(began)
            .map_or(Duration::ZERO, |(ended, began)| ended - began);
        let cpu: Duration = spans.iter().map(|span| span.cpu).sum();
        let cpus = thread::available_parallelism().map_or(1, usize::from);
        Self {
            time: cpu.as_nanos() as f64 / (spans.len() as f64 * f64::from(REQUESTS)),
            side_by_side: cpu > wall.mul_f64(0.85 * spans.len().min(cpus) as f64),
        }
    }
}

impl Column {
    /// The first stack of each round has no layer.
    fn new(rounds: &[Vec<Turn>]) -> Self {
        let mut is_reliable = true;
        let mut typical = |index: usize, figure: &dyn Fn(&[Turn]) -> f64| {
            let is_good = |round: &&Vec<Turn>| round[0].side_by_side && round[index].side_by_side;
            let mut figures: Vec<_> = rounds.iter().filter(is_good).map(|r| figure(r)).collect();
            if figures.len() < LEAST {
                is_reliable = false;
                figures = rounds.iter().map(|round| figure(round)).collect();
            }
            median(figures)
        };
        let bare = typical(0, &|round| round[0].time);
        let added = (0..rounds[0].len())
            .map(|index| typical(index, &|round| round[index].time - round[0].time))
            .collect();
        Self {
            bare,
            added,
            is_reliable,
        }
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
