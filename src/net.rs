//! The connection side: what a listener of the drain accepts is counted until it is dropped, and
//! does its part in the drain, whatever server it is given to.
//!
//! [`sniff`] looks at the bytes, [`drain_io`] acts on what they say, [`closing`] is the end of listening, and
//! [`listener`] and [`incoming`] are the two shapes in which servers want their connections.

mod backlog;
mod closing;
mod drain_io;
mod incoming;
mod linger;
mod listener;
mod sniff;
mod socket;

#[cfg(feature = "server")]
pub(crate) use self::socket::{SocketOptions, error, has_unread_bytes};
pub use self::{drain_io::DrainIo, incoming::DrainIncoming, listener::DrainListener};

use crate::drain::Drain;
use std::io;
use tokio::net::{TcpListener, ToSocketAddrs};

impl Drain {
    /// Binds a TCP listener whose connections this drain knows.
    ///
    /// The same as a [`listener`](Self::listener) over tokio's, but that nobody else has its socket,
    /// and so nobody is reset who connects at the very end: see
    /// [`exclusive`](DrainListener::exclusive).
    ///
    /// # Errors
    ///
    /// Those of [`TcpListener::bind`].
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
        let listener = TcpListener::bind(address).await?;
        Ok(self.listener(listener).exclusive())
    }

    /// A listener whose connections this drain knows: for `axum::serve` (feature `axum`), for tonic
    /// (feature `tonic`: it is a stream, too) and for an accept loop by hand.
    ///
    /// See [`DrainListener`].
    pub fn listener<L>(&self, listener: L) -> DrainListener<L> {
        DrainListener::new(listener, self)
    }

    /// A stream of connections that this drain knows: for tonic's `serve_with_incoming_shutdown`,
    /// where the connections come from a stream already, such as tonic's `TcpIncoming`.
    ///
    /// See [`DrainIncoming`].
    pub fn incoming<S>(&self, incoming: S) -> DrainIncoming<S> {
        DrainIncoming::new(incoming, self)
    }
}
