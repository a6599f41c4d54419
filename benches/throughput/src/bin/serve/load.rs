//! Load on a server: h2load's and wrk's, or if they are not there, our own.

use crate::client;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use throughput::Http1;
use tokio::{process::Command, task::JoinSet};

#[derive(Clone, Copy)]
pub enum Load {
    Kept,
    Http2,
    Fresh,
}

/// Of HTTP/1, in a closed loop each.
const CONNECTIONS: usize = 16;
/// Of HTTP/2.
const MULTIPLEXED: usize = 4;
const STREAMS: usize = 32;
/// Of h2load.
const REQUESTS: usize = 15_000;
/// Of our own clients.
const ROUND: Duration = Duration::from_millis(200);

impl Load {
    pub const ALL: [Self; 3] = [Self::Kept, Self::Http2, Self::Fresh];

    /// With the name of who makes it.
    pub async fn title(self) -> String {
        let what = match self {
            Self::Kept => format!("HTTP/1, {CONNECTIONS} kept connections"),
            Self::Http2 => format!("HTTP/2, {STREAMS} streams on {MULTIPLEXED} connections"),
            Self::Fresh => {
                format!("HTTP/1, a connection for each request, {CONNECTIONS} at a time")
            }
        };
        let tool = self.tool();
        if self.has_tool().await {
            return format!("{what} ({tool})");
        }
        eprintln!("NO {tool}: the load is our own client's (apt-get install wrk nghttp2-client)");
        what
    }

    pub fn rounds(self) -> usize {
        match self {
            // A second each: wrk can not do less.
            Self::Fresh => 20,
            Self::Kept | Self::Http2 => 50,
        }
    }

    fn tool(self) -> &'static str {
        match self {
            Self::Fresh => "wrk",
            Self::Kept | Self::Http2 => "h2load",
        }
    }

    async fn has_tool(self) -> bool {
        // wrk has no success to offer without a URL.
        Command::new(self.tool())
            .arg("--version")
            .output()
            .await
            .is_ok()
    }

    /// How many requests were answered, and in what time.
    pub async fn run(self, server: SocketAddr) -> (f64, Duration) {
        if !self.has_tool().await {
            return match self {
                Self::Kept => throughput::load(server, Http1::Kept, CONNECTIONS, ROUND).await,
                Self::Fresh => throughput::load(server, Http1::Fresh, CONNECTIONS, ROUND).await,
                Self::Http2 => load_http2(server).await,
            };
        }
        let url = format!("http://{server}/");
        match self {
            Self::Kept => h2load(&["--h1", "-c", &CONNECTIONS.to_string(), &url]).await,
            Self::Http2 => {
                let (connections, streams) = (MULTIPLEXED.to_string(), STREAMS.to_string());
                h2load(&["-c", &connections, "-m", &streams, &url]).await
            }
            Self::Fresh => wrk(&url).await,
        }
    }
}

async fn h2load(arguments: &[&str]) -> (f64, Duration) {
    let report = run(
        "h2load",
        &[&["-n", &REQUESTS.to_string()], arguments].concat(),
    )
    .await;
    // finished in 234.39ms, 85327.43 req/s, 10.01MB/s
    let line = line(&report, "finished in ");
    let rate = line
        .split(", ")
        .nth(1)
        .and_then(|rate| rate.strip_suffix(" req/s"));
    let rate: f64 = rate.and_then(|rate| rate.parse().ok()).expect("a rate");
    let all = format!("{REQUESTS} succeeded, 0 failed");
    assert!(report.contains(&all), "h2load has lost some:\n{report}");
    let answered = REQUESTS as f64;
    (answered, Duration::from_secs_f64(answered / rate))
}

async fn wrk(url: &str) -> (f64, Duration) {
    let connections = CONNECTIONS.to_string();
    let close = "Connection: close";
    let report = run(
        "wrk",
        &["-t1", "-c", &connections, "-d1s", "-H", close, url],
    )
    .await;
    for complaint in ["Socket errors", "Non-2xx"] {
        assert!(!report.contains(complaint), "wrk has lost some:\n{report}");
    }
    //   11321 requests in 1.00s, 1.36MB read
    let requests = report.lines().find(|line| line.contains(" requests in "));
    let requests = requests.and_then(|line| line.split_whitespace().next());
    let answered: f64 = requests.and_then(|all| all.parse().ok()).expect("a number");
    let rate: f64 = line(&report, "Requests/sec:")
        .trim()
        .parse()
        .expect("a rate");
    (answered, Duration::from_secs_f64(answered / rate))
}

fn line<'a>(report: &'a str, begin: &str) -> &'a str {
    let mut lines = report.lines().filter_map(|line| line.strip_prefix(begin));
    lines
        .next()
        .unwrap_or_else(|| panic!("no {begin:?}:\n{report}"))
}

async fn run(tool: &str, arguments: &[&str]) -> String {
    let output = Command::new(tool).args(arguments).output().await;
    String::from_utf8(output.expect("installed").stdout).expect("text")
}

async fn load_http2(server: SocketAddr) -> (f64, Duration) {
    let began = Instant::now();
    let mut all = JoinSet::new();
    for _ in 0..MULTIPLEXED {
        let client = client::multiplexed(server).await;
        for _ in 0..STREAMS {
            let mut client = client.clone();
            all.spawn(async move {
                let mut answered = 0u32;
                while began.elapsed() < ROUND {
                    client = client.ready().await.expect("open");
                    assert_eq!(client::get(&mut client, "/").await, "hello");
                    answered += 1;
                }
                answered
            });
        }
    }
    let answered: u32 = all.join_all().await.into_iter().sum();
    (f64::from(answered), began.elapsed())
}
