//! Lists the connections of a drain: the state of each, its wakers, and its last-read check.
//!
//! Servers get their shutdown signal only when no connection may still deliver a request that
//! arrived in time. The *last-read check* finds that out: each connection has to look for bytes
//! once more.
//!
//! This module sees neither bytes nor sockets. `net` does, and publishes a [`ConnectionState`].

use super::{
    phase::Stage,
    registry::{Emptied, Key, Registry},
    report::{Blocker, BlockerKind, ConnectionState, Counts},
    schedule::Schedule,
    shared::Shared,
};
use atomic_waker::AtomicWaker;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    task::Waker,
};
use tokio::time::Instant;
#[cfg(feature = "server")]
use {std::sync::OnceLock, tokio::sync::OwnedSemaphorePermit};

impl ConnectionState {
    /// Returns whether a first request may come, or a part of one has.
    fn awaits_request(self) -> bool {
        matches!(self, Self::Silent | Self::Reading)
    }
}

/// In a connection's word: its last-read check is not done, and servers have to wait for it.
const UNCHECKED: u8 = 1 << 7;
/// In a connection's word: requests may arrive until it is closed, whatever its activity.
const MULTIPLEXED: u8 = 1 << 6;
/// In a connection's word: a request may be on its way, whatever its activity. There are unread
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
    all: Registry<Connection>,
    multiplexed: AtomicUsize,
    /// How many carry [`UNCHECKED`]; plus 1 until all connections have been marked, so that it is
    /// not 0 before the last-read check.
    unchecked: AtomicUsize,
}

/// Holds what the drain knows of one connection.
pub(crate) struct Connection {
    key: Key,
    /// The activity and the flags above, in one word.
    word: AtomicU8,
    accepted: Instant,
    /// The peer's address, over TCP.
    peer: Option<SocketAddr>,
    /// How many bytes were written.
    sent: AtomicU64,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// The task that drives the connection, under `serve`.
    driver: AtomicWaker,
    /// How many HTTP/1 calls have started and finished. Only `serve` counts them.
    calls_started: AtomicU64,
    calls_finished: AtomicU64,
    /// Whether the connection closes once it is idle, drain or not.
    retires: AtomicBool,
    shared: Arc<Shared>,
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

/// Keeps a connection counted until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct ConnectionGuard {
    registration: Arc<Registration>,
}

struct Registration {
    connection: Arc<Connection>,
    /// The permit of a server that limits its connections.
    #[cfg(feature = "server")]
    permit: OnceLock<OwnedSemaphorePermit>,
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

    /// See [`Registry::close`].
    pub(super) fn close(&self) -> Option<Emptied> {
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
        let mut all = Vec::new();
        self.all.each(|connection| all.push(connection.clone()));
        // By address, which is roughly the order of their accepts. The other memory of each
        // connection, here and in the kernel, has that order too, and is touched next.
        all.sort_unstable_by_key(Arc::as_ptr);
        // Outside of the locks: a waker may run any code.
        for connection in all {
            connection.reader.wake();
            connection.writer.wake();
            connection.driver.wake();
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
                peer: connection.peer,
                sent: Some(connection.sent.load(Ordering::Relaxed)),
                ..Blocker::new(BlockerKind::Connection(connection.state()), age)
            });
        });
    }

    /// Marks a connection as unchecked. Returns whether the mark was set already and, by now, no
    /// connection is unchecked.
    fn mark_unchecked(&self, connection: &Connection) -> bool {
        // Count first, then mark: a thread that takes back the mark subtracts from the count.
        self.unchecked.fetch_add(1, Ordering::AcqRel);
        connection.word.fetch_or(UNCHECKED, Ordering::AcqRel) & UNCHECKED != 0
            && self.unchecked.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Takes back the mark. Returns whether no connection is unchecked any more.
    fn checked(&self, connection: &Connection) -> bool {
        connection.word.fetch_and(!UNCHECKED, Ordering::AcqRel) & UNCHECKED != 0
            && self.unchecked.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl ConnectionGuard {
    /// Counts a connection that has just been accepted. Returns `None` once the list is closed.
    pub(crate) fn enter(shared: &Arc<Shared>, peer: Option<SocketAddr>) -> Option<Self> {
        let connection = shared.connections().all.add(|key| Connection {
            key,
            word: AtomicU8::new(ConnectionState::Silent as u8),
            accepted: Instant::now(),
            peer,
            sent: AtomicU64::new(0),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
            driver: AtomicWaker::new(),
            calls_started: AtomicU64::new(0),
            calls_finished: AtomicU64::new(0),
            retires: AtomicBool::new(false),
            shared: shared.clone(),
        })?;
        // The check may have marked all others before this one was in the list. If the stage
        // changes after this load, the marking comes later and finds it in the list.
        if connection.stage() == Stage::LastRead {
            connection.list().mark_unchecked(&connection);
        }
        let registration = Arc::new(Registration {
            connection,
            #[cfg(feature = "server")]
            permit: OnceLock::new(),
        });
        Some(Self { registration })
    }

    /// Holds a permit until the connection is uncounted.
    #[cfg(feature = "server")]
    pub(crate) fn keep_permit(&self, permit: Option<OwnedSemaphorePermit>) {
        if let Some(permit) = permit {
            let _ = self.registration.permit.set(permit);
        }
    }

    pub(crate) fn connection(&self) -> &Connection {
        &self.registration.connection
    }

    #[cfg(feature = "server")]
    pub(crate) fn handle(&self) -> Arc<Connection> {
        self.registration.connection.clone()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let connection = &self.connection;
        let list = connection.list();
        // First leave the list: from here on the last-read check cannot mark this connection. A
        // mark that was set before is taken back below.
        let emptied = list.all.remove(connection.key);
        if connection.word.load(Ordering::Acquire) & MULTIPLEXED != 0 {
            list.multiplexed.fetch_sub(1, Ordering::AcqRel);
        }
        list.checked(connection);
        connection.shared.part_emptied(emptied);
        // The stage may be waiting for this connection.
        if connection.stage() != Stage::Serving {
            connection.shared.advance();
        }
    }
}

impl Connection {
    #[inline]
    pub(crate) fn stage(&self) -> Stage {
        self.shared.stage()
    }

    pub(crate) fn accepted(&self) -> Instant {
        self.accepted
    }

    /// Reads the schedule.
    pub(crate) fn schedule<T>(&self, look: impl FnOnce(&Schedule) -> T) -> T {
        self.shared.look(look)
    }

    /// Advances the schedule to the present.
    pub(crate) fn advance(&self) {
        self.shared.advance();
    }

    /// Publishes what the connection was seen doing, and whether it [has unread](HAS_UNREAD) bytes.
    pub(crate) fn publish(&self, activity: ConnectionState, unread: bool) {
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
        // A request has begun to arrive, perhaps after the check of this connection: wait for it.
        if has_unread(seen) && self.stage() == Stage::LastRead && self.list().mark_unchecked(self) {
            self.shared.advance();
        }
    }

    /// Records that requests may arrive until the connection is closed. Called once.
    pub(crate) fn mark_multiplexed(&self) {
        self.list().multiplexed.fetch_add(1, Ordering::AcqRel);
        self.word.fetch_or(MULTIPLEXED, Ordering::AcqRel);
    }

    /// Returns whether the connection closes once it is idle, drain or not.
    #[inline]
    pub(crate) fn retires(&self) -> bool {
        self.retires.load(Ordering::Acquire)
    }

    /// Ends the last-read check of this connection, unless a request is on its way.
    pub(crate) fn checked(&self) {
        let unread = has_unread(self.word.load(Ordering::Relaxed));
        if !unread && self.list().checked(self) {
            self.shared.advance();
        }
    }

    /// Wakes the task that reads.
    pub(crate) fn wake_reader(&self) {
        self.reader.wake();
    }

    /// Registers the task that reads, to be woken when the schedule changes. The caller has to look
    /// at the schedule after this call: an earlier change does not wake it.
    pub(crate) fn register_reader(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    /// Registers the task that writes; see [`register_reader`](Self::register_reader).
    pub(crate) fn register_writer(&self, waker: &Waker) {
        self.writer.register(waker);
    }

    /// Counts written bytes. Not atomic as a whole, so only one task at a time may call it.
    #[inline]
    pub(crate) fn wrote(&self, bytes: usize) {
        let sent = self.sent.load(Ordering::Relaxed) + bytes as u64;
        self.sent.store(sent, Ordering::Relaxed);
    }

    fn state(&self) -> ConnectionState {
        match activity(self.word.load(Ordering::Acquire)) {
            ConnectionState::Streaming if self.is_between_calls() => ConnectionState::Idle,
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

    fn is_between_calls(&self) -> bool {
        let calls = self.calls();
        calls.started > 0 && !calls.is_active()
    }

    fn list(&self) -> &ConnectionList {
        self.shared.connections()
    }
}

/// Offers `serve` what it needs, as it sees calls and not only bytes.
#[cfg(feature = "server")]
impl Connection {
    pub(crate) fn activity(&self) -> ConnectionState {
        activity(self.word.load(Ordering::Acquire))
    }

    /// Returns whether a request is on its way, as far as it was published.
    pub(crate) fn has_unread(&self) -> bool {
        has_unread(self.word.load(Ordering::Acquire))
    }

    pub(crate) fn speaks_http2(&self) -> bool {
        let word = self.word.load(Ordering::Acquire);
        word & MULTIPLEXED != 0 && activity(word) != ConnectionState::Opaque
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Registers the task that drives the connection; see
    /// [`register_reader`](Self::register_reader).
    pub(crate) fn register_driver(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// Counts the start of an HTTP/1 call.
    pub(crate) fn call_started(&self) {
        self.calls_started.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts the end of an HTTP/1 call.
    pub(crate) fn call_finished(&self) {
        self.calls_finished.fetch_add(1, Ordering::AcqRel);
    }

    /// See [`Shared::count_completed_late`].
    pub(crate) fn count_completed_late(&self) {
        self.shared.count_completed_late();
    }

    /// Has the connection close once it is idle.
    pub(crate) fn retire(&self) {
        self.retires.store(true, Ordering::Release);
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;
    use crate::Drain;
    use std::{task::Wake, time::Duration};

    /// Registers itself again at each wake-up: like a task that is polled at once, before the next
    /// waker of its connection is used.
    struct PolledAtOnce {
        connection: Arc<Connection>,
        wakes: AtomicUsize,
    }

    impl Wake for PolledAtOnce {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            self.connection.register_driver(&self.clone().into());
        }
    }

    impl PolledAtOnce {
        fn new(connection: Arc<Connection>) -> Arc<Self> {
            let polled = Arc::new(Self {
                connection,
                wakes: AtomicUsize::new(0),
            });
            polled.connection.register_driver(&polled.clone().into());
            polled
        }

        fn wakes(&self) -> usize {
            self.wakes.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn each_change_wakes_the_driver() {
        let drain = Drain::new();
        let registered = ConnectionGuard::enter(drain.shared(), None).expect("serving");
        let polled = PolledAtOnce::new(registered.handle());
        registered
            .connection()
            .register_reader(&polled.clone().into());
        drain.wake_connections();
        // As the reader, and as the driver.
        assert_eq!(polled.wakes(), 2);
        drain.wake_connections();
        assert_eq!(polled.wakes(), 3);
    }

    /// Otherwise ten thousand connections that close wake each other ten thousand times.
    #[tokio::test]
    async fn a_close_during_the_last_read_check_does_not_wake_the_others() {
        let drain = Drain::builder().settle(Duration::ZERO).build();
        let mut all: Vec<_> = (0..100)
            .filter_map(|_| ConnectionGuard::enter(drain.shared(), None))
            .collect();
        for idle in &all {
            idle.connection().publish(ConnectionState::Streaming, false);
        }
        let first = all[0].handle();
        let polled = PolledAtOnce::new(first.clone());
        drain.begin();
        assert_eq!(first.stage(), Stage::LastRead);
        let before = polled.wakes();
        all.truncate(1);
        assert!(polled.wakes() < before + 5, "{}", polled.wakes() - before);
    }
}
