//! The connections that a drain knows: what each was last seen doing, who has to be waited for
//! before servers are told, and how all of them are woken.
//!
//! No bytes and no sockets here: `net` looks at those, and says what it saw ([`ConnectionState`]).

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
    /// Whether a request may come, or has come in part.
    fn awaits_request(self) -> bool {
        matches!(self, Self::Silent | Self::Reading)
    }
}

/// In a connection's word, beside its activity: the drain waits for it before it tells servers.
const UNCHECKED: u8 = 1 << 7;
/// Requests may come on it until it is closed, whatever else it does.
const MULTIPLEXED: u8 = 1 << 6;
/// A request is expected on it, whatever it was seen doing: one has been read of which no call has
/// been made yet, or it is too young for anybody to know.
const HAS_UNREAD: u8 = 1 << 5;

fn activity(word: u8) -> ConnectionState {
    ConnectionState::ALL[usize::from(word) % ConnectionState::ALL.len()]
}

fn has_unread(word: u8) -> bool {
    word & HAS_UNREAD != 0 || activity(word).awaits_request()
}

/// All of a drain's connections.
pub(super) struct ConnectionList {
    all: Registry<Connection>,
    multiplexed: AtomicUsize,
    /// Those that carry [`UNCHECKED`], and one for the last-read check that is still to come.
    unchecked: AtomicUsize,
}

/// One connection's part in it, which all that is done to it goes through.
pub(crate) struct Connection {
    key: Key,
    word: AtomicU8,
    accepted: Instant,
    /// Where it comes from, over TCP.
    peer: Option<SocketAddr>,
    /// How many bytes were written to it.
    sent: AtomicU64,
    reader: AtomicWaker,
    writer: AtomicWaker,
    /// Of who drives it, where that is `serve`.
    driver: AtomicWaker,
    /// How many calls have started on it and how many have finished, where somebody counts them.
    calls_started: AtomicU64,
    calls_finished: AtomicU64,
    /// It is to be closed at the next occasion, drain or not.
    retires: AtomicBool,
    shared: Arc<Shared>,
}

/// The calls of a connection over HTTP/1, of which one at most is active.
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

/// A connection that is counted, until the last clone of this is dropped.
#[derive(Clone)]
pub(crate) struct ConnectionGuard {
    registration: Arc<Registration>,
}

struct Registration {
    connection: Arc<Connection>,
    /// Among as many as there may be, where there is a limit. Freed when this is dropped.
    #[cfg(feature = "server")]
    place: OnceLock<OwnedSemaphorePermit>,
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

    /// The roll call: each connection is awaited until it has looked for bytes once more, and has
    /// found none that belong to a request. To be called once.
    pub(super) fn start_last_read(&self) {
        self.all.each(|connection| {
            // Who has left HTTP behind has no request to bring.
            if activity(connection.word.load(Ordering::Acquire)) != ConnectionState::Upgraded {
                self.expect_check(connection);
            }
        });
        self.unchecked.fetch_sub(1, Ordering::AcqRel);
    }

    /// Those who have not answered, and of whom nothing is expected, are not awaited any more.
    pub(super) fn skip_unchecked(&self) {
        self.all.each(|connection| {
            // In one step with the look: who begins to say something meanwhile stays awaited.
            let excused = |word| (!has_unread(word)).then_some(word & !UNCHECKED);
            let before = connection
                .word
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, excused);
            if before.is_ok_and(|word| word & UNCHECKED != 0) {
                self.unchecked.fetch_sub(1, Ordering::AcqRel);
            }
        });
    }

    pub(super) fn wake_all(&self) {
        let mut all = Vec::new();
        self.all.each(|connection| all.push(connection.clone()));
        // As they lie in memory, more or less as they came: what they have beside this, here and in
        // the kernel, lies in that order, too, and each of them is about to touch all of that.
        all.sort_unstable_by_key(Arc::as_ptr);
        // Not under a lock: what a waker does is nobody's business here.
        for connection in all {
            connection.reader.wake();
            connection.writer.wake();
            connection.driver.wake();
        }
    }

    pub(super) fn count(&self, left: &mut Counts) {
        self.all
            .each(|connection| left.add_connection(connection.state()));
    }

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

    /// True if it was awaited already, and nobody is any more.
    fn expect_check(&self, connection: &Connection) -> bool {
        // First counted, then marked: whoever finds the mark may take it back.
        self.unchecked.fetch_add(1, Ordering::AcqRel);
        connection.word.fetch_or(UNCHECKED, Ordering::AcqRel) & UNCHECKED != 0
            && self.unchecked.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// True if nobody is awaited any more.
    fn checked(&self, connection: &Connection) -> bool {
        connection.word.fetch_and(!UNCHECKED, Ordering::AcqRel) & UNCHECKED != 0
            && self.unchecked.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl ConnectionGuard {
    /// Counts a connection that has just been accepted; `None` once the drain admits nothing.
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
        // Too late for the roll call, not too late to be served.
        if connection.stage() == Stage::LastRead {
            connection.list().expect_check(&connection);
        }
        let registration = Arc::new(Registration {
            connection,
            #[cfg(feature = "server")]
            place: OnceLock::new(),
        });
        Some(Self { registration })
    }

    /// It keeps its place until it is dropped.
    #[cfg(feature = "server")]
    pub(crate) fn keep(&self, place: Option<OwnedSemaphorePermit>) {
        if let Some(place) = place {
            let _ = self.registration.place.set(place);
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
        // First: what the roll call marks before this is taken back below, and after this it marks nothing.
        let emptied = list.all.remove(connection.key);
        if connection.word.load(Ordering::Acquire) & MULTIPLEXED != 0 {
            list.multiplexed.fetch_sub(1, Ordering::AcqRel);
        }
        list.checked(connection);
        connection.shared.part_emptied(emptied);
        // A waiter for connections may go on.
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

    /// What the schedule says, as it stands.
    pub(crate) fn schedule<T>(&self, look: impl FnOnce(&Schedule) -> T) -> T {
        self.shared.look(look)
    }

    /// Moves the schedule on, if it is time.
    pub(crate) fn advance(&self) {
        self.shared.advance();
    }

    /// Says what it was seen doing, and whether a request is expected all the same.
    pub(crate) fn publish(&self, activity: ConnectionState, expected: bool) {
        let seen = activity as u8 | if expected { HAS_UNREAD } else { 0 };
        let mut word = self.word.load(Ordering::Relaxed);
        while let Err(now) = self.word.compare_exchange_weak(
            word,
            (word & (UNCHECKED | MULTIPLEXED)) | seen,
            Ordering::AcqRel,
            Ordering::Relaxed,
        ) {
            word = now;
        }
        // After the roll call it has begun to say something: it is heard out.
        if has_unread(seen) && self.stage() == Stage::LastRead && self.list().expect_check(self) {
            self.shared.advance();
        }
    }

    /// Requests may come on it until it is closed. To be called once.
    pub(crate) fn is_multiplexed(&self) {
        self.list().multiplexed.fetch_add(1, Ordering::AcqRel);
        self.word.fetch_or(MULTIPLEXED, Ordering::AcqRel);
    }

    /// Whether it is to be closed at the next occasion.
    #[inline]
    pub(crate) fn retires(&self) -> bool {
        self.retires.load(Ordering::Acquire)
    }

    /// Answers the roll call: it has been looked at.
    pub(crate) fn checked(&self) {
        let expected = has_unread(self.word.load(Ordering::Relaxed));
        if !expected && self.list().checked(self) {
            self.shared.advance();
        }
    }

    /// Has it looked at again.
    pub(crate) fn wake(&self) {
        self.reader.wake();
    }

    /// To be woken when the schedule has changed; what has changed before is to be looked at after.
    pub(crate) fn wake_reader(&self, waker: &Waker) {
        self.reader.register(waker);
    }

    pub(crate) fn wake_writer(&self, waker: &Waker) {
        self.writer.register(waker);
    }

    /// So many bytes more were written to it. To be called by one at a time.
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

/// What `serve` asks and says, who sees calls, and not only bytes.
#[cfg(feature = "server")]
impl Connection {
    pub(crate) fn activity(&self) -> ConnectionState {
        activity(self.word.load(Ordering::Acquire))
    }

    /// Whether a request is expected on it, whatever it was seen doing.
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

    pub(crate) fn wake_driver(&self, waker: &Waker) {
        self.driver.register(waker);
    }

    /// Counts a call over HTTP/1, where one call follows the other.
    pub(crate) fn call_started(&self) {
        self.calls_started.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn call_finished(&self) {
        self.calls_finished.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn count_completed_late(&self) {
        self.shared.count_completed_late();
    }

    pub(crate) fn retire(&self) {
        self.retires.store(true, Ordering::Release);
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;
    use crate::Drain;
    use std::{task::Wake, time::Duration};

    /// Asks to be woken again whenever it is woken: a task that is polled at once, before the next
    /// waker of its connection is used.
    struct PolledAtOnce {
        connection: Arc<Connection>,
        wakes: AtomicUsize,
    }

    impl Wake for PolledAtOnce {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            self.connection.wake_driver(&self.clone().into());
        }
    }

    impl PolledAtOnce {
        fn new(connection: Arc<Connection>) -> Arc<Self> {
            let polled = Arc::new(Self {
                connection,
                wakes: AtomicUsize::new(0),
            });
            polled.connection.wake_driver(&polled.clone().into());
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
        registered.connection().wake_reader(&polled.clone().into());
        drain.wake_connections();
        // By the reader's waker, and by its own.
        assert_eq!(polled.wakes(), 2);
        drain.wake_connections();
        assert_eq!(polled.wakes(), 3);
    }

    /// Else ten thousand that close wake each other ten thousand times.
    #[tokio::test]
    async fn who_closes_during_the_roll_call_does_not_wake_the_others() {
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
