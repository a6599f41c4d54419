//! The answer at the deadline: what a client gets whose response has not begun then.

use crate::{
    client::{Client, closes, frames},
    guarded,
    server::{ALL, Kind, Outcome, Server, bind},
};
use axum::response::IntoResponse;
use bytes::Bytes;
use h2::client::SendRequest;
use http::{Request, Response, StatusCode};
use std::{net::SocketAddr, time::Duration};
use tokio::{net::TcpStream, task::JoinHandle};
use tower_graceful::{
    Drain, DrainTimeout, Phase, RunError,
    refusal::{NoAnswer, Refusal},
};

const TIMEOUT: Duration = Duration::from_millis(300);

/// The deadline, and the time that cutting has.
const AT_MOST: Duration = Duration::from_millis(800);

const HTTP2: [Kind; 4] = [Kind::Axum, Kind::Tonic, Kind::Tonic2, Kind::Serve];

fn drain() -> Drain {
    Drain::builder().timeout(TIMEOUT).build()
}

fn timed_out(outcome: Outcome) -> DrainTimeout {
    match outcome {
        Err(RunError::Timeout(timeout)) => timeout,
        other => panic!("{other:?}"),
    }
}

/// How many requests were left, and how many of them were answered. Both are in the text.
fn figures(timeout: &DrainTimeout) -> (usize, u64) {
    let report = timeout.report();
    let answered = report.answered_at_deadline;
    let text = format!(", {answered} answered at the deadline)");
    assert_eq!(
        timeout.to_string().contains(&text),
        answered > 0,
        "{timeout}"
    );
    assert_eq!(report.completed, 0, "{timeout}");
    assert!(report.elapsed >= TIMEOUT, "{timeout}");
    (report.left.requests, answered)
}

fn assert_plain_503(head: &str, case: impl std::fmt::Debug) {
    assert!(head.starts_with("HTTP/1.1 503 "), "{case:?}: {head}");
    assert_eq!(closes(head), 1, "{case:?}: {head}");
    assert!(head.contains("content-length: 0\r\n"), "{case:?}: {head}");
    assert!(!head.contains("retry-after"), "{case:?}: {head}");
}

/// A server whose layer, or `serve` itself, answers with that.
fn start_with<A>(kind: Kind, answer: A) -> Server
where
    A: Refusal<(), axum::body::Body> + Clone + Send + Sync + 'static,
{
    match kind {
        Kind::Serve => Server::serve(drain(), |tcp, app| {
            tower_graceful::serve(tcp, app).answer_at_deadline(answer)
        }),
        _ => {
            let drain = drain();
            let layer = drain.layer().answer_at_deadline(answer);
            Server::start_as(kind, drain, bind(), |app| app.layer(layer))
        }
    }
}

#[tokio::test]
async fn over_http1_a_503_and_a_fin() {
    for kind in ALL {
        let server = Server::start(kind, drain()).await;
        let mut stuck = Client::connect(server.address).await;
        stuck.get("/stuck").await;
        server.at_the_gate().await;
        server.drain.begin();
        assert_plain_503(&stuck.head().await, kind);
        assert_eq!(stuck.rest().await, "");
        let timeout = timed_out(server.outcome().await);
        assert_eq!(figures(&timeout), (1, 1), "{kind:?}");
        // Nothing else was left, so the drain ends when the connection does.
        assert!(
            timeout.report().elapsed < TIMEOUT * 3 / 2,
            "{kind:?}: {timeout}"
        );
    }
}

/// The bytes that the server has not read must not make a reset of its answer.
#[tokio::test]
async fn an_upload_is_answered_in_the_middle_of_its_body() {
    for kind in ALL {
        for at_once in [100, 4 << 20] {
            let server = Server::start(kind, drain()).await;
            let mut client = Client::connect(server.address).await;
            client
                .send("POST /stuck HTTP/1.1\r\nhost: test\r\ncontent-length: 99999999\r\n\r\n")
                .await;
            server.at_the_gate().await;
            let body = vec![b'x'; at_once];
            let mut sent = 0;
            while let Ok(more) = client.stream.try_write(&body[sent..]) {
                sent += more;
                if sent == body.len() {
                    break;
                }
            }
            server.drain.begin();
            let head = client.head().await;
            assert_plain_503(&head, (kind, at_once));
            // It goes on, as it has not looked yet.
            client.send([b'x'; 100]).await;
            assert_eq!(client.rest().await, "", "{kind:?}, {at_once}");
            drop(client);
            let timeout = timed_out(server.outcome().await);
            assert_eq!(figures(&timeout), (1, 1), "{kind:?}");
            assert!(timeout.report().elapsed < AT_MOST, "{kind:?}: {timeout}");
        }
    }
}

/// A response that has begun is cut, over HTTP/1 without its last chunk.
#[tokio::test]
async fn a_response_that_has_begun_is_cut() {
    for kind in ALL {
        for with_stuck in [false, true] {
            let server = Server::start(kind, drain()).await;
            let mut events = Client::connect(server.address).await;
            events.get("/events").await;
            events.read_until("tick\n").await;
            let mut stuck = Client::connect(server.address).await;
            if with_stuck {
                stuck.get("/stuck").await;
                server.at_the_gate().await;
            }
            server.drain.begin();
            if with_stuck {
                assert_plain_503(&stuck.head().await, kind);
            }
            let mut read = Vec::new();
            let end = tokio::io::AsyncReadExt::read_to_end(&mut events.stream, &mut read);
            let _ = guarded(end).await;
            assert!(!String::from_utf8_lossy(&read).ends_with("0\r\n\r\n"));
            let timeout = timed_out(server.outcome().await);
            let stuck = usize::from(with_stuck);
            assert_eq!(figures(&timeout), (1 + stuck, stuck as u64), "{kind:?}");
            assert!(timeout.report().elapsed < AT_MOST, "{kind:?}: {timeout}");
        }
    }
}

/// An HTTP/2 connection; its task ends with `Ok` if there was neither a reset nor an error.
async fn connect(address: SocketAddr) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let tcp = TcpStream::connect(address).await.expect("it listens");
    let (client, connection) = guarded(h2::client::handshake(tcp)).await.expect("HTTP/2");
    (client, tokio::spawn(connection))
}

fn ask(path: &str) -> http::request::Builder {
    Request::builder().uri(format!("http://test{path}"))
}

fn assert_whole_503(response: Response<h2::RecvStream>, case: impl std::fmt::Debug) {
    assert_eq!(response.status(), 503, "{case:?}");
    assert!(response.body().is_end_stream(), "{case:?}");
    let headers = response.headers();
    assert!(!headers.contains_key("connection"), "{case:?}: {headers:?}");
    assert!(
        !headers.contains_key("retry-after"),
        "{case:?}: {headers:?}"
    );
}

#[tokio::test]
async fn over_http2_a_whole_503_and_a_fin() {
    for kind in HTTP2 {
        let server = Server::start(kind, drain()).await;
        let (mut client, connection) = connect(server.address).await;
        let get = ask("/stuck").body(()).expect("valid");
        let (got, _) = client.send_request(get, true).expect("open");
        server.at_the_gate().await;
        // Another one is in the middle of its body.
        let post = ask("/stuck").method("POST").body(()).expect("valid");
        let (posted, mut body) = client.send_request(post, false).expect("open");
        body.send_data(Bytes::from_static(b"hello"), false)
            .expect("open");
        server.at_the_gate().await;
        server.drain.begin();
        assert_whole_503(guarded(got).await.expect("an answer"), kind);
        assert_whole_503(guarded(posted).await.expect("an answer"), kind);
        drop((client, body));
        guarded(connection)
            .await
            .expect("no panic")
            .expect("a FIN, not a reset");
        let timeout = timed_out(server.outcome().await);
        assert_eq!(figures(&timeout), (2, 2), "{kind:?}");
        assert!(timeout.report().elapsed < AT_MOST, "{kind:?}: {timeout}");
    }
}

/// On one connection with a response that has begun: that one is cut, and not refused.
#[tokio::test]
async fn over_http2_each_stream_gets_its_own_end() {
    for kind in HTTP2 {
        let server = Server::start(kind, drain()).await;
        let mut client = Client::connect(server.address).await;
        client.send(frames::hello()).await;
        client.send(frames::get(1, "/events")).await;
        client.frame_of(frames::DATA).await;
        client.send(frames::get(3, "/stuck")).await;
        server.at_the_gate().await;
        server.drain.begin();
        let mut answers = 0;
        while let Some(frame) = client.frame_or_end().await {
            let ends = frame.flags & frames::END_STREAM != 0;
            match (frame.kind, frame.stream) {
                (frames::HEADERS, 3) if ends => answers += 1,
                (frames::RST_STREAM, _) => assert_ne!(frame.payload, [0, 0, 0, 7], "{kind:?}"),
                (frames::DATA, 1) => assert!(!ends, "{kind:?}: it looks whole"),
                _ => {}
            }
        }
        assert_eq!(answers, 1, "{kind:?}");
        let timeout = timed_out(server.outcome().await);
        assert_eq!(figures(&timeout), (2, 1), "{kind:?}");
        assert!(timeout.report().elapsed < AT_MOST, "{kind:?}: {timeout}");
    }
}

#[tokio::test]
async fn a_thousand_streams_on_ten_connections_are_answered() {
    for kind in [Kind::Axum, Kind::Tonic2, Kind::Serve] {
        let server = Server::start(kind, drain()).await;
        let mut connections = Vec::new();
        let mut all = Vec::new();
        for _ in 0..10 {
            let (mut client, connection) = connect(server.address).await;
            for _ in 0..100 {
                client = guarded(client.ready()).await.expect("room");
                let get = ask("/stuck").body(()).expect("valid");
                all.push(client.send_request(get, true).expect("open").0);
            }
            connections.push(connection);
        }
        guarded(async {
            while server.shared.handled() < all.len() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        server.drain.begin();
        for response in all {
            assert_whole_503(guarded(response).await.expect("an answer"), kind);
        }
        for connection in connections {
            guarded(connection)
                .await
                .expect("no panic")
                .expect("a FIN, not a reset");
        }
        let timeout = timed_out(server.outcome().await);
        assert_eq!(figures(&timeout), (1000, 1000), "{kind:?}");
        assert!(timeout.report().elapsed < AT_MOST, "{kind:?}: {timeout}");
    }
}

#[tokio::test]
async fn the_answer_is_replaced() {
    let answer = |request: &Request<()>| {
        let version = format!("{:?}", request.version());
        (StatusCode::GATEWAY_TIMEOUT, version).into_response()
    };
    for kind in ALL {
        let server = start_with(kind, answer);
        let mut client = Client::connect(server.address).await;
        client.get("/stuck").await;
        server.at_the_gate().await;
        server.drain.begin();
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 504 "), "{kind:?}: {head}");
        assert_eq!(closes(&head), 1, "{kind:?}: {head}");
        assert_eq!(client.rest().await, "HTTP/1.1", "{kind:?}");
        assert_eq!(
            figures(&timed_out(server.outcome().await)),
            (1, 1),
            "{kind:?}"
        );
    }
}

#[tokio::test]
async fn the_answer_is_switched_off() {
    for kind in ALL {
        let server = start_with(kind, NoAnswer);
        let mut client = Client::connect(server.address).await;
        client.get("/stuck").await;
        server.at_the_gate().await;
        server.drain.begin();
        let mut read = Vec::new();
        let end = tokio::io::AsyncReadExt::read_to_end(&mut client.stream, &mut read);
        let _ = guarded(end).await;
        assert!(read.is_empty(), "{kind:?}: {read:?}");
        assert_eq!(
            figures(&timed_out(server.outcome().await)),
            (1, 0),
            "{kind:?}"
        );
    }
}

/// A response that is ready in time is the handler's own, also in the poll in which it is forced.
#[tokio::test]
async fn what_is_ready_when_it_is_forced_is_answered_by_its_handler() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::connect(server.address).await;
        client.get("/gate").await;
        server.at_the_gate().await;
        // On this one thread, nothing runs in between.
        server.shared.open.notify_one();
        server.drain.force();
        let answer = client.head().await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{kind:?}: {answer}");
        assert_eq!(client.rest().await, "passed", "{kind:?}");
        let timeout = timed_out(server.outcome().await);
        assert_eq!(
            timeout.report().answered_at_deadline,
            0,
            "{kind:?}: {timeout}"
        );
    }
}

/// Under `serve`, a request that came too late to be counted is answered, too.
#[tokio::test]
async fn a_late_request_is_answered() {
    let server = Server::start(Kind::Serve, drain()).await;
    let mut client = Client::connect(server.address).await;
    client.get("/trailers").await;
    client.read_until("first\r\n").await;
    server.at_the_gate().await;
    server.drain.begin();
    guarded(server.drain.reached(Phase::Draining)).await;
    server.shared.open.notify_one();
    client.read_until("0\r\n\r\n").await;
    client.get("/stuck").await;
    server.at_the_gate().await;
    assert_eq!(server.drain.left().requests, 0, "it is late");
    assert_plain_503(&client.head().await, "late");
    assert_eq!(client.rest().await, "");
    let timeout = timed_out(server.outcome().await);
    assert_eq!(timeout.report().answered_at_deadline, 1, "{timeout}");
    assert!(timeout.report().elapsed < AT_MOST, "{timeout}");
}

/// A handler that blocks its thread cannot be answered for. It stays in the report.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_is_not_answered() {
    let server = Server::start(Kind::Serve, drain()).await;
    let mut stuck = Client::connect(server.address).await;
    stuck.get("/stuck").await;
    server.at_the_gate().await;
    // Last, as a task that waits behind it for its thread would wait for long.
    let mut blocks = Client::connect(server.address).await;
    blocks.get("/block/1500").await;
    guarded(async {
        while server.drain.left().requests < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.drain.begin();
    assert_plain_503(&stuck.head().await, "beside it");
    let timeout = timed_out(server.outcome().await);
    assert_eq!(figures(&timeout), (2, 1));
    assert!(timeout.report().elapsed < AT_MOST + TIMEOUT, "{timeout}");
    blocks.end().await;
}
