//! The end of listening: CONFORMANCE.md, section B, and h60.

use crate::{
    client::{Client, closes, get},
    guarded,
    server::{ALL, Kind, Server, Shared, app, bind},
};
use axum::Router;
use cpu_time::ProcessTime;
use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    time::Duration,
};
use tokio::net::TcpListener;
use tower_graceful::{Drain, Phase, Serve};

/// Connects without the runtime's help, with an end to each read: no runtime's timeout ends it.
fn connect(address: SocketAddr) -> std::io::Result<std::net::TcpStream> {
    let stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(crate::GUARD))?;
    Ok(stream)
}

/// Connects and sends a request without the runtime, so that the connection is not accepted yet.
fn queued(address: SocketAddr) -> std::net::TcpStream {
    let mut stream = connect(address).expect("it listens");
    stream
        .write_all(get("/").as_bytes())
        .expect("room in the buffer");
    stream
}

fn answer(mut stream: std::net::TcpStream) -> String {
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("a FIN, not a reset");
    answer
}

fn is_refused(address: SocketAddr) -> bool {
    let connected = connect(address);
    connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

#[tokio::test]
async fn b16_what_is_in_the_accept_queue_is_served() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        // The one thread is here, and not in the server.
        let clients: Vec<_> = (0..100).map(|_| queued(server.address)).collect();
        server.drain.begin();
        guarded(server.drain.reached(Phase::Draining)).await;
        assert!(is_refused(server.address), "{kind:?}");
        let answers = tokio::task::spawn_blocking(|| clients.into_iter().map(answer).collect());
        let answers: Vec<String> = guarded(answers).await.expect("no reset");
        for answer in answers {
            assert!(answer.ends_with("hello"), "{kind:?}: {answer}");
            assert_eq!(closes(&answer), 1);
        }
        assert_eq!(server.drained().await.refused, 0);
    }
}

/// What the guide advises for a header in front of HTTP: the task of the connection reads it.
#[tokio::test]
async fn i14_a_header_that_is_read_in_the_task_holds_up_nobody() {
    use hyper_util::{
        rt::{TokioExecutor, TokioIo},
        server::conn::auto,
        service::TowerToHyperService,
    };
    let drain = Drain::new();
    let shared = Shared::new(&drain);
    let service = app(shared.clone()).layer(drain.layer());
    let mut listener = drain.bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.get_ref().expect("open").local_addr();
    let told = drain.clone();
    let server = async move {
        while let Some((mut io, _)) = listener.accept().await {
            let (service, told) = (service.clone(), told.shutdown_signal());
            tokio::spawn(async move {
                if proxy_header(&mut io).await.is_err() {
                    return;
                }
                let service = TowerToHyperService::new(service);
                let connections = auto::Builder::new(TokioExecutor::new());
                let connection = connections.serve_connection(TokioIo::new(io), service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    _ = &mut connection => {}
                    () = told => {
                        connection.as_mut().graceful_shutdown();
                        let _ = connection.await;
                    }
                }
            });
        }
    };
    let run = tokio::spawn(drain.run(server, std::future::pending::<()>()));
    let address = address.expect("bound");
    // The one thread is here, and not in the server: all of them are in the accept queue at the
    // drain.
    let silent = connect(address).expect("it listens");
    let complete: Vec<_> = (0..5)
        .map(|_| {
            let mut stream = connect(address).expect("it listens");
            let header = "PROXY TCP4 192.0.2.1 192.0.2.2 51234 80\r\n";
            let request = format!("{header}{}", get("/"));
            stream.write_all(request.as_bytes()).expect("room");
            stream
        })
        .collect();
    drain.begin();
    let answers = tokio::task::spawn_blocking(|| complete.into_iter().map(answer).collect());
    let answers: Vec<String> = guarded(answers).await.expect("no reset");
    for answer in answers {
        assert!(answer.ends_with("hello"), "{answer:?}");
        assert_eq!(closes(&answer), 1);
    }
    let silent = tokio::task::spawn_blocking(|| answer(silent));
    let rest = guarded(silent).await.expect("no reset");
    assert_eq!(rest, "", "closed when its grace is over");
    let drained = guarded(run).await.expect("no panic").expect("drained");
    assert_eq!(shared.handled(), 5, "{drained}");
}

/// The text form of a PROXY header, and not a byte more.
async fn proxy_header(io: &mut (impl tokio::io::AsyncRead + Unpin)) -> io::Result<SocketAddr> {
    use tokio::io::AsyncReadExt;
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n") {
        if header.len() == 107 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        header.push(io.read_u8().await?);
    }
    let header = String::from_utf8_lossy(&header);
    let fields: Vec<_> = header.trim_end().split(' ').collect();
    match fields[..] {
        ["PROXY", "TCP4" | "TCP6", source, _, port, _] => {
            let (source, port) = (source.parse(), port.parse());
            match (source, port) {
                (Ok(source), Ok(port)) => Ok(SocketAddr::new(source, port)),
                _ => Err(io::ErrorKind::InvalidData.into()),
            }
        }
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// The first look comes when all the time for it is over already.
#[tokio::test]
async fn b16_what_is_in_the_accept_queue_is_served_after_a_stall() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let clients: Vec<_> = (0..20).map(|_| queued(server.address)).collect();
        server.drain.begin();
        std::thread::sleep(Duration::from_millis(150));
        let answers = tokio::task::spawn_blocking(|| clients.into_iter().map(answer).collect());
        let answers: Vec<String> = guarded(answers).await.expect("no reset");
        assert!(
            answers.iter().all(|answer| answer.ends_with("hello")),
            "{kind:?}: {answers:?}"
        );
        server.drained().await;
    }
}

/// Clients that connect while the queue is emptied are refused as by a closed port, and neither
/// reset nor kept waiting. Clients that were in the queue are served.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn b16_an_exclusive_listener_resets_nobody() {
    let drain = Drain::new();
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let mut listener = drain.listener(tcp).exclusive();
    let _queued = queued(address);
    drain.begin();
    // As long as a connection is open, handshakes that have begun are waited for.
    let _open = guarded(listener.accept())
        .await
        .expect("it was in the queue");
    {
        let mut last = std::pin::pin!(listener.accept());
        assert!(futures_util::poll!(last.as_mut()).is_pending());
        let late = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500));
        assert_eq!(
            late.expect_err("shut").kind(),
            io::ErrorKind::ConnectionRefused
        );
        assert!(guarded(last).await.is_none());
    }
    assert!(is_refused(address));
}

/// What cannot be read may be a handshake: it has its grace, and then holds nothing up.
#[tokio::test]
async fn a15_a_handshake_in_progress_has_the_grace_of_its_connection() {
    let grace = Duration::from_millis(500);
    let drain = Drain::builder().grace(grace).build();
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let mut listener = drain.listener(tcp);
    let accepted = tokio::spawn(async move { listener.accept().await.expect("open").0 });
    let connecting = std::time::Instant::now();
    let mut client = Client::connect(address).await;
    let mut io = guarded(accepted).await.expect("no panic");
    client.send(b"\x16\x03\x01").await;
    let reading = tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        let mut read = [0; 8];
        io.read_exact(&mut read[..3]).await.expect("open");
        // The rest of the handshake: the read is neither aborted nor ended early.
        io.read(&mut read).await
    });
    drain.begin();
    guarded(drain.shutdown_signal()).await;
    assert!(connecting.elapsed() >= grace, "{:?}", connecting.elapsed());
    assert!(
        connecting.elapsed() < grace * 3,
        "{:?}",
        connecting.elapsed()
    );
    drop(client);
    assert_eq!(
        guarded(reading).await.expect("no panic").expect("an end"),
        0
    );
    guarded(drain.wait()).await.expect("drained");
}

/// Of a listener inside of another one, and of a stream, the queue is not seen.
#[tokio::test]
async fn b16_a_queue_that_is_not_seen_is_served() {
    use axum::serve::ListenerExt;
    for streamed in [false, true] {
        let (drain, tcp) = (Drain::new(), bind());
        let address = tcp.local_addr().expect("bound");
        let shared = Shared::new(&drain);
        let app = app(shared).layer(drain.layer());
        let signal = drain.shutdown_signal();
        let server = if streamed {
            let incoming = tonic::transport::server::TcpIncoming::from(tcp);
            let server = tonic::transport::Server::builder()
                .accept_http1(true)
                .serve_with_incoming_shutdown(
                    tonic::service::Routes::from(app),
                    drain.incoming(incoming),
                    signal,
                );
            tokio::spawn(async { server.await.expect("it serves") })
        } else {
            let listener = drain.listener(tcp.tap_io(|_| ()));
            let server = axum::serve(listener, app).with_graceful_shutdown(signal);
            tokio::spawn(async { server.await.expect("it serves") })
        };
        tokio::task::yield_now().await;
        // More than the budget of one poll.
        let clients: Vec<_> = (0..300).map(|_| queued(address)).collect();
        drain.begin();
        guarded(drain.reached(Phase::Draining)).await;
        // On a busy machine all of them take longer than the drain waits for the listener.
        guarded(async {
            while !is_refused(address) {
                tokio::task::yield_now().await;
            }
        })
        .await;
        let answers = tokio::task::spawn_blocking(|| clients.into_iter().map(answer).collect());
        let answers: Vec<String> = guarded(answers).await.expect("no reset");
        assert!(
            answers.iter().all(|answer| answer.ends_with("hello")),
            "{answers:?}"
        );
        guarded(server).await.expect("no panic");
        guarded(drain.wait()).await.expect("drained");
    }
}

/// tonic closes its connections when its stream ends.
#[tokio::test]
async fn a03_a_stream_does_not_end_before_servers_are_told() {
    let (drain, tcp) = (Drain::new(), bind());
    let address = tcp.local_addr().expect("bound");
    let app = app(Shared::new(&drain)).layer(drain.layer());
    let incoming = drain.incoming(tonic::transport::server::TcpIncoming::from(tcp));
    let server = tonic::transport::Server::builder()
        .accept_http1(true)
        .serve_with_incoming_shutdown(
            tonic::service::Routes::from(app),
            incoming,
            drain.shutdown_signal(),
        );
    let server = tokio::spawn(async { server.await.expect("it serves") });
    let mut young = Client::connect(address).await;
    let mut kept = Client::connect(address).await;
    kept.get("/").await;
    kept.read_until("hello").await;
    drain.begin();
    guarded(drain.reached(Phase::Draining)).await;
    young.get("/").await;
    assert!(young.rest().await.ends_with("hello"));
    guarded(server).await.expect("no panic");
    guarded(drain.wait()).await.expect("drained");
}

#[cfg(unix)]
#[tokio::test]
async fn b16_the_queue_of_a_unix_socket_is_served() {
    use tokio::net::UnixListener;
    let directory = std::env::temp_dir().join(format!("tower-graceful-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory for the socket");
    let path = directory.join("socket");
    let _ = std::fs::remove_file(&path);
    let drain = Drain::new();
    let listener = drain.listener(UnixListener::bind(&path).expect("a socket"));
    let app = app(Shared::new(&drain)).layer(drain.layer());
    let server = axum::serve(listener, app).with_graceful_shutdown(drain.shutdown_signal());
    let run = tokio::spawn(drain.run(server, std::future::pending::<()>()));
    tokio::task::yield_now().await;
    let clients: Vec<_> = (0..50)
        .map(|_| {
            let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("it listens");
            stream.write_all(get("/").as_bytes()).expect("room");
            stream
        })
        .collect();
    drain.begin();
    guarded(run).await.expect("no panic").expect("drained");
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).expect("a FIN");
        assert!(answer.ends_with("hello"), "{answer}");
    }
    std::fs::remove_dir_all(&directory).expect("ours");
}

/// A connection that is accepted while the drain begins is counted and closed, or was never
/// accepted. A drain that missed one would hang, or lose its request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b17_accepted_while_the_drain_starts() {
    for round in 0..30 {
        let server = Server::start(ALL[round % ALL.len()], Drain::new()).await;
        let address = server.address;
        let clients: Vec<_> = (0..8)
            .map(|_| {
                tokio::spawn(async move {
                    let mut answered = 0;
                    while let Ok(mut client) = Client::try_connect(address).await {
                        client.get("/").await;
                        client.read_until("hello").await;
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        while server.shared.handled() < 8 {
            tokio::task::yield_now().await;
        }
        server.drain.begin();
        let shared = server.shared.clone();
        server.drained().await;
        let mut answered = 0;
        for client in clients {
            answered += guarded(client).await.expect("nothing was lost");
        }
        assert_eq!(answered, shared.handled());
    }
}

#[tokio::test]
async fn b21_begun_before_serve() {
    for kind in ALL {
        let drain = Drain::new();
        drain.begin();
        let server = Server::start(kind, drain).await;
        let address = server.address;
        server.drained().await;
        assert!(is_refused(address), "{kind:?}");
    }
}

/// A listener that is not polled delays neither the drain nor the close of its port for long.
#[tokio::test]
async fn a_listener_that_nobody_polls_holds_nothing() {
    let drain = Drain::new();
    let listener = drain.listener(bind());
    let drained = guarded(drain.shutdown(Duration::from_secs(5))).await;
    let drained = drained.expect("nothing is left");
    assert!(drained.elapsed < Duration::from_secs(1), "{drained}");
    drop(listener);
}

#[tokio::test]
async fn g55_several_listeners_have_one_drain() {
    let drain = Drain::new();
    let first = Server::start(Kind::Axum, drain.clone()).await;
    let second = Server::start(Kind::Tonic, drain.clone()).await;
    let mut idle = Vec::new();
    for server in [&first, &second] {
        let mut client = Client::connect(server.address).await;
        client.get("/").await;
        client.read_until("hello").await;
        idle.push(client);
    }
    drain.begin();
    for client in &mut idle {
        assert_eq!(client.rest().await, "");
    }
    assert_eq!(first.drained().await, second.drained().await);
}

/// A loop by hand, as one writes it.
#[tokio::test]
async fn a_hand_written_loop_closes_idle_connections() {
    let drain = Drain::new();
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    let shared = Shared::new(&drain);
    let app = app(shared.clone()).layer(drain.layer());
    let mut listener = drain.listener(tcp);
    let serving = drain.clone();
    let server = async move {
        while let Some((io, _)) = listener.accept().await {
            let service = hyper_util::service::TowerToHyperService::new(app.clone());
            let told = serving.shutdown_signal();
            tokio::spawn(async move {
                let builder = hyper_util::server::conn::auto::Builder::new(
                    hyper_util::rt::TokioExecutor::new(),
                );
                let io = hyper_util::rt::TokioIo::new(io);
                let connection = builder.serve_connection_with_upgrades(io, service);
                tokio::pin!(connection);
                tokio::select! {
                    _ = &mut connection => return,
                    () = told => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            });
        }
    };
    let run = tokio::spawn(drain.run(server, std::future::pending::<()>()));
    let mut idle = Client::connect(address).await;
    idle.get("/").await;
    idle.read_until("hello").await;
    let mut young = Client::connect(address).await;
    let clients: Vec<_> = (0..20).map(|_| queued(address)).collect();
    drain.begin();
    guarded(drain.reached(Phase::Draining)).await;
    young.get("/").await;
    assert!(young.rest().await.ends_with("hello"));
    assert_eq!(idle.rest().await, "");
    guarded(run).await.expect("no panic").expect("drained");
    assert!(
        clients
            .into_iter()
            .all(|client| answer(client).ends_with("hello"))
    );
}

/// In a process of its own, whose limit it is that is lowered.
#[test]
fn h60_without_file_descriptors_it_neither_spins_nor_hangs() {
    let child = std::process::Command::new(std::env::current_exe().expect("a test binary"))
        .args([
            "--exact",
            "--ignored",
            "--nocapture",
            "accept::child_without_file_descriptors",
        ])
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(
        child.status.success() && text.contains("1 passed"),
        "{text}{errors}"
    );
}

#[tokio::test]
#[ignore = "lowers the process's limit; run by h60"]
async fn child_without_file_descriptors() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        let (soft, hard) = rlimit::Resource::NOFILE.get().expect("a limit");
        let clients: Vec<_> = (0..20).map(|_| queued(server.address)).collect();
        // No more than there are, less the one that this takes.
        let open = std::fs::read_dir("/proc/self/fd").expect("Linux").count() as u64 - 1;
        rlimit::Resource::NOFILE.set(open, hard).expect("lower");
        // The server tries, and errs.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let before = ProcessTime::now();
        let drained = server.drain.shutdown(Duration::from_secs(10));
        let drained = guarded(drained).await.expect("drained");
        let spent = before.elapsed();
        // Of 100 ms of trying, and the settling.
        assert!(
            spent < Duration::from_millis(80),
            "{kind:?}: {spent:?} of {drained}"
        );
        rlimit::Resource::NOFILE.set(soft, hard).expect("as it was");
        server.drained().await;
        drop(clients);
    }
}

/// Of the listener that is dropped with its server, nothing is left to wait for.
#[tokio::test]
async fn a_server_that_is_dropped_takes_its_listener_along() {
    let drain = Drain::new();
    let tcp: TcpListener = bind();
    let address = tcp.local_addr().expect("bound");
    let app = app(Shared::new(&drain));
    drop(axum::serve(drain.listener(tcp), app).with_graceful_shutdown(drain.shutdown_signal()));
    assert!(is_refused(address));
    guarded(drain.shutdown(Duration::from_secs(5)))
        .await
        .expect("nothing is left");
}

/// By itself, and by axum's trait: as long as it listens.
#[tokio::test]
async fn i76_a_listener_says_where_it_listens() {
    let drain = Drain::new();
    let mut tcp = drain.bind("127.0.0.1:0").await.expect("a port");
    let address = tcp.local_addr().expect("open");
    assert_ne!(address.port(), 0);
    let same = axum::serve::Listener::local_addr(&tcp);
    assert_eq!(same.expect("open"), address);
    let directory = tempfile::tempdir().expect("possible");
    let path = directory.path().join("socket");
    let mut unix = drain.listener(tokio::net::UnixListener::bind(&path).expect("free"));
    let address = unix.local_addr().expect("open");
    assert_eq!(address.as_pathname(), Some(&*path));
    drain.begin();
    assert!(guarded(tcp.accept()).await.is_none());
    assert!(guarded(unix.accept()).await.is_none());
    for error in [
        tcp.local_addr().map(drop),
        unix.local_addr().map(drop),
        axum::serve::Listener::local_addr(&tcp).map(drop),
    ] {
        let error = error.expect_err("closed");
        assert_eq!(error.kind(), std::io::ErrorKind::NotConnected);
    }
}

/// Has the kernel drop the rest of each handshake with that listener: the client has its SYN-ACK,
/// and the server's kernel waits for the ACK. Ends when the drain keeps new clients out, by a
/// filter of its own.
#[cfg(target_os = "linux")]
fn drop_acks(listener: &TcpListener) {
    use socket2::{SockFilter, SockRef};
    // Bit 1 of the byte at 13 of a TCP header is SYN.
    let only_syns = [
        SockFilter::new(0x30, 0, 0, 13),
        SockFilter::new(0x54, 0, 0, 0x02),
        SockFilter::new(0x15, 1, 0, 0),
        SockFilter::new(0x06, 0, 0, u32::MAX),
        SockFilter::new(0x06, 0, 0, 0),
    ];
    let socket = SockRef::from(listener);
    socket.attach_filter(&only_syns).expect("Linux");
}

/// The rest of the handshake comes 60 ms after the listener was closed for new ones.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn i66_a_half_done_handshake_is_served() {
    for kind in [Kind::Axum, Kind::Tonic, Kind::Serve] {
        for with_another in [false, true] {
            let tcp = bind();
            let address = tcp.local_addr().expect("bound");
            let shut = socket2::SockRef::from(&tcp).try_clone().expect("possible");
            let server = Server::start_on(kind, Drain::new(), tcp).await;
            let mut other = None;
            if with_another {
                let mut client = Client::connect(address).await;
                client.get("/gate").await;
                server.at_the_gate().await;
                other = Some(client);
            }
            let listener = TcpListener::from_std(shut.into()).expect("possible");
            drop_acks(&listener);
            drop(listener);
            let mut half = Client::connect(address).await;
            server.drain.begin();
            tokio::time::sleep(Duration::from_millis(60)).await;
            half.get("/").await;
            let answer = half.rest().await;
            assert!(answer.ends_with("hello"), "{kind:?}: {answer}");
            server.shared.open.notify_one();
            if let Some(mut other) = other {
                assert!(other.rest().await.ends_with("passed"));
            }
            assert_eq!(server.drained().await.refused, 0);
        }
    }
}

/// The listener looks at its socket every few milliseconds: a connection that comes after the last
/// of these looks and before the end of the settling is served, too.
#[cfg(target_os = "linux")]
#[test]
fn i66_a_handshake_that_ends_with_the_settling_is_served() {
    const BEFORE: Duration = Duration::from_millis(1);
    // With one thread for blocking work, the test's own work there runs after the listener's.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .expect("possible");
    let every_task_runs = async || {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    };
    for kind in [Kind::Axum, Kind::Tonic, Kind::Serve] {
        runtime.block_on(async {
            let settle = Duration::from_millis(100);
            let tcp = bind();
            let address = tcp.local_addr().expect("bound");
            drop_acks(&tcp);
            let drain = Drain::builder().settle(settle).build();
            let server = Server::start_on(kind, drain, tcp).await;
            every_task_runs().await;
            let mut half = connect(address).expect("it listens");
            server.drain.begin();
            every_task_runs().await;
            // The kernel's list has been read after that, and the settling begins: no time has
            // passed.
            tokio::task::spawn_blocking(|| ()).await.expect("no panic");
            every_task_runs().await;
            tokio::time::advance(settle - BEFORE).await;
            every_task_runs().await;
            assert_eq!(server.drain.phase(), Phase::LameDuck, "{kind:?}");
            // Its data ends the handshake.
            half.write_all(crate::client::get("/").as_bytes())
                .expect("connected");
            tokio::time::advance(2 * BEFORE).await;
            let read = tokio::task::spawn_blocking(move || {
                let mut answer = String::new();
                half.read_to_string(&mut answer).map(|_| answer)
            });
            let answer = read.await.expect("no panic");
            assert!(
                answer
                    .as_ref()
                    .is_ok_and(|answer| answer.ends_with("hello")),
                "{kind:?}: {answer:?}"
            );
            assert_eq!(server.drained().await.refused, 0);
        });
    }
}

/// A server without a handshake to wait for waits for nothing: no time passes.
#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn i66_an_idle_server_does_not_wait_for_handshakes() {
    for kind in ALL {
        let server = Server::start(kind, Drain::new()).await;
        tokio::task::yield_now().await;
        server.drain.begin();
        let drained = server.drained().await;
        assert!(
            drained.elapsed < Duration::from_millis(1),
            "{kind:?}: {drained}"
        );
    }
}

/// The kernel's list of handshakes may be long: the task that accepts does not block a worker with
/// it.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn i66_the_list_of_handshakes_is_read_on_another_thread() {
    let mut waits = 0;
    for _ in 0..10 {
        let drain = Drain::new();
        let mut listener = drain.listener(bind()).exclusive();
        drain.begin();
        let mut accept = std::pin::pin!(listener.accept());
        match futures_util::poll!(accept.as_mut()) {
            std::task::Poll::Pending => {
                waits += 1;
                assert!(guarded(accept).await.is_none());
            }
            // The other thread may be faster than this one.
            std::task::Poll::Ready(accepted) => assert!(accepted.is_none()),
        }
        guarded(drain.wait()).await.expect("drained");
    }
    assert!(waits > 0);
}

/// A handshake that never ends: no longer than the settling.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn i66_a_handshake_that_never_ends_holds_nothing() {
    let tcp = bind();
    let address = tcp.local_addr().expect("bound");
    drop_acks(&tcp);
    let settle = Duration::from_millis(300);
    let drain = Drain::builder().settle(settle).build();
    let server = Server::start_on(Kind::Serve, drain, tcp).await;
    let _half = Client::connect(address).await;
    server.drain.begin();
    let drained = server.drained().await;
    assert!(drained.elapsed >= settle, "{drained}");
    assert!(drained.elapsed < 3 * settle, "{drained}");
}

/// Hides its inner listener, unless `says_so` is set.
struct Wrapper {
    inner: TcpListener,
    says_so: bool,
}

impl tower_graceful::server::Listener for Wrapper {
    type Io = tokio::net::TcpStream;
    type Addr = SocketAddr;

    fn poll_accept(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<io::Result<(Self::Io, SocketAddr)>> {
        self.inner.poll_accept(cx)
    }

    fn tcp_listener(&self) -> Option<&TcpListener> {
        self.says_so.then_some(&self.inner)
    }
}

/// So many stops, each under a storm of clients that reconnect; how many of them were reset.
async fn lost_by_a_wrapper(stops: usize, says_so: bool) -> usize {
    let mut lost = 0;
    for _ in 0..stops {
        let server = Server::serve(Drain::new(), |inner, app| {
            let wrapper = Wrapper { inner, says_so };
            tower_graceful::server::Serve::new(app)
                .listen(wrapper)
                .exclusive()
        });
        let address = server.address;
        let (send, served) = std::sync::mpsc::channel();
        let clients: Vec<_> = (0..16)
            .map(|_| {
                let served = send.clone();
                std::thread::spawn(move || {
                    let mut lost = 0;
                    while let Ok(mut stream) = connect(address) {
                        let mut answer = String::new();
                        let request = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
                        let sent = stream.write_all(request.as_bytes());
                        let read = sent.and_then(|()| stream.read_to_string(&mut answer));
                        if read.is_err() || !answer.ends_with("hello") {
                            lost += 1;
                        }
                        let _ = served.send(());
                    }
                    lost
                })
            })
            .collect();
        let waits = tokio::task::spawn_blocking(move || served.iter().take(200).count());
        guarded(waits).await.expect("no panic");
        server.drain.begin();
        server.drained().await;
        for client in clients {
            lost += client.join().expect("no panic");
        }
    }
    lost
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i75_a_wrapper_can_be_exclusive() {
    assert_eq!(lost_by_a_wrapper(40, true).await, 0);
}

/// Without the method: it is why there is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "shows what is lost; run by hand"]
async fn i75_a_wrapper_that_does_not_say_so_loses() {
    assert!(lost_by_a_wrapper(100, false).await > 0);
}

#[tokio::test]
async fn bind_names_the_address_of_a_port_in_use() {
    let taken = bind();
    let address = taken.local_addr().expect("bound");
    let drain = Drain::new();
    let errors = [
        drain.bind(address).await.map(drop),
        Serve::new(Router::<()>::new())
            .bind(address)
            .await
            .map(drop),
    ];
    for error in errors {
        let error = error.expect_err("it is in use");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("cannot listen on {address}: ")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn bind_tries_each_address_and_takes_ipv4_clients_on_ipv6() {
    let taken = bind();
    let taken = taken.local_addr().expect("bound");
    let free: SocketAddr = "[::]:0".parse().expect("an address");
    let drain = Drain::new();
    let mut listener = match drain.bind(&[taken, free][..]).await {
        Ok(listener) => listener,
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => panic!("{error}"),
        Err(error) => return eprintln!("SKIPPED: no IPv6 here: {error}"),
    };
    let port = listener.local_addr().expect("bound").port();
    let client = tokio::net::TcpStream::connect(("127.0.0.1", port));
    let (client, accepted) = guarded(futures_util::future::join(client, listener.accept())).await;
    let local = client
        .expect("IPv4 is taken, too")
        .local_addr()
        .expect("connected");
    let (_io, peer) = accepted.expect("it is open");
    assert_eq!(peer.port(), local.port());
}
