//! What goes wrong with connections, for `tracing`, or for nobody: without the feature nothing of this is
//! kept or done.
//!
//! A subscriber that panics ends neither a server nor a connection.

#[cfg(feature = "tracing")]
use crate::drain::contained;
use std::io;
#[cfg(feature = "server")]
use {
    crate::server::Peer,
    http::Request,
    std::{error::Error, fmt},
};

/// Logs what a listener could not accept, as `axum::serve` does. To be called once for each error.
#[cold]
pub(crate) fn accept_error(error: &io::Error) {
    #[cfg(feature = "tracing")]
    contained(|| tracing::error!(target: "tower_graceful", "accept error: {error}"));
    let _ = error;
}

/// Logs why a handshake has failed.
#[cfg(feature = "server")]
#[cold]
pub(crate) fn handshake_error(peer: &Peer, error: &dyn fmt::Display) {
    #[cfg(feature = "tracing")]
    contained(|| {
        let peer = peer.tcp().map(tracing::field::display);
        tracing::debug!(target: "tower_graceful", peer, %error, "the handshake failed");
    });
    let _ = (peer, error);
}

/// Logs why a connection has ended before its time.
#[cfg(feature = "server")]
#[cold]
pub(crate) fn connection_error(peer: &Peer, error: &(dyn Error + 'static)) {
    #[cfg(feature = "tracing")]
    contained(|| {
        let (peer, error) = (peer.tcp().map(tracing::field::display), Chain(error));
        tracing::debug!(target: "tower_graceful", peer, %error, "the connection failed");
    });
    let _ = (peer, error);
}

/// What is logged of a call that fails: its method and its path, without the query.
#[cfg(feature = "server")]
pub(crate) struct Call(Option<Box<(http::Method, http::Uri)>>);

#[cfg(feature = "server")]
impl Call {
    /// Keeps what it takes to name the request, unless nothing is logged or no error of the type `E` can
    /// be.
    #[inline]
    pub(crate) fn of<B, E>(request: &Request<B>) -> Self {
        // A result that has room for nothing but `Ok(())`: the error is `Infallible`, say.
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
            contained(|| {
                let (path, error) = (uri.path(), Chain(error));
                tracing::error!(target: "tower_graceful", %method, path, %error, "the service failed");
            });
        }
        let _ = (&self.0, error);
    }

    /// Logs that the error of the service was answered.
    #[cold]
    pub(crate) fn unavailable(&self, error: &(dyn Error + 'static)) {
        #[cfg(feature = "tracing")]
        if let Some((method, uri)) = self.0.as_deref() {
            contained(|| {
                let (path, error) = (uri.path(), Chain(error));
                tracing::debug!(target: "tower_graceful", %method, path, %error, "answered with 503");
            });
        }
        let _ = (&self.0, error);
    }
}

/// An error and what it comes from.
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
