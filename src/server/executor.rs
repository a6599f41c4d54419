//! Spawns the tasks of a server.

use hyper::rt;
use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
};

/// Names the future of a connection, or of a stream of HTTP/2, for
/// [`Serve::executor`](super::Serve::executor).
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Spawns the tasks of a server: with `tokio::spawn`, or with
/// [one of your own](super::Serve::executor).
///
/// You meet it only as a parameter of hyper's builder, in [`Serve::http2`](super::Serve::http2).
#[derive(Clone)]
pub struct Executor {
    // Shared, as hyper's builder has a clone before `Serve::executor` is called.
    own: Arc<OnceLock<Box<dyn rt::Executor<Task> + Send + Sync>>>,
}

impl Executor {
    pub(super) fn new() -> Self {
        Self {
            own: Arc::default(),
        }
    }

    /// Replaces `tokio::spawn`. Returns whether it was not replaced before.
    pub(super) fn replace(&self, own: impl rt::Executor<Task> + Send + Sync + 'static) -> bool {
        self.own.set(Box::new(own)).is_ok()
    }
}

impl<F: Future<Output = ()> + Send + 'static> rt::Executor<F> for Executor {
    fn execute(&self, future: F) {
        match self.own.get() {
            Some(own) => own.execute(Box::pin(future)),
            None => drop(tokio::spawn(future)),
        }
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor").finish_non_exhaustive()
    }
}
