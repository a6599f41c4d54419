//! The health service, wired as in `examples/tonic`: `Drain::grpc_health`.

use crate::{
    gate::{gate_client::GateClient, text},
    python::Python,
    server::{KINDS, NAMES, connect, that_stays, that_stops},
    soon,
};
use prost::Message;
use std::time::Duration;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::ServingStatus::Serving;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
    health_client::HealthClient,
};
use tower_graceful::{Drain, Phase};

type Health = HealthClient<Channel>;
type Watch = Streaming<HealthCheckResponse>;

fn about(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.into(),
    }
}

async fn check(health: &mut Health, service: &str) -> ServingStatus {
    let response = soon("the probe", health.check(about(service))).await;
    response.expect("an answer").into_inner().status()
}

async fn watch(health: &mut Health, service: &str) -> Watch {
    health.watch(about(service)).await.unwrap().into_inner()
}

/// Returns the next status; `None` when the watch has ended without an error.
async fn update(watch: &mut Watch) -> Option<ServingStatus> {
    let update = soon("the update", watch.message()).await;
    update.unwrap().map(|update| update.status())
}

#[tokio::test]
async fn d35_not_serving_from_lame_duck_on() {
    for kind in KINDS {
        let for_long = Duration::from_secs(3600);
        let drain = Drain::builder().lame_duck(for_long).timeout(2 * for_long);
        let server = that_stops(kind, drain.build()).await;
        let (address, drain, gate) = (server.address, server.drain.clone(), server.gate.clone());
        let mut health = server.health_client().await;
        let mut watches = Vec::new();
        for name in NAMES {
            assert_eq!(check(&mut health, name).await, ServingStatus::Serving);
            let mut watch = watch(&mut health, name).await;
            assert_eq!(update(&mut watch).await, Some(ServingStatus::Serving));
            watches.push(watch);
        }

        let _server = server.signal(Phase::LameDuck).await;

        for watch in &mut watches {
            assert_eq!(update(watch).await, Some(ServingStatus::NotServing));
        }
        // Also on a new connection: a lame duck still serves everything.
        let late = connect(address).await;
        let mut late_health = HealthClient::new(late.clone());
        for name in NAMES {
            assert_eq!(check(&mut health, name).await, ServingStatus::NotServing);
            assert_eq!(
                check(&mut late_health, name).await,
                ServingStatus::NotServing
            );
        }
        gate.let_go();
        let mut late_gate = GateClient::new(late);
        let response = soon("the answer", late_gate.hold(text("late"))).await;
        assert_eq!(response.unwrap().into_inner(), text("late"));
        assert_eq!(drain.phase(), Phase::LameDuck);
    }
}

#[tokio::test]
async fn d35_watch_gets_the_update_then_ends() {
    for kind in KINDS {
        let server = that_stops(kind, Drain::new()).await;
        let mut health = server.health_client().await;
        let mut watches = Vec::new();
        for name in NAMES {
            let mut watch = watch(&mut health, name).await;
            assert_eq!(update(&mut watch).await, Some(ServingStatus::Serving));
            watches.push(watch);
        }

        let server = server.signal(Phase::Draining).await;

        for watch in &mut watches {
            assert_eq!(update(watch).await, Some(ServingStatus::NotServing));
            assert_eq!(update(watch).await, None);
        }
        // Nothing holds the drain now.
        let drained = server.outcome().await.expect("nothing is cut");
        assert_eq!((drained.completed, drained.refused), (2, 0));
    }
}

#[tokio::test]
async fn d35_probes_are_answered_while_calls_are_refused() {
    let server = that_stays(Drain::new()).await;
    let mut held = server.gate_client().await;
    let held = tokio::spawn(async move { held.hold(text("held")).await });
    server.gate.entered().await;
    let mut health = server.health_client().await;
    // The last one to be updated: when it has ended, all have been.
    let mut watch_before = watch(&mut health, NAMES[NAMES.len() - 1]).await;
    assert_eq!(
        update(&mut watch_before).await,
        Some(ServingStatus::Serving)
    );

    server.drain.begin();
    assert_eq!(
        update(&mut watch_before).await,
        Some(ServingStatus::NotServing)
    );
    assert_eq!(update(&mut watch_before).await, None);

    for name in NAMES {
        assert_eq!(check(&mut health, name).await, ServingStatus::NotServing);
    }
    let mut client = server.gate_client().await;
    let refused = soon("the refusal", client.hold(text("late"))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
    let refused = soon("the refusal", health.watch(about(""))).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);

    server.gate.let_go();
    let answered = soon("the held call", held).await.unwrap();
    assert!(answered.is_ok());
    let drained = soon("the drain", server.drain.wait()).await.unwrap();
    // The probes are not in it.
    assert_eq!((drained.completed, drained.refused), (2, 2));
}

#[tokio::test]
async fn d35_probes_are_answered_python() {
    let Some(python) = Python::with_grpcio("d35, Python client") else {
        return;
    };
    let server = that_stays(Drain::new()).await;
    let mut held = server.gate_client().await;
    tokio::spawn(async move { held.hold(text("held")).await });
    server.gate.entered().await;
    let mut watch = python.call(
        server.address,
        "/grpc.health.v1.Health/Watch",
        "server-stream",
        &about("gate.Gate").encode_to_vec(),
    );
    assert_eq!(watch.line().await.unwrap(), "message 0801");

    server.drain.begin();

    assert_eq!(watch.finish().await, ["message 0802", "status OK "]);
    let probe = python.call(
        server.address,
        "/grpc.health.v1.Health/Check",
        "unary",
        &about("gate.Gate").encode_to_vec(),
    );
    assert_eq!(probe.finish().await, ["message 0802", "status OK "]);
}

/// What `grpc_health_probe` makes its exit codes of: 0 for SERVING, 4 for any other answer, 3 for
/// an error of the call, 2 for a connection that does not come about.
#[tokio::test]
async fn d35_as_a_probe_sees_it_python() {
    let Some(python) = Python::with_grpcio("d35, Python as a probe") else {
        return;
    };
    for kind in KINDS {
        let for_long = Duration::from_secs(3600);
        let drain = Drain::builder().lame_duck(for_long).timeout(2 * for_long);
        let server = that_stops(kind, drain.build()).await;
        let (address, drain) = (server.address, server.drain.clone());
        let probe = async |service: &str| {
            let call = python.call(
                address,
                "/grpc.health.v1.Health/Check",
                "unary",
                &about(service).encode_to_vec(),
            );
            call.finish().await
        };
        for name in NAMES {
            assert_eq!(probe(name).await, ["message 0801", "status OK "]);
        }
        let unknown = probe("no.such.Service").await.pop();
        assert_eq!(
            unknown.as_deref(),
            Some("status NOT_FOUND service not registered")
        );

        let server = server.signal(Phase::LameDuck).await;
        for name in NAMES {
            assert_eq!(probe(name).await, ["message 0802", "status OK "]);
        }
        let unknown = probe("no.such.Service").await.pop();
        assert_eq!(
            unknown.as_deref(),
            Some("status NOT_FOUND service not registered")
        );

        drain.force();
        server.outcome().await.expect("nothing is cut");
        let gone = probe("").await.pop().expect("a status");
        assert!(gone.starts_with("status UNAVAILABLE "), "{gone}");
    }
}

/// A watch that begins after the drain gets NOT_SERVING, and later updates of the reporter are
/// ignored.
#[tokio::test]
async fn d35_a_late_watch_follows_the_drain() {
    for kind in KINDS {
        let for_long = Duration::from_secs(3600);
        let drain = Drain::builder().lame_duck(for_long).timeout(2 * for_long);
        let server = that_stops(kind, drain.build()).await;
        let health = server.health.clone();
        let mut client = server.health_client().await;
        let mut early = watch(&mut client, "").await;
        assert_eq!(update(&mut early).await, Some(ServingStatus::Serving));

        let _server = server.signal(Phase::LameDuck).await;
        assert_eq!(update(&mut early).await, Some(ServingStatus::NotServing));
        health.set_service_status("", Serving).await;
        assert_eq!(check(&mut client, "").await, ServingStatus::NotServing);
        let mut late = watch(&mut client, "").await;
        assert_eq!(update(&mut late).await, Some(ServingStatus::NotServing));
    }
}
