//! Logs errors of connections and services to `tracing`.
//!
//! Without the feature, nothing here is kept or done. A subscriber that panics ends neither a
//! server nor a connection.

#[cfg(feature = "tracing")]
use crate::drain::catch_panic;
use std::io;
#[cfg(feature = "server")]
use {
    http::Request,
    std::{error::Error, fmt, net::SocketAddr},
};

/// Logs an error of a listener's accept, as `axum::serve` does.
#[cold]
pub(crate) fn accept_error(error: &io::Error) {
    #[cfg(feature = "tracing")]
    catch_panic(|| tracing::error!(target: "tower_graceful", "accept error: {error}"));
    let _ = error;
}

/// Logs why a handshake has failed.
#[cfg(feature = "server")]
#[cold]
pub(crate) fn handshake_error(peer: Option<SocketAddr>, error: &dyn fmt::Display) {
    #[cfg(feature = "tracing")]
    catch_panic(|| {
        let peer = peer.map(tracing::field::display);
        tracing::debug!(target: "tower_graceful", peer, %error, "the handshake failed");
    });
    let _ = (peer, error);
}

/// Logs why a connection has failed.
#[cfg(feature = "server")]
#[cold]
pub(crate) fn connection_error(peer: Option<SocketAddr>, error: &(dyn Error + 'static)) {
    #[cfg(feature = "tracing")]
    catch_panic(|| {
        let (peer, error) = (peer.map(tracing::field::display), Chain(error));
        tracing::debug!(target: "tower_graceful", peer, %error, "the connection failed");
    });
    let _ = (peer, error);
}

/// Keeps what is logged if a call fails: the method and the path, without the query.
#[cfg(feature = "server")]
pub(crate) struct Call(Option<Box<(http::Method, http::Uri)>>);

#[cfg(feature = "server")]
impl Call {
    /// Keeps the method and the path, unless nothing is logged or `E` has no values.
    #[inline]
    pub(crate) fn of<B, E>(request: &Request<B>) -> Self {
        // If `E` has no values, as `Infallible`, the result has one value and a size of 0.
        let fails = size_of::<Result<(), E>>() > 0;
        match cfg!(feature = "tracing") && fails {
            true => Self(Some(Box::new((
                request.method().clone(),
                request.uri().clone(),
            )))),
            false => Self(None),
        }
    }

    /// Logs that the service has failed.
    #[cold]
    pub(crate) fn failed(&self, error: &(dyn Error + 'static)) {
        #[cfg(feature = "tracing")]
        if let Some((method, uri)) = self.0.as_deref() {
            catch_panic(|| {
                let (path, error) = (uri.path(), Chain(error));
                tracing::error!(
                    target: "tower_graceful", %method, path, %error,
                    "the service failed"
                );
            });
        }
        let _ = (&self.0, error);
    }

    /// Logs that an error of the service was answered with 503.
    #[cold]
    pub(crate) fn unavailable(&self, error: &(dyn Error + 'static)) {
        #[cfg(feature = "tracing")]
        if let Some((method, uri)) = self.0.as_deref() {
            catch_panic(|| {
                let (path, error) = (uri.path(), Chain(error));
                tracing::debug!(
                    target: "tower_graceful", %method, path, %error,
                    "answered with 503"
                );
            });
        }
        let _ = (&self.0, error);
    }
}

/// Prints an error and its sources.
#[cfg(all(feature = "server", feature = "tracing"))]
struct Chain<'a>(&'a (dyn Error + 'static));

#[cfg(all(feature = "server", feature = "tracing"))]
impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}
