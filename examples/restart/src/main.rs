//! A restart that no client notices.
//!
//! `cargo run -p example-restart`, and `kill -HUP` the process that it names: it starts its
//! executable once more, as what lies there now may be a new version, hands it the listening socket,
//! and drains when that says that it is ready. If it never does, nothing has happened. The port is
//! open all the time, and each connection is served by whoever accepted it:
//! `curl localhost:3000/sleep/5000` is answered by the old process, `curl localhost:3000` meanwhile by
//! the new one. Then `kill` the last one: it has left your terminal's foreground.
//!
//! The protocol is that of systemd's socket activation (`LISTEN_FDS`), so the first process may have
//! its socket from there: `systemd-socket-activate -l 3000 target/debug/example-restart`. A service of
//! systemd's needs no SIGHUP: it ends with its main process, but the socket unit holds the socket, in
//! which those wait who come while `systemctl restart` has the old one drain and starts the new one.

mod succession;

use axum::{Router, extract::Path, routing::get};
use std::{env, error::Error, net::TcpListener, process, time::Duration};
use succession::{Inheritance, Successors};
use tokio::time::sleep;
use tower_graceful::{Drain, signal};

fn main() -> Result<(), Box<dyn Error>> {
    // First of all: it changes the environment, and a runtime has threads that may read it.
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

    // From here on signals wait for `stop`.
    let mut terminate = signal::terminate();
    let successors = Successors::of(socket)?;
    // Without a lame duck, which is for balancers: this address stays in service. And without hurry:
    // a client that keeps its connection, and is slow, may have its next request on the way.
    let drain = Drain::builder().settle(Duration::from_secs(1)).build();
    let begin = drain.clone();
    let stop = async move {
        // Whichever it is, by now nothing of the socket is here, where a drain would not close it.
        tokio::select! {
            again = &mut terminate => return again,
            () = successors.one_is_ready() => begin.begin(),
        }
        terminate.await
    };

    let app = Router::new()
        .route("/", get(who))
        .route("/sleep/{millis}", get(doze));
    // Not `exclusive`: that would make the socket deaf for the successor.
    let server = tower_graceful::serve(listener, app)
        .with_drain(drain)
        .shutdown_on(stop);

    // What can fail belongs before this, and what takes time: a configuration, a pool of connections.
    let me = process::id();
    inheritance.ready()?;
    println!("{me} serves http://{address}, kill -HUP {me} to restart");
    println!("{me} {}", server.await?);
    Ok(())
}

async fn who() -> String {
    process::id().to_string()
}

async fn doze(Path(millis): Path<u64>) -> String {
    sleep(Duration::from_millis(millis)).await;
    who().await
}
