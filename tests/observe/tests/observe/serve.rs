//! What `serve` and the listeners say when something fails. Real sockets, and no clock but the real one.

use crate::Log;
use http::{Request, Response};
use http_body_util::Empty;
use std::{
    convert::Infallible,
    fmt,
    io::{self, ErrorKind},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tower::{Service, service_fn};
use tower_graceful::{
    Drain,
    server::{Listener, Serve},
};

type Incoming = hyper::body::Incoming;

/// What the crate has said, as soon as it has said so much.
async fn said(log: &Log, lines: usize) -> Vec<String> {
    let mut said = Vec::new();
    let says = async {
        while said.len() < lines {
            let ours = log.lines().into_iter();
            said.extend(ours.filter(|line| line.contains(" tower_graceful: ")));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let in_time = timeout(Duration::from_secs(20), says).await.is_ok();
    assert!(in_time, "{said:#?}");
    said
}

fn hello() -> impl Service<
    Request<Incoming>,
    Response = Response<Empty<bytes::Bytes>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send {
    service_fn(async |_: Request<Incoming>| Ok(Response::new(Empty::new())))
}

/// Errs so many times, and has no connections.
struct Errs(Vec<ErrorKind>);

impl Listener for Errs {
    type Io = TcpStream;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, _: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        match self.0.pop() {
            Some(kind) => Poll::Ready(Err(io::Error::new(kind, "no more of them"))),
            None => Poll::Pending,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i77_errors_of_accept_are_logged_once_each() {
    let (log, _guard) = Log::of_this_thread();
    let drain = Drain::new();
    // Those of one connection are nobody's business.
    let errors = vec![
        ErrorKind::Other,
        ErrorKind::ConnectionReset,
        ErrorKind::Other,
    ];
    let server = tower_graceful::serve(Errs(errors), hello()).with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    tokio::time::sleep(Duration::from_secs(60)).await;
    let line = "ERROR tower_graceful: accept error: no more of them";
    assert_eq!(log.lines(), [line; 2]);
    // At the end, too.
    done.abort();
    let mut listener = Errs(vec![ErrorKind::Other; 3]);
    let server = tower_graceful::serve(Errs(std::mem::take(&mut listener.0)), hello());
    let done = tokio::spawn(server.with_drain(drain.clone()).into_future());
    drain.begin();
    done.await.expect("no panic").expect("drained");
    let lines = log.lines();
    assert_eq!(
        lines.iter().filter(|it| *it == line).count(),
        3,
        "{lines:#?}"
    );
}

async fn bind() -> (TcpListener, SocketAddr) {
    let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = tcp.local_addr().expect("bound");
    (tcp, address)
}

/// Sends it, and reads to the end.
async fn ask(address: SocketAddr, bytes: &[u8]) -> (SocketAddr, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let own = stream.local_addr().expect("connected");
    stream.write_all(bytes).await.expect("open");
    let mut answer = Vec::new();
    let end = timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    let _ = end.expect("it ends");
    (own, answer)
}

#[tokio::test]
async fn i77_handshakes_that_fail_are_logged() {
    let (log, _guard) = Log::of_this_thread();
    let made = rcgen::generate_simple_self_signed(["localhost".into()]).expect("possible");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("a pair");
    let (tcp, address) = bind().await;
    let server = Serve::new(hello())
        .listen_rustls(tcp, Arc::new(config))
        .header_read_timeout(Duration::from_millis(200));
    let done = tokio::spawn(server.into_future());
    let (own, _) = ask(address, b"GET / HTTP/1.1\r\n\r\n").await;
    let lines = said(&log, 1).await;
    let begins = format!("DEBUG tower_graceful: the handshake failed peer={own} error=");
    assert!(lines[0].starts_with(&begins), "{lines:#?}");
    // The beginning of one.
    let (own, _) = ask(address, &[0x16, 3, 1, 2, 0, 1]).await;
    let line =
        format!("DEBUG tower_graceful: the handshake failed peer={own} error=it took too long");
    assert_eq!(said(&log, 1).await, [line]);
    done.abort();
}

#[derive(Debug)]
struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the database is gone")
    }
}

impl std::error::Error for Broken {}

#[tokio::test]
async fn i77_errors_of_a_service_are_logged_with_the_request() {
    let (log, _guard) = Log::of_this_thread();
    let (tcp, address) = bind().await;
    let fails =
        service_fn(async |_: Request<Incoming>| Err::<Response<Empty<bytes::Bytes>>, _>(Broken));
    let done = tokio::spawn(tower_graceful::serve(tcp, fails).into_future());
    let request = b"PUT /orders/7?token=secret HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n";
    let (own, answer) = ask(address, request).await;
    assert_eq!(answer, b"");
    let lines = said(&log, 2).await;
    let line = "ERROR tower_graceful: the service failed method=PUT path=\"/orders/7\" \
                error=the database is gone";
    assert_eq!(lines[0], line);
    let begins = format!("DEBUG tower_graceful: the connection failed peer={own} error=");
    assert!(lines[1].starts_with(&begins), "{lines:#?}");
    assert!(!lines.concat().contains("secret"), "{lines:#?}");
    done.abort();
}

#[tokio::test]
async fn i77_errors_of_a_connection_are_logged() {
    let (log, _guard) = Log::of_this_thread();
    let (tcp, address) = bind().await;
    let done = tokio::spawn(tower_graceful::serve(tcp, hello()).into_future());
    let (own, answer) = ask(address, b"NONSENSE\r\n\r\n").await;
    assert!(answer.starts_with(b"HTTP/1.1 400"));
    let lines = said(&log, 1).await;
    let begins = format!("DEBUG tower_graceful: the connection failed peer={own} error=");
    assert!(lines[0].starts_with(&begins), "{lines:#?}");
    done.abort();
}

/// Nothing is said of what goes well.
#[tokio::test]
async fn i77_nothing_is_said_when_nothing_fails() {
    let (log, _guard) = Log::of_this_thread();
    let (tcp, address) = bind().await;
    let drain = Drain::new();
    let server = tower_graceful::serve(tcp, hello()).with_drain(drain.clone());
    let done = tokio::spawn(server.into_future());
    let request = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let (_, answer) = ask(address, request).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    while !drain.left().connections().eq(&0) {
        tokio::task::yield_now().await;
    }
    let lines = log.lines().into_iter();
    let ours: Vec<_> = lines
        .filter(|line| line.contains("tower_graceful"))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
    done.abort();
}
