//! What `tower_graceful::serve` has beside what the other servers have, too.

use crate::{
    client::{
        Client, closes,
        frames::{self, GOAWAY, RST_STREAM},
        get,
    },
    guarded,
    server::{Kind, Server, Shared, app, bind},
};
use axum::{Extension, Router, extract::ConnectInfo, response::IntoResponse, routing};
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tower_graceful::{
    Drain, Phase,
    report::{ConnectionState, Counts},
    server::{ConnectionHandle, KeepAlive, Listener, NotExecuted, Peer, Serve},
};

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(100);

/// With settings.
fn start(drain: Drain, set_up: impl FnOnce(Serve<Router>) -> Serve<Router>) -> Server {
    Server::serve(drain, |tcp, app| set_up(tower_graceful::serve(tcp, app)))
}

impl Client {
    async fn hello(&mut self) -> String {
        self.get("/").await;
        self.read_until("hello").await
    }
}

#[tokio::test]
async fn b21_begun_before_it_returns_at_once_and_listens_no_more() {
    let drain = Drain::new();
    drain.begin();
    let server = Server::start(Kind::Serve, drain).await;
    let address = server.address;
    server.drained().await;
    assert!(std::net::TcpStream::connect(address).is_err());
}

/// However long it has been idle: its next request may be on its way when the drain begins.
#[tokio::test]
async fn i68_a_connection_that_has_long_been_idle_has_the_settling() {
    let settle = Duration::from_millis(300);
    let server = Server::start(Kind::Serve, Drain::builder().settle(settle).build()).await;
    let mut asks = Client::connect(server.address).await;
    let mut idle = Client::connect(server.address).await;
    asks.hello().await;
    idle.hello().await;
    tokio::time::sleep(settle + SHORT).await;
    assert_eq!(server.drain.left().connections_in(ConnectionState::Idle), 2);
    let began = Instant::now();
    server.drain.begin();
    // The tasks of both have seen the drain by then.
    tokio::time::sleep(settle / 3).await;
    asks.get("/").await;
    let answer = asks.rest().await;
    assert!(answer.ends_with("hello"), "{answer:?}");
    assert_eq!(closes(&answer), 1);
    assert!(began.elapsed() < settle, "{:?}", began.elapsed());
    // A connection without a request closes at the end of the settling.
    assert_eq!(idle.rest().await, "");
    assert!(began.elapsed() >= settle, "{:?}", began.elapsed());
    server.drained().await;
    assert!(began.elapsed() < 3 * settle, "{:?}", began.elapsed());
}

/// Outside of a drain the settling counts from the last response on.
#[tokio::test]
async fn i68_without_a_drain_a_connection_that_has_long_been_idle_closes_at_once() {
    let settle = Duration::from_millis(300);
    let keep_alive = KeepAlive::new();
    let server = start(Drain::builder().settle(settle).build(), |server| {
        server.keep_alive(&keep_alive)
    });
    let mut idle = Client::connect(server.address).await;
    idle.hello().await;
    tokio::time::sleep(settle).await;
    let disabled = Instant::now();
    keep_alive.disable();
    assert_eq!(idle.rest().await, "");
    assert!(disabled.elapsed() < settle, "{:?}", disabled.elapsed());
    server.drain.begin();
    server.drained().await;
}

/// The settling counts from the end of the response, and not from that of its call.
#[tokio::test]
async fn i68_a_connection_is_not_idle_while_its_response_is_stalled() {
    const LARGE: usize = 16 << 20;
    let settle = Duration::from_millis(500);
    let keep_alive = KeepAlive::new();
    let drain = Drain::builder().settle(settle).build();
    let server = Server::serve(drain, |tcp, app| {
        let app = app.route("/large", routing::get(async || vec![0; LARGE]));
        tower_graceful::serve(tcp, app).keep_alive(&keep_alive)
    });
    let mut client = Client::connect(server.address).await;
    client.get("/large").await;
    client.head().await;
    while server.drain.left().connections_in(ConnectionState::Stalled) == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    tokio::time::sleep(settle).await;
    keep_alive.disable();
    let mut rest = vec![0; LARGE];
    client.stream.read_exact(&mut rest).await.expect("open");
    assert_eq!(closes(&client.hello().await), 1);
    server.drain.begin();
    server.drained().await;
}

/// The next request is in the socket, and the runtime has not seen it.
#[tokio::test]
async fn a05_what_the_runtime_has_not_heard_of_is_served() {
    for _ in 0..20 {
        let drain = Drain::builder().settle(Duration::ZERO).build();
        let server = start(drain, |server| server);
        let mut client = Client::connect(server.address).await;
        client.hello().await;
        // All of it before the only thread polls the kernel again.
        let request = get("/");
        let written = client.stream.try_write(request.as_bytes());
        assert_eq!(written.expect("room"), request.len());
        server.drain.begin();
        let answer = client.rest().await;
        assert!(answer.ends_with("hello"), "{answer:?}");
        assert_eq!(closes(&answer), 1);
        server.drained().await;
    }
}

/// The same, while the drain wakes all connections again and again.
#[tokio::test]
async fn a05_a_wake_up_is_no_second_look() {
    let server = start(Drain::new(), |server| server);
    let mut client = Client::connect(server.address).await;
    client.hello().await;
    // It has long been idle.
    tokio::time::sleep(2 * SHORT).await;
    let request = get("/");
    let written = client.stream.try_write(request.as_bytes());
    assert_eq!(written.expect("room"), request.len());
    server.drain.begin();
    let drain = server.drain.clone();
    tokio::spawn(async move {
        for round in 0..20 {
            drain.set_deadline(tokio::time::Instant::now() + LONG - round * SHORT);
            tokio::task::yield_now().await;
        }
    });
    let answer = client.rest().await;
    assert!(answer.ends_with("hello"), "{answer:?}");
    server.drained().await;
}

/// The head of the previous response was sent before the drain, so without `Connection: close`. Its
/// body ends when no other request is admitted any more.
#[tokio::test]
async fn a05_a_client_without_a_close_is_served_while_draining() {
    let server = start(Drain::new(), |server| server);
    let mut client = Client::connect(server.address).await;
    client.get("/trailers").await;
    client.read_until("first\r\n").await;
    server.at_the_gate().await;
    server.drain.begin();
    guarded(server.drain.shutdown_signal()).await;
    while server.drain.guard().is_ok() {
        tokio::task::yield_now().await;
    }
    server.shared.open.notify_one();
    client.read_until("0\r\n\r\n").await;
    client.get("/").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(closes(&answer), 1);
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (2, 0));
}

/// Bytes cannot tell a body that begins like a response from the next response, if a request waits
/// for one. The calls can.
#[tokio::test]
async fn a_body_that_looks_like_a_response_holds_nothing() {
    let ends = async |body: &str| {
        let server = start(Drain::new(), |server| server);
        let mut client = Client::connect(server.address).await;
        let echo = format!("POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 22\r\n\r\n{body}");
        client
            .send(echo.replace("22", &body.len().to_string()) + &get("/"))
            .await;
        let answers = client.read_until("\r\nhello").await;
        assert!(answers.contains(body), "{answers:?}");
        let long = tokio::time::Instant::now() + LONG;
        server.drain.set_deadline(long);
        server.drain.begin();
        assert_eq!(client.rest().await, "");
        server.drained().await;
    };
    tokio::join!(
        ends("HTTP/1.1 101 Switching"),
        ends("HTTP/1.1 100 Continue")
    );
}

/// Go's answer, and HAProxy's. hyper's is the default.
#[tokio::test]
async fn a14_a_half_closed_connection_gets_its_response() {
    for draining in [false, true] {
        let server = start(Drain::new(), |server| server.http1_half_close(true));
        let mut client = Client::connect(server.address).await;
        client.get("/gate").await;
        server.at_the_gate().await;
        if draining {
            server.drain.begin();
            guarded(server.drain.reached(Phase::Draining)).await;
        }
        client.stream.shutdown().await.expect("open");
        // Long enough for the server to have seen it.
        tokio::time::sleep(SHORT).await;
        server.shared.open.notify_one();
        assert!(client.rest().await.ends_with("passed"), "{draining}");
        server.drain.begin();
        server.drained().await;
    }
    let server = start(Drain::new(), |server| server);
    let mut client = Client::connect(server.address).await;
    client.get("/gate").await;
    server.at_the_gate().await;
    client.stream.shutdown().await.expect("open");
    assert_eq!(client.rest().await, "");
    server.drain.begin();
    server.drained().await;
}

/// How a client leaves while its handler runs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaves {
    Closes,
    Resets,
    /// A FIN first, and a reset when the server has seen it.
    ClosesHalfThenResets,
    /// A part of the next request is unread then.
    ResetsWithARequestBehind,
}

/// The handler of `/stuck` is dropped when its client has gone; the drain does not wait for it.
async fn leaves(server: Server, draining: bool, how: Leaves) {
    let mut client = Client::connect(server.address).await;
    client.get("/stuck").await;
    if how == Leaves::ResetsWithARequestBehind {
        client.send("GET / HTTP/1.1\r\n").await;
    }
    server.at_the_gate_of_stuck().await;
    if draining {
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
    }
    if how == Leaves::ClosesHalfThenResets {
        client.stream.shutdown().await.expect("open");
        tokio::time::sleep(SHORT).await;
        assert_eq!(server.drain.left().requests, 1, "it is served on");
    }
    if how != Leaves::Closes {
        client.stream.set_zero_linger().expect("possible");
    }
    let left = Instant::now();
    drop(client);
    guarded(async {
        while server.drain.left().requests + server.drain.left().connections() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(
        left.elapsed() < 3 * Duration::from_secs(1),
        "{how:?}, {draining}"
    );
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn i62_a_client_that_has_gone_holds_nothing() {
    for draining in [false, true] {
        for how in [Leaves::Closes, Leaves::Resets] {
            leaves(start(Drain::new(), |server| server), draining, how).await;
        }
    }
}

/// A FIN does not end the call then, but a reset does.
#[tokio::test]
async fn i62_a_reset_is_noticed_where_half_closed_connections_are_served() {
    use Leaves::*;
    for draining in [false, true] {
        for how in [Resets, ClosesHalfThenResets, ResetsWithARequestBehind] {
            let server = start(Drain::new(), |server| server.http1_half_close(true));
            leaves(server, draining, how).await;
        }
    }
}

/// A listener's error for one connection does not end the accept loop.
#[tokio::test]
async fn b16_errors_of_a_listener_cost_nobody_else() {
    struct Errs(TcpListener, Option<io::ErrorKind>);

    impl Listener for Errs {
        type Io = TcpStream;
        type Addr = SocketAddr;

        fn poll_accept(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
            let accepted = ready!(self.0.poll_accept(cx));
            Poll::Ready(match self.1.take() {
                Some(kind) => Err(kind.into()),
                None => accepted,
            })
        }
    }

    for kind in [io::ErrorKind::ConnectionReset, io::ErrorKind::Other] {
        let tcp = bind();
        let address = tcp.local_addr().expect("bound");
        let _gone = Client::connect(address).await;
        let mut queued = Client::connect(address).await;
        queued.get("/").await;
        let server = start(Drain::new(), |server| server.listen(Errs(tcp, Some(kind))));
        // It is polled for the first time when the queue is emptied.
        server.drain.begin();
        assert!(queued.rest().await.ends_with("hello"), "{kind:?}");
        server.drained().await;
    }
}

/// A stream that is refused, by a tenant that is drained by itself: the client may send the request
/// elsewhere.
#[tokio::test]
async fn c31_a_refusal_is_a_refused_stream() {
    let tenant = Drain::new();
    tenant.begin();
    let service = tower::ServiceBuilder::new()
        .map_err(|_| NotExecuted::default())
        .layer(tenant.call_layer())
        .service(tower::service_fn(
            async |_: http::Request<hyper::body::Incoming>| {
                Ok::<_, Infallible>(http::Response::new(String::new()))
            },
        ));
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let drain = Drain::new();
    let server = tower_graceful::serve(tcp, service).with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());

    let mut client = Client::connect(address).await;
    client.send(frames::hello()).await;
    client.send(frames::get(1, "/")).await;
    let reset = client.frame_of(RST_STREAM).await;
    assert_eq!((reset.stream, &reset.payload[..]), (1, &[0, 0, 0, 7][..]));
    let mut client = Client::connect(address).await;
    client.get("/").await;
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");

    drop(client);
    drain.begin();
    guarded(done).await.expect("no panic").expect("drained");
}

/// A handler may have done something before it came to one that is drained.
#[tokio::test]
async fn c31_what_was_executed_is_no_refused_stream() {
    let tenant = Drain::new();
    tenant.begin();
    let inner = tower::ServiceBuilder::new()
        .layer(tenant.call_layer())
        .service(tower::service_fn(|(): ()| async {
            Ok::<_, Infallible>(())
        }));
    let service = tower::service_fn(move |_: http::Request<hyper::body::Incoming>| {
        let inner = inner.clone();
        async move {
            tower::ServiceExt::oneshot(inner, ()).await?;
            Ok::<_, tower::BoxError>(http::Response::new(String::new()))
        }
    });
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let done = tokio::spawn(tower_graceful::serve(tcp, service).into_future());
    let mut client = Client::connect(address).await;
    client.send(frames::hello()).await;
    client.send(frames::get(1, "/")).await;
    let reset = client.frame_of(RST_STREAM).await;
    assert_ne!(reset.payload, [0, 0, 0, 7]);
    done.abort();
}

/// One that opens a tunnel while the drain goes on.
#[tokio::test]
async fn c31_a_late_tunnel_is_a_refused_stream() {
    let server = Server::start(Kind::Serve, Drain::new()).await;
    let mut client = Client::connect(server.address).await;
    client.send(frames::hello()).await;
    client.send(frames::get(1, "/gate")).await;
    server.at_the_gate().await;
    server.drain.begin();
    client.frame_of(GOAWAY).await;
    guarded(server.drain.reached(Phase::Draining)).await;
    client.send(frames::connect(3, "far:1")).await;
    let reset = client.frame_of(RST_STREAM).await;
    assert_eq!((reset.stream, &reset.payload[..]), (3, &[0, 0, 0, 7][..]));
    server.shared.open.notify_one();
    client.pongs = true;
    // The PING came with the GOAWAY.
    let ping = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
    client
        .send(frames::frame(frames::PING, frames::ACK, 0, &ping))
        .await;
    while client.frame().await.is_some() {}
    assert_eq!(server.drained().await.refused, 1);
}

/// Such a response says less than REFUSED_STREAM, but it is what was asked for.
#[tokio::test]
async fn c31_a_refusal_of_ones_own_is_sent_over_both_http() {
    let server = start(Drain::new(), |server| {
        server.refuse_with(|request: &http::Request<_>| {
            let refused = format!("no {}", request.method());
            (http::StatusCode::IM_A_TEAPOT, refused).into_response()
        })
    });
    let mut http1 = Client::connect(server.address).await;
    let mut http2 = Client::connect(server.address).await;
    http2.send(frames::hello()).await;
    http2.send(frames::get(1, "/gate")).await;
    server.at_the_gate().await;
    server.drain.begin();
    http2.frame_of(GOAWAY).await;
    guarded(server.drain.reached(Phase::Draining)).await;
    http1
        .send("CONNECT far:1 HTTP/1.1\r\nhost: far:1\r\n\r\n")
        .await;
    let answer = http1.rest().await;
    assert!(answer.starts_with("HTTP/1.1 418"), "{answer}");
    assert!(answer.ends_with("no CONNECT"), "{answer}");
    assert_eq!(closes(&answer), 1);
    http2.send(frames::connect(3, "far:1")).await;
    let data = http2.frame_of(frames::DATA).await;
    assert_eq!((data.stream, &data.payload[..]), (3, &b"no CONNECT"[..]));
    server.shared.open.notify_one();
    http2.pongs = true;
    http2.send(frames::shutdown_pong()).await;
    while http2.frame().await.is_some() {}
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (1, 2));
}

fn exempt(request: &http::Request<hyper::body::Incoming>) -> bool {
    request.uri().path() == "/gate" || request.method() == http::Method::CONNECT
}

#[tokio::test]
async fn a_request_that_is_exempt_is_neither_counted_nor_refused() {
    let server = start(Drain::new(), |server| server.exempt(exempt));
    let mut probe = Client::connect(server.address).await;
    probe.get("/gate").await;
    server.at_the_gate().await;
    assert_eq!(server.drain.left().requests, 0);
    server.shared.open.notify_one();
    let answer = probe.read_until("passed").await;
    assert_eq!(closes(&answer), 0, "{answer}");
    probe.get("/gate").await;
    server.at_the_gate().await;
    // Any other late request for an upgrade is refused.
    let mut late = Client::connect(server.address).await;
    server.drain.begin();
    guarded(server.drain.reached(Phase::Draining)).await;
    late.send("GET /gate HTTP/1.1\r\nhost: test\r\nupgrade: websocket\r\n\r\n")
        .await;
    server.at_the_gate().await;
    let left = server.drain.left();
    assert_eq!((left.requests, left.connections()), (0, 2));
    server.shared.open.notify_waiters();
    for client in [&mut probe, &mut late] {
        let answer = client.rest().await;
        assert!(answer.ends_with("passed"), "{answer}");
        assert_eq!(closes(&answer), 1, "{answer}");
    }
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (0, 0));
}

#[tokio::test]
async fn a_request_that_is_exempt_is_neither_counted_nor_refused_over_http2() {
    let server = start(Drain::new(), |server| server.exempt(exempt));
    let mut client = Client::connect(server.address).await;
    client.send(frames::hello()).await;
    client.send(frames::get(1, "/gate")).await;
    server.at_the_gate().await;
    server.drain.begin();
    client.frame_of(GOAWAY).await;
    guarded(server.drain.reached(Phase::Draining)).await;
    assert_eq!(server.drain.left().requests, 0);
    // It would be refused otherwise.
    client.send(frames::connect(3, "far:1")).await;
    let answer = loop {
        let frame = client.frame().await.expect("an open connection");
        if frame.stream == 3 {
            break frame;
        }
    };
    assert_eq!(answer.kind, frames::HEADERS);
    client
        .send(frames::frame(frames::DATA, frames::END_STREAM, 3, b""))
        .await;
    server.shared.open.notify_one();
    client.pongs = true;
    client.send(frames::shutdown_pong()).await;
    while client.frame().await.is_some() {}
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (0, 0));
}

/// curl is told that the stream was refused, and sends its POST once more: to the server that has
/// the port by then. (Over a connection that has got a GOAWAY as well, curl 7.88 does not.)
#[tokio::test]
async fn c31_a_real_client_sends_its_post_to_another_server() {
    let version = std::process::Command::new("curl").arg("--version").output();
    if !version.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("HTTP2")) {
        eprintln!("SKIPPED c31 with a real client: there is no curl that speaks HTTP/2");
        return;
    }
    let reuse = |address: SocketAddr| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseaddr(true).expect("possible");
        socket.bind(address).expect("free");
        socket.listen(16).expect("possible")
    };
    let first = reuse(([127, 0, 0, 1], 0).into());
    let address = first.local_addr().expect("bound");
    let (second, mut started) = mpsc::unbounded_channel();
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = calls.clone();
    // It has closed its listener by then.
    let refuses = tower::service_fn(move |_: http::Request<hyper::body::Incoming>| {
        calls.fetch_add(1, Ordering::SeqCst);
        let answers = Router::new().route(
            "/",
            routing::post(async |body: String| format!("the other: {body}")),
        );
        let other = tower_graceful::serve(reuse(address), answers).into_future();
        second.send(other).expect("waited for");
        async { Err::<http::Response<String>, _>(NotExecuted::default()) }
    });
    let drain = Drain::new();
    let server = tower_graceful::serve(Once(Some(first)), refuses).with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    let curl = tokio::process::Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--http2-prior-knowledge",
            "--data",
            "once",
        ])
        .arg(format!("http://{address}/"))
        .kill_on_drop(true)
        .output();
    let curl = tokio::spawn(curl);
    let other = guarded(started.recv()).await.expect("asked");
    let other = tokio::spawn(other);
    let output = guarded(curl).await.expect("no panic").expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let answer = String::from_utf8_lossy(&output.stdout);
    assert_eq!(answer, "the other: once", "{said}");
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    drain.begin();
    guarded(done).await.expect("no panic").expect("drained");
    other.abort();
}

/// Accepts one connection, and closes.
struct Once(Option<TcpListener>);

impl Listener for Once {
    type Io = TcpStream;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        let Some(listener) = &self.0 else {
            return Poll::Pending;
        };
        let accepted = ready!(listener.poll_accept(cx));
        self.0 = None;
        Poll::Ready(accepted)
    }
}

#[tokio::test]
async fn a_dropped_server_leaves_no_orphans() {
    let server = start(Drain::new(), |server| server);
    let mut http1 = Client::connect(server.address).await;
    http1.get("/stuck").await;
    server.at_the_gate_of_stuck().await;
    let mut http2 = Client::connect(server.address).await;
    http2.send(frames::hello()).await;
    http2.send(frames::get(1, "/stuck")).await;
    server.at_the_gate_of_stuck().await;
    let mut idle = Client::connect(server.address).await;
    idle.hello().await;
    assert_eq!(server.drain.left().requests, 2);

    server.done.abort();
    http1.end().await;
    http2.end().await;
    idle.end().await;
    // Their handlers have been dropped, too.
    while !server.drain.left().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(std::net::TcpStream::connect(server.address).is_err());
}

impl Server {
    /// The handler of `/stuck` is running.
    async fn at_the_gate_of_stuck(&self) {
        guarded(self.shared.reached.notified()).await;
    }
}

#[tokio::test]
async fn b55_listeners_of_all_kinds_are_under_one_drain() {
    let second = bind();
    let other = second.local_addr().expect("bound");
    let directory = tempfile::tempdir().expect("possible");
    let path = directory.path().join("socket");
    let unix = tokio::net::UnixListener::bind(&path).expect("free");
    let seen = Arc::new(AtomicUsize::new(0));
    let own = seen.clone();
    let server = start(Drain::new(), |server| {
        let server = server.listen(second).listen(unix);
        server.on_connect(move |connection, _| {
            if let Some(unix) = connection.io::<tokio::net::UnixStream>() {
                let peer = unix.peer_cred().expect("a peer");
                assert_eq!(peer.pid(), Some(std::process::id() as i32));
                own.fetch_add(1, Ordering::SeqCst);
            }
        })
    });
    for address in [server.address, other] {
        Client::connect(address).await.hello().await;
    }
    let mut stream = tokio::net::UnixStream::connect(&path)
        .await
        .expect("it listens");
    let mut answer = Vec::new();
    use tokio::io::AsyncReadExt;
    let request = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.expect("open");
    guarded(stream.read_to_end(&mut answer))
        .await
        .expect("a FIN");
    assert!(answer.ends_with(b"hello"));
    assert_eq!(seen.load(Ordering::SeqCst), 1);
    // Neither does one that is held hold the others.
    let mut held = Client::connect(other).await;
    held.get("/gate").await;
    server.at_the_gate().await;
    server.drain.begin();
    guarded(server.drain.reached(Phase::Draining)).await;
    for address in [server.address, other] {
        assert!(std::net::TcpStream::connect(address).is_err());
    }
    assert!(std::os::unix::net::UnixStream::connect(&path).is_err());
    server.shared.open.notify_one();
    assert!(held.rest().await.ends_with("passed"));
    assert_eq!(server.drained().await.completed, 1);
}

/// The successor listens before the predecessor stops. The kernel distributes clients between them.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn so_reuseport_hands_over_without_a_refused_connection() {
    let reuse = |address: SocketAddr| {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_reuseport(true).expect("possible");
        socket.bind(address).expect("free");
        socket.listen(1024).expect("possible")
    };
    let tcp = reuse(([127, 0, 0, 1], 0).into());
    let address = tcp.local_addr().expect("bound");
    let serve = |tcp: TcpListener| {
        let drain = Drain::new();
        let app = app(Shared::new(&drain));
        let server = tower_graceful::serve(tcp, app).with_drain(drain.clone());
        (drain, tokio::spawn(server.into_future()))
    };
    let (mut drain, mut done) = serve(tcp);
    for _ in 0..5 {
        let (next, next_done) = serve(reuse(address));
        let clients: Vec<_> = (0..32)
            .map(|_| tokio::spawn(async move { Client::connect(address).await.hello().await }))
            .collect();
        drain.begin();
        for client in clients {
            guarded(client).await.expect("served");
        }
        guarded(done).await.expect("no panic").expect("drained");
        (drain, done) = (next, next_done);
    }
    drain.begin();
    guarded(done).await.expect("no panic").expect("drained");
}

#[tokio::test]
async fn g49_a_lame_duck_serves_everything_and_says_so() {
    let lame_duck = Duration::from_millis(300);
    let server = start(Drain::builder().lame_duck(lame_duck).build(), |server| {
        server
    });
    let mut kept = Client::connect(server.address).await;
    // a13: not before.
    assert_eq!(closes(&kept.hello().await), 0);
    let readiness = async || {
        let request = http::Request::new(());
        let response = tower::ServiceExt::oneshot(server.drain.readiness(), request).await;
        response.expect("infallible").status()
    };
    assert_eq!(readiness().await, 200);
    let began = Instant::now();
    server.drain.begin();
    assert_eq!(readiness().await, 503);
    let mut new = Client::connect(server.address).await;
    for client in [&mut kept, &mut new] {
        client.get("/").await;
        let answer = client.rest().await;
        assert!(answer.ends_with("hello"), "{answer}");
        assert_eq!(closes(&answer), 1);
    }
    assert_eq!(server.drain.phase(), Phase::LameDuck);
    let address = server.address;
    server.drained().await;
    assert!(began.elapsed() >= lame_duck, "{:?}", began.elapsed());
    assert!(std::net::TcpStream::connect(address).is_err());
}

/// They are told to go elsewhere one after the other, and lose nothing.
#[tokio::test]
async fn g49_clients_move_within_the_lame_duck() {
    const CLIENTS: usize = 300;
    let lame_duck = Duration::from_secs(4);
    let server = start(Drain::builder().lame_duck(lame_duck).build(), |server| {
        server
    });
    let mut http1 = Vec::new();
    let mut http2 = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(server.address).await;
        client.hello().await;
        http1.push(client);
        let mut client = Client::connect(server.address).await;
        client.pongs = true;
        client.send(frames::hello()).await;
        client.frame_of(frames::SETTINGS).await;
        http2.push(client);
    }
    let began = Instant::now();
    server.drain.begin();
    let address = server.address;
    // What was told to go connects anew, and is served to its end.
    let again = async move || {
        let moved = began.elapsed();
        let mut new = Client::connect(address).await;
        new.get("/").await;
        assert!(new.rest().await.ends_with("hello"));
        moved
    };
    let mut moves = [JoinSet::new(), JoinSet::new()];
    for mut client in http1 {
        moves[0].spawn(async move {
            assert_eq!(client.rest().await, "");
            again().await
        });
    }
    for mut client in http2 {
        moves[1].spawn(async move {
            client.frame_of(GOAWAY).await;
            // Sent before it has read the GOAWAY.
            client.send(frames::get(1, "/")).await;
            client.frame_of(frames::DATA).await;
            while client.frame().await.is_some() {}
            assert_eq!(client.goaways.len(), 2);
            again().await
        });
    }
    let mut tenths = [0; 10];
    for moves in moves {
        for moved in moves.join_all().await {
            assert!(moved < lame_duck, "{moved:?}");
            tenths[(moved.as_millis() * 10 / lame_duck.as_millis()) as usize] += 1;
        }
    }
    let most = 2 * CLIENTS / 5;
    assert!(tenths.iter().all(|moved| *moved <= most), "{tenths:?}");
    server.drained().await;
    assert!(began.elapsed() >= lame_duck, "{:?}", began.elapsed());
}

/// And not a settling, a poll or a deadline later.
#[tokio::test]
async fn g50_the_last_one_ends_it() {
    let settle = Duration::from_secs(5);
    let server = start(Drain::builder().settle(settle).build(), |server| server);
    let mut client = Client::connect(server.address).await;
    client.get("/gate").await;
    server.at_the_gate().await;
    server.drain.begin();
    client.stream.writable().await.expect("open");
    server.shared.open.notify_one();
    assert!(client.rest().await.ends_with("passed"));
    let ended = Instant::now();
    server.drained().await;
    assert!(ended.elapsed() < settle / 10, "{:?}", ended.elapsed());
}

#[tokio::test]
async fn heads_have_a_time_limit() {
    let server = start(Drain::new(), |server| server.header_read_timeout(SHORT));
    let mut silent = Client::connect(server.address).await;
    let mut half = Client::connect(server.address).await;
    half.send("GET / HT").await;
    let mut second = Client::connect(server.address).await;
    second.hello().await;
    let mut preface = Client::connect(server.address).await;
    preface.send(&frames::PREFACE[..10]).await;
    let began = Instant::now();
    // An idle connection is not slow with a head.
    tokio::time::sleep(2 * SHORT).await;
    second.hello().await;
    second.send("GET / HT").await;
    for client in [&mut silent, &mut half, &mut preface] {
        client.end().await;
    }
    second.end().await;
    assert!(began.elapsed() >= 3 * SHORT, "{:?}", began.elapsed());
    server.drain.begin();
    server.drained().await;
}

/// A part of the next head is no reason to end the response before.
#[tokio::test]
async fn heads_that_come_early_have_their_time_after_the_response() {
    let server = start(Drain::new(), |server| {
        // Otherwise hyper does not read before the response has ended.
        let server = server.http1_half_close(false);
        server.header_read_timeout(SHORT)
    });
    let mut client = Client::connect(server.address).await;
    client.get("/trailers").await;
    client.read_until("first\r\n").await;
    server.at_the_gate().await;
    client.send("GET / HT").await;
    tokio::time::sleep(3 * SHORT).await;
    server.shared.open.notify_one();
    client.read_until("0\r\n\r\n").await;
    // Not for ever, either.
    client.end().await;
    server.drain.begin();
    server.drained().await;
}

/// A part of the next head has come before the response to the one before was sent.
#[tokio::test]
async fn heads_that_come_early_have_a_time_limit_over_http2() {
    let server = start(Drain::new(), |server| server.header_read_timeout(SHORT));
    let mut client = Client::connect(server.address).await;
    client.send(frames::hello()).await;
    client.frame_of(frames::SETTINGS).await;
    let half = frames::frame(frames::HEADERS, frames::END_STREAM, 3, &[0x82, 0x86]);
    client.send([frames::get(1, "/gate"), half].concat()).await;
    server.at_the_gate().await;
    tokio::time::sleep(3 * SHORT).await;
    server.shared.open.notify_one();
    client.frame_of(frames::DATA).await;
    client.end().await;
    server.drain.begin();
    server.drained().await;
}

/// A part of a head: HEADERS without END_HEADERS.
#[tokio::test]
async fn heads_have_a_time_limit_over_http2() {
    let server = start(Drain::new(), |server| server.header_read_timeout(SHORT));
    let mut client = Client::connect(server.address).await;
    client.send(frames::hello()).await;
    client.frame_of(frames::SETTINGS).await;
    let began = Instant::now();
    let half = frames::frame(frames::HEADERS, frames::END_STREAM, 1, &[0x82, 0x86]);
    client.send(half).await;
    client.end().await;
    assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn idle_connections_have_a_time_limit() {
    let server = start(Drain::new(), |server| server.idle_timeout(SHORT));
    let mut http1 = Client::connect(server.address).await;
    let mut http2 = Client::connect(server.address).await;
    http2.send(frames::hello()).await;
    http2.pongs = true;
    let began = Instant::now();
    http1.hello().await;
    http2.send(frames::get(1, "/")).await;
    // A busy one is not idle.
    let mut busy = Client::connect(server.address).await;
    busy.get("/gate").await;
    server.at_the_gate().await;
    assert_eq!(http1.rest().await, "");
    assert!(began.elapsed() >= SHORT, "{:?}", began.elapsed());
    while http2.frame().await.is_some() {}
    assert_eq!(http2.goaways.len(), 2);
    assert!(busy.is_open());
    server.shared.open.notify_one();
    busy.read_until("passed").await;
    assert_eq!(busy.rest().await, "");
    server.drain.begin();
    server.drained().await;
}

/// A peer that has gone does not answer the PING after the GOAWAY.
#[tokio::test]
async fn http2_peers_that_have_gone_are_not_kept() {
    let keep_alive = KeepAlive::new();
    let idle = start(Drain::new(), |server| server.idle_timeout(SHORT));
    let old = start(Drain::new(), |server| {
        server.max_connection_age(SHORT, None)
    });
    let unkept = start(Drain::new(), |server| server.keep_alive(&keep_alive));
    let mut clients = Vec::new();
    for server in [&idle, &old, &unkept] {
        let mut client = Client::connect(server.address).await;
        client.send(frames::hello()).await;
        client.frame_of(frames::SETTINGS).await;
        clients.push(client);
    }
    keep_alive.disable();
    for client in &mut clients {
        client.frame_of(GOAWAY).await;
        client.end().await;
    }
    for server in [idle, old, unkept] {
        server.drain.begin();
        server.drained().await;
    }
}

#[tokio::test]
async fn places_are_for_connections_and_not_for_listeners() {
    let second = bind();
    let other = second.local_addr().expect("bound");
    let server = start(Drain::new(), |server| {
        server.listen(second).max_connections(1)
    });
    for address in [other, server.address, other] {
        Client::connect(address).await.hello().await;
    }
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn settings_take_any_duration() {
    for time in [Duration::MAX, Duration::from_secs(1 << 40)] {
        let drain = Drain::builder().settle(time).grace(time).build();
        let server = start(drain, |server| {
            server
                .idle_timeout(time)
                .header_read_timeout(time)
                .max_connection_age(time, time)
        });
        let mut idle = Client::connect(server.address).await;
        idle.hello().await;
        let mut http2 = Client::connect(server.address).await;
        http2.send(frames::hello()).await;
        http2.send(frames::get(1, "/")).await;
        http2.frame_of(frames::DATA).await;
        // Nothing is left that is work.
        server.drain.force();
        server.drained().await;
    }
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_in_the_queue() {
    let server = start(Drain::new(), |server| server.max_connections(2));
    let mut first = Client::connect(server.address).await;
    let mut second = Client::connect(server.address).await;
    first.hello().await;
    second.hello().await;
    let mut third = Client::connect(server.address).await;
    third.get("/").await;
    // One that has a place goes on.
    first.hello().await;
    assert_eq!(
        (server.drain.left().connections(), server.shared.handled()),
        (2, 3)
    );
    assert!(third.is_open());
    drop(second);
    third.read_until("hello").await;
    // What arrived in time is served, limit or not.
    for held in [&mut first, &mut third] {
        held.get("/gate").await;
        server.at_the_gate().await;
    }
    let mut fourth = Client::connect(server.address).await;
    fourth.get("/").await;
    server.drain.begin();
    let answer = fourth.rest().await;
    assert!(answer.ends_with("hello"), "{answer}");
    server.shared.open.notify_one();
    first.read_until("passed").await;
    server.shared.open.notify_one();
    third.read_until("passed").await;
    server.drained().await;
}

#[tokio::test]
async fn old_connections_are_sent_away() {
    let server = start(Drain::new(), |server| {
        server.max_connection_age(SHORT, None)
    });
    let began = Instant::now();
    let mut busy = Client::connect(server.address).await;
    let mut idle = Client::connect(server.address).await;
    let mut http2 = Client::connect(server.address).await;
    idle.hello().await;
    busy.get("/gate").await;
    server.at_the_gate().await;
    http2.send(frames::hello()).await;
    http2.pongs = true;
    while http2.frame().await.is_some() {}
    assert_eq!(http2.goaways.len(), 2);
    assert_eq!(idle.rest().await, "");
    // A tenth less, at most; and at most a tenth more for the busy one.
    assert!(began.elapsed() >= SHORT * 9 / 10, "{:?}", began.elapsed());
    tokio::time::sleep(SHORT).await;
    server.shared.open.notify_one();
    let answer = busy.rest().await;
    assert!(answer.ends_with("passed"), "{answer}");
    assert_eq!(closes(&answer), 1);
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn old_connections_have_a_grace_and_then_none() {
    let server = start(Drain::new(), |server| {
        server.max_connection_age(SHORT, SHORT)
    });
    let began = Instant::now();
    let mut stuck = Client::connect(server.address).await;
    stuck.get("/stuck").await;
    stuck.end().await;
    assert!(began.elapsed() >= SHORT * 19 / 10, "{:?}", began.elapsed());
    while !server.drain.left().connections().eq(&0) {
        tokio::task::yield_now().await;
    }
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn connections_are_kept_or_not_while_it_runs() {
    let keep_alive = KeepAlive::new();
    let settle = Duration::from_millis(10);
    let drain = Drain::builder().settle(settle).build();
    let server = start(drain, |server| server.keep_alive(&keep_alive));
    let mut idle = Client::connect(server.address).await;
    idle.hello().await;
    let mut busy = Client::connect(server.address).await;
    busy.get("/gate").await;
    server.at_the_gate().await;
    let mut http2 = Client::connect(server.address).await;
    http2.send(frames::hello()).await;
    http2.frame_of(frames::SETTINGS).await;
    keep_alive.disable();
    assert_eq!(idle.rest().await, "");
    http2.pongs = true;
    while http2.frame().await.is_some() {}
    assert_eq!(http2.goaways.len(), 2);
    server.shared.open.notify_one();
    let answer = busy.rest().await;
    assert!(answer.ends_with("passed"), "{answer}");
    assert_eq!(closes(&answer), 1);
    // It is no shutdown.
    let mut new = Client::connect(server.address).await;
    new.get("/").await;
    assert_eq!(closes(&new.rest().await), 1);
    keep_alive.enable();
    let mut kept = Client::connect(server.address).await;
    kept.hello().await;
    kept.hello().await;
    keep_alive.disable();
    assert_eq!(kept.rest().await, "");
    server.drain.begin();
    assert_eq!(server.drained().await.refused, 0);
}

/// Its handlers can close the connection of their request by `/close`. The handles of all
/// connections come in the order of their accepts.
fn with_handles(settle: Duration) -> (Server, mpsc::UnboundedReceiver<ConnectionHandle>) {
    let (send, handles) = mpsc::unbounded_channel();
    let close = async |Extension(connection): Extension<ConnectionHandle>| {
        connection.close();
        "closing"
    };
    let drain = Drain::builder().settle(settle).build();
    let server = Server::serve(drain, |tcp, app| {
        let app = app.route("/close", routing::get(close));
        tower_graceful::serve(tcp, app).on_connect(move |connection, extensions| {
            extensions.insert(connection.handle());
            send.send(connection.handle()).expect("waited for");
        })
    });
    (server, handles)
}

#[tokio::test]
async fn a_handler_closes_its_connection() {
    let settle = Duration::from_millis(10);
    let (server, mut handles) = with_handles(settle);
    let mut other = Client::connect(server.address).await;
    other.hello().await;
    let mut closed = Client::connect(server.address).await;
    closed.hello().await;
    closed.get("/close").await;
    let answer = closed.rest().await;
    assert!(answer.ends_with("closing"), "{answer}");
    assert_eq!(closes(&answer), 1);
    assert_eq!(closes(&other.hello().await), 0);

    // From elsewhere, an idle connection, and one whose head was sent before.
    let idle = guarded(handles.recv()).await.expect("connected");
    idle.close();
    assert_eq!(other.rest().await, "");
    let _closed = guarded(handles.recv()).await.expect("connected");
    let mut streams = Client::connect(server.address).await;
    streams.get("/trailers").await;
    let head = streams.head().await;
    assert_eq!(closes(&head), 0, "{head}");
    server.at_the_gate().await;
    guarded(handles.recv()).await.expect("connected").close();
    server.shared.open.notify_one();
    assert!(streams.rest().await.ends_with("0\r\n\r\n"));

    // Nothing more happens by it.
    idle.close();
    let mut new = Client::connect(server.address).await;
    assert_eq!(closes(&new.hello().await), 0);
    server.drain.begin();
    assert_eq!(server.drained().await.refused, 0);
}

#[tokio::test]
async fn a_handler_closes_its_connection_over_http2() {
    let (server, mut handles) = with_handles(SHORT);
    let mut by_handler = Client::connect(server.address).await;
    by_handler.send(frames::hello()).await;
    by_handler.send(frames::get(1, "/gate")).await;
    server.at_the_gate().await;
    let _by_handler = guarded(handles.recv()).await.expect("connected");
    let mut by_handle = Client::connect(server.address).await;
    by_handle.send(frames::hello()).await;
    by_handle.send(frames::get(1, "/gate")).await;
    server.at_the_gate().await;
    let mut other = Client::connect(server.address).await;
    other.send(frames::hello()).await;
    other.send(frames::get(1, "/gate")).await;
    server.at_the_gate().await;

    by_handler.send(frames::get(3, "/close")).await;
    // Nothing else wakes the task of this one.
    guarded(handles.recv()).await.expect("connected").close();
    for (client, last) in [(&mut by_handler, 3), (&mut by_handle, 1)] {
        client.pongs = true;
        while client.goaways.len() < 2 {
            client.frame().await.expect("streams are open");
        }
        assert_eq!(client.goaways, [(u32::MAX >> 1, 0), (last, 0)]);
    }
    server.shared.open.notify_waiters();
    for client in [&mut by_handler, &mut by_handle] {
        let data = client.frame_of(frames::DATA).await;
        assert_eq!((data.stream, &data.payload[..]), (1, &b"passed"[..]));
        while client.frame().await.is_some() {}
    }
    other.frame_of(frames::DATA).await;
    other.send(frames::get(3, "/")).await;
    let data = other.frame_of(frames::DATA).await;
    assert_eq!((data.stream, &data.payload[..]), (3, &b"hello"[..]));
    assert!(other.goaways.is_empty());
    drop(other);
    server.drain.begin();
    assert_eq!(server.drained().await.refused, 0);
}

#[tokio::test]
async fn hooks_run_once_are_waited_for_and_get_the_deadline() {
    let drain = Drain::builder().timeout(LONG).build();
    let (said, mut hooks) = mpsc::unbounded_channel();
    let (go_on, waits) = oneshot::channel::<()>();
    let first = said.clone();
    drain.on_shutdown(async move |deadline| {
        first.send(deadline).expect("listened to");
        waits.await.expect("told");
    });
    let server = start(drain, |server| server);
    // A hook that runs too early has run by then.
    Client::connect(server.address).await.hello().await;
    assert!(hooks.try_recv().is_err());
    server.drain.begin();
    let deadline = guarded(hooks.recv()).await.expect("run");
    assert_eq!(deadline, server.drain.deadline());
    let left = deadline.expect("there is one") - tokio::time::Instant::now();
    assert!(left > LONG - Duration::from_secs(60) && left <= LONG);
    assert_eq!(server.drain.left().tasks, 1);
    go_on.send(()).expect("waited for");
    let drain = server.drain.clone();
    server.drained().await;
    assert!(hooks.try_recv().is_err());
    // Too late to be waited for, not to be run.
    drain.on_shutdown(async move |_| said.send(None).expect("listened to"));
    assert_eq!(guarded(hooks.recv()).await, Some(None));
}

#[tokio::test]
async fn connections_have_values_and_services_of_their_own() {
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    let app = Router::new().route(
        "/",
        routing::get(
            async |Extension(number): Extension<usize>,
                   ConnectInfo(peer): ConnectInfo<SocketAddr>| {
                format!("{number} {peer} hello")
            },
        ),
    );
    let drain = Drain::new();
    let server = Serve::per_connection(move |peer: &Peer| {
        let mut peers = peers.lock().expect("no panic");
        peers.push(peer.tcp().expect("TCP"));
        app.clone().layer(Extension(peers.len()))
    })
    .listen(tcp)
    .on_connect(|connection, extensions| {
        extensions.insert(ConnectInfo(connection.peer().tcp().expect("TCP")));
    })
    .with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    for number in 1..=2 {
        let mut client = Client::connect(address).await;
        let own = client.stream.local_addr().expect("connected");
        for _ in 0..2 {
            let answer = client.hello().await;
            assert!(
                answer.ends_with(&format!("{number} {own} hello")),
                "{answer}"
            );
        }
        assert_eq!(seen.lock().expect("no panic").last(), Some(&own));
    }
    drain.begin();
    guarded(done).await.expect("no panic").expect("drained");
}

#[tokio::test]
async fn connections_are_seen_by_their_states() {
    let server = start(Drain::new(), |server| server);
    let mut client = Client::connect(server.address).await;
    let states = |left: &Counts| match left.to_string().split_once(" (") {
        Some((_, states)) => states.trim_end_matches(')').to_owned(),
        None if left.connections() == 0 => "none".to_owned(),
        None => panic!("states of {left}"),
    };
    let state = |expected: &'static str| {
        let drain = server.drain.clone();
        async move {
            let seen = guarded(async {
                while !states(&drain.left()).eq(expected) {
                    tokio::task::yield_now().await;
                }
            });
            seen.await;
        }
    };
    state("1 silent").await;
    client.send("GET /gate HTTP/1.1\r\n").await;
    state("1 reading a head").await;
    client.send("host: test\r\n\r\n").await;
    state("1 handling").await;
    server.shared.open.notify_one();
    client.read_until("passed").await;
    state("1 idle").await;
    client.get("/events").await;
    client.read_until("tick").await;
    state("1 streaming").await;
    drop(client);
    state("none").await;
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn one_http_version_can_be_set() {
    let server = start(Drain::new(), Serve::http1_only);
    let mut client = Client::connect(server.address).await;
    client.send(frames::hello()).await;
    client.end().await;
    Client::connect(server.address).await.hello().await;
    server.drain.begin();
    server.drained().await;

    let server = start(Drain::new(), Serve::http2_only);
    let mut client = Client::connect(server.address).await;
    client.send(get("/")).await;
    client.end().await;
    let mut client = Client::connect(server.address).await;
    client.send(frames::hello()).await;
    client.send(frames::get(1, "/")).await;
    client.frame_of(frames::DATA).await;
    server.drain.begin();
    client.pongs = true;
    while client.frame().await.is_some() {}
    server.drained().await;
}

/// Has hyper send PINGs.
fn keep_alive(server: Serve<Router>) -> Serve<Router> {
    server.http2(|http2| {
        http2.keep_alive_interval(SHORT).keep_alive_timeout(SHORT);
    })
}

/// A PING that is not answered ends it, drain or not.
#[tokio::test]
async fn http2_is_kept_alive_only_while_it_answers() {
    let server = start(Drain::new(), keep_alive);
    let mut client = Client::connect(server.address).await;
    let began = Instant::now();
    client.send(frames::hello()).await;
    client.end().await;
    assert!(began.elapsed() >= 2 * SHORT, "{:?}", began.elapsed());
    server.drain.begin();
    server.drained().await;
}

/// A listener of one's own, whose queue is not seen.
#[tokio::test]
async fn b16_the_queue_of_any_listener_is_served() {
    struct NoDelay(TcpListener);

    impl Listener for NoDelay {
        type Io = TcpStream;
        type Addr = SocketAddr;

        fn poll_accept(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
            let (stream, peer) = ready!(self.0.poll_accept(cx))?;
            stream.set_nodelay(true)?;
            Poll::Ready(Ok((stream, peer)))
        }
    }

    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let server = start(Drain::new(), |server| server.listen(NoDelay(tcp)));
    Client::connect(address).await.hello().await;
    let mut queued = Client::connect(address).await;
    queued.get("/").await;
    server.drain.begin();
    assert!(queued.rest().await.ends_with("hello"));
    server.drained().await;
}

/// With a layer in its service, of the same drain or of another.
fn layered(drain: Drain, layer: tower_graceful::GracefulLayer) -> Server {
    Server::serve(drain, |tcp, app| {
        tower_graceful::serve(tcp, app.layer(layer))
    })
}

#[tokio::test]
async fn i71_a_layer_of_the_same_drain_counts_no_request_twice() {
    let drain = Drain::new();
    let server = layered(drain.clone(), drain.layer());
    let mut http1 = [
        Client::connect(server.address).await,
        Client::connect(server.address).await,
    ];
    for client in &mut http1 {
        client.get("/gate").await;
        server.at_the_gate().await;
    }
    let mut http2 = Client::connect(server.address).await;
    http2.send(frames::hello()).await;
    http2.send(frames::get(1, "/gate")).await;
    server.at_the_gate().await;
    assert_eq!(server.drain.left().requests, 3);
    server.drain.begin();
    http2.frame_of(GOAWAY).await;
    http2.pongs = true;
    server.shared.open.notify_waiters();
    for client in &mut http1 {
        let answer = client.rest().await;
        assert!(answer.ends_with("passed"), "{answer}");
        assert_eq!(closes(&answer), 1);
    }
    let ping = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
    http2
        .send(frames::frame(frames::PING, frames::ACK, 0, &ping))
        .await;
    while http2.frame().await.is_some() {}
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (3, 0));
}

/// The layer does not refuse a request that `serve` still admits while draining: see
/// `a05_a_client_without_a_close_is_served_while_draining`.
#[tokio::test]
async fn i71_a_layer_of_the_same_drain_refuses_nothing_that_was_admitted() {
    let drain = Drain::new();
    let server = layered(drain.clone(), drain.layer());
    let mut client = Client::connect(server.address).await;
    client.get("/trailers").await;
    client.read_until("first\r\n").await;
    server.at_the_gate().await;
    server.drain.begin();
    guarded(server.drain.shutdown_signal()).await;
    while server.drain.guard().is_ok() {
        tokio::task::yield_now().await;
    }
    server.shared.open.notify_one();
    client.read_until("0\r\n\r\n").await;
    client.get("/").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(closes(&answer), 1);
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (2, 0));
}

/// Neither is what `serve` refuses refused once more.
#[tokio::test]
async fn i71_what_is_refused_is_refused_once() {
    let drain = Drain::new();
    let server = layered(drain.clone(), drain.layer());
    let mut held = Client::connect(server.address).await;
    held.get("/gate").await;
    server.at_the_gate().await;
    let mut client = Client::connect(server.address).await;
    server.drain.begin();
    guarded(server.drain.reached(Phase::Draining)).await;
    client
        .send("CONNECT far:1 HTTP/1.1\r\nhost: far:1\r\n\r\n")
        .await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    server.shared.open.notify_one();
    held.rest().await;
    assert_eq!(server.drained().await.refused, 1);
}

/// A layer of another drain counts and refuses by itself.
#[tokio::test]
async fn i71_a_layer_of_another_drain_counts_and_refuses() {
    let tenant = Drain::new();
    let server = layered(Drain::new(), tenant.layer());
    let mut client = Client::connect(server.address).await;
    client.get("/gate").await;
    server.at_the_gate().await;
    assert_eq!(
        (server.drain.left().requests, tenant.left().requests),
        (1, 1)
    );
    tenant.begin();
    let mut other = Client::connect(server.address).await;
    other.get("/").await;
    let head = other.head().await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
    server.shared.open.notify_one();
    client.read_until("passed").await;
    assert_eq!(guarded(tenant.wait()).await.expect("drained").refused, 1);
    drop((client, other));
    server.drain.begin();
    server.drained().await;
}

/// Without capacity in the service below it: it is waited for, as without the layer.
#[tokio::test]
async fn i71_a_layer_of_the_same_drain_calls_no_service_that_is_not_ready() {
    let drain = Drain::new();
    let layer = tower::ServiceBuilder::new()
        .layer(drain.layer())
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(1));
    let server = Server::serve(drain, |tcp, app| {
        tower_graceful::serve(tcp, app.layer(layer))
    });
    let mut clients = [
        Client::connect(server.address).await,
        Client::connect(server.address).await,
    ];
    for client in &mut clients {
        client.get("/gate").await;
    }
    server.at_the_gate().await;
    guarded(async {
        while server.drain.left().requests < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    server.drain.begin();
    guarded(server.drain.reached(Phase::Draining)).await;
    let second = server.shared.clone();
    server.shared.open.notify_one();
    guarded(second.reached.notified()).await;
    second.open.notify_one();
    for client in &mut clients {
        let answer = client.rest().await;
        assert!(answer.ends_with("passed"), "{answer}");
    }
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (2, 0));
}

/// The types of axum and tonic are there by default. `on_connect` may overwrite them.
#[tokio::test]
async fn i76_peers_are_known_to_handlers() {
    use tonic::transport::server::{TcpConnectInfo, UdsConnectInfo};

    let tcp = async |ConnectInfo(address): ConnectInfo<SocketAddr>,
                     ConnectInfo(peer): ConnectInfo<Peer>,
                     Extension(info): Extension<TcpConnectInfo>| {
        assert_eq!(peer.tcp(), Some(address));
        assert_eq!(info.remote_addr(), Some(address));
        format!("{address} {} hello", info.local_addr().expect("known"))
    };
    let unix = async |ConnectInfo(peer): ConnectInfo<Peer>,
                      Extension(info): Extension<UdsConnectInfo>,
                      tcp: Option<Extension<TcpConnectInfo>>| {
        assert!(tcp.is_none() && matches!(peer, Peer::Unix(_)), "{peer:?}");
        let process = info.peer_cred.and_then(|peer| peer.pid());
        format!("{process:?} hello")
    };
    let app = || {
        Router::new()
            .route("/", routing::get(tcp))
            .route("/unix", routing::get(unix))
    };
    let directory = tempfile::tempdir().expect("possible");
    let path = directory.path().join("socket");
    let [first, second] = [bind(), bind()];
    let [address, other] = [&first, &second].map(|tcp| tcp.local_addr().expect("bound"));
    let drain = Drain::new();
    let plain = tower_graceful::serve(first, app())
        .listen(tokio::net::UnixListener::bind(&path).expect("free"))
        .with_drain(drain.clone());
    let proxy = SocketAddr::from(([192, 0, 2, 1], 80));
    let behind_a_proxy = tower_graceful::serve(
        second,
        Router::new().route(
            "/",
            routing::get(
                async |ConnectInfo(peer): ConnectInfo<SocketAddr>,
                       Extension(more): Extension<u8>| {
                    format!("{peer} {more} hello")
                },
            ),
        ),
    )
    .on_connect(move |_, extensions| {
        extensions.insert(ConnectInfo(proxy));
        extensions.insert(7_u8);
    })
    .with_drain(drain.clone());
    let done = [
        tokio::spawn(plain.into_future()),
        tokio::spawn(behind_a_proxy.into_future()),
    ];
    let mut client = Client::connect(address).await;
    let own = client.stream.local_addr().expect("connected");
    for _ in 0..2 {
        let answer = client.hello().await;
        let said = format!("\r\n\r\n{own} {address} hello");
        assert!(answer.ends_with(&said), "{answer}");
    }
    let answer = Client::connect(other).await.hello().await;
    assert!(answer.ends_with("\r\n\r\n192.0.2.1:80 7 hello"), "{answer}");
    let stream = tokio::net::UnixStream::connect(&path).await;
    let mut client = Client::over(stream.expect("it listens"));
    client.get("/unix").await;
    let answer = client.read_until("hello").await;
    let said = format!("\r\n\r\nSome({}) hello", std::process::id());
    assert!(answer.ends_with(&said), "{answer}");
    drain.begin();
    for done in done {
        guarded(done).await.expect("no panic").expect("drained");
    }
}

/// A listener that hides its socket knows where its connections come from, too.
#[tokio::test]
async fn i76_peers_of_a_listener_of_ones_own_are_known() {
    struct Hides(TcpListener);

    impl Listener for Hides {
        type Io = tokio::io::BufStream<TcpStream>;
        type Addr = SocketAddr;

        fn poll_accept(
            &mut self,
            cx: &mut Context<'_>,
        ) -> Poll<io::Result<(Self::Io, SocketAddr)>> {
            let (tcp, peer) = ready!(self.0.poll_accept(cx))?;
            Poll::Ready(Ok((tokio::io::BufStream::new(tcp), peer)))
        }
    }

    use tonic::transport::server::TcpConnectInfo;
    let app = Router::new().route(
        "/",
        routing::get(
            async |ConnectInfo(peer): ConnectInfo<SocketAddr>,
                   Extension(info): Extension<TcpConnectInfo>| {
                assert_eq!((info.remote_addr(), info.local_addr()), (Some(peer), None));
                format!("{peer} hello")
            },
        ),
    );
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let drain = Drain::new();
    let server = tower_graceful::serve(Hides(tcp), app).with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    let mut client = Client::connect(address).await;
    let own = client.stream.local_addr().expect("connected");
    let answer = client.hello().await;
    assert!(answer.ends_with(&format!("{own} hello")), "{answer}");
    drop(client);
    drain.begin();
    guarded(done).await.expect("no panic").expect("drained");
}

/// Errors of tower's layers are recognised, also inside of another error.
#[tokio::test]
async fn i77_an_overload_and_a_timeout_are_answered() {
    use tower::{BoxError, ServiceBuilder};

    #[derive(Debug)]
    struct Outer(BoxError);
    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("outer")
        }
    }
    impl std::error::Error for Outer {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&*self.0)
        }
    }

    let [shed, slow, other] = [bind(), bind(), bind()];
    let [sheds, times_out, fails] =
        [&shed, &slow, &other].map(|tcp| tcp.local_addr().expect("bound"));
    let drain = Drain::new();
    let shared = Shared::new(&drain);
    let service = ServiceBuilder::new()
        .load_shed()
        .layer(tower::limit::GlobalConcurrencyLimitLayer::new(1))
        .service(app(shared.clone()));
    let shed = tower_graceful::serve(shed, service).with_drain(drain.clone());
    let service = ServiceBuilder::new()
        .map_err(Outer)
        .timeout(SHORT)
        .service(app(shared.clone()));
    let slow = tower_graceful::serve(slow, service).with_drain(drain.clone());
    let service = tower::service_fn(async |_: http::Request<hyper::body::Incoming>| {
        Err::<http::Response<String>, _>("something else")
    });
    let other = tower_graceful::serve(other, service).with_drain(drain.clone());
    let done = [
        tokio::spawn(shed.into_future()),
        tokio::spawn(slow.into_future()),
        tokio::spawn(other.into_future()),
    ];

    let mut held = Client::connect(sheds).await;
    held.get("/gate").await;
    guarded(shared.reached.notified()).await;
    for (address, path) in [(sheds, "/"), (times_out, "/stuck")] {
        let mut client = Client::connect(address).await;
        // It is kept.
        for _ in 0..2 {
            client.get(path).await;
            let head = client.head().await;
            assert!(head.starts_with("HTTP/1.1 503"), "{head}");
            assert!(head.contains("retry-after: 1"), "{head}");
            assert_eq!(closes(&head), 0);
        }
        let mut client = Client::connect(address).await;
        client.send(frames::hello()).await;
        client.send(frames::get(1, path)).await;
        let head = client.frame_of(frames::HEADERS).await;
        // `:status` by its name in the static table, then "503" in the code of HPACK.
        let status = [0x48, 0x83, 0x6c, 0x0c, 0xff];
        assert!(head.payload.starts_with(&status), "{head:?}");
    }
    let mut client = Client::connect(fails).await;
    client.get("/").await;
    assert_eq!(client.rest().await, "");
    let mut client = Client::connect(fails).await;
    client.send(frames::hello()).await;
    client.send(frames::get(1, "/")).await;
    let reset = client.frame_of(RST_STREAM).await;
    assert_ne!(reset.payload, [0, 0, 0, 7]);
    client.pongs = true;

    let mut late = Client::connect(sheds).await;
    late.get("/").await;
    late.head().await;
    drain.begin();
    late.get("/").await;
    let answer = late.rest().await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(closes(&answer), 1);
    shared.open.notify_one();
    held.read_until("passed").await;
    drop((held, client));
    for done in done {
        guarded(done).await.expect("no panic").expect("drained");
    }
}
