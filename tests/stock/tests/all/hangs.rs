//! The hang matrix: what one bad client does to a shutdown, with and without the connection side.
//!
//! The guide's page `measurements` has the matrix. Without the connection side, the test checks
//! which servers hang. So it shows that the attacks work, and when a server is fixed.

use crate::{
    client::{Client, frames, get},
    guarded,
    server::{Kind, Server},
};
use futures_util::{SinkExt, StreamExt};
use std::time::{Duration, Instant};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};
use tower_graceful::{Drain, RunError};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bad {
    Silent,
    HalfPreface,
    HalfHead,
    HalfSecondHead,
    HalfBody,
    NeverReads,
    EventStream,
    NoPingAck,
    WebSocket,
    PoliteWebSocket,
}

use Bad::*;

const ALL: [Bad; 10] = [
    Silent,
    HalfPreface,
    HalfHead,
    HalfSecondHead,
    HalfBody,
    NeverReads,
    EventStream,
    NoPingAck,
    WebSocket,
    PoliteWebSocket,
];

impl Bad {
    fn name(self) -> &'static str {
        match self {
            Silent => "connects, says nothing",
            HalfPreface => "sends half of HTTP/2's preface",
            HalfHead => "sends half a head",
            HalfSecondHead => "sends half a second head",
            HalfBody => "sends half a body",
            NeverReads => "never reads its 64 MiB",
            EventStream => "reads an endless event stream",
            NoPingAck => "speaks HTTP/2, answers no PING",
            WebSocket => "holds a WebSocket open",
            PoliteWebSocket => "answers a WebSocket's goodbye",
        }
    }

    /// Does what it does; what is returned keeps it up.
    async fn attack(self, server: &Server) -> Attack {
        let path = match self {
            WebSocket => "/ws",
            PoliteWebSocket => "/ws-polite",
            _ => "",
        };
        if !path.is_empty() {
            let url = format!("ws://{}{path}", server.address);
            let (mut socket, _) = guarded(tokio_tungstenite::connect_async(url))
                .await
                .expect("an upgrade");
            if self == WebSocket {
                let text = Message::text("here");
                socket.send(text).await.expect("open");
                guarded(socket.next()).await.expect("open").expect("echo");
                return Attack::Socket(Box::new(socket));
            }
            // Answers a Close by itself, as long as it is polled.
            return Attack::Task(tokio::spawn(async move {
                while let Some(Ok(_)) = socket.next().await {}
            }));
        }
        let mut client = Client::connect(server.address).await;
        match self {
            Silent => {}
            HalfPreface => client.send(&frames::PREFACE[..12]).await,
            HalfHead => client.send(&get("/")[..20]).await,
            HalfSecondHead => {
                client.get("/").await;
                client.read_until("hello").await;
                client.send(&get("/")[..20]).await;
            }
            HalfBody => {
                let head = "POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n";
                client.send(format!("{head}12345")).await;
            }
            NeverReads => {
                client.get("/big").await;
                client.head().await;
            }
            EventStream => {
                client.get("/events").await;
                client.read_until("tick").await;
                return Attack::Task(tokio::spawn(async move { client.end().await }));
            }
            NoPingAck => {
                client.send(frames::hello()).await;
                // Its settings were taken.
                client.frame_of(frames::SETTINGS).await;
                client.send(frames::get(1, "/")).await;
                while client.frame().await.expect("open").flags & frames::END_STREAM == 0 {}
            }
            WebSocket | PoliteWebSocket => unreachable!("see above"),
        }
        // Long enough for the server to have read what was sent; not needed for the outcome.
        tokio::time::sleep(Duration::from_millis(50)).await;
        Attack::Client(client)
    }
}

#[expect(dead_code, reason = "kept open")]
enum Attack {
    Client(Client),
    Socket(Box<WebSocketStream<MaybeTlsStream<TcpStream>>>),
    Task(JoinHandle<()>),
}

/// How long a drain may take here.
const TIMEOUT: Duration = Duration::from_millis(700);

async fn with(kind: Kind, bad: Bad) -> String {
    let drain = Drain::builder().timeout(TIMEOUT).build();
    let server = Server::start(kind, drain.clone()).await;
    let _attack = bad.attack(&server).await;
    let began = Instant::now();
    drain.begin();
    let outcome = server.outcome().await;
    let took = began.elapsed();
    let row = format!("{kind:?}, {}: {took:?}, {outcome:?}", bad.name());
    assert!(took < TIMEOUT + Duration::from_secs(1), "{row}");
    // The connections are aborted, and not only counted.
    assert!(drain.left().is_empty(), "{row}: {}", drain.left());
    let left = match outcome {
        Ok(_) => String::new(),
        Err(RunError::Timeout(timeout)) => timeout.report().left.to_string(),
        Err(error) => panic!("{row}: {error}"),
    };
    // What the outcome has to list.
    let expected = match bad {
        // Nothing is lost without a request, or with a handler that ends at the drain.
        Silent | PoliteWebSocket | NoPingAck => "",
        HalfPreface | HalfHead | HalfSecondHead => "1 server, 1 connection (1 reading a head)",
        HalfBody => "1 request, 1 server, 1 connection (1 handling)",
        NeverReads => "1 request, 1 server, 1 connection (1 not read by the peer)",
        EventStream => "1 request, 1 server, 1 connection (1 streaming)",
        // axum's own count of connections is without it: the server has ended.
        WebSocket => "1 connection (1 upgraded)",
    };
    // That of `serve` ends with its listeners.
    let expected = match kind {
        Kind::Serve => expected.replace("1 server, ", ""),
        _ => expected.to_owned(),
    };
    assert_eq!(left, expected, "{row}");
    match left.is_empty() {
        true => "drained".into(),
        false => "cut, and said so".into(),
    }
}

async fn without(kind: Kind, bad: Bad) -> String {
    let drain = Drain::builder().timeout(TIMEOUT).build();
    let mut server = Server::start_without(kind, drain.clone()).await;
    let _attack = bad.attack(&server).await;
    drain.begin();
    match tokio::time::timeout(TIMEOUT, &mut server.done).await {
        Err(_) => "hangs".into(),
        // It has returned: with the connection closed, or without.
        Ok(_) if matches!(bad, WebSocket | PoliteWebSocket) => "forgets it".into(),
        Ok(_) => "ends".into(),
    }
}

/// Returns what was found of axum 0.8.9 and tonic 0.14.9. If it does not hold any more, a server
/// has changed: change `src/guide/measurements.md`, too.
fn known(kind: Kind, bad: Bad) -> &'static str {
    match (kind, bad) {
        (_, WebSocket | PoliteWebSocket) => "forgets it",
        // Closed in the middle of what they send.
        (Kind::Axum, Silent | HalfPreface) | (_, HalfSecondHead) => "ends",
        _ => "hangs",
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hang_matrix() {
    println!(
        "| a client that | axum::serve | with drain.listener | tonic | with drain.listener | \
         tower_graceful::serve |"
    );
    println!("|---|---|---|---|---|---|");
    let mut healed = Vec::new();
    for bad in ALL {
        let kinds: &[Kind] = match bad {
            // tonic serves no upgrades.
            WebSocket | PoliteWebSocket => &[Kind::Axum],
            Silent | HalfPreface | NoPingAck => &[Kind::Axum, Kind::Tonic2],
            _ => &[Kind::Axum, Kind::Tonic],
        };
        let mut row = format!("| {} |", bad.name());
        for &kind in kinds {
            let (without, with) = tokio::join!(without(kind, bad), with(kind, bad));
            row += &format!(" {without} | {with} |");
            if without != known(kind, bad) {
                healed.push(format!("{kind:?}, {}: {without}", bad.name()));
            }
        }
        if kinds.len() == 1 {
            row += " – | – |";
        }
        row += &format!(" {} |", with(Kind::Serve, bad).await);
        println!("{row}");
    }
    assert!(healed.is_empty(), "the servers have changed: {healed:#?}");
}
