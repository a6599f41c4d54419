//! The clients: each sends its next request when it has a response, until the server refuses.

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Runtime,
    task::JoinSet,
    time::{sleep, timeout},
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Route {
    Fast,
    Slow,
    Stream,
}

impl Route {
    pub const ALL: [Self; 3] = [Self::Fast, Self::Slow, Self::Stream];

    fn path(self) -> &'static str {
        match self {
            Self::Fast => "/fast",
            Self::Slow => "/slow",
            Self::Stream => "/stream",
        }
    }
}

/// What became of a request, as its client saw it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// 200, and the body to its end.
    Answered,
    /// 503: the client can send the request elsewhere.
    Refused,
    /// Nothing was sent: the client can send the request elsewhere.
    NotConnected,
    /// Sent, and the connection ended without a response.
    NoAnswer,
    /// The response broke off.
    CutAnswer,
}

pub struct Seen {
    pub id: u64,
    pub route: Route,
    pub fate: Fate,
}

#[derive(Default)]
struct Counters {
    ids: AtomicU64,
    answered: AtomicUsize,
    refused: AtomicUsize,
    lost: AtomicUsize,
}

pub struct Load {
    runtime: Runtime,
    clients: JoinSet<Vec<Seen>>,
    counters: Arc<Counters>,
}

impl Load {
    pub fn start(address: SocketAddr, clients: usize) -> Self {
        let runtime = Runtime::new().expect("a runtime");
        let counters = Arc::new(Counters::default());
        let mut tasks = JoinSet::new();
        for number in 0..clients {
            tasks.spawn_on(client(address, number, counters.clone()), runtime.handle());
        }
        Self {
            runtime,
            clients: tasks,
            counters,
        }
    }

    /// Answered, refused, lost.
    pub fn so_far(&self) -> (usize, usize, usize) {
        let read = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        let Counters {
            answered,
            refused,
            lost,
            ..
        } = &*self.counters;
        (read(answered), read(refused), read(lost))
    }

    /// Waits until every client has gone elsewhere.
    pub fn finish(self) -> Vec<Seen> {
        let seen = self.runtime.block_on(self.clients.join_all());
        seen.into_iter().flatten().collect()
    }
}

async fn client(address: SocketAddr, number: usize, counters: Arc<Counters>) -> Vec<Seen> {
    let client = Client::builder(TokioExecutor::new())
        // Every other client makes a connection for each request.
        .pool_max_idle_per_host(if number % 2 == 0 { 1 } else { 0 })
        .build_http();
    let mut seen = Vec::new();
    let route = match number % 16 {
        2 | 5 => Route::Slow,
        8 | 11 => Route::Stream,
        _ => Route::Fast,
    };
    for turn in 0.. {
        let id = counters.ids.fetch_add(1, Ordering::Relaxed);
        let fate = ask(&client, address, route, id).await;
        match fate {
            Fate::Answered => &counters.answered,
            Fate::Refused | Fate::NotConnected => &counters.refused,
            Fate::NoAnswer | Fate::CutAnswer => &counters.lost,
        }
        .fetch_add(1, Ordering::Relaxed);
        seen.push(Seen { id, route, fate });
        if fate != Fate::Answered {
            // To another replica, if there were one.
            break;
        }
        // Half of them wait a little, so that some connections are idle.
        if number % 4 >= 2 {
            sleep(Duration::from_millis(turn % 4)).await;
        }
    }
    seen
}

async fn ask(
    client: &Client<HttpConnector, Empty<Bytes>>,
    address: SocketAddr,
    route: Route,
    id: u64,
) -> Fate {
    let request = Request::get(format!("http://{address}{}", route.path()))
        .header("x-request", id)
        .body(Empty::new())
        .expect("a legal request");
    let answer = async {
        let response = match client.request(request).await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Fate::NotConnected,
            Err(_) => return Fate::NoAnswer,
        };
        if response.status() == StatusCode::SERVICE_UNAVAILABLE {
            return Fate::Refused;
        }
        let body = response.into_body().collect().await;
        let whole = body.is_ok_and(|body| body.to_bytes().ends_with(b"done"));
        if whole {
            Fate::Answered
        } else {
            Fate::CutAnswer
        }
    };
    // Longer than any response takes: a server that forgot a client must not hang the demo.
    timeout(Duration::from_secs(30), answer)
        .await
        .unwrap_or(Fate::NoAnswer)
}
