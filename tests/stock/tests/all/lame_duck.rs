//! A lame duck that ends once nothing new comes, and what it says of the last arrivals.

use crate::{
    client::{Client, frames},
    guarded,
    server::{ALL, Kind, Server, bind},
};
use http::Request;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tower_graceful::{Drain, Phase};

const QUIET: Duration = Duration::from_secs(1);
/// For so long, something new comes every tenth of [`QUIET`].
const BUSY: Duration = Duration::from_millis(1500);
/// Longer than anything here takes, but for a lame duck that does not end early.
const LAME_DUCK: Duration = Duration::from_secs(20);
const MUCH_LESS: Duration = Duration::from_secs(10);

fn quiet() -> Drain {
    let builder = Drain::builder().lame_duck(LAME_DUCK).quiet(QUIET);
    builder.timeout(2 * LAME_DUCK).build()
}

/// New connections with a request each, as from a proxy that has not heard of the stop.
#[tokio::test]
async fn i14_requests_keep_the_lame_duck_until_none_come() {
    for kind in ALL {
        let server = Server::start(kind, quiet()).await;
        let drain = server.drain.clone();
        let before = Client::connect(server.address).await;
        drain.begin();
        let begun = Instant::now();
        let mut last = begun;
        while begun.elapsed() < BUSY {
            assert_eq!(drain.phase(), Phase::LameDuck, "{kind:?}");
            last = Instant::now();
            let mut client = Client::connect(server.address).await;
            client.get("/").await;
            assert!(client.rest().await.ends_with("hello"), "{kind:?}");
            sleep(QUIET / 10).await;
        }
        drop(before);
        guarded(drain.reached(Phase::Draining)).await;
        assert!(last.elapsed() >= QUIET, "{kind:?}: {:?}", last.elapsed());
        assert!(begun.elapsed() < MUCH_LESS, "{kind:?}");
        let drained = server.drained().await;
        let connection = drained.last_connection.expect("some have come");
        let request = drained.last_request.expect("some have come");
        assert!(last - begun <= connection, "{kind:?}: {drained:?}");
        assert!(connection <= request, "{kind:?}: {drained:?}");
        assert!(request + QUIET <= drained.elapsed, "{kind:?}: {drained:?}");
    }
}

/// Connections on which no request has come yet.
#[tokio::test]
async fn i14_connections_keep_the_lame_duck() {
    for kind in ALL {
        let server = Server::start(kind, quiet()).await;
        let drain = server.drain.clone();
        let begun = Instant::now();
        drain.begin();
        while begun.elapsed() < BUSY {
            assert_eq!(drain.phase(), Phase::LameDuck, "{kind:?}");
            drop(Client::connect(server.address).await);
            sleep(QUIET / 10).await;
        }
        let drained = server.drained().await;
        assert!(drained.elapsed < MUCH_LESS, "{kind:?}: {drained:?}");
        let last = drained.last_connection.expect("some have come");
        assert!(last > QUIET, "{kind:?}: {drained:?}");
        assert_eq!(drained.last_request, None, "{kind:?}");
    }
}

/// On connections that were there before: a new one would be new.
#[tokio::test]
async fn i14_probes_do_not_keep_the_lame_duck() {
    fn probes<B>(request: &Request<B>) -> bool {
        request.uri().path() == "/"
    }
    for kind in ALL {
        let drain = quiet();
        let server = match kind {
            Kind::Serve => Server::serve(drain.clone(), |tcp, app| {
                tower_graceful::serve(tcp, app).exempt(probes)
            }),
            _ => {
                let layer = drain.layer().exempt(probes);
                Server::start_as(kind, drain.clone(), bind(), |app| app.layer(layer))
            }
        };
        let mut clients = Vec::new();
        for _ in 0..30 {
            let mut client = Client::connect(server.address).await;
            client.get("/").await;
            client.read_until("hello").await;
            clients.push(client);
        }
        let begun = Instant::now();
        drain.begin();
        for client in &mut clients {
            if drain.phase() > Phase::LameDuck {
                break;
            }
            client.get("/").await;
            client.end().await;
            sleep(QUIET / 10).await;
        }
        assert!(drain.phase() > Phase::LameDuck, "{kind:?}");
        assert!(begun.elapsed() >= QUIET, "{kind:?}");
        drop(clients);
        let drained = server.drained().await;
        assert_eq!(drained.last_request, None, "{kind:?}");
        assert_eq!(drained.last_connection, None, "{kind:?}");
    }
}

/// The peer keeps its connection until the GOAWAY.
#[tokio::test]
async fn i14_requests_on_one_http2_connection_are_new() {
    for kind in [Kind::Axum, Kind::Tonic2, Kind::Serve] {
        let server = Server::start(kind, quiet()).await;
        let drain = server.drain.clone();
        // `serve` has connections that were open before move, each at a random moment.
        let is_new = kind == Kind::Serve;
        if is_new {
            drain.begin();
        }
        let mut client = Client::connect(server.address).await;
        client.pongs = true;
        client.send(frames::hello()).await;
        client.send(frames::get(1, "/")).await;
        client.frame_of(frames::HEADERS).await;
        let begun = Instant::now();
        drain.begin();
        let mut stream = 3;
        while begun.elapsed() < BUSY {
            assert_eq!(drain.phase(), Phase::LameDuck, "{kind:?}");
            client.send(frames::get(stream, "/")).await;
            client.frame_of(frames::HEADERS).await;
            stream += 2;
            sleep(QUIET / 10).await;
        }
        while client.frame_or_end().await.is_some() {}
        let drained = server.drained().await;
        assert!(drained.elapsed < MUCH_LESS, "{kind:?}: {drained:?}");
        assert!(drained.last_request > Some(QUIET), "{kind:?}: {drained:?}");
        assert_eq!(drained.last_connection.is_some(), is_new, "{kind:?}");
    }
}
