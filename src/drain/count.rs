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
//! cache line. Each stripe has one word for all that is counted there:
//!
//! ```text
//!   Count ──► Hub { home, occupied: 2 }
//!  (Drain)     ├──► Stripe 0 [ closed: no, inside: 3, handles: 1 ] ◄── Pass, Pass, Pass
//!              └──► Stripe 1 [ closed: no, inside: 1, handles: 2 ] ◄── Pass, Entrance
//! ```
//!
//! A `Pass` is a request that is inside; an `Entrance` is what a service has, and one handle; the
//! drain has one on each stripe.
//!
//! * **Enter** is one compare-and-swap that either adds one to those inside, or sees the closed bit
//!   and writes nothing. No check comes before a count. (One comparison tells a word that is neither
//!   closed nor full; which of both it is, is asked after that.)
//! * **Close** sets the bit on each stripe, in one step with a look at who is inside. A closed
//!   stripe can only lose.
//! * **Last out**: whoever empties a closed stripe, or closes an empty one, takes one from
//!   `occupied`; the one that takes the last says [`Home::vacated`]. Each stripe is emptied once
//!   after its close, so this happens once, without a scan, and no refusal can disturb it.
//! * **Leave the stripe that you entered by** is not a rule to keep but the only thing that a
//!   `Pass` can do, on whatever thread it is dropped. (A striped count that is entered here and
//!   left there can add up to 0 while a request lives; `LongAdder` does.)
//!
//! # Whose memory it is
//!
//! `Entrance` and `Pass` are bare pointers to their stripe, which is why this is the crate's one
//! module with `unsafe` in it. What keeps them good:
//!
//! 1. The hub owns all stripes, and an [`Arc`] owns the hub.
//! 2. A stripe with a handle or somebody inside is *held*, and holds one strong count of that
//!    `Arc`: the first handle adds it, whoever takes the word to nothing takes it back. Both are
//!    seen in the word, so exactly one does it.
//! 3. So whoever has an `Entrance` or a `Pass` has the hub, and with it every stripe. A stripe
//!    that nobody holds is only ever held again by a clone of an `Entrance`, which keeps the hub
//!    through its own stripe meanwhile.
//! 4. Whoever empties a closed stripe has yet to go to the hub, and has given up what kept it. So
//!    the close leaves a handle on a stripe that it finds occupied, for the last one out.
//!
//! While the drain lives, it has a handle on each stripe: no request comes to 2. or to the hub's
//! counts. A count that overflows aborts, as `Arc`'s does: handles, those let in and their clones
//! alike, each at half of its room or less, so that none ever carries into its neighbour.
//!
//! # Destructors that do not unwind
//!
//! A service and a request own these pointers next to requests, responses and bodies. If dropping
//! one may unwind, the compiler has to have all the others ready to be dropped in that event, lays
//! its code out for that and copies responses about: in the table below, that makes 183 of 103.
//! What may panic is somebody else's waker, at the very end. So all that is done at the end goes
//! through [`contained`], which lets no panic out and says so in its ABI.
//!
//! # Two races that are not bugs
//!
//! * A call reads [`Home::admits`] as true, then another thread closes, then the call looks at a
//!   stripe that is not closed yet. It began before the close had ended, it is counted, and it is
//!   waited for: it is admitted, as if it had come a moment earlier. Had the stripe been closed, it
//!   would have been refused. Never neither, never both.
//! * [`Hub::occupancy`] adds up stripes while requests come and go: no instant need have had that
//!   sum. Once closed, each stripe can only fall and 0 is final, so a sum of 0 is the truth.
//!
//! # Orderings
//!
//! * To leave releases, and the last one on a stripe acquires before it goes on: to `occupied`
//!   (loom: `the_last_on_a_stripe_sees_what_the_others_did`) or to the hub's `Arc` (`memory_…`).
//!   Adding needs no order: who adds has one already.
//! * `occupied` goes down with `AcqRel`, so that whoever hears `vacated` has all that every
//!   request did before it left, on every stripe (`done_sees_what_every_request_did`). The close
//!   acquires for the stripes that it finds empty.
//! * The close releases and a refusal acquires: whoever is refused knows that the house is closed,
//!   and so does anyone it tells (`who_was_refused_knows_that_it_is_closed`).
//! * [`Hub::occupancy`] acquires: its 0 is a Done, too (`a_look_while_it_closes`).
//!
//! # What else there is
//!
//! The same layer over other counts, for one request with its clone of the service; by
//! `benches/overhead/run`, which prints this with more columns:
//!
//! | design | instructions added | locked operations | what is against it |
//! |---|--:|--:|---|
//! | one shared word, and an `Arc` to it in the guard (as tokio-util's `TaskTracker`) | 66 | 6, on one line | threads fight for the line |
//! | a word per stripe, and an `Arc` of the stripe in the guard | 151 | 6, own line | two more locked operations |
//! | the strong count of a token per stripe, an `Arc` (as it was before; no more in the harness) | 181 | 4, own line | an indirection, destructors that unwind |
//! | a leaked word per stripe, `&'static` in service and guard | 31 | 2, own line | every `Drain` leaks its stripes; to recycle them takes generations |
//! | a token per stripe, let go of by a call that does not unwind | 98 | 4, own line | see below |
//! | **a word per stripe that counts handles, too** | 103 | 4, own line | `unsafe` |
//!
//! The last but one takes no `unsafe`. By itself it is as cheap; but in the crate's own layer it adds
//! 276 serving where the word adds 245, and 1015 refusing where that adds 976. `Arc` lets go out of
//! line in a function of its own that may unwind (`drop_slow`), and `Arc::into_inner`, which does not,
//! is too much code to stand inline: so each drop is a call, and for a destructor to hand an `Arc` on,
//! it has to be in an `Option<ManuallyDrop<_>>`, which is looked into at each use. A `Weak::upgrade`
//! may panic, too. (Tokens whose own destructor does not unwind help nobody: what says so is seen in
//! the crate only that compiles it.)

// The only place; see "Whose memory it is".
#![allow(unsafe_code)]

use super::sync::{Arc, AtomicU64, AtomicUsize, Ordering, contained, fence, thread_index};
use std::{process::abort, ptr::NonNull, sync::OnceLock};

/// What the count belongs to: it says whether one may still enter, and is told when all have left.
pub(crate) trait Home {
    /// False from a moment before [`Hub::close`], and for ever after.
    fn admits(&self) -> bool;

    /// The last one has left. Called once, after [`Hub::close`], by whoever was the last.
    fn vacated(&self);

    /// The owner was dropped: nobody can call [`Hub::close`] any more, unless that has begun.
    fn abandoned(&self);
}

/// The owner. It has a handle on every stripe, so that none comes and goes under traffic.
pub(crate) struct Count<H: Home> {
    hub: Arc<Hub<H>>,
    handles: Box<[Entrance<H>]>,
}

/// What all stripes share. Nobody writes here while nobody shuts down.
pub(crate) struct Hub<H: Home> {
    home: H,
    /// Stripes that are still open, or that somebody is on.
    occupied: AtomicUsize,
    /// Set once, before anybody else knows the hub.
    stripes: OnceLock<Box<[Stripe<H>]>>,
}

/// Written by the threads of one stripe only.
#[repr(align(128))]
struct Stripe<H: Home> {
    word: AtomicU64,
    index: usize,
    /// One less than there are stripes.
    mask: usize,
    hub: Raw<Hub<H>>,
}

const HANDLE: u64 = 1;
const INSIDE: u64 = 1 << 32;
const CLOSED: u64 = 1 << 63;

/// No more than half of what the word has room for: a few threads may add before they notice.
const MAX_HANDLES: u32 = 1 << 31;
const MAX_INSIDE: u32 = 1 << 30;

/// From here on, nobody is let in: the word is full or closed.
const FULL: u64 = INSIDE * MAX_INSIDE as u64;

/// A handle on a stripe: where requests enter. Held by layers and services, not itself counted.
pub(crate) struct Entrance<H: Home> {
    stripe: Raw<Stripe<H>>,
}

/// One that is inside, until it is dropped.
pub(crate) struct Pass<H: Home> {
    stripe: Raw<Stripe<H>>,
}

impl<H: Home> Count<H> {
    pub(crate) fn new(home: H, stripes: usize) -> Self {
        let count = stripes.max(1).next_power_of_two();
        let hub = Arc::new(Hub {
            home,
            occupied: AtomicUsize::new(count),
            stripes: OnceLock::new(),
        });
        let stripe = |index| Stripe {
            word: AtomicU64::new(0),
            index,
            mask: count - 1,
            hub: Raw::from(&hub),
        };
        let set = hub.stripes.set((0..count).map(stripe).collect());
        assert!(set.is_ok(), "set once, here");
        let handles = hub.stripes().iter().map(Stripe::handle).collect();
        Self { hub, handles }
    }

    pub(crate) fn hub(&self) -> &Arc<Hub<H>> {
        &self.hub
    }

    pub(crate) fn entrance(&self) -> Entrance<H> {
        // A clone is on the stripe of the thread that makes it, whichever it is made from.
        self.handles[0].clone()
    }
}

impl<H: Home> Drop for Count<H> {
    fn drop(&mut self) {
        self.hub.home().abandoned();
    }
}

impl<H: Home> Hub<H> {
    pub(crate) fn home(&self) -> &H {
        &self.home
    }

    /// From here on the number inside only falls. To be called once [`Home::admits`] says no;
    /// again does no harm, and returns only when every stripe is closed.
    pub(crate) fn close(&self) {
        for stripe in self.stripes() {
            let closed = |word| match inside(word) {
                _ if is_closed(word) => None,
                0 => Some(word | CLOSED),
                // For the last one out.
                _ => Some((word | CLOSED) + HANDLE),
            };
            let before = stripe
                .word
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, closed);
            if before.is_ok_and(|word| inside(word) == 0) {
                self.one_less();
            }
        }
    }

    fn one_less(&self) {
        if self.occupied.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.home.vacated();
        }
    }

    /// How many are inside. Exact for each stripe; see the module's text for the sum.
    pub(crate) fn occupancy(&self) -> usize {
        let words = self.stripes().iter();
        // Acquire: who reads 0 has what those did who have left.
        words
            .map(|stripe| inside(stripe.word.load(Ordering::Acquire)) as usize)
            .sum()
    }

    fn stripes(&self) -> &[Stripe<H>] {
        self.stripes.get().map_or(&[], |stripes| stripes)
    }
}

#[inline]
fn is_closed(word: u64) -> bool {
    word & CLOSED != 0
}

#[inline]
fn inside(word: u64) -> u32 {
    ((word & !CLOSED) >> 32) as u32
}

#[inline]
fn handles(word: u64) -> u32 {
    word as u32
}

/// More than there is room for, as after `mem::forget` of what was never to be forgotten. What has
/// been counted can not be trusted any more.
#[cold]
#[inline(never)]
extern "C" fn overflows() -> ! {
    abort()
}

impl<H: Home> Stripe<H> {
    #[inline]
    fn hub(&self) -> &Hub<H> {
        // SAFETY: the hub owns the stripe.
        unsafe { self.hub.0.as_ref() }
    }

    /// Another handle. Whoever asks for it has the hub.
    #[inline]
    fn handle(&self) -> Entrance<H> {
        let before = self.word.fetch_add(HANDLE, Ordering::Relaxed);
        // Nearly always there was one, and not too many; one comparison says both.
        if handles(before).wrapping_sub(1) >= MAX_HANDLES {
            self.unusual_handle(before);
        }
        Entrance {
            stripe: Raw::from(self),
        }
    }

    #[cold]
    #[inline(never)]
    fn unusual_handle(&self, before: u64) {
        if handles(before) > 0 {
            overflows();
        }
        if inside(before) == 0 {
            // SAFETY: it points to what an `Arc` has made, which is there: the caller has it.
            unsafe { Arc::increment_strong_count(self.hub.0.as_ptr().cast_const()) };
        }
    }

    /// Nobody holds it any more; to be called once for each time, with the pointer, as the stripe
    /// may be gone before this returns.
    fn abandoned(stripe: Raw<Self>) {
        fence(Ordering::Acquire);
        // SAFETY: a stripe that is held holds its hub, by a count that `unusual_handle` has added.
        // This takes it back; until then stripe and hub are there.
        let hub = unsafe { Arc::from_raw(stripe.0.as_ref().hub.0.as_ptr().cast_const()) };
        drop(hub);
    }

    fn last_handle_gone(stripe: Raw<Self>, before: u64) {
        if inside(before) == 0 {
            Self::abandoned(stripe);
        }
    }

    /// One has left who may have been the last, on this stripe or of all.
    fn left(stripe: Raw<Self>, before: u64) {
        if before == INSIDE {
            Self::abandoned(stripe);
        } else if is_closed(before) && inside(before) == 1 {
            fence(Ordering::Acquire);
            // The one that the close has left. Without it, all this might be gone by now.
            let handle = Entrance { stripe };
            handle.stripe().hub().one_less();
        }
    }
}

impl<H: Home> Entrance<H> {
    #[inline]
    fn stripe(&self) -> &Stripe<H> {
        // SAFETY: the handle keeps it.
        unsafe { self.stripe.0.as_ref() }
    }

    #[inline]
    pub(crate) fn home(&self) -> &H {
        &self.stripe().hub().home
    }

    pub(crate) fn hub(&self) -> Arc<Hub<H>> {
        let hub = self.stripe().hub.0.as_ptr().cast_const();
        // SAFETY: it points to what an `Arc` has made, which the handle keeps.
        unsafe {
            Arc::increment_strong_count(hub);
            Arc::from_raw(hub)
        }
    }

    /// One is let in and counted, or is not let in and leaves no trace.
    #[inline]
    pub(crate) fn enter(&self) -> Option<Pass<H>> {
        let stripe = self.stripe();
        if !stripe.hub().home.admits() {
            return None;
        }
        // Acquire: who is refused knows that the house is closed.
        let entered = stripe
            .word
            .fetch_update(Ordering::Relaxed, Ordering::Acquire, |word| {
                (word < FULL).then_some(word + INSIDE)
            });
        match entered {
            Ok(_) => Some(Pass {
                stripe: self.stripe,
            }),
            Err(word) if is_closed(word) => None,
            Err(_) => overflows(),
        }
    }
}

/// By hand: a clone belongs to the stripe of the thread that makes it, and no reference count that
/// all threads write is touched.
impl<H: Home> Clone for Entrance<H> {
    #[inline]
    fn clone(&self) -> Self {
        let stripe = self.stripe();
        let here = thread_index() & stripe.mask;
        if here == stripe.index {
            stripe.handle()
        } else {
            stripe.hub().stripes()[here].handle()
        }
    }
}

impl<H: Home> Drop for Entrance<H> {
    #[inline]
    fn drop(&mut self) {
        let before = self.stripe().word.fetch_sub(HANDLE, Ordering::Release);
        if handles(before) == 1 {
            let stripe = self.stripe;
            contained(move || Stripe::last_handle_gone(stripe, before));
        }
    }
}

impl<H: Home> Pass<H> {
    #[inline]
    fn stripe(&self) -> &Stripe<H> {
        // SAFETY: who is inside keeps it.
        unsafe { self.stripe.0.as_ref() }
    }

    #[inline]
    pub(crate) fn home(&self) -> &H {
        &self.stripe().hub().home
    }
}

impl<H: Home> Clone for Pass<H> {
    fn clone(&self) -> Self {
        let before = self.stripe().word.fetch_add(INSIDE, Ordering::Relaxed);
        if inside(before) >= MAX_INSIDE {
            overflows();
        }
        Self {
            stripe: self.stripe,
        }
    }
}

impl<H: Home> Drop for Pass<H> {
    #[inline]
    fn drop(&mut self) {
        let before = self.stripe().word.fetch_sub(INSIDE, Ordering::Release);
        if is_closed(before) || handles(before) == 0 {
            let stripe = self.stripe;
            contained(move || Stripe::left(stripe, before));
        }
    }
}

/// A pointer of which the module's text says why there is something behind it.
struct Raw<T>(NonNull<T>);

// SAFETY: it is used as the `&T` or the `Arc<T>` that it was made from.
unsafe impl<T: Send + Sync> Send for Raw<T> {}
// SAFETY: likewise.
unsafe impl<T: Send + Sync> Sync for Raw<T> {}

impl<T> From<&T> for Raw<T> {
    #[inline]
    fn from(reference: &T) -> Self {
        Self(NonNull::from(reference))
    }
}

/// Not by way of `&T`: the counts, which lie beside it, have to be within its reach.
impl<T> From<&Arc<T>> for Raw<T> {
    fn from(arc: &Arc<T>) -> Self {
        let pointer = Arc::as_ptr(arc).cast_mut();
        Self(NonNull::new(pointer).expect("no Arc is null"))
    }
}

impl<T> Clone for Raw<T> {
    #[inline]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Raw<T> {}
