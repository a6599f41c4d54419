//! Clients that see bytes.

use crate::guarded;
use std::{io, net::SocketAddr};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

pub struct Client<T = TcpStream> {
    pub stream: T,
    /// Of HTTP/2: answers PINGs as they come.
    pub pongs: bool,
    /// The GOAWAYs that have come: the last stream, and the error.
    pub goaways: Vec<(u32, u32)>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.expect("it listens")
    }

    pub async fn try_connect(address: SocketAddr) -> io::Result<Self> {
        Ok(Self::over(TcpStream::connect(address).await?))
    }

    /// Nothing has come, and it is open.
    pub fn is_open(&self) -> bool {
        matches!(self.stream.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// The next frame, or the end, be it a FIN or a reset.
    pub async fn frame_or_end(&mut self) -> Option<Frame> {
        guarded(self.stream.readable()).await.expect("readable");
        let mut first = [0];
        match guarded(self.stream.peek(&mut first)).await {
            Ok(0) | Err(_) => None,
            Ok(_) => self.frame().await,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub fn over(stream: T) -> Self {
        Self {
            stream,
            pongs: false,
            goaways: Vec::new(),
        }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let written = self.stream.write_all(bytes.as_ref()).await;
        written.expect("the server reads");
    }

    pub async fn get(&mut self, path: &str) {
        self.send(get(path)).await;
    }

    /// All up to that text, which is included.
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
        String::from_utf8_lossy(&read).into_owned()
    }

    pub async fn head(&mut self) -> String {
        self.read_until("\r\n\r\n").await
    }

    /// All up to the end, which must be a FIN.
    pub async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        guarded(self.stream.read_to_end(&mut rest))
            .await
            .expect("a FIN, not a reset");
        String::from_utf8_lossy(&rest).into_owned()
    }

    /// Waits for the end, be it a FIN or a reset.
    pub async fn end(&mut self) {
        let mut scratch = vec![0; 1 << 16];
        while !matches!(
            guarded(self.stream.read(&mut scratch)).await,
            Ok(0) | Err(_)
        ) {}
    }
}

pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")
}

pub fn closes(head: &str) -> usize {
    head.lines()
        .filter(|line| line.eq_ignore_ascii_case("connection: close"))
        .count()
}

/// HTTP/2 by hand (RFC 9113, section 4.1; RFC 7541).
pub mod frames {
    pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    pub const DATA: u8 = 0x0;
    pub const HEADERS: u8 = 0x1;
    pub const RST_STREAM: u8 = 0x3;
    pub const SETTINGS: u8 = 0x4;
    pub const PING: u8 = 0x6;
    pub const GOAWAY: u8 = 0x7;
    pub const WINDOW_UPDATE: u8 = 0x8;
    pub const END_STREAM: u8 = 0x1;
    pub const ACK: u8 = 0x1;

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// The preface and the client's settings.
    pub fn hello() -> Vec<u8> {
        [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
    }

    /// A GET that is complete.
    pub fn get(stream: u32, path: &str) -> Vec<u8> {
        frame(HEADERS, 0x4 | END_STREAM, stream, &head(0x82, path))
    }

    /// A POST whose body is to come.
    pub fn post(stream: u32, path: &str) -> Vec<u8> {
        frame(HEADERS, 0x4, stream, &head(0x83, path))
    }

    fn head(method: u8, path: &str) -> Vec<u8> {
        // :method, :scheme http, then literals without indexing: :path, :authority.
        let mut block = vec![method, 0x86, 0x04, path.len() as u8];
        block.extend(path.as_bytes());
        block.extend([0x01, 4]);
        block.extend(b"test");
        block
    }

    /// A CONNECT that asks for a tunnel.
    pub fn connect(stream: u32, authority: &str) -> Vec<u8> {
        // Literals without indexing: :method, :authority.
        let mut block = vec![0x02, 7];
        block.extend(b"CONNECT");
        block.extend([0x01, authority.len() as u8]);
        block.extend(authority.as_bytes());
        frame(HEADERS, 0x4, stream, &block)
    }

    /// The answer to the PING that h2 sends with the first of two GOAWAYs.
    pub fn shutdown_pong() -> Vec<u8> {
        let payload = [0x0b, 0x7b, 0xa2, 0xf0, 0x8b, 0x9b, 0xfe, 0x54];
        frame(PING, ACK, 0, &payload)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    /// The next frame; `None` at the end, which must be a FIN.
    pub async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match guarded(self.stream.read_exact(&mut head)).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("{error} in place of a FIN"),
        }
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        guarded(self.stream.read_exact(&mut payload))
            .await
            .expect("a whole frame");
        if kind == frames::PING && flags & frames::ACK == 0 && self.pongs {
            // To a server that is through with it, it need not get.
            let pong = frames::frame(frames::PING, frames::ACK, 0, &payload);
            let _ = self.stream.write_all(&pong).await;
        }
        let frame = Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
        };
        if kind == frames::GOAWAY {
            self.goaways.push(frame.goaway());
        }
        Some(frame)
    }

    /// The next frame of that kind that is no acknowledgement; others are skipped.
    pub async fn frame_of(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.frame().await.expect("an open connection");
            let acknowledges =
                frame.flags & frames::ACK != 0 && [frames::SETTINGS, frames::PING].contains(&kind);
            if frame.kind == kind && !acknowledges {
                return frame;
            }
        }
    }
}

impl Frame {
    /// Of a GOAWAY: the last stream, and the error.
    pub fn goaway(&self) -> (u32, u32) {
        let number = |at: usize| u32::from_be_bytes(self.payload[at..][..4].try_into().expect("4"));
        (number(0), number(4))
    }
}
