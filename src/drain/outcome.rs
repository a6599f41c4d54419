use super::{
    report::{ForcedBy, Report},
    table::{time, write_table},
};
use std::{error::Error, fmt, ops::Deref, sync::Arc, time::Duration};

/// Everything that was in flight has ended: nothing was cut.
///
/// Comes from [`Drain::wait`](crate::Drain::wait), [`Drain::shutdown`](crate::Drain::shutdown) and
/// [`Drain::run`](crate::Drain::run).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// From the beginning of the drain to the end of the last request.
    pub elapsed: Duration,
    /// Requests that ended during the drain: answered, failed, or given up by their client.
    pub completed: u64,
    /// Requests that were refused.
    pub refused: u64,
}

/// The time was over before the work was: what is [`left`](Report::left) was cut, or is about to be
/// when the process ends.
///
/// It is the [`Report`] of that moment, to whose fields it gives: `timeout.left`, `timeout.blockers`. It
/// prints as a line; with `{:#}`, as that line and the table of what was left.
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
///     // drain given up after 0ms by a call to force with 1 guard left (…), and its name, and where it was taken
///     eprintln!("{timeout:#}");
///     assert_eq!(timeout.blockers[0].name.as_deref(), Some("outbox"));
/// }
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct DrainTimeout {
    // Errors are moved about, and all who wait get this one.
    report: Arc<Report>,
}

impl DrainTimeout {
    pub(super) fn new(report: Report) -> Self {
        Self {
            report: Arc::new(report),
        }
    }
}

impl Deref for DrainTimeout {
    type Target = Report;

    fn deref(&self) -> &Report {
        &self.report
    }
}

impl fmt::Debug for DrainTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match f.alternate() {
            true => f.debug_tuple("DrainTimeout").field(&self.report).finish(),
            // For those who let `main` return it, or `unwrap` it: this is what is printed then.
            false => write!(f, "{self:#}"),
        }
    }
}

/// How a drain ends, once, for all who wait.
pub(crate) type Outcome = Result<Drained, DrainTimeout>;

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "drained in {}: {} completed, {} refused, nothing left",
            time(self.elapsed),
            self.completed,
            self.refused
        )
    }
}

impl fmt::Display for DrainTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "drain given up after {} {} with {} left ({} completed, {} refused)",
            time(self.elapsed),
            self.forced_by.unwrap_or(ForcedBy::Deadline).phrase(),
            self.left,
            self.completed,
            self.refused
        )?;
        if let Some(hint) = self.hint() {
            write!(f, "; {hint}")?;
        }
        match f.alternate() {
            true => write_table(self, f),
            false => Ok(()),
        }
    }
}

impl Error for DrainTimeout {}

/// Field by field, with the time in seconds; a [`DrainTimeout`] as the [`Report`] that it is.
#[cfg(feature = "serde")]
mod serialize {
    use super::*;
    use serde::ser::{Serialize, SerializeStruct, Serializer};

    impl Serialize for Drained {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut drained = serializer.serialize_struct("Drained", 3)?;
            drained.serialize_field("elapsed_seconds", &self.elapsed.as_secs_f64())?;
            drained.serialize_field("completed", &self.completed)?;
            drained.serialize_field("refused", &self.refused)?;
            drained.end()
        }
    }

    impl Serialize for DrainTimeout {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.report.serialize(serializer)
        }
    }
}

/// The drain has begun: no new work is accepted.
///
/// What [`Drain::guard`](crate::Drain::guard) and [`Drain::track`](crate::Drain::track) return
/// then, and what a service behind [`Drain::call_layer`](crate::Drain::call_layer) answers with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("refused: the service is shutting down")
    }
}

impl Error for Refused {}

/// Why [`Drain::run`](crate::Drain::run) did not end well.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError<E> {
    /// The time was over before the work was, and the server was dropped.
    Timeout(DrainTimeout),
    /// The server itself ended with an error. The drain was then seen through.
    #[non_exhaustive]
    Server {
        /// The server's error.
        error: E,
        /// How the drain went.
        outcome: Result<Drained, DrainTimeout>,
    },
}

impl<E> fmt::Display for RunError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout(timeout) => timeout.fmt(f),
            // Why it failed, its source says.
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

impl<E: Error + 'static> Error for RunError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            // Its text is already ours.
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
