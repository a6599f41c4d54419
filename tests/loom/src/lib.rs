//! Loom tests of the in-flight count.
//!
//! `src/drain/count.rs` is compiled here as it stands, over loom's atomics in place of std's: every
//! interleaving of a few threads is tried, and every value that a load may return. No `cfg(loom)`
//! is needed in the crate, and `cargo test --workspace` runs these with the others.
//!
//! Each test names the line without which it fails; `tests/loom/see-them-fail` takes the lines out,
//! one by one, and expects the tests to go red.

#[path = "../../../src/drain/count.rs"]
#[allow(dead_code)] // The crate uses the rest.
mod count;
mod sync;

#[cfg(test)]
mod tests {
    use super::{
        count::{Count, Entrance, Home, Pass},
        sync::stand_on,
    };
    use loom::{
        cell::UnsafeCell,
        sync::{
            Arc,
            atomic::{AtomicBool, AtomicUsize, Ordering},
        },
        thread,
    };

    /// What the tests watch. All of it is relaxed: what is seen, is seen because the count says so.
    struct House {
        closed: Arc<AtomicBool>,
        /// One flag per request: it is inside.
        inside: Arc<[AtomicBool; 2]>,
        vacated: Arc<AtomicUsize>,
        /// Read by whoever has a way in, written by the end: loom objects if a read does not come
        /// before it. In an `Arc` of its own, so that one that comes late finds it there.
        memory: std::sync::Arc<Memory>,
        freed: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    }

    #[derive(Default)]
    struct Memory(UnsafeCell<()>);

    // SAFETY: there is nothing in it; loom sees who uses it at the same time.
    unsafe impl Sync for Memory {}

    impl House {
        fn new() -> Self {
            Self {
                closed: Arc::new(AtomicBool::new(false)),
                inside: Arc::new([AtomicBool::new(false), AtomicBool::new(false)]),
                vacated: Arc::new(AtomicUsize::new(0)),
                memory: std::sync::Arc::default(),
                freed: std::sync::Arc::default(),
            }
        }

        fn is_there(&self) {
            self.memory.0.with(|_| ());
        }
    }

    impl Drop for House {
        fn drop(&mut self) {
            self.memory.0.with_mut(|_| ());
            self.freed.fetch_add(1, Ordering::Relaxed);
        }
    }

    impl Home for House {
        fn admits(&self) -> bool {
            self.is_there();
            // As the crate's `State` does.
            !self.closed.load(Ordering::Acquire)
        }

        fn vacated(&self) {
            self.is_there();
            for inside in &*self.inside {
                assert!(!inside.load(Ordering::Relaxed), "one is still inside");
            }
            self.vacated.fetch_add(1, Ordering::Relaxed);
        }

        fn abandoned(&self) {
            self.is_there();
        }
    }

    fn model(test: impl Fn() + Sync + Send + 'static) {
        let mut builder = loom::model::Builder::new();
        // Nearly all there is to find is found with three.
        builder.preemption_bound = Some(3);
        builder.check(test);
    }

    fn close(count: &Count<House>) {
        let hub = count.hub();
        hub.home().closed.store(true, Ordering::Release);
        hub.close();
    }

    /// Enters on a stripe as request `me`, if let in.
    fn enter(entrance: &Entrance<House>, me: usize, stripe: usize) -> Option<Pass<House>> {
        stand_on(stripe);
        let pass = entrance.clone().enter()?;
        let vacated = pass.home().vacated.load(Ordering::Relaxed);
        assert_eq!(vacated, 0, "let in after the end");
        pass.home().inside[me].store(true, Ordering::Relaxed);
        Some(pass)
    }

    fn leave(pass: Pass<House>, me: usize) {
        pass.home().is_there();
        pass.home().inside[me].store(false, Ordering::Relaxed);
        drop(pass);
    }

    /// Two calls on two stripes against the close: each is counted and waited for, or refused.
    ///
    /// Fails with a check and then a count, with `occupied` at less than the number of stripes, and
    /// if the close leaves a stripe open that nobody is on.
    #[test]
    fn b19_counted_or_refused() {
        model(|| {
            let count = Count::new(House::new(), 2);
            let vacated = count.hub().home().vacated.clone();
            let calls: Vec<_> = (0..2)
                .map(|me| {
                    let entrance = count.entrance();
                    thread::spawn(move || {
                        if let Some(pass) = enter(&entrance, me, me) {
                            leave(pass, me);
                        }
                    })
                })
                .collect();
            close(&count);
            for call in calls {
                call.join().unwrap();
            }
            assert_eq!(vacated.load(Ordering::Relaxed), 1, "said once");
            assert_eq!(count.hub().occupancy(), 0);
            assert!(count.entrance().enter().is_none(), "0 is final");
        });
    }

    /// Entered here, left there, on two stripes: no 0 is seen while one is inside.
    ///
    /// Fails with `occupied` at less than the number of stripes, and if a pass leaves by the stripe
    /// of the thread that it is dropped on.
    #[test]
    fn b48_entered_here_left_there() {
        model(|| {
            let count = Count::new(House::new(), 2);
            let vacated = count.hub().home().vacated.clone();
            let first = enter(&count.entrance(), 0, 0).expect("open");
            let second = enter(&count.entrance(), 1, 1).expect("open");
            let inside = count.hub().home().inside.clone();
            let crossed = thread::spawn(move || {
                stand_on(1);
                leave(first, 0);
            });
            close(&count);
            assert!(count.hub().occupancy() >= 1, "the second is inside");
            assert!(inside[1].load(Ordering::Relaxed));
            stand_on(0);
            leave(second, 1);
            crossed.join().unwrap();
            assert_eq!(vacated.load(Ordering::Relaxed), 1, "said once");
        });
    }

    /// What each request did before it left is seen by whoever is told that all have left.
    ///
    /// Fails if `occupied` goes down with less than `AcqRel`.
    #[test]
    fn done_sees_what_every_request_did() {
        model(|| {
            let count = Count::new(House::new(), 2);
            let calls: Vec<_> = (0..2)
                .map(|me| {
                    let pass = enter(&count.entrance(), me, me).expect("open");
                    // `vacated` asserts that it sees both flags down.
                    thread::spawn(move || leave(pass, me))
                })
                .collect();
            close(&count);
            for call in calls {
                call.join().unwrap();
            }
        });
    }

    /// Nobody is refused without knowing, and passing on, that the house is closed.
    ///
    /// Fails if a refusal does not acquire, or the close does not release.
    #[test]
    fn who_was_refused_knows_that_it_is_closed() {
        model(|| {
            let count = Count::new(House::new(), 1);
            let entrance = count.entrance();
            let closed = count.hub().home().closed.clone();
            let call = thread::spawn(move || {
                if entrance.enter().is_none() {
                    assert!(closed.load(Ordering::Relaxed), "refused, but by whom");
                }
            });
            close(&count);
            call.join().unwrap();
        });
    }

    /// Two on one stripe: the last one out knows what the other one did.
    ///
    /// Fails if who leaves does not release, or the last one on a stripe does not acquire.
    #[test]
    fn the_last_on_a_stripe_sees_what_the_others_did() {
        model(|| {
            let count = Count::new(House::new(), 1);
            let calls: Vec<_> = (0..2)
                .map(|me| enter(&count.entrance(), me, 0).expect("open"))
                .collect();
            close(&count);
            let calls: Vec<_> = (0..2)
                .zip(calls)
                .map(|(me, pass)| thread::spawn(move || leave(pass, me)))
                .collect();
            for call in calls {
                call.join().unwrap();
            }
            assert_eq!(count.hub().home().vacated.load(Ordering::Relaxed), 1);
        });
    }

    /// After the close nobody gets in, though others are inside.
    #[test]
    fn closed_is_closed() {
        model(|| {
            let count = Count::new(House::new(), 1);
            let entrance = count.entrance();
            let pass = entrance.enter().expect("open");
            let closer = thread::spawn(move || {
                close(&count);
                count
            });
            let count = closer.join().unwrap();
            assert!(entrance.enter().is_none());
            assert_eq!(count.hub().home().vacated.load(Ordering::Relaxed), 0);
            drop(pass);
            assert_eq!(count.hub().home().vacated.load(Ordering::Relaxed), 1);
        });
    }

    /// Who was told that it closes is not let in, also before the stripes are closed.
    ///
    /// Fails without the look at `admits`.
    #[test]
    fn who_was_told_is_not_let_in() {
        model(|| {
            let count = Count::new(House::new(), 1);
            let entrance = count.entrance();
            let closed = count.hub().home().closed.clone();
            let closer = thread::spawn(move || close(&count));
            if closed.load(Ordering::Acquire) {
                assert!(entrance.enter().is_none());
            }
            closer.join().unwrap();
        });
    }

    /// A look while it closes: a 0 has what those did who have left.
    ///
    /// Fails if the look does not acquire.
    #[test]
    fn a_look_while_it_closes() {
        model(|| {
            let count = std::sync::Arc::new(Count::new(House::new(), 1));
            let pass = enter(&count.entrance(), 0, 0).expect("open");
            let leaves = thread::spawn(move || leave(pass, 0));
            let other = count.clone();
            let closer = thread::spawn(move || close(&other));
            if count.hub().occupancy() == 0 {
                let inside = &count.hub().home().inside;
                assert!(
                    !inside[0].load(Ordering::Relaxed),
                    "it was said to be empty"
                );
            }
            closer.join().unwrap();
            leaves.join().unwrap();
        });
    }

    /// Two close at once, while one leaves: the end is said once.
    ///
    /// Fails if a closed stripe can be closed again.
    #[test]
    fn closing_twice_is_closing_once() {
        model(|| {
            let count = std::sync::Arc::new(Count::new(House::new(), 2));
            let pass = enter(&count.entrance(), 0, 0).expect("open");
            let vacated = count.hub().home().vacated.clone();
            let other = count.clone();
            let closer = thread::spawn(move || close(&other));
            let leaves = thread::spawn(move || leave(pass, 0));
            close(&count);
            closer.join().unwrap();
            leaves.join().unwrap();
            assert_eq!(vacated.load(Ordering::Relaxed), 1, "said once");
        });
    }

    /// A count, a service and one inside go at the same time, on one stripe or on two: who is last
    /// frees the memory, after all the others.
    ///
    /// Fails if a drop does not release, if the last one does not acquire, and if either of them
    /// does not look whether the other is still there.
    fn all_go_at_once(stripes: usize) {
        model(move || {
            let count = Count::new(House::new(), stripes);
            let freed = count.hub().home().freed.clone();
            let pass = enter(&count.entrance(), 0, 0).expect("open");
            stand_on(1);
            let entrance = count.entrance();
            let leaves = thread::spawn(move || leave(pass, 0));
            let goes = thread::spawn(move || {
                entrance.home().is_there();
                drop(entrance);
            });
            drop(count);
            leaves.join().unwrap();
            goes.join().unwrap();
            assert_eq!(freed.load(Ordering::Relaxed), 1, "freed once");
        });
    }

    #[test]
    fn memory_goes_once_from_one_stripe() {
        all_go_at_once(1);
    }

    #[test]
    fn memory_goes_once_from_two_stripes() {
        all_go_at_once(2);
    }

    /// The count is gone, and a service is cloned to a stripe that nobody is on.
    ///
    /// Fails if the first handle of a stripe does not hold the hub, and if the last one does not
    /// let it go.
    #[test]
    fn memory_outlives_the_count() {
        model(|| {
            let count = Count::new(House::new(), 2);
            let freed = count.hub().home().freed.clone();
            let entrance = count.entrance();
            drop(count);
            let clone = entrance.clone();
            let goes = thread::spawn(move || {
                let pass = enter(&clone, 0, 1).expect("open");
                drop(clone);
                leave(pass, 0);
            });
            entrance.home().is_there();
            drop(entrance);
            goes.join().unwrap();
            assert_eq!(freed.load(Ordering::Relaxed), 1, "freed once");
        });
    }

    /// The last one out says so, though everything else goes while it does.
    ///
    /// Fails if the close does not leave it a handle, or if that is not given back.
    #[test]
    fn memory_is_there_for_the_last_word() {
        model(|| {
            let count = Count::new(House::new(), 1);
            let (freed, vacated) = {
                let home = count.hub().home();
                (home.freed.clone(), home.vacated.clone())
            };
            let pass = enter(&count.entrance(), 0, 0).expect("open");
            let leaves = thread::spawn(move || leave(pass, 0));
            close(&count);
            drop(count);
            leaves.join().unwrap();
            assert_eq!(vacated.load(Ordering::Relaxed), 1, "said once");
            assert_eq!(freed.load(Ordering::Relaxed), 1, "freed once");
        });
    }
}
