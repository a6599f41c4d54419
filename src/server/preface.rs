//! Finds out by its first bytes whether a connection speaks HTTP/1 or HTTP/2.

use super::listener::Protocol;
use crate::net::DrainIo;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Limits how much is read at once: more than most requests have in their heads, so that those need
/// no second read. After the 24 bytes of HTTP/2's preface the protocol is known.
const ROOM: usize = 1024;

/// Reads until the protocol is known, then rewinds. Returns `None` if the peer ends without a byte.
pub(super) async fn read_protocol<T>(io: &mut DrainIo<T>) -> io::Result<Option<Protocol>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut bytes = Vec::with_capacity(ROOM);
    loop {
        if let Some(http2) = io.speaks_http2() {
            io.rewind(bytes);
            return Ok(Some(match http2 {
                true => Protocol::Http2,
                false => Protocol::Http1,
            }));
        }
        match io.read_buf(&mut bytes).await? {
            0 if bytes.is_empty() => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Drain, drain::ConnectionGuard, net::SocketOf};
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    #[tokio::test]
    async fn what_was_read_is_read_again_in_parts_of_any_size() {
        let drain = Drain::new();
        for head in [
            "GET / HTTP/1.1\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nSETTINGS",
        ] {
            let registered = ConnectionGuard::enter(drain.shared(), None).expect("serving");
            let (mut client, server) = duplex(64);
            let socket = SocketOf {
                below: |io: &DuplexStream| io,
                tcp: None,
            };
            let mut io = DrainIo::new(server, registered, socket);
            client.write_all(head.as_bytes()).await.expect("room");
            let protocol = read_protocol(&mut io).await.expect("open");
            let http2 = head.starts_with("PRI");
            assert_eq!(protocol == Some(Protocol::Http2), http2);
            client.write_all(b" and more").await.expect("room");
            drop(client);
            let mut all = Vec::<u8>::new();
            let mut part = [0; 5];
            loop {
                match io.read(&mut part).await.expect("open") {
                    0 => break,
                    read => all.extend_from_slice(&part[..read]),
                }
            }
            assert_eq!(all, [head, " and more"].concat().as_bytes());
        }
    }
}
