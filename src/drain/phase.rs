use std::fmt;

/// How far a [`Drain`](crate::Drain) has come. Phases only ever go forward, and compare so; their
/// numbers are not part of the API.
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
    /// Nobody has asked to stop: everything is served.
    Serving,
    /// The end is announced and everything is still served: readiness says no, and HTTP/1
    /// responses carry `Connection: close`, so that balancers and clients move elsewhere. Its last
    /// moment is for the accept queue and for what is in the pipe, where there is a listener.
    LameDuck,
    /// New work is refused; what is in flight is waited for. (A request that arrived in time, on a
    /// connection that the drain knows, is not new.)
    Draining,
    /// The deadline has passed, or [`Drain::force`](crate::Drain::force) was called: what is left
    /// is cut.
    Forced,
    /// It is over, and every waiter has the same outcome.
    Done,
}

impl Phase {
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

impl Phase {
    /// As in JSON.
    #[cfg(feature = "tracing")]
    pub(super) fn as_label(self) -> &'static str {
        match self {
            Self::LameDuck => "lame_duck",
            other => other.as_str(),
        }
    }
}

/// In lower case: `lame duck`.
impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The phases as the crate itself sees them: what happens to connections lies between two of them.
/// Only ever goes forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    Serving,
    LameDuck,
    /// Listeners take what is in their accept queues.
    Backlog,
    /// What is in the pipe is given a moment to arrive. A listener that has handshakes to wait for is
    /// still open, and closes at the end.
    Settling,
    /// Those who asked are told. Requests are still admitted, for the sake of connections that
    /// have sent a part of one, or are so young that they may: they are awaited.
    LastRead,
    /// Servers are told. Requests are still admitted, as long as there are HTTP/2 connections:
    /// until their peers know that they have to go elsewhere, they may open streams.
    ClosingConnections,
    /// New requests are refused.
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

    /// The stage whose discriminant this is; the last one for any number beyond it.
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
