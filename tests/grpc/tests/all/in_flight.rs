//! What is in flight when the drain comes.

use crate::{
    gate::{FAREWELL, text},
    python::Python,
    server::{KINDS, that_stops},
    soon,
    wire::{Frame, Wire},
};
use prost::Message;
use tonic::Code;
use tower_graceful::{Drain, Phase};

#[tokio::test]
async fn d32_unary_in_flight_finishes_with_trailers() {
    for kind in KINDS {
        let server = that_stops(kind, Drain::new()).await;
        let (drain, gate) = (server.drain.clone(), server.gate.clone());
        let mut client = server.gate_client().await;
        let call = tokio::spawn(async move { client.hold(text("hello")).await });
        gate.entered().await;

        let server = server.signal(Phase::Draining).await;
        assert_eq!(drain.in_flight(), 1);
        gate.let_go();

        let response = soon("the answer", call).await.unwrap().expect("OK");
        // tonic hands out trailers beside the headers.
        assert_eq!(response.metadata().get("grpc-status").unwrap(), "0");
        assert_eq!(response.into_inner(), text("hello"));
        let drained = server.outcome().await.expect("nothing is cut");
        assert_eq!((drained.completed, drained.refused), (1, 0));
    }
}

#[tokio::test]
async fn d32_unary_in_flight_finishes_with_trailers_on_the_wire() {
    for kind in KINDS {
        let server = that_stops(kind, Drain::new()).await;
        let gate = server.gate.clone();
        let mut client = Wire::connect(server.address).await;
        // A gRPC message of its own: not compressed, of no bytes.
        let (response, sender) = client
            .post("/gate.Gate/Hold", "application/grpc", Some(&[0; 5]))
            .await;
        let stream = sender.stream_id();
        gate.entered().await;

        let server = server.signal(Phase::Draining).await;
        gate.let_go();

        let mut body = soon("the head", response).await.unwrap().into_body();
        assert_eq!(
            soon("the body", body.data()).await.unwrap().unwrap(),
            [0; 5][..]
        );
        assert!(soon("the end of the body", body.data()).await.is_none());
        let trailers = soon("the trailers", body.trailers()).await.unwrap();
        assert_eq!(trailers.expect("trailers")["grpc-status"], "0");
        assert_eq!(
            client.frames(stream),
            [
                Frame::Headers { end_stream: false },
                Frame::Data { end_stream: false },
                Frame::Headers { end_stream: true },
            ]
        );
        let _ = server.outcome().await.expect("nothing is cut");
    }
}

#[tokio::test]
async fn d32_unary_in_flight_finishes_with_trailers_python() {
    for kind in KINDS {
        let Some(python) = Python::with_grpcio("d32, Python client") else {
            return;
        };
        let server = that_stops(kind, Drain::new()).await;
        let (drain, gate) = (server.drain.clone(), server.gate.clone());
        let hello = text("hello").encode_to_vec();
        let call = python.call(server.address, "/gate.Gate/Hold", "unary", &hello);
        gate.entered().await;

        let server = server.signal(Phase::Draining).await;
        assert_eq!(drain.in_flight(), 1);
        gate.let_go();

        // Without trailers, grpcio's status would be UNKNOWN or INTERNAL.
        assert_eq!(
            call.finish().await,
            ["message 0a0568656c6c6f", "status OK "]
        );
        let drained = server.outcome().await.expect("nothing is cut");
        assert_eq!((drained.completed, drained.refused), (1, 0));
    }
}

/// The answer at the deadline is a 503 of HTTP. Clients of gRPC take it for UNAVAILABLE.
#[tokio::test]
async fn a_call_without_a_response_is_unavailable_at_the_deadline() {
    for kind in KINDS {
        let server = that_stops(kind, Drain::new()).await;
        let (drain, gate) = (server.drain.clone(), server.gate.clone());
        let mut client = server.gate_client().await;
        let call = tokio::spawn(async move { client.hold(text("hello")).await });
        gate.entered().await;
        drain.force();
        let status = soon("the answer", call).await.unwrap().expect_err("forced");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let _ = soon("the end", drain.wait()).await.expect_err("forced");
    }
}

#[tokio::test]
async fn a_call_without_a_response_is_unavailable_at_the_deadline_python() {
    for kind in KINDS {
        let Some(python) = Python::with_grpcio("the deadline, Python client") else {
            return;
        };
        let server = that_stops(kind, Drain::new()).await;
        let (drain, gate) = (server.drain.clone(), server.gate.clone());
        let hello = text("hello").encode_to_vec();
        let call = python.call(server.address, "/gate.Gate/Hold", "unary", &hello);
        gate.entered().await;
        drain.force();
        let lines = call.finish().await;
        let status = lines.last().expect("a status");
        assert!(status.starts_with("status UNAVAILABLE "), "{lines:?}");
        let _ = soon("the end", drain.wait()).await.expect_err("forced");
    }
}

#[tokio::test]
async fn d33_stream_that_listens_ends_with_its_own_status() {
    for kind in KINDS {
        let server = that_stops(kind, Drain::new()).await;
        let mut client = server.gate_client().await;
        let mut stream = client.listen(text("hello")).await.unwrap().into_inner();
        let first = soon("the first message", stream.message()).await.unwrap();
        assert_eq!(first, Some(text("hello")));

        let server = server.signal(Phase::Draining).await;

        let status = soon("the status", stream.message()).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(status.message(), FAREWELL);
        assert_eq!(status.metadata().get("go-on-at").unwrap(), "42");
        let drained = server.outcome().await.expect("nothing is cut");
        assert_eq!((drained.completed, drained.refused), (1, 0));
    }
}

#[tokio::test]
async fn d33_stream_that_listens_ends_with_its_own_status_python() {
    for kind in KINDS {
        let Some(python) = Python::with_grpcio("d33, Python client") else {
            return;
        };
        let server = that_stops(kind, Drain::new()).await;
        let hello = text("hello").encode_to_vec();
        let mut call = python.call(server.address, "/gate.Gate/Listen", "server-stream", &hello);
        assert_eq!(call.line().await.unwrap(), "message 0a0568656c6c6f");

        let server = server.signal(Phase::Draining).await;

        assert_eq!(
            call.finish().await,
            [
                "trailer go-on-at=42".to_owned(),
                format!("status UNAVAILABLE {FAREWELL}"),
            ]
        );
        let _ = server.outcome().await.expect("nothing is cut");
    }
}
