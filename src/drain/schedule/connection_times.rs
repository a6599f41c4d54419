//! Tells connections the times that they need.

use super::{HEAD_LIMIT, Schedule, add};
use crate::drain::phase::Stage;
use std::time::Duration;
use tokio::time::Instant;

/// Delays the Close frames of WebSockets. A handler that waits for the drain closes by itself.
const HANDLERS_FIRST: Duration = Duration::from_millis(100);

impl Schedule {
    /// Returns whether requests are answered because the drain was forced.
    pub(crate) fn is_answering(&self) -> bool {
        self.stage == Stage::Forced && self.answering.is_some()
    }

    /// Returns how long a connection has to be idle before it is closed.
    #[cfg(feature = "server")]
    pub(crate) fn settle_time(&self) -> Duration {
        self.settings.settle
    }

    /// Returns when the settling ends; `None` in any other stage.
    #[cfg(feature = "server")]
    pub(crate) fn settling_until(&self) -> Option<Instant> {
        match self.stage {
            Stage::Settling => self.after(Stage::Settling, self.settings.settle),
            _ => None,
        }
    }

    /// Returns when a connection has its client go elsewhere, within LameDuck; `None` in any other
    /// stage, and for a connection that was accepted after the drain began. `share` is a random
    /// number, so that the clients do not all connect anew in one instant.
    ///
    /// A GOAWAY loses nothing. An HTTP/1 connection that is closed may lose a request that is on
    /// its way. So it has a third of the time to carry one more request first: after that it is one
    /// that is seldom used.
    #[cfg(feature = "server")]
    pub(crate) fn moves_at(&self, accepted: Instant, http2: bool, share: u16) -> Option<Instant> {
        let begun = self.begun().filter(|begun| accepted < *begun)?;
        if self.stage != Stage::LameDuck || !self.has_lame_duck() {
            return None;
        }
        // The last ones need a moment to connect anew before the listeners close: they may come back.
        let all = self.settings.lame_duck / 10 * 9;
        let start = if http2 { Duration::ZERO } else { all / 3 };
        let after = (all - start) / (1 << u16::BITS) * u32::from(share);
        begun.checked_add(start + after)
    }

    /// Returns when to close a WebSocket; `None` before the drain. `share` is a random number
    /// that places this one within `over`.
    pub(crate) fn closes_websocket_at(&self, over: Duration, share: u16) -> Option<Instant> {
        let from = self.at(Stage::LastRead)?;
        // The last clients need a moment to answer before the deadline.
        let most = self.deadline.map_or(Duration::MAX, |deadline| {
            deadline.saturating_duration_since(from) / 10 * 9
        });
        let start = HANDLERS_FIRST.min(most);
        let over = over.min(most - start);
        let after = start + over / (1 << u16::BITS) * u32::from(share);
        from.checked_add(after)
    }

    /// Returns when to close a connection that has sent nothing since its accept.
    pub(crate) fn first_byte_until(&self, accepted: Instant) -> Option<Instant> {
        accepted.checked_add(self.settings.grace)
    }

    /// Returns when to close a connection that has sent a part of a head.
    pub(crate) fn head_until(&self) -> Option<Instant> {
        self.after(Stage::LastRead, HEAD_LIMIT.max(self.settings.grace))
    }

    /// Returns when to close an HTTP/2 connection that has had no streams since the given instant.
    pub(crate) fn idle_until(&self, since: Option<Instant>) -> Option<Instant> {
        // `None` is less than any instant.
        add(self.at(Stage::ClosingConnections).max(since), HEAD_LIMIT)
    }
}

#[cfg(all(test, feature = "net"))]
mod tests {
    use super::*;
    use crate::{Drain, Phase};

    #[tokio::test(start_paused = true)]
    async fn web_sockets_are_closed_within_nine_tenths_of_the_time() {
        let builder = Drain::builder().settle(Duration::ZERO);
        let drain = builder.timeout(Duration::from_secs(10)).build();
        let at = |over: u64, share| {
            let over = Duration::from_secs(over);
            let shared = drain.shared();
            shared.look(|schedule| schedule.closes_websocket_at(over, share))
        };
        assert_eq!(at(0, 0), None);
        let began = Instant::now();
        drain.begin();
        drain.reached(Phase::Draining).await;
        let after = |over, share| {
            let at: Option<Instant> = at(over, share);
            let after = at.expect("draining").duration_since(began);
            after.as_secs_f64().mul_add(100.0, 0.5) as u64
        };
        // In hundredths of a second.
        assert_eq!([after(0, 0), after(0, u16::MAX)], [10, 10]);
        assert_eq!([after(4, 0), after(4, 1 << 15)], [10, 210]);
        assert_eq!([after(60, 0), after(60, 1 << 15)], [10, 455]);
        assert_eq!(after(60, u16::MAX), 900);
    }
}
