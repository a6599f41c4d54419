//! Tells a request to stop from a copy of a signal.

use std::time::{Duration, Instant};

/// Limits the time after the first signal within which other signals are copies of it.
const COPIES: Duration = Duration::from_millis(500);

/// Counts requests to stop, and tells them from copies of a signal.
///
/// Since the last call of `terminate`, the first one begins the drain, the second one forces it,
/// and the third one ends the process. This reads no clock, so that tests can choose the time of a
/// signal.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Requests {
    /// Counts the requests in the life of the process.
    pub(super) all: u64,
    /// Counts the requests before the last call of `terminate`.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) before: u64,
    /// Records when the last request came; `None` if none has come since the last call of
    /// `terminate`.
    last: Option<Instant>,
    /// Says whether one of the signals of the last request is a SIGINT.
    pub(super) interrupt: bool,
}

impl Requests {
    /// Makes the next request the first one.
    #[cfg(unix)]
    pub(super) fn begin_anew(&mut self) {
        self.before = self.all;
        self.last = None;
    }

    /// Counts a signal. Returns whether it is a new request and not a copy.
    pub(super) fn count(&mut self, now: Instant, interrupt: bool) -> bool {
        let is_copy = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) <= COPIES);
        if !is_copy {
            self.all += 1;
            self.last = Some(now);
            self.interrupt = false;
        }
        self.interrupt |= interrupt;
        !is_copy
    }

    /// Returns whether the last request ends the process.
    #[cfg(unix)]
    pub(super) fn kills(&self) -> bool {
        self.all - self.before >= 3
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn i64_what_comes_within_half_a_second_of_the_first_is_the_same_request() {
        let start = Instant::now();
        let mut requests = Requests::default();
        let mut count = |millis| requests.count(start + Duration::from_millis(millis), false);
        let new: Vec<_> = [0, 0, 2, 300, 500, 501, 502, 1001, 1002, 1003, 9000]
            .into_iter()
            .filter(|millis| count(*millis))
            .collect();
        // Within 500 ms of the first one, not of the last one. So signals that go on become new
        // requests.
        assert_eq!(new, [0, 501, 1002, 9000]);
    }

    #[test]
    fn i64_the_third_request_kills_and_no_copy_does() {
        let mut now = Instant::now();
        let mut requests = Requests::default();
        for kills in [false, false, true] {
            for _ in 0..5 {
                now += Duration::from_millis(2);
                requests.count(now, false);
                assert_eq!(requests.kills(), kills);
            }
            now += COPIES;
        }
    }

    #[test]
    fn i64_they_are_counted_anew_from_the_next_call_on() {
        let now = Instant::now();
        let mut requests = Requests::default();
        for _ in 0..4 {
            requests.begin_anew();
            assert!(requests.count(now, false), "also within 500 ms");
            assert!(!requests.kills());
        }
        assert_eq!(requests.all, 4);
    }

    #[test]
    fn i64_a_ctrl_c_is_one_whatever_comes_with_it() {
        let start = Instant::now();
        for (kinds, expected) in [
            ([true, false], true),
            ([false, true], true),
            ([true, true], true),
            ([false, false], false),
        ] {
            let mut requests = Requests::default();
            for interrupt in kinds {
                requests.count(start, interrupt);
            }
            assert_eq!(requests.interrupt, expected);
        }
        let mut requests = Requests::default();
        requests.count(start, true);
        requests.count(start + 2 * COPIES, false);
        assert!(!requests.interrupt, "of the last request alone");
    }

    /// A clock that goes back does not make a request of a copy.
    #[test]
    fn i64_an_earlier_instant_is_a_copy() {
        let now = Instant::now();
        let mut requests = Requests::default();
        assert!(requests.count(now + COPIES, false));
        assert!(!requests.count(now, false));
    }
}
