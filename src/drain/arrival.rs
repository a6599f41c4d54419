//! Records when the last of something came, for requests and connections of a drain that has begun.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Stands for "none has come".
const NONE: i64 = i64::MIN;

/// Says how much later an instant has to be for it to be written: a millisecond. So in a burst,
/// threads mostly read, and do not take the cache line from each other.
const STEP: i64 = 1_000_000;

/// Holds an instant that is written and read without a lock.
///
/// All accesses are relaxed: the instant publishes nothing else.
#[derive(Debug)]
pub(super) struct LastArrival {
    /// Counts nanoseconds from an arbitrary instant, the same one in the whole process.
    nanos: AtomicI64,
}

impl LastArrival {
    pub(super) fn note(&self, at: Instant) {
        let at = nanos(at);
        if at.saturating_sub(STEP) >= self.nanos.load(Ordering::Relaxed) {
            // Not a store: of two threads, the one with the earlier instant may come second.
            self.nanos.fetch_max(at, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self) -> Option<Instant> {
        let nanos = self.nanos.load(Ordering::Relaxed);
        let distance = Duration::from_nanos(nanos.unsigned_abs());
        match nanos {
            NONE => None,
            0.. => epoch().checked_add(distance),
            _ => epoch().checked_sub(distance),
        }
    }

    pub(super) fn clear(&self) {
        self.nanos.store(NONE, Ordering::Relaxed);
    }
}

impl Default for LastArrival {
    fn default() -> Self {
        Self {
            nanos: AtomicI64::new(NONE),
        }
    }
}

fn epoch() -> Instant {
    static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);
    *EPOCH
}

/// Returns the distance from the epoch. It is negative where a test has paused another clock.
fn nanos(at: Instant) -> i64 {
    let nanos = |distance: Duration| i64::try_from(distance.as_nanos()).unwrap_or(i64::MAX);
    match at.checked_duration_since(epoch()) {
        Some(distance) => nanos(distance),
        None => -nanos(epoch().saturating_duration_since(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_one_stays() {
        let (last, second) = (LastArrival::default(), Duration::from_secs(1));
        assert_eq!(last.get(), None);
        let (now, moment) = (epoch(), Duration::from_micros(999));
        for (noted, latest) in [
            (now - second, now - second),
            (now - 2 * second, now - second),
            (now, now),
            (now + moment, now),
            (now + second, now + second),
            (now, now + second),
        ] {
            last.note(noted);
            assert_eq!(last.get(), Some(latest));
        }
        last.clear();
        assert_eq!(last.get(), None);
    }
}
