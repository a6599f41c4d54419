//! Switches keep-alive of running servers on and off.

use crate::drain::Shared;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// Switches whether connections are kept for another request, for any number of running servers.
///
/// It is Go's `SetKeepAlivesEnabled`. While it is disabled, HTTP/1 responses carry `Connection:
/// close`, HTTP/2 connections get a GOAWAY, and idle connections are closed. New connections are
/// still accepted. So this moves clients elsewhere, and is no shutdown. To close one connection,
/// use a [`ConnectionHandle`](super::ConnectionHandle).
///
/// ```no_run
/// use tower_graceful::server::KeepAlive;
/// # async fn f(tcp: tokio::net::TcpListener, app: axum::Router) {
///
/// let keep_alive = KeepAlive::new();
/// let server = tower_graceful::serve(tcp, app).keep_alive(&keep_alive);
/// tokio::spawn(server.into_future());
/// // Later, under load:
/// keep_alive.disable();
/// # }
/// ```
#[derive(Clone)]
pub struct KeepAlive {
    state: Arc<KeepAliveState>,
}

struct KeepAliveState {
    enabled: AtomicBool,
    /// Lists the drains of the servers, whose connections wake at a change.
    drains: Mutex<Vec<Weak<Shared>>>,
}

impl KeepAlive {
    /// Creates a switch that is enabled.
    pub fn new() -> Self {
        Self {
            state: Arc::new(KeepAliveState {
                enabled: AtomicBool::new(true),
                drains: Mutex::default(),
            }),
        }
    }

    /// Keeps connections from now on. A connection that is already closing still closes.
    pub fn enable(&self) {
        self.state.enabled.store(true, Ordering::Release);
    }

    /// Keeps no connection from now on.
    pub fn disable(&self) {
        self.state.enabled.store(false, Ordering::Release);
        let drains: Vec<_> = self.drains().iter().filter_map(Weak::upgrade).collect();
        // After the store, so that a task that wakes sees it.
        for drain in drains {
            drain.wake_connections();
        }
    }

    /// Returns whether connections are kept.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.state.enabled.load(Ordering::Acquire)
    }

    /// Adds the drain of a server, whose connections wake when this is disabled.
    pub(super) fn add_drain(&self, drain: &Arc<Shared>) {
        let drain = Arc::downgrade(drain);
        let mut drains = self.drains();
        // Several servers may have the same drain.
        drains.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&drain));
        drains.push(drain);
    }

    fn drains(&self) -> MutexGuard<'_, Vec<Weak<Shared>>> {
        let drains = self.state.drains.lock();
        drains.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for KeepAlive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive")
            .field("enabled", &self.is_enabled())
            .finish()
    }
}
