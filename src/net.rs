//! The connection side: what a listener of the drain accepts is counted until it is dropped, and
//! does its part in the drain, whatever server it is given to.
//!
//! [`wire`] looks at the bytes, [`io`] acts on what they say, [`door`] is the end of listening, and
//! [`listener`] and [`incoming`] are the two shapes in which servers want their connections.

mod door;
mod incoming;
mod io;
mod listener;
mod queue;
mod wire;

pub use self::{incoming::DrainIncoming, io::DrainIo, listener::DrainListener};

use crate::drain::Drain;

impl Drain {
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
