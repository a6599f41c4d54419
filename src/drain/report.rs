//! What there is, and what of it blocks: for the person who is paged.

use super::phase::Phase;
use http::Method;
use std::{
    borrow::Cow,
    cmp::Reverse,
    fmt::{self, Write as _},
    net::SocketAddr,
    ops::Deref,
    panic::Location,
    time::Duration,
};

/// How a drain stands: is it draining, how long still, what holds it; from
/// [`Drain::report`](crate::Drain::report), and in a [`DrainTimeout`](crate::DrainTimeout).
///
/// It prints as a line and a table of twenty; with `{:#}` of all:
///
/// ```text
/// draining for 3.2s, 21.8s to go: 1 request, 1 guard, 1 connection (1 handling) left; 31 completed, 0 refused
/// kind        name          state     peer            age    sent   taken at
/// request     POST /report  waiting   10.0.0.7:51234  42.1s
/// guard       outbox                                  12.0s         src/mail.rs:41:9
/// connection                handling  10.0.0.7:51234  50.0s  312 B
/// ```
///
/// With the feature `serde` it serialises; `Drain::status` serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What the drain was [named](crate::DrainBuilder::name).
    pub name: Option<Cow<'static, str>>,
    /// How far the drain has come.
    pub phase: Phase,
    /// Since when it goes on: from its beginning to now, or to its end. Zero before it has begun.
    pub elapsed: Duration,
    /// How long until the [deadline](crate::Drain::deadline); `None` where there is none (yet), and when
    /// it is over.
    pub remaining: Option<Duration>,
    /// Requests that ended during the drain: answered, failed, or given up by their client.
    pub completed: u64,
    /// Requests that were refused.
    pub refused: u64,
    /// What ended the waiting; `None` if nothing has.
    pub forced_by: Option<ForcedBy>,
    /// What is still there, in figures.
    pub left: Left,
    /// What is still there, one by one, what is likely to be in the way first.
    pub blockers: Blockers,
    /// Whether servers are left, have been told to stop, and have no work that the drain knows of.
    pub(super) server_alone: bool,
    /// Whether the only work that is left are requests whose handlers wait for this drain.
    pub(super) waits_for_itself: bool,
}

/// What ended the waiting of a drain before everything in flight had ended; in a [`Report`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ForcedBy {
    /// The [deadline](crate::Drain::deadline) has passed.
    Deadline,
    /// The signal of [`Drain::run`](crate::Drain::run) has come [again](crate::Insist).
    SecondSignal,
    /// [`Drain::force`](crate::Drain::force) was called.
    Call,
}

/// What a drain waits for, or would, one by one; in a [`Report`].
///
/// A slice of [`Blocker`]s: requests; then guards and tasks; then connections, those without anything to do after
/// the others; then servers, which wait for all of them; of each, the oldest first. It prints as a table of the first twenty, with `{:#}` of
/// all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blockers {
    list: Vec<Blocker>,
    /// How many are not in the list.
    more: usize,
}

/// One thing that a drain waits for, or would.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Blocker {
    /// What it is.
    pub kind: BlockerKind,
    /// What a guard or a task was [named](crate::DrainGuard::named).
    pub name: Option<Cow<'static, str>>,
    /// Where a guard, a task, a hook or a server was taken, given or run.
    pub taken_at: Option<&'static Location<'static>>,
    /// A request's method.
    pub method: Option<Method>,
    /// A request's path, without its query, in which people put what is nobody's business.
    pub path: Option<String>,
    /// Where a connection comes from, over TCP; or the request's connection, where that is known.
    pub peer: Option<SocketAddr>,
    /// Since its accept, call or taking.
    pub age: Duration,
    /// Bytes: of a connection, those written to it; of a request, those of its response body that the
    /// server has taken, `None` before the response has begun.
    pub sent: Option<u64>,
}

/// What a [`Blocker`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BlockerKind {
    /// A request, where [requests are listed](crate::GracefulLayer::report_requests).
    /// (Those that are not named are in [`Left::requests`] only.)
    Request,
    /// A connection, and what it was last seen doing.
    Connection(ConnectionState),
    /// A [guard](crate::Drain::guard).
    Guard,
    /// A [tracked](crate::Drain::track) future.
    Task,
    /// A hook of `Drain::on_shutdown`, which waits to be run, or runs.
    Hook,
    /// A server inside of [`Drain::run`](crate::Drain::run).
    Server,
}

/// What a drain still waits for, by kind; see [`Drain::left`](crate::Drain::left).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Left {
    /// Requests whose response body has not ended.
    pub requests: usize,
    /// [Guards](crate::DrainGuard).
    pub guards: usize,
    /// [Tracked](crate::Drain::track) futures, and hooks of `Drain::on_shutdown`.
    pub tasks: usize,
    /// Servers inside of [`Drain::run`](crate::Drain::run) that have not ended.
    pub servers: usize,
    /// Connections that a listener of the drain has accepted and that have not been dropped.
    pub connections: Connections,
}

/// What a connection was last seen doing.
///
/// What is seen are the bytes that go by. Where they are encrypted (the listener of the drain is
/// inside of TLS), a connection is [`Opaque`](Self::Opaque) from its first byte on.
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
    /// Has sent a request that nothing has been answered to yet; HTTP/2: has open streams.
    Handling,
    /// The response has begun. From the bytes alone, one that has ended can not be told from one
    /// that pauses; an HTTP/1 server closes the former soon after
    /// [`Phase::Draining`](crate::Phase::Draining).
    Streaming,
    /// The response has begun, and the peer does not read it.
    Stalled,
    /// A WebSocket, a CONNECT tunnel, or what else has left HTTP/1 behind.
    Upgraded,
    /// Without anything to do: HTTP/2 without streams.
    Idle,
    /// Neither HTTP/1 nor HTTP/2 in plain text.
    Opaque,
}

/// How many connections there are in each [state](ConnectionState); in [`Left`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Connections {
    /// [`ConnectionState::Silent`]
    pub silent: usize,
    /// [`ConnectionState::Reading`]
    pub reading: usize,
    /// [`ConnectionState::Handling`]
    pub handling: usize,
    /// [`ConnectionState::Streaming`]
    pub streaming: usize,
    /// [`ConnectionState::Stalled`]
    pub stalled: usize,
    /// [`ConnectionState::Upgraded`]
    pub upgraded: usize,
    /// [`ConnectionState::Idle`]
    pub idle: usize,
    /// [`ConnectionState::Opaque`]
    pub opaque: usize,
}

impl Left {
    /// True when nothing is waited for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether ending it now aborts anything that somebody waits for: not so an idle connection, or
    /// a server without work. (A connection that streams has a request, or is idle.)
    pub(super) fn has_work(&self) -> bool {
        let Connections {
            reading,
            handling,
            stalled,
            upgraded,
            ..
        } = self.connections;
        let works = self.requests + self.guards + self.tasks;
        works + reading + handling + stalled + upgraded > 0
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            (self.requests, "request"),
            (self.guards, "guard"),
            (self.tasks, "task"),
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

    pub(super) fn by_state(&self) -> [(usize, ConnectionState); 8] {
        [
            (self.silent, ConnectionState::Silent),
            (self.reading, ConnectionState::Reading),
            (self.handling, ConnectionState::Handling),
            (self.streaming, ConnectionState::Streaming),
            (self.stalled, ConnectionState::Stalled),
            (self.upgraded, ConnectionState::Upgraded),
            (self.idle, ConnectionState::Idle),
            (self.opaque, ConnectionState::Opaque),
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

impl ConnectionState {
    /// In a word or a few.
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

    /// In one word, as in JSON.
    #[cfg(feature = "metrics")]
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

    /// The lower, the likelier it is that others wait for it: a list may be cut short, and most
    /// connections of a busy server are older than what it is busy with.
    fn rank(self) -> u8 {
        match self {
            Self::Request => 0,
            // Many tasks are as old as the process, and end when they are told.
            Self::Guard | Self::Task | Self::Hook => 1,
            Self::Connection(state) => match state {
                ConnectionState::Reading
                | ConnectionState::Handling
                | ConnectionState::Stalled
                | ConnectionState::Upgraded => 2,
                ConnectionState::Streaming | ConnectionState::Opaque => 3,
                ConnectionState::Silent | ConnectionState::Idle => 4,
            },
            Self::Server => 5,
        }
    }
}

impl fmt::Display for BlockerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
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

    /// In one word, as in JSON.
    #[cfg(feature = "tracing")]
    pub(super) fn as_label(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::SecondSignal => "second_signal",
            Self::Call => "call",
        }
    }
}

impl Report {
    /// Returns what is likely to be wrong, where the figures suggest it.
    pub(super) fn hint(&self) -> Option<&'static str> {
        if self.waits_for_itself {
            Some(
                "the handler of each request that is left waits for this drain, and so for itself: \
                 begin the drain and answer",
            )
        } else if self.server_alone {
            Some(
                "either `with_graceful_shutdown(drain.shutdown_signal())` is missing, or the server \
                 waits for connections that the drain does not know",
            )
        } else {
            None
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            elapsed, remaining, ..
        } = self;
        if let Some(name) = &self.name {
            write!(f, "{name}: ")?;
        }
        match (self.phase, self.forced_by) {
            (Phase::Serving, _) => f.write_str("serving")?,
            (Phase::Done, _) => write!(f, "done after {}", time(*elapsed))?,
            (Phase::Forced, Some(by)) => {
                write!(f, "forced {} after {}", by.phrase(), time(*elapsed))?;
            }
            (phase, _) => write!(f, "{phase} for {}", time(*elapsed))?,
        }
        let has_deadline = Phase::LameDuck..=Phase::Draining;
        if let Some(remaining) = remaining.filter(|_| has_deadline.contains(&self.phase)) {
            write!(f, ", {} to go", time(remaining))?;
        }
        match self.phase {
            Phase::Serving => write!(f, ": {}", self.left)?,
            _ => write!(f, ": {} left", self.left)?,
        }
        write!(
            f,
            "; {} completed, {} refused",
            self.completed, self.refused
        )?;
        if let Some(hint) = self.hint() {
            write!(f, "; {hint}")?;
        }
        if !self.blockers.is_empty() {
            f.write_char('\n')?;
            self.blockers.fmt(f)?;
        }
        Ok(())
    }
}

impl Blockers {
    /// They come in any order.
    pub(super) fn new(mut blockers: Vec<Blocker>) -> Self {
        blockers.sort_by_key(|blocker| (blocker.kind.rank(), Reverse(blocker.age)));
        Self {
            list: blockers,
            more: 0,
        }
    }

    /// Keeps so many of them, and the number of the others.
    pub(crate) fn limit(&mut self, most: usize) {
        self.more += self.list.len().saturating_sub(most);
        self.list.truncate(most);
    }
}

impl Deref for Blockers {
    type Target = [Blocker];

    fn deref(&self) -> &[Blocker] {
        &self.list
    }
}

impl IntoIterator for Blockers {
    type Item = Blocker;
    type IntoIter = std::vec::IntoIter<Blocker>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

impl<'a> IntoIterator for &'a Blockers {
    type Item = &'a Blocker;
    type IntoIter = std::slice::Iter<'a, Blocker>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl fmt::Display for Blockers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 20;
        const HEAD: [&str; 7] = ["kind", "name", "state", "peer", "age", "sent", "taken at"];
        let shown = match f.alternate() {
            true => self.len(),
            false => self.len().min(SHOWN),
        };
        let rows: Vec<_> = self[..shown].iter().map(Blocker::cells).collect();
        let mut widths = HEAD.map(str::len);
        // A column that says nothing is left out.
        let mut said = [false; HEAD.len()];
        for row in &rows {
            for (column, cell) in row.iter().enumerate() {
                widths[column] = widths[column].max(cell.chars().count());
                said[column] |= !cell.is_empty();
            }
        }
        let mut separator = "";
        let mut write = |row: [&str; HEAD.len()]| {
            let mut line = String::from(separator);
            separator = "\n";
            for (column, cell) in row.into_iter().enumerate().filter(|(at, _)| said[*at]) {
                write!(line, "{cell:<width$}  ", width = widths[column])?;
            }
            f.write_str(line.trim_end())
        };
        if shown == 0 {
            return f.write_str("nothing");
        }
        write(HEAD)?;
        for row in &rows {
            write(std::array::from_fn(|column| &*row[column]))?;
        }
        match self.len() - shown + self.more {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more"),
        }
    }
}

impl Blocker {
    /// One of that kind and age, of which nothing else is known.
    pub(super) fn new(kind: BlockerKind, age: Duration) -> Self {
        Self {
            kind,
            name: None,
            taken_at: None,
            method: None,
            path: None,
            peer: None,
            age,
            sent: None,
        }
    }

    fn cells(&self) -> [String; 7] {
        let name = match (&self.method, &self.path) {
            (Some(method), Some(path)) => format!("{method} {}", abridged(path)),
            _ => self.name.as_deref().map(abridged).unwrap_or_default(),
        };
        let state = match self.kind {
            BlockerKind::Connection(state) => state.as_str(),
            BlockerKind::Request if self.sent.is_none() => "waiting",
            BlockerKind::Request => "streaming",
            _ => "",
        };
        let or_empty = |text: Option<String>| text.unwrap_or_default();
        [
            self.kind.to_string(),
            name,
            state.to_owned(),
            or_empty(self.peer.map(|peer| peer.to_string())),
            time(self.age),
            or_empty(self.sent.map(bytes)),
            or_empty(self.taken_at.map(|place| place.to_string())),
        ]
    }
}

/// In a line: `request POST /report, waiting, from 10.0.0.7:51234, 42.1s old`.
impl fmt::Display for Blocker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kind, name, state, peer, age, sent, taken_at] = self.cells();
        f.write_str(&kind)?;
        if !name.is_empty() {
            write!(f, " {name}")?;
        }
        let parts = [
            ("", state, ""),
            ("from ", peer, ""),
            ("", age, " old"),
            ("", sent, " sent"),
            ("taken at ", taken_at, ""),
        ];
        for (before, part, after) in parts.iter().filter(|(_, part, _)| !part.is_empty()) {
            write!(f, ", {before}{part}{after}")?;
        }
        Ok(())
    }
}

/// Writes a duration for people: `125ms`, `42.1s`, `3m05s`, `26h00m`.
pub(super) fn time(duration: Duration) -> String {
    let millis = (duration.as_micros() + 500) / 1000;
    let tenths = (millis + 50) / 100;
    match tenths {
        _ if millis < 1000 => format!("{millis}ms"),
        0..600 => format!("{}.{}s", tenths / 10, tenths % 10),
        600..36_000 => format!("{}m{:02}s", tenths / 600, tenths / 10 % 60),
        _ => format!("{}h{:02}m", tenths / 36_000, tenths / 600 % 60),
    }
}

/// Long paths are for machines.
fn abridged(text: &str) -> String {
    const MOST: usize = 60;
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Field by field as they are, but that times are in seconds, and that what is not known is left out.
#[cfg(feature = "serde")]
mod serialize {
    use super::*;
    use serde::ser::{Serialize, SerializeStruct, Serializer};

    impl Serialize for Report {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let mut report = serializer.serialize_struct("Report", 10)?;
            report.serialize_field("name", &self.name)?;
            report.serialize_field("phase", &self.phase)?;
            report.serialize_field("elapsed_seconds", &self.elapsed.as_secs_f64())?;
            let remaining = self.remaining.map(|remaining| remaining.as_secs_f64());
            report.serialize_field("remaining_seconds", &remaining)?;
            report.serialize_field("completed", &self.completed)?;
            report.serialize_field("refused", &self.refused)?;
            report.serialize_field("forced_by", &self.forced_by)?;
            report.serialize_field("left", &self.left)?;
            report.serialize_field("blockers", &self.blockers)?;
            match self.blockers.more {
                0 => report.skip_field("more_blockers")?,
                more => report.serialize_field("more_blockers", &more)?,
            }
            report.end()
        }
    }

    impl Serialize for Blockers {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            self.list.serialize(serializer)
        }
    }

    impl Serialize for Blocker {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            let (connection, request) = match (self.kind, self.sent) {
                (BlockerKind::Connection(state), _) => (Some(state), None),
                (BlockerKind::Request, None) => (None, Some("waiting")),
                (BlockerKind::Request, Some(_)) => (None, Some("streaming")),
                _ => (None, None),
            };
            let mut blocker = serializer.serialize_struct("Blocker", 9)?;
            blocker.serialize_field("kind", self.kind.as_str())?;
            if let Some(state) = request {
                blocker.serialize_field("state", state)?;
            }
            if let Some(state) = connection {
                blocker.serialize_field("state", &state)?;
            }
            macro_rules! known {
                ($($name:literal: $value:expr),+ $(,)?) => {
                    $(match &$value {
                        Some(value) => blocker.serialize_field($name, value)?,
                        None => blocker.skip_field($name)?,
                    })+
                };
            }
            known! {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_people() {
        for (seconds, text) in [
            (0.04, "40ms"),
            (0.9994, "999ms"),
            (0.9996, "1.0s"),
            (59.94, "59.9s"),
            (59.96, "1m00s"),
            (60.0, "1m00s"),
            (3599.96, "1h00m"),
        ] {
            assert_eq!(time(Duration::from_secs_f64(seconds)), text);
        }
        assert_eq!(time(Duration::from_secs(3599)), "59m59s");
        assert_eq!(time(Duration::from_secs(26 * 3600)), "26h00m");
        assert_eq!(time(Duration::MAX), "5124095576030431h00m");
        for (count, text) in [(1023, "1023 B"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB")] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }
}
