//! A restart that no client notices.
//!
//! `cargo run -p example-restart`, and `kill -HUP` the process that it names. The process starts its
//! executable again, which may be a new version by now, and hands it the listening socket. When the
//! new process says that it is ready, the old one drains. If it never says so, the old one goes on.
//!
//! The port is open all the time, and each connection is served by the process that accepted it. The
//! old process answers `curl localhost:3000/sleep/5000`, and meanwhile the new one answers
//! `curl localhost:3000`. End the last process by `kill`: Ctrl-C does not reach it.
//!
//! The socket is handed over as in systemd's socket activation (`LISTEN_FDS`), so the first process
//! can get it from there: `systemd-socket-activate -l 3000 target/debug/example-restart`. A service
//! of systemd with a socket unit needs no SIGHUP: during `systemctl restart`, clients wait in the
//! socket.

mod succession;

use axum::{Router, extract::Path, routing::get};
use std::{env, error::Error, net::TcpListener, process, time::Duration};
use succession::{Inheritance, Successors};
use tokio::time::sleep;
use tower_graceful::{Drain, signal};

fn main() -> Result<(), Box<dyn Error>> {
    // Before there is a runtime: this changes the environment, which other threads may read.
    serve(Inheritance::take()?)
}

#[tokio::main]
async fn serve(mut inheritance: Inheritance) -> Result<(), Box<dyn Error>> {
    let socket = match inheritance.socket.take() {
        Some(socket) => socket,
        None => TcpListener::bind(env::args().nth(1).as_deref().unwrap_or("127.0.0.1:3000"))?,
    };
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(socket.try_clone()?)?;

    // Signals are received from here on.
    let mut terminate = signal::terminate();
    let successors = Successors::of(socket)?;
    // No lame duck: the address stays in service, so no balancer has to notice. A longer settling: a
    // slow client may have its next request on the way.
    let drain = Drain::builder().settle(Duration::from_secs(1)).build();
    let begin = drain.clone();
    let stop = async move {
        // `successors` has a duplicate of the socket. Both branches drop it before the drain, or the
        // socket would stay open.
        tokio::select! {
            again = &mut terminate => return again,
            () = successors.one_is_ready() => begin.begin(),
        }
        terminate.await
    };

    let app = Router::new()
        .route("/", get(process_id))
        .route("/sleep/{millis}", get(doze));
    // Not `exclusive`: the new process has the socket, too.
    let server = tower_graceful::serve(listener, app)
        .with_drain(drain)
        .shutdown_on(stop);

    // Load the configuration and connect to the database before this line. After it, the old process
    // drains.
    let me = process::id();
    inheritance.ready()?;
    println!("{me} serves http://{address}, kill -HUP {me} to restart");
    println!("{me} {}", server.await?);
    Ok(())
}

async fn process_id() -> String {
    process::id().to_string()
}

async fn doze(Path(millis): Path<u64>) -> String {
    sleep(Duration::from_millis(millis)).await;
    process_id().await
}
