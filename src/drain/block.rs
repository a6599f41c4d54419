//! The memory of a counter: blocks of shards, which are leaked and used again.
//!
//! [`counter`](super::counter) says how they are used, and why each ordering is what it is.

use super::sync::{AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, Weak};

/// Owns a counter.
pub(crate) trait Owner: Send + Sync + Sized + 'static {
    /// Holds what requests read and write without a reference to the owner. It lives in the block.
    type Data: Default + Send + Sync;

    /// Resets the data of a block that is used again.
    fn reset(data: &Self::Data);

    /// Describes one request, for a token that carries details; see [`Token::with_details`].
    type Details: Send;

    /// Learns that the last token has left. Called once, after the close.
    fn counter_emptied(self: &Arc<Self>);
}

/// Keeps the free blocks, and the shards of tokens that count nothing.
pub(crate) struct Pool<O: Owner> {
    free: Mutex<Vec<&'static Block<O>>>,
    /// Has no block. The words are slow, and never closed.
    pub(super) uncounted: Box<[Shard<O>]>,
}

/// Holds the shards of one drain, and later of the next drain that uses the block.
pub(crate) struct Block<O: Owner> {
    pub(super) shards: Box<[Shard<O>]>,
    /// Maps a thread to a shard: the number of shards minus 1.
    pub(super) mask: usize,
    /// Counts the shards that are open or hold a token.
    pub(super) open_shards: AtomicUsize,
    /// Counts the tokens that there were when the drain began, and the entries since then.
    pub(super) entered: AtomicU64,
    /// Records the generation of which every shard is closed, if it is the block's.
    pub(super) closed: AtomicU64,
    pub(super) data: O::Data,
    pub(super) slot: Mutex<Slot<O>>,
    /// Says that the drain is gone. Written and read under the pool's lock.
    pub(super) retired: AtomicBool,
    pub(super) pool: &'static Pool<O>,
}

/// Refers to the owner.
pub(super) struct Slot<O> {
    pub(super) generation: u64,
    pub(super) owner: Weak<O>,
    /// Keeps the owner of a running drain that has no handle left.
    pub(super) kept: Option<Arc<O>>,
}

/// Counts the tokens of some threads. It has a cache line of its own, and the line that the prefetcher
/// pairs with it.
#[repr(align(128))]
pub(super) struct Shard<O: Owner> {
    pub(super) word: AtomicU64,
    /// Counts the requests that were refused here.
    pub(super) refused: AtomicU64,
    pub(super) block: OnceLock<&'static Block<O>>,
    /// Counts the token, if this shard was made for one token that carries details.
    pub(super) home: Option<&'static Shard<O>>,
    details: Mutex<Option<O::Details>>,
    /// Keeps free shards for tokens that enter by this shard and carry details.
    pub(super) spare: Mutex<Vec<&'static Shard<O>>>,
}

pub(super) const SLOW: u64 = 1 << 32;
pub(super) const CLOSED: u64 = 1 << 33;
pub(super) const GENERATION: u64 = 1 << 34;
pub(super) const COUNT: u64 = SLOW - 1;
pub(super) const GENERATIONS: u64 = !(GENERATION - 1);

impl<O: Owner> Pool<O> {
    pub(crate) fn new(shards: usize) -> Self {
        let uncounted = |_| {
            let shard = Shard::new(None);
            shard.word.store(SLOW, Ordering::Relaxed);
            shard
        };
        Self {
            free: Mutex::new(Vec::new()),
            uncounted: (0..shards).map(uncounted).collect(),
        }
    }

    /// Returns how many blocks are free.
    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<&'static Block<O>>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<O: Owner> Block<O> {
    pub(super) fn leak(pool: &'static Pool<O>, shards: usize) -> &'static Self {
        let count = shards.max(1).next_power_of_two();
        let block: &'static Self = Box::leak(Box::new(Self {
            shards: (0..count).map(|_| Shard::new(None)).collect(),
            mask: count - 1,
            open_shards: AtomicUsize::new(0),
            entered: AtomicU64::new(0),
            closed: AtomicU64::new(0),
            data: O::Data::default(),
            slot: Mutex::new(Slot {
                generation: 0,
                owner: Weak::new(),
                kept: None,
            }),
            retired: AtomicBool::new(false),
            pool,
        }));
        for shard in &block.shards {
            assert!(shard.block.set(block).is_ok(), "set once, here");
        }
        block
    }

    pub(super) fn slot(&self) -> MutexGuard<'_, Slot<O>> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the shards that are open in the given generation. (A late helper may find the block in use
    /// by another drain.)
    pub(super) fn shut(&self, open: u64, shut: impl Fn(u64) -> u64) {
        for shard in &self.shards {
            let mut word = shard.word.load(Ordering::Relaxed);
            while word & (GENERATIONS | CLOSED) == open {
                let next = shut(word);
                // Release: a refused caller sees what came before. Acquire: the shard may be empty.
                match shard
                    .word
                    .compare_exchange(word, next, Ordering::AcqRel, Ordering::Relaxed)
                {
                    Ok(_) if word & COUNT > 0 => break,
                    Ok(_) => {
                        self.shard_emptied(next & GENERATIONS);
                        break;
                    }
                    Err(now) => word = now,
                }
            }
        }
    }

    pub(super) fn shard_emptied(&self, generation: u64) {
        if self.open_shards.fetch_sub(1, Ordering::AcqRel) > 1 {
            return;
        }
        // By the generation: if the drain is gone, the block may be another's by now.
        let owner = {
            let slot = self.slot();
            (slot.generation == generation).then(|| slot.owner.upgrade())
        };
        if let Some(owner) = owner.flatten() {
            owner.counter_emptied();
        }
        self.recycle();
    }

    /// Returns the block to the pool, if its drain is gone and no token is left.
    pub(super) fn recycle(&self) {
        let mut free = self.pool.lock();
        let is_empty = self.open_shards.load(Ordering::Acquire) == 0;
        if is_empty && self.retired.load(Ordering::Relaxed) {
            self.retired.store(false, Ordering::Relaxed);
            free.push(self.shards[0].block());
        }
    }
}

impl<O: Owner> Shard<O> {
    pub(super) fn new(home: Option<&'static Self>) -> Self {
        Self {
            word: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            block: OnceLock::new(),
            home,
            details: Mutex::new(None),
            spare: Mutex::new(Vec::new()),
        }
    }

    /// Makes a shard for a token that carries details and is counted here.
    pub(super) fn leak_own(&'static self) -> &'static Self {
        let shard: &'static Self = Box::leak(Box::new(Self::new(Some(self))));
        assert!(shard.block.set(self.block()).is_ok(), "set once, here");
        shard
    }

    pub(super) fn spare(&self) -> MutexGuard<'_, Vec<&'static Self>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn details(&self) -> MutexGuard<'_, Option<O::Details>> {
        self.details.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn block(&self) -> &'static Block<O> {
        self.block.get().expect("set when the block was made")
    }
}
