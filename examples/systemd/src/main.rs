//! A service of systemd's.
//!
//! `example.service` and `example.socket` beside this directory say line by line what they are for:
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
//! `systemctl status example` in a third: the request is answered first, the status says what is waited
//! for, and a `curl localhost:3000` meanwhile waits in the socket for the new process. (Where clients
//! are not to wait for that, let the process replace itself: `examples/restart`.)
//!
//! # The seconds
//!
//! After SIGTERM, systemd kills what is left after `TimeoutStopSec`, or, where the service has extended
//! that, at the end of its last extension. So the timeout of the drain stands in one place only, and
//! the one in the unit is for a process that does not even say that it is draining:
//!
//! | | s after the signal |
//! |---|---|
//! | the drain begins; from here on each second an extension by 5 s | 0 |
//! | a process that is stuck is killed, `TimeoutStopSec` | 15 |
//! | one that gets stuck later, 5 s after its last extension | |
//! | the deadline of the drain, the argument in `ExecStart`: what is left is cut | 60 |
//! | no extension goes beyond that: 2 s to cut and to exit | 62 |
//!
//! There is no lame duck, which is for balancers: behind one, give it as long as that takes to notice,
//! out of the same 60 s.
//!
//! It ends with 0 if all was answered and with 1 if something was cut: systemd calls it failed then.

use axum::{Router, routing::get};
use listenfd::ListenFd;
use sd_notify::NotifyState::{self, ExtendTimeoutUsec, Ready, Status, Stopping};
use std::{env, error::Error, net::TcpListener, time::Duration};
use tokio::time::{Instant, interval, sleep};
use tower_graceful::{Drain, Phase, signal};

/// How often systemd hears that the drain goes on, and how long it waits for the next time.
const EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// After the deadline: connections are cut within a second, and the process has to end.
const RESERVE: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    // First of all: it changes the environment, and a runtime has threads that may read it.
    let socket = ListenFd::from_env().take_tcp_listener(0)?;
    serve(socket)
}

#[tokio::main]
async fn serve(socket: Option<TcpListener>) -> Result<(), Box<dyn Error>> {
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
        .shutdown_on(signal::terminate());
    let told = tokio::spawn(tell_of(drain));

    // What can fail belongs before this, and what takes time: a configuration, a pool of
    // connections. From here on, what depends on this unit may start.
    let status = format!("serves http://{address}");
    sd_notify::notify(&[Ready, Status(&status)])?;
    println!("{status}");
    let outcome = server.await;
    // Ends with the drain; else a short one would be over before it is told of.
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
        // The deadline may have been moved. Without one, this is extended as long as it goes on.
        let end = drain.deadline().and_then(|at| at.checked_add(RESERVE));
        let remaining = end.map_or(Duration::MAX, |end| end.duration_since(Instant::now()));
        let micros = remaining.min(PATIENCE).as_micros() as u32; // 5 s of them fit
        let left = drain.left();
        let status = format!("waits for {left}, for {} s at most", remaining.as_secs());
        notify(&[ExtendTimeoutUsec(micros), Status(&status)]);
    }
}

/// A drain is not given up because nobody hears of it.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        eprintln!("systemd was not told: {error}");
    }
}

async fn slow() -> &'static str {
    sleep(Duration::from_secs(20)).await;
    "that took a while\n"
}
