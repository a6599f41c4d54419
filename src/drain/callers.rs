//! Lists the tasks that wait for the capacity of a service, to be woken when the drain refuses.
//!
//! A service that is dropped while its caller waits does not say so. A drop of its own would cost
//! each request, as each has a clone of the service. So the list itself finds out which callers are
//! gone: whenever it has grown to its limit, it wakes them all. A caller that still waits is polled
//! then, and comes back. A caller that has not come back by the next time is removed. So the list
//! keeps at most as many callers that are gone as have waited at one time, with the memory of their
//! tasks, until others wait or the drain refuses.

use std::{
    collections::BTreeMap,
    num::NonZeroU64,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// Lists the wakers of callers that wait for capacity.
#[derive(Default)]
pub(super) struct Callers(Mutex<CallerList>);

#[derive(Default)]
struct CallerList {
    /// Holds the waker of each caller by its number, and whether the caller was woken to learn if
    /// it still waits.
    callers: BTreeMap<NonZeroU64, (Waker, bool)>,
    /// Counts the callers that were added. A number is not used again, so the number of a removed
    /// caller finds no other.
    added: u64,
    /// Holds the length at which the list looks for callers that are gone, if it is more than
    /// [`LEAST`].
    limit: usize,
}

/// Says how many callers are listed at least before the list looks for those that are gone.
const LEAST: usize = 64;

impl Callers {
    /// Is the number of no caller.
    pub(super) const NONE: NonZeroU64 = NonZeroU64::MAX;

    /// Lists the waker of a caller. Adds the caller if it is not listed.
    pub(super) fn put(&self, number: &mut NonZeroU64, waker: &Waker) {
        let entry = (waker.clone(), false);
        let (mut replaced, mut asked) = (None, Vec::new());
        let mut list = self.lock();
        if let Some(listed) = list.callers.get_mut(number) {
            replaced = Some(std::mem::replace(listed, entry));
        } else {
            if list.callers.len() >= list.limit.max(LEAST) {
                asked = list.ask();
            }
            list.added += 1;
            *number = NonZeroU64::MIN.saturating_add(list.added);
            list.callers.insert(*number, entry);
        }
        // Outside of the lock: the drop of a waker may run any code, and so may a wake-up.
        drop(list);
        drop(replaced);
        asked.into_iter().for_each(Waker::wake);
    }

    /// Removes a caller that does not wait any more.
    pub(super) fn remove(&self, number: NonZeroU64) {
        let mut list = self.lock();
        let removed = list.callers.remove(&number);
        // After a burst, the next look comes soon enough.
        list.limit = list.limit.min(2 * list.callers.len());
        // Outside of the lock, as above.
        drop(list);
        drop(removed);
    }

    /// Removes all callers, and wakes them.
    pub(super) fn wake_all(&self) {
        let mut list = self.lock();
        list.limit = 0;
        let callers = std::mem::take(&mut list.callers);
        drop(list);
        callers.into_values().for_each(|(waker, _)| waker.wake());
    }

    fn lock(&self) -> MutexGuard<'_, CallerList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallerList {
    /// Removes the callers that were asked and have not come back. Returns the wakers of all, to
    /// be woken.
    fn ask(&mut self) -> Vec<Waker> {
        let mut wakers = Vec::with_capacity(self.callers.len());
        self.callers.retain(|_, (waker, is_asked)| {
            wakers.push(waker.clone());
            !std::mem::replace(is_asked, true)
        });
        self.limit = 2 * self.callers.len();
        wakers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_test::task;

    fn put(callers: &Callers, key: &mut NonZeroU64, task: &mut task::Spawn<()>) {
        task.enter(|cx, _| callers.put(key, cx.waker()));
    }

    #[test]
    fn callers_that_are_gone_are_removed_and_those_that_wait_stay() {
        let callers = Callers::default();
        let mut waits = task::spawn(());
        let mut key = Callers::NONE;
        put(&callers, &mut key, &mut waits);
        for _ in 0..1000 {
            let mut gone = Callers::NONE;
            put(&callers, &mut gone, &mut task::spawn(()));
            if waits.is_woken() {
                put(&callers, &mut key, &mut waits);
            }
        }
        assert!(callers.lock().callers.len() <= 3 * LEAST);
        callers.wake_all();
        assert!(waits.is_woken());
    }

    #[test]
    fn many_that_wait_are_asked_a_few_times_only() {
        let callers = Callers::default();
        let mut asked = 0;
        let mut all = Vec::new();
        for _ in 0..10 * LEAST {
            all.push((Callers::NONE, task::spawn(())));
            let added = all.len() - 1;
            for (n, (key, waits)) in all.iter_mut().enumerate() {
                if n == added || waits.is_woken() {
                    asked += usize::from(n < added);
                    put(&callers, key, waits);
                }
            }
        }
        assert_eq!(callers.lock().callers.len(), all.len());
        assert!(asked <= 2 * all.len(), "{asked}");
    }

    #[test]
    fn a_key_of_a_removed_caller_finds_no_other() {
        let callers = Callers::default();
        let (mut one, mut other) = (task::spawn(()), task::spawn(()));
        let (mut first, mut second) = (Callers::NONE, Callers::NONE);
        put(&callers, &mut first, &mut one);
        callers.remove(first);
        put(&callers, &mut second, &mut other);
        callers.remove(first);
        callers.wake_all();
        assert!(other.is_woken() && !one.is_woken());
        // Nor one that is listed after all were woken.
        let (mut later, mut third) = (task::spawn(()), Callers::NONE);
        put(&callers, &mut third, &mut later);
        callers.remove(first);
        callers.remove(second);
        callers.wake_all();
        assert!(later.is_woken());
    }
}
