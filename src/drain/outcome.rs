//! How a drain ends, and why work is refused.

use super::{
    report::{ForcedBy, Report},
    table::{time, write_answered, write_hints, write_table},
    wiring::Hint,
};
use std::{error::Error, fmt, sync::Arc, time::Duration};

/// Says that everything that was in flight has ended, and nothing was aborted.
///
/// [`Drain::wait`](crate::Drain::wait), [`Drain::shutdown`](crate::Drain::shutdown) and
/// [`Drain::run`](crate::Drain::run) return it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Measures the time from the beginning of the drain to the end of the last work.
    pub elapsed: Duration,
    /// Counts requests that ended during the drain: answered, failed, or given up by their client.
    pub completed: u64,
    /// Counts requests that were refused.
    pub refused: u64,
    /// Measures the time from the beginning of the drain to its last new request, also one that was
    /// refused. `None` if none came.
    ///
    /// With [`last_connection`](Self::last_connection), it says how long the [lame
    /// duck](crate::DrainBuilder::lame_duck) has to be.
    pub last_request: Option<Duration>,
    /// Measures the time from the beginning of the drain to the last connection that a listener of
    /// the drain accepted. `None` if none came since.
    pub last_connection: Option<Duration>,
    /// Says what is likely to be wrong.
    pub(super) hints: Vec<Hint>,
}

/// Says that the deadline came before the end of the work, and holds the [report](Self::report) of
/// that moment.
///
/// The connections that the report lists were aborted, and requests without a response were
/// answered. Guards, tasks and other calls run on until the process ends.
///
/// It displays as a line; with `{:#}`, and as `Debug`, as that line and the table of the report.
///
/// ```
/// use tower_graceful::Drain;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let drain = Drain::new();
/// let guard = drain.guard().map(|guard| guard.named("outbox"));
/// drain.force();
/// if let Err(timeout) = drain.wait().await {
///     // drain given up after 0ms by a call to force with 1 guard left (…), and a table
///     eprintln!("{timeout:#}");
///     assert_eq!(timeout.report().blockers[0].name.as_deref(), Some("outbox"));
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct DrainTimeout {
    // Shared: a report is large for an error, and every waiter gets this one.
    report: Arc<Report>,
}

impl DrainTimeout {
    pub(super) fn new(report: Report) -> Self {
        Self {
            report: Arc::new(report),
        }
    }

    /// Returns the report of the moment at which the drain was given up.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

/// Says that the drain has begun and accepts no new work.
///
/// [`Drain::guard`](crate::Drain::guard) and [`Drain::track`](crate::Drain::track) return it then,
/// and so does a service behind [`Drain::call_layer`](crate::Drain::call_layer).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused;

/// Says why [`Drain::run`](crate::Drain::run) failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<E> {
    /// Says that the deadline came before the end of the work, and the server was dropped.
    Timeout(DrainTimeout),
    /// Says that the server ended with an error. The drain was then seen through to its end.
    #[non_exhaustive]
    Server {
        /// Holds the server's error.
        error: E,
        /// Says how the drain ended.
        outcome: Result<Drained, DrainTimeout>,
    },
}

/// Tells how a drain has ended, the same for every waiter.
pub(crate) type Outcome = Result<Drained, DrainTimeout>;

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "drained in {}: {} completed, {} refused, nothing left",
            time(self.elapsed),
            self.completed,
            self.refused
        )?;
        write_hints(&self.hints, f)
    }
}

impl fmt::Display for DrainTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.report();
        write!(
            f,
            "drain given up after {} {} with {} left ({} completed, {} refused",
            time(report.elapsed),
            report.forced_by.unwrap_or(ForcedBy::Deadline).phrase(),
            report.left,
            report.completed,
            report.refused
        )?;
        write_answered(report, f)?;
        f.write_str(")")?;
        write_hints(&report.hints, f)?;
        match f.alternate() {
            true => write_table(report, f),
            false => Ok(()),
        }
    }
}

impl fmt::Debug for DrainTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match f.alternate() {
            true => f.debug_tuple("DrainTimeout").field(&self.report).finish(),
            // What a `main` that returns it prints, and `unwrap`.
            false => write!(f, "{self:#}"),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused: the service is shutting down")
    }
}

impl<E> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(timeout) => timeout.fmt(f),
            // The server's error is the source, and says why it failed.
            Self::Server {
                outcome: Ok(drained),
                ..
            } => write!(f, "the server failed; {drained}"),
            Self::Server {
                outcome: Err(timeout),
                ..
            } => write!(f, "the server failed; {timeout}"),
        }
    }
}

impl Error for DrainTimeout {}

impl Error for Refused {}

impl<E: Error + 'static> Error for RunError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // The text of the timeout is already this error's text.
            Self::Timeout(_) => None,
            Self::Server { error, .. } => Some(error),
        }
    }
}

impl<E> From<DrainTimeout> for RunError<E> {
    fn from(timeout: DrainTimeout) -> Self {
        Self::Timeout(timeout)
    }
}

/// Serialises field by field, with times in seconds, and a [`DrainTimeout`] as its [`Report`].
#[cfg(feature = "serde")]
mod serialize {
    use super::*;
    use serde::ser::{Serialize, SerializeStruct, Serializer};

    impl Serialize for Drained {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut drained = serializer.serialize_struct("Drained", 6)?;
            drained.serialize_field("elapsed_seconds", &self.elapsed.as_secs_f64())?;
            drained.serialize_field("completed", &self.completed)?;
            drained.serialize_field("refused", &self.refused)?;
            let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
            drained.serialize_field("last_request_seconds", &seconds(self.last_request))?;
            drained.serialize_field("last_connection_seconds", &seconds(self.last_connection))?;
            match self.hints.is_empty() {
                true => drained.skip_field("hints")?,
                false => drained.serialize_field("hints", &self.hints)?,
            }
            drained.end()
        }
    }

    impl Serialize for DrainTimeout {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.report.serialize(serializer)
        }
    }
}
