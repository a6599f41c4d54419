//! CPU time per request, of threads that make requests at the same time.
//!
//! The machine has other work to do, and its clock speed drifts. So the time is the CPU time of
//! the thread. In each round every stack has a turn, in another order than before. A difference is
//! taken within a round, and the median of the rounds is reported. Contention exists only while
//! threads run side by side, so rounds in which they did not are left out.

use cpu_time::ThreadTime;
use overhead::{Drive, Loop, Stack};
use std::{
    sync::{
        Barrier, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

/// How long rounds may take in all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// How many rounds are enough.
const ENOUGH: usize = 1_000;
/// So many rounds count at least. If not all of them are good, the figure is marked.
const LEAST: usize = 20;
/// The share of the CPUs with which a turn is good.
const SIDE_BY_SIDE: f64 = 0.9;
/// Requests by each thread in a turn: about two milliseconds.
const REQUESTS: u32 = 20_000;

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
    /// The share of the CPUs that the threads used, of those that they could use. 1 is all.
    share: f64,
}

pub(crate) fn measure(stacks: &[Stack], how: Loop, threads: usize) -> Column {
    let began = Instant::now();
    let barrier = Barrier::new(threads);
    let is_over = AtomicBool::new(false);
    let work = |mut drives: Vec<Drive>, thread: usize| {
        pin(thread);
        let mut spans = Vec::new();
        for round in 0..ENOUGH {
            if thread == 0 {
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
                scope.spawn(move || work(drives, thread))
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

/// Ties the calling thread to one CPU, because the scheduler tends to put threads that wake each
/// other on the same one. Has no effect where that is not allowed.
fn pin(_thread: usize) {
    #[cfg(target_os = "linux")]
    {
        use nix::{
            sched::{CpuSet, sched_setaffinity},
            unistd::Pid,
        };
        let mut cpus = CpuSet::new();
        if cpus.set(_thread % cpus_in_all()).is_ok() {
            let _ = sched_setaffinity(Pid::from_raw(0), &cpus);
        }
    }
}

fn cpus_in_all() -> usize {
    static CPUS: LazyLock<usize> =
        LazyLock::new(|| thread::available_parallelism().map_or(1, usize::from));
    *CPUS
}

/// Returns an order in which each stack has each place in turn, forwards and backwards.
fn order(stacks: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..stacks).map(move |place| match round % 2 {
        0 => (place + round / 2) % stacks,
        _ => (stacks - 1 - place + round / 2) % stacks,
    })
}

impl Turn {
    fn new(spans: &[Span]) -> Self {
        let began = spans.iter().map(|span| span.began).min();
        let ended = spans.iter().map(|span| span.ended).max();
        let wall = ended
            .zip(began)
            .map_or(Duration::ZERO, |(ended, began)| ended - began);
        let cpu: Duration = spans.iter().map(|span| span.cpu).sum();
        Self {
            time: cpu.as_nanos() as f64 / (spans.len() as f64 * f64::from(REQUESTS)),
            share: cpu.as_secs_f64() / (wall.as_secs_f64() * spans.len().min(cpus_in_all()) as f64),
        }
    }
}

impl Column {
    /// The first stack of each round has no layer.
    fn new(rounds: &[Vec<Turn>]) -> Self {
        let mut is_reliable = true;
        let mut typical = |index: usize, figure: &dyn Fn(&[Turn]) -> f64| {
            let share = |round: &[Turn]| round[0].share.min(round[index].share);
            let mut best: Vec<_> = rounds.iter().map(|r| (share(r), figure(r))).collect();
            best.sort_by(|(a, _), (b, _)| b.total_cmp(a));
            let good = best.partition_point(|(share, _)| *share > SIDE_BY_SIDE);
            is_reliable &= good >= LEAST;
            best.truncate(good.max(LEAST));
            median(best.into_iter().map(|(_, figure)| figure).collect())
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
