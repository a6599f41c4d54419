//! A service of systemd that says when it is ready, that it stops, and how long that may take.
//!
//! The comments in `example.service` and `example.socket` explain the units. To install them:
//!
//! ```text
//! cargo build --release -p example-systemd
//! sudo install target/release/example-systemd /usr/local/bin
//! sudo cp examples/systemd/example.s* /etc/systemd/system
//! sudo systemctl daemon-reload
//! sudo systemctl start example.socket example.service
//! ```
//!
//! Then `curl localhost:3000/slow` in one terminal, `sudo systemctl restart example` in another and
//! `systemctl status example` in a third. The request is answered first, and the status says what
//! the drain waits for. A `curl localhost:3000` meanwhile waits in the socket for the new process.
//! (If clients must not wait for that, let the process replace itself: `examples/restart`.)
//!
//! # The seconds
//!
//! After SIGTERM, systemd kills the process after `TimeoutStopSec`, or at the end of the last
//! extension that the service has asked for. So only `ExecStart` has the timeout of the drain, and
//! `TimeoutStopSec` is for a process that is stuck:
//!
//! | | s after the signal |
//! |---|---|
//! | the drain begins; from here on the service extends by 5 s each second | 0 |
//! | `TimeoutStopSec`: systemd kills a process that is stuck (later: 5 s after its last extension) | 15 |
//! | the deadline of the drain, the argument in `ExecStart`: what is left is aborted | 60 |
//! | the last extension ends: 2 s to abort and to exit | 62 |
//!
//! There is no lame duck. Behind a balancer, set one: as long as the balancer takes to notice the
//! signal, out of the same 60 s.
//!
//! The process ends with 0 if all requests were answered, and with 1 if something was aborted. Then
//! systemd says that the unit failed.

use axum::{Router, routing::get};
use listenfd::ListenFd;
use sd_notify::NotifyState::{self, ExtendTimeoutUsec, Ready, Status, Stopping};
use std::{env, error::Error, net::TcpListener, time::Duration};
use tokio::time::{Instant, interval, sleep};
use tower_graceful::{Drain, Phase, signal};

/// The time between two extensions, and the time by which each of them extends.
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// The time after the deadline, to abort connections and to end the process.
const RESERVE: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    // Before there is a runtime: this changes the environment, which other threads may read.
    let socket = ListenFd::from_env().take_tcp_listener(0)?;
    serve(socket)
}

#[tokio::main]
async fn serve(socket: Option<TcpListener>) -> Result<(), Box<dyn Error>> {
    // First: before this call, SIGTERM ends the process.
    let stop = signal::terminate();
    let mut arguments = env::args().skip(1);
    let timeout = match arguments.next() {
        Some(seconds) => Duration::from_secs(seconds.parse()?),
        None => Duration::from_secs(60),
    };
    let address = arguments.next();
    let socket = match socket {
        Some(socket) => socket,
        None => TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:3000"))?,
    };
    socket.set_nonblocking(true)?;
    let address = socket.local_addr()?;
    let listener = tokio::net::TcpListener::from_std(socket)?;

    let drain = Drain::builder().timeout(timeout).build();
    let app = Router::new()
        .route("/", get("hello\n").post(async |echo: String| echo))
        .route("/slow", get(slow));
    // Not `exclusive`: systemd has the socket, too.
    let server = tower_graceful::serve(listener, app)
        .with_drain(drain.clone())
        .shutdown_on(stop);
    let told = tokio::spawn(tell_of(drain));

    // Load the configuration and connect to the database before this line. After it, systemd starts
    // the units that depend on this one.
    let status = format!("serves http://{address}");
    sd_notify::notify(&[Ready, Status(&status)])?;
    println!("{status}");
    let outcome = server.await;
    // Without this, the process could end before it has told systemd of a short drain.
    told.await?;
    let status = match &outcome {
        Ok(drained) => drained.to_string(),
        Err(timeout) => timeout.to_string(),
    };
    notify(&[Status(&status)]);
    println!("{status}");
    Ok(outcome.map(drop)?)
}

/// Tells systemd of the drain until it is over.
async fn tell_of(drain: Drain) {
    drain.reached(Phase::LameDuck).await;
    notify(&[Stopping]);
    let over = drain.reached(Phase::Done);
    tokio::pin!(over);
    let mut tick = interval(EVERY);
    loop {
        tokio::select! {
            biased;
            () = &mut over => return,
            _ = tick.tick() => {}
        }
        // Asked each time, because the deadline can be moved. Without one, extends for ever.
        let end = drain.deadline().and_then(|at| at.checked_add(RESERVE));
        let remaining = end.map_or(Duration::MAX, |end| end.duration_since(Instant::now()));
        let micros = remaining.min(PATIENCE).as_micros() as u32; // 5 s of them fit
        let left = drain.left();
        let status = format!("waits for {left}, for {} s at most", remaining.as_secs());
        notify(&[ExtendTimeoutUsec(micros), Status(&status)]);
    }
}

/// Tells systemd. An error does not end the drain.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        eprintln!("systemd was not told: {error}");
    }
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(20)).await;
    "that took a while\n"
}
