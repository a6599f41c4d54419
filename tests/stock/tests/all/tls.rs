//! `tower_graceful::serve` over TLS: what the other tests show without it, where it could be
//! otherwise with it.

use crate::{
    client::{
        Client, closes,
        frames::{self, GOAWAY},
    },
    guarded,
    server::{BIG, Server, bind},
};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    },
};
use tower_graceful::{
    Drain, Phase, RunError,
    server::{Established, Serve},
};

pub struct Keys {
    pub server: Arc<ServerConfig>,
    roots: Arc<RootCertStore>,
}

pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).expect("possible");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::from(key))
            .expect("a pair");
        Keys {
            server: Arc::new(server),
            roots: Arc::new(roots),
        }
    })
}

pub fn start(drain: Drain) -> Server {
    start_with(drain, |server| server)
}

fn start_with(
    drain: Drain,
    set_up: impl FnOnce(Serve<axum::Router>) -> Serve<axum::Router>,
) -> Server {
    Server::serve(drain, |tcp, app| {
        set_up(Serve::new(app).listen_rustls(tcp, keys().server.clone()))
    })
}

pub type Secure = Client<TlsStream<TcpStream>>;

impl<T: AsyncRead + AsyncWrite + Unpin> Client<TlsStream<T>> {
    pub async fn shake_hands(tcp: T, protocols: &[&str]) -> std::io::Result<Self> {
        let mut config = ClientConfig::builder()
            .with_root_certificates(keys().roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = protocols
            .iter()
            .map(|name| name.as_bytes().into())
            .collect();
        let name = "localhost".try_into().expect("a name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp);
        Ok(Self::over(guarded(stream).await?))
    }
}

impl Secure {
    async fn secure(address: SocketAddr, protocols: &[&str]) -> Self {
        let tcp = TcpStream::connect(address).await.expect("it listens");
        Self::shake_hands(tcp, protocols).await.expect("it agrees")
    }

    pub async fn http1(server: &Server) -> Self {
        Self::secure(server.address, &["http/1.1"]).await
    }

    async fn http2(server: &Server) -> Self {
        let mut client = Self::secure(server.address, &["h2", "http/1.1"]).await;
        assert_eq!(client.stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        client.send(frames::hello()).await;
        client.frame_of(frames::SETTINGS).await;
        client
    }
}

/// Its end is one by TLS, too: an end of the connection alone is an error to rustls.
#[tokio::test]
async fn a01_idle_connections_end_with_a_close_notify() {
    let server = start(Drain::new());
    let mut client = Secure::http1(&server).await;
    client.get("/").await;
    client.read_until("hello").await;
    server.drain.begin();
    assert_eq!(client.rest().await, "");
    server.drained().await;
}

#[tokio::test]
async fn a02_silent_ones_have_the_grace_of_their_accept() {
    let grace = Duration::from_millis(400);
    let server = start(Drain::builder().grace(grace).build());
    let accepted = Instant::now();
    let mut client = Secure::http1(&server).await;
    server.drain.begin();
    assert_eq!(client.rest().await, "");
    assert!(accepted.elapsed() >= grace, "{:?}", accepted.elapsed());
    server.drained().await;
}

#[tokio::test]
async fn a03_a_first_request_inside_the_grace_is_served() {
    let server = start(Drain::new());
    let mut client = Secure::http1(&server).await;
    server.drain.begin();
    guarded(server.drain.reached(Phase::Draining)).await;
    client.get("/").await;
    let answer = client.rest().await;
    assert!(answer.ends_with("hello"), "{answer}");
    assert_eq!(closes(&answer), 1);
    server.drained().await;
}

/// Its next request is in the socket, and the runtime has not been told: see `serve.rs`.
#[tokio::test]
async fn a05_what_the_runtime_has_not_heard_of_is_served() {
    for _ in 0..5 {
        let server = start(Drain::builder().settle(Duration::ZERO).build());
        let mut client = Secure::http1(&server).await;
        client.get("/").await;
        client.read_until("hello").await;
        // Written at once, without a turn of the runtime.
        client.get("/").await;
        server.drain.begin();
        let answer = client.rest().await;
        assert!(answer.ends_with("hello"), "{answer:?}");
        server.drained().await;
    }
}

#[tokio::test]
async fn a06_a_handler_that_runs_is_waited_for() {
    let server = start(Drain::new());
    let mut client = Secure::http1(&server).await;
    client.get("/gate").await;
    server.at_the_gate().await;
    server.drain.begin();
    guarded(server.drain.reached(Phase::Draining)).await;
    server.shared.open.notify_one();
    let answer = client.rest().await;
    assert!(answer.ends_with("passed"), "{answer}");
    assert_eq!(closes(&answer), 1);
    server.drained().await;
}

/// Done within the grace: its request is served. Not done: closed, and nobody is held up by it.
#[tokio::test]
async fn a15_a_handshake_has_the_grace_of_its_connection() {
    let grace = Duration::from_millis(500);
    let server = start(Drain::builder().grace(grace).build());
    let in_time = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    let mut silent = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    let mut half = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    // The beginning of a ClientHello.
    half.write_all(&[0x16, 3, 1, 2, 0, 1]).await.expect("open");
    while server.drain.left().connections.silent < 3 {
        tokio::task::yield_now().await;
    }
    let accepted = Instant::now();
    server.drain.begin();
    guarded(server.drain.reached(Phase::Draining)).await;
    let mut client = Secure::shake_hands(in_time, &["http/1.1"])
        .await
        .expect("in time");
    client.get("/").await;
    assert!(client.rest().await.ends_with("hello"));
    for stream in [&mut silent, &mut half] {
        let _ = guarded(stream.read(&mut [0; 64])).await;
    }
    let drained = server.drained().await;
    assert!(
        accepted.elapsed() >= grace - Duration::from_millis(50),
        "{drained}"
    );
    assert!(drained.elapsed < 2 * grace, "{drained}");
}

#[tokio::test]
async fn a15_a_handshake_is_cut_at_the_deadline() {
    let timeout = Duration::from_millis(200);
    let drain = Drain::builder().timeout(timeout).grace(20 * timeout);
    let server = start(drain.build());
    let mut stalled = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    while server.drain.left().connections.silent == 0 {
        tokio::task::yield_now().await;
    }
    server.drain.begin();
    let drained = server.drained().await;
    assert!(drained.elapsed < 5 * timeout, "{drained}");
    let end = guarded(stalled.read(&mut [0; 64])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// One that stalls in its handshake holds up nobody, and is closed in time.
#[tokio::test]
async fn a15_handshakes_hold_up_nobody_and_have_a_time_limit() {
    let limit = Duration::from_millis(200);
    let server = start_with(Drain::new(), |server| server.header_read_timeout(limit));
    let mut stalled = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    let began = Instant::now();
    stalled
        .write_all(&[0x16, 3, 1, 2, 0, 1])
        .await
        .expect("open");
    let mut client = Secure::http1(&server).await;
    client.get("/").await;
    client.read_until("hello").await;
    let end = guarded(stalled.read(&mut [0; 64])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    assert!(began.elapsed() >= limit, "{:?}", began.elapsed());
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn a15_what_is_no_handshake_ends_alone() {
    let server = start(Drain::new());
    let mut plain = Client::connect(server.address).await;
    plain.get("/").await;
    plain.end().await;
    let mut client = Secure::http1(&server).await;
    client.get("/").await;
    client.read_until("hello").await;
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn b16_handshakes_in_the_accept_queue_are_served() {
    let server = start(Drain::new());
    // The one thread is here: the server has accepted none of them.
    let queued: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(server.address).expect("it listens"))
        .collect();
    server.drain.begin();
    let clients: Vec<_> = queued
        .into_iter()
        .map(|stream| {
            stream.set_nonblocking(true).expect("possible");
            let stream = TcpStream::from_std(stream).expect("possible");
            tokio::spawn(async move {
                let shaken = Secure::shake_hands(stream, &["http/1.1"]).await;
                let mut client = shaken.expect("in time");
                client.get("/").await;
                client.rest().await
            })
        })
        .collect();
    for client in clients {
        let answer = guarded(client).await.expect("no reset");
        assert!(answer.ends_with("hello"), "{answer}");
    }
    server.drained().await;
}

#[tokio::test]
async fn c24_idle_connections_part_in_two_steps() {
    let server = start(Drain::new());
    let mut client = Secure::http2(&server).await;
    client.send(frames::get(1, "/")).await;
    client.frame_of(frames::DATA).await;
    server.drain.begin();
    client.pongs = true;
    while client.frame().await.is_some() {}
    assert_eq!(client.goaways, [((1 << 31) - 1, 0), (1, 0)]);
    server.drained().await;
}

#[tokio::test]
async fn c25_a_stream_between_the_two_goaways_is_served() {
    let server = start(Drain::new());
    let mut client = Secure::http2(&server).await;
    server.drain.begin();
    client.frame_of(GOAWAY).await;
    client.send(frames::get(1, "/")).await;
    while client.frame_of(frames::DATA).await.payload != b"hello" {}
    let ping = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
    let pong = frames::frame(frames::PING, frames::ACK, 0, &ping);
    client.send(pong).await;
    while client.frame().await.is_some() {}
    let drained = server.drained().await;
    assert_eq!((drained.completed, drained.refused), (1, 0));
}

/// Without ALPN it is HTTP/1 (RFC 9113, section 3.2).
#[tokio::test]
async fn either_http_is_chosen_by_alpn() {
    let server = start(Drain::new());
    let mut client = Secure::secure(server.address, &[]).await;
    client.get("/").await;
    client.read_until("hello").await;
    let mut client = Secure::secure(server.address, &["http/1.1"]).await;
    client.get("/").await;
    client.read_until("hello").await;
    Secure::http2(&server).await;
    server.drain.begin();
    assert_eq!(client.rest().await, "");
    server.drained().await;
}

/// Who offers both is told what is served, and who offers only the other one is told so.
#[tokio::test]
async fn only_what_is_served_is_agreed_upon() {
    let server = start_with(Drain::new(), Serve::http1_only);
    let mut client = Secure::secure(server.address, &["h2", "http/1.1"]).await;
    client.get("/").await;
    client.read_until("hello").await;
    server.drain.begin();
    server.drained().await;

    let server = start_with(Drain::new(), Serve::http2_only);
    let tcp = TcpStream::connect(server.address)
        .await
        .expect("it listens");
    assert!(Secure::shake_hands(tcp, &["http/1.1"]).await.is_err());
    Secure::http2(&server).await;
    server.drain.begin();
    server.drained().await;
}

/// curl speaks both.
#[tokio::test]
async fn a_real_client_is_served_in_both() {
    if std::process::Command::new("curl")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("SKIPPED TLS with a real client: there is no curl");
        return;
    }
    let server = start(Drain::new());
    for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let output = tokio::process::Command::new("curl")
            .args(["--silent", "--show-error", "--insecure", option])
            .args(["--write-out", " %{http_version}"])
            .arg(format!("https://{}/", server.address))
            .kill_on_drop(true)
            .output();
        let output = guarded(output).await.expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        let answer = String::from_utf8_lossy(&output.stdout);
        assert_eq!(answer, format!("hello {version}"), "{said}");
    }
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn h58_a_client_that_never_reads_is_cut_at_the_deadline() {
    let timeout = Duration::from_millis(500);
    let server = start(Drain::builder().timeout(timeout).build());
    let mut deaf = Secure::http1(&server).await;
    deaf.get("/big").await;
    while server.drain.left().connections.stalled == 0 {
        tokio::task::yield_now().await;
    }
    server.drain.begin();
    let drain = server.drain.clone();
    let Err(RunError::Timeout(outcome)) = server.outcome().await else {
        panic!("it was cut");
    };
    assert_eq!(outcome.left.connections.stalled, 1, "{outcome}");
    assert!(outcome.elapsed < 2 * timeout, "{outcome}");
    assert!(drain.left().is_empty());
    let mut rest = Vec::new();
    let _ = guarded(deaf.stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < BIG);
}

/// The last of a response has been taken by TLS, and by nobody else.
#[tokio::test]
async fn h58_what_tls_holds_is_not_written() {
    let narrow = |socket: &TcpSocket| {
        socket.set_send_buffer_size(4096).expect("possible");
        socket.set_recv_buffer_size(4096).expect("possible");
    };
    let socket = TcpSocket::new_v4().expect("a socket");
    narrow(&socket);
    socket.bind(([127, 0, 0, 1], 0).into()).expect("loopback");
    let listener = socket.listen(16).expect("possible");
    let address = listener.local_addr().expect("bound");
    let app = axum::Router::new().route("/", axum::routing::get(async || vec![b'x'; 60_000]));
    let timeout = Duration::from_millis(700);
    let drain = Drain::builder().timeout(timeout).build();
    let server = Serve::new(app)
        .listen_rustls(listener, keys().server.clone())
        .with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    let socket = TcpSocket::new_v4().expect("a socket");
    narrow(&socket);
    let tcp = socket.connect(address).await.expect("it listens");
    let mut client = Secure::shake_hands(tcp, &["http/1.1"])
        .await
        .expect("it agrees");
    client.get("/").await;
    while drain.left().connections.stalled == 0 {
        tokio::task::yield_now().await;
    }
    drain.begin();
    let outcome = guarded(done).await.expect("no panic");
    assert_eq!(outcome.expect_err("cut").left.connections.stalled, 1);
}

/// What TLS knows is there for requests.
#[tokio::test]
async fn connections_have_values_of_tls() {
    #[derive(Clone)]
    struct ServerName(String);

    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let app = axum::Router::new().route(
        "/",
        axum::routing::get(
            async |axum::Extension(ServerName(name)): axum::Extension<ServerName>| {
                format!("{name} hello")
            },
        ),
    );
    let drain = Drain::new();
    let server = Serve::new(app)
        .listen_rustls(tcp, keys().server.clone())
        .on_connect(|connection: Established<'_>, extensions| {
            let tls = connection.tls().expect("TLS");
            extensions.insert(ServerName(tls.server_name().expect("named").into()));
        })
        .with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    let mut client = Secure::secure(address, &["http/1.1"]).await;
    client.get("/").await;
    let answer = client.read_until("hello").await;
    assert!(answer.ends_with("localhost hello"), "{answer}");
    drain.begin();
    guarded(done).await.expect("no panic").expect("drained");
}
