//! The options of the sockets that are accepted, and those of hyper.

use crate::{
    client::{Client, frames},
    guarded,
    server::{Server, Shared, app, bind},
};
use axum::serve::ListenerExt;
use futures_util::StreamExt;
use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpStream;
use tower_graceful::{
    Drain,
    server::{Serve, Task},
};

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

/// hyper's own, for each version.
#[tokio::test]
async fn options_of_hyper_are_passed_on() {
    let server = Server::serve(Drain::new(), |tcp, app| {
        tower_graceful::serve(tcp, app)
            .http1(|http1| {
                http1.title_case_headers(true);
            })
            .http2(|http2| {
                http2.max_concurrent_streams(7);
            })
    });
    let mut client = Client::connect(server.address).await;
    client.get("/").await;
    assert!(client.head().await.contains("\r\nContent-Length: 5\r\n"));
    let mut client = Client::connect(server.address).await;
    client.pongs = true;
    client.send(frames::hello()).await;
    let settings = client.frame_of(frames::SETTINGS).await.payload;
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]);
    assert_eq!(streams, Some(&[0, 3, 0, 0, 0, 7][..]));
    server.drain.begin();
    while client.frame().await.is_some() {}
    server.drained().await;
}

/// Spawns what it gets, or drops it.
#[derive(Clone, Default)]
struct Spawns {
    tasks: Arc<AtomicUsize>,
    drops: Arc<AtomicBool>,
}

impl hyper::rt::Executor<Task> for Spawns {
    fn execute(&self, task: Task) {
        if !self.drops.load(Ordering::SeqCst) {
            self.tasks.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(task);
        }
    }
}

/// For connections and for streams, and also if the options of HTTP/2 are set before.
#[tokio::test]
async fn an_executor_of_ones_own_spawns_the_tasks() {
    let spawns = Spawns::default();
    let server = Server::serve(Drain::new(), |tcp, app| {
        let server = tower_graceful::serve(tcp, app).http2(|http2| {
            http2.max_concurrent_streams(7);
        });
        server.executor(spawns.clone())
    });
    let mut client = Client::connect(server.address).await;
    client.pongs = true;
    client.send(frames::hello()).await;
    client.frame_of(frames::SETTINGS).await;
    assert_eq!(spawns.tasks.load(Ordering::SeqCst), 1);
    client.send(frames::get(1, "/")).await;
    client.frame_of(frames::DATA).await;
    assert_eq!(spawns.tasks.load(Ordering::SeqCst), 2);
    // What is dropped holds nothing.
    spawns.drops.store(true, Ordering::SeqCst);
    client.send(frames::get(3, "/")).await;
    assert_eq!(client.frame_of(frames::RST_STREAM).await.stream, 3);
    Client::connect(server.address).await.end().await;
    server.drain.begin();
    while client.frame().await.is_some() {}
    server.drained().await;
}

#[tokio::test]
#[should_panic = "the executor of this server is set already"]
async fn an_executor_is_not_set_twice() {
    let service = tower::service_fn(async |_: http::Request<hyper::body::Incoming>| {
        Ok::<_, Infallible>(http::Response::new(String::new()))
    });
    let server = Serve::new(service).executor(Spawns::default());
    let _ = server.executor(Spawns::default());
}
