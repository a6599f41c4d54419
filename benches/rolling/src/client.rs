//! Strict clients: they retry nothing, and whatever is not a whole, right answer is a failure.
//!
//! A connection that the proxy has closed before the next request was written has lost nothing: the
//! client makes a new one. What hyper gives back, because not a byte of it was written, is taken for
//! that; on a connection that was made for it, it is a failure.

use crate::{
    load::{Kind, Shared},
    replica,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_TYPE, HOST, TE},
};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    error::Error,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::TcpStream,
    sync::Mutex,
    task::JoinSet,
    time::{error::Elapsed, sleep, timeout},
};

/// Much longer than any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client pauses for up to this, so that some connections are busy and some idle.
const PAUSE: Duration = Duration::from_millis(8);

/// HTTP/2 connections of a kind; its clients are streams on them.
const SHARED_BY: usize = 4;

pub fn spawn(kind: Kind, clients: usize, shared: &Arc<Shared>, tasks: &mut JoinSet<()>) {
    let mut connection = Arc::<Mutex<Option<Http2>>>::default();
    for number in 0..clients {
        let client = Client {
            kind,
            shared: shared.clone(),
            turn: (kind as u64) << 32 | number as u64,
        };
        match kind {
            Kind::Get | Kind::Post | Kind::OneEach => tasks.spawn(client.over_http1()),
            Kind::Http2 | Kind::Grpc => {
                if number % SHARED_BY == 0 {
                    connection = Arc::default();
                }
                tasks.spawn(client.over_http2(connection.clone()))
            }
        };
    }
}

/// Whether a replica says so: asked by the rig itself.
pub async fn is_ready(address: SocketAddr) -> bool {
    let request = Request::get("/readyz").header(HOST, "rolling");
    let request = request.body(Body::default()).expect("a legal request");
    match timeout(PATIENCE, send_http1(address, request)).await {
        Ok(Ok((_, response))) => response.status() == StatusCode::OK,
        _ => false,
    }
}

type Body = Full<Bytes>;
type Http1 = http1::SendRequest<Body>;
type Http2 = http2::SendRequest<Body>;

struct Client {
    kind: Kind,
    shared: Arc<Shared>,
    turn: u64,
}

impl Client {
    async fn over_http1(mut self) {
        let mut kept = None;
        while !self.shared.is_stopped() {
            let start = Instant::now();
            let answer = timeout(PATIENCE, self.ask_http1(&mut kept)).await;
            self.tell(start, answer).await;
        }
    }

    async fn ask_http1(&mut self, kept: &mut Option<Http1>) -> Result<(), String> {
        let address = self.shared.front.http1;
        let (request, expected) = self.request();
        let (mut sender, response) = match kept.take() {
            Some(mut sender) => match sender.try_send_request(request).await {
                Ok(response) => (sender, response),
                Err(error) => send_http1(address, given_back(error)?).await?,
            },
            None => send_http1(address, request).await?,
        };
        check(response, &expected).await?;
        // It can not be kept if its answer said so.
        if self.kind != Kind::OneEach && sender.ready().await.is_ok() {
            *kept = Some(sender);
        }
        Ok(())
    }

    async fn over_http2(mut self, connection: Arc<Mutex<Option<Http2>>>) {
        while !self.shared.is_stopped() {
            let start = Instant::now();
            let answer = timeout(PATIENCE, self.ask_http2(&connection)).await;
            self.tell(start, answer).await;
        }
    }

    async fn ask_http2(&mut self, connection: &Mutex<Option<Http2>>) -> Result<(), String> {
        let address = self.shared.front.http2;
        let (mut unsent, expected) = self.request();
        loop {
            let (mut sender, new) = {
                let mut connection = connection.lock().await;
                match &*connection {
                    Some(sender) if !sender.is_closed() => (sender.clone(), false),
                    _ => {
                        let sender = connect_http2(address).await?;
                        *connection = Some(sender.clone());
                        (sender, true)
                    }
                }
            };
            match sender.ready().await {
                Ok(()) => {}
                Err(error) if new => return Err(reason(error)),
                Err(_) => continue,
            }
            match sender.try_send_request(unsent).await {
                Ok(response) => return check(response, &expected).await,
                Err(error) if new => return Err(reason(error.into_error())),
                Err(error) => unsent = given_back(error)?,
            }
        }
    }

    /// The next one, and the body of its answer.
    fn request(&mut self) -> (Request<Body>, Bytes) {
        self.turn += 1;
        let turn = self.random();
        let (method, path, body, expected) = match self.kind {
            Kind::Get | Kind::OneEach => (Method::GET, "/", Bytes::new(), hello()),
            Kind::Http2 if turn & 1 == 0 => (Method::GET, "/", Bytes::new(), hello()),
            Kind::Post | Kind::Http2 => {
                let body = Bytes::from(turn.to_string().repeat((turn % 400) as usize + 1));
                (Method::POST, "/echo", body.clone(), body)
            }
            Kind::Grpc => {
                let name = turn.to_string();
                let expected = framed(&format!("Hello, {name}!"));
                (
                    Method::POST,
                    "/greeter.v1.Greeter/Greet",
                    framed(&name),
                    expected,
                )
            }
        };
        let authority = self.shared.front.http2;
        let request = Request::builder().method(method);
        let request = match self.kind {
            Kind::Get | Kind::Post => request.uri(path).header(HOST, "rolling"),
            Kind::OneEach => request
                .uri(path)
                .header(HOST, "rolling")
                .header(CONNECTION, "close"),
            Kind::Http2 => request.uri(format!("http://{authority}{path}")),
            Kind::Grpc => request
                .uri(format!("http://{authority}{path}"))
                .header(CONTENT_TYPE, "application/grpc")
                .header(TE, "trailers"),
        };
        let request = request.body(Full::new(body)).expect("a legal request");
        (request, expected)
    }

    async fn tell(&self, start: Instant, answer: Result<Result<(), String>, Elapsed>) {
        let answer = answer.unwrap_or_else(|_| Err("no answer".to_owned()));
        self.shared.tell(self.kind, start.elapsed(), answer);
        sleep(PAUSE.mul_f64(self.random() as f64 / f64::from(u32::MAX))).await;
    }

    /// 32 bits: scattered, but the same on each run.
    fn random(&self) -> u64 {
        self.turn.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
    }
}

fn hello() -> Bytes {
    Bytes::from_static(replica::BODY.as_bytes())
}

/// A message of gRPC with one field, a text: both that are spoken here.
fn framed(text: &str) -> Bytes {
    const FIELD: u8 = 1;
    const LENGTH_DELIMITED: u8 = 2;
    let length = u8::try_from(text.len()).expect("a short text");
    let mut frame = vec![0, 0, 0, 0, length + 2];
    frame.extend([FIELD << 3 | LENGTH_DELIMITED, length]);
    frame.extend(text.as_bytes());
    frame.into()
}

async fn check(response: Response<Incoming>, expected: &Bytes) -> Result<(), String> {
    let (head, body) = response.into_parts();
    if head.status != StatusCode::OK {
        return Err(head.status.as_u16().to_string());
    }
    let body = body.collect().await.map_err(reason)?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    let grpc =
        head.headers.get(CONTENT_TYPE) == Some(&HeaderValue::from_static("application/grpc"));
    let status = |headers: &HeaderMap| headers.get("grpc-status").cloned();
    if grpc {
        match status(&trailers).or_else(|| status(&head.headers)) {
            Some(status) if status == "0" => {}
            other => return Err(format!("grpc-status {other:?}")),
        }
    }
    match body.to_bytes() == expected {
        true => Ok(()),
        false => Err("another body".to_owned()),
    }
}

/// On a connection that is made for it.
async fn send_http1(
    address: SocketAddr,
    request: Request<Body>,
) -> Result<(Http1, Response<Incoming>), String> {
    let mut sender = connect_http1(address).await?;
    let response = sender.send_request(request).await.map_err(reason)?;
    Ok((sender, response))
}

async fn connect_http1(address: SocketAddr) -> Result<Http1, String> {
    let (sender, connection) = http1::handshake(connect(address).await?)
        .await
        .map_err(reason)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn connect_http2(address: SocketAddr) -> Result<Http2, String> {
    let stream = connect(address).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .map_err(reason)?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn connect(address: SocketAddr) -> Result<TokioIo<TcpStream>, String> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| format!("connect: {error}"))?;
    stream.set_nodelay(true).map_err(reason)?;
    Ok(TokioIo::new(stream))
}

/// The request, if not a byte of it was sent.
fn given_back(mut error: TrySendError<Request<Body>>) -> Result<Request<Body>, String> {
    error
        .take_message()
        .ok_or_else(|| reason(error.into_error()))
}

fn reason(error: impl Error) -> String {
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        reason += &format!(": {error}");
        source = error.source();
    }
    reason
}
