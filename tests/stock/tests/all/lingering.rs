//! A response is not destroyed by the close of its connection: i63, i65.

use crate::{
    client::{Client, frames, get},
    guarded,
    server::{ALL, Kind, MEGABYTE, Server, Shared, app, bind},
    tls::{self, Secure, keys},
    tls_listener::TlsListener,
};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tower_graceful::{Drain, Phase, report::ConnectionState, server::Serve};

/// Stock axum, with TLS around the connections of the drain.
pub async fn axum_with_tls(drain: Drain) -> Server {
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let shared = Shared::new(&drain);
    let app = app(shared.clone()).layer(drain.layer());
    let acceptor = TlsAcceptor::from(keys().server.clone());
    let listener = TlsListener::new(drain.listener(tcp).exclusive(), acceptor);
    let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    let done = tokio::spawn(drain.run(server, std::future::pending::<()>()));
    Server {
        drain,
        address,
        shared,
        done,
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// On each server, plain and with TLS, serving and draining.
async fn everywhere(path: &str, length: usize, case: impl AsyncFn(&mut Client<Box<dyn Stream>>)) {
    for draining in [false, true] {
        for kind in ALL {
            let server = Server::start(kind, Drain::new()).await;
            let client = Client::connect(server.address).await;
            let name = format!("{kind:?}, draining: {draining}");
            on(server, client, draining, &name, path, length, &case).await;
        }
        let server = tls::start(Drain::new());
        let client = Secure::http1(&server).await;
        let name = format!("Serve with TLS, draining: {draining}");
        on(server, client, draining, &name, path, length, &case).await;
        let server = axum_with_tls(Drain::new()).await;
        let client = Secure::http1(&server).await;
        let name = format!("Axum with TLS, draining: {draining}");
        on(server, client, draining, &name, path, length, &case).await;
    }
}

/// The request's head is sent, then the case begins.
async fn on<T: Stream + 'static>(
    server: Server,
    client: Client<T>,
    draining: bool,
    name: &str,
    path: &str,
    length: usize,
    case: impl AsyncFn(&mut Client<Box<dyn Stream>>),
) {
    println!("{name}");
    let mut client = Client::over(Box::new(client.stream) as Box<dyn Stream>);
    let head = format!("{path} HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
    let (begin, end) = head.split_at(10);
    client.send(begin).await;
    client.stream.flush().await.expect("open");
    if draining {
        guarded(async {
            while server.drain.left().connections_in(ConnectionState::Silent) > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
    }
    client.send(end).await;
    client.stream.flush().await.expect("open");
    case(&mut client).await;
    drop(client);
    server.drain.begin();
    let drained = server.drained().await;
    assert_eq!(drained.refused, 0, "{name}");
}

#[tokio::test]
async fn i63_an_answer_before_the_upload_is_read_whole() {
    const LENGTH: usize = 8 << 20;
    everywhere("POST /reject", LENGTH, async |client| {
        let part = vec![b'u'; 1 << 16];
        client.send(&part).await;
        client.stream.flush().await.expect("open");
        // The answer is on its way, and the server is through with it.
        tokio::time::sleep(Duration::from_millis(50)).await;
        for _ in 1..LENGTH >> 16 {
            client.send(&part).await;
        }
        client.stream.flush().await.expect("open");
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        let body = answer.split("\r\n\r\n").nth(1).expect("a body");
        assert_eq!(body.len(), 1024);
    })
    .await;
}

#[tokio::test]
async fn i63_an_answer_is_read_whole_by_a_client_whose_body_is_late() {
    const LENGTH: usize = 20_000;
    everywhere("GET /megabyte", LENGTH, async |client| {
        let mut answer = vec![0; 16 << 10];
        guarded(client.stream.read_exact(&mut answer))
            .await
            .expect("an answer");
        client.send(vec![b'u'; LENGTH]).await;
        client.stream.flush().await.expect("open");
        guarded(client.stream.read_to_end(&mut answer))
            .await
            .expect("a FIN, not a reset");
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n");
        assert_eq!(answer.len() - head.expect("a head") - 4, MEGABYTE);
    })
    .await;
}

const HTTP2: [Kind; 3] = [Kind::Axum, Kind::Tonic2, Kind::Serve];

/// Returns an HTTP/2 client that has read all bytes of the server in the drain, up to the FIN.
async fn parted(kind: Kind) -> (Server, Client) {
    let timeout = Duration::from_secs(12);
    let server = Server::start(kind, Drain::builder().timeout(timeout).build()).await;
    let mut client = Client::connect(server.address).await;
    client.pongs = true;
    client.send(frames::hello()).await;
    client.frame_of(frames::SETTINGS).await;
    server.drain.begin();
    while client.frame().await.is_some() {}
    (server, client)
}

#[tokio::test]
async fn i65_pings_after_the_end_hold_nothing_for_long() {
    let case = async |kind| {
        let (server, mut client) = parted(kind).await;
        let pings = async {
            let ping = frames::frame(frames::PING, 0, 0, &[7; 8]);
            while client.stream.write_all(&ping).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        let (drained, ()) = tokio::join!(server.drained(), pings);
        // It does linger.
        assert!(
            drained.elapsed > Duration::from_secs(2),
            "{kind:?}: {drained}"
        );
        assert!(
            drained.elapsed < Duration::from_secs(6),
            "{kind:?}: {drained}"
        );
    };
    futures_util::future::join_all(HTTP2.map(case)).await;
}

#[tokio::test]
async fn i65_a_flood_after_the_end_is_not_read() {
    for kind in HTTP2 {
        let (server, mut client) = parted(kind).await;
        let flood = async {
            let pings = frames::frame(frames::PING, 0, 0, &[7; 8]).repeat(1 << 10);
            let mut written = 0;
            while let Ok(more) = client.stream.write(&pings).await {
                written += more;
            }
            written
        };
        let (drained, written) = tokio::join!(server.drained(), guarded(flood));
        assert!(
            drained.elapsed < Duration::from_secs(6),
            "{kind:?}: {drained}"
        );
        // What is read, and what the kernel's buffers take.
        assert!(written < 16 << 20, "{kind:?}: {written} bytes");
    }
}

/// The server closes after the first answer, with the others unread.
#[tokio::test]
async fn i63_an_answer_before_pipelined_requests_is_read_whole() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::connect(server.address).await;
        let first = "GET /megabyte HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        client
            .send(first.to_owned() + &get("/").repeat(5_000))
            .await;
        // It has been answered and closed, as far as the buffers go.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let answer = client.rest().await;
        assert!(answer.len() > MEGABYTE, "{kind:?}: {} bytes", answer.len());
        assert_eq!(server.shared.handled(), 0);
        server.drain.begin();
        server.drained().await;
    }
}

/// A tunnel whose one direction has ended: what comes in the other one is not discarded.
#[tokio::test]
async fn i63_a_half_closed_tunnel_is_read_on() {
    let drain = Drain::new();
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let mut listener = drain.listener(tcp);
    let tunnel = tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.expect("open");
        let mut read = vec![0; 4];
        io.read_exact(&mut read).await.expect("open");
        io.shutdown().await.expect("open");
        io.read_to_end(&mut read).await.expect("open");
        read.len()
    });
    let mut client = Client::connect(address).await;
    // Nothing that looks like HTTP.
    client.send(b"\x16\x03\x01\0").await;
    assert_eq!(client.rest().await, "");
    client.send(vec![7; 100_000]).await;
    client.stream.shutdown().await.expect("open");
    assert_eq!(guarded(tunnel).await.expect("no panic"), 100_004);
    guarded(drain.shutdown(Duration::from_secs(5)))
        .await
        .expect("drained");
}

/// As `c29_the_end_of_a_response_outlives_the_close`, on a connection that is too old.
#[tokio::test]
async fn i63_the_end_of_a_response_outlives_the_age_of_its_connection() {
    let age = Duration::from_millis(50);
    let server = Server::serve(Drain::new(), |tcp, app| {
        Serve::new(app).listen(tcp).max_connection_age(age, None)
    });
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(16 << 10).expect("possible");
    let stream = guarded(socket.connect(server.address)).await;
    let mut client = Client::over(stream.expect("it listens"));
    let huge = ((1u32 << 31) - 1).to_be_bytes();
    let window = [&[0, 4][..], &huge].concat();
    client.send(frames::PREFACE).await;
    client
        .send(frames::frame(frames::SETTINGS, 0, 0, &window))
        .await;
    let more = ((1u32 << 31) - (1 << 16)).to_be_bytes();
    let update = frames::frame(frames::WINDOW_UPDATE, 0, 0, &more);
    client.send(update).await;
    client.send(frames::get(1, "/megabyte")).await;
    tokio::time::sleep(3 * age).await;
    // Unread: the PING is in there, too.
    let ping = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
    client
        .send(frames::frame(frames::PING, frames::ACK, 0, &ping))
        .await;
    let mut data = 0;
    while let Some(frame) = client.frame().await {
        if frame.kind == frames::DATA {
            data += frame.payload.len();
            let read = (frame.payload.len().max(1) as u32).to_be_bytes();
            client
                .send(frames::frame(frames::WINDOW_UPDATE, 0, 0, &read))
                .await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    assert_eq!(data, MEGABYTE);
    drop(client);
    server.drain.begin();
    server.drained().await;
}
