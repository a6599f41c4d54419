//! The server: three routes, stopped in one of two ways.

use axum::{Router, body::Body, extract::State, http::HeaderMap, routing::get};
use futures_util::{StreamExt, stream};
use std::{
    collections::HashSet,
    convert::Infallible,
    fmt,
    future::IntoFuture,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use tokio::{net::TcpListener, runtime::Runtime, sync::oneshot, time::sleep};
use tower_graceful::{Drain, signal};

/// The numbers of the requests that reached their handlers.
type Executed = Arc<Mutex<HashSet<u64>>>;

/// How it is to stop.
pub enum Stopping {
    With(Drain),
    Without {
        timeout: Duration,
        stopping: AtomicBool,
    },
}

impl Stopping {
    pub fn with(lame_duck: Duration, timeout: Duration) -> Arc<Self> {
        let builder = Drain::builder().lame_duck(lame_duck).timeout(timeout);
        Arc::new(Self::With(builder.build()))
    }

    pub fn without(timeout: Duration) -> Arc<Self> {
        Arc::new(Self::Without {
            timeout,
            stopping: AtomicBool::new(false),
        })
    }

    /// Serves until it is told to stop, and says how that went.
    async fn serve(&self, listener: TcpListener, app: Router) -> String {
        match self {
            Self::With(drain) => {
                let server = axum::serve(
                    drain.listener(listener).exclusive(),
                    app.layer(drain.layer()),
                )
                .with_graceful_shutdown(drain.shutdown_signal());
                match drain.run(server, signal::terminate()).await {
                    Ok(drained) => drained.to_string(),
                    Err(error) => error.to_string(),
                }
            }
            // As in many programs.
            Self::Without { timeout, stopping } => {
                let (tell, told) = oneshot::channel();
                let server = axum::serve(listener, app)
                    .with_graceful_shutdown(async { told.await.unwrap_or_default() });
                let too_late = async {
                    signal::terminate().await;
                    stopping.store(true, Ordering::Relaxed);
                    let _ = tell.send(());
                    sleep(*timeout).await;
                };
                tokio::select! {
                    result = server.into_future() => match result {
                        Ok(()) => "axum::serve has returned".to_owned(),
                        Err(error) => error.to_string(),
                    },
                    () = too_late => format!("given up after {timeout:?}"),
                }
            }
        }
    }
}

impl fmt::Display for Stopping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::With(drain) => {
                write!(f, "{:?}: {} in flight", drain.phase(), drain.in_flight())
            }
            Self::Without { stopping, .. } if stopping.load(Ordering::Relaxed) => {
                f.write_str("stopping: ? in flight")
            }
            Self::Without { .. } => f.write_str("serving: ? in flight"),
        }
    }
}

/// A server on a runtime of its own, which can end as a process does.
pub struct Server {
    pub address: SocketAddr,
    executed: Executed,
    thread: JoinHandle<String>,
}

impl Server {
    pub fn start(stopping: Arc<Stopping>) -> Self {
        let executed = Executed::default();
        let (tell, address) = mpsc::channel();
        let app = app(executed.clone());
        let thread = thread::spawn(move || {
            let runtime = Runtime::new().expect("a runtime");
            let outcome = runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await?;
                let _ = tell.send(listener.local_addr()?);
                io::Result::Ok(stopping.serve(listener, app).await)
            });
            // Does not wait for tasks, as when `main` returns.
            runtime.shutdown_background();
            outcome.unwrap_or_else(|error| error.to_string())
        });
        Self {
            address: address.recv().expect("a port of the loopback"),
            executed,
            thread,
        }
    }

    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// Which requests were executed, and what the server said at its end.
    pub fn exit(self) -> (HashSet<u64>, String) {
        let outcome = self.thread.join().expect("the server does not panic");
        let executed = std::mem::take(&mut *self.executed.lock().expect("no panic under it"));
        (executed, outcome)
    }
}

fn app(executed: Executed) -> Router {
    Router::new()
        .route("/fast", get(fast))
        .route("/slow", get(slow))
        .route("/stream", get(streaming))
        .with_state(executed)
}

/// Notes that a request has reached its handler.
fn note(executed: &Executed, headers: &HeaderMap) {
    let id = headers
        .get("x-request")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    if let Some(id) = id {
        executed.lock().expect("no panic under it").insert(id);
    }
}

async fn fast(State(executed): State<Executed>, headers: HeaderMap) -> &'static str {
    note(&executed, &headers);
    "done"
}

async fn slow(State(executed): State<Executed>, headers: HeaderMap) -> &'static str {
    note(&executed, &headers);
    sleep(Duration::from_millis(300)).await;
    "done"
}

async fn streaming(State(executed): State<Executed>, headers: HeaderMap) -> Body {
    note(&executed, &headers);
    let chunks = stream::iter(0..10).then(|n| async move {
        sleep(Duration::from_millis(50)).await;
        Ok::<_, Infallible>(if n == 9 { "done" } else { "more " })
    });
    Body::from_stream(chunks)
}
