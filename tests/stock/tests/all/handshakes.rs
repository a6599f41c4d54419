//! TLS handshakes that are going on when the drain begins, on listeners of one's own: i74.

use crate::{
    client::{Client, closes},
    guarded,
    lingering::axum_with_tls,
    server::{Server, Shared, app, bind},
    tls::keys,
};
use futures_util::future::join_all;
use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower_graceful::{Drain, server::Serve};

type Connection = (TlsStream<TcpStream>, SocketAddr);

/// TLS inside of the drain's listener: handshakes run side by side, and only what has made its
/// handshake is handed over.
struct TlsInside {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<io::Result<Connection>>,
}

impl TlsInside {
    fn new(tcp: TcpListener) -> Self {
        Self {
            tcp,
            acceptor: TlsAcceptor::from(keys().server.clone()),
            handshakes: JoinSet::new(),
        }
    }

    fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection>> {
        loop {
            if let Poll::Ready(Some(Ok(shaken))) = self.handshakes.poll_join_next(cx) {
                return Poll::Ready(shaken);
            }
            let Poll::Ready(accepted) = self.tcp.poll_accept(cx) else {
                return Poll::Pending;
            };
            let (tcp, peer) = accepted?;
            let handshake = self.acceptor.accept(tcp);
            self.handshakes
                .spawn(async move { Ok((handshake.await?, peer)) });
        }
    }
}

impl tower_graceful::server::Listener for TlsInside {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Connection>> {
        self.poll_connection(cx)
    }
}

impl axum::serve::Listener for TlsInside {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        loop {
            if let Ok(accepted) = std::future::poll_fn(|cx| self.poll_connection(cx)).await {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

async fn axum_with_tls_inside(drain: Drain) -> Server {
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let shared = Shared::new(&drain);
    let app = app(shared.clone()).layer(drain.layer());
    let listener = drain.listener(TlsInside::new(tcp));
    let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    let done = tokio::spawn(drain.run(server, std::future::pending::<()>()));
    Server {
        drain,
        address,
        shared,
        done,
    }
}

fn serve_with_tls_inside(drain: Drain) -> Server {
    Server::serve(drain, |tcp, app| {
        Serve::new(app).listen(TlsInside::new(tcp))
    })
}

/// The time between what a client gets and what it answers.
const FLIGHT: Duration = Duration::from_millis(200);

/// One whose messages take their time.
async fn far_away(address: SocketAddr) -> tokio::io::DuplexStream {
    let (client, near) = tokio::io::duplex(1 << 16);
    let tcp = TcpStream::connect(address).await.expect("it listens");
    let (mut from_server, mut to_server) = tcp.into_split();
    let (mut from_client, mut to_client) = tokio::io::split(near);
    tokio::spawn(async move {
        let mut message = [0; 1 << 14];
        while let Ok(length @ 1..) = from_client.read(&mut message).await {
            tokio::time::sleep(FLIGHT).await;
            if to_server.write_all(&message[..length]).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        let _ = to_client.shutdown().await;
    });
    client
}

/// Three clients are in the middle of their handshakes.
async fn are_served(server: Server) {
    let far = join_all([(); 3].map(|()| far_away(server.address))).await;
    let clients = far.into_iter().map(|stream| async move {
        let mut client = Client::shake_hands(stream, &["http/1.1"])
            .await
            .expect("it agrees");
        client.get("/").await;
        client.rest().await
    });
    let drain = server.drain.clone();
    let begins = async {
        tokio::time::sleep(FLIGHT * 3 / 2).await;
        drain.begin();
    };
    let (answers, ()) = tokio::join!(join_all(clients), begins);
    for answer in answers {
        assert!(answer.ends_with("hello"), "{answer}");
        assert_eq!(closes(&answer), 1);
    }
    let drained = guarded(server.done).await.expect("no panic");
    let drained = drained.expect("drained");
    assert_eq!((drained.completed, drained.refused), (3, 0), "{drained}");
}

/// The listener of `examples/axum_tls`, which the guide shows, too.
#[test]
fn i74_the_guide_has_the_listener_that_is_tested() {
    let example = include_str!("../../../../examples/axum_tls/src/listener.rs");
    let guide = include_str!("../../../../src/guide/axum.md");
    let code = example.find("type Connection").expect("it is there");
    assert!(guide.contains(&example[code..]));
}

#[tokio::test]
async fn i74_handshakes_around_the_drains_listener_are_served() {
    are_served(axum_with_tls(Drain::new()).await).await;
}

#[tokio::test]
async fn i74_handshakes_inside_of_the_drains_listener_have_the_settling() {
    let drain = || Drain::builder().settle(Duration::from_secs(1)).build();
    are_served(axum_with_tls_inside(drain()).await).await;
    are_served(serve_with_tls_inside(drain())).await;
}

/// Makes a handshake in the future of its `accept`, which the server must not drop.
struct Slow {
    accepts_started: usize,
}

impl axum::serve::Listener for Slow {
    type Io = tokio::io::DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, ()) {
        self.accepts_started += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
        (tokio::io::duplex(1).0, ())
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn i74_the_future_of_an_accept_goes_on_while_closing() {
    let drain = Drain::new();
    let mut listener = drain.listener(Slow { accepts_started: 0 });
    {
        let mut accept = std::pin::pin!(axum::serve::Listener::accept(&mut listener));
        assert!(futures_util::poll!(accept.as_mut()).is_pending());
        drain.begin();
        guarded(accept).await;
    }
    assert_eq!(listener.get_ref().expect("open").accepts_started, 1);
}
