//! A replica as the rig has it: a process, and after it the next one on the same port.

use crate::{
    BoxError, GUARD, client,
    events::{self, Change, Event},
    replica::Settings,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{env::current_exe, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::{sleep, timeout},
};

pub struct Replica {
    number: usize,
    settings: Settings,
    child: Child,
    /// It ends when this does. (Not left to `child`, which closes it when it is waited for.)
    _stdin: ChildStdin,
    said: Lines,
    seen: Vec<Change>,
    pub events: Vec<Event>,
}

/// How a process came to its end.
pub struct Ended {
    pub took: Duration,
    pub outcome: String,
}

impl Replica {
    pub async fn start(number: usize, settings: Settings) -> Result<Self, BoxError> {
        let (child, stdin, said) = spawn(settings)?;
        let mut replica = Self {
            number,
            settings,
            child,
            _stdin: stdin,
            said,
            seen: Vec::new(),
            events: Vec::new(),
        };
        replica.is_ready().await?;
        Ok(replica)
    }

    /// On the same port, after the last one has ended.
    pub async fn start_again(&mut self) -> Result<(), BoxError> {
        (self.child, self._stdin, self.said) = spawn(self.settings)?;
        self.seen.clear();
        self.is_ready().await
    }

    async fn is_ready(&mut self) -> Result<(), BoxError> {
        self.says(Change::Serving).await?;
        let ready = async {
            while !client::is_ready(self.settings.address()).await {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(GUARD, ready)
            .await
            .map_err(|_| "a replica does not become ready".into())
    }

    /// Waits until the proxy sends it requests of both kinds: that it takes it for up.
    pub async fn answers(&mut self) -> Result<(), BoxError> {
        self.says(Change::AnswersHttp).await?;
        self.says(Change::AnswersGrpc).await?;
        Ok(())
    }

    /// Sends SIGTERM, and waits until there is no process any more.
    pub async fn stop(&mut self) -> Result<Ended, BoxError> {
        let start = events::now();
        let pid = self.child.id().ok_or("it has ended by itself")?;
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?;
        let outcome = self.says(Change::Ended).await?;
        let status = timeout(GUARD, self.child.wait()).await;
        let status = status.map_err(|_| "a replica has ended, and its process has not")??;
        self.note(Change::Gone, events::now());
        if !status.success() {
            return Err(format!("a replica has ended with {status}: {outcome}").into());
        }
        Ok(Ended {
            took: events::now() - start,
            outcome,
        })
    }

    /// What happens to it elsewhere.
    pub fn note(&mut self, change: Change, at: Duration) {
        self.events.push(Event {
            replica: self.number,
            at,
            change,
        });
    }

    /// Waits until this process has said that, and gives what else was in the line.
    async fn says(&mut self, wanted: Change) -> Result<String, BoxError> {
        let mut more = String::new();
        while !self.seen.contains(&wanted) {
            let line = timeout(GUARD, self.said.next_line()).await;
            let line = line.map_err(|_| format!("a replica does not say {wanted:?}"))??;
            let line = line.ok_or_else(|| format!("a replica has ended before {wanted:?}"))?;
            let (at, change, rest) =
                events::parse(&line).ok_or_else(|| format!("a replica says {line:?}"))?;
            self.seen.push(change);
            self.note(change, at);
            more = rest.to_owned();
        }
        Ok(more)
    }
}

type Lines = tokio::io::Lines<BufReader<ChildStdout>>;

fn spawn(settings: Settings) -> Result<(Child, ChildStdin, Lines), BoxError> {
    let mut child = Command::new(current_exe()?)
        .args(settings.arguments())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let stdin = child.stdin.take().ok_or("it is piped")?;
    let stdout = child.stdout.take().ok_or("it is piped")?;
    Ok((child, stdin, BufReader::new(stdout).lines()))
}
