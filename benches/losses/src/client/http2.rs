//! HTTP/2: one stream after another on a connection of the `h2` crate, which retries nothing.

use super::{Answers, Arrived, Fate, connect};
use bytes::Bytes;
use h2::{
    Error, Reason,
    client::{Connection, SendRequest},
};
use http::{Request, header::CONTENT_LENGTH};
use socket2::SockRef;
use std::{net::SocketAddr, os::fd::OwnedFd};
use tokio::{
    net::TcpStream,
    task::{JoinHandle, yield_now},
};

pub(super) async fn run(address: SocketAddr, answers: &Answers) -> Fate {
    while let Some(stream) = connect(address).await {
        let socket = SockRef::from(&stream).try_clone().expect("a file is left");
        let Ok((send, connection)) = h2::client::handshake(stream).await else {
            // A preface is no request.
            continue;
        };
        let driver = Driver::spawn(connection, socket.into());
        if let Some(fate) = ask_on(driver, send, answers).await {
            return fate;
        }
    }
    Fate::NotConnected
}

/// `None` if the connection has ended between two requests.
async fn ask_on(driver: Driver, mut send: SendRequest<Bytes>, answers: &Answers) -> Option<Fate> {
    loop {
        driver.has_read_all().await?;
        send = send.ready().await.ok()?;
        let request = Request::get("http://losses/").body(());
        let request = request.expect("a legal request");
        // An error here is one of before: nothing is written in this call.
        let (response, _) = send.send_request(request, true).ok()?;
        let response = match response.await {
            Ok(response) => response,
            Err(error) => return Some(of(&error)),
        };
        let status = response.status().as_u16();
        let length = response.headers().get(CONTENT_LENGTH);
        let length: Option<usize> = length.map(|length| {
            length
                .to_str()
                .ok()
                .and_then(|text| text.parse().ok())
                .expect("a number")
        });
        let mut body = response.into_body();
        let mut read = 0;
        while let Some(chunk) = body.data().await {
            match chunk {
                Ok(chunk) => {
                    read += chunk.len();
                    let _ = body.flow_control().release_capacity(chunk.len());
                }
                Err(_) => return Some(Fate::Lost),
            }
        }
        match status {
            _ if length.is_some_and(|length| length != read) => return Some(Fate::Lost),
            200 => answers.one_more(),
            503 => return Some(Fate::ToldSo),
            status => panic!("no server here answers {status}"),
        }
    }
}

fn of(error: &Error) -> Fate {
    // That a GOAWAY is the error of a stream, h2 says only of those after the last one it names.
    let too_late = error.is_go_away();
    let refused = error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM);
    match error.is_remote() && (too_late || refused) {
        true => Fate::ToldSo,
        false => Fate::Lost,
    }
}

/// Reads and writes the connection, and ends with the client.
struct Driver {
    task: JoinHandle<()>,
    /// A second handle on the socket, to see what `task` has yet to read.
    socket: OwnedFd,
}

impl Driver {
    fn spawn(connection: Connection<TcpStream>, socket: OwnedFd) -> Self {
        let task = tokio::spawn(async { drop(connection.await) });
        Self { task, socket }
    }

    /// Waits until all that has arrived is also known; `None` if that was the end.
    async fn has_read_all(&self) -> Option<()> {
        while !self.task.is_finished() {
            match Arrived::on(&SockRef::from(&self.socket)) {
                Arrived::Nothing => return Some(()),
                Arrived::Bytes => yield_now().await,
                Arrived::End => return None,
            }
        }
        None
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.task.abort();
    }
}
