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
    }

    impl House {
        fn new() -> Self {
            Self {
                closed: Arc::new(AtomicBool::new(false)),
                inside: Arc::new([AtomicBool::new(false), AtomicBool::new(false)]),
                vacated: Arc::new(AtomicUsize::new(0)),
            }
        }
    }

    impl Home for House {
        fn admits(&self) -> bool {
            // As the crate's `State` does.
            !self.closed.load(Ordering::Acquire)
        }

        fn vacated(&self) {
            for inside in &*self.inside {
                assert!(!inside.load(Ordering::Relaxed), "one is still inside");
            }
            self.vacated.fetch_add(1, Ordering::Relaxed);
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
        pass.home().inside[me].store(true, Ordering::Relaxed);
        Some(pass)
    }

    fn leave(pass: Pass<House>, me: usize) {
        pass.home().inside[me].store(false, Ordering::Relaxed);
        drop(pass);
    }

    /// Two calls on two stripes against the close: each is counted and waited for, or refused.
    ///
    /// Fails without `Weak::upgrade` (a count after a check), with `occupied` at less than the
    /// number of tokens, and without the base reference's end.
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
    /// That a pass leaves by its own stripe is no line to take out: it holds that stripe's token.
    /// Fails with `occupied` at less than the number of tokens.
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
    /// Fails without the fence after a failed upgrade.
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

    /// After the close nobody gets in, though others are inside and keep the token alive.
    ///
    /// Fails without the look at `admits`.
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

    /// A look while it closes: never less than nothing, and a 0 has what those did who have left.
    ///
    /// Fails if the base's lock is let go before the count is read, and without the fence.
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

    /// Two close at once: when either is through, the other's half is done, too.
    ///
    /// Fails if the base is dropped outside of its lock.
    #[test]
    fn whoever_has_closed_finds_it_closed() {
        model(|| {
            let count = std::sync::Arc::new(Count::new(House::new(), 1));
            let other = count.clone();
            let closer = thread::spawn(move || close(&other));
            close(&count);
            assert_eq!(count.hub().occupancy(), 0, "nobody ever came");
            closer.join().unwrap();
        });
    }
}
