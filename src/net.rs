//! Counts connections and closes them in a drain, under any server.

// `listener` and `incoming` are the two types from which servers accept. `closing` is the state
// machine of both, up to the end of listening, and `backlog` empties accept queues. `drain_io` wraps
// each connection and acts on what `sniff` finds in its bytes. `linger` reads what a peer still
// sends after the connection was closed.

mod backlog;
mod closing;
mod drain_io;
mod incoming;
mod linger;
mod listener;
mod monitor;
mod sniff;
mod socket;

#[cfg(feature = "server")]
pub(crate) use self::socket::{SocketOptions, bind, error, has_unread_bytes};
pub use self::{drain_io::DrainIo, incoming::DrainIncoming, listener::DrainListener};

use crate::drain::Drain;
use std::io;
use tokio::net::{TcpListener, ToSocketAddrs};

impl Drain {
    /// Binds a TCP listener whose connections this drain counts.
    ///
    /// It is a [`listener`](Self::listener) over tokio's `TcpListener` that is
    /// [`exclusive`](DrainListener::exclusive): no other process has its socket. So no client is
    /// reset that connects while it closes. `[::]` takes IPv4 clients, too, where the system has
    /// such sockets.
    ///
    /// # Errors
    ///
    /// Fails as [`TcpListener::bind`] does. The error names the address, if it is not that of a
    /// lookup of a name: `cannot listen on 0.0.0.0:80: Permission denied (os error 13)`.
    ///
    /// ```
    /// use tower_graceful::Drain;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let drain = Drain::new();
    /// let listener = drain.bind("127.0.0.1:0").await?;
    /// println!("listening on {}", listener.local_addr()?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn bind(
        &self,
        address: impl ToSocketAddrs,
    ) -> io::Result<DrainListener<TcpListener>> {
        let listener = socket::bind(address).await?;
        Ok(self.listener(listener).exclusive())
    }

    /// Wraps a listener, so that this drain counts its connections.
    ///
    /// Give it to `axum::serve` (feature `axum`) or to tonic (feature `tonic`, as a stream), or
    /// accept from it in a loop of your own. See [`DrainListener`].
    pub fn listener<L>(&self, listener: L) -> DrainListener<L> {
        DrainListener::new(listener, self)
    }

    /// Wraps a stream of connections, so that this drain counts them.
    ///
    /// Use it for tonic's `serve_with_incoming_shutdown` if you have a stream and not a listener,
    /// such as tonic's `TcpIncoming`. See [`DrainIncoming`].
    pub fn incoming<S>(&self, incoming: S) -> DrainIncoming<S> {
        DrainIncoming::new(incoming, self)
    }
}
