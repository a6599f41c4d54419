use super::Shared as Server;
use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

/// Whether connections are kept for another request: Go's `SetKeepAlivesEnabled`, for any number of
/// servers, while they run.
///
/// While it is disabled, responses over HTTP/1 say `Connection: close`, HTTP/2 connections are told
/// to go away, and idle ones are closed; new ones are accepted all the same. That moves clients
/// elsewhere, and is no shutdown.
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
    shared: Arc<Shared>,
}

struct Shared {
    enabled: AtomicBool,
    /// Whose connections are to be told.
    servers: Mutex<Vec<Weak<Server>>>,
}

impl KeepAlive {
    /// Enabled.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                enabled: AtomicBool::new(true),
                servers: Mutex::default(),
            }),
        }
    }

    /// From now on connections are kept; those that have been told so close all the same.
    pub fn enable(&self) {
        self.shared.enabled.store(true, Ordering::Release);
    }

    /// From now on no connection is kept.
    pub fn disable(&self) {
        self.shared.enabled.store(false, Ordering::Release);
        let servers: Vec<_> = self.servers().iter().filter_map(Weak::upgrade).collect();
        // After that, so that whoever is woken sees it.
        for server in servers {
            server.drain.wake_connections();
        }
    }

    /// Whether connections are kept.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        self.shared.enabled.load(Ordering::Acquire)
    }

    pub(super) fn tells(&self, server: &Arc<Server>) {
        let mut servers = self.servers();
        servers.retain(|server| server.strong_count() > 0);
        servers.push(Arc::downgrade(server));
    }

    fn servers(&self) -> MutexGuard<'_, Vec<Weak<Server>>> {
        let servers = self.shared.servers.lock();
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
