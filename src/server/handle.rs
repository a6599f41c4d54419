//! Closes one connection of a running server.

use crate::drain::{Connection, Role};
use std::{
    fmt,
    sync::{Arc, Weak},
};

/// Closes one connection gracefully, as its [age limit](super::Serve::max_connection_age) does;
/// from [`ConnectionInfo::handle`](super::ConnectionInfo::handle).
///
/// It is for shedding load and for rotating keys: the client connects anew, and no request is lost.
///
/// Requests do not have it by default, because a value in their extensions costs each request an
/// allocation. If handlers need it, insert it in [`on_connect`](super::Serve::on_connect). To close
/// connections from elsewhere, collect the handles there. A handle keeps its connection neither
/// open nor counted.
///
/// ```no_run
/// use axum::{Extension, Router, routing::get};
/// use tower_graceful::server::ConnectionHandle;
///
/// # async fn f(tcp: tokio::net::TcpListener) -> Result<(), tower_graceful::DrainTimeout> {
/// let app = Router::new().route(
///     "/logout",
///     get(async |Extension(connection): Extension<ConnectionHandle>| {
///         connection.close();
///         "bye"
///     }),
/// );
/// tower_graceful::serve(tcp, app)
///     .on_connect(|connection, extensions| {
///         extensions.insert(connection.handle());
///     })
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ConnectionHandle {
    // Weak, so that handles that are kept do not keep the memory of the drain.
    connection: Weak<Connection>,
}

impl ConnectionHandle {
    pub(super) fn new(connection: &Arc<Connection>) -> Self {
        Self {
            connection: Arc::downgrade(connection),
        }
    }

    /// Closes the connection once the requests that it has begun have ended.
    ///
    /// * Over HTTP/1, the response carries `Connection: close` and the connection closes after it.
    ///   If the head of the response was already sent, or no request is in flight, the connection
    ///   closes as an idle one does in a drain: see [`server`](crate::server). A request that its
    ///   client sends meanwhile is served.
    /// * Over HTTP/2, the connection gets two GOAWAYs, and closes when its streams have ended.
    ///
    /// Without effect on a connection that has ended or was upgraded.
    pub fn close(&self) {
        if let Some(connection) = self.connection.upgrade() {
            connection.retire();
            // After `retire`, so that the task that wakes sees it.
            connection.wakers.wake(Role::Drives);
        }
    }
}

impl fmt::Debug for ConnectionHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connection = self.connection.upgrade();
        let closes = connection.as_ref().map(|connection| connection.retires());
        f.debug_struct("ConnectionHandle")
            .field("open", &connection.is_some())
            .field("closes", &closes.unwrap_or(true))
            .finish()
    }
}
