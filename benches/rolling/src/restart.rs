//! The restarts: first one replica, then the other, under load.

use crate::{
    BoxError,
    events::{Change, Event, now},
    load::{Load, Seen},
    options::Options,
    process::Replica,
    proxy::{self, Proxy, Running, free_port},
    replica::{Server, Settings},
};
use std::time::Duration;
use tokio::time::sleep;

/// For everything: nothing here takes that long.
const TIMEOUT: Duration = Duration::from_secs(20);

/// So many answers of each kind there are between two restarts.
const BETWEEN: usize = 20;

/// So many times as many rounds there are at the most, where nothing has failed that has to.
const LUCKY: usize = 10;

/// What a row is about.
#[derive(Clone, Copy)]
pub struct Case {
    pub proxy: Proxy,
    pub server: Server,
    pub lame_duck: Duration,
    /// How long after the SIGTERM the proxy is told, if it does not find out by itself.
    pub lag: Option<Duration>,
    pub rounds: usize,
}

/// What came of it.
pub struct Outcome {
    pub case: Case,
    pub seen: Seen,
    pub events: Vec<Event>,
    pub restarts: usize,
    pub sent_twice: usize,
    pub slowest: Duration,
    /// What our servers said that was not `0 refused, nothing left`.
    pub complaints: Vec<String>,
}

impl Case {
    /// Those that the command line asks for.
    pub fn all(options: &Options) -> Vec<Self> {
        let mut cases = Vec::new();
        for &proxy in options.proxies.iter().filter(|_| options.rolling) {
            for &server in &options.servers {
                cases.push(Self {
                    proxy,
                    server,
                    lame_duck: match server.is_ours() {
                        true => options.lame_duck,
                        false => Duration::ZERO,
                    },
                    lag: None,
                    rounds: options.rounds,
                });
            }
        }
        if options.race && options.proxies.contains(&Proxy::Haproxy) {
            for &server in options.servers.iter().filter(|server| server.is_ours()) {
                for lame_duck in [options.race_lame_duck, Duration::ZERO] {
                    cases.push(Self {
                        proxy: Proxy::Haproxy,
                        server,
                        lame_duck,
                        lag: Some(options.lag),
                        rounds: options.race_rounds,
                    });
                }
            }
        }
        cases
    }

    /// Whether a request may fail: if none does, the rig shows nothing.
    pub fn shall_fail(&self) -> bool {
        match self.lag {
            None => !self.server.is_ours(),
            Some(lag) => self.lame_duck < lag,
        }
    }

    pub async fn run(self, options: &Options) -> Result<Outcome, BoxError> {
        let ports = [free_port()?, free_port()?];
        let settings = ports.map(|port| Settings {
            server: self.server,
            port,
            lame_duck: self.lame_duck,
            timeout: TIMEOUT,
        });
        let [a, b] = settings;
        let mut replicas = [Replica::start(0, a).await?, Replica::start(1, b).await?];
        let configuration = match self.lag {
            None => self.proxy.configuration(),
            Some(_) => proxy::RACE,
        };
        let proxy = Running::start(self.proxy, configuration, ports).await?;
        let load = Load::start(proxy.front, options.clients);
        let mut slowest = Duration::ZERO;
        let mut complaints = Vec::new();
        for replica in &mut replicas {
            replica.answers().await?;
        }
        let mut restarts = 0;
        // Of those who lose requests, some are lucky for a while.
        let is_to_go_on = |restarts: usize| {
            let rounds = restarts / ports.len();
            rounds < self.rounds
                || self.shall_fail() && load.failed() == 0 && rounds < LUCKY * self.rounds
        };
        while is_to_go_on(restarts) {
            for (number, replica) in replicas.iter_mut().enumerate() {
                load.goes_on(BETWEEN).await?;
                sleep(options.pause).await;
                let ended = match self.lag {
                    None => replica.stop().await?,
                    Some(lag) => {
                        // A replica that is gone before gets its requests all the same.
                        let told = async {
                            sleep(lag).await;
                            proxy.route(number, false)?;
                            Ok::<_, BoxError>(now())
                        };
                        let (ended, told) = tokio::join!(replica.stop(), told);
                        replica.note(Change::NotRoutedTo, told?);
                        ended?
                    }
                };
                restarts += 1;
                slowest = slowest.max(ended.took);
                if self.server.is_ours() && !ended.outcome.ends_with(" 0 refused, nothing left") {
                    complaints.push(ended.outcome);
                }
                replica.start_again().await?;
                if self.lag.is_some() {
                    proxy.route(number, true)?;
                    replica.note(Change::RoutedTo, now());
                }
                replica.answers().await?;
            }
        }
        load.goes_on(BETWEEN).await?;
        let seen = load.finish().await;
        let [a, b] = replicas;
        Ok(Outcome {
            case: self,
            seen,
            events: [a.events, b.events].concat(),
            restarts,
            sent_twice: proxy.sent_twice()?,
            slowest,
            complaints,
        })
    }
}
