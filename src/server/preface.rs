//! Finds out by its first bytes whether a connection speaks HTTP/1 or HTTP/2.

use super::listener::Protocol;
use crate::net::{DrainIo, PREFACE};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

/// Reads until the protocol is known, then rewinds. Returns `None` if the peer ends without a byte.
pub(super) async fn read_protocol<T>(io: &mut DrainIo<T>) -> io::Result<Option<Protocol>>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    // After as many bytes the protocol is known.
    let mut bytes = [0; PREFACE.len()];
    let mut filled = 0;
    loop {
        if let Some(http2) = io.speaks_http2() {
            io.rewind(&bytes[..filled]);
            return Ok(Some(match http2 {
                true => Protocol::Http2,
                false => Protocol::Http1,
            }));
        }
        match io.read(&mut bytes[filled..]).await? {
            0 if filled == 0 => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
}
