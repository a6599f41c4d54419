//! The options of the sockets that are accepted.

use crate::{
    client::Client,
    guarded,
    server::{Shared, app, bind},
};
use axum::serve::ListenerExt;
use futures_util::StreamExt;
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::net::TcpStream;
use tower_graceful::{Drain, server::Serve};

/// Whether TCP_NODELAY and SO_KEEPALIVE are set, of each connection that was accepted.
type Seen = Arc<Mutex<Vec<(bool, bool)>>>;

fn look(tcp: &TcpStream, seen: &Seen) {
    let keepalive = socket2::SockRef::from(tcp).keepalive().expect("TCP");
    let options = (tcp.nodelay().expect("TCP"), keepalive);
    seen.lock().expect("no panic").push(options);
}

/// Which server takes the connections, and through which part of the crate.
#[derive(Clone, Copy, Debug)]
enum Way {
    Axum,
    Tonic,
    TonicIncoming,
    Serve,
    Accept,
}

const WAYS: [Way; 5] = [
    Way::Axum,
    Way::Tonic,
    Way::TonicIncoming,
    Way::Serve,
    Way::Accept,
];

/// One connection is accepted while serving, one is taken from the queue when the drain begins.
async fn options_of(way: Way, set: Option<(bool, Option<Duration>)>) -> Vec<(bool, bool)> {
    let (drain, tcp, seen) = (Drain::new(), bind(), Seen::default());
    let address = tcp.local_addr().expect("bound");
    let app = app(Shared::new(&drain));
    let (saw, signal) = (seen.clone(), drain.shutdown_signal());
    let mut listener = drain.listener(tcp);
    if let Some((nodelay, keepalive)) = set {
        listener = listener.tcp_nodelay(nodelay).tcp_keepalive(keepalive);
    }
    let tonic = || tonic::transport::Server::builder().accept_http1(true);
    let done = match way {
        Way::Axum => {
            let listener = listener.tap_io(move |io| look(io.get_ref(), &saw));
            let server = axum::serve(listener, app).with_graceful_shutdown(signal);
            tokio::spawn(async { server.await.expect("it serves") })
        }
        Way::Tonic => {
            let incoming = listener.inspect(move |io| {
                look(io.as_ref().expect("accepted").get_ref(), &saw);
            });
            let routes = tonic::service::Routes::from(app);
            let server = tonic().serve_with_incoming_shutdown(routes, incoming, signal);
            tokio::spawn(async { server.await.expect("it serves") })
        }
        Way::TonicIncoming => {
            drop(listener);
            let tcp = tokio::net::TcpListener::bind(address).await.expect("free");
            let incoming = futures_util::stream::unfold(tcp, |tcp| async {
                let accepted = tcp.accept().await.map(|(stream, _)| stream);
                Some((accepted, tcp))
            });
            let mut incoming = drain.incoming(Box::pin(incoming));
            if let Some((nodelay, keepalive)) = set {
                incoming = incoming.tcp_nodelay(nodelay).tcp_keepalive(keepalive);
            }
            let incoming = incoming.inspect(move |io| {
                look(io.as_ref().expect("accepted").get_ref(), &saw);
            });
            let routes = tonic::service::Routes::from(app);
            let server = tonic().serve_with_incoming_shutdown(routes, incoming, signal);
            tokio::spawn(async { server.await.expect("it serves") })
        }
        Way::Serve => {
            drop(listener);
            let tcp = tokio::net::TcpListener::bind(address).await.expect("free");
            let mut server = Serve::new(app);
            if let Some((nodelay, keepalive)) = set {
                // Before and after the listener is given.
                server = server.tcp_nodelay(nodelay).listen(tcp);
                server = server.tcp_keepalive(keepalive);
            } else {
                server = server.listen(tcp);
            }
            let server = server
                .with_drain(drain.clone())
                .on_connect(move |connection, _| {
                    look(connection.io::<TcpStream>().expect("TCP"), &saw)
                });
            let server = server.into_future();
            tokio::spawn(async {
                server.await.expect("drained");
            })
        }
        Way::Accept => tokio::spawn(async move {
            while let Some((io, _)) = listener.accept().await {
                look(io.get_ref(), &saw);
            }
        }),
    };
    let _first = Client::connect(address).await;
    guarded(async {
        while seen.lock().expect("no panic").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let _queued = std::net::TcpStream::connect(address).expect("it listens");
    drain.begin();
    guarded(done).await.expect("no panic");
    let seen = seen.lock().expect("no panic");
    seen.clone()
}

#[tokio::test]
async fn i67_accepted_sockets_have_no_delay() {
    for way in WAYS {
        let seen = options_of(way, None).await;
        assert_eq!(seen, [(true, false); 2], "{way:?}");
    }
}

#[tokio::test]
async fn i67_options_of_accepted_sockets_can_be_set() {
    for way in WAYS {
        let seen = options_of(way, Some((false, Some(Duration::from_secs(60))))).await;
        assert_eq!(seen, [(false, true); 2], "{way:?}");
    }
}
