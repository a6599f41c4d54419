//! Sleeps until an instant that may change.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::time::{Instant, Sleep, sleep_until};

/// Sleeps until an instant that may differ from poll to poll. Allocates at the first poll.
///
/// Moving tokio's timer takes a lock, so a timer that fires before its instant is left as it is. It
/// wakes the task once more than needed.
#[derive(Debug, Default)]
pub(crate) struct Timer(Option<Pin<Box<Sleep>>>);

impl Timer {
    /// Is ready once the instant has passed. Otherwise the task wakes then, or before.
    pub(crate) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        loop {
            if sleep.deadline() > at || (sleep.is_elapsed() && sleep.deadline() < at) {
                sleep.as_mut().reset(at);
            }
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline() >= at {
                return Poll::Ready(());
            }
        }
    }

    /// Frees the memory of the timer.
    pub(crate) fn stop(&mut self) {
        self.0 = None;
    }
}

/// Returns a random number, by which connections share a duration. It is from the one source of
/// randomness in the standard library.
pub(crate) fn random() -> u16 {
    RandomState::new().hash_one(0) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, time::Duration};
    use tokio_test::{assert_pending, assert_ready, task};

    #[tokio::test(start_paused = true)]
    async fn it_fires_at_the_instant_of_the_last_poll() {
        let mut timer = Timer::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut poll = |seconds, waker: &mut task::Spawn<()>| {
            waker.enter(|cx, _| timer.poll(after(seconds), cx))
        };
        let mut task = task::spawn(());
        assert_pending!(poll(5, &mut task));
        // Earlier: it has to be moved.
        assert_pending!(poll(3, &mut task));
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(task.is_woken());
        assert_ready!(poll(3, &mut task));
        // Later: it wakes at the old instant, too.
        assert_pending!(poll(5, &mut task));
        assert_pending!(poll(9, &mut task));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(task.is_woken());
        assert_pending!(poll(9, &mut task));
        assert!(!task.is_woken());
        poll_fn(|cx| timer.poll(after(9), cx)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(9));
        assert_ready!(timer.poll(after(1), &mut Context::from_waker(std::task::Waker::noop())));
    }
}
