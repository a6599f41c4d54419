//! CONFORMANCE.md, section C, on axum::serve and tonic.

use crate::{
    client::{
        Client,
        frames::{self, GOAWAY, PING, SETTINGS},
    },
    guarded,
    server::{Kind, Server},
};
use bytes::Bytes;
use std::time::{Duration, Instant};
use tokio::time::sleep;
use tower_graceful::{Drain, Phase, RunError, report::ConnectionState};

const ALL: [Kind; 3] = [Kind::Axum, Kind::Tonic2, Kind::Serve];
const NO_ERROR: u32 = 0;
const MAX_STREAM: u32 = (1 << 31) - 1;

impl Client {
    /// A connection whose settings were exchanged.
    async fn http2(server: &Server) -> Self {
        let mut client = Self::connect(server.address).await;
        client.send(frames::hello()).await;
        client.frame_of(SETTINGS).await;
        client
            .send(frames::frame(SETTINGS, frames::ACK, 0, &[]))
            .await;
        client
    }

    /// All of that stream up to its end: how many frames, and the DATA in it.
    async fn answer(&mut self, stream: u32) -> String {
        let mut data = Vec::new();
        loop {
            let frame = self.frame().await.expect("an open connection");
            if frame.stream != stream {
                continue;
            }
            assert_ne!(frame.kind, frames::RST_STREAM, "{frame:?}");
            if frame.kind == frames::DATA {
                data.extend(&frame.payload);
            }
            if frame.flags & frames::END_STREAM != 0 {
                return String::from_utf8(data).expect("text");
            }
        }
    }
}

/// The response has ended. A task of the server's still reads the request, which does not end.
#[tokio::test]
async fn c24_a_request_that_goes_on_after_its_response_is_not_waited_for() {
    let ends = async |kind: Kind| {
        let drain = Drain::builder().timeout(Duration::from_secs(3600)).build();
        let server = Server::start(kind, drain).await;
        let mut client = Client::http2(&server).await;
        client.send(frames::post(1, "/keeps")).await;
        assert_eq!(client.answer(1).await, "hello");
        server.drain.begin();
        client.pongs = true;
        while client.frame().await.is_some() {}
        assert_eq!(client.goaways.len(), 2, "{kind:?}");
        server.drained().await;
    };
    tokio::join!(ends(Kind::Axum), ends(Kind::Tonic2), ends(Kind::Serve));
}

#[tokio::test]
async fn c24_idle_connections_part_in_two_steps() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::http2(&server).await;
        client.send(frames::get(1, "/")).await;
        assert_eq!(client.answer(1).await, "hello");
        server.drain.begin();
        client.pongs = true;
        while client.frame().await.is_some() {}
        let goaways = [(MAX_STREAM, NO_ERROR), (1, NO_ERROR)];
        assert_eq!(client.goaways, goaways, "{kind:?}");
        server.drained().await;
    }
}

#[tokio::test]
async fn c25_a_stream_between_the_two_goaways_is_served() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::http2(&server).await;
        server.drain.begin();
        client.frame_of(GOAWAY).await;
        // `serve` does not wait for others to settle.
        let expected = match kind {
            Kind::Serve => Phase::LameDuck,
            _ => Phase::Draining,
        };
        assert_eq!(server.drain.phase(), expected);
        client.send(frames::get(1, "/")).await;
        assert_eq!(client.answer(1).await, "hello");
        // The PING came with the GOAWAY, before the answer, and is answered only now.
        let ping = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
        client
            .send(frames::frame(PING, frames::ACK, 0, &ping))
            .await;
        while client.frame().await.is_some() {}
        assert_eq!(client.goaways, [(MAX_STREAM, NO_ERROR), (1, NO_ERROR)]);
        let drained = server.drained().await;
        assert_eq!((drained.completed, drained.refused), (1, 0), "{kind:?}");
    }
}

#[tokio::test]
async fn c26_a_client_that_answers_no_ping_is_closed() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::http2(&server).await;
        let began = Instant::now();
        server.drain.begin();
        client.frame_of(GOAWAY).await;
        // With a stream it is left alone.
        client.send(frames::get(1, "/gate")).await;
        server.at_the_gate().await;
        sleep(Duration::from_secs(6)).await;
        server.shared.open.notify_one();
        assert_eq!(client.answer(1).await, "passed");
        client.end().await;
        let drained = server.drained().await;
        // Five seconds after its end.
        assert!(drained.elapsed < Duration::from_secs(15), "{drained}");
        assert!(began.elapsed() >= Duration::from_secs(6));
    }
}

#[tokio::test]
async fn c26_an_idle_client_that_answers_no_ping_is_closed() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::http2(&server).await;
        server.drain.begin();
        client.frame_of(GOAWAY).await;
        client.end().await;
        let drained = server.drained().await;
        let five = Duration::from_secs(5);
        assert!(drained.elapsed >= five, "{kind:?}: {drained}");
        assert!(drained.elapsed < five * 2, "{kind:?}: {drained}");
    }
}

#[tokio::test]
async fn c27_a_preface_or_settings_that_never_come() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut silent = Client::connect(server.address).await;
        let mut half = Client::connect(server.address).await;
        half.send(&frames::PREFACE[..10]).await;
        let mut no_settings = Client::connect(server.address).await;
        no_settings.send(frames::PREFACE).await;
        no_settings.frame_of(SETTINGS).await;
        server.drain.begin();
        silent.end().await;
        half.end().await;
        no_settings.end().await;
        let drained = server.drained().await;
        assert!(drained.elapsed >= Duration::from_secs(5), "{drained}");
        assert!(
            drained.elapsed < Duration::from_secs(12),
            "{kind:?}: {drained}"
        );
    }
}

#[tokio::test]
async fn c28_becomes_http2_after_the_drain_began() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::connect(server.address).await;
        let mut second = Client::connect(server.address).await;
        Client::http2(&server).await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        for client in [&mut client, &mut second] {
            client.pongs = true;
            client.send(frames::hello()).await;
        }
        client.send(frames::get(1, "/")).await;
        assert_eq!(client.answer(1).await, "hello");
        // The other connection has no requests.
        for (client, last) in [(&mut client, 1), (&mut second, 0)] {
            while client.frame().await.is_some() {}
            assert_eq!(client.goaways, [(MAX_STREAM, NO_ERROR), (last, NO_ERROR)]);
        }
        let drained = server.drained().await;
        assert_eq!(drained.refused, 0, "{kind:?}");
        assert!(
            drained.elapsed < Duration::from_secs(4),
            "{kind:?}: {drained}"
        );
    }
}

#[tokio::test]
async fn c29_streams_in_flight_complete_with_their_trailers() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let socket = tokio::net::TcpStream::connect(server.address)
            .await
            .expect("it listens");
        let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        let mut client = guarded(client.ready()).await.expect("open");
        let request = http::Request::get("http://test/trailers")
            .body(())
            .expect("legal");
        let (response, _) = client.send_request(request, true).expect("a free stream");
        let mut body = guarded(response).await.expect("a head").into_body();
        assert_eq!(
            body.data().await.expect("a chunk").expect("a chunk"),
            Bytes::from("first")
        );
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        server.shared.open.notify_one();
        assert_eq!(
            body.data().await.expect("a chunk").expect("a chunk"),
            Bytes::from("last")
        );
        assert!(body.data().await.is_none());
        let trailers = guarded(body.trailers()).await.expect("well").expect("some");
        assert_eq!(trailers["x-sum"], "7");
        drop((client, body));
        guarded(connection)
            .await
            .expect("no panic")
            .expect("a clean end");
        server.drained().await;
    }
}

/// The server has written all of the response to the kernel. The client reads, and still sends
/// frames: a closed socket would answer them with a reset, and destroy the rest.
#[tokio::test]
async fn c29_the_end_of_a_response_outlives_the_close() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(16 << 10).expect("possible");
        let stream = guarded(socket.connect(server.address)).await;
        let mut client = Client::over(stream.expect("it listens"));
        let huge = ((1u32 << 31) - 1).to_be_bytes();
        let window = [&[0, 4][..], &huge].concat();
        client.send(frames::PREFACE).await;
        client.send(frames::frame(SETTINGS, 0, 0, &window)).await;
        let more = ((1u32 << 31) - (1 << 16)).to_be_bytes();
        let update = frames::frame(frames::WINDOW_UPDATE, 0, 0, &more);
        client.send(update).await;
        client.send(frames::get(1, "/megabyte")).await;
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        sleep(Duration::from_millis(100)).await;
        // Unread: the PING is in there, too.
        let ping = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
        client
            .send(frames::frame(PING, frames::ACK, 0, &ping))
            .await;
        let mut data = 0;
        while let Some(frame) = client.frame().await {
            if frame.kind == frames::DATA {
                data += frame.payload.len();
                let read = (frame.payload.len().max(1) as u32).to_be_bytes();
                let update = frames::frame(frames::WINDOW_UPDATE, 0, 0, &read);
                client.send(update).await;
                sleep(Duration::from_millis(2)).await;
            }
        }
        assert_eq!(data, crate::server::MEGABYTE, "{kind:?}");
        drop(client);
        server.drained().await;
    }
}

#[tokio::test]
async fn c30_what_is_cut_is_never_said_to_be_unprocessed() {
    for kind in ALL {
        let timeout = Duration::from_millis(500);
        let server = Server::start(kind, Drain::builder().timeout(timeout).build()).await;
        let mut client = Client::http2(&server).await;
        client.send(frames::get(1, "/gate")).await;
        server.at_the_gate().await;
        server.drain.begin();
        let mut last = MAX_STREAM;
        // To the end, whatever that is: a reset, a FIN, a RST_STREAM of another kind.
        while let Some(frame) = client.frame_or_end().await {
            const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
            let refused = frame.kind == frames::RST_STREAM && frame.payload == REFUSED_STREAM;
            assert!(!refused, "{kind:?}");
            if frame.kind == GOAWAY {
                last = frame.goaway().0;
            }
        }
        // Nor is it by a GOAWAY that leaves it out.
        assert!(last >= 1, "{kind:?}: {last}");
        let Err(RunError::Timeout(outcome)) = server.outcome().await else {
            panic!("{kind:?}: nothing was cut");
        };
        assert_eq!(
            outcome
                .report()
                .left
                .connections_in(ConnectionState::Handling),
            1
        );
    }
}
