//! The servers that are compared. Each stops as its documentation says, and has the same handler.
//!
//! Another one takes a line in [`SERVERS`]; one that is a process of its own, a [`Running`], too, as
//! in [`go`].

mod actix;
mod axum;
mod axum_server;
mod go;
mod hyper_util;
mod ours;
mod serve;

use crate::{BoxError, client::Mode};
use Runs::{Apart, Here};
use std::{
    future::Future,
    io,
    net::{SocketAddr, TcpListener},
    pin::Pin,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tokio::{runtime::Builder, sync::oneshot, task::yield_now, time::sleep};

/// What those are given that take a timeout: much longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(4);

/// What is not over by then, hangs.
const LIMIT: Duration = Duration::from_secs(5);

/// In the order of the table.
pub const SERVERS: [Server; 7] = [
    Server::other("axum", "axum::serve", Here(axum::serve)),
    Server::other("axum-server", "axum-server", Here(axum_server::serve)),
    Server::other(
        "hyper-util",
        "hyper-util GracefulShutdown",
        Here(hyper_util::serve),
    ),
    Server::other("actix-web", "actix-web", Here(actix::serve)),
    Server::other("go", "Go http.Server", Apart(go::prepare)),
    Server {
        ours: true,
        ..Server::other("ours", "axum::serve + tower-graceful", Here(ours::serve))
    },
    Server {
        ours: true,
        ..Server::other("serve", "tower_graceful::serve", Here(serve::serve))
    },
];

/// A server that can be started.
pub struct Server {
    /// In commands.
    pub name: &'static str,
    /// In the table.
    pub title: &'static str,
    /// Whether the run fails if it loses a request.
    pub ours: bool,
    runs: Runs,
}

/// Where it runs.
enum Runs {
    /// In this process.
    Here(Serve),
    /// In one of its own, which takes something that not every machine has.
    Apart(fn(Mode) -> Result<Start, BoxError>),
}

/// Starts a server that is prepared, as often as it is called.
pub type Start = Box<dyn Fn() -> io::Result<Box<dyn Running>>>;

/// Serves on that listener until it is told to stop and thinks that it has.
type Serve = fn(TcpListener, Mode, Stop) -> Serving;
type Serving = Pin<Box<dyn Future<Output = Result<(), BoxError>>>>;

/// Ends when the server shall.
type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server that has been started.
pub trait Running {
    fn address(&self) -> SocketAddr;

    /// Stops it as a process is stopped: it is told to, its end is waited for, and then all that is
    /// still open is closed. How long that took; `None` if it had to be ended by force.
    fn stop(self: Box<Self>) -> Option<Duration>;
}

impl Server {
    const fn other(name: &'static str, title: &'static str, runs: Runs) -> Self {
        Self {
            name,
            title,
            ours: false,
            runs,
        }
    }

    /// An error if this machine does not have what it takes.
    pub fn prepare(&self, mode: Mode) -> Result<Start, BoxError> {
        match self.runs {
            Here(serve) => Ok(Box::new(move || {
                Ok(Box::new(InProcess::start(serve, mode)?))
            })),
            Apart(prepare) => prepare(mode),
        }
    }
}

/// In this process, but with a runtime of its own that ends with it, so that nothing leaks from one
/// shutdown to the next.
struct InProcess {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    /// Gone when the server is.
    ended: mpsc::Receiver<()>,
    exit: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl InProcess {
    fn start(serve: Serve, mode: Mode) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let (exit, exited) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let stopped = Box::pin(async { stopped.await.unwrap_or_default() });
            runtime.block_on(async {
                tokio::select! {
                    outcome = serve(listener, mode, stopped) => if let Err(error) = outcome {
                        eprintln!("{error}");
                    },
                    _ = exited => {}
                }
            });
            // As a process does at its end: what still runs is not waited for.
            runtime.shutdown_background();
            drop(end);
        });
        Ok(Self {
            address,
            stop,
            ended,
            exit,
            thread,
        })
    }
}

impl Running for InProcess {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn stop(self: Box<Self>) -> Option<Duration> {
        let start = Instant::now();
        let _ = self.stop.send(());
        let ended = self.ended.recv_timeout(LIMIT);
        let took = start.elapsed();
        let hung = ended == Err(mpsc::RecvTimeoutError::Timeout);
        let _ = self.exit.send(());
        self.thread.join().expect("a server does not panic");
        (!hung).then_some(took)
    }
}

/// What every handler answers with.
const BODY: &str = "hello\n";

/// What every handler does: one third of the requests is answered at once, one third at the next
/// turn of the scheduler, one third after a millisecond, so that a shutdown meets all of them.
async fn work() {
    static TURN: AtomicU64 = AtomicU64::new(0);
    // Scattered, but the same on each run.
    let turn = TURN
        .fetch_add(1, Ordering::Relaxed)
        .wrapping_mul(0x9E37_79B9_7F4A_7C15)
        >> 32;
    match turn % 3 {
        0 => {}
        1 => yield_now().await,
        _ => sleep(Duration::from_micros(turn % 1000)).await,
    }
}
