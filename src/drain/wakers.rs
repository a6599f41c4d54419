//! Wakes the tasks of one connection.

use super::sync::{AtomicUsize, Mutex, Ordering};
use std::{sync::PoisonError, task::Waker};

/// Holds the waker of each task that waits on a connection, by its [`Role`].
///
/// A task that is polled again and again registers once: [`RegisteredWaker`] remembers that it has.
/// So a request takes no lock here.
pub(crate) struct Wakers {
    by_role: Mutex<[Option<Waker>; 3]>,
    /// Counts the times that wakers were taken out. Changed under the lock.
    wakes: AtomicUsize,
}

/// Names what a task does on a connection. One task may do all of it.
#[derive(Clone, Copy)]
pub(crate) enum Role {
    Reads,
    Writes,
    /// Drives the connection, under `serve`.
    #[allow(dead_code, reason = "for the feature `server`")]
    Drives,
}

/// Remembers the waker that one role has registered last, and the count of wake-ups at that time.
/// Each role of a connection has one of its own.
#[derive(Debug, Default)]
pub(crate) struct RegisteredWaker(Option<(Waker, usize)>);

impl Wakers {
    pub(super) fn new() -> Self {
        Self {
            by_role: Mutex::new([None, None, None]),
            wakes: AtomicUsize::new(0),
        }
    }

    /// Registers a task, to be woken once. A wake-up before this call does not wake it, so the
    /// caller looks at the schedule after this call.
    #[inline]
    pub(crate) fn register(&self, role: Role, waker: &Waker, last: &mut RegisteredWaker) {
        // If this reads an old count, the waker that was taken out meanwhile wakes the task.
        let wakes = self.wakes.load(Ordering::Acquire);
        match &last.0 {
            Some((last, seen)) if *seen == wakes && last.will_wake(waker) => {}
            _ => self.register_anew(role, waker, last),
        }
    }

    #[cold]
    fn register_anew(&self, role: Role, waker: &Waker, last: &mut RegisteredWaker) {
        let (registered, remembered) = (waker.clone(), waker.clone());
        let mut by_role = self.by_role.lock().unwrap_or_else(PoisonError::into_inner);
        let before = by_role[role as usize].replace(registered);
        let wakes = self.wakes.load(Ordering::Relaxed);
        // Outside of the lock: the drop of a waker may run any code.
        drop(by_role);
        drop(before);
        last.0 = Some((remembered, wakes));
    }

    /// Wakes the task of one role.
    pub(crate) fn wake(&self, role: Role) {
        self.take(|by_role| [by_role[role as usize].take(), None, None]);
    }

    /// Wakes all tasks.
    pub(crate) fn wake_all(&self) {
        self.take(std::mem::take);
    }

    fn take(&self, take: impl FnOnce(&mut [Option<Waker>; 3]) -> [Option<Waker>; 3]) {
        let mut by_role = self.by_role.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = take(&mut by_role);
        let wakes = self.wakes.load(Ordering::Relaxed);
        self.wakes.store(wakes.wrapping_add(1), Ordering::Release);
        // Outside of the lock: a waker may run any code.
        drop(by_role);
        taken.into_iter().flatten().for_each(Waker::wake);
    }
}
