//! A client that sees frames: h2, over a socket that writes down what comes.

use crate::soon;
use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::net::TcpStream;
use tokio_util::io::InspectReader;

/// What an answer is made of (RFC 9113, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    Headers { end_stream: bool },
    Data { end_stream: bool },
    Reset { code: u32 },
}

pub struct Wire {
    client: SendRequest<Bytes>,
    received: Arc<Mutex<Vec<u8>>>,
}

impl Wire {
    pub async fn connect(address: SocketAddr) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let socket = TcpStream::connect(address).await.expect("it listens");
        let record = received.clone();
        let socket = InspectReader::new(socket, move |bytes: &[u8]| {
            record.lock().expect("no panic").extend_from_slice(bytes);
        });
        let (client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        Self { client, received }
    }

    /// A POST that is complete, or whose body goes on for as long as the sender is kept.
    pub async fn post(
        &mut self,
        path: &str,
        content_type: &str,
        body: Option<&'static [u8]>,
    ) -> (ResponseFuture, h2::SendStream<Bytes>) {
        let request = Request::post(format!("http://gate{path}"))
            .header("content-type", content_type)
            .header("te", "trailers")
            .body(())
            .expect("a valid request");
        self.client = soon("the connection", self.client.clone().ready())
            .await
            .expect("an open connection");
        let (response, mut sender) = self
            .client
            .send_request(request, false)
            .expect("a free stream");
        if let Some(body) = body {
            sender
                .send_data(Bytes::from_static(body), true)
                .expect("an open stream");
        }
        (response, sender)
    }

    /// What has come on a stream so far.
    pub fn frames(&self, stream: h2::StreamId) -> Vec<Frame> {
        const END_STREAM: u8 = 0x1;
        let received = self.received.lock().expect("no panic");
        let mut rest = received.as_slice();
        let mut frames = Vec::new();
        while let Some((head, tail)) = rest.split_first_chunk::<9>() {
            let [l0, l1, l2, kind, flags, id @ ..] = *head;
            let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
            let end_stream = flags & END_STREAM != 0;
            if u32::from_be_bytes(id) == stream.as_u32() {
                match kind {
                    0x0 => frames.push(Frame::Data { end_stream }),
                    0x1 => frames.push(Frame::Headers { end_stream }),
                    0x3 => frames.push(Frame::Reset {
                        code: tail
                            .first_chunk()
                            .map_or(0, |code| u32::from_be_bytes(*code)),
                    }),
                    _ => {} // flow control
                }
            }
            rest = tail.get(length..).unwrap_or_default();
        }
        frames
    }
}
