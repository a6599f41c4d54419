//! The clients of a run, and what they saw.

use crate::{BoxError, GUARD, client, events::now};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, task::JoinSet, time::timeout};

/// What is counted together in the picture.
pub const BUCKET: Duration = Duration::from_millis(100);

/// No handler takes a tenth of that: who waits for longer has met a restart.
const LATE: Duration = Duration::from_millis(500);

/// How a client asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Get,
    Post,
    OneEach,
    Http2,
    Grpc,
}

impl Kind {
    pub const ALL: [Self; 5] = [
        Self::Get,
        Self::Post,
        Self::OneEach,
        Self::Http2,
        Self::Grpc,
    ];

    /// In the table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Get => "GET, kept",
            Self::Post => "POST, kept",
            Self::OneEach => "GET, new",
            Self::Http2 => "HTTP/2",
            Self::Grpc => "gRPC",
        }
    }
}

/// Requests of one kind, or of one bucket.
#[derive(Clone, Copy, Default)]
pub struct Count {
    pub answered: usize,
    pub failed: usize,
}

impl Count {
    fn add(&mut self, failed: bool) {
        match failed {
            true => self.failed += 1,
            false => self.answered += 1,
        }
    }
}

/// What the clients saw.
#[derive(Clone, Default)]
pub struct Seen {
    pub start: Duration,
    pub all: Count,
    /// Of those that were answered.
    pub late: usize,
    pub by_kind: [Count; Kind::ALL.len()],
    pub buckets: Vec<Count>,
    pub reasons: BTreeMap<String, usize>,
}

/// Where the proxy listens.
#[derive(Clone, Copy)]
pub struct Front {
    pub http1: SocketAddr,
    pub http2: SocketAddr,
}

pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

/// What the clients share.
pub struct Shared {
    pub front: Front,
    seen: Mutex<Seen>,
    news: Notify,
    stop: AtomicBool,
}

impl Load {
    /// So many clients of each kind.
    pub fn start(front: Front, clients: usize) -> Self {
        let shared = Arc::new(Shared {
            front,
            seen: Mutex::new(Seen {
                start: now(),
                ..Seen::default()
            }),
            news: Notify::new(),
            stop: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for kind in Kind::ALL {
            client::spawn(kind, clients, &shared, &mut tasks);
        }
        Self {
            shared,
            clients: tasks,
        }
    }

    /// Waits until so many more requests of each kind are answered.
    pub async fn goes_on(&self, answers: usize) -> Result<(), BoxError> {
        timeout(GUARD, self.are_answered(answers))
            .await
            .map_err(|_| "hardly anything is answered any more".into())
    }

    async fn are_answered(&self, answers: usize) {
        let before = self.shared.seen().by_kind;
        loop {
            // Before the look, so that no news is missed.
            let news = self.shared.news.notified();
            let now = self.shared.seen().by_kind;
            let mut kinds = now.iter().zip(before);
            if kinds.all(|(now, before)| now.answered >= before.answered + answers) {
                return;
            }
            news.await;
        }
    }

    pub fn failed(&self) -> usize {
        self.shared.seen().all.failed
    }

    pub async fn finish(mut self) -> Seen {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
        self.shared.seen().clone()
    }
}

impl Shared {
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// What one request came to.
    pub fn tell(&self, kind: Kind, took: Duration, answer: Result<(), String>) {
        let mut seen = self.seen();
        let bucket = (now().saturating_sub(seen.start).as_millis() / BUCKET.as_millis()) as usize;
        if seen.buckets.len() <= bucket {
            seen.buckets.resize(bucket + 1, Count::default());
        }
        let failed = answer.is_err();
        seen.all.add(failed);
        seen.late += usize::from(!failed && took > LATE);
        seen.by_kind[kind as usize].add(failed);
        seen.buckets[bucket].add(failed);
        if let Err(reason) = answer {
            let reason = format!("{}: {reason}", kind.title());
            *seen.reasons.entry(reason).or_default() += 1;
        }
        drop(seen);
        self.news.notify_waiters();
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics under it")
    }
}
