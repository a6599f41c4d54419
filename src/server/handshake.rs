//! Holds a connection whose handshake is done.

use super::{
    handle::ConnectionHandle,
    listener::{ConnectionInfo, Peer, Protocol},
};
use crate::{drain::Connection, net::SocketOf};
use http::Extensions;
use std::{
    any::Any,
    future::{Ready, ready},
    io,
    sync::Arc,
};
use tokio::net::TcpStream;

/// Holds a connection after a handshake, for [`Serve::listen_with`](super::Serve::listen_with).
#[derive(Debug)]
#[must_use = "the handshake returns it"]
pub struct Handshaken<T> {
    pub(super) io: T,
    pub(super) peer: Option<Peer>,
    pub(super) tcp: Option<fn(&T) -> Option<&TcpStream>>,
    /// Returns the connection below. `None` for the connection itself.
    pub(super) below: Option<fn(&T) -> &dyn Any>,
    /// Names the protocol that the handshake has negotiated, if it negotiates one.
    pub(super) protocol: Option<Protocol>,
    /// Returns the TLS state, if the handshake was one of rustls.
    #[cfg(feature = "rustls")]
    pub(super) tls: Option<fn(&T) -> &tokio_rustls::rustls::ServerConnection>,
    /// Inserts what requests know of a connection after this handshake.
    pub(super) insert_info: fn(&T, &mut Extensions),
}

impl<T> Handshaken<T> {
    /// Returns the connection that requests are read from.
    pub fn new(io: T) -> Self {
        Self {
            io,
            peer: None,
            tcp: None,
            below: None,
            protocol: None,
            #[cfg(feature = "rustls")]
            tls: None,
            insert_info: |_, _| {},
        }
    }

    /// Sets the peer, where the handshake has learned it: a PROXY protocol header names the client
    /// of the balancer. From then on, reports, logs, [`on_connect`](super::Serve::on_connect) and
    /// `ConnectInfo` have it. [`Serve::per_connection`](super::Serve::per_connection) was called
    /// before, with the peer that the listener has returned, which is the default here.
    pub fn peer(mut self, peer: impl Into<Peer>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// Sets the way to the TCP connection below, where the type of the connection is a wrapper such
    /// as the stream of a TLS library. A `TcpStream` itself is known.
    ///
    /// Before an idle connection closes, its socket is asked for bytes that the runtime has not seen.
    /// Without this, a request that arrives in the moment in which its connection closes may be
    /// lost, and [`http1_half_close`](super::Serve::http1_half_close) does not notice a reset.
    pub fn over_tcp(mut self, tcp: fn(&T) -> Option<&TcpStream>) -> Self {
        self.tcp = Some(tcp);
        self
    }
}

impl<T: 'static> Handshaken<T> {
    /// Returns the way to the socket.
    pub(super) fn socket(&self) -> SocketOf<T> {
        SocketOf {
            below: self.below.unwrap_or(|io| io),
            tcp: self.tcp,
        }
    }

    /// Describes the connection.
    pub(super) fn info<'a>(
        &'a self,
        peer: &'a Peer,
        handle: &'a ConnectionHandle,
    ) -> ConnectionInfo<'a> {
        ConnectionInfo {
            io: (self.socket().below)(&self.io),
            peer,
            handle,
            #[cfg(feature = "rustls")]
            tls: self.tls.map(|tls| tls(&self.io)),
        }
    }
}

/// Makes no handshake.
pub(super) fn none<T>(io: T, _: Peer, _: Arc<Connection>) -> Ready<io::Result<Handshaken<T>>> {
    ready(Ok(Handshaken::new(io)))
}
