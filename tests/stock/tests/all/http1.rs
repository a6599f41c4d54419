//! CONFORMANCE.md, section A, and what of the others is HTTP/1, on axum::serve and tonic.

use crate::{
    client::{Client, closes, get},
    guarded,
    server::{ALL, Kind, Server, bind},
};
use std::{
    future::Future,
    time::{Duration, Instant},
};
use tokio::{io::AsyncWriteExt, time::sleep};
use tower_graceful::{Drain, Phase};

/// Does it on each server.
async fn on_both<F: Future<Output = ()>>(case: impl Fn(Server) -> F) {
    for kind in ALL {
        println!("on {kind:?}");
        case(Server::start(kind, Drain::new()).await).await;
    }
}

/// A connection that has been served once.
async fn kept(server: &Server) -> Client {
    let mut client = Client::connect(server.address).await;
    client.get("/").await;
    let answer = client.read_until("hello").await;
    assert_eq!(closes(&answer), 0);
    client
}

#[tokio::test]
async fn a01_idle_connections_are_closed_with_a_fin() {
    on_both(async |server| {
        let mut idle = kept(&server).await;
        server.drain.begin();
        assert_eq!(idle.rest().await, "");
        let drained = server.drained().await;
        assert_eq!((drained.completed, drained.refused), (0, 0));
    })
    .await;
}

#[tokio::test]
async fn a02_silent_connections_have_their_grace_from_accept() {
    let grace = Duration::from_millis(600);
    for kind in ALL {
        let server = Server::start(kind, Drain::builder().grace(grace).build()).await;
        let mut old = Client::connect(server.address).await;
        sleep(grace).await;
        let young = Instant::now();
        let mut young_one = Client::connect(server.address).await;
        // It is accepted: the one after it was served.
        kept(&server).await;
        let began = Instant::now();
        server.drain.begin();
        assert_eq!(old.rest().await, "");
        let old_took = began.elapsed();
        assert!(young_one.is_open(), "{kind:?}");
        assert_eq!(young_one.rest().await, "");
        let age = young.elapsed();
        assert!(age >= grace, "{kind:?}: {age:?}");
        assert!(
            old_took < grace,
            "{kind:?}: at once, not after {old_took:?}"
        );
        server.drained().await;
    }
}

#[tokio::test]
async fn a03_a_first_request_inside_the_grace_is_served() {
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        kept(&server).await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        client.get("/").await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(closes(&answer), 1);
        assert_eq!(server.drained().await.refused, 0);
    })
    .await;
}

#[tokio::test]
async fn a04_a_first_request_half_sent_is_served() {
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        let request = get("/");
        client.send(&request[..20]).await;
        kept(&server).await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        sleep(Duration::from_millis(300)).await;
        client.send(&request[20..]).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(closes(&answer), 1);
        server.drained().await;
    })
    .await;
}

#[tokio::test]
async fn a04_a_second_request_half_sent_is_served() {
    on_both(async |server| {
        let mut client = kept(&server).await;
        let request = get("/");
        client.send(&request[..20]).await;
        kept(&server).await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        sleep(Duration::from_millis(300)).await;
        client.send(&request[20..]).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(closes(&answer), 1);
        server.drained().await;
    })
    .await;
}

/// The request is in the socket's buffer when the drain begins, and the server has not seen it: its
/// one thread is here.
#[tokio::test]
async fn a05_bytes_in_the_buffer_are_served() {
    on_both(async |server| {
        let mut clients = Vec::new();
        for _ in 0..20 {
            clients.push(kept(&server).await);
        }
        for client in &mut clients {
            let sent = client.stream.try_write(get("/").as_bytes());
            assert!(sent.is_ok());
        }
        server.drain.begin();
        for client in &mut clients {
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert_eq!(closes(&answer), 1);
        }
        server.drained().await;
    })
    .await;
}

/// The server reads its connections one after the other, and refuses none of their requests.
#[tokio::test]
async fn a05_a_busy_server_serves_all_that_is_in_its_buffers() {
    on_both(async |server| {
        let mut clients = Vec::new();
        for _ in 0..100 {
            clients.push(kept(&server).await);
        }
        for client in &mut clients {
            let sent = client.stream.try_write(get("/block/3").as_bytes());
            assert!(sent.is_ok());
        }
        server.drain.begin();
        for client in &mut clients {
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
        assert_eq!(server.drained().await.refused, 0);
    })
    .await;
}

/// A client that was quick, and is answered by a server that is slow to look.
#[tokio::test]
async fn a05_bytes_that_come_while_it_settles_are_served() {
    let settle = Duration::from_millis(300);
    for kind in ALL {
        let server = Server::start(kind, Drain::builder().settle(settle).build()).await;
        let mut client = kept(&server).await;
        server.drain.begin();
        sleep(settle / 3).await;
        client.get("/").await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(closes(&answer), 1);
        server.drained().await;
    }
}

#[tokio::test]
async fn a06_a_handler_that_runs_answers_with_close() {
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        client.get("/gate").await;
        server.at_the_gate().await;
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        server.shared.open.notify_one();
        let answer = client.rest().await;
        assert!(answer.ends_with("passed"), "{answer}");
        assert_eq!(closes(&answer), 1);
        server.drained().await;
    })
    .await;
}

#[tokio::test]
async fn a07_a_chunked_response_ends_with_its_trailers() {
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        let request = "GET /trailers HTTP/1.1\r\nhost: test\r\nte: trailers\r\n\r\n";
        client.send(request).await;
        server.at_the_gate().await;
        client.read_until("first\r\n").await;
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        server.shared.open.notify_one();
        let rest = client.rest().await;
        assert_eq!(rest, "4\r\nlast\r\n0\r\nx-sum: 7\r\n\r\n");
        server.drained().await;
    })
    .await;
}

#[tokio::test]
async fn a08_of_two_pipelined_requests_none_is_executed_unanswered() {
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        client.send(get("/gate") + &get("/")).await;
        server.at_the_gate().await;
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        server.shared.open.notify_one();
        let answers = client.rest().await;
        assert!(answers.contains("passed"), "{answers}");
        let answered = answers.matches("HTTP/1.1 200").count();
        assert_eq!(server.shared.handled(), answered, "{answers}");
        server.drained().await;
    })
    .await;
}

#[tokio::test]
async fn a09_http_1_0_is_not_kept_alive() {
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        client
            .send("GET /gate HTTP/1.0\r\nconnection: keep-alive\r\n\r\n")
            .await;
        server.at_the_gate().await;
        server.drain.begin();
        server.shared.open.notify_one();
        let answer = client.rest().await;
        assert!(answer.ends_with("passed"), "{answer}");
        assert!(!answer.to_lowercase().contains("keep-alive"), "{answer}");
        server.drained().await;
    })
    .await;
}

#[tokio::test]
async fn a10_an_upload_finishes() {
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        let head = "POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n";
        client.send(format!("{head}12345")).await;
        kept(&server).await;
        server.drain.begin();
        guarded(server.drain.shutdown_signal()).await;
        client.send("67890").await;
        let answer = client.rest().await;
        assert!(answer.ends_with("\r\n\r\n10"), "{answer}");
        assert_eq!(closes(&answer), 1);
        server.drained().await;
    })
    .await;
}

#[tokio::test]
async fn a11_expect_continue_is_continued_or_refused() {
    let request = "POST /upload HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\n";
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        client.send(format!("{request}content-length: 4\r\n")).await;
        kept(&server).await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        client.send("\r\n").await;
        assert!(client.head().await.starts_with("HTTP/1.1 100"));
        client.send("body").await;
        let answer = client.rest().await;
        assert!(answer.ends_with("\r\n\r\n4"), "{answer}");
        assert_eq!(closes(&answer), 1);
        server.drained().await;
    })
    .await;
    // Refused: see e39, which is why this one asks for an upgrade, too.
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        kept(&server).await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        let upgrade = "connection: upgrade\r\nupgrade: x\r\n";
        client
            .send(format!("{request}{upgrade}content-length: 4\r\n\r\n"))
            .await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert_eq!(closes(&answer), 1);
        server.drained().await;
    })
    .await;
}

/// Java's client and `curl --http2` offer h2c with each request, and take another answer.
#[tokio::test]
async fn a04_a_request_that_offers_h2c_is_like_any_other() {
    on_both(async |server| {
        let mut client = Client::connect(server.address).await;
        let (begin, rest) = ("GET / HTTP/1.1\r\nhost: test\r\n", "upgrade: h2c\r\n\r\n");
        client.send(begin).await;
        kept(&server).await;
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        client.send(rest).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server.drained().await;
    })
    .await;
}

#[tokio::test]
async fn a12_a_refused_upload_reads_its_refusal() {
    for kind in ALL {
        // The layer refuses what the connection side still lets through.
        let refusing = Drain::new();
        refusing.begin();
        let server = Server::start_with(kind, Drain::new(), Some(refusing.layer()), bind()).await;
        let mut client = Client::connect(server.address).await;
        let length = 5 << 20;
        let head =
            format!("POST /upload HTTP/1.1\r\nhost: test\r\ncontent-length: {length}\r\n\r\n");
        server.drain.begin();
        client.send(head).await;
        // Does not look up before all is written; then reads an answer and a FIN, not a reset.
        let body = vec![b'x'; length];
        let written = guarded(client.stream.write_all(&body)).await;
        written.expect("it listens to the end");
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert_eq!(closes(&answer), 1);
        assert_eq!(server.shared.handled(), 0);
        drop(client);
        server.drained().await;
    }
}

/// By default, hyper takes a half-closed connection for a client that has gone, and axum and tonic
/// keep that default. The drain does not change it.
#[tokio::test]
async fn a14_a_half_closed_connection_is_as_without_a_drain() {
    for kind in [Kind::Axum, Kind::Tonic] {
        for draining in [false, true] {
            let server = Server::start(kind, Drain::new()).await;
            let mut client = Client::connect(server.address).await;
            client.get("/gate").await;
            server.at_the_gate().await;
            if draining {
                server.drain.begin();
                guarded(server.drain.shutdown_signal()).await;
            }
            client.stream.shutdown().await.expect("open");
            assert_eq!(client.rest().await, "", "{kind:?} {draining}");
            server.drain.begin();
            server.drained().await;
        }
    }
}

#[tokio::test]
async fn b23_stress_what_is_answered_is_what_was_handled() {
    for round in 0..10 {
        let kind = ALL[round % ALL.len()];
        let server = Server::start(kind, Drain::new()).await;
        let (address, shared) = (server.address, server.shared.clone());
        let clients: Vec<_> = (0..16)
            .map(|_| {
                tokio::spawn(async move {
                    let mut answered = 0;
                    loop {
                        let Ok(mut client) = Client::try_connect(address).await else {
                            return answered;
                        };
                        loop {
                            client.get("/").await;
                            let answer = client.read_until("hello").await;
                            answered += 1;
                            if closes(&answer) == 1 {
                                break;
                            }
                        }
                    }
                })
            })
            .collect();
        while shared.handled() < 200 {
            tokio::task::yield_now().await;
        }
        server.drain.begin();
        let drained = server.drained().await;
        let mut answered = 0;
        for client in clients {
            answered += guarded(client).await.expect("nothing was lost");
        }
        assert_eq!(answered, shared.handled());
        assert_eq!(drained.refused, 0);
    }
}

#[tokio::test]
async fn h59_a_busy_connection_closes_after_its_response() {
    on_both(async |server| {
        let mut client = kept(&server).await;
        server.drain.begin();
        let mut answers = 0;
        // As fast as it can, for as long as it is let.
        loop {
            client.get("/").await;
            answers += 1;
            if closes(&client.read_until("hello").await) == 1 {
                break;
            }
        }
        assert_eq!(answers, 1);
        assert_eq!(client.rest().await, "");
        server.drained().await;
    })
    .await;
}

#[tokio::test]
async fn f45_done_means_written() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let mut client = Client::connect(server.address).await;
        client.get("/big").await;
        client.head().await;
        server.drain.begin();
        let drain = server.drain.clone();
        guarded(drain.reached(Phase::Draining)).await;
        // Nothing is in flight once hyper has buffered the end; the connection is still there.
        assert!(drain.left().connections() == 1);
        let read = tokio::spawn(async move { client.rest().await.len() });
        server.drained().await;
        // All that the server had to do is done: what is left of it may go.
        let chunks = crate::server::BIG >> 16;
        let framing = chunks * "10000\r\n\r\n".len() + "0\r\n\r\n".len();
        assert_eq!(
            guarded(read).await.expect("all of it"),
            crate::server::BIG + framing
        );
    }
}

#[test]
fn f45_the_process_may_exit_when_the_waiter_returns() {
    for kind in ALL {
        // The runtime goes with everything in it the moment the waiter has returned.
        let (send, receive) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let clients = tokio::runtime::Runtime::new().expect("a runtime");
        let server = runtime.block_on(Server::start(kind, Drain::new()));
        let address = server.address;
        clients.spawn(async move {
            let mut client = Client::connect(address).await;
            client.get("/big").await;
            client.head().await;
            send.send(None).expect("the test waits");
            // Slower than the server.
            sleep(Duration::from_millis(300)).await;
            send.send(Some(client.rest().await.len()))
                .expect("the test waits");
        });
        assert_eq!(receive.recv(), Ok(None));
        runtime.block_on(async {
            server.drain.begin();
            server.drained().await
        });
        runtime.shutdown_background();
        assert!(receive.recv().expect("the client ends").expect("a length") > crate::server::BIG);
    }
}
