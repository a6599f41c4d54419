//! Other ways to count, for the text of the crate's `src/drain/counter.rs`. Each can be closed, and
//! pays for that; what is done once one is closed is left out.

use crate::{counted::Count, ours::sync::thread_index};
use std::{
    mem::forget,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

/// In-flight requests times two, plus one once closed. On a line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Word(AtomicUsize);

const CLOSED: usize = 1;
const ONE: usize = 2;

impl Word {
    #[inline]
    fn enter(&self) -> bool {
        // Checked after it is counted, so that whoever closes it sees either.
        let admitted = self.0.fetch_add(ONE, Ordering::Acquire) & CLOSED == 0;
        if !admitted {
            self.leave();
        }
        admitted
    }

    #[inline]
    fn leave(&self) {
        if self.0.fetch_sub(ONE, Ordering::Release) == ONE | CLOSED {
            vacated();
        }
    }
}

/// Here the last one out would tell who waits.
#[cold]
fn vacated() {}

/// All threads count in one word, and all clones and guards hold it.
#[derive(Clone, Default)]
pub(crate) struct SharedWord(Arc<Word>);

pub(crate) struct SharedGuard(Arc<Word>);

impl Count for SharedWord {
    type Guard = SharedGuard;

    #[inline]
    fn enter(&self) -> Option<SharedGuard> {
        self.0.enter().then(|| SharedGuard(self.0.clone()))
    }
}

impl Drop for SharedGuard {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// A word for each thread, more or less. A clone holds the stripe of the thread that makes it,
/// and so does a guard.
pub(crate) struct Stripes {
    mine: Arc<Stripe>,
}

#[repr(align(128))]
struct Stripe {
    word: Word,
    index: usize,
    all: Arc<OnceLock<Box<[Weak<Stripe>]>>>,
}

pub(crate) struct StripeGuard(Arc<Stripe>);

impl Stripes {
    pub(crate) fn new() -> Self {
        let links = Arc::new(OnceLock::new());
        let all: Box<[_]> = (0..stripes())
            .map(|index| {
                Arc::new(Stripe {
                    word: Word::default(),
                    index,
                    all: links.clone(),
                })
            })
            .collect();
        links.get_or_init(|| all.iter().map(Arc::downgrade).collect());
        let mine = all[thread_index() & (all.len() - 1)].clone();
        // In an application a handle keeps them, as long as there is traffic.
        forget(all);
        Self { mine }
    }
}

impl Clone for Stripes {
    #[inline]
    fn clone(&self) -> Self {
        let all = self.mine.all.get().map_or(&[][..], |all| all);
        let here = thread_index() & (all.len() - 1);
        let mine = match here == self.mine.index {
            true => self.mine.clone(),
            false => all[here].upgrade().unwrap_or_else(|| self.mine.clone()),
        };
        Self { mine }
    }
}

impl Count for Stripes {
    type Guard = StripeGuard;

    #[inline]
    fn enter(&self) -> Option<StripeGuard> {
        let admitted = self.mine.word.enter();
        admitted.then(|| StripeGuard(self.mine.clone()))
    }
}

impl Drop for StripeGuard {
    #[inline]
    fn drop(&mut self) {
        self.0.word.leave();
    }
}

/// A word for each thread, more or less, in memory that is never given back.
#[derive(Clone)]
pub(crate) struct LeakedStripes(&'static [Word]);

pub(crate) struct LeakedGuard(&'static Word);

impl LeakedStripes {
    pub(crate) fn new() -> Self {
        Self(Box::leak((0..stripes()).map(|_| Word::default()).collect()))
    }
}

impl Count for LeakedStripes {
    type Guard = LeakedGuard;

    #[inline]
    fn enter(&self) -> Option<LeakedGuard> {
        let mine = &self.0[thread_index() & (self.0.len() - 1)];
        mine.enter().then_some(LeakedGuard(mine))
    }
}

impl Drop for LeakedGuard {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// As many as the crate has.
pub(crate) fn stripes() -> usize {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    (threads * 4).clamp(8, 256).next_power_of_two()
}
