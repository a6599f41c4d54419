//! Clients that keep their connection.

use h2::client::{ResponseFuture, SendRequest};
use http::{Request, StatusCode};
use std::net::SocketAddr;
use throughput::{Http1, ask};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// A connection on which one request was made, and that is kept.
pub enum Kept {
    Http1(TcpStream),
    Http2 { _open: SendRequest<Body> },
}

/// What requests send: nothing.
type Body = &'static [u8];

impl Kept {
    /// So many, a hundred at a time: without Nagle's algorithm off, which no server here does by
    /// itself, HTTP/2's first exchange takes the time of a delayed acknowledgement.
    pub async fn many(server: SocketAddr, http2: bool, connections: usize) -> Vec<Self> {
        let mut all = Vec::new();
        let mut coming = JoinSet::new();
        for _ in 0..connections {
            if coming.len() == 100 {
                all.extend(coming.join_next().await.map(|one| one.expect("no panic")));
            }
            coming.spawn(Self::new(server, http2));
        }
        all.extend(coming.join_all().await);
        all
    }

    pub async fn new(server: SocketAddr, http2: bool) -> Self {
        if http2 {
            let mut client = multiplexed(server).await.ready().await.expect("open");
            assert_eq!(get(&mut client, "/").await, "hello");
            return Self::Http2 { _open: client };
        }
        let mut connection = TcpStream::connect(server).await.expect("it listens");
        ask(&mut connection, Http1::Kept).await;
        Self::Http1(connection)
    }

    /// Makes a request that waits, and waits until the server closes the connection.
    pub async fn wait(self) {
        if let Self::Http1(mut connection) = self {
            let request = b"GET /wait HTTP/1.1\r\nhost: localhost\r\n\r\n";
            connection.write_all(request).await.expect("open");
            let mut answer = Vec::new();
            let read = connection.read_to_end(&mut answer).await;
            read.expect("closed, not reset");
            assert!(answer.ends_with(b"hello"), "a whole answer");
        }
    }

    /// Waits until the server closes it.
    pub async fn end(self) {
        if let Self::Http1(mut connection) = self {
            let read = connection.read(&mut [0]).await;
            assert_eq!(read.expect("closed, not reset"), 0);
        }
    }
}

/// A connection over HTTP/2, driven until its client is dropped.
pub async fn multiplexed(server: SocketAddr) -> SendRequest<Body> {
    let tcp = TcpStream::connect(server).await.expect("it listens");
    let (client, connection) = h2::client::Builder::new()
        .handshake(tcp)
        .await
        .expect("HTTP/2");
    tokio::spawn(async {
        let _ = connection.await;
    });
    client
}

/// One request, on a connection that is ready for it.
pub fn get(
    client: &mut SendRequest<Body>,
    path: &str,
) -> impl Future<Output = String> + Send + use<> {
    let request = Request::get(format!("http://localhost{path}"));
    let request = request.body(()).expect("a request");
    let (response, _) = client.send_request(request, true).expect("ready");
    answer(response)
}

async fn answer(response: ResponseFuture) -> String {
    let response = response.await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.expect("a whole answer");
        let _ = body.flow_control().release_capacity(data.len());
        text.extend(data);
    }
    String::from_utf8(text).expect("text")
}
