use std::{error::Error, fmt, time::Duration};

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

/// The time was over before the work was: what is [`left`](Self::left) was cut, or is about to be
/// when the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DrainTimeout {
    /// From the beginning of the drain to the moment it was given up.
    pub elapsed: Duration,
    /// Requests that ended during the drain: answered, failed, or given up by their client.
    pub completed: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// What had not ended.
    pub left: Left,
}

/// What a drain still waits for, by kind; see [`Drain::left`](crate::Drain::left).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Left {
    /// Requests whose response body has not ended.
    pub requests: usize,
    /// [Guards](crate::DrainGuard) and [tracked tasks](crate::Drain::track).
    pub guards: usize,
    /// Servers inside of [`Drain::run`](crate::Drain::run) that have not ended.
    pub servers: usize,
    /// Connections that a listener of the drain has accepted and that have not been dropped.
    pub connections: Connections,
}

/// Connections by what they were last seen doing; in [`Left`].
///
/// What is seen are the bytes that go by. Where they are encrypted (the listener of the drain is
/// inside of TLS), a connection is [`opaque`](Self::opaque) from its first byte on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connections {
    /// Has never sent a byte.
    pub silent: usize,
    /// Has sent a part of a request's head, or of HTTP/2's preface.
    pub reading: usize,
    /// Has sent a request that nothing has been answered to yet; HTTP/2: has open streams.
    pub handling: usize,
    /// The response has begun. From the bytes alone, one that has ended can not be told from one
    /// that pauses; an HTTP/1 server closes the former soon after
    /// [`Phase::Draining`](crate::Phase::Draining).
    pub streaming: usize,
    /// The response has begun, and the peer does not read it.
    pub stalled: usize,
    /// A WebSocket, a CONNECT tunnel, or what else has left HTTP/1 behind.
    pub upgraded: usize,
    /// HTTP/2 without streams.
    pub idle: usize,
    /// Neither HTTP/1 nor HTTP/2 in plain text.
    pub opaque: usize,
}

/// How a drain ends, once, for all who wait.
pub(crate) type Outcome = Result<Drained, DrainTimeout>;

impl Left {
    /// True when nothing is waited for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether ending it now cuts anything that somebody waits for: not so an idle connection, or
    /// a server without work. (A connection that streams has a request, or is idle.)
    pub(super) fn has_work(&self) -> bool {
        let Connections {
            reading,
            handling,
            stalled,
            upgraded,
            ..
        } = self.connections;
        self.requests + self.guards + reading + handling + stalled + upgraded > 0
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.requests, "request"),
            (self.guards, "guard"),
            (self.servers, "server"),
            (self.connections.total(), "connection"),
        ];
        let mut separator = "";
        for (count, kind) in kinds.into_iter().filter(|(count, _)| *count > 0) {
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{separator}{count} {kind}{plural}")?;
            separator = ", ";
        }
        if self.connections.any() {
            write!(f, " ({})", self.connections)?;
        }
        if separator.is_empty() {
            f.write_str("nothing")?;
        }
        Ok(())
    }
}

impl Connections {
    /// All of them.
    pub fn total(&self) -> usize {
        self.by_state().iter().map(|(count, _)| count).sum()
    }

    pub(super) fn any(&self) -> bool {
        self.total() > 0
    }

    fn by_state(&self) -> [(usize, &'static str); 8] {
        [
            (self.silent, "silent"),
            (self.reading, "reading a head"),
            (self.handling, "handling"),
            (self.streaming, "streaming"),
            (self.stalled, "not read by the peer"),
            (self.upgraded, "upgraded"),
            (self.idle, "idle"),
            (self.opaque, "opaque"),
        ]
    }
}

impl fmt::Display for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (count, state) in self.by_state().iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {state}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            f.write_str("none")?;
        }
        Ok(())
    }
}

impl fmt::Display for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "drained in {:?}: {} completed, {} refused, nothing left",
            self.elapsed, self.completed, self.refused
        )
    }
}

impl fmt::Display for DrainTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "drain given up after {:?} with {} left ({} completed, {} refused)",
            self.elapsed, self.left, self.completed, self.refused
        )
    }
}

impl Error for DrainTimeout {}

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
