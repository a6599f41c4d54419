//! A TLS listener for `axum::serve`, around a listener of the drain.
//!
//! A connection is counted from its accept on, so the drain waits for its handshake: at most for the
//! [grace](tower_graceful::DrainBuilder::grace) of the connection. Handshakes run side by side, so a
//! slow one delays no other.

use axum::serve::Listener;
use std::{io, net::SocketAddr, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower_graceful::net::{DrainIo, DrainListener};

type Connection = (TlsStream<DrainIo<TcpStream>>, SocketAddr);

pub struct TlsListener {
    tcp: DrainListener<TcpListener>,
    acceptor: TlsAcceptor,
    handshakes: JoinSet<io::Result<Connection>>,
}

impl TlsListener {
    pub fn new(tcp: DrainListener<TcpListener>, acceptor: TlsAcceptor) -> Self {
        let handshakes = JoinSet::new();
        Self {
            tcp,
            acceptor,
            handshakes,
        }
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<DrainIo<TcpStream>>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> Connection {
        loop {
            // Both branches are cancel safe. Once the drain has closed `tcp`, only handshakes go on.
            tokio::select! {
                (io, peer) = Listener::accept(&mut self.tcp) => {
                    let handshake = timeout(Duration::from_secs(10), self.acceptor.accept(io));
                    self.handshakes.spawn(async move { Ok((handshake.await??, peer)) });
                }
                Some(handshake) = self.handshakes.join_next() => match handshake {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => eprintln!("a TLS handshake failed: {error}"),
                    Err(error) => eprintln!("a TLS handshake panicked: {error}"),
                },
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Listener::local_addr(&self.tcp)
    }
}
