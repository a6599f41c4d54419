//! What `counter` does with blocks that are used again, on real atomics. (`tests/loom` has the races.)

use super::{
    block::{Owner, Pool},
    counter::{Counter, CounterHandle},
    token::Token,
};
use std::{
    mem::forget,
    sync::{Arc, Weak},
};

struct Nobody;

impl Owner for Nobody {
    type Data = ();
    type Details = Arc<()>;

    fn reset((): &()) {}

    fn counter_emptied(self: &Arc<Self>) {}
}

fn pool() -> &'static Pool<Nobody> {
    Box::leak(Box::new(Pool::new(1)))
}

fn drain(pool: &'static Pool<Nobody>) -> Counter<Nobody> {
    Counter::new(pool, 4, Weak::new())
}

fn begin_and_close(drain: &Counter<Nobody>) {
    drain.begin(Arc::new(Nobody));
    drain.close();
    drop(drain.release());
}

fn entry(handle: &CounterHandle<Nobody>) -> Option<Token<Nobody>> {
    let late = || handle.enter_late(|()| true);
    handle.enter_by_index().or_else(late)
}

fn is_uncounted(handle: &CounterHandle<Nobody>) -> bool {
    entry(handle).is_some_and(|token| !token.is_counted())
}

fn enter(drain: &Counter<Nobody>) -> Token<Nobody> {
    drain.handle().enter_by_index().expect("it has not begun")
}

#[test]
fn a_drain_that_is_dropped_before_it_began_leaves_its_services_serving() {
    let pool = pool();
    let dropped = drain(pool);
    let handle = dropped.handle();
    let token = enter(&dropped);
    drop(dropped);
    assert!(is_uncounted(&handle));
    assert!(handle.data().is_none());
    assert_eq!(pool.free(), 0, "a request is still on it");
    drop(token);
    assert_eq!(pool.free(), 1);
    assert!(is_uncounted(&handle));
}

#[test]
fn a_drain_that_is_over_leaves_its_services_refusing() {
    let pool = pool();
    let over = drain(pool);
    let handle = over.handle();
    drop(enter(&over));
    begin_and_close(&over);
    drop(over);
    assert_eq!(pool.free(), 1);
    assert!(entry(&handle).is_none());
    // Until its block is used again.
    let next = drain(pool);
    assert!(is_uncounted(&handle));
    assert_eq!(next.inside(), 0);
}

#[test]
fn a_stale_handle_never_counts_on_the_block_of_another_drain() {
    let pool = pool();
    let mut stale = Vec::new();
    for round in 0..10 {
        let next = drain(pool);
        let token = enter(&next);
        for handle in &stale {
            assert!(is_uncounted(handle), "{round}");
            assert!(handle.data().is_none());
        }
        assert_eq!(next.inside(), 1);
        stale.push(next.handle());
        if round % 2 == 0 {
            begin_and_close(&next);
            for handle in &stale[..round] {
                assert!(is_uncounted(handle), "{round}");
            }
            assert!(entry(&stale[round]).is_none());
        }
        drop(token);
    }
    assert_eq!(pool.free(), 1, "all of them had the same one");
}

#[test]
fn a_thousand_drains_need_one_block() {
    let pool = pool();
    for round in 0..1000 {
        let next = drain(pool);
        let token = enter(&next);
        if round % 2 == 0 {
            begin_and_close(&next);
        }
        drop(next);
        drop(token);
        assert_eq!(pool.free(), 1);
    }
}

#[test]
fn a_forgotten_token_costs_its_block_and_nothing_else() {
    let pool = pool();
    let first = drain(pool);
    forget(enter(&first));
    begin_and_close(&first);
    assert_eq!(first.inside(), 1);
    drop(first);
    assert_eq!(pool.free(), 0);
    let second = drain(pool);
    drop(enter(&second));
    begin_and_close(&second);
    assert_eq!(second.inside(), 0);
    drop(second);
    assert_eq!(pool.free(), 1);
}

#[test]
fn tokens_with_details_use_one_shard_again_and_again() {
    let first = drain(pool());
    let details = Arc::new(());
    for _ in 0..1000 {
        let token = enter(&first).with_details(details.clone());
        assert!(token.is_slow() && !token.has_begun());
        assert_eq!((first.inside(), Arc::strong_count(&details)), (1, 2));
        assert_eq!(token.address(), first.handle().address());
        assert_eq!(first.handle().spare(), 0);
        drop(token);
        assert_eq!((first.inside(), Arc::strong_count(&details)), (0, 1));
        assert_eq!(first.handle().spare(), 1);
    }
    first.begin(Arc::new(Nobody));
    let token = entry(&first.handle()).expect("it has not closed");
    let token = token.with_details(details.clone());
    assert!(token.has_begun());
    drop(first.release());
}

#[test]
fn a_token_that_counts_nothing_is_on_no_drain() {
    let pool = pool();
    let token = Token::uncounted(pool);
    assert!(token.is_slow() && !token.has_begun() && !token.is_counted());
    drop(token);
    let drain = drain(pool);
    let _token = Token::uncounted(pool);
    assert_eq!(drain.inside(), 0);
    begin_and_close(&drain);
    assert_eq!(drain.ended(0), 0);
    let last = Token::uncounted(pool);
    drop(drain);
    assert_eq!(pool.free(), 1);
    drop(last);
    assert_eq!(pool.free(), 1);
}

/// The usual entry has one check for all of it.
#[test]
fn an_entry_is_not_usual_before_the_thread_has_a_shard_or_in_serve() {
    let drain = drain(pool());
    let handle = drain.handle();
    let on_a_thread = || {
        assert!(handle.enter().is_none(), "it has no shard");
        drop(handle.enter_by_index().expect("it has not begun"));
        assert!(handle.enter().is_some());
        #[cfg(feature = "server")]
        {
            let current = super::current::Current::of_server(&handle);
            assert!(handle.enter().is_none(), "serve may have counted it");
            assert!(handle.enter_by_index().is_some());
            drop(current);
        }
        assert!(handle.enter().is_some());
    };
    std::thread::scope(|threads| {
        let thread = threads.spawn(on_a_thread);
        assert!(thread.join().is_ok());
    });
}
