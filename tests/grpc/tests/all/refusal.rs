//! What comes too late: the drain has begun, a call in flight holds it, and a new one comes.

use crate::{
    gate::{Text, text},
    python::Python,
    server::{Running, that_stays},
    soon,
    wire::{Frame, Wire},
};
use futures_util::{StreamExt, stream};
use prost::Message;
use std::future::poll_fn;
use tokio::task::JoinHandle;
use tonic::{Code, Response, Status, transport::Error};
use tower_graceful::{Drain, Phase};

const MESSAGE: &str = "the server is shutting down";

type Server = Running<Result<(), Error>>;

/// A call that was there before the drain.
struct Held(JoinHandle<Result<Response<Text>, Status>>);

async fn draining() -> (Server, Held) {
    let server = that_stays(Drain::new()).await;
    let mut client = server.gate_client().await;
    let held = tokio::spawn(async move { client.hold(text("held")).await });
    server.gate.entered().await;
    server.drain.begin();
    assert_eq!(server.drain.phase(), Phase::Draining);
    (server, Held(held))
}

impl Held {
    /// Lets it go: it has not been disturbed, and the refused ones have been counted.
    async fn finish(self, server: Server, refused: u64) {
        assert_eq!(server.drain.in_flight(), 1);
        server.gate.let_go();
        let response = soon("the held call", self.0).await.unwrap().expect("OK");
        assert_eq!(response.into_inner(), text("held"));
        let drained = soon("the drain", server.drain.wait()).await.unwrap();
        assert_eq!((drained.completed, drained.refused), (1, refused));
    }
}

#[tokio::test]
async fn d34_refusal_is_unavailable() {
    let (server, held) = draining().await;
    let mut client = server.gate_client().await;

    let status = soon("the refusal", client.hold(text("late")))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, MESSAGE)
    );

    let stream = soon("the refusal", client.listen(text("late"))).await;
    let status = stream.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, MESSAGE)
    );

    held.finish(server, 2).await;
}

#[tokio::test]
async fn d34_refusal_is_unavailable_in_the_middle_of_an_upload() {
    let (server, held) = draining().await;
    let mut client = server.gate_client().await;

    let endless = stream::iter([text("late")]).chain(stream::pending());
    let status = soon("the refusal", client.upload(endless))
        .await
        .unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, MESSAGE)
    );

    held.finish(server, 1).await;
}

#[tokio::test]
async fn d34_refusal_is_unavailable_python() {
    let Some(python) = Python::with_grpcio("d34, Python client") else {
        return;
    };
    let (server, held) = draining().await;
    let late = text("late").encode_to_vec();
    let calls = [
        ("/gate.Gate/Hold", "unary"),
        ("/gate.Gate/Listen", "server-stream"),
        ("/gate.Gate/Upload", "client-stream"),
    ];
    for (method, kind) in calls {
        let call = python.call(server.address, method, kind, &late);
        let said = call.finish().await;
        // hyper's `Date` among the trailers: grpcio has taken the one HEADERS frame for them.
        let [date, status] = said.as_slice() else {
            panic!("{kind}: {said:?}");
        };
        assert!(date.starts_with("trailer date="), "{kind}: {date}");
        assert_eq!(*status, format!("status UNAVAILABLE {MESSAGE}"), "{kind}");
    }
    held.finish(server, 3).await;
}

#[tokio::test]
async fn d34_refusal_is_trailers_only() {
    let (server, held) = draining().await;
    let mut client = Wire::connect(server.address).await;

    let (response, sender) = client
        .post("/gate.Gate/Hold", "application/grpc", Some(&[0; 5]))
        .await;
    let refusal = soon("the refusal", response).await.unwrap();
    assert_eq!(refusal.status(), 200);
    assert_eq!(refusal.headers()["content-type"], "application/grpc");
    assert_eq!(refusal.headers()["grpc-status"], "14");
    assert_eq!(refusal.headers()["grpc-message"], MESSAGE);

    // Not gRPC, on the same connection: and when it is answered, all of the first answer is here.
    let (response, _) = client
        .post("/gate.Gate/Hold", "application/json", Some(b"{}"))
        .await;
    let json = soon("the refusal", response).await.unwrap();
    assert_eq!(json.status(), 503);
    assert_eq!(json.headers()["retry-after"], "1");
    assert!(!json.headers().contains_key("grpc-status"));
    assert!(!json.headers().contains_key("connection"));

    assert_eq!(
        client.frames(sender.stream_id()),
        [Frame::Headers { end_stream: true }]
    );
    held.finish(server, 2).await;
}

/// The client also gets a RST_STREAM with NO_ERROR, to stop sending without losing the answer
/// ([RFC 9113 8.1](https://www.rfc-editor.org/rfc/rfc9113#section-8.1)).
#[tokio::test]
async fn d34_refusal_stops_an_upload_without_an_error() {
    let (server, held) = draining().await;
    let mut client = Wire::connect(server.address).await;

    let (response, mut sender) = client
        .post("/gate.Gate/Upload", "application/grpc", None)
        .await;
    let refusal = soon("the refusal", response).await.unwrap();
    assert_eq!(refusal.headers()["grpc-status"], "14");
    let reason = soon("the reset", poll_fn(|cx| sender.poll_reset(cx))).await;
    assert_eq!(reason.unwrap(), h2::Reason::NO_ERROR);
    assert_eq!(
        client.frames(sender.stream_id()),
        [
            Frame::Headers { end_stream: true },
            Frame::Reset { code: 0 },
        ]
    );

    held.finish(server, 1).await;
}
