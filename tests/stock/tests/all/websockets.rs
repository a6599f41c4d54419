//! WebSockets that the drain closes, as their handlers know nothing of it.

use crate::{
    client::Client,
    guarded,
    server::{Server, Shared, app, bind},
    tls::{Secure, keys},
};
use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    response::IntoResponse,
    routing::{MethodRouter, any},
};
use fastwebsockets::OpCode;
use futures_util::{SinkExt, StreamExt, future::join_all};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Message,
        handshake::derive_accept_key,
        protocol::{CloseFrame, Role},
    },
};
use tower_graceful::{Drain, Phase, RunError, report::ConnectionState, server::Serve};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Under {
    Axum,
    Serve,
    Tls,
}

const ALL: [Under; 3] = [Under::Axum, Under::Serve, Under::Tls];

/// Closes WebSockets with this code and reason.
pub const CLOSE: (u16, &str) = (1001, "come back");

impl Under {
    pub fn start(self, drain: Drain, over: Duration, routes: Router) -> Server {
        let (code, reason) = CLOSE;
        if self != Self::Axum {
            return Server::serve(drain, |tcp, app| {
                let server = Serve::new(app.merge(routes))
                    .close_websockets(code, reason)
                    .close_websockets_over(over);
                match self {
                    Self::Tls => server.listen_rustls(tcp, keys().server.clone()),
                    _ => server.listen(tcp),
                }
            });
        }
        let tcp = bind();
        let address = tcp.local_addr().expect("bound");
        let shared = Shared::new(&drain);
        let app = app(shared.clone()).merge(routes).layer(drain.layer());
        let listener = drain
            .listener(tcp)
            .close_websockets(code, reason)
            .close_websockets_over(over);
        let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
        let done = tokio::spawn(drain.run(server, std::future::pending::<()>()));
        Server {
            drain,
            address,
            shared,
            done,
        }
    }

    async fn connect(self, server: &Server, path: &str) -> Socket {
        let stream: Box<dyn Stream> = match self {
            Self::Tls => Box::new(Secure::http1(server).await.stream),
            _ => Box::new(
                TcpStream::connect(server.address)
                    .await
                    .expect("it listens"),
            ),
        };
        let opened = client_async(format!("ws://localhost{path}"), stream);
        guarded(opened).await.expect("an upgrade").0
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Socket = WebSocketStream<Box<dyn Stream>>;

async fn echo(socket: &mut Socket) {
    socket.send(Message::text("here")).await.expect("open");
    let echoed = guarded(socket.next()).await.expect("open").expect("open");
    assert_eq!(echoed, Message::text("here"));
}

/// The next message is a Close frame, and after it comes the end. The client answers it meanwhile.
async fn closed(socket: &mut Socket) -> CloseFrame {
    let close = guarded(socket.next()).await.expect("open").expect("open");
    let Message::Close(Some(close)) = close else {
        panic!("{close:?} is no Close frame");
    };
    // Over TLS an error: no handler sends a close_notify.
    let end = guarded(socket.next()).await;
    assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    close
}

fn assert_ours(close: &CloseFrame) {
    assert_eq!((u16::from(close.code), close.reason.as_str()), CLOSE);
}

/// Opens a WebSocket without a library.
pub fn by_hand<F>(
    extensions: &'static str,
    handler: impl Fn(TokioIo<Upgraded>) -> F + Clone + Send + Sync + 'static,
) -> MethodRouter
where
    F: Future<Output = ()> + Send + 'static,
{
    any(async move |mut request: Request| {
        let key = request.headers()["sec-websocket-key"].as_bytes();
        let accept = derive_accept_key(key);
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let upgraded = upgrade.await.expect("an upgrade");
            handler(TokioIo::new(upgraded)).await;
        });
        let mut response = (
            StatusCode::SWITCHING_PROTOCOLS,
            [("connection", "upgrade"), ("upgrade", "websocket")],
            [("sec-websocket-accept", accept)],
        )
            .into_response();
        if !extensions.is_empty() {
            let value = extensions.parse().expect("a value");
            let headers = response.headers_mut();
            headers.insert("sec-websocket-extensions", value);
        }
        response
    })
}

fn libraries() -> Router {
    Router::new()
        .route(
            "/tungstenite",
            by_hand("", async |io| {
                let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                while let Some(Ok(message)) = socket.next().await {
                    if !message.is_close() && socket.send(message).await.is_err() {
                        return;
                    }
                }
            }),
        )
        .route(
            "/fastwebsockets",
            by_hand("", async |io| {
                use fastwebsockets::{Frame, Role, WebSocket};
                let mut socket = WebSocket::after_handshake(io, Role::Server);
                while let Ok(frame) = socket.read_frame().await {
                    let echo = Frame::new(true, frame.opcode, None, frame.payload);
                    if echo.opcode == OpCode::Close || socket.write_frame(echo).await.is_err() {
                        return;
                    }
                }
            }),
        )
}

#[tokio::test]
async fn a_web_socket_is_closed_whatever_its_library() {
    for under in ALL {
        for path in ["/ws", "/tungstenite", "/fastwebsockets"] {
            let server = under.start(Drain::new(), Duration::ZERO, libraries());
            let mut socket = under.connect(&server, path).await;
            echo(&mut socket).await;
            server.drain.begin();
            assert_ours(&closed(&mut socket).await);
            let drained = server.drained().await;
            assert!(
                drained.elapsed < Duration::from_secs(2),
                "{under:?} {path}: {drained}"
            );
        }
    }
}

#[tokio::test]
async fn in_the_lame_duck_it_goes_on() {
    let lame_duck = Duration::from_millis(500);
    for under in ALL {
        let drain = Drain::builder().lame_duck(lame_duck).build();
        let server = under.start(drain, Duration::ZERO, libraries());
        let mut socket = under.connect(&server, "/ws").await;
        let began = Instant::now();
        server.drain.begin();
        echo(&mut socket).await;
        assert_ours(&closed(&mut socket).await);
        assert!(began.elapsed() >= lame_duck);
        server.drained().await;
    }
}

/// One task reads, and another one closes.
fn closing_by_itself(drain: &Drain) -> Router {
    let drain = drain.clone();
    let handler = by_hand("", move |io| {
        let drain = drain.clone();
        async move {
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            let (mut write, mut read) = socket.split();
            let reader = tokio::spawn(async move { while let Some(Ok(_)) = read.next().await {} });
            drain.reached(Phase::Draining).await;
            let close = CloseFrame {
                code: 1001.into(),
                reason: "going away".into(),
            };
            write.send(Message::Close(Some(close))).await.expect("open");
            reader.await.expect("no panic");
        }
    });
    Router::new().route("/ws-split", handler)
}

#[tokio::test]
async fn a_handler_that_closes_by_itself_is_left_alone() {
    for under in ALL {
        for path in ["/ws-polite", "/ws-split"] {
            let drain = Drain::new();
            let routes = closing_by_itself(&drain);
            let server = under.start(drain, Duration::ZERO, routes);
            let mut socket = under.connect(&server, path).await;
            server.drain.begin();
            let close = closed(&mut socket).await;
            assert_eq!(close.reason.as_str(), "going away", "{under:?} {path}");
            server.drained().await;
        }
    }
}

/// "Hello", compressed (RFC 7692, section 7.2.3.1).
const HELLO: &[u8] = b"\xc1\x07\xf2\x48\xcd\xc9\xc9\x07\x00";

/// Has written the first bytes of a compressed message when the drain comes. Then it writes the
/// rest and the same message again.
pub fn in_a_frame(rest: &Arc<Notify>, read: &Arc<AtomicUsize>) -> Router {
    let (rest, read) = (rest.clone(), read.clone());
    let handler = by_hand("permessage-deflate", move |mut io| {
        let (rest, read) = (rest.clone(), read.clone());
        async move {
            io.write_all(&HELLO[..5]).await.expect("open");
            rest.notified().await;
            let next = [&HELLO[5..], HELLO].concat();
            io.write_all(&next).await.expect("open");
            io.flush().await.expect("open");
            let mut end = Vec::new();
            io.read_to_end(&mut end).await.expect("an end of file");
            read.store(end.len(), Ordering::SeqCst);
        }
    });
    Router::new().route("/in-a-frame", handler)
}

pub const UPGRADE: &str = "GET /in-a-frame HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\n\
                           upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                           sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

fn close_frame() -> Vec<u8> {
    let (code, reason) = CLOSE;
    let head = [0x88, 2 + reason.len() as u8];
    [&head[..], &code.to_be_bytes(), reason.as_bytes()].concat()
}

/// The client is in the middle of one, too.
#[tokio::test]
async fn a_server_in_the_middle_of_a_frame_ends_it_first() {
    for under in [Under::Axum, Under::Serve] {
        let (rest, read) = (Arc::default(), Arc::default());
        let server = under.start(Drain::new(), Duration::ZERO, in_a_frame(&rest, &read));
        let mut client = Client::connect(server.address).await;
        client.send(UPGRADE).await;
        assert!(client.head().await.starts_with("HTTP/1.1 101"));
        // A part of a frame, masked with zeros.
        client.send(b"\x81\x84\0\0\0\0he").await;
        let mut first = [0; 5];
        guarded(client.stream.read_exact(&mut first))
            .await
            .expect("open");
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        // Past the moment at which it would be closed.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(client.is_open());
        rest.notify_one();
        let mut next = vec![0; HELLO.len() - 5 + close_frame().len()];
        guarded(client.stream.read_exact(&mut next))
            .await
            .expect("open");
        assert_eq!(next, [&HELLO[5..], &close_frame()].concat());
        let answer = b"re\x88\x82\0\0\0\0\x03\xe9";
        client.send(answer).await;
        assert_eq!(client.rest().await, "");
        server.drained().await;
        assert_eq!(read.load(Ordering::SeqCst), 8 + answer.len());
    }
}

/// It writes as fast as the client reads.
#[tokio::test]
async fn a_server_that_never_stops_writing_is_stopped() {
    let flood = by_hand("", async |io| {
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let (mut write, mut read) = socket.split();
        let reader = tokio::spawn(async move { while let Some(Ok(_)) = read.next().await {} });
        let writer = tokio::spawn(async move {
            let message = Message::binary(vec![0x88; 100_000]);
            while write.send(message.clone()).await.is_ok() {}
        });
        reader.await.expect("no panic");
        writer.abort();
    });
    for under in ALL {
        let routes = Router::new().route("/flood", flood.clone());
        let server = under.start(Drain::new(), Duration::ZERO, routes);
        let mut socket = under.connect(&server, "/flood").await;
        guarded(socket.next()).await.expect("open").expect("open");
        // It is stalled by now.
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.drain.begin();
        tokio::time::sleep(Duration::from_millis(300)).await;
        let close = loop {
            match guarded(socket.next()).await.expect("open").expect("open") {
                Message::Close(close) => break close.expect("a code"),
                message => assert_eq!(message.len(), 100_000),
            }
        };
        assert_ours(&close);
        while let Some(Ok(_)) = guarded(socket.next()).await {}
        let drained = server.drained().await;
        assert!(
            drained.elapsed < Duration::from_secs(3),
            "{under:?}: {drained}"
        );
    }
}

/// It does not see the client's Close frame.
#[tokio::test]
async fn a_handler_that_only_writes_is_stopped_after_five_seconds() {
    let ticks = by_hand("", async |io| {
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while socket.send(Message::text("tick")).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let routes = Router::new().route("/ticks", ticks);
    let server = Under::Serve.start(Drain::new(), Duration::ZERO, routes);
    let mut socket = Under::Serve.connect(&server, "/ticks").await;
    server.drain.begin();
    while let Some(Ok(message)) = guarded(socket.next()).await {
        if let Message::Close(close) = message {
            assert_ours(&close.expect("a code"));
        }
    }
    let drained = server.drained().await;
    let expected = Duration::from_secs(5)..Duration::from_secs(8);
    assert!(expected.contains(&drained.elapsed), "{drained}");
}

#[tokio::test]
async fn a_client_that_does_not_answer_is_cut_and_reported() {
    for under in [Under::Axum, Under::Serve] {
        let timeout = Duration::from_millis(700);
        let drain = Drain::builder().timeout(timeout).build();
        let server = under.start(drain, Duration::ZERO, Router::new());
        let mut client = Client::connect(server.address).await;
        client.send(UPGRADE.replace("/in-a-frame", "/ws")).await;
        client.head().await;
        server.drain.begin();
        client.read_until(CLOSE.1).await;
        let drain = server.drain.clone();
        let Err(RunError::Timeout(outcome)) = server.outcome().await else {
            panic!("{under:?}: it was cut");
        };
        let report = outcome.report();
        assert_eq!(report.left.to_string(), "1 connection (1 upgraded)");
        assert!(report.elapsed >= timeout, "{outcome}");
        client.end().await;
        assert!(drain.left().is_empty());
    }
}

#[tokio::test]
async fn a_handler_whose_client_does_not_answer_reads_the_end() {
    for under in [Under::Axum, Under::Serve] {
        let server = under.start(Drain::new(), Duration::ZERO, Router::new());
        let mut client = Client::connect(server.address).await;
        client.send(UPGRADE.replace("/in-a-frame", "/ws")).await;
        client.head().await;
        server.drain.begin();
        client.read_until(CLOSE.1).await;
        client.end().await;
        let drained = server.drained().await;
        let expected = Duration::from_secs(5)..Duration::from_secs(8);
        assert!(expected.contains(&drained.elapsed), "{under:?}: {drained}");
    }
}

async fn open(under: Under, server: &Server, count: usize) -> Vec<Socket> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(under.connect(server, "/ws").await);
    }
    let upgraded = || {
        let left = server.drain.left();
        left.connections_in(ConnectionState::Upgraded)
    };
    guarded(async {
        while upgraded() < count {
            tokio::task::yield_now().await;
        }
    })
    .await;
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_are_closed() {
    let files = rlimit::increase_nofile_limit(4096).expect("possible");
    assert!(files >= 4096, "{files} files are not enough");
    for under in [Under::Axum, Under::Serve] {
        let server = under.start(Drain::new(), Duration::ZERO, Router::new());
        let all = open(under, &server, 1000).await;
        server.drain.begin();
        let closes = all
            .into_iter()
            .map(|mut socket| async move { assert_ours(&closed(&mut socket).await) });
        join_all(closes).await;
        let drained = server.drained().await;
        let quick = drained.elapsed < Duration::from_secs(4);
        assert!(quick, "{under:?}: {drained}");
    }
}

#[tokio::test]
async fn they_are_closed_over_a_duration() {
    for under in [Under::Axum, Under::Serve] {
        let over = Duration::from_secs(2);
        let server = under.start(Drain::new(), over, Router::new());
        let all = open(under, &server, 60).await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        let began = Instant::now();
        let closes = all.into_iter().map(|mut socket| async move {
            assert_ours(&closed(&mut socket).await);
            began.elapsed()
        });
        let mut moments = join_all(closes).await;
        moments.sort();
        // At random: 2^-60 that one half of the time has none.
        let (first, last) = (moments[0], moments[59]);
        assert!(first < over / 2 + Duration::from_millis(200), "{first:?}");
        assert!(last > over / 2, "{last:?}");
        assert!(last < over + Duration::from_secs(1), "{last:?}");
        server.drained().await;
    }
}
