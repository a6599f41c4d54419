//! Event streams, of which the drain ends some and waits for others.

use crate::{
    client::Client,
    guarded,
    server::{ALL, Server, bind},
};
use axum::{
    Extension,
    body::Body,
    http::header::CONTENT_TYPE,
    middleware::map_response,
    response::{IntoResponse, Response},
    routing::get,
};
use futures_util::{StreamExt, stream};
use std::{convert::Infallible, future::ready, sync::Arc, time::Duration};
use tokio::sync::Notify;
use tower_graceful::{Drain, Phase, stream::Finite};

/// A first event at once, and a last one when the gate is opened.
fn events(gate: Arc<Notify>) -> Response {
    let last = async move {
        gate.notified().await;
        "data: last\n\n"
    };
    let events = stream::iter(["data: first\n\n"]).chain(stream::once(last));
    let body = Body::from_stream(events.map(Ok::<_, Infallible>));
    ([(CONTENT_TYPE, "text/event-stream")], body).into_response()
}

#[tokio::test]
async fn i14_a_stream_that_must_finish_is_waited_for_and_others_end() {
    for kind in ALL {
        let drain = Drain::builder().timeout(Duration::from_secs(20)).build();
        let gate = Arc::new(Notify::new());
        let (ends, opens) = (drain.clone(), gate.clone());
        let layer = drain.layer();
        let server = Server::start_as(kind, drain.clone(), bind(), |app| {
            let endless = Arc::new(Notify::new());
            app.route("/prices", get(async || events(endless)))
                .route("/tokens", get(async || (Extension(Finite), events(gate))))
                .layer(map_response(move |response: Response| {
                    ready(ends.end_response(response))
                }))
                .layer(layer)
        });
        let mut clients = Vec::new();
        for path in ["/prices", "/tokens"] {
            let mut client = Client::connect(server.address).await;
            client.get(path).await;
            client.read_until("data: first\n\n\r\n").await;
            clients.push(client);
        }
        drain.begin();
        guarded(drain.reached(Phase::Draining)).await;
        assert_eq!(clients[0].rest().await, "0\r\n\r\n", "{kind:?}");
        assert!(clients[1].is_open(), "{kind:?}");
        assert_eq!(drain.left().requests, 1, "{kind:?}");
        opens.notify_one();
        let rest = clients[1].rest().await;
        assert_eq!(rest, "C\r\ndata: last\n\n\r\n0\r\n\r\n", "{kind:?}");
        assert_eq!(server.drained().await.completed, 2, "{kind:?}");
    }
}
