//! Inserts what requests know of their connection, in the types that axum and tonic look for.

use super::listener::ConnectionInfo;
use http::Extensions;

/// Inserts the peer, and for tonic also the local address.
pub(super) fn insert(connection: ConnectionInfo<'_>, extensions: &mut Extensions) {
    #[cfg(feature = "axum")]
    {
        use axum::extract::ConnectInfo;

        if let Some(peer) = connection.peer().tcp() {
            extensions.insert(ConnectInfo(peer));
        }
        extensions.insert(ConnectInfo(connection.peer().clone()));
    }
    #[cfg(feature = "tonic")]
    {
        use tonic::transport::server::{Connected, TcpConnectInfo};

        if let Some(tcp) = connection.io::<tokio::net::TcpStream>() {
            extensions.insert(TcpConnectInfo {
                local_addr: tcp.local_addr().ok(),
                remote_addr: connection.peer().tcp(),
            });
        } else if let peer @ Some(_) = connection.peer().tcp() {
            extensions.insert(TcpConnectInfo {
                local_addr: None,
                remote_addr: peer,
            });
        }
        #[cfg(unix)]
        if let Some(unix) = connection.io::<tokio::net::UnixStream>() {
            extensions.insert(unix.connect_info());
        }
    }
    let _ = (connection, extensions);
}

/// Inserts what tonic inserts for its own TLS connections: the addresses and the peer's
/// certificates.
#[cfg(feature = "rustls")]
pub(super) fn insert_tls<T: 'static>(
    stream: &tokio_rustls::server::TlsStream<T>,
    extensions: &mut Extensions,
) {
    #[cfg(feature = "tonic")]
    {
        use std::any::Any;
        use tokio_rustls::server::TlsStream;
        use tonic::transport::server::Connected;

        let stream: &dyn Any = stream;
        if let Some(tcp) = stream.downcast_ref::<TlsStream<tokio::net::TcpStream>>() {
            extensions.insert(tcp.connect_info());
        }
        #[cfg(unix)]
        if let Some(unix) = stream.downcast_ref::<TlsStream<tokio::net::UnixStream>>() {
            extensions.insert(unix.connect_info());
        }
    }
    let _ = (stream, extensions);
}
