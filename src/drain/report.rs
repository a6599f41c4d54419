//! What a drain waits for, in figures and one by one.

use super::{phase::Phase, wiring::Hint};
use http::Method;
use std::{borrow::Cow, cmp::Reverse, fmt, net::SocketAddr, panic::Location, time::Duration};

/// Describes a drain at one moment: its phase, its time, and what it waits for.
///
/// [`Drain::report`](crate::Drain::report) returns one at any time, and
/// [`DrainTimeout::report`](crate::DrainTimeout::report) the one of the moment of the timeout.
///
/// It displays as a line and a table of the first twenty blockers, with `{:#}` of all:
///
/// ```text
/// draining for 3.2s, 21.8s to go: 1 request, 1 guard, 1 connection (1 handling) left; 31 completed, 0 refused
/// kind        name          state     peer            age    sent   taken at
/// request     POST /report  waiting   10.0.0.7:51234  42.1s
/// guard       outbox                                  12.0s         src/mail.rs:41:9
/// connection                handling  10.0.0.7:51234  50.0s  312 B
/// ```
///
/// The line ends with `last request after 2.9s, last connection after 2.9s` if some came after the
/// drain began. Then comes [what is likely to be
/// wrong](crate::guide::troubleshooting#what-the-drain-says-of-the-wiring), if the drain sees it.
/// With the feature `serde` a report serialises. `Drain::status` serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Names the drain, if [`DrainBuilder::name`](crate::DrainBuilder::name) was called.
    pub name: Option<Cow<'static, str>>,
    /// Says how far the drain has come.
    pub phase: Phase,
    /// Measures the time since the drain began, up to its end. Zero before it begins.
    pub elapsed: Duration,
    /// Measures the time until the [deadline](crate::Drain::deadline). `None` without a deadline,
    /// and once the drain is done.
    pub remaining: Option<Duration>,
    /// Counts requests that ended during the drain: answered, failed, or given up by their client.
    pub completed: u64,
    /// Counts requests that were refused.
    pub refused: u64,
    /// Measures the time from the beginning of the drain to its last new request, also one that was
    /// refused. `None` if none has come. [Exempt](crate::GracefulLayer::exempt) requests do not
    /// count.
    pub last_request: Option<Duration>,
    /// Measures the time from the beginning of the drain to the last connection that a listener of
    /// the drain accepted. `None` if none has come since.
    pub last_connection: Option<Duration>,
    /// Counts requests that were [answered](crate::GracefulLayer::answer_at_deadline) because the
    /// drain was forced before their response had begun. They are not completed.
    pub answered_at_deadline: u64,
    /// Says what ended the waiting. `None` if nothing has.
    pub forced_by: Option<ForcedBy>,
    /// Counts what the drain waits for, or would wait for.
    pub left: Counts,
    /// Lists what the drain waits for.
    ///
    /// Requests come first; then guards and tasks; then connections, idle ones last; then servers,
    /// which wait for all others. Within each group the oldest comes first.
    pub blockers: Vec<Blocker>,
    /// Counts the blockers that [`limit`](Self::limit) has removed.
    pub(super) more_blockers: usize,
    /// Says what is likely to be wrong.
    pub(super) hints: Vec<Hint>,
}

impl Report {
    /// Removes all blockers but the first `most`, and keeps the number of the others.
    pub(crate) fn limit(&mut self, most: usize) {
        self.more_blockers += self.blockers.len().saturating_sub(most);
        self.blockers.truncate(most);
    }
}

/// Says what ended the waiting of a drain before all of its work had ended; in a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ForcedBy {
    /// Says that the [deadline](crate::Drain::deadline) has passed.
    Deadline,
    /// Says that the signal of [`Drain::run`](crate::Drain::run) has come a [second
    /// time](crate::signal::SecondSignal).
    SecondSignal,
    /// Says that [`Drain::force`](crate::Drain::force) was called.
    Call,
}

impl ForcedBy {
    /// Returns the words that follow "given up" or "forced".
    pub(super) fn phrase(self) -> &'static str {
        match self {
            Self::Deadline => "at the deadline",
            Self::SecondSignal => "by a second signal",
            Self::Call => "by a call to force",
        }
    }

    /// Returns the word that JSON uses.
    #[cfg(feature = "tracing")]
    pub(super) fn as_label(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::SecondSignal => "second_signal",
            Self::Call => "call",
        }
    }
}

/// Counts what a drain waits for, or would wait for, by kind; from
/// [`Drain::left`](crate::Drain::left).
///
/// It displays as `2 requests, 1 guard, 1 connection (1 handling)`, and as `nothing`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Counts {
    /// Counts HTTP requests whose response body has not been dropped, and calls of
    /// [`Drain::call_layer`](crate::Drain::call_layer) whose future has not ended.
    pub requests: usize,
    /// Counts [guards](crate::guard::DrainGuard).
    pub guards: usize,
    /// Counts [tracked](crate::Drain::track) futures, and hooks of `Drain::on_shutdown`.
    pub tasks: usize,
    /// Counts servers inside of [`Drain::run`](crate::Drain::run) that have not ended.
    pub servers: usize,
    connections: ByState,
}

/// Counts connections by their [`ConnectionState`].
#[derive(Clone, Default, PartialEq, Eq)]
struct ByState([usize; ConnectionState::ALL.len()]);

impl Counts {
    /// Returns whether there is nothing to wait for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns how many connections a listener of the drain, or `serve`, has accepted that have not
    /// been dropped.
    pub fn connections(&self) -> usize {
        self.connections.0.iter().sum()
    }

    /// Returns how many of the [connections](Self::connections) are in that state.
    ///
    /// ```
    /// use tower_graceful::{Drain, report::ConnectionState};
    ///
    /// let drain = Drain::new();
    /// let web_sockets = drain.left().connections_in(ConnectionState::Upgraded);
    /// assert_eq!(web_sockets, 0);
    /// ```
    pub fn connections_in(&self, state: ConnectionState) -> usize {
        self.connections.0[state as usize]
    }

    pub(super) fn add_connection(&mut self, state: ConnectionState) {
        self.connections.0[state as usize] += 1;
    }

    /// Returns each kind with its count.
    pub(super) fn by_kind(&self) -> [(&'static str, usize); 5] {
        [
            ("request", self.requests),
            ("guard", self.guards),
            ("task", self.tasks),
            ("server", self.servers),
            ("connection", self.connections()),
        ]
    }

    /// Returns whether ending the drain now aborts work. A server that has none is no work.
    pub(super) fn has_work(&self) -> bool {
        let mut connections = self.connections.iter();
        self.requests + self.guards + self.tasks > 0
            || connections.any(|(count, state)| count > 0 && state.is_work())
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (kind, count) in self.by_kind().into_iter().filter(|(_, count)| *count > 0) {
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{separator}{count} {kind}{plural}")?;
            separator = ", ";
        }
        if separator.is_empty() {
            return f.write_str("nothing");
        }
        let mut separator = " (";
        for (count, state) in self.connections.iter().filter(|(count, _)| *count > 0) {
            write!(f, "{separator}{count} {state}")?;
            separator = ", ";
        }
        match separator {
            ", " => f.write_str(")"),
            _ => Ok(()),
        }
    }
}

impl ByState {
    fn iter(&self) -> impl Iterator<Item = (usize, ConnectionState)> {
        self.0.into_iter().zip(ConnectionState::ALL)
    }
}

impl fmt::Debug for ByState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let entries = self.iter().map(|(count, state)| (state, count));
        f.debug_map().entries(entries).finish()
    }
}

/// Says what a connection was last seen doing.
///
/// The drain reads it off the bytes that pass. If they are encrypted, because TLS is around the
/// drain's listener, a connection is [`Opaque`](Self::Opaque) from its first byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
#[repr(u8)]
pub enum ConnectionState {
    /// Has never sent a byte.
    Silent,
    /// Has sent a part of a request's head, or of HTTP/2's preface.
    Reading,
    /// Has sent a request whose response has not begun. Over HTTP/2: has open streams.
    Handling,
    /// Has begun to receive a response.
    ///
    /// The bytes alone do not tell a response that has ended from one that pauses. An HTTP/1 server
    /// closes the former soon after [`Phase::Draining`](crate::Phase::Draining).
    Streaming,
    /// Has begun to receive a response, and the peer does not read it.
    Stalled,
    /// Has left HTTP/1 behind: a WebSocket, a CONNECT tunnel.
    Upgraded,
    /// Has nothing to do: HTTP/2 without streams, and under `serve` HTTP/1 between two requests.
    Idle,
    /// Speaks neither HTTP/1 nor HTTP/2 in plain text.
    Opaque,
}

impl ConnectionState {
    /// Lists all states, each at the index that is its number.
    pub(super) const ALL: [Self; 8] = [
        Self::Silent,
        Self::Reading,
        Self::Handling,
        Self::Streaming,
        Self::Stalled,
        Self::Upgraded,
        Self::Idle,
        Self::Opaque,
    ];

    /// Returns whether an end of the connection aborts work. An idle connection is no work, and one
    /// that streams has a request that is counted, or is idle.
    fn is_work(self) -> bool {
        matches!(
            self,
            Self::Reading | Self::Handling | Self::Stalled | Self::Upgraded
        )
    }

    /// Returns the words that a report uses.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Reading => "reading a head",
            Self::Handling => "handling",
            Self::Streaming => "streaming",
            Self::Stalled => "not read by the peer",
            Self::Upgraded => "upgraded",
            Self::Idle => "idle",
            Self::Opaque => "opaque",
        }
    }

    /// Returns the word that JSON uses.
    #[cfg(any(feature = "metrics", feature = "serde"))]
    pub(super) fn as_label(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Stalled => "stalled",
            other => other.as_str(),
        }
    }
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Describes one thing that a drain waits for, or would wait for; in a [`Report`].
///
/// It displays as a line: `request POST /report, waiting, from 10.0.0.7:51234, 42.1s old`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blocker {
    /// Says what it is.
    pub kind: BlockerKind,
    /// Names a guard or a task, if [`named`](crate::guard::DrainGuard::named) was called.
    pub name: Option<Cow<'static, str>>,
    /// Says where in the program a guard, a task, a hook or a server was handed to the drain.
    pub taken_at: Option<&'static Location<'static>>,
    /// Holds a request's method.
    pub method: Option<Method>,
    /// Holds a request's path without its query, which may contain secrets.
    pub path: Option<String>,
    /// Holds the peer of a TCP connection, or of a request's connection where that is known.
    pub peer: Option<SocketAddr>,
    /// Measures the time since the accept, the call, or the handing over.
    pub age: Duration,
    /// Says whether a request's response has begun: the head is out, the body is not at its end.
    pub response_begun: bool,
    /// Counts the bytes written to a connection.
    pub sent: Option<u64>,
}

impl Blocker {
    /// Creates a blocker of which only the kind and the age are known.
    pub(super) fn new(kind: BlockerKind, age: Duration) -> Self {
        Self {
            kind,
            name: None,
            taken_at: None,
            method: None,
            path: None,
            peer: None,
            age,
            response_begun: false,
            sent: None,
        }
    }

    /// Names the state of a request.
    pub(super) fn request_state(&self) -> &'static str {
        match self.response_begun {
            false => "waiting",
            true => "streaming",
        }
    }

    /// Sorts blockers into the order of [`Report::blockers`].
    pub(super) fn sort(blockers: &mut [Self]) {
        blockers.sort_by_key(|blocker| (blocker.kind.rank(), Reverse(blocker.age)));
    }
}

/// Says what a [`Blocker`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockerKind {
    /// Stands for a request, if its layer [lists requests](crate::GracefulLayer::report_requests).
    /// Other requests, and calls of services that are not HTTP, are only counted, in
    /// [`Counts::requests`].
    Request,
    /// Stands for a connection, and says what it was last seen doing.
    Connection(ConnectionState),
    /// Stands for a [guard](crate::Drain::guard).
    Guard,
    /// Stands for a [tracked](crate::Drain::track) future.
    Task,
    /// Stands for a hook of `Drain::on_shutdown`, which waits to be run, or runs.
    Hook,
    /// Stands for a server inside of [`Drain::run`](crate::Drain::run).
    Server,
}

impl BlockerKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Connection(_) => "connection",
            Self::Guard => "guard",
            Self::Task => "task",
            Self::Hook => "hook",
            Self::Server => "server",
        }
    }

    /// Returns a number that is lower where others are more likely to wait for this one. A table
    /// may be cut short, and on a busy server most connections are older than the work that holds
    /// the drain.
    fn rank(self) -> u8 {
        match self {
            Self::Request => 0,
            // Many tasks are as old as the process, and end when they are told.
            Self::Guard | Self::Task | Self::Hook => 1,
            Self::Connection(state) if state.is_work() => 2,
            Self::Connection(ConnectionState::Streaming | ConnectionState::Opaque) => 3,
            Self::Connection(_) => 4,
            Self::Server => 5,
        }
    }
}

impl fmt::Display for BlockerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Serialises field by field. Times are in seconds, and what is not known is left out.
#[cfg(feature = "serde")]
mod serialize {
    use super::*;
    use serde::ser::{Serialize, SerializeStruct, Serializer};

    impl Serialize for Report {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut report = serializer.serialize_struct("Report", 14)?;
            report.serialize_field("name", &self.name)?;
            report.serialize_field("phase", &self.phase)?;
            report.serialize_field("elapsed_seconds", &self.elapsed.as_secs_f64())?;
            let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
            report.serialize_field("remaining_seconds", &seconds(self.remaining))?;
            report.serialize_field("completed", &self.completed)?;
            report.serialize_field("refused", &self.refused)?;
            report.serialize_field("last_request_seconds", &seconds(self.last_request))?;
            report.serialize_field("last_connection_seconds", &seconds(self.last_connection))?;
            report.serialize_field("answered_at_deadline", &self.answered_at_deadline)?;
            report.serialize_field("forced_by", &self.forced_by)?;
            report.serialize_field("left", &self.left)?;
            report.serialize_field("blockers", &self.blockers)?;
            match self.more_blockers {
                0 => report.skip_field("more_blockers")?,
                more => report.serialize_field("more_blockers", &more)?,
            }
            match self.hints.is_empty() {
                true => report.skip_field("hints")?,
                false => report.serialize_field("hints", &self.hints)?,
            }
            report.end()
        }
    }

    impl Serialize for ByState {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.collect_map(self.iter().map(|(count, state)| (state, count)))
        }
    }

    impl Serialize for Blocker {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let state = match self.kind {
                BlockerKind::Connection(state) => Some(state.as_label()),
                BlockerKind::Request => Some(self.request_state()),
                _ => None,
            };
            let mut blocker = serializer.serialize_struct("Blocker", 9)?;
            blocker.serialize_field("kind", self.kind.as_str())?;
            macro_rules! known {
                ($($name:literal: $value:expr),+ $(,)?) => {
                    $(match &$value {
                        Some(value) => blocker.serialize_field($name, value)?,
                        None => blocker.skip_field($name)?,
                    })+
                };
            }
            known! {
                "state": state,
                "name": self.name,
                "taken_at": self.taken_at.map(ToString::to_string),
                "method": self.method.as_ref().map(Method::as_str),
                "path": self.path,
                "peer": self.peer,
                "sent": self.sent,
            }
            blocker.serialize_field("age_seconds", &self.age.as_secs_f64())?;
            blocker.end()
        }
    }
}
