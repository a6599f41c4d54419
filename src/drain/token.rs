//! The token of a request: it counts the request on a shard until it is dropped.
//!
//! [`counter`](super::counter) says how tokens are used, and why each ordering is what it is.

use super::{
    block::{CLOSED, COUNT, GENERATIONS, Owner, Pool, SLOW, Shard},
    sync::{Ordering, fence, thread_index},
};

/// Counts one request until it is dropped.
pub(crate) struct Token<O: Owner> {
    shard: &'static Shard<O>,
}

impl<O: Owner> Token<O> {
    /// Counts a request on a shard, if the word of the shard is the open one that is given.
    #[inline]
    pub(super) fn enter(shard: &'static Shard<O>, open: u64) -> Option<Self> {
        let word = shard.word.load(Ordering::Relaxed);
        let entered = word & !COUNT == open
            && shard
                .word
                .compare_exchange(word, word + 1, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        entered.then(|| Self { shard })
    }

    /// Stands for a count that was added to the shard.
    pub(super) fn of(shard: &'static Shard<O>) -> Self {
        Self { shard }
    }

    /// Returns a token that no drain waits for.
    pub(crate) fn uncounted(pool: &'static Pool<O>) -> Self {
        let shard = &pool.uncounted[thread_index() % pool.uncounted.len()];
        shard.word.fetch_add(1, Ordering::Relaxed);
        Self { shard }
    }

    /// Returns whether the cold path is needed: the drain has begun, as far as this thread knows, or the
    /// token carries details, or it counts nothing.
    #[inline]
    pub(crate) fn is_slow(&self) -> bool {
        self.shard.word.load(Ordering::Relaxed) & SLOW != 0
    }

    /// Returns whether the drain has begun, as far as this thread knows. A token that counts nothing
    /// has no drain.
    #[cold]
    pub(crate) fn has_begun(&self) -> bool {
        let home = self.shard.home.unwrap_or(self.shard);
        self.is_counted() && home.word.load(Ordering::Relaxed) & SLOW != 0
    }

    /// Returns false if no drain waits for the token.
    #[cold]
    pub(crate) fn is_counted(&self) -> bool {
        self.shard.block.get().is_some()
    }

    /// Returns a token that stands for this one and carries details, which are dropped with it.
    ///
    /// It has a shard of its own, whose word is always slow. So a token is one reference whether it
    /// carries details or not, and a request without details pays nothing for those that have some.
    #[cold]
    pub(crate) fn with_details(self, details: O::Details) -> Self {
        let spare = self.shard.spare().pop();
        let shard = spare.unwrap_or_else(|| self.shard.leak_own());
        *shard.details() = Some(details);
        shard.word.store(SLOW | CLOSED | 1, Ordering::Relaxed);
        // The count at home stays. It ends when the new token leaves.
        std::mem::forget(self);
        Token { shard }
    }

    /// Passes the details to `look`, if the token carries some.
    #[cold]
    pub(crate) fn details(&self, look: impl FnOnce(&O::Details)) {
        // Other tokens take no lock that their shard shares.
        let details = self.shard.home.map(|_| self.shard.details());
        if let Some(Some(details)) = details.as_deref() {
            look(details);
        }
    }

    /// Returns the address of the block; see [`CounterHandle::address`].
    #[cold]
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self.shard.block()) as usize
    }

    /// Returns the owner of the counter, if it is still there.
    #[cold]
    pub(crate) fn owner(&self) -> Option<std::sync::Arc<O>> {
        // The token keeps the block, so the slot is that of its own drain.
        self.shard.block().slot().owner.upgrade()
    }

    /// Returns the data of the drain that counts this request.
    pub(crate) fn data(&self) -> &'static O::Data {
        &self.shard.block().data
    }
}

impl<O: Owner> Drop for Token<O> {
    #[inline]
    fn drop(&mut self) {
        let before = self.shard.word.fetch_sub(1, Ordering::Release);
        if before & SLOW != 0 {
            left_late(self.shard, before);
        }
    }
}

#[cold]
#[inline(never)]
fn left_late<O: Owner>(shard: &'static Shard<O>, before: u64) {
    if before & CLOSED == 0 || before & COUNT != 1 {
        return;
    }
    fence(Ordering::Acquire);
    let Some(home) = shard.home else {
        return shard.block().shard_emptied(before & GENERATIONS);
    };
    let token = Token { shard: home };
    // Not under this lock: dropping details may take other locks.
    let details = shard.details().take();
    home.spare().push(shard);
    // Before the token: the end of the drain comes after all details are dropped.
    drop(details);
    drop(token);
}
