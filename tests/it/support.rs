//! Shared helpers: services that the test controls, a server, a client that sees bytes.

use axum::{Router, body::Body};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, channel::Channel};
use std::{convert::Infallible, future::Future, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tower::{Service, service_fn};
use tower_graceful::{Drain, DrainTimeout, Drained, Phase};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub type Chunks = Channel<Bytes, BoxError>;

/// Longer than any step of a test takes. A test that hangs fails after it.
pub const GUARD: Duration = Duration::from_secs(20);

pub async fn guarded<F: IntoFuture>(future: F) -> F::Output {
    tokio::time::timeout(GUARD, future).await.expect("it hangs")
}

pub fn request() -> Request<Empty<Bytes>> {
    Request::new(Empty::new())
}

/// Answers each request with the body that is sent to it, and not before that.
pub fn held<B: Send + 'static>() -> (
    oneshot::Sender<Response<B>>,
    impl Service<Request<Empty<Bytes>>, Response = Response<B>, Error = BoxError, Future: Send + Unpin>,
) {
    let (answer, held) = oneshot::channel();
    let mut held = Some(held);
    let service = service_fn(move |_: Request<Empty<Bytes>>| {
        let held = held.take().expect("called once");
        Box::pin(async move { Ok::<_, BoxError>(held.await?) })
    });
    (answer, service)
}

/// Begins the drain, and checks that it ends.
pub async fn drained(drain: &Drain) -> Drained {
    drain.begin();
    guarded(drain.wait()).await.expect("nothing was left")
}

/// Forces the drain, and checks that something was left.
pub async fn timed_out(drain: &Drain) -> DrainTimeout {
    drain.force();
    guarded(drain.wait()).await.expect_err("something was left")
}

/// A real axum server around the app, which is asked to stop at [`Phase::Draining`].
pub struct Server {
    pub drain: Drain,
    pub address: std::net::SocketAddr,
    pub done: JoinHandle<Result<Drained, tower_graceful::RunError<std::io::Error>>>,
}

impl Server {
    pub async fn start(drain: Drain, app: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let serve =
            axum::serve(listener, app).with_graceful_shutdown(drain.reached(Phase::Draining));
        let run = drain.run(serve, std::future::pending::<()>());
        Self {
            drain,
            address,
            done: tokio::spawn(run),
        }
    }

    /// Waits for the end, at which nothing must be left.
    pub async fn drained(self) -> Drained {
        let outcome = guarded(self.done).await.expect("no panic");
        outcome.expect("drained")
    }

    pub async fn connect(&self) -> Client {
        Client {
            stream: TcpStream::connect(self.address).await.expect("it listens"),
        }
    }
}

/// A client that sees what is on the wire.
pub struct Client {
    pub stream: TcpStream,
}

impl Client {
    pub async fn send(&mut self, text: &str) {
        self.stream
            .write_all(text.as_bytes())
            .await
            .expect("the server reads");
    }

    pub async fn get(&mut self, path: &str) {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
            .await;
    }

    /// Reads up to and including that text.
    pub async fn read_until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        while !read.ends_with(text.as_bytes()) {
            match guarded(self.stream.read_u8()).await {
                Ok(byte) => read.push(byte),
                Err(error) => panic!(
                    "{error} before {text:?}, after {:?}",
                    String::from_utf8_lossy(&read)
                ),
            }
        }
        String::from_utf8(read).expect("text")
    }

    pub async fn head(&mut self) -> String {
        self.read_until("\r\n\r\n").await
    }

    /// Reads up to the end, which must be a FIN.
    pub async fn rest(&mut self) -> String {
        let mut rest = String::new();
        guarded(self.stream.read_to_string(&mut rest))
            .await
            .expect("a FIN, not a reset");
        rest
    }
}

pub fn closes(head: &str) -> usize {
    head.lines()
        .filter(|line| line.eq_ignore_ascii_case("connection: close"))
        .count()
}

/// A gate in a handler, which reports when it is reached, and waits until it is opened.
pub struct Gate {
    pub reached: oneshot::Receiver<()>,
    pub open: oneshot::Sender<()>,
}

/// A gate, and what its handler awaits, once.
pub fn gate() -> (
    Gate,
    impl Fn() -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> + Clone,
) {
    let (reach, reached) = oneshot::channel();
    let (open, opened) = oneshot::channel();
    let ends = std::sync::Arc::new(std::sync::Mutex::new(Some((reach, opened))));
    let pass = move || -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        let ends = ends.lock().expect("not poisoned").take();
        Box::pin(async move {
            let (reach, opened) = ends.expect("passed once");
            let _ = reach.send(());
            let _ = opened.await;
        })
    };
    (Gate { reached, open }, pass)
}

/// Answers every request with `hello`.
pub async fn hello(_: Request<Body>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::from("hello")))
}
