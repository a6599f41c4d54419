//! The clients of one shutdown.

use crate::{
    BoxError,
    client::{self, Answers, Fate, Mode},
};
use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet, time::timeout};

/// So many answers each client has before the server is told to stop.
const WARM: usize = 5;

/// Longer than anything here takes. A client that waits longer was forgotten: its request is lost.
const LIMIT: Duration = Duration::from_secs(20);

pub struct Load {
    clients: JoinSet<Fate>,
    answers: Arc<[Answers]>,
}

impl Load {
    pub fn start(runtime: &Runtime, address: SocketAddr, mode: Mode, clients: usize) -> Self {
        let answers: Arc<[Answers]> = (0..clients).map(|_| Answers::default()).collect();
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            let answers = answers.clone();
            let client = async move {
                let client = client::run(address, mode, &answers[number]);
                timeout(LIMIT, client).await.unwrap_or(Fate::Lost)
            };
            tasks.spawn_on(client, runtime.handle());
        }
        Self {
            clients: tasks,
            answers,
        }
    }

    /// Waits until each client is in its loop.
    pub fn warm_up(&self) -> Result<(), BoxError> {
        let start = Instant::now();
        while self.answers.iter().any(|answers| answers.count() < WARM) {
            if start.elapsed() > LIMIT / 2 {
                return Err("some clients are not answered, though nobody stops the server".into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// All answers, and what the last request of each client came to.
    pub fn finish(self, runtime: &Runtime) -> (usize, Vec<Fate>) {
        let fates = runtime.block_on(self.clients.join_all());
        let answered = self.answers.iter().map(Answers::count).sum();
        (answered, fates)
    }
}
