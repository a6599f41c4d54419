//! Switches keep-alive of running servers on and off.

use super::ServerShared;
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
/// still accepted. So this moves clients elsewhere, and is no shutdown.
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
    /// The servers whose connections wake at a change.
    servers: Mutex<Vec<Weak<ServerShared>>>,
}

impl KeepAlive {
    /// Creates a switch that is enabled.
    pub fn new() -> Self {
        Self {
            state: Arc::new(KeepAliveState {
                enabled: AtomicBool::new(true),
                servers: Mutex::default(),
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
        let servers: Vec<_> = self.servers().iter().filter_map(Weak::upgrade).collect();
        // After the store, so that a task that wakes sees it.
        for server in servers {
            server.drain.wake_connections();
        }
    }

    /// Returns whether connections are kept.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.state.enabled.load(Ordering::Acquire)
    }

    /// Adds a server whose connections wake when this is disabled.
    pub(super) fn add_server(&self, server: &Arc<ServerShared>) {
        let mut servers = self.servers();
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(server));
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Weak<ServerShared>>> {
        let servers = self.state.servers.lock();
        servers.unwrap_or_else(PoisonError::into_inner)
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
