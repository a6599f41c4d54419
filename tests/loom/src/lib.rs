//! Loom tests of the in-flight counter, and of the wakers of a connection.
//!
//! `counter.rs`, `token.rs`, `block.rs` and `wakers.rs` of `src/drain` are compiled here as they
//! stand, over loom's atomics in place of std's:
//! every interleaving of a few threads is tried, and every value that a load may return. No
//! `cfg(loom)` is needed in the crate, and `cargo test --workspace` runs these with the others.
//!
//! Each test names the line without which it fails; `tests/loom/see-them-fail` takes the lines out,
//! one by one, and expects the tests to go red.

#[path = "../../../src/drain/block.rs"]
#[allow(dead_code)] // The crate uses the rest.
mod block;
#[path = "../../../src/drain/counter.rs"]
#[allow(dead_code)]
mod counter;
mod sync;
#[path = "../../../src/drain/token.rs"]
#[allow(dead_code)]
mod token;
#[path = "../../../src/drain/wakers.rs"]
#[allow(dead_code)]
mod wakers;

#[cfg(test)]
mod tests {
    use super::{
        block::{Owner, Pool},
        counter::{Counter, CounterHandle},
        sync::stand_on,
        token::Token,
        wakers::{RegisteredWaker, Role, Wakers},
    };
    use loom::{
        sync::atomic::{AtomicBool, AtomicUsize, Ordering},
        thread,
    };
    use std::{
        sync::Arc,
        task::{Wake, Waker},
    };

    /// What the crate's `Shared` is: it owns the counter.
    struct Drain {
        counter: Counter<Drain>,
    }

    /// All accesses are relaxed, so that the counter alone orders them.
    #[derive(Default)]
    struct Data {
        closed: AtomicBool,
        /// One flag per request: it is inside.
        inside: [AtomicBool; 2],
        emptied: AtomicUsize,
        /// How many tokens carry details.
        listed: AtomicUsize,
        /// Repeats an ordering of std's `Arc`, which loom does not see: each drop happens before
        /// the last one.
        arc: AtomicUsize,
    }

    /// What a token carries: it is in a list.
    struct Listed(&'static Data);

    impl Listed {
        fn new(token: &Token<Drain>) -> Self {
            token.data().listed.fetch_add(1, Ordering::Relaxed);
            Self(token.data())
        }
    }

    impl Drop for Listed {
        fn drop(&mut self) {
            self.0.listed.fetch_sub(1, Ordering::Relaxed);
        }
    }

    impl Drop for Drain {
        fn drop(&mut self) {
            self.counter.data().arc.fetch_add(1, Ordering::AcqRel);
        }
    }

    impl Owner for Drain {
        type Data = Data;
        type Details = Listed;

        fn reset(data: &Data) {
            data.closed.store(false, Ordering::Relaxed);
            data.emptied.store(0, Ordering::Relaxed);
        }

        fn counter_emptied(self: &Arc<Self>) {
            let data = self.counter.data();
            for inside in &data.inside {
                assert!(!inside.load(Ordering::Relaxed), "one is still inside");
            }
            assert_eq!(data.listed.load(Ordering::Relaxed), 0, "one is listed");
            data.emptied.fetch_add(1, Ordering::Relaxed);
            data.arc.fetch_add(1, Ordering::AcqRel);
        }
    }

    impl Drain {
        fn new(shards: usize) -> Arc<Self> {
            Self::from(pool(), shards)
        }

        fn from(pool: &'static Pool<Self>, shards: usize) -> Arc<Self> {
            Arc::new_cyclic(|drain| Self {
                counter: Counter::new(pool, shards, drain.clone()),
            })
        }

        fn handle(&self) -> CounterHandle<Self> {
            self.counter.handle()
        }

        fn emptied(&self) -> usize {
            self.counter.data().emptied.load(Ordering::Relaxed)
        }

        /// As the crate does it: the stage first, then the shards.
        fn close(self: &Arc<Self>) {
            self.counter.begin(self.clone());
            self.counter.data().closed.store(true, Ordering::Release);
            self.counter.close();
        }

        fn end(&self) {
            drop(self.counter.release());
        }
    }

    fn pool() -> &'static Pool<Drain> {
        Box::leak(Box::new(Pool::new(1)))
    }

    fn model(test: impl Fn() + Sync + Send + 'static) {
        // Nearly all there is to find is found with three. Without optimization that takes minutes:
        // `see-them-fail` runs all tests with it.
        check(if cfg!(debug_assertions) { 2 } else { 3 }, test);
    }

    /// Runs a test of so many steps that it takes minutes with three preemptions.
    fn long_model(test: impl Fn() + Sync + Send + 'static) {
        check(2, test);
    }

    fn check(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(preemptions);
        builder.check(test);
    }

    fn entry(handle: &CounterHandle<Drain>, shard: usize) -> Option<Token<Drain>> {
        stand_on(shard);
        let late = || handle.enter_late(|data| !data.closed.load(Ordering::Acquire));
        handle.enter().or_else(late)
    }

    /// Enters on a shard as request `me`, if admitted.
    fn enter(handle: &CounterHandle<Drain>, me: usize, shard: usize) -> Option<Token<Drain>> {
        let token = entry(handle, shard)?;
        assert!(token.is_counted(), "its drain is there");
        let emptied = token.data().emptied.load(Ordering::Relaxed);
        assert_eq!(emptied, 0, "admitted after the end");
        token.data().inside[me].store(true, Ordering::Relaxed);
        Some(token)
    }

    fn leave(token: Token<Drain>, me: usize) {
        token.data().inside[me].store(false, Ordering::Relaxed);
        drop(token);
    }

    /// Two calls on two shards against the close: each is counted and waited for, or refused.
    ///
    /// Fails with a check and then a count, with `open_shards` at less than the number of shards,
    /// and if the close leaves an empty shard open.
    #[test]
    fn b19_counted_or_refused() {
        long_model(|| {
            let drain = Drain::new(2);
            let calls: Vec<_> = (0..2)
                .map(|me| {
                    let handle = drain.handle();
                    thread::spawn(move || {
                        if let Some(token) = enter(&handle, me, me) {
                            leave(token, me);
                        }
                    })
                })
                .collect();
            drain.close();
            for call in calls {
                call.join().unwrap();
            }
            assert_eq!(drain.emptied(), 1, "said once");
            assert_eq!(drain.counter.inside(), 0);
            assert!(enter(&drain.handle(), 0, 0).is_none(), "0 is final");
            drain.end();
        });
    }

    /// Entered here, left there, on two shards: no 0 is seen while one is inside.
    ///
    /// Fails with `open_shards` at less than the number of shards, and if a token leaves by the
    /// shard of the thread that it is dropped on.
    #[test]
    fn b48_entered_here_left_there() {
        model(|| {
            let drain = Drain::new(2);
            let first = enter(&drain.handle(), 0, 0).expect("open");
            let second = enter(&drain.handle(), 1, 1).expect("open");
            // Both are dropped on a thread that stands on the second shard.
            let crossed = thread::spawn(move || {
                stand_on(1);
                leave(first, 0);
            });
            drain.close();
            assert!(drain.counter.inside() >= 1, "the second is inside");
            leave(second, 1);
            crossed.join().unwrap();
            assert_eq!(drain.emptied(), 1, "said once");
            drain.end();
        });
    }

    /// A token that carries details is counted like any other, and its details are gone when the drain
    /// ends. Two tokens have the same shard of their own, one after the other.
    ///
    /// Fails if the details are dropped after the token that was counted.
    #[test]
    fn details_are_dropped_before_the_end() {
        model(|| {
            let drain = Drain::new(2);
            let carrying = |me| {
                let token = enter(&drain.handle(), me, 0)?;
                let details = Listed::new(&token);
                Some(token.with_details(details))
            };
            leave(carrying(0).expect("open"), 0);
            let second = carrying(1).expect("open");
            let mut seen = false;
            second.details(|listed| seen = std::ptr::eq(listed.0, second.data()));
            assert!(seen && second.is_slow() && !second.has_begun());
            let leaves = thread::spawn(move || leave(second, 1));
            drain.close();
            leaves.join().unwrap();
            assert_eq!(drain.emptied(), 1, "said once");
            drain.end();
        });
    }

    /// What each request did before it left is visible in `counter_emptied`.
    ///
    /// Fails if `open_shards` goes down with less than `AcqRel`.
    #[test]
    fn done_sees_what_every_request_did() {
        model(|| {
            let drain = Drain::new(2);
            let calls: Vec<_> = (0..2)
                .map(|me| {
                    let token = enter(&drain.handle(), me, me).expect("open");
                    // `counter_emptied` asserts that it sees both flags down.
                    thread::spawn(move || leave(token, me))
                })
                .collect();
            drain.close();
            for call in calls {
                call.join().unwrap();
            }
            drain.end();
        });
    }

    /// A refused caller sees everything that happened before the close.
    ///
    /// Fails if a refusal does not acquire, or the close does not release.
    #[test]
    fn a_refused_caller_knows_that_it_is_closed() {
        model(|| {
            let drain = Drain::new(1);
            let handle = drain.handle();
            let data = drain.counter.data();
            let call = thread::spawn(move || {
                stand_on(0);
                // `|_| true`: a look at the stage would show the close by itself.
                if handle.enter().is_none() && handle.enter_late(|_| true).is_none() {
                    assert!(
                        data.closed.load(Ordering::Relaxed),
                        "refused before the close"
                    );
                }
            });
            drain.close();
            call.join().unwrap();
            drain.end();
        });
    }

    /// After one refusal no request is admitted, on whatever shard.
    ///
    /// Fails if a refused caller does not close the other shards.
    #[test]
    fn b19_nothing_is_admitted_after_a_refusal() {
        model(|| {
            let drain = Drain::new(2);
            let handle = drain.handle();
            let calls = thread::spawn(move || {
                // Not by the look at the stage, which would refuse both.
                let entry = |shard| {
                    stand_on(shard);
                    handle.enter().is_some()
                        || handle
                            .enter_late(|_| true)
                            .is_some_and(|token| token.is_counted())
                };
                if !entry(0) {
                    assert!(!entry(1), "admitted after a refusal");
                }
            });
            drain.close();
            calls.join().unwrap();
            drain.end();
        });
    }

    /// Two on one shard: the last one out knows what the other one did.
    ///
    /// Fails if leaving does not release, or the last one on a shard does not acquire.
    #[test]
    fn the_last_on_a_shard_sees_what_the_others_did() {
        model(|| {
            let drain = Drain::new(1);
            let calls: Vec<_> = (0..2)
                .map(|me| enter(&drain.handle(), me, 0).expect("open"))
                .collect();
            drain.close();
            let calls: Vec<_> = (0..2)
                .zip(calls)
                .map(|(me, token)| thread::spawn(move || leave(token, me)))
                .collect();
            for call in calls {
                call.join().unwrap();
            }
            assert_eq!(drain.emptied(), 1);
            drain.end();
        });
    }

    /// After the close no request is admitted, even while another one is inside.
    #[test]
    fn closed_is_closed() {
        model(|| {
            let drain = Drain::new(1);
            let handle = drain.handle();
            let token = enter(&handle, 0, 0).expect("open");
            let other = drain.clone();
            let closer = thread::spawn(move || other.close());
            closer.join().unwrap();
            assert!(enter(&handle, 1, 0).is_none());
            assert_eq!(drain.emptied(), 0);
            leave(token, 0);
            assert_eq!(drain.emptied(), 1);
            drain.end();
        });
    }

    /// A caller that knows of the close is not admitted, even if its shard is still open.
    ///
    /// Fails without the look at `admits`, and if the begin leaves a shard that is not slow.
    #[test]
    fn a_caller_that_knows_of_the_close_is_not_admitted() {
        model(|| {
            let drain = Drain::new(1);
            let handle = drain.handle();
            let other = drain.clone();
            let closer = thread::spawn(move || other.close());
            if drain.counter.data().closed.load(Ordering::Acquire) {
                assert!(enter(&handle, 0, 0).is_none());
            }
            closer.join().unwrap();
            drain.end();
        });
    }

    /// A look while it closes: a 0 has what was done by those that have left.
    ///
    /// Fails if the look does not acquire.
    #[test]
    fn a_look_while_it_closes() {
        model(|| {
            let drain = Drain::new(1);
            let token = enter(&drain.handle(), 0, 0).expect("open");
            let leaves = thread::spawn(move || leave(token, 0));
            let other = drain.clone();
            let closer = thread::spawn(move || other.close());
            if drain.counter.inside() == 0 {
                let inside = &drain.counter.data().inside[0];
                assert!(!inside.load(Ordering::Relaxed), "it was said to be empty");
            }
            closer.join().unwrap();
            leaves.join().unwrap();
            drain.end();
        });
    }

    /// Two threads close while a request leaves: `counter_emptied` is called once.
    ///
    /// Fails if a closed shard can be closed again.
    #[test]
    fn closing_twice_is_closing_once() {
        model(|| {
            let drain = Drain::new(2);
            let token = enter(&drain.handle(), 0, 0).expect("open");
            drain.counter.begin(drain.clone());
            let other = drain.clone();
            let closer = thread::spawn(move || other.counter.close());
            let leaves = thread::spawn(move || leave(token, 0));
            drain.counter.close();
            closer.join().unwrap();
            leaves.join().unwrap();
            assert_eq!(drain.emptied(), 1, "said once");
            drain.end();
        });
    }

    /// What has ended since the begin is exact at the end, whenever each request came and went.
    ///
    /// Fails if the begin does not see how many are inside, and if an entry after it is not
    /// counted.
    #[test]
    fn what_has_ended_is_exact() {
        model(|| {
            let drain = Drain::new(1);
            let before = enter(&drain.handle(), 0, 0).expect("open");
            let handle = drain.handle();
            let call = thread::spawn(move || {
                let token = enter(&handle, 1, 0);
                let is_slow = token.as_ref().is_some_and(Token::is_slow);
                if let Some(token) = token {
                    leave(token, 1);
                }
                is_slow
            });
            drain.close();
            leave(before, 0);
            let is_slow = call.join().unwrap();
            let ended = drain.counter.ended(drain.counter.inside());
            assert!((1..=2).contains(&ended), "{ended}");
            // One that was inside when it saw the begin has ended after it.
            assert!(ended == 2 || !is_slow, "{ended}");
            drain.end();
        });
    }

    /// A drain ends while one of its requests leaves and another comes by an old handle; the next
    /// drain on the same block counts only its own requests, and only its own end is reported to
    /// it.
    ///
    /// Fails if a stale handle is counted, if a late helper closes the next drain's shards, if the
    /// last one out does not look at the generation of the owner, and if a block goes back while a
    /// token is on it.
    fn used_again(begun: bool) {
        model(move || {
            let pool = pool();
            let drain = Drain::from(pool, 1);
            let old = drain.handle();
            let token = enter(&old, 0, 0).expect("open");
            let leaves = thread::spawn(move || leave(token, 0));
            let late = thread::spawn(move || drop(entry(&old, 0)));
            if begun {
                drain.close();
                drain.end();
            }
            drop(drain);
            let next = Drain::from(pool, 1);
            let inside = enter(&next.handle(), 1, 0).expect("it has not begun");
            next.close();
            leaves.join().unwrap();
            late.join().unwrap();
            assert!(
                !entry(&old, 0).is_some_and(|token| token.is_counted()),
                "of another drain"
            );
            assert_eq!(next.counter.inside(), 1, "a stranger is counted");
            assert_eq!(next.emptied(), 0, "a false end");
            leave(inside, 1);
            assert_eq!(next.emptied(), 1, "no end");
            next.end();
        });
    }

    #[test]
    fn used_again_after_its_end() {
        used_again(true);
    }

    #[test]
    fn used_again_after_a_drop() {
        used_again(false);
    }

    /// The drain goes while its last request leaves: the block goes back, once.
    ///
    /// Fails if either of them does not look whether the other one has gone.
    fn goes_back(begun: bool) {
        long_model(move || {
            let pool = pool();
            let drain = Drain::from(pool, 1);
            let token = enter(&drain.handle(), 0, 0).expect("open");
            let leaves = thread::spawn(move || leave(token, 0));
            if begun {
                drain.close();
                drain.end();
            }
            drop(drain);
            leaves.join().unwrap();
            assert_eq!(pool.free(), 1);
        });
    }

    #[test]
    fn a_block_goes_back_once_after_its_end() {
        goes_back(true);
    }

    #[test]
    fn a_block_goes_back_once_after_a_drop() {
        goes_back(false);
    }

    /// A drain without handles goes on until its last request has left.
    ///
    /// Fails if the begin does not keep the owner.
    #[test]
    fn a_drain_that_was_begun_is_there_for_its_end() {
        model(|| {
            let pool = pool();
            let drain = Drain::from(pool, 1);
            let data = drain.counter.data();
            let token = enter(&drain.handle(), 0, 0).expect("open");
            let leaves = thread::spawn(move || leave(token, 0));
            drain.close();
            drop(drain);
            leaves.join().unwrap();
            assert_eq!(data.emptied.load(Ordering::Relaxed), 1, "said once");
        });
    }

    /// Is woken, and remembers that.
    struct Task(AtomicBool);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.swap(true, Ordering::SeqCst);
        }
    }

    /// A task that registers at each poll, and looks at a stage after that, misses no change,
    /// though it registers the same waker only once.
    ///
    /// Fails if a wake-up does not count itself, or counts itself outside of the lock.
    #[test]
    fn each_change_wakes_the_task_or_is_seen() {
        model(|| {
            let wakers = Arc::new(Wakers::new());
            let stage = Arc::new(AtomicUsize::new(0));
            let task = Arc::new(Task(AtomicBool::new(true)));
            let waker = Waker::from(task.clone());
            let changes = {
                let (wakers, stage) = (wakers.clone(), stage.clone());
                move || {
                    for next in 1..=2 {
                        stage.store(next, Ordering::Relaxed);
                        wakers.wake_all();
                    }
                }
            };
            let changes = thread::spawn(changes);
            let mut last = RegisteredWaker::default();
            let mut seen = 0;
            let mut poll = |seen: &mut usize| {
                if task.0.swap(false, Ordering::SeqCst) {
                    wakers.register(Role::Reads, &waker, &mut last);
                    *seen = stage.load(Ordering::Relaxed);
                }
            };
            poll(&mut seen);
            // Polled for another reason, too. (A runtime changes the state of a task by RMWs, too.)
            task.0.swap(true, Ordering::SeqCst);
            poll(&mut seen);
            changes.join().unwrap();
            // What has woken it is a poll to come.
            poll(&mut seen);
            assert_eq!(seen, 2);
        });
    }
}
