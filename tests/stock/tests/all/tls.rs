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
    TlsAcceptor, TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig,
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
        server::WebPkiClientVerifier,
    },
};
use tower_graceful::{
    Drain, Phase, RunError,
    report::ConnectionState,
    server::{ConnectionInfo, Handshaken, Serve},
};

pub struct Keys {
    pub server: Arc<ServerConfig>,
    /// Asks clients for the same certificate.
    mutual: Arc<ServerConfig>,
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
    roots: Arc<RootCertStore>,
}

pub fn keys() -> &'static Keys {
    static KEYS: OnceLock<Keys> = OnceLock::new();
    KEYS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".into()]).expect("possible");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a certificate");
        let roots = Arc::new(roots);
        let certificate = made.cert.der().clone();
        let pair = || {
            let key = PrivateKeyDer::from(key.clone_key());
            (vec![certificate.clone()], key)
        };
        let (chain, own) = pair();
        let server = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, own)
            .expect("a pair");
        let (chain, own) = pair();
        let verifier = WebPkiClientVerifier::builder(roots.clone()).build();
        let mutual = ServerConfig::builder()
            .with_client_cert_verifier(verifier.expect("possible"))
            .with_single_cert(chain, own)
            .expect("a pair");
        Keys {
            server: Arc::new(server),
            mutual: Arc::new(mutual),
            certificate,
            key,
            roots,
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

/// With a handshake of the user's own in place of `listen_rustls`.
fn start_own(drain: Drain) -> Server {
    let mut config = (*keys().server).clone();
    config.alpn_protocols = vec![b"h2".into(), b"http/1.1".into()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::serve(drain, |tcp, app| {
        Serve::new(app).listen_with(tcp, move |io: TcpStream, _| {
            let shaken = acceptor.accept(io);
            async {
                let tls = shaken.await?;
                Ok(Handshaken::new(tls).over_tcp(|tls| Some(tls.get_ref().0)))
            }
        })
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

/// The next request is in the socket, and the runtime has not seen it: see `serve.rs`.
#[tokio::test]
async fn a05_what_the_runtime_has_not_heard_of_is_served() {
    for start in [start, start_own].iter().cycle().take(10) {
        let server = start(Drain::builder().settle(Duration::ZERO).build());
        let mut client = Secure::http1(&server).await;
        client.get("/").await;
        client.read_until("hello").await;
        // Written before the runtime polls the kernel again.
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

/// If the handshake ends within the grace, the request is served. Otherwise the connection is
/// closed.
#[tokio::test]
async fn a15_a_handshake_has_the_grace_of_its_connection() {
    has_the_grace(start).await;
    has_the_grace(start_own).await;
}

async fn has_the_grace(start: fn(Drain) -> Server) {
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
    while server.drain.left().connections_in(ConnectionState::Silent) < 3 {
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
    while server.drain.left().connections_in(ConnectionState::Silent) == 0 {
        tokio::task::yield_now().await;
    }
    server.drain.begin();
    let drained = server.drained().await;
    assert!(drained.elapsed < 5 * timeout, "{drained}");
    let end = guarded(stalled.read(&mut [0; 64])).await;
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// A client that stalls in its handshake delays no other one, and is closed in time.
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
    for start in [start, start_own] {
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

/// A client that offers both protocols gets the one that is served. One that offers only the other
/// protocol fails its handshake.
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
async fn curl_is_served_over_both_http_versions() {
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
    while server.drain.left().connections_in(ConnectionState::Stalled) == 0 {
        tokio::task::yield_now().await;
    }
    server.drain.begin();
    let drain = server.drain.clone();
    let Err(RunError::Timeout(outcome)) = server.outcome().await else {
        panic!("it was cut");
    };
    assert_eq!(
        outcome
            .report()
            .left
            .connections_in(ConnectionState::Stalled),
        1,
        "{outcome}"
    );
    assert!(outcome.report().elapsed < 2 * timeout, "{outcome}");
    assert!(drain.left().is_empty());
    let mut rest = Vec::new();
    let _ = guarded(deaf.stream.read_to_end(&mut rest)).await;
    assert!(rest.len() < BIG);
}

/// The end of a response is in the buffer of TLS, and not in the socket.
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
    while drain.left().connections_in(ConnectionState::Stalled) == 0 {
        tokio::task::yield_now().await;
    }
    drain.begin();
    let outcome = guarded(done).await.expect("no panic");
    assert_eq!(
        outcome
            .expect_err("cut")
            .report()
            .left
            .connections_in(ConnectionState::Stalled),
        1
    );
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
        .on_connect(|connection: ConnectionInfo<'_>, extensions| {
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

impl Secure {
    /// Reads to the end. An end without a close_notify is an error of the kind `UnexpectedEof`.
    async fn read_to_end(&mut self) -> std::io::Result<usize> {
        guarded(self.stream.read_to_end(&mut Vec::new())).await
    }

    async fn ends_cleanly(&mut self, case: &str) {
        let end = self.read_to_end().await;
        assert!(end.is_ok(), "{case}: {end:?}");
    }
}

const SHORT: Duration = Duration::from_millis(100);

#[tokio::test]
async fn i73_what_takes_too_long_ends_with_a_close_notify() {
    let server = start_with(Drain::new(), |server| server.header_read_timeout(SHORT));
    let mut silent = Secure::http1(&server).await;
    let mut half = Secure::http1(&server).await;
    half.send("GET / HT").await;
    let mut second = Secure::http1(&server).await;
    second.get("/").await;
    second.read_until("hello").await;
    second.send("GET / HT").await;
    let mut streams = Secure::http2(&server).await;
    let block = [0x82, 0x86];
    let head = frames::frame(frames::HEADERS, frames::END_STREAM, 1, &block);
    streams.send(head).await;
    let mut preface = Secure::secure(server.address, &["h2"]).await;
    preface.send(&frames::PREFACE[..12]).await;
    silent.ends_cleanly("silent").await;
    half.ends_cleanly("half a head").await;
    second.ends_cleanly("half a second head").await;
    streams.ends_cleanly("half a head over HTTP/2").await;
    preface.ends_cleanly("half a preface").await;
    server.drain.begin();
    server.drained().await;
}

#[tokio::test]
async fn i73_what_is_idle_or_answers_no_ping_ends_with_a_close_notify() {
    let idle = start_with(Drain::new(), |server| server.idle_timeout(SHORT));
    let kept = start_with(Drain::new(), |server| {
        server.http2(|http2| {
            http2.keep_alive_interval(SHORT).keep_alive_timeout(SHORT);
        })
    });
    let mut http1 = Secure::http1(&idle).await;
    http1.get("/").await;
    http1.read_until("hello").await;
    // It answers neither the PING of the GOAWAY nor that of the keep-alive.
    let mut http2 = Secure::http2(&idle).await;
    let mut gone = Secure::http2(&kept).await;
    http1.ends_cleanly("HTTP/1").await;
    http2.ends_cleanly("HTTP/2").await;
    gone.ends_cleanly("keep-alive").await;
    for server in [idle, kept] {
        server.drain.begin();
        server.drained().await;
    }
}

#[tokio::test]
async fn i73_what_is_too_old_ends_with_a_close_notify() {
    let server = start_with(Drain::new(), |server| {
        server.max_connection_age(SHORT, SHORT)
    });
    let mut stuck = Secure::http1(&server).await;
    stuck.get("/stuck").await;
    let mut streams = Secure::http2(&server).await;
    streams.send(frames::get(1, "/events")).await;
    let mut head = Secure::http1(&server).await;
    head.get("/").await;
    head.read_until("hello").await;
    head.send("GET / HT").await;
    stuck.ends_cleanly("no response has begun").await;
    streams.ends_cleanly("HTTP/2").await;
    head.ends_cleanly("half a head").await;
    server.drain.begin();
    server.drained().await;
}

/// An aborted response must not look whole to a client that takes the end of the connection for its
/// end.
#[tokio::test]
async fn i73_a_response_that_is_cut_does_not_end_with_a_close_notify() {
    let get = "GET /events HTTP/1.0\r\nhost: test\r\n\r\n";
    let old = start_with(Drain::new(), |server| {
        server.max_connection_age(SHORT, SHORT)
    });
    let late = start(Drain::builder().timeout(2 * SHORT).build());
    let dropped = start(Drain::new());
    let mut clients = Vec::new();
    for server in [&old, &late, &dropped] {
        let mut client = Secure::http1(server).await;
        client.send(get).await;
        client.read_until("tick").await;
        clients.push(client);
    }
    late.drain.begin();
    dropped.done.abort();
    for client in &mut clients {
        let end = client.read_to_end().await;
        assert_eq!(
            end.map_err(|error| error.kind()),
            Err(std::io::ErrorKind::UnexpectedEof)
        );
    }
    assert!(late.outcome().await.is_err());
}

#[tokio::test]
async fn i73_limits_of_a_drain_end_with_a_close_notify() {
    let server = start(Drain::new());
    let mut silent = Secure::http1(&server).await;
    let mut half = Secure::http1(&server).await;
    half.send("GET / HT").await;
    let mut second = Secure::http1(&server).await;
    second.get("/").await;
    second.read_until("hello").await;
    second.send("GET / HT").await;
    let mut http2 = Secure::http2(&server).await;
    while server.drain.left().connections_in(ConnectionState::Reading) < 2 {
        tokio::task::yield_now().await;
    }
    server.drain.begin();
    silent.ends_cleanly("silent").await;
    half.ends_cleanly("half a head").await;
    second.ends_cleanly("half a second head").await;
    http2.ends_cleanly("no PONG").await;
    server.drained().await;
}

/// What axum and tonic know of connections of their own, with nothing written for it.
#[tokio::test]
async fn i76_peers_and_certificates_are_known_below_tls() {
    use axum::{Extension, extract::ConnectInfo};
    use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};

    type Tls = TlsConnectInfo<TcpConnectInfo>;
    let says = async |ConnectInfo(peer): ConnectInfo<SocketAddr>,
                      Extension(tcp): Extension<TcpConnectInfo>,
                      Extension(tls): Extension<Tls>| {
        assert_eq!(tcp.remote_addr(), Some(peer));
        assert_eq!(tls.get_ref().remote_addr(), Some(peer));
        let certificates = tls.peer_certs().expect("asked for");
        assert_eq!(certificates.first(), Some(&keys().certificate));
        let local = tcp.local_addr().expect("known");
        format!("{peer} {local} hello")
    };
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let app = axum::Router::new().route("/", axum::routing::get(says));
    let drain = Drain::new();
    let server = Serve::new(app)
        .listen_rustls(tcp, keys().mutual.clone())
        .with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    let config = ClientConfig::builder()
        .with_root_certificates(keys().roots.clone())
        .with_client_auth_cert(
            vec![keys().certificate.clone()],
            PrivateKeyDer::from(keys().key.clone_key()),
        );
    let config = Arc::new(config.expect("a pair"));
    let tcp = TcpStream::connect(address).await.expect("it listens");
    let own = tcp.local_addr().expect("connected");
    let name = "localhost".try_into().expect("a name");
    let stream = guarded(TlsConnector::from(config).connect(name, tcp)).await;
    let mut client = Client::over(stream.expect("it agrees"));
    client.get("/").await;
    let answer = client.read_until("hello").await;
    assert!(
        answer.ends_with(&format!("\r\n\r\n{own} {address} hello")),
        "{answer}"
    );
    drain.begin();
    guarded(done).await.expect("no panic").expect("drained");
}
