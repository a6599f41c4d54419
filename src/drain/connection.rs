//! One connection: what keeps it counted, and the way from it to the drain.
//!
//! This module sees neither bytes nor sockets. `net` does, and publishes a [`ConnectionState`].

use super::{
    connection_list::{ConnectionEntry, ConnectionList},
    phase::Stage,
    registry::Key,
    report::ConnectionState,
    schedule::Schedule,
    shared::Shared,
};
use std::{net::SocketAddr, ops::Deref, sync::Arc, task::Wake};
#[cfg(feature = "server")]
use {
    std::{
        sync::{OnceLock, atomic::Ordering},
        task::Waker,
    },
    tokio::sync::OwnedSemaphorePermit,
};

/// Keeps a connection counted until the last clone is dropped.
#[derive(Clone)]
pub(crate) struct ConnectionGuard {
    registration: Arc<Registration>,
}

struct Registration {
    connection: Arc<Connection>,
    /// Holds the permit of a server that limits its connections.
    #[cfg(feature = "server")]
    permit: OnceLock<OwnedSemaphorePermit>,
}

/// Points to a connection's entry and to its drain. Does not keep the connection counted.
pub(crate) struct Connection {
    entry: Arc<ConnectionEntry>,
    key: Key,
    shared: Arc<Shared>,
}

impl ConnectionGuard {
    /// Counts a connection that has just been accepted. Returns `None` once the list is closed.
    pub(crate) fn enter(shared: &Arc<Shared>, peer: Option<SocketAddr>) -> Option<Self> {
        let (entry, key) = shared.connections.add(peer)?;
        let connection = Connection {
            entry,
            key,
            shared: shared.clone(),
        };
        shared.connection_arrived(connection.accepted());
        // The check may have marked all others before this one was in the list. If the stage
        // changes after this look, the marking comes later and finds it in the list.
        if connection.stage() == Stage::LastRead {
            connection.list().mark_unchecked(&connection.entry);
        }
        let registration = Arc::new(Registration {
            connection: Arc::new(connection),
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

    pub(crate) fn handle(&self) -> Arc<Connection> {
        self.registration.connection.clone()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let connection = &self.connection;
        if connection.list().remove(&connection.entry, connection.key) {
            connection.shared.part_emptied();
        }
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

    /// Returns whether no connection lingers any more: the drain is forced, and no answers are
    /// written.
    pub(crate) fn closes_at_once(&self) -> bool {
        self.stage() >= Stage::Forced && !self.schedule(Schedule::is_answering)
    }

    /// Reads the schedule.
    pub(crate) fn schedule<T>(&self, look: impl FnOnce(&Schedule) -> T) -> T {
        self.shared.look(look)
    }

    /// Advances the schedule to the present.
    pub(crate) fn advance(&self) {
        self.shared.advance();
    }

    /// Publishes what the connection was seen doing, and whether it has unread bytes.
    pub(crate) fn publish(&self, activity: ConnectionState, unread: bool) {
        let on_its_way = self.entry.set_activity(activity, unread);
        // A request has begun to arrive, perhaps after the check of this connection: wait for it.
        if on_its_way && self.stage() == Stage::LastRead && self.list().mark_unchecked(&self.entry)
        {
            self.shared.advance();
        }
    }

    /// Records that requests may arrive until the connection is closed. Called once.
    pub(crate) fn mark_multiplexed(&self) {
        self.list().mark_multiplexed(&self.entry);
    }

    /// Ends the last-read check of this connection, unless a request is on its way.
    pub(crate) fn checked(&self) {
        if !self.entry.has_unread() && self.list().mark_checked(&self.entry) {
            self.shared.advance();
        }
    }

    /// Counts a completed request that was not counted as a request, only by its connection.
    #[cfg(feature = "server")]
    pub(crate) fn count_completed_late(&self) {
        self.shared.completed_late.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether a pending request that is not counted as a request has to be answered now.
    #[cfg(feature = "server")]
    pub(crate) fn answer_is_due(&self, place: &mut Option<Key>, waker: &Waker) -> bool {
        self.shared.counter.data().answer_is_due(place, waker)
    }

    /// Ends the waiting of such a request.
    #[cfg(feature = "server")]
    pub(crate) fn stop_waiting(&self, place: &mut Option<Key>) {
        if self.shared.counter.data().stop_waiting(place) {
            self.shared.all_answered();
        }
    }

    fn list(&self) -> &ConnectionList {
        &self.shared.connections
    }
}

/// Wakes all tasks that wait on the connection.
impl Wake for Connection {
    fn wake(self: Arc<Self>) {
        self.wakers.wake_all();
    }
}

/// Gives what the entry knows by itself.
impl Deref for Connection {
    type Target = ConnectionEntry;

    fn deref(&self) -> &ConnectionEntry {
        &self.entry
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::{
        super::wakers::{RegisteredWaker, Role},
        *,
    };
    use crate::Drain;
    use std::{
        sync::{
            Mutex,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
        time::Duration,
    };

    /// Registers itself again at each wake-up: like a task that is polled at once, before the next
    /// waker of its connection is used.
    struct PolledAtOnce {
        connection: Arc<Connection>,
        wakes: AtomicUsize,
        last: Mutex<RegisteredWaker>,
    }

    impl Wake for PolledAtOnce {
        fn wake(self: Arc<Self>) {
            self.wakes.fetch_add(1, Ordering::SeqCst);
            let mut last = self.last.lock().expect("no panic");
            self.connection
                .wakers
                .register(Role::Drives, &self.clone().into(), &mut last);
        }
    }

    impl PolledAtOnce {
        fn new(connection: Arc<Connection>) -> Arc<Self> {
            let polled = Arc::new(Self {
                connection,
                wakes: AtomicUsize::new(0),
                last: Mutex::default(),
            });
            polled.connection.wakers.register(
                Role::Drives,
                &polled.clone().into(),
                &mut RegisteredWaker::default(),
            );
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
        registered.connection().wakers.register(
            Role::Reads,
            &polled.clone().into(),
            &mut RegisteredWaker::default(),
        );
        drain.shared().wake_connections();
        // As the reader, and as the driver.
        assert_eq!(polled.wakes(), 2);
        drain.shared().wake_connections();
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
