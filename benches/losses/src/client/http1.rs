//! HTTP/1.1, on a bare socket.

use super::{Answers, Arrived, Fate, connect};
use socket2::SockRef;
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const KEPT: &str = "GET / HTTP/1.1\r\nhost: losses\r\n\r\n";
const LAST: &str = "GET / HTTP/1.1\r\nhost: losses\r\nconnection: close\r\n\r\n";

pub(super) async fn run(address: SocketAddr, keep: bool, answers: &Answers) -> Fate {
    let request = if keep { KEPT } else { LAST };
    while let Some(mut stream) = connect(address).await {
        loop {
            // Nothing but an end can arrive unasked.
            if !matches!(Arrived::on(&SockRef::from(&stream)), Arrived::Nothing) {
                break;
            }
            match ask(&mut stream, request.as_bytes()).await {
                Ok(Answer { status: 200, close }) => {
                    answers.one_more();
                    if close || !keep {
                        break;
                    }
                }
                Ok(Answer { status: 503, .. }) => return Fate::ToldSo,
                Ok(Answer { status, .. }) => panic!("no server here answers {status}"),
                Err(Unanswered::NotWritten) => break,
                Err(Unanswered::Lost) => return Fate::Lost,
            }
        }
    }
    Fate::NotConnected
}

/// A whole one.
struct Answer {
    status: u16,
    close: bool,
}

enum Unanswered {
    /// Not a byte of it.
    NotWritten,
    Lost,
}

async fn ask(stream: &mut TcpStream, request: &[u8]) -> Result<Answer, Unanswered> {
    let written = stream.write(request).await;
    let written = written.map_err(|_| Unanswered::NotWritten)?;
    let rest = stream.write_all(&request[written..]).await;
    rest.map_err(|_| Unanswered::Lost)?;
    let mut read = Vec::with_capacity(512);
    loop {
        match stream.read_buf(&mut read).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return Err(Unanswered::Lost),
        }
        if let Some(answer) = whole(&read) {
            return Ok(answer);
        }
    }
}

/// The answer, if all of it is there.
fn whole(read: &[u8]) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 16];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(start) = head.parse(read).expect("HTTP/1.1") else {
        return None;
    };
    let header = |name: &str| {
        let mut named = head.headers.iter();
        let header = named.find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let length: usize = header("content-length")
        .and_then(|length| length.parse().ok())
        .expect("every answer here says how long it is");
    (read.len() >= start + length).then(|| Answer {
        status: head.code.expect("a whole head"),
        close: header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
    })
}
