//! The in-flight count: who is inside, and when the last one has left.
//!
//! No tokio, no wakers, no clock: `tests/loom` compiles this file over loom's primitives and sees
//! all of it.
//!
//! # What it has to do
//!
//! Every request enters and leaves; on many threads at once; and nearly always nobody wants to
//! know. One day somebody does ([`Hub::close`]), and from then on exactly one of those inside is
//! the last one out, who says so ([`Home::vacated`]), once.
//!
//! # How
//!
//! The count is striped: a thread has a stripe of its own, so that threads do not fight for a
//! cache line. On each stripe the number inside *is* the strong count of an [`Arc`]:
//!
//! ```text
//!   Count ──────► Stripe 0 ── base ──► Token 0 ◄── Pass, Pass, Pass      (Pass = one request)
//!  (Drain)  └───► Stripe 1 ── base ──► Token 1 ◄── Pass
//!                    ▲                    │
//!   Entrance ────────┘                    └──► Hub { occupied: 2, home }
//!  (a service)
//! ```
//!
//! * **Enter** is `Weak::upgrade` on the stripe's token: one compare-and-swap that either adds one
//!   to a strong count that is not 0, or fails for good. No check comes before a count.
//! * **Close** drops each stripe's base reference. While requests live on a stripe its token
//!   lives; with the last one it dies, and can never be entered again.
//! * **Last out**: each token, as it dies, takes one from `occupied`, and so does the close when it
//!   is through; the one that takes the last says [`Home::vacated`]. Each of them does so once, so
//!   this happens once, without a scan, and no refusal can disturb it: a refused call writes
//!   nothing here. (The close has a share of its own so that no token dies as the last one under
//!   a stripe's lock: what hears of it may be anybody's waker.)
//! * **Leave the stripe that you entered by** is not a rule to keep but the only thing that a
//!   `Pass` can do, on whatever thread it is dropped. (A striped count that is entered here and
//!   left there can add up to 0 while a request lives; `LongAdder` does.)
//!
//! # Two races that are not bugs
//!
//! * A call reads [`Home::admits`] as true, then another thread closes, then the call upgrades a
//!   token that others keep alive. It began before the close had ended, it is counted, and it is
//!   waited for: it is admitted, as if it had come a moment earlier. Had the token been dead, it
//!   would have been refused. Never neither, never both.
//! * [`Hub::occupancy`] adds up stripes while requests come and go: no instant need have had that
//!   sum. Once closed, each stripe can only fall and 0 is final, so a sum of 0 is the truth.
//!
//! # Orderings
//!
//! `Arc` brings its own: a drop releases, the last drop acquires. What this file adds:
//!
//! * [`Hub::occupancy`] ends with an `Acquire` fence, for the same reason: its 0 is a Done, too.
//! * `occupied` goes down with `AcqRel`, so that whoever hears `vacated` has all that every
//!   request did before it left, on every stripe (loom: `done_sees_what_every_request_did`).
//! * A failed upgrade is followed by an `Acquire` fence, which pairs with the release of the base
//!   reference: whoever is refused knows that the house is closed, and so does anyone it tells
//!   (loom: `who_was_refused_knows_that_it_is_closed`).
//!
//! # What else there is
//!
//! The same layer over other counts, for one request with its clone of the service; by
//! `benches/overhead/run`, which prints this with more columns:
//!
//! | design | instructions added | locked operations | what is against it |
//! |---|--:|--:|---|
//! | one shared word, and an `Arc` to it in the guard (as tokio-util's `TaskTracker`) | 66 | 6, on one line | threads fight for the line |
//! | a word per stripe, and an `Arc` of the stripe in the guard | 150 | 6, own line | two more locked operations; no slower than this one |
//! | a leaked word per stripe, `&'static` in service and guard | 30 | 2, own line | every `Drain` leaks its stripes; to recycle them takes generations |
//! | **the strong count of a token per stripe** | 181 | 4, own line | an indirection more |
//!
//! A word per stripe with the in-flight and the handle count packed into it would be as few
//! operations as this without the indirection. It takes `unsafe` to free the memory, and was not
//! built. The leaked word saves more than its operations: where a service is but a pointer to copy,
//! the compiler spares copies of requests and responses, too.

use super::sync::{
    Arc, AtomicBool, AtomicUsize, Mutex, MutexGuard, Ordering, Weak, fence, thread_index,
};
use std::sync::{OnceLock, PoisonError};

/// What the count belongs to: it says whether one may still enter, and is told when all have left.
pub(crate) trait Home {
    /// False from a moment before [`Hub::close`], and for ever after.
    fn admits(&self) -> bool;

    /// The last one has left. Called once, after [`Hub::close`], by whoever was the last.
    fn vacated(&self);
}

/// The owner: keeps every stripe alive.
pub(crate) struct Count<H: Home> {
    hub: Arc<Hub<H>>,
    stripes: Box<[Arc<Stripe<H>>]>,
}

/// What all stripes share. Nobody writes here while nobody shuts down.
pub(crate) struct Hub<H: Home> {
    home: H,
    /// Tokens that still live, and one for the close that is still to come.
    occupied: AtomicUsize,
    /// Every stripe is closed.
    closed: AtomicBool,
    stripes: OnceLock<Box<[Link<H>]>>,
}

/// The hub's way to a stripe, and to its token, which may live longer: it holds neither.
struct Link<H: Home> {
    stripe: Weak<Stripe<H>>,
    token: Weak<Token<H>>,
}

/// A service's share: its reference counts are written by the threads of one stripe only.
#[repr(align(128))]
struct Stripe<H: Home> {
    index: usize,
    token: Weak<Token<H>>,
    /// Keeps the token alive until the close.
    base: Mutex<Option<Arc<Token<H>>>>,
    hub: Arc<Hub<H>>,
}

/// Its strong count, less the base, is the number of requests inside.
#[repr(align(128))]
struct Token<H: Home> {
    hub: Arc<Hub<H>>,
}

/// Where requests enter: held by layers and services, not itself counted.
pub(crate) struct Entrance<H: Home> {
    stripe: Arc<Stripe<H>>,
}

/// One that is inside, until it is dropped.
pub(crate) struct Pass<H: Home> {
    token: Arc<Token<H>>,
}

impl<H: Home> Count<H> {
    pub(crate) fn new(home: H, stripes: usize) -> Self {
        let count = stripes.max(1).next_power_of_two();
        let hub = Arc::new(Hub {
            home,
            occupied: AtomicUsize::new(count + 1),
            closed: AtomicBool::new(false),
            stripes: OnceLock::new(),
        });
        let stripes: Box<[_]> = (0..count)
            .map(|index| {
                let token = Arc::new(Token { hub: hub.clone() });
                Arc::new(Stripe {
                    index,
                    token: Arc::downgrade(&token),
                    base: Mutex::new(Some(token)),
                    hub: hub.clone(),
                })
            })
            .collect();
        let links = stripes.iter().map(|stripe: &Arc<Stripe<H>>| Link {
            stripe: Arc::downgrade(stripe),
            token: stripe.token.clone(),
        });
        assert!(hub.stripes.set(links.collect()).is_ok(), "set once, here");
        Self { hub, stripes }
    }

    pub(crate) fn hub(&self) -> &Arc<Hub<H>> {
        &self.hub
    }

    pub(crate) fn entrance(&self) -> Entrance<H> {
        Entrance {
            stripe: self.stripes[thread_index() & (self.stripes.len() - 1)].clone(),
        }
    }
}

impl<H: Home> Hub<H> {
    pub(crate) fn home(&self) -> &H {
        &self.home
    }

    /// From here on the number inside only falls. To be called once [`Home::admits`] says no;
    /// again does no harm, and returns only when every stripe is closed.
    pub(crate) fn close(&self) {
        if self.closed.load(Ordering::Acquire) {
            return;
        }
        for stripe in self.links().iter().filter_map(|link| link.stripe.upgrade()) {
            // Dropped under the lock, so that whoever comes second finds the token's death done.
            *stripe.base() = None;
        }
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.one_less();
        }
    }

    fn one_less(&self) {
        if self.occupied.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.home.vacated();
        }
    }

    /// How many are inside. Exact for each stripe; see the module's text for the sum.
    pub(crate) fn occupancy(&self) -> usize {
        let inside = |link: &Link<H>| {
            let stripe = link.stripe.upgrade();
            // Held until the count is read: the base must not go in between.
            let base = stripe.as_ref().map(|stripe| stripe.base());
            let has_base = base.as_ref().is_some_and(|base| base.is_some());
            Weak::strong_count(&link.token) - usize::from(has_base)
        };
        let sum = self.links().iter().map(inside).sum();
        // Who reads 0 has what those did who have left.
        fence(Ordering::Acquire);
        sum
    }

    fn links(&self) -> &[Link<H>] {
        self.stripes.get().map_or(&[], |links| links)
    }
}

impl<H: Home> Stripe<H> {
    fn base(&self) -> MutexGuard<'_, Option<Arc<Token<H>>>> {
        // A waker that panics may poison it; what is behind it is never half done.
        self.base.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H: Home> Entrance<H> {
    pub(crate) fn hub(&self) -> &Arc<Hub<H>> {
        &self.stripe.hub
    }

    /// One is let in and counted, or is not let in and leaves no trace.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Pass<H>> {
        if !self.stripe.hub.home.admits() {
            return None;
        }
        match self.stripe.token.upgrade() {
            Some(token) => Some(Pass { token }),
            None => {
                fence(Ordering::Acquire);
                None
            }
        }
    }
}

/// By hand: a clone belongs to the stripe of the thread that makes it, and no reference count that
/// all threads write is touched.
impl<H: Home> Clone for Entrance<H> {
    #[inline]
    fn clone(&self) -> Self {
        let links = self.stripe.hub.links();
        let here = thread_index() & (links.len() - 1);
        if here != self.stripe.index {
            // It is gone when the drain is gone and no service stands on it: any other one does.
            if let Some(stripe) = links[here].stripe.upgrade() {
                return Self { stripe };
            }
        }
        Self {
            stripe: self.stripe.clone(),
        }
    }
}

impl<H: Home> Pass<H> {
    #[inline]
    pub(crate) fn home(&self) -> &H {
        &self.token.hub.home
    }
}

/// By hand: a derived one would ask for `H: Clone`.
impl<H: Home> Clone for Pass<H> {
    fn clone(&self) -> Self {
        Self {
            token: self.token.clone(),
        }
    }
}

impl<H: Home> Drop for Token<H> {
    fn drop(&mut self) {
        self.hub.one_less();
    }
}
