//! Lists the connections of a drain: the state of each, its wakers, and its last-read check.
//!
//! Servers get their shutdown signal only when no connection may still deliver a request that
//! arrived in time. The *last-read check* finds that out: each connection has to look for bytes
//! once more.

use super::{
    registry::{Key, Registry},
    report::{Blocker, BlockerKind, ConnectionState, Counts},
    wakers::Wakers,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::time::Instant;

impl ConnectionState {
    /// Returns whether a first request may come, or a part of one has.
    fn awaits_request(self) -> bool {
        matches!(self, Self::Silent | Self::Reading)
    }
}

/// Marks a connection whose last-read check is not done, and for which servers have to wait.
const UNCHECKED: u8 = 1 << 7;
/// Marks a connection on which requests may arrive until it is closed, whatever its activity.
const MULTIPLEXED: u8 = 1 << 6;
/// Marks a connection on which a request may be on its way, whatever its activity. There are unread
/// bytes, or a head was read that is not a call yet, or the connection is too young to tell.
const HAS_UNREAD: u8 = 1 << 5;

fn activity(word: u8) -> ConnectionState {
    ConnectionState::ALL[usize::from(word) % ConnectionState::ALL.len()]
}

fn has_unread(word: u8) -> bool {
    word & HAS_UNREAD != 0 || activity(word).awaits_request()
}

/// Lists all connections of a drain.
pub(super) struct ConnectionList {
    all: Registry<Arc<ConnectionEntry>>,
    multiplexed: AtomicUsize,
    /// Counts the connections that carry [`UNCHECKED`]; plus 1 until all connections have been
    /// marked, so that it is not 0 before the last-read check.
    unchecked: AtomicUsize,
}

/// Holds what the drain knows of one connection.
pub(crate) struct ConnectionEntry {
    /// Combines the activity and the flags above.
    word: AtomicU8,
    accepted: Instant,
    /// Holds the peer's address if the connection is over TCP. A handshake may replace it.
    peer: Mutex<Option<SocketAddr>>,
    /// Counts the written bytes.
    sent: AtomicU64,
    pub(crate) wakers: Wakers,
    /// Counts the HTTP/1 calls that have started. Only `serve` counts calls.
    calls_started: AtomicU64,
    calls_finished: AtomicU64,
    /// Says whether the connection closes once it is idle, drain or not.
    retires: AtomicBool,
}

/// Counts the calls of an HTTP/1 connection, at most one of which is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallCounts {
    pub(crate) started: u64,
    pub(crate) finished: u64,
}

impl CallCounts {
    pub(crate) fn is_active(self) -> bool {
        self.started != self.finished
    }
}

impl ConnectionList {
    pub(super) fn new() -> Self {
        Self {
            all: Registry::default(),
            multiplexed: AtomicUsize::new(0),
            unchecked: AtomicUsize::new(1),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds a connection that has just been accepted. Returns `None` once closed.
    pub(super) fn add(&self, peer: Option<SocketAddr>) -> Option<(Arc<ConnectionEntry>, Key)> {
        let entry = Arc::new(ConnectionEntry {
            word: AtomicU8::new(ConnectionState::Silent as u8),
            accepted: Instant::now(),
            peer: Mutex::new(peer),
            sent: AtomicU64::new(0),
            wakers: Wakers::new(),
            calls_started: AtomicU64::new(0),
            calls_finished: AtomicU64::new(0),
            retires: AtomicBool::new(false),
        });
        let key = self.all.add(entry.clone())?;
        Some((entry, key))
    }

    /// Removes a connection. Called once for each. Returns whether the list is closed and empty.
    pub(super) fn remove(&self, connection: &ConnectionEntry, key: Key) -> bool {
        // First leave the list: from here on the last-read check cannot mark this connection. A
        // mark that was set before is taken back below.
        let emptied = self.all.remove(key);
        if connection.word.load(Ordering::Acquire) & MULTIPLEXED != 0 {
            self.multiplexed.fetch_sub(1, Ordering::AcqRel);
        }
        self.mark_checked(connection);
        emptied
    }

    /// Closes the list; see [`Registry::close`].
    pub(super) fn close(&self) -> bool {
        self.all.close()
    }

    pub(super) fn multiplexed(&self) -> usize {
        self.multiplexed.load(Ordering::Acquire)
    }

    pub(super) fn unchecked(&self) -> usize {
        self.unchecked.load(Ordering::Acquire)
    }

    /// Starts the last-read check. Called once.
    ///
    /// Each connection is unchecked until it has looked for bytes once more and has found none that
    /// belong to a request.
    pub(super) fn start_last_read(&self) {
        self.all.each(|connection| {
            // An upgraded connection delivers no more requests.
            if activity(connection.word.load(Ordering::Acquire)) != ConnectionState::Upgraded {
                self.mark_unchecked(connection);
            }
        });
        self.unchecked.fetch_sub(1, Ordering::AcqRel);
    }

    /// Stops waiting for unchecked connections that have no request on its way.
    pub(super) fn skip_unchecked(&self) {
        self.all.each(|connection| {
            // In one atomic step: a request that begins to arrive meanwhile keeps the mark.
            let skipped = |word| (!has_unread(word)).then_some(word & !UNCHECKED);
            let before = connection
                .word
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, skipped);
            if before.is_ok_and(|word| word & UNCHECKED != 0) {
                self.unchecked.fetch_sub(1, Ordering::AcqRel);
            }
        });
    }

    /// Wakes every task that waits on a connection.
    pub(super) fn wake_all(&self) {
        self.wake(|_| true);
    }

    /// Wakes the tasks of connections on which requests may arrive until they are closed.
    pub(super) fn wake_multiplexed(&self) {
        if self.multiplexed() > 0 {
            self.wake(|connection| connection.word.load(Ordering::Acquire) & MULTIPLEXED != 0);
        }
    }

    fn wake(&self, which: fn(&ConnectionEntry) -> bool) {
        let mut all = Vec::new();
        self.all.each(|connection| {
            if which(connection) {
                all.push(connection.clone());
            }
        });
        // By address, which is roughly the order of their accepts. The other memory of each
        // connection, here and in the kernel, has that order too, and is touched next.
        all.sort_unstable_by_key(Arc::as_ptr);
        // Outside of the locks: a waker may run any code.
        for connection in all {
            connection.wakers.wake_all();
        }
    }

    /// Counts the connections by state.
    pub(super) fn count(&self, left: &mut Counts) {
        self.all
            .each(|connection| left.add_connection(connection.state()));
    }

    /// Appends each connection to a report's list.
    pub(super) fn list(&self, now: Instant, all: &mut Vec<Blocker>) {
        self.all.each(|connection| {
            let age = now.saturating_duration_since(connection.accepted);
            all.push(Blocker {
                peer: connection.peer(),
                sent: Some(connection.sent.load(Ordering::Relaxed)),
                ..Blocker::new(BlockerKind::Connection(connection.state()), age)
            });
        });
    }

    /// Records that requests may arrive until the connection is closed. Called once for each.
    pub(super) fn mark_multiplexed(&self, connection: &ConnectionEntry) {
        self.multiplexed.fetch_add(1, Ordering::AcqRel);
        connection.word.fetch_or(MULTIPLEXED, Ordering::AcqRel);
    }

    /// Marks a connection as unchecked. Returns whether the mark was set already and, by now, no
    /// connection is unchecked.
    pub(super) fn mark_unchecked(&self, connection: &ConnectionEntry) -> bool {
        // Count first, then mark: a thread that takes back the mark subtracts from the count.
        self.unchecked.fetch_add(1, Ordering::AcqRel);
        connection.word.fetch_or(UNCHECKED, Ordering::AcqRel) & UNCHECKED != 0
            && self.unchecked.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Takes back the mark. Returns whether no connection is unchecked any more.
    pub(super) fn mark_checked(&self, connection: &ConnectionEntry) -> bool {
        connection.word.fetch_and(!UNCHECKED, Ordering::AcqRel) & UNCHECKED != 0
            && self.unchecked.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl ConnectionEntry {
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        *self.lock_peer()
    }

    fn lock_peer(&self) -> MutexGuard<'_, Option<SocketAddr>> {
        self.peer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records what the connection was seen doing, and whether it [has unread](HAS_UNREAD) bytes.
    /// Returns whether a request is on its way.
    pub(super) fn set_activity(&self, activity: ConnectionState, unread: bool) -> bool {
        let seen = activity as u8 | if unread { HAS_UNREAD } else { 0 };
        let mut word = self.word.load(Ordering::Relaxed);
        while let Err(now) = self.word.compare_exchange_weak(
            word,
            (word & (UNCHECKED | MULTIPLEXED)) | seen,
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            word = now;
        }
        has_unread(seen)
    }

    /// Returns whether a request is on its way, as far as it was published.
    pub(crate) fn has_unread(&self) -> bool {
        has_unread(self.word.load(Ordering::Acquire))
    }

    pub(crate) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Returns whether the connection closes once it is idle, drain or not.
    #[inline]
    pub(crate) fn retires(&self) -> bool {
        self.retires.load(Ordering::Acquire)
    }

    /// Counts written bytes. Not atomic as a whole, so only one task at a time may call it.
    #[inline]
    pub(crate) fn wrote(&self, bytes: usize) {
        let sent = self.sent.load(Ordering::Relaxed) + bytes as u64;
        self.sent.store(sent, Ordering::Relaxed);
    }

    fn state(&self) -> ConnectionState {
        let state = activity(self.word.load(Ordering::Acquire));
        let calls = self.calls();
        let is_between_calls = calls.started > 0 && !calls.is_active();
        match state {
            ConnectionState::Streaming if is_between_calls => ConnectionState::Idle,
            state => state,
        }
    }

    /// Returns how many calls have started and finished on it.
    pub(crate) fn calls(&self) -> CallCounts {
        // In this order: a call that starts in between counts as active.
        let finished = self.calls_finished.load(Ordering::Acquire);
        let started = self.calls_started.load(Ordering::Acquire);
        CallCounts { started, finished }
    }
}

/// Offers `serve` what it needs, as it sees calls and not only bytes.
#[cfg(feature = "server")]
impl ConnectionEntry {
    pub(crate) fn activity(&self) -> ConnectionState {
        activity(self.word.load(Ordering::Acquire))
    }

    pub(crate) fn speaks_http2(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & MULTIPLEXED != 0 && activity(word) != ConnectionState::Opaque
    }

    /// Replaces the peer by the one that a handshake has named.
    pub(crate) fn set_peer(&self, peer: Option<SocketAddr>) {
        *self.lock_peer() = peer;
    }

    /// Counts the start of an HTTP/1 call. As [`wrote`](Self::wrote), only for one task at a time.
    #[inline]
    pub(crate) fn call_started(&self) {
        let started = self.calls_started.load(Ordering::Relaxed);
        self.calls_started.store(started + 1, Ordering::Release);
    }

    /// Counts the end of an HTTP/1 call. As [`wrote`](Self::wrote), only for one task at a time.
    #[inline]
    pub(crate) fn call_finished(&self) {
        let finished = self.calls_finished.load(Ordering::Relaxed);
        self.calls_finished.store(finished + 1, Ordering::Release);
    }

    /// Has the connection close once it is idle.
    pub(crate) fn retire(&self) {
        self.retires.store(true, Ordering::Release);
    }
}
