use std::fmt;

/// Names how far a [`Drain`](crate::Drain) has come.
///
/// Phases only go forward, and a later phase compares as greater. Their discriminants are not part
/// of the API.
///
/// ```
/// use tower_graceful::{Drain, Phase};
///
/// let drain = Drain::new();
/// assert_eq!(drain.phase(), Phase::Serving);
/// drain.begin();
/// assert!(drain.phase() >= Phase::Draining);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
#[repr(u8)]
pub enum Phase {
    /// Serves everything: the drain has not begun.
    Serving,
    /// Serves everything, and announces that the drain has begun.
    ///
    /// Readiness fails and HTTP/1 responses carry `Connection: close`, so that balancers and
    /// clients move elsewhere. If there is a listener, it empties its accept queue at the end of
    /// this phase, and requests in transit get a moment to arrive.
    LameDuck,
    /// Refuses new work, and waits for what is in flight.
    ///
    /// A request that arrived in time, on a connection that the drain knows, is not new.
    Draining,
    /// Aborts the connections that are left: the deadline has passed, or
    /// [`Drain::force`](crate::Drain::force) was called.
    ///
    /// Requests whose response has not begun are
    /// [answered](crate::GracefulLayer::answer_at_deadline) before.
    Forced,
    /// Ends the drain: every waiter gets the same outcome.
    Done,
}

impl Phase {
    /// Returns the first stage of the phase.
    pub(crate) fn first_stage(self) -> Stage {
        match self {
            Self::Serving => Stage::Serving,
            Self::LameDuck => Stage::LameDuck,
            Self::Draining => Stage::LastRead,
            Self::Forced => Stage::Forced,
            Self::Done => Stage::Done,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::LameDuck => "lame duck",
            Self::Draining => "draining",
            Self::Forced => "forced",
            Self::Done => "done",
        }
    }
}

/// Prints in lower case: `lame duck`.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Divides the phases into the steps that connections go through. Stages only go forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    Serving,
    LameDuck,
    /// Empties the accept queues of listeners.
    Backlog,
    /// Gives requests in transit a moment to arrive. A listener that waits for handshakes is still
    /// open, and closes at the end.
    Settling,
    /// Wakes waiters for `Phase::Draining`. Requests are still admitted: each connection looks for
    /// bytes once more, and those that may still deliver a request are waited for.
    LastRead,
    /// Gives servers their shutdown signal. Requests are still admitted while there are HTTP/2
    /// connections: a peer may open streams until it has got the GOAWAY.
    ClosingConnections,
    /// Refuses new requests.
    Draining,
    Forced,
    Done,
}

impl Stage {
    pub(crate) fn phase(self) -> Phase {
        match self {
            Self::Serving => Phase::Serving,
            Self::LameDuck | Self::Backlog | Self::Settling => Phase::LameDuck,
            Self::LastRead | Self::ClosingConnections | Self::Draining => Phase::Draining,
            Self::Forced => Phase::Forced,
            Self::Done => Phase::Done,
        }
    }

    /// Returns the stage with this discriminant, or the last stage if there is none.
    #[inline]
    pub(crate) fn from_u8(discriminant: u8) -> Self {
        match discriminant {
            0 => Self::Serving,
            1 => Self::LameDuck,
            2 => Self::Backlog,
            3 => Self::Settling,
            4 => Self::LastRead,
            5 => Self::ClosingConnections,
            6 => Self::Draining,
            7 => Self::Forced,
            _ => Self::Done,
        }
    }
}
