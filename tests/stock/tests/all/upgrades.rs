//! CONFORMANCE.md, section E, on axum::serve. (tonic serves no upgrades.)

use crate::{
    client::{Client, closes},
    guarded,
    server::{Kind, Server},
};
use futures_util::{SinkExt, StreamExt};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, tungstenite::Message};
use tower_graceful::{Drain, Phase, RunError, report::ConnectionState};

async fn web_socket(server: &Server, path: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let url = format!("ws://{}{path}", server.address);
    let connected = guarded(tokio_tungstenite::connect_async(url)).await;
    connected.expect("an upgrade").0
}

/// tonic serves no upgrades.
const UPGRADING: [Kind; 2] = [Kind::Axum, Kind::Serve];

async fn echo(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) {
    socket.send(Message::text("here")).await.expect("open");
    let echoed = guarded(socket.next()).await.expect("open").expect("open");
    assert_eq!(echoed, Message::text("here"));
}

#[tokio::test]
async fn e36_a_web_socket_is_counted_told_waited_for_and_cut() {
    for kind in UPGRADING {
        let timeout = Duration::from_millis(700);
        let server = Server::start(kind, Drain::builder().timeout(timeout).build()).await;
        let mut socket = web_socket(&server, "/ws").await;
        echo(&mut socket).await;
        let left = server.drain.left();
        assert_eq!(
            (
                left.requests,
                left.connections_in(ConnectionState::Upgraded)
            ),
            (0, 1),
            "{left}"
        );
        server.drain.begin();
        // Waited for: it still works.
        guarded(server.drain.shutdown_signal()).await;
        echo(&mut socket).await;
        let drain = server.drain.clone();
        let Err(RunError::Timeout(outcome)) = server.outcome().await else {
            panic!("it was cut");
        };
        assert_eq!(
            outcome.report().left.to_string(),
            "1 connection (1 upgraded)"
        );
        assert!(!matches!(guarded(socket.next()).await, Some(Ok(_))));
        assert!(drain.left().is_empty());
    }
}

#[tokio::test]
async fn e36_a_tunnel_is_counted_told_waited_for_and_cut() {
    for kind in UPGRADING {
        let timeout = Duration::from_millis(700);
        let server = Server::start(kind, Drain::builder().timeout(timeout).build()).await;
        let mut client = Client::connect(server.address).await;
        client
            .send("CONNECT far:1 HTTP/1.1\r\nhost: far:1\r\n\r\n")
            .await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        client.send("here").await;
        client.read_until("here").await;
        assert_eq!(
            server
                .drain
                .left()
                .connections_in(ConnectionState::Upgraded),
            1
        );
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        client.send("still").await;
        client.read_until("still").await;
        let Err(RunError::Timeout(outcome)) = server.outcome().await else {
            panic!("it was cut");
        };
        assert_eq!(
            outcome.report().left.to_string(),
            "1 connection (1 upgraded)"
        );
        client.end().await;
    }
}

/// Nothing waits for the drain then.
#[tokio::test]
async fn e36_a_tunnel_is_cut_after_its_server_was_dropped() {
    let timeout = Duration::from_millis(700);
    let server = Server::start(Kind::Serve, Drain::builder().timeout(timeout).build()).await;
    let mut client = Client::connect(server.address).await;
    client
        .send("CONNECT far:1 HTTP/1.1\r\nhost: far:1\r\n\r\n")
        .await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    server.drain.begin();
    guarded(server.drain.shutdown_signal()).await;
    server.done.abort();
    client.end().await;
}

/// A thread that reads the counts at any time sees the connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn e37_the_hand_over_leaves_no_moment_at_zero() {
    for kind in UPGRADING {
        for _ in 0..20 {
            let server = Server::start(kind, Drain::new()).await;
            let mut client = Client::connect(server.address).await;
            guarded(async {
                while server.drain.left().is_empty_but_for_the_server() {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            let drain = server.drain.clone();
            let looks = Arc::new(AtomicUsize::new(0));
            let (stop, seen) = (Arc::new(AtomicBool::new(false)), looks.clone());
            let stopped = stop.clone();
            let looking = std::thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    assert!(!drain.left().is_empty_but_for_the_server());
                    seen.fetch_add(1, Ordering::Relaxed);
                }
            });
            guarded(async {
                while looks.load(Ordering::Relaxed) == 0 {
                    tokio::task::yield_now().await;
                }
            })
            .await;
            client
                .send(
                    "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
                )
                .await;
            assert!(client.head().await.starts_with("HTTP/1.1 101"));
            stop.store(true, Ordering::Relaxed);
            looking.join().expect("never 0");
        }
    }
}

trait Seen {
    fn is_empty_but_for_the_server(&self) -> bool;
}

impl Seen for tower_graceful::report::Counts {
    fn is_empty_but_for_the_server(&self) -> bool {
        self.requests == 0 && self.connections() == 0
    }
}

#[tokio::test]
async fn e38_a_handler_that_says_goodbye_ends_it() {
    for kind in UPGRADING {
        let server = Server::start(kind, Drain::new()).await;
        let mut socket = web_socket(&server, "/ws-polite").await;
        server.drain.begin();
        let goodbye = guarded(socket.next())
            .await
            .expect("a message")
            .expect("a message");
        let Message::Close(Some(frame)) = goodbye else {
            panic!("{goodbye:?} is no goodbye");
        };
        assert_eq!(u16::from(frame.code), 1001);
        // Answered by the library, then the end.
        while let Some(Ok(_)) = guarded(socket.next()).await {}
        let drained = server.drained().await;
        assert!(drained.elapsed < Duration::from_secs(2), "{drained}");
    }
}

#[tokio::test]
async fn e39_an_upgrade_while_draining_is_refused() {
    for kind in UPGRADING {
        let server = Server::start(kind, Drain::new()).await;
        let mut first = Client::connect(server.address).await;
        let mut second = Client::connect(server.address).await;
        web_socket(&server, "/ws").await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        let upgrade = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                       sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        first
            .send(format!("GET /ws HTTP/1.1\r\nhost: test\r\n{upgrade}\r\n"))
            .await;
        second
            .send("CONNECT far:1 HTTP/1.1\r\nhost: far:1\r\n\r\n")
            .await;
        for client in [&mut first, &mut second] {
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
            assert_eq!(closes(&answer), 1);
        }
        assert_eq!(server.drained().await.refused, 2);
    }
}

#[tokio::test]
async fn e39_an_upgrade_in_the_lame_duck_says_nothing_of_closing() {
    for kind in UPGRADING {
        let lame_duck = Duration::from_millis(300);
        let server = Server::start(kind, Drain::builder().lame_duck(lame_duck).build()).await;
        server.drain.begin();
        let mut client = Client::connect(server.address).await;
        client
            .send(
                "GET /ws-polite HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            )
            .await;
        let head = client.head().await;
        assert!(head.starts_with("HTTP/1.1 101"), "{head}");
        assert!(!head.contains("close"), "{head}");
        // At the drain, the server sends a Close frame, which the client answers.
        client.read_until("going away").await;
        client.send([0x88, 0x80, 0, 0, 0, 0]).await;
        assert_eq!(client.rest().await, "");
        server.drained().await;
    }
}

/// A WebSocket that is one stream of an HTTP/2 connection (RFC 8441).
struct StreamSocket {
    send: h2::SendStream<bytes::Bytes>,
    receive: h2::RecvStream,
}

impl StreamSocket {
    async fn open(server: &Server, path: &str) -> Self {
        let tcp = TcpStream::connect(server.address)
            .await
            .expect("it listens");
        let (client, connection) = guarded(h2::client::handshake(tcp)).await.expect("HTTP/2");
        tokio::spawn(connection);
        let mut client = guarded(client.ready()).await.expect("open");
        // It says so in its SETTINGS, which come before any response.
        let request = http::Request::get(format!("http://{}/", server.address));
        let request = request.body(()).expect("a request");
        let (first, _) = client.send_request(request, true).expect("open");
        guarded(first).await.expect("answered");
        assert!(client.is_extended_connect_protocol_enabled());
        let request = http::Request::connect(format!("http://{}{path}", server.address))
            .header("sec-websocket-version", "13")
            .extension(h2::ext::Protocol::from_static("websocket"))
            .body(())
            .expect("a request");
        let (response, send) = client.send_request(request, false).expect("open");
        let response = guarded(response).await.expect("answered");
        assert_eq!(response.status(), 200);
        let receive = response.into_body();
        Self { send, receive }
    }

    /// A frame that is complete, masked with zeros: its opcode and a short payload.
    fn send(&mut self, opcode: u8, payload: &[u8]) {
        let head = [0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        let frame = [&head[..], payload].concat().into();
        self.send.send_data(frame, false).expect("open");
    }

    /// The next frame of the server, which is not masked; `None` at the end or an error of the
    /// stream.
    async fn next(&mut self) -> Option<(u8, Vec<u8>)> {
        let data = guarded(self.receive.data()).await?.ok()?;
        let _ = self.receive.flow_control().release_capacity(data.len());
        // The end of the stream may be a DATA frame without data.
        let opcode = data.first()? & 0x0f;
        Some((opcode, data[2..].to_vec()))
    }

    async fn echo(&mut self) {
        self.send(1, b"here");
        assert_eq!(self.next().await, Some((1, b"here".to_vec())));
    }
}

#[tokio::test]
async fn i69_a_web_socket_over_http2_is_counted_waited_for_and_cut() {
    for kind in UPGRADING {
        let timeout = Duration::from_millis(700);
        let server = Server::start(kind, Drain::builder().timeout(timeout).build()).await;
        let mut socket = StreamSocket::open(&server, "/ws").await;
        socket.echo().await;
        let left = server.drain.left();
        assert_eq!((left.requests, left.connections()), (0, 1), "{left}");
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        socket.echo().await;
        let drain = server.drain.clone();
        let Err(RunError::Timeout(outcome)) = server.outcome().await else {
            panic!("{kind:?}: it was cut");
        };
        assert_eq!(
            outcome.report().left.connections(),
            1,
            "{kind:?}: {outcome}"
        );
        assert!(
            outcome.report().elapsed < 2 * timeout,
            "{kind:?}: {outcome}"
        );
        assert_eq!(socket.next().await, None);
        assert!(drain.left().is_empty());
    }
}

#[tokio::test]
async fn i69_a_web_socket_over_http2_is_told() {
    for kind in UPGRADING {
        let server = Server::start(kind, Drain::new()).await;
        let mut socket = StreamSocket::open(&server, "/ws-polite").await;
        server.drain.begin();
        let (opcode, goodbye) = socket.next().await.expect("a goodbye");
        assert_eq!((opcode, &goodbye[..2]), (8, &1001_u16.to_be_bytes()[..]));
        socket.send(8, &goodbye[..2]);
        while socket.next().await.is_some() {}
        let drained = server.drained().await;
        assert!(
            drained.elapsed < Duration::from_secs(2),
            "{kind:?}: {drained}"
        );
    }
}

/// A stream of an extended CONNECT: a WebSocket over HTTP/2 (RFC 8441), echoing.
async fn web_socket_over_http2(
    client: &mut h2::client::SendRequest<bytes::Bytes>,
    path: &str,
) -> (h2::SendStream<bytes::Bytes>, h2::RecvStream) {
    let request = http::Request::builder()
        .method("CONNECT")
        .uri(format!("http://test{path}"))
        .version(http::Version::HTTP_2)
        .header("sec-websocket-version", "13")
        .extension(h2::ext::Protocol::from_static("websocket"))
        .body(())
        .expect("legal");
    let (response, mut send) = client.send_request(request, false).expect("a free stream");
    let response = guarded(response).await.expect("an answer");
    assert_eq!(response.status(), 200);
    let mut receive = response.into_body();
    // A text frame, masked with zeroes.
    let hello = bytes::Bytes::from_static(b"\x81\x85\0\0\0\0hello");
    send.send_data(hello, false).expect("open");
    let echo = guarded(receive.data()).await.expect("open").expect("open");
    assert_eq!(&echo[..], b"\x81\x05hello");
    (send, receive)
}

#[tokio::test]
async fn i69_a_web_socket_over_http2_is_upgraded() {
    for kind in UPGRADING {
        let timeout = Duration::from_millis(700);
        let server = Server::start(kind, Drain::builder().timeout(timeout).build()).await;
        let stream = TcpStream::connect(server.address)
            .await
            .expect("it listens");
        let (client, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let mut client = guarded(client.ready()).await.expect("open");
        // It says so in its SETTINGS, which come before any response.
        let get = http::Request::get("http://test/").body(()).expect("legal");
        let (first, _) = client.send_request(get, true).expect("a free stream");
        guarded(first).await.expect("an answer");
        assert!(client.is_extended_connect_protocol_enabled());
        // The second one's `:protocol` is a reference to that of the first.
        let _first = web_socket_over_http2(&mut client, "/ws").await;
        let _second = web_socket_over_http2(&mut client, "/ws").await;
        let upgraded = |drain: &Drain| drain.left().connections_in(ConnectionState::Upgraded);
        assert_eq!(upgraded(&server.drain), 1, "{}", server.drain.left());
        assert!(server.drain.report().to_string().contains("upgraded"));
        // Beside a request it is busy with that.
        let get = http::Request::get("http://test/gate")
            .body(())
            .expect("legal");
        let (answer, _) = client.send_request(get, true).expect("a free stream");
        server.at_the_gate().await;
        assert_eq!(
            server
                .drain
                .left()
                .connections_in(ConnectionState::Handling),
            1
        );
        server.shared.open.notify_one();
        let mut body = guarded(answer).await.expect("an answer").into_body();
        while guarded(body.data()).await.is_some() {}
        assert_eq!(upgraded(&server.drain), 1, "{}", server.drain.left());

        server.drain.begin();
        let Err(RunError::Timeout(outcome)) = server.outcome().await else {
            panic!("it was cut");
        };
        assert_eq!(
            outcome
                .report()
                .left
                .connections_in(ConnectionState::Upgraded),
            1,
            "{outcome}"
        );
        connection.abort();
    }
}
