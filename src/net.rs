//! Counts connections and closes them in a drain, under any server.
//!
//! # What is promised
//!
//! * **What has arrived is served**: the connections in the accept queue, and requests in the
//!   buffer of a kept connection. So are the rest of a head that has begun to arrive, and the first
//!   request of a connection that was accepted a moment ago. The response says `Connection: close`
//!   if there is a [layer](Drain::layer).
//! * **No connection holds the drain for ever.** A silent one is closed a
//!   [second](crate::DrainBuilder::grace) after its accept. One with half a head is closed after 5
//!   s, and so is an HTTP/2 connection without streams that does not end. All others are aborted at
//!   the deadline. Sockets are closed within a second, even if the server has detached their
//!   connections.
//! * **Done means written.** A connection is counted until its server drops it. By then the kernel
//!   has its last byte, and the process may exit.
//! * **WebSockets and tunnels are counted.** The drain waits for them, aborts them at the deadline,
//!   and [reports](crate::report::ConnectionState::Upgraded) them. [`Drain::reached`] tells them of
//!   [`Draining`](crate::Phase::Draining). On request, the listener
//!   [closes WebSockets](DrainListener::close_websockets) in place of their handlers.
//! * **A response is not destroyed by the close.** When the server closes in the middle of a
//!   request, the drain reads and discards the rest. It stops after 5 s or 16 MiB (HTTP/2: 4 MiB).
//!
//! # What is not promised
//!
//! * **A listener sees bytes, not requests.** From them it learns the
//!   [state](crate::report::ConnectionState) of a connection, unless they are encrypted. TLS around
//!   the listener loses nothing ([`guide::axum`](crate::guide::axum) has the program). Its
//!   connections are reported as [`Opaque`](crate::report::ConnectionState::Opaque).
//! * **The kernel may reset a client** that connects in the microsecond in which the listener
//!   closes, or whose TCP handshake is half done then. On Linux it does not if the process alone
//!   has the listener ([`Drain::bind`], [`DrainListener::exclusive`]).
//! * **An idle connection is closed** after the [settling](crate::DrainBuilder::settle), by the
//!   server at its [shutdown signal](Drain::shutdown_signal). A client that sends a request on it
//!   later finds it closed.

// `listener` and `incoming` are the two types from which servers accept. `closing` is the state
// machine of both, up to the end of listening, and `backlog` empties accept queues. `drain_io`
// wraps each connection and acts on what `sniff` finds in its bytes. `closing_handshake` closes
// WebSockets in place of their handlers. `linger` reads what a peer still sends after the
// connection was closed.

mod backlog;
mod closing;
mod closing_handshake;
mod drain_io;
mod incoming;
mod linger;
mod listener;
mod monitor;
mod sniff;
mod socket;

#[cfg(feature = "server")]
pub(crate) use self::{
    closing_handshake::CloseWebSockets,
    socket::{SocketOf, SocketOptions, bind},
};
pub use self::{drain_io::DrainIo, incoming::DrainIncoming, listener::DrainListener};

use crate::drain::Drain;
use std::io;
use tokio::net::{TcpListener, ToSocketAddrs};

impl Drain {
    /// Binds a TCP listener whose connections this drain counts.
    ///
    /// It is a [`listener`](Self::listener) over tokio's `TcpListener` that is
    /// [`exclusive`](DrainListener::exclusive): no other process has its socket. So, on Linux, no
    /// client is reset that connects while it closes. `[::]` takes IPv4 clients, too, where the
    /// system lets an IPv6 socket do that.
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
