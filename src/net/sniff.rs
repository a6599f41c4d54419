//! Tells from the bytes of a connection what it is doing. Of the bytes, only the current line of
//! HTTP/1 and the current header block of HTTP/2 are kept, with a limit.
//!
//! A server does not tell which of its connections is idle or has sent a part of a head. The bytes
//! do, under any server. Of HTTP/1, this reads the framing of requests and the status of responses;
//! of HTTP/2, the headers of frames. It need not reject what is invalid: the server does, which
//! answers 400 and closes.

mod header_block;
mod http1;
mod http2;
mod line;
mod websocket;

pub(super) use self::websocket::WebSocket;

use self::{
    http1::{Http1, NotHttp},
    http2::Http2,
};
use crate::drain::ConnectionState;

/// Opens an HTTP/2 connection: the preface of a client ([RFC 9113, section
/// 3.4](https://www.rfc-editor.org/rfc/rfc9113#section-3.4)).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Follows the bytes of one connection, in both directions.
#[derive(Debug)]
pub(super) enum Sniffer {
    /// Counts the bytes that have come, all of which match the HTTP/2 preface.
    Unknown(usize),
    Http1(Http1),
    Http2(Http2),
    /// Has left HTTP.
    Upgraded,
    Opaque,
}

impl Sniffer {
    pub(super) fn new() -> Self {
        Self::Unknown(0)
    }

    /// Follows bytes that were read from the peer.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        if let Self::Unknown(seen) = self {
            let rest = &PREFACE[*seen..];
            let common = rest.iter().zip(bytes).take_while(|(a, b)| a == b).count();
            if common == bytes.len() && common < rest.len() {
                *seen += common;
                return;
            }
            let before = &PREFACE[..*seen];
            if common == rest.len() {
                *self = Self::Http2(Http2::default());
                bytes = &bytes[common..];
            } else if before.first().or(bytes.first()).is_some_and(starts_request) {
                *self = Self::Http1(Http1::default());
                self.read(before);
            } else {
                *self = Self::Opaque;
            }
        }
        match self {
            Self::Http1(http1) => match http1.read(bytes) {
                Ok(()) => {}
                Err(NotHttp) => *self = Self::Opaque,
            },
            Self::Http2(http2) => http2.read(bytes),
            _ => {}
        }
    }

    /// Follows bytes that were written to the peer. `all` says that they are all that the server had
    /// in one buffer. Returns what may be a WebSocket if they switch protocols. From there on, the
    /// caller follows it.
    #[inline]
    pub(super) fn wrote(&mut self, bytes: &[u8], all: bool) -> Option<WebSocket> {
        match self {
            Self::Http1(http1) => {
                let websocket = http1.wrote(bytes, all)?;
                *self = Self::Upgraded;
                websocket
            }
            Self::Http2(http2) => {
                http2.wrote(bytes);
                None
            }
            _ => None,
        }
    }

    /// Returns what the connection is doing.
    pub(super) fn activity(&self) -> ConnectionState {
        match self {
            Self::Unknown(0) => ConnectionState::Silent,
            Self::Unknown(_) => ConnectionState::Reading,
            Self::Http1(http1) => http1.activity(),
            Self::Http2(http2) if http2.is_upgraded() => ConnectionState::Upgraded,
            Self::Http2(http2) if http2.has_streams() => ConnectionState::Handling,
            Self::Http2(http2) if http2.is_reading() => ConnectionState::Reading,
            Self::Http2(_) => ConnectionState::Idle,
            Self::Upgraded => ConnectionState::Upgraded,
            Self::Opaque => ConnectionState::Opaque,
        }
    }

    /// Returns whether an HTTP/1 head has come to which no response has begun.
    pub(super) fn awaits_response(&self) -> bool {
        matches!(self, Self::Http1(http1) if http1.activity() == ConnectionState::Handling)
    }

    /// Returns whether a part of the HTTP/2 preface has come.
    pub(super) fn is_in_preface(&self) -> bool {
        matches!(self, Self::Unknown(seen) if *seen > 0)
    }

    /// Returns whether no head has come, over HTTP/1 or before the protocol is known.
    pub(super) fn awaits_first_head(&self) -> bool {
        match self {
            Self::Unknown(_) => true,
            Self::Http1(http1) => !http1.saw_request(),
            _ => false,
        }
    }

    /// Returns whether requests may come at any time until the connection is closed.
    pub(super) fn is_multiplexed(&self) -> bool {
        matches!(self, Self::Http2(_) | Self::Opaque)
    }

    /// Returns whether this is HTTP/2, and the server has ended all streams.
    pub(super) fn is_without_streams(&self) -> bool {
        matches!(self, Self::Http2(http2) if !http2.has_streams())
    }

    /// Returns whether the peer is in the middle of an HTTP/1 request.
    pub(super) fn is_mid_request(&self) -> bool {
        matches!(self, Self::Http1(http1) if http1.is_mid_request())
    }
}

/// Returns whether an HTTP/1 request may begin with this byte: the first one of a method, or of a
/// line break before it, which is tolerated.
fn starts_request(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"\r\n!#$%&'*+-.^_`|~".contains(byte)
}

#[cfg(test)]
mod tests;
