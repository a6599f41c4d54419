//! Counts the requests in flight and calls the owner when the last one has left.
//!
//! No tokio, no wakers, no clock: `tests/loom` compiles this file, [`block`](super::block) and
//! [`token`](super::token) over loom's primitives and sees all of it.
//!
//! # Shards, handles, tokens
//!
//! Requests enter and leave on many threads at once. So that threads do not share a cache line, the
//! count is split into shards, one word each, and a thread enters by the shard of its own:
//!
//! ```text
//!   Counter ──► Block { open_shards: 2, owner, data }        word of a shard:
//!   (Drain)      ├──► Shard 0 [ word ] ◄── Token, Token      generation:30 | closed | slow | count:32
//!                └──► Shard 1 [ word ] ◄── Token
//!   CounterHandle (layer, service) = block and generation
//! ```
//!
//! * **Enter** ([`CounterHandle::enter`]) is one load and one compare-exchange. The comparison sees
//!   generation, closed and slow together: only an open word of the handle's own drain is counted on.
//!   The thread-local that has the thread's shard has a number that is none if the entry needs a closer
//!   look, so looking up the shard checks that, too.
//! * **Leave** (drop of a [`Token`]) is one subtraction, on the shard that the token has entered by,
//!   whatever thread drops it. (A count that is entered on one shard and left on another can add up
//!   to 0 while a request lives; `LongAdder` does.)
//! * **Begin** ([`Counter::begin`]) sets `slow` on each shard. A request checks only that bit,
//!   at its entry and when its future is polled. If it is set, the request takes a cold path.
//! * **Close** ([`Counter::close`]) sets `closed` on each shard, in one step with a look at its count.
//!   A closed shard can only lose. The token that empties a closed shard, or the close that finds it
//!   empty, takes one from `open_shards`; the last one calls [`Owner::counter_emptied`]. Each shard is
//!   emptied once after its close, so this happens once, without a scan, and no refusal disturbs it.
//! * A caller that is refused closes the other shards first, so that no request that comes later is
//!   admitted by one of them.
//!
//! # Whose memory it is
//!
//! Blocks are leaked, and used again. A [`Pool`] has those that are free, so the process has as many
//! as there were drains at one time. Handles and tokens are plain `&'static` references: no reference
//! count stands on the way of a request.
//!
//! * A token keeps its block out of the pool: the block goes back when its drain is gone (it is
//!   *retired*) and the last token has left. Both are looked at under the pool's lock, so that it goes
//!   back once. So leaving needs no look at the generation.
//! * A handle may be older than that. When a block is taken out of the pool its generation goes up, so
//!   a stale handle finds a word that it does not know, and is not counted.
//! * A drain that is dropped before it began raises the generation at once and keeps the counts: its
//!   services go on serving, uncounted. One that has closed leaves its shards closed: its services
//!   go on refusing until the block is used again.
//! * A thread that is late must not act on the next drain of the block. So a helper closes only words
//!   of its own generation, and the last one out finds the owner by the generation of its word.
//!
//! A token that is never dropped (`mem::forget`) costs its block, and nothing else but its details. A
//! shard holds 2^32 tokens; a leak for each request would need that many to disturb the next field.
//!
//! # Tokens that carry details
//!
//! A request that a report lists carries its entry ([`Token::with_details`]). Its token has a shard of
//! its own, whose word is slow and closed with a count of 1, so leaving takes the cold branch. There
//! the details are dropped, then the token that was counted. Such a shard is kept with the shard that
//! the request has entered by, and used again: the process keeps 128 bytes for each request that was
//! listed at the busiest moment.
//!
//! # Tokens that count nothing
//!
//! A response body always has a token, so that it needs no room to say that it has none. A request
//! that is exempt, or that `serve` has counted, has a token on a shard without a block
//! ([`Token::uncounted`]). Its word is slow, so each look at it takes the cold path.
//!
//! # How many have ended
//!
//! Setting `slow` returns the count of that moment, and each later entry sees `slow`. So the number of
//! requests that have ended since the begin is what was in flight then, plus what came later, less
//! what is in flight: leaving records nothing.
//!
//! # Three races that are not bugs
//!
//! * A call finds its shard open while another thread closes the others. It is counted, and waited
//!   for, as if it had come a moment earlier. Had its shard been closed, it would have been refused.
//! * [`Counter::inside`] adds up shards while requests come and go: no instant need have had that
//!   sum. Once closed, each shard can only fall and 0 is final, so a sum of 0 is the truth.
//! * A refusal checks the generation, and then counts itself. If the block is taken for another drain
//!   between the two, that drain reports one refusal too many.
//!
//! # Orderings
//!
//! * Leaving releases, and the last one on a shard acquires before it goes on to `open_shards` (loom:
//!   `the_last_on_a_shard_sees_what_the_others_did`). Entering needs no order.
//! * `open_shards` goes down with `AcqRel`: the owner that is told has all that every request did
//!   before it left, on every shard (`done_sees_what_every_request_did`). The close acquires for the
//!   shards that it finds empty.
//! * The close releases and a refusal acquires: a refused caller sees what happened before the close
//!   (`a_refused_caller_knows_that_it_is_closed`).
//! * [`Counter::inside`] acquires: its 0 is an end, too (`a_look_while_it_closes`).

use super::{
    block::{Block, CLOSED, COUNT, GENERATION, GENERATIONS, Owner, Pool, SLOW, Shard, Slot},
    sync::{Ordering, fence, learn_hint, shard_hint, thread_index},
    token::Token,
};
use std::sync::{Arc, Weak};

/// Counts the requests of one drain. Its drop retires the block.
pub(crate) struct Counter<O: Owner> {
    handle: CounterHandle<O>,
}

/// Gives out tokens, in layers and services. A handle itself is not counted.
pub(crate) struct CounterHandle<O: Owner> {
    block: &'static Block<O>,
    /// Equals an open word of this drain, without a count.
    open: u64,
}

impl<O: Owner> Counter<O> {
    /// Takes a free block of the pool, or makes one with `shards` shards, rounded up to a power of two.
    pub(crate) fn new(pool: &'static Pool<O>, shards: usize, owner: Weak<O>) -> Self {
        let free = pool.lock().pop();
        let block = free.unwrap_or_else(|| Block::leak(pool, shards));
        // No token is left. A caller with an old handle finds another generation.
        let before = block.shards[0].word.load(Ordering::Relaxed);
        let open = (before & GENERATIONS).wrapping_add(GENERATION);
        O::reset(&block.data);
        block.entered.store(0, Ordering::Relaxed);
        block
            .open_shards
            .store(block.shards.len(), Ordering::Relaxed);
        *block.slot() = Slot {
            generation: open,
            owner,
            kept: None,
        };
        for shard in &block.shards {
            shard.refused.store(0, Ordering::Relaxed);
            // Release: a token that leaves this shard finds the rest as it was set above.
            shard.word.store(open, Ordering::Release);
        }
        Self {
            handle: CounterHandle { block, open },
        }
    }

    #[inline]
    pub(crate) fn handle(&self) -> CounterHandle<O> {
        self.handle
    }

    pub(crate) fn data(&self) -> &'static O::Data {
        &self.handle.block.data
    }

    /// Sends requests to the cold path from now on and keeps the owner until
    /// [`release`](Self::release). Call it once, before the first [`close`](Self::close).
    pub(crate) fn begin(&self, owner: Arc<O>) {
        let block = self.handle.block;
        for shard in &block.shards {
            // Release: a request that sees `slow` sees the stage that was set before.
            let before = shard.word.fetch_or(SLOW, Ordering::Release);
            block.entered.fetch_add(before & COUNT, Ordering::Relaxed);
        }
        block.slot().kept = Some(owner);
    }

    /// Returns the owner that [`begin`](Self::begin) has kept. Drop it under no lock.
    pub(crate) fn release(&self) -> Option<Arc<O>> {
        self.handle.block.slot().kept.take()
    }

    /// Closes each shard: no request enters any more. Call it after [`begin`](Self::begin). A second call
    /// is harmless, and returns only when every shard is closed.
    pub(crate) fn close(&self) {
        self.handle.close();
    }

    /// Returns the number of tokens. It is exact for each shard; for the sum see the module's text.
    pub(crate) fn inside(&self) -> usize {
        let words = self.handle.block.shards.iter();
        // Acquire: a 0 comes with all that was done by those that have left.
        words
            .map(|shard| (shard.word.load(Ordering::Acquire) & COUNT) as usize)
            .sum()
    }

    /// Returns how many requests were refused.
    pub(crate) fn refused(&self) -> u64 {
        let shards = self.handle.block.shards.iter();
        shards
            .map(|shard| shard.refused.load(Ordering::Relaxed))
            .sum()
    }

    /// Returns how many requests have ended since the begin, given the number inside.
    pub(crate) fn ended(&self, inside: usize) -> u64 {
        let entered = self.handle.block.entered.load(Ordering::Relaxed);
        // One that has just entered may be inside, and not yet in that number.
        entered.saturating_sub(inside as u64)
    }
}

impl<O: Owner> Drop for Counter<O> {
    fn drop(&mut self) {
        let CounterHandle { block, open } = self.handle;
        let retired = |word: u64| {
            let next = (word & GENERATIONS).wrapping_add(GENERATION);
            next | SLOW | CLOSED | (word & COUNT)
        };
        block.shut(open, retired);
        // The memory of the owner is freed with the last way to it.
        block.slot().owner = Weak::new();
        {
            let _pool = block.pool.lock();
            block.retired.store(true, Ordering::Relaxed);
        }
        block.recycle();
    }
}

impl<O: Owner> CounterHandle<O> {
    fn shard(&self) -> &'static Shard<O> {
        let index = thread_index() & self.block.mask;
        learn_hint(index);
        &self.block.shards[index]
    }

    /// Counts a request in the usual case: this thread knows its shard, no request of `serve` is being
    /// polled, and the drain has not begun. After `None`, look closer: call
    /// [`enter_by_index`](Self::enter_by_index), then [`enter_late`](Self::enter_late).
    #[inline]
    pub(crate) fn enter(&self) -> Option<Token<O>> {
        self.block
            .shards
            .get(shard_hint())
            .and_then(|shard| Token::enter(shard, self.open))
    }

    /// Counts a request, if the drain has not begun.
    #[cold]
    pub(crate) fn enter_by_index(&self) -> Option<Token<O>> {
        Token::enter(self.shard(), self.open)
    }

    /// Counts a request if the shard is open and `admits` returns true. Returns `None` if it is
    /// refused, and a token that counts nothing if the drain was dropped before it began.
    #[cold]
    pub(crate) fn enter_late(&self, admits: impl FnOnce(&O::Data) -> bool) -> Option<Token<O>> {
        let shard = self.shard();
        // Acquire: a word that is slow comes with the stage that was set before, and a closed one with
        // all that came before the close.
        let mut word = shard.word.load(Ordering::Acquire);
        if word & GENERATIONS != self.open {
            return Some(Token::uncounted(self.block.pool));
        }
        if admits(&self.block.data) {
            while word & (GENERATIONS | CLOSED) == self.open {
                match shard.word.compare_exchange(
                    word,
                    word + 1,
                    Ordering::Relaxed,
                    Ordering::Acquire,
                ) {
                    Ok(_) => {
                        if word & SLOW != 0 {
                            // Relaxed: leaving publishes it.
                            self.block.entered.fetch_add(1, Ordering::Relaxed);
                        }
                        return Some(Token::of(shard));
                    }
                    Err(now) => word = now,
                }
            }
            if word & GENERATIONS != self.open {
                return Some(Token::uncounted(self.block.pool));
            }
        }
        self.close();
        fence(Ordering::Acquire);
        None
    }

    fn close(&self) {
        // Looked up first: refusals do not touch the lines of all shards.
        let closed = &self.block.closed;
        if closed.load(Ordering::Acquire) != self.open {
            self.block.shut(self.open, |word| word | SLOW | CLOSED);
            closed.store(self.open, Ordering::Release);
        }
    }

    /// Counts a refusal, if the block still belongs to this drain.
    pub(crate) fn count_refused(&self) {
        let shard = self.shard();
        if shard.word.load(Ordering::Relaxed) & GENERATIONS == self.open {
            shard.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the drain's data, if the block still belongs to this drain.
    pub(crate) fn data(&self) -> Option<&'static O::Data> {
        let word = self.shard().word.load(Ordering::Acquire);
        (word & GENERATIONS == self.open).then_some(&self.block.data)
    }

    /// Returns the address of the block. No other drain has the same one while this drain exists.
    #[inline]
    pub(crate) fn address(&self) -> usize {
        std::ptr::from_ref(self.block) as usize
    }

    /// Returns how many shards this thread's tokens that carry details have left for the next ones.
    #[cfg(test)]
    pub(crate) fn spare(&self) -> usize {
        self.shard().spare().len()
    }

    /// Returns the owner, if it is still there.
    pub(crate) fn owner(&self) -> Option<Arc<O>> {
        let slot = self.block.slot();
        match slot.generation == self.open {
            true => slot.owner.upgrade(),
            false => None,
        }
    }
}

/// Copies by hand: derived, this would ask for `O: Clone`.
impl<O: Owner> Clone for CounterHandle<O> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<O: Owner> Copy for CounterHandle<O> {}
