//! Holds the settings and the limits of a server, which its connections share.

use super::{
    executor::Executor,
    keep_alive::KeepAlive,
    listener::{ConnectionInfo, Protocol},
};
use crate::{
    drain::Drain,
    net::{CloseWebSockets, SocketOptions},
    refusal::Exempt,
    timer::random,
};
use http::{Extensions, Request};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

pub(super) type OnConnect = Box<dyn Fn(ConnectionInfo<'_>, &mut Extensions) + Send + Sync>;
pub(super) type Exemptions = Arc<dyn Exempt<Request<Incoming>> + Send + Sync>;

/// Holds the settings of a server.
pub(super) struct ServerSettings {
    pub(super) exclusive: bool,
    pub(super) tcp: SocketOptions,
    pub(super) close_websockets: Arc<CloseWebSockets>,
    pub(super) limits: Limits,
    pub(super) protocol: Option<Protocol>,
    pub(super) keep_alive: KeepAlive,
    pub(super) reports_requests: bool,
    /// Decides which requests are neither refused nor counted.
    pub(super) exempt: Option<Exemptions>,
    /// Says whether a client may close its half; see
    /// [`Serve::http1_half_close`](super::Serve::http1_half_close).
    pub(super) half_close: bool,
    pub(super) on_connect: Option<OnConnect>,
    pub(super) executor: Executor,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Executor>,
}

/// Holds what all connections of a server share.
pub(super) struct ServerShared {
    pub(super) drain: Drain,
    pub(super) settings: ServerSettings,
    pub(super) dropped: AtomicBool,
}

impl ServerShared {
    pub(super) fn is_dropped(&self) -> bool {
        self.dropped.load(Ordering::Acquire)
    }
}

/// Holds the limits; `None` is no limit.
pub(super) struct Limits {
    /// Limits the time of a handshake, and that of a head.
    pub(super) head: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) permits: Option<Arc<Semaphore>>,
    pub(super) age: Option<Age>,
}

/// Limits the age of a connection, and its time to end after that.
#[derive(Clone, Copy)]
pub(super) struct Age {
    pub(super) limit: Duration,
    pub(super) grace: Option<Duration>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: Some(Duration::from_secs(30)),
            idle: None,
            permits: None,
            age: None,
        }
    }
}

impl Limits {
    /// Returns when a head or a handshake that began at `since` has taken too long.
    pub(super) fn head_until(&self, since: Instant) -> Option<Instant> {
        since.checked_add(self.head?)
    }

    /// Returns when a connection retires. The limit varies by up to a tenth, so that clients that
    /// connected together do not reconnect together.
    pub(super) fn retirement(&self, accepted: Instant) -> Option<Instant> {
        let limit = self.age?.limit;
        let share = f64::from(random()) / f64::from(u16::MAX) * 0.2 + 0.9;
        let limit = Duration::try_from_secs_f64(limit.as_secs_f64() * share).unwrap_or(limit);
        accepted.checked_add(limit)
    }

    /// Returns when a connection that retired at `retired` is dropped.
    pub(super) fn overdue_at(&self, retired: Instant) -> Option<Instant> {
        retired.checked_add(self.age?.grace?)
    }

    /// Returns whether a connection that retired at `retired` has to be dropped.
    pub(super) fn is_overdue(&self, retired: Instant, now: Instant) -> bool {
        self.overdue_at(retired).is_some_and(|at| at <= now)
    }
}
